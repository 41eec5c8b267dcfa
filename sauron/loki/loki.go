package loki

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/logql"
)

// Store is what is asked: the reading half of a store.LogStore.
type Store interface {
	logql.Store
	Count(ctx context.Context, id kemi.Identity, q store.LogQuery, by []string) ([]store.GroupCount, error)
}

// Options are what the API works with. All are needed.
type Options struct {
	Store      Store
	Enter      func(ctx context.Context, id kemi.Identity) (leave func(), err error) // waits for a place among the queries
	Timeout    time.Duration
	Version    string
	Now        func() time.Time
	Registerer prometheus.Registerer
}

// API is Loki's API.
type API struct {
	o      Options
	engine *logql.Engine
	took   *prometheus.HistogramVec
}

// maxLines is how many lines an answer has at the most.
const maxLines = 50_000

// New makes the API.
func New(o Options) *API {
	a := &API{
		o: o, engine: logql.NewEngine(o.Store, logql.DefaultLimits()),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kemi_sauron_loki_seconds", Help: "Time to answer on Loki's API.", Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 50}}, []string{"path"}),
	}
	o.Registerer.MustRegister(a.took)
	return a
}

// Routes are what the API serves.
func (a *API) Routes() []kemi.Route {
	var routes []kemi.Route
	add := func(path string, answer func(ctx context.Context, r *http.Request, id kemi.Identity) (any, error)) {
		methods := []string{"GET"}
		if slices.Contains(posted, path) {
			methods = append(methods, "POST")
		}
		for _, method := range methods {
			routes = append(routes, kemi.Route{
				Pattern: method + " /loki/api/v1/" + path, Needs: kemi.LogsRead, Dialect: kemi.DialectText,
				Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) { a.serve(w, r, id, path, answer) },
			})
		}
	}
	add("query", a.query)
	add("query_range", a.queryRange)
	add("labels", a.labels)
	add("label", a.labels)
	add("label/{name}/values", a.values)
	add("series", a.series)
	add("index/stats", a.indexStats)
	add("index/volume", a.volume)
	add("index/volume_range", a.volumeRange)
	add("detected_fields", a.detectedFields)
	add("detected_labels", a.detectedLabels)
	add("format_query", a.format)
	add("status/buildinfo", func(context.Context, *http.Request, kemi.Identity) (any, error) {
		return map[string]string{"version": "3.0.0-kemi", "revision": a.o.Version, "branch": "", "goVersion": ""}, nil
	})
	return routes
}

// posted are what may come as a form, too: their parameters may be long.
var posted = []string{"query", "query_range", "labels", "series", "detected_fields", "format_query"}

const maxBody = 1 << 20

func (a *API) serve(w http.ResponseWriter, r *http.Request, id kemi.Identity, path string, answer func(ctx context.Context, r *http.Request, id kemi.Identity) (any, error)) {
	began := time.Now()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	err := r.ParseForm()
	if err != nil {
		err = kemi.Errorf(kemi.ErrInvalid, "parameters: %w", err)
	}
	var out any
	if err == nil {
		var leave func()
		ctx, cancel := context.WithTimeout(r.Context(), a.o.Timeout)
		defer cancel()
		if leave, err = a.o.Enter(ctx, id); err == nil {
			defer leave()
			out, err = answer(ctx, r, id)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = kemi.Errorf(kemi.ErrUnavailable, "no answer within %s: ask for a shorter time or less: %w", a.o.Timeout, err)
		}
	}
	a.took.WithLabelValues(path).Observe(time.Since(began).Seconds())
	if err != nil {
		kemi.WriteError(w, kemi.DialectText, err)
		return
	}
	kemi.WriteJSON(w, http.StatusOK, out)
}

// parseTime reads nanoseconds, seconds (with a fraction), or RFC 3339.
func parseTime(s string) (kemi.Nanos, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if len(strings.TrimPrefix(s, "-")) <= 10 {
			return kemi.Nanos(n) * 1e9, nil
		}
		return kemi.Nanos(n), nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1e10 {
		whole, part := math.Modf(f)
		return kemi.Nanos(whole)*1e9 + kemi.Nanos(math.Round(part*1e9)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, kemi.Errorf(kemi.ErrInvalid, "time %q: must be nanoseconds or seconds since 1970, or as in RFC 3339", s)
	}
	return kemi.NanosOf(t), nil
}

func parseSeconds(s string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 && f < 1e9 {
		return time.Duration(f * 1e9), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if f, err := strconv.ParseFloat(n, 64); err == nil && f > 0 && f < 1e5 {
			return time.Duration(f * float64(24*time.Hour)), nil
		}
	}
	return 0, kemi.Errorf(kemi.ErrInvalid, "%q: must be seconds or a duration such as 1m", s)
}

// span is start and end; by default the hour before now.
func (a *API) span(v url.Values) (start, end kemi.Nanos, err error) {
	end = kemi.NanosOf(a.o.Now())
	if s := v.Get("end"); s != "" {
		if end, err = parseTime(s); err != nil {
			return 0, 0, kemi.Errorf(kemi.ErrInvalid, "end: %w", err)
		}
	}
	start = end - kemi.Nanos(time.Hour)
	if s := v.Get("since"); s != "" {
		d, err := parseSeconds(s)
		if err != nil {
			return 0, 0, kemi.Errorf(kemi.ErrInvalid, "since: %w", err)
		}
		start = end - kemi.Nanos(d)
	}
	if s := v.Get("start"); s != "" {
		if start, err = parseTime(s); err != nil {
			return 0, 0, kemi.Errorf(kemi.ErrInvalid, "start: %w", err)
		}
	}
	if end < start {
		return 0, 0, kemi.Errorf(kemi.ErrInvalid, "end timestamp must not be before or equal to start time")
	}
	return start, end, nil
}

func limitOf(v url.Values) (int, error) {
	s := v.Get("limit")
	if s == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil || n <= 0:
		return 0, kemi.Errorf(kemi.ErrInvalid, "limit: %q: must be a positive number", s)
	case n > maxLines:
		return 0, kemi.Errorf(kemi.ErrInvalid, "max entries limit per query exceeded, limit > max_entries_limit (%d > %d)", n, maxLines)
	}
	return n, nil
}

func (a *API) query(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	x, err := logql.Parse(r.Form.Get("query"))
	if err != nil {
		return nil, err
	}
	at := kemi.NanosOf(a.o.Now())
	if s := r.Form.Get("time"); s != "" {
		if at, err = parseTime(s); err != nil {
			return nil, err
		}
	}
	if _, log := x.(*logql.LogQuery); log {
		return nil, kemi.Errorf(kemi.ErrInvalid, "log queries are not supported as an instant query type, please change your query to a range query type")
	}
	var st logql.Stats
	began := time.Now()
	in, err := a.engine.Instant(ctx, id, x, at, &st)
	if err != nil {
		return nil, err
	}
	ts := float64(at/1e6) / 1000
	if _, scalar := x.(*logql.Number); scalar {
		return answer("scalar", [2]any{ts, number(in[0].Values[0])}, &st, began), nil
	}
	type element struct {
		Metric labels `json:"metric"`
		Value  [2]any `json:"value"`
	}
	out := []element{}
	for _, s := range in {
		if s.Present[0] {
			out = append(out, element{labels(s.Labels), [2]any{ts, number(s.Values[0])}})
		}
	}
	return answer("vector", out, &st, began), nil
}

// labels are labels as an object.
type labels kemi.Labels

func (ls labels) MarshalJSON() ([]byte, error) {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		m[l.Name] = l.Value
	}
	return json.Marshal(m)
}

func number(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "+Inf"
	case math.IsInf(f, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// answer is an answer with statistics in Loki's form.
func answer(kind string, result any, st *logql.Stats, began time.Time) any {
	took := time.Since(began).Seconds()
	return map[string]any{"status": "success", "data": map[string]any{
		"resultType": kind, "result": result,
		"stats": map[string]any{"summary": map[string]any{
			"bytesProcessedPerSecond": int64(float64(st.Bytes) / max(took, 1e-9)), "linesProcessedPerSecond": int64(float64(st.Lines) / max(took, 1e-9)),
			"totalBytesProcessed": st.Bytes, "totalLinesProcessed": st.Lines, "execTime": took,
		}},
	}}
}

func (a *API) queryRange(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	x, err := logql.Parse(r.Form.Get("query"))
	if err != nil {
		return nil, err
	}
	start, end, err := a.span(r.Form)
	if err != nil {
		return nil, err
	}
	var st logql.Stats
	began := time.Now()
	if q, log := x.(*logql.LogQuery); log {
		limit, err := limitOf(r.Form)
		if err != nil {
			return nil, err
		}
		var ascending bool
		switch d := strings.ToLower(r.Form.Get("direction")); d {
		case "", "backward":
		case "forward":
			ascending = true
		default:
			return nil, kemi.Errorf(kemi.ErrInvalid, "direction: %q: must be forward or backward", d)
		}
		type stream struct {
			Stream labels      `json:"stream"`
			Values [][2]string `json:"values"`
		}
		out := []*stream{}
		index := map[string]*stream{}
		for l, err := range a.engine.Lines(ctx, id, q, store.NanoRange{From: start, To: end}, limit, ascending, &st) {
			if err != nil {
				return nil, err
			}
			k := l.Labels.String()
			s := index[k]
			if s == nil {
				s = &stream{Stream: labels(l.Labels)}
				index[k] = s
				out = append(out, s)
			}
			s.Values = append(s.Values, [2]string{strconv.FormatInt(int64(l.At), 10), strings.ToValidUTF8(l.Line, "\ufffd")})
		}
		return answer("streams", out, &st, began), nil
	}
	step := max(time.Second, (time.Duration(end-start) / 250).Truncate(time.Second))
	if s := r.Form.Get("step"); s != "" {
		if step, err = parseSeconds(s); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "step: %w", err)
		}
	}
	in, err := a.engine.Range(ctx, id, x, start, end, step, &st)
	if err != nil {
		return nil, err
	}
	return answer("matrix", matrix(in, start, step), &st, began), nil
}

type line struct {
	Metric labels   `json:"metric"`
	Values [][2]any `json:"values"`
}

func matrix(in []logql.Series, start kemi.Nanos, step time.Duration) []line {
	out := []line{}
	for _, s := range in {
		l := line{Metric: labels(s.Labels)}
		for i, v := range s.Values {
			if s.Present[i] {
				l.Values = append(l.Values, [2]any{float64((start+kemi.Nanos(i)*kemi.Nanos(step))/1e6) / 1000, number(v)})
			}
		}
		if len(l.Values) > 0 {
			out = append(out, l)
		}
	}
	return out
}

// selected is the condition of the parameters query and match[], and the range.
func (a *API) selected(v url.Values) (store.LogQuery, error) {
	start, end, err := a.span(v)
	if err != nil {
		return store.LogQuery{}, err
	}
	var or store.LogOr
	for _, s := range append(slices.Clone(v["match[]"]), append(slices.Clone(v["match"]), v["query"]...)...) {
		if strings.TrimSpace(s) == "" {
			continue
		}
		ms, err := logql.ParseSelector(s)
		if err != nil {
			return store.LogQuery{}, err
		}
		or = append(or, logql.SelectorExpr(ms))
	}
	q := store.LogQuery{Range: store.NanoRange{From: start, To: end}}
	if len(or) > 0 {
		q.Expr = or
	}
	return q, nil
}

func success(data any) any { return map[string]any{"status": "success", "data": data} }

func (a *API) labels(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, err := a.selected(r.Form)
	if err != nil {
		return nil, err
	}
	fields, err := a.o.Store.Fields(ctx, id, q, 0)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, f := range fields {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return success(names), nil
}

func (a *API) values(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, err := a.selected(r.Form)
	if err != nil {
		return nil, err
	}
	groups, err := a.o.Store.Count(ctx, id, q, []string{r.PathValue("name")})
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, g := range groups {
		if v := g.Labels.Get(r.PathValue("name")); v != "" {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return success(out), nil
}

// fewValues is how many different values a field may have to tell series apart.
const fewValues = 1000

// few are the names of the fields that have few values.
func (a *API) few(ctx context.Context, id kemi.Identity, q store.LogQuery) ([]string, error) {
	fields, err := a.o.Store.Fields(ctx, id, q, fewValues)
	var names []string
	for _, f := range fields {
		if f.More == 0 {
			names = append(names, f.Name)
		}
	}
	return names, err
}

func (a *API) series(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, err := a.selected(r.Form)
	if err != nil {
		return nil, err
	}
	names, err := a.few(ctx, id, q)
	if err != nil {
		return nil, err
	}
	groups, err := a.o.Store.Count(ctx, id, q, names)
	if err != nil {
		return nil, err
	}
	out := []labels{}
	for _, g := range groups {
		if len(g.Labels) > 0 {
			out = append(out, labels(g.Labels))
		}
	}
	return success(out), nil
}

func (a *API) indexStats(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, err := a.selected(r.Form)
	if err != nil {
		return nil, err
	}
	names, err := a.few(ctx, id, q)
	if err != nil {
		return nil, err
	}
	groups, err := a.o.Store.Count(ctx, id, q, names)
	if err != nil {
		return nil, err
	}
	var entries int64
	for _, g := range groups {
		entries += g.Count
	}
	return map[string]int64{"streams": int64(len(groups)), "chunks": 0, "entries": entries, "bytes": 0}, nil
}

// volume tells how many lines there are by label: the store counts lines, not bytes.
func (a *API) volume(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, by, err := a.volumeOf(r.Form)
	if err != nil {
		return nil, err
	}
	groups, err := a.o.Store.Count(ctx, id, q, by)
	if err != nil {
		return nil, err
	}
	type element struct {
		Metric labels `json:"metric"`
		Value  [2]any `json:"value"`
	}
	out := []element{}
	limit, err := limitOf(r.Form)
	if err != nil {
		return nil, err
	}
	for _, g := range groups[:min(limit, len(groups))] {
		out = append(out, element{labels(g.Labels), [2]any{float64(q.Range.To/1e6) / 1000, strconv.FormatInt(g.Count, 10)}})
	}
	return answer("vector", out, &logql.Stats{}, time.Now()), nil
}

func (a *API) volumeRange(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, by, err := a.volumeOf(r.Form)
	if err != nil {
		return nil, err
	}
	step := max(time.Second, (time.Duration(q.Range.To-q.Range.From) / 100).Truncate(time.Second))
	if s := r.Form.Get("step"); s != "" {
		if step, err = parseSeconds(s); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "step: %w", err)
		}
	}
	groups, err := a.o.Store.Series(ctx, id, q, by, kemi.Nanos(step))
	if err != nil {
		return nil, err
	}
	out := []line{}
	for _, g := range groups {
		l := line{Metric: labels(g.Labels)}
		for i, n := range g.Counts {
			if n > 0 {
				l.Values = append(l.Values, [2]any{float64((q.Range.From+kemi.Nanos(i)*kemi.Nanos(step))/1e6) / 1000, strconv.FormatInt(n, 10)})
			}
		}
		out = append(out, l)
	}
	return answer("matrix", out, &logql.Stats{}, time.Now()), nil
}

func (a *API) volumeOf(v url.Values) (store.LogQuery, []string, error) {
	q, err := a.selected(v)
	by := []string{"service"}
	if s := v.Get("targetLabels"); s != "" {
		by = strings.Split(s, ",")
	} else if ms, err := logql.ParseSelector(v.Get("query")); err == nil && len(ms) > 0 {
		by = by[:0]
		for _, m := range ms {
			if !slices.Contains(by, m.Name) {
				by = append(by, m.Name)
			}
		}
	}
	return q, by, err
}

func (a *API) detectedFields(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, err := a.selected(r.Form)
	if err != nil {
		return nil, err
	}
	fields, err := a.o.Store.Fields(ctx, id, q, fewValues)
	if err != nil {
		return nil, err
	}
	type field struct {
		Label       string `json:"label"`
		Type        string `json:"type"`
		Cardinality int    `json:"cardinality"`
	}
	out := []field{}
	for _, f := range fields {
		out = append(out, field{f.Name, "string", len(f.Values)})
	}
	return map[string]any{"fields": out, "limit": fewValues}, nil
}

func (a *API) detectedLabels(ctx context.Context, r *http.Request, id kemi.Identity) (any, error) {
	q, err := a.selected(r.Form)
	if err != nil {
		return nil, err
	}
	fields, err := a.o.Store.Fields(ctx, id, q, fewValues)
	if err != nil {
		return nil, err
	}
	type field struct {
		Label       string `json:"label"`
		Cardinality int    `json:"cardinality"`
	}
	out := []field{}
	for _, f := range fields {
		if f.More == 0 {
			out = append(out, field{f.Name, len(f.Values)})
		}
	}
	return map[string]any{"detectedLabels": out}, nil
}

func (a *API) format(_ context.Context, r *http.Request, _ kemi.Identity) (any, error) {
	if _, err := logql.Parse(r.Form.Get("query")); err != nil {
		return nil, err
	}
	return success(strings.Join(strings.Fields(r.Form.Get("query")), " ")), nil
}
