package settled

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"kemi"
)

// workload is series of one kind, to see what they take on disk.
type workload struct {
	name            string
	series, samples int
	next            func(r *rand.Rand, at int64) int64
	values          string // of shapes, or else
	step            func(r *rand.Rand, v float64) float64
	month           bool // a block of 30 days, which has more rollups
}

func every(ms int64) func(*rand.Rand, int64) int64 {
	return func(_ *rand.Rand, at int64) int64 { return at + ms }
}

func decimals(n int) func(r *rand.Rand, v float64) float64 {
	p := math.Pow10(n)
	return func(r *rand.Rand, v float64) float64 { return math.Round((v+r.NormFloat64())*p) / p }
}

var workloads = append([]workload{
	{name: "counters", series: 200, samples: 5760, next: every(15_000), values: "counter"},
	{name: "gauges, 1 decimal", series: 200, samples: 5760, next: every(15_000), step: decimals(1)},
	{name: "gauges, 2 decimals", series: 200, samples: 5760, next: every(15_000), step: decimals(2)},
	{name: "gauges, 4 decimals", series: 200, samples: 5760, next: every(15_000), step: decimals(4)},
	{name: "gauges, 2 decimals, once a minute", series: 200, samples: 5760, next: every(60_000), step: decimals(2)},
	{name: "full mantissa, noise", series: 200, samples: 5760, next: every(15_000), step: func(r *rand.Rand, _ float64) float64 { return r.NormFloat64() * 100 }},
	{name: "full mantissa, walk", series: 200, samples: 5760, next: every(15_000), step: func(r *rand.Rand, v float64) float64 { return v + r.NormFloat64() }},
	{name: "float32", series: 200, samples: 5760, next: every(15_000), values: "float32"},
	{name: "latencies in ns", series: 200, samples: 5760, next: every(15_000), step: func(r *rand.Rand, _ float64) float64 {
		return math.Round(math.Exp(r.NormFloat64())*1e6) / 1e9
	}},
	{name: "mostly zero", series: 200, samples: 5760, next: every(15_000), step: func(r *rand.Rand, _ float64) float64 { return float64(r.IntN(50) / 49 * r.IntN(20)) }},
	{name: "jitter of 20 ms", series: 200, samples: 5760, next: func(r *rand.Rand, at int64) int64 { return at - at%15_000 + 15_000 + r.Int64N(20) }, step: decimals(2)},
	{name: "irregular times", series: 200, samples: 5760, next: func(r *rand.Rand, at int64) int64 { return at + 1 + int64(r.ExpFloat64()*15_000) }, step: decimals(2)},
	{name: "sparse, 10 samples a series", series: 20_000, samples: 10, next: every(15_000), step: decimals(2)},
}, longWorkloads()...)

// longWorkloads are many series for 12 hours, and fewer for 30 days, once a minute: settled blocks become no longer.
func longWorkloads() (out []workload) {
	for _, w := range []workload{
		{name: "integer gauges", step: func(r *rand.Rand, v float64) float64 { return math.Round(v + r.NormFloat64()*20) }},
		{name: "1 decimal", step: decimals(1)},
		{name: "2 decimals", step: decimals(2)},
		{name: "3 decimals", step: decimals(3)},
		{name: "counters with jitter", values: "counter"},
		{name: "random", step: func(r *rand.Rand, _ float64) float64 { return r.Float64() }},
		{name: "mostly constant", step: func(r *rand.Rand, v float64) float64 {
			if r.IntN(200) == 0 {
				return float64(r.IntN(100))
			}
			return v
		}},
	} {
		jitter := w.values == "counter"
		times := func(step int64) func(*rand.Rand, int64) int64 {
			if jitter {
				return func(r *rand.Rand, at int64) int64 { return at - at%step + step + r.Int64N(200) }
			}
			return every(step)
		}
		day, month := w, w
		day.name, day.series, day.samples, day.next = "12 h, "+w.name, 1000, 2880, times(15_000)
		month.name, month.series, month.samples, month.next, month.month = "30 d, "+w.name, 100, 43_200, times(60_000), true
		out = append(out, day, month)
	}
	return out
}

func (w *workload) make() []Series {
	out := make([]Series, w.series)
	for i := range out {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		s := &out[i]
		s.Project, s.Labels = "p", kemi.LabelsOf(kemi.MetricName, "m", "host", fmt.Sprintf("host_%05d", i), "job", "node", "zone", fmt.Sprint("z", i%3))
		if w.values != "" {
			s.Values = shapes[w.values](r, w.samples)
		} else {
			s.Values = walk(w.samples, func(v float64) float64 { return w.step(r, v) })
		}
		at := int64(1_764_000_000_000) + r.Int64N(15_000)
		for range w.samples {
			s.At = append(s.At, kemi.Millis(at))
			at = w.next(r, at)
		}
	}
	return out
}

// BenchmarkSize reports bytes a sample, index included. With KEMI_BENCH_VICTORIAMETRICS=/path/to/victoria-metrics it puts the same samples into
// one, has it merge all, and reports its bytes, too.
func BenchmarkSize(b *testing.B) {
	for _, load := range workloads {
		b.Run(load.name, func(b *testing.B) {
			series := load.make()
			for i := 0; b.Loop(); i++ {
				o := DefaultOptions()
				if load.month {
					o.MinNarrow = 12
				}
				w, err := Create(filepath.Join(b.TempDir(), "block"), o)
				if err != nil {
					b.Fatal(err)
				}
				for j := range series {
					if err := w.Add(&series[j]); err != nil {
						b.Fatal(err)
					}
				}
				m, err := w.Close(nil)
				if err != nil {
					b.Fatal(err)
				}
				n := float64(m.Samples)
				b.ReportMetric(float64(m.Bytes)/n, "B/sample")
				b.ReportMetric(float64(m.RollupBytes)/n, "rollup-B/sample")
			}
			b.ReportMetric(0, "ns/op")
			if program := os.Getenv("KEMI_BENCH_VICTORIAMETRICS"); program != "" {
				b.ReportMetric(victoriaMetrics(b, program, series), "VM-B/sample")
			}
		})
	}
}

var (
	vmBytes = regexp.MustCompile(`(?m)^vm_data_size_bytes\{.*\} (\S+)$`)
	vmRows  = regexp.MustCompile(`(?m)^vm_rows\{type="storage/.*\} (\S+)$`)
)

func victoriaMetrics(b *testing.B, program string, series []Series) float64 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(b.Context())
	cmd := exec.CommandContext(ctx, program, "-storageDataPath="+b.TempDir(), "-httpListenAddr="+addr, "-retentionPeriod=100y", "-memory.allowedPercent=10")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	ask := func(path string, body io.Reader) (string, error) {
		resp, err := http.Post("http://"+addr+path, "", body)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if resp.StatusCode/100 != 2 {
			err = fmt.Errorf("%s: %s: %s", path, resp.Status, text)
		}
		return string(text), err
	}
	for i := 0; ; i++ {
		if _, err := ask("/health", nil); err == nil {
			break
		} else if i == 100 {
			b.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	var buf bytes.Buffer
	for _, s := range series {
		fmt.Fprintf(&buf, `{"metric":%s,"values":[`, strings.ReplaceAll(mustJSON(s.Labels), "\n", ""))
		for i, v := range s.Values {
			buf.WriteString([]string{",", ""}[b2i(i == 0)] + strconv.FormatFloat(v, 'g', -1, 64))
		}
		buf.WriteString(`],"timestamps":[`)
		for i, at := range s.At {
			buf.WriteString([]string{",", ""}[b2i(i == 0)] + strconv.FormatInt(int64(at), 10))
		}
		buf.WriteString("]}\n")
	}
	for _, path := range []string{"/api/v1/import", "/internal/force_flush", "/internal/force_merge"} {
		if _, err := ask(path, &buf); err != nil {
			b.Fatal(err)
		}
	}
	total := func(re *regexp.Regexp, text string) (sum float64) {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			f, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += f
		}
		return sum
	}
	least := math.Inf(1)
	for range 12 { // it merges in the background
		time.Sleep(250 * time.Millisecond)
		text, err := ask("/metrics", nil)
		if err != nil {
			b.Fatal(err)
		}
		least = min(least, total(vmBytes, text)/total(vmRows, text))
	}
	return least
}

func mustJSON(ls kemi.Labels) string {
	t, err := ls.MarshalJSON()
	if err != nil {
		panic(err)
	}
	return string(t)
}

func b2i(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
