package query

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/store"
)

// Options are what an Engine works with. Store is needed; what else is nil or zero has a default.
type Options struct {
	Store      store.SeriesStore
	Config     Config                 // zero = DefaultConfig
	Now        func() time.Time       // for relative times and durations; nil = time.Now
	Log        *slog.Logger           // nil = none
	Registerer prometheus.Registerer  // nil = no metrics
	Freshness  func() store.Freshness // how near the store is to the log of record; nil = always complete
	Views      []string               // which views Store reads, for Stats; nil = "speed"
	Version    string                 // of this program
}

// Engine answers queries. Its methods may be called concurrently.
type Engine struct {
	o       Options
	slots   chan struct{}
	seconds *prometheus.HistogramVec
	read    *prometheus.CounterVec
}

// New makes an Engine.
func New(o Options) (*Engine, error) {
	if o.Store == nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "query: Options.Store is nil: a series store is needed")
	}
	if o.Config == (Config{}) {
		o.Config = DefaultConfig()
	}
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Views == nil {
		o.Views = []string{"speed"}
	}
	e := &Engine{
		o: o, slots: make(chan struct{}, o.Config.MaxConcurrent),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kemi_sauron_query_seconds", Help: "Time to answer a metric query, by outcome.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"outcome"}),
		read:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_sauron_query_read_total", Help: "What metric queries read and answered: series, samples, points."}, []string{"what"}),
	}
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{e.seconds, e.read} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("query: register metrics: %w", err)
			}
		}
	}
	return e, nil
}

// Result is one series of an answer.
type Result struct {
	Query         int    // which of the request's queries it answers
	Metric        string // "-" if several metrics fold into it
	Tags          kemi.Labels
	AggregateTags []string // tag keys with several values
	TSUIDs        []string // if the request shows them: names of the series that went in
	At            []kemi.Millis
	Values        []float64 // NaN = nothing there
	Null          bool      // NaN is written as null
	Stats         Stats     // of the query it answers
}

// Stats say what an answer cost and what it rests on.
type Stats struct {
	Series   int         `json:"series"`  // read
	Samples  int64       `json:"samples"` // read
	Points   int         `json:"points"`  // answered
	Millis   float64     `json:"milliseconds"`
	Views    []string    `json:"views"`
	AsOf     kemi.Millis `json:"asOf,omitempty"` // when the newest record that was looked at had come in
	Complete bool        `json:"complete"`
	Reason   string      `json:"reason,omitempty"` // why it is not complete
}

// Query answers r for id, which reads its own project. Results are ordered by query and then by the values that were grouped by.
func (e *Engine) Query(ctx context.Context, id kemi.Identity, r Request) (results []Result, total Stats, err error) {
	begin := e.o.Now()
	total = e.stats()
	defer func() {
		took := e.o.Now().Sub(begin)
		total.Millis = float64(took.Microseconds()) / 1000
		e.seconds.WithLabelValues(outcome(err)).Observe(took.Seconds())
		e.read.WithLabelValues("series").Add(float64(total.Series))
		e.read.WithLabelValues("samples").Add(float64(total.Samples))
		e.read.WithLabelValues("points").Add(float64(total.Points))
	}()
	plans, err := e.plan(id, &r)
	if err != nil {
		return nil, total, err
	}
	ctx, done, err := e.admit(ctx)
	if err != nil {
		return nil, total, err
	}
	defer done()
	b := &budget{limits: e.o.Config}
	for _, p := range plans {
		at := e.o.Now()
		b.series, b.samples, b.points = 0, 0, 0
		answered, err := e.run(ctx, id, p, b, r.ShowTSUIDs)
		total.Series += b.series
		total.Samples += b.samples
		total.Points += b.points
		if err != nil {
			return nil, total, e.explain(ctx, p, b, err)
		}
		s := e.stats()
		s.Series, s.Samples, s.Points, s.Millis = b.series, b.samples, b.points, float64(e.o.Now().Sub(at).Microseconds())/1000
		for i := range answered {
			answered[i].Stats = s
		}
		results = append(results, answered...)
		b.held = int64(16 * b.total) // what was kept for the query is gone, its answer stays
	}
	return results, total, nil
}

func (e *Engine) stats() Stats {
	s := Stats{Views: e.o.Views, Complete: true}
	if e.o.Freshness != nil {
		f := e.o.Freshness()
		s.AsOf, s.Complete, s.Reason = f.AsOf, f.Complete, f.Reason
	}
	return s
}

func (e *Engine) plan(id kemi.Identity, r *Request) ([]*plan, error) {
	if !id.Can(kemi.MetricsRead) {
		return nil, kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", id.Subject, kemi.MetricsRead&^id.Permissions)
	}
	if len(r.Queries) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "Missing queries")
	}
	if n := len(r.Queries); n > e.o.Config.MaxQueries {
		return nil, kemi.Errorf(kemi.ErrTooLarge, "%d queries in a request are more than maxQueries = %d: send several requests", n, e.o.Config.MaxQueries)
	}
	plans := make([]*plan, len(r.Queries))
	for i := range r.Queries {
		var err error
		if plans[i], err = newPlan(r, i); err != nil {
			if len(r.Queries) > 1 {
				err = wrapQuery(i, err)
			}
			return nil, err
		}
	}
	return plans, nil
}

var errTimeout = errors.New("query timeout")

// admit waits for a place and gives the context that ends with the time limit.
func (e *Engine) admit(ctx context.Context) (context.Context, func(), error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.o.Config.Timeout, errTimeout)
	select {
	case e.slots <- struct{}{}:
		return ctx, func() { <-e.slots; cancel() }, nil
	case <-ctx.Done():
		err := context.Cause(ctx)
		cancel()
		if errors.Is(err, errTimeout) {
			err = kemi.Errorf(kemi.ErrUnavailable, "%d queries are being answered already (maxConcurrent), and none ended within %s: try again", e.o.Config.MaxConcurrent, e.o.Config.Timeout)
		}
		return nil, nil, err
	}
}

// explain tells an end by the time limit as what it is.
func (e *Engine) explain(ctx context.Context, p *plan, b *budget, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return kemi.Errorf(kemi.ErrLimited, "query %d timed out: timeout = %s, %d series and %d samples read so far: filter by more tags or shorten the range", p.index, e.o.Config.Timeout, b.series, b.samples)
	}
	return err
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, kemi.ErrInvalid), errors.Is(err, kemi.ErrDenied):
		return "refused"
	case errors.Is(err, kemi.ErrTooLarge), errors.Is(err, kemi.ErrLimited):
		return "limited"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "error"
}

// run answers one query in one pass over its selection.
func (e *Engine) run(ctx context.Context, id kemi.Identity, p *plan, b *budget, showIDs bool) ([]Result, error) {
	x := &execution{p: p, b: b, showIDs: showIDs, byKey: map[string]*group{}, seen: map[string]bool{}}
	x.r = reader{p: p, budget: b, own: !p.folds()}
	var err error
	if x.r.fillAt, err = p.fillTimes(e.o.Config.MaxPoints); err != nil {
		return nil, err
	}
	for pts, err := range e.o.Store.Select(ctx, id, p.selector, p.scan) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = x.take(pts)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := x.finish(); err != nil {
		return nil, err
	}
	if !p.any {
		if err := e.checkNames(ctx, id, p, x); err != nil {
			return nil, err
		}
	}
	sort.SliceStable(x.groups, func(i, j int) bool { return slices.Compare(x.groups[i].values, x.groups[j].values) < 0 })
	results := make([]Result, 0, len(x.groups))
	for _, g := range x.groups {
		r := Result{Query: p.index, Metric: g.metric, AggregateTags: []string{}, Tags: kemi.Labels{}, TSUIDs: g.ids, Null: p.down.fill == fillNull}
		if r.At, r.Values, err = g.answer(ctx, p, b); err != nil {
			return nil, err
		}
		x.setTags(g, &r)
		results = append(results, r)
		g.cols, g.cells = nil, nil
	}
	return results, nil
}

// execution is the state of one query while its selection is read.
type execution struct {
	p       *plan
	b       *budget
	r       reader
	showIDs bool
	labels  kemi.Labels // of the series that is being read
	current *group      // its group; nil if the series is not wanted
	started bool
	groups  []*group
	byKey   map[string]*group
	key     []byte
	seen    map[string]bool // literals that some series had
	matched bool
}

// take takes the next stretch, of the same series or of the next.
func (x *execution) take(pts kemi.Points) error {
	x.b.samples += int64(len(pts.At))
	if err := x.b.read(); err != nil {
		return err
	}
	if x.started && (x.labels.Compare(pts.Labels) == 0) {
		if x.current == nil {
			return nil
		}
		return x.r.feed(pts)
	}
	if err := x.finish(); err != nil {
		return err
	}
	x.started = true
	x.labels = append(x.labels[:0], pts.Labels...)
	if len(pts.At) == 0 || int64(pts.At[0]) > x.p.last || !x.p.match(x.labels) {
		return nil
	}
	x.matched = true
	x.b.series++
	if err := x.b.read(); err != nil {
		return err
	}
	for i := range x.p.filters {
		if f := &x.p.filters[i]; len(f.literals) > 0 {
			if v := x.labels.Get(f.name); !x.seen[v] {
				x.seen[strings.Clone(v)] = true
			}
		}
	}
	x.current = x.group()
	x.current.join(x.labels, x.showIDs)
	x.r.begin()
	return x.r.feed(pts)
}

// group is the group of the series, a new one if need be.
func (x *execution) group() *group {
	if x.p.agg.fn == fnNone {
		g := &group{}
		x.groups = append(x.groups, g)
		return g
	}
	x.key = x.key[:0]
	for i := range x.p.groupBy {
		x.key = append(x.key, x.labels.Get(x.p.groupBy[i].name)...)
		x.key = append(x.key, 0xff) // in no valid UTF-8
	}
	g := x.byKey[string(x.key)]
	if g == nil {
		g = &group{}
		for i := range x.p.groupBy {
			g.values = append(g.values, strings.Clone(x.labels.Get(x.p.groupBy[i].name)))
		}
		x.byKey[string(x.key)] = g
		x.groups = append(x.groups, g)
	}
	return g
}

// finish ends the series that is being read.
func (x *execution) finish() error {
	g := x.current
	if g == nil {
		return nil
	}
	x.current = nil
	col, ok, err := x.r.finish()
	if err != nil || !ok {
		return err
	}
	return g.take(x.p, col, x.b, x.r.own)
}

func (x *execution) setTags(g *group, r *Result) {
	for _, t := range g.tags {
		switch {
		case x.p.any && t.name == nameKey: // the name of the metric takes its place
		case t.many, x.p.any && !x.p.keeps(t.name):
			r.AggregateTags = append(r.AggregateTags, t.name)
		default:
			r.Tags = append(r.Tags, kemi.Label{Name: t.name, Value: t.value})
		}
	}
	if !x.p.any {
		return
	}
	switch {
	case g.metric == anyMetric:
		r.AggregateTags = append(r.AggregateTags, nameKey)
		sort.Strings(r.AggregateTags)
	case x.p.groupName:
		r.Tags = r.Tags.With(nameKey, g.metric)
	}
}
