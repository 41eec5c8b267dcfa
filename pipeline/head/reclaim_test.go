package head

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// TestLabelsLetGo: a stored series has its labels in the store only. When that has let go of it, the record brings them back.
func TestLabelsLetGo(t *testing.T) {
	for _, v1 := range []bool{true, false} {
		now := time.Now().UnixMilli()
		db := mustOpen(t, testConfig(t.TempDir()))
		table := codec.NewTable(nil, time.Now)
		limits := codec.Limits{MaxDecodedBytes: 1 << 20, MaxLabels: 8, MaxLabelNameBytes: 99, MaxLabelValueBytes: 99, Newest: math.MaxInt64}
		decode := func(ps ...kemi.Points) (*codec.Incoming, *bus.Record) {
			t.Helper()
			e := codec.Encoder{V1: v1}
			for _, p := range ps {
				e.AddPoints(p)
			}
			in, err := table.Receive("default", !v1, e.Encode(), limits)
			if err != nil {
				t.Fatal(err)
			}
			r := in.Record
			r.Local = nil
			return in, &r
		}
		in, _ := decode(one("m", now-6*3600e3, 1))
		if err := db.Append(t.Context(), in.Batch, store.Position{Next: 1}); err != nil {
			t.Fatal(err)
		}
		if s := in.Batch.Series[0]; s.HasLabels() {
			t.Fatal("the entry has kept the labels")
		}
		// Known, late, a duplicate and a conflict: all need the labels, and the store has them.
		in, _ = decode(one("m", now-6*3600e3+1, 2))
		late, _ := decode(one("m", now-6*3600e3-5, 0), one("m", now-6*3600e3, 1), one("m", now-6*3600e3, 7))
		for i, b := range []*codec.SeriesBatch{in.Batch, late.Batch} {
			if err := db.Append(t.Context(), b, store.Position{Next: int64(2 + i)}); err != nil {
				t.Fatal(err)
			}
		}
		// A message about it names it all the same.
		e := codec.Encoder{V1: v1}
		e.AddPoints(one("m", now, 1))
		tight := limits
		tight.Newest = 5
		refused, err := table.Receive("default", !v1, e.Encode(), tight)
		if err != nil || len(refused.Refused.Errors) != 1 || ok(refused.Refused.Errors[0], `{__name__="m"}`) {
			t.Fatalf("%v, %+v", err, refused)
		}
		other, _ := decode(one("other", now, 1))
		if err := db.Append(t.Context(), other.Batch, store.Position{Next: 4}); err != nil {
			t.Fatal(err)
		}
		settleAll(t, db, now-3600e3)
		if n := db.Stats().Series; n != 1 || db.Has("default", kemi.LabelsOf(kemi.MetricName, "m")) {
			t.Fatalf("%d series in memory", n)
		}
		in, record := decode(one("m", now, 3))
		if err := db.Append(t.Context(), in.Batch, store.Position{Next: 5}); !errors.Is(err, codec.ErrLabelsWanted) {
			t.Fatalf("append of what nobody has the labels of: %v", err)
		}
		if db.applied[0] != 4 {
			t.Fatalf("position %d", db.applied[0])
		}
		batch, err := table.Decode(record)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Append(t.Context(), batch, store.Position{Next: 5}); err != nil {
			t.Fatal(err)
		}
		if got, want := samples(t, db, "m"), fmt.Sprintf("%d=3", now); got != want || db.applied[0] != 5 {
			t.Errorf("m is %q, want %q; position %d", got, want, db.applied[0])
		}
	}
}

// TestSeriesWithoutLabels: one that has none goes and comes like others, in whichever order the projects are looked at.
func TestSeriesWithoutLabels(t *testing.T) {
	for range 8 {
		s := newSettleTest(t)
		bare := func(project string, at int64) {
			t.Helper()
			s.next++
			p := kemi.Points{At: []kemi.Millis{kemi.Millis(s.base + at*1000)}, Values: []float64{1}}
			if err := s.db.Append(t.Context(), codec.NewTable(nil, time.Now).BatchOf(project, []kemi.Points{p}), store.Position{Next: s.next}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			bare(fmt.Sprint("p", i), 0)
		}
		for i := range slabSeries + 20 {
			s.write(fmt.Sprint("m", i), 1, 0)
		}
		s.write("stays", 1, 100)
		src := s.flush(50)
		s.read(src.ID)
		s.retire(src.ID)
		if n := s.db.Stats().Series; n != 1 {
			t.Fatalf("%d series, want 1", n)
		}
		if s.db.slabs[0] != nil {
			t.Error("the slab of those that are gone is there still")
		}
		for i := range 5 {
			bare(fmt.Sprint("p", i), 110)
		}
		if n := s.db.Stats().Series; n != 6 {
			t.Errorf("%d series, want 6", n)
		}
	}
}

// TestCloseWithOldFiles: a store that cannot be written any more, and has files that nobody needs, is closed without complaint of those.
func TestCloseWithOldFiles(t *testing.T) {
	s := newSettleTest(t)
	s.write("a", 2, 0, 10, -5)
	if err := s.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	src := s.flush(50)
	s.read(src.ID)
	q := mustQuery(t, s.db, 0, math.MaxInt64)
	s.retire(src.ID)
	if len(s.db.doomed) == 0 {
		t.Fatal("no file is to go: the test sees nothing")
	}
	s.db.appendMu.Lock()
	s.db.broken = errors.New("no more")
	s.db.appendMu.Unlock()
	if err := s.db.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if left := held(t, s.cfg.Dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	_ = q.Close()
}

// TestHistogramsAtTheCut: chunks of histograms are cut where the source ends, and neither what is settled nor what is left overlaps.
func TestHistogramsAtTheCut(t *testing.T) {
	s := newSettleTest(t)
	add := func(project string, hs ...codec.Histogram) {
		t.Helper()
		s.next++
		batch := codec.NewTable(nil, time.Now).BatchOf(project, []kemi.Points{{Labels: kemi.LabelsOf(kemi.MetricName, "h")}})
		batch.Complex = &codec.Complex{Histograms: hs}
		if err := s.db.Append(t.Context(), batch, store.Position{Next: s.next}); err != nil {
			t.Fatal(err)
		}
	}
	const n = 500
	s.clock.now = time.UnixMilli(s.base + n*1000)
	var want []int64
	for i := range int64(n) {
		if i%10 == 7 {
			continue
		}
		add("default", whole(s.base+i*1000, uint64(i)+1))
		want = append(want, s.base+i*1000)
	}
	for i := int64(7); i < n; i += 10 { // late
		add("default", whole(s.base+i*1000, uint64(i)+1))
		want = append(want, s.base+i*1000)
	}
	slices.Sort(want)
	read := func(id string) (at []int64) {
		t.Helper()
		for x, err := range s.db.ReadSource(t.Context(), id) {
			if err != nil {
				t.Fatal(err)
			}
			last := kemi.Millis(math.MinInt64)
			for _, h := range x.Histograms {
				c, err := chunkenc.FromData(h.Encoding, h.Chunk)
				if err != nil {
					t.Fatal(err)
				}
				if h.From <= last || h.To < h.From || c.NumSamples() != h.Samples {
					t.Fatalf("chunk from %d to %d, %d of %d samples, after %d", h.From, h.To, c.NumSamples(), h.Samples, last)
				}
				last = h.To
				begin := len(at)
				it := c.Iterator(nil)
				for it.Next() != chunkenc.ValNone {
					ts, fh := it.AtFloatHistogram(nil)
					at = append(at, ts)
					if got, want := fh.Count, float64(3*((ts-s.base)/1000+1)+1); got != want {
						t.Fatalf("at %d: count %v, want %v", ts, got, want)
					}
				}
				if it.Err() != nil || kemi.Millis(at[begin]) != h.From || kemi.Millis(at[len(at)-1]) != h.To {
					t.Fatalf("%v: chunk from %d to %d has %d to %d", it.Err(), h.From, h.To, at[begin], at[len(at)-1])
				}
			}
		}
		return at
	}
	// The late ones of all times are in the first source, those in order up to the cut.
	src := s.flush(150)
	var first, rest []int64
	for _, at := range want {
		if i := (at - s.base) / 1000; i < 150 || i%10 == 7 {
			first = append(first, at)
		} else {
			rest = append(rest, at)
		}
	}
	for range 2 {
		if got := read(src.ID); !slices.Equal(got, first) {
			t.Fatalf("source: %d histograms, want %d", len(got), len(first))
		}
	}
	add("default", whole(s.base+500, 1)) // after it was read: late
	if got := read(src.ID); !slices.Equal(got, first) {
		t.Fatalf("source read again: %d histograms, want %d", len(got), len(first))
	}
	s.retire(src.ID)
	left := func() (at []int64) {
		t.Helper()
		q := mustQuery(t, s.db, 0, math.MaxInt64)
		defer q.Close()
		for _, x := range expand(t, q.Select(t.Context(), true, nil, everything(t))) {
			it := x.Iterator(nil)
			for it.Next() != chunkenc.ValNone {
				at = append(at, it.AtT())
			}
		}
		return at
	}
	rest = append([]int64{s.base + 500}, rest...)
	if got := left(); !slices.Equal(got, rest) {
		t.Fatalf("left: %d histograms, want %d", len(got), len(rest))
	}
	s.crash()
	if got := left(); !slices.Equal(got, rest) {
		t.Fatalf("left after a crash: %d histograms, want %d", len(got), len(rest)) // the checkpoint of Retire has the late one
	}
	src = s.flush(n + 1)
	if got := read(src.ID); !slices.Equal(got, rest) {
		t.Fatalf("second source: %d histograms, want %d", len(got), len(rest))
	}
	s.retire(src.ID)
	if got := left(); len(got) != 0 {
		t.Fatalf("%d histograms in the end", len(got))
	}
}

// TestFirstHistogramStays: of two at one time the one that came first is shown, also when that is packed.
func TestFirstHistogramStays(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	at := time.Now().Add(-time.Minute).UnixMilli()
	put := func(hs ...codec.Histogram) { w.putComplex(&codec.Complex{Histograms: hs}) }
	put(whole(at+1000, 9))
	put(whole(at, 1)) // late
	if err := db.checkpoint(); err != nil {
		t.Fatal(err)
	}
	put(whole(at-10, 5), whole(at, 2)) // the second value comes in a chunk that begins before that of the first
	want := fmt.Sprintf("%d=16/7.5[5 6] %d=4/1.5[1 2] %d=28/13.5[9 10]", at-10, at, at+1000)
	if got := iterated(t, db); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := db.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if got := iterated(t, db); got != want {
		t.Errorf("packed: got  %s\nwant %s", got, want)
	}
}

// TestChurn: series that come and go for ever take no more and more memory.
func TestChurn(t *testing.T) {
	s := newSettleTest(t)
	const rounds, perRound = 20, 10_000
	var heap [rounds]uint64
	for r := range rounds {
		at := s.base + int64(r)*100_000
		s.clock.now = time.UnixMilli(at)
		ps := make([]kemi.Points, perRound)
		for i := range ps {
			ps[i] = kemi.Points{
				Labels: kemi.LabelsOf(kemi.MetricName, "m", "pod", fmt.Sprintf("pod-%d-%d", r, i), "node", fmt.Sprint(i%100), "deployment", fmt.Sprint(r)),
				At:     []kemi.Millis{kemi.Millis(at), kemi.Millis(at + 10)}, Values: []float64{1, 2},
			}
			if i%3 == 0 {
				ps[i].At[1] -= 20 // late
			}
		}
		s.table = codec.NewTable(nil, time.Now)
		s.append(ps...)
		if got, err := s.db.LabelValues(t.Context(), reader, "pod", nil, kemi.Range{From: 0, To: math.MaxInt64}, 0); err != nil || len(got) != perRound {
			t.Fatalf("round %d: %d pods, %v", r, len(got), err)
		}
		n := 0
		for _, err := range s.db.Series(t.Context(), reader, store.Selector{{Op: store.Regexp, Name: "pod", Value: "pod-.*-1..."}}, kemi.Range{From: 0, To: math.MaxInt64}) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != 1000 {
			t.Fatalf("round %d: %d series", r, n)
		}
		src := s.flush((at-s.base)/1000 + 50)
		n = 0
		for x, err := range s.db.ReadSource(t.Context(), src.ID) {
			if n += len(x.At); err != nil {
				t.Fatal(err)
			}
		}
		if n != 2*perRound {
			t.Fatalf("round %d: %d samples settled", r, n)
		}
		s.retire(src.ID)
		if n := s.db.Stats().Series; n != 0 {
			t.Fatalf("round %d: %d series", r, n)
		}
		ps, s.table = nil, nil
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		heap[r] = m.HeapAlloc
	}
	slabs := 0
	for _, sl := range s.db.slabs {
		if sl != nil {
			slabs++
		}
	}
	if slabs > 1 || len(s.db.lanes) > 0 || len(s.db.chunks.files) > 2 {
		t.Errorf("%d slabs, %d lanes, %d files", slabs, len(s.db.lanes), len(s.db.chunks.files))
	}
	if a := &s.db.labels; a.held != 0 || len(a.pages) > 17 {
		t.Errorf("labels: %d held, %d pages", a.held, len(a.pages))
	}
	if sp := s.db.byName["default"]; len(sp.pairs) > 2*perRound || len(sp.names) != 0 || len(sp.table) > 1024 {
		t.Errorf("%d pairs, %d names, table of %d", len(sp.pairs), len(sp.names), len(sp.table))
	}
	if first, last := heap[4], heap[rounds-1]; last > first+first/4+4<<20 {
		t.Errorf("heap after 5 rounds %d KiB, after %d rounds %d KiB", first>>10, rounds, last>>10)
	}
	t.Logf("heap: %d KiB after 1 round, %d after 5, %d after %d", heap[0]>>10, heap[4]>>10, heap[rounds-1]>>10, rounds)
}
