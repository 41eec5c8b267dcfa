//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi/pipeline/storetest"
)

// needs finds a program of others that this test feeds from. Its absence is a failure where nothing may be skipped.
func needs(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		storetest.Absent(t, "%v; `make deps` installs it", err)
	}
	return p
}

// TestPrometheusAgent feeds KEMI from a Prometheus in agent mode that scrapes a target and the server itself.
func TestPrometheusAgent(t *testing.T) {
	program := needs(t, "prometheus")
	dir := t.TempDir()
	s := startServer(t, filepath.Join(dir, "data"), "agent: {enabled: false}\n")
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE shop_orders_total counter\nshop_orders_total{shop=\"서울\"} %d\n", time.Now().Unix())
	}))
	t.Cleanup(target.Close)
	conf := filepath.Join(dir, "prometheus.yml")
	write(t, conf, fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: shop
    static_configs: [{targets: [%q]}]
  - job_name: kemi
    authorization: {credentials_file: %s}
    static_configs: [{targets: [%q]}]
remote_write:
  - url: %s/api/v1/write
    authorization: {credentials_file: %s}
`, strings.TrimPrefix(target.URL, "http://"), filepath.Join(s.data, "admin.token"), s.addr, s.url, filepath.Join(s.data, "agent.token")))
	spawn(t, nil, program, "--enable-feature=agent", "--config.file="+conf, "--storage.agent.path="+filepath.Join(dir, "agent"), "--web.listen-address="+freeAddr(t))
	for _, q := range []string{`shop_orders_total{job="shop",shop="서울"}`, `up{job="kemi"} == 1`, `count({job="kemi"}) > 100`, `rate(shop_orders_total[10s]) > 0.5`} {
		eventually(t, 60*time.Second, q, func() error {
			status, text, err := s.try("POST", "/api/v1/query", "query="+strings.NewReplacer("+", "%2B", "&", "%26", " ", "+").Replace(q), "Content-Type", "application/x-www-form-urlencoded")
			if err != nil || status != http.StatusOK || !strings.Contains(text, `"value":[`) {
				return fmt.Errorf("%d %.300s %v", status, text, err)
			}
			return nil
		})
	}
	// The same by the slides' query.
	eventually(t, 20*time.Second, "the slides' query finds it", func() error {
		status, text, err := s.try("POST", "/api/v2/query", `{"start":"5m-ago","queries":[{"metric":"-","aggregator":"max","downsample":"15m-max","filters":[
			{"filter":"shop_orders_total","groupby":true,"tagk":"metric","type":"literal_or"},{"filter":"서울","groupby":true,"tagk":"shop","type":"literal_or"}]}]}`)
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s %v", status, text, err)
		}
		var out []series
		if err := decode(text, &out); err != nil || len(out) != 1 || out[0].Tags["shop"] != "서울" {
			return fmt.Errorf("%v %.300s", err, text)
		}
		return nil
	})
}

// TestSyslogNG feeds KEMI from syslog-ng's http() destination as JSON lines.
func TestSyslogNG(t *testing.T) {
	program := needs(t, "syslog-ng")
	dir := t.TempDir()
	s := startServer(t, filepath.Join(dir, "data"), "agent: {enabled: false}\n")
	token, err := os.ReadFile(filepath.Join(s.data, "agent.token"))
	if err != nil {
		t.Fatal(err)
	}
	logFile := filepath.Join(dir, "app.log")
	write(t, logFile, "")
	conf := filepath.Join(dir, "syslog-ng.conf")
	write(t, conf, fmt.Sprintf(`@version: 3.38
options { keep-hostname(yes); };
source s { file(%q follow-freq(0.2) flags(no-parse)); };
destination d { http(
  url("%s/api/v2/logs") method("POST")
  headers("Content-Type: application/x-ndjson", "Authorization: Bearer %s")
  body("$(format-json --scope none host=$HOST app=shop level=warn _msg=$MSG _time=$ISODATE)\n")
  batch-lines(10) batch-timeout(200)
); };
log { source(s); destination(d); };
`, logFile, s.url, strings.TrimSpace(string(token))))
	spawn(t, nil, program, "-F", "--no-caps", "-f", conf, "-R", filepath.Join(dir, "persist"), "-p", filepath.Join(dir, "pid"), "-c", filepath.Join(dir, "ctl"), "--stderr")
	for i := range 25 {
		appendLine(t, logFile, fmt.Sprintf("주문 %d 처리 지연: queue depth %d", i, i*10))
	}
	eventually(t, 60*time.Second, "all lines can be found", func() error {
		n, err := s.countLogs(`app:shop level:warn 지연 "queue depth"`)
		if err != nil || n != 25 {
			return fmt.Errorf("%d lines, %v", n, err)
		}
		return nil
	})
}
