package storetest

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// checkDown compares what the store reduces, if it does, with what a Reducer makes of the series as they should be: all bits have to be the same.
func (s *seriesStore) checkDown(rnd *rand.Rand, r kemi.Range, sel store.Selector, want func(kemi.Range) []kemi.Points) {
	s.Helper()
	down, ok := s.SeriesStore.(store.Downsampler)
	if !ok {
		return
	}
	interval := []kemi.Millis{1000, 7000, 60_000, 300_000, 3_600_000, 86_400_000}[rnd.IntN(6)]
	fn := store.Reduce(rnd.IntN(int(store.ReduceLast) + 1))
	r.From, r.To = store.IntervalStart(r.From, interval), store.IntervalStart(r.To+interval-1, interval)
	if (r.To-r.From)/interval > 1e6 {
		r.To = r.From + 1e6*interval
	}
	all := want(r)
	core := r
	if n := int64((r.To - r.From) / interval); n > 0 && rnd.IntN(2) == 0 {
		from := rnd.Int64N(n)
		core.From += interval * kemi.Millis(from)
		core.To = core.From + interval*kemi.Millis(1+rnd.Int64N(min(n-from, 20)))
	}
	var red store.Reducer
	i := 0
	for d, err := range down.SelectDown(s.Context(), s.id(), sel, r, core, interval, fn) {
		if err != nil {
			s.Fatalf("reduce %v in %v by %d: %v", sel, r, fn, err)
		}
		if i == len(all) {
			s.Fatalf("reduce %v in %v: %v is one too many", sel, r, d.Labels)
		}
		p := all[i]
		i++
		red.Reset(interval, fn)
		from, _ := slices.BinarySearch(p.At, core.From)
		to, _ := slices.BinarySearch(p.At, core.To)
		red.Samples(p.At[from:to], p.Values[from:to])
		w := red.Down()
		if core == r || len(w.At) < int((core.To-core.From)/interval) {
			red.Reset(interval, fn)
			red.Samples(p.At, p.Values)
			w = red.Down()
		} else { // others may be missing
			from, _ := slices.BinarySearch(d.At, core.From)
			to, _ := slices.BinarySearch(d.At, core.To)
			d.At, d.Values = d.At[from:to], d.Values[from:to]
			d.Samples = min(d.Samples, w.Samples)
		}
		same := d.Labels.Compare(p.Labels) == 0 && d.Samples <= w.Samples && d.Samples >= w.Samples-countNaN(p.Values) && len(d.At) == len(w.At) && len(d.Values) == len(w.Values)
		for j := 0; same && j < len(w.At); j++ {
			same = d.At[j] == w.At[j] && (math.Float64bits(d.Values[j]) == math.Float64bits(w.Values[j]) || math.IsNaN(d.Values[j]) && math.IsNaN(w.Values[j]))
		}
		if !same {
			s.Fatalf("reduce %v in %v by %d, interval %d:\n got %v %v (%d samples)\nwant %v %v of %v", sel, r, fn, interval, d.Labels, d.Points, d.Samples, p.Labels, w.Points, shorten([]kemi.Points{p}))
		}
	}
	if i != len(all) {
		s.Fatalf("reduce %v in %v: %d series, want %d", sel, r, i, len(all))
	}
}

// seriesReduce puts awkward values into a few series, some of them late, and reduces them.
func seriesReduce(t *testing.T, s *seriesStore) {
	if _, ok := s.SeriesStore.(store.Downsampler); !ok {
		t.Skip("this store does not reduce")
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	m := &seriesModel{data: map[string]map[string]*modelSeries{}}
	begin := kemi.Millis(s.now().Add(-30*time.Hour).UnixMilli()) / 3600e3 * 3600e3
	for range 40 {
		var ps []kemi.Points
		for h := range 50 { // more than are sorted one by one
			p := kemi.Points{Labels: named("m"+strconv.Itoa(h%3), "l0", strconv.Itoa(rnd.IntN(2)), "host", strconv.Itoa(h))}
			at := begin + kemi.Millis(rnd.Int64N(28*3600e3))
			for range 30 {
				at += kemi.Millis(1 + rnd.IntN(40_000))
				v := float64(rnd.IntN(2000)-1000) / 100
				switch rnd.IntN(12) {
				case 0:
					v = math.NaN()
				case 1:
					v = math.Copysign(0, -1)
				case 2:
					v = rnd.NormFloat64() * math.Pow(10, float64(rnd.IntN(40)-20))
				case 3:
					v = math.Inf(rnd.IntN(2)*2 - 1)
				}
				p.At, p.Values = append(p.At, at), append(p.Values, v)
			}
			ps = append(ps, p)
		}
		m.append("default", ps)
		s.put(ps...)
	}
	for range 2 {
		for range 60 {
			r := kemi.Range{From: begin + kemi.Millis(rnd.Int64N(28*3600e3))}
			r.To = r.From + kemi.Millis(rnd.Int64N(12*3600e3))
			var sel store.Selector
			if rnd.IntN(2) == 0 {
				sel = append(sel, store.Matcher{Op: store.Equal, Name: kemi.MetricName, Value: "m" + strconv.Itoa(rnd.IntN(3))})
			}
			if rnd.IntN(2) == 0 {
				sel = append(sel, store.Matcher{Op: store.NotEqual, Name: "host"})
			}
			s.checkDown(rnd, r, sel, func(r kemi.Range) []kemi.Points { return m.get("default", r, sel) })
		}
		s.reopen()
	}
}

// countNaN counts the samples that rollups know nothing of.
func countNaN(values []float64) (n int64) {
	for _, v := range values {
		if math.IsNaN(v) {
			n++
		}
	}
	return n
}
