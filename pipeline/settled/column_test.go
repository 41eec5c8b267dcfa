package settled

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// again codes the values and reads them.
func again(t testing.TB, e *encoder, s *streams, values []float64) (size int) {
	s.heads, s.high, s.low = s.heads[:0], s.high[:0], s.low[:0]
	e.floats(s, values)
	var c column
	r := headReader{b: s.heads}
	c.read(&r, len(values))
	if r.bad || len(r.b) != 0 {
		t.Fatalf("head of %d values: bad %v, %d bytes left", len(values), r.bad, len(r.b))
	}
	if c.highBytes() != len(s.high) || c.lowBytes() != len(s.low) {
		t.Fatalf("streams are %d and %d bytes, the head says %d and %d", len(s.high), len(s.low), c.highBytes(), c.lowBytes())
	}
	size = len(s.heads) + len(s.high) + len(s.low)
	low := append(s.low, make([]byte, lowPadding)...)
	got := c.floats(nil, 0, len(values), make([]int64, len(values)), s.high, low)
	for i, v := range values {
		if math.Float64bits(v) != math.Float64bits(got[i]) {
			t.Fatalf("value %d of %d: %x (%v), want %x (%v)", i, len(values), math.Float64bits(got[i]), got[i], math.Float64bits(v), v)
		}
	}
	for _, from := range []int{1, 7, 8, 9, 100, 130, len(values) / 2, len(values) - 9, len(values) - 1} { // parts
		if from < 0 || from >= len(values) {
			continue
		}
		to := min(from+11, len(values))
		for i, v := range c.floats(nil, from, to, make([]int64, len(values)), s.high, low) {
			if v, want := math.Float64bits(v), math.Float64bits(values[from+i]); v != want {
				t.Fatalf("value %d of %d, read from %d to %d: %x, want %x", from+i, len(values), from, to, v, want)
			}
		}
	}
	return size
}

// shapes are how series behave. Each appends n values.
var shapes = map[string]func(r *rand.Rand, n int) []float64{
	"constant": func(r *rand.Rand, n int) []float64 { return walk(n, func(float64) float64 { return 1 << 32 }) },
	"percent": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(v float64) float64 { return math.Abs(math.Round((v+(r.Float64()-.5)*3)*100) / 100) })
	},
	"pages": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(v float64) float64 { return math.Abs(v + float64(r.IntN(2000)-1000)*4096) })
	},
	"counter": func(r *rand.Rand, n int) []float64 {
		speed := int64(math.Pow(10, 1+6*r.Float64()))
		return walk(n, func(v float64) float64 { return v + float64(r.Int64N(speed)) })
	},
	"counter of few": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(v float64) float64 { return v + float64(r.IntN(20)/18) })
	},
	"counter with resets": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(v float64) float64 {
			if r.IntN(100) == 0 {
				return 0
			}
			return v + float64(r.IntN(1000))
		})
	},
	"seconds": func(r *rand.Rand, n int) []float64 { return walk(n, func(v float64) float64 { return v + 15 }) },
	"one decimal": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(float64) float64 { return float64(r.IntN(1000)) / 10 })
	},
	"four decimals": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(v float64) float64 { return math.Round((v+r.NormFloat64())*1e4) / 1e4 })
	},
	"long tail": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(float64) float64 { return math.Round(math.Exp(r.NormFloat64()*2)*1e3) / 1e3 })
	},
	"noise": func(r *rand.Rand, n int) []float64 { return walk(n, func(float64) float64 { return r.Float64() - .5 }) },
	"float32": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(float64) float64 { return float64(float32(20 + r.NormFloat64())) })
	},
	"any bits": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(float64) float64 { return math.Float64frombits(r.Uint64()) })
	},
	"specials": func(r *rand.Rand, n int) []float64 {
		return walk(n, func(v float64) float64 {
			switch r.IntN(12) {
			case 0:
				return math.NaN()
			case 1:
				return math.Float64frombits(0x7ff0000000000002)
			case 2:
				return math.Inf(1 - 2*r.IntN(2))
			case 3:
				return math.Copysign(0, -1)
			case 4:
				return 0
			case 5:
				return math.MaxFloat64 * float64(1-2*r.IntN(2))
			case 6:
				return math.SmallestNonzeroFloat64
			case 7:
				return r.NormFloat64()
			}
			return float64(r.IntN(100)) / 4
		})
	},
	"end": func(r *rand.Rand, n int) []float64 {
		v := walk(n, func(float64) float64 { return float64(r.IntN(100)) })
		v[n-1] = math.Float64frombits(0x7ff0000000000002)
		v[0] = math.NaN()
		return v
	},
}

func walk(n int, step func(v float64) float64) []float64 {
	out, v := make([]float64, n), 50.0
	for i := range out {
		v = step(v)
		out[i] = v
	}
	return out
}

func TestColumnsComeOutBitForBit(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var e encoder
	var s streams
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			for range 150 {
				again(t, &e, &s, shape(r, 1+r.IntN(600)))
			}
			n := 4096
			t.Logf("%.3f bytes a value before zstd", float64(again(t, &e, &s, shape(r, n)))/float64(n))
		})
	}
}

func FuzzColumn(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, shape := range shapes {
		var b []byte
		for _, v := range shape(r, 20) {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
		f.Add(b)
	}
	var e encoder
	var s streams
	f.Fuzz(func(t *testing.T, b []byte) {
		var values []float64
		for ; len(b) >= 8 && len(values) < maxChunkSamples; b = b[8:] {
			values = append(values, math.Float64frombits(binary.LittleEndian.Uint64(b)))
		}
		if len(values) > 0 {
			again(t, &e, &s, values)
		}
	})
}

func BenchmarkColumn(b *testing.B) {
	for name, shape := range shapes {
		values := shape(rand.New(rand.NewPCG(5, 6)), 4096)
		var e encoder
		var s streams
		b.Run("encode/"+name, func(b *testing.B) {
			for b.Loop() {
				s.heads, s.high, s.low = s.heads[:0], s.high[:0], s.low[:0]
				e.floats(&s, values)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/value")
			b.ReportMetric(float64(len(s.heads)+len(s.high)+len(s.low))/4096, "B/value")
		})
		var c column
		r := headReader{b: s.heads}
		c.read(&r, len(values))
		low := append(s.low, make([]byte, lowPadding)...)
		out, scratch := make([]float64, 0, 4096), make([]int64, 4096)
		b.Run("decode/"+name, func(b *testing.B) {
			for b.Loop() {
				c.floats(out, 0, c.n, scratch, s.high, low)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/value")
		})
	}
}
