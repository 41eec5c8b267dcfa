package head

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

func everything(t *testing.T) *labels.Matcher {
	t.Helper()
	return labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*")
}

func mustQuery(t *testing.T, db *DB, mint, maxt int64) storage.Querier {
	t.Helper()
	q, err := db.Queryable(reader).Querier(mint, maxt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// expand lists a set as the engine does: before anything is read.
func expand(t *testing.T, set storage.SeriesSet) (out []storage.Series) {
	t.Helper()
	for set.Next() {
		out = append(out, set.At())
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// text is what an iterator goes over.
func text(t *testing.T, it chunkenc.Iterator) string {
	t.Helper()
	var b strings.Builder
	for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
		if k == chunkenc.ValFloat {
			at, v := it.At()
			fmt.Fprintf(&b, "%d=%g ", at, v)
			continue
		}
		at, h := it.AtFloatHistogram(nil)
		fmt.Fprintf(&b, "%d=h%g ", at, h.Count)
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

// many appends n series of each of the kinds there are: with packed samples and some in the buffer, with late ones, with few, with histograms, and with both.
// It gives what is to be read of each by its labels.
func many(w *writer, n int, at int64) map[string]map[int64]string {
	want := map[string]map[int64]string{}
	for i := range n {
		m := map[int64]string{}
		name := fmt.Sprintf("m%04d", i)
		want[fmt.Sprintf(`{__name__=%q}`, name)] = m
		put := func(t int64, v float64) {
			w.put(one(name, t, v))
			m[t] = fmt.Sprintf("%d=%g", t, v)
		}
		hist := func(t int64, v uint64) {
			w.next++
			batch := w.table.BatchOf("default", []kemi.Points{{Labels: kemi.LabelsOf(kemi.MetricName, name)}})
			batch.Complex = &codec.Complex{Histograms: []codec.Histogram{whole(t, v)}}
			if err := w.db.Append(w.t.Context(), batch, store.Position{Next: w.next}); err != nil {
				w.t.Fatal(err)
			}
			m[t] = fmt.Sprintf("%d=h%d", t, 3*v+1)
		}
		switch i % 5 {
		case 0:
			for k := range int64(80) {
				put(at+k*1000, float64(k))
			}
		case 1:
			for k := range int64(40) {
				put(at+k*1000, float64(k))
			}
			for k := range int64(20) {
				put(at+k*1500+7, float64(-k))
			}
		case 2:
			put(at+500, 1)
		case 3:
			for k := range int64(10) {
				hist(at+k*1000, uint64(k))
			}
			hist(at+2500, 77)
			hist(at-2500, 78)
		case 4:
			put(at, 1)
			hist(at+1000, 1)
			hist(at+2000, 2)
			put(at+3000, 2)
			put(at+1500, 3) // between histograms
			hist(at+2500, 9)
			put(at+70_000, 4)
		}
	}
	return want
}

// within is what is to be read in a range, both ends included.
func within(m map[int64]string, mint, maxt int64) string {
	var times []int64
	for t := range m {
		if t >= mint && t <= maxt {
			times = append(times, t)
		}
	}
	slices.Sort(times)
	var out []string
	for _, t := range times {
		out = append(out, m[t])
	}
	return strings.Join(out, " ")
}

// TestQuerier: series are read in whichever order, again, and with whatever range, as they were appended and after a restart.
func TestQuerier(t *testing.T) {
	const n = 300
	db := mustOpen(t, testConfig(t.TempDir()))
	at := time.Now().Add(-time.Hour).UnixMilli()
	want := many(newWriter(t, db), n, at)
	check := func(mint, maxt int64, h *storage.SelectHints, from, to int64) {
		t.Helper()
		q := mustQuery(t, db, mint, maxt)
		all := expand(t, q.Select(t.Context(), true, h, everything(t)))
		if !slices.IsSortedFunc(all, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) }) {
			t.Error("series are not in order")
		}
		seen := map[string]string{}
		var it chunkenc.Iterator
		for _, s := range all {
			it = s.Iterator(it)
			seen[s.Labels().String()] = text(t, it)
		}
		for ls, m := range want {
			if got, is := seen[ls], within(m, from, to); got != is {
				t.Errorf("%d to %d: %s\ngot  %s\nwant %s", from-at, to-at, ls, got, is)
			}
		}
		if len(all) > len(want) {
			t.Errorf("%d series", len(all))
		}
		// Once more, in another order.
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(all)) {
			ls := all[i].Labels().String()
			if got := text(t, all[i].Iterator(it)); got != seen[ls] {
				t.Errorf("%s: got %s, first %s", ls, got, seen[ls])
			}
		}
		// And read while they are found.
		k := 0
		for set := q.Select(t.Context(), false, h, everything(t)); set.Next(); k++ {
			if ls := set.At().Labels().String(); ls != all[k].Labels().String() || text(t, set.At().Iterator(it)) != seen[ls] {
				t.Errorf("series %d is %s: another than before, or it has something else", k, ls)
			}
		}
		if k != len(all) {
			t.Errorf("%d series, first %d", k, len(all))
		}
	}
	for range 2 {
		check(math.MinInt64, math.MaxInt64, nil, math.MinInt64, math.MaxInt64)
		check(0, math.MaxInt64, nil, 0, math.MaxInt64)
		for _, r := range [][2]int64{{0, 500}, {2500, 2500}, {1001, 30_000}, {31_999, 32_001}, {60_000, 90_000}, {-3000, -1}} {
			check(at+r[0], at+r[1], nil, at+r[0], at+r[1])
			check(0, math.MaxInt64, &storage.SelectHints{Start: at + r[0], End: at + r[1]}, at+r[0], at+r[1])
			check(at+r[0], at+r[1], &storage.SelectHints{Start: at - 9999, End: at + 99_999}, at+r[0], at+r[1])
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = mustOpen(t, testConfig(db.cfg.Dir))
	}
}

// TestQuerierLeavesOut: series without anything near the range are not listed.
func TestQuerierLeavesOut(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	at := time.Now().Add(-time.Hour).UnixMilli()
	w.put(one("a", at, 1), one("b", at+60_000, 1), one("c", at+120_000, 1), one("d", at+120_000, 1), one("d", at+60_000, 1))
	for _, c := range []struct {
		mint, maxt int64
		h          *storage.SelectHints
		want       string
	}{
		{0, math.MaxInt64, nil, "a b c d"}, {0, math.MaxInt64, &storage.SelectHints{Limit: 2}, "a b"}, {0, math.MaxInt64, &storage.SelectHints{Limit: 9}, "a b c d"},
		{at, at + 59_999, nil, "a"}, {at + 60_000, at + 60_000, nil, "b d"}, {at + 60_001, math.MaxInt64, nil, "c d"}, {at + 120_001, math.MaxInt64, nil, ""},
		{0, at - 1, nil, ""}, {at, at - 1, nil, ""}, {0, at, &storage.SelectHints{Start: at + 1, End: at + 60_000}, ""},
		{0, math.MaxInt64, &storage.SelectHints{Func: "series", Start: at + 120_000, End: math.MaxInt64}, "c d"},
	} {
		var got []string
		for _, s := range expand(t, mustQuery(t, db, c.mint, c.maxt).Select(t.Context(), true, c.h, everything(t))) {
			got = append(got, s.Labels().Get("__name__"))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%d to %d, %+v: %q, want %q", c.mint-at, c.maxt-at, c.h, got, c.want)
		}
	}
}

// TestQuerierKeeps: what a querier has found stays as long as it is open, be it settled and given away; after that it says so.
func TestQuerierKeeps(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	at := time.Now().Add(-time.Hour).UnixMilli()
	want := many(newWriter(t, db), 100, at)
	q := mustQuery(t, db, 0, math.MaxInt64)
	all := expand(t, q.Select(t.Context(), true, nil, everything(t)))
	before := all[0].Iterator(nil)
	settleAll(t, db, math.MaxInt64/2)
	for range 2 { // files go with the second one after
		if err := db.checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	if more := expand(t, mustQuery(t, db, 0, math.MaxInt64).Select(t.Context(), true, nil, everything(t))); len(more) != 0 {
		t.Errorf("%d series are seen by those who come later", len(more))
	}
	for _, s := range append(all, expand(t, q.Select(t.Context(), true, nil, everything(t)))...) {
		if got, is := text(t, s.Iterator(nil)), within(want[s.Labels().String()], 0, math.MaxInt64); got != is {
			t.Errorf("%s\ngot  %s\nwant %s", s.Labels(), got, is)
		}
	}
	if len(all) != 100 {
		t.Errorf("%d series", len(all))
	}
	var half chunkenc.Iterator
	for _, s := range all {
		if half = s.Iterator(nil); half.Next() == chunkenc.ValHistogram {
			break
		}
	}
	if err := errors.Join(q.Close(), q.Close()); err != nil {
		t.Fatal(err)
	}
	if err := db.checkpoint(); err != nil { // and now they go
		t.Fatal(err)
	}
	if got := text(t, before); got == "" {
		t.Error("an iterator has lost its samples")
	}
	if got := text(t, half); strings.Count(got, "=h") < 9 {
		t.Errorf("an iterator has lost its histograms: %s", got)
	}
	it := all[1].Iterator(nil)
	if it.Next() != chunkenc.ValNone || !errors.Is(it.Err(), errQuerierClosed) {
		t.Errorf("a series of a closed querier: %v", it.Err())
	}
	if set := q.Select(t.Context(), true, nil, everything(t)); set.Next() || !errors.Is(set.Err(), errQuerierClosed) {
		t.Errorf("a closed querier selects: %v", set.Err())
	}
	if _, _, err := q.LabelNames(t.Context(), nil); !errors.Is(err, errQuerierClosed) {
		t.Errorf("a closed querier lists labels: %v", err)
	}
}

// TestQuerierWhileLoading: there is nothing as long as not all is loaded.
func TestQuerierWhileLoading(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.AnswerWithin = 0
	db, done := loading(t, cfg)
	q := mustQuery(t, db, 0, math.MaxInt64)
	if all := expand(t, q.Select(t.Context(), true, nil, everything(t))); len(all) != 0 {
		t.Errorf("%d series", len(all))
	}
	names, _, err := q.LabelNames(t.Context(), nil)
	values, _, err2 := q.LabelValues(t.Context(), "__name__", nil)
	if len(names)+len(values) != 0 || err != nil || err2 != nil {
		t.Errorf("%q %q, %v, %v", names, values, err, err2)
	}
	if names, err := db.LabelNames(t.Context(), reader, nil, kemi.Range{To: math.MaxInt64}, 0); len(names) != 0 || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	eq, err := db.ExemplarQueryable(reader).ExemplarQuerier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if found, err := eq.Select(0, math.MaxInt64, []*labels.Matcher{everything(t)}); len(found) != 0 || err != nil {
		t.Errorf("exemplars %v, %v", found, err)
	}
	if _, err := db.Status(t.Context(), reader, 1); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("status: %v", err)
	}
	if s := db.Stats(); s != (Stats{}) {
		t.Errorf("stats %+v", s)
	}
	done()
}

// TestChunks: chunks have the same samples, and series without any are left out.
func TestChunks(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	at := time.Now().Add(-time.Hour).UnixMilli()
	want := many(newWriter(t, db), 50, at)
	for _, r := range [][2]int64{{0, math.MaxInt64}, {at + 501, at + 999}, {at + 1000, at + 2500}} {
		q, err := db.ChunkQueryable(reader).ChunkQuerier(r[0], r[1])
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		set := q.Select(t.Context(), true, nil, everything(t))
		for set.Next() {
			var got []string
			for it := set.At().Iterator(nil); it.Next(); {
				m := it.At()
				part := text(t, m.Chunk.Iterator(nil))
				if !strings.HasPrefix(part, fmt.Sprint(m.MinTime, "=")) || !strings.Contains(" "+part, fmt.Sprint(" ", m.MaxTime, "=")) {
					t.Errorf("chunk from %d to %d has %s", m.MinTime, m.MaxTime, part)
				}
				got = append(got, part)
			}
			seen[set.At().Labels().String()] = strings.Join(got, " ")
		}
		if err := errors.Join(set.Err(), q.Close()); err != nil {
			t.Fatal(err)
		}
		for ls, m := range want {
			got, listed := seen[ls]
			if is := within(m, r[0], r[1]); got != is || listed != (is != "") {
				t.Errorf("%s\ngot  %s\nwant %s", ls, got, is)
			}
		}
	}
}

// TestIterator goes back and forth over samples and histograms as a list of them would.
func TestIterator(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var it Iterator
		it.Reset()
		type sample struct {
			at   int64
			kind chunkenc.ValueType
		}
		var all []sample
		shown := kemi.Range{From: 20, To: 170}
		var stretch []int64
		flush := func() {
			if len(stretch) == 0 {
				return
			}
			c := chunkenc.NewHistogramChunk()
			app, err := c.Appender()
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range stretch {
				if _, _, app, err = app.AppendHistogram(nil, 0, at, &histogram.Histogram{Schema: 1}, true); err != nil {
					t.Fatal(err)
				}
			}
			it.Stretches = append(it.Stretches, Stretch{
				To: kemi.Millis(stretch[len(stretch)-1]), Encoding: c.Encoding(), Chunk: c.Bytes(), Shown: shown, Drops: []kemi.Range{{From: 50, To: 60}, {From: 61, To: 90}},
			})
			stretch = nil
		}
		plain, native := rnd.IntN(3), rnd.IntN(3)
		for at := int64(0); at < 200; at += int64(1 + rnd.IntN(9)) {
			f, h := rnd.IntN(3) < plain, rnd.IntN(3) < native
			if h {
				stretch = append(stretch, at)
				h = at >= 20 && at < 170 && at != 60 && (at < 50 || at >= 90) || at == 60
			}
			if f {
				it.Times, it.Values = append(it.Times, kemi.Millis(at)), append(it.Values, float64(at))
				all = append(all, sample{at, chunkenc.ValFloat})
			} else if h {
				all = append(all, sample{at, chunkenc.ValHistogram})
			}
			if rnd.IntN(8) == 0 {
				flush()
			}
		}
		flush()
		for range 4 {
			i := -1
			var log []string
			for range 60 {
				var k chunkenc.ValueType
				if rnd.IntN(2) == 0 {
					i = min(i+1, len(all))
					k = it.Next()
					log = append(log, "next")
				} else {
					to := int64(rnd.IntN(210))
					if i >= 0 && i < len(all) {
						to = all[i].at + int64(rnd.IntN(40)) - 10
					}
					for i = max(i, 0); i < len(all) && all[i].at < to; i++ {
					}
					k = it.Seek(to)
					log = append(log, fmt.Sprint("seek ", to))
				}
				if i >= len(all) {
					if k != chunkenc.ValNone {
						t.Fatalf("%v, %v: %s after the end", all, log, k)
					}
					break
				}
				if k != all[i].kind || it.AtT() != all[i].at {
					t.Fatalf("%v, %v: %s, want %v", all, log, k, all[i])
				}
				var at int64
				if k == chunkenc.ValFloat {
					at, _ = it.At()
				} else {
					at, _ = it.AtHistogram(nil)
				}
				if at != all[i].at {
					t.Fatalf("%v, %v: at %d, want %v", all, log, at, all[i])
				}
			}
			if err := it.Err(); err != nil {
				t.Fatal(err)
			}
			it.Rewind()
		}
	}
}

// TestReadersChangeNothing: late histograms that are not packed yet are packed for a reader, with buckets that they lack. What is kept stays, others read
// it at the same time.
func TestReadersChangeNothing(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	at := time.Now().Add(-time.Hour).UnixMilli()
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+100_000, 50)}})
	var late []codec.Histogram
	for i := range int64(20) { // every other one lacks a bucket, which the library puts in
		h := whole(at+i*1000, uint64(i+1))
		if h.Hint = codec.ResetGauge; i%2 == 1 {
			h.PositiveSpans, h.PositiveDeltas, h.Count = []codec.Span{{Offset: 0, Length: 1}}, h.PositiveDeltas[:1], h.Count-h.ZeroCount-1
		}
		late = append(late, h)
	}
	w.putComplex(&codec.Complex{Histograms: late})
	kept := func() (out []string) {
		for _, l := range db.lanes {
			for _, x := range l.hist {
				out = append(out, fmt.Sprint(x.at, x.h.PositiveSpans, x.h.PositiveBuckets))
			}
		}
		return out
	}
	before := kept()
	if got := iterated(t, db); strings.Count(got, "=") != 21 {
		t.Errorf("read %s", got)
	}
	if after := kept(); len(before) != 20 || !slices.Equal(after, before) {
		t.Errorf("kept %s\nbefore %s", after, before)
	}
}

func BenchmarkQuerier(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Dir = b.TempDir()
	db, err := Open(cfg, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	table := codec.NewTable(nil, time.Now)
	const series, samples = 2000, 480
	var ps []kemi.Points
	for i := range series {
		ps = append(ps, kemi.Points{
			Labels: kemi.LabelsOf(kemi.MetricName, "http_requests_total", "instance", fmt.Sprint("host-", i%100), "code", fmt.Sprint(200+i/100)), At: make([]kemi.Millis, 1), Values: make([]float64, 1),
		})
	}
	begin := time.Now().Add(-2 * time.Hour).UnixMilli()
	for k := range int64(samples) {
		for i := range ps {
			ps[i].At[0], ps[i].Values[0] = kemi.Millis(begin+k*15_000), float64(k*int64(i))
		}
		if err := db.Append(b.Context(), table.BatchOf("default", ps), store.Position{Next: k + 1}); err != nil {
			b.Fatal(err)
		}
	}
	for name, ms := range map[string][]*labels.Matcher{
		"all":  {labels.MustNewMatcher(labels.MatchEqual, "__name__", "http_requests_total")},
		"some": {labels.MustNewMatcher(labels.MatchEqual, "__name__", "http_requests_total"), labels.MustNewMatcher(labels.MatchEqual, "instance", "host-7")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				q, err := db.Queryable(reader).Querier(0, math.MaxInt64)
				if err != nil {
					b.Fatal(err)
				}
				var all []storage.Series
				for set := q.Select(b.Context(), false, nil, ms...); set.Next(); {
					all = append(all, set.At())
				}
				var it chunkenc.Iterator
				for _, s := range all {
					it = s.Iterator(it)
					for it.Next() != chunkenc.ValNone {
						n++
					}
				}
				if err := q.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
		})
	}
}
