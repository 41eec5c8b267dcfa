package query

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strconv"

	"kemi"
)

// WriteJSON writes results as OpenTSDB does: an array with one object per result, its points under dps as a map by time or, if the request
// says so, as pairs. NaN is the string "NaN", or null with that fill policy. Of several points within one second the last stays, unless
// the request wants milliseconds.
func WriteJSON(w io.Writer, r *Request, results []Result, total Stats) error {
	b := []byte{'['}
	for i := range results {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendResult(b, r, &results[i])
		if len(b) > 64<<10 {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if r.ShowSummary {
		if len(results) > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"statsSummary":`...)
		b = append(appendJSON(b, total), '}')
	}
	_, err := w.Write(append(b, ']'))
	return err
}

func appendResult(b []byte, r *Request, s *Result) []byte {
	b = appendJSON(append(b, `{"metric":`...), s.Metric)
	b = appendJSON(append(b, `,"tags":`...), s.Tags)
	b = appendJSON(append(b, `,"aggregateTags":`...), s.AggregateTags)
	if r.ShowQuery {
		b = appendJSON(append(b, `,"query":`...), shownQuery(r, s.Query))
	}
	if r.ShowTSUIDs {
		b = appendJSON(append(b, `,"tsuids":`...), s.TSUIDs)
	}
	scale := kemi.Millis(1000)
	if r.MsResolution {
		scale = 1
	}
	b = append(b, `,"dps":`...)
	if r.Arrays {
		b = append(b, '[')
		for i, t := range s.At {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(strconv.AppendInt(append(b, '['), int64(t/scale), 10), ',')
			b = append(appendValue(b, s.Values[i], s.Null), ']')
		}
		b = append(b, ']')
	} else {
		b = append(b, '{')
		first := true
		for i, t := range s.At {
			if i+1 < len(s.At) && s.At[i+1]/scale == t/scale {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(strconv.AppendInt(append(b, '"'), int64(t/scale), 10), '"', ':')
			b = appendValue(b, s.Values[i], s.Null)
		}
		b = append(b, '}')
	}
	if r.ShowStats {
		b = appendJSON(append(b, `,"stats":`...), s.Stats)
	}
	return append(b, '}')
}

// appendValue writes a number in the shortest form that reads back the same; whole numbers have no fraction.
func appendValue(b []byte, v float64, null bool) []byte {
	switch {
	case v != v && null:
		return append(b, "null"...)
	case v != v:
		return append(b, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(b, `"-Infinity"`...)
	case v == 0:
		return append(b, '0')
	}
	if a := math.Abs(v); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, v, 'e', -1, 64)
}

func appendJSON(b []byte, v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // these types always encode
		return append(b, "null"...)
	}
	return append(b, bytes.TrimRight(buf.Bytes(), "\n")...)
}

// shownQuery is the query as it was understood, in OpenTSDB's names.
func shownQuery(r *Request, i int) any {
	type shownFilter struct {
		Tagk    string `json:"tagk"`
		Filter  string `json:"filter"`
		GroupBy bool   `json:"group_by"`
		Type    string `json:"type"`
	}
	type shownRate struct {
		Counter    bool  `json:"counter"`
		CounterMax int64 `json:"counterMax"`
		ResetValue int64 `json:"resetValue"`
		DropResets bool  `json:"dropResets"`
	}
	q := &r.Queries[i]
	filters := []shownFilter{}
	tags := map[string]string{}
	for _, f := range q.Filters {
		filters = append(filters, shownFilter{f.Tagk, f.Filter, f.GroupBy, f.Type})
		if f.GroupBy {
			tags[f.Tagk] = f.Type + "(" + f.Filter + ")"
		}
	}
	var rate *shownRate
	if q.RateOptions != (RateOptions{}) {
		o := q.RateOptions
		if o.CounterMax == 0 {
			o.CounterMax = math.MaxInt64
		}
		rate = &shownRate{o.Counter, o.CounterMax, o.ResetValue, o.DropResets}
	}
	var down *string
	if q.Downsample != "" {
		down = &q.Downsample
	}
	return map[string]any{
		"aggregator": q.Aggregator, "metric": q.Metric, "tsuids": nil, "downsample": down, "rate": q.Rate, "filters": filters,
		"percentiles": nil, "index": i, "rateOptions": rate, "tags": tags, "explicitTags": q.ExplicitTags,
		"preAggregate": false, "rollupUsage": nil, "rollupTable": "raw", "histogramQuery": false, "showHistogramBuckets": false,
		"useFuzzyFilter": true, "useMultiGets": true, // how OpenTSDB scans; some clients want the fields to be there
	}
}
