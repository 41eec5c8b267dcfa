package cmdb

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

// checkAny takes profiles that are objects with metrics.
func checkAny(spec json.RawMessage) (json.RawMessage, error) {
	var m map[string]any
	if err := json.Unmarshal(spec, &m); err != nil || m["metrics"] == nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "spec.metrics: none")
	}
	return json.Marshal(m)
}

// TestSNMPHosts is who is asked, and how, when people, services and discovery have spoken.
func TestSNMPHosts(t *testing.T) {
	r := newRig(t)
	finder := kemi.Identity{Subject: "snmp-discovery", Project: "default", Permissions: kemi.IMSWrite}
	found := func(name, facts string) {
		t.Helper()
		if err := r.Discovered(t.Context(), finder, name, json.RawMessage(facts)); err != nil {
			t.Fatal(err)
		}
	}
	r.must(person, "PUT", "/api/v2/ims/hosts/plain", `{"service":"net"}`)
	r.must(person, "PUT", "/api/v2/ims/hosts/a", `{"service":"net","snmp":{"address":"10.0.0.1:1161","credential":"core","profiles":["system"],"interval":"30s"}}`)
	r.must(person, "PUT", "/api/v2/ims/services/net", `{"snmpProfiles":["own"]}`)
	found("b", `{"snmp":{"address":"10.0.0.2","credential":"x"},"sysName":"b","interfaces":[{"index":1}]}`)
	found("c", `{"snmp":{"address":"10.0.0.3"}}`)
	r.must(person, "PUT", "/api/v2/ims/hosts/c", `{"snmp":{"disabled":true}}`)
	found("d", `{"snmp":{"address":"10.0.0.4"}}`)
	r.must(person, "PUT", "/api/v2/ims/hosts/d", `{"snmp":{"address":"10.0.0.5"}}`)
	want := []SNMPHost{
		{"default", "a", SNMPSpec{Address: "10.0.0.1:1161", Credential: "core", Profiles: []string{"system"}, Interval: "30s"}, []string{"own"}},
		{"default", "b", SNMPSpec{Address: "10.0.0.2", Credential: "x"}, nil},
		{"default", "d", SNMPSpec{Address: "10.0.0.5"}, nil},
	}
	for range 2 { // the second time as after a restart
		if got := r.SNMPHosts(); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if text := r.must(reader, "GET", "/api/v2/ims/hosts/b", "").Body.String(); !strings.Contains(text, `"discovered":{"snmp":{"address":"10.0.0.2","credential":"x"},"sysName":"b"`) {
			t.Errorf("%s", text)
		}
		r.restart()
	}
	// An agent's registration and discovery do not touch each other; the same facts again are no event.
	before := len(r.events())
	found("b", `{"snmp":{"address":"10.0.0.2","credential":"x"},"sysName":"b","interfaces":[{"index":1}]}`)
	if n := len(r.events()) - before; n != 0 {
		t.Errorf("%d events for what was known", n)
	}
	r.must(agent, "POST", "/api/v2/ims/hosts/b/register", `{"service":"db","snmp":{"address":"192.0.2.1"}}`)
	if got := r.SNMPHosts()[1]; got.Address != "10.0.0.2" {
		t.Errorf("an agent sent the poller to %s", got.Address)
	}
	r.must(person, "DELETE", "/api/v2/ims/hosts/b", "")
	r.restart()
	if got := r.SNMPHosts(); len(got) != 2 {
		t.Errorf("a deleted host is asked: %+v", got)
	}
	for _, id := range []kemi.Identity{agent, reader} {
		if err := r.Discovered(t.Context(), id, "x", json.RawMessage(`{}`)); !errors.Is(err, kemi.ErrDenied) {
			t.Errorf("%s may discover: %v", id.Subject, err)
		}
	}
	for facts, kind := range map[string]error{`[]`: kemi.ErrInvalid, `{"snmp":{"interval":"1y"}}`: kemi.ErrInvalid, `"` + strings.Repeat("x", maxFound) + `"`: kemi.ErrTooLarge} {
		if err := r.Discovered(t.Context(), finder, "x", json.RawMessage(facts)); !errors.Is(err, kind) {
			t.Errorf("%.40s: %v", facts, err)
		}
	}
	for body, text := range map[string]string{
		`{"snmp":{"address":"a b"}}`: "spec.snmp.address", `{"snmp":{"address":"a:99999"}}`: "spec.snmp.address", `{"snmp":{"interval":"5"}}`: "spec.snmp.interval",
		`{"snmp":{"credential":"a/b"}}`: "spec.snmp.credential", `{"snmp":{"profiles":[""]}}`: "spec.snmp.profiles[0]", `{"snmp":{"community":"x"}}`: "community",
	} {
		if w := r.call(person, "PUT", "/api/v2/ims/hosts/x", body); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), text) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
}

func TestProfiles(t *testing.T) {
	r := newRig(t)
	if w := r.call(person, "PUT", "/api/v2/ims/profiles/p", `{"metrics":[1]}`); w.Code != http.StatusNotImplemented {
		t.Fatalf("without anybody to check it: %d %s", w.Code, w.Body)
	}
	r.o.CheckProfile = checkAny
	r.must(person, "PUT", "/api/v2/ims/profiles/p", `{"kind":"SNMPProfile","metadata":{"name":"p"},"spec":{"metrics":[1],"a":2}}`)
	if w := r.call(person, "PUT", "/api/v2/ims/profiles/p", `{"a":1}`); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "spec.metrics: none") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	r.restart()
	r.o.CheckProfile = checkAny
	if spec, ok := r.SNMPProfile("default", "p"); !ok || string(spec) != `{"a":2,"metrics":[1]}` {
		t.Errorf("%s %v", spec, ok)
	}
	if _, ok := r.SNMPProfile("other", "p"); ok {
		t.Error("another project has it")
	}
	w := r.must(reader, "GET", "/api/v2/ims/profiles/p", "")
	tag := w.Header().Get("ETag")
	r.must(person, "PUT", "/api/v2/ims/profiles/p", `{"metrics":[1],"a":2}`)
	if again := r.must(reader, "GET", "/api/v2/ims/profiles/p", "").Header().Get("ETag"); again != tag {
		t.Errorf("the same spec is another revision: %s, %s", again, tag)
	}
	if w := r.call(person, "PUT", "/api/v2/ims/profiles/p", `{"metrics":[2]}`, "If-Match", `"999"`); w.Code != http.StatusConflict {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	r.must(person, "PUT", "/api/v2/ims/profiles/q", `{"metrics":[]}`)
	if text := r.must(reader, "GET", "/api/v2/ims/profiles?limit=1", "").Body.String(); !strings.Contains(text, `"name":"p"`) || !strings.Contains(text, `"next":"p"`) {
		t.Error(text)
	}
	for _, c := range []struct {
		id           kemi.Identity
		method, path string
		code         int
	}{
		{reader, "PUT", "/api/v2/ims/profiles/x", 403}, {agent, "GET", "/api/v2/ims/profiles", 403}, {reader, "DELETE", "/api/v2/ims/profiles/p", 403},
		{reader, "GET", "/api/v2/ims/profiles/x", 404}, {person, "DELETE", "/api/v2/ims/profiles/x", 404}, {person, "DELETE", "/api/v2/ims/profiles/p", 204}, {reader, "GET", "/api/v2/ims/profiles/p", 404},
	} {
		if w := r.call(c.id, c.method, c.path, `{"metrics":[]}`); w.Code != c.code {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	r.restart()
	if rs, err := r.control.List(t.Context(), "", kindProfile, store.ListOptions{}); err != nil || len(rs) != 1 {
		t.Errorf("%v %v", rs, err)
	}
	kinds := map[string]int{}
	for _, e := range r.events() {
		kinds[e.Kind]++
	}
	if kinds[EventProfile] != 3 {
		t.Errorf("events %v, want 3 of profiles", kinds)
	}
}
