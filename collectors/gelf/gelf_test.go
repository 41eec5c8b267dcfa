package gelf

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
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

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

type tokens struct{}

func (tokens) Authenticate(*http.Request) (kemi.Identity, error) {
	return kemi.Identity{Subject: "token:lines", Project: "shop", Permissions: kemi.LogsWrite}, nil
}

// run serves until the test ends.
func run(t *testing.T, h *collectortest.House, listenOn ...string) []net.Addr {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Listen, cfg.TokenFile = listenOn, token
	l, err := New(t.Context(), cfg, Options{In: h.Push, Auth: tokens{}, Metrics: listen.NewMetrics(h.Reg), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addrs()
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

func show(r *kemi.LogRecord) string {
	body := r.Body
	if len(body) > 80 {
		body = fmt.Sprintf("%.20s… of %d bytes", body, len(body))
	}
	at := r.At.Time().Format(time.RFC3339Nano)
	if time.Since(r.At.Time()).Abs() < time.Minute {
		at = "now"
	}
	return fmt.Sprintf("%s %d %s %s %q", at, r.Severity, r.Stream, r.Attrs, body)
}

func expect(t *testing.T, h *collectortest.House, what string, want ...string) {
	t.Helper()
	h.Eventually(what, func() bool { return len(h.Logs()) >= len(want) })
	records := h.Logs()
	got := make([]string, len(records))
	for i := range records {
		got[i] = show(&records[i])
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("%s:\n%s\nwant\n%s", what, a, b)
	}
}

const message = `{"version": "1.1", "host": "web-1", "short_message": "결제 지연", "full_message": "결제 지연\n\tat Pay.java:7", "timestamp": 1796000000.3072, "level": 4,
 "_app": "pay", "_user_id": 9001, "_ok": true, "_none": null, "_list": [1, "x"], "_trace_id": "0123456789abcdef0123456789abcdef", "facility": "shop", "line": 356}`

const stored = `2026-11-30T00:53:20.3072Z 13 {app="pay", host="web-1"} {facility="shop", line="356", list="[1, \"x\"]", ok="true", user_id="9001"} "결제 지연\n\tat Pay.java:7"`

func packGzip(b string) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = io.WriteString(z, b)
	_ = z.Close()
	return out.Bytes()
}

func packZlib(b string) []byte {
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	_, _ = io.WriteString(z, b)
	_ = z.Close()
	return out.Bytes()
}

func chunked(id string, b []byte, size int) (out [][]byte) {
	count := (len(b) + size - 1) / size
	for i := range count {
		c := append([]byte{0x1e, 0x0f}, (id + "--------")[:8]...)
		c = append(c, byte(i), byte(count))
		out = append(out, append(c, b[i*size:min((i+1)*size, len(b))]...))
	}
	return out
}

func TestDatagrams(t *testing.T) {
	h := collectortest.Open(t, nil)
	c := dial(t, run(t, h, "udp://127.0.0.1:0")[0])
	send := func(packets ...[]byte) {
		for _, p := range packets {
			_, _ = c.Write(p)
		}
	}
	send([]byte(message), packGzip(message), packZlib(message))
	parts := chunked("a", packGzip(message), 30)
	rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	send(parts...)
	other, same := chunked("b", []byte(message), 100), chunked("c", []byte(message), 100)
	for i := range other { // two at once, with one chunk twice
		send(other[i], same[i], same[0])
	}
	send([]byte(`{"short_message":"no host, no time"}`))
	want := []string{stored, stored, stored, stored, stored, stored, `now 0 {host="127.0.0.1"} {} "no host, no time"`}
	// What is no message is kept.
	for sent, problem := range map[string]string{
		"text": "must be a JSON object", "[1]": "must be a JSON object", `{"short_message":`: `field \"short_message\": broken JSON: EOF`, `{"host":"x"}`: "short_message: is missing",
		`{"short_message":"x","level":8}`:           `level: \"8\": must be 0 (emergency) to 7 (debug)`,
		`{"short_message":"x","timestamp":"today"}`: `timestamp: \"today\": must be seconds since 1970`,
		`{"short_message":"x"} y`:                   "something follows the object",
		"\x1e\x0f":                                  "a chunk without a message's ID, its number and the number of chunks, 128 at most",
		"\x1e\x0f12345678\x02\x02x":                 "a chunk without a message's ID, its number and the number of chunks, 128 at most",
		"\x1f\x8b\x08nonsense":                      "broken packing: unexpected EOF",
	} {
		send([]byte(sent))
		want = append(want, fmt.Sprintf(`now 0 {host="127.0.0.1"} {gelf.error="%s"} %q`, problem, sent))
	}
	send(packGzip(strings.Repeat(" ", 2<<20)))
	h.Eventually("the bomb", func() bool {
		return slices.ContainsFunc(h.Logs(), func(r kemi.LogRecord) bool {
			return strings.HasPrefix(r.Attrs.Get("gelf.error"), "unpacks to more than 1048576 bytes")
		})
	})
	want = append(want, "bomb")
	records := h.Logs()
	var got []string
	for i := range records {
		s := show(&records[i])
		if strings.Contains(s, "unpacks to more") {
			s = "bomb"
		}
		got = append(got, s)
	}
	slices.Sort(got)
	slices.Sort(want)
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("\n%s\nwant\n%s", a, b)
	}
}

// TestIncomplete looks that messages that do not become whole are given up, and take no more than their room.
func TestIncomplete(t *testing.T) {
	lost := 0
	c := chunks{waiting: map[chunkKey]*partial{}, lost: func(n int) { lost += n }}
	now := time.Unix(1, 0)
	part := chunked("x", make([]byte, 20_000), 10_000)[0]
	for i := range 5000 {
		copy(part[2:], fmt.Sprintf("%08d", i))
		if whole, ok := c.add("web-1", part, now); whole != nil || !ok {
			t.Fatal(whole, ok)
		}
		if len(c.waiting) > maxWaiting || c.held > maxHeld {
			t.Fatalf("%d messages, %d bytes", len(c.waiting), c.held)
		}
	}
	if lost+len(c.waiting) != 5000 {
		t.Errorf("%d given up, %d wait", lost, len(c.waiting))
	}
	parts := chunked("y", []byte("0123456789"), 5)
	c.add("web-1", parts[0], now.Add(4*time.Second))
	if whole, _ := c.add("web-2", parts[1], now.Add(4*time.Second)); whole != nil {
		t.Error("chunks of two senders make a message")
	}
	if whole, _ := c.add("web-1", parts[1], now.Add(6*time.Second)); string(whole) != "0123456789" {
		t.Errorf("%q", whole)
	}
	c.expire(now.Add(time.Minute), 0)
	if len(c.waiting) != 0 || c.held != 0 || len(c.order) != 0 {
		t.Errorf("%d messages, %d bytes are left", len(c.waiting), c.held)
	}
}

func TestConnections(t *testing.T) {
	h := collectortest.Open(t, nil)
	c := dial(t, run(t, h, "127.0.0.1:0")[0])
	deep := strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000)
	long := strings.Repeat("가", 1<<20/3)
	var many []string
	for i := range 10_000 {
		many = append(many, fmt.Sprintf(`"_k%d":%d`, i, i))
	}
	tooMany := `{"short_message":"x",` + strings.Join(many, ",") + "}"
	for _, m := range []string{
		message, "", "text", `{"short_message":"slow","timestamp":1000000000}`, `{"short_message":"fast","timestamp":5e9}`, `{"short_message":"deep","_deep":` + deep + `}`, tooMany,
		`{"short_message":"` + long + `"}`, "{\"short_message\":\"\xff\\u0000\",\"_plain\":\"\xff\",\"host\":\"\xfe\",\"_smile\":\"\xff\\ud83d\\ude00\\n\"}",
	} {
		fmt.Fprint(c, m, "\x00")
	}
	const cut = `{"short_message":"cut`
	fmt.Fprint(c, cut)
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.ReadAll(c)
	var rest []string
	parts := ""
	for _, r := range h.Logs() {
		if s := show(&r); r.Attrs.Get("gelf.error") != "" && r.Body != cut && strings.Contains(r.Body+parts, "가") {
			parts += r.Body
		} else if r.Attrs.Get("deep") == deep {
			rest = append(rest, r.Body)
		} else {
			rest = append(rest, s)
		}
	}
	slices.Sort(rest)
	want := []string{
		stored, `now 0 {host="127.0.0.1"} {gelf.error="must be a JSON object"} "text"`,
		`now 0 {host="127.0.0.1"} {gelf.time="2001-09-09T01:46:40Z"} "slow"`, `now 0 {host="127.0.0.1"} {gelf.time="2128-06-11T08:53:20Z"} "fast"`, "deep",
		fmt.Sprintf(`now 0 {host="127.0.0.1"} {gelf.error="more than 512 fields (ingest.maxAttributes)"} "{\"short_message\":\"x\"… of %d bytes"`, len(tooMany)),
		`now 0 {host="` + "\ufffd" + `"} {host="\xfe", plain="\xff", smile="\xff😀\n"} "\xff\x00"`,
		`now 0 {host="127.0.0.1"} {gelf.error="field \"short_message\": broken JSON: unexpected EOF"} "{\"short_message\":\"cut"`,
	}
	slices.Sort(want)
	if a, b := strings.Join(rest, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("\n%s\nwant\n%s", a, b)
	}
	if parts != `{"short_message":"`+long+`"}` {
		t.Errorf("%d bytes of a message that is too long", len(parts))
	}
}

func TestHTTP(t *testing.T) {
	h := collectortest.Open(t, nil)
	h.Serve(Routes(Options{In: h.Push, Log: slog.New(slog.DiscardHandler), Now: time.Now}))
	for _, c := range []struct {
		body   []byte
		header []string
		status int
		answer string
		more   int
	}{
		{[]byte(message), nil, 202, "", 1},
		{packGzip(message), []string{"Content-Encoding", "gzip"}, 202, "", 1},
		{[]byte(strings.ReplaceAll(message, "\n", " ") + "\n" + `{"short_message":"x"}` + "\n"), nil, 202, "", 2},
		{[]byte(`{"short_message":"x"}` + "\n" + `{"host":"x"}` + "\n"), nil, 400, "line 2: short_message: is missing", 1},
		{[]byte("text"), nil, 400, "must be a JSON object", 0},
		{[]byte(`{"short_message":"x","timestamp":1000000000}`), nil, 400, "ago (ingest.maxPast)", 0},
		{nil, nil, 400, "must be a JSON object", 0},
	} {
		before := len(h.Logs())
		status, answer, _ := h.Post("/gelf", c.body, c.header...)
		if status != c.status || !strings.Contains(answer, c.answer) {
			t.Errorf("%.60q: %d %s, want %d %s", c.body, status, answer, c.status, c.answer)
		}
		if n := len(h.Logs()) - before; n != c.more {
			t.Errorf("%.60q: %d records more, want %d", c.body, n, c.more)
		}
	}
	if n, err := testutil.GatherAndCount(h.Reg, "kemi_collectors_push_requests_total"); n == 0 || err != nil {
		t.Error(n, err)
	}
}

func FuzzMessage(f *testing.F) {
	for _, s := range []string{message, `{"short_message":"x"}`, `{"_a":{"b":[1]},"full_message":"x"}`, string(packGzip(`{"short_message":"x"}`)), "\x1e\x0f12345678\x00\x01{}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := chunks{waiting: map[chunkKey]*partial{}, lost: func(int) {}}
		if isChunk(b) {
			b, _ = c.add("", b, time.Unix(0, 0))
		}
		b, err := unpack(b, 1<<16)
		if err != nil {
			return
		}
		r, err := parse(b, "peer", 20)
		if err == nil && (!json.Valid(b) || r.Body == "" || len(r.Attrs) > 23) {
			t.Fatalf("%q: %s", b, show(&r))
		}
	})
}
