package store

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// exactly is what Sum's doc says, in rationals.
func exactly(values []float64) float64 {
	sum := new(big.Rat)
	for _, v := range values {
		r := new(big.Rat).SetFloat64(v)
		for _, scale := range []struct{ limit, units float64 }{{fineLimit, fineUnits}, {coarseLimit, coarseUnits}} {
			if math.Abs(v) < scale.limit {
				if m := math.RoundToEven(v * scale.units); m/scale.units == v {
					r.SetFrac64(int64(m), int64(scale.units))
				}
				break
			}
		}
		sum.Add(sum, r)
	}
	f, _ := sum.Float64()
	return f + 0
}

func someValues(r *rand.Rand) []float64 {
	n := 1 + r.IntN(40)
	out := make([]float64, n)
	shape := r.IntN(9)
	for i := range out {
		switch shape {
		case 0:
			out[i] = math.Round(r.Float64()*1e4) / 100
		case 1:
			out[i] = r.NormFloat64()
		case 2:
			out[i] = float64(r.Int64N(1 << 50))
		case 3:
			out[i] = math.Ldexp(r.Float64()-.5, r.IntN(600)-300)
		case 4:
			for out[i] = math.NaN(); out[i]-out[i] != 0; {
				out[i] = math.Float64frombits(r.Uint64())
			}
		case 5:
			out[i] = math.Round((r.Float64()-.5)*1e12) / 1e3
		case 6:
			out[i] = []float64{r.Float64(), float64(r.IntN(3)), 0.1}[r.IntN(3)]
		case 7:
			out[i] = math.Round((r.Float64()-.5)*1e15) / 1e9
		case 8:
			out[i] = float64(float32(r.NormFloat64() * 50))
		}
	}
	return out
}

// However the values are grouped, and whether the parts are merged or split into two numbers, the sum is the exact one rounded once.
func TestSumIsExactHoweverGrouped(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	splits, noSplits := 0, 0
	for range 6000 {
		values := someValues(r)
		want := exactly(values)
		var all, merged, split Sum
		all.AddAll(values)
		canSplit := true
		for rest := values; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			var part Sum
			for _, v := range rest[:n] {
				part.Add(v)
			}
			merged.Merge(&part)
			a, b, ok := part.Split()
			if ok {
				split.Add(a)
				split.Add(b)
			}
			canSplit = canSplit && ok
			rest = rest[n:]
		}
		if got := all.Value(); math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("sum of %v: %v, want %v", values, got, want)
		}
		if got := merged.Value(); math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("merged sum of %v: %v, want %v", values, got, want)
		}
		if !canSplit {
			noSplits++
			continue
		}
		splits++
		if got := split.Value(); math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("sum of the split parts of %v: %v, want %v", values, got, want)
		}
	}
	if splits < noSplits {
		t.Errorf("%d sums could be split, %d not", splits, noSplits)
	}
}

func TestSumOfInfinities(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{math.Copysign(0, -1)}, 0},
		{[]float64{1, inf, 2}, inf},
		{[]float64{-inf, 1e308, 1e308}, -inf},
		{[]float64{inf, -inf}, math.NaN()},
		{[]float64{1e308, 1e308}, inf},
		{[]float64{1e308, 1e308, -1e308}, 1e308},
		{[]float64{.1, .1, .1, .1, .1, .1, .1, .1, .1, .1}, 1},
	} {
		var s Sum
		if n := s.AddAll(c.values); n != int64(len(c.values)) {
			t.Errorf("%v: %d counted", c.values, n)
		}
		if got := s.Value(); math.Float64bits(got) != math.Float64bits(c.want) {
			t.Errorf("sum of %v: %v, want %v", c.values, got, c.want)
		}
	}
}

// Where decimals and binary values meet, the short way is the exact one, also next to what is rounded the other way, and it is nearly always there.
func TestSumOfDecimalsAndBinary(t *testing.T) {
	const rounds = 400_000
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 4))
	asked, taken := 0, 0
	for i := range rounds {
		var x Sum
		whole := math.Ldexp(r.Float64()-.5, 2+r.IntN(60))
		for range 1 + r.IntN(4) {
			x.Add(math.Round(whole*1e3) / 1e3)
		}
		if r.IntN(4) == 0 {
			x.add(r.Int64N(1<<50)-1<<49, r.Uint64())
		}
		switch i % 4 {
		case 0: // of any size
			x.addBinary(math.Ldexp(r.Float64()-.5, r.IntN(200)-100))
			x.addBinary(math.Ldexp(r.Float64()-.5, r.IntN(200)-100))
		case 1: // nearly nothing is left
			x.addBinary(-units(x.hi, x.lo))
		case 2: // next to where it is rounded the other way
			v := units(x.hi, x.lo)
			x.addBinary((math.Nextafter(v, math.Inf(1)) - v) / 2)
			x.addBinary(math.Ldexp(r.Float64()-.5, -60-r.IntN(60)))
		case 3: // as a mean of gauges has them
			for range 30 {
				x.Add(100 * r.Float64())
			}
		}
		if x.rest != nil || x.hi == 0 && x.lo == 0 {
			continue // these are never asked for it
		}
		v, ok := x.mixed()
		if i%4 == 3 {
			asked++
			if ok {
				taken++
			}
		}
		if !ok {
			continue
		}
		if want := x.slow(); v != want {
			t.Fatalf("seed %d, round %d: %+v: %b, want %b", seed, i, x, v, want)
		}
	}
	if asked < rounds/8 || taken < asked*97/100 {
		t.Errorf("seed %d: %d of %d are taken", seed, taken, asked)
	}
}

func BenchmarkSumOfDecimalsAndBinary(b *testing.B) {
	var x Sum
	x.Add(12.5)
	for i := range 60 {
		x.Add(100 / float64(i+3))
	}
	for b.Loop() {
		x.Value()
	}
}

func BenchmarkSum(b *testing.B) {
	for name, f := range map[string]func(r *rand.Rand) float64{
		"decimals": func(r *rand.Rand) float64 { return math.Round(r.Float64()*1e4) / 100 },
		"integers": func(r *rand.Rand) float64 { return float64(r.Int64N(1e12)) },
		"noise":    func(r *rand.Rand) float64 { return r.NormFloat64() },
	} {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 2))
			values := make([]float64, 1024)
			for i := range values {
				values[i] = f(r)
			}
			for b.Loop() {
				var s Sum
				s.AddAll(values)
				_ = s.Value()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/value")
		})
	}
}
