package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"kemi/pipeline/sqlite"
	"kemi/pipeline/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a webhook's other end. status is what it answers; 0 hangs up.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	got    []got
}

type got struct {
	key, signature string
	body           map[string]any
}

func newSink(t *testing.T) *sink {
	r := &sink{status: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		g := got{key: q.Header.Get("Idempotency-Key"), signature: q.Header.Get("X-Kemi-Signature")}
		if err := json.Unmarshal(b, &g.body); err != nil {
			t.Errorf("body: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, g)
		if r.status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *sink) all() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]got(nil), r.got...)
}

func (r *sink) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func configFor(t *testing.T, target string) *config.Config {
	t.Helper()
	c, err := config.Load(fmt.Sprintf(`
route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 1s, repeat_interval: 4h}
receivers: [{name: hook, webhook_configs: [{url: %q}]}]
`, target))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type change struct {
	name   string
	firing bool
}

type harness struct {
	*Manager
	mu      sync.Mutex
	changes []change
}

func open(t *testing.T, control store.Control, target string) *harness {
	t.Helper()
	h := &harness{}
	external, _ := url.Parse("http://kemi.test")
	var err error
	h.Manager, err = New(t.Context(), Options{
		Project: "p", Control: control, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Now: time.Now, ExternalURL: external,
		Changed: func(_ context.Context, a *alert.Alert, firing bool) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changes = append(h.changes, change{a.Name(), firing})
			return nil
		},
	}, configFor(t, target), map[string]string{"hook": "geheim"})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func control(t *testing.T, dir string) *sqlite.DB {
	t.Helper()
	c, err := sqlite.Open(filepath.Join(dir, "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func raise(t *testing.T, h *harness, name string, starts, ends time.Time) {
	t.Helper()
	a := &alert.Alert{UpdatedAt: time.Now(), Alert: model.Alert{
		Labels: model.LabelSet{"alertname": model.LabelValue(name), "host": "a"}, Annotations: model.LabelSet{"summary": "it burns"}, StartsAt: starts, EndsAt: ends,
	}}
	if err := h.Put(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not: %s", what)
		}
	}
}

// TestFireAndResolve is the plain way: an alert begins and ends, each is told once, signed, in Alertmanager's JSON.
func TestFireAndResolve(t *testing.T) {
	c := control(t, t.TempDir())
	defer c.Close()
	r := newSink(t)
	h := open(t, c, r.URL)
	defer h.Close()
	began := time.Now()
	raise(t, h, "Fire", began, began.Add(time.Hour))
	eventually(t, "told", func() bool { return len(r.all()) == 1 })
	m := r.all()[0]
	if m.body["status"] != "firing" || m.body["version"] != "4" || !strings.HasPrefix(m.signature, "sha256=") || m.key == "" {
		t.Fatalf("%+v", m)
	}
	if a := h.Active(t.Context()); len(a) != 1 || a[0].Labels["alertname"] != "Fire" {
		t.Fatalf("active: %v", a)
	}
	raise(t, h, "Fire", began, time.Now())
	eventually(t, "told of the end", func() bool { return len(r.all()) == 2 })
	if m := r.all()[1]; m.body["status"] != "resolved" || m.key == r.all()[0].key {
		t.Fatalf("%+v", m)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if fmt.Sprint(h.changes) != "[{Fire true} {Fire false}]" {
		t.Fatalf("changes: %v", h.changes)
	}
	eventually(t, "both are written down as delivered", func() bool {
		ms, err := h.Messages(t.Context(), 10)
		return err == nil && len(ms) == 2 && ms[0].State == Delivered && ms[1].State == Delivered
	})
}

// TestRetryKeepsKey: a receiver that is down gets the message later, once more with the same key; what it refuses for good is not sent again.
func TestRetryKeepsKey(t *testing.T) {
	c := control(t, t.TempDir())
	defer c.Close()
	r := newSink(t)
	r.answer(http.StatusServiceUnavailable)
	h := open(t, c, r.URL)
	defer h.Close()
	raise(t, h, "Fire", time.Now(), time.Now().Add(time.Hour))
	eventually(t, "two attempts", func() bool { return len(r.all()) >= 2 })
	r.answer(http.StatusOK)
	eventually(t, "delivered", func() bool {
		ms, err := h.Messages(t.Context(), 10)
		return err == nil && len(ms) == 1 && ms[0].State == Delivered && ms[0].Attempts >= 3
	})
	for _, m := range r.all() {
		if m.key != r.all()[0].key {
			t.Fatalf("keys differ: %s, %s", m.key, r.all()[0].key)
		}
	}
	r.answer(http.StatusForbidden)
	raise(t, h, "Other", time.Now(), time.Now().Add(time.Hour))
	eventually(t, "given up", func() bool {
		ms, err := h.Messages(t.Context(), 10)
		return err == nil && len(ms) == 2 && ms[0].State == Failed && ms[0].Attempts == 1
	})
}

// TestCrash: a Manager that goes away with a message that is not delivered leaves it to the next one; what was delivered is not sent
// again; silences and alerts are there again.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	c := control(t, dir)
	r := newSink(t)
	began := time.Now()
	h := open(t, c, r.URL)
	raise(t, h, "Told", began, began.Add(time.Hour))
	eventually(t, "the first is told", func() bool {
		ms, _ := h.Messages(t.Context(), 10)
		return len(ms) == 1 && ms[0].State == Delivered
	})
	r.answer(http.StatusServiceUnavailable)
	raise(t, h, "Pending", began, began.Add(time.Hour))
	eventually(t, "the second is tried", func() bool { return len(r.all()) >= 2 })
	w := httptest.NewRecorder()
	body := fmt.Sprintf(`{"matchers":[{"name":"alertname","value":"Quiet","isRegex":false}],"startsAt":%q,"endsAt":%q,"createdBy":"me","comment":"planned"}`,
		began.Add(-time.Minute).Format(time.RFC3339), began.Add(time.Hour).Format(time.RFC3339))
	q := httptest.NewRequest(http.MethodPost, "/alertmanager/api/v2/silences", strings.NewReader(body))
	q.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(w, q)
	if w.Code != http.StatusOK {
		t.Fatalf("silence: %d %s", w.Code, w.Body)
	}
	h.Close()
	c.Close()

	c = control(t, dir)
	defer c.Close()
	r.answer(http.StatusOK)
	h = open(t, c, r.URL)
	defer h.Close()
	eventually(t, "the second is delivered after the restart", func() bool {
		ms, _ := h.Messages(t.Context(), 10)
		return len(ms) == 2 && ms[0].State == Delivered && ms[1].State == Delivered
	})
	if a := h.Active(t.Context()); len(a) != 2 {
		t.Fatalf("%d alerts after the restart", len(a))
	}
	raise(t, h, "Told", began, began.Add(time.Hour))
	raise(t, h, "Quiet", began, began.Add(time.Hour))
	raise(t, h, "Last", began, began.Add(time.Hour))
	eventually(t, "the last is told", func() bool {
		all := r.all()
		return strings.Contains(fmt.Sprint(all[len(all)-1].body), "Last")
	})
	told := map[string]int{}
	for _, m := range r.all() {
		told[fmt.Sprint(m.body["groupLabels"])+m.key]++
	}
	for k, n := range told {
		if strings.Contains(k, "Told") && n != 1 {
			t.Errorf("%s told %d times", k, n)
		}
		if strings.Contains(k, "Quiet") {
			t.Errorf("a silenced alert was told")
		}
	}
	for _, a := range h.Active(t.Context()) {
		if (a.Labels["alertname"] == "Quiet") != a.Silenced {
			t.Errorf("%v: silenced %v", a.Labels, a.Silenced)
		}
	}
}
