package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func options(dir string) queueOptions {
	return queueOptions{dir: dir, id: "id", run: "r", maxBytes: 1 << 20, log: quiet(), now: time.Now}
}

func open(t testing.TB, o queueOptions) *queue {
	t.Helper()
	q, err := openQueue(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.close() })
	return q
}

func (q *queue) mustAppend(t testing.TB, body string, positions string) {
	t.Helper()
	if err := q.append([]byte(body), []byte(positions)); err != nil {
		t.Fatal(err)
	}
}

// take gives the bodies of all batches that wait, done.
func (q *queue) take(t testing.TB) (bodies, names []string) {
	t.Helper()
	for {
		b, ok, err := q.first()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return bodies, names
		}
		bodies, names = append(bodies, string(b.body)), append(names, b.name)
		q.done(b)
	}
}

func wantAll(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %.300q, want %.300q", got, want)
	}
}

func TestQueueComesBack(t *testing.T) {
	for _, pack := range []bool{false, true} {
		o := options(t.TempDir())
		o.pack = pack
		q := open(t, o)
		q.mustAppend(t, "one", `{"a":1,"b":2}`)
		q.mustAppend(t, "two", `{"a":3,"b":null}`)
		b, ok, err := q.first()
		if err != nil || !ok || b.name != "id-1" || string(b.body) != "one" {
			t.Fatalf("%+v %v", b, err)
		}
		q.done(b)
		q.mustAppend(t, "three", "")
		// Not closed: as after kill -9.
		q = open(t, o)
		bodies, names := q.take(t)
		// What was done since progress was written down comes again, with its name.
		wantAll(t, bodies, "one", "two", "three")
		wantAll(t, names, "id-1", "id-2", "id-3")
		if p := q.savedPositions(""); string(p["a"]) != "3" || len(p) != 1 {
			t.Errorf("positions %s", p)
		}
		if err := q.close(); err != nil {
			t.Fatal(err)
		}
		q = open(t, o)
		bodies, _ = q.take(t)
		wantAll(t, bodies)
		q.mustAppend(t, "four", "")
		_, names = q.take(t)
		wantAll(t, names, "id-4") // a number is never used again
		if p := q.savedPositions(""); string(p["a"]) != "3" {
			t.Errorf("positions %s", p)
		}
	}
}

// TestQueueCrash cuts the files at every byte: what had been appended before is there, with its positions and nothing else.
func TestQueueCrash(t *testing.T) {
	o := options(t.TempDir())
	o.sync = func(*os.File) error { return nil } // this test is not about power
	q := open(t, o)
	var ends []int64
	for i := range 5 {
		q.mustAppend(t, fmt.Sprintf("body %d", i), fmt.Sprintf(`{"p":%d}`, i))
		ends = append(ends, q.active().size)
	}
	path := q.active().path
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		for _, junk := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x00", "junk"} {
			dir := t.TempDir()
			o.dir = dir
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), append(bytes.Clone(whole[:cut]), junk...), 0o600); err != nil {
				t.Fatal(err)
			}
			q, err := openQueue(o)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			want := 0
			for want < len(ends) && ends[want] <= int64(cut) {
				want++
			}
			bodies, _ := q.take(t)
			if len(bodies) != want {
				t.Fatalf("cut at %d: %q, want %d", cut, bodies, want)
			}
			if p := q.savedPositions(""); want > 0 && string(p["p"]) != fmt.Sprint(want-1) || want == 0 && len(p) > 0 {
				t.Fatalf("cut at %d: positions %s", cut, p)
			}
			q.mustAppend(t, "next", "")
			if _, names := q.take(t); !slices.Equal(names, []string{fmt.Sprintf("id-%d", want+1)}) {
				t.Fatalf("cut at %d: next is %q", cut, names)
			}
			_ = q.close()
		}
	}
}

func TestQueueDropsOldest(t *testing.T) {
	o := options(t.TempDir())
	o.dropOldest = true
	q := open(t, o)
	body := strings.Repeat("x", 10_000)
	for i := range 300 {
		q.mustAppend(t, fmt.Sprintf("%03d%s", i, body), "")
		if _, size := q.pending(); size > o.maxBytes {
			t.Fatalf("%d bytes", size)
		}
	}
	waiting, _ := q.pending()
	if n := q.dropped.Load(); n+waiting != 300 || n < 190 || n > 210 {
		t.Errorf("%d dropped, %d waiting", n, waiting)
	}
	bodies, names := q.take(t)
	for i, b := range bodies {
		if want := 300 - len(bodies) + i; b[:3] != fmt.Sprintf("%03d", want) || names[i] != fmt.Sprintf("id-%d", want+1) {
			t.Fatalf("batch %d of %d is %s, %.3s", i, len(bodies), names[i], b)
		}
	}
	if int64(len(bodies)) != waiting {
		t.Errorf("%d came, %d waited", len(bodies), waiting)
	}
	// One that is larger than all is taken all the same.
	q.mustAppend(t, strings.Repeat("y", 2<<20), "")
	if bodies, _ := q.take(t); len(bodies) != 1 {
		t.Errorf("%d batches", len(bodies))
	}
}

func TestQueueRefuses(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	body := bytes.Repeat([]byte("x"), 10_000)
	n := 0
	var err error
	for ; err == nil; n++ {
		err = q.append(body, nil)
	}
	if !errors.Is(err, errFull) || n < 95 || n > 106 {
		t.Fatalf("after %d: %v", n, err)
	}
	if q.dropped.Load() != 0 {
		t.Error("something was dropped")
	}
	// There is room again once the oldest are done.
	for i := 0; ; i++ {
		b, ok, err := q.first()
		if err != nil || !ok {
			t.Fatal(err)
		}
		q.done(b)
		if err := q.waitRoom(context.Background()); err != nil {
			t.Fatal(err)
		}
		if q.append(body, nil) == nil {
			if i > 10 {
				t.Errorf("only after %d were done", i)
			}
			break
		}
	}
}

// TestQueueDiskFails: what the disk did not take is not there later, its number is not used for something else, and the queue works
// again when the disk does.
func TestQueueDiskFails(t *testing.T) {
	o := options(t.TempDir())
	fail := false
	o.sync = func(f *os.File) error {
		if fail {
			return errors.New("the disk is full")
		}
		return f.Sync()
	}
	q := open(t, o)
	q.mustAppend(t, "a", `{"p":1}`)
	fail = true
	for range 3 {
		if err := q.append([]byte("lost"), []byte(`{"p":2}`)); err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Fatalf("error %v", err)
		}
	}
	q.hold([]byte("held"))
	fail = false
	q.mustAppend(t, "b", "")
	if p := q.savedPositions(""); string(p["p"]) != "1" {
		t.Errorf("positions %s", p)
	}
	crashed := o // as after kill -9
	crashed.dir = t.TempDir()
	if err := os.CopyFS(crashed.dir, os.DirFS(o.dir)); err != nil {
		t.Fatal(err)
	}
	again := open(t, crashed)
	bodies, _ := again.take(t)
	wantAll(t, bodies, "a", "b")
	_ = again.close()
	bodies, names := q.take(t)
	wantAll(t, bodies, "a", "held", "b")
	wantAll(t, names, "id-1", "id.r-1", "id-2")
}

func TestQueueHoldsLittle(t *testing.T) {
	q := open(t, options(t.TempDir()))
	for i := range 100 {
		q.hold(bytes.Repeat([]byte{byte(i)}, 100_000))
	}
	bodies, _ := q.take(t)
	if n := len(bodies); n != maxMemory/100_000 || q.dropped.Load() != int64(100-n) || bodies[n-1][0] != 99 {
		t.Errorf("%d held, %d dropped", n, q.dropped.Load())
	}
}

// TestQueueDamaged: a flipped bit in any file costs batches, but not the ones in other files, and never changes one.
func TestQueueDamaged(t *testing.T) {
	o := options(t.TempDir())
	o.maxBytes = 1 << 20
	q := open(t, o)
	want := map[string]bool{}
	for i := range 60 {
		body := fmt.Sprintf("%03d%s", i, strings.Repeat("z", 5000))
		want[body] = true
		q.mustAppend(t, body, "")
	}
	files, _ := filepath.Glob(o.dir + "/*" + segmentSuffix)
	if len(files) < 4 {
		t.Fatalf("%d files", len(files))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		dir := t.TempDir()
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if f == files[1] {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o.dir = dir
		q, err := openQueue(o)
		if err != nil {
			t.Fatal(err)
		}
		bodies, _ := q.take(t)
		for _, b := range bodies {
			if !want[b] {
				t.Fatalf("changed: %.20q", b)
			}
		}
		if len(bodies) < 60-13 || len(bodies) >= 60 || q.corrupt.Load() == 0 {
			t.Fatalf("%d batches, %d damaged places", len(bodies), q.corrupt.Load())
		}
		_ = q.close()
	}
	// The same while it runs: the disk gives other bytes back than it got.
	f, err := os.OpenFile(files[1], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteAt([]byte("?"), 7000)
	f.Close()
	if bodies, _ := q.take(t); len(bodies) < 60-13 || len(bodies) >= 60 {
		t.Errorf("%d batches", len(bodies))
	}
}

func TestQueueBadState(t *testing.T) {
	o := options(t.TempDir())
	if err := os.WriteFile(o.dir+"/"+stateFile, []byte("{nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openQueue(o); err == nil || !strings.Contains(err.Error(), stateFile) {
		t.Errorf("error %v", err)
	}
}

// TestQueueRandom holds the queue against a list, over clean stops, crashes, full disks and everything in between.
func TestQueueRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	o := options(t.TempDir())
	fail := false
	o.sync = func(f *os.File) error {
		if fail && r.IntN(2) == 0 {
			return errors.New("no")
		}
		return nil // this test is not about power
	}
	o.maxBytes, o.pack = 256<<10, true
	q := open(t, o)
	var waiting, finished []string
	for i := range 3000 {
		switch r.IntN(10) {
		case 0:
			if r.IntN(10) == 0 {
				if r.IntN(2) == 0 {
					_ = q.close()
				}
				fail = false
				q = open(t, o)
				// What was done may come again, but only the last ones, in order.
				for b, ok, _ := q.first(); ok && (len(waiting) == 0 || string(b.body) != waiting[0]); b, ok, _ = q.first() {
					k := slices.Index(finished, string(b.body))
					if k < 0 {
						t.Fatalf("step %d: %.20q was never appended, or is out of order", i, b.body)
					}
					q.done(b)
				}
			}
		case 1:
			fail = r.IntN(3) == 0
		case 2, 3, 4, 5:
			body := fmt.Sprintf("%05d", i) + string(randomBytes(r, r.IntN(8000)))
			err := q.append([]byte(body), []byte(fmt.Sprintf(`{"last":%d}`, len(waiting)+len(finished)+1)))
			switch {
			case err == nil:
				waiting = append(waiting, body)
			case !errors.Is(err, errFull) && !fail:
				t.Fatalf("step %d: %v", i, err)
			}
		default:
			b, ok, err := q.first()
			if err != nil || ok != (len(waiting) > 0) || ok && string(b.body) != waiting[0] {
				t.Fatalf("step %d: %t %v %.20q, %d wait", i, ok, err, b.body, len(waiting))
			}
			if ok {
				q.done(b)
				finished, waiting = append(finished, waiting[0]), waiting[1:]
			}
		}
		var last int
		if p := q.savedPositions("")["last"]; p != nil {
			_ = json.Unmarshal(p, &last)
		}
		if last != len(waiting)+len(finished) {
			t.Fatalf("step %d: position %d, %d appended", i, last, len(waiting)+len(finished))
		}
	}
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// FuzzRecord: no bytes make the decoder fail other than with an error, and what it takes is what was written.
func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, record{seq: 7, at: 5, positions: []byte(`{"a":1}`), body: []byte("body")}, false))
	f.Add(appendRecord(nil, record{seq: 1 << 60, at: -1, body: bytes.Repeat([]byte("x"), 1000)}, true))
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := readRecord(b)
		if err != nil {
			return
		}
		if n < recordHeader+recordFixed || n > len(b) {
			t.Fatalf("%d of %d bytes", n, len(b))
		}
		for _, pack := range []bool{false, true} {
			again, _, err := readRecord(appendRecord(nil, r, pack))
			if err != nil || again.seq != r.seq || again.at != r.at || !bytes.Equal(again.positions, r.positions) || !bytes.Equal(again.body, r.body) {
				t.Fatalf("%+v came back as %+v, %v", r, again, err)
			}
		}
	})
}
