package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/bus"

	"kemi/pipeline/storetest"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	storetest.Absent(t, "must be root to mount a small file system")
}

// mountTmpfs is a file system of its own with so many bytes.
func mountTmpfs(t *testing.T, bytes int) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestReadOnlyFolder(t *testing.T) {
	dir := mountTmpfs(t, 1<<20)
	cfg := testConfig(filepath.Join(dir, "log"))
	w := mustOpen(t, cfg)
	publish(t, w, "x")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly := func(flag uintptr) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flag, ""); err != nil {
			t.Fatal(err)
		}
	}
	readOnly(unix.MS_RDONLY)
	for _, d := range []string{cfg.Dir, filepath.Join(dir, "new")} {
		c := cfg
		c.Dir = d
		_, err := Open(c, Options{})
		if !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "cannot be written") || !strings.Contains(err.Error(), d) {
			t.Errorf("open %s: %v", d, err)
		}
	}
	readOnly(0)
	wantValues(t, mustOpen(t, cfg), "x")
}

// fillUp takes all space of the file system and returns what gives it back.
func fillUp(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_ = f.Close()
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := mountTmpfs(t, 1<<20)
	cfg := testConfig(filepath.Join(dir, "log"))
	cfg.SegmentBytes = 100_000
	w := mustOpen(t, cfg)
	r, _ := w.Subscribe(t.Context(), "a", "g", nil)
	defer r.Close()
	var want []string
	full := 0
	// Records of many lengths, so that the end comes at all places: within a frame and at a new segment.
	for round := range 12 {
		var free func()
		if round > 0 {
			free = fillUp(t, dir)
		}
		for i := 0; ; i++ {
			v := fmt.Sprintf("%d.%d %s", round, i, strings.Repeat("x", 1+(i*7919+round*104729)%9000))
			err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte(v)}, {Value: []byte("with it")}})
			if err == nil {
				want = append(want, v, "with it")
				if i < 20 {
					continue
				}
				break
			}
			if !errors.Is(err, kemi.ErrUnavailable) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "disk is full") {
				t.Fatal(err)
			}
			full++
			if err := r.Commit(t.Context(), bus.Positions{0: int64(len(want))}); err != nil && !errors.Is(err, kemi.ErrUnavailable) {
				t.Fatal(err)
			}
			break
		}
		wantValues(t, w, want...)
		if free != nil {
			free()
		}
		if round%3 == 2 {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = mustOpen(t, cfg)
			wantValues(t, w, want...)
			r, _ = w.Subscribe(t.Context(), "a", "g", nil)
		}
	}
	if full < 8 {
		t.Fatalf("the disk was full %d times", full)
	}
	if err := r.Commit(t.Context(), bus.Positions{0: int64(len(want))}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	free := fillUp(t, dir)
	if w, err := Open(cfg, Options{}); err == nil {
		wantValues(t, w, want...) // reading needs no space
		_ = w.Close()
	} else if !errors.Is(err, kemi.ErrUnavailable) {
		t.Fatal(err)
	}
	fresh := cfg
	fresh.Dir = filepath.Join(dir, "fresh")
	if _, err := Open(fresh, Options{}); !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("new log on a full disk: %v", err)
	}
	free()
	w = mustOpen(t, cfg)
	wantValues(t, w, want...)
	if p := w.topics["a"].groups.get("g"); p[0] != int64(len(want)) {
		t.Fatalf("committed %v, want %d", p, len(want))
	}
}
