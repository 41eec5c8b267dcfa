//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestAgentScrapes has an agent scrape an exporter that counts how often it is asked. The server is killed meanwhile: each scrape is there in the end.
func TestAgentScrapes(t *testing.T) {
	var asked atomic.Int64
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE asked_total counter\nasked_total %d\n", asked.Add(1))
	}))
	defer exporter.Close()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	s := startServer(t, data, "agent: {enabled: false}\n")
	jobs := filepath.Join(dir, "prometheus.yml")
	write(t, jobs, fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: shop\n  static_configs: [{targets: [%q]}]\n", exporter.Listener.Addr()))
	conf := filepath.Join(dir, "agent.yaml")
	write(t, conf, fmt.Sprintf("server: %s\ntokenFile: %s\nhostname: e2e-host\nlabels: {rack: r7}\nhost: {enabled: false}\njournal: false\nspool: {dir: %s}\nscrape: {configFile: %s, watchInterval: 500ms}\n",
		s.url, filepath.Join(data, "agent.token"), filepath.Join(dir, "spool"), jobs))
	spawn(t, nil, binary(t), "agent", "--config", conf)
	s.eventuallyIs(`up{job="shop",host="e2e-host",rack="r7"}`, "1")

	s.kill()
	before := asked.Load()
	eventually(t, 30*time.Second, "the exporter is scraped while the server is away", func() error {
		if n := asked.Load() - before; n < 8 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	away := asked.Load()
	s.start()
	eventually(t, time.Minute, "every scrape is there", func() error {
		got, err := s.value(`count_over_time(asked_total{host="e2e-host"}[10m])`)
		if err != nil {
			return err
		}
		last, err := s.value(`max_over_time(asked_total{host="e2e-host"}[10m])`)
		if err != nil {
			return err
		}
		if n, _ := strconv.ParseInt(last, 10, 64); n <= away || got != last {
			return fmt.Errorf("%s samples up to the %s. scrape; the server was away up to the %d.", got, last, away)
		}
		return nil
	})

	// Another job, while it runs.
	write(t, jobs, fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: again\n  static_configs: [{targets: [%q], labels: {host: other}}]\n", exporter.Listener.Addr()))
	s.eventuallyIs(`up{job="again",host="other",rack="r7"}`, "1")
}
