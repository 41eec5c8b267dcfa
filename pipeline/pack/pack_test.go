package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"kemi"
)

var staleMarker = math.Float64frombits(0x7ff0000000000002)

const begin = kemi.Millis(1_790_000_000_000)

// pack packs, unpacks, compares bit for bit and returns the bytes.
func pack(t testing.TB, times []uint32, values []float64) []byte {
	t.Helper()
	packed := Append([]byte("before"), times, values)
	if string(packed[:6]) != "before" {
		t.Fatalf("what was in dst has become %q", packed[:6])
	}
	packed = slices.Clip(packed[6:])
	if got := Count(packed); got != len(values) {
		t.Fatalf("Count = %d of %d samples", got, len(values))
	}
	at, got, err := Decode(packed, begin, []kemi.Millis{1, 2}, []float64{3})
	if err != nil {
		t.Fatalf("decode %x of %v at %v: %v", packed, values, times, err)
	}
	if len(at) != 2+len(times) || at[0] != 1 || at[1] != 2 || len(got) != 1+len(values) || got[0] != 3 {
		t.Fatalf("decoded %d times and %d values of %d; before them %v, %v", len(at)-2, len(got)-1, len(values), at[:2], got[:1])
	}
	for i, v := range values {
		if at[i+2] != begin+kemi.Millis(times[i]) {
			t.Fatalf("time %d of %v: %d ms", i, times, at[i+2]-begin)
		}
		if !same(got[i+1], v) {
			t.Fatalf("value %d of %v: %v (%#x), want %v (%#x)", i, values, got[i+1], math.Float64bits(got[i+1]), v, math.Float64bits(v))
		}
	}
	return packed
}

func regular(n int) []uint32 {
	times := make([]uint32, n)
	for i := range times {
		times[i] = uint32(i) * 15_000
	}
	return times
}

func jittered(r *rand.Rand, n int) []uint32 {
	times := make([]uint32, n)
	for i := 1; i < n; i++ {
		times[i] = times[i-1] + 14_990 + r.Uint32N(20)
	}
	return times
}

func leftOut(r *rand.Rand, n int) []uint32 {
	times := make([]uint32, n)
	for i := 1; i < n; i++ {
		times[i] = times[i-1] + 15_000*(1+r.Uint32N(20)/18)
	}
	return times
}

type shape struct {
	name   string
	times  func(r *rand.Rand, n int) []uint32
	values func(r *rand.Rand, n int) []float64
	bytes  float64 // a sample, at most, of 32
}

func anyTimes(_ *rand.Rand, n int) []uint32 { return regular(n) }

func walk(decimals int, step int64) func(r *rand.Rand, n int) []float64 {
	return func(r *rand.Rand, n int) []float64 {
		m := r.Int64N(10_000)
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(m) / powers[decimals]
			m += r.Int64N(2*step+1) - step
		}
		return values
	}
}

func counter(step int64) func(r *rand.Rand, n int) []float64 {
	return func(r *rand.Rand, n int) []float64 {
		m := r.Int64N(1e9)
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(m)
			m += r.Int64N(step)
		}
		return values
	}
}

func each(f func(r *rand.Rand, i int) float64) func(r *rand.Rand, n int) []float64 {
	return func(r *rand.Rand, n int) []float64 {
		values := make([]float64, n)
		for i := range values {
			values[i] = f(r, i)
		}
		return values
	}
}

var shapes = []shape{
	{"gauge", anyTimes, each(func(r *rand.Rand, _ int) float64 { return float64(r.IntN(10_000)) / 100 }), 2.2},
	{"gauge walking", anyTimes, walk(2, 50), 1.4},
	{"gauge of 3 decimals", anyTimes, each(func(r *rand.Rand, _ int) float64 { return float64(r.IntN(100_000)) / 1000 }), 2.6},
	{"counter", anyTimes, counter(2000), 1.9},
	{"constant", anyTimes, each(func(*rand.Rand, int) float64 { return 42.5 }), 0.4},
	{"zero", anyTimes, each(func(*rand.Rand, int) float64 { return 0 }), 0.25},
	{"random floats", anyTimes, each(func(r *rand.Rand, _ int) float64 { return r.Float64() * 100 }), 8.3},
	{"near floats", anyTimes, each(func(r *rand.Rand, _ int) float64 { return 100 + r.Float64() }), 6.6},
	{"negative floats", anyTimes, each(func(r *rand.Rand, _ int) float64 { return -100 - r.Float64() }), 6.6},
	{"pages of memory", anyTimes, each(func(r *rand.Rand, _ int) float64 { return float64(1<<33 + 4096*r.Int64N(1<<12)) }), 2.2},
	{"nanoseconds", anyTimes, each(func(r *rand.Rand, i int) float64 { return 1.79e18 + float64(i)*15e9 + float64(r.IntN(1000)) }), 2.3},
	{"large decimals", anyTimes, each(func(r *rand.Rand, _ int) float64 { return 4e9 + float64(r.IntN(10_000))/1000 }), 2.6},
	{"seconds of a CPU", anyTimes, each(func(r *rand.Rand, i int) float64 { return float64(5e9+int64(i)*1400+r.Int64N(100)) / 100 }), 1.6},
	{"negative decimals", anyTimes, each(func(r *rand.Rand, _ int) float64 { return -float64(r.IntN(10_000)) / 10 }), 2.2},
	{"decimals grow", anyTimes, each(func(_ *rand.Rand, i int) float64 { return 1 + 1/powers[min(i/3, maxDecimals)] }), 8.3},
	{"stale at the end", anyTimes, func(r *rand.Rand, n int) []float64 {
		values := counter(2000)(r, n)
		values[n-1] = staleMarker
		return values
	}, 2.2},
	{"some odd", anyTimes, each(func(r *rand.Rand, i int) float64 {
		switch i % 40 {
		case 0:
			return math.Copysign(0, -1)
		case 17:
			return math.Inf(-1)
		}
		return float64(r.IntN(100)) / 10
	}), 2.1},
	{"odd among floats", anyTimes, each(func(r *rand.Rand, i int) float64 {
		if i%20 == 3 {
			return math.NaN()
		}
		return 64 + r.Float64()
	}), 7.5},
	{"all odd", anyTimes, each(func(_ *rand.Rand, i int) float64 {
		return []float64{math.NaN(), staleMarker, math.Inf(1), math.Copysign(0, -1), math.Float64frombits(math.MaxUint64)}[i%5]
	}), 8.3},
	{"NaN only", anyTimes, each(func(*rand.Rand, int) float64 { return math.NaN() }), 0.5},
	{"bits", anyTimes, each(func(r *rand.Rand, _ int) float64 { return math.Float64frombits(r.Uint64()) }), 8.3},
	{"jitter", jittered, counter(2000), 2.6},
	{"left out", leftOut, counter(2000), 2.2},
	{"any times", func(r *rand.Rand, n int) []uint32 {
		times := make([]uint32, n)
		for i := 1; i < n; i++ {
			times[i] = times[i-1] + r.Uint32N(1<<24)
		}
		return times
	}, counter(2000), 5.5},
	{"all at once", func(_ *rand.Rand, n int) []uint32 { return make([]uint32, n) }, counter(2000), 1.9},
}

func TestShapes(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			for n := 1; n <= MaxSamples; n++ {
				pack(t, s.times(r, n), s.values(r, n))
			}
			bytes := 0
			for range 100 {
				bytes += len(pack(t, s.times(r, 32), s.values(r, 32)))
			}
			if got := float64(bytes) / 3200; got > s.bytes {
				t.Errorf("%.2f bytes a sample, at most %.2f", got, s.bytes)
			}
		})
	}
}

// Integers and bits of every width, whole or differences, at every count, decimals or not.
func TestWidths(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for width := range 65 {
		for _, n := range []int{2, 3, 7, 8, 9, 31, 32, 33, 64, 254, 255} {
			for _, base := range []int64{0, 1, -1, 127, -128, -129, 1 << 30, -1 << 40, 1 << 52, math.MinInt64, math.MaxInt64} {
				asBits, asIntegers, asDecimals, asSums := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
				sum := base
				for i := range n {
					u := int64(r.Uint64() >> (64 - width))
					if i < 2 {
						u = []int64{0, int64(uint64(math.MaxUint64) >> (64 - width))}[i]
					}
					sum += u
					asBits[i], asSums[i] = math.Float64frombits(uint64(base+u)), math.Float64frombits(uint64(sum))
					asIntegers[i], asDecimals[i] = float64(base+u), float64(base+u)/powers[r.IntN(maxDecimals+1)]
				}
				pack(t, regular(n), asBits)
				pack(t, regular(n), asSums)
				pack(t, regular(n), asIntegers)
				pack(t, regular(n), asDecimals)
			}
		}
	}
}

func TestClockWidths(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for width := range 33 {
		for _, n := range []int{1, 2, 3, 8, 9, 32, 255} {
			for _, factor := range []uint32{1, 2, 15_000, 1 << 31} {
				times := make([]uint32, n)
				last := uint64(0)
				for i := 1; i < n; i++ {
					last += r.Uint64() >> (64 - width) * uint64(factor)
					if i == 1 {
						last = (1<<width - 1) * uint64(factor)
					}
					times[i] = uint32(min(last, math.MaxUint32))
				}
				pack(t, times, make([]float64, n))
			}
		}
	}
}

// Where the power of ten cannot be seen from the first value, or the product of its parts does not do.
func TestDecimals(t *testing.T) {
	r := rand.New(rand.NewPCG(16, 17))
	for k := range maxDecimals + 1 {
		for i := range 20_000 {
			m := r.Int64() >> r.IntN(63)
			if i&1 != 0 {
				m = -m
			}
			v := float64(m) / powers[k]
			size := bits.Len64(uint64(max(m, -m)))
			if d := decimals(v, 0); size <= 50 && (d < 0 || d > k) {
				t.Fatalf("%v has %d decimals, found %d", v, k, d)
			}
			if back := product(m, parts[k][0], parts[k][1]); size <= exactly[k] && k <= 7 && !same(back, v) {
				t.Fatalf("%d / 1e%d: %v, the product of the parts is %v", m, k, v, back)
			}
			if i < 1000 {
				pack(t, regular(3), []float64{1, 2.5, v})
			}
		}
	}
	if d := decimals(math.Pi, 0); d >= 0 {
		t.Errorf("pi has %d decimals", d)
	}
}

func TestRandomMixtures(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range 20_000 {
		n := 1 + r.IntN(MaxSamples)
		a, b := &shapes[r.IntN(len(shapes))], &shapes[r.IntN(len(shapes))]
		values := a.values(r, n)
		other := b.values(r, n)
		for range r.IntN(4) {
			k := r.IntN(n)
			values[k] = other[k]
		}
		if r.IntN(8) == 0 {
			copy(values[r.IntN(n):], other)
		}
		if !t.Run("", func(t *testing.T) { pack(t, b.times(r, n), values) }) {
			t.Fatalf("seed %d, mixture %d", seed, i)
		}
	}
}

func TestRoom(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	for _, s := range shapes {
		times, values := s.times(r, 100), s.values(r, 100)
		packed := slices.Clip(Append(nil, times, values))
		room := make([]byte, len(packed))
		at, out := make([]kemi.Millis, 0, 100), make([]float64, 0, 100)
		if got := testing.AllocsPerRun(10, func() {
			Append(room[:0], times, values)
			if _, _, err := Decode(room, 0, at, out); err != nil {
				t.Error(err)
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations", s.name, got)
		}
	}
}

func TestNotSamples(t *testing.T) {
	for _, n := range []int{0, 256} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d samples were packed", n)
				}
			}()
			Append(nil, make([]uint32, n), make([]float64, n))
		}()
	}
}

// Each pack cut off, longer, or with another byte is an error or as many samples as it says, in order.
func TestDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 11))
	for _, s := range shapes {
		for _, n := range []int{1, 2, 32, 255} {
			packed := Append(nil, s.times(r, n), s.values(r, n))
			for i := range packed {
				if _, _, err := Decode(slices.Clone(packed[:i]), begin, nil, nil); err == nil {
					t.Errorf("%s: %d of %d bytes were enough", s.name, i, len(packed))
				}
				b := slices.Clone(packed)
				b[i] ^= byte(1 + r.IntN(255))
				unpack(t, b)
			}
			if _, _, err := Decode(append(packed, 0), begin, nil, nil); err == nil {
				t.Errorf("%s: a byte more was taken", s.name)
			}
		}
	}
}

func unpack(t *testing.T, b []byte) (at []kemi.Millis, values []float64, ok bool) {
	at, values, err := Decode(b, begin, nil, nil)
	if err != nil {
		if len(at)+len(values) > 0 {
			t.Fatalf("%x: %d times, %d values and %v", b, len(at), len(values), err)
		}
		return nil, nil, false
	}
	if len(at) != Count(b) || len(values) != Count(b) || at[0] != begin || !slices.IsSorted(at) {
		t.Fatalf("%x: %d values at %v", b, len(values), at)
	}
	return at, values, true
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(12, 13))
	for _, s := range shapes {
		for _, n := range []int{1, 2, 9, 32} {
			f.Add(Append(nil, s.times(r, n), s.values(r, n)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		at, values, ok := unpack(t, slices.Clip(slices.Clone(b)))
		if !ok {
			return
		}
		times := make([]uint32, len(at))
		for i := range at {
			times[i] = uint32(at[i] - begin)
		}
		pack(t, times, values)
	})
}

// Times and values are taken from any bytes.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint32(1000), byte(3), byte(5), binary.LittleEndian.AppendUint64(nil, 1234567))
	f.Add(uint32(0), byte(0), byte(16), make([]byte, 80))
	f.Add(uint32(math.MaxUint32), byte(30), byte(20), []byte("some bytes of which there are enough to be several values, all mixed"))
	f.Fuzz(func(t *testing.T, delta uint32, jitter, kind byte, b []byte) {
		var times []uint32
		var values []float64
		for ; len(b) >= 8 && len(values) < MaxSamples; b = b[8:] {
			u := binary.LittleEndian.Uint64(b)
			v := math.Float64frombits(u)
			if k := int(kind); k <= maxDecimals {
				v = float64(int64(u)>>(jitter&63)) / powers[k]
			} else if k < 32 {
				v = math.Float64frombits(math.Float64bits(float64(k)) + u>>(jitter&63))
			}
			now := uint64(0)
			if n := len(times); n > 0 {
				now = min(math.MaxUint32, uint64(times[n-1])+uint64(delta)+u&(1<<(jitter&31)-1))
			}
			times, values = append(times, uint32(now)), append(values, v)
		}
		if len(values) > 0 {
			pack(t, times, values)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	bench(b, func(b *testing.B, times [][]uint32, values [][]float64) {
		dst := make([]byte, 0, 4096)
		i, size := 0, 0
		for b.Loop() {
			dst = Append(dst[:0], times[i], values[i])
			size += len(dst)
			i = (i + 1) % len(times)
		}
		b.ReportMetric(float64(size)/float64(b.N)/float64(len(values[0])), "B/sample")
	})
}

func BenchmarkDecode(b *testing.B) {
	bench(b, func(b *testing.B, times [][]uint32, values [][]float64) {
		var packed [][]byte
		for i := range times {
			packed = append(packed, Append(nil, times[i], values[i]))
		}
		at, out := make([]kemi.Millis, 0, MaxSamples), make([]float64, 0, MaxSamples)
		i := 0
		for b.Loop() {
			if _, _, err := Decode(packed[i], begin, at, out); err != nil {
				b.Fatal(err)
			}
			i = (i + 1) % len(packed)
		}
	})
}

func bench(b *testing.B, run func(b *testing.B, times [][]uint32, values [][]float64)) {
	r := rand.New(rand.NewPCG(14, 15))
	for _, n := range []int{32, 255} {
		for _, name := range []string{"gauge", "gauge walking", "counter", "constant", "random floats", "jitter", "left out", "stale at the end", "seconds of a CPU", "large decimals"} {
			s := shapes[slices.IndexFunc(shapes, func(s shape) bool { return s.name == name })]
			var times [][]uint32
			var values [][]float64
			for range 64 {
				times, values = append(times, s.times(r, n)), append(values, s.values(r, n))
			}
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				run(b, times, values)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
			})
		}
	}
}
