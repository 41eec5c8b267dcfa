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
	"kemi/sauron/limit"
	"kemi/sauron/tsdnote"
)

// Options are what an Engine works with. Store is needed; what else is nil or zero has a default.
type Options struct {
	Store      store.SeriesStore
	Config     Config                 // zero = DefaultConfig
	Now        func() time.Time       // for relative times and durations; nil = time.Now
	Log        *slog.Logger           // nil = none
	Registerer prometheus.Registerer  // nil = no metrics
	Gate       *limit.Gate            // who may query when, shared with others that query; nil = one of its own
	Freshness  func() store.Freshness // how near the store is to the log of record; nil = always complete
	Views      []string               // which views Store reads, for Stats; nil = "speed"
	IDs        IDs                    // nil = series are named by a hash of their labels, which nobody can ask for
	Notes      Notes                  // nil = no annotations
	Deleter    store.Deleter          // nil = nothing can be deleted
}

// Engine answers queries. Its methods may be called concurrently.
type Engine struct {
	o       Options
	seconds *prometheus.HistogramVec
	read    *prometheus.CounterVec
	journal journal
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
	if o.Gate == nil {
		var err error
		if o.Gate, err = limit.New(limit.DefaultConfig(), nil); err != nil {
			return nil, err
		}
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
		o:       o,
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

// Config is what a query may cost.
func (e *Engine) Config() Config { return e.o.Config }

// Result is one series of an answer.
type Result struct {
	Query         int    // which of the request's queries it answers
	Metric        string // "-" if several metrics fold into it
	Tags          kemi.Labels
	AggregateTags []string       // tag keys with several values
	TSUIDs        []string       // if the request shows them: of the series that went in, sorted
	Noted         bool           // a series that went in has annotations near
	Notes         []tsdnote.Note // those of them that begin in the range
	At            []kemi.Millis
	Values        []float64 // NaN = nothing there
	Null          bool      // NaN is written as null
	Stats         *Stats    // of the query it answers
}

// Stats say what an answer cost and what it rests on.
type Stats struct {
	Series   int         `json:"series"`  // read
	Samples  int64       `json:"samples"` // read
	Covered  int64       `json:"covered"` // samples that the answer rests on: those that were read, and those that rollups stand for
	Points   int         `json:"points"`  // answered
	Millis   float64     `json:"milliseconds"`
	Views    []string    `json:"views"`
	ViewsAs  viewTimes   `json:"viewsAsOf,omitempty"` // up to when each view has what was recorded, if it says so
	AsOf     kemi.Millis `json:"asOf,omitempty"`      // when the newest record that was looked at had come in
	Complete bool        `json:"complete"`
	Reason   string      `json:"reason,omitempty"` // why it is not complete
}

// viewTimes are times by the names of views.
type viewTimes map[string]kemi.Millis

// Query answers r for id, which reads its own project. Results are ordered by query and then by the values that were grouped by.
func (e *Engine) Query(ctx context.Context, id kemi.Identity, r Request) ([]Result, Stats, error) {
	return e.query(ctx, id, r, &arena{})
}

// query is Query whose results lie in the arena.
func (e *Engine) query(ctx context.Context, id kemi.Identity, r Request, a *arena) (results []Result, total Stats, err error) {
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
	plans, err := e.plan(ctx, id, &r)
	if err != nil {
		return nil, total, err
	}
	ctx, b, err := e.admit(ctx, id)
	if err != nil {
		return nil, total, err
	}
	defer b.done()
	_, all := store.WithTrace(ctx)
	defer func() { total.viewed(all) }()
	for _, p := range plans {
		at := e.o.Now()
		b.series, b.samples, b.spared, b.points = 0, 0, 0, 0
		traced, trace := store.WithTrace(ctx)
		answered, err := e.run(traced, id, p, b, a, &r)
		total.Series += b.series
		total.Samples += b.samples
		total.Covered += b.samples + b.spared
		total.Points += b.points
		if err != nil {
			return nil, total, e.explain(ctx, p, b, err)
		}
		s := new(Stats)
		*s = e.stats()
		if !total.Complete { // it may have become complete while the query ran on what it was
			s.Complete, s.Reason = false, total.Reason
		}
		s.viewed(trace)
		for v, at := range s.ViewsAs {
			all.Note(v, at)
		}
		s.Series, s.Samples, s.Covered, s.Points, s.Millis = b.series, b.samples, b.samples+b.spared, b.points, float64(e.o.Now().Sub(at).Microseconds())/1000
		for i := range answered {
			answered[i].Stats = s
		}
		if len(plans) == 1 {
			results = answered
		} else {
			results = append(results, answered...)
		}
		b.held = int64(16 * b.total) // what was kept for the query is gone, its answer stays
	}
	return results, total, nil
}

// viewed says which views have answered.
func (s *Stats) viewed(t *store.Trace) {
	views := t.Views()
	if len(views) == 0 {
		return
	}
	s.Views, s.ViewsAs = make([]string, len(views)), make(map[string]kemi.Millis, len(views))
	for i, v := range views {
		s.Views[i], s.ViewsAs[v.Name] = v.Name, v.AsOf
	}
}

func (e *Engine) stats() Stats {
	s := Stats{Views: e.o.Views, Complete: true}
	if e.o.Freshness != nil {
		f := e.o.Freshness()
		s.AsOf, s.Complete, s.Reason = f.AsOf, f.Complete, f.Reason
	}
	return s
}

func (e *Engine) plan(ctx context.Context, id kemi.Identity, r *Request) ([]*plan, error) {
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
			return nil, err
		}
		if len(plans[i].TSUIDs) > 0 {
			if err = e.resolve(ctx, id, plans[i]); err != nil {
				return nil, err
			}
		}
	}
	return plans, nil
}

var errTimeout = errors.New("query timeout")

// admit waits for a place and gives the context that ends with the time limit.
func (e *Engine) admit(ctx context.Context, id kemi.Identity) (context.Context, *budget, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.o.Config.Timeout, errTimeout)
	t, err := e.o.Gate.Enter(ctx, id)
	if err != nil {
		cancel()
		if errors.Is(err, errTimeout) {
			err = kemi.Errorf(kemi.ErrUnavailable, "no place became free within query.timeout = %s: %s has %d queries under way at most (limits.perIdentity): ask fewer at once, or try again",
				e.o.Config.Timeout, id.Subject, e.o.Gate.Config().PerIdentity)
		}
		return nil, nil, err
	}
	return ctx, &budget{limits: e.o.Config, ctx: ctx, ticket: t, cancel: cancel}, nil
}

// explain tells an end by the time limit as what it is.
func (e *Engine) explain(ctx context.Context, p *plan, b *budget, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return kemi.Errorf(kemi.ErrLimited, "query %d timed out: query.timeout = %s is used up, %d series and %d samples were read so far: filter by more tags or shorten the range", p.index, e.o.Config.Timeout, b.series, b.samples)
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
func (e *Engine) run(ctx context.Context, id kemi.Identity, p *plan, b *budget, a *arena, req *Request) ([]Result, error) {
	if p.nothing {
		return nil, nil
	}
	x := &execution{p: p, b: b, arena: a, showIDs: req.ShowTSUIDs, byKey: map[string]*group{}, seen: map[string]bool{}}
	x.r = reader{p: p, budget: b, own: !p.folds(), arena: a}
	var err error
	if x.noted, err = e.notesOf(ctx, id, p, req); err != nil {
		return nil, err
	}
	if x.r.fillAt, err = p.fillTimes(e.o.Config.MaxPoints); err != nil {
		return nil, err
	}
	if err := e.scan(ctx, id, x); err != nil {
		return nil, err
	}
	if err := x.finish(); err != nil {
		return nil, err
	}
	if !p.any && p.only == nil {
		if err := e.checkNames(ctx, id, p, x); err != nil {
			return nil, err
		}
	}
	sort.SliceStable(x.groups, func(i, j int) bool { return slices.Compare(x.groups[i].values, x.groups[j].values) < 0 })
	results := make([]Result, 0, len(x.groups))
	for _, g := range x.groups {
		r := Result{Query: p.index, Metric: g.metric, Null: p.down.fill == fillNull, Noted: g.noted, Notes: g.notes}
		if r.At, r.Values, err = g.answer(ctx, p, b); err != nil {
			return nil, err
		}
		x.setTags(g, &r)
		if req.ShowTSUIDs {
			if r.TSUIDs, err = e.tsuids(ctx, id, g.members); err != nil {
				return nil, err
			}
		}
		results = append(results, r)
		g.cols, g.cells = nil, nil
	}
	return results, nil
}

// scan reads the selection: down-sampled by the store if it can do that as the query wants it.
func (e *Engine) scan(ctx context.Context, id kemi.Identity, x *execution) error {
	p := x.p
	if err := x.b.work(0); err != nil {
		return err
	}
	if d, ok := e.o.Store.(store.Downsampler); ok {
		if fn, ok := p.reduction(); ok {
			for down, err := range d.SelectDown(ctx, id, p.selector, p.scan, p.core(), kemi.Millis(p.down.interval), fn) {
				if err == nil {
					err = x.takeDown(down)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	for pts, err := range e.o.Store.Select(ctx, id, p.selector, p.scan) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = x.take(pts)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// execution is the state of one query while its selection is read.
type execution struct {
	p       *plan
	b       *budget
	arena   *arena
	r       reader
	showIDs bool
	noted   map[string][]tsdnote.Note // by series
	labels  kemi.Labels               // of the series that is being read
	current *group                    // its group; nil if the series is not wanted
	names   []string                  // of the aggregate tags of a result, and of the result before
	shared  []string
	room    rooms  // where groups and their tags lie
	before  *group // the group of the series before
	started bool
	groups  []*group
	byKey   map[string]*group
	key     []byte
	seen    map[string]bool // literals that some series had
	matched bool
}

// take takes the next stretch, of the same series or of the next.
func (x *execution) take(pts kemi.Points) error {
	if err := x.b.work(int64(len(pts.At))); err != nil {
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
	if ok, err := x.begin(pts); !ok {
		return err
	}
	return x.r.feed(pts)
}

// takeDown takes a whole series that the store has down-sampled.
func (x *execution) takeDown(d store.Down) error {
	if err := x.b.work(d.Read); err != nil {
		return err
	}
	x.b.spared += max(0, d.Samples-d.Read)
	x.labels = d.Labels
	if ok, err := x.begin(d.Points); !ok {
		return err
	}
	if err := x.r.reduced(d.Points); err != nil {
		return err
	}
	return x.finish()
}

// begin finds the group of the series whose labels are set; false if it is not wanted.
func (x *execution) begin(pts kemi.Points) (bool, error) {
	if len(pts.At) == 0 || int64(pts.At[0]) > x.p.last || !x.p.match(x.labels) {
		return false, nil
	}
	x.matched = true
	x.b.series++
	if err := x.b.read(); err != nil {
		return false, err
	}
	for i := range x.p.filters {
		if f := &x.p.filters[i]; len(f.literals) > 0 {
			if v := x.labels.Get(f.name); !x.seen[v] {
				x.seen[strings.Clone(v)] = true
			}
		}
	}
	x.current = x.group()
	x.current.join(x.labels, x.before, &x.room, x.showIDs)
	x.before = x.current
	if x.noted != nil {
		x.annotate()
	}
	x.r.begin()
	return true, nil
}

// group is the group of the series, a new one if need be.
func (x *execution) group() *group {
	if x.p.agg.fn == fnNone {
		g := x.room.group()
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
		g = x.room.group()
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
	return g.take(x.p, col, x.b, x.arena, x.r.own)
}

func (x *execution) setTags(g *group, r *Result) {
	shown := func(t *groupTag) bool { return !t.many && (!x.p.any || x.p.keeps(t.name)) }
	n := 0
	for i := range g.tags {
		if shown(&g.tags[i]) {
			n++
		}
	}
	r.Tags = make(kemi.Labels, 0, n+1)
	names := x.names[:0]
	for i := range g.tags {
		switch t := &g.tags[i]; {
		case x.p.any && t.name == nameKey: // the name of the metric takes its place
		case shown(t):
			r.Tags = append(r.Tags, kemi.Label{Name: t.name, Value: t.value})
		default:
			names = append(names, t.name)
		}
	}
	switch {
	case !x.p.any:
	case g.metric == anyMetric:
		names = append(names, nameKey)
		sort.Strings(names)
	case x.p.groupName:
		i, _ := slices.BinarySearchFunc(r.Tags, nameKey, func(l kemi.Label, name string) int { return strings.Compare(l.Name, name) })
		r.Tags = slices.Insert(r.Tags, i, kemi.Label{Name: nameKey, Value: g.metric})
	}
	if x.names = names; x.shared == nil || !slices.Equal(names, x.shared) { // most results have the same
		x.shared = append(make([]string, 0, len(names)), names...)
	}
	r.AggregateTags = x.shared
}
