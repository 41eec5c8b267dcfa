package scrape

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"kemi"
	"kemi/pipeline/codec"
)

var (
	noOptions = storage.AOptions{}
	rejectOld = storage.AOptions{RejectOutOfOrder: true}
)

func testSeries(pairs ...string) labels.Labels {
	return labels.FromStrings(append([]string{"__name__", "m"}, pairs...)...)
}

// TestCommit puts random samples of all kinds through the appender, more than one record holds, and finds them all again.
func TestCommit(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	k := &taken{table: codec.NewTable(nil, time.Now)}
	// What lies on the log is read by others, too: upstream's decoder has to find the same in it.
	upstreams := map[string]float64{}
	write := func(ctx context.Context, id kemi.Identity, body []byte) error {
		plain, err := snappy.Decode(nil, body)
		var req writev2.Request
		if err == nil {
			err = req.Unmarshal(plain)
		}
		if err != nil {
			return err
		}
		b := labels.NewScratchBuilder(0)
		for _, s := range req.Timeseries {
			ls, err := s.ToLabels(&b, req.Symbols)
			if err != nil {
				return err
			}
			for _, x := range s.Samples {
				upstreams[ls.Get("i")] = x.Value
			}
			for _, h := range s.Histograms {
				upstreams[ls.Get("i")] = h.Sum
			}
		}
		return k.write(ctx, id, body)
	}
	app := (&appendable{id: kemi.Identity{Subject: "s", Project: "p", Permissions: kemi.MetricsWrite}, write: write, newest: newNewest(time.Now)}).AppenderV2(t.Context())
	const n = maxRecordSeries + 1000
	want := map[string]found{}
	refs := map[storage.SeriesRef]bool{}
	exemplars := 0
	for i := range n {
		id := fmt.Sprint(i)
		f := found{at: kemi.Millis(1_700_000_000_000 + r.Int64N(1e6)), value: r.NormFloat64()}
		var h *histogram.Histogram
		var fh *histogram.FloatHistogram
		var o storage.AOptions
		switch i % 100 {
		case 1:
			f.start = f.at - 5
		case 2:
			h = tsdbutil.GenerateTestHistogram(int64(i))
			f.value = h.Sum
		case 3:
			fh = tsdbutil.GenerateTestFloatHistogram(int64(i))
			f.value = fh.Sum
		case 4:
			o.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", id), Value: 1, Ts: int64(f.at), HasTs: true}}
			exemplars++
		}
		v := f.value
		if h != nil || fh != nil {
			v = 0
		}
		ref, err := app.Append(0, testSeries("i", id), int64(f.start), int64(f.at), v, h, fh, o)
		if err != nil || ref == 0 || refs[ref] {
			t.Fatalf("series %s: reference %d, %v", id, ref, err)
		}
		refs[ref] = true
		want[id] = f
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	if len(k.batches) < 2 {
		t.Errorf("%d records", len(k.batches))
	}
	for _, f := range k.find("__name__", "m") {
		id := f.labels.Get("i")
		w, ok := want[id]
		got := f.value
		if f.h != nil {
			got = f.h.Sum
		}
		if !ok || w.at != f.at || w.value != got || w.start != f.start || f.project != "p" {
			t.Fatalf("series %s: %+v, want %+v", id, f, w)
		}
		if upstreams[id] != w.value {
			t.Fatalf("series %s: upstream reads %v, want %v", id, upstreams[id], w.value)
		}
		delete(want, id)
	}
	for _, b := range k.batches {
		if b.Complex != nil {
			for _, e := range b.Complex.Exemplars {
				exemplars--
				if b.Labels(int(e.Series)).Get("i") != e.Labels.Get("trace_id") {
					t.Fatalf("exemplar %v at series %v", e.Labels, b.Labels(int(e.Series)))
				}
			}
		}
	}
	if len(want) > 0 || exemplars != 0 {
		t.Errorf("%d samples and %d exemplars are missing", len(want), exemplars)
	}
}

// TestLabels adds labels where a series has none of that name, to its markers as well.
func TestLabels(t *testing.T) {
	k := &taken{table: codec.NewTable(nil, time.Now)}
	to := &appendable{
		id: kemi.Identity{Subject: "s", Project: "p", Permissions: kemi.MetricsWrite}, write: k.write, newest: newNewest(time.Now),
		labels: labels.FromStrings("host", "h", "rack", "r"),
	}
	for i, v := range []float64{1, math.Float64frombits(value.StaleNaN)} {
		app := to.AppenderV2(t.Context())
		for _, s := range []labels.Labels{testSeries("a", "1"), testSeries("host", "own"), testSeries("zone", "z")} {
			if _, err := app.Append(0, s, 0, 1_700_000_000_000+int64(i), v, nil, nil, noOptions); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []kemi.Labels{
		kemi.LabelsOf("__name__", "m", "a", "1", "host", "h", "rack", "r"), kemi.LabelsOf("__name__", "m", "host", "own", "rack", "r"), kemi.LabelsOf("__name__", "m", "host", "h", "rack", "r", "zone", "z"),
	} {
		n := 0
		for _, b := range k.batches {
			for i := range b.Series {
				if b.Labels(i).Compare(want) == 0 {
					n++
				}
			}
		}
		if n != 2 {
			t.Errorf("%d samples of %v", n, want)
		}
	}
}

// TestNewestForgets is that what is remembered of series that are gone is let go.
func TestNewestForgets(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	n := newNewest(func() time.Time { return now })
	n.keepFor(time.Hour)
	n.add([]seenAt{{1, 5}})
	now = now.Add(2 * time.Hour)
	n.add([]seenAt{{2, 6}})
	if n.of(1) != 5 {
		t.Error("forgotten within three intervals")
	}
	now = now.Add(4 * time.Hour)
	n.add([]seenAt{{2, 7}})
	if now = now.Add(4 * time.Hour); n.of(1) != 5 && n.of(1) != 0 || n.of(2) != 7 {
		t.Errorf("series 1 at %d, series 2 at %d", n.of(1), n.of(2))
	}
	n.add([]seenAt{{2, 8}})
	if len(n.at)+len(n.before) > 2 || n.of(1) != 0 || n.of(2) != 8 {
		t.Errorf("remembers %v and %v", n.at, n.before)
	}
}

// BenchmarkCommit is the cost of a scrape after it is parsed: encode, pack.
func BenchmarkCommit(b *testing.B) {
	const series = 1000
	app := &appendable{id: kemi.Identity{Project: "p"}, write: func(context.Context, kemi.Identity, []byte) error { return nil }, newest: newNewest(time.Now)}
	ls := make([]labels.Labels, series)
	for i := range ls {
		ls[i] = testSeries("instance", "host:9100", "job", "node", "cpu", fmt.Sprint(i%64), "mode", fmt.Sprint(i/64))
	}
	refs := make([]storage.SeriesRef, series)
	b.ReportAllocs()
	for i := range b.N {
		a := app.AppenderV2(b.Context())
		for j := range ls {
			refs[j], _ = a.Append(refs[j], ls[j], 0, int64(i), float64(j), nil, nil, noOptions)
		}
		if err := a.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/series, "ns/sample")
}
