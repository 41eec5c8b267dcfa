package otlp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/pipeline/codec"
)

// deltas are a counter, a histogram and an exponential histogram that n was added to since a minute before.
func deltas(ms pmetric.MetricSlice, at int64, n uint64) {
	c := ms.AppendEmpty()
	c.SetName("hits")
	s := c.SetEmptySum()
	s.SetIsMonotonic(true)
	s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	p := s.DataPoints().AppendEmpty()
	p.SetStartTimestamp(ns(at - 60_000))
	p.SetTimestamp(ns(at))
	p.SetIntValue(int64(n))

	hm := ms.AppendEmpty()
	hm.SetName("latency")
	hs := hm.SetEmptyHistogram()
	hs.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	hp := hs.DataPoints().AppendEmpty()
	hp.SetStartTimestamp(ns(at - 60_000))
	hp.SetTimestamp(ns(at))
	hp.SetCount(n)
	hp.SetSum(float64(n) / 2)
	hp.ExplicitBounds().FromRaw([]float64{1})
	hp.BucketCounts().FromRaw([]uint64{n, 0})

	em := ms.AppendEmpty()
	em.SetName("size")
	es := em.SetEmptyExponentialHistogram()
	es.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	ep := es.DataPoints().AppendEmpty()
	ep.SetStartTimestamp(ns(at - 60_000))
	ep.SetTimestamp(ns(at))
	ep.SetCount(n)
	ep.SetSum(float64(n))
	ep.SetScale(int32(n % 3)) // senders change it as they go
	ep.Positive().BucketCounts().FromRaw([]uint64{n})
}

// last is what the log has of a series at its newest time.
func last(h *collectortest.House, prefix string) string {
	out, newest := "", int64(-1)
	for _, s := range h.Samples() {
		var v float64
		var t int64
		if strings.HasPrefix(s, prefix) {
			if _, err := fmt.Sscanf(s[strings.LastIndex(s, "} ")+2:], "%g @%d", &v, &t); err == nil && t > newest {
				out, newest = s, t
			}
		}
	}
	return out
}

func TestDeltasAreAddedUp(t *testing.T) {
	h, _ := open(t, func(c *Config) { c.HostLabel = "" })
	const l = `{instance="i-1",job="shop/pay"`
	sum := uint64(0)
	for i := range 4 {
		n := uint64(i + 1)
		sum += n
		b := body(t, request(func(ms pmetric.MetricSlice) { deltas(ms, at+int64(i)*60_000, n) }))
		if i == 2 { // it fails, and is sent again
			h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "disk full"))
			if status, _, _ := h.Post("/v1/metrics", b, "Content-Type", mediaProtobuf); status != 503 {
				t.Fatal(status)
			}
			h.Fault.Set(nil)
		}
		if told := send(h, b); told != "" {
			t.Fatal(told)
		}
		if i == 3 { // it arrives twice
			if told := send(h, b); told != "" {
				t.Fatal(told)
			}
		}
		for _, want := range []string{
			fmt.Sprintf(`hits_total%s} %d @%d start=%d`, l, sum, at+int64(i)*60_000, at-60_000),
			fmt.Sprintf(`latency_bucket%s,le="1"} %d @%d start=%d`, l, sum, at+int64(i)*60_000, at-60_000),
			fmt.Sprintf(`latency_sum%s} %v @%d start=%d`, l, float64(sum)/2, at+int64(i)*60_000, at-60_000),
		} {
			if got := last(h, want[:strings.Index(want, "}")]); got != want {
				t.Errorf("step %d: %s, want %s", i, got, want)
			}
		}
	}
	var hist []string
	for _, b := range h.Batches() {
		for _, x := range b.Complex.Histograms {
			hist = append(hist, fmt.Sprintf("%v %v %d %v", x.FloatCount, x.Sum, x.Schema, x.PositiveCounts))
		}
	}
	if want := "[1 1 1 [1] 3 3 1 [3] 6 6 0 [6] 10 10 0 [10] 10 10 0 [10]]"; fmt.Sprint(hist) != want {
		t.Errorf("histograms %v, want %s", hist, want)
	}
}

func TestDeltasOutOfOrder(t *testing.T) {
	h, _ := open(t, nil)
	md := request(func(ms pmetric.MetricSlice) { deltas(ms, at+60_000, 2) })
	// Two points of a stream in one request, the later one first.
	dps := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints()
	p := dps.AppendEmpty()
	p.SetTimestamp(ns(at))
	p.SetIntValue(5)
	if told := send(h, body(t, md)); told != "" {
		t.Fatal(told)
	}
	if got := last(h, "hits_total"); !strings.Contains(got, "} 7 @") {
		t.Error(got)
	}
	// One of a time that the sum has already is refused, whatever it says of its start; others are added, and show at once.
	for range 2 { // to say them again changes nothing
		told := send(h, body(t, request(func(ms pmetric.MetricSlice) { deltas(ms, at, 9) })))
		if !strings.HasPrefix(told, "1 1 of 3") || !strings.Contains(told, "overlaps one that is in its sum") {
			t.Error(told)
		}
		if got := last(h, "hits_total"); !strings.Contains(got, "} 7 @") {
			t.Error(got)
		}
		if got, want := last(h, "latency_count"), fmt.Sprintf("} 11 @%d ", at+60_001); !strings.Contains(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if told := send(h, body(t, request(func(ms pmetric.MetricSlice) { deltas(ms, at+120_000, 1) }))); told != "" {
		t.Error(told)
	}
	for series, want := range map[string]string{"hits_total": "} 8 @%d", "latency_count": "} 12 @%d"} {
		if got := last(h, series); !strings.Contains(got, fmt.Sprintf(want, at+120_000)) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestLateDeltas: points in any order, some of them twice, come to their sum as long as they can be told apart; samples go forward in time, and never down.
func TestLateDeltas(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := &stream{start: 1, last: math.MinInt64, shown: math.MinInt64}
		var points []sample
		want := 0.0
		for i := range remembered {
			x := sample{start: int64(10 * i), at: int64(10*i + 10), value: float64(rnd.IntN(9))}
			want += x.value
			points = append(points, x)
			if rnd.IntN(3) == 0 {
				points = append(points, x)
			}
		}
		rnd.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
		shown, sum := int64(math.MinInt64), 0.0
		for _, x := range points {
			write, err := s.add(&x)
			if err != nil {
				t.Fatal(err)
			}
			if !write {
				continue
			}
			if x.at < shown || x.value < sum || x.at == shown && x.value != sum {
				t.Fatalf("%v at %d after %v at %d", x.value, x.at, sum, shown)
			}
			shown, sum = x.at, x.value
		}
		if sum != want {
			t.Fatalf("came to %v, want %v", sum, want)
		}
	}
	// What was added too long ago to be known is refused, as it may come again; what never came, and is newer than that, is not.
	s := &stream{start: 1, last: math.MinInt64, shown: math.MinInt64}
	for i := range 3 * remembered {
		if _, err := s.add(&sample{start: int64(10 * i), at: int64(10*i + 8), value: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.add(&sample{start: 0, at: 8, value: 1}); err == nil || !strings.Contains(err.Error(), "too old to tell") {
		t.Error(err)
	}
	x := sample{start: s.last - 12, at: s.last - 10, value: 1}
	if write, err := s.add(&x); err == nil || write {
		t.Errorf("it overlaps: %v %v", write, err)
	}
	x = sample{start: s.last - 10, at: s.last - 8, value: 1}
	if write, err := s.add(&x); err != nil || !write || x.value != 3*remembered+1 || x.at != s.last+1 {
		t.Errorf("%+v %v %v", x, write, err)
	}
}

// TestDeltasOfOneMillisecond come one after another, not again.
func TestDeltasOfOneMillisecond(t *testing.T) {
	s := &stream{start: 1, last: -1}
	for i, x := range []sample{{start: 1, at: 5, value: 1}, {start: 5, at: 5, value: 2}, {start: 5, at: 5, value: 2}, {start: 5, at: 6, value: 4}} {
		if _, err := s.add(&x); err != nil {
			t.Fatal(err)
		}
		if want := []float64{1, 3, 3, 7}[i]; x.value != want || x.start != 1 {
			t.Errorf("point %d: %v since %d, want %v", i, x.value, x.start, want)
		}
	}
}

func TestDeltaModes(t *testing.T) {
	b := body(t, request(func(ms pmetric.MetricSlice) { deltas(ms, at, 2) }))
	h, _ := open(t, func(c *Config) { c.Delta = "refuse" })
	if told := send(h, b); !strings.HasPrefix(told, "3 3 of 3") || !strings.Contains(told, "ingest.otlp.delta") {
		t.Error(told)
	}
	h, _ = open(t, func(c *Config) { c.Delta = "raw" })
	for range 2 {
		if told := send(h, b); told != "" {
			t.Error(told)
		}
	}
	if got := last(h, "hits"); !strings.Contains(got, "} 2 @") {
		t.Error(got)
	}
	h, r := open(t, func(c *Config) { c.MaxDeltaStreams = 2 })
	if told := send(h, b); !strings.Contains(told, "maxDeltaStreams") {
		t.Error(told)
	}
	if n := r.streams.count.Load(); n != 2 {
		t.Errorf("%d streams", n)
	}
}

func TestStreamsAreForgotten(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newStreams(10, func() time.Time { return now })
	for i := range s.stripes {
		s.stripes[i].streams[codec.Key{Lo: uint64(i)}] = &stream{used: now}
		s.count.Add(1)
	}
	now = now.Add(2 * forgetAfter)
	s.lock(nil)()
	if s.count.Load() != stripes {
		t.Error("stripes that nobody asked for were looked through")
	}
	for i := range uint64(stripes) {
		s.lock([]codec.Key{{Lo: i}})()
	}
	if n := s.count.Load(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}
