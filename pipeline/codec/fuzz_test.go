package codec

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"kemi"
)

// receiveAny checks what holds for any body: a receiver's decision and the replay of what it publishes agree.
func receiveAny(t *testing.T, v2 bool, body []byte) {
	l := testLimits()
	l.Oldest, l.Newest = -1<<60, 1<<60
	table := NewTable(nil, fixedNow)
	in, err := table.Receive("p", v2, snappy.Encode(nil, body), l)
	if err != nil {
		return
	}
	if in.Samples != len(in.Batch.At) || len(in.Batch.At) != len(in.Batch.Values) || len(in.Batch.Ends) != len(in.Batch.Series) {
		t.Fatalf("%+v", in)
	}
	if in.Empty() {
		return
	}
	r := in.Record
	r.Local = nil
	again, err := NewTable(nil, fixedNow).Decode(&r)
	if err != nil {
		t.Fatalf("taken, but cannot be replayed: %v", err)
	}
	got, want := flatten(again), flatten(in.Batch)
	if v2 {
		got.Metadata, want.Metadata = nil, nil // repeated or not, as the table knew it
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("replayed as\n %+v\nnot as\n %+v", got, want)
	}
}

func FuzzWriteV1(f *testing.F) {
	g := gen{rand.New(rand.NewPCG(5, 6))}
	for range 20 {
		w := g.v1()
		w.Timeseries = w.Timeseries[:min(2, len(w.Timeseries))]
		b, _ := w.Marshal()
		f.Add(b)
	}
	f.Add([]byte{10, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		receiveAny(t, false, body)
		var w prompb.WriteRequest
		if w.Unmarshal(body) != nil {
			return
		}
		for _, ts := range w.Timeseries {
			if len(ts.Labels) == 0 {
				return
			}
		}
		b, err := NewTable(nil, fixedNow).Decode(recordOf(RemoteWrite1, body))
		if err != nil {
			return // it is more exact about what it skips
		}
		if b.Skipped > 0 {
			t.Fatalf("%d series skipped", b.Skipped)
		}
		got, want := flatten(b), flattenV1(&w)
		want.Metadata, got.Metadata = nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func FuzzWriteV2(f *testing.F) {
	g := gen{rand.New(rand.NewPCG(7, 8))}
	for range 20 {
		w := g.v2()
		w.Timeseries = w.Timeseries[:min(2, len(w.Timeseries))]
		b, _ := w.Marshal()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		receiveAny(t, true, body)
		var w writev2.Request
		if w.Unmarshal(body) != nil {
			return
		}
		want, ok := flattenV2(&w)
		if !ok {
			return
		}
		b, err := NewTable(nil, fixedNow).Decode(recordOf(RemoteWrite2, body))
		if err != nil {
			return
		}
		got := flatten(b)
		got.Metadata = nil
		// Only we know the starts of a draft.
		for _, f := range []flat{got, want} {
			for _, ss := range f.Samples {
				for i, s := range ss {
					ss[i] = s[:strings.LastIndexByte(s, ':')]
				}
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("\n got %+v\nwant %+v", got, want)
		}
	})
}

// What is said to be a good histogram is one to Prometheus, and the other way round.
func FuzzHistogram(f *testing.F) {
	g := gen{rand.New(rand.NewPCG(9, 10))}
	for range 20 {
		h := g.histogram()
		b, _ := h.Marshal()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var h prompb.Histogram
		if h.Unmarshal(body) != nil {
			return
		}
		ours := histogramV1(0, &h)
		if ours.Schema > 8 && ours.Schema <= maxSchema {
			return // made coarser before it is stored
		}
		if ours.Float && len(ours.PositiveDeltas)+len(ours.NegativeDeltas) > 0 || !ours.Float && len(ours.PositiveCounts)+len(ours.NegativeCounts) > 0 {
			return // what does not belong there it leaves out without a word, and we refuse
		}
		if ours.Float && ours.ZeroCount != 0 || !ours.Float && ours.FloatZeroCount != 0 {
			return // so here
		}
		var want error
		if h.IsFloatHistogram() {
			want = h.ToFloatHistogram().Validate()
		} else {
			want = h.ToIntHistogram().Validate()
		}
		if got := ours.validate(); (got == nil) != (want == nil) {
			t.Fatalf("%+v:\nours:       %v\nPrometheus: %v", ours, got, want)
		}
	})
}

func FuzzLabels(f *testing.F) {
	f.Add("__name__", "m", "a", "b")
	f.Add("", "\xff", "\x00", "긴 이름")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		ls := kemi.LabelsOf(a, b, c, d)
		raw := appendRawLabels(nil, ls)
		got, ok := appendLabels(nil, raw)
		if !ok || got.Compare(ls) != 0 {
			t.Fatalf("%v: %v %t", ls, got, ok)
		}
	})
}
