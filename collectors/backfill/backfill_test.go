package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// server keeps what it is sent.
type server struct {
	mu      sync.Mutex
	table   *codec.Table
	samples []string
	last    map[string]kemi.Millis
	fail    func(n int) error // of the nth body
	n       int
	order   error
}

func newServer() *server {
	return &server{table: codec.NewTable(nil, time.Now), last: map[string]kemi.Millis{}}
}

func (s *server) send(_ context.Context, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if s.fail != nil {
		if err := s.fail(s.n); err != nil {
			return err
		}
	}
	b, err := s.table.Decode(&bus.Record{Value: body, Headers: []bus.Header{{Name: codec.HeaderType, Value: codec.RemoteWrite1}, {Name: codec.HeaderEncoding, Value: codec.EncodingSnappy}}})
	if err != nil {
		return err
	}
	for i := range b.Series {
		name := b.Labels(i).String()
		from, to := b.Span(i)
		for j := from; j < to; j++ {
			if b.At[j] < s.last[name] {
				s.order = fmt.Errorf("%s: %d after %d", name, b.At[j], s.last[name])
			}
			s.last[name] = b.At[j]
			s.samples = append(s.samples, fmt.Sprintf("%s %v @%d", name, b.Values[j], b.At[j]))
		}
	}
	return nil
}

func TestFormats(t *testing.T) {
	for name, c := range map[string]struct {
		format Format
		in     string
		want   []string
	}{
		"openmetrics": {Auto, "# TYPE a counter\na_total{x=\"y\"} 1 1777777770.5\nb 2 1777777771\n# EOF\n", []string{`{__name__="a_total", x="y"} 1 @1777777770500`, `{__name__="b"} 2 @1777777771000`}},
		"prometheus":  {Auto, "a{x=\"y\"} 1 1777777770500\n", []string{`{__name__="a", x="y"} 1 @1777777770500`}},
		"opentsdb":    {Auto, "put a.b 1777777770 1.5 host=web-1 dc=icn1\na.b 1777777771123 2 dc=icn1 host=web-1\n\nputs 1777777772 3 a=b", []string{`{__name__="a.b", dc="icn1", host="web-1"} 1.5 @1777777770000`, `{__name__="a.b", dc="icn1", host="web-1"} 2 @1777777771123`, `{__name__="puts", a="b"} 3 @1777777772000`}},
		"told":        {OpenTSDB, "m 1777777770 1", []string{`{__name__="m"} 1 @1777777770000`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer()
			var p Progress
			if err := Run(t.Context(), strings.NewReader(c.in), Options{Format: c.format, Send: s.send}, &p); err != nil {
				t.Fatal(err)
			}
			slices.Sort(s.samples)
			if !slices.Equal(s.samples, c.want) || p.Samples.Load() != int64(len(c.want)) || p.Durable.Load() != int64(len(c.in)) || p.Read.Load() != int64(len(c.in)) {
				t.Errorf("%q, %d samples, durable up to %d of %d", s.samples, p.Samples.Load(), p.Durable.Load(), len(c.in))
			}
		})
	}
}

func TestBadLines(t *testing.T) {
	s := newServer()
	var p Progress
	in := "a 1 1777777770\nb x 1\nc 1\nd{ 1 1\ne 2 1777777770\n"
	err := Run(t.Context(), strings.NewReader(in), Options{Format: OpenMetrics, Send: s.send}, &p)
	if !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "3 refused, all else is stored:\nline 2: ") || !strings.Contains(err.Error(), "line 3: no time") || len(s.samples) != 2 {
		t.Errorf("%v, stored %q", err, s.samples)
	}
	if p.Durable.Load() != int64(len(in)) || p.Refused.Load() != 3 {
		t.Errorf("durable %d, refused %d", p.Durable.Load(), p.Refused.Load())
	}
	err = Run(t.Context(), strings.NewReader(strings.Repeat("x", 3*lineBytes)+"\na 1 1777777771\n"), Options{Format: OpenMetrics, Send: s.send}, &Progress{})
	if !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "longer than") || len(s.samples) != 3 {
		t.Errorf("%v, stored %q", err, s.samples[2:])
	}
}

// TestBadLinesBeforeItBreaksOff: what ended it is the error, and nothing is said to be stored that is not.
func TestBadLinesBeforeItBreaksOff(t *testing.T) {
	s := newServer()
	s.fail = func(int) error { return kemi.Errorf(kemi.ErrDenied, "the token is not known") }
	var p Progress
	err := Run(t.Context(), strings.NewReader("a 1 1777777770\nb x 1\n"), Options{Format: OpenMetrics, Send: s.send}, &p)
	if !errors.Is(err, kemi.ErrDenied) || errors.Is(err, kemi.ErrInvalid) || p.Durable.Load() != 0 || strings.Contains(err.Error(), "stored") || !strings.Contains(err.Error(), "1 were refused before that:\nline 2: ") {
		t.Errorf("%v, durable %d", err, p.Durable.Load())
	}
}

// file is n samples of 10 series in the order of time.
func file(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "m{host=\"web-%d\"} %d %d\n", i%10, i, 1700000000+i/10)
	}
	return b.String()
}

// testWindow is small, for the tests' sake.
const testWindow = 20_000

// TestRetries lets every third body fail: all arrives, each series in the order of the file.
func TestRetries(t *testing.T) {
	s := newServer()
	s.fail = func(n int) error {
		if n%3 == 0 {
			return kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "busy"), time.Millisecond)
		}
		return nil
	}
	var p Progress
	const n = 3*testWindow + 17
	if err := Run(t.Context(), strings.NewReader(file(n)), Options{Format: OpenMetrics, Send: s.send, window: testWindow}, &p); err != nil {
		t.Fatal(err)
	}
	if len(s.samples) != n || s.order != nil || p.Retries.Load() == 0 {
		t.Errorf("%d samples, %v, %d retries", len(s.samples), s.order, p.Retries.Load())
	}
}

// TestGoesOn breaks off and goes on from where it was durable: then all is there.
func TestGoesOn(t *testing.T) {
	s := newServer()
	s.fail = func(n int) error {
		if n > 5 {
			return kemi.Errorf(kemi.ErrDenied, "the token is gone")
		}
		return nil
	}
	in := file(4 * testWindow)
	var p Progress
	err := Run(t.Context(), strings.NewReader(in), Options{Format: OpenMetrics, Send: s.send, Senders: 2, window: testWindow}, &p)
	if !errors.Is(err, kemi.ErrDenied) {
		t.Fatal(err)
	}
	at := p.Durable.Load()
	if at <= 0 || at >= int64(len(in)) || in[at-1] != '\n' {
		t.Fatalf("durable up to %d of %d", at, len(in))
	}
	s.fail = nil
	var rest Progress
	if err := Run(t.Context(), strings.NewReader(in), Options{Format: OpenMetrics, Send: s.send, Offset: at, window: testWindow}, &rest); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.samples)
	if got := len(slices.Compact(s.samples)); got != 4*testWindow || rest.Durable.Load() != int64(len(in)) {
		t.Errorf("%d samples, durable up to %d", got, rest.Durable.Load())
	}
}

func TestGivesUp(t *testing.T) {
	s := newServer()
	s.fail = func(int) error {
		return kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "too many series"), time.Millisecond)
	}
	if err := Run(t.Context(), strings.NewReader(file(10)), Options{Format: OpenMetrics, Send: s.send, RetryFor: 200 * time.Millisecond}, &Progress{}); !errors.Is(err, kemi.ErrLimited) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, strings.NewReader(file(10)), Options{Format: OpenMetrics, Send: s.send}, &Progress{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzLines(f *testing.F) {
	for _, s := range []string{"put a.b 1777777770 1.5 host=web-1", "a{x=\"y\"} 1 1777777770", "a 1 2", "put", "put  1 2 3"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(strings.Fields(string(line))) == 0 {
			return
		}
		for _, format := range []Format{guess(line), OpenTSDB, OpenMetrics, Prometheus} {
			if x, err := format.parse(slices.Clone(line)); err == nil {
				if ls, err := format.labels(x.series); err == nil && ls.Get(kemi.MetricName) == "" {
					t.Errorf("%q: no name", line)
				}
			}
		}
	})
}

func BenchmarkRun(b *testing.B) {
	const n = windowSamples
	in := file(n)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Run(b.Context(), strings.NewReader(in), Options{Format: OpenMetrics, Send: func(context.Context, []byte) error { return nil }}, &Progress{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/sample")
}
