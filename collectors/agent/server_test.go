package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// server takes what agents send, as a KEMI server does: a batch of a name that it knows counts no more.
type server struct {
	*httptest.Server
	t     testing.TB
	table *codec.Table

	mu       sync.Mutex
	before   func(r *http.Request) int // a status other than 0 refuses the request before it is taken
	after    func(r *http.Request) int // the same after it was taken: the answer is lost
	header   http.Header               // of refusals
	bodies   map[string][]byte         // by batch
	order    []string
	records  []kemi.LogRecord
	samples  map[string]int // by metric
	last     map[string]float64
	types    map[string]string
	hosts    map[string]map[string]any
	requests []*http.Request
}

func newServer(t testing.TB) *server {
	s := &server{
		t: t, table: codec.NewTable(nil, time.Now), bodies: map[string][]byte{}, samples: map[string]int{}, last: map[string]float64{}, types: map[string]string{},
		hosts: map[string]map[string]any{}, header: http.Header{},
	}
	s.Server = httptest.NewUnstartedServer(s)
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	refuse := func(f func(*http.Request) int) bool {
		code := 0
		if f != nil {
			code = f(r)
		}
		if code == 0 {
			return false
		}
		if code == http.StatusTeapot { // no answer at all
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.Close()
			}
			return true
		}
		for k, v := range s.header {
			w.Header()[k] = v
		}
		http.Error(w, "refused by the test", code)
		return true
	}
	if err != nil || refuse(s.before) {
		return
	}
	switch {
	case r.Method == "POST" && r.URL.Path == "/api/v1/write":
		s.metrics(r, body)
	case r.Method == "POST" && r.URL.Path == "/v1/logs":
		s.logs(r, body)
	case r.Method == "POST" && strings.HasPrefix(r.URL.Path, "/api/v2/ims/hosts/"):
		var h struct{ Spec map[string]any }
		if err := json.Unmarshal(body, &h); err != nil {
			s.t.Errorf("registration %s: %v", body, err)
		}
		s.hosts[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v2/ims/hosts/"), "/register")] = h.Spec
	default:
		s.t.Errorf("request %s %s", r.Method, r.URL)
	}
	refuse(s.after)
}

// known tells whether the batch was taken before; then it must be the same.
func (s *server) known(r *http.Request, body []byte) bool {
	name := r.Header.Get("X-Kemi-Batch")
	if name == "" {
		s.t.Error("a batch has no name")
	}
	if old, ok := s.bodies[name]; ok {
		if !bytes.Equal(old, body) {
			s.t.Errorf("batch %s came again with other content", name)
		}
		return true
	}
	s.bodies[name] = body
	s.order = append(s.order, name)
	return false
}

func (s *server) metrics(r *http.Request, body []byte) {
	if ct, ce := r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"); ct != codec.RemoteWrite2 || ce != "snappy" {
		s.t.Errorf("metrics come as %s, %s", ct, ce)
	}
	if s.known(r, body) {
		return
	}
	b, err := s.table.Decode(&bus.Record{Value: body, Headers: []bus.Header{
		{Name: codec.HeaderProject, Value: "p"}, {Name: codec.HeaderType, Value: codec.RemoteWrite2}, {Name: codec.HeaderEncoding, Value: "snappy"}}})
	if err != nil {
		s.t.Errorf("metrics: %v", err)
		return
	}
	for i := range b.Series {
		ls := b.Labels(i)
		from, to := b.Span(i)
		name := ls.Get(kemi.MetricName)
		s.samples[name] += to - from
		s.last[ls.String()] = b.Values[to-1]
	}
	if b.Complex != nil {
		for _, m := range b.Complex.Metadata {
			s.types[m.Metric] = m.Type
		}
	}
}

func (s *server) logs(r *http.Request, body []byte) {
	switch r.Header.Get("Content-Encoding") {
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(z)
		}
		if err != nil {
			s.t.Errorf("logs: %v", err)
			return
		}
	case "":
	default:
		s.t.Errorf("logs come as %s", r.Header.Get("Content-Encoding"))
	}
	if s.known(r, body) {
		return
	}
	records, err := codec.DecodeOTLPLogs(body)
	if err != nil {
		s.t.Errorf("logs: %v", err)
		return
	}
	s.records = append(s.records, records...)
}

func (s *server) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, len(s.records))
	for i, r := range s.records {
		out[i] = r.Body
	}
	return out
}

func (s *server) set(before, after func(*http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// gate is a listener that hangs up on everybody until it is opened.
type gate struct {
	net.Listener
	open atomic.Bool
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil || g.open.Load() {
			return c, err
		}
		c.Close()
	}
}

// refusing starts the server in a way that it is away until the returned function is called.
func (s *server) refusing() (url string, start func()) {
	g := &gate{Listener: s.Listener}
	s.Listener = g
	s.Start()
	return s.URL, func() { g.open.Store(true) }
}

func config(t testing.TB, url string, logs string) Config {
	c := DefaultConfig()
	c.Server, c.Hostname, c.Journal, c.Interval = url, "web-1", false, time.Second
	c.Host = HostConfig{Enabled: false}
	c.Spool.Dir = filepath.Join(t.TempDir(), "spool")
	if logs != "" {
		c.Logs = append(c.Logs, tailConfig(logs))
	}
	return c
}

func put(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func numbered(from, to int) (lines []string) {
	for i := from; i < to; i++ {
		lines = append(lines, fmt.Sprintf("line %06d", i))
	}
	return lines
}

func text(lines []string) string { return strings.Join(lines, "\n") + "\n" }
