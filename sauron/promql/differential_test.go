package promql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cortexproject/promqlsmith"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/codec"
	"kemi/pipeline/head"
	"kemi/pipeline/merge"
	"kemi/pipeline/store"
)

// TestDifferential asks random queries over random data: of Prometheus' engine on Prometheus' own storage, and of our API on our store, which got the same
// samples partly late and partly twice. What the columns come to is also compared with what the engine makes of our store, and that to the last bit.
// KEMI_TEST_PROMQL_SEED and KEMI_TEST_PROMQL_N choose the run and how many queries it has.
func TestDifferential(t *testing.T) {
	seed, n := time.Now().UnixNano(), 400
	if v := os.Getenv("KEMI_TEST_PROMQL_SEED"); v != "" {
		seed, _ = strconv.ParseInt(v, 10, 64)
	}
	if v := os.Getenv("KEMI_TEST_PROMQL_N"); v != "" {
		n, _ = strconv.Atoi(v)
	}
	t.Logf("KEMI_TEST_PROMQL_SEED=%d", seed)
	w := newWorld(t, rand.New(rand.NewSource(seed)))
	answered, empty, undecided := 0, 0, 0
	for i := range n {
		q := w.query(i)
		theirs, ok := w.upstream(t, q)
		if !ok {
			continue // a query that Prometheus itself refuses
		}
		before := testutil.ToFloat64(w.api.ways.WithLabelValues("columns"))
		columns := w.ours(t, q, false)
		// The engine itself sums what comes out of its functions in any order.
		exact := testutil.ToFloat64(w.api.ways.WithLabelValues("columns")) > before
		engine := w.ours(t, q, true)
		why := w.differ(q, theirs, columns)
		if (exact && columns != engine || why != "" || w.differ(q, engine, columns) != "") && w.undecided(t, q, theirs) {
			undecided++
			continue
		}
		if exact && columns != engine || w.differ(q, engine, columns) != "" {
			t.Fatalf("%s\nin columns    %s\non the engine %s", q, columns, engine)
		}
		if why != "" {
			t.Fatalf("%s: %s\nPrometheus %s\nKEMI       %s", q, why, theirs, columns)
		}
		if answered++; strings.Contains(columns, `"result":[]`) {
			empty++
		}
	}
	ways := map[string]float64{}
	for _, way := range []string{"engine", "columns", "both", "left"} {
		ways[way] = testutil.ToFloat64(w.api.ways.WithLabelValues(way))
	}
	t.Logf("%d of %d queries compared, %d of them with an empty answer; by where they were evaluated: %v", answered, n, empty, ways)
	if undecided > n/100 {
		t.Errorf("Prometheus has no answer of its own to %d of %d queries", undecided, n)
	}
	if answered < n/2 || empty > answered*2/3 || ways["columns"] == 0 || ways["both"] == 0 || ways["left"] == 0 {
		t.Errorf("the comparison is worth little: %d answered, %d empty, %v", answered, empty, ways)
	}
}

// undecided tells whether Prometheus itself answers the query now so and now so: it sums in no order, and sgn() of what should be 0 shows it.
func (w *world) undecided(t *testing.T, q asked, first string) bool {
	for range 30 {
		if again, ok := w.upstream(t, q); !ok || w.differ(q, first, again) != "" {
			return true
		}
	}
	return false
}

// world is the same random data in two stores.
type world struct {
	rnd    *rand.Rand
	smith  *promqlsmith.PromQLSmith
	theirs *teststorage.TestStorage
	engine *promql.Engine
	db     *merge.Store
	api    *API
	start  int64 // ms
	end    int64
}

const step30 = 30_000

type randomSeries struct {
	ls     labels.Labels
	at     []int64
	values []float64
}

func newWorld(t *testing.T, rnd *rand.Rand) *world {
	end := time.Now().Add(-time.Minute).Truncate(time.Minute).UnixMilli()
	w := &world{rnd: rnd, start: end - 3*3600_000, end: end, theirs: teststorage.New(t)}
	live, settles := head.DefaultConfig(), batch.DefaultConfig()
	live.Dir, settles.Dir = t.TempDir(), t.TempDir()
	db, err := merge.Open(t.Context(), live, settles, merge.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w.db = db
	series := w.data()
	slices.SortFunc(series, func(a, b randomSeries) int { return labels.Compare(a.ls, b.ls) })
	w.fill(t, series)
	app := w.theirs.AppenderV2(context.Background())
	var all []labels.Labels
	for _, s := range series {
		all = append(all, s.ls)
		for i, at := range s.at {
			if _, err := app.Append(0, s.ls, 0, at, s.values[i], nil, nil, storage.AOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	if w.api, err = New(DefaultConfig(), Options{Source: inOrder{db}, Chunks: db, Registerer: prometheus.NewRegistry()}); err != nil {
		t.Fatal(err)
	}
	w.engine = promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, NoStepSubqueryIntervalFn: func(int64) int64 { return 60_000 },
		EnableAtModifier: true, EnableNegativeOffset: true, EnablePerStepStats: true, Parser: parser.NewParser(parser.Options{}),
	})
	w.smith = promqlsmith.New(rnd, all, promqlsmith.WithEnableOffset(true), promqlsmith.WithEnableAtModifier(true), promqlsmith.WithEnableVectorMatching(true),
		promqlsmith.WithAtModifierMaxTimestamp(end))
	return w
}

// data is gauges, counters with resets, and classic histograms, with gaps, stale markers and odd values among them.
func (w *world) data() []randomSeries {
	var out []randomSeries
	add := func(next func(i int) float64, pairs ...string) {
		s := randomSeries{ls: labels.FromStrings(pairs...)}
		shift := w.rnd.Int63n(step30)
		from, to := 0, 360
		if w.rnd.Intn(4) == 0 {
			from, to = w.rnd.Intn(200), 200+w.rnd.Intn(160)
		}
		gap := 0
		for i := from; i < to; i++ {
			v := next(i)
			if gap--; gap > 0 {
				continue
			}
			at := w.start + int64(i)*step30 + shift
			if w.rnd.Intn(5) == 0 {
				at += w.rnd.Int63n(10_000) - 5_000
			}
			if n := len(s.at); n > 0 && at <= s.at[n-1] {
				continue
			}
			switch w.rnd.Intn(120) {
			case 0:
				gap = w.rnd.Intn(40)
			case 1:
				v = math.Float64frombits(value.StaleNaN)
				gap = w.rnd.Intn(30)
			case 2:
				v = []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1), 1e300, -1e300}[w.rnd.Intn(7)]
			}
			s.at, s.values = append(s.at, at), append(s.values, v)
		}
		out = append(out, s)
	}
	for i := range 12 {
		add(func(int) float64 { return math.Round(w.rnd.NormFloat64()*1e4) / 100 }, "__name__", "load", "host", fmt.Sprint("h", i%6), "dc", fmt.Sprint("d", i%2), "cpu", fmt.Sprint(i/6))
		total := 0.0
		add(func(int) float64 {
			if total += float64(w.rnd.Intn(50)); w.rnd.Intn(60) == 0 {
				total = float64(w.rnd.Intn(3))
			}
			return total
		}, "__name__", "requests_total", "host", fmt.Sprint("h", i%6), "dc", fmt.Sprint("d", i%2), "code", []string{"200", "500"}[i/6])
	}
	for i := range 3 {
		var counts [4]float64
		for k, le := range []string{"0.1", "1", "10", "+Inf"} {
			add(func(int) float64 { counts[k] += float64(w.rnd.Intn(5) + 5*k); return counts[k] }, "__name__", "seconds_bucket", "host", fmt.Sprint("h", i), "le", le)
		}
	}
	for i := range 4 {
		add(func(int) float64 { return float64(w.rnd.Intn(2)) }, "__name__", "up", "host", fmt.Sprint("h", i), "dc", fmt.Sprint("d", i%2))
		add(func(int) float64 { return float64(w.rnd.Intn(9)) }, "__name__", "queue", "host", fmt.Sprint("h", i), "dc", fmt.Sprint("d", i%2))
	}
	return out
}

// inOrder selects series in the order of their labels, so that sums on the engine go in the order in which they go in columns.
type inOrder struct{ *merge.Store }

func (s inOrder) Queryable(id kemi.Identity) storage.Queryable {
	return storage.QueryableFunc(func(mint, maxt int64) (storage.Querier, error) {
		q, err := s.Store.Queryable(id).Querier(mint, maxt)
		return inOrderQuerier{q}, err
	})
}

type inOrderQuerier struct{ storage.Querier }

func (q inOrderQuerier) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, h, ms...)
}

// fill puts the samples into our store: in batches of some minutes, a tenth of them late, and some twice.
func (w *world) fill(t *testing.T, series []randomSeries) {
	table, at := codec.NewTable(nil, time.Now), store.Position{}
	put := func(ps []kemi.Points) {
		at.Next++
		if err := w.db.Append(t.Context(), table.BatchOf("default", ps), at); err != nil {
			t.Fatal(err)
		}
	}
	var late [][]kemi.Points
	for from := w.start - step30; from <= w.end; from += 300_000 {
		var now, after []kemi.Points
		for _, s := range series {
			p := kemi.Points{}
			s.ls.Range(func(l labels.Label) { p.Labels = append(p.Labels, kemi.Label{Name: l.Name, Value: l.Value}) })
			for i, at := range s.at {
				if at >= from && at < from+300_000 {
					p.At, p.Values = append(p.At, kemi.Millis(at)), append(p.Values, s.values[i])
				}
			}
			switch {
			case len(p.At) == 0:
			case from > w.start && w.rnd.Intn(10) == 0:
				after = append(after, p)
			default:
				now = append(now, p)
			}
		}
		put(now)
		if late = append(late, after); w.rnd.Intn(5) == 0 {
			put(now)
		}
	}
	for _, ps := range late {
		put(ps)
	}
}

type asked struct {
	expr             string
	start, end, step int64 // step 0: instant
}

func (q asked) String() string {
	return fmt.Sprintf("%s\n  from %d to %d step %d", q.expr, q.start, q.end, q.step)
}

// shapes are what is asked most in dashboards and rules; %s is a range.
var shapes = []string{
	"sum(rate(requests_total[%s]))", "sum by (dc) (increase(requests_total[%s]))", "avg without (cpu) (avg_over_time(load[%s]))", "max by (host) (max_over_time(load[%s]))",
	"min(min_over_time(load[%s]))", "count by (dc) (count_over_time(load[%s]))", "stddev by (dc) (load)", "stdvar(last_over_time(load[%s]))", "quantile by (dc) (0.95, load)",
	"quantile(0.5, rate(requests_total[%s]))", "sum by (dc) (load offset %s)", "group by (host) (up)", "rate(((load[%s])))", "changes((up[%s]))", "deriv(load[%s])", "irate(requests_total[%s])", "idelta(load[%s])",
	"delta(load[%s])", "changes(up[%s])", "resets(requests_total[%s])", "present_over_time(up[%s])", "stddev_over_time(load[%s])", "last_over_time(load[%s])",
	"sum by (code) (rate(requests_total[%s])) / ignoring (code) group_left sum(rate(requests_total[%s])) > 0.3", "topk(2, avg_over_time(load[%s]))",
	"histogram_quantile(0.9, sum by (le) (rate(seconds_bucket[%s])))", "histogram_quantile(0.9, rate(seconds_bucket[%s]))", "absent(sum(rate(nothing[%s])))", "absent(rate(requests_total{host=\"h9\"}[%s]))",
	"sum(rate({__name__=~\"requests_total|load\"}[%s]))", "rate({__name__=~\"up|queue\"}[%s])", "sum(max_over_time({__name__=~\"up|queue\"}[%s]))", "avg by (__name__) ({host=\"h1\"})", "sum(up) - count(up)", "sum by (host) (load) and on (host) (up == 1)", "max_over_time(sum(rate(requests_total[%s]))[10m:1m])",
	"-sum by (dc) (load)", "sum(load) or vector(0)", "scalar(sum(load)) * count(load)", "sort_desc(sum by (host) (rate(requests_total[%s])))", "label_replace(sum by (host) (load), \"h\", \"$1\", \"host\", \"h(.*)\")",
	"clamp_max(sum by (host) (load), 10)", "sum without () (load)", "(sum(((load))))", "count({__name__=~\".+\"})", "sum by (dc) (rate(requests_total[%s] offset -1m))", "timestamp(sum(load))", "sum(load @ end())",
	"count_values(\"n\", sum by (host) (queue))", "predict_linear(load[%s], 60)", "sum_over_time(load[%s]) > bool 5", "round(sum by (host) (rate(requests_total[%s])), 0.1) unless sum by (host) (up)",
}

func (w *world) query(i int) asked {
	q := asked{end: w.end - w.rnd.Int63n(3600_000), step: []int64{0, 15_000, 60_000, 77_777, 300_000, 900_000}[w.rnd.Intn(6)]}
	q.start = q.end
	if q.step > 0 {
		q.start -= min(w.rnd.Int63n(2*3600_000), q.step*500)
	}
	if w.rnd.Intn(20) == 0 {
		q.start, q.end = q.start+7200_000, q.end+7200_000 // beyond what there is
	}
	if i%2 == 0 {
		q.expr = shapes[w.rnd.Intn(len(shapes))]
		for strings.Contains(q.expr, "%s") {
			q.expr = strings.Replace(q.expr, "%s", []string{"30s", "1m", "5m", "5m", "15m", "1h", "91s"}[w.rnd.Intn(7)], 1)
		}
		return q
	}
	if q.step == 0 {
		q.expr = w.smith.WalkInstantQuery().Pretty(0)
	} else {
		q.expr = w.smith.WalkRangeQuery().Pretty(0)
	}
	return q
}

func (w *world) upstream(t *testing.T, q asked) (string, bool) {
	var query promql.Query
	var err error
	if q.step == 0 {
		query, err = w.engine.NewInstantQuery(t.Context(), w.theirs, nil, q.expr, time.UnixMilli(q.start))
	} else {
		query, err = w.engine.NewRangeQuery(t.Context(), w.theirs, nil, q.expr, time.UnixMilli(q.start), time.UnixMilli(q.end), time.Duration(q.step)*time.Millisecond)
	}
	if err != nil {
		return "", false
	}
	defer query.Close()
	res := query.Exec(t.Context())
	if res.Err != nil {
		return res.Err.Error(), true
	}
	return encoded(t, q, res.Value, res), true
}

// ours is our answer, as JSON with the notes, or the error.
func (w *world) ours(t *testing.T, q asked, engineOnly bool) string {
	out, err := w.api.execute(t.Context(), request{
		id: reader, expr: q.expr, start: time.UnixMilli(q.start), end: time.UnixMilli(q.end), step: time.Duration(q.step) * time.Millisecond, counted: engineOnly,
	})
	var build buildError
	if errors.As(err, &build) {
		t.Fatalf("%s: %v", q, err)
	}
	if err != nil {
		return err.Error()
	}
	defer out.close()
	return encoded(t, q, out.value, &promql.Result{Warnings: out.warnings})
}

func encoded(t *testing.T, q asked, v parser.Value, res *promql.Result) string {
	b, err := appendQuery(nil, &queryData{value: v}, nil)
	if err != nil {
		t.Fatal(err)
	}
	warnings, infos := res.Warnings.AsStrings(q.expr, 0, 0)
	slices.Sort(warnings)
	slices.Sort(infos)
	return fmt.Sprintf("%s\nwarnings %q\ninfos %q", b, warnings, infos)
}

// differ says how two answers differ beyond the order of series and the rounding that comes from another order of sums.
func (w *world) differ(q asked, theirs, ours string) string {
	if theirs == ours {
		return ""
	}
	for _, byOrder := range []string{"topk", "bottomk", "limitk", "limit_ratio"} {
		if strings.Contains(q.expr, byOrder) {
			return "" // of series with the same value, another may come
		}
	}
	t, o := strings.SplitN(theirs, "\n", 2), strings.SplitN(ours, "\n", 2)
	if len(t) == 1 && len(o) == 1 { // which of many pairs is named depends on the order
		a, _, _ := strings.Cut(theirs, "{")
		if b, _, _ := strings.Cut(ours, "{"); a != b {
			return "error"
		}
		return ""
	}
	if len(t) != len(o) {
		return "only one is an error"
	}
	if t[1] != o[1] {
		return "notes"
	}
	var a, b any
	if json.Unmarshal([]byte(t[0]), &a) != nil || json.Unmarshal([]byte(o[0]), &b) != nil {
		return "not JSON"
	}
	near := 1e-9
	if strings.Contains(q.expr, "tan") || strings.Contains(q.expr, "sin") || strings.Contains(q.expr, "cos") {
		near = 1e-4 // of large values, they make much of little
	}
	if !about(sorted(a), sorted(b), near) {
		return "data"
	}
	return ""
}

func sorted(data any) any {
	m, _ := data.(map[string]any)
	if list, ok := m["result"].([]any); ok && m["resultType"] != "scalar" && m["resultType"] != "string" {
		slices.SortFunc(list, func(a, b any) int {
			return strings.Compare(fmt.Sprint(a.(map[string]any)["metric"]), fmt.Sprint(b.(map[string]any)["metric"]))
		})
	}
	return data
}

func about(a, b any, near float64) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			if !about(v, y[k], near) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && len(x) == len(y) && slices.EqualFunc(x, y, func(a, b any) bool { return about(a, b, near) })
	case string:
		y, ok := b.(string)
		f, errF := strconv.ParseFloat(x, 64)
		g, errG := strconv.ParseFloat(y, 64)
		return ok && (x == y || errF == nil && errG == nil && math.Abs(f-g) <= near*max(math.Abs(f), math.Abs(g), 1e-3))
	}
	return reflect.DeepEqual(a, b)
}
