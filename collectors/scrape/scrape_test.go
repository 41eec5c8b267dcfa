package scrape

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/model/value"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/pipeline/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// taken is what the log was given, decoded as the pipeline does it.
type taken struct {
	mu      sync.Mutex
	batches []*codec.SeriesBatch
	table   *codec.Table
}

func (k *taken) write(_ context.Context, id kemi.Identity, body []byte) error {
	if !id.Can(kemi.MetricsWrite) {
		return fmt.Errorf("%v may not write", id)
	}
	in, err := k.table.Receive(id.Project, true, body, codec.Limits{
		MaxDecodedBytes: 64 << 20, MaxLabels: 64, MaxLabelNameBytes: 1 << 10, MaxLabelValueBytes: 16 << 10, Newest: math.MaxInt64,
	})
	if err != nil {
		return err
	}
	if in.Refused.Any() {
		return in.Refused.Errors[0]
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.batches = append(k.batches, in.Batch)
	return nil
}

type found struct {
	labels  kemi.Labels
	project string
	at      kemi.Millis
	value   float64
	start   kemi.Millis
	h       *codec.Histogram
}

// find is all samples of series with these labels, in order.
func (k *taken) find(pairs ...string) []found {
	k.mu.Lock()
	defer k.mu.Unlock()
	want := kemi.LabelsOf(pairs...)
	var out []found
	for _, b := range k.batches {
		for i := range b.Series {
			ls := b.Labels(i)
			if slices.ContainsFunc(want, func(l kemi.Label) bool { return ls.Get(l.Name) != l.Value }) {
				continue
			}
			from, to := b.Span(i)
			for j := from; j < to; j++ {
				f := found{labels: ls, project: b.Project, at: b.At[j], value: b.Values[j]}
				if b.Complex != nil && j < len(b.Complex.Starts) {
					f.start = b.Complex.Starts[j]
				}
				out = append(out, f)
			}
			if b.Complex != nil {
				for x := range b.Complex.Histograms {
					if h := &b.Complex.Histograms[x]; int(h.Series) == i {
						out = append(out, found{labels: ls, project: b.Project, at: h.At, start: h.Start, h: h})
					}
				}
			}
		}
	}
	return out
}

func (k *taken) last(pairs ...string) (found, bool) {
	all := k.find(pairs...)
	if len(all) == 0 {
		return found{}, false
	}
	return all[len(all)-1], true
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: %s", what)
		}
	}
}

// start scrapes with a configuration in YAML until the test ends.
func start(t *testing.T, text string) (*Scraper, *taken) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.WatchInterval = 100 * time.Millisecond
	if err := yaml.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	return startWith(t, Options{Config: cfg})
}

func startWith(t *testing.T, o Options) (*Scraper, *taken) {
	t.Helper()
	if err := o.Config.Validate(); err != nil {
		t.Fatal(err)
	}
	k := &taken{table: codec.NewTable(nil, time.Now)}
	o.Write, o.Log, o.Registerer, o.Now, o.settle = k.write, slog.New(slog.NewTextHandler(testLog{t}, nil)), prometheus.NewRegistry(), time.Now, 20*time.Millisecond
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return s, k
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// page is a target whose text can be changed.
type page struct {
	*httptest.Server
	text   atomic.Pointer[string]
	header string
}

func newPage(t *testing.T, contentType, text string) *page {
	t.Helper()
	p := &page{header: contentType}
	p.set(text)
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Server.Close)
	return p
}

func (p *page) serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", p.header)
	_, _ = io.WriteString(w, *p.text.Load())
}

func (p *page) set(text string) { p.text.Store(&text) }
func (p *page) addr() string    { return p.Listener.Addr().String() }

const (
	plain       = "text/plain; version=0.0.4"
	openMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// TestScrape reads everything that OpenMetrics can say.
func TestScrape(t *testing.T) {
	p := newPage(t, openMetrics, `# TYPE foo counter
# HELP foo What was counted.
foo_total{a="b"} 17.0 # {trace_id="abc"} 0.5 1700000000.000
foo_created{a="b"} 1700000000.123
# TYPE temperature_celsius gauge
# UNIT temperature_celsius celsius
temperature_celsius NaN
# EOF
`)
	_, k := start(t, `{scrapeConfigs: [{job_name: j, scrape_interval: 100ms, scrape_timeout: 100ms, static_configs: [{targets: ["`+p.addr()+`"], labels: {dc: x}}]}]}`)
	eventually(t, "a scrape", func() bool { x, _ := k.last("__name__", "up"); return x.value == 1 })
	foo, ok := k.last("__name__", "foo_total", "a", "b", "job", "j", "instance", p.addr(), "dc", "x")
	if !ok || foo.value != 17 || foo.start != 1700000000123 || foo.project != "default" {
		t.Errorf("foo_total: %+v", foo)
	}
	if x, ok := k.last("__name__", "foo_created"); ok {
		t.Errorf("foo_created is a series, too: %+v", x)
	}
	if x, ok := k.last("__name__", "temperature_celsius"); !ok || !math.IsNaN(x.value) || value.IsStaleNaN(x.value) {
		t.Errorf("temperature_celsius: %+v", x)
	}
	for name, want := range map[string]float64{"up": 1, "scrape_samples_scraped": 2, "scrape_samples_post_metric_relabeling": 2} {
		if x, ok := k.last("__name__", name, "job", "j", "dc", "x"); !ok || x.value != want {
			t.Errorf("%s: %+v, want %v", name, x, want)
		}
	}
	if x, ok := k.last("__name__", "scrape_duration_seconds"); !ok || x.value <= 0 || x.value > 10 {
		t.Errorf("scrape_duration_seconds: %+v", x)
	}
	var exemplars []codec.Exemplar
	metadata := map[string]codec.Metadata{}
	k.mu.Lock()
	for _, b := range k.batches {
		if b.Complex != nil {
			exemplars = append(exemplars, b.Complex.Exemplars...)
			for _, m := range b.Complex.Metadata {
				metadata[m.Metric] = m
			}
		}
	}
	k.mu.Unlock()
	if len(exemplars) == 0 || exemplars[0].Value != 0.5 || exemplars[0].At != 1700000000000 || exemplars[0].Labels.Get("trace_id") != "abc" {
		t.Errorf("exemplars: %+v", exemplars)
	}
	if m := metadata["foo_total"]; m.Type != "counter" || m.Help != "What was counted." {
		t.Errorf("metadata of foo_total: %+v", m)
	}
	if m := metadata["temperature_celsius"]; m.Type != "gauge" || m.Unit != "celsius" {
		t.Errorf("metadata of temperature_celsius: %+v", m)
	}
}

// TestNativeHistogram reads protobuf from client_golang.
func TestNativeHistogram(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "request_seconds", Help: "h", NativeHistogramBucketFactor: 1.1})
	reg.MustRegister(h)
	for i := range 100 {
		h.(prometheus.ExemplarObserver).ObserveWithExemplar(float64(i)/10, prometheus.Labels{"trace_id": fmt.Sprint(i)})
	}
	srv := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	t.Cleanup(srv.Close)
	_, k := start(t, `{scrapeConfigs: [{job_name: j, scrape_interval: 100ms, scrape_timeout: 100ms, scrape_native_histograms: true, static_configs: [{targets: ["`+srv.Listener.Addr().String()+`"]}]}]}`)
	eventually(t, "a histogram", func() bool { _, ok := k.last("__name__", "request_seconds"); return ok })
	x, _ := k.last("__name__", "request_seconds")
	if x.h == nil || x.h.Count != 100 || math.Abs(x.h.Sum-495) > 1e-9 || len(x.h.PositiveDeltas) < 10 || x.start == 0 {
		t.Errorf("histogram: %+v", x)
	}
}

// TestVanish follows a series and a target that go away.
func TestVanish(t *testing.T) {
	p := newPage(t, plain, "a 1\nb 2\n")
	file := filepath.Join(t.TempDir(), "targets.json")
	list := func(addrs ...string) {
		b, _ := json.Marshal([]map[string][]string{{"targets": append([]string{}, addrs...)}})
		if err := os.WriteFile(file+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	list(p.addr())
	_, k := start(t, `{scrapeConfigs: [{job_name: j, scrape_interval: 100ms, scrape_timeout: 100ms, file_sd_configs: [{files: ["`+file+`"], refresh_interval: 100ms}]}]}`)
	stale := func(name string) bool {
		x, ok := k.last("__name__", name)
		return ok && value.IsStaleNaN(x.value)
	}
	eventually(t, "both series", func() bool { _, ok := k.last("__name__", "b"); return ok })
	p.set("a 3\n")
	eventually(t, "b is over", func() bool { return stale("b") })
	if stale("a") || stale("up") {
		t.Error("more than b is over")
	}
	p.set("this is not\nthe format {")
	eventually(t, "up is 0 and a is over", func() bool { x, _ := k.last("__name__", "up"); return x.value == 0 && stale("a") })
	p.set("a 4\n")
	eventually(t, "a is back", func() bool { x, _ := k.last("__name__", "a"); return x.value == 4 })
	list()
	eventually(t, "all is over", func() bool { return stale("a") && stale("up") && stale("scrape_duration_seconds") })
	list(p.addr())
	eventually(t, "a is back again", func() bool { x, _ := k.last("__name__", "a"); return x.value == 4 })
}

// TestComeBack is a target that is taken out and put in again at once: no marker may end its series afterwards.
func TestComeBack(t *testing.T) {
	n := newNewest(time.Now)
	app := &appendable{id: kemi.Identity{Project: "p"}, newest: n, write: func(context.Context, kemi.Identity, []byte) error { return nil }}
	one := testSeries("x", "1")
	a := app.AppenderV2(t.Context())
	ref, err := a.Append(0, one, 0, 1000, 1, nil, nil, noOptions)
	if err != nil || ref == 0 || a.Commit() != nil {
		t.Fatal(err)
	}
	a = app.AppenderV2(t.Context())
	if _, err := a.Append(ref, one, 0, 900, math.Float64frombits(value.StaleNaN), nil, nil, rejectOld); err == nil {
		t.Error("a marker before the newest sample was taken")
	}
	if _, err := a.Append(ref, one, 0, 1100, math.Float64frombits(value.StaleNaN), nil, nil, rejectOld); err != nil {
		t.Error(err)
	}
	_ = a.Rollback()
}

// TestDoor is what stands between the server and a target: TLS, passwords, tokens, a proxy, limits.
func TestDoor(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", plain)
		_, _ = fmt.Fprintf(w, "m{job=\"theirs\",l1=\"v\",l2=\"v\"} 1 %d\nn 2\n", time.Now().Add(-time.Hour).UnixMilli())
	}
	open := httptest.NewServer(http.HandlerFunc(page))
	basic := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "kim" || p != "s3cret" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		page(w, r)
	}))
	bearer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		page(w, r)
	}))
	bearer.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	var proxied atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "target.example:80" || r.URL.Host == "target.example" {
			proxied.Add(1)
			page(w, r)
			return
		}
		http.Error(w, "not for me: "+r.URL.String(), http.StatusBadGateway)
	}))
	for _, s := range []*httptest.Server{open, basic, bearer, proxy} {
		t.Cleanup(s.Close)
	}
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bearer.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	target := func(s *httptest.Server) string { u, _ := url.Parse(s.URL); return u.Host }
	_, k := start(t, fmt.Sprintf(`
global: {scrape_interval: 300ms, scrape_timeout: 300ms}
scrapeConfigs:
  - {job_name: basic, basic_auth: {username: kim, password_file: %[1]s}, static_configs: [{targets: [%[3]q]}]}
  - {job_name: nobasic, static_configs: [{targets: [%[3]q]}]}
  - {job_name: bearer, scheme: https, tls_config: {ca_file: %[2]s}, authorization: {credentials_file: %[1]s}, static_configs: [{targets: [%[4]q]}]}
  - {job_name: noca, scheme: https, authorization: {credentials_file: %[1]s}, static_configs: [{targets: [%[4]q]}]}
  - {job_name: proxy, proxy_url: %[5]q, static_configs: [{targets: ["target.example:80"]}]}
  - {job_name: samples, sample_limit: 1, static_configs: [{targets: [%[6]q]}]}
  - {job_name: labels, label_limit: 4, static_configs: [{targets: [%[6]q]}]}
  - {job_name: size, body_size_limit: 10B, static_configs: [{targets: [%[6]q]}]}
  - {job_name: honor, honor_labels: true, honor_timestamps: false, static_configs: [{targets: [%[6]q]}]}
  - {job_name: relabel, static_configs: [{targets: [%[6]q, "gone:1"]}], relabel_configs: [{source_labels: [__address__], regex: "gone.*", action: drop}], metric_relabel_configs: [{source_labels: [__name__], regex: n, action: drop}, {source_labels: [l1], target_label: l3}]}
`, secret, ca, target(basic), target(bearer), proxy.URL, target(open)))
	for job, up := range map[string]float64{
		"basic": 1, "nobasic": 0, "bearer": 1, "noca": 0, "proxy": 1, "samples": 0, "labels": 0, "size": 0, "honor": 1, "relabel": 1,
	} {
		t.Run(job, func(t *testing.T) {
			eventually(t, fmt.Sprintf("up is %v", up), func() bool { x, ok := k.last("__name__", "up", "job", job); return ok && x.value == up })
			// Of a scrape that succeeded; one that was too slow ends the series.
			first := func(pairs ...string) (found, bool) {
				if all := k.find(pairs...); len(all) > 0 {
					return all[0], true
				}
				return found{}, false
			}
			m, ok := first("__name__", "m", "exported_job", "theirs", "job", job)
			if job == "honor" {
				m, ok = first("__name__", "m", "job", "theirs")
				if age := time.Since(m.at.Time()); age > time.Minute {
					t.Errorf("the target's timestamp was honoured: %s old", age)
				}
			} else if age := time.Since(m.at.Time()); ok && age < 50*time.Minute {
				t.Errorf("the target's timestamp was not honoured: %s old", age)
			}
			if ok != (up == 1) {
				t.Errorf("has m: %v", ok)
			}
			if job == "relabel" {
				if _, has := k.last("__name__", "n", "job", job); has || m.labels.Get("l3") != "v" || len(k.find("__name__", "up", "instance", "gone:1")) > 0 {
					t.Errorf("not relabelled: n %v, %v", has, m.labels)
				}
			}
		})
	}
	if proxied.Load() == 0 {
		t.Error("the proxy was not asked")
	}
}
