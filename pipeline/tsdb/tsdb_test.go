package tsdb

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

var reader = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.MetricsRead}

func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir = dir
	cfg.Checkpoint = time.Hour // by hand
	return cfg
}

func mustOpen(t *testing.T, cfg Config) *DB {
	t.Helper()
	db, err := Open(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// writer appends to a DB with a table and positions of its own.
type writer struct {
	t     *testing.T
	db    *DB
	table *codec.Table
	next  int64
}

func newWriter(t *testing.T, db *DB) *writer {
	return &writer{t: t, db: db, table: codec.NewTable(nil, time.Now)}
}

func (w *writer) put(ps ...kemi.Points) {
	w.t.Helper()
	w.next++
	if err := w.db.Append(w.t.Context(), w.table.BatchOf("default", ps), store.Position{Next: w.next}); err != nil {
		w.t.Fatal(err)
	}
}

func one(name string, at int64, v float64) kemi.Points {
	return kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, name), At: []kemi.Millis{kemi.Millis(at)}, Values: []float64{v}}
}

func samples(t *testing.T, db *DB, name string) string {
	t.Helper()
	var b strings.Builder
	sel := store.Selector{{Name: kemi.MetricName, Value: name}}
	for p, err := range db.Select(t.Context(), reader, sel, kemi.Range{From: 0, To: math.MaxInt64 / 2}) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.At {
			fmt.Fprintf(&b, "%d=%g ", p.At[i], p.Values[i])
		}
	}
	return strings.TrimSpace(b.String())
}

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

// TestYearsApart has samples of 2018 and of now in one head, in either order, and compacts.
func TestYearsApart(t *testing.T) {
	const old = 1515917973043
	now := time.Now().UnixMilli()
	hour := int64(3600e3)
	for name, put := range map[string]func(w *writer){
		"old first": func(w *writer) {
			w.put(one("m", old, 1))
			w.put(one("m", now, 2), one("n", now, 3))
		},
		"new first": func(w *writer) {
			w.put(one("m", now, 2), one("n", now, 3))
			w.put(one("m", old, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, testConfig(t.TempDir()))
			w := newWriter(t, db)
			put(w)
			// More of the past, every day of a year, and of the last hours, every minute.
			var want []string
			for d := range int64(365) {
				w.put(one("past", old+d*24*hour, float64(d)))
				want = append(want, fmt.Sprintf("%d=%d", old+d*24*hour, d))
			}
			for i := range int64(300) {
				w.put(one("n", now-300*60e3+i*60e3, float64(i)))
			}
			n := samples(t, db, "n")
			check := func(when string) {
				t.Helper()
				if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1 %d=2", old, now) {
					t.Fatalf("%s: m is %s", when, got)
				}
				if got := samples(t, db, "past"); got != strings.Join(want, " ") {
					t.Fatalf("%s: past is %.200s", when, got)
				}
				if got := samples(t, db, "n"); got != n {
					t.Fatalf("%s: n is %.200s", when, got)
				}
			}
			check("before")
			began := time.Now()
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.compactLate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("compacted to %d blocks in %v", db.Stats().Blocks, time.Since(began))
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("compaction took %v", took)
			}
			if b := db.Stats().Blocks; b > 40 || b < 3 {
				t.Errorf("%d blocks", b)
			}
			check("compacted")
			// Conflicts and duplicates with what lies in blocks.
			before := testutil.ToFloat64(db.m.conflicts)
			w.put(one("m", old, 99), one("past", old+24*hour, 1))
			if got := testutil.ToFloat64(db.m.conflicts) - before; got != 1 {
				t.Errorf("%v conflicts with blocks, want 1", got)
			}
			check("after a conflict")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = mustOpen(t, testConfig(db.cfg.Dir))
			check("opened again")
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			check("compacted again")
		})
	}
}

// TestLateIntoHead has late samples in blocks that reach into what the head still holds, merges, and restarts: what is in the
// WAL only must not be taken for written.
func TestLateIntoHead(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	for i := range int64(6 * 60) {
		w.put(one("m", now-6*3600e3+i*60e3, float64(i)))
	}
	for i := range int64(6 * 60) {
		w.put(one("m", now-6*3600e3+i*60e3+1, float64(i)))
	}
	want := samples(t, db, "m")
	for range 3 {
		if err := db.compactLate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.put(one("m", now-3600e3+2, 1), one("m", now-5*3600e3+2, 1))
		if got := strings.Fields(samples(t, db, "m")); len(got) != 722 {
			t.Fatalf("%d samples", len(got))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = mustOpen(t, testConfig(db.cfg.Dir))
		w.db = db
		if got := strings.Fields(samples(t, db, "m")); len(got) != 722 {
			t.Fatalf("opened again: %d samples of %d", len(got), len(strings.Fields(want))+2)
		}
	}
}

func TestCounters(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("m", now, 1))
	w.put(one("m", now, 2), one("m", now-10, 1))                                // a conflict, a late one
	w.put(one("m", now-10, 1), one("m", now-10, 3))                             // a duplicate, a conflict
	w.put(one("m", now+20*60e3, 1), one("m", now+30*365*24*3600e3, 1))          // too far ahead
	w.put(one("m", 1000, 1), one("m", now-11*365*24*3600e3, 1))                 // too old
	w.put(one("m", now+5*60e3, 5))                                              // ahead, but within bounds
	w.put(kemi.Points{Labels: nil, At: []kemi.Millis{1}, Values: []float64{1}}) // no labels: still a series of the project
	for name, c := range map[string]struct {
		got  prometheus.Collector
		want float64
	}{
		"appended": {db.m.appended, 3}, "conflicts": {db.m.conflicts, 2}, "duplicates": {db.m.duplicates, 1}, "late": {db.m.late, 1},
		"too far ahead": {db.m.future, 2}, "too old": {db.m.tooOld, 3},
	} {
		if got := testutil.ToFloat64(c.got); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got, want := samples(t, db, "m"), fmt.Sprintf("%d=1 %d=1 %d=5", now-10, now, now+5*60000); got != want {
		t.Errorf("m is %s, want %s", got, want)
	}
}

func TestSeriesLimit(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxSeries = 3
	db := mustOpen(t, cfg)
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	for i := range 6 {
		w.put(one(fmt.Sprintf("m%d", i), now, 1))
	}
	w.put(one("m0", now+1, 2), one("m5", now+1, 2))
	w = newWriter(t, db) // another table: the series are known to the store only
	w.put(one("m1", now+1, 3), one("m4", now+1, 3))
	if got := testutil.ToFloat64(db.m.overLimit); got != 5 {
		t.Errorf("%v samples over the limit, want 5", got)
	}
	if got := samples(t, db, "m0") + samples(t, db, "m1") + samples(t, db, "m4"); got != fmt.Sprintf("%d=1 %d=2%d=1 %d=3", now, now+1, now, now+1) {
		t.Errorf("got %s", got)
	}
}

// TestForgottenSeries appends to series that the head has forgotten since the table learned their number.
func TestForgottenSeries(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("rare", now-10*3600e3, 1))
	for i := range int64(600) {
		w.put(one("often", now-10*3600e3+i*60e3, 1))
	}
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := db.Stats().Series; n != 1 {
		t.Fatalf("%d series in memory, want 1", n)
	}
	w.put(one("rare", now, 2))
	w.put(one("rare", now+1, 3))
	if got, want := samples(t, db, "rare"), fmt.Sprintf("%d=1 %d=2 %d=3", now-10*3600000, now, now+1); got != want {
		t.Errorf("rare is %s, want %s", got, want)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
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

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(filepath.Join(file, "tsdb")), Options{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("folder below a file: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, positionsFile), []byte(`{"version":99}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(dir), Options{}); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("positions of a later version: %v", err)
	}
	for key, change := range map[string]func(*Config){
		"dir": func(c *Config) { c.Dir = "" }, "retention": func(c *Config) { c.Retention = time.Hour }, "maxFuture": func(c *Config) { c.MaxFuture = 2 * time.Hour },
		"maxSeries": func(c *Config) { c.MaxSeries = 0 }, "maxExemplars": func(c *Config) { c.MaxExemplars = -1 }, "checkpoint": func(c *Config) { c.Checkpoint = 1 },
		"blockDuration": func(c *Config) { c.BlockDuration = 48 * time.Hour; c.MaxFuture = time.Minute },
	} {
		cfg := testConfig(t.TempDir())
		change(&cfg)
		if _, err := Open(cfg, Options{}); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestMetadata(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, testConfig(dir))
	db.meta.set("default", "up", md("gauge", "", "old"))
	db.meta.set("default", "up", md("gauge", "", "new"))
	db.meta.set("default", "lat", md("histogram", "seconds", strings.Repeat("x", maxHelp+1)))
	db.meta.set("other", "secret", md("counter", "", ""))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, testConfig(dir))
	all := db.Metadata(reader, "")
	if len(all) != 2 || all["up"].Help != "new" || all["up"].Type != "gauge" || len(all["lat"].Help) != maxHelp {
		t.Errorf("metadata %v", all)
	}
	if one := db.Metadata(reader, "up"); len(one) != 1 {
		t.Errorf("metadata of up: %v", one)
	}
	if one := db.Metadata(reader, "secret"); len(one) != 0 {
		t.Errorf("metadata of another project: %v", one)
	}
}

func TestStatus(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(
		kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", "a"), At: []kemi.Millis{kemi.Millis(now)}, Values: []float64{1}},
		kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", "bb"), At: []kemi.Millis{kemi.Millis(now)}, Values: []float64{1}},
		one("mem", now, 1))
	if err := db.Append(t.Context(), w.table.BatchOf("other", []kemi.Points{one("secret", now, 1)}), store.Position{Next: 9}); err != nil {
		t.Fatal(err)
	}
	s, err := db.Status(t.Context(), reader, 1)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(s)
	want := fmt.Sprintf(`{"headStats":{"numSeries":3,"numLabelPairs":4,"chunkCount":3,"minTime":%d,"maxTime":%d},"seriesCountByMetricName":[{"name":"cpu","value":2}],`+
		`"labelValueCountByLabelName":[{"name":"__name__","value":2}],"memoryInBytesByLabelName":[{"name":"__name__","value":6}],"seriesCountByLabelValuePair":[{"name":"__name__=cpu","value":2}]}`, now, now)
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if _, err := db.Status(t.Context(), kemi.Identity{}, 1); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("without a project: %v", err)
	}
	if st := db.Stats(); st.Series != 4 || st.LogBytes == 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestFreshness(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	db.SetReplaying("replay under way")
	if f := db.Freshness(); f.Complete || f.Reason != "replay under way" || f.AsOf != 0 {
		t.Errorf("%+v", f)
	}
	newWriter(t, db).put(one("m", time.Now().UnixMilli(), 1))
	db.SetReplaying("")
	if f := db.Freshness(); !f.Complete || f.Reason != "" || time.Since(f.AsOf.Time()) > time.Minute {
		t.Errorf("%+v", f)
	}
}

func TestNothingLeft(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	db, err := Open(testConfig(t.TempDir()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	newWriter(t, db).put(one("m", time.Now().UnixMilli(), 1))
	for range 2 {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoAllocations: a batch of known series costs a few allocations, not some per sample.
func TestNoAllocations(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	var ps []kemi.Points
	for i := range 1000 {
		ps = append(ps, one(fmt.Sprintf("m%d", i), 0, 0))
	}
	batch := w.table.BatchOf("default", ps)
	at := time.Now().Add(-time.Hour).UnixMilli()
	round := func() {
		at += 1000
		for i := range batch.At {
			batch.At[i] = kemi.Millis(at)
		}
		if err := db.Append(t.Context(), batch, store.Position{Next: at}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		round()
	}
	// A chunk of 120 samples grows a few times and is replaced once: well below one allocation in ten samples.
	if n := testing.AllocsPerRun(100, round); n > 100 {
		t.Errorf("%v allocations for 1000 samples", n)
	}
}

func FuzzDecodeXOR(f *testing.F) {
	add := func(ts []int64, vs []float64) {
		c := chunkenc.NewXORChunk()
		a, err := c.Appender()
		if err != nil {
			f.Fatal(err)
		}
		for i := range ts {
			a.Append(0, ts[i], vs[i])
		}
		f.Add(c.Bytes())
	}
	add(nil, nil)
	add([]int64{5}, []float64{1})
	add([]int64{-5, 5}, []float64{1, math.NaN()})
	var ts []int64
	var vs []float64
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range int64(200) {
		ts, vs = append(ts, 1515917973043+i*15000+rnd.Int64N(1<<(i%40+1))), append(vs, rnd.NormFloat64()*math.Pow(10, float64(i%30)))
	}
	slices.Sort(ts)
	add(ts, vs)
	for _, d := range []int64{8191, 8192, 8193, -8191, -8192, 65536, 65537, -65535, 524288, 524289, -524287, -524288, 1 << 40} {
		add([]int64{0, 1e6, 2e6 + d, 3e6 + 3*d, 4e6}, []float64{0, 1, 1, 1, math.Inf(1)}) // where the codes of time change
	}
	f.Add([]byte{0, 3, 1})
	f.Add([]byte("\x000000"))
	f.Add([]byte{255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 {
			return
		}
		at, values, err := decodeXOR(b, math.MinInt64, math.MaxInt64, nil, nil)
		c, cerr := chunkenc.FromData(chunkenc.EncXOR, b)
		if cerr != nil {
			return
		}
		it := c.Iterator(nil)
		var wantAt []kemi.Millis
		var want []uint64
		for it.Next() != chunkenc.ValNone {
			ts, v := it.At()
			if math.Float64bits(v) != staleBits {
				wantAt, want = append(wantAt, kemi.Millis(ts)), append(want, math.Float64bits(v))
			}
		}
		if it.Err() != nil {
			if err == nil {
				t.Fatalf("upstream: %v; we read %d samples", it.Err(), len(at))
			}
			return
		}
		if err != nil {
			return // of what is not well formed, upstream reads beyond the end or shifts by a negative number of bits, and goes on
		}
		if !slices.Equal(at, wantAt) {
			t.Fatalf("times %v, want %v", at, wantAt)
		}
		for i := range values {
			if math.Float64bits(values[i]) != want[i] {
				t.Fatalf("value %d: %x, want %x", i, math.Float64bits(values[i]), want[i])
			}
		}
	})
}

// FuzzXORRoundTrip makes well-formed chunks of what it is given.
func FuzzXORRoundTrip(f *testing.F) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for n := range 40 {
		b := make([]byte, n*40)
		for i := range b {
			b[i] = byte(rnd.Uint32() >> (8 * (n % 4)))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := chunkenc.NewXORChunk()
		a, err := c.Appender()
		if err != nil {
			t.Fatal(err)
		}
		var at []kemi.Millis
		var values []uint64
		last := int64(0)
		v := uint64(0)
		for ; len(b) >= 18 && len(at) < 1000; b = b[18:] {
			last += int64(binary.LittleEndian.Uint64(b) >> (b[16] % 64))
			v ^= binary.LittleEndian.Uint64(b[8:]) >> (b[17] % 64) << (b[17] / 64 * 8)
			a.Append(0, last, math.Float64frombits(v))
			if v != staleBits {
				at, values = append(at, kemi.Millis(last)), append(values, v)
			}
		}
		gotAt, got, err := decodeXOR(c.Bytes(), math.MinInt64, math.MaxInt64, nil, nil)
		if err != nil || !slices.Equal(gotAt, at) {
			t.Fatalf("%v: times %v, want %v", err, gotAt, at)
		}
		for i := range got {
			if math.Float64bits(got[i]) != values[i] {
				t.Fatalf("value %d: %x, want %x", i, math.Float64bits(got[i]), values[i])
			}
		}
	})
}

func TestDecodeXORRange(t *testing.T) {
	c := chunkenc.NewXORChunk()
	a, err := c.Appender()
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(10) {
		a.Append(0, i*10, float64(i))
	}
	at, values, err := decodeXOR(c.Bytes(), 30, 50, []kemi.Millis{1}, []float64{1})
	if err != nil || !slices.Equal(at, []kemi.Millis{1, 30, 40, 50}) || !slices.Equal(values, []float64{1, 3, 4, 5}) {
		t.Errorf("%v %v %v", at, values, err)
	}
	for n := range c.Bytes() {
		if _, _, err := decodeXOR(c.Bytes()[:n], 0, 1000, nil, nil); err == nil {
			t.Errorf("%d bytes of %d pass for a whole chunk", n, len(c.Bytes()))
		}
	}
}

func md(kind, unit, help string) metadata.Metadata {
	return metadata.Metadata{Type: model.MetricType(kind), Unit: unit, Help: help}
}
