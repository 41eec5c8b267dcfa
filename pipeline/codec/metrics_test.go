package codec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"kemi"
	"kemi/pipeline/bus"
)

var testNow = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func fixedNow() time.Time { return testNow }

func testLimits() Limits {
	return Limits{
		MaxDecodedBytes: 64 << 20, MaxLabels: 64, MaxLabelNameBytes: 1 << 10, MaxLabelValueBytes: 16 << 10,
		Oldest: kemi.MillisOf(testNow.AddDate(-10, 0, 0)), Newest: kemi.MillisOf(testNow.Add(24 * time.Hour)),
	}
}

func recordOf(contentType string, unpacked []byte, headers ...string) *bus.Record {
	r := &bus.Record{Value: snappy.Encode(nil, unpacked), Headers: []bus.Header{
		{Name: HeaderProject, Value: "default"}, {Name: HeaderType, Value: contentType}, {Name: HeaderEncoding, Value: EncodingSnappy},
	}}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, bus.Header{Name: headers[i], Value: headers[i+1]})
	}
	return r
}

// flat is a batch in a form that can be compared.
type flat struct {
	Labels     []string
	Samples    [][]string
	Histograms []string
	Exemplars  []string
	Metadata   []Metadata
}

func flatten(b *SeriesBatch) flat {
	var f flat
	for i := range b.Series {
		from, to := b.Span(i)
		f.Labels = append(f.Labels, b.Labels(i).String())
		var ss []string
		for j := from; j < to; j++ {
			start := kemi.Millis(0)
			if b.Complex != nil && b.Complex.Starts != nil {
				start = b.Complex.Starts[j]
			}
			ss = append(ss, flatSample(int64(b.At[j]), b.Values[j], int64(start)))
		}
		f.Samples = append(f.Samples, ss)
	}
	if c := b.Complex; c != nil {
		for _, h := range c.Histograms {
			f.Histograms = append(f.Histograms, fmt.Sprintf("%+v", h))
		}
		for _, e := range c.Exemplars {
			f.Exemplars = append(f.Exemplars, fmt.Sprintf("%d %v %x %d", e.Series, e.Labels, math.Float64bits(e.Value), e.At))
		}
		f.Metadata = c.Metadata
	}
	return f
}

// compare tells the first difference.
func compare(t *testing.T, what string, got, want flat) {
	t.Helper()
	a, b := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range a.NumField() {
		x, y := a.Field(i), b.Field(i)
		for j := range min(x.Len(), y.Len()) {
			if !reflect.DeepEqual(x.Index(j).Interface(), y.Index(j).Interface()) {
				t.Fatalf("%s: %s %d:\n got %v\nwant %v", what, a.Type().Field(i).Name, j, x.Index(j), y.Index(j))
			}
		}
		if x.Len() != y.Len() {
			t.Fatalf("%s: %d %s, want %d", what, x.Len(), a.Type().Field(i).Name, y.Len())
		}
	}
}

func flatSample(at int64, v float64, start int64) string {
	return fmt.Sprintf("%d:%x:%d", at, math.Float64bits(v), start)
}

func flatLabels(ls []prompb.Label) string { return promLabels(ls).String() }

func promLabels(ls []prompb.Label) kemi.Labels {
	var out kemi.Labels
	for _, l := range ls {
		out = append(out, kemi.Label{Name: l.Name, Value: l.Value})
	}
	return out.Normalize()
}

func histogramV1(series int, h *prompb.Histogram) Histogram {
	out := Histogram{
		Series: int32(series), At: kemi.Millis(h.Timestamp), Schema: h.Schema, ZeroThreshold: h.ZeroThreshold, Sum: h.Sum,
		Count: h.GetCountInt(), ZeroCount: h.GetZeroCountInt(), PositiveDeltas: h.PositiveDeltas, NegativeDeltas: h.NegativeDeltas,
		FloatCount: h.GetCountFloat(), FloatZeroCount: h.GetZeroCountFloat(), PositiveCounts: h.PositiveCounts, NegativeCounts: h.NegativeCounts, CustomValues: h.CustomValues,
	}
	if out.Hint = 0; h.ResetHint >= 0 && h.ResetHint <= 3 {
		out.Hint = ResetHint(h.ResetHint)
	}
	_, out.Float = h.Count.(*prompb.Histogram_CountFloat)
	for _, s := range h.PositiveSpans {
		out.PositiveSpans = append(out.PositiveSpans, Span{s.Offset, s.Length})
	}
	for _, s := range h.NegativeSpans {
		out.NegativeSpans = append(out.NegativeSpans, Span{s.Offset, s.Length})
	}
	return out
}

func histogramV2(series int, h *writev2.Histogram) Histogram {
	out := Histogram{
		Series: int32(series), At: kemi.Millis(h.Timestamp), Start: kemi.Millis(h.StartTimestamp), Schema: h.Schema, ZeroThreshold: h.ZeroThreshold, Sum: h.Sum,
		Count: h.GetCountInt(), ZeroCount: h.GetZeroCountInt(), PositiveDeltas: h.PositiveDeltas, NegativeDeltas: h.NegativeDeltas,
		FloatCount: h.GetCountFloat(), FloatZeroCount: h.GetZeroCountFloat(), PositiveCounts: h.PositiveCounts, NegativeCounts: h.NegativeCounts, CustomValues: h.CustomValues,
	}
	if out.Hint = 0; h.ResetHint >= 0 && h.ResetHint <= 3 {
		out.Hint = ResetHint(h.ResetHint)
	}
	_, out.Float = h.Count.(*writev2.Histogram_CountFloat)
	for _, s := range h.PositiveSpans {
		out.PositiveSpans = append(out.PositiveSpans, Span{s.Offset, s.Length})
	}
	for _, s := range h.NegativeSpans {
		out.NegativeSpans = append(out.NegativeSpans, Span{s.Offset, s.Length})
	}
	return out
}

// flattenV1 is what Prometheus' own decoder makes of a body.
func flattenV1(w *prompb.WriteRequest) flat {
	var f flat
	for _, ts := range w.Timeseries {
		if len(ts.Samples)+len(ts.Histograms)+len(ts.Exemplars) == 0 {
			continue
		}
		i := len(f.Labels)
		f.Labels = append(f.Labels, flatLabels(ts.Labels))
		var ss []string
		for _, s := range ts.Samples {
			ss = append(ss, flatSample(s.Timestamp, s.Value, 0))
		}
		f.Samples = append(f.Samples, ss)
		for j := range ts.Histograms {
			f.Histograms = append(f.Histograms, fmt.Sprintf("%+v", histogramV1(i, &ts.Histograms[j])))
		}
		for _, e := range ts.Exemplars {
			f.Exemplars = append(f.Exemplars, fmt.Sprintf("%d %s %x %d", i, flatLabels(e.Labels), math.Float64bits(e.Value), e.Timestamp))
		}
	}
	for _, m := range w.Metadata {
		if m.MetricFamilyName != "" {
			f.Metadata = append(f.Metadata, metadata(uint64(m.Type), m.MetricFamilyName, []byte(m.Help), []byte(m.Unit)))
		}
	}
	return f
}

func flattenV2(w *writev2.Request) (flat, bool) {
	var f flat
	labels := func(refs []uint32) (kemi.Labels, bool) {
		var ls kemi.Labels
		if len(refs)%2 != 0 {
			return nil, false
		}
		for i := 0; i < len(refs); i += 2 {
			if int(refs[i]) >= len(w.Symbols) || int(refs[i+1]) >= len(w.Symbols) {
				return nil, false
			}
			ls = append(ls, kemi.Label{Name: w.Symbols[refs[i]], Value: w.Symbols[refs[i+1]]})
		}
		return ls.Normalize(), true
	}
	for _, ts := range w.Timeseries {
		ls, ok := labels(ts.LabelsRefs)
		if !ok || len(ts.LabelsRefs) == 0 {
			return f, false
		}
		if len(ts.Samples)+len(ts.Histograms)+len(ts.Exemplars) == 0 {
			continue
		}
		i := len(f.Labels)
		f.Labels = append(f.Labels, ls.String())
		var ss []string
		for _, s := range ts.Samples {
			ss = append(ss, flatSample(s.Timestamp, s.Value, s.StartTimestamp))
		}
		f.Samples = append(f.Samples, ss)
		for j := range ts.Histograms {
			f.Histograms = append(f.Histograms, fmt.Sprintf("%+v", histogramV2(i, &ts.Histograms[j])))
		}
		for _, e := range ts.Exemplars {
			el, ok := labels(e.LabelsRefs)
			if !ok {
				return f, false
			}
			f.Exemplars = append(f.Exemplars, fmt.Sprintf("%d %s %x %d", i, el, math.Float64bits(e.Value), e.Timestamp))
		}
	}
	return f, true
}

type gen struct{ *rand.Rand }

func (g gen) labels(metric string) []prompb.Label {
	ls := []prompb.Label{{Name: "__name__", Value: metric}}
	for i := range g.IntN(12) {
		v := strconv.Itoa(g.IntN(5))
		if g.IntN(20) == 0 {
			v = fmt.Sprintf("긴 값 %0300d", g.IntN(9))
		}
		ls = append(ls, prompb.Label{Name: []string{"host", "job", "le", "서비스", "dotted.name", "z"}[i%6] + strconv.Itoa(i/6), Value: v})
	}
	slices.SortFunc(ls, func(a, b prompb.Label) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return ls
}

func (g gen) time() int64 {
	switch g.IntN(12) {
	case 0:
		return 0
	case 1:
		return -g.Int64N(1 << 50)
	case 2:
		return g.Int64()
	}
	return testNow.UnixMilli() - g.Int64N(1<<40)
}

func (g gen) value() float64 {
	switch g.IntN(6) {
	case 0:
		return 0
	case 1:
		return []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Float64frombits(0x7ff0000000000002), math.Copysign(0, -1)}[g.IntN(5)]
	}
	return g.NormFloat64() * 1e6
}

func (g gen) histogram() prompb.Histogram {
	h := prompb.Histogram{
		Sum: g.value(), Schema: int32(g.IntN(12) - 4), ZeroThreshold: 1e-128, Timestamp: g.time(), ResetHint: prompb.Histogram_ResetHint(g.IntN(4)),
		PositiveSpans: []prompb.BucketSpan{{Offset: int32(g.IntN(40) - 20), Length: 2}, {Offset: 3, Length: 1}}, NegativeSpans: []prompb.BucketSpan{{Offset: -1, Length: 1}},
	}
	if g.IntN(2) == 0 {
		h.Count, h.ZeroCount = &prompb.Histogram_CountInt{CountInt: 14}, &prompb.Histogram_ZeroCountInt{ZeroCountInt: 1}
		h.PositiveDeltas, h.NegativeDeltas = []int64{3, -1, 4}, []int64{2}
	} else {
		h.Count, h.ZeroCount = &prompb.Histogram_CountFloat{CountFloat: 14.5}, &prompb.Histogram_ZeroCountFloat{ZeroCountFloat: 1.5}
		h.PositiveCounts, h.NegativeCounts = []float64{3, 2, 6}, []float64{2}
	}
	if g.IntN(5) == 0 {
		h.Schema, h.CustomValues = -53, []float64{1, 2, 5}
	}
	return h
}

func (g gen) v1() *prompb.WriteRequest {
	w := &prompb.WriteRequest{}
	for range g.IntN(30) {
		ts := prompb.TimeSeries{Labels: g.labels("m" + strconv.Itoa(g.IntN(9)))}
		for range g.IntN(4) {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: g.time(), Value: g.value()})
		}
		if g.IntN(4) == 0 {
			ts.Histograms = append(ts.Histograms, g.histogram())
		}
		if g.IntN(4) == 0 {
			ts.Exemplars = append(ts.Exemplars, prompb.Exemplar{Labels: []prompb.Label{{Name: "trace_id", Value: strconv.Itoa(g.Int())}}, Value: g.value(), Timestamp: g.time()})
		}
		w.Timeseries = append(w.Timeseries, ts)
	}
	for range g.IntN(3) {
		w.Metadata = append(w.Metadata, prompb.MetricMetadata{Type: prompb.MetricMetadata_MetricType(g.IntN(8)), MetricFamilyName: "m" + strconv.Itoa(g.IntN(9)), Help: "What it is.", Unit: "bytes"})
	}
	return w
}

func (g gen) v2() *writev2.Request {
	v1 := g.v1()
	st := writev2.NewSymbolTable()
	refs := func(ls []prompb.Label) (out []uint32) {
		for _, l := range ls {
			out = append(out, st.Symbolize(l.Name), st.Symbolize(l.Value))
		}
		return out
	}
	w := &writev2.Request{}
	for _, ts := range v1.Timeseries {
		t2 := writev2.TimeSeries{LabelsRefs: refs(ts.Labels)}
		for _, s := range ts.Samples {
			t2.Samples = append(t2.Samples, writev2.Sample{Timestamp: s.Timestamp, Value: s.Value, StartTimestamp: int64(g.IntN(2)) * g.time()})
		}
		for _, e := range ts.Exemplars {
			t2.Exemplars = append(t2.Exemplars, writev2.Exemplar{LabelsRefs: refs(e.Labels), Value: e.Value, Timestamp: e.Timestamp})
		}
		for _, h := range ts.Histograms {
			b, _ := h.Marshal()
			var h2 writev2.Histogram
			if err := h2.Unmarshal(b); err != nil {
				panic(err)
			}
			h2.StartTimestamp = g.time()
			t2.Histograms = append(t2.Histograms, h2)
		}
		w.Timeseries = append(w.Timeseries, t2)
	}
	w.Symbols = st.Symbols()
	return w
}

// What Prometheus' own encoder writes is read as its own decoder reads it, many times over with the same table.
func TestDecodeAsPrometheus(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := gen{rand.New(rand.NewPCG(seed, 1))}
	table := NewTable(nil, fixedNow)
	for range 400 {
		w := g.v1()
		body, err := w.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b, err := table.Decode(recordOf(RemoteWrite1, body))
		if err != nil {
			t.Fatal(err)
		}
		var read prompb.WriteRequest // its encoder writes -0 as 0
		if err := read.Unmarshal(body); err != nil {
			t.Fatal(err)
		}
		compare(t, "version 1", flatten(b), flattenV1(&read))
		w2 := g.v2()
		if body, err = w2.Marshal(); err != nil {
			t.Fatal(err)
		}
		if b, err = table.Decode(recordOf(RemoteWrite2, body)); err != nil {
			t.Fatal(err)
		}
		var read2 writev2.Request
		if err := read2.Unmarshal(body); err != nil {
			t.Fatal(err)
		}
		want, _ := flattenV2(&read2)
		compare(t, "version 2", flatten(b), want)
	}
}

// What the Encoder writes Prometheus' own decoder reads, and ours.
func TestEncoderAsPrometheus(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := gen{rand.New(rand.NewPCG(seed, 2))}
	e1, e2 := &Encoder{V1: true}, &Encoder{}
	for range 100 {
		var points []kemi.Points
		for i := range g.IntN(20) {
			p := kemi.Points{Labels: promLabels(g.labels("data.load.avg_5m" + strconv.Itoa(i%7)))}
			for range 1 + g.IntN(4) {
				p.At, p.Values = append(p.At, kemi.Millis(g.time())), append(p.Values, g.value())
			}
			points = append(points, p)
		}
		samples := 0
		for _, p := range points {
			e1.AddPoints(p)
			e2.AddPoints(p)
			samples += len(p.At)
		}
		if e1.Samples() != samples || e2.Samples() != samples {
			t.Fatalf("%d and %d samples, want %d", e1.Samples(), e2.Samples(), samples)
		}
		table := NewTable(nil, fixedNow)
		want := flatten(table.BatchOf("default", points))

		body1, err := snappy.Decode(nil, e1.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var w1 prompb.WriteRequest
		if err := w1.Unmarshal(body1); err != nil {
			t.Fatal(err)
		}
		compare(t, "version 1", flattenV1(&w1), want)
		body2, err := snappy.Decode(nil, e2.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var w2 writev2.Request
		if err := w2.Unmarshal(body2); err != nil {
			t.Fatal(err)
		}
		got, _ := flattenV2(&w2)
		compare(t, "version 2", got, want)
		b, err := table.Decode(recordOf(RemoteWrite2, body2))
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "ours", flatten(b), want)
	}
}

func TestEncoderDescribes(t *testing.T) {
	md := Metadata{Metric: "m", Type: "counter", Unit: "bytes", Help: "What it is."}
	for _, v1 := range []bool{true, false} {
		e := &Encoder{V1: v1}
		e.Describe(md)
		e.Add(kemi.LabelsOf(kemi.MetricName, "m"), []kemi.Millis{1}, []float64{1})
		in, err := NewTable(nil, fixedNow).Receive("p", !v1, e.Encode(), Limits{MaxDecodedBytes: 1 << 20, MaxLabels: 9, MaxLabelNameBytes: 99, MaxLabelValueBytes: 99, Newest: 9})
		if err != nil {
			t.Fatal(err)
		}
		if in.Refused.Any() || in.Samples != 1 || in.Batch.Complex == nil || !slices.Equal(in.Batch.Complex.Metadata, []Metadata{md}) {
			t.Fatalf("v1 %t: %+v", v1, in)
		}
	}
}

// Metadata of version 2 stands with each series of each request: the log gets it once, but again if it was not published.
func TestMetadataOnce(t *testing.T) {
	table := NewTable(nil, fixedNow)
	receive := func(help string) *Incoming {
		e := &Encoder{}
		e.Describe(Metadata{Metric: "rpc_count", Type: "summary", Help: help})
		e.Add(kemi.LabelsOf(kemi.MetricName, "rpc_count", "a", "b"), []kemi.Millis{kemi.MillisOf(testNow)}, []float64{1})
		in, err := table.Receive("p", true, e.Encode(), testLimits())
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	if in := receive("x"); in.Metadata != 1 || in.Batch.Complex.Metadata[0].Metric != "rpc" {
		t.Fatalf("%+v", in.Batch.Complex)
	}
	in := receive("x")
	if in.Metadata != 1 {
		t.Fatal("not said again although nothing was published")
	}
	in.Published()
	if in = receive("x"); in.Metadata != 0 || in.Batch.Complex != nil {
		t.Fatalf("said again: %+v", in.Batch.Complex)
	}
	if in = receive("y"); in.Metadata != 1 {
		t.Fatal("a change is not said")
	}
}
