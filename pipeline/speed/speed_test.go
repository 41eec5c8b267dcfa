package speed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a store of texts that keeps its own positions, can be unavailable, and can be held up.
type sink struct {
	mu    sync.Mutex
	texts []string
	at    bus.Positions
	fail  error
	hold  chan struct{} // nil: not held up
}

func (s *sink) apply(ctx context.Context, b bus.Batch) error {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, r := range b.Records {
		s.texts = append(s.texts, string(r.Value))
	}
	s.at[b.Partition] = b.Next()
	return nil
}

func (s *sink) positions() bus.Positions {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := bus.Positions{}
	for k, v := range s.at {
		p[k] = v
	}
	return p
}

func (s *sink) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *sink) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.texts, " ")
}

func openLog(t *testing.T) *wal.WAL {
	t.Helper()
	c := wal.DefaultConfig()
	c.Dir = t.TempDir()
	w, err := wal.Open(c, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// follow runs a follower until the returned function is called.
func follow(t *testing.T, b bus.Bus, s *sink) (*Follower, func() error) {
	t.Helper()
	f := New(Options{Bus: b, Topic: bus.Logs, Group: "test", Positions: s.positions, Apply: s.apply, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return f, stop
}

func publish(t *testing.T, b bus.Bus, texts ...string) {
	t.Helper()
	for _, x := range texts {
		if err := b.Publish(t.Context(), bus.Logs, []bus.Record{{Key: []byte("k"), Value: []byte(x)}}); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not: %s", what)
		}
	}
}

// TestLostStore: a store that has lost its data gets again all that the log has, whatever the group has committed, and answers say how much the log
// has no more.
func TestLostStore(t *testing.T) {
	for _, trimmed := range []bool{false, true} {
		c := wal.DefaultConfig()
		c.Dir = t.TempDir()
		if trimmed {
			c.SegmentBytes, c.RetentionBytes, c.RetentionHardBytes = 4<<10, 16<<10, 64<<10
		}
		w, err := wal.Open(c, wal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		var texts []string
		for i := range 100 {
			texts = append(texts, fmt.Sprintf("%d-%s", i, strings.Repeat("x", 2000)))
		}
		publish(t, w, texts...)
		r, err := w.Subscribe(t.Context(), bus.Logs, "test", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Commit(t.Context(), bus.Positions{0: 100}); err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		first := func() int64 {
			spans, err := w.Spans(t.Context(), bus.Logs)
			if err != nil {
				t.Fatal(err)
			}
			return spans[0].First
		}
		if trimmed {
			publish(t, w, "100", "101")
			texts = append(texts, "100", "101")
			eventually(t, "the log is trimmed", func() bool { return first() > 0 })
		}
		s := &sink{at: bus.Positions{}, hold: make(chan struct{})}
		f, stop := follow(t, w, s)
		eventually(t, "it says what is left", func() bool { return strings.Contains(f.Freshness().Reason, "replay under way") })
		s.set(func() { close(s.hold); s.hold = nil })
		eventually(t, "replayed", func() bool { return f.Replayed().Complete })
		got := s.all()
		var kept int // the first that was applied: the log may have gone on trimming until the follower came to it
		if _, err := fmt.Sscanf(got, "%d", &kept); err != nil || trimmed == (kept == 0) || got != strings.Join(texts[kept:], " ") {
			t.Errorf("trimmed %v: applied %d bytes of the %d records from %d on (%v)", trimmed, len(got), len(texts), kept, err)
		}
		fresh := f.Freshness()
		if want := fmt.Sprintf("%d older records of logs are missing", kept); fresh.Complete == trimmed || trimmed && !strings.HasPrefix(fresh.Reason, want) {
			t.Errorf("trimmed %v: %+v, want %s", trimmed, fresh, want)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplay: what came while nobody followed is applied first, from where the store stands; until then the answers are incomplete.
func TestReplay(t *testing.T) {
	w := openLog(t)
	publish(t, w, "a", "b", "c")
	s := &sink{at: bus.Positions{0: 1}, hold: make(chan struct{})} // a is in the store
	f, stop := follow(t, w, s)
	if f := f.Freshness(); f.Complete {
		t.Fatalf("complete before anything was read: %+v", f)
	}
	eventually(t, "it says what is left", func() bool { return strings.Contains(f.Freshness().Reason, "2 records of logs left") })
	s.set(func() { close(s.hold); s.hold = nil })
	eventually(t, "complete", func() bool { return f.Freshness().Complete })
	if got := s.all(); got != "b c" {
		t.Fatalf("applied %q", got)
	}
	publish(t, w, "d")
	if err := f.WaitApplied(t.Context(), 0, 3); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The next one goes on where the store stands: nothing twice.
	publish(t, w, "e")
	f, _ = follow(t, w, s)
	eventually(t, "complete again", func() bool { return f.Freshness().Complete })
	if got := s.all(); got != "b c d e" {
		t.Fatalf("applied %q", got)
	}
}

// TestCommitFollows: the group's position follows what the store has made durable, also when no record comes any more.
func TestCommitFollows(t *testing.T) {
	w := openLog(t)
	s := &sink{at: bus.Positions{}}
	durable := bus.Positions{}
	f := New(Options{Bus: w, Topic: bus.Logs, Group: "test", Positions: func() bus.Positions {
		s.mu.Lock()
		defer s.mu.Unlock()
		return maps.Clone(durable)
	}, Apply: s.apply, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	publish(t, w, "a", "b", "c")
	eventually(t, "applied", func() bool { return s.all() == "a b c" })
	// committed is where a reader of the group begins.
	committed := func() int64 {
		r, err := w.Subscribe(t.Context(), bus.Logs, "test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b.Records[0].Offset
	}
	if at := committed(); at != 0 {
		t.Fatalf("committed %d before anything was durable", at)
	}
	s.set(func() { durable = bus.Positions{0: 2} })
	eventually(t, "committed", func() bool { return committed() == 2 })
}

// TestUnavailable: a store that is away is asked again, and nothing is lost; another error ends the follower, who says where.
func TestUnavailable(t *testing.T) {
	w := openLog(t)
	s := &sink{at: bus.Positions{}, fail: kemi.Errorf(kemi.ErrUnavailable, "disk full")}
	f := New(Options{Bus: w, Topic: bus.Logs, Group: "test", Positions: s.positions, Apply: s.apply, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	done := make(chan error, 1)
	go func() { done <- f.Run(t.Context()) }()
	publish(t, w, "a")
	short, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if err := f.WaitApplied(short, 0, 0); !errors.Is(err, kemi.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	s.set(func() { s.fail = nil })
	eventually(t, "applied once the store is back", func() bool { return s.all() == "a" })
	s.set(func() { s.fail = errors.New("broken") })
	publish(t, w, "b")
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "logs 0/1") || !strings.Contains(err.Error(), "broken") {
			t.Fatalf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the follower goes on")
	}
}

// TestPaced: what Publish has returned for can be queried; a follower that is stuck or replays does not hold senders up for long.
func TestPaced(t *testing.T) {
	w := openLog(t)
	s := &sink{at: bus.Positions{}}
	f, _ := follow(t, w, s)
	eventually(t, "live", f.caughtUp)
	p := Paced(w, map[string]*Follower{bus.Logs: f})
	want := ""
	for i := range 200 {
		text := fmt.Sprint(i)
		publish(t, p, text)
		want = strings.TrimPrefix(want+" "+text, " ")
		if got := s.all(); got != want {
			t.Fatalf("after %d: %q", i, got)
		}
	}
	s.set(func() { s.hold = make(chan struct{}) })
	began := time.Now()
	publish(t, p, "stuck")
	if d := time.Since(began); d < paceWait || d > 3*paceWait {
		t.Fatalf("a publisher waited %s for a stuck follower", d)
	}
	if strings.Contains(s.all(), "stuck") {
		t.Fatal("it was applied")
	}
	s.set(func() { close(s.hold); s.hold = nil })
	eventually(t, "applied in the end", func() bool { return strings.HasSuffix(s.all(), "stuck") })
}

// TestReplayIsTold: after an unclean end it is said how much the store took from the log, also if that was nothing.
func TestReplayIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		at      int64
		unclean bool
		want    string // nothing: at Debug, which is not written
	}{
		"unclean":             {1, true, `level=WARN msg="replayed from the log of record" topic=logs records=2 from=map[0:1] to=map[0:3] missing=0`},
		"unclean, all stored": {3, true, `level=WARN msg="replayed from the log of record" topic=logs records=0 from=map[0:3] to=map[0:3] missing=0`},
		"clean":               {2, false, `level=INFO msg="replayed from the log of record" topic=logs records=1`},
		"clean, all stored":   {3, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := openLog(t)
			publish(t, w, "a", "b", "c")
			s := &sink{at: bus.Positions{0: c.at}}
			var said strings.Builder // the follower writes it before it is live
			f := New(Options{
				Bus: w, Topic: bus.Logs, Group: "test", Positions: s.positions, Apply: s.apply, Unclean: func() bool { return c.unclean },
				Log: slog.New(slog.NewTextHandler(&said, nil)), Registry: prometheus.NewRegistry(),
			})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx) }()
			<-f.Live()
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := said.String(); !strings.Contains(got, c.want) || c.want == "" && got != "" {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
