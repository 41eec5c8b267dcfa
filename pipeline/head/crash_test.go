package head

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

// chunkPaths are the chunk files in dir, in order or late.
func chunkPaths(t *testing.T, dir, prefix string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s*: %v, %v", prefix, names, err)
	}
	return names
}

// noted is what the newest checkpoint says.
func noted(t *testing.T, dir string) checkpointHead {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, checkpointPrefix+"????????????????"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	f, err := openCheckpoint(names[len(names)-1])
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	return f.head
}

// afterNoted calls do for each chunk file, with how much of it the checkpoint knows; 0 = nothing.
func afterNoted(t *testing.T, dir string, do func(f *os.File, known int64) error) {
	t.Helper()
	files := noted(t, dir).Files
	for _, path := range slices.Concat(chunkPaths(t, dir, inOrderPrefix), chunkPaths(t, dir, latePrefix)) {
		var number uint32
		if _, err := fmt.Sscanf(path[len(path)-8:], "%08d", &number); err != nil {
			t.Fatal(path, err)
		}
		known := int64(0)
		if i := slices.IndexFunc(files, func(n notedFile) bool { return n.Number == number }); i >= 0 {
			known = files[i].Size
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(do(f, known), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCut opens what a power cut may leave: of what was written after the checkpoint, some is there, some is not, and some is rubbish.
func TestPowerCut(t *testing.T) {
	now := time.Now().UnixMilli()
	for _, damage := range []struct {
		name string
		do   func(t *testing.T, dir string)
	}{
		{"nothing of it", func(*testing.T, string) {}},
		{"chunk files cut off", func(t *testing.T, dir string) {
			afterNoted(t, dir, func(f *os.File, known int64) error { return f.Truncate(known) })
		}},
		{"chunk files half there", func(t *testing.T, dir string) {
			afterNoted(t, dir, func(f *os.File, known int64) error {
				st, err := f.Stat()
				return errors.Join(err, f.Truncate((known+st.Size())/2))
			})
		}},
		{"zeros in chunk files", func(t *testing.T, dir string) {
			afterNoted(t, dir, func(f *os.File, known int64) error {
				_, err := f.WriteAt(make([]byte, 100_000), known)
				return err
			})
		}},
		{"rubbish in chunk files", func(t *testing.T, dir string) {
			rubbish := make([]byte, 100_000)
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range rubbish {
				rubbish[i] = byte(rnd.Uint32())
			}
			afterNoted(t, dir, func(f *os.File, known int64) error {
				_, err := f.WriteAt(rubbish, known)
				return err
			})
		}},
		{"new chunk files lost", func(t *testing.T, dir string) {
			afterNoted(t, dir, func(f *os.File, known int64) error {
				if known > 0 {
					return nil
				}
				return os.Remove(f.Name())
			})
		}},
		{"half a checkpoint", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, fmt.Sprintf("%s%016d%s", checkpointPrefix, 2, tmpSuffix)), []byte(checkpointMagic+"half"))
		}},
		{"the checkpoint before is there still", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, fmt.Sprintf("%s%016d", checkpointPrefix, 0)), []byte("any"))
		}},
		{"said of metrics", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, metadataLog), make([]byte, 5000))
		}},
	} {
		t.Run(damage.name, func(t *testing.T) {
			dir := t.TempDir()
			w := newWriter(t, mustOpen(t, testConfig(dir)))
			w.put(one("a", now, 1), one("b", now-1000, 1))
			w.put(one("a", now-5000, 2))
			for i := range int64(140) { // files that the checkpoint knows in part
				w.put(one("packed", now+i-200, float64(i)), one("packed", now-i-300, float64(i)))
			}
			packed := samples(t, w.db, "packed")
			if err := w.db.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			position := w.next
			w.db.chunks.max = maxRecord + 5000 // and others that it does not know
			// From here on nothing is durable: new series, late samples, chunks.
			after := [][]kemi.Points{{one("c", now, 3), one("d", now, 4)}, {one("c", now-9000, 5)}, {one("a", now-7000, 6)}}
			for i := range int64(3000) {
				after = append(after, []kemi.Points{one("a", now+i+1, float64(i)*1.1), one("c", now-i*1000-20000, float64(i)*0.7)})
			}
			for _, ps := range after {
				w.put(ps...)
			}
			wantA, wantC := samples(t, w.db, "a"), samples(t, w.db, "c")

			cut := t.TempDir()
			copyDir(t, dir, cut)
			if n := len(chunkPaths(t, cut, inOrderPrefix)) + len(chunkPaths(t, cut, latePrefix)); n < 4 {
				t.Fatalf("%d files: the test sees too little", n)
			}
			writeFile(t, filepath.Join(cut, runningFile), []byte("another boot"))
			damage.do(t, cut)
			db := mustOpen(t, testConfig(cut))
			if s := db.Start(); s.Ended != EndedPowerCut {
				t.Errorf("ended: %s", s.Ended)
			}
			if p := db.Positions(); p[0] != position {
				t.Fatalf("replay from %v, want %d", p, position)
			}
			if got := samples(t, db, "a"); got != fmt.Sprintf("%d=2 %d=1", now-5000, now) {
				t.Fatalf("a is %s", got)
			}
			if got := samples(t, db, "c"); got != "" {
				t.Fatalf("c is %s", got)
			}
			w2 := newWriter(t, db)
			w2.next = position
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
				if got := samples(t, db, "packed"); got != packed {
					t.Fatalf("packed: got  %.300s\nwant %.300s", got, packed)
				}
			}
			check(db)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			check(mustOpen(t, testConfig(cut)))
			left, err := filepath.Glob(filepath.Join(cut, "*"+tmpSuffix))
			all, err2 := filepath.Glob(filepath.Join(cut, checkpointPrefix+"*"))
			if err != nil || err2 != nil || len(left) > 0 || len(all) != 1 {
				t.Errorf("left: %q, checkpoints %q", left, all)
			}
		})
	}
}

// TestDamagedCheckpoint: whatever is wrong with it, an error says so, and nothing is deleted.
func TestDamagedCheckpoint(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, mustOpen(t, testConfig(dir)))
	now := time.Now().UnixMilli()
	for i := range int64(200) {
		w.put(one("a", now+i, float64(i)), one("b", now-i, 1))
	}
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, checkpointPrefix+"*"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	good, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	open := func(name, want string, b []byte) {
		t.Helper()
		damaged := t.TempDir()
		copyDir(t, dir, damaged)
		path := filepath.Join(damaged, filepath.Base(names[0]))
		writeFile(t, path, b)
		before := chunkPaths(t, damaged, "")
		db, err := Open(testConfig(damaged), Options{})
		if err == nil {
			_ = db.Close()
			t.Fatalf("%s: opened", name)
		}
		if !strings.Contains(err.Error(), filepath.Base(path)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		if after := chunkPaths(t, damaged, ""); !slices.Equal(before, after) {
			t.Errorf("%s: before there were %q, now %q", name, before, after)
		}
	}
	for _, n := range []int{0, 1, len(checkpointMagic), len(good) / 2, len(good) - 1} {
		open(fmt.Sprintf("cut to %d", n), "damaged", good[:n])
	}
	rnd := rand.New(rand.NewPCG(storetest.Seed(t), 1))
	for _, i := range []int{0, len(good) - 1, len(good) - 9, len(good) - 13, rnd.IntN(len(good)), rnd.IntN(len(good)), rnd.IntN(len(good))} {
		b := slices.Clone(good)
		b[i] ^= 1 << rnd.IntN(8)
		open(fmt.Sprintf("a bit of byte %d", i), "damaged", b)
	}
	// An older one beside it is what there is left: it is not thrown away.
	older := filepath.Join(dir, fmt.Sprintf("%s%016d", checkpointPrefix, 0))
	writeFile(t, older, good)
	open("newest damaged", "damaged", good[:100])
	if err := os.Remove(older); err != nil {
		t.Fatal(err)
	}

	for _, prefix := range []string{inOrderPrefix, latePrefix} {
		path := chunkPaths(t, dir, prefix)[0]
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, b[:len(b)-1])
		if db, err := Open(testConfig(dir), Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s is too short: %v, %v", path, db, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if db, err := Open(testConfig(dir), Options{}); err == nil || !strings.Contains(err.Error(), "missing in "+dir) {
			t.Errorf("%s is missing: %v, %v", path, db, err)
		}
		writeFile(t, path, b)
	}
	db := mustOpen(t, testConfig(dir)) // nothing of all that has done harm
	if got := len(strings.Fields(samples(t, db, "a"))); got != 200 {
		t.Errorf("%d samples", got)
	}
}

// TestEnded: a start knows how the one before it ended.
func TestEnded(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(filepath.Join(dir, "a"))
	w := newWriter(t, mustOpen(t, cfg))
	if s := w.db.Start(); s.Ended != EndedNever || !s.Done || s.LogBytes != 0 {
		t.Errorf("first: %+v", s)
	}
	w.put(one("m", time.Now().UnixMilli(), 1))
	if err := w.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"killed", "cut", "rubbish", "empty"} {
		copyDir(t, cfg.Dir, filepath.Join(dir, name))
	}
	writeFile(t, filepath.Join(dir, "cut", runningFile), []byte("5a2b1f5e-0000-4000-8000-000000000000"))
	writeFile(t, filepath.Join(dir, "rubbish", runningFile), make([]byte, 36))
	writeFile(t, filepath.Join(dir, "empty", runningFile), nil)
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Ended{"a": EndedClean, "killed": EndedKilled, "cut": EndedPowerCut, "rubbish": EndedPowerCut, "empty": EndedPowerCut} {
		db := mustOpen(t, testConfig(filepath.Join(dir, name)))
		if s := db.Start(); s.Ended != want || s.LogBytes == 0 || !s.Done {
			t.Errorf("%s: %+v", name, s)
		}
		if samples(t, db, "m") == "" {
			t.Errorf("%s: the sample is not there", name)
		}
	}
}

// TestKill kills a process that appends and makes checkpoints, again and again. Replay from the positions gives exactly all.
func TestKill(t *testing.T) {
	if dir := os.Getenv("KEMI_TEST_HEAD_CHILD"); dir != "" {
		killChild(dir)
		return
	}
	dir := t.TempDir()
	base := time.Now().Add(-time.Hour).UnixMilli()
	rnd := rand.New(rand.NewPCG(storetest.Seed(t), 2))
	position := int64(0)
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "KEMI_TEST_HEAD_CHILD="+dir, fmt.Sprintf("KEMI_TEST_HEAD_BASE=%d", base))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, last := bufio.NewScanner(out), int64(-1)
		for n := 0; lines.Scan(); n++ {
			if _, err := fmt.Sscanf(lines.Text(), "appended %d", &last); err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			if n == 0 {
				time.AfterFunc(time.Duration(50+rnd.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait()
		db := mustOpen(t, testConfig(dir))
		if s := db.Start(); s.Ended != EndedKilled {
			t.Errorf("ended: %s", s.Ended)
		}
		p := db.Positions()[0]
		if p < position || p > last+1 {
			t.Fatalf("replay from %d, before it was %d, the child had appended up to %d", p, position, last)
		}
		position = p
		for n := p + 1; n <= last; n++ { // what the log of record has
			batch := codec.NewTable(nil, time.Now).BatchOf("default", killBatch(base, n))
			if err := db.Append(t.Context(), batch, store.Position{Next: n}); err != nil {
				t.Fatal(err)
			}
		}
		all := max(p, last)
		var k, late []string
		for n := int64(1); n <= all; n++ {
			k = append(k, fmt.Sprintf("%d=%d", base+n*10, n))
			late = append(late, fmt.Sprintf("%d=%d", base-n*10, n))
		}
		slices.Reverse(late)
		// One batch more may have come into the checkpoint: the child was killed before it could say so.
		trim := func(got string) string {
			f := slices.DeleteFunc(strings.Fields(got), func(x string) bool { return strings.HasSuffix(x, fmt.Sprintf("=%d", all+1)) })
			return strings.Join(f, " ")
		}
		if got := trim(samples(t, db, "k")); got != strings.Join(k, " ") {
			t.Fatalf("round %d: k is %d bytes, want %d samples: %.200s", round, len(got), len(k), got)
		}
		if got := trim(samples(t, db, "late")); got != strings.Join(late, " ") {
			t.Fatalf("round %d: late is %d bytes, want %d samples: %.200s", round, len(got), len(late), got)
		}
		for _, n := range []int64{1, all / 2, all} {
			if got := samples(t, db, fmt.Sprint("new", n)); got != fmt.Sprintf("%d=1", base+n) {
				t.Fatalf("round %d: new%d is %q", round, n, got)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		position = all
	}
}

// killBatch is the n-th batch: one in order, a late one, a new series.
func killBatch(base, n int64) []kemi.Points {
	return []kemi.Points{one("k", base+n*10, float64(n)), one("late", base-n*10, float64(n)), one(fmt.Sprint("new", n), base+n, 1)}
}

func killChild(dir string) {
	fail := func(err error) {
		fmt.Println(err)
		os.Exit(1)
	}
	var base int64
	_, _ = fmt.Sscan(os.Getenv("KEMI_TEST_HEAD_BASE"), &base)
	db, err := Open(testConfig(dir), Options{})
	if err != nil {
		fail(err)
	}
	go func() { // one checkpoint after another
		for {
			if err := db.Sync(context.Background()); err != nil {
				fail(err)
			}
		}
	}()
	table := codec.NewTable(nil, time.Now)
	for n := db.Positions()[0] + 1; ; n++ {
		if err := db.Append(context.Background(), table.BatchOf("default", killBatch(base, n)), store.Position{Next: n}); err != nil {
			fail(err)
		}
		fmt.Println("appended", n)
	}
}

// TestFullDisk: what cannot be taken is refused, what is there can be read, and when there is room all is well again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		storetest.Absent(t, "no tmpfs can be mounted here: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	full := filepath.Join(dir, "full")
	fill := func() {
		t.Helper()
		f, err := os.Create(full)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 40<<20)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("not full: %v", err)
		}
		_ = f.Close()
	}
	free := func() {
		t.Helper()
		if err := os.Remove(full); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(filepath.Join(dir, "head"))
	db := mustOpen(t, cfg)
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("m", now, 1))
	fill()
	err := db.Append(t.Context(), w.table.BatchOf("default", []kemi.Points{one("m", now+1, 2)}), store.Position{Next: 2})
	if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "is full") {
		t.Fatalf("append to a full disk: %v", err)
	}
	if err := db.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("checkpoint on a full disk: %v", err)
	}
	if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1", now) {
		t.Errorf("read on a full disk: %s", got)
	}
	free()
	w.put(one("m", now+1, 2))
	if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1 %d=2", now, now+1) {
		t.Errorf("after there is room: %s", got)
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	position := w.next

	// The disk fills up so quickly that nobody has noticed before a chunk is to be written.
	db.cfg.DiskReserve = 1
	var log [][]kemi.Points
	put := func(i int64) error {
		ps := make([]kemi.Points, 100)
		for k := range ps {
			ps[k] = one(fmt.Sprint("many", k), now-20*60e3+i*40, float64(i)*1.1+float64(k))
		}
		log = append(log, ps)
		return db.Append(t.Context(), w.table.BatchOf("default", ps), store.Position{Next: position + int64(len(log))})
	}
	for i := range int64(100) {
		if err := put(i); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	db.cfg.Dir = t.TempDir() // where there is room
	err = nil
	for i := int64(100); err == nil && i < 100_000; i++ {
		err = put(i)
	}
	if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("append to a disk that has become full: %v", err)
	}
	t.Logf("full after %d batches", len(log))
	db.cfg.Dir = cfg.Dir
	if got := strings.Fields(samples(t, db, "many99")); len(got) < 90 {
		t.Errorf("read on a full disk: %d samples", len(got))
	}
	if err := db.Close(); err != nil {
		t.Logf("close on a full disk: %v", err) // it may fail, but then all is there afterwards
	}
	free()
	db = mustOpen(t, cfg)
	if p := db.Positions()[0]; p != position {
		t.Fatalf("replay from %d, want %d", p, position)
	}
	w.db = db
	w.next = position
	for _, ps := range log {
		w.put(ps...)
	}
	for _, k := range []int{0, 50, 99} {
		var want []string
		for i := range log {
			want = append(want, fmt.Sprintf("%d=%g", now-20*60e3+int64(i)*40, float64(i)*1.1+float64(k)))
		}
		if got := samples(t, db, fmt.Sprint("many", k)); got != strings.Join(want, " ") {
			t.Errorf("many%d after a replay: %d bytes of %d", k, len(got), len(strings.Join(want, " ")))
		}
	}
	if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1 %d=2", now, now+1) {
		t.Errorf("m after a restart: %s", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
