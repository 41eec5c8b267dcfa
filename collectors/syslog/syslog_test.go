package syslog

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tokens struct{}

func (tokens) Authenticate(r *http.Request) (kemi.Identity, error) {
	if r.Header.Get("Authorization") != "Bearer secret" {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "the token is not known")
	}
	return kemi.Identity{Subject: "token:lines", Project: "shop", Permissions: kemi.LogsWrite}, nil
}

// run serves until the test ends.
func run(t *testing.T, h *collectortest.House, change func(*Config)) (_ []net.Addr, stop func()) {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Listen, cfg.TokenFile, cfg.TimeZone = listen.Addresses{"127.0.0.1:0"}, token, "Asia/Seoul"
	if change != nil {
		change(&cfg)
	}
	l, err := New(t.Context(), cfg, Options{In: h.Push, Auth: tokens{}, Metrics: listen.NewMetrics(h.Reg), Registerer: h.Reg, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return testNow }})
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
	return l.Addrs(), stop
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

func text(r *kemi.LogRecord) string {
	body := r.Body
	if len(body) > 60 {
		body = fmt.Sprintf("%.20s… of %d bytes", body, len(body))
	}
	return fmt.Sprintf("%s %d %s %s %q", r.At.Time().Format(time.RFC3339Nano), r.Severity, r.Stream, r.Attrs, body)
}

// expect waits for as many records as are wanted, and compares, in any order.
func expect(t *testing.T, h *collectortest.House, what string, want ...string) {
	t.Helper()
	h.Eventually(what, func() bool { return len(h.Logs()) >= len(want) })
	records := h.Logs()
	got := make([]string, len(records))
	for i := range records {
		got[i] = text(&records[i])
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("%s:\n%s\nwant\n%s", what, a, b)
	}
}

const now = "2026-01-02T03:04:05Z"

func TestConnections(t *testing.T) {
	messages := []string{
		`<165>1 2026-01-01T05:14:15.000003-07:00 web-1 pay 8710 ID1 [a@1 b="서울"] 결제 지연`,
		`<34>Jan  1 22:14:15 web-2 su[7]: 'su root' failed`,
		`<13>1 2016-01-01T00:00:00Z web-1 pay - - - a clock ten years slow`,
		`<13>1 2036-01-01T00:00:00Z web-1 pay - - - and one ten years fast`,
		`<13>1 yesterday web-1 pay - - - no time`,
		`<13>1 - - - - - - nothing said`,
		"<13>1 - web-1 pay - - - \xff\x00 binary",
		"no syslog at all: ERROR",
		"<11>neither",
	}
	want := []string{
		`2026-01-01T12:14:15.000003Z 10 {app="pay", facility="local4", host="web-1"} {a@1.b="서울", msgid="ID1", procid="8710"} "결제 지연"`,
		now + ` 10 {app="pay", facility="user", host="web-1"} {syslog.time="2016-01-01T00:00:00Z"} "a clock ten years slow"`,
		now + ` 10 {app="pay", facility="user", host="web-1"} {syslog.time="2036-01-01T00:00:00Z"} "and one ten years fast"`,
		now + ` 10 {app="pay", facility="user", host="web-1"} {syslog.time="yesterday"} "no time"`,
		now + ` 10 {app="pay", facility="user", host="web-1"} {} "\xff\x00 binary"`,
		`2026-01-01T13:14:15Z 18 {app="su", facility="auth", host="web-2"} {procid="7"} "'su root' failed"`,
		now + ` 10 {facility="user", host="127.0.0.1"} {} "nothing said"`,
		now + ` 17 {facility="user", host="127.0.0.1"} {syslog.error="RFC 3164: must have a time as Jan _2 15:04:05 or as in RFC 3339"} "<11>neither"`,
		now + ` 17 {host="127.0.0.1"} {syslog.error="no priority: must begin with <0> to <191>"} "no syslog at all: ERROR"`,
	}
	lines := strings.Join(messages, "\n")
	var counted strings.Builder
	for _, m := range messages[:len(messages)-2] {
		fmt.Fprintf(&counted, "%d %s", len(m), m)
	}
	fmt.Fprintf(&counted, "%s\n%d %s", messages[7], len(messages[8]), messages[8])
	for name, data := range map[string]string{"lines": lines, "counted": counted.String()} {
		t.Run(name, func(t *testing.T) {
			h := collectortest.Open(t, nil)
			at, _ := run(t, h, nil)
			c := dial(t, at[0])
			fmt.Fprint(c, data)
			_ = c.(*net.TCPConn).CloseWrite()
			expect(t, h, name, want...)
			if n, err := testutil.GatherAndCount(h.Reg, "kemi_collectors_syslog_odd_total"); n != 3 || err != nil {
				t.Error(n, err)
			}
		})
	}
	t.Run("datagrams", func(t *testing.T) {
		h := collectortest.Open(t, nil)
		at, _ := run(t, h, func(c *Config) { c.Listen = listen.Addresses{"udp://127.0.0.1:0"} })
		c := dial(t, at[0])
		for _, m := range messages {
			fmt.Fprint(c, m)
		}
		fmt.Fprint(c, "<13>1 - web-9 x - - - a line\nand one more\n\x00")
		expect(t, h, "datagrams", append(slices.Clone(want), now+` 10 {app="x", facility="user", host="web-9"} {} "a line\nand one more"`)...)
	})
}

// TestBadInput sends what nobody should: all of it is kept.
func TestBadInput(t *testing.T) {
	long := strings.Repeat("가", 1<<20/3)
	many := strings.Builder{}
	for i := range 10_000 {
		fmt.Fprintf(&many, ` k%d="%d"`, i, i)
	}
	for name, c := range map[string]struct {
		send string
		want []string
	}{
		"a line of 1 MB": {"<14>1 - web-1 pay 1 - - " + long + "\n", nil},
		"1 MB counted":   {fmt.Sprintf("%d <14>1 - web-1 pay 1 - - %s", len(long)+24, long), nil},
		"10 000 fields": {"<14>1 - web-1 pay - - [x" + many.String() + "] text\n", []string{
			now + ` 9 {facility="user", host="127.0.0.1"} {syslog.error="more than 508 attributes (ingest.maxAttributes)"} "<14>1 - web-1 pay - … of ` + fmt.Sprint(len(many.String())+30) + ` bytes"`,
		}},
		"nesting": {"<14>1 - web-1 pay - - - " + strings.Repeat("[{", 1000) + "\n", []string{now + ` 9 {app="pay", facility="user", host="web-1"} {} "[{[{[{[{[{[{[{[{[{[{… of 2000 bytes"`}},
		"a frame cut short": {"100 <14>1 - web-1 pay - - - text", []string{
			now + ` 9 {app="pay", facility="user", host="web-1"} {syslog.error="the connection ended within the message"} "text"`,
		}},
		"a frame of the largest number": {"999999999 <14>1 - web-1 pay - - - text", []string{
			now + ` 9 {app="pay", facility="user", host="web-1"} {syslog.error="the connection ended within the message"} "text"`,
		}},
		"a name of 1 KB": {"<14>1 - " + strings.Repeat("h", 1024) + " pay - - - text\n", []string{
			now + ` 9 {facility="user", host="127.0.0.1"} {syslog.error="RFC 5424: must have time, host and application"} "<14>1 - hhhhhhhhhhhh… of 1047 bytes"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := collectortest.Open(t, nil)
			at, _ := run(t, h, nil)
			conn := dial(t, at[0])
			fmt.Fprint(conn, c.send)
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.ReadAll(conn)
			if c.want != nil {
				expect(t, h, name, c.want...)
				return
			}
			var body strings.Builder
			for i, r := range h.Logs() {
				body.WriteString(r.Body)
				if r.Stream.Get("host") != "web-1" || r.Severity != kemi.SeverityInfo || r.Attrs.Get("procid") != "1" || r.Attrs.Get("syslog.part") != fmt.Sprint(i+1) {
					t.Errorf("part %d: %s", i+1, text(&r))
				}
			}
			if body.String() != long {
				t.Errorf("%d bytes came, of %d", body.Len(), len(long))
			}
		})
	}
}

// TestBackPressure makes the log refuse: a sender over a connection is not read any more, and nothing of it is lost afterwards.
func TestBackPressure(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _ := run(t, h, nil)
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "the disk is full"))
	c := dial(t, at[0])
	line := "<14>1 - web-1 pay - - - " + strings.Repeat("x", 1000) + "\n"
	// As much as the kernel and the receiver hold, and no more.
	_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	sent := 0
	for sent < 200<<20 {
		n, err := io.WriteString(c, line)
		if sent += n; err != nil {
			break
		}
	}
	if sent >= 200<<20 {
		t.Fatalf("%d bytes were taken that cannot be kept", sent)
	}
	h.Fault.Set(nil)
	_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if rest := len(line) - sent%len(line); rest < len(line) {
		fmt.Fprint(c, line[len(line)-rest:])
		sent += rest
	}
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.ReadAll(c)
	if got := len(h.Logs()); got != sent/len(line) {
		t.Errorf("%d records of %d", got, sent/len(line))
	}
}

// TestDrops fills a socket that is not read: what the system drops is counted.
func TestDrops(t *testing.T) {
	h := collectortest.Open(t, nil)
	at, _ := run(t, h, func(c *Config) { c.Listen = listen.Addresses{"udp://127.0.0.1:0"} })
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "the disk is full"))
	c := dial(t, at[0])
	packet := "<14>1 - web-1 pay - - - " + strings.Repeat("x", 8000)
	const sent = 20_000 // more than the largest buffer holds
	for range sent {
		fmt.Fprint(c, packet)
	}
	h.Fault.Set(nil)
	h.Eventually("the drops are counted", func() bool {
		fmt.Fprint(c, "<14>1 - web-1 pay - - - one more")
		n := 0
		for _, m := range dropped(t, h) {
			n += int(m)
		}
		return n > 0 && n < sent
	})
	h.Eventually("all others are kept", func() bool {
		n := 0
		for _, r := range h.Logs() {
			if len(r.Body) == 8000 {
				n++
			}
		}
		return n+int(dropped(t, h)[0]) >= sent
	})
}

func dropped(t *testing.T, h *collectortest.House) []float64 {
	t.Helper()
	families, err := h.Reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "kemi_collectors_listen_dropped_datagrams_total" {
			return []float64{f.Metric[0].Counter.GetValue()}
		}
	}
	return []float64{0}
}

// TestTLS has both, plain and TLS, and asks for a certificate.
func TestTLS(t *testing.T) {
	h := collectortest.Open(t, nil)
	cert, key, pool, pair := collectortest.Certificate(t, t.TempDir())
	at, _ := run(t, h, func(c *Config) {
		c.Listen = listen.Addresses{"tcp://127.0.0.1:0", "tls://127.0.0.1:0"}
		c.TLS = listen.TLS{Cert: cert, Key: key, ClientCA: cert}
	})
	fmt.Fprint(dial(t, at[0]), "<14>1 2026-01-01T00:00:00Z web-1 plain - - - text\n")
	c := tls.Client(dial(t, at[1]), &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}})
	fmt.Fprint(c, "50 <14>1 2026-01-01T00:00:00Z web-1 secure - - - text")
	h.Eventually("both came", func() bool { return len(h.Logs()) == 2 })
	for _, r := range h.Logs() {
		if r.Body != "text" {
			t.Error(text(&r))
		}
	}
}
