package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"kemi"
	"kemi/collectors/tail"
	"kemi/pipeline/storetest"
	"kemi/pipeline/transform"
)

func tailConfig(pattern string) tail.Config {
	return tail.Config{Paths: []string{pattern}, Service: "pay"}
}

// run runs an agent until the returned function is called, or the test ends.
func run(t testing.TB, c Config) (a *Agent, stop func()) { return runWith(t, Options{Config: c}) }

func runWith(t testing.TB, o Options) (a *Agent, stop func()) {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet()
	}
	o.Now, o.Version = time.Now, "v1"
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s, ok := a.sink.(*HTTPSink); ok {
			s.client.CloseIdleConnections()
		}
	})
	t.Cleanup(stop)
	return a, stop
}

// TestPipelines drops and redacts before the spool, and reads on behind what was dropped after a restart.
func TestPipelines(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	log := filepath.Join(t.TempDir(), "app.log")
	put(t, log, "from kim@shop.kr\nGET /health\n")
	c := config(t, s.URL, log)
	c.Pipelines = []transform.Pipeline{{Name: "p", Match: transform.Condition{"service": "pay"}, Steps: []transform.Step{
		{Drop: &transform.Drop{Reason: "health"}, When: transform.Condition{"body": "/health/"}}, {Redact: &transform.Redact{Detectors: []string{"email"}}},
	}}}
	reg := prometheus.NewRegistry()
	count := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.records) }
	_, stop := runWith(t, Options{Config: c, Registerer: reg})
	waitFor(t, "the first", func() bool { return count() == 1 })
	if n, err := testutil.GatherAndCount(reg, "kemi_collectors_agent_pipeline_dropped_total"); err != nil || n != 1 {
		t.Errorf("metrics: %d %v", n, err)
	}
	stop()
	put(t, log, "last\n")
	_, stop = runWith(t, Options{Config: c, Registerer: reg})
	waitFor(t, "the last", func() bool { return count() == 2 })
	stop()
	if s.records[0].Body != "from ***@****.**" || s.records[1].Body != "last" {
		t.Errorf("records %v", s.records)
	}
}

func TestShips(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	log := filepath.Join(t.TempDir(), "app.log")
	put(t, log, "first\n\xff bytes\n")
	c := config(t, s.URL, log)
	c.Host.Enabled = true
	c.Project, c.Owner, c.Zone, c.Labels = "team", "kim", "z1", map[string]string{"rack": "r7"}
	c.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(c.TokenFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	a, stop := runWith(t, Options{Config: c, Registerer: reg})
	waitFor(t, "everything", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.records) == 2 && s.samples["data.load.avg_5m"] >= 3 && s.samples["data.cpu.usage"] >= 2
	})
	waitFor(t, "an empty spool", func() bool { n, _ := a.waiting(); return n == 0 })
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(reg, "kemi_collectors_agent_sent_batches_total"); err != nil || n != 1 {
		t.Errorf("metrics: %d %v", n, err)
	}
	stop()
	if n, _ := testutil.GatherAndCount(reg); n != 0 {
		t.Errorf("%d metrics are left behind", n)
	}
	r := s.records[1]
	if want := kemi.LabelsOf("host", "web-1", "rack", "r7", "service", "pay", "file", log); r.Body != "\xff bytes" || r.Stream.Compare(want) != 0 {
		t.Errorf("record %+v", r)
	}
	if _, ok := s.last[`{__name__="data.load.avg_5m", host="web-1", rack="r7"}`]; !ok {
		t.Errorf("series %.500v", s.last)
	}
	if v := s.last[`{__name__="data.agent.memory_bytes", host="web-1", rack="r7"}`]; v < 1<<20 {
		t.Errorf("the agent has %v bytes", v)
	}
	if s.types["data.load.avg_5m"] != "gauge" || s.types["data.cpu.seconds_total"] != "counter" {
		t.Errorf("types %v", s.types)
	}
	h := s.hosts["web-1"]
	facts, _ := h["facts"].(map[string]any)
	if h["owner"] != "kim" || h["zone"] != "z1" || facts["agentVersion"] != "v1" || facts["kernel"] == "" || facts["cpus"].(float64) < 1 || facts["memoryBytes"].(float64) < 1<<20 {
		t.Errorf("registered as %v", h)
	}
	for _, r := range s.requests {
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Kemi-Project") != "team" {
			t.Errorf("request with %v", r.Header)
		}
	}
	if p := s.requests[0].URL.Path; p != "/api/v2/ims/hosts/web-1/register" {
		t.Errorf("the first request is %s: batches should wait for the registration", p)
	}
}

// TestServerAway: lines come in order and once when the server comes, over restarts of the agent in between.
func TestServerAway(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	url, start := s.refusing()
	log := filepath.Join(t.TempDir(), "app.log")
	c := config(t, url, log)
	c.Host.Enabled = true
	var want []string
	for i := range 3 {
		lines := numbered(i*1000, (i+1)*1000)
		want = append(want, lines...)
		put(t, log, text(lines))
		a, stop := run(t, c)
		// Lines that were read and not yet spooled are read again by the next agent.
		waitFor(t, "lines in the spool", func() bool {
			for _, raw := range a.logs.savedPositions(filePrefix) {
				var p tail.Position
				if err := json.Unmarshal(raw, &p); err != nil {
					t.Fatal(err)
				}
				return p.Offset == int64(len(text(want)))
			}
			return false
		})
		if n := a.tail.Stats.Lines.Load(); n != 1000 {
			t.Errorf("start %d read %d lines", i, n)
		}
		stop()
	}
	_, stop := run(t, c)
	start()
	waitFor(t, "all lines, and a measurement of each start", func() bool {
		n := len(s.lines())
		s.mu.Lock()
		defer s.mu.Unlock()
		return n >= len(want) && s.samples["data.load.avg_1m"] >= 4
	})
	stop()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("%d lines, not those in order", len(got))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var metrics []int
	for _, name := range s.order {
		if strings.Contains(name, "-metrics-") {
			metrics = append(metrics, len(metrics))
			if !strings.HasSuffix(name, "-metrics-"+itoa(len(metrics))) {
				t.Errorf("batch %d is %s", len(metrics), name)
			}
		}
	}
	if len(metrics) < 4 {
		t.Errorf("%d batches of metrics", len(metrics))
	}
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// TestLostAnswers: the server takes batches and its answer is lost; they come again under their names, and in order.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	log := filepath.Join(t.TempDir(), "app.log")
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	sometimes := func(req *http.Request) int {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(req.URL.Path, "/v1/") && r.IntN(5) == 0 {
			return []int{http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusTeapot, http.StatusTooManyRequests}[r.IntN(4)]
		}
		return 0
	}
	s.set(sometimes, sometimes)
	_, stop := run(t, config(t, s.URL, log))
	want := numbered(0, 600)
	for i := range 6 {
		put(t, log, text(want[i*100:(i+1)*100]))
		waitFor(t, "lines", func() bool { return len(s.lines()) >= (i+1)*100 })
	}
	s.set(nil, nil)
	stop()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("%d lines, not those in order", len(got))
	}
}

// TestRefused: what the server will never take is dropped and counted, and does not hold up the rest.
func TestRefused(t *testing.T) {
	for _, code := range []int{400, 403, 404, 409, 413, 415, 422} {
		t.Run(itoa(code), func(t *testing.T) {
			t.Parallel()
			refusedFor(t, code)
		})
	}
}

func refusedFor(t *testing.T, code int) {
	s := newServer(t)
	s.Start()
	log := filepath.Join(t.TempDir(), "app.log")
	refused := make(chan struct{}, 100)
	s.set(func(r *http.Request) int {
		if r.URL.Path == "/v1/logs" {
			refused <- struct{}{}
			return code
		}
		return 0
	}, nil)
	put(t, log, "bad\n")
	a, stop := run(t, config(t, s.URL, log))
	<-refused
	waitFor(t, "drop", func() bool { return a.dropped() == 1 })
	s.set(nil, nil)
	put(t, log, "good\n")
	waitFor(t, "the rest", func() bool { return len(s.lines()) > 0 })
	stop()
	if got := s.lines(); !slices.Equal(got, []string{"good"}) || len(refused) != 0 {
		t.Errorf("%d: got %q, refused %d more times", code, got, len(refused))
	}
}

func TestNewToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	log := filepath.Join(t.TempDir(), "app.log")
	c := config(t, s.URL, log)
	c.TokenFile = filepath.Join(t.TempDir(), "token")
	good := "two"
	refused := 0
	s.set(func(r *http.Request) int {
		if r.Header.Get("Authorization") != "Bearer "+good {
			refused++
			return http.StatusUnauthorized
		}
		return 0
	}, nil)
	put(t, log, "line\n")
	a, stop := run(t, c)
	waitFor(t, "refusals without a token", func() bool {
		return a.stats.sendErrors.Load() == 0 && func() bool { s.mu.Lock(); defer s.mu.Unlock(); return refused > 1 }()
	})
	if err := os.WriteFile(c.TokenFile, []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "line", func() bool { return len(s.lines()) == 1 })
	s.mu.Lock()
	good = "three"
	s.mu.Unlock()
	if err := os.WriteFile(c.TokenFile, []byte("three"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, log, "another\n")
	waitFor(t, "line", func() bool { return len(s.lines()) == 2 })
	stop()
	if n := a.stats.sendErrors.Load(); n != 0 || a.dropped() != 0 {
		t.Errorf("%d errors, %d dropped: a new token should do at once", n, a.dropped())
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	s.header.Set("Retry-After", "2")
	log := filepath.Join(t.TempDir(), "app.log")
	var times []time.Time
	s.set(func(r *http.Request) int {
		if r.URL.Path != "/v1/logs" {
			return 0
		}
		if times = append(times, time.Now()); len(times) == 1 {
			return http.StatusTooManyRequests
		}
		return 0
	}, nil)
	put(t, log, "line\n")
	_, stop := run(t, config(t, s.URL, log))
	waitFor(t, "line", func() bool { return len(s.lines()) == 1 })
	stop()
	if d := times[1].Sub(times[0]); len(times) != 2 || d < 2*time.Second || d > 4*time.Second {
		t.Errorf("%d requests, the second after %s", len(times), d)
	}
}

func TestBackoff(t *testing.T) {
	unavailable := kemi.Errorf(kemi.ErrUnavailable, "x")
	for attempt := range 100 {
		if d := backoff(attempt, unavailable); d <= 0 || d > maxBackoff {
			t.Errorf("attempt %d: %s", attempt, d)
		}
		if d := backoff(attempt, kemi.RetryAfter(unavailable, 20*time.Second)); d < 20*time.Second || d > 22*time.Second {
			t.Errorf("attempt %d: %s", attempt, d)
		}
	}
	if d := backoff(0, kemi.RetryAfter(unavailable, time.Hour)); d < maxRetryAfter || d > 2*maxRetryAfter {
		t.Errorf("%s", d)
	}
	if final(errors.New("internal"), 3) || !final(errors.New("internal"), maxUnknown) || final(unavailable, 1_000_000) {
		t.Error("final")
	}
	for header, want := range map[string]time.Duration{"7": 7 * time.Second, "Wed, 21 Oct 2026 07:28:09 GMT": 9 * time.Second, "Wed, 21 Oct 2026 07:27:00 GMT": 0, "": -1, "x": -1, "-3": -1} {
		d, ok := retryAfter(header, "Wed, 21 Oct 2026 07:28:00 GMT")
		if ok != (want >= 0) || ok && d != want {
			t.Errorf("%q: %s %t", header, d, ok)
		}
	}
}

func TestTLS(t *testing.T) {
	s := newServer(t)
	s.StartTLS()
	log := filepath.Join(t.TempDir(), "app.log")
	put(t, log, "line\n")
	c := config(t, s.URL, log)
	c.TLS.CA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(c.TLS.CA, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewHTTPSink(c); err == nil || !strings.Contains(err.Error(), "tls.ca") {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(c.TLS.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stop := run(t, c)
	waitFor(t, "line", func() bool { return len(s.lines()) == 1 })
	stop()
	// Without the CA the server is not believed.
	c.TLS.CA, c.Spool.Dir = "", t.TempDir()
	sink, err := NewHTTPSink(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Logs(t.Context(), nil, "b"); !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v", err)
	}
}

// TestBackpressure: more lines than the spool takes; none is lost.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	url, start := s.refusing()
	log := filepath.Join(t.TempDir(), "app.log")
	c := config(t, url, log)
	c.Spool.MaxBytes = minSpoolBytes
	r := rand.New(rand.NewPCG(1, 1))
	var want []string
	for i := range 3000 {
		want = append(want, numbered(i, i+1)[0]+" "+strings.ToValidUTF8(string(randomBytes(r, 1000)), "?"))
	}
	for i := range want {
		want[i] = strings.Map(func(r rune) rune {
			if r == '\n' || r == '\r' {
				return '_'
			}
			return r
		}, want[i])
	}
	put(t, log, text(want))
	a, stop := run(t, c)
	waitFor(t, "a full spool", func() bool {
		a.stats.mu.Lock()
		defer a.stats.mu.Unlock()
		for m := range a.stats.complained {
			if strings.Contains(m, "not read any further") {
				return true
			}
		}
		return false
	})
	if _, size := a.logs.pending(); size > c.Spool.MaxBytes {
		t.Errorf("the spool has %d bytes", size)
	}
	start()
	waitFor(t, "all lines", func() bool { return len(s.lines()) >= len(want) })
	stop()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("%d lines, not those in order", len(got))
	}
	if a.dropped() != 0 {
		t.Errorf("%d batches dropped", a.dropped())
	}
}

// TestFullDisk: with no room on the disk of the spool metrics go out all the same, and lines come once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		storetest.Absent(t, "cannot mount a small disk: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s := newServer(t)
	s.Start()
	log := filepath.Join(t.TempDir(), "app.log")
	c := config(t, s.URL, log)
	c.Host.Enabled = true
	c.Spool.Dir = filepath.Join(dir, "spool")
	a, stop := run(t, c)
	waitFor(t, "metrics", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.samples["data.load.avg_1m"] >= 2 })
	big := filepath.Join(dir, "big")
	_ = os.WriteFile(big, bytes.Repeat([]byte("x"), 1<<20), 0o600) // as much as fits
	before := a.metrics.failed.Load()
	s.mu.Lock()
	had := s.samples["data.load.avg_1m"]
	s.mu.Unlock()
	want := numbered(0, 2000)
	put(t, log, text(want))
	waitFor(t, "metrics without disk", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return a.metrics.failed.Load() > before+1 && s.samples["data.load.avg_1m"] >= had+2
	})
	if err := os.Remove(big); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "lines", func() bool { return len(s.lines()) >= len(want) })
	stop()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("%d lines, not those in order", len(got))
	}
	if a.dropped() != 0 {
		t.Errorf("%d batches dropped", a.dropped())
	}
}

func TestSpoolIsTaken(t *testing.T) {
	c := config(t, "http://127.0.0.1:1", "")
	a, err := New(Options{Config: c, Log: quiet(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Options{Config: c, Log: quiet(), Now: time.Now})
	if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("error %v", err)
	}
	a.Close()
	a, err = New(Options{Config: c, Log: quiet(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
}

func TestReadOnlySpool(t *testing.T) {
	c := config(t, "http://127.0.0.1:1", "")
	c.Spool.Dir = "/proc/kemi-agent"
	_, err := New(Options{Config: c, Log: quiet(), Now: time.Now})
	if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "spool.dir") {
		t.Errorf("error %v", err)
	}
}

// TestPartialSuccess: records that the server left out are counted, and the batch is done.
func TestPartialSuccess(t *testing.T) {
	if err := partial(nil); err != nil {
		t.Error(err)
	}
	var part *partialError
	if err := partial([]byte{0x0a, 0x06, 0x08, 0x03, 0x12, 0x02, 'n', 'o'}); !errors.As(err, &part) || part.records != 3 || part.message != "no" {
		t.Errorf("%v", err)
	}
	for _, b := range []string{"\x0a", "\xff\xff", "\x0a\x02\x08", "<html>", "\x0a\x00"} {
		if err := partial([]byte(b)); err != nil {
			t.Errorf("%q: %v", b, err)
		}
	}
}

// TestChild is an agent in a process of its own, for tests that kill it.
func TestChild(t *testing.T) {
	path := os.Getenv("KEMI_TEST_AGENT")
	if path == "" {
		t.Skip("runs as a child of other tests")
	}
	c := DefaultConfig()
	if err := LoadConfig(path, &c); err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Config: c, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func child(t testing.TB, configFile string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), "KEMI_TEST_AGENT="+configFile)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestKill9 kills the agent at random moments while a file is written and rotated and answers are lost: each line comes once and in
// order.
func TestKill9(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 9))
	s := newServer(t)
	s.Start()
	lose := rand.New(rand.NewPCG(seed, 10))
	s.set(nil, func(*http.Request) int {
		if lose.IntN(4) == 0 {
			return http.StatusTeapot
		}
		return 0
	})
	dir := t.TempDir()
	log := dir + "/app.log"
	configFile := dir + "/agent.yaml"
	put(t, configFile, "server: "+s.URL+"\nhostname: h\njournal: false\ninterval: 1s\nlogs: [{paths: ["+log+"*]}]\nspool: {dir: "+dir+"/spool}\n")
	put(t, log, "")
	done := make(chan struct{})
	var want []string
	go func() {
		defer close(done)
		for n := 0; n < 3000; n += 20 {
			lines := numbered(n, n+20)
			want = append(want, lines...)
			put(t, log, text(lines))
			time.Sleep(30 * time.Millisecond)
			if n%600 == 580 {
				for i := 9; i > 0; i-- {
					_ = os.Rename(log+"."+itoa(i), log+"."+itoa(i+1))
				}
				_ = os.Rename(log, log+".1")
			}
		}
	}()
	kills := 0
	for running := true; running; {
		cmd := child(t, configFile)
		select {
		case <-done:
			running = false
		case <-time.After(time.Duration(100+r.IntN(900)) * time.Millisecond):
			kills++
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	s.set(nil, nil)
	cmd := child(t, configFile)
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	waitFor(t, "all lines", func() bool { return len(s.lines()) >= len(want) })
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("%d lines, want %d: not those in order", len(got), len(want))
	}
	t.Logf("killed %d times", kills)
}
