package app

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kemi"
)

func config(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.Listen, c.Data, c.Agent.Enabled = "127.0.0.1:0", filepath.Join(t.TempDir(), "data"), false
	return c
}

func start(t *testing.T, c Config) *App {
	t.Helper()
	a, err := New(context.Background(), c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func get(t *testing.T, a *App, path, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+a.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestTwoServers run side by side in one process, as nothing is kept in packages; one's token is nothing to the other.
func TestTwoServers(t *testing.T) {
	a, b := start(t, config(t)), start(t, config(t))
	for _, x := range []*App{a, b} {
		if x.AdminToken == "" {
			t.Fatal("the first start made no token")
		}
		if code, text := get(t, x, "/api/v2/whoami", x.AdminToken); code != http.StatusOK || !strings.Contains(text, `"token:admin"`) {
			t.Fatalf("%d %s", code, text)
		}
		if code, text := get(t, x, "/metrics", x.AdminToken); code != http.StatusOK || !strings.Contains(text, "kemi_http_requests_total") {
			t.Fatalf("%d %.200s", code, text)
		}
	}
	if code, _ := get(t, a, "/api/v2/whoami", b.AdminToken); code != http.StatusUnauthorized {
		t.Fatalf("one server's token opens the other: %d", code)
	}
}

// TestPublicRoutes: nothing is served without an identity but health, the login and what a browser asks beforehand (CORS).
func TestPublicRoutes(t *testing.T) {
	a := start(t, config(t))
	var public []string
	for _, r := range a.Routes {
		if r.Public {
			public = append(public, r.Pattern)
			continue
		}
		method, path, ok := strings.Cut(r.Pattern, " ")
		if !ok { // of any method
			method, path = http.MethodGet, r.Pattern
		}
		path = strings.NewReplacer("{name}", "x", "{id}", "x", "{file}", "x", "{$}", "", "{host}", "x").Replace(path)
		q, err := http.NewRequest(method, "http://"+a.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without an identity: %d", r.Pattern, resp.StatusCode)
		}
	}
	slices.Sort(public)
	if want := []string{"GET /-/healthy", "GET /-/ready", "GET /health", "GET /healthz", "GET /login", "GET /ping", "GET /readyz", "OPTIONS /api/v1/{path...}", "POST /login"}; !slices.Equal(public, want) {
		t.Errorf("public routes %v, want %v", public, want)
	}
	if len(a.Routes) < 60 {
		t.Errorf("%d routes", len(a.Routes))
	}
}

// TestWritesNeedPermission: whoever may only read is refused by every route that changes something.
func TestWritesNeedPermission(t *testing.T) {
	reads := kemi.MetricsRead | kemi.LogsRead | kemi.EventsRead | kemi.IMSRead | kemi.RulesRead | kemi.AlertsRead | kemi.GroupsRead
	// POST, but only asks; and what tells people from agents by itself.
	asks := []string{"query", "aggregators", "filters", "version", "tail", "logout", "suggest", "lookup", "/search", "/read", "series", "labels", "format_query", "histogram", "fields", "count", "context", "PUT /api/v2/ims/hosts/{name}", "config"}
	a := start(t, config(t))
	for _, r := range a.Routes {
		method, _, _ := strings.Cut(r.Pattern, " ")
		if r.Public || method == http.MethodGet || r.Pattern == "/api/" || slices.ContainsFunc(asks, func(s string) bool { return strings.Contains(r.Pattern, s) }) {
			continue
		}
		if r.Needs&^reads == 0 {
			t.Errorf("%s needs %q only", r.Pattern, r.Needs)
		}
	}
}

func TestConfig(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "kemi.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Setenv("KEMI_TEST_LEVEL", "debug")
	c, err := LoadConfig(file("log: {level: '${KEMI_TEST_LEVEL}'}\nmetrics: {retention: 48h}\n"))
	if err != nil || c.Log.Level != "debug" || c.Metrics.Retention != 48*time.Hour || c.Listen != DefaultConfig().Listen {
		t.Fatalf("%v %+v", err, c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(file("")); err != nil {
		t.Fatalf("an empty file: %v", err)
	}
	for text, says := range map[string]string{
		"metrics: {retenton: 1h}":          "retenton",
		"log: {level: ${KEMI_TEST_UNSET}}": "KEMI_TEST_UNSET",
		"listen: [1]":                      "line 1",
	} {
		if _, err := LoadConfig(file(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, says := range map[string]string{
		"listen: nowhere":                   "listen",
		"role: ingest":                      "role",
		"memory: lots":                      "memory",
		"tls: {cert: a}":                    "tls",
		"{dev: true, listen: '0.0.0.0:80'}": "loopback",
		"metrics: {maxSeries: 0}":           "maxSeries",
		"alerting: {interval: 1ms}":         "alerting.interval",
		"agent: {interval: 1ms}":            "interval",
	} {
		c, err := LoadConfig(file(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
	// What is printed can be read again.
	var b strings.Builder
	if err := DefaultConfig().Print(&b); err != nil {
		t.Fatal(err)
	}
	if again, err := LoadConfig(file(b.String())); err != nil || again.Validate() != nil {
		t.Fatalf("%v, %v", err, again.Validate())
	}
}

func TestMemoryLimit(t *testing.T) {
	for text, want := range map[string]int64{"1GiB": 1 << 30, "512MB": 512e6, "100 MiB": 100 << 20} {
		if got, err := memoryLimit(text); err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
	}
	if got, err := memoryLimit("50%"); err != nil || got < 64<<20 {
		t.Errorf("50%%: %d %v", got, err)
	}
	for _, bad := range []string{"", "0%", "101%", "x%", "1", "-1GiB", "1KiB"} {
		if _, err := memoryLimit(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestCollector: a small heap has room, a large one a share of itself, and more of it while it grows.
func TestCollector(t *testing.T) {
	var c collector
	now := time.Now()
	for i, step := range []struct {
		cycles, mib uint64
		after       time.Duration
		want        int
	}{
		{1, 10, 0, maxShare}, {2, 96, time.Second, 100}, {3, 400, time.Second, growingShare}, {3, 400, time.Second, growingShare}, {3, 400, growsFor, 24},
		{4, 900, time.Second, growingShare}, {5, 950, time.Second, settledShare}, {6, 200, time.Second, 48},
	} {
		now = now.Add(step.after)
		if got := c.percent(step.cycles, step.mib<<20, 0, now); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	// With questions there is more room, for a while, but never more than a share of the memory.
	for i, step := range []struct {
		entered uint64
		after   time.Duration
		limit   int64
		want    int
	}{{1, time.Second, 16 << 30, 160}, {1, time.Second, 16 << 30, 160}, {1, 2 * time.Second, 16 << 30, 48}, {2, time.Second, 1 << 30, 64}} {
		now, c.limit = now.Add(step.after), step.limit
		if got := c.percent(6, 200<<20, step.entered, now); got != step.want {
			t.Errorf("with questions, step %d: %d, want %d", i, got, step.want)
		}
	}
}
