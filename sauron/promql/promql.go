package promql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/columns"
	"kemi/sauron/limit"
)

// Source is where series come from. What it gives for an identity holds that identity's project and nothing else. One that is a columns.Source, too, has most
// queries answered several times faster.
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
	Gate       *limit.Gate    // who else queries shares it; nil: one of its own
	Process    Process
	Gatherer   prometheus.Gatherer // of the process's own metrics; nil: they are not told
	Deleter    store.Deleter       // nil: nothing can be deleted
	Cleaner    Cleaner             // nil: it is not needed
	Freshness  func() store.Freshness
	View       string // the name of the view that Source is, for the stats; by default "tsdb"
	Version    string // of this program, for /status/buildinfo
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// API answers Prometheus' HTTP API.
type API struct {
	cfg      Config
	o        Options
	engine   *promql.Engine
	parser   parser.Parser
	prepared *prepared
	columns  columns.Source // nil: the source gives none
	ways     *prometheus.CounterVec
	way      struct{ columns, engine, both, left prometheus.Counter } // of ways
	known    features.Collector
	cors     *regexp.Regexp
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
	if o.Gate == nil {
		var err error
		if o.Gate, err = limit.New(limit.DefaultConfig(), o.Registerer); err != nil {
			return nil, err
		}
	}
	a := &API{
		cfg: cfg, o: o, parser: parser.NewParser(parser.Options{}),
		ways: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kemi_promql_queries_total", Help: "Queries by where they were evaluated: in columns, on the engine, both, or left to the engine after a look at the series.",
		}, []string{"where"}),
	}
	a.way.columns, a.way.engine = a.ways.WithLabelValues("columns"), a.ways.WithLabelValues("engine")
	a.way.both, a.way.left = a.ways.WithLabelValues("both"), a.ways.WithLabelValues("left")
	a.known = features.NewRegistry()
	a.ownFeatures()
	a.cors, _ = originPattern(cfg.CORSOrigin)
	a.prepared = &prepared{Parser: a.parser}
	a.columns, _ = o.Source.(columns.Source)
	if o.Registerer != nil {
		if err := o.Registerer.Register(a.ways); err != nil {
			return nil, fmt.Errorf("promql: register metrics: %w", err)
		}
	}
	step := cfg.SubqueryStep.Milliseconds()
	a.engine = promql.NewEngine(promql.EngineOpts{
		Logger: o.Log, Reg: o.Registerer, MaxSamples: cfg.MaxSamples, Timeout: cfg.Timeout, EnableQueryCost: cfg.MaxSamplesRead > 0, // it is asked at every sample

		LookbackDelta: cfg.Lookback, NoStepSubqueryIntervalFn: func(int64) int64 { return step },
		EnableAtModifier: true, EnableNegativeOffset: true, EnablePerStepStats: true, Parser: a.prepared, FeatureRegistry: a.known,
	})
	a.engine.SetQueryLimits(0, cfg.MaxSamplesRead, 0)
	return a, nil
}

// Vector is what Instant answers.
type Vector = promql.Vector

// Instant evaluates an expression at one time, for rules: a scalar is a vector of one sample without labels.
func (a *API) Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (Vector, error) {
	out, err := a.execute(ctx, request{id: id, expr: expr, start: at, end: at, own: true})
	var build buildError
	if errors.As(err, &build) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "query %q: %w", expr, build.error)
	}
	if err != nil {
		return nil, fmt.Errorf("query %q: %w", expr, err)
	}
	defer out.close()
	switch v := out.value.(type) {
	case promql.Vector:
		return append(promql.Vector(nil), v...), nil
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V}}, nil
	}
	return nil, kemi.Errorf(kemi.ErrInvalid, "query %q: gives a %s: must give a vector or a scalar", expr, out.value.Type())
}

// Routes are the paths that the API answers.
func (a *API) Routes() []kemi.Route {
	var routes []kemi.Route
	add := func(path string, needs kemi.Permission, h func(*http.Request, kemi.Identity) answer, methods ...string) {
		for _, m := range methods {
			routes = append(routes, kemi.Route{
				Pattern: m + " /api/v1" + path, Needs: needs, Dialect: kemi.DialectPrometheus,
				Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
					a.allow(w, r)
					a.respond(w, r, h(r, id))
				},
			})
		}
	}
	fromStore := func(h func(*http.Request, kemi.Identity) answer) func(*http.Request, kemi.Identity) answer {
		return func(r *http.Request, id kemi.Identity) answer {
			began := a.o.Now()
			ans := h(r, id)
			a.tell(&ans, a.o.Now().Sub(began))
			return ans
		}
	}
	const read, both = kemi.MetricsRead, "GET POST"
	for _, e := range []struct {
		path    string
		needs   kemi.Permission
		h       func(*http.Request, kemi.Identity) answer
		methods string
	}{
		{"/query", read, fromStore(a.query), both},
		{"/query_range", read, fromStore(a.queryRange), both},
		{"/query_exemplars", read, fromStore(a.queryExemplars), both},
		{"/series", read, fromStore(a.series), both},
		{"/labels", read, fromStore(a.labelNames), both},
		{"/label/{name}/values", read, fromStore(a.labelValues), "GET"},
		{"/metadata", read, a.metadata, "GET"},
		{"/format_query", read, a.formatQuery, both},
		{"/parse_query", read, a.parseQuery, both},
		{"/alertmanagers", read, a.alertmanagers, "GET"},
		{"/features", read, a.features, "GET"},
		{"/notifications", read, a.notifications, "GET"},
		{"/status/buildinfo", read, a.buildInfo, "GET"},
		{"/status/runtimeinfo", read, a.runtimeInfo, "GET"},
		{"/status/tsdb", read, a.status, "GET"},
		{"/status/walreplay", read, a.walReplay, "GET"},
		// What follows is of the whole server, not of a project.
		{"/status/tsdb/blocks", kemi.Admin, a.blocks, "GET"},
		{"/status/config", kemi.Admin, a.config, "GET"},
		{"/status/flags", kemi.Admin, a.flags, "GET"},
		{"/status/self_metrics", kemi.Admin, a.selfMetrics, "GET"},
		{"/admin/tsdb/delete_series", kemi.Admin, a.deleteSeries, "POST PUT"},
		{"/admin/tsdb/clean_tombstones", kemi.Admin, a.cleanTombstones, "POST PUT"},
		{"/admin/tsdb/snapshot", kemi.Admin, a.snapshot, "POST PUT"},
	} {
		add(e.path, e.needs, e.h, strings.Fields(e.methods)...)
	}
	return append(routes,
		kemi.Route{Pattern: "GET /api/v1/notifications/live", Needs: read, Dialect: kemi.DialectPrometheus, Stream: true, Handle: a.liveNotifications},
		kemi.Route{Pattern: "OPTIONS /api/v1/{path...}", Public: true, Dialect: kemi.DialectPrometheus, Handle: a.preflight},
		kemi.Route{Pattern: "POST /api/v1/read", Needs: read, Dialect: kemi.DialectText, Stream: true, Handle: a.read},
	)
}
