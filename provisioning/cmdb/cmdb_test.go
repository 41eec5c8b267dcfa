package cmdb

import (
	"bytes"
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
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/sqlite"
	"kemi/pipeline/store"
	"kemi/pipeline/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	person = kemi.Identity{Subject: "user:kim", Project: "default", Permissions: kemi.IMSRead | kemi.IMSWrite}
	agent  = kemi.Identity{Subject: "token:agent", Project: "default", Permissions: kemi.IMSRegister}
	reader = kemi.Identity{Subject: "user:lee", Project: "default", Permissions: kemi.IMSRead}
)

// rig is an inventory on a real control store and a real log.
type rig struct {
	t       *testing.T
	dir     string
	control store.Control
	bus     bus.Bus
	now     time.Time
	reg     *prometheus.Registry
	*CMDB
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), now: time.UnixMilli(1_700_000_000_000)}
	var err error
	if r.control, err = sqlite.Open(filepath.Join(r.dir, "control.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.control.Close() })
	cfg := wal.DefaultConfig()
	cfg.Dir = filepath.Join(r.dir, "bus")
	if r.bus, err = wal.Open(cfg, wal.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.bus.Close() })
	r.restart()
	return r
}

// restart reads the inventory anew, as after a crash.
func (r *rig) restart() {
	r.t.Helper()
	r.reg = prometheus.NewRegistry()
	c, err := New(r.t.Context(), Options{
		Control: r.control, Bus: r.bus, Log: slog.New(slog.DiscardHandler), Registerer: r.reg, Now: func() time.Time { return r.now },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.CMDB = c
}

// call makes a request as the server would: pattern, permission, handler.
func (r *rig) call(id kemi.Identity, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	mux := http.NewServeMux()
	for _, route := range r.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, req *http.Request) {
			if !id.Can(route.Needs) {
				kemi.WriteError(w, route.Dialect, denied(id, route.Needs))
				return
			}
			route.Handle(w, req, id)
		})
	}
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, req)
	return w
}

func (r *rig) must(id kemi.Identity, method, path, body string) *httptest.ResponseRecorder {
	r.t.Helper()
	w := r.call(id, method, path, body)
	if w.Code/100 != 2 {
		r.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w
}

// events are all that were published.
func (r *rig) events() []kemi.Event {
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
			out = append(out, e)
		}
		left -= int64(len(b.Records))
	}
	return out
}

func said(es []kemi.Event) string {
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "%s %s %s; ", e.Kind, e.Subject, e.Tags.Get("action"))
	}
	return b.String()
}

func (r *rig) wantLabels(host, want string) {
	r.t.Helper()
	if got := r.Enrich("default", host).String(); got != want {
		r.t.Fatalf("labels of %s are %s, want %s", host, got, want)
	}
}

func TestWhoWins(t *testing.T) {
	r := newRig(t)
	if got := r.Enrich("default", "web-1"); got != nil {
		t.Fatalf("unknown host has labels %v", got)
	}
	r.must(agent, "PUT", "/api/v2/ims/hosts/web-1", `{"spec":{"os":"linux","cpus":8,"service":"shop","zone":"seoul","owner":"root"}}`)
	r.wantLabels("web-1", `{owner="root", service="shop", zone="seoul"}`)
	r.must(person, "PUT", "/api/v2/ims/services/shop", `{"owner":"team-shop"}`)
	r.wantLabels("web-1", `{owner="team-shop", service="shop", zone="seoul"}`)
	r.must(person, "PUT", "/api/v2/ims/services/pay", `{"spec":{"owner":"team-pay","dependsOn":["shop"]}}`)
	r.must(person, "PUT", "/api/v2/ims/hosts/web-1", `{"spec":{"service":"pay"}}`)
	r.wantLabels("web-1", `{owner="team-pay", service="pay", zone="seoul"}`)
	r.must(agent, "PUT", "/api/v2/ims/hosts/web-1", `{"spec":{"service":"other","zone":"busan"}}`)
	r.wantLabels("web-1", `{owner="team-pay", service="pay", zone="busan"}`)
	r.must(person, "PUT", "/api/v2/ims/hosts/web-1", `{"spec":{"service":"pay","owner":"kim","zone":"jeju"}}`)
	r.wantLabels("web-1", `{owner="kim", service="pay", zone="jeju"}`)
	if got := r.Enrich("elsewhere", "web-1"); got != nil {
		t.Fatalf("another project sees %v", got)
	}
	r.restart()
	r.wantLabels("web-1", `{owner="kim", service="pay", zone="jeju"}`)
	var o struct {
		Kind   string
		Spec   HostSpec
		Status struct {
			Service, Owner, OwnerFrom, Zone string
			Reported                        map[string]any
			LastSeen, Registered            kemi.Millis
		}
	}
	if err := json.Unmarshal(r.must(reader, "GET", "/api/v2/ims/hosts/web-1", "").Body.Bytes(), &o); err != nil {
		t.Fatal(err)
	}
	if o.Kind != "Host" || o.Spec.Owner != "kim" || o.Status.OwnerFrom != "host" || o.Status.Reported["zone"] != "busan" || o.Status.LastSeen != kemi.MillisOf(r.now) {
		t.Fatalf("%+v", o)
	}
	r.must(person, "DELETE", "/api/v2/ims/services/pay", "")
	r.must(person, "DELETE", "/api/v2/ims/hosts/web-1", "")
	if got := r.Enrich("default", "web-1"); got != nil {
		t.Fatalf("a deleted host has labels %v", got)
	}
	want := "ims.host web-1 registered; ims.service shop created; ims.service pay created; ims.host web-1 updated; ims.host web-1 registered; " +
		"ims.host web-1 updated; ims.service pay deleted; ims.host web-1 deleted; "
	if got := said(r.events()); got != want {
		t.Fatalf("events\n%s\nwant\n%s", got, want)
	}
	for _, e := range r.events() {
		var d eventData
		if err := json.Unmarshal(e.Data, &d); err != nil || d.By == "" || d.Object.Metadata.Name != e.Subject || e.Project != "default" || e.ID == "" {
			t.Fatalf("event %+v: %v", e, err)
		}
	}
	r.restart()
	if w := r.call(reader, "GET", "/api/v2/ims/hosts/web-1", ""); w.Code != http.StatusNotFound {
		t.Fatalf("deleted, and back after a restart: %d", w.Code)
	}
}

func TestUnchangedRegistration(t *testing.T) {
	r := newRig(t)
	register := func(facts string) {
		t.Helper()
		if _, err := r.Register(t.Context(), agent, "a", json.RawMessage(facts)); err != nil {
			t.Fatal(err)
		}
	}
	register(`{"service":"pay","cpus":2}`)
	epoch, events := r.Epoch(), len(r.events())
	first, err := r.control.Get(t.Context(), "default", kindReport, "a")
	if err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Minute)
	register(`{"cpus": 2, "service": "pay"}`)
	if got, err := r.control.Get(t.Context(), "default", kindReport, "a"); err != nil || got.Revision != first.Revision {
		t.Fatalf("the same facts were written again: %v", err)
	}
	register(`{"cpus":4,"service":"pay"}`) // a change, but not of labels
	if r.Epoch() != epoch {
		t.Fatal("the epoch moved although no label changed")
	}
	if len(r.events()) != events+1 {
		t.Fatalf("events: %s", said(r.events()))
	}
	r.now = r.now.Add(time.Hour)
	register(`{"cpus":4,"service":"pay"}`)
	r.restart()
	if o := r.must(reader, "GET", "/api/v2/ims/hosts/a", "").Body.String(); !strings.Contains(o, fmt.Sprintf(`"lastSeen":%d`, kemi.MillisOf(r.now))) {
		t.Fatalf("after an hour and a restart: %s", o)
	}
	register(`{"cpus":4}`)
	if r.Epoch() == 1 || r.Enrich("default", "a") != nil {
		t.Fatalf("epoch %d, labels %v after the service was taken back", r.Epoch(), r.Enrich("default", "a"))
	}
	if n := testutil.ToFloat64(r.metrics.registrations.WithLabelValues("changed")); n != 1 {
		t.Fatalf("%v changed registrations counted", n)
	}
}

func TestConditions(t *testing.T) {
	r := newRig(t)
	first := r.must(person, "PUT", "/api/v2/ims/hosts/a", `{"zone":"z"}`).Header().Get("ETag")
	second := r.must(person, "PUT", "/api/v2/ims/hosts/a", `{"zone":"y"}`).Header().Get("ETag")
	if first == second || first == "" {
		t.Fatalf("ETags %s and %s", first, second)
	}
	if again := r.must(person, "PUT", "/api/v2/ims/hosts/a", `{"zone":"y"}`).Header().Get("ETag"); again != second {
		t.Fatal("the same spec again made a new revision")
	}
	r.must(agent, "PUT", "/api/v2/ims/hosts/a", `{"zone":"x"}`)
	for _, c := range []struct {
		name, method, path, body, header, value string
		code                                    int
	}{
		{"stale", "PUT", "/hosts/a", `{}`, "If-Match", first, 409},
		{"an agent's word does not move the ETag", "PUT", "/hosts/a", `{"zone":"w"}`, "If-Match", second, 200},
		{"only new", "PUT", "/hosts/a", `{}`, "If-None-Match", "*", 409},
		{"new", "PUT", "/hosts/b", `{}`, "If-None-Match", "*", 200},
		{"not there", "PUT", "/hosts/c", `{}`, "If-Match", `"5"`, 409},
		{"not ours", "PUT", "/hosts/a", `{}`, "If-Match", `"five"`, 400},
		{"stale delete", "DELETE", "/hosts/a", ``, "If-Match", first, 409},
		{"service", "PUT", "/services/s", `{}`, "If-Match", `"0"`, 200},
		{"service again", "PUT", "/services/s", `{"owner":"o"}`, "If-Match", `"0"`, 409},
		{"stale delete of a service", "DELETE", "/services/s", ``, "If-Match", `"0"`, 409},
		{"delete of a service", "DELETE", "/services/s", ``, "", "", 204},
		{"gone", "DELETE", "/services/s", ``, "", "", 404},
		{"gone host", "DELETE", "/hosts/none", ``, "", "", 404},
	} {
		if w := r.call(person, c.method, "/api/v2/ims"+c.path, c.body, c.header, c.value); w.Code != c.code {
			t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.code)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		name         string
		id           kemi.Identity
		method, path string
		body, says   string
		code         int
	}{
		{"reader writes", reader, "PUT", "/hosts/a", `{}`, "ims:write", 403},
		{"agent reads", agent, "GET", "/hosts", ``, "", 403},
		{"agent writes a service", agent, "PUT", "/services/a", `{}`, "", 403},
		{"agent deletes", agent, "DELETE", "/hosts/a", ``, "", 403},
		{"no project", kemi.Identity{Permissions: kemi.AllPermissions}, "PUT", "/hosts/a", `{}`, "", 403},
		{"unknown field", person, "PUT", "/hosts/a", `{"spec":{"zones":"z"}}`, "spec.zones: there is no such field", 400},
		{"wrong type", person, "PUT", "/hosts/a", `{"spec":{"zone":7}}`, "spec.zone: is a JSON number, must be a string", 400},
		{"long value", person, "PUT", "/hosts/a", `{"owner":"` + long + `"}`, "spec.owner", 400},
		{"control character", person, "PUT", "/hosts/a", `{"owner":"a\nb"}`, "spec.owner", 400},
		{"label", person, "PUT", "/hosts/a", `{"labels":{"a b":"c"}}`, "spec.labels", 400},
		{"name", person, "PUT", "/hosts/a%20b", `{}`, "metadata.name", 400},
		{"long name", person, "PUT", "/hosts/" + long, `{}`, "metadata.name", 400},
		{"depends", person, "PUT", "/services/a", `{"dependsOn":["b","c/d"]}`, "spec.dependsOn[1]", 400},
		{"description", person, "PUT", "/services/a", `{"description":"` + strings.Repeat("x", 2000) + `"}`, "spec.description", 400},
		{"facts", agent, "PUT", "/hosts/a", `{"spec":{"service":["x"]}}`, "spec.service", 400},
		{"facts are null", agent, "PUT", "/hosts/a", `{"spec":null}`, "spec: must be an object", 400},
		{"many facts", agent, "PUT", "/hosts/a", `{"spec":{"x":"` + strings.Repeat("x", maxReport) + `"}}`, "16384", 413},
		{"registers an odd name", agent, "POST", "/hosts/a%2fb/register", `{}`, "metadata.name", 400},
		{"limit", person, "GET", "/hosts?limit=x", ``, "limit", 400},
		{"filter", person, "GET", "/hosts?sevice=x", ``, "sevice", 400},
		{"filter of services", person, "GET", "/services?zone=x", ``, "zone", 400},
		{"not there", person, "GET", "/hosts/none", ``, "none", 404},
		{"no such service", person, "GET", "/services/none", ``, "none", 404},
	} {
		w := r.call(c.id, c.method, "/api/v2/ims"+c.path, c.body)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s, want %d with %q", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
	if n := len(r.events()); n != 0 {
		t.Errorf("refused requests made %d events", n)
	}
	if _, err := r.PutHost(t.Context(), agent, "a", HostSpec{}, store.AnyRevision); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("an agent's identity writes by the Go API: %v", err)
	}
}

func TestLists(t *testing.T) {
	r := newRig(t)
	for i := range 25 {
		svc := []string{"pay", "shop"}[i%2]
		r.must(agent, "POST", fmt.Sprintf("/api/v2/ims/hosts/h%02d/register", i), `{"service":"`+svc+`","zone":"z`+fmt.Sprint(i%3)+`"}`)
	}
	r.must(person, "PUT", "/api/v2/ims/services/pay", `{"owner":"team-pay"}`)
	r.must(person, "PUT", "/api/v2/ims/services/shop", `{"owner":"team-shop"}`)
	list := func(path string) (names string, next string) {
		t.Helper()
		var page struct {
			Items []struct{ Metadata struct{ Name string } }
			Next  string
		}
		if err := json.Unmarshal(r.must(reader, "GET", path, "").Body.Bytes(), &page); err != nil || page.Items == nil {
			t.Fatal(err)
		}
		for _, i := range page.Items {
			names += i.Metadata.Name + " "
		}
		return names, page.Next
	}
	for path, want := range map[string]string{
		"/hosts?service=pay&zone=z0":       "h00 h06 h12 h18 h24 ",
		"/hosts?owner=team-shop&limit=2":   "h01 h03 ",
		"/hosts?zone=z1&zone=z2&after=h20": "h22 h23 ",
		"/hosts?service=":                  "",
		"/services":                        "pay shop ",
		"/services?owner=team-shop":        "shop ",
		"/services?limit=1&after=pay":      "shop ",
	} {
		if got, _ := list("/api/v2/ims" + path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	all, after, pages := "", "", 0
	for {
		names, next := list("/api/v2/ims/hosts?limit=10&after=" + after)
		all += names
		pages++
		if next == "" {
			break
		}
		after = next
	}
	if pages != 3 || len(strings.Fields(all)) != 25 {
		t.Errorf("%d pages: %s", pages, all)
	}
	if w := r.must(reader, "GET", "/api/v2/ims/services/pay", ""); !strings.Contains(w.Body.String(), `"hosts":13`) {
		t.Errorf("service: %s", w.Body)
	}
	other := reader
	other.Project = "other"
	if w := r.must(other, "GET", "/api/v2/ims/hosts", ""); strings.TrimSpace(w.Body.String()) != `{"items":[]}` {
		t.Errorf("another project sees %s", w.Body)
	}
}

// failingBus refuses to publish while broken.
type failingBus struct {
	bus.Bus
	broken bool
}

func (b *failingBus) Publish(ctx context.Context, topic string, rs []bus.Record) error {
	if b.broken {
		return kemi.Errorf(kemi.ErrUnavailable, "disk full")
	}
	return b.Bus.Publish(ctx, topic, rs)
}

func TestEventsWaitForTheBus(t *testing.T) {
	r := newRig(t)
	fb := &failingBus{Bus: r.bus, broken: true}
	r.bus = fb
	r.restart()
	r.must(person, "PUT", "/api/v2/ims/hosts/a", `{"zone":"1"}`)
	r.must(person, "PUT", "/api/v2/ims/hosts/b", `{"zone":"1"}`)
	r.must(person, "DELETE", "/api/v2/ims/hosts/b", "")
	r.wantLabels("a", `{zone="1"}`)
	r.restart() // as after a crash, and the bus still refuses
	fb.broken = false
	if n := len(r.events()); n != 0 {
		t.Fatalf("%d events through a broken bus", n)
	}
	r.must(person, "PUT", "/api/v2/ims/hosts/a", `{"zone":"2"}`)
	want := "ims.host a created; ims.host b created; ims.host b deleted; ims.host a updated; "
	if got := said(r.events()); got != want {
		t.Fatalf("events %s, want %s", got, want)
	}
	r.restart()
	if got := said(r.events()); got != want {
		t.Fatalf("published again after a restart: %s", got)
	}
}

// TestDeletionCutShort: the event of a deletion is kept before the deletion; if that did not happen, nor does the event.
func TestDeletionCutShort(t *testing.T) {
	r := newRig(t)
	r.must(person, "PUT", "/api/v2/ims/hosts/a", `{}`)
	h := r.projects["default"].hosts["a"]
	_, er, err := r.newEvent(person, EventHost, "deleted", r.hostObject("default", h), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.control.Put(t.Context(), er); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if got := said(r.events()); got != "ims.host a created; " {
		t.Fatalf("events %s", got)
	}
	if rs, err := r.control.List(t.Context(), "", kindEvent, store.ListOptions{}); err != nil || len(rs) != 0 {
		t.Fatalf("%d events still wait: %v", len(rs), err)
	}
}

func TestConcurrent(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 30 {
				name := fmt.Sprintf("h%d", (g+i)%7)
				if _, err := r.Register(t.Context(), agent, name, json.RawMessage(fmt.Sprintf(`{"service":"s%d"}`, i%3))); err != nil {
					t.Error(err)
				}
				r.Enrich("default", name)
				if _, err := r.PutService(t.Context(), person, fmt.Sprintf("s%d", i%3), ServiceSpec{Owner: fmt.Sprint(g)}, store.AnyRevision); err != nil {
					t.Error(err)
				}
				var w bytes.Buffer
				rec := httptest.NewRecorder()
				rec.Body = &w
				r.listHosts(rec, httptest.NewRequest("GET", "/?service=s1", nil), reader)
			}
		})
	}
	wg.Wait()
	live := map[string]string{}
	for name := range r.projects["default"].hosts {
		live[name] = r.Enrich("default", name).String()
	}
	r.restart()
	for name, want := range live {
		r.wantLabels(name, want) // what is in memory is what is in the store
	}
}

func BenchmarkEnrich(b *testing.B) {
	var x index
	for i := range 10_000 {
		x.set("default", fmt.Sprintf("host-%d", i), kemi.LabelsOf("service", "pay", "owner", "team"))
	}
	b.ReportAllocs()
	for b.Loop() {
		if x.get(hostKey{"default", "host-77"}) == nil {
			b.Fatal("not found")
		}
	}
}
