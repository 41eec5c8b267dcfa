package query

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// Request is one or more queries over one range of time. Both ends are part of the range.
type Request struct {
	Start, End  kemi.Millis
	Timezone    string // of calendar intervals; empty = UTC
	UseCalendar bool   // every interval is a calendar interval
	Queries     []SubQuery

	// How the answer is written; the executor does not look at these.
	MsResolution, Arrays, ShowTSUIDs, ShowQuery, ShowStats, ShowSummary bool
}

// SubQuery selects series, groups them and says how a group becomes one series.
type SubQuery struct {
	Metric       string // "-" selects by filters alone; there the tag key "metric" is the metric's name
	Aggregator   string // see Aggregators
	Downsample   string // "<interval>-<aggregator>[-<fill>]"; empty = none
	Rate         bool
	RateOptions  RateOptions
	Filters      []Filter
	ExplicitTags bool // only series that have no other tags than those with filters
}

// RateOptions are for rates of counters.
type RateOptions struct {
	Counter    bool  // a value below the one before it means that the counter began anew
	CounterMax int64 // the largest value of the counter, added at a new beginning; 0 = the largest there is
	ResetValue int64 // a rate above it after a new beginning counts as 0; 0 = no such limit
	DropResets bool  // a new beginning has no rate
}

// ParseJSON reads a request as OpenTSDB and SAURON write it. Unknown fields are ignored; a body that lacks nothing but its last brace
// is read as if it had it. Relative times count from now.
func ParseJSON(body []byte, now time.Time) (Request, error) {
	var in jsonRequest
	if err := decodeJSON(body, &in); err != nil {
		return Request{}, err
	}
	if in.Queries == nil || len(*in.Queries) == 0 {
		return Request{}, kemi.Errorf(kemi.ErrInvalid, "Missing queries")
	}
	if in.Delete {
		return Request{}, errDelete()
	}
	r := Request{
		Timezone: in.Timezone, UseCalendar: bool(in.UseCalendar), MsResolution: bool(in.MsResolution), Arrays: bool(in.Arrays),
		ShowTSUIDs: bool(in.ShowTSUIDs), ShowQuery: bool(in.ShowQuery), ShowStats: bool(in.ShowStats), ShowSummary: bool(in.ShowSummary),
	}
	if err := r.setTimes(string(in.Start), string(in.End), now); err != nil {
		return r, err
	}
	for i, s := range *in.Queries {
		q, err := s.subQuery()
		if err != nil {
			return r, wrapQuery(i, err)
		}
		r.Queries = append(r.Queries, q)
	}
	r.dropDoubles()
	return r, nil
}

func errDelete() error {
	return kemi.Errorf(kemi.ErrDenied, "Deleting data is not enabled: a query only reads")
}

func wrapQuery(i int, err error) error { return kemi.Errorf(kindOf(err), "query %d: %w", i, err) }

// kindOf keeps the kind of err: an error that has none is told as the client's.
func kindOf(err error) error {
	for _, k := range []error{kemi.ErrDenied, kemi.ErrTooLarge, kemi.ErrLimited, kemi.ErrUnavailable} {
		if errors.Is(err, k) {
			return k
		}
	}
	return kemi.ErrInvalid
}

func (r *Request) setTimes(start, end string, now time.Time) (err error) {
	loc, err := location(r.Timezone)
	if err != nil {
		return err
	}
	if start == "" {
		return kemi.Errorf(kemi.ErrInvalid, "Missing start time")
	}
	if r.Start, err = ParseTime(start, loc, now); err != nil {
		return err
	}
	r.End = kemi.MillisOf(now)
	if end != "" {
		if r.End, err = ParseTime(end, loc, now); err != nil {
			return err
		}
	}
	if r.End <= r.Start {
		return kemi.Errorf(kemi.ErrInvalid, "End time [%d] must be greater than the start time [%d]", r.End, r.Start)
	}
	return nil
}

// dropDoubles leaves out a query that says the same as one before it.
func (r *Request) dropDoubles() {
	out := r.Queries[:0]
next:
	for _, q := range r.Queries {
		for _, o := range out {
			if reflect.DeepEqual(q, o) {
				continue next
			}
		}
		out = append(out, q)
	}
	r.Queries = out
}

type jsonRequest struct {
	Start        scalar     `json:"start"`
	End          scalar     `json:"end"`
	Timezone     string     `json:"timezone"`
	UseCalendar  boolean    `json:"useCalendar"`
	MsResolution boolean    `json:"msResolution"`
	Arrays       boolean    `json:"arrays"`
	ShowTSUIDs   boolean    `json:"showTSUIDs"`
	ShowQuery    boolean    `json:"showQuery"`
	ShowStats    boolean    `json:"showStats"`
	ShowSummary  boolean    `json:"showSummary"`
	Delete       boolean    `json:"delete"`
	Queries      *[]jsonSub `json:"queries"`
}

type jsonSub struct {
	Metric      string  `json:"metric"`
	Aggregator  string  `json:"aggregator"`
	Downsample  string  `json:"downsample"`
	Rate        boolean `json:"rate"`
	RateOptions *struct {
		Counter    boolean `json:"counter"`
		IsCounter  boolean `json:"isCounter"`
		CounterMax scalar  `json:"counterMax"`
		ResetValue scalar  `json:"resetValue"`
		DropResets boolean `json:"dropResets"`
	} `json:"rateOptions"`
	Filters []struct {
		Type    string  `json:"type"`
		Tagk    string  `json:"tagk"`
		Filter  string  `json:"filter"`
		GroupBy boolean `json:"groupBy"` // groupby, too: names are compared without case
		Grouped boolean `json:"group_by"`
	} `json:"filters"`
	Tags                 pairs           `json:"tags"`
	ExplicitTags         boolean         `json:"explicitTags"`
	Tsuids               []string        `json:"tsuids"`
	Percentiles          json.RawMessage `json:"percentiles"`
	ShowHistogramBuckets boolean         `json:"showHistogramBuckets"`
}

func (s jsonSub) subQuery() (SubQuery, error) {
	q := SubQuery{
		Metric: s.Metric, Aggregator: s.Aggregator, Downsample: s.Downsample, Rate: bool(s.Rate), ExplicitTags: bool(s.ExplicitTags),
	}
	if len(s.Tsuids) > 0 {
		return q, errTsuids()
	}
	if p := bytes.TrimSpace(s.Percentiles); len(p) > 0 && string(p) != "null" && string(p) != "[]" || bool(s.ShowHistogramBuckets) {
		return q, errHistograms()
	}
	if o := s.RateOptions; o != nil {
		q.RateOptions = RateOptions{Counter: bool(o.Counter || o.IsCounter), DropResets: bool(o.DropResets)}
		var err error
		if q.RateOptions.CounterMax, err = o.CounterMax.whole("rateOptions.counterMax"); err != nil {
			return q, err
		}
		if q.RateOptions.ResetValue, err = o.ResetValue.whole("rateOptions.resetValue"); err != nil {
			return q, err
		}
	}
	for _, f := range s.Filters {
		q.Filters = append(q.Filters, Filter{Type: f.Type, Tagk: f.Tagk, Filter: f.Filter, GroupBy: bool(f.GroupBy || f.Grouped)})
	}
	for _, t := range s.Tags {
		f, err := tagFilter(t.Name, t.Value, true)
		if err != nil {
			return q, err
		}
		q.Filters = append(q.Filters, f)
	}
	return q, nil
}

func errTsuids() error {
	return kemi.Errorf(kemi.ErrInvalid, "tsuids: series have no TSUIDs here: name the metric and filter by tags instead")
}

func errHistograms() error {
	return kemi.Errorf(kemi.ErrInvalid, "percentiles, showHistogramBuckets: histograms cannot be queried here: use /api/v1/query with histogram_quantile, or the aggregators p50 … p999 over plain series")
}

// scalar is a string or a number.
type scalar string

func (s *scalar) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "null":
		*s = ""
		return nil
	case b[0] == '"':
		return json.Unmarshal(b, (*string)(s))
	case b[0] == '-' || b[0] >= '0' && b[0] <= '9':
		*s = scalar(b)
		if strings.ContainsAny(string(b), "eE") { // some clients write large numbers so
			if f, err := strconv.ParseFloat(string(b), 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<62 {
				*s = scalar(strconv.FormatInt(int64(f), 10))
			}
		}
		return nil
	}
	return kemi.Errorf(kemi.ErrInvalid, "%s where a number or a string was expected", clip(string(b)))
}

// whole is s as an integer; empty is 0.
func (s scalar) whole(field string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(s), 10, 64)
	if err != nil || n < 0 {
		f, ferr := strconv.ParseFloat(string(s), 64)
		if ferr != nil || f < 0 || f >= math.MaxInt64 {
			return 0, kemi.Errorf(kemi.ErrInvalid, "%s: %q: must be a whole number from 0 to %d", field, clip(string(s)), int64(math.MaxInt64))
		}
		n = int64(f)
	}
	return n, nil
}

// boolean is true or false, also as a string or a number.
type boolean bool

func (f *boolean) UnmarshalJSON(b []byte) error {
	switch strings.ToLower(strings.Trim(string(b), `"`)) {
	case "true", "1":
		*f = true
	case "false", "0", "", "null":
		*f = false
	default:
		return kemi.Errorf(kemi.ErrInvalid, "%s where true or false was expected", clip(string(b)))
	}
	return nil
}

// pairs is an object of strings in its order.
type pairs []kemi.Label

func (p *pairs) UnmarshalJSON(b []byte) error {
	*p = nil
	if string(b) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return kemi.Errorf(kemi.ErrInvalid, "tags: %s: must be an object of strings", clip(string(b)))
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		var v scalar
		if err := d.Decode(&v); err != nil {
			return kemi.Errorf(kemi.ErrInvalid, "tags: %s: must be an object of strings", clip(string(b)))
		}
		name, _ := k.(string)
		*p = append(*p, kemi.Label{Name: name, Value: string(v)})
	}
	return nil
}

// decodeJSON reads the first value of body; what follows it is ignored, as OpenTSDB does.
func decodeJSON(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "Missing message content: supply valid JSON in the body of the request")
	}
	err := json.NewDecoder(bytes.NewReader(body)).Decode(v)
	if errors.Is(err, io.ErrUnexpectedEOF) && lacksOnlyBrace(body) {
		err = json.NewDecoder(io.MultiReader(bytes.NewReader(body), strings.NewReader("}"))).Decode(v)
	}
	if err != nil {
		wrong := new(json.UnmarshalTypeError)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = errors.New("it ends in the middle")
		case errors.As(err, &wrong):
			err = fmt.Errorf("%s: a JSON %s does not fit", cmp.Or(wrong.Field, "the whole"), wrong.Value)
		}
		return kemi.Errorf(kemi.ErrInvalid, "Unable to parse the given JSON: %w", err)
	}
	return nil
}

// lacksOnlyBrace tells whether one object is open at the end of body, nothing else is, and what it held last is complete.
func lacksOnlyBrace(body []byte) bool {
	var open []byte
	inString := false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			open = append(open, c)
		case c == '}' || c == ']':
			if len(open) == 0 {
				return false
			}
			open = open[:len(open)-1]
		}
	}
	end := bytes.TrimRight(body, " \t\r\n")
	return !inString && len(open) == 1 && open[0] == '{' && (end[len(end)-1] == ']' || end[len(end)-1] == '}')
}
