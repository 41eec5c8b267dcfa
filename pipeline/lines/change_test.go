package lines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

var everything = store.NanoRange{From: -1 << 62, To: 1 << 62}

func who(project string) kemi.Identity {
	return kemi.Identity{Subject: "test", Project: project, Permissions: kemi.AllPermissions}
}

// feed gives records to a store as the log does: each with the ID of its offset.
type feed struct {
	t    *testing.T
	next int64
	rnd  *rand.Rand
	sent map[string]kemi.LogRecord // by ID
	at   kemi.Nanos
}

func newFeed(t *testing.T) *feed {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return &feed{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), sent: map[string]kemi.LogRecord{}, at: kemi.NanosOf(time.Now().Add(-time.Hour))}
}

func (f *feed) batch(n int) []kemi.LogRecord {
	rs := make([]kemi.LogRecord, n)
	for i := range rs {
		f.at += kemi.Nanos(f.rnd.IntN(1e9))
		rs[i] = kemi.LogRecord{
			ID: fmt.Sprintf("0-%011x-%05x", f.next, i), Project: []string{"a", "b"}[f.rnd.IntN(2)], At: f.at, Severity: kemi.Severity(f.rnd.IntN(25)),
			Stream: kemi.LabelsOf("service", fmt.Sprint("s", f.rnd.IntN(4)), "host", fmt.Sprint("h", f.rnd.IntN(9))),
			Body:   fmt.Sprintf("request %d of user-%d took %dms %s", f.rnd.IntN(1e6), f.rnd.IntN(50), f.rnd.IntN(3000), strings.Repeat("x", f.rnd.IntN(200))),
		}
	}
	return rs
}

// index sends a batch and notes it as sent.
func (f *feed) index(s *Store, rs []kemi.LogRecord) {
	f.t.Helper()
	f.next++
	if err := s.Index(context.Background(), rs, store.Position{Next: f.next}); err != nil {
		f.t.Fatal(err)
	}
	for _, r := range rs {
		f.sent[r.ID] = r
	}
}

// check compares what the store has with what it should have.
func (f *feed) check(s *Store, want map[string]kemi.LogRecord) {
	f.t.Helper()
	got := map[string]bool{}
	for _, project := range []string{"a", "b"} {
		last := kemi.Nanos(-1 << 62)
		for r, err := range s.Search(context.Background(), who(project), store.LogQuery{Range: everything, Ascending: true}) {
			if err != nil {
				f.t.Fatal(err)
			}
			w, ok := want[r.ID]
			switch {
			case got[r.ID]:
				f.t.Fatalf("%s comes twice", r.ID)
			case !ok:
				f.t.Fatalf("%s should not be there: %q", r.ID, r.Body)
			case r.Body != w.Body || r.At != w.At || r.Project != w.Project || r.Severity != w.Severity || r.Stream.Compare(w.Stream) != 0:
				f.t.Fatalf("%s is %+v, should be %+v", r.ID, r, w)
			case r.At < last:
				f.t.Fatalf("%s is out of order", r.ID)
			}
			got[r.ID], last = true, r.At
		}
	}
	if len(got) != len(want) {
		f.t.Fatalf("%d records, should be %d", len(got), len(want))
	}
}

// TestCrashAnywhere copies the folder between any two steps of what is done to files, as a crash would leave it, and opens the copy: with what the log brings again from its positions on,
// all is there once.
func TestCrashAnywhere(t *testing.T) {
	f := newFeed(t)
	var batches [][]kemi.LogRecord
	dir := t.TempDir()
	var mu sync.Mutex
	var copies []string
	seen := map[string]int{}
	c := testConfig(dir)
	c.BufferBytes, c.FlushInterval, c.PartBytes = 16<<10, time.Hour, 1<<20
	s := mustOpen(t, c, Options{step: func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[name]++; seen[name] > 12 {
			return
		}
		to := t.TempDir()
		if out, err := exec.Command("cp", "-r", dir+"/.", to).CombinedOutput(); err != nil { // a file may go while it is copied
			t.Logf("%v: %s", err, out)
		}
		copies = append(copies, to)
	}})
	for range 60 {
		rs := f.batch(1 + f.rnd.IntN(60))
		batches = append(batches, rs)
		f.index(s, rs)
		if f.rnd.IntN(3) == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.check(s, f.sent)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"written", "synced", "renamed", "replaced", "removed"} {
		if seen[name] == 0 {
			t.Errorf("step %q was never seen", name)
		}
	}
	for _, from := range copies {
		c.Dir = from
		s := mustOpen(t, c, Options{})
		if fresh := s.Freshness(); !fresh.Complete {
			t.Errorf("after a crash: %s", fresh.Reason)
		}
		for n := s.Positions()[0]; n < int64(len(batches)); n++ {
			if err := s.Index(context.Background(), batches[n], store.Position{Next: n + 1}); err != nil {
				t.Fatal(err)
			}
		}
		f.check(s, f.sent)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRedelivery gives the store again what it has: from the log, and from a sender under the name of its batch.
func TestRedelivery(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval = 16<<10, time.Hour
	s := mustOpen(t, c, Options{})
	defer s.Close()
	var all [][]kemi.LogRecord
	for i := range 20 {
		rs := f.batch(40)
		if i%2 == 0 {
			for k := range rs {
				rs[k].ID, rs[k].Project = fmt.Sprintf("order-%d~%05x", i, k), "a"
			}
		}
		all = append(all, rs)
		f.index(s, rs)
	}
	for i, rs := range all {
		at := store.Position{Next: int64(i + 1)}
		if i%2 == 0 { // the sender sends it again, to be logged behind all else
			f.next++
			at.Next = f.next
		}
		if err := s.Index(context.Background(), rs, at); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.check(s, f.sent)
}

// TestDelete deletes what a query selects while records come in and parts are merged: no answer has it, and no file.
func TestDelete(t *testing.T) {
	f := newFeed(t)
	dir := t.TempDir()
	c := testConfig(dir)
	c.BufferBytes, c.FlushInterval = 16<<10, 20*time.Millisecond
	s := mustOpen(t, c, Options{})
	secret := "resident number 900101-1234567"
	for i := range 40 {
		rs := f.batch(50)
		if i%4 == 0 {
			rs[7].Body, rs[7].Project = secret+" of user", "a"
		}
		f.index(s, rs)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if !inFiles(t, dir, "900101") && !inFiles(t, dir, "resident") {
		t.Log("the text is not readable in the files, which are packed")
	}
	if n, err := s.Delete(context.Background(), who("b"), store.LogQuery{Expr: store.LogPhrase{Text: secret}, Range: everything}); n != 0 || err != nil {
		t.Errorf("another project deletes %d, %v", n, err)
	}
	if _, err := s.Delete(context.Background(), who("a"), store.LogQuery{Range: everything}); err == nil {
		t.Error("everything can be deleted without a condition")
	}
	n, err := s.Delete(context.Background(), who("a"), store.LogQuery{Expr: store.LogPhrase{Text: secret}, Range: everything})
	if n != 10 || err != nil {
		t.Errorf("deleted %d, %v; want 10", n, err)
	}
	want := map[string]kemi.LogRecord{}
	for id, r := range f.sent {
		if !strings.HasPrefix(r.Body, secret) {
			want[id] = r
		}
	}
	f.check(s, want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, c, Options{})
	f.check(s, want)
	for _, p := range s.parts { // no block has it in any of its parts
		for _, b := range p.blocks {
			pb, err := s.open(b)
			if err != nil {
				t.Fatal(err)
			}
			rows := make([]int, b.Records)
			for i := range rows {
				rows[i] = i
			}
			if err := pb.Records(rows, func(_ int, r *kemi.LogRecord) bool {
				if strings.Contains(r.Body, "resident") {
					t.Errorf("part %s has it still", p.path)
				}
				return true
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if inFiles(t, dir, "resident") || inFiles(t, dir, "900101") {
		t.Error("a file has the text still")
	}
}

func inFiles(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestRetention lets time go by.
func TestRetention(t *testing.T) {
	f := newFeed(t)
	now := time.Now()
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval, c.Retention = 16<<10, time.Hour, 24*time.Hour
	c.Retentions = []Retention{{Project: "b", Age: 6 * time.Hour}, {Service: "s1", Age: 2 * time.Hour}}
	s := mustOpen(t, c, Options{Now: func() time.Time { return now }})
	defer s.Close()
	for range 30 {
		f.index(s, f.batch(50))
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	keep := func(ok func(r *kemi.LogRecord) bool) map[string]kemi.LogRecord {
		out := map[string]kemi.LogRecord{}
		for id, r := range f.sent {
			if ok(&r) {
				out[id] = r
			}
		}
		return out
	}
	step := func(d time.Duration, ok func(r *kemi.LogRecord) bool) {
		t.Helper()
		now = now.Add(d)
		if err := s.retain(); err != nil {
			t.Fatal(err)
		}
		f.check(s, keep(ok))
	}
	step(0, func(*kemi.LogRecord) bool { return true })
	step(3*time.Hour, func(r *kemi.LogRecord) bool { return r.Stream.Get("service") != "s1" })
	step(4*time.Hour, func(r *kemi.LogRecord) bool { return r.Stream.Get("service") != "s1" && r.Project == "a" })
	positions := s.Positions()
	step(20*time.Hour, func(*kemi.LogRecord) bool { return false })
	if got := s.Positions(); got[0] != positions[0] || got[0] != f.next {
		t.Errorf("positions %v, want %d", got, f.next)
	}
	entries, err := os.ReadDir(filepath.Join(c.Dir, partsFolder))
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	if size > 64<<10 {
		t.Errorf("%d bytes are left in %d files", size, len(entries))
	}
}

// TestRetentionBytes keeps the newest.
func TestRetentionBytes(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval, c.PartBytes = 16<<10, time.Hour, 256<<10
	c.RetentionBytes = 1 << 20
	s := mustOpen(t, c, Options{})
	defer s.Close()
	for range 200 {
		rs := f.batch(50)
		for i := range rs {
			rs[i].Project = "a"
			b := make([]byte, 300) // which does not pack
			for k := range b {
				b[k] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"[f.rnd.IntN(64)]
			}
			rs[i].Body = string(b)
		}
		f.index(s, rs)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := s.retain(); err != nil {
		t.Fatal(err)
	}
	var size int64
	s.mu.RLock()
	for _, p := range s.parts {
		size += int64(len(p.data))
	}
	s.mu.RUnlock()
	if size > 5<<20/4 || size < 1<<19 {
		t.Errorf("%d bytes are kept", size)
	}
	var newest []kemi.Nanos
	for r, err := range s.Search(context.Background(), who("a"), store.LogQuery{Range: everything, Limit: 100}) {
		if err != nil {
			t.Fatal(err)
		}
		newest = append(newest, r.At)
	}
	if len(newest) != 100 || newest[0] != f.at || !slices.IsSortedFunc(newest, func(a, b kemi.Nanos) int { return int(b - a) }) {
		t.Errorf("the newest are not there: %d, %v", len(newest), newest[:min(3, len(newest))])
	}
}

// TestDamaged changes bytes of parts: what is damaged is said, the rest answers.
func TestDamaged(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval = 16<<10, time.Hour
	s := mustOpen(t, c, Options{})
	for range 6 {
		f.index(s, f.batch(60))
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(c.Dir, partsFolder, "*"+partExt))
	if len(files) < 3 {
		t.Fatalf("%d parts", len(files))
	}
	change := func(path string, at int) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[(at+len(b))%len(b)] ^= 0x55
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change(files[0], 100) // in a block
	change(files[1], -30) // in the footer
	s = mustOpen(t, c, Options{})
	defer s.Close()
	n := 0
	for _, project := range []string{"a", "b"} {
		counts, err := s.Count(context.Background(), who(project), store.LogQuery{Expr: store.LogPhrase{Text: "request"}, Range: everything}, nil)
		if err != nil {
			t.Fatal(err)
		}
		n += int(counts[0].Count)
	}
	fresh := s.Freshness()
	if fresh.Complete || n == 0 || n >= len(f.sent) || !strings.Contains(fresh.Reason, "damaged") {
		t.Errorf("%d of %d records, %+v", n, len(f.sent), fresh)
	}
	f.index(s, f.batch(10)) // it goes on
	deleted, err := s.Delete(context.Background(), who("a"), store.LogQuery{Expr: store.LogPhrase{Text: "request"}, Range: everything})
	if deleted == 0 || !errors.Is(err, kemi.ErrConflict) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("deleted %d, %v: a deletion has to say that it could not read everything", deleted, err)
	}
}

// TestTogether asks, indexes, deletes, merges and retains at once.
func TestTogether(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval, c.CacheBytes = 16<<10, 10*time.Millisecond, 1<<20
	s := mustOpen(t, c, Options{})
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for k := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				q := store.LogQuery{Expr: store.LogPhrase{Text: fmt.Sprintf("user-%d", i%50)}, Range: everything, Limit: 20}
				id := who([]string{"a", "b"}[i%2])
				var err error
				switch (i + k) % 4 {
				case 0:
					for _, err = range s.Search(ctx, id, q) {
					}
				case 1:
					_, err = s.Count(ctx, id, q, []string{"service"})
				case 2:
					_, err = s.Fields(ctx, id, q, 3)
				case 3:
					q.Range = store.NanoRange{From: f.atLeast(), To: f.atLeast() + 3600e9}
					_, err = s.Histogram(ctx, id, q, 60e3)
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := s.retain(); err != nil {
				t.Error(err)
			}
			if _, err := s.Delete(ctx, who("a"), store.LogQuery{Expr: store.LogPhrase{Text: "user-13"}, Range: everything}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 150 {
		f.index(s, f.batch(40))
	}
	cancel()
	wg.Wait()
	if _, err := s.Delete(context.Background(), who("a"), store.LogQuery{Expr: store.LogPhrase{Text: "user-13"}, Range: everything}); err != nil {
		t.Fatal(err)
	}
	want := map[string]kemi.LogRecord{}
	for id, r := range f.sent {
		if r.Project != "a" || !strings.Contains(r.Body, "user-13 ") {
			want[id] = r
		}
	}
	f.check(s, want)
}

// atLeast is about when the first record was.
func (f *feed) atLeast() kemi.Nanos { return kemi.NanosOf(time.Now().Add(-2 * time.Hour)) }
