package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// TestScrape scrapes a program with native histograms into a running server, by a file that changes; then the program is gone.
func TestScrape(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "request_seconds", Help: "Requests.", NativeHistogramBucketFactor: 1.1})
	n := prometheus.NewCounter(prometheus.CounterOpts{Name: "requests_total", Help: "Requests."})
	reg.MustRegister(h, n)
	for i := range 100 {
		h.(prometheus.ExemplarObserver).ObserveWithExemplar(float64(i), prometheus.Labels{"trace_id": fmt.Sprint(i)})
	}
	n.Add(7)
	var gone atomic.Bool
	program := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gone.Load() {
			http.Error(w, "gone", http.StatusBadGateway)
			return
		}
		program.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	conf := filepath.Join(dir, "prometheus.yml")
	write := func(job string) {
		text := fmt.Sprintf("global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n  - job_name: %s\n    scrape_native_histograms: true\n    static_configs: [{targets: [%q]}]\n", job, srv.Listener.Addr())
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	c := config(t)
	c.Scrape.ConfigFile, c.Scrape.WatchInterval = conf, 200*time.Millisecond
	a := start(t, c)
	value := func(expr, want string) func() bool {
		return func() bool {
			v := instant(t, a, expr)
			return want == "" && len(v) == 0 || len(v) == 1 && v[0] == want
		}
	}
	eventually(t, "it is up", value(`up{job="first"}`, "1"))
	eventually(t, "the counter", value(`requests_total{job="first"}`, "7"))
	eventually(t, "the native histogram", value(`histogram_count(request_seconds{job="first"})`, "100"))
	if v := instant(t, a, `histogram_quantile(0.5, request_seconds)`); len(v) != 1 || !strings.HasPrefix(v[0], "4") && !strings.HasPrefix(v[0], "5") {
		t.Errorf("the median of 0 to 99 is %v", v)
	}
	for path, want := range map[string]string{
		"/api/v1/targets": `"health":"up"`, "/api/v1/scrape_pools": `{"status":"success","data":{"scrapePools":["first"]}}`,
		"/api/v1/targets/metadata?metric=requests_total": `"type":"counter","help":"Requests."`,
		"/api/v1/metadata?metric=request_seconds":        `"type":"histogram"`,
	} {
		if code, text := get(t, a, path, a.AdminToken); code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	eventually(t, "the exemplars, which follow their samples", func() bool {
		code, text := get(t, a, "/api/v1/query_exemplars?query=request_seconds&start=0&end=9999999999", a.AdminToken)
		return code == http.StatusOK && strings.Contains(text, `"trace_id"`)
	})
	write("second")
	eventually(t, "the changed file holds", value(`up{job="second"}`, "1"))
	gone.Store(true)
	eventually(t, "it is down", value(`up{job="second"}`, "0"))
	eventually(t, "its series end", value(`requests_total{job="second"}`, ""))
	eventually(t, "its histograms end", value(`request_seconds{job="second"}`, ""))
}
