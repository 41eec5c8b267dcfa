package promql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/pipeline/store"
)

// Source is where series come from. What it gives for an identity holds that identity's project and nothing else.
type Source interface {
	Queryable(id kemi.Identity) storage.Queryable
}

// ChunkSource gives series in chunks, for remote read.
type ChunkSource interface {
	ChunkQueryable(id kemi.Identity) storage.ChunkQueryable
}

// ExemplarSource gives exemplars.
type ExemplarSource interface {
	ExemplarQueryable(id kemi.Identity) storage.ExemplarQueryable
}

// MetadataSource tells what senders said of a metric, or with "" of all.
type MetadataSource interface {
	Metadata(id kemi.Identity, metric string) map[string]metadata.Metadata
}

// StatusSource tells what takes the room of a project, as Prometheus' /status/tsdb does; the answer goes out as JSON.
type StatusSource interface {
	Status(ctx context.Context, id kemi.Identity, limit int) (any, error)
}

// Options are what an API works with.
type Options struct {
	Source     Source         // needed
	Chunks     ChunkSource    // nil: remote read answers samples only
	Exemplars  ExemplarSource // nil: there are none
	Metadata   MetadataSource // nil: there is none
	Status     StatusSource   // nil: /status/tsdb says that there is none
	Freshness  func() store.Freshness
	View       string // the name of the view that Source is, for the stats; by default "tsdb"
	Version    string // of this program, for /status/buildinfo
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// API answers Prometheus' HTTP API.
type API struct {
	cfg    Config
	o      Options
	engine *promql.Engine
	parser parser.Parser
	gate   *gate
}

// New makes an API.
func New(cfg Config, o Options) (*API, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Source == nil {
		return nil, errors.New("promql: no source")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.View == "" {
		o.View = "tsdb"
	}
	a := &API{cfg: cfg, o: o, parser: parser.NewParser(parser.Options{}), gate: newGate(cfg.Concurrency, cfg.Queue)}
	step := cfg.SubqueryStep.Milliseconds()
	a.engine = promql.NewEngine(promql.EngineOpts{
		Logger: o.Log, Reg: o.Registerer, MaxSamples: cfg.MaxSamples, Timeout: cfg.Timeout, ActiveQueryTracker: a.gate,
		LookbackDelta: cfg.Lookback, NoStepSubqueryIntervalFn: func(int64) int64 { return step },
		EnableAtModifier: true, EnableNegativeOffset: true, EnablePerStepStats: true, Parser: a.parser,
	})
	return a, nil
}

// Instant evaluates an expression at one time, for rules: a scalar is a vector of one sample without labels.
func (a *API) Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (promql.Vector, error) {
	q, err := a.engine.NewInstantQuery(ctx, a.o.Source.Queryable(id), nil, expr, at)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "query %q: %w", expr, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query %q: %w", expr, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		return append(promql.Vector(nil), v...), nil
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V}}, nil
	}
	return nil, kemi.Errorf(kemi.ErrInvalid, "query %q: gives a %s: must give a vector or a scalar", expr, res.Value.Type())
}

// Routes are the paths that the API answers.
func (a *API) Routes() []kemi.Route {
	var routes []kemi.Route
	fromStore := true
	add := func(path string, h func(*http.Request, kemi.Identity) answer, methods ...string) {
		fromStore := fromStore
		for _, m := range methods {
			routes = append(routes, kemi.Route{
				Pattern: m + " " + path, Needs: kemi.MetricsRead, Dialect: kemi.DialectPrometheus,
				Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
					began := a.o.Now()
					ans := h(r, id)
					if fromStore {
						a.tell(&ans, a.o.Now().Sub(began))
					}
					a.respond(w, r, ans)
				},
			})
		}
	}
	add("/api/v1/query", a.query, "GET", "POST")
	add("/api/v1/query_range", a.queryRange, "GET", "POST")
	add("/api/v1/query_exemplars", a.queryExemplars, "GET", "POST")
	add("/api/v1/series", a.series, "GET", "POST")
	add("/api/v1/labels", a.labelNames, "GET", "POST")
	add("/api/v1/label/{name}/values", a.labelValues, "GET")
	fromStore = false
	add("/api/v1/metadata", a.metadata, "GET")
	add("/api/v1/format_query", a.formatQuery, "GET", "POST")
	add("/api/v1/status/buildinfo", a.buildInfo, "GET")
	add("/api/v1/status/tsdb", a.status, "GET")
	return append(routes, kemi.Route{
		Pattern: "POST /api/v1/read", Needs: kemi.MetricsRead, Dialect: kemi.DialectText, Stream: true, Handle: a.read,
	})
}

// gate lets so many queries run at once and so many wait, and refuses the rest. It is the engine's promql.QueryTracker.
type gate struct {
	running chan struct{}
	queued  chan struct{}
}

func newGate(running, waiting int) *gate {
	return &gate{make(chan struct{}, running), make(chan struct{}, running+waiting)}
}

// GetMaxConcurrent is how many may run.
func (g *gate) GetMaxConcurrent() int { return cap(g.running) }

// Insert waits for a place.
func (g *gate) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case g.queued <- struct{}{}:
	default:
		return 0, kemi.Errorf(kemi.ErrLimited, "%d queries are running and %d are waiting (promql.concurrency, promql.queue): try again",
			cap(g.running), cap(g.queued)-cap(g.running))
	}
	select {
	case g.running <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		<-g.queued
		if errors.Is(ctx.Err(), context.Canceled) {
			return 0, promql.ErrQueryCanceled("query queue")
		}
		return 0, promql.ErrQueryTimeout("query queue")
	}
}

// Delete frees the place.
func (g *gate) Delete(int) {
	<-g.running
	<-g.queued
}

// Close has nothing to close.
func (*gate) Close() error { return nil }

var (
	_ promql.QueryTracker = (*gate)(nil)
	_ io.Closer           = (*gate)(nil)
)
