//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// value is the one value that an expression has now, or an error.
func (s *server) value(expr string) (string, error) {
	status, text, err := s.try("GET", "/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil || status != 200 {
		return "", fmt.Errorf("%s: %d %v %.300s", expr, status, err, text)
	}
	var v struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return "", err
	}
	if n := len(v.Data.Result); n != 1 {
		return "", fmt.Errorf("%s has %d values", expr, n)
	}
	return fmt.Sprint(v.Data.Result[0].Value[1]), nil
}

func (s *server) eventuallyIs(expr, want string) {
	s.t.Helper()
	eventually(s.t, time.Minute, expr+" is "+want, func() error {
		got, err := s.value(expr)
		if err == nil && got != want {
			err = fmt.Errorf("it is %s", got)
		}
		return err
	})
}

// TestScrapeProcesses scrapes Debian's Prometheus and the server itself. The server is killed, and has what it scraped; Prometheus is killed,
// and is down; SIGHUP brings a changed configuration.
func TestScrapeProcesses(t *testing.T) {
	dir := t.TempDir()
	target := freeAddr(t)
	write(t, filepath.Join(dir, "target.yml"), "global: {scrape_interval: 1h}\n")
	prom := spawn(t, nil, "prometheus", "--config.file="+filepath.Join(dir, "target.yml"), "--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--web.listen-address="+target)
	conf := filepath.Join(dir, "prometheus.yml")
	job := func(name string) string {
		return fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: %s\n  static_configs: [{targets: [%q]}]\n", name, target)
	}
	write(t, conf, job("prometheus"))
	data := filepath.Join(dir, "data")
	// Its own address is known only once it listens: the job for itself comes with the first SIGHUP.
	s := startServer(t, data, "scrape: {configFile: "+conf+", watchInterval: 0s}\nagent: {enabled: false}\n")
	s.eventuallyIs(`up{job="prometheus"}`, "1")
	s.eventuallyIs(`count(prometheus_build_info{job="prometheus"})`, "1")
	seen, err := s.value(`count(last_over_time({job="prometheus"}[1h]))`)
	if err != nil {
		t.Fatal(err)
	}
	s.kill()
	if err := os.WriteFile(conf, []byte("scrape_configs: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.eventuallyIs(`count(last_over_time({job="prometheus"}[1h])) >= bool `+seen, "1")
	write(t, conf, job("again")+fmt.Sprintf("- job_name: self\n  authorization: {credentials_file: %q}\n  static_configs: [{targets: [%q]}]\n", filepath.Join(data, "admin.token"), s.addr))
	s.signal(syscall.SIGHUP)
	s.eventuallyIs(`up{job="again"}`, "1")
	s.eventuallyIs(`up{job="self"}`, "1")
	s.eventuallyIs(`sum(kemi_scrape_commits_total{job="self",result="durable"}) > bool 0`, "1")
	prom.kill()
	s.eventuallyIs(`up{job="again"}`, "0")
	eventually(t, time.Minute, "its series have ended", func() error {
		if got, err := s.value(`count({job="again",__name__=~"prometheus_.*"}) or vector(0)`); err != nil || got != "0" {
			return fmt.Errorf("%s %v", got, err)
		}
		return nil
	})
	s.must("GET", "/api/v1/targets", nil)
}
