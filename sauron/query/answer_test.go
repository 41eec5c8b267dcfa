package query

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
)

func TestNumbersAreShortest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	check := func(v float64) {
		t.Helper()
		if math.IsInf(v, 0) {
			return
		}
		got := string(appendValue(nil, v, false))
		format := byte('f')
		if a := math.Abs(v); a < 1e-6 || a >= 1e21 {
			format = 'e'
		}
		if want := strconv.FormatFloat(v, format, -1, 64); got != want && v != 0 {
			t.Fatalf("%x: %s, want %s", math.Float64bits(v), got, want)
		}
	}
	for _, v := range []float64{1, -1, 0.1, 0.30000000000000004, 1e-6, 9.99e-7, 123456789.123456, 999999999.999999, 1e9, 1e9 + 0.5, 0.000001, 4.35, 1e21, 1e20, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		check(v)
		check(-v)
		check(math.Nextafter(v, 0))
		check(math.Nextafter(v, math.Inf(1)))
	}
	for range 200_000 {
		v := float64(rnd.Int64N(1e15)) / math.Pow(10, float64(rnd.IntN(12)))
		check(v)
		check(math.Nextafter(v, 0))
		check(rnd.NormFloat64() * math.Pow(10, float64(rnd.IntN(30)-10)))
		if v := math.Float64frombits(rnd.Uint64()); !math.IsNaN(v) {
			check(v)
		}
	}
}

func TestStringsInJSON(t *testing.T) {
	for _, s := range []string{"", "cpu.user", "a b", `"`, `\`, "\n", "\x00", "서울", "\u2028", "<&>", "\x7f", "\xff"} {
		var back string
		b := appendString(nil, s)
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q: %s: %v", s, b, err)
		}
		if want := string(appendJSON(nil, s)); string(b) != want {
			t.Errorf("%q: %s, want %s", s, b, want)
		}
	}
}

// Large answers use each other's memory: none may see another's values.
func TestArena(t *testing.T) {
	for round := range 3 {
		var a arena
		var all [][]float64
		for i := range 3 * slabValues / 1000 {
			v := make([]float64, 1000)
			for j := range v {
				v[j] = float64(round*1_000_000 + i*1000 + j)
			}
			all = append(all, a.values(v))
		}
		for i, v := range all {
			for j, x := range v {
				if x != float64(round*1_000_000+i*1000+j) {
					t.Fatalf("value %d of %d: %v", j, i, x)
				}
			}
		}
		at := a.times([]int64{1, 2})
		if again := a.times([]int64{1, 2}); &again[0] != &at[0] {
			t.Error("the same times are kept twice")
		}
		if other := a.times([]int64{1, 3}); other[1] != 3 || at[1] != 2 {
			t.Error("other times overwrite the ones before")
		}
		a.release()
	}
}
