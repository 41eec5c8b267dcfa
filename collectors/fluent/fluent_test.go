package fluent

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What a client writes, after the protocol's specification.
type (
	array     []any
	pairs     []any // key, value, key, value, …
	bin       []byte
	eventTime struct{ seconds, nanos uint32 }
	raw       []byte
)

func pack(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 0xc0)
	case bool:
		return appendBool(b, v)
	case int:
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(v))
	case string:
		return appendText(b, v)
	case bin:
		return append(binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(len(v))), v...)
	case eventTime:
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(append(b, 0xd7, 0), v.seconds), v.nanos)
	case array:
		b = binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(len(v)))
		for _, e := range v {
			b = pack(b, e)
		}
		return b
	case pairs:
		b = binary.BigEndian.AppendUint32(append(b, 0xdf), uint32(len(v)/2))
		for _, e := range v {
			b = pack(b, e)
		}
		return b
	case raw:
		return append(b, v...)
	}
	panic(fmt.Sprintf("%T", v))
}

func packed(entries ...any) bin {
	var b []byte
	for _, e := range entries {
		b = pack(b, e)
	}
	return b
}

func gzipped(b []byte) bin {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

type tokens struct{}

func (tokens) Authenticate(*http.Request) (kemi.Identity, error) {
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
	cfg.Listen, cfg.TokenFile, cfg.Hostname = listen.Addresses{"127.0.0.1:0"}, token, "kemi-1"
	if change != nil {
		change(&cfg)
	}
	l, err := New(t.Context(), cfg, Options{In: h.Push, Auth: tokens{}, Metrics: listen.NewMetrics(h.Reg), Log: slog.New(slog.DiscardHandler)})
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

func send(t *testing.T, c net.Conn, messages ...any) {
	t.Helper()
	var b []byte
	for _, m := range messages {
		b = pack(b, m)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// answer reads one object.
func answer(t *testing.T, c net.Conn) string {
	t.Helper()
	e := newExtent()
	var b []byte
	one := make([]byte, 1)
	for {
		if ok, err := e.look(b, 1<<20); err != nil {
			t.Fatal(err)
		} else if ok {
			return value(b)
		}
		if _, err := c.Read(one); err != nil {
			return err.Error()
		}
		b = append(b, one[0])
	}
}

func text(r *kemi.LogRecord) string {
	body := r.Body
	if len(body) > 80 {
		body = fmt.Sprintf("%.20s… of %d bytes", body, len(body))
	}
	return fmt.Sprintf("%s %d %s %s %q", r.At.Time().Format(time.RFC3339Nano), r.Severity, r.Stream, r.Attrs, body)
}

func expect(t *testing.T, h *collectortest.House, what string, want ...string) {
	t.Helper()
	h.Eventually(what, func() bool { return len(h.Logs()) >= len(want) })
	records := h.Logs()
	got := make([]string, len(records))
	for i := range records {
		got[i] = text(&records[i])
	}
	slices.Sort(got)
	slices.Sort(want)
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("%s:\n%s\nwant\n%s", what, a, b)
	}
}

// moment is a time near to now: older ones would be refused.
var moment = time.Date(2026, 11, 30, 1, 2, 3, 45, time.UTC)

func TestModes(t *testing.T) {
	at := eventTime{uint32(moment.Unix()), 45}
	record := pairs{"log", "결제 지연\n", "level", "warn", "host", "web-1", "n", 7, "f", 1.5, "ok", true, "nothing", nil, "nested", pairs{"a", pairs{"b", "c"}}, "list", array{1, "x", pairs{"y", nil}}, 3, "three",
		"trace_id", "0123456789abcdef0123456789abcdef", "kubernetes", pairs{"pod_name", "pay-1", "namespace_name", "shop"}}
	fields := `{3="three", f="1.5", list="[1,\"x\",{\"y\":null}]", n="7", nested.a.b="c", ok="true"} "결제 지연"`
	stream := ` 13 {host="web-1", namespace="shop", pod="pay-1", tag="app.pay"} `
	full := `2026-11-30T01:02:03.000000045Z` + stream + fields
	seconds := `2026-11-30T01:02:03Z` + stream + fields
	entry := array{at, record}
	for name, c := range map[string]struct {
		message any
		ack     string
		want    []string
	}{
		"message":             {array{"app.pay", at, record}, "", []string{full}},
		"message with option": {array{"app.pay", int(moment.Unix()), record, pairs{"chunk", "c1"}}, "c1", []string{seconds}},
		"no message":          {array{"app.pay", at, pairs{"a", "b", "c", 1}}, "", []string{`2026-11-30T01:02:03.000000045Z 0 {tag="app.pay"} {a="b", c="1"} "{\"a\":\"b\",\"c\":\"1\"}"`}},
		"forward":             {array{"app.pay", array{entry, array{int(moment.Unix()), record}}}, "", []string{full, seconds}},
		"forward with ack":    {array{"app.pay", array{entry, entry}, pairs{"chunk", "c2", "size", 2}}, "c2", []string{full, full}},
		"metadata":            {array{"app.pay", array{array{array{at, pairs{"from", "tail"}}, pairs{"log", "x"}}}}, "", []string{`2026-11-30T01:02:03.000000045Z 0 {tag="app.pay"} {from="tail"} "x"`}},
		"packed":              {array{"app.pay", packed(entry, entry), pairs{"chunk", "c3"}}, "c3", []string{full, full}},
		"packed as text":      {array{"app.pay", string(packed(entry)), nil}, "", []string{full}},
		"compressed":          {array{"app.pay", append(gzipped(packed(entry)), gzipped(packed(entry))...), pairs{"compressed", "gzip", "chunk", "c4"}}, "c4", []string{full, full}},
		"nothing":             {array{"app.pay", array{}, pairs{"chunk", "c5"}}, "c5", nil},
		"not an entry":        {array{"app.pay", array{array{1}, entry, "x"}, pairs{"chunk", "c6"}}, "c6", []string{full, `now 0 {tag="app.pay"} {fluent.error="an entry must be a time and a record"} "[1]"`, `now 0 {tag="app.pay"} {fluent.error="an entry must be a time and a record"} "x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			h := collectortest.Open(t, nil)
			addrs, _ := run(t, h, nil)
			conn := dial(t, addrs[0])
			send(t, conn, raw{0xc0}, c.message) // a heartbeat before
			if c.ack != "" {
				if got := answer(t, conn); got != fmt.Sprintf("{%q:%q}", "ack", c.ack) {
					t.Fatalf("answer %s", got)
				}
				if n := len(h.Logs()); n != len(c.want) {
					t.Fatalf("acknowledged, and the log has %d records", n)
				}
			}
			for i, w := range c.want {
				if strings.HasPrefix(w, "now ") {
					c.want[i] = "" // of this moment
				}
			}
			h.Eventually("stored", func() bool { return len(h.Logs()) >= len(c.want) })
			var got, want []string
			for _, r := range h.Logs() {
				if s := text(&r); strings.HasPrefix(s, "2026-11-30T01:02:03") {
					got = append(got, s)
				} else if !strings.Contains(s, "fluent.error") {
					t.Errorf("record %s", s)
				}
			}
			for _, w := range c.want {
				if w != "" {
					want = append(want, w)
				}
			}
			if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
				t.Errorf("\n%s\nwant\n%s", a, b)
			}
		})
	}
}

// TestAcknowledgement makes the log refuse: there is no acknowledgement before it holds the chunk. A chunk that is sent again is the same records.
func TestAcknowledgement(t *testing.T) {
	h := collectortest.Open(t, nil)
	addrs, _ := run(t, h, nil)
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "the disk is full"))
	c := dial(t, addrs[0])
	chunk := array{"app", array{array{eventTime{uint32(moment.Unix()), 1}, pairs{"log", "once"}}}, pairs{"chunk", "c1"}}
	send(t, c, chunk)
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if got := answer(t, c); !strings.Contains(got, "timeout") {
		t.Fatalf("answer %s while the log takes nothing", got)
	}
	h.Fault.Set(nil)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for range 2 {
		if got := answer(t, c); got != `{"ack":"c1"}` {
			t.Fatalf("answer %s", got)
		}
		send(t, c, chunk)
	}
	h.Eventually("both writes", func() bool { return len(h.Logs()) >= 2 })
	if r := h.Logs(); r[0].ID == "" || r[0].ID != r[1].ID {
		t.Errorf("IDs %q and %q of a chunk that came twice", r[0].ID, r[1].ID)
	}
}

func TestHandshake(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := collectortest.Open(t, nil)
	addrs, _ := run(t, h, func(c *Config) { c.SharedKeyFile = key })
	hello := func() (net.Conn, string) {
		c := dial(t, addrs[0])
		helo := answer(t, c)
		_, rest, ok := strings.Cut(helo, `["HELO",{"nonce":"`)
		nonce, tail, _ := strings.Cut(rest, `"`)
		if !ok || len(nonce) < 16 || tail != `,"auth":"","keepalive":true}]` {
			t.Fatalf("HELO %s", helo)
		}
		return c, nonce
	}
	c, nonce := hello()
	send(t, c, array{"PING", "web-1", "salt", digest("salt", "web-1", nonce, "geheim"), "", ""})
	if got, want := answer(t, c), fmt.Sprintf(`["PONG",true,"","kemi-1",%q]`, digest("salt", "kemi-1", nonce, "geheim")); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	send(t, c, array{"app", eventTime{uint32(moment.Unix()), 0}, pairs{"log", "x"}, pairs{"chunk", "1"}})
	if got := answer(t, c); got != `{"ack":"1"}` {
		t.Fatal(got)
	}
	for name, ping := range map[string]func(nonce string) any{
		"another key": func(n string) any {
			return array{"PING", "web-1", "salt", digest("salt", "web-1", n, "falsch"), "", ""}
		},
		"an old nonce": func(string) any {
			return array{"PING", "web-1", "salt", digest("salt", "web-1", nonce, "geheim"), "", ""}
		},
		"too short":           func(string) any { return array{"PING", "web-1"} },
		"no texts":            func(string) any { return array{"PING", 1, 2, 3, 4, 5} },
		"an event":            func(string) any { return array{"app", 1, pairs{"log", "x"}} },
		"a frame without end": func(string) any { return raw{0xdb, 0xff, 0xff, 0xff, 0xff} },
	} {
		c, n := hello()
		send(t, c, ping(n))
		got := answer(t, c)
		if !strings.HasPrefix(got, `["PONG",false,`) && !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
			t.Errorf("%s: %s", name, got)
		}
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: the connection goes on: %q %v", name, b, err)
		}
	}
	if n := len(h.Logs()); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestTLS(t *testing.T) {
	h := collectortest.Open(t, nil)
	cert, key, pool, pair := collectortest.Certificate(t, t.TempDir())
	addrs, _ := run(t, h, func(c *Config) {
		c.Listen = listen.Addresses{"tls://127.0.0.1:0"}
		c.TLS = listen.TLS{Cert: cert, Key: key, ClientCA: cert}
	})
	c := tls.Client(dial(t, addrs[0]), &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}})
	send(t, c, array{"app", eventTime{uint32(moment.Unix()), 0}, pairs{"log", "x"}, pairs{"chunk", "1"}})
	if got := answer(t, c); got != `{"ack":"1"}` {
		t.Fatal(got)
	}
}

// TestBadInput sends what nobody should.
func TestBadInput(t *testing.T) {
	at := eventTime{uint32(moment.Unix()), 0}
	long := strings.Repeat("가", 3<<20/3)
	var many pairs
	for i := range 10_000 {
		many = append(many, fmt.Sprint("k", i), i)
	}
	var deep any = "bottom"
	for range 1000 {
		deep = pairs{"d", deep}
	}
	var deepArrays any = "bottom"
	for range 1000 {
		deepArrays = array{deepArrays}
	}
	for name, c := range map[string]struct {
		message any
		kept    int // records; -1: the connection ends
		look    func(r []kemi.LogRecord) error
	}{
		"3 MB": {array{"app", array{array{at, pairs{"log", long}}}, pairs{"chunk", "1"}}, 3, func(r []kemi.LogRecord) error {
			body := ""
			for i := range r {
				body += r[i].Body
				if r[i].Attrs.Get("fluent.part") != fmt.Sprint(i+1) {
					return fmt.Errorf("part %d: %s", i+1, r[i].Attrs)
				}
			}
			if body != long {
				return errors.New("the text is another")
			}
			return nil
		}},
		"10 000 fields": {array{"app", array{array{at, many}}, pairs{"chunk", "1"}}, 1, func(r []kemi.LogRecord) error {
			if !strings.HasPrefix(r[0].Body, `{"k0":0,"k1":1,`) || !strings.HasSuffix(r[0].Body, `"k9999":9999}`) || !strings.Contains(r[0].Attrs.Get("fluent.error"), "more than 512") {
				return errors.New(text(&r[0]))
			}
			return nil
		}},
		"nesting 1 000 deep": {array{"app", array{array{at, pairs{"log", "x", "a", deep}}}, pairs{"chunk", "1"}}, 1, func(r []kemi.LogRecord) error {
			if r[0].Body != "x" || len(r[0].Attrs) != 1 || len(r[0].Attrs[0].Value) < 1000 {
				return errors.New(text(&r[0]))
			}
			return nil
		}},
		"arrays 1 000 deep": {array{"app", array{array{at, pairs{"log", "x", "a", deepArrays}}}, pairs{"chunk", "1"}}, 1, nil},
		"clock 10 years slow": {array{"app", array{array{eventTime{1000000000, 0}, pairs{"log", "x"}}}, pairs{"chunk", "1"}}, 1, func(r []kemi.LogRecord) error {
			if r[0].Attrs.Get("fluent.time") != "2001-09-09T01:46:40Z" || time.Since(r[0].At.Time()).Abs() > time.Minute {
				return errors.New(text(&r[0]))
			}
			return nil
		}},
		"clock fast": {array{"app", array{array{int(moment.Unix() * 2), pairs{"log", "x"}}}, pairs{"chunk", "1"}}, 1, nil},
		"binary": {array{"app", array{array{at, pairs{"log", bin("\xff\x00\x01"), "\xff", "v", "host", "\xfe"}}}, pairs{"chunk", "1"}}, 1, func(r []kemi.LogRecord) error {
			if !strings.HasPrefix(r[0].Body, "\xff\x00\x01") {
				return errors.New(text(&r[0]))
			}
			return nil
		}},
		"a name of 1 MB":      {array{"app", array{array{at, pairs{strings.Repeat("k", 1<<20), pairs{"a", "b"}}}}, pairs{"chunk", "1"}}, 3, nil},
		"a tag of 1 MB":       {array{strings.Repeat("t", 1<<20), array{array{at, pairs{"log", "x"}}}, pairs{"chunk", "1"}}, 2, nil},
		"a number":            {7, -1, nil},
		"an empty array":      {array{}, -1, nil},
		"no tag":              {array{1, 2, pairs{}}, -1, nil},
		"one element":         {array{"app"}, -1, nil},
		"only a time":         {array{"app", 1}, -1, nil},
		"broken gzip":         {array{"app", bin("no gzip"), pairs{"compressed", "gzip"}}, -1, nil},
		"another compression": {array{"app", bin("x"), pairs{"compressed", "zstd"}}, -1, nil},
		"a bomb":              {array{"app", gzipped(make([]byte, 100<<20)), pairs{"compressed", "gzip"}}, -1, nil},
		"entries cut short":   {array{"app", packed(array{at, pairs{"log", "x"}})[:20], nil}, -1, nil},
		"0xc1":                {raw{0xc1}, -1, nil},
		"4 GB":                {raw{0xdb, 0xff, 0xff, 0xff, 0xff, 'x'}, -1, nil},
		"4 G elements":        {raw{0xdd, 0xff, 0xff, 0xff, 0xff, 0x91}, -1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := collectortest.Open(t, nil)
			addrs, _ := run(t, h, nil)
			conn := dial(t, addrs[0])
			send(t, conn, c.message)
			got := answer(t, conn)
			if c.kept < 0 {
				if !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
					t.Fatalf("answer %s", got)
				}
				return
			}
			if got != `{"ack":"1"}` {
				t.Fatalf("answer %s", got)
			}
			r := h.Logs()
			if len(r) != c.kept {
				t.Fatalf("%d records", len(r))
			}
			if c.look != nil {
				if err := c.look(r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Run("a frame cut short", func(t *testing.T) {
		h := collectortest.Open(t, nil)
		addrs, _ := run(t, h, nil)
		conn := dial(t, addrs[0])
		b := pack(nil, array{"app", at, pairs{"log", "first"}})
		b = append(b, b[:len(b)-3]...)
		_, _ = conn.Write(b)
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(conn)
		expect(t, h, "what was whole is kept", `2026-11-30T01:02:03Z 0 {tag="app"} {} "first"`)
	})
}

// FuzzMessage looks that no bytes bring the receiver down, and that an object's length does not depend on how it comes.
func FuzzMessage(f *testing.F) {
	at := eventTime{1700000000, 5}
	for _, v := range []any{
		array{"app", at, pairs{"log", "x", "n", 1.5}}, array{"app", array{array{at, pairs{"a", array{1, nil, true}}}}, pairs{"chunk", "c"}},
		array{"app", packed(array{at, pairs{"a", pairs{"b", "c"}}}), nil}, array{"app", gzipped(packed(array{at, pairs{}})), pairs{"compressed", "gzip"}},
	} {
		f.Add(pack(nil, v))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		one, bit := newExtent(), newExtent()
		ok, err := one.look(b, 1<<16)
		for i := range len(b) + 1 {
			done, e := bit.look(b[:i], 1<<16)
			if e != nil || done {
				if done && (!ok || bit.at != one.at || i != one.at) || e != nil && err == nil && !ok {
					t.Fatalf("%x: after %d bytes %v %v (%d), at once %v %v (%d)", b, i, done, e, bit.at, ok, err, one.at)
				}
				break
			}
		}
		if !ok {
			return
		}
		_ = value(b[:one.at])
		m, err := parse(b[:one.at])
		if err != nil || m.unpack(1<<20, func() error { return nil }) != nil {
			return
		}
		_ = m.each(func(at kemi.Nanos, record, metadata []byte, problem error) {
			if problem == nil {
				r, _ := recordOf(m.tag, at, record, metadata, 100)
				if len(r.Attrs) > 102 {
					t.Fatalf("%d attributes", len(r.Attrs))
				}
			}
		})
	})
}
