package scrape

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/pipeline/storetest"
)

// TestHTTPDiscovery asks a real HTTP server for targets, whose list changes.
func TestHTTPDiscovery(t *testing.T) {
	a, b := newPage(t, plain, "m 1\n"), newPage(t, plain, "m 2\n")
	var list atomic.Value
	list.Store([]string{a.addr()})
	asked := make(chan string, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Header.Get("Authorization"):
		default:
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode([]map[string]any{{"targets": list.Load(), "labels": map[string]string{"__meta_room": "b2"}}})
	}))
	t.Cleanup(srv.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, k := start(t, `{scrapeConfigs: [{job_name: j, scrape_interval: 100ms, scrape_timeout: 100ms, http_sd_configs: [{url: "`+srv.URL+`", refresh_interval: 100ms, authorization: {credentials_file: `+token+`}}],
		relabel_configs: [{source_labels: [__meta_room], target_label: room}]}]}`)
	eventually(t, "the first target", func() bool { _, ok := k.last("__name__", "m", "room", "b2", "instance", a.addr()); return ok })
	if got := <-asked; got != "Bearer t0ken" {
		t.Errorf("asked with %q", got)
	}
	list.Store([]string{b.addr()})
	eventually(t, "the second target", func() bool { x, ok := k.last("__name__", "m", "instance", b.addr()); return ok && x.value == 2 })
}

// TestDNSDiscovery asks a real DNS server: addresses with a port from the configuration, and services with ports of their own. Upstream asks
// port 53 of the servers in /etc/resolv.conf, so the test runs in namespaces of its own, where both are the test's.
func TestDNSDiscovery(t *testing.T) {
	if os.Getenv(ownNamespaces) == "" {
		inNamespaces(t)
		return
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ip", "link", "set", "lo", "up"}, {"mount", "--make-rprivate", "/"}, {"mount", "--bind", conf, "/etc/resolv.conf"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	p := newPage(t, plain, "m 1\n")
	host, port, _ := net.SplitHostPort(p.addr())
	var moved atomic.Bool
	serveDNS(t, func(q dns.Question) []string {
		switch {
		case q.Name == "web.test." && q.Qtype == dns.TypeA:
			return []string{"web.test. 1 IN A " + host}
		case q.Name == "_metrics._tcp.test." && q.Qtype == dns.TypeSRV && !moved.Load():
			return []string{"_metrics._tcp.test. 1 IN SRV 0 0 " + port + " localhost.", "_metrics._tcp.test. 1 IN SRV 0 0 9 gone.test."}
		case q.Name == "_metrics._tcp.test." && q.Qtype == dns.TypeSRV:
			return []string{"_metrics._tcp.test. 1 IN SRV 0 0 " + port + " " + host + "."}
		}
		return nil
	})
	_, k := start(t, `{global: {scrape_interval: 100ms, scrape_timeout: 100ms}, scrapeConfigs: [
		{job_name: a, dns_sd_configs: [{names: [web.test], type: A, port: `+port+`, refresh_interval: 100ms}]},
		{job_name: srv, dns_sd_configs: [{names: [_metrics._tcp.test], refresh_interval: 100ms}], relabel_configs: [{source_labels: [__meta_dns_name], target_label: dns}]}]}`)
	eventually(t, "the address", func() bool {
		_, ok := k.last("__name__", "m", "job", "a", "instance", net.JoinHostPort(host, port))
		return ok
	})
	eventually(t, "the service", func() bool {
		_, ok := k.last("__name__", "m", "job", "srv", "dns", "_metrics._tcp.test", "instance", "localhost:"+port)
		return ok
	})
	eventually(t, "the service's other target, which is down", func() bool {
		x, ok := k.last("__name__", "up", "job", "srv", "instance", "gone.test:9")
		return ok && x.value == 0
	})
	moved.Store(true)
	eventually(t, "the service is elsewhere", func() bool { _, ok := k.last("__name__", "m", "job", "srv", "instance", host+":"+port); return ok })
}

// serveDNS answers at port 53, over UDP and TCP, what answer says.
func serveDNS(t *testing.T, answer func(q dns.Question) []string) {
	t.Helper()
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.RecursionAvailable = true
		for _, text := range answer(q.Question[0]) {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			m.Answer = append(m.Answer, rr)
		}
		if len(m.Answer) == 0 {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	for _, network := range []string{"udp", "tcp"} {
		started, ended := make(chan struct{}), make(chan struct{})
		srv := &dns.Server{Addr: "127.0.0.1:53", Net: network, Handler: h, NotifyStartedFunc: func() { close(started) }}
		go func() {
			defer close(ended)
			if err := srv.ListenAndServe(); err != nil {
				t.Errorf("DNS over %s: %v", network, err)
			}
		}()
		select {
		case <-started:
		case <-ended:
			t.FailNow()
		}
		t.Cleanup(func() {
			_ = srv.Shutdown()
			<-ended
		})
	}
}

const ownNamespaces = "KEMI_TEST_OWN_NAMESPACES"

// inNamespaces runs the test again in a user, a mount and a network namespace.
func inNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), ownNamespaces+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig: syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		storetest.Absent(t, "no namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestReload changes each file that the configuration is read from; what is not good changes nothing.
func TestReload(t *testing.T) {
	p := newPage(t, plain, "m 1\n")
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	job := func(name string) string {
		return "{job_name: " + name + ", scrape_interval: 100ms, scrape_timeout: 100ms, static_configs: [{targets: ['" + p.addr() + "']}]}"
	}
	write("prometheus.yml", "{scrape_config_files: [more.yml], scrape_configs: ["+job("a")+"]}")
	write("more.yml", "{scrape_configs: ["+job("b")+"]}")
	inline := func(text string) string {
		return write("kemi.yaml", "{configFile: "+filepath.Join(dir, "prometheus.yml")+", watchInterval: 100ms, scrapeConfigs: ["+text+"], projects: {b: other}}")
	}
	file := inline(job("c"))
	read := func() (Config, error) {
		c := DefaultConfig()
		b, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(b, &c)
		}
		return c, err
	}
	first, err := read()
	if err != nil {
		t.Fatal(err)
	}
	s, k := startWith(t, Options{Config: first, File: file, Reread: read})
	scraped := func(job, project string) func() bool {
		return func() bool { x, ok := k.last("__name__", "up", "job", job); return ok && x.project == project }
	}
	eventually(t, "a", scraped("a", "default"))
	eventually(t, "b", scraped("b", "other"))
	eventually(t, "c", scraped("c", "default"))
	pools := func(project string) string {
		for _, r := range s.Routes() {
			if r.Pattern == "GET /api/v1/scrape_pools" {
				w := httptest.NewRecorder()
				r.Handle(w, httptest.NewRequest(http.MethodGet, "/api/v1/scrape_pools", nil), kemi.Identity{Project: project, Permissions: kemi.MetricsRead})
				return w.Body.String()
			}
		}
		return ""
	}
	for project, want := range map[string]string{"default": `["a","c"]`, "other": `["b"]`, "nobody": `[]`} {
		if got := pools(project); !strings.Contains(got, want) {
			t.Errorf("project %s sees %s", project, got)
		}
	}
	write("prometheus.yml", "{scrape_config_files: [more.yml], scrape_configs: ["+job("a2")+"]}")
	eventually(t, "a2", scraped("a2", "default"))
	write("more.yml", "{scrape_configs: ["+job("b")+", "+job("b2")+"]}")
	eventually(t, "b2", scraped("b2", "default"))
	inline(job("c2"))
	eventually(t, "c2", scraped("c2", "default"))
	refused := func() float64 { return testutil.ToFloat64(s.m.reloads.WithLabelValues("refused")) }
	for i, bad := range []string{"{job_name: x, colour: red}", job("a2"), "{job_name: x, ec2_sd_configs: []}"} {
		inline(bad)
		eventually(t, "it is refused: "+bad, func() bool { return refused() == float64(i+1) })
		if got := pools("default"); !strings.Contains(got, `["a2","b2","c2"]`) {
			t.Errorf("after %s: %s", bad, got)
		}
	}
	write("prometheus.yml", "scrape_configs: [")
	eventually(t, "it is refused", func() bool { return refused() == 4 })
	if testutil.ToFloat64(s.m.good) != 0 {
		t.Error("the gauge says that all is well")
	}
	write("prometheus.yml", "{scrape_config_files: [more.yml], scrape_configs: ["+job("a3")+"]}")
	inline(job("c3"))
	eventually(t, "c3", scraped("c3", "default"))
	if s.Reload(); testutil.ToFloat64(s.m.good) != 1 {
		t.Error("the gauge says that all is not well")
	}
}

// TestBadConfig is what a configuration may have wrong, and that the message says it.
func TestBadConfig(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yml")
	if err := os.WriteFile(bad, []byte("scrape_configs:\n  - job_name: a\n    scrape_intervall: 5s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, wrong string }{
		{"{}", ""},
		{"{scrapeConfigs: [{job_name: a, kubernetes_sd_configs: [{role: pod}]}]}", ""},
		{"{configFile: " + bad + "}", "field scrape_intervall not found"},
		{"{configFile: /does/not/exist.yml}", "/does/not/exist.yml"},
		{"{scrapeConfigs: [{job_name: a, consul_sd_configs: [{server: x}]}]}", "service discovery that there is: static_configs, file_sd_configs, dns_sd_configs, http_sd_configs, kubernetes_sd_configs"},
		{"{scrapeConfigs: [{job_name: a, kubernetes_sd_configs: [{role: pot}]}]}", `role "pot"`},
		{"{scrapeConfigs: [{job_name: a}, {job_name: a}]}", `"a"`},
		{"{scrapeConfigs: [{job_name: a, scrape_timeout: 2m}]}", "scrape timeout"},
		{"{global: {scrape_intervall: 1s}}", "scrape_intervall"},
		{"{scrapeConfigs: [{job_name: a, relabel_configs: [{regex: '('}]}]}", "missing closing"},
		{"{projects: {a: b}}", "scrape.projects.a: there is no job of that name"},
		{"{project: ''}", "scrape.project: empty"},
		{"{watchInterval: 1ms}", "scrape.watchInterval: 1ms"},
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

// TestPrint hides secrets.
func TestPrint(t *testing.T) {
	conf := DefaultConfig()
	if err := yaml.Unmarshal([]byte("{global: {scrape_interval: 7s}, scrapeConfigs: [{job_name: a, basic_auth: {username: u, password: pl4in}, static_configs: [{targets: ['x:1']}]}]}"), &conf); err != nil {
		t.Fatal(err)
	}
	b, err := yaml.Marshal(conf)
	if err != nil || strings.Contains(string(b), "pl4in") || !strings.Contains(string(b), "<secret>") || !strings.Contains(string(b), "7s") || !strings.Contains(string(b), "x:1") {
		t.Errorf("%v\n%s", err, b)
	}
}
