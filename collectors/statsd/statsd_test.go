package statsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/listen"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// clock is a time that the test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func sums(t testing.TB, change func(*Config)) (*aggregate, *clock) {
	t.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	c := &clock{time.UnixMilli(1777777770000)}
	return newAggregate(cfg, c.now), c
}

func flushed(a *aggregate) []string {
	var out []string
	for _, p := range a.flush(kemi.MillisOf(a.now())) {
		if p.h != nil {
			out = append(out, fmt.Sprintf("%s %s histogram count=%d sum=%v buckets=%d", collectortest.Name(p.labels), p.meta.Type, p.h.Count, p.h.Sum, len(p.h.PositiveDeltas)))
			continue
		}
		then := ""
		if p.at != 0 {
			then = fmt.Sprintf(" @%d", p.at)
		}
		out = append(out, fmt.Sprintf("%s %s %v%s", collectortest.Name(p.labels), p.meta.Type, p.value, then))
	}
	return out
}

func TestSums(t *testing.T) {
	for name, c := range map[string]struct {
		lines  string
		change func(*Config)
		want   []string
	}{
		"counter":           {"hits:1|c\nhits:2|c", nil, []string{"hits counter 3"}},
		"sampled":           {"hits:1|c|@0.1", nil, []string{"hits counter 10"}},
		"gauge":             {"g:5|g\ng:+2|g\ng:-3|g", nil, []string{"g gauge 4"}},
		"gauge below zero":  {"g:0|g\ng:-3|g", nil, []string{"g gauge -3"}},
		"set":               {"u:kim|s\nu:lee|s\nu:kim|s", nil, []string{"u gauge 2"}},
		"tags":              {"hits:1|c|#host:web-1,env:prod,beta\nhits:1|c|#beta,env:prod,host:web-1", nil, []string{`hits{beta="true",env="prod",host="web-1"} counter 2`}},
		"value with colons": {"hits:1|c|#addr:10.0.0.1:80", nil, []string{`hits{addr="10.0.0.1:80"} counter 1`}},
		"packed":            {"d:1:2:3|d|#a:b", func(c *Config) { c.Quantiles = nil }, []string{`d_count{a="b"} summary 3`, `d_sum{a="b"} summary 6`}},
		"timer": {"t:100|ms\nt:200|ms|@0.5\nt:300|h", nil, []string{
			`t{quantile="0.5"} summary 200`, `t{quantile="0.9"} summary 300`, `t{quantile="0.95"} summary 300`, `t{quantile="0.99"} summary 300`, "t_count summary 4", "t_sum summary 800",
		}},
		"native":       {"t:100|ms\nt:200|ms|@0.5\nt:0|ms", func(c *Config) { c.Timers = "histogram" }, []string{"t histogram histogram count=4 sum=500 buckets=2"}},
		"counted then": {"hits:1|c|T1656581400\nhits:2|c", nil, []string{"hits counter 3"}},
		"gauge then":   {"g:5|g\ng:1:-2|g|#a:b|T1656581400\ng:7|g|T1656581400", nil, []string{"g gauge 7 @1656581400000", "g gauge 5", `g{a="b"} gauge 1 @1656581400000`, `g{a="b"} gauge -2 @1656581400000`}},
		"container":    {"hits:1|c|@1|#a:b|c:ci-1f|e:it-false|card:low", nil, []string{`hits{a="b"} counter 1`}},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := sums(t, c.change)
			for line := range strings.SplitSeq(c.lines, "\n") {
				if err := a.add([]byte(line)); err != nil {
					t.Fatal(line, err)
				}
			}
			if got := flushed(a); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for line, why := range map[string]string{
		"hits": "must be name:value|type", "hits:1": "must be name", ":1|c": "must be name", "hits:|c": "must be name",
		"hits:x|c": "must be a number", "hits:NaN|g": "must be a number", "hits:-1|c": "must not be negative", "hits:1|x": "type", "hits:1|c|@0": "sample rate", "hits:1|c|@2": "sample rate",
		"hits:1|c|Tx": "must be seconds", "hits:1|c|T0": "must be seconds", "hits:1|c|x": "must be @rate, #tags or Ttime", "t:1|ms|T1656581400": "only counters and gauges", "taken:1|g|T1656581400": "is a counter already", "hits:1|c|#:x": "cannot be had", "hits:1|c|#__name__:x": "cannot be had", "t:1|ms|#quantile:1": "cannot be had",
		"\xff:1|c": "UTF-8", "taken:1|g": "is a counter already",
	} {
		a, _ := sums(t, nil)
		if err := a.add([]byte("taken:1|c")); err != nil {
			t.Fatal(err)
		}
		if err := a.add([]byte(line)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", line, err, why)
		}
	}
}

// TestIntervals goes through three intervals: what is of an interval begins anew, what counts goes on, and what nobody mentions ends.
func TestIntervals(t *testing.T) {
	a, c := sums(t, func(c *Config) { c.Quantiles, c.Expire = []float64{0.5}, 25*time.Second })
	for _, line := range []string{"hits:1|c", "g:7|g", "u:kim|s", "t:4|ms"} {
		if err := a.add([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range [][]string{
		{"g gauge 7", "hits counter 1", `t{quantile="0.5"} summary 4`, "t_count summary 1", "t_sum summary 4", "u gauge 1"},
		{"g gauge 7", "hits counter 3", `t{quantile="0.5"} summary NaN`, "t_count summary 1", "t_sum summary 4", "u gauge 0"},
		{"g gauge 7", "hits counter 3", `t{quantile="0.5"} summary NaN`, "t_count summary 1", "t_sum summary 4", "u gauge 0"},
		{"g gauge NaN", "hits counter 3", `t{quantile="0.5"} summary NaN`, "t_count summary NaN", "t_sum summary NaN", "u gauge NaN"},
		{"hits counter NaN"}, nil,
	} {
		if got := flushed(a); !slices.Equal(got, want) {
			t.Errorf("interval %d: %q, want %q", i, got, want)
		}
		c.t = c.t.Add(10 * time.Second)
		if i == 0 {
			if err := a.add([]byte("hits:2|c")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTimedWaits: what could not be written and has a time of its own is in the next flush; sums need not be given back.
func TestTimedWaits(t *testing.T) {
	a, c := sums(t, func(c *Config) { c.MaxSeries = 2 })
	for _, line := range []string{"hits:1|c", "g:5:6|g|T1777777000"} {
		if err := a.add([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.add([]byte("g:7|g|T1777777001")); !errors.Is(err, kemi.ErrLimited) {
		t.Errorf("a third value that waits: %v", err)
	}
	a.again(a.flush(kemi.MillisOf(c.now())))
	want := []string{"g gauge 5 @1777777000000", "g gauge 6 @1777777000000", "hits counter 1"}
	if got := flushed(a); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := flushed(a); !slices.Equal(got, want[2:]) {
		t.Errorf("once more: %q", got)
	}
}

func TestStaleMarkerIsPrometheus(t *testing.T) {
	if math.Float64bits(staleNaN) != 0x7ff0000000000002 {
		t.Errorf("%x", math.Float64bits(staleNaN))
	}
}

func TestLimits(t *testing.T) {
	a, _ := sums(t, func(c *Config) { c.MaxSeries = 3 })
	for i := range 3 {
		if err := a.add(fmt.Appendf(nil, "m%d:1|c", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.add([]byte("m3:1|c")); err == nil || !strings.Contains(err.Error(), "maxSeries") {
		t.Errorf("a fourth: %v", err)
	}
	// One series in ever new orders of its tags is one series, and does not fill the memory.
	for i := range 100 {
		if err := a.add(fmt.Appendf(nil, "m0:1|c|#%s", strings.Repeat(",", i))); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.byName) != 3 || len(a.byKey) > 13 {
		t.Errorf("%d series, %d keys", len(a.byName), len(a.byKey))
	}
}

type anybody struct{}

func (anybody) Authenticate(*http.Request) (kemi.Identity, error) {
	return kemi.Identity{Subject: "token:statsd", Project: "shop", Permissions: kemi.MetricsWrite | kemi.LogsWrite}, nil
}

// TestReceiver sends over every kind of socket and reads what the log has.
func TestReceiver(t *testing.T) {
	h := collectortest.Open(t, nil)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.FlushInterval, cfg.TokenFile = 100*time.Millisecond, token
	cfg.Listen = listen.Addresses{"udp://127.0.0.1:0", "tcp://127.0.0.1:0", "unixgram:" + filepath.Join(dir, "s")}
	r, err := New(t.Context(), cfg, Options{
		In: h.Push, Auth: anybody{}, Metrics: listen.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	for _, a := range r.Addrs() {
		c, err := net.Dial(a.Network(), a.String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "page.views:1|c|#site:a\nbad\nload:2|g\n_e{6,6}:deploy|v2\\nok|h:web-1|#service:pay\n")
		_ = c.Close()
	}
	last := func(name string) float64 {
		v := math.NaN()
		for _, b := range h.Batches() {
			for i := range b.Series {
				if from, to := b.Span(i); to > from && collectortest.Name(b.Labels(i)) == name {
					v = b.Values[to-1]
					if from > 0 && b.Complex != nil && len(b.Complex.Starts) > 0 && name[0] == 'p' && b.Complex.Starts[from] == 0 {
						t.Error("a counter without its start")
					}
				}
			}
		}
		return v
	}
	h.Eventually("all three are counted", func() bool { return last(`page.views{site="a"}`) == 3 && last("load") == 2 })
	h.Eventually("all three events are there", func() bool {
		n := 0
		for _, r := range h.Records(bus.Logs) {
			records, err := codec.DecodeLogs(&r)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range records {
				if l.Stream.String() != `{host="web-1", service="pay"}` || l.Body != "deploy\nv2\nok" {
					t.Fatalf("%+v", l)
				}
				n++
			}
		}
		return n == 3
	})
	// The end writes what is there.
	c, err := net.Dial("tcp", r.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "page.views:10|c|#site:a\n")
	_ = c.Close()
	h.Eventually("it is read", func() bool {
		r.sum.mu.Lock()
		defer r.sum.mu.Unlock()
		e := r.sum.byName[kemi.LabelsOf(kemi.MetricName, "page.views", "site", "a").String()]
		return e != nil && e.value == 13
	})
	cancel()
	<-done
	if v := last(`page.views{site="a"}`); v != 13 {
		t.Errorf("after the end: %v", v)
	}
}

func TestConfig(t *testing.T) {
	for text, wrong := range map[string]string{
		"{listen: \"udp://127.0.0.1:8125\", tokenFile: x, flushInterval: 1s, quantiles: [0.5]}": "",
		"{listen: \"udp://127.0.0.1:8125\"}":                                                    "tokenFile", "{flushInterval: 1ms}": "flushInterval", "{expire: 1s}": "expire", "{maxSeries: 0}": "maxSeries",
		"{timers: mean}": "timers", "{quantiles: [99]}": "quantiles",
	} {
		c := DefaultConfig()
		if err := yaml.Unmarshal([]byte(text), &c); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if err = c.Validate(); (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v, want %q", text, err, wrong)
		}
	}
}

// FuzzLine checks that no line makes the sums panic, and that each metric of a flush has labels.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"hits:1|c|@0.1|#host:web-1,beta", "g:-3|g", "t:1:2:3|ms", "u:x|s", "_e{5,4}:title|text", "_e{1,0}:a||h:b|#c:d,e|t:error", "_sc|check|2|d:1|#a:b|m:x|y", "g:1|g|T1656581400|#a:b", "a|b:c", ":|@", "x:1|h|c:1|#,,:,"} {
		f.Add([]byte(s))
	}
	a, _ := sums(f, nil)
	f.Fuzz(func(t *testing.T, line []byte) {
		if isEvent(line) {
			_, _ = parseEvent(line, a.now())
		}
		_ = a.add(line)
		for _, p := range a.flush(1) {
			if p.labels.Get(kemi.MetricName) == "" {
				t.Errorf("%q: a metric without a name: %v", line, p.labels)
			}
		}
		clear(a.byName)
		clear(a.byKey)
	})
}

func BenchmarkAdd(b *testing.B) {
	a, _ := sums(b, nil)
	lines := make([][]byte, 1000)
	for i := range lines {
		lines[i] = fmt.Appendf(nil, "page.views.total:%d|c|#host:web-%d,env:prod,service:pay,region:kr", i, i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := a.add(lines[i%len(lines)]); err != nil {
			b.Fatal(err)
		}
	}
}
