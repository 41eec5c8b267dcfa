package store

import (
	"math"
	"math/rand/v2"
	"testing"

	"kemi"
)

// reduceSlowly does what Reduce's doc says, an interval at a time.
func reduceSlowly(at []kemi.Millis, values []float64, interval kemi.Millis, fn Reduce) (ats []kemi.Millis, out []float64) {
	for i := 0; i < len(at); {
		start := kemi.Millis(math.Floor(float64(at[i])/float64(interval))) * interval
		var in []float64
		for ; i < len(at) && at[i] < start+interval; i++ {
			if !math.IsNaN(values[i]) {
				in = append(in, values[i])
			}
		}
		v := math.NaN()
		if len(in) > 0 {
			v = in[0]
			for _, x := range in {
				switch {
				case fn == ReduceMin && x < v, fn == ReduceMax && x > v, fn == ReduceLast:
					v = x
				}
			}
			if fn == ReduceSum || fn == ReduceAvg {
				if v = exactly(in); fn == ReduceAvg {
					v /= float64(len(in))
				}
			}
		}
		if fn == ReduceCount {
			v = float64(len(in))
		}
		ats, out = append(ats, start), append(out, v)
	}
	return ats, out
}

// A series cut anywhere, some of the parts reduced to smaller buckets first, reduces to the same bits.
func TestReducerDoesNotMindTheParts(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var red, small Reducer
	for range 4000 {
		var at []kemi.Millis
		var values []float64
		now := kemi.Millis(r.Int64N(2e6) - 1e6)
		for range 1 + r.IntN(12) {
			for _, v := range someValues(r) {
				if now += kemi.Millis(1 + r.IntN(20000)); r.IntN(30) == 0 {
					now += 3e5
				}
				if r.IntN(20) == 0 {
					v = math.NaN()
				}
				if r.IntN(20) == 0 {
					v = math.Copysign(0, float64(r.IntN(2))-.5)
				}
				at, values = append(at, now), append(values, v)
			}
		}
		interval := kemi.Millis(60000) * kemi.Millis(1+r.IntN(5))
		for fn := ReduceMin; fn <= ReduceLast; fn++ {
			red.Reset(interval, fn)
			for i := 0; i < len(at); {
				n := 1 + r.IntN(len(at)-i)
				if r.IntN(2) == 0 {
					red.Samples(at[i:i+n], values[i:i+n])
					i += n
					continue
				}
				for end := i + n; i < end; { // a bucket of a minute or less, as a rollup would have it
					start := IntervalStart(at[i], 60000)
					j := i
					var s Sum
					for j < end && at[j] < start+60000 {
						j++
					}
					b := Buckets{At: []kemi.Millis{start}, Counts: []int64{s.AddAll(values[i:j])}, Values: []float64{math.NaN()}}
					if fn == ReduceSum || fn == ReduceAvg {
						sum, err, ok := s.Split()
						b.Values[0], b.Errors = sum, []float64{err}
						if !ok {
							red.Samples(at[i:j], values[i:j])
							i = j
							continue
						}
					} else if fn != ReduceCount {
						small.Reset(60000, fn)
						small.Samples(at[i:j], values[i:j])
						b.Values = small.Down().Values
					}
					red.Buckets(&b)
					i = j
				}
			}
			got := red.Down()
			wantAt, want := reduceSlowly(at, values, interval, fn)
			if len(got.At) != len(wantAt) {
				t.Fatalf("fn %d: %d intervals, want %d", fn, len(got.At), len(wantAt))
			}
			for i := range want {
				if got.At[i] != wantAt[i] || math.Float64bits(got.Values[i]) != math.Float64bits(want[i]) && !(math.IsNaN(want[i]) && math.IsNaN(got.Values[i])) {
					t.Fatalf("fn %d at %d: %v, want %v at %d", fn, got.At[i], got.Values[i], want[i], wantAt[i])
				}
			}
		}
	}
}
