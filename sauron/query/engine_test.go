package query

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/limit"
)

func manyHosts(n, samples int, step int64) *memory {
	m := newMemory()
	for h := range n {
		s := &memSeries{labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", fmt.Sprintf("h%04d", h))}
		for i := range samples {
			s.at = append(s.at, worldStart+kemi.Millis(int64(i)*step))
			s.v = append(s.v, float64((h*7+i*13)%1000)/8)
		}
		m.projects[testID.Project] = append(m.projects[testID.Project], s)
	}
	return m
}

func cpuRequest(agg, down string, filters ...Filter) Request {
	return Request{Start: worldStart, End: worldStart + 12*3_600_000, Queries: []SubQuery{{Metric: "cpu", Aggregator: agg, Downsample: down, Filters: filters}}}
}

var byHost = Filter{Type: "wildcard", Tagk: "host", Filter: "*", GroupBy: true}

func TestLimits(t *testing.T) {
	m := manyHosts(20, 100, 1000)
	for _, c := range []struct {
		name   string
		change func(*Config)
		r      Request
		kind   error
		says   string
	}{
		{"series", func(c *Config) { c.MaxSeries = 19 }, cpuRequest("sum", "1m-sum"), kemi.ErrTooLarge, "maxSeries = 19"},
		{"samples", func(c *Config) { c.MaxSamples = 1999 }, cpuRequest("sum", "1m-sum"), kemi.ErrTooLarge, "maxSamples = 1999"},
		{"points", func(c *Config) { c.MaxPoints = 1999 }, cpuRequest("none", ""), kemi.ErrTooLarge, "maxPoints = 1999"},
		{"points of a merge", func(c *Config) { c.MaxPoints = 99 }, cpuRequest("sum", ""), kemi.ErrTooLarge, "maxPoints = 99"},
		{"points of cells", func(c *Config) { c.MaxPoints = 99 }, cpuRequest("sum", "1s-sum"), kemi.ErrTooLarge, "maxPoints = 99"},
		{"fill", func(c *Config) { c.MaxPoints = 1000 }, cpuRequest("sum", "1s-sum-nan"), kemi.ErrTooLarge, "maxPoints = 1000"},
		{"calendar fill", func(c *Config) { c.MaxPoints = 1000 }, cpuRequest("sum", "1sc-sum-nan"), kemi.ErrTooLarge, "maxPoints = 1000"},
		{"memory of raw points", func(c *Config) { c.MaxMemory = 20_000 }, cpuRequest("sum", ""), kemi.ErrTooLarge, "maxMemory = 20000"},
		{"memory of cells", func(c *Config) { c.MaxMemory = 4000 }, cpuRequest("sum", "1s-sum"), kemi.ErrTooLarge, "maxMemory = 4000"},
		{"memory of one interval", func(c *Config) { c.MaxMemory = 700 }, cpuRequest("sum", "0all-sum"), kemi.ErrTooLarge, "maxMemory = 700"},
		{"queries", func(c *Config) { c.MaxQueries = 1 }, func() Request {
			r := cpuRequest("sum", "")
			r.Queries = append(r.Queries, r.Queries[0])
			return r
		}(), kemi.ErrTooLarge, "maxQueries = 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			enough := newEngine(t, m)
			if _, _, err := enough.Query(t.Context(), testID, c.r); err != nil {
				t.Fatalf("refused without the limit: %v", err)
			}
			e := newEngine(t, m, func(o *Options) { o.Config = DefaultConfig(); c.change(&o.Config) })
			_, _, err := e.Query(t.Context(), testID, c.r)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want %v that says %q", err, c.kind, c.says)
			}
		})
	}
}

func TestConfigRefused(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Config){
		"maxSeries": func(c *Config) { c.MaxSeries = 0 }, "maxSamples": func(c *Config) { c.MaxSamples = -1 }, "maxPoints": func(c *Config) { c.MaxPoints = 0 },
		"maxMemory": func(c *Config) { c.MaxMemory = 0 }, "maxQueries": func(c *Config) { c.MaxQueries = 0 },
		"timeout": func(c *Config) { c.Timeout = -time.Second },
	} {
		c := DefaultConfig()
		change(&c)
		if _, err := New(Options{Store: newMemory(), Config: c}); !errors.Is(err, kemi.ErrInvalid) || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: error %v", key, err)
		}
	}
	if _, err := New(Options{}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("no store: error %v", err)
	}
}

func TestIdentity(t *testing.T) {
	m := manyHosts(1, 5, 1000)
	m.add("other", kemi.LabelsOf(kemi.MetricName, "secret", "host", "x"), worldStart, 1)
	e := newEngine(t, m)
	if _, _, err := e.Query(t.Context(), kemi.Identity{Subject: "t", Project: "default", Permissions: kemi.LogsRead}, cpuRequest("sum", "")); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("without permission: %v", err)
	}
	if _, _, err := e.Query(t.Context(), kemi.Identity{Subject: "t", Permissions: kemi.AllPermissions}, cpuRequest("sum", "")); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("without project: %v", err)
	}
	// Another project's names do not even exist.
	r := cpuRequest("sum", "")
	r.Queries[0].Metric = "secret"
	if _, _, err := e.Query(t.Context(), testID, r); err == nil || err.Error() != "No such name for 'metrics': 'secret'" {
		t.Errorf("other project's metric: %v", err)
	}
	r.Queries[0].Metric = "-"
	results, _, err := e.Query(t.Context(), kemi.Identity{Subject: "t", Project: "other", Permissions: kemi.MetricsRead}, r)
	if err != nil || len(results) != 1 || results[0].Metric != "secret" {
		t.Errorf("own project: %v %v", results, err)
	}
}

func TestStoreFails(t *testing.T) {
	m := manyHosts(2, 5, 1000)
	e := newEngine(t, m)
	m.fail = kemi.Errorf(kemi.ErrUnavailable, "store is away")
	if _, _, err := e.Query(t.Context(), testID, cpuRequest("sum", "")); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	m.fail = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := e.Query(ctx, testID, cpuRequest("sum", "")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// waiting is a store that is slow: after a series it waits until nobody does.
type waiting struct{ *memory }

func (s waiting) Select(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Points, error] {
	return func(yield func(kemi.Points, error) bool) {
		for p, err := range s.memory.Select(ctx, id, sel, r) {
			if !yield(p, err) {
				return
			}
			<-ctx.Done()
		}
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manyHosts(3, 5, 1000)
		e := newEngine(t, m, func(o *Options) {
			o.Store = waiting{m}
			o.Config = DefaultConfig()
			o.Config.Timeout = time.Second
			var err error
			if o.Gate, err = limit.New(limit.Config{Concurrent: 1, PerIdentity: 1, Waiting: 1, RetryAfter: time.Second}, nil); err != nil {
				t.Fatal(err)
			}
		})
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { _, _, errs[0] = e.Query(t.Context(), testID, cpuRequest("sum", "")) })
		synctest.Wait()
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, _, errs[1] = e.Query(ctx, testID, cpuRequest("sum", ""))
		})
		wg.Wait()
		if !errors.Is(errs[0], kemi.ErrLimited) || !strings.Contains(errs[0].Error(), "query.timeout = 1s") {
			t.Errorf("slow query: %v", errs[0])
		}
		if !errors.Is(errs[1], context.DeadlineExceeded) {
			t.Errorf("client that would not wait: %v", errs[1])
		}
		// The place is free again.
		e.o.Store = m
		if _, _, err := e.Query(t.Context(), testID, cpuRequest("sum", "")); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestHTTP(t *testing.T) {
	m := manyHosts(2, 10, 1000)
	fresh := store.Freshness{AsOf: 1515917973043, Complete: false, Reason: "replay"}
	registry := prometheus.NewRegistry()
	mux := serve(newEngine(t, m, func(o *Options) { o.Freshness, o.Registerer = func() store.Freshness { return fresh }, registry }))
	body := `{"start":1515900000,"end":1515900100,"showSummary":true,"showStats":true,"queries":[{"metric":"cpu","aggregator":"max"}]}`

	code, answer, h := do(t, mux, "POST", "/api/v2/query", body)
	if code != 200 || h.Get("Content-Type") != "application/json; charset=UTF-8" {
		t.Fatalf("%d %s %v", code, answer, h)
	}
	var s Stats
	if err := json.Unmarshal([]byte(h.Get("X-Kemi-Stats")), &s); err != nil || s.Series != 2 || s.Samples != 20 || s.Points != 10 || s.Complete || s.AsOf != fresh.AsOf || s.Reason != "replay" {
		t.Errorf("X-Kemi-Stats: %+v %v", s, err)
	}
	var parts []map[string]json.RawMessage
	if err := json.Unmarshal([]byte(answer), &parts); err != nil || len(parts) != 2 || parts[0]["stats"] == nil || parts[1]["statsSummary"] == nil {
		t.Errorf("answer %s: %v", answer, err)
	}

	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	send := func(encoding string, b []byte) int {
		req := httptest.NewRequest("POST", "/api/query", bytes.NewReader(b))
		req.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, req)
		return w.Code
	}
	for _, c := range []struct {
		encoding string
		body     []byte
		code     int
	}{
		{"gzip", packed.Bytes(), 200}, {"gzip", packed.Bytes()[:20], 400}, {"gzip", []byte(body), 400}, {"br", []byte(body), 400},
		{"", bytes.Repeat([]byte(" "), 4<<20+1), 413}, {"gzip", bomb(t), 413},
	} {
		if got := send(c.encoding, c.body); got != c.code {
			t.Errorf("%d bytes of %q: %d, want %d", len(c.body), c.encoding, got, c.code)
		}
	}
	if code, answer, _ := do(t, mux, "DELETE", "/api/query?m=sum:cpu", ""); code != 403 {
		t.Errorf("DELETE: %d %s", code, answer)
	}
	if code, _, _ := do(t, mux, "PUT", "/api/query", ""); code != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %d", code)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 2 {
		t.Errorf("metrics: %v %v", families, err)
	}
}

func bomb(t *testing.T) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(make([]byte, 4<<20+1)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestFoldEqualsMerge asks for the same in cells and in columns.
func TestFoldEqualsMerge(t *testing.T) {
	m := manyHosts(9, 400, 7000)
	e := newEngine(t, m)
	for _, r := range []struct{ folded, merged string }{{"1m-avg", "1mc-avg"}, {"1h-max-zero", "1hc-max-zero"}} {
		for _, agg := range Aggregators() {
			a, _, err := e.Query(t.Context(), testID, cpuRequest(agg, r.folded))
			if err != nil {
				t.Fatal(err)
			}
			b, _, err := e.Query(t.Context(), testID, cpuRequest(agg, r.merged))
			if err != nil {
				t.Fatal(err)
			}
			if x, y := fmt.Sprint(points(a)), fmt.Sprint(points(b)); x != y {
				t.Errorf("%s %s:\n%s\n%s", agg, r.folded, x, y)
			}
		}
	}
}

func points(rs []Result) (out [][]float64) {
	for _, r := range rs {
		for i := range r.At {
			out = append(out, []float64{float64(r.At[i]), r.Values[i]})
		}
	}
	return out
}

// TestLongGap is a range of years at a short interval with few points: what lies between costs no result, and a bounded time.
func TestLongGap(t *testing.T) {
	m := newMemory()
	for _, h := range []string{"a", "b"} {
		for _, at := range []kemi.Millis{1_000_000_000_000, 1_090_000_000_000} {
			m.add(testID.Project, kemi.LabelsOf(kemi.MetricName, "cpu", "host", h), at, 1)
		}
	}
	e := newEngine(t, m)
	r := Request{Start: 0, End: 2_000_000_000_000, Queries: []SubQuery{{Metric: "cpu", Aggregator: "sum", Downsample: "1m-sum"}}}
	results, _, err := e.Query(t.Context(), testID, r)
	if err != nil || len(results) != 1 || len(results[0].At) != 2 {
		t.Fatalf("%v %v", results, err)
	}
}

func TestConcurrent(t *testing.T) {
	m := manyHosts(30, 200, 10_000)
	e := newEngine(t, m)
	want, _, err := e.Query(t.Context(), testID, cpuRequest("sum", "15m-max", byHost))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				got, _, err := e.Query(t.Context(), testID, cpuRequest("sum", "15m-max", byHost))
				if err != nil || fmt.Sprint(points(got)) != fmt.Sprint(points(want)) {
					t.Errorf("%v %v", points(got), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSpecialValues(t *testing.T) {
	m := newMemory()
	for i, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1), 1e300, 5e-324, 1 << 53} {
		m.add(testID.Project, kemi.LabelsOf(kemi.MetricName, "odd"), worldStart+kemi.Millis(i)*1000, v)
	}
	_, answer, _ := do(t, serve(newEngine(t, m)), "POST", "/api/query?arrays", `{"start":1515900000,"end":1515900100,"queries":[{"metric":"odd","aggregator":"sum"}]}`)
	want := `"dps":[[1515900000,"NaN"],[1515900001,"Infinity"],[1515900002,"-Infinity"],[1515900003,0],[1515900004,0],[1515900005,1e+300],[1515900006,5e-324],[1515900007,9007199254740992]]`
	if !strings.Contains(answer, want) || !json.Valid([]byte(answer)) {
		t.Errorf("%s\nwant %s", answer, want)
	}
}

func BenchmarkQuery(b *testing.B) {
	const hosts, samples = 100, 12 * 360
	m := manyHosts(hosts, samples, 10_000)
	e := newEngine(b, m)
	for _, c := range []struct {
		name string
		r    Request
	}{
		{"max15m", cpuRequest("max", "15m-max")},
		{"max15m-by-host", cpuRequest("max", "15m-max", byHost)},
		{"avg1h-sum", cpuRequest("sum", "1h-avg")},
		{"p95-15m", cpuRequest("p95", "15m-p95")},
		{"calendar-day", cpuRequest("sum", "1dc-sum")},
		{"raw-sum", cpuRequest("sum", "")},
		{"rate-1m", func() Request { r := cpuRequest("sum", "1m-avg"); r.Queries[0].Rate = true; return r }()},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := e.Query(b.Context(), testID, c.r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(hosts*samples), "ns/sample")
		})
	}
}

func BenchmarkWriteJSON(b *testing.B) {
	m := manyHosts(100, 4320, 10_000)
	e := newEngine(b, m)
	r := cpuRequest("none", "")
	results, stats, err := e.Query(b.Context(), testID, r)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var out bytes.Buffer
		if err := WriteJSON(&out, &r, results, nil, stats); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(100*4320), "ns/point")
}
