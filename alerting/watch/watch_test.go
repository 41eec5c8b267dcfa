package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/head"
	"kemi/pipeline/sqlite"
	"kemi/pipeline/store"
	"kemi/pipeline/wal"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

// metricsSource is the upstream engine over a real TSDB, as app puts them together.
type metricsSource struct {
	db     *head.DB
	engine *promql.Engine
}

func (m metricsSource) Queryable(id kemi.Identity) storage.Queryable { return m.db.Queryable(id) }

func (m metricsSource) Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (promql.Vector, error) {
	q, err := m.engine.NewInstantQuery(ctx, m.db.Queryable(id), nil, expr, at)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	r := q.Exec(ctx)
	if r.Err != nil {
		return nil, r.Err
	}
	switch v := r.Value.(type) {
	case promql.Vector:
		return append(promql.Vector(nil), v...), nil
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V}}, nil
	}
	return nil, fmt.Errorf("%s is neither vector nor scalar", expr)
}

// direct writes what rules record into the TSDB, in the order in which it comes.
type direct struct {
	mu    sync.Mutex
	db    *head.DB
	table *codec.Table
	next  int64
}

func (d *direct) Write(ctx context.Context, id kemi.Identity, points []kemi.Points) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	return d.db.Append(ctx, d.table.BatchOf(id.Project, points), store.Position{Next: d.next})
}

type fixture struct {
	t       *testing.T
	dir     string
	bus     *wal.WAL
	control *sqlite.DB
	db      *head.DB
	w       *Watcher
	stop    func()
	writer  *direct
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, dir: t.TempDir()}
	f.start()
	t.Cleanup(func() { f.stop() })
	return f
}

func (f *fixture) start() {
	t := f.t
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reg, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	bc, tc := wal.DefaultConfig(), head.DefaultConfig()
	bc.Dir, tc.Dir = filepath.Join(f.dir, "bus"), filepath.Join(f.dir, "metrics")
	var err error
	f.bus, err = wal.Open(bc, wal.Options{Log: log, Registerer: reg})
	check(err)
	f.control, err = sqlite.Open(filepath.Join(f.dir, "control.db"))
	check(err)
	f.db, err = head.Open(tc, head.Options{Log: log, Registerer: reg})
	check(err)
	f.writer = &direct{db: f.db, table: codec.NewTable(nil, time.Now)}
	config := DefaultConfig()
	config.Interval, config.GroupWait, config.GroupInterval = time.Second, time.Second, time.Second
	f.w, err = New(context.Background(), Options{
		Config: config, Bus: f.bus, Control: f.control, DefaultProject: "default", Log: log, Registry: reg, Now: time.Now, Writer: f.writer,
		Metrics:  metricsSource{f.db, promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: 10 * time.Second, Parser: parser.NewParser(parser.Options{})})},
		ParseLog: parsePhrase,
	})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.w.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		f.w.Close()
		if err := errors.Join(f.db.Close(), f.control.Close(), f.bus.Close()); err != nil {
			t.Error(err)
		}
	})
}

// parsePhrase takes the whole query as a phrase of the body.
func parsePhrase(q string) (store.LogExpr, error) {
	if q == "bad(" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "position 4: expected a term")
	}
	return store.LogPhrase{Text: q}, nil
}

func (f *fixture) logs(project string, n int, body string, at time.Time, stream ...string) {
	f.t.Helper()
	var rs []kemi.LogRecord
	for range n {
		rs = append(rs, kemi.LogRecord{Project: project, At: kemi.NanosOf(at), Body: body, Stream: kemi.LabelsOf(stream...), Severity: kemi.SeverityError})
	}
	if err := f.bus.Publish(f.t.Context(), bus.Logs, []bus.Record{codec.EncodeLogs(project, "", rs)}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) do(method, path, body, project string) (int, string) {
	f.t.Helper()
	id := kemi.Identity{Subject: "test", Project: project, Permissions: kemi.AllPermissions}
	mux := http.NewServeMux()
	for _, r := range f.w.Routes() {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, q *http.Request) { r.Handle(w, q, id) })
	}
	w := httptest.NewRecorder()
	q := httptest.NewRequest(method, path, strings.NewReader(body))
	q.Header.Set("Content-Type", "application/json")
	mux.ServeHTTP(w, q)
	b, _ := io.ReadAll(w.Body)
	return w.Code, string(b)
}

func (f *fixture) must(method, path, body, project string) string {
	f.t.Helper()
	code, text := f.do(method, path, body, project)
	if code/100 != 2 {
		f.t.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	return text
}

// events reads the alert events of the bus from its beginning.
func (f *fixture) events() []kemi.Event {
	f.t.Helper()
	spans, err := f.bus.Spans(f.t.Context(), bus.Events)
	if err != nil {
		f.t.Fatal(err)
	}
	if spans[0].Next == 0 {
		return nil
	}
	r, err := f.bus.Subscribe(f.t.Context(), bus.Events, "test", bus.Positions{0: 0})
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	var out []kemi.Event
	for next := int64(0); next < spans[0].Next; {
		b, err := r.Next(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		for i := range b.Records {
			e, err := codec.DecodeEvent(&b.Records[i])
			if err != nil {
				f.t.Fatal(err)
			}
			out = append(out, e)
		}
		next = b.Next()
	}
	return out
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(25 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not: %s", what)
		}
	}
}

func (f *fixture) active(project string) string { return f.must("GET", "/api/v2/alerts", "", project) }

const keywordRule = `{"kind":"AlertRule","metadata":{"name":"refused"},"spec":{"keyword":{"query":"connection refused","window":"5s","threshold":3,"by":["host"],
 "labels":{"severity":"page"},"annotations":{"summary":"{{ $value }} on {{ $labels.host }}"}}}}`

func TestKeywordRule(t *testing.T) {
	f := newFixture(t)
	f.must("PUT", "/api/v2/rules/refused", keywordRule, "default")
	now := time.Now()
	f.logs("default", 2, "connection refused", now, "host", "a")
	f.logs("default", 2, "connection refused", now, "host", "b")
	f.logs("other", 9, "connection refused", now, "host", "c")
	f.logs("default", 9, "connection accepted", now, "host", "a")
	f.logs("default", 9, "connection refused", now.Add(-time.Hour), "host", "a")
	f.logs("default", 1, "connection refused", now.Add(time.Hour), "host", "b") // its clock is ahead: it counts as now
	eventually(t, "b fires", func() bool { return strings.Contains(f.active("default"), `"host":"b"`) })
	if a := f.active("default"); strings.Contains(a, `"host":"a"`) || strings.Contains(a, `"host":"c"`) || !strings.Contains(a, `"summary":"3 on b"`) || !strings.Contains(a, `"severity":"page"`) {
		t.Fatal(a)
	}
	if a := f.active("other"); strings.Contains(a, "refused") {
		t.Fatalf("another project's alert: %s", a)
	}
	eventually(t, "b ends when its records leave the window", func() bool { return !strings.Contains(f.active("default"), `"host":"b"`) })
	eventually(t, "both are events", func() bool {
		es := f.events()
		return len(es) == 2 && es[0].Firing && !es[1].Firing && es[0].Subject == "refused" && es[0].Tags.Get("host") == "b" && es[0].Kind == "alert" && es[0].Project == "default"
	})
}

// TestKeywordCommits: with no rule the position of the group is the end of the log, although nothing comes any more; with one it stays behind by the rule's window.
func TestKeywordCommits(t *testing.T) {
	f := newFixture(t)
	committed := func() int64 {
		r, err := f.bus.Subscribe(t.Context(), bus.Logs, keywordGroup, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		next, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		b, err := r.Next(next)
		if errors.Is(err, context.DeadlineExceeded) {
			return 3 // the end
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Records[0].Offset
	}
	for range 3 {
		f.logs("default", 1, "all is well", time.Now())
	}
	eventually(t, "the group is at the end", func() bool { return committed() == 3 })
	f.must("PUT", "/api/v2/rules/refused", keywordRule, "default")
	f.logs("default", 1, "connection refused", time.Now(), "host", "a")
	f.logs("default", 2, "connection refused", time.Now(), "host", "a")
	eventually(t, "an alert", func() bool { return len(f.events()) > 0 })
	if at := committed(); at != 3 {
		t.Fatalf("position %d: the window would not be counted again", at)
	}
}

// TestKeywordAcrossRestart: what was counted before the restart counts on, and an alert that fires goes on without a new event.
func TestKeywordAcrossRestart(t *testing.T) {
	f := newFixture(t)
	f.must("PUT", "/api/v2/rules/refused", strings.Replace(keywordRule, `"5s"`, `"10m"`, 1), "default")
	f.logs("default", 2, "connection refused", time.Now(), "host", "a")
	f.logs("default", 3, "connection refused", time.Now(), "host", "b")
	eventually(t, "b fires", func() bool { return strings.Contains(f.active("default"), `"host":"b"`) && len(f.events()) == 1 })
	f.stop()
	f.start()
	f.logs("default", 1, "connection refused", time.Now(), "host", "a")
	eventually(t, "the third of a, two before the restart", func() bool { return strings.Contains(f.active("default"), `"host":"a"`) })
	if a := f.active("default"); !strings.Contains(a, `"host":"b"`) {
		t.Fatalf("b is gone: %s", a)
	}
	begins := map[string]bool{}
	eventually(t, "both beginnings are events", func() bool {
		for _, e := range f.events() {
			if !e.Firing {
				t.Fatalf("an alert ended: %+v", e)
			}
			begins[e.ID] = true
		}
		return len(begins) >= 2
	})
	if len(begins) != 2 {
		t.Errorf("%d beginnings, want 2", len(begins))
	}
	f.must("DELETE", "/api/v2/rules/refused", "", "default")
	eventually(t, "its alerts end with the rule", func() bool { return !strings.Contains(f.active("default"), "refused") })
}

func TestPrometheusRules(t *testing.T) {
	f := newFixture(t)
	f.must("PUT", "/api/v2/rules/file", `
groups:
  - name: g
    interval: 1s
    rules:
      - record: twice
        expr: 2 * base
      - alert: High
        expr: twice > 10
        labels: {severity: page}
        annotations: {summary: "{{ $value }}"}
`, "default")
	write := func(v float64) {
		err := f.writer.Write(t.Context(), kemi.Identity{Project: "default"}, []kemi.Points{{
			Labels: kemi.LabelsOf(kemi.MetricName, "base", "host", "x"), At: []kemi.Millis{kemi.MillisOf(time.Now())}, Values: []float64{v},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	write(6)
	eventually(t, "it fires on what was recorded", func() bool { return strings.Contains(f.active("default"), `"summary":"12"`) })
	var view struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Type, State, Health string }
			}
		}
	}
	if err := json.Unmarshal([]byte(f.must("GET", "/api/v1/rules", "", "default")), &view); err != nil || len(view.Data.Groups) != 1 || len(view.Data.Groups[0].Rules) != 2 {
		t.Fatalf("%v %+v", err, view)
	}
	if r := view.Data.Groups[0].Rules[1]; r.Type != "alerting" || r.State != "firing" || r.Health != "ok" {
		t.Fatalf("%+v", r)
	}
	if a := f.must("GET", "/api/v1/alerts", "", "default"); !strings.Contains(a, `"state":"firing"`) {
		t.Fatal(a)
	}
	write(1)
	eventually(t, "it ends", func() bool { return !strings.Contains(f.active("default"), "High") })
}

func TestRefusedResources(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ path, body, says string }{
		{"rules/x", `{`, "body"},
		{"rules/x", `{}`, "either groups"},
		{"rules/x", `{"spec":{"more":1}}`, "more"},
		{"rules/x", `{"metadata":{"name":"y"},"spec":{}}`, "metadata.name"},
		{"rules/x", `{"keyword":{"query":"a","window":"5m"}}`, "threshold"},
		{"rules/x", `{"keyword":{"query":"a","window":"soon","threshold":1}}`, "soon"},
		{"rules/x", `{"keyword":{"query":"","window":"5m","threshold":1}}`, "query"},
		{"rules/x", `{"keyword":{"query":"bad(","window":"5m","threshold":1}}`, "position 4"},
		{"rules/x", `{"keyword":{"query":"a","window":"5m","threshold":1,"annotations":{"s":"{{"}}}`, "annotations.s"},
		{"rules/x", `{"groups":[{"name":"g","rules":[{"alert":"A","expr":"sum("}]}]}`, "parse"},
		{"rules/x", `{"groups":[{"name":"g","rules":[{"expr":"up"}]}]}`, "record"},
		{"rules/a%20b", `{"groups":[]}`, "name"},
		{"receivers/x", `{"webhook":{"url":"ftp://x"}}`, "url"},
		{"receivers/x", `{}`, "webhook"},
		{"receivers/x", `{"webhook":{"url":"http://x"},"route":{"matchers":["a~b"]}}`, "matcher"},
		{"receivers/x", `{"webhook":{"url":"http://x"},"route":{"groupWait":"soon"}}`, "groupWait"},
	} {
		code, text := f.do("PUT", "/api/v2/"+c.path, c.body, "default")
		if code != http.StatusBadRequest || !strings.Contains(text, c.says) {
			t.Errorf("%s %s: %d %s; want 400 with %q", c.path, c.body, code, text, c.says)
		}
	}
	if l := f.must("GET", "/api/v2/rules", "", "default"); !strings.Contains(l, `"items":[]`) {
		t.Errorf("something was stored: %s", l)
	}
}

func TestSecretsStayInside(t *testing.T) {
	f := newFixture(t)
	text := f.must("PUT", "/api/v2/receivers/r", `{"webhook":{"url":"http://127.0.0.1:1/","secret":"geheim"}}`, "default")
	text += f.must("GET", "/api/v2/receivers", "", "default") + f.must("GET", "/api/v2/receivers/r", "", "default")
	if strings.Contains(text, "geheim") || !strings.Contains(text, "hidden") {
		t.Fatal(text)
	}
	f.must("PUT", "/api/v2/receivers/r", `{"webhook":{"url":"http://127.0.0.1:2/","secret":"<hidden>"}}`, "default")
	rs, err := f.w.receivers(t.Context(), "default")
	if err != nil || rs["r"].Webhook.Secret != "geheim" {
		t.Fatalf("written back as it was read, the secret is %q, %v", rs["r"].Webhook.Secret, err)
	}
	if code, _ := f.do("GET", "/api/v2/receivers/r", "", "other"); code != http.StatusNotFound {
		t.Fatalf("another project sees it: %d", code)
	}
}
