package wal

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

func TestTail(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.TailBytes = 64 << 10
	w := mustOpen(t, cfg)
	p := w.topics["a"].partitions[0]
	tail := func() (int, int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		var charge int64
		for _, f := range p.tail {
			charge += f.charge
		}
		if charge != p.tailBytes {
			t.Fatalf("the tail has %d bytes and counts %d", charge, p.tailBytes)
		}
		return len(p.tail), p.tailBytes
	}
	local := func(i int) bus.Record { return bus.Record{Value: make([]byte, 1000), Local: &i} }
	send := func(from, n int) {
		t.Helper()
		for i := range n {
			if err := w.Publish(t.Context(), "a", []bus.Record{local(from + i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(0, 5)
	if n, _ := tail(); n != 0 {
		t.Fatalf("without a reader %d frames are kept", n)
	}
	r, err := w.Subscribe(t.Context(), "a", "", bus.Positions{0: 5})
	if err != nil {
		t.Fatal(err)
	}
	read := func(n int) []bus.Record {
		t.Helper()
		var records []bus.Record
		for len(records) < n {
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, b.Records...)
		}
		return records
	}
	send(5, 5)
	if n, _ := tail(); n != 5 {
		t.Fatalf("%d frames are kept for a reader 5 behind", n)
	}
	for i, rec := range read(5) {
		if got, ok := rec.Local.(*int); !ok || *got != 5+i || rec.Offset != int64(5+i) {
			t.Fatalf("record %d has offset %d and Local %v", i, rec.Offset, rec.Local)
		}
	}
	if n, _ := tail(); n != 0 {
		t.Fatalf("%d frames are kept although they were read", n)
	}
	// A reader that does not keep up costs memory up to the limit, and loses nothing but Local.
	send(10, 200)
	n, bytes := tail()
	if bytes > cfg.TailBytes || n == 0 || n > 20 {
		t.Fatalf("the tail has %d frames, %d bytes", n, bytes)
	}
	records := read(200)
	for i, rec := range records {
		if rec.Offset != int64(10+i) || (rec.Local != nil) != (i >= 200-n) || rec.Local != nil && *rec.Local.(*int) != 10+i {
			t.Fatalf("record %d: offset %d, Local %v; the tail had %d frames", i, rec.Offset, rec.Local, n)
		}
	}
	// A frame over the limit makes a hole, so what is before it goes too.
	send(0, 3)
	if err := w.Publish(t.Context(), "a", []bus.Record{{Value: make([]byte, 100<<10)}}); err != nil {
		t.Fatal(err)
	}
	if n, _ := tail(); n != 0 {
		t.Fatalf("%d frames before a hole", n)
	}
	send(0, 1)
	if got := read(5); len(got[3].Value) != 100<<10 || got[4].Local == nil {
		t.Fatalf("after a hole: %d bytes, Local %v", len(got[3].Value), got[4].Local)
	}
	send(0, 3)
	_ = r.Close()
	if n, _ := tail(); n != 0 {
		t.Fatalf("%d frames are kept without a reader", n)
	}
}

type sizedLocal int64

func (s sizedLocal) MemoryBytes() int64 { return int64(s) }

func TestTailCountsLocal(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.TailBytes = 1 << 20
	w := mustOpen(t, cfg)
	r, _ := w.Subscribe(t.Context(), "a", "", nil)
	defer r.Close()
	for range 10 {
		if err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte("x"), Local: sizedLocal(300 << 10)}}); err != nil {
			t.Fatal(err)
		}
	}
	p := w.topics["a"].partitions[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tail) != 3 {
		t.Fatalf("%d frames of 300 KiB in a tail of 1 MiB", len(p.tail))
	}
}

// The window costs one publisher nothing, and several at most its length. In the bubble only waiting takes time.
func TestFlushWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t.TempDir())
		w := mustOpen(t, cfg)
		defer w.Close()
		start := time.Now()
		for range 20 {
			publish(t, w, "alone")
		}
		if d := time.Since(start); d != 0 {
			t.Fatalf("one publisher waited %s", d)
		}
		for range 10 {
			var wg sync.WaitGroup
			start = time.Now()
			for range 4 {
				wg.Go(func() { publish(t, w, "together") })
			}
			wg.Wait()
			if d := time.Since(start); d > cfg.FlushWindow {
				t.Fatalf("four publishers waited %s", d)
			}
			start = time.Now()
			publish(t, w, "one again")
			if d := time.Since(start); d > cfg.FlushWindow {
				t.Fatalf("one publisher after four waited %s", d)
			}
			start = time.Now()
			publish(t, w, "and again")
			if d := time.Since(start); d != 0 {
				t.Fatalf("one publisher after one waited %s", d)
			}
		}
	})
}

// A publisher whose context ends does not take its records back, and its bytes are its own at once.
func TestPublishGivesUp(t *testing.T) {
	d := realDisk()
	release := make(chan struct{})
	syncing := make(chan struct{}, 10)
	real := d.sync
	cfg := testConfig(t.TempDir())
	w := mustOpenOn(t, cfg, d)
	w.disk.sync = func(f *os.File) error {
		syncing <- struct{}{}
		<-release
		return real(f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	value := []byte("given up")
	done := make(chan error)
	go func() { done <- w.Publish(ctx, "a", []bus.Record{{Value: value}}) }()
	<-syncing
	cancel()
	err := <-done
	if !errors.Is(err, kemi.ErrUnavailable) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not known") {
		t.Fatal(err)
	}
	copy(value, "XXXXXXXX")
	close(release)
	publish(t, w, "next")
	wantValues(t, w, "given up", "next")
}

// What waits to be written is bounded: the next publisher waits, and its context ends that.
func TestPendingIsBounded(t *testing.T) {
	d := realDisk()
	release, syncing := make(chan struct{}), make(chan struct{}, 10)
	cfg := testConfig(t.TempDir())
	cfg.MaxRecordBytes, cfg.MaxBatchBytes, cfg.PendingBytes = 1000, 1000, 1000
	w := mustOpenOn(t, cfg, d)
	w.disk.sync = func(f *os.File) error {
		syncing <- struct{}{}
		<-release
		return syncFile(f)
	}
	var wg sync.WaitGroup
	wg.Go(func() { publish(t, w, strings.Repeat("x", 900)) })
	<-syncing
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := w.Publish(ctx, "a", []bus.Record{{Value: make([]byte, 900)}})
	if !errors.Is(err, kemi.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "nothing was written") {
		t.Fatal(err)
	}
	close(release)
	wg.Wait()
	publish(t, w, "small")
	if got := readAll(t, w); len(got) != 2 {
		t.Fatalf("%d records", len(got))
	}
	// Records without any bytes count too.
	if err := w.Publish(t.Context(), "a", make([]bus.Record, 1000)); !errors.Is(err, kemi.ErrTooLarge) {
		t.Fatal(err)
	}
}
