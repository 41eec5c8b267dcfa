package autoscale_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/sqlite"
	"kemi/pipeline/store"
	"kemi/pipeline/wal"
	"kemi/provisioning/autoscale"
	"kemi/provisioning/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	admin  = kemi.Identity{Subject: "user:kim", Project: "default", Permissions: kemi.AllPermissions}
	editor = kemi.Identity{Subject: "user:lee", Project: "default", Permissions: kemi.AllPermissions &^ kemi.Admin}
	viewer = kemi.Identity{Subject: "user:cho", Project: "default", Permissions: kemi.GroupsRead}
)

// answers are what queries have as their value.
type answers struct {
	mu   sync.Mutex
	by   map[string]any // float64 or error
	asks []kemi.Identity
}

func (a *answers) set(query string, v any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by[query] = v
}

func (a *answers) Instant(_ context.Context, id kemi.Identity, expr string, _ time.Time) (float64, bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asks = append(a.asks, id)
	switch v := a.by[expr].(type) {
	case float64:
		return v, true, nil
	case error:
		return 0, false, v
	}
	return 0, false, nil
}

// flaky is a control store that can be made to refuse.
type flaky struct {
	store.Control
	mu     sync.Mutex
	refuse bool
}

func (f *flaky) set(refuse bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = refuse
}

func (f *flaky) PutAll(ctx context.Context, rs []store.Resource) ([]store.Resource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "disk full")
	}
	return f.Control.PutAll(ctx, rs)
}

// rig is the room on a real store, a real log and real processes.
type rig struct {
	t       *testing.T
	dir     string
	control *flaky
	bus     bus.Bus
	pools   *local.Driver
	answers *answers
	cancel  context.CancelFunc
	ended   chan error
	*autoscale.Autoscaler
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), answers: &answers{by: map[string]any{}}, control: &flaky{}}
	db, err := sqlite.Open(filepath.Join(r.dir, "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	r.control.Control = db
	t.Cleanup(func() { _ = db.Close() })
	cfg := wal.DefaultConfig()
	cfg.Dir = filepath.Join(r.dir, "bus")
	if r.bus, err = wal.Open(cfg, wal.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.bus.Close() })
	if r.pools, err = local.New(local.Options{Dir: filepath.Join(r.dir, "pools"), Log: slog.New(slog.DiscardHandler), Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stop()
		if err := r.pools.Close(); err != nil {
			t.Error(err)
		}
	})
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	r.Autoscaler, err = autoscale.New(r.t.Context(), autoscale.Options{
		Control: r.control, Bus: r.bus, Querier: r.answers, Drivers: map[string]autoscale.Driver{"local": r.pools},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- r.Run(ctx) }()
}

func (r *rig) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	if err := <-r.ended; err != nil {
		r.t.Errorf("Run: %v", err)
	}
}

func (r *rig) call(id kemi.Identity, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	mux := http.NewServeMux()
	for _, route := range r.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, req *http.Request) {
			if !id.Can(route.Needs) {
				kemi.WriteError(w, route.Dialect, kemi.Errorf(kemi.ErrDenied, "%s", route.Needs))
				return
			}
			route.Handle(w, req, id)
		})
	}
	req := httptest.NewRequest(method, "/api/v2"+path, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, req)
	return w
}

func (r *rig) must(id kemi.Identity, method, path, body string) string {
	r.t.Helper()
	w := r.call(id, method, path, body)
	if w.Code/100 != 2 {
		r.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Body.String()
}

type view struct {
	Metadata struct {
		Name     string
		Revision int64
	}
	Spec   map[string]any
	Status autoscale.Status
}

func (r *rig) group(name string) view {
	r.t.Helper()
	var v view
	if err := json.Unmarshal([]byte(r.must(viewer, "GET", "/groups/"+name, "")), &v); err != nil {
		r.t.Fatal(err)
	}
	return v
}

type decision struct {
	ID, Group, Action, Code, Reason, Result, By string
	From, To                                    int
	At                                          kemi.Millis
	Policies                                    []autoscale.Advice
}

func (r *rig) decisions(query string) (ds []decision, next string) {
	r.t.Helper()
	var page struct {
		Items []decision
		Next  string
	}
	if err := json.Unmarshal([]byte(r.must(viewer, "GET", "/decisions"+query, "")), &page); err != nil {
		r.t.Fatal(err)
	}
	return page.Items, page.Next
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func (r *rig) wantSize(name string, n int) (v view) {
	r.t.Helper()
	eventually(r.t, func() error {
		v = r.group(name)
		running := 0
		for _, i := range v.Status.Instances {
			if i.State == autoscale.Running {
				running++
				if err := syscall.Kill(i.PID, 0); err != nil {
					return fmt.Errorf("instance %+v: %w", i, err)
				}
			}
		}
		if v.Status.Current != n || running != n || len(v.Status.Instances) != n || v.Status.Desired != n {
			return fmt.Errorf("group %s: %+v, want %d", name, v.Status, n)
		}
		return nil
	})
	return v
}

func (r *rig) alert(project, name string, firing bool, labels ...string) {
	r.t.Helper()
	e, err := codec.EncodeEvent(kemi.Event{ID: name, Kind: "alert", Project: project, Subject: name, At: kemi.MillisOf(time.Now()), Firing: firing, Tags: kemi.LabelsOf(labels...)})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.bus.Publish(r.t.Context(), bus.Events, []bus.Record{e}); err != nil {
		r.t.Fatal(err)
	}
}

// scaleEvents are the events that tell of decisions.
func (r *rig) scaleEvents() []kemi.Event {
	r.t.Helper()
	rd, err := r.bus.Subscribe(r.t.Context(), bus.Events, "", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rd.Close()
	spans, err := r.bus.Spans(r.t.Context(), bus.Events)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []kemi.Event
	for left := spans[0].Next; left > 0; {
		b, err := rd.Next(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for i := range b.Records {
			e, err := codec.DecodeEvent(&b.Records[i])
			if err != nil {
				r.t.Fatal(err)
			}
			if e.Kind == autoscale.EventScale {
				out = append(out, e)
			}
		}
		left -= int64(len(b.Records))
	}
	return out
}

const (
	sleepDriver = `"driver": {"type": "local", "local": {"command": ["sleep", "600"]}}, "interval": "1s", "cooldown": {"out": "0s", "in": "0s"}, "stabilization": {"in": "0s"}`
	tracking    = `{"spec": {` + sleepDriver + `, "min": 1, "max": 4, "policies": [{"name": "cpu", "type": "targetTracking", "query": "avg(cpu)", "target": 40}]}}`
	stepping    = `{"spec": {` + sleepDriver + `, "min": 1, "max": 5, "policies": [{"name": "busy", "type": "step", "alert": "HostBusy", "labels": {"service": "pay"}, "adjustment": {"up": 2}}]}}`
)

func TestFollowsAMetric(t *testing.T) {
	r := newRig(t)
	r.answers.set("avg(cpu)", 40.0)
	r.must(admin, "PUT", "/groups/workers", tracking)
	r.wantSize("workers", 1)
	r.answers.set("avg(cpu)", 120.0)
	eventually(t, func() error {
		if n := r.group("workers").Status.Current; n < 3 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	r.answers.set("avg(cpu)", 1.0)
	v := r.wantSize("workers", 1)
	if d := v.Status.LastDecision; d == nil || d.Action != autoscale.ScaleIn || d.To != 1 || d.Reason == "" || v.Status.LastEvaluation.Policies[0].Value == nil {
		t.Errorf("status %+v", v.Status)
	}
	r.answers.set("avg(cpu)", errors.New("the series are away"))
	eventually(t, func() error {
		ds, _ := r.decisions("?group=workers&limit=1")
		if len(ds) != 1 || ds[0].Action != autoscale.Hold || ds[0].Code != "noData" || !strings.Contains(ds[0].Reason, "the series are away") || ds[0].Result != "held" {
			return fmt.Errorf("decisions %+v", ds)
		}
		return nil
	})
	ds, _ := r.decisions("?group=workers")
	for i, d := range ds {
		if d.Group != "workers" || d.Reason == "" || d.At == 0 || d.ID == "" || d.Action != autoscale.Hold && (d.Result != "ok" || d.From == d.To) {
			t.Errorf("decision %+v", d)
		}
		if i > 0 && ds[i-1].ID <= d.ID {
			t.Error("not the newest first")
		}
	}
	if len(ds) < 4 {
		t.Fatalf("%d decisions", len(ds))
	}
	events := r.scaleEvents()
	size := 0
	for _, e := range events {
		if e.Subject != "workers" || e.Project != "default" || e.Tags.Get("from") != fmt.Sprint(size) {
			t.Errorf("event %+v after size %d", e, size)
		}
		if _, err := fmt.Sscan(e.Tags.Get("to"), &size); err != nil {
			t.Fatal(err)
		}
	}
	if size != 1 || len(events) < 3 {
		t.Errorf("%d events lead to size %d", len(events), size)
	}
	for _, id := range r.answers.asks {
		if id.Project != "default" || !id.Can(kemi.MetricsRead) || id.Can(kemi.MetricsWrite) {
			t.Fatalf("asked as %+v", id)
		}
	}
}

func TestFollowsAnAlert(t *testing.T) {
	r := newRig(t)
	r.must(admin, "PUT", "/groups/workers", stepping)
	r.wantSize("workers", 1)
	r.alert("other", "HostBusy", true, "service", "pay")
	r.alert("default", "HostBusy", true, "service", "shop")
	r.alert("default", "HostIdle", true, "service", "pay")
	r.alert("default", "HostBusy", true, "service", "pay", "host", "a")
	r.wantSize("workers", 3)
	// It goes on firing over a restart, with another host besides.
	r.stop()
	r.alert("default", "HostBusy", true, "service", "pay", "host", "b")
	r.alert("default", "HostBusy", false, "service", "pay", "host", "a")
	r.start()
	time.Sleep(1200 * time.Millisecond) // at least one evaluation: the alert of host b holds the size
	r.wantSize("workers", 3)
	// A group that is made now sees the alert that began before.
	r.must(admin, "PUT", "/groups/late", strings.Replace(stepping, `"min": 1`, `"min": 2`, 1))
	r.wantSize("late", 4)
	r.alert("default", "HostBusy", false, "service", "pay", "host", "b")
	r.wantSize("workers", 1)
	r.wantSize("late", 2)
	if ds, _ := r.decisions("?group=late"); len(ds) != 3 || ds[0].Policies[0].Alert != "HostBusy" {
		t.Errorf("decisions %+v", ds)
	}
	all, next := r.decisions("?limit=2")
	if len(all) != 2 || next != all[1].ID {
		t.Fatalf("%+v, next %s", all, next)
	}
	if rest, _ := r.decisions("?after=" + next); len(rest) == 0 || rest[0].ID >= next {
		t.Errorf("the next page: %+v", rest)
	}
}

func TestByHand(t *testing.T) {
	r := newRig(t)
	r.must(admin, "PUT", "/groups/workers", `{`+sleepDriver+`, "min": 0, "max": 4, "policies": []}`)
	r.must(editor, "PUT", "/groups/workers/scale", `{"desired": 3}`)
	r.wantSize("workers", 3)
	ds, _ := r.decisions("?group=workers&limit=1")
	if ds[0].By != "user:lee" || ds[0].Code != "manual" || ds[0].To != 3 || ds[0].Result != "ok" {
		t.Errorf("%+v", ds[0])
	}
	for body, says := range map[string]string{
		`{"desired": 5}`: "from min, 0, to max, 4", `{"desired": -1}`: "from min", `{}`: "desired: missing", `{"desired": "3"}`: "desired: is a JSON string",
		`{"desired": 1, "x": 1}`: "x: there is no such field", ``: "body: empty",
	} {
		if w := r.call(editor, "PUT", "/groups/workers/scale", body); w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := r.call(viewer, "PUT", "/groups/workers/scale", `{"desired": 1}`); w.Code != 403 {
		t.Errorf("a viewer scales: %d", w.Code)
	}
	if w := r.call(admin, "PUT", "/groups/none/scale", `{"desired": 1}`); w.Code != 404 {
		t.Errorf("no such group: %d", w.Code)
	}
	// The size by hand survives a restart.
	r.stop()
	r.start()
	r.wantSize("workers", 3)
}

func TestGroupAPI(t *testing.T) {
	r := newRig(t)
	r.answers.set("avg(cpu)", 40.0)
	r.answers.set("bad(", kemi.Errorf(kemi.ErrInvalid, "parse error: unclosed"))
	if w := r.call(editor, "PUT", "/groups/workers", tracking); w.Code != 403 || !strings.Contains(w.Body.String(), "admin") {
		t.Errorf("an editor runs a command: %d %s", w.Code, w.Body)
	}
	if w := r.call(viewer, "PUT", "/groups/workers", tracking); w.Code != 403 {
		t.Errorf("a viewer writes: %d", w.Code)
	}
	with := func(change string) string {
		var v struct {
			Spec map[string]any `json:"spec"`
		}
		if err := json.Unmarshal([]byte(tracking), &v); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(change), &v.Spec); err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(v)
		return string(b)
	}
	policy := func(p string) string { return with(`{"policies": [` + p + `]}`) }
	for name, c := range map[string]struct{ body, says string }{
		"no driver":           {`{"min": 1, "max": 2}`, "spec.driver"},
		"driver of no type":   {with(`{"driver": {"local": {}}}`), "driver.type"},
		"unknown driver":      {with(`{"driver": {"type": "cloud", "cloud": {}}}`), `spec.driver.type: \"cloud\" is not one of local`},
		"field of a driver":   {with(`{"driver": {"type": "local", "locl": {}}}`), "driver.locl"},
		"no command":          {with(`{"driver": {"type": "local"}}`), "spec.driver.local: missing"},
		"min":                 {with(`{"min": -1}`), "spec.min"},
		"max":                 {with(`{"max": 0}`), "spec.max"},
		"too large":           {with(`{"max": 100000}`), "spec.max"},
		"min over max":        {with(`{"min": 9}`), "spec.min: 9 is more than max, 4"},
		"desired":             {with(`{"desired": 9}`), "spec.desired"},
		"interval":            {with(`{"interval": "10ms"}`), "spec.interval"},
		"interval in numbers": {with(`{"interval": 15}`), "must be a string such as"},
		"cooldown":            {with(`{"cooldown": {"out": "-1s"}}`), "spec.cooldown.out"},
		"stabilization":       {with(`{"stabilization": {"in": "48h"}}`), "spec.stabilization.in"},
		"unknown field":       {with(`{"minimum": 1}`), "spec.minimum: there is no such field"},
		"type of policy":      {policy(`{"type": "magic"}`), "spec.policies[0].type"},
		"no query":            {policy(`{"type": "targetTracking", "target": 1}`), "spec.policies[0].query"},
		"broken query":        {policy(`{"type": "targetTracking", "query": "bad(", "target": 1}`), "spec.policies[0].query: parse error"},
		"no target":           {policy(`{"type": "targetTracking", "query": "q"}`), "spec.policies[0].target"},
		"tolerance":           {policy(`{"type": "targetTracking", "query": "q", "target": 1, "tolerance": 2}`), "spec.policies[0].tolerance"},
		"factor":              {policy(`{"type": "targetTracking", "query": "q", "target": 1, "scaleInFactor": 2}`), "spec.policies[0].scaleInFactor"},
		"mode":                {policy(`{"type": "targetTracking", "query": "q", "target": 1, "mode": "x"}`), "spec.policies[0].mode"},
		"alert of tracking":   {policy(`{"type": "targetTracking", "query": "q", "target": 1, "alert": "x"}`), "spec.policies[0].alert"},
		"target of step":      {policy(`{"type": "step", "alert": "A", "adjustment": {"up": 1}, "target": 1}`), "spec.policies[0].target"},
		"no alert":            {policy(`{"type": "step", "adjustment": {"up": 1}}`), "spec.policies[0].alert"},
		"no adjustment":       {policy(`{"type": "step", "alert": "A"}`), "spec.policies[0].adjustment"},
		"up":                  {policy(`{"type": "step", "alert": "A", "adjustment": {"up": 0}}`), "spec.policies[0].adjustment.up"},
		"down":                {policy(`{"type": "step", "alert": "A", "adjustment": {"up": 1, "down": -1}}`), "spec.policies[0].adjustment.down"},
		"unit":                {policy(`{"type": "step", "alert": "A", "adjustment": {"up": 1, "unit": "x"}}`), "spec.policies[0].adjustment.unit"},
		"steps without query": {policy(`{"type": "step", "alert": "A", "steps": [{"adjustment": 1}]}`), "spec.policies[0].query"},
		"steps overlap":       {policy(`{"type": "step", "alert": "A", "query": "q", "steps": [{"to": 5, "adjustment": 1}, {"from": 4, "adjustment": 2}]}`), "spec.policies[0].steps[1].from"},
		"name twice":          {policy(`{"name": "a", "type": "step", "alert": "A", "adjustment": {"up": 1}}, {"name": "a", "type": "step", "alert": "A", "adjustment": {"up": 1}}`), "spec.policies[1].name"},
		"not JSON":            {`{`, "body: not JSON"},
	} {
		if w := r.call(admin, "PUT", "/groups/workers", c.body); w.Code != 400 || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s, want %q", name, w.Code, w.Body, c.says)
		}
	}
	if w := r.call(admin, "PUT", "/groups/a%20b", tracking); w.Code != 400 {
		t.Errorf("odd name: %d", w.Code)
	}
	if w := r.call(viewer, "GET", "/groups/workers", ""); w.Code != 404 {
		t.Fatalf("a refused group is there: %d", w.Code)
	}

	w := r.call(admin, "PUT", "/groups/workers", with(`{"driver": {"type": "local", "local": {"command": ["sleep", "600"], "env": {"TOKEN": "s3cret"}}}}`), "If-None-Match", "*")
	etag := w.Header().Get("ETag")
	if w.Code != 200 || etag == "" || !strings.Contains(w.Body.String(), "s3cret") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got := r.must(viewer, "GET", "/groups/workers", "") + r.must(editor, "GET", "/groups", ""); strings.Contains(got, "s3cret") || !strings.Contains(got, "TOKEN") {
		t.Errorf("who may not configure the driver sees %s", got)
	}
	r.wantSize("workers", 1)
	if w := r.call(admin, "PUT", "/groups/workers", tracking, "If-Match", `"99999"`); w.Code != 409 {
		t.Errorf("stale: %d", w.Code)
	}
	if w := r.call(admin, "PUT", "/groups/workers", with(`{"min": 3}`), "If-Match", etag); w.Code != 200 || w.Header().Get("ETag") == etag {
		t.Errorf("changed: %d %s", w.Code, w.Body)
	}
	r.wantSize("workers", 3)
	var page struct {
		Items []view
		Next  string
	}
	r.must(admin, "PUT", "/groups/another", with(`{"min": 0}`))
	if err := json.Unmarshal([]byte(r.must(viewer, "GET", "/groups?limit=1", "")), &page); err != nil || len(page.Items) != 1 || page.Items[0].Metadata.Name != "another" || page.Next != "another" {
		t.Errorf("page %+v, %v", page, err)
	}
	if err := json.Unmarshal([]byte(r.must(viewer, "GET", "/groups?after=another", "")), &page); err != nil || len(page.Items) != 1 || page.Items[0].Metadata.Name != "workers" {
		t.Errorf("page %+v, %v", page, err)
	}
	other := viewer
	other.Project = "other"
	if got := r.must(other, "GET", "/groups", "") + r.must(other, "GET", "/decisions", ""); strings.Contains(got, "workers") {
		t.Errorf("another project sees %s", got)
	}
	if w := r.call(viewer, "GET", "/decisions?grup=x", ""); w.Code != 400 {
		t.Errorf("unknown filter: %d", w.Code)
	}

	if w := r.call(viewer, "DELETE", "/groups/workers", ""); w.Code != 403 {
		t.Errorf("a viewer deletes: %d", w.Code)
	}
	if w := r.call(editor, "DELETE", "/groups/workers", "", "If-Match", etag); w.Code != 409 {
		t.Errorf("stale delete: %d", w.Code)
	}
	before := r.wantSize("workers", 3)
	if w := r.call(editor, "DELETE", "/groups/workers", ""); w.Code != 204 {
		t.Fatalf("delete: %d %s", w.Code, w.Body)
	}
	for _, i := range before.Status.Instances {
		eventually(t, func() error {
			if err := syscall.Kill(i.PID, 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("instance %+v of a deleted group: %v", i, err)
			}
			return nil
		})
	}
	if w := r.call(viewer, "GET", "/groups/workers", ""); w.Code != 404 {
		t.Errorf("deleted: %d", w.Code)
	}
	if ds, _ := r.decisions("?group=workers&limit=1"); len(ds) != 1 || ds[0].Code != "deleted" || ds[0].To != 0 {
		t.Errorf("decisions of a deleted group: %+v", ds)
	}
	r.stop()
	r.start()
	if w := r.call(viewer, "GET", "/groups/workers", ""); w.Code != 404 {
		t.Errorf("deleted, and back after a restart: %d", w.Code)
	}
	// Made anew it begins anew.
	r.must(admin, "PUT", "/groups/workers", tracking)
	r.wantSize("workers", 1)
}

// TestNothingUnrecorded: what cannot be stored is not carried out.
func TestNothingUnrecorded(t *testing.T) {
	r := newRig(t)
	r.answers.set("avg(cpu)", 40.0)
	r.must(admin, "PUT", "/groups/workers", tracking)
	r.wantSize("workers", 1)
	r.control.set(true)
	r.answers.set("avg(cpu)", 80.0)
	eventually(t, func() error {
		if p := r.group("workers").Status.Problem; !strings.Contains(p, "disk full") {
			return fmt.Errorf("problem %q", p)
		}
		return nil
	})
	if v := r.group("workers"); v.Status.Current != 1 || v.Status.Desired != 1 {
		t.Fatalf("scaled without a record: %+v", v.Status)
	}
	if w := r.call(admin, "PUT", "/groups/workers/scale", `{"desired": 2}`); w.Code != 503 {
		t.Errorf("by hand: %d %s", w.Code, w.Body)
	}
	r.control.set(false)
	eventually(t, func() error {
		if v := r.group("workers"); v.Status.Current < 2 || v.Status.Problem != "" {
			return fmt.Errorf("%+v", v.Status)
		}
		return nil
	})
}

// TestCrashBetween: a crash after a decision was stored and before the driver was called. The next start brings the pool to its size and tells
// of the decision.
func TestCrashBetween(t *testing.T) {
	r := newRig(t)
	r.must(admin, "PUT", "/groups/workers", `{`+sleepDriver+`, "min": 1, "max": 4, "policies": []}`)
	r.wantSize("workers", 1)
	r.stop()
	state, err := r.control.Get(t.Context(), "default", "group-state", "workers")
	if err != nil {
		t.Fatal(err)
	}
	state.Status = json.RawMessage(strings.Replace(string(state.Status), `"desired":1`, `"desired":3`, 1))
	id := "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
	if _, err := r.control.PutAll(t.Context(), []store.Resource{state, {
		Project: "default", Kind: "decision", Name: id, Status: json.RawMessage(`{"result":"pending"}`),
		Spec: json.RawMessage(`{"id":"` + id + `","at":1,"group":"workers","by":"autoscale","action":"scaleOut","from":1,"to":3,"reason":"test"}`),
	}}); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.wantSize("workers", 3)
	eventually(t, func() error {
		if ds, _ := r.decisions("?limit=1"); ds[0].ID != id || !strings.HasPrefix(ds[0].Result, "ok, after a restart") {
			return fmt.Errorf("%+v", ds[0])
		}
		return nil
	})
	last := r.scaleEvents()
	if e := last[len(last)-1]; e.ID != "scale-"+id || e.Tags.Get("to") != "3" {
		t.Fatalf("event %+v", e)
	}
	r.stop()
	n := len(r.scaleEvents())
	r.start()
	r.wantSize("workers", 3)
	if again := len(r.scaleEvents()); again != n {
		t.Errorf("%d events became %d over a restart", n, again)
	}
}

func TestDriverFails(t *testing.T) {
	r := newRig(t)
	program := filepath.Join(r.dir, "program")
	// The program was there when the group was made and is gone when it is started.
	if err := writeProgram(program); err != nil {
		t.Fatal(err)
	}
	r.must(admin, "PUT", "/groups/workers", `{"driver": {"type": "local", "local": {"command": ["`+program+`"]}}, "min": 0, "max": 4, "interval": "1s", "policies": []}`)
	r.wantSize("workers", 0)
	if err := syscall.Unlink(program); err != nil {
		t.Fatal(err)
	}
	r.must(admin, "PUT", "/groups/workers/scale", `{"desired": 1}`)
	v := r.group("workers")
	if d := v.Status.LastDecision; d == nil || !strings.Contains(d.Result, "failed") || !strings.Contains(d.Result, program) {
		t.Fatalf("%+v", v.Status)
	}
	if err := writeProgram(program); err != nil {
		t.Fatal(err)
	}
	r.wantSize("workers", 1)
	eventually(t, func() error {
		if p := r.group("workers").Status.Problem; p != "" {
			return errors.New(p)
		}
		return nil
	})
}
