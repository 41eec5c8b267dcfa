package promql

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	"kemi/pipeline/storetest"
)

// TestCorpusInColumns runs Prometheus' acceptance tests of PromQL through execute, so that what columns know is evaluated in them. How series come to be in columns is
// the stores' affair: pipeline/head runs the same corpus on its Queryable.
func TestCorpusInColumns(t *testing.T) {
	files := &corpusFiles{T: t}
	e := &corpusEngine{t: t, ways: map[string]float64{}}
	promqltest.RunBuiltinTests(files, e)
	t.Logf("%d files, evaluated: %v", files.n, e.ways)
	if files.n < 22 || e.ways["columns"] < 100 || e.ways["both"] < 20 {
		t.Errorf("%d files, %v: the corpus of Prometheus 3.16 has 22 files, with hundreds of questions for columns", files.n, e.ways)
	}
}

type corpusFiles struct {
	*testing.T
	n int
}

func (c *corpusFiles) Run(name string, f func(*testing.T)) bool {
	c.n++
	switch filepath.Base(name) {
	case "start_timestamps.test", "name_label_dropping.test":
		return true // of features that Prometheus has off by default, and so have we
	case "native_histograms.test", "extended_vectors.test", "fill-modifier.test", "info.test":
		if os.Getenv("KEMI_TEST_LONG") != "1" {
			return true // all of it is the engine's, which pipeline/head runs it on
		}
	}
	return c.T.Run(name, f)
}

// corpusEngine is an API as the corpus wants an engine: over whatever storage comes with a query.
type corpusEngine struct {
	t    *testing.T
	ways map[string]float64
	of   storage.Queryable
	api  *API // over of

	before map[string]float64 // of api
}

func (e *corpusEngine) query(s storage.Queryable, opts promql.QueryOpts, q request) (promql.Query, error) {
	if e.of == s {
		return e.ask(e.api, opts, q)
	}
	a, err := New(DefaultConfig(), Options{Source: storetest.InColumns{Of: s}, Registerer: prometheus.NewRegistry()})
	if err != nil {
		return nil, err
	}
	e.of, e.api, e.before = s, a, map[string]float64{}
	a.parser = parser.NewParser(promqltest.TestParserOpts)
	a.prepared = &prepared{Parser: a.parser}
	a.engine = promqltest.NewTestEngineWithOpts(e.t, promql.EngineOpts{
		MaxSamples: promqltest.DefaultMaxSamplesPerQuery, Timeout: 100 * time.Second, NoStepSubqueryIntervalFn: func(int64) int64 { return 60_000 },
		EnableAtModifier: true, EnableNegativeOffset: true, EnableDelayedNameRemoval: true, Parser: a.prepared,
	})
	return e.ask(a, opts, q)
}

func (e *corpusEngine) ask(a *API, opts promql.QueryOpts, q request) (promql.Query, error) {
	if opts != nil {
		q.lookback = opts.LookbackDelta()
	}
	q.id = reader
	if _, err := a.parser.ParseExpr(q.expr); err != nil {
		return nil, err
	}
	return &corpusQuery{e: e, a: a, q: q}, nil
}

func (e *corpusEngine) NewInstantQuery(_ context.Context, s storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	return e.query(s, opts, request{expr: qs, start: ts, end: ts})
}

func (e *corpusEngine) NewRangeQuery(_ context.Context, s storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, step time.Duration) (promql.Query, error) {
	return e.query(s, opts, request{expr: qs, start: start, end: end, step: step})
}

type corpusQuery struct {
	e   *corpusEngine
	a   *API
	q   request
	out outcome
}

func (q *corpusQuery) Exec(ctx context.Context) *promql.Result {
	var err error
	q.out, err = q.a.execute(ctx, q.q)
	for _, way := range []string{"columns", "both", "left", "engine"} {
		c := q.a.ways.WithLabelValues(way)
		q.e.ways[way] += testutil.ToFloat64(c) - q.e.before[way]
		q.e.before[way] = testutil.ToFloat64(c)
	}
	var build buildError
	if errors.As(err, &build) {
		err = build.error
	}
	return &promql.Result{Err: err, Value: q.out.value, Warnings: q.out.warnings}
}

func (q *corpusQuery) Close() {
	if q.out.close != nil {
		q.out.close()
	}
}
func (q *corpusQuery) Statement() parser.Statement { return nil }
func (q *corpusQuery) Stats() *stats.Statistics    { return nil }
func (q *corpusQuery) Cancel()                     {}
func (q *corpusQuery) String() string              { return q.q.expr }
