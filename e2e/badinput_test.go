//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"kemi/pipeline/storetest"
)

// run runs the binary to its end and returns its exit code and what it said.
func run(t testing.TB, args ...string) (int, string) {
	t.Helper()
	c := exec.Command(binary(t), args...)
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

// mount mounts a small file system for this test.
func mount(t testing.TB, dir, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		storetest.Absent(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// TestRefusesToStart: what is wrong at the start is said in a line that names it, with the exit code for its kind.
func TestRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	conf := func(text string) string {
		name := filepath.Join(t.TempDir(), "kemi.yaml")
		write(t, name, text)
		return name
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	readOnly := t.TempDir()
	mount(t, readOnly, "size=1m,mode=0755")
	if err := syscall.Mount("", readOnly, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"unknown key":       {[]string{"server", "--data", dir, "--config", conf("listen: 127.0.0.1:0\nlisten_on: x\n")}, 2, []string{"line 2", "listen_on"}},
		"wrong value":       {[]string{"server", "--data", dir, "--config", conf("log: {level: loud}\n")}, 2, []string{"log.level", "loud", "debug, info, warn, error"}},
		"not YAML":          {[]string{"server", "--data", dir, "--config", conf("a: [")}, 2, []string{"configuration"}},
		"no such file":      {[]string{"server", "--data", dir, "--config", "/nowhere.yaml"}, 2, []string{"/nowhere.yaml"}},
		"port in use":       {[]string{"server", "--data", filepath.Join(dir, "a"), "--listen", taken.Addr().String()}, 5, []string{taken.Addr().String(), "in use"}},
		"read-only folder":  {[]string{"server", "--data", filepath.Join(readOnly, "data"), "--listen", "127.0.0.1:0"}, -1, []string{"read-only"}},
		"dev for everybody": {[]string{"server", "--data", dir, "--dev", "--listen", "0.0.0.0:0"}, 2, []string{"dev", "loopback"}},
		"unknown flag":      {[]string{"server", "--lsten", "x"}, 2, []string{"--lsten"}},
		"check":             {[]string{"config", "check", "--config", conf("bus: {segmentBytes: 1}\n")}, 2, []string{"segmentBytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, out := run(t, c.args...)
			if code == 0 || c.code > 0 && code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(out, s) {
					t.Errorf("it does not say %q: %s", s, out)
				}
			}
			if strings.Contains(out, "goroutine ") {
				t.Errorf("a stack trace: %s", out)
			}
		})
	}
}

// TestSecondServer: a folder belongs to one server at a time.
func TestSecondServer(t *testing.T) {
	s := startServer(t, filepath.Join(t.TempDir(), "data"), "agent: {enabled: false}\n")
	code, out := run(t, "server", "--data", s.data, "--listen", "127.0.0.1:0")
	if code == 0 || !strings.Contains(out, s.data) {
		t.Fatalf("%d %s", code, out)
	}
	s.must("GET", "/api/v2/whoami", nil)
}

func writeRequest(series ...prompb.TimeSeries) []byte {
	b, _ := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	return snappy.Encode(nil, b)
}

func oneSeries(name string, at int64, value float64, labels ...string) prompb.TimeSeries {
	ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: name}}, Samples: []prompb.Sample{{Timestamp: at, Value: value}}}
	for i := 0; i+1 < len(labels); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
	}
	return ts
}

// TestBadInput: every wrong body gets an answer that names what is wrong; what is right in it is kept; the server goes on.
func TestBadInput(t *testing.T) {
	s := startServer(t, filepath.Join(t.TempDir(), "data"), "agent: {enabled: false}\n")
	now := time.Now()
	ms, far := now.UnixMilli(), now.Add(100*365*24*time.Hour).UnixMilli()
	rw := []string{"Content-Type", remoteWriteType, "Content-Encoding", "snappy"}
	js := []string{"Content-Type", "application/json"}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 300 {
		_, _ = z.Write(make([]byte, 1<<20))
	}
	_ = z.Close()
	for name, c := range map[string]struct {
		path    string
		body    any
		headers []string
		code    int
		says    string
	}{
		"broken snappy":      {"/api/v1/write", []byte("\x20\xff\xff\xff nonsense"), rw, 400, "snappy"},
		"snappy of nonsense": {"/api/v1/write", snappy.Encode(nil, []byte("not protobuf at all")), rw, 400, ""},
		"not remote write":   {"/api/v1/write", "x", []string{"Content-Type", "text/html"}, 415, ""},
		"10 MB label":        {"/api/v1/write", writeRequest(oneSeries("m", ms, 1, "long", strings.Repeat("x", 10<<20))), rw, 400, "long"},
		"invalid UTF-8":      {"/api/v1/write", writeRequest(oneSeries("m", ms, 1, "bad", "\xff\xfe")), rw, 400, "UTF-8"},
		"no name":            {"/api/v1/write", writeRequest(prompb.TimeSeries{Labels: []prompb.Label{{Name: "a", Value: "b"}}, Samples: []prompb.Sample{{Timestamp: ms}}}), rw, 400, "__name__"},
		"far future":         {"/api/v1/write", writeRequest(oneSeries("future", far, 1), oneSeries("kept", ms, 7)), rw, 400, "future"},
		"half a JSON":        {"/api/put", `{"metric":"m","timestamp":1,`, js, 400, ""},
		"NaN in put":         {"/api/put?details", fmt.Sprintf(`[{"metric":"m","timestamp":%d,"value":"NaN","tags":{"a":"b"}},{"metric":"kept.put","timestamp":%d,"value":8,"tags":{"a":"b"}}]`, ms, ms), js, 400, `"success":1`},
		"query, half":        {"/api/v2/query", `{"start": "1h-ago", "queries": [{"metr`, js, 400, ""},
		"query, no start":    {"/api/v2/query", `{"queries": [{"metric":"m","aggregator":"sum"}]}`, js, 400, "start"},
		"query, aggregator":  {"/api/v2/query", `{"start":"1h-ago","queries": [{"metric":"kept","aggregator":"most"}]}`, js, 400, "most"},
		"PromQL":             {"/api/v1/query?query=sum(", "", nil, 400, "bad_data"},
		"logs, one bad line": {"/api/v2/logs", "{\"_msg\":\"good one\"}\n{\"_msg\":\n{\"_msg\":\"good two\"}\n", js, 400, "2"},
		"Loki, half a JSON":  {"/loki/api/v1/push", `{"streams":[{"stream":{"a":"b"},"values":[["1`, js, 400, ""},
		"gzip bomb":          {"/api/v2/logs", bomb.Bytes(), []string{"Content-Encoding", "gzip"}, 413, ""},
		"rule, unknown key":  {"/api/v2/rules/x", nil, nil, 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, text := s.call("POST", c.path, c.body, c.headers...)
			if code != c.code || !strings.Contains(text, c.says) {
				t.Errorf("%d %.400s; want %d with %q", code, text, c.code, c.says)
			}
		})
	}
	eventually(t, 10*time.Second, "the good parts are kept", func() error {
		for q, want := range map[string]string{"kept": `"7"`, `{"kept.put"}`: `"8"`} {
			code, text := s.call("POST", "/api/v1/query", "query="+strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22").Replace(q), "Content-Type", "application/x-www-form-urlencoded")
			if code != http.StatusOK || !strings.Contains(text, want) {
				return fmt.Errorf("%s: %d %s", q, code, text)
			}
		}
		n, err := s.countLogs("good")
		if err != nil || n != 2 {
			return fmt.Errorf("%d lines, %v", n, err)
		}
		return nil
	})

	// Not wrong, only uncommon: these are taken as they are.
	long := strings.Repeat("0123456789abcdef", 1<<16-100) + " needle"
	if len(long) >= 1<<20 {
		t.Fatal("the line is longer than the limit")
	}
	s.must("POST", "/api/v2/logs", map[string]string{"host": "long", "_msg": long}, js...)
	s.must("POST", "/api/v1/write", writeRequest(oneSeries("nan", ms, math.NaN()), oneSeries("inf", ms, math.Inf(1))), rw...)
	eventually(t, 10*time.Second, "the long line is found by its last word", func() error {
		n, err := s.countLogs("host:long needle")
		if err != nil || n != 1 {
			return fmt.Errorf("%d lines, %v", n, err)
		}
		return nil
	})
	if code, text := s.call("POST", "/api/v2/logs", map[string]string{"_msg": strings.Repeat("x", 3<<20)}, js...); code != http.StatusBadRequest && code != http.StatusRequestEntityTooLarge {
		t.Errorf("a line over the limit: %d %s", code, text)
	}
	// Whoever has no token gets nothing, wherever he asks.
	for _, p := range []string{"/", "/metrics", "/api/v1/query?query=up", "/api/v2/query", "/loki/api/v1/push", "/debug/pprof/", "/nowhere", "/api/v2/logs/tail"} {
		r, err := http.Get(s.url + p)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusUnauthorized && r.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s without a token: %d", p, r.StatusCode)
		}
	}
}

// TestFullDisk fills a small disk: the server answers 503 and loses nothing that it acknowledged, and goes on when there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "size=96m,mode=0755")
	s := startServer(t, filepath.Join(dir, "data"), "agent: {enabled: false}\nbus: {segmentBytes: 4194304}\n")
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for {
		if _, err := f.Write(chunk); err != nil {
			break
		}
	}
	f.Close()
	acked, full := 0, false
	base := time.Now().Add(-time.Hour)
	for n := range 20_000 {
		b := writeRequest(oneSeries("disk", base.Add(time.Duration(n)*time.Millisecond).UnixMilli(), float64(n), "pad", strings.Repeat("y", 4000)))
		code, text := s.call("POST", "/api/v1/write", b, "Content-Type", remoteWriteType, "Content-Encoding", "snappy")
		if code/100 == 2 {
			acked = n + 1
			continue
		}
		if code != http.StatusServiceUnavailable || !strings.Contains(text, "space") {
			t.Fatalf("on a full disk: %d %s", code, text)
		}
		full = true
		break
	}
	if !full {
		t.Fatal("the disk never was full")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "it takes samples again", func() error {
		ok, err := s.remoteWrite("disk_after", "a", time.Now(), 1)
		if !ok || err != nil {
			return fmt.Errorf("%v %v", ok, err)
		}
		return nil
	})
	eventually(t, 30*time.Second, "all that was acknowledged is there", func() error {
		_, text := s.call("GET", "/api/v1/query?query=count_over_time(disk[2h])", nil)
		if !strings.Contains(text, fmt.Sprintf(`"%d"`, acked)) {
			return fmt.Errorf("%d acknowledged: %s", acked, text)
		}
		return nil
	})
}
