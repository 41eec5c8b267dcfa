package snmp

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// TestPoll asks Debian's snmpd for all built-in profiles, with each kind of credential.
func TestPoll(t *testing.T) {
	address := "127.0.0.1:" + freePort(t, "127.0.0.1")
	snmpd(t, address, daemon)
	c := config(t)
	var profiles []named
	for _, name := range Builtin() {
		profiles = append(profiles, named{name, builtin[name]})
	}
	for _, credential := range []string{"default", "sha", "sha256", "noenc", "old"} {
		t.Run(credential, func(t *testing.T) {
			j := &job{Project: "default", Host: "sw", Address: address, Credential: credential}
			r, err := poll(t.Context(), c, j, profiles, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			out := newWritten()
			if err := out.write(t.Context(), kemi.Identity{Project: "default"}, r.body()); err != nil {
				t.Fatal(err)
			}
			must := func(ok func(v float64) bool, pairs ...string) {
				t.Helper()
				pairs = append(pairs, "host", "sw")
				if v, there := out.get(pairs...); !there || !ok(v) {
					t.Errorf("%v: %v, there: %v", pairs, v, there)
				}
			}
			is := func(want float64) func(float64) bool { return func(v float64) bool { return v == want } }
			atLeast := func(want float64) func(float64) bool { return func(v float64) bool { return v >= want } }
			must(is(1), "__name__", "snmp_up")
			must(atLeast(1e-6), "__name__", "snmp_scrape_duration_seconds")
			must(is(1), "__name__", "snmp_system_name", "name", "switch-1")
			must(is(1), "__name__", "snmp_system_location", "location", "Seoul")
			must(func(v float64) bool { return v >= 0 && v < 600 }, "__name__", "snmp_uptime_seconds")
			lo := []string{"interface", "lo", "description", "lo", "index", "1"}
			must(is(24), append([]string{"__name__", "snmp_interface_type"}, lo...)...)
			must(is(1), append([]string{"__name__", "snmp_interface_oper_status"}, lo...)...)
			must(atLeast(1), append([]string{"__name__", "snmp_interface_received_bytes_total"}, lo...)...)
			must(is(10e6), append([]string{"__name__", "snmp_interface_speed_bits"}, lo...)...)
			must(atLeast(1<<20), "__name__", "snmp_host_memory_bytes")
			must(atLeast(1<<20), "__name__", "snmp_ucd_memory_total_bytes")
			must(atLeast(0), "__name__", "snmp_ucd_load", "over", "Load-15")
			must(atLeast(0), "__name__", "snmp_ucd_cpu_idle_ticks_total")
			must(atLeast(1), "__name__", "snmp_storage_size_units", "index", "1", "storage", "Physical memory")
			for _, p := range Builtin() {
				must(is(1), "__name__", "snmp_profile_up", "profile", p)
			}
			if out.types["snmp_interface_received_bytes_total"] != "counter" || out.types["snmp_up"] != "gauge" {
				t.Errorf("types: %v", out.types)
			}
			_, multicast := out.get(append([]string{"__name__", "snmp_interface_received_multicast_packets_total", "host", "sw"}, lo...)...)
			if multicast == (credential == "old") {
				t.Errorf("counters of 64 bits are there: %v", multicast)
			}
			if r.doubles > 0 {
				t.Errorf("%d series stand there twice", r.doubles)
			}
		})
	}
}

// TestProfile asks for a table with two parts of an index, texts, numbers in texts, and the label of another table.
func TestProfile(t *testing.T) {
	address := "127.0.0.1:" + freePort(t, "127.0.0.1")
	snmpd(t, address, daemon)
	c := config(t)
	const table = "1.3.6.1.4.1.8072.9999.7.1."
	p, err := parseProfile(json.RawMessage(`{"metrics":[{"name":"tcp_established","oid":".1.3.6.1.2.1.6.9.0"},{"name":"none","oid":"1.3.6.1.9.9.0"},{"name":"other","oid":"1.3.6.1.9.9.1.0","else":"1.3.6.1.2.1.1.3.0","elseScale":0.01}],
		"tables":[{"index":"row","labels":[{"label":"interface","oid":"1.3.6.1.2.1.31.1.1.1.1","parts":1}],"metrics":[
			{"name":"t_value","oid":"` + table + `2","scale":10},{"name":"t_text","oid":"` + table + `3"},{"name":"t_colour","oid":"` + table + `4","type":"text","label":"colour"}]},
		{"labels":[{"label":"colour","oid":"` + table + `4"}],"metrics":[{"name":"t_double","oid":"` + table + `2"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := poll(t.Context(), c, &job{Project: "default", Host: "sw", Address: address, Credential: "default"}, []named{{"own", p}}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, s := range r.series {
		got[s.labels.String()] = s.value
	}
	for text, want := range map[string]float64{
		`{__name__="t_value", host="sw", interface="lo", row="1.10"}`: -50, `{__name__="t_value", host="sw", interface="lo", row="1.11"}`: 60,
		`{__name__="t_text", host="sw", interface="lo", row="1.10"}`:                  3.25,
		`{__name__="t_colour", colour="blue", host="sw", interface="lo", row="1.10"}`: 1,
	} {
		if v, ok := got[text]; !ok || v != want {
			t.Errorf("%s is %v, there: %v; in\n%s", text, v, ok, list(got))
		}
	}
	if _, ok := got[`{__name__="none", host="sw"}`]; ok {
		t.Error("an object that is not there has a value")
	}
	if v := got[`{__name__="other", host="sw"}`]; v <= 0 || v > 600 {
		t.Errorf("the second choice is %v", v)
	}
	if r.doubles != 1 {
		t.Errorf("%d series stand there twice, want 1", r.doubles)
	}
	c.MaxRows = 1
	if r, err = poll(t.Context(), c, &job{Project: "default", Host: "sw", Address: address, Credential: "default"}, []named{{"own", p}}, time.Now); !errors.Is(err, kemi.ErrLimited) {
		t.Errorf("more rows than may be: %v", err)
	}
	if !strings.Contains(r.series[len(r.series)-4].labels.String(), "snmp_profile_up") || r.series[len(r.series)-4].value != 0 {
		t.Errorf("snmp_profile_up is not 0 in %v", r.series)
	}
}

// TestRefusals are hosts that cannot be asked; what may go wrong is told without the secrets.
func TestRefusals(t *testing.T) {
	address := "127.0.0.1:" + freePort(t, "127.0.0.1")
	snmpd(t, address, daemon)
	c := config(t)
	c.Timeout, c.Retries = 100*time.Millisecond, 0
	c.Credentials["lost"] = Credential{Version: "2c", CommunityFile: "/does/not/exist"}
	c.Credentials["empty"] = Credential{Version: "2c", CommunityEnv: "KEMI_TEST_NOT_SET"}
	for _, k := range []struct {
		credential, address string
		kind                error
		text                string
	}{
		{"wrong", address, kemi.ErrUnavailable, "timeout"},
		{"wrong3", address, kemi.ErrUnavailable, ""},
		{"default", "127.0.0.1:" + freePort(t, "127.0.0.1"), kemi.ErrUnavailable, ""},
		{"far", address, kemi.ErrDenied, "may not be sent to 127.0.0.1"},
		{"other", address, kemi.ErrDenied, "not for project default"},
		{"nobody", address, kemi.ErrInvalid, "not among snmp.credentials"},
		{"lost", address, kemi.ErrInvalid, "/does/not/exist"},
		{"empty", address, kemi.ErrInvalid, "KEMI_TEST_NOT_SET is empty"},
		{"default", "host.invalid", kemi.ErrUnavailable, "host.invalid"},
	} {
		r, err := poll(t.Context(), c, &job{Project: "default", Host: "sw", Address: k.address, Credential: k.credential}, []named{{"system", builtin["system"]}}, time.Now)
		if !errors.Is(err, k.kind) || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(k.text)) {
			t.Errorf("%s at %s: %v, want %v %q", k.credential, k.address, err, k.kind, k.text)
		}
		if len(r.series) != 3 || r.series[0].labels.Get("__name__") != "snmp_up" || r.series[0].value != 0 {
			t.Errorf("%s at %s: %v", k.credential, k.address, r.series)
		}
	}
}

// TestChanges adds a host, changes what it is asked for, and takes it out, while it runs.
func TestChanges(t *testing.T) {
	address := "127.0.0.1:" + freePort(t, "127.0.0.1")
	snmpd(t, address, daemon)
	c := config(t)
	c.Interval = time.Second
	m := &ims{profiles: map[string]string{}}
	r := newRunning(t, c, m)
	r.start()
	set := func(f func()) {
		m.mu.Lock()
		defer m.mu.Unlock()
		f()
	}
	set(func() {
		m.hosts = []Host{{Project: "default", Name: "sw", Address: address, Credential: "sha256", Profiles: []string{"system"}}, {Project: "default", Name: "bad", Address: address, Credential: "wrong", Interval: 2 * time.Second}}
	})
	eventually(t, "the new host is asked", func() bool { v, ok := r.out.get("__name__", "snmp_up", "host", "sw"); return ok && v == 1 })
	eventually(t, "the other one does not answer", func() bool { v, ok := r.out.get("__name__", "snmp_up", "host", "bad"); return ok && v == 0 })
	if _, ok := r.out.get("__name__", "own", "host", "sw"); ok {
		t.Fatal("it is asked for too much")
	}
	set(func() {
		m.profiles["default/list"] = `{"metrics":[{"name":"own","oid":"1.3.6.1.2.1.1.3.0"}]}`
		m.hosts[0].Service = []string{"list", "nowhere"}
	})
	eventually(t, "the service's list", func() bool { _, ok := r.out.get("__name__", "own", "host", "sw"); return ok })
	set(func() { m.profiles["default/list"] = `{"metrics":[{"name":"changed","oid":"1.3.6.1.2.1.1.3.0"}]}` })
	eventually(t, "the changed list", func() bool { _, ok := r.out.get("__name__", "changed", "host", "sw"); return ok })
	set(func() { m.hosts = nil })
	r.stop()
	for _, secret := range []string{community, authPhrase, privPhrase} {
		if strings.Contains(r.logged(), secret) {
			t.Errorf("a secret is in the log:\n%s", r.logged())
		}
	}
	if !strings.Contains(r.logged(), "nowhere") {
		t.Errorf("nobody says that a profile is missing:\n%s", r.logged())
	}
}

// TestRestart stops while a host does not answer: after the restart the job is done, though the inventory has the host no more.
func TestRestart(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := silent.LocalAddr().String()
	c := config(t)
	c.Timeout, c.Retries, c.Workers = 5*time.Second, 0, 1
	m := &ims{hosts: []Host{{Project: "default", Name: "sw", Address: address}, {Project: "default", Name: "second", Address: address}}}
	r := newRunning(t, c, m)
	r.start()
	buf := make([]byte, 2048)
	_ = silent.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, _, err := silent.ReadFrom(buf); err != nil {
		t.Fatalf("nobody asked: %v", err)
	}
	eventually(t, "both jobs are on the bus", func() bool {
		spans, err := r.bus.Spans(context.Background(), bus.Jobs)
		return err == nil && spans[0].Next == 2
	})
	r.stop()
	if len(r.out.all()) > 0 {
		t.Fatalf("something was written: %v", r.out.all())
	}
	_ = silent.Close()
	snmpd(t, address, daemon)
	m.mu.Lock()
	m.hosts = nil
	m.mu.Unlock()
	r.start()
	for _, host := range []string{"sw", "second"} {
		eventually(t, "the job of before is done", func() bool { v, ok := r.out.get("__name__", "snmp_up", "host", host); return ok && v == 1 })
	}
	r.stop()
	// What is done is not done again: the job of another host comes after those, and there is one worker.
	r.out = newWritten()
	m.mu.Lock()
	m.hosts = []Host{{Project: "default", Name: "third", Address: address}}
	m.mu.Unlock()
	r.start()
	eventually(t, "the job that is new is done", func() bool { v, ok := r.out.get("__name__", "snmp_up", "host", "third"); return ok && v == 1 })
	r.stop()
	for series := range r.out.all() {
		if !strings.Contains(series, `host="third"`) {
			t.Errorf("done twice: %s", series)
		}
	}
}

// TestSweep finds two of six addresses, and enters them with their interfaces.
func TestSweep(t *testing.T) {
	port := freePort(t, "127.0.0.2")
	snmpd(t, "127.0.0.2:"+port, daemon)
	snmpd(t, "127.0.0.3:"+port, strings.Replace(daemon, "switch-1", "switch 2 \xed\x95\x9c", 1))
	c := config(t)
	n, _ := strconv.Atoi(port)
	c.Discovery = []Sweep{{Networks: []string{"127.0.0.0/29"}, Credentials: []string{"wrong", "sha256"}, Port: n, Rate: 1000, Project: "default", Profiles: []string{"system"}}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	m := &ims{}
	r := newRunning(t, c, m)
	r.start()
	found := func() map[string]json.RawMessage {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.found
	}
	eventually(t, "two hosts", func() bool { return len(found()) == 2 })
	r.stop()
	for name, address := range map[string]string{"default/switch-1": "127.0.0.2:" + port, "default/switch 2 \xed\x95\x9c": "127.0.0.3:" + port} {
		var f facts
		if err := json.Unmarshal(found()[name], &f); err != nil {
			t.Fatalf("%s: %v in %v", name, err, found())
		}
		if f.SNMP.Address != address || f.SNMP.Credential != "sha256" || f.SNMP.Profiles[0] != "system" || f.SysDescr == "" || !strings.HasPrefix(f.SysObjectID, "1.3.6.1.4.1.8072.") {
			t.Errorf("%s: %+v", name, f)
		}
		if len(f.Interfaces) == 0 || f.Interfaces[0].Name != "lo" || f.Interfaces[0].Index != 1 || f.Interfaces[0].Type != 24 {
			t.Errorf("%s: interfaces %+v", name, f.Interfaces)
		}
	}
}
