package snmp

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"
	"go.yaml.in/yaml/v3"

	"kemi"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct{ text, wrong string }{
		{"{}", ""},
		{"{credentials: {a: {version: 2c, communityFile: /x}}, discovery: [{networks: [10.0.0.0/24, 10.1.0.0/30], credentials: [a]}]}", ""},
		{"{credentials: {a: {version: '3', user: u}}}", ""},
		{"{credentials: {a: {version: '3', user: u, authProtocol: SHA512, authEnv: X, privProtocol: AES256, privEnv: Y}}}", ""},
		{"{interval: 1ms}", "snmp.interval: 1ms: must be from 1s to 1h0m0s"},
		{"{workers: 0}", "snmp.workers: 0"},
		{"{profiles: [sytem]}", `snmp.profiles: "sytem" is not built in; there are host-resources, interfaces, system, ucd`},
		{"{credentials: {a: {version: '1'}}}", `snmp.credentials.a.version: "1"`},
		{"{credentials: {a: {version: 2c}}}", "communityFile, communityEnv: exactly one"},
		{"{credentials: {a: {version: 2c, communityFile: x, communityEnv: y}}}", "exactly one"},
		{"{credentials: {a: {version: 2c, communityFile: x, user: u}}}", "belongs to version 3"},
		{"{credentials: {a: {version: '3'}}}", "user: empty"},
		{"{credentials: {a: {version: '3', user: u, authFile: x, authProtocol: MD5}}}", `authProtocol: "MD5"`},
		{"{credentials: {a: {version: '3', user: u, privFile: x, privProtocol: AES}}}", "encryption needs authentication"},
		{"{credentials: {a: {version: '3', user: u, authFile: x, authProtocol: SHA, privFile: x, privProtocol: DES}}}", `privProtocol: "DES"`},
		{"{credentials: {a: {version: 2c, communityFile: x, networks: [10.0.0.1]}}}", `"10.0.0.1" is not a network`},
		{"{discovery: [{networks: [10.0.0.0/24], credentials: [a]}]}", `discovery[0].credentials: "a" is not among`},
		{"{discovery: [{networks: [10.0.0.0/8], credentials: [a]}]}", "has more than 65536 addresses"},
		{"{discovery: [{networks: ['2001:db8::/64'], credentials: [a]}]}", "has more than 65536 addresses"},
		{"{discovery: [{networks: [], credentials: [a]}]}", "networks: none"},
		{"{discovery: [{networks: [10.0.0.0/24], rate: 5000}]}", "rate: 5000"},
	} {
		conf := DefaultConfig()
		if err := yaml.Unmarshal([]byte(c.text), &conf); err != nil {
			t.Fatal(err)
		}
		err := conf.Validate()
		if (err == nil) != (c.wrong == "") || err != nil && (!strings.Contains(err.Error(), c.wrong) || !errors.Is(err, kemi.ErrInvalid)) {
			t.Errorf("%s: %v, want %q", c.text, err, c.wrong)
		}
	}
}

func TestCheckProfile(t *testing.T) {
	for _, c := range []struct{ text, wrong string }{
		{`{"metrics":[{"name":"a","oid":"1.3.6.1"}]}`, ""},
		{`{"tables":[{"index":"i","metrics":[{"name":"a","oid":".1.3.6.1"}]}]}`, ""},
		{`{}`, "spec.metrics: none"},
		{`[]`, "spec: "},
		{`{"metric":[]}`, `unknown field "metric"`},
		{`{"metrics":[{"name":"a b","oid":"1.3"}]}`, `spec.metrics[0].name: "a b"`},
		{`{"metrics":[{"name":"a","oid":"sysUpTime.0"}]}`, `spec.metrics[0].oid: "sysUpTime.0"`},
		{`{"metrics":[{"name":"a","oid":"1.3","else":"x"}]}`, `else: "x"`},
		{`{"metrics":[{"name":"a","oid":"1.3","type":"string"}]}`, `type: "string"`},
		{`{"metrics":[{"name":"a","oid":"1.3","type":"text"}]}`, `label: ""`},
		{`{"metrics":[{"name":"a","oid":"1.3","type":"text","label":"host"}]}`, `label: "host"`},
		{`{"metrics":[{"name":"a","oid":"1.3","label":"x"}]}`, "for type text only"},
		{`{"tables":[{"metrics":[{"name":"a","oid":"1.3"}]}]}`, "could not be told apart"},
		{`{"tables":[{"index":"i"}]}`, "metrics: none"},
		{`{"tables":[{"index":"i","labels":[{"label":"i","oid":"1.3"}],"metrics":[{"name":"a","oid":"1.3"}]}]}`, `"i" stands there twice`},
		{`{"tables":[{"index":"i","labels":[{"label":"j","oid":"1"}],"metrics":[{"name":"a","oid":"1.3"}]}]}`, `labels[0].oid: "1"`},
		{`{"tables":[{"index":"i","metrics":[{"name":"a","oid":"1.3","type":"text","label":"i"}]}]}`, "is a label of the rows already"},
	} {
		got, err := CheckProfile(json.RawMessage(c.text))
		if (err == nil) != (c.wrong == "") || err != nil && (!strings.Contains(err.Error(), c.wrong) || !errors.Is(err, kemi.ErrInvalid)) {
			t.Errorf("%s: %v, want %q", c.text, err, c.wrong)
		}
		if err == nil {
			if again, err := CheckProfile(got); err != nil || string(again) != string(got) {
				t.Errorf("%s becomes %s becomes %s, %v", c.text, got, again, err)
			}
		}
	}
	for name, p := range builtin {
		if err := p.validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCheckProfile(f *testing.F) {
	f.Add(`{"metrics":[{"name":"a","oid":"1.3.6.1","type":"text","label":"x"}],"tables":[{"index":"i","labels":[{"label":"j","oid":"1.3","parts":1}],"metrics":[{"name":"a","oid":".1.3.6.1","scale":0.1}]}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := CheckProfile(json.RawMessage(s))
		if err != nil {
			return
		}
		if again, err := CheckProfile(got); err != nil || string(again) != string(got) {
			t.Fatalf("%s becomes %s becomes %s, %v", s, got, again, err)
		}
	})
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		v    any
		n    float64
		ok   bool
		text string
	}{
		{uint64(math.MaxUint64), 18446744073709551615, true, "18446744073709551615"}, {uint(7), 7, true, "7"}, {-3, -3, true, "-3"}, {uint32(9), 9, true, "9"},
		{float32(0.5), 0.5, true, "0.5"}, {[]byte("2.5\n"), 2.5, true, "2.5"}, {[]byte("NaN"), 0, false, "NaN"}, {[]byte("eth0\x00"), 0, false, "eth0"},
		{[]byte{0x02, 0xfc, 0, 0, 0, 1}, 0, false, "02:fc:00:00:00:01"}, {".1.3.6", 0, false, "1.3.6"}, {"10.0.0.1", 0, false, "10.0.0.1"}, {[]byte("한국"), 0, false, "한국"},
		{[]byte(strings.Repeat("é", maxText)), 0, false, strings.Repeat("é", maxText/2)},
	} {
		v := gosnmp.SnmpPDU{Value: c.v}
		n, ok := number(v)
		if ok != c.ok || ok && n != c.n {
			t.Errorf("%v: %v %v, want %v %v", c.v, n, ok, c.n, c.ok)
		}
		if got := words(v); got != c.text {
			t.Errorf("%v: %.60q, want %.60q", c.v, got, c.text)
		}
	}
	for _, c := range []struct{ f, scale, want float64 }{{2308, 0.01, 23.08}, {5, 0, 5}, {3, 1e6, 3e6}, {7, 0.3, 7 * 0.3}} {
		if got := scaled(c.f, c.scale); got != c.want {
			t.Errorf("%v × %v = %v, want %v", c.f, c.scale, got, c.want)
		}
	}
	if got := len(addresses([]string{"10.0.0.0/29", "10.0.0.4/30", "192.0.2.7/32", "10.0.1.0/31"})); got != 6+1+2 {
		t.Errorf("%d addresses", got)
	}
	if part("1.2.3", 2) != "1.2" || part("1", 2) != "1" || part("1.2", 0) != "1.2" {
		t.Error("parts of an index")
	}
}

func TestTurns(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	m := &ims{}
	for i := range 100 {
		m.hosts = append(m.hosts, Host{Project: "p", Name: string(rune('a'+i%26)) + string(rune('a'+i/26))})
	}
	r := newRunning(t, config(t), m)
	s := &SNMP{o: Options{Config: r.c, Inventory: m, Now: func() time.Time { return now }}}
	s.m = newMetrics()
	last := map[string]int64{}
	if jobs, _ := s.due(last); len(jobs) != 100 {
		t.Fatalf("%d jobs for new hosts", len(jobs))
	}
	total, most := 0, 0
	for range 60 {
		now = now.Add(time.Second)
		jobs, _ := s.due(last)
		total += len(jobs)
		most = max(most, len(jobs))
	}
	if total != 100 || most > 20 {
		t.Errorf("%d jobs in a minute, %d in one second", total, most)
	}
}
