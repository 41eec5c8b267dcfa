package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"kemi/pipeline/bus"
)

func mustSpan(t *testing.T, w *WAL) bus.Span {
	t.Helper()
	spans, err := w.Spans(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	return spans[0]
}

func diskBytes(t *testing.T, w *WAL) int64 {
	t.Helper()
	var n int64
	for _, f := range segmentFiles(t, w) {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

func TestRetentionBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t.TempDir())
		cfg.RetentionBytes, cfg.RetentionHardBytes = 40_000, 80_000
		registry := prometheus.NewRegistry()
		w, err := Open(cfg, Options{Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		fill := func(n int) {
			t.Helper()
			for i := range n {
				publish(t, w, fmt.Sprintf("%d %s", i, strings.Repeat("x", 900)))
			}
			synctest.Wait()
		}
		fill(100)
		if n := diskBytes(t, w); n > cfg.RetentionBytes+cfg.SegmentBytes || n < cfg.RetentionBytes/2 {
			t.Fatalf("%d bytes on disk", n)
		}
		span := mustSpan(t, w)
		if span.First == 0 || span.Next != 100 || int64(len(readAll(t, w))) != span.Next-span.First {
			t.Fatalf("span %v", span)
		}
		// Who comes with a position that is gone is told how many it missed.
		r, err := w.Subscribe(t.Context(), "a", "", bus.Positions{0: 3})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := r.Next(t.Context()); err != nil || b.Skipped != span.First-3 || b.Records[0].Offset != span.First {
			t.Fatalf("%v skipped, first %d, error %v; span %v", b.Skipped, b.Records[0].Offset, err, span)
		}
		if b, err := r.Next(t.Context()); err != nil || b.Skipped != 0 {
			t.Fatalf("the second batch: %d skipped, %v", b.Skipped, err)
		}
		// What a group with committed positions has not read stays, up to the hard limit.
		g, err := w.Subscribe(t.Context(), "a", "g", nil)
		if err != nil {
			t.Fatal(err)
		}
		held := span.First + 5
		if err := g.Commit(t.Context(), bus.Positions{0: held}); err != nil {
			t.Fatal(err)
		}
		fill(30)
		if span = mustSpan(t, w); span.First > held {
			t.Fatalf("position %d is held, span %v", held, span)
		}
		if n := diskBytes(t, w); n < cfg.RetentionBytes+cfg.SegmentBytes {
			t.Fatalf("%d bytes on disk", n)
		}
		if n := testutil.ToFloat64(w.metrics.unread.WithLabelValues("a", "g")); n != 0 {
			t.Fatalf("%v unread records are counted as deleted", n)
		}
		fill(100)
		span = mustSpan(t, w)
		if n := diskBytes(t, w); n > cfg.RetentionHardBytes+cfg.SegmentBytes || span.First <= held {
			t.Fatalf("%d bytes on disk, span %v", n, span)
		}
		if n := testutil.ToFloat64(w.metrics.unread.WithLabelValues("a", "g")); n != float64(span.First-held) {
			t.Fatalf("%v unread records are counted as deleted, want %d", n, span.First-held)
		}
		// A reader in the middle of what is deleted jumps, and tells so.
		b, err := g.Next(t.Context())
		if err != nil || b.Skipped == 0 || b.Records[0].Offset != span.First {
			t.Fatalf("%d skipped, first %d, %v", b.Skipped, b.Records[0].Offset, err)
		}
		// Once it has read, or is forgotten, the rest goes.
		if err := w.Forget(t.Context(), "a", "g"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := diskBytes(t, w); n > cfg.RetentionBytes+cfg.SegmentBytes {
			t.Fatalf("%d bytes on disk", n)
		}
		if n, err := testutil.GatherAndCount(registry); err != nil || n < 10 {
			t.Fatalf("%d metrics, %v", n, err)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Fatalf("metrics: %v, %v", problems, err)
		}
	})
}

func TestRetentionByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t.TempDir())
		cfg.SegmentBytes = 1 << 20
		cfg.RetentionAge = 24 * time.Hour
		w := mustOpen(t, cfg)
		defer w.Close()
		g, err := w.Subscribe(t.Context(), "a", "g", nil)
		if err != nil {
			t.Fatal(err)
		}
		// One record an hour: segments are far from full and end all the same.
		for i := range 72 {
			publish(t, w, fmt.Sprint(i))
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		span := mustSpan(t, w)
		if kept := span.Next - span.First; kept < 24 || kept > 32 {
			t.Fatalf("%d hours are kept", kept)
		}
		if err := g.Commit(t.Context(), bus.Positions{0: span.First + 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Hour)
		if got := mustSpan(t, w); got.First != span.First {
			t.Fatalf("what is not read was deleted: %v, before %v", got, span)
		}
		if err := g.Commit(t.Context(), bus.Positions{0: span.Next}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := mustSpan(t, w); got.First != span.Next || got.Next != span.Next {
			t.Fatalf("after all is read and old: %v, want nothing from %d", got, span.Next)
		}
		if files, _ := filepath.Glob(filepath.Join(cfg.Dir, "a", "0", "*")); len(files) != 1 {
			t.Fatalf("files left: %v", files)
		}
		publish(t, w, "after")
		if got := readAll(t, w); len(got) != 1 || got[0].Offset != span.Next {
			t.Fatalf("got %v", got)
		}
		_ = w.Close()
		wantValues(t, mustOpen(t, cfg), "after")
	})
}

// The oldest goes first, whichever partition it is in.
func TestRetentionOverPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t.TempDir())
		cfg.Topics = map[string]int{"a": 2}
		cfg.RetentionBytes = 60_000
		w := mustOpen(t, cfg)
		defer w.Close()
		for i := range 200 {
			if i == 40 || i == 80 {
				time.Sleep(time.Minute)
			}
			r := []bus.Record{{Key: []byte("key-1"), Value: make([]byte, 900)}}
			if i >= 40 && i < 80 {
				r[0].Key = []byte("key-2")
			}
			if err := w.Publish(t.Context(), "a", r); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		spans, _ := w.Spans(t.Context(), "a")
		one, two := spans[0], spans[1]
		if one.Next < two.Next {
			one, two = two, one
		}
		if one.Next != 160 || two.Next != 40 || two.First < 36 || one.First < 90 {
			t.Fatalf("spans %v", spans)
		}
	})
}
