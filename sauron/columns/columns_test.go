package columns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/pipeline/storetest"
)

var reader = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.MetricsRead}

const load = `load 30s
  load{host="a",dc="x"} 1 2 3 _ _ 6 7 stale _ _ _ _ _ _ _ _ _ _ _ _ 21 22 NaN 24 25
  load{host="b",dc="x"} 10+1x24
  load{host="c",dc="y"} Inf -Inf 1e308 1e308 1e308 -1 0 0 0 0 5 5 5 1 1
  requests_total{host="a",dc="x"} 0+10x9 3+5x14
  requests_total{host="b",dc="y"} 100+7x4 0 0 0 5 2 9+1x14
  one{host="a"} 1x24
  two{host="a"} 2x24
  three{host="a"} 3x24
  three{host="a",__type__="gauge"} 3x24
  native{host="a"} {{schema:0 sum:1 count:2 buckets:[1 1]}}x24
`

// inOrder selects series in the order of their labels, so that the engine's sums go as those in columns.
type inOrder struct{ storage.Queryable }

func (s inOrder) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Queryable.Querier(mint, maxt)
	return inOrderQuerier{q}, err
}

type inOrderQuerier struct{ storage.Querier }

func (q inOrderQuerier) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, h, ms...)
}

// TestSameAsEngine evaluates parts in columns and on the engine, at one time and over ranges.
func TestSameAsEngine(t *testing.T) {
	s := promqltest.LoadedStorage(t, load)
	engine := promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: parser.NewParser(parser.Options{}),
	})
	var exprs []string
	for f := range functions {
		exprs = append(exprs, f+"(load[2m])", f+"((requests_total[5m]))", "sum by (dc) ("+f+"(load[1m] offset 30s))", "max without (host) ("+f+"(requests_total[100s]))")
	}
	for _, op := range []string{"sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"} {
		exprs = append(exprs, op+"(load)", op+" by (dc) (load)", op+" without (dc) (load offset -1m)", op+" without () (three)", "("+op+`({__name__=~"one|two|load"}))`, op+" by (__name__) ({host=\"a\",__name__!=\"native\"})")
	}
	exprs = append(exprs, "load", `(({__name__=~"one|two|load"} offset -70s))`, `three`, "quantile(0.5, load)", "quantile by (dc) ((0.9), load)", "quantile(0, rate(requests_total[5m]))", "quantile(1, load)")
	slices.Sort(exprs)
	for _, expr := range exprs {
		for _, q := range []Steps{
			{Start: 300_000, End: 300_000, Interval: 1}, {Start: 0, End: 900_000, Interval: 30_000}, {Start: -100_000, End: 1_500_000, Interval: 77_777}, {Start: 5e6, End: 6e6, Interval: 60_000},
		} {
			q.Lookback = 300_000
			want := onEngine(t, engine, inOrder{s}, expr, q)
			parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
			if err != nil {
				t.Fatal(err)
			}
			if parts := Find(parsed); len(parts) != 1 {
				t.Fatalf("%s: %d parts", expr, len(parts))
			}
			got, err := Evaluate(t.Context(), storetest.InColumns{Of: s}, reader, parsed, q, Limits{MaxSamples: 1e6})
			if err != nil {
				t.Fatalf("%s: %v", expr, err)
			}
			warnings, infos := got.Notes.AsStrings(expr, 0, 0)
			if text := shown(got.Matrix, warnings, infos); text != want {
				t.Errorf("%s %+v\nin columns    %s\non the engine %s", expr, q, text, want)
			}
		}
	}
}

func onEngine(t *testing.T, engine *promql.Engine, s storage.Queryable, expr string, q Steps) string {
	query, err := engine.NewRangeQuery(t.Context(), s, nil, expr, time.UnixMilli(q.Start), time.UnixMilli(q.End), time.Duration(q.Interval)*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	res := query.Exec(t.Context())
	if res.Err != nil {
		t.Fatalf("%s: %v", expr, res.Err)
	}
	warnings, infos := res.Warnings.AsStrings(expr, 0, 0)
	return shown(res.Value.(promql.Matrix), warnings, infos)
}

func shown(m promql.Matrix, warnings, infos []string) string {
	m = slices.Clone(m)
	slices.SortFunc(m, func(a, b promql.Series) int { return labels.Compare(a.Metric, b.Metric) })
	slices.Sort(warnings)
	slices.Sort(infos)
	var b strings.Builder
	for _, s := range m {
		fmt.Fprintf(&b, "%s", s.Metric)
		for _, p := range s.Floats {
			fmt.Fprintf(&b, " %d:%v", p.T, p.F)
		}
	}
	return fmt.Sprintf("%s %q %q", b.String(), warnings, infos)
}

// TestFind: what is left to the engine, and what of an expression is not.
func TestFind(t *testing.T) {
	for expr, want := range map[string][]string{
		"up":                                   {"up"},
		"up[5m]":                               nil,
		"sum(up)":                              {"sum(up)"},
		"(sum((up)))":                          {"(sum((up)))"},
		"sum(up) / count(up) > 1":              {"sum(up)", "count(up)"},
		"sum(rate(a[5m])) by (x)":              {"sum by (x) (rate(a[5m]))"},
		"sum(rate(a[5m]) * 2)":                 {"rate(a[5m])"},
		"histogram_quantile(0.9, rate(a[5m]))": {"rate(a[5m])"},
		"topk(3, sum by (x) (a))":              {"sum by (x) (a)"},
		"sum(a @ 5)":                           nil,
		"a @ 5":                                nil,
		"a / on (x) (b offset 5m) > 1":         nil,
		"topk(scalar(b), a)":                   nil,
		"sum(a @ end())":                       nil,
		"rate(a[5m] @ start())":                nil,
		"max_over_time(sum(a)[5m:1m])":         nil,
		"quantile(2, a)":                       nil,
		"quantile(scalar(b), a)":               nil,
		"count_values(\"x\", a)":               nil,
		"absent(sum(a))":                       nil,
		"absent_over_time(a[5m])":              nil,
		"quantile_over_time(0.9, a[5m])":       nil,
		"-sum(a offset 5m)":                    {"sum(a offset 5m)"},
		"label_replace(sum(a), \"x\",\"\",\"y\",\"\")": {"sum(a)"},
		"timestamp(a)": nil,
		"absent(a)":    nil,
	} {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range Find(parsed) {
			got = append(got, p.String())
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func evaluate(t *testing.T, s storage.Queryable, expr string, l Limits) (Result, error) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	return Evaluate(t.Context(), storetest.InColumns{Of: s}, reader, parsed, Steps{Start: 0, End: 600_000, Interval: 60_000, Lookback: 300_000}, l)
}

// TestLeft: histograms, and series that differ in nothing but the name, are the engine's.
func TestLeft(t *testing.T) {
	s := promqltest.LoadedStorage(t, load)
	for _, expr := range []string{"sum(native)", "rate(native[5m])", `sum({host="a"})`, `max_over_time({__name__=~"one|two"}[5m])`, `sum(rate({__name__=~"one|two"}[5m]))`, "rate(three[5m])", "native", "up @ 5"} {
		if _, err := evaluate(t, s, expr, Limits{MaxSamples: 1e6}); !errors.Is(err, ErrLeft) {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestLimits(t *testing.T) {
	s := promqltest.LoadedStorage(t, load)
	full := errors.New("full")
	var held int64
	for name, c := range map[string]struct {
		expr string
		l    Limits
		want error
	}{
		"samples of a series": {"max_over_time(load[10m])", Limits{MaxSamples: 10}, promql.ErrTooManySamples(env)},
		"points":              {"last_over_time(load[1m])", Limits{MaxSamples: 20}, promql.ErrTooManySamples(env)},
		"rows of a quantile":  {"quantile(0.5, load)", Limits{MaxSamples: 40}, promql.ErrTooManySamples(env)},
		"read":                {"sum(load)", Limits{MaxSamples: 1e6, MaxSamplesRead: 30}, promql.ErrTooManySamplesRead(env)},
		"series":              {"sum(load)", Limits{MaxSamples: 1e6, Series: func() error { return full }}, full},
		"memory":              {"sum by (host) (load)", Limits{MaxSamples: 1e6, Hold: func(_ int, n int64) error { held += n; return full }}, full},
	} {
		if _, err := evaluate(t, s, c.expr, c.l); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if held == 0 {
		t.Error("nothing was reckoned")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	parsed, _ := parser.NewParser(parser.Options{}).ParseExpr("sum(load)")
	stop := stopped{storetest.InColumns{Of: s}}
	if _, err := Evaluate(ctx, stop, reader, parsed, Steps{End: 1, Interval: 1, Lookback: 1}, Limits{MaxSamples: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// stopped is a source that looks at its context, as sources do.
type stopped struct{ storetest.InColumns }

func (s stopped) Columns(ctx context.Context, _ kemi.Identity, _, _ int64, _ []*labels.Matcher, _ func(labels.Labels, []kemi.Millis, []float64) error) error {
	return ctx.Err()
}

// made is series with a sample every 15 s for 12 h.
type made struct {
	labels []labels.Labels
	at     []kemi.Millis
	values []float64
}

func (m made) Columns(_ context.Context, _ kemi.Identity, _, _ int64, _ []*labels.Matcher, each func(labels.Labels, []kemi.Millis, []float64) error) error {
	for _, ls := range m.labels {
		if err := each(ls, m.at, m.values); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkEvaluate is of 100 series over 12 h, without the reading of them; ns/sample.
func BenchmarkEvaluate(b *testing.B) {
	m := made{}
	for i := range 100 {
		m.labels = append(m.labels, labels.FromStrings("__name__", "load_total", "host", fmt.Sprint(i), "dc", fmt.Sprint(i%5)))
	}
	for i := range 2880 {
		m.at, m.values = append(m.at, kemi.Millis(i*15_000)), append(m.values, math.Floor(float64(i)*1.7))
	}
	for _, expr := range []string{"sum by (dc) (load_total)", "max by (dc) (max_over_time(load_total[15m]))", "sum by (dc) (rate(load_total[5m]))", "avg_over_time(load_total[1h])", "quantile by (dc) (0.95, load_total)"} {
		b.Run(strings.ReplaceAll(expr, " ", ""), func(b *testing.B) {
			for b.Loop() {
				parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := Evaluate(b.Context(), m, reader, parsed, Steps{End: 12 * 3600_000, Interval: 60_000, Lookback: 300_000}, Limits{MaxSamples: 1e8}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(100*2880), "ns/sample")
		})
	}
}
