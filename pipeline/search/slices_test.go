package search

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/store"

	"kemi/pipeline/storetest"
)

func count(t *testing.T, x *Index, e store.LogExpr) int64 {
	t.Helper()
	n, err := x.Count(context.Background(), kemi.Identity{Project: "default"}, store.LogQuery{Expr: e, Range: store.NanoRange{To: 1 << 62}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n[0].Count
}

func add(t *testing.T, x *Index, id, body string) {
	t.Helper()
	n := x.Positions()[0] + 1
	if err := x.Index(context.Background(), []kemi.LogRecord{{ID: id, Project: "default", At: 5, Body: body}}, store.Position{Next: n}); err != nil {
		t.Fatal(err)
	}
	if err := x.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := x.Positions()[0]; got != n {
		t.Fatalf("position %d after Sync, want %d", got, n)
	}
}

// clock is a time that tests set.
type clock struct{ atomic.Int64 }

func newClock(t time.Time) *clock {
	c := &clock{}
	c.Store(t.UnixNano())
	return c
}
func (c *clock) now() time.Time { return time.Unix(0, c.Load()) }

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	at := newClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	c := testConfig(dir)
	c.Retention, c.FlushInterval = 3*24*time.Hour, time.Hour
	x := mustOpen(t, c, Options{Now: at.now})
	for day := range 6 {
		add(t, x, fmt.Sprint("d", day), fmt.Sprint("day", day, " common"))
		at.Add(int64(24 * time.Hour))
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "slices", "2026-03-0[1-6]-000001")); len(names) != 6 {
		t.Errorf("slices %v, want one of each day", names)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = mustOpen(t, c, Options{Now: at.now})
	if got := count(t, x, nil); got != 6 {
		t.Errorf("%d records before retention, want 6", got)
	}
	add(t, x, "now", "common") // retention follows the first write
	waitFor(t, func() bool { return count(t, x, store.LogPhrase{Text: "common"}) == 4 })
	if got := count(t, x, store.LogPhrase{Text: "day2"}); got != 0 {
		t.Errorf("%d records that are over four days old", got)
	}
	if n := x.Positions()[0]; n != 7 {
		t.Errorf("position %d, want 7", n)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	c.RetentionBytes = 1 << 20
	x = mustOpen(t, c, Options{Now: at.now})
	for i := range 4 {
		var b strings.Builder
		for k := range 60_000 {
			fmt.Fprintf(&b, "%x ", k*(i+1)*2654435761)
		}
		add(t, x, fmt.Sprint("big", i), b.String())
		at.Add(int64(24 * time.Hour))
	}
	x.retainNow(t)
	var total int64
	for _, s := range x.slices {
		total += s.diskBytes()
	}
	if len(x.slices) == 0 || len(x.slices) > 1 && total > c.RetentionBytes {
		t.Errorf("%d slices with %d bytes, allowed %d", len(x.slices), total, c.RetentionBytes)
	}
	if got := count(t, x, store.LogPhrase{Field: "id", Text: "big3"}); got != 1 {
		t.Errorf("the newest slice is gone")
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// retainNow applies retention from the test, when the index is at rest.
func (x *Index) retainNow(t *testing.T) {
	t.Helper()
	if err := x.Sync(); err != nil {
		t.Fatal(err)
	}
	x.retain()
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for 10 s")
		}
	}
}

// TestDamage breaks a slice in several ways: the index opens, says what is missing, and serves the rest.
func TestDamage(t *testing.T) {
	newest := func(t *testing.T, pattern string) string {
		t.Helper()
		names, _ := filepath.Glob(pattern)
		if len(names) == 0 {
			t.Fatalf("no %s", pattern)
		}
		return names[len(names)-1]
	}
	for name, breakIt := range map[string]func(t *testing.T, slice string) error{
		"segment cut": func(t *testing.T, s string) error {
			f := newest(t, filepath.Join(s, "*.zap"))
			info, _ := os.Stat(f)
			return os.Truncate(f, info.Size()/2)
		},
		"segment gone":  func(t *testing.T, s string) error { return os.Remove(newest(t, filepath.Join(s, "*.zap"))) },
		"segment empty": func(t *testing.T, s string) error { return os.Truncate(newest(t, filepath.Join(s, "*.zap")), 0) },
		"root gone":     func(t *testing.T, s string) error { return os.Remove(filepath.Join(s, "root.bolt")) },
		"root garbage": func(t *testing.T, s string) error {
			return os.WriteFile(filepath.Join(s, "root.bolt"), []byte(strings.Repeat("garbage!", 4096)), 0o600)
		},
		"root empty": func(t *testing.T, s string) error { return os.Truncate(filepath.Join(s, "root.bolt"), 0) },
		"segment zeroed within": func(t *testing.T, s string) error {
			f := newest(t, filepath.Join(s, "*.zap"))
			h, err := os.OpenFile(f, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer h.Close()
			_, err = h.WriteAt(make([]byte, 200), 40)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			at := newClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
			x := mustOpen(t, testConfig(dir), Options{Now: at.now})
			add(t, x, "old-1", "old line, long enough that it is worth packing, packing, packing")
			at.Add(int64(24 * time.Hour))
			add(t, x, "new-1", "new line")
			if f := x.Freshness(); !f.Complete {
				t.Errorf("not complete before: %s", f.Reason)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			if err := breakIt(t, filepath.Join(dir, "slices", "2026-03-01-000001")); err != nil {
				t.Fatal(err)
			}
			x = mustOpen(t, testConfig(dir), Options{Now: at.now, Registerer: prometheus.NewRegistry()})
			if got := count(t, x, store.LogPhrase{Text: "new"}); got != 1 {
				t.Errorf("%d records of the good slice, want 1", got)
			}
			if got := count(t, x, store.LogRegexp{Source: "old line"}); got != 0 {
				t.Errorf("%d records of the damaged slice", got)
			}
			if f := x.Freshness(); f.Complete || !strings.Contains(f.Reason, "2026-03-01-000001") {
				t.Errorf("freshness %+v, want the damaged slice named", f)
			}
			add(t, x, "more-1", "new")
			if got := count(t, x, store.LogPhrase{Field: "id", Text: "more"}); got != 1 {
				t.Error("nothing can be added")
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			x = mustOpen(t, testConfig(dir), Options{Now: at.now})
			defer x.Close()
			_ = count(t, x, store.LogRegexp{Source: "old line"})
			if f := x.Freshness(); f.Complete {
				t.Error("after the next start nobody knows of the damage")
			}
		})
	}
}

func TestLockedAndBadConfig(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, testConfig(dir), Options{})
	if _, err := Open(testConfig(dir), Options{}); !errors.Is(err, kemi.ErrConflict) || !strings.Contains(err.Error(), dir) {
		t.Errorf("opened twice: %v", err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := x.Index(context.Background(), nil, store.Position{}); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("Index after Close: %v", err)
	}
	if err := x.Sync(); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("Sync after Close: %v", err)
	}
	for key, change := range map[string]func(*Config){
		"dir":            func(c *Config) { c.Dir = "" },
		"retention:":     func(c *Config) { c.Retention = time.Minute },
		"retentionBytes": func(c *Config) { c.RetentionBytes = 5 },
		"sliceBytes":     func(c *Config) { c.SliceBytes = 0 },
		"bufferBytes":    func(c *Config) { c.BufferBytes = 2 << 30 },
		"flushInterval":  func(c *Config) { c.FlushInterval = 0 },
		"minFreeBytes":   func(c *Config) { c.MinFreeBytes = -1 },
	} {
		c := testConfig(dir)
		change(&c)
		if _, err := Open(c, Options{}); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(file), Options{}); err == nil {
		t.Error("opened a file as a folder")
	}
}

// TestDiskFull fills a small file system, with and without the reserve that is meant to keep bleve from meeting its end.
func TestDiskFull(t *testing.T) {
	for name, reserve := range map[string]int64{"reserve": 2 << 20, "none": 0} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
				storetest.Absent(t, "a small file system cannot be mounted here: %v", err)
			}
			defer func() {
				if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			}()
			c := testConfig(filepath.Join(dir, "index"))
			c.BufferBytes, c.MinFreeBytes, c.FlushInterval = 64<<10, reserve, 20*time.Millisecond
			x := mustOpen(t, c, Options{})
			next := int64(0)
			index := func() error {
				err := x.Index(context.Background(), offset(next*10), store.Position{Next: next + 1})
				if err == nil {
					next++
				}
				return err
			}
			for range 20 {
				if err := index(); err != nil {
					t.Fatal(err)
				}
			}
			if err := x.Sync(); err != nil {
				t.Fatal(err)
			}
			ballast := filepath.Join(dir, "ballast")
			f, err := os.Create(ballast)
			if err != nil {
				t.Fatal(err)
			}
			for block := make([]byte, 4096); err == nil; {
				_, err = f.Write(block)
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			f.Close()
			var refused error
			for range 1000 {
				if refused = index(); refused != nil {
					break
				}
			}
			if !errors.Is(refused, kemi.ErrUnavailable) {
				t.Fatalf("on a full disk: %v", refused)
			}
			if !errors.Is(refused, unix.ENOSPC) && !strings.Contains(refused.Error(), "no space left") {
				t.Errorf("does not say that the disk is full: %v", refused)
			}
			check := func(n int64) {
				t.Helper()
				if got := count(t, x, nil); got != 20*n {
					t.Fatalf("%d records, want %d", got, 20*n)
				}
			}
			check(next) // what was taken can be found all the while
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { return index() == nil })
			for range 20 {
				if err := index(); err != nil {
					t.Fatal(err)
				}
			}
			check(next)
			if err := x.Sync(); err != nil {
				t.Fatal(err)
			}
			if got := x.Positions()[0]; got != next {
				t.Errorf("position %d, want %d", got, next)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			x = mustOpen(t, c, Options{})
			check(next)
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
