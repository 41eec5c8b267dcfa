package query

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPercentileNeedsNoOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		n := 1 + rnd.IntN(400)
		values := make([]float64, n)
		for i := range values {
			switch values[i] = float64(rnd.IntN(50)); rnd.IntN(5) {
			case 0:
				values[i] = rnd.NormFloat64()
			case 1:
				values[i] = float64(i)
			case 2:
				values[i] = float64(-i)
			}
		}
		switch rnd.IntN(4) {
		case 0:
			slices.Sort(values)
		case 1:
			slices.Sort(values)
			slices.Reverse(values)
		}
		if rnd.IntN(8) == 0 {
			values[rnd.IntN(n)] = math.Inf(rnd.IntN(2)*2 - 1)
		}
		p, e := []float64{50, 75, 90, 95, 99, 99.9}[rnd.IntN(6)], estimation(rnd.IntN(3))
		want := percentile(slices.Sorted(slices.Values(values)), p, e)
		if got := percentileOf(slices.Clone(values), p, e); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Fatalf("p%v of %v (%d): %v, want %v", p, values, e, got, want)
		}
	}
}
