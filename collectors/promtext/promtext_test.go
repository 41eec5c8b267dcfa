package promtext

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

const now = 1777777777000

func open(t testing.TB) *collectortest.House {
	h := collectortest.Open(t, nil)
	h.Serve(New(h.Push, func() time.Time { return time.UnixMilli(now) }).Routes())
	return h
}

func TestImport(t *testing.T) {
	for name, c := range map[string]struct {
		query, kind, body string
		want              []string
	}{
		"plain":       {"", "", "a 1\nb{x=\"y\"} 2.5 1777777770123\r\n\n# comment\nc{x=\"y\",} 3 1777777770000", []string{`a 1 @1777777777000`, `b{x="y"} 2.5 @1777777770123`, `c{x="y"} 3 @1777777770000`}},
		"openmetrics": {"", "application/openmetrics-text; version=1.0.0", "a_total 1 1777777770.5\na_total 2 1777777771\n# EOF\n", []string{`a_total 1 @1777777770500`, `a_total 2 @1777777771000`}},
		"blanks":      {"", "", " a  {  x = \"y\" , z=\"\" }  1e3\t1777777770000 ", []string{`a{x="y"} 1000 @1777777770000`}},
		"values":      {"", "", "a +Inf 1777777770000\nb -Inf 1777777770000\nc NaN 1777777770000\nd 0x10p0 1777777770000", []string{`a +Inf @1777777770000`, `b -Inf @1777777770000`, `c NaN @1777777770000`, `d 16 @1777777770000`}},
		"escapes":     {"", "", `a{p="C:\\dir\\",q="say \"hi\"\n",r="} 5 {"} 1`, []string{`a{p="C:\\dir\\",q="say \"hi\"\n",r="} 5 {"} 1 @1777777777000`}},
		"UTF-8":       {"", "", `{"my.metric","한 글"="값",b="c"} 1` + "\n서비스{이름=\"결제\"} 2", []string{`my.metric{b="c",한 글="값"} 1 @1777777777000`, `서비스{이름="결제"} 2 @1777777777000`}},
		"parameters":  {"?timestamp=1777777771000&extra_label=job=x&extra_label=a=b", "", "m{a=\"mine\"} 1\nm{c=\"d\"} 2 1777777770000", []string{`m{a="b",job="x"} 1 @1777777771000`, `m{a="b",c="d",job="x"} 2 @1777777770000`}},
		"nothing":     {"", "text/plain; version=0.0.4", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			for range 2 {
				if status, text, _ := h.Post("/api/v1/import/prometheus"+c.query, []byte(c.body), "Content-Type", c.kind); status != 204 || text != "" {
					t.Fatalf("%d %s", status, text)
				}
			}
			h.Expect(append(append([]string(nil), c.want...), c.want...)...)
		})
	}
}

func TestMetadataAndExemplars(t *testing.T) {
	h := open(t)
	body := `# HELP http_requests Requests \\ by path.\nAll.
# TYPE http_requests counter
# UNIT http_requests requests
http_requests_total{path="/"} 5 1777777770 # {trace_id="1f"} 0.5 1777777769.5
# TYPE d histogram
d_bucket{le="1"} 3 1777777770 # {span_id="2"} 0.7
# EOF
`
	for range 2 {
		if status, text, _ := h.Post("/api/v1/import/prometheus", []byte(body), "Content-Type", "application/openmetrics-text"); status != 204 {
			t.Fatalf("%d %s", status, text)
		}
	}
	b := h.Batches()
	c := b[0].Complex
	if fmt.Sprint(c.Metadata) != fmt.Sprint([]codec.Metadata{
		{Metric: "http_requests", Type: "counter", Unit: "requests", Help: "Requests \\ by path.\nAll."}, {Metric: "d", Type: "histogram"},
	}) {
		t.Errorf("metadata %+v", c.Metadata)
	}
	if len(c.Exemplars) != 2 || c.Exemplars[0].At != 1777777769500 || c.Exemplars[0].Value != 0.5 || c.Exemplars[0].Labels.Get("trace_id") != "1f" || c.Exemplars[1].At != 1777777770000 {
		t.Errorf("exemplars %+v", c.Exemplars)
	}
	if len(b[1].Complex.Metadata) != 0 {
		t.Errorf("told again: %+v", b[1].Complex.Metadata)
	}
}

// TestRefuses sends each bad line between two good ones: those are kept, and the answer says what is wrong with which line.
func TestRefuses(t *testing.T) {
	for line, why := range map[string]string{
		"a": "no value", "a{": "must be", "a{x=\"y\"": "must be", `a{x="y} 1`: "must be", "a x": "must be a number", "a 1 x": "milliseconds", "a 1 1.5": "milliseconds",
		"a 1 2 3": "after the time", "a{x=y} 1": "in quotes", `a{="y"} 1`: "without a name", `a{x="y" z="w"} 1`: "commas", `a{x="1",x="2"} 1`: "twice", `{x="y"} 1`: "has no name",
		`a{"b"} 1`: "two names", `a{x} 1`: "two names", `a{__name__="b"} 1`: "is the name", "a\xff 1": "UTF-8", "a 1_000": "must be a number", "a 1 5": "time must be between",
		"a 1 # x": "exemplar", `a 1 # {x="y"} z`: "exemplar", "a,b 1": "in quotes", `a{x="` + strings.Repeat("v", 20000) + `"} 1`: "value of 20000 bytes",
	} {
		t.Run(line[:min(len(line), 20)], func(t *testing.T) {
			h := open(t)
			status, text, _ := h.Post("/api/v1/import/prometheus", []byte("first 1 1777777770000\n"+line+"\nlast 2 1777777770000\n"))
			if status != 400 || !strings.Contains(text, "1 lines refused") || !strings.Contains(text, "line 2: ") || !strings.Contains(text, why) {
				t.Errorf("%d %s", status, text)
			}
			var rest []string
			for _, s := range h.Samples() {
				if strings.HasPrefix(s, "first") || strings.HasPrefix(s, "last") {
					rest = append(rest, s)
				}
			}
			if len(rest) != 2 {
				t.Errorf("stored %q", h.Samples())
			}
		})
	}
}

// TestWithoutItsEnd: OpenMetrics that does not end with # EOF may have been cut short: it is stored, but not answered as if it were whole.
func TestWithoutItsEnd(t *testing.T) {
	for _, body := range []string{"a_total 1 1777777770\n", "a_total 1 1777777770\n# EO"} {
		h := open(t)
		status, text, _ := h.Post("/api/v1/import/prometheus", []byte(body), "Content-Type", "application/openmetrics-text; version=1.0.0")
		if status != 400 || !strings.Contains(text, "1 samples stored") || !strings.Contains(text, "without # EOF") {
			t.Errorf("%d %s", status, text)
		}
		h.Expect(`a_total 1 @1777777770000`)
	}
}

// endless is a body of n lines that is made as it is read.
type endless struct {
	n, i int
	buf  []byte
}

func (e *endless) Read(b []byte) (int, error) {
	for len(e.buf) < len(b) && e.i < e.n {
		e.buf = fmt.Appendf(e.buf, "m{host=\"web-%d\",dc=\"icn1\"} %d %d\n", e.i%100, e.i, 1700000000000+int64(e.i))
		e.i++
	}
	if len(e.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, e.buf)
	e.buf = e.buf[:copy(e.buf, e.buf[n:])]
	return n, nil
}

// TestLargeBody sends ten times what a body may have elsewhere and all requests together may take: the memory does not grow with it.
func TestLargeBody(t *testing.T) {
	h := collectortest.Open(t, func(o *push.Options) {
		o.Config.MaxBodyBytes, o.Config.MaxDecodedBytes, o.Config.MemoryBytes = 1<<20, 1<<20, held+1
	})
	r := New(h.Push, time.Now)
	h.Serve(r.Routes())
	const n = 250_000
	var most uint64
	sampled := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(sampled)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	status, text, _ := h.Do(http.MethodPost, "/api/v1/import/prometheus", &endless{n: n})
	close(stop)
	<-sampled
	if status != 204 {
		t.Fatalf("%d %s", status, text)
	}
	got := 0
	for _, b := range h.Batches() {
		got += len(b.At)
	}
	if got != n {
		t.Errorf("%d samples", got)
	}
	if most > 200<<20 {
		t.Errorf("%d MiB of heap in use", most>>20)
	}
}

// TestSeriesLimit has no room for the second of two series: the first is stored, and the answer is 429.
func TestSeriesLimit(t *testing.T) {
	h := collectortest.Open(t, func(o *push.Options) { o.Series = &collectortest.Full{Left: 1} })
	h.Serve(New(h.Push, time.Now).Routes())
	status, text, header := h.Post("/api/v1/import/prometheus", []byte("a 1 1777777770000\nb 1 1777777770000\na 2 1777777771000"))
	if status != 429 || header.Get("Retry-After") != "60" || !strings.Contains(text, "limit of series of project shop") {
		t.Errorf("%d %s %v", status, text, header)
	}
	h.Expect(`a 1 @1777777770000`, `a 2 @1777777771000`)
	if status, text, _ = h.Post("/api/v1/import/prometheus", []byte("b 1 1777777770000\nc x")); status != 400 {
		t.Errorf("%d %s", status, text)
	}
}

func TestBroken(t *testing.T) {
	h := open(t)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprint(z, "a 1 1777777770000\n")
	_ = z.Close()
	if status, text, _ := h.Post("/api/v1/import/prometheus", b.Bytes(), "Content-Encoding", "gzip"); status != 204 {
		t.Errorf("%d %s", status, text)
	}
	h.Expect(`a 1 @1777777770000`)
	for _, c := range []struct {
		body     []byte
		kind     string
		encoding string
		status   int
	}{
		{[]byte("a 1"), "", "gzip", 400}, {b.Bytes()[:b.Len()-9], "", "gzip", 400}, {[]byte("a 1"), "", "br", 415}, {[]byte("a 1"), "application/json", "", 415},
		{[]byte(strings.Repeat("x", 3<<20) + "\nb 1\n"), "", "", 400},
	} {
		if status, text, _ := h.Post("/api/v1/import/prometheus", c.body, "Content-Type", c.kind, "Content-Encoding", c.encoding); status != c.status {
			t.Errorf("%q %s: %d %s", c.kind, c.encoding, status, text)
		}
	}
	for _, q := range []string{"timestamp=x", "extra_label=x", "extra_label=__name__=x"} {
		if status, _, _ := h.Post("/api/v1/import/prometheus?"+q, []byte("a 1")); status != 400 {
			t.Errorf("%s: %d", q, status)
		}
	}
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "disk full"))
	if status, _, _ := h.Post("/api/v1/import/prometheus", []byte("never 1")); status != 503 {
		t.Errorf("not durable: %d", status)
	}
	h.Fault.Set(nil)
	for _, s := range h.Samples() {
		if strings.HasPrefix(s, "never") {
			t.Error(s)
		}
	}
}

// FuzzParse holds the parser against Prometheus' own: what that takes, this one takes, with the same labels, value and time.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`a 1`, `b{x="y",} 2.5 177`, `{"my.metric",b="c\"\\\n"} NaN -5`, `a{x="}"} +Inf`, "a\t{ x = \"1\" } 1", `a{x="a",x="b"} 1`, `a 1 # {x="y"} 2`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.ContainsAny(line, "\n\r#\x00") || len(bytes.TrimSpace(line)) == 0 || !utf8.Valid(line) || line[0] == '\t' || line[0] == ' ' {
			return
		}
		s, err := Parse(bytes.TrimRight(trim(line), " \t"), Prometheus)
		var ls kemi.Labels
		if err == nil {
			ls, err = ParseSeries(nil, s.Series)
		}
		p := textparse.NewPromParser(append(bytes.Clone(line), '\n'), labels.NewSymbolTable(), false)
		e, theirs := p.Next()
		if theirs != nil || e != textparse.EntrySeries {
			return
		}
		var want labels.Labels
		p.Labels(&want)
		if want.Get("__name__") == "" || bytes.Contains(line, []byte("__name__")) {
			return
		}
		if _, dup := want.HasDuplicateLabelNames(); dup {
			return
		}
		_, at, v := p.Series()
		if err != nil {
			if bytes.ContainsAny(line, "_") && strings.Contains(err.Error(), "value") {
				return // 1_000 is a number to Go, and not to us
			}
			t.Fatalf("%q: %v", line, err)
		}
		if math.Float64bits(v) != math.Float64bits(s.Value) && !(math.IsNaN(v) && math.IsNaN(s.Value)) || (at != nil) != s.HasTime || at != nil && *at != int64(s.At) {
			t.Errorf("%q: %v %v, want %v %v", line, s.Value, s.At, v, at)
		}
		got := kemi.Labels{}
		want.Range(func(l labels.Label) { got = append(got, kemi.Label{Name: l.Name, Value: l.Value}) })
		if ls = ls.Normalize(); ls.Compare(got.Normalize()) != 0 {
			t.Errorf("%q: %v, want %v", line, ls, got)
		}
	})
}

func BenchmarkImport(b *testing.B) {
	h := collectortest.Open(b, nil)
	var body bytes.Buffer
	const n = 2000
	for i := range n {
		fmt.Fprintf(&body, "node_cpu_seconds_total{cpu=\"%d\",mode=\"idle\",instance=\"10.0.0.%d:9100\",job=\"node\",dc=\"icn1\"} %d.25 1777777770000\n", i%16, i/16, i)
	}
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for b.Loop() {
		out, _ := h.Push.Begin(h.ID, protocol, "", "bench")
		p := &importer{out: out, now: now, seed: seed, families: map[string]*family{}}
		if err := p.read(b.Context(), bytes.NewReader(body.Bytes())); err != nil || p.good != n {
			b.Fatal(err, p.good, p.errs)
		}
		out.Take()
		out.End()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/sample")
}
