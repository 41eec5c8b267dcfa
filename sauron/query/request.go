package query

import (
	"bytes"
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
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsduid"
)

// Request is one or more queries over one range of time. Both ends are part of the range.
type Request struct {
	Start, End  kemi.Millis
	Timezone    string // of calendar intervals; empty = UTC
	UseCalendar bool   // every interval is a calendar interval
	Queries     []SubQuery

	// How the answer is written; the executor does not look at these.
	MsResolution, Arrays, ShowQuery, ShowStats, ShowSummary bool
	Padding                                                 string // a function's name around the answer (JSONP)

	ShowTSUIDs, NoAnnotations, GlobalAnnotations bool // what is told beside the points
	Delete                                       bool // what is answered is deleted
}

// SubQuery selects series, groups them and says how a group becomes one series.
type SubQuery struct {
	Metric       string    // "-" selects by filters alone; there the tag key "metric" is the metric's name
	Aggregator   string    // see Aggregators
	Downsample   string    // "<interval>-<aggregator>[-<fill>]"; empty = none
	TSUIDs       []string  // of the series, instead of metric and filters
	Percentiles  []float64 // of histograms
	Buckets      bool      // histograms with their buckets
	Rate         bool
	RateOptions  RateOptions
	Filters      []Filter
	ExplicitTags bool // only series that have no other tags than those with filters

	keyUIDs []tsduid.UID // of the filters' tag keys, if the request shows the query
}

// RateOptions are for rates of counters.
type RateOptions struct {
	Counter    bool  // a value below the one before it means that the counter began anew
	CounterMax int64 // the largest value of the counter, added at a new beginning
	HasMax     bool  // CounterMax was given; otherwise it is the largest number there is
	ResetValue int64 // a rate above it after a new beginning counts as 0; 0 = no such limit
	DropResets bool  // a new beginning has no rate
	Given      bool  // options were given at all, for the answer that shows the query
}

// ParseJSON reads a request as OpenTSDB and SAURON write it. Unknown fields are ignored; a body that lacks nothing but its last brace
// is read as if it had it. Relative times count from now.
func ParseJSON(body []byte, now time.Time) (Request, error) {
	var in jsonRequest
	if err := decodeJSON(body, &in); err != nil {
		return Request{}, err
	}
	r := Request{
		Timezone: in.Timezone, UseCalendar: bool(in.UseCalendar), MsResolution: bool(in.MsResolution), Arrays: bool(in.Arrays),
		ShowTSUIDs: bool(in.ShowTSUIDs), ShowQuery: bool(in.ShowQuery), ShowStats: bool(in.ShowStats), ShowSummary: bool(in.ShowSummary),
		NoAnnotations: bool(in.NoAnnotations), GlobalAnnotations: bool(in.GlobalAnnotations), Delete: bool(in.Delete),
	}
	if in.Queries != nil {
		for i, s := range *in.Queries {
			q, err := s.subQuery()
			if err != nil {
				return r, notParsed(i, err)
			}
			r.Queries = append(r.Queries, q)
		}
	}
	if err := r.setTimes(string(in.Start), string(in.End), now); err != nil {
		return r, err
	}
	if len(r.Queries) == 0 {
		return Request{}, tsdhttp.Bad("Missing queries", "queries must be a list of at least one query")
	}
	r.dropDoubles()
	return r, nil
}

// notParsed tells of a query that cannot be read; OpenTSDB finds some mistakes while it reads, and does not say more of them.
func notParsed(i int, err error) error {
	var told *tsdhttp.Error
	if errors.As(err, &told) {
		return tsdhttp.Bad("Unable to parse the given JSON", fmt.Sprintf("query %d: %s", i, told.Error()))
	}
	return kemi.Errorf(kemi.ErrInvalid, "query %d: %w", i, err)
}

func (r *Request) setTimes(start, end string, now time.Time) (err error) {
	loc, err := location(r.Timezone)
	if err != nil {
		if !strings.ContainsAny(start+end, "/:") {
			err = tsdhttp.Bad("The timezone specification could not be found", "timezone: "+clip(r.Timezone)+": must be a name of the time zone database as Asia/Seoul")
		}
		return err
	}
	if start == "" {
		return tsdhttp.Bad("Missing start time", timesAre)
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
		return tsdhttp.Badf("End time [%d] must be greater than the start time [%d]", r.End, r.Start)
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
	Start        scalar  `json:"start"`
	End          scalar  `json:"end"`
	Timezone     string  `json:"timezone"`
	UseCalendar  boolean `json:"useCalendar"`
	MsResolution boolean `json:"msResolution"`
	Arrays       boolean `json:"arrays"`
	ShowTSUIDs   boolean `json:"showTSUIDs"`
	ShowQuery    boolean `json:"showQuery"`
	ShowStats    boolean `json:"showStats"`
	ShowSummary  boolean `json:"showSummary"`
	Delete       boolean `json:"delete"`

	NoAnnotations     boolean `json:"noAnnotations"`
	GlobalAnnotations boolean `json:"globalAnnotations"`

	Queries *[]jsonSub `json:"queries"`
}

type jsonSub struct {
	Metric      scalar  `json:"metric"`
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
	Filters              []jsonFilter `json:"filters"`
	Tags                 pairs        `json:"tags"`
	ExplicitTags         boolean      `json:"explicitTags"`
	Tsuids               []string     `json:"tsuids"`
	Percentiles          []float64    `json:"percentiles"`
	ShowHistogramBuckets boolean      `json:"showHistogramBuckets"`
}

type jsonFilter struct {
	Type    string  `json:"type"`
	Tagk    string  `json:"tagk"`
	Filter  string  `json:"filter"`
	GroupBy boolean `json:"groupBy"` // groupby, too: names are compared without case
	Grouped boolean `json:"group_by"`
}

func (s jsonSub) subQuery() (SubQuery, error) {
	q := SubQuery{
		TSUIDs: s.Tsuids,
		Metric: string(s.Metric), Aggregator: s.Aggregator, Downsample: s.Downsample, Rate: bool(s.Rate), ExplicitTags: bool(s.ExplicitTags),
	}
	q.Percentiles, q.Buckets = s.Percentiles, bool(s.ShowHistogramBuckets)
	if o := s.RateOptions; o != nil {
		q.RateOptions = RateOptions{Counter: bool(o.Counter || o.IsCounter), DropResets: bool(o.DropResets), HasMax: o.CounterMax != "", Given: true}
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
	for _, f := range q.Filters {
		if _, err := f.compile(f.Tagk); err != nil {
			return q, err
		}
	}
	return q, nil
}

// histograms is the error for a query of histograms, which are not read here.
func (q *SubQuery) histograms() error {
	const instead = "use /api/v1/query with histogram_quantile, or the aggregators p50 … p999 over plain series"
	switch _, fn, _ := strings.Cut(q.Downsample, "-"); {
	case len(q.Percentiles) == 0 && !q.Buckets:
		return nil
	case q.Aggregator != "none" && q.Aggregator != "sum":
		return tsdhttp.Bad("Only NONE or SUM aggregation function supported for histogram query", instead)
	case q.Downsample != "" && fn != "sum" && !strings.HasPrefix(fn, "sum-"):
		return tsdhttp.Bad("Only SUM downsampling aggregation supported for histogram query", instead)
	}
	for _, p := range q.Percentiles {
		if !(p >= 0 && p <= 100) {
			s := strconv.FormatFloat(p, 'f', -1, 64)
			if p == math.Trunc(p) {
				s += ".0"
			}
			return tsdhttp.Bad("Invalid percentile parameters: "+s, "must be from 0 to 100")
		}
	}
	return tsdhttp.Bad("Histograms cannot be queried here", "percentiles, showHistogramBuckets: "+instead)
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
	return tsdhttp.Bad("Unable to parse the given JSON", clip(string(b))+" where a number or a string was expected")
}

// whole is s as an integer; empty is 0.
func (s scalar) whole(field string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(s), 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(string(s), 64)
		if ferr != nil || math.Abs(f) >= math.MaxInt64 {
			return 0, tsdhttp.Badf("%s: %q: must be a whole number up to %d", field, clip(string(s)), int64(math.MaxInt64))
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
		return tsdhttp.Bad("Unable to parse the given JSON", clip(string(b))+" where true or false was expected")
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
		return tsdhttp.Bad("Unable to parse the given JSON", "tags: "+clip(string(b))+": must be an object of strings")
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		var v scalar
		if err := d.Decode(&v); err != nil {
			return tsdhttp.Bad("Unable to parse the given JSON", "tags: "+clip(string(b))+": must be an object of strings")
		}
		name, _ := k.(string)
		*p = append(*p, kemi.Label{Name: name, Value: string(v)})
	}
	return nil
}

// decodeJSON reads the first value of body; what follows it is ignored, as OpenTSDB does.
func decodeJSON(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return tsdhttp.Decode(body, v)
	}
	err := json.NewDecoder(bytes.NewReader(body)).Decode(v)
	if errors.Is(err, io.ErrUnexpectedEOF) && lacksOnlyBrace(body) {
		err = json.NewDecoder(io.MultiReader(bytes.NewReader(body), strings.NewReader("}"))).Decode(v)
	}
	if err != nil {
		return tsdhttp.NotJSON(err)
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
