//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// hook is a webhook receiver: it keeps every message.
type hook struct {
	*httptest.Server
	mu       sync.Mutex
	messages []message
}

type message struct {
	Status string `json:"status"`
	Key    string `json:"-"`
	Alerts []struct {
		Status      string            `json:"status"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"alerts"`
}

func newHook(t testing.TB) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m := message{Key: r.Header.Get("Idempotency-Key")}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Errorf("webhook got %q: %v", b, err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.messages = append(h.messages, m)
	}))
	t.Cleanup(h.Close)
	return h
}

// find looks for an alert of that name and status, and returns its labels.
func (h *hook) find(name, status string) (labels, annotations map[string]string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.messages {
		for _, a := range m.Alerts {
			if a.Labels["alertname"] == name && a.Status == status {
				return a.Labels, a.Annotations, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("no %s alert %s among %d messages", status, name, len(h.messages))
}

// series is an answer of /api/v2/query.
type series struct {
	Metric string             `json:"metric"`
	Tags   map[string]string  `json:"tags"`
	Dps    map[string]float64 `json:"dps"`
}

// slidesQuery is the query of the seed with other times, metric and host.
func (s *server) slidesQuery(metric, host, downsample string, from, to time.Time) ([]series, error) {
	status, text, err := s.try("POST", "/api/v2/query", fmt.Sprintf(`{
  "start": %d, "end": %d,
  "queries": [{
    "metric": "-", "aggregator": "max", "downsample": "%s",
    "filters": [
      {"filter": "%s", "groupby": true, "tagk": "metric", "type": "literal_or"},
      {"filter": "%s", "groupby": true, "tagk": "host",   "type": "literal_or"}
    ]}]}`, from.UnixMilli(), to.UnixMilli(), downsample, metric, host))
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%d %s", status, text)
	}
	var out []series
	err = decode(text, &out)
	return out, err
}

// highest is the largest value of a metric of a host since a time.
func (s *server) highest(metric, host string, since time.Time) (float64, error) {
	out, err := s.slidesQuery(metric, host, "1s-max", since, time.Now().Add(time.Second))
	if err != nil {
		return 0, err
	}
	if len(out) != 1 || len(out[0].Dps) == 0 {
		return 0, fmt.Errorf("%s of %s: %d series", metric, host, len(out))
	}
	most := 0.0
	for _, v := range out[0].Dps {
		most = max(most, v)
	}
	if out[0].Tags["host"] != host || out[0].Tags["metric"] != metric {
		return 0, fmt.Errorf("tags %v", out[0].Tags)
	}
	return most, nil
}

type group struct {
	Status struct {
		Current int `json:"current"`
		Desired int `json:"desired"`
	} `json:"status"`
}

func (s *server) pool(name string) (int, error) {
	status, text, err := s.try("GET", "/api/v2/groups/"+name, nil)
	if err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("%d %s %v", status, text, err)
	}
	var g group
	err = decode(text, &g)
	return g.Status.Current, err
}

func (s *server) countLogs(query string) (int, error) {
	status, text, err := s.try("GET", "/api/v2/logs/query?"+url.Values{"query": {query}, "start": {"1h-ago"}, "end": {"now"}, "limit": {"10000"}}.Encode(), nil)
	if err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("%d %s %v", status, text, err)
	}
	var out struct {
		Records []json.RawMessage `json:"records"`
	}
	err = decode(text, &out)
	return len(out.Records), err
}

// agentConfig makes an agent quick enough for a test.
func agentConfig(s *server, dir, logFile string) string {
	return fmt.Sprintf(`
server: %s
tokenFile: %s
hostname: e2e-host
interval: 1s
logs:
  - paths: [%q]
spool:
  dir: %s
`, s.url, filepath.Join(s.data, "agent.token"), logFile, filepath.Join(dir, "spool"))
}

// TestWholeLoop is the product on one machine: load is seen, a keyword raises an alert that reaches a webhook, the load makes a pool grow
// and its end makes it shrink.
func TestWholeLoop(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, filepath.Join(dir, "data"), `
agent: {enabled: false}
alerting: {interval: 1s, groupWait: 1s, groupInterval: 1s}
`)
	eventually(t, 5*time.Second, "the first start prints the token that it writes to the file", func() error {
		if m := tokenLine.FindStringSubmatch(s.out.String()); m == nil || m[1] != s.token {
			return fmt.Errorf("%s", s.out.String())
		}
		return nil
	})
	h := newHook(t)
	s.must("PUT", "/api/v2/receivers/test", map[string]any{"spec": map[string]any{"webhook": map[string]any{"url": h.URL}}})
	s.must("PUT", "/api/v2/ims/services/pay", map[string]any{"spec": map[string]any{"owner": "team-pay"}})
	s.must("PUT", "/api/v2/ims/hosts/e2e-host", map[string]any{"spec": map[string]any{"service": "pay"}})
	s.must("PUT", "/api/v2/rules/refused", map[string]any{"keyword": map[string]any{
		"query": `"connection refused by peer"`, "window": "1m", "threshold": 20, "by": []string{"host", "service", "owner"},
		"annotations": map[string]string{"summary": "{{ $value }} refused on {{ $labels.host }}"},
	}})
	s.must("PUT", "/api/v2/rules/busy", `
groups:
  - name: busy
    interval: 1s
    rules:
      - alert: HostBusy
        expr: avg by (host) ({"data.cpu.usage", host="e2e-host"}) > 70
        labels: {severity: page}
`, "Content-Type", "application/yaml")
	s.must("PUT", "/api/v2/groups/workers", map[string]any{"spec": map[string]any{
		"driver": map[string]any{"type": "local", "local": map[string]any{"command": []string{"sleep", "600"}}},
		"min":    1, "max": 4, "interval": "1s",
		"policies": []any{map[string]any{"type": "targetTracking", "query": `avg({"data.cpu.usage", host="e2e-host"})`, "target": 40}},
		"cooldown": map[string]string{"out": "1s", "in": "1s"}, "stabilization": map[string]string{"out": "0s", "in": "2s"}, "warmup": "0s",
	}})

	logFile := filepath.Join(dir, "app.log")
	write(t, logFile, "")
	conf := filepath.Join(dir, "agent.yaml")
	write(t, conf, agentConfig(s, dir, logFile))
	spawn(t, nil, binary(t), "agent", "--config", conf)

	began := time.Now()
	var before float64
	eventually(t, 30*time.Second, "the agent's load average arrives", func() (err error) {
		before, err = s.highest("data.load.avg_1m", "e2e-host", began.Add(-time.Minute))
		return err
	})
	if _, err := s.highest("data.load.avg_5m", "e2e-host", began.Add(-time.Minute)); err != nil {
		t.Fatalf("the metric of the slides: %v", err)
	}
	eventually(t, 30*time.Second, "the pool has its least size", func() error {
		if n, err := s.pool("workers"); err != nil || n != 1 {
			return fmt.Errorf("%d instances, %v", n, err)
		}
		return nil
	})

	t.Log("load: four busy processes")
	var busy []*process
	for range 4 {
		busy = append(busy, spawn(t, nil, "sh", "-c", "while :; do :; done"))
	}
	eventually(t, 90*time.Second, "the load average rises", func() error {
		now, err := s.highest("data.load.avg_1m", "e2e-host", began)
		if err != nil || now < before+0.5 {
			return fmt.Errorf("%.2f, before %.2f, %v", now, before, err)
		}
		return nil
	})
	eventually(t, 60*time.Second, "the pool grows", func() error {
		if n, err := s.pool("workers"); err != nil || n < 2 {
			return fmt.Errorf("%d instances, %v", n, err)
		}
		return nil
	})
	eventually(t, 30*time.Second, "the rule's alert reaches the webhook", func() error {
		_, _, err := h.find("HostBusy", "firing")
		return err
	})

	t.Log("keyword: twenty lines")
	for i := range 19 {
		appendLine(t, logFile, fmt.Sprintf("level=error msg=\"connection refused by peer\" attempt=%d", i))
	}
	eventually(t, 20*time.Second, "nineteen lines can be found", func() error {
		if n, err := s.countLogs(`host:e2e-host "connection refused by peer"`); err != nil || n != 19 {
			return fmt.Errorf("%d lines, %v", n, err)
		}
		return nil
	})
	if _, _, err := h.find("refused", "firing"); err == nil {
		t.Fatal("the keyword alert fires below its threshold")
	}
	appendLine(t, logFile, `level=error msg="connection refused by peer" attempt=19`)
	eventually(t, 30*time.Second, "the keyword alert reaches the webhook", func() error {
		labels, notes, err := h.find("refused", "firing")
		if err == nil && (labels["host"] != "e2e-host" || labels["service"] != "pay" || labels["owner"] != "team-pay" || notes["summary"] != "20 refused on e2e-host") {
			t.Fatalf("labels %v, annotations %v: host, and service and owner from IMS, expected", labels, notes)
		}
		return err
	})

	t.Log("end of the load")
	for _, p := range busy {
		p.kill()
	}
	eventually(t, 3*time.Minute, "the pool shrinks", func() error {
		if n, err := s.pool("workers"); err != nil || n != 1 {
			return fmt.Errorf("%d instances, %v", n, err)
		}
		return nil
	})
	eventually(t, 60*time.Second, "the end of the rule's alert reaches the webhook", func() error {
		_, _, err := h.find("HostBusy", "resolved")
		return err
	})
	var decisions struct {
		Items []struct {
			Group  string `json:"group"`
			Reason string `json:"reason"`
		} `json:"items"`
	}
	if err := decode(s.must("GET", "/api/v2/decisions?group=workers", nil), &decisions); err != nil || len(decisions.Items) < 2 {
		t.Fatalf("decisions: %v, %d", err, len(decisions.Items))
	}
	for _, d := range decisions.Items {
		if d.Group != "workers" || d.Reason == "" {
			t.Errorf("decision without a reason: %+v", d)
		}
	}
}
