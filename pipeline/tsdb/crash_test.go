package tsdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"

	"kemi/pipeline/storetest"
)

// TestPowerCut opens what a power cut may leave: of what was written after the checkpoint, some is there, some is not, and some is rubbish.
func TestPowerCut(t *testing.T) {
	now := time.Now().UnixMilli()
	for _, damage := range []struct {
		name string
		do   func(t *testing.T, dir string)
	}{
		{"nothing of it", func(*testing.T, string) {}},
		{"wal lost its tail, the log of late samples did not", func(t *testing.T, dir string) { cutNewest(t, filepath.Join(dir, walDir)) }},
		{"late samples lost, wal did not", func(t *testing.T, dir string) { cutNewest(t, filepath.Join(dir, wblDir)) }},
		{"zeros in the wal", func(t *testing.T, dir string) { spoil(t, filepath.Join(dir, walDir), 0) }},
		{"rubbish in the wal", func(t *testing.T, dir string) { spoil(t, filepath.Join(dir, walDir), 0xa5) }},
		{"rubbish in both", func(t *testing.T, dir string) {
			spoil(t, filepath.Join(dir, walDir), 0xa5)
			spoil(t, filepath.Join(dir, wblDir), 0xa5)
		}},
		{"rubbish in the chunks", func(t *testing.T, dir string) { spoil(t, filepath.Join(dir, chunksDir), 0x5a) }},
		{"applied file lost", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, appliedName)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(damage.name, func(t *testing.T) {
			dir := t.TempDir()
			w := newWriter(t, mustOpen(t, testConfig(dir)))
			w.put(one("a", now, 1), one("b", now-1000, 1))
			w.put(one("a", now-5000, 2))
			if err := w.db.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			// From here on nothing is durable: new series, late samples, chunks.
			after := [][]kemi.Points{{one("c", now, 3), one("d", now, 4)}, {one("c", now-9000, 5)}, {one("a", now-7000, 6)}}
			for i := range int64(300) {
				after = append(after, []kemi.Points{one("a", now+i+1, float64(i)), one("c", now-i*1000-20000, float64(i))})
			}
			for _, ps := range after {
				w.put(ps...)
			}
			w.db.db.ForceHeadMMap()
			wantA, wantC := samples(t, w.db, "a"), samples(t, w.db, "c")

			cut := t.TempDir()
			copyDir(t, dir, cut)
			setBoot(t, cut, "another boot")
			damage.do(t, cut)
			db := mustOpen(t, testConfig(cut))
			if p := db.Positions(); p[0] != 2 {
				t.Fatalf("replay from %v, want 2", p)
			}
			if got := samples(t, db, "a"); got != fmt.Sprintf("%d=2 %d=1", now-5000, now) {
				t.Fatalf("a is %s", got)
			}
			if got := samples(t, db, "c"); got != "" {
				t.Fatalf("c is %s", got)
			}
			w2 := newWriter(t, db)
			w2.next = 2
			// What comes first now is another series than what came first before: it must not inherit anything.
			w2.put(one("e", now, 9))
			for _, ps := range after {
				w2.put(ps...)
			}
			check := func(db *DB) {
				t.Helper()
				if a, c, e := samples(t, db, "a"), samples(t, db, "c"), samples(t, db, "e"); a != wantA || c != wantC || e != fmt.Sprintf("%d=9", now) {
					t.Fatalf("after replay:\na %.300s\nc %.300s\ne %.300s", a, c, e)
				}
			}
			check(db)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			check(mustOpen(t, testConfig(cut)))
		})
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

func setBoot(t *testing.T, dir, boot string) {
	t.Helper()
	n, err := readNote(dir)
	if err != nil {
		t.Fatal(err)
	}
	n.Boot = boot
	b, _ := json.Marshal(n)
	if err := os.WriteFile(filepath.Join(dir, positionsFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func newest(t *testing.T, dir string) string {
	t.Helper()
	segments, err := listSegments(dir)
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments of %s: %v, %v", dir, segments, err)
	}
	if filepath.Base(dir) == chunksDir {
		return filepath.Join(dir, fmt.Sprintf("%06d", segments[len(segments)-1]))
	}
	return segmentPath(dir, segments[len(segments)-1])
}

// cutNewest takes the last hundred bytes off.
func cutNewest(t *testing.T, dir string) {
	t.Helper()
	name := newest(t, dir)
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, st.Size()-100); err != nil {
		t.Fatal(err)
	}
}

// spoil overwrites the last third.
func spoil(t *testing.T, dir string, with byte) {
	t.Helper()
	name := newest(t, dir)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(b) * 2 / 3; i < len(b); i++ {
		b[i] = with
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestKill kills a process that appends, again and again: all that it said was appended is there, and replay begins where it should.
func TestKill(t *testing.T) {
	if dir := os.Getenv("KEMI_TEST_TSDB_CHILD"); dir != "" {
		killChild(dir)
		return
	}
	dir := t.TempDir()
	base := time.Now().Add(-time.Hour).UnixMilli()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "KEMI_TEST_TSDB_CHILD="+dir, fmt.Sprintf("KEMI_TEST_TSDB_BASE=%d", base))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, last, first := bufio.NewScanner(out), int64(-1), int64(-1)
		for n := 0; lines.Scan(); n++ {
			if _, err := fmt.Sscanf(lines.Text(), "appended %d", &last); err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			if first < 0 {
				first = last
				after := 50 + rnd.IntN(300)
				time.AfterFunc(time.Duration(after)*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait()
		db := mustOpen(t, testConfig(dir))
		p := db.Positions()[0]
		if p < last || p > last+2 {
			t.Fatalf("replay from %d, the child had appended up to %d", p, last)
		}
		got := strings.Fields(samples(t, db, "k"))
		if int64(len(got)) < last || got[last-1] != fmt.Sprintf("%d=%d", base+last*10, last) {
			t.Fatalf("%d samples, the child had appended %d", len(got), last)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func killChild(dir string) {
	var base int64
	_, _ = fmt.Sscan(os.Getenv("KEMI_TEST_TSDB_BASE"), &base)
	cfg := testConfig(dir)
	cfg.Checkpoint = 100 * time.Millisecond
	db, err := Open(cfg, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	table := codec.NewTable(nil, time.Now)
	for i := db.Positions()[0]; ; i++ {
		n := i + 1
		batch := table.BatchOf("default", []kemi.Points{one("k", base+n*10, float64(n)), one("late", base-n*10, float64(n))})
		if err := db.Append(context.Background(), batch, store.Position{Next: n}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("appended", n)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		storetest.Absent(t, "no tmpfs can be mounted here: %v", err)
	}
	defer func() {
		// Close on a full disk leaves files open, so: when they are closed.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	db, err := Open(testConfig(filepath.Join(dir, "tsdb")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("m", now, 1))
	full := filepath.Join(dir, "full")
	f, err := os.Create(full)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 40<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("not full: %v", err)
	}
	_ = f.Close()
	err = db.Append(t.Context(), w.table.BatchOf("default", []kemi.Points{one("m", now+1, 2)}), store.Position{Next: 2})
	if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "is full") {
		t.Fatalf("append to a full disk: %v", err)
	}
	if err := db.Compact(t.Context()); !errors.Is(err, kemi.ErrUnavailable) {
		t.Fatalf("compact on a full disk: %v", err)
	}
	if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1", now) {
		t.Errorf("read on a full disk: %s", got)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	w.put(one("m", now+1, 2))
	if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1 %d=2", now, now+1) {
		t.Errorf("after there is room: %s", got)
	}
	// Close on a full disk, with chunks that are not written yet: it may fail, but all is there afterwards.
	for i := range int64(20_000) {
		w.put(one("many", now-20*60e3+i*40, float64(i)*1.1))
	}
	want := samples(t, db, "many")
	if f, err = os.Create(full); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 40<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("not full: %v", err)
	}
	_ = f.Close()
	t.Logf("close on a full disk: %v", db.Close())
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	db, err = Open(testConfig(filepath.Join(dir, "tsdb")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := samples(t, db, "many"); got != want || db.Positions()[0] != w.next {
		t.Errorf("after Close on a full disk: %d bytes of %d, positions %v", len(got), len(want), db.Positions())
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestGolden reads what earlier versions of this program have written.
func TestGolden(t *testing.T) {
	dir := t.TempDir()
	copyDir(t, filepath.Join("testdata", "v1"), dir)
	n, err := readNote(dir)
	if err != nil || n.Positions[0] != 41 || n.Positions[3] != 7 || n.WAL != (walSpot{5, 32768}) || n.WBL != (walSpot{Segment: 2}) || n.Clean {
		t.Errorf("%+v, %v", n, err)
	}
	p, ok := readApplied(dir, n.Boot)
	if !ok || p[0] != 45 || p[3] != 7 {
		t.Errorf("%v, %v", p, ok)
	}
	if _, ok := readApplied(dir, "another boot"); ok {
		t.Error("positions of another boot are taken")
	}
	m, err := openMetadata(dir)
	if err != nil || m.projects["default"]["up"] != md("gauge", "", "Whether it is up.") {
		t.Errorf("%v, %v", m.projects, err)
	}
}
