package query

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"sync"

	"kemi"
	"kemi/sauron/tsdnote"
)

// WriteJSON writes results as OpenTSDB does: an array with one object per result, its points under dps as a map by time or, if the request
// says so, as pairs. NaN is the string "NaN", or null with that fill policy. Of several points within one second the last stays, unless
// the request wants milliseconds.
func WriteJSON(w io.Writer, r *Request, results []Result, globals Globals, total Stats) error {
	j := writers.Get().(*jsonWriter)
	defer func() {
		j.at, j.r = nil, nil
		writers.Put(j)
	}()
	j.r = r
	b := j.buf[:0]
	if r.Padding != "" {
		b = append(append(b, r.Padding...), '(')
	}
	b = append(b, '[')
	var shared []byte // what all results say of global annotations
	if len(globals) > 0 {
		shared = appendJSON([]byte(`,"globalAnnotations":`), globals.in(r))
	}
	defer func() { j.buf = b }()
	for i := range results {
		if i > 0 {
			b = append(b, ',')
		}
		b = j.result(b, &results[i], shared)
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
	b = append(b, ']')
	if r.Padding != "" {
		b = append(b, ')')
	}
	_, err := w.Write(b)
	return err
}

// jsonWriter keeps the text of times: as a rule all results of an answer have the same ones.
type jsonWriter struct {
	r    *Request
	buf  []byte
	at   []kemi.Millis // whose text it is
	text []byte        // of each time what stands before its value
	ends []int
}

var writers = sync.Pool{New: func() any { return new(jsonWriter) }}

func (j *jsonWriter) result(b []byte, s *Result, shared []byte) []byte {
	r := j.r
	b = appendString(append(b, `{"metric":`...), s.Metric)
	b = append(b, `,"tags":{`...)
	for i, t := range s.Tags {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(appendString(b, t.Name), ':'), t.Value)
	}
	b = appendStrings(append(b, `},"aggregateTags":`...), s.AggregateTags)
	if r.ShowQuery {
		b = appendJSON(append(b, `,"query":`...), shownQuery(r, s.Query))
	}
	if r.ShowTSUIDs {
		b = appendStrings(append(b, `,"tsuids":`...), s.TSUIDs)
	}
	if s.Noted && !r.NoAnnotations {
		notes := s.Notes
		if notes == nil {
			notes = []tsdnote.Note{}
		}
		b = appendJSON(append(b, `,"annotations":`...), notes)
	}
	b = append(b, shared...)
	j.times(s.At)
	open, closed := `,"dps":{`, byte('}')
	if r.Arrays {
		open, closed = `,"dps":[`, ']'
	}
	b = append(b, open...)
	from, first := 0, true
	for i, end := range j.ends {
		text := j.text[from:end]
		from = end
		if len(text) == 0 { // another one of the same second follows
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendValue(append(b, text...), s.Values[i], s.Null)
		if r.Arrays {
			b = append(b, ']')
		}
	}
	b = append(b, closed)
	if r.ShowStats {
		b = appendJSON(append(b, `,"stats":`...), s.Stats)
	}
	return append(b, '}')
}

// times makes the texts of at.
func (j *jsonWriter) times(at []kemi.Millis) {
	if len(at) == len(j.at) && (len(at) == 0 || &at[0] == &j.at[0]) && len(at) == len(j.ends) {
		return
	}
	j.at, j.text, j.ends = at, j.text[:0], j.ends[:0]
	scale := kemi.Millis(1000)
	if j.r.MsResolution {
		scale = 1
	}
	for i, t := range at {
		switch {
		case j.r.Arrays:
			j.text = append(strconv.AppendInt(append(j.text, '['), int64(t/scale), 10), ',')
		case i+1 < len(at) && at[i+1]/scale == t/scale:
		default:
			j.text = append(strconv.AppendInt(append(j.text, '"'), int64(t/scale), 10), '"', ':')
		}
		j.ends = append(j.ends, len(j.text))
	}
}

// appendString writes a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return appendJSON(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendStrings(b []byte, all []string) []byte {
	b = append(b, '[')
	for i, s := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
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
	a := math.Abs(v)
	if a < 1e9 {
		// Most numbers are decimals of a few digits. One of at most 15 digits is the only such one that reads back as this number, so it is the
		// shortest: no other has to be looked for.
		if m := math.Round(a * 1e6); m/1e6 == a {
			if v < 0 {
				b = append(b, '-')
			}
			whole, part := uint64(m)/1e6, uint64(m)%1e6
			b = strconv.AppendUint(b, whole, 10)
			if part == 0 {
				return b
			}
			digits := [7]byte{'.'}
			for i := 6; i > 0; i-- {
				digits[i] = byte('0' + part%10)
				part /= 10
			}
			n := 7
			for digits[n-1] == '0' {
				n--
			}
			return append(b, digits[:n]...)
		}
	}
	if a >= 1e-6 && a < 1e21 {
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
		typ := cmp.Or(f.shown, f.Type)
		filters = append(filters, shownFilter{f.Tagk, f.Filter, f.GroupBy, typ})
		if f.GroupBy {
			tags[f.Tagk] = typ + "(" + f.Filter + ")"
		}
	}
	var rate *shownRate
	if q.RateOptions.Given {
		o := q.RateOptions
		if !o.HasMax {
			o.CounterMax = math.MaxInt64
		}
		rate = &shownRate{o.Counter, o.CounterMax, o.ResetValue, o.DropResets}
	}
	var down *string
	if q.Downsample != "" {
		down = &q.Downsample
	}
	var metric *string
	if q.Metric != "" {
		metric = &q.Metric
	}
	var keys [][]byte // UIDs of the filters' tag keys
	for _, k := range q.keyUIDs {
		keys = append(keys, []byte{byte(k >> 16), byte(k >> 8), byte(k)})
	}
	return map[string]any{
		"filterTagKs": keys,
		"aggregator":  q.Aggregator, "metric": metric, "tsuids": q.TSUIDs, "downsample": down, "rate": q.Rate, "filters": filters,
		"percentiles": nil, "index": i, "rateOptions": rate, "tags": tags, "explicitTags": q.ExplicitTags,
		"preAggregate": false, "rollupUsage": nil, "rollupTable": "raw", "histogramQuery": false, "showHistogramBuckets": false,
		"useFuzzyFilter": true, "useMultiGets": true, // how OpenTSDB scans; some clients want the fields to be there
	}
}
