package codec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"kemi"
	"kemi/pipeline/bus"
)

func buildLimits() Limits {
	return Limits{MaxDecodedBytes: 64 << 20, MaxLabels: 64, MaxLabelNameBytes: 1 << 10, MaxLabelValueBytes: 16 << 10, Oldest: 0, Newest: 1 << 50}
}

// TestBuildDecodes holds what a builder makes against what a reader of its record sees: one series once, several samples, starts,
// histograms, exemplars, metadata, labels that make the message longer than its two bytes of length, and shorter.
func TestBuildDecodes(t *testing.T) {
	table := NewTable(nil, time.Now)
	b := table.Build("p", buildLimits())
	defer b.Release()
	define := func(pairs ...string) *Series {
		s, err := b.Define(KeyOf(fmt.Append(nil, pairs), 7), kemi.LabelsOf(pairs...))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	short := define("__name__", "a")
	long := define("__name__", "b", "x", string(slices.Repeat([]byte("v"), 16000)))
	hist := define("__name__", "h", "host", "web-1")
	must(b.Add(short, 1000, 1.5, 0))
	must(b.Add(long, 0, 0, 0))
	must(b.Add(long, 2000, math.NaN(), 500))
	b.Describe(hist, Metadata{Metric: "h", Type: "histogram", Help: "of h", Unit: "s"})
	b.Describe(hist, Metadata{Metric: "h", Type: "histogram", Help: "of h", Unit: "s"})
	h := Histogram{
		At: 3000, Start: 100, Count: 4, Sum: 8, Schema: 1, ZeroThreshold: 1e-3, ZeroCount: 1, PositiveSpans: []Span{{-2, 1}, {3, 1}}, PositiveDeltas: []int64{2, -1},
		Hint: ResetNo,
	}
	must(b.AddHistogram(hist, h))
	must(b.AddHistogram(hist, Histogram{At: 4000, Float: true, FloatCount: 2.5, Schema: -53, CustomValues: []float64{1, 2}, PositiveSpans: []Span{{0, 2}}, PositiveCounts: []float64{1, 1.5}}))
	must(b.AddExemplar(hist, Exemplar{Labels: kemi.LabelsOf("trace_id", "1f"), Value: 2, At: 3000}))
	must(b.Add(short, 5000, -1, 0))
	in := b.Incoming()
	if in.Samples != 4 || in.Histograms != 2 || in.Exemplars != 1 || in.Metadata != 1 {
		t.Errorf("counts: %+v", in)
	}
	got := in.Batch
	record := in.Record
	record.Local = nil
	want, err := table.Decode(&record)
	if err != nil {
		t.Fatal(err)
	}
	sameBatch(t, got, want)

	// And against the library's reader of the same message.
	raw, err := snappy.Decode(nil, in.Record.Value)
	if err != nil {
		t.Fatal(err)
	}
	var req prompb.WriteRequest
	if err := req.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	if len(req.Timeseries) != 4 || len(req.Metadata) != 1 || req.Metadata[0].Help != "of h" {
		t.Fatalf("%d series, metadata %v", len(req.Timeseries), req.Metadata)
	}
	if s := req.Timeseries[1]; len(s.Samples) != 2 || s.Samples[1].Timestamp != 2000 || len(s.Labels[1].Value) != 16000 {
		t.Errorf("the long one: %v", s.Samples)
	}
	x := req.Timeseries[2]
	if len(x.Histograms) != 2 || x.Histograms[0].GetCountInt() != 4 || x.Histograms[0].PositiveSpans[0].Offset != -2 || x.Histograms[0].PositiveDeltas[1] != -1 ||
		x.Histograms[1].GetCountFloat() != 2.5 || x.Histograms[1].CustomValues[1] != 2 || x.Exemplars[0].Labels[0].Value != "1f" {
		t.Errorf("histograms: %v", x)
	}
}

func sameBatch(t *testing.T, got, want *SeriesBatch) {
	t.Helper()
	if len(got.Series) != len(want.Series) || !slices.Equal(got.Ends, want.Ends) || !slices.Equal(got.At, want.At) || len(got.Values) != len(want.Values) {
		t.Fatalf("got %d series, ends %v at %v; want %d, %v %v", len(got.Series), got.Ends, got.At, len(want.Series), want.Ends, want.At)
	}
	for i, v := range got.Values {
		if math.Float64bits(v) != math.Float64bits(want.Values[i]) {
			t.Errorf("value %d: %v, want %v", i, v, want.Values[i])
		}
	}
	for i := range got.Series {
		if got.Series[i] != want.Series[i] {
			t.Errorf("series %d: %s, want the entry of %s", i, got.Labels(i), want.Labels(i))
		}
	}
	if (got.Complex == nil) != (want.Complex == nil) {
		t.Fatalf("complex: %v, want %v", got.Complex, want.Complex)
	}
	if got.Complex != nil && !reflect.DeepEqual(got.Complex, want.Complex) {
		t.Errorf("complex:\n%+v\nwant\n%+v", got.Complex, want.Complex)
	}
}

// TestBuildRandom builds random requests and reads them back; the seed is printed.
func TestBuildRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	table := NewTable(enrichAll{}, time.Now)
	for range 50 {
		b := table.Build("p", buildLimits())
		for range r.IntN(200) {
			name := fmt.Sprint("m", r.IntN(30))
			k := KeyOf([]byte(name), r.Uint64N(2)) // of one protocol or another
			s := b.Known(k)
			if s != nil && s.Labels().Get("__name__") != name {
				t.Fatalf("%s is taken for %s", name, s.Labels())
			}
			if s == nil {
				var err error
				if s, err = b.Define(k, kemi.LabelsOf("__name__", name, "host", fmt.Sprint("h", r.IntN(3)), "pad", string(make([]byte, r.IntN(300))))); err != nil {
					t.Fatal(err)
				}
			}
			start := kemi.Millis(0)
			if r.IntN(4) == 0 {
				start = kemi.Millis(r.IntN(1000))
			}
			if err := b.Add(s, kemi.Millis(r.IntN(1<<40)), float64(r.IntN(3)), start); err != nil {
				t.Fatal(err)
			}
		}
		in := b.Incoming()
		b.Release()
		if in.Empty() {
			continue
		}
		record := bus.Record{Value: in.Record.Value, Headers: in.Record.Headers}
		want, err := table.Decode(&record)
		if err != nil {
			t.Fatal(err)
		}
		sameBatch(t, in.Batch, want)
	}
}

type enrichAll struct{}

func (enrichAll) Enrich(_, host string) kemi.Labels { return kemi.LabelsOf("zone", "z-"+host) }
func (enrichAll) Epoch() uint64                     { return 1 }

func TestBuildRefuses(t *testing.T) {
	table := NewTable(nil, time.Now)
	l := buildLimits()
	l.Oldest, l.Newest, l.MaxLabels = 1000, 2000, 2
	b := table.Build("p", l)
	defer b.Release()
	if _, err := b.Define(Key{Lo: 1}, kemi.LabelsOf("x", "y")); err == nil {
		t.Error("a series without a name is taken")
	}
	if _, err := b.Define(Key{Lo: 1}, kemi.LabelsOf("__name__", "a", "b", "c", "d", "e")); err == nil {
		t.Error("three labels are taken where two are allowed")
	}
	s, err := b.Define(Key{Lo: 1}, kemi.LabelsOf("__name__", "a"))
	if err != nil {
		t.Fatal(err)
	}
	if b.Known(Key{Lo: 1}) != s || b.Known(Key{Lo: 3}) != nil {
		t.Error("what was defined is not known, or what was not is")
	}
	for _, at := range []kemi.Millis{999, 2001} {
		if b.Add(s, at, 1, 0) == nil || b.AddHistogram(s, Histogram{At: at}) == nil || b.AddExemplar(s, Exemplar{At: at}) == nil {
			t.Errorf("time %d is taken", at)
		}
	}
	if err := b.AddHistogram(s, Histogram{At: 1500, Count: 3}); err == nil {
		t.Error("a histogram whose buckets hold less than its count is taken")
	}
	if in := b.Incoming(); !in.Empty() {
		t.Errorf("not empty: %+v", in)
	}
}

func BenchmarkBuild(b *testing.B) {
	table := NewTable(nil, time.Now)
	const series = 2000
	var names [][]byte
	var labels []kemi.Labels
	for i := range series {
		ls := kemi.LabelsOf("__name__", "cpu_usage_idle", "host", fmt.Sprint("web-", i), "dc", "icn1", "env", "prod", "service", "pay", "region", "kr", "team", "core", "os", "linux", "rack", "r7", "cpu", "cpu0")
		names, labels = append(names, []byte(ls.String())), append(labels, ls)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		w := table.Build("p", buildLimits())
		for i, name := range names {
			k := KeyOf(name, 3)
			s := w.Known(k)
			if s == nil {
				s, _ = w.Define(k, labels[i])
			}
			_ = w.Add(s, kemi.Millis(1700000000000+n*15000), float64(i), 0)
		}
		w.Incoming()
		w.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/series, "ns/sample")
}
