package tsd

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"kemi"
	"kemi/sauron/query"
	"kemi/sauron/tsdexp"
	"kemi/sauron/tsdhttp"
)

// maxExpressions is how many expressions a request may have.
const maxExpressions = 64

// room counts numbers that expressions make.
func (a *API) room() func(int) error {
	made, most := 0, a.o.Engine.Config().MaxPoints
	return func(n int) error {
		if made += n; made > most {
			return kemi.Errorf(kemi.ErrTooLarge, "the expressions make more than maxPoints = %d numbers: choose a longer downsample interval, fewer series or a shorter range", most)
		}
		return nil
	}
}

// gexp answers functions over queries: exp=scale(sum:cpu{host=*},2).
func (a *API) gexp(x *tsdhttp.Exchange) error {
	if x.R.Method == http.MethodPost {
		return tsdhttp.Bad("Expressions are asked for by GET", "exp=<function>(<query>,…)")
	}
	req, err := query.ParseFlags(x.Params, a.o.Now())
	if err != nil {
		return err
	}
	for _, m := range x.Params["m"] { // asked as well, but not answered
		q, err := query.ParseM(m)
		if err != nil {
			return err
		}
		req.Queries = append(req.Queries, q)
	}
	if n := len(x.Params["exp"]); n > maxExpressions {
		return kemi.Errorf(kemi.ErrTooLarge, "%d expressions are more than the %d that a request may have: send several", n, maxExpressions)
	}
	var calls []*tsdexp.Call
	var texts []string
	for _, s := range x.Params["exp"] {
		c, err := tsdexp.ParseCall(s, &texts)
		if err != nil {
			return err
		}
		calls = append(calls, c)
	}
	if len(req.Queries)+len(texts) == 0 {
		return tsdhttp.Bad("Missing sub queries", "at least one parameter exp is needed")
	}
	first := len(req.Queries)
	for _, m := range texts {
		q, err := query.ParseM(m)
		if err != nil {
			return err
		}
		req.Queries = append(req.Queries, q)
	}
	if err := req.SetTimes(x.Params, a.o.Now()); err != nil {
		return err
	}
	if req.Padding, err = x.Padding(); err != nil {
		return err
	}
	results, stats, err := a.o.Engine.Query(x.R.Context(), x.ID, req)
	if err != nil {
		return err
	}
	of := make([][]query.Result, len(req.Queries))
	for _, r := range results {
		of[r.Query] = append(of[r.Query], r)
	}
	var out []query.Result
	room := a.room()
	for _, c := range calls {
		got, err := c.Eval(tsdexp.Range{Start: req.Start, End: req.End}, func(i int) []query.Result { return of[first+i] }, room)
		if err != nil {
			return err
		}
		for _, r := range got {
			out = append(out, within(r, req.Start, req.End))
		}
	}
	if req.ShowQuery {
		if err := a.o.Engine.ShowQueries(x.R.Context(), x.ID, &req); err != nil {
			return err
		}
	}
	return a.o.Engine.WriteResults(x, &req, out, nil, stats)
}

// within is the part of r in the range.
func within(r query.Result, start, end kemi.Millis) query.Result {
	i, _ := slices.BinarySearch(r.At, start)
	j, found := slices.BinarySearch(r.At, end)
	if found {
		j++
	}
	r.At, r.Values = r.At[i:max(i, j)], r.Values[i:max(i, j)]
	return r
}

// fill is a fill policy of a request, as a number.
type fill struct {
	Policy string  `json:"policy"`
	Value  numeric `json:"value"`
}

// numeric is a number, or a string such as "NaN".
type numeric float64

func (n *numeric) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	v, err := strconv.ParseFloat(s, 64)
	if s == "null" {
		v, err = 0, nil
	}
	if err != nil {
		return tsdhttp.Bad("Unable to parse the given JSON", "value: "+tsdhttp.Clip(s)+": must be a number")
	}
	*n = numeric(v)
	return nil
}

func (n numeric) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte(`"NaN"`), nil
	}
	return json.Marshal(float64(n))
}

// number is what the policy fills with.
func (f *fill) number(otherwise float64) (float64, error) {
	if f == nil {
		return otherwise, nil
	}
	switch strings.ToLower(f.Policy) {
	case "nan", "null":
		f.Value = numeric(math.NaN())
	case "zero", "none", "":
		f.Value = 0
	case "scalar":
	default:
		return 0, tsdhttp.Bad("Unrecognized fill policy: "+tsdhttp.Clip(f.Policy), "must be nan, null, zero or scalar with a value")
	}
	return float64(f.Value), nil
}

// expRequest is the body of query/exp.
type expRequest struct {
	Name        *string       `json:"name"`
	Time        *expTime      `json:"time"`
	Filters     []*expFilter  `json:"filters"`
	Metrics     []*expMetric  `json:"metrics"`
	Expressions []*expression `json:"expressions"`
	Outputs     []*expOutput  `json:"outputs"`
}

type expTime struct {
	Start       json.RawMessage `json:"start"`
	End         json.RawMessage `json:"end"`
	Timezone    *string         `json:"timezone"`
	Downsampler *struct {
		Interval   string `json:"interval"`
		Aggregator string `json:"aggregator"`
		Fill       *fill  `json:"fillPolicy"`
	} `json:"downsampler"`
	Aggregator string `json:"aggregator"`
	Rate       bool   `json:"rate"`
}

type expFilter struct {
	ID           string      `json:"id"`
	Tags         []tagFilter `json:"tags"`
	ExplicitTags bool        `json:"explicitTags"`
}

// tagFilter reads groupBy as it is written in requests, and writes it as OpenTSDB does.
type tagFilter struct {
	Tagk    string `json:"tagk"`
	Filter  string `json:"filter"`
	GroupBy bool   `json:"group_by"`
	Type    string `json:"type"`
}

func (f *tagFilter) UnmarshalJSON(b []byte) error {
	var in struct {
		Tagk, Filter, Type string
		GroupBy            bool `json:"groupBy"`
		Grouped            bool `json:"group_by"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*f = tagFilter{in.Tagk, in.Filter, in.GroupBy || in.Grouped, in.Type}
	return nil
}

type expMetric struct {
	ID         string  `json:"id"`
	Metric     string  `json:"metric"`
	Filter     *string `json:"filter"`
	Aggregator *string `json:"aggregator"`
	TimeOffset *string `json:"timeOffset"`
	Fill       *fill   `json:"fillPolicy"`

	value float64
	keys  map[string]bool
}

type expression struct {
	ID   string   `json:"id"`
	Expr string   `json:"expr"`
	Fill *fill    `json:"fillPolicy"`
	Join *expJoin `json:"join"`

	value  float64
	parsed *tsdexp.Expr
}

type expJoin struct {
	Operator      string `json:"operator"`
	QueryTags     bool   `json:"useQueryTags"`
	AggregateTags *bool  `json:"includeAggTags"`
}

type expOutput struct {
	ID    string  `json:"id"`
	Alias *string `json:"alias"`
}

// validID tells whether an id is of letters and digits, and not one digit.
func validID(s string) bool {
	for _, c := range s {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return false
		}
	}
	return s != "" && !(len(s) == 1 && s[0] >= '0' && s[0] <= '9')
}

// text is a string or a number as it is written.
func text(raw json.RawMessage) string {
	s := strings.Trim(string(raw), `"`)
	if s == "null" {
		return ""
	}
	return s
}

// check finds what is wrong with a request, in OpenTSDB's order.
func (in *expRequest) check(now time.Time) error {
	switch {
	case in.Time == nil:
		return tsdhttp.Bad("missing time", "time: must have start and aggregator")
	case text(in.Time.Start) == "":
		return tsdhttp.Bad("Invalid time", "missing or empty start")
	}
	for _, s := range []string{text(in.Time.Start), text(in.Time.End)} {
		if _, err := query.ParseTime(s, nil, now); s != "" && err != nil {
			return tsdhttp.Bad("Invalid time", err.Error())
		}
	}
	known := func(name string) bool { return slices.Contains(query.Aggregators(), strings.ToLower(name)) }
	if !known(in.Time.Aggregator) {
		return tsdhttp.Bad("Invalid time", "aggregator: "+tsdhttp.Clip(in.Time.Aggregator)+": must be one of those that /api/aggregators lists")
	}
	if d := in.Time.Downsampler; d != nil {
		if _, err := query.ParseDuration(d.Interval); err != nil || !known(d.Aggregator) {
			return tsdhttp.Bad("Invalid time", fmt.Sprintf("downsampler: %s-%s: must be an interval as 5m, and an aggregator", tsdhttp.Clip(d.Interval), tsdhttp.Clip(d.Aggregator)))
		}
	}
	if len(in.Metrics) == 0 {
		return tsdhttp.Bad("missing or empty metrics", "metrics: at least one is needed")
	}
	ids := map[string]bool{}
	for i, m := range in.Metrics {
		if m == nil {
			return tsdhttp.Bad(fmt.Sprintf("Invalid metric at index %d", i), "it is null")
		}
		if ids[m.ID] {
			return tsdhttp.Badf("duplicated metric id: %s", tsdhttp.Clip(m.ID))
		}
		ids[m.ID] = true
	}
	filters := map[string]bool{}
	for i, f := range in.Filters {
		switch {
		case f == nil:
			return tsdhttp.Bad(fmt.Sprintf("Invalid filter at index %d", i), "it is null")
		case filters[f.ID]:
			return tsdhttp.Badf("duplicated filter id: %s", tsdhttp.Clip(f.ID))
		}
		filters[f.ID] = true
	}
	for i, e := range in.Expressions {
		switch {
		case e == nil:
			return tsdhttp.Bad(fmt.Sprintf("Invalid expression at index %d", i), "it is null")
		case ids[e.ID]:
			return tsdhttp.Badf("Duplicated variable or expression id: %s", tsdhttp.Clip(e.ID))
		}
		ids[e.ID] = true
	}
	for i, m := range in.Metrics {
		var err error
		if m.value, err = m.Fill.number(0); err != nil || m.Metric == "" || !validID(m.ID) || m.Aggregator != nil && *m.Aggregator != "" && !known(*m.Aggregator) {
			return tsdhttp.Bad(fmt.Sprintf("Invalid metric at index %d", i), "it needs a metric, an id of letters and digits, and no unknown aggregator or fill policy")
		}
	}
	for i, f := range in.Filters {
		if !validID(f.ID) {
			return tsdhttp.Bad(fmt.Sprintf("Invalid filter at index %d", i), "it needs an id of letters and digits")
		}
	}
	for i, e := range in.Expressions {
		var err error
		if e.value, err = e.Fill.number(math.NaN()); err != nil || !validID(e.ID) || e.Expr == "" {
			return tsdhttp.Bad(fmt.Sprintf("Invalid expression at index %d", i), "it needs an id of letters and digits, an expr, and no unknown fill policy")
		}
		if e.parsed, err = tsdexp.Parse(e.Expr); err != nil {
			return err
		}
		if e.Join == nil {
			e.Join = &expJoin{}
		}
		switch e.Join.Operator = strings.ToLower(e.Join.Operator); e.Join.Operator {
		case "":
			e.Join.Operator = "union"
		case "union", "intersection":
		default:
			return tsdhttp.Bad("Unrecognized set operator: "+tsdhttp.Clip(e.Join.Operator), "join.operator: must be union or intersection")
		}
		if e.Join.AggregateTags == nil {
			yes := true
			e.Join.AggregateTags = &yes
		}
	}
	for _, m := range in.Metrics {
		if m.Filter != nil && *m.Filter != "" && !filters[*m.Filter] {
			return tsdhttp.Badf("unrecognized filter id %s in metric %s", tsdhttp.Clip(*m.Filter), tsdhttp.Clip(m.ID))
		}
	}
	for _, e := range in.Expressions {
		vars := e.parsed.Variables()
		if len(vars) == 0 {
			return tsdhttp.Badf("The expression didn't appear to have any variables")
		}
		for _, v := range vars {
			if !ids[v] {
				return tsdhttp.Badf("Expression [%s] was missing input %s", tsdhttp.Clip(e.Expr), tsdhttp.Clip(v))
			}
			if v == e.ID {
				return tsdhttp.Badf("Self referencing expression found: %s", e.ID)
			}
		}
	}
	return nil
}

// order is the expressions, each behind those that it reads.
func (in *expRequest) order() ([]*expression, error) {
	byID := map[string]*expression{}
	for _, e := range in.Expressions {
		byID[e.ID] = e
	}
	var out []*expression
	state := map[string]int{} // 1 = being looked at, 2 = done
	var visit func(e *expression) error
	visit = func(e *expression) error {
		switch state[e.ID] {
		case 2:
			return nil
		}
		state[e.ID] = 1
		for _, v := range e.parsed.Variables() {
			if sub := byID[v]; sub != nil {
				if state[v] == 1 {
					return tsdhttp.Badf("Circular reference found: %s", e.ID)
				}
				if err := visit(sub); err != nil {
					return err
				}
			}
		}
		state[e.ID] = 2
		out = append(out, e)
		return nil
	}
	for _, e := range in.Expressions {
		if err := visit(e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// request is the queries that the metrics stand for.
func (in *expRequest) request(a *API) (query.Request, error) {
	r := query.Request{MsResolution: true, NoAnnotations: true}
	if in.Time.Timezone != nil {
		r.Timezone = *in.Time.Timezone
	}
	byID := map[string]*expFilter{}
	for _, f := range in.Filters {
		byID[f.ID] = f
	}
	for _, m := range in.Metrics {
		q := query.SubQuery{Metric: m.Metric, Aggregator: in.Time.Aggregator, Rate: in.Time.Rate}
		if m.Aggregator != nil && *m.Aggregator != "" {
			q.Aggregator = *m.Aggregator
		}
		if d := in.Time.Downsampler; d != nil {
			q.Downsample = d.Interval + "-" + d.Aggregator
		}
		if m.Filter != nil && byID[*m.Filter] != nil {
			f := byID[*m.Filter]
			q.ExplicitTags = f.ExplicitTags
			m.keys = map[string]bool{}
			for _, t := range f.Tags {
				q.Filters = append(q.Filters, query.Filter{Type: t.Type, Tagk: t.Tagk, Filter: t.Filter, GroupBy: t.GroupBy})
				m.keys[t.Tagk] = true
			}
		}
		r.Queries = append(r.Queries, q)
	}
	return r, r.SetRange(text(in.Time.Start), text(in.Time.End), a.o.Now())
}

// exp answers expressions over metrics.
func (a *API) exp(x *tsdhttp.Exchange) error {
	body, err := x.Body()
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(body))) == 0 {
		return tsdhttp.Bad("Incoming data was null or empty", "Supply valid JSON formatted data in the body of your request")
	}
	var in expRequest
	if err := tsdhttp.Decode(body, &in); err != nil {
		return err
	}
	if n := max(len(in.Expressions), len(in.Outputs)); n > maxExpressions {
		return kemi.Errorf(kemi.ErrTooLarge, "%d expressions are more than the %d that a request may have: send several", n, maxExpressions)
	}
	if err := in.check(a.o.Now()); err != nil {
		return err
	}
	order, err := in.order()
	if err != nil {
		return err
	}
	req, err := in.request(a)
	if err != nil {
		return err
	}
	results, _, err := a.o.Engine.Query(x.R.Context(), x.ID, req)
	if err != nil {
		return err
	}
	sets := map[string]*tsdexp.Set{}
	for _, m := range in.Metrics {
		sets[m.ID] = &tsdexp.Set{Fill: m.value, Keys: m.keys}
	}
	for _, r := range results {
		s := sets[in.Metrics[r.Query].ID]
		s.Results = append(s.Results, r)
	}
	tables := map[string]*tsdexp.Table{}
	room := a.room()
	for _, e := range order {
		names := e.parsed.Variables()
		of := make([]tsdexp.Set, len(names))
		for i, n := range names {
			of[i] = *sets[n]
		}
		join := tsdexp.Join{Intersection: e.Join.Operator == "intersection", QueryTags: e.Join.QueryTags, AggregateTags: *e.Join.AggregateTags}
		t, err := tsdexp.Evaluate(e.parsed, names, of, join, req.Start, req.End, room)
		if err != nil {
			return err
		}
		tables[e.ID], sets[e.ID] = t, &tsdexp.Set{Results: t.Results(), Fill: e.value}
	}
	outputs, err := in.outputs(req, sets, tables, room)
	if err != nil {
		return err
	}
	return x.JSON(map[string]any{"outputs": outputs, "query": in})
}

// outputs are what is asked for: the outputs named, or all expressions, or all metrics.
func (in *expRequest) outputs(req query.Request, sets map[string]*tsdexp.Set, tables map[string]*tsdexp.Table, room func(int) error) ([]any, error) {
	wanted := in.Outputs
	if len(wanted) == 0 {
		for _, e := range in.Expressions {
			wanted = append(wanted, &expOutput{ID: e.ID})
		}
	}
	if len(wanted) == 0 {
		for _, m := range in.Metrics {
			wanted = append(wanted, &expOutput{ID: m.ID})
		}
	}
	out := []any{}
	one, err := tsdexp.Parse("x")
	if err != nil {
		return nil, err
	}
	for _, o := range wanted {
		if o == nil || sets[o.ID] == nil {
			continue
		}
		t := tables[o.ID]
		if t == nil { // a metric by itself: what it lacks is 0
			set := tsdexp.Set{Results: sets[o.ID].Results}
			if t, err = tsdexp.Evaluate(one, []string{"x"}, []tsdexp.Set{set}, tsdexp.Join{AggregateTags: true}, req.Start, req.End, room); err != nil {
				return nil, err
			}
		}
		out = append(out, output(o, t))
	}
	return out, nil
}

func output(o *expOutput, t *tsdexp.Table) map[string]any {
	dps := make([][]any, len(t.At))
	for i, at := range t.At {
		row := make([]any, 1, len(t.Rows)+1)
		row[0] = int64(at)
		for _, r := range t.Rows {
			v := r.Values[i]
			switch {
			case math.IsNaN(v):
				row = append(row, "NaN")
			case math.IsInf(v, 1):
				row = append(row, "Infinity")
			case math.IsInf(v, -1):
				row = append(row, "-Infinity")
			default:
				row = append(row, v)
			}
		}
		dps[i] = row
	}
	var first, last int64
	if n := len(t.At); n > 0 {
		first = int64(t.At[0])
		if n > 1 {
			last = int64(t.At[n-1])
		}
	}
	one := map[string]any{
		"id": o.ID, "dps": dps,
		"dpsMeta": map[string]any{"firstTimestamp": first, "lastTimestamp": last, "setCount": len(t.At), "series": len(t.Rows)},
	}
	if o.Alias != nil {
		one["alias"] = *o.Alias
	}
	if len(t.Rows) == 0 {
		return one
	}
	meta := []any{map[string]any{"index": 0, "metrics": []string{"timestamp"}}}
	for i, r := range t.Rows {
		tags := r.AggregateTags
		if tags == nil {
			tags = []string{}
		}
		meta = append(meta, map[string]any{"index": i + 1, "metrics": t.Rows[0].Metrics, "commonTags": r.Tags, "aggregatedTags": tags})
	}
	one["meta"] = meta
	return one
}
