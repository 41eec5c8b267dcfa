package lines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// TestQuietProject writes a few records an hour for ten days and merges all the time: none stays much longer than retention says, although
// newer ones come to what it is merged with.
func TestQuietProject(t *testing.T) {
	f := newFeed(t)
	start := time.Now()
	var since atomic.Int64 // what the store's goroutines read, too
	clock := func() time.Time { return start.Add(time.Duration(since.Load())) }
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval, c.Retention = 16<<10, time.Hour, 48*time.Hour
	s := mustOpen(t, c, Options{Now: clock})
	defer s.Close()
	for range 10 * 24 {
		rs := f.batch(3)
		for i := range rs {
			rs[i].At = kemi.NanosOf(clock()) + kemi.Nanos(i)
		}
		f.index(s, rs)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			var err error
			if more, err = s.merge(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.retain(); err != nil {
			t.Fatal(err)
		}
		since.Add(int64(time.Hour))
	}
	for _, project := range []string{"a", "b"} {
		for r, err := range s.Search(context.Background(), who(project), store.LogQuery{Range: everything, Ascending: true, Limit: 1}) {
			if err != nil {
				t.Fatal(err)
			}
			if age := clock().Sub(r.At.Time()); age > c.Retention+24*time.Hour+dropWithin+time.Hour || age < c.Retention-time.Hour {
				t.Errorf("project %s: the oldest record is %s old", project, age)
			}
		}
	}
	if n := len(s.parts); n > 60 {
		t.Errorf("%d parts", n)
	}
}

// TestOrderOfParts: parts stand as their records came, merged or not, and at the next start, too.
func TestOrderOfParts(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval, c.PartBytes = 16<<10, time.Hour, 64<<10
	s := mustOpen(t, c, Options{})
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	check := func(s *Store) {
		t.Helper()
		merged := 0
		for i, p := range s.parts {
			if len(p.footer.Replaces) > 0 {
				merged++
			}
			if i == 0 {
				continue
			}
			if last := s.parts[i-1]; last.position() >= p.position() || newest(last) > oldest(p) {
				t.Fatalf("part %d with positions %v stands behind part %d with %v", p.seq, p.footer.Positions, last.seq, last.footer.Positions)
			}
		}
		if merged < 2 {
			t.Fatalf("%d of %d parts are merged", merged, len(s.parts))
		}
	}
	s.changing.Lock() // merging falls behind
	unlock := sync.OnceFunc(s.changing.Unlock)
	defer unlock()
	for range 100 {
		f.index(s, f.batch(30))
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.replace(s.mergeable(s.parts), nil); err != nil {
			t.Fatal(err)
		}
	}
	check(s)
	again := c
	again.Dir = t.TempDir()
	if err := os.CopyFS(filepath.Join(again.Dir, partsFolder), os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	opened := mustOpen(t, again, Options{})
	check(opened)
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	unlock()
	for more := true; more; {
		var err error
		if more, err = s.merge(); err != nil {
			t.Fatal(err)
		}
	}
	check(s)
}

func newest(p *part) kemi.Nanos {
	return slices.MaxFunc(p.blocks, func(a, b *block) int { return int(a.To - b.To) }).To
}

func oldest(p *part) kemi.Nanos {
	return slices.MinFunc(p.blocks, func(a, b *block) int { return int(a.From - b.From) }).From
}

// TestCacheIsBounded asks very many blocks while nothing is written.
func TestCacheIsBounded(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.FlushInterval, c.CacheBytes = time.Hour, 1<<20
	s := mustOpen(t, c, Options{})
	defer s.Close()
	const projects = 3000
	for n := range projects {
		rs := f.batch(20)
		for i := range rs {
			rs[i].Project = fmt.Sprint("p", n)
		}
		f.index(s, rs)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	var most, sum, all int64
	for n := range projects {
		counts, err := s.Count(context.Background(), who(fmt.Sprint("p", n)), store.LogQuery{Expr: store.LogPhrase{Text: "request"}, Range: everything}, []string{"host"})
		if err != nil || len(counts) == 0 {
			t.Fatal(counts, err)
		}
	}
	for _, p := range s.parts {
		for _, b := range p.blocks {
			if pb := b.open.Load(); pb != nil {
				sum += pb.MemoryBytes()
				most = max(most, pb.MemoryBytes())
			}
			all++
		}
	}
	if all*most < 4*c.CacheBytes {
		t.Fatalf("%d blocks of %d bytes prove nothing", all, most)
	}
	if limit := c.CacheBytes + trimEvery*most; sum > limit {
		t.Errorf("open blocks take %d bytes, allowed are %d", sum, limit)
	}
}

// TestCannotWrite: while nothing can be written, what was taken answers, no more is taken than memory has room for, and nothing is lost when it can be again.
func TestCannotWrite(t *testing.T) {
	f := newFeed(t)
	c := testConfig(t.TempDir())
	c.BufferBytes, c.FlushInterval = 16<<10, 10*time.Millisecond
	s := mustOpen(t, c, Options{})
	f.index(s, f.batch(50))
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	durable := s.Positions()
	if err := os.Rename(s.dir, s.dir+".away"); err != nil {
		t.Fatal(err)
	}
	refused := false
	for range 1000 {
		rs := f.batch(50)
		err := s.Index(context.Background(), rs, store.Position{Next: f.next + 1})
		if refused = err != nil; refused {
			if !errors.Is(err, kemi.ErrUnavailable) {
				t.Fatal(err)
			}
			break
		}
		f.next++
		for _, r := range rs {
			f.sent[r.ID] = r
		}
	}
	if !refused {
		t.Fatal("a thousand batches are taken, and none can be written")
	}
	f.check(s, f.sent)
	if at := s.Positions()[0]; at != durable[0] {
		t.Errorf("positions have moved from %d to %d", durable[0], at)
	}
	if err := os.Rename(s.dir+".away", s.dir); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; { // it tries again by itself
		rs := f.batch(50)
		err := s.Index(context.Background(), rs, store.Position{Next: f.next + 1})
		if err == nil {
			f.next++
			for _, r := range rs {
				f.sent[r.ID] = r
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if at := s.Positions()[0]; at != f.next {
		t.Errorf("positions %d, want %d", at, f.next)
	}
	f.check(s, f.sent)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, c, Options{})
	defer s.Close()
	f.check(s, f.sent)
}
