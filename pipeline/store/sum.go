package store

import (
	"math"
	"math/big"
	"math/bits"
)

// Sum adds float64 so that the result does not depend on order or grouping: it is the exact sum of what the samples stand for, rounded to float64 once.
// The zero value is the sum of nothing, 0.
//
// A sample stands for a decimal if it is the float64 nearest to one: with at most 9 decimals below 2^21 in magnitude, at most 3 below 2^41. So ten times
// 0.1 is 1. Every other sample stands for its binary value. Inf stays Inf, Inf and -Inf make NaN; NaN must not be added. Sum never yields -0.
// Decision 0014 says why.
type Sum struct {
	hi   int64 // decimals: hi·2^64 + lo, in units of 1e-9
	lo   uint64
	s, e float64 // binary values: s + e exactly
	rest *big.Float
	inf  uint8 // 1: +Inf was added, 2: -Inf
}

const (
	fineUnits, fineLimit     = 1e9, 1 << 21
	coarseUnits, coarseLimit = 1e3, 1 << 41
	// roundMagic added and taken away again rounds a float64 below 2^51 to an integer.
	roundMagic = 1.5 * (1 << 52)
	// exactBits hold any sum of 2^60 float64.
	exactBits = 2200
)

// decimal is v in units of 1e-9, if it stands for a decimal.
func decimal(v float64) (int64, bool) {
	if a := math.Abs(v); a < fineLimit {
		m := float64(float64(v*fineUnits)+roundMagic) - roundMagic
		return int64(m), m/fineUnits == v
	} else if a < coarseLimit {
		m := float64(float64(v*coarseUnits)+roundMagic) - roundMagic
		if m/coarseUnits == v {
			// 2^41 · 1e9 exceeds an int64 by far: the caller adds it in two parts.
			return int64(m), true
		}
	}
	return 0, false
}

// Reset makes it the sum of nothing.
func (x *Sum) Reset() { *x = Sum{} }

// Add adds v, which must not be NaN.
func (x *Sum) Add(v float64) {
	m, ok := decimal(v)
	if !ok {
		x.addBinary(v)
		return
	}
	if math.Abs(v) < fineLimit {
		x.add(m>>63, uint64(m))
		return
	}
	x.addScaled(m, 1e6)
}

// AddAll adds the values that are not NaN and returns how many those are.
func (x *Sum) AddAll(values []float64) (n int64) {
	for _, v := range values {
		if v != v {
			continue
		}
		n++
		if v < fineLimit && v > -fineLimit {
			if m := float64(float64(v*fineUnits)+roundMagic) - roundMagic; m/fineUnits == v {
				i := int64(m)
				x.add(i>>63, uint64(i))
				continue
			}
			x.addBinary(v)
			continue
		}
		x.Add(v)
	}
	return n
}

// AddDecimals adds n samples whose mantissas m = value · 10^digits sum up to sum: what Add does for each, if each stands for that decimal.
func (x *Sum) AddDecimals(sum int64, digits int) { x.addScaled(sum, pow10[9-digits]) }

var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// StandsForDecimal tells whether a sample of magnitude at most limit that is the float64 nearest to a decimal with so many digits after the point stands for that decimal.
func StandsForDecimal(limit float64, digits int) bool {
	return limit < fineLimit && digits <= 9 || limit < coarseLimit && digits <= 3
}

func (x *Sum) addScaled(m int64, by uint64) {
	neg := m < 0
	u := uint64(m)
	if neg {
		u = -u
	}
	hi, lo := bits.Mul64(u, by)
	if neg {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	x.add(int64(hi), lo)
}

func (x *Sum) add(hi int64, lo uint64) {
	var carry uint64
	x.lo, carry = bits.Add64(x.lo, lo, 0)
	x.hi += hi + int64(carry)
}

func twoSum(a, b float64) (s, e float64) {
	s = a + b
	bb := s - a
	return s, (a - (s - bb)) + (b - bb)
}

func (x *Sum) addBinary(v float64) {
	if math.IsInf(v, 0) {
		if v > 0 {
			x.inf |= 1
		} else {
			x.inf |= 2
		}
		return
	}
	s, e := twoSum(x.s, v)
	e1, e2 := twoSum(x.e, e)
	if e2 != 0 || s-s != 0 || e1-e1 != 0 {
		x.spill(v)
		return
	}
	x.s, x.e = s, e1
}

func (x *Sum) spill(v float64) {
	if x.rest == nil {
		x.rest = new(big.Float).SetPrec(exactBits)
	} else { // a copy of a Sum keeps what it had
		x.rest = new(big.Float).Copy(x.rest)
	}
	x.rest.Add(x.rest, new(big.Float).SetFloat64(v))
}

// Merge adds all that y has.
func (x *Sum) Merge(y *Sum) {
	x.add(y.hi, y.lo)
	x.inf |= y.inf
	x.addBinary(y.s)
	x.addBinary(y.e)
	if y.rest != nil {
		x.spill(0)
		x.rest.Add(x.rest, y.rest)
	}
}

// Value is the sum, rounded to nearest even.
func (x *Sum) Value() float64 {
	switch x.inf {
	case 1:
		return math.Inf(1)
	case 2:
		return math.Inf(-1)
	case 3:
		return math.NaN()
	}
	dec, bin := x.hi|int64(x.lo) != 0, x.s != 0 || x.e != 0
	switch {
	case x.rest != nil:
		return x.slow()
	case !dec:
		return x.s + x.e + 0
	case !bin:
		return units(x.hi, x.lo)
	}
	if y, ok := x.binary(); ok {
		return y.s + y.e + 0
	}
	if v, ok := x.mixed(); ok {
		return v
	}
	return x.slow()
}

// mixed is the sum of decimals and binary values where few bits more than a float64 has tell how it is rounded: nearly always. It is ten times
// cheaper than slow.
func (x *Sum) mixed() (v float64, ok bool) {
	if x.hi >= 1<<52 || x.hi <= -1<<52 {
		return 0, false
	}
	// The decimals are d1 + d2, but for less than 2^-102 of d1: the quotient, and what is left over it.
	n, n1 := twoSum(float64(x.hi)*(1<<64), float64(x.lo>>32)*(1<<32))
	n, n2 := twoSum(n, float64(x.lo&(1<<32-1)))
	d1 := n / fineUnits
	p := float64(d1 * fineUnits)
	d2 := (((n - p) + (n1 + n2)) - math.FMA(d1, fineUnits, -p)) / fineUnits
	a, b := twoSum(d1, x.s)
	t := b + (d2 + x.e)
	// All together it is a + t, but for less than this. If it is rounded to the same at both ends, then everywhere between them.
	err := 0x1p-50*(math.Abs(b)+math.Abs(d2)+math.Abs(x.e)) + 0x1p-98*math.Abs(d1)
	v = a + (t - err)
	return v, v-v == 0 && v == a+(t+err)
}

// binary is x with its decimals as binary values, if they are a small integer.
func (x *Sum) binary() (y Sum, ok bool) {
	if x.rest != nil || x.hi != int64(x.lo)>>63 || int64(x.lo)%1e9 != 0 {
		return y, false
	}
	y = Sum{s: x.s, e: x.e, inf: x.inf}
	y.addBinary(float64(int64(x.lo) / 1e9))
	return y, y.rest == nil
}

func (x *Sum) exact() *big.Rat {
	n := new(big.Int).Lsh(big.NewInt(x.hi), 64)
	n.Add(n, new(big.Int).SetUint64(x.lo))
	sum := new(big.Rat).SetFrac(n, big.NewInt(1e9))
	sum.Add(sum, new(big.Rat).SetFloat64(x.s))
	sum.Add(sum, new(big.Rat).SetFloat64(x.e))
	if x.rest != nil {
		r, _ := x.rest.Rat(nil)
		sum.Add(sum, r)
	}
	return sum
}

func (x *Sum) slow() float64 {
	f, _ := x.exact().Float64()
	return f + 0
}

// units is the 128-bit integer in units of 1e-9, rounded once.
func units(hi int64, lo uint64) float64 {
	neg := hi < 0
	h := uint64(hi)
	if neg {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		h, _ = bits.Sub64(0, h, borrow)
	}
	var f float64
	if h == 0 && lo < 1<<53 {
		f = float64(lo) / fineUnits
	} else {
		// The quotient of 127 bits by 64 bits has at least 63: its last bit can stand for the remainder.
		var shift int
		if h == 0 {
			shift = 63 + bits.LeadingZeros64(lo)
		} else {
			shift = bits.LeadingZeros64(h) - 1
		}
		switch {
		case shift < 0:
			h, lo = h>>1, h<<63|lo>>1|lo&1 // only -2^127
		case shift >= 64:
			h, lo = lo<<(shift-64), 0
		default:
			h, lo = h<<shift|lo>>(64-shift), lo<<shift
		}
		q, r := bits.Div64(h, lo, 1e9<<34)
		if r != 0 {
			q |= 1
		}
		f = math.Ldexp(float64(q), 34-shift)
	}
	if neg {
		return -f
	}
	return f
}

// Split is the sum as two numbers that, added to a Sum, are the same as all that was added to x. Ok is false if there are no such.
func (x *Sum) Split() (sum, err float64, ok bool) {
	if x.inf != 0 {
		return x.Value(), 0, x.inf != 3
	}
	try := func(a, b float64) bool {
		var y Sum
		y.Add(a)
		y.Add(b)
		return y.same(x)
	}
	sum = x.Value()
	if try(sum, 0) {
		return sum, 0, true
	}
	if x.rest != nil {
		return sum, 0, false
	}
	if y, yes := x.binary(); yes {
		if err = (y.s - sum) + y.e; try(sum, err) {
			return sum, err, true
		}
	}
	if x.s == 0 && x.e == 0 {
		whole := math.Trunc(sum)
		var y Sum
		y.Add(-whole)
		y.add(x.hi, x.lo)
		if err = y.Value(); try(whole, err) {
			return whole, err, true
		}
	}
	return sum, 0, false
}

// same tells whether both are the same number exactly.
func (x *Sum) same(y *Sum) bool {
	if x.inf != y.inf {
		return false
	}
	if x.rest == nil && y.rest == nil && x.hi == y.hi && x.lo == y.lo {
		return sameTwo(x, y)
	}
	a, ok := x.binary()
	b, ok2 := y.binary()
	switch {
	case ok && ok2:
		return sameTwo(&a, &b)
	case x.rest == nil && y.rest == nil && x.s == 0 && x.e == 0 && y.s == 0 && y.e == 0:
		return false
	}
	return x.exact().Cmp(y.exact()) == 0
}

// sameTwo compares the binary parts: rounded sum and error are one pair for one number.
func sameTwo(x, y *Sum) bool {
	s, e := twoSum(x.s, x.e)
	s2, e2 := twoSum(y.s, y.e)
	return s == s2 && e == e2
}
