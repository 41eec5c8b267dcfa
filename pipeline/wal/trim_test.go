package wal

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kemi/pipeline/bus"
	"kemi/pipeline/storetest"
)

// trimConfig keeps 2000 bytes of what is consumed, for ten minutes.
func trimConfig(dir string) Config {
	cfg := testConfig(dir)
	cfg.TopicRetention = map[string]TopicRetention{"a": {Retention: Retention{ConsumedBytes: 2000, ConsumedAge: 10 * time.Minute}}}
	return cfg
}

func subscribe(t *testing.T, w *WAL, group string, from bus.Positions) bus.Reader {
	t.Helper()
	r, err := w.Subscribe(t.Context(), "a", group, from)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func commit(t *testing.T, r bus.Reader, at int64) {
	t.Helper()
	if err := r.Commit(t.Context(), bus.Positions{0: at}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// readTo reads until position at.
func readTo(t *testing.T, r bus.Reader, at int64) {
	t.Helper()
	for {
		b, err := r.Next(t.Context())
		if err != nil || b.Skipped > 0 {
			t.Fatalf("%d skipped, error %v", b.Skipped, err)
		}
		if b.Next() >= at {
			return
		}
	}
}

// TestTrimConsumed: what all groups have committed and all readers have read goes at once, the segment that is being written included; what one of them still needs
// stays, also over a restart.
func TestTrimConsumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := trimConfig(t.TempDir())
		w := mustOpen(t, cfg)
		defer func() { w.Close() }()
		fill := func(n int) {
			t.Helper()
			for i := range n {
				publish(t, w, fmt.Sprintf("%d %s", i, strings.Repeat("x", 900)))
			}
			synctest.Wait()
		}
		fill(40)
		if span := mustSpan(t, w); span.First != 0 {
			t.Fatalf("no group has committed: span %v", span)
		}
		store := subscribe(t, w, "store", nil)
		readTo(t, store, 40)
		commit(t, store, 20)
		if span := mustSpan(t, w); span.First == 0 || span.First > 20 || diskBytes(t, w) < 19*900 {
			t.Fatalf("20 of 40 committed: span %v, %d bytes", span, diskBytes(t, w))
		}
		// Another group that is behind, and a reader without a group, hold it each by itself.
		rule := subscribe(t, w, "rule", bus.Positions{0: 25})
		commit(t, rule, 25)
		watcher := subscribe(t, w, "", bus.Positions{0: 30})
		commit(t, store, 40)
		if span := mustSpan(t, w); span.First > 25 || span.First < 20 {
			t.Fatalf("a group is at 25: span %v", span)
		}
		readTo(t, rule, 40)
		commit(t, rule, 40)
		if span := mustSpan(t, w); span.First > 30 || span.First <= 25 {
			t.Fatalf("a reader is at 30: span %v", span)
		}
		readTo(t, watcher, 40)
		commit(t, rule, 40)
		if span := mustSpan(t, w); span != (bus.Span{First: 40, Next: 40}) || diskBytes(t, w) != segmentHeaderLen {
			t.Fatalf("all is consumed: span %v, %d bytes", span, diskBytes(t, w))
		}
		// Little is left where it is, until it is old.
		publish(t, w, "little")
		readTo(t, watcher, 41)
		readTo(t, store, 41)
		readTo(t, rule, 41)
		commit(t, store, 41)
		commit(t, rule, 41)
		if span := mustSpan(t, w); span.First != 40 {
			t.Fatalf("a little: span %v", span)
		}
		time.Sleep(21 * time.Minute)
		if span := mustSpan(t, w); span.First != 41 {
			t.Fatalf("a little that is old: span %v", span)
		}
		if files, _ := filepath.Glob(filepath.Join(cfg.Dir, "a", "0", "*")); len(files) != 1 {
			t.Fatalf("files left: %v", files)
		}
		// A restart changes nothing: positions and what is not consumed are there.
		fill(30)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w = mustOpen(t, cfg)
		synctest.Wait()
		readTo(t, subscribe(t, w, "store", nil), 71)
		if span := mustSpan(t, w); span != (bus.Span{First: 41, Next: 71}) {
			t.Fatalf("after a restart: span %v", span)
		}
	})
}

// TestTrimHardLimit: a group that never comes holds the log up to the hard limit and no longer.
func TestTrimHardLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := trimConfig(t.TempDir())
		cfg.RetentionBytes, cfg.RetentionHardBytes = 20_000, 40_000
		w := mustOpen(t, cfg)
		defer w.Close()
		publish(t, w, "first")
		gone := subscribe(t, w, "gone", nil)
		commit(t, gone, 1)
		_ = gone.Close()
		store := subscribe(t, w, "store", nil)
		for i := range int64(100) {
			publish(t, w, strings.Repeat("x", 900))
			readTo(t, store, i+2)
			commit(t, store, i+2)
		}
		if n := diskBytes(t, w); n < cfg.RetentionHardBytes-2*cfg.SegmentBytes || n > cfg.RetentionHardBytes+cfg.SegmentBytes {
			t.Fatalf("%d bytes on disk", n)
		}
		if err := w.Forget(t.Context(), "a", "gone"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if span := mustSpan(t, w); span != (bus.Span{First: 101, Next: 101}) {
			t.Fatalf("after the group is forgotten: span %v", span)
		}
	})
}

// TestTrimRandom: groups that read and commit at random, with restarts in between, get every record once after the position they have committed.
func TestTrimRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(storetest.Seed(t), 7))
	cfg := trimConfig(t.TempDir())
	cfg.Topics["a"] = 2
	w := mustOpen(t, cfg)
	type group struct {
		r       bus.Reader
		read    bus.Positions
		durable bus.Positions
	}
	groups := map[string]*group{}
	open := func() {
		for _, name := range []string{"one", "two", "three"} {
			g := groups[name]
			if g == nil {
				g = &group{durable: bus.Positions{0: 0, 1: 0}}
				groups[name] = g
			}
			g.r = subscribe(t, w, name, g.durable)
			if err := g.r.Commit(t.Context(), g.durable); err != nil {
				t.Fatal(err)
			}
			g.read = bus.Positions{0: g.durable[0], 1: g.durable[1]}
		}
	}
	open()
	sent := bus.Positions{}
	for range 400 {
		switch n := rnd.IntN(20); {
		case n == 0:
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = mustOpen(t, cfg)
			open()
		case n < 8:
			records := make([]bus.Record, 1+rnd.IntN(4))
			for i := range records {
				records[i] = bus.Record{Key: []byte{byte(rnd.IntN(9))}, Value: make([]byte, rnd.IntN(1500))}
			}
			if err := w.Publish(t.Context(), "a", records); err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				sent[r.Partition] = max(sent[r.Partition], r.Offset+1)
			}
		default:
			g := groups[[]string{"one", "two", "three"}[n%3]]
			if g.read[0] < sent[0] || g.read[1] < sent[1] {
				b, err := g.r.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if b.Skipped != 0 || b.Records[0].Offset != g.read[b.Partition] {
					t.Fatalf("%d skipped: got offset %d of partition %d, want %d", b.Skipped, b.Records[0].Offset, b.Partition, g.read[b.Partition])
				}
				g.read[b.Partition] = b.Next()
			}
			if rnd.IntN(2) == 0 {
				g.durable = bus.Positions{0: g.read[0], 1: g.read[1]}
				if err := g.r.Commit(t.Context(), g.durable); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	spans, err := w.Spans(t.Context(), "a")
	if err != nil || spans[0].First == 0 && spans[1].First == 0 {
		t.Fatalf("nothing was trimmed: %v, %v", spans, err)
	}
}
