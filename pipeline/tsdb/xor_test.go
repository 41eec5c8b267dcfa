package tsdb

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

func FuzzDecodeXOR(f *testing.F) {
	add := func(ts []int64, vs []float64) {
		c := chunkenc.NewXORChunk()
		a, err := c.Appender()
		if err != nil {
			f.Fatal(err)
		}
		for i := range ts {
			a.Append(0, ts[i], vs[i])
		}
		f.Add(c.Bytes())
	}
	add(nil, nil)
	add([]int64{5}, []float64{1})
	add([]int64{-5, 5}, []float64{1, math.NaN()})
	var ts []int64
	var vs []float64
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range int64(200) {
		ts, vs = append(ts, 1515917973043+i*15000+rnd.Int64N(1<<(i%40+1))), append(vs, rnd.NormFloat64()*math.Pow(10, float64(i%30)))
	}
	slices.Sort(ts)
	add(ts, vs)
	for _, d := range []int64{8191, 8192, 8193, -8191, -8192, 65536, 65537, -65535, 524288, 524289, -524287, -524288, 1 << 40} {
		add([]int64{0, 1e6, 2e6 + d, 3e6 + 3*d, 4e6}, []float64{0, 1, 1, 1, math.Inf(1)}) // where the codes of time change
	}
	f.Add([]byte{0, 3, 1})
	f.Add([]byte("\x000000"))
	f.Add([]byte{255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 {
			return
		}
		at, values, err := decodeXOR(b, math.MinInt64, math.MaxInt64, nil, nil)
		c, cerr := chunkenc.FromData(chunkenc.EncXOR, b)
		if cerr != nil {
			return
		}
		it := c.Iterator(nil)
		var wantAt []kemi.Millis
		var want []uint64
		for it.Next() != chunkenc.ValNone {
			ts, v := it.At()
			if math.Float64bits(v) != staleBits {
				wantAt, want = append(wantAt, kemi.Millis(ts)), append(want, math.Float64bits(v))
			}
		}
		if it.Err() != nil {
			if err == nil {
				t.Fatalf("upstream: %v; we read %d samples", it.Err(), len(at))
			}
			return
		}
		if err != nil {
			return // of what is not well formed, upstream reads beyond the end or shifts by a negative number of bits, and goes on
		}
		if !slices.Equal(at, wantAt) {
			t.Fatalf("times %v, want %v", at, wantAt)
		}
		for i := range values {
			if math.Float64bits(values[i]) != want[i] {
				t.Fatalf("value %d: %x, want %x", i, math.Float64bits(values[i]), want[i])
			}
		}
	})
}

// FuzzXORRoundTrip makes well-formed chunks of what it is given.
func FuzzXORRoundTrip(f *testing.F) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for n := range 40 {
		b := make([]byte, n*40)
		for i := range b {
			b[i] = byte(rnd.Uint32() >> (8 * (n % 4)))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := chunkenc.NewXORChunk()
		a, err := c.Appender()
		if err != nil {
			t.Fatal(err)
		}
		var at []kemi.Millis
		var values []uint64
		last := int64(0)
		v := uint64(0)
		for ; len(b) >= 18 && len(at) < 1000; b = b[18:] {
			last += int64(binary.LittleEndian.Uint64(b) >> (b[16] % 64))
			v ^= binary.LittleEndian.Uint64(b[8:]) >> (b[17] % 64) << (b[17] / 64 * 8)
			a.Append(0, last, math.Float64frombits(v))
			if v != staleBits {
				at, values = append(at, kemi.Millis(last)), append(values, v)
			}
		}
		gotAt, got, err := decodeXOR(c.Bytes(), math.MinInt64, math.MaxInt64, nil, nil)
		if err != nil || !slices.Equal(gotAt, at) {
			t.Fatalf("%v: times %v, want %v", err, gotAt, at)
		}
		for i := range got {
			if math.Float64bits(got[i]) != values[i] {
				t.Fatalf("value %d: %x, want %x", i, math.Float64bits(got[i]), values[i])
			}
		}
	})
}

func TestDecodeXORRange(t *testing.T) {
	c := chunkenc.NewXORChunk()
	a, err := c.Appender()
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(10) {
		a.Append(0, i*10, float64(i))
	}
	at, values, err := decodeXOR(c.Bytes(), 30, 50, []kemi.Millis{1}, []float64{1})
	if err != nil || !slices.Equal(at, []kemi.Millis{1, 30, 40, 50}) || !slices.Equal(values, []float64{1, 3, 4, 5}) {
		t.Errorf("%v %v %v", at, values, err)
	}
	for n := range c.Bytes() {
		if _, _, err := decodeXOR(c.Bytes()[:n], 0, 1000, nil, nil); err == nil {
			t.Errorf("%d bytes of %d pass for a whole chunk", n, len(c.Bytes()))
		}
	}
}
