package head

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// putComplex appends a batch of the series h with what is given beside samples.
func (w *writer) putComplex(c *codec.Complex) {
	w.t.Helper()
	w.next++
	batch := w.table.BatchOf("default", []kemi.Points{{Labels: kemi.LabelsOf(kemi.MetricName, "h")}})
	batch.Complex = c
	if err := w.db.Append(w.t.Context(), batch, store.Position{Next: w.next}); err != nil {
		w.t.Fatal(err)
	}
}

// whole is a histogram of whole counts: a bucket of n, one of n+1, and n zeros.
func whole(at int64, n uint64) codec.Histogram {
	return codec.Histogram{At: kemi.Millis(at), Schema: 1, ZeroThreshold: 0.001, ZeroCount: n, Count: 3*n + 1, Sum: float64(n) * 1.5,
		PositiveSpans: []codec.Span{{Offset: 0, Length: 2}}, PositiveDeltas: []int64{int64(n), 1}}
}

func iterated(t *testing.T, db *DB) string {
	t.Helper()
	q, err := db.Queryable(reader).Querier(0, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var b strings.Builder
	set := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "h"))
	for set.Next() {
		if ls := set.At().Labels().String(); ls != `{__name__="h"}` {
			t.Fatalf("labels %s", ls)
		}
		it := set.At().Iterator(nil)
		for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
			if k == chunkenc.ValFloat {
				at, v := it.At()
				fmt.Fprintf(&b, "%d=%g ", at, v)
				continue
			}
			at, h := it.AtFloatHistogram(nil)
			fmt.Fprintf(&b, "%d=%g/%g%v ", at, h.Count, h.Sum, h.PositiveBuckets)
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

func TestHistograms(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	at := time.Now().Add(-time.Minute).UnixMilli()
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at, 1), whole(at+10, 2)}})
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+10, 2), whole(at, 1)}})      // duplicates
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+10, 3), whole(at, 3)}})      // conflicts
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+5, 7), whole(at-20, 8)}})    // late
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+5, 7), whole(at-20, 9)}})    // a late duplicate, a late conflict
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+20, 4), whole(at+20, 5)}})   // a conflict within the batch
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{whole(at+3600e3, 1), whole(999, 1)}}) // too far ahead, too old
	broken := whole(at+25, 1)
	broken.Count = 99 // does not agree with the buckets
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{broken}})
	float := codec.Histogram{At: kemi.Millis(at + 30), Float: true, Schema: 1, FloatCount: 2.5, Sum: 3, PositiveSpans: []codec.Span{{Length: 1}}, PositiveCounts: []float64{2.5}}
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{float}})
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{float}})
	w.put(one("h", at+40, 1.5), one("h", at+30, 2)) // a plain sample in the same series, and one where a histogram is
	want := fmt.Sprintf("%d=25/12[8 9] %d=4/1.5[1 2] %d=22/10.5[7 8] %d=7/3[2 3] %d=13/6[4 5] %d=2.5/3[2.5] %d=1.5", at-20, at, at+5, at+10, at+20, at+30, at+40)
	if got := iterated(t, db); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, c := range map[string][2]float64{
		"duplicates": {testutil.ToFloat64(db.m.duplicates), 4}, "conflicts": {testutil.ToFloat64(db.m.conflicts), 5}, "invalid": {testutil.ToFloat64(db.m.invalid), 1},
		"too far ahead": {testutil.ToFloat64(db.m.future), 1}, "too old": {testutil.ToFloat64(db.m.tooOld), 1}, "late": {testutil.ToFloat64(db.m.late), 2},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %v, want %v", name, c[0], c[1])
		}
	}
	// Select has plain samples only.
	if got := samples(t, db, "h"); got != fmt.Sprintf("%d=1.5", at+40) {
		t.Errorf("select: %s", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, testConfig(db.cfg.Dir))
	if got := iterated(t, db); got != want {
		t.Errorf("opened again: got  %s\nwant %s", got, want)
	}
	if err := db.checkpoint(); err != nil { // late ones are packed then
		t.Fatal(err)
	}
	if got := iterated(t, db); got != want {
		t.Errorf("packed: got  %s\nwant %s", got, want)
	}
}

func TestExemplarsAndMetadata(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	at := time.Now().Add(-time.Minute).UnixMilli()
	example := func(at int64, trace string) codec.Exemplar {
		return codec.Exemplar{At: kemi.Millis(at), Value: 0.5, Labels: kemi.LabelsOf("trace_id", trace)}
	}
	c := &codec.Complex{
		Histograms: []codec.Histogram{whole(at, 1)},
		Exemplars:  []codec.Exemplar{example(at+2, "b"), example(at+1, "a"), example(0, "now")},
		Metadata:   []codec.Metadata{{Metric: "h", Type: "histogram", Unit: "seconds", Help: "How long."}},
	}
	for range 3 { // sent again, nothing changes
		w.putComplex(c)
	}
	w.putComplex(&codec.Complex{Exemplars: []codec.Exemplar{example(at+3, strings.Repeat("x", 500))}}) // too long
	other := kemi.Identity{Subject: "test", Project: "other"}
	for id, want := range map[kemi.Identity]string{reader: "now a b", other: ""} {
		q, err := db.ExemplarQueryable(id).ExemplarQuerier(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		res, err := q.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*")})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range res {
			if r.SeriesLabels.String() != `{__name__="h"}` {
				t.Errorf("series %s", r.SeriesLabels)
			}
			for _, e := range r.Exemplars {
				got = append(got, e.Labels.Get("trace_id"))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: exemplars %q, want %q", id.Project, got, want)
		}
		if m := db.Metadata(id, "h"); (len(m) == 1) != (want != "") || want != "" && m["h"] != md("histogram", "seconds", "How long.") {
			t.Errorf("%s: metadata %v", id.Project, m)
		}
	}
	for _, q := range []interface{ run() error }{
		runner(func() error { _, err := db.ExemplarQueryable(kemi.Identity{}).ExemplarQuerier(t.Context()); return err }),
		runner(func() error { _, err := db.Queryable(kemi.Identity{}).Querier(0, 1); return err }),
		runner(func() error { _, err := db.ChunkQueryable(kemi.Identity{}).ChunkQuerier(0, 1); return err }),
	} {
		if q.run() == nil {
			t.Error("an identity without a project reads")
		}
	}
}

type runner func() error

func (r runner) run() error { return r() }

// TestQueryableKeepsProjectsApart: labels and chunks, too.
func TestQueryableKeepsProjectsApart(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	at := time.Now().UnixMilli()
	w.put(one("mine", at, 1))
	func() { // alone as yet
		q, err := db.Queryable(reader).Querier(0, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		names, _, err := q.LabelNames(t.Context(), &storage.LabelHints{Limit: 1})
		values, _, err2 := q.LabelValues(t.Context(), "__name__", &storage.LabelHints{})
		if err != nil || err2 != nil || fmt.Sprint(names, values) != "[__name__] [mine]" {
			t.Errorf("%q %q, %v, %v", names, values, err, err2)
		}
		q2, err := db.Queryable(kemi.Identity{Subject: "test", Project: "other"}).Querier(0, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		defer q2.Close()
		if values, _, err := q2.LabelValues(t.Context(), "__name__", nil); err != nil || len(values) != 0 {
			t.Errorf("another project sees %q, %v", values, err)
		}
	}()
	if err := db.Append(t.Context(), w.table.BatchOf("other", []kemi.Points{one("theirs", at, 2)}), store.Position{Next: 2}); err != nil {
		t.Fatal(err)
	}
	q, err := db.Queryable(reader).Querier(0, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	names, _, err := q.LabelNames(t.Context(), &storage.LabelHints{Limit: 1})
	if err != nil || fmt.Sprint(names) != "[__name__]" {
		t.Errorf("label names %q, %v", names, err)
	}
	values, _, err := q.LabelValues(t.Context(), "__name__", nil)
	if err != nil || fmt.Sprint(values) != "[mine]" {
		t.Errorf("metric names %q, %v", values, err)
	}
	if values, _, err := q.LabelValues(t.Context(), ProjectLabel, nil); err != nil || len(values) != 0 {
		t.Errorf("projects %q, %v", values, err)
	}
	all := labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*")
	for _, ms := range [][]*labels.Matcher{{all}, {all, labels.MustNewMatcher(labels.MatchEqual, ProjectLabel, "other")}, {all, labels.MustNewMatcher(labels.MatchNotEqual, ProjectLabel, "default")}} {
		set := q.Select(t.Context(), false, nil, ms...)
		for set.Next() {
			if ls := set.At().Labels().String(); ls != `{__name__="mine"}` {
				t.Errorf("%v selects %s", ms, ls)
			}
		}
	}
	cq, err := db.ChunkQueryable(reader).ChunkQuerier(0, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer cq.Close()
	n := 0
	for set := cq.Select(t.Context(), true, nil, all); set.Next(); n++ {
		if ls := set.At().Labels().String(); ls != `{__name__="mine"}` {
			t.Errorf("chunks of %s", ls)
		}
	}
	if n != 1 {
		t.Errorf("%d series in chunks", n)
	}
}

// TestExemplarsSurvive: exemplars and metadata are there after a clean stop, and after a kill at any moment, once what the log of record has beyond the
// checkpoint has come again.
func TestExemplarsSurvive(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	db := mustOpen(t, cfg)
	w := newWriter(t, db)
	at := time.Now().Add(-time.Minute).UnixMilli()
	var want []string
	var log []*codec.Complex
	put := func() {
		n := int64(len(log) + 1)
		trace := fmt.Sprint("t", n)
		want = append(want, trace)
		log = append(log, &codec.Complex{
			Histograms: []codec.Histogram{whole(at+n, uint64(n))},
			Exemplars:  []codec.Exemplar{{At: kemi.Millis(at + n), Value: float64(n), Labels: kemi.LabelsOf("trace_id", trace)}},
			Metadata:   []codec.Metadata{{Metric: trace, Type: "gauge", Help: "of " + trace}, {Metric: "h", Type: "histogram", Help: "as of " + trace}},
		})
		w.putComplex(log[n-1])
	}
	check := func(name string, db *DB, position int64) {
		t.Helper()
		p := db.Positions()[0]
		if p != position {
			t.Fatalf("%s: replay begins at %d, not %d", name, p, position)
		}
		again := newWriter(t, db)
		again.next = p
		for _, c := range log[p:] {
			again.putComplex(c)
		}
		if got := traces(t, db); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: exemplars %q, want %q", name, got, want)
		}
		all := db.Metadata(reader, "")
		if len(all) != len(want)+1 || all["h"].Help != "as of "+want[len(want)-1] {
			t.Errorf("%s: metadata %v", name, all)
		}
	}
	put()
	put()
	if err := db.checkpoint(); err != nil {
		t.Fatal(err)
	}
	put()
	killed := t.TempDir()
	copyDir(t, dir, killed)
	after := mustOpen(t, testConfig(killed))
	check("killed", after, 2)
	if err := after.Close(); err != nil {
		t.Fatal(err)
	}
	check("killed, and stopped", mustOpen(t, testConfig(killed)), 3)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, cfg)
	check("stopped", db, 3)
	w.db = db
	put()
	killed = t.TempDir()
	copyDir(t, dir, killed)
	check("stopped, then killed", mustOpen(t, testConfig(killed)), 3)
}

func traces(t *testing.T, db *DB) (out []string) {
	t.Helper()
	q, err := db.ExemplarQueryable(reader).ExemplarQuerier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	res, err := q.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*")})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res {
		for _, e := range r.Exemplars {
			out = append(out, e.Labels.Get("trace_id"))
		}
	}
	return out
}

func md(kind, unit, help string) metadata.Metadata {
	return metadata.Metadata{Type: model.MetricType(kind), Unit: unit, Help: help}
}
