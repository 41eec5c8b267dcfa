package listen_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/graphite"
	"kemi/collectors/listen"
	"kemi/collectors/opentsdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokens knows one token, which may be revoked.
type tokens struct{ revoked atomic.Bool }

func (a *tokens) Authenticate(r *http.Request) (kemi.Identity, error) {
	if r.Header.Get("Authorization") != "Bearer secret" || a.revoked.Load() {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "the token is not known")
	}
	id := kemi.Identity{Subject: "token:lines", Project: "shop", Permissions: kemi.MetricsWrite}
	if p := r.Header.Get("X-Kemi-Project"); p != "" {
		id.Project = p
	}
	return id, nil
}

// run serves a protocol until the test ends, and gives its addresses.
func run(t *testing.T, h *collectortest.House, protocol string, change func(*listen.Config)) (_ []net.Addr, auth *tokens, stop func()) {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := listen.DefaultConfig()
	cfg.Listen, cfg.TokenFile = listen.Addresses{"127.0.0.1:0"}, token
	if change != nil {
		change(&cfg)
	}
	auth = &tokens{}
	log := slog.New(slog.DiscardHandler)
	open := opentsdb.Open(opentsdb.Options{In: h.Push, Log: log, Version: "test"})
	if protocol == "graphite" {
		open = graphite.Open(graphite.Options{In: h.Push, Log: log, Now: func() time.Time { return time.UnixMilli(1777777777000) }})
	}
	l, err := listen.Open(t.Context(), cfg, listen.Options{Name: protocol, Auth: auth, Open: open, Log: log, Metrics: listen.NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(ctx)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return l.Addrs(), auth, stop
}

func dial(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(a.Network(), a.String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestTelnet(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "telnet", nil)
	c := dial(t, at[0])
	fmt.Fprint(c, strings.Join([]string{
		"put data.load.avg_5m 1777777777 7.25 host=dkos-marathon", "put  data.load 1777777777 7.25 host=x", "put m 1777777777123 -3 a=b  c=d ", "put m 1777777777.5 +.5e1 a=b a=b\r",
		"put", "put m 1777777777 1", "put m 0 1 a=b", "put m -5 1 a=b", "put m x 1 a=b", "put m 1777777777 x a=b", "put m 1777777777 NaN a=b", "put m 1777777777 0x1 a=b",
		"put m 1777777777 1 a", "put m 1777777777 1 a=", "put m 1777777777 1 a=b=c", "put m 1777777777 1 a=b a=c", "put m 1 1 a=b", "put m\xff 1777777777 1 a=b", "put m! 1777777777 1 a=b", "put m 1777777777 1 a;b=c", "put m 1777777777 1 a=10.0.0.1;80",
		"", " \r", " put m 1777777777 1 a=b", "version", "help", "stats", "exit", "put late 1777777777 1 a=b", "",
	}, "\n"))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"put: illegal argument: empty metric name",
		"put: illegal argument: not enough arguments (need least 4, got 0)", "put: illegal argument: not enough arguments (need least 4, got 3)",
		"put: illegal argument: invalid timestamp: 0", "put: illegal argument: invalid timestamp: -5", "put: invalid value: not a number: \"x\"", "put: invalid value: not a number: \"x\"",
		"put: invalid value: not a number: \"NaN\"", "put: invalid value: not a number: \"0x1\"",
		"put: illegal argument: invalid tag: a", "put: illegal argument: invalid tag: a=", "put: illegal argument: invalid tag: a=b=c",
		"put: illegal argument: duplicate tag: a=c, tags={a=\"b\"}", "put: illegal argument: series {__name__=\"m\", a=\"b\"}: sample 1 at 1970", "put: illegal argument: not valid UTF-8: m",
		"put: illegal argument: Invalid metric name (\"m!\"): illegal character: !", "put: illegal argument: Invalid tag name with value [c] (\"a;b\"): illegal character: ;",
		"put: illegal argument: Invalid tag value with key [a] (\"10.0.0.1;80\"): illegal character: ;",
		"unknown command: .  Try `help'.", "KEMI test, which speaks", "available commands: exit help put version", "unknown command: stats.  Try `help'.",
	}
	got := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("answer %d of\n%s\nwant\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	h.Eventually("stored", func() bool { return len(h.Samples()) == 3 })
	h.Expect(`data.load.avg_5m{host="dkos-marathon"} 7.25 @1777777777000`, `m{a="b",c="d"} -3 @1777777777123`, `m{a="b"} 5 @1777777777500`)
}

func TestGraphite(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "graphite", func(c *listen.Config) {
		c.Listen = listen.Addresses{"127.0.0.1:0", "udp://127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "g.sock"), "unixgram:" + filepath.Join(t.TempDir(), "g.dgram")}
	})
	lines := "servers.web-1.cpu 1.5 1777777770\n\ndisk.used;host=web-1;dc=icn1 2 1777777770.25\nnow 3 -1\nnow2 4\r\n" +
		"bad\nbad x 1\nbad 1 x\nbad 1 2 3\n;a=b 1 1777777770\nbad;a 1 1777777770\nbad;=b 1 1777777770\nbad\xff 1 1777777770\nold 1 1\nlast 5 1777777770"
	want := []string{
		`servers.web-1.cpu 1.5 @1777777770000`, `disk.used{dc="icn1",host="web-1"} 2 @1777777770250`, `now 3 @1777777777000`, `now2 4 @1777777777000`, `last 5 @1777777770000`,
	}
	for i, a := range at {
		c := dial(t, a)
		fmt.Fprint(c, lines)
		_ = c.Close()
		h.Eventually(fmt.Sprint("stored from ", a.Network()), func() bool { return len(h.Samples()) == (i+1)*len(want) })
	}
	var all []string
	for range at {
		all = append(all, want...)
	}
	h.Expect(all...)
}

// TestIdentity revokes the token under a listener: what comes after some seconds is not taken.
func TestIdentity(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "graphite", func(c *listen.Config) { c.Project = "other" })
	c := dial(t, at[0])
	fmt.Fprint(c, "a 1\n")
	h.Eventually("stored", func() bool { return len(h.Batches()) == 1 })
	if p := h.Batches()[0].Project; p != "other" {
		t.Errorf("project %q", p)
	}

	at, auth, _ := run(t, h, "telnet", nil)
	auth.revoked.Store(true)
	// That the token was good is remembered for some seconds.
	h.Eventually("refused", func() bool {
		c := dial(t, at[0])
		defer c.Close()
		fmt.Fprint(c, "version\nexit\n")
		b, err := io.ReadAll(c)
		return len(b) == 0 && (err == nil || strings.Contains(err.Error(), "reset"))
	})
}

func TestAddressesThatAreNotAllowed(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "telnet", func(c *listen.Config) { c.Allow = []string{"10.0.0.0/8", "::ffff:192.168.1.0/120"} })
	if b, err := io.ReadAll(dial(t, at[0])); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("%q %v", b, err)
	}
	at, _, _ = run(t, h, "telnet", func(c *listen.Config) { c.Allow = []string{"10.0.0.0/8", "127.0.0.0/8"} })
	c := dial(t, at[0])
	fmt.Fprint(c, "version\nexit\n")
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "KEMI") {
		t.Errorf("%q %v", b, err)
	}
}

func TestMoreConnectionsThanAllowed(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "telnet", func(c *listen.Config) { c.MaxConnections = 1 })
	first := dial(t, at[0])
	fmt.Fprint(first, "version\n")
	if s, err := bufio.NewReader(first).ReadString('\n'); err != nil {
		t.Fatal(s, err)
	}
	if b, err := io.ReadAll(dial(t, at[0])); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a second: %q %v", b, err)
	}
}

func TestLongLines(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "graphite", func(c *listen.Config) { c.MaxLineBytes = 100 })
	c := dial(t, at[0])
	fmt.Fprint(c, "a 1\n"+strings.Repeat("x", 70_000)+"\nb 2\n")
	h.Eventually("stored", func() bool { return len(h.Samples()) == 2 })
	h.Expect(`a 1 @1777777777000`, `b 2 @1777777777000`)
}

// TestBackPressure stops the log: what was read is kept and the sender is not read any further; then all of it arrives, and also what is read in
// the moment of the end.
func TestBackPressure(t *testing.T) {
	h := collectortest.Open(t, nil)
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "disk full"))
	at, _, stop := run(t, h, "graphite", nil)
	c := dial(t, at[0])
	for i := range 5000 {
		fmt.Fprintf(c, "m%d 1\n", i%100)
	}
	h.Fault.Set(nil)
	h.Eventually("stored", func() bool { return len(h.Samples()) == 5000 })
	fmt.Fprint(c, "end 1\n")
	_ = c.Close()
	stop()
	if n := len(h.Samples()); n != 5001 && n != 5000 { // it may not have been read
		t.Errorf("%d samples", n)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, pool, pair := collectortest.Certificate(t, dir)
	h := collectortest.Open(t, nil)
	at, _, _ := run(t, h, "telnet", func(c *listen.Config) { c.TLS = listen.TLS{Cert: cert, Key: key, ClientCA: cert} })
	for name, certs := range map[string][]tls.Certificate{"with": {pair}, "without": nil} {
		c, err := tls.Dial("tcp", at[0].String(), &tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12})
		if err == nil {
			fmt.Fprint(c, "version\nexit\n")
			var b []byte
			if b, err = io.ReadAll(c); err == nil && !strings.HasPrefix(string(b), "KEMI") {
				err = fmt.Errorf("answer %q", b)
			}
			_ = c.Close()
		}
		if (err == nil) != (name == "with") {
			t.Errorf("%s a certificate: %v", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for text, wrong := range map[string]string{
		"{listen: 127.0.0.1:4242, tokenFile: x}":                                          "",
		"{listen: [\"tcp://[::1]:1\", \"udp://localhost:2\", \"unix:/x\"], tokenFile: x}": "",
		"{listen: \"\"}":                                                                      "",
		"{listen: 127.0.0.1:4242}":                                                            "tokenFile: empty",
		"{listen: 0.0.0.0:4242, tokenFile: x}":                                                "can be reached by others",
		"{listen: \":4242\", tokenFile: x}":                                                   "can be reached by others",
		"{listen: web-1:4242, tokenFile: x}":                                                  "can be reached by others",
		"{listen: \":4242\", tokenFile: x, allow: [10.0.0.0/8]}":                              "",
		"{listen: \":4242\", tokenFile: x, tls: {cert: c, key: k, clientCA: a}}":              "",
		"{listen: \"udp://:4242\", tokenFile: x, tls: {cert: c, key: k, clientCA: a}}":        "can be reached by others",
		"{listen: \":4242\", tokenFile: x, tls: {cert: c, key: k}}":                           "can be reached by others",
		"{listen: \"tls://:1\", tokenFile: x}":                                                "needs a certificate",
		"{listen: \"tls://:1\", tokenFile: x, tls: {cert: c, key: k, clientCA: a}}":           "",
		"{listen: [\":2\", \"tls://:1\"], tokenFile: x, tls: {cert: c, key: k, clientCA: a}}": "\":2\" can be reached by others",
		"{listen: 127.0.0.1:1, tokenFile: x, tls: {cert: c}}":                                 "needs both",
		"{listen: 4242, tokenFile: x}":                                                        "must be host:port",
		"{listen: \"unix:\", tokenFile: x}":                                                   "needs a path",
		"{listen: 127.0.0.1:1, tokenFile: x, allow: [ten]}":                                   "must be a network",
		"{maxConnections: 0}":                                                                 "maxConnections",
		"{idleTimeout: 0s}":                                                                   "idleTimeout",
		"{maxLineBytes: 1}":                                                                   "maxLineBytes",
	} {
		c := listen.DefaultConfig()
		if err := yaml.Unmarshal([]byte(text), &c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		err := c.Validate()
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v, want %q", text, err, wrong)
		}
	}
}

// TestStaleSocket starts where a process before has left its socket, and does not take the one of a process that lives.
func TestStaleSocket(t *testing.T) {
	h := collectortest.Open(t, nil)
	path := filepath.Join(t.TempDir(), "s.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	_ = old.Close()
	_, _, _ = run(t, h, "graphite", func(c *listen.Config) { c.Listen = listen.Addresses{"unix:" + path} })
	cfg := listen.DefaultConfig()
	cfg.Listen, cfg.TokenFile = listen.Addresses{"unix:" + path}, path
	if _, err := listen.Open(t.Context(), cfg, listen.Options{Name: "x"}); err == nil {
		t.Error("a second one listens on the same socket")
	}
}
