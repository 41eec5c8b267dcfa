package pack

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// MaxSamples is how many samples can be packed together.
const MaxSamples = 255

// The second byte.
const (
	modeJitter  = 1 << iota // the differences between times are packed
	modeFactor              // and have a factor
	modeDeltas              // the differences between values are packed
	modeShift               // what is packed of the values was shifted right
	modeProduct             // decimals are multiplied by the two parts of 10^-k, not divided by 10^k
	modeOdd                 // some values are listed, because they are not like the others
	modes                   // there are no others
)

const (
	headBytes = 8 // of each pack. Words that hold the first packed integers begin in them, so that no word reaches past the end

	kindBits    = 15 // not a number of decimals: the integers are the bits of the floats
	maxDecimals = 12
	maxWidth    = 56 // a word that ends with the byte in which an integer ends has all of it
	rawWidth    = 64 // the bits of the floats as they are

	oddBytes   = 9 // of a value that is listed: where, what
	oddOneIn   = 8 // so many of the values may be listed
	maxOdd     = MaxSamples / oddOneIn
	shiftPays  = 16 // bits
	lastFactor = 33 // width of what is packed of times + bits of the factor: no sum overflows
)

// powers and what divides by them: parts[k][0] + parts[k][1] is 10^-k. The first has so few bits that its product with a mantissa of exactly[k] bits is exact, and so many
// that the rounding of the other product is, up to 7 decimals, less than what a quotient can be short of the middle between two floats (2^-54/10^k of itself). So the sum is rounded
// as the quotient is, for a third of the time. Packing looks whether it is so.
var (
	powers  = [maxDecimals + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12}
	exactly [maxDecimals + 1]int
	parts   = func() (t [maxDecimals + 1][2]float64) {
		for k, p := range powers {
			keep := min(27, 3+bits.Len64(uint64(p)))
			exactly[k] = 53 - keep
			high := math.Float64frombits(math.Float64bits(1/p) &^ (1<<(53-keep) - 1))
			t[k] = [2]float64{high, math.FMA(-high, p, 1) / p} // the remainder is exact
		}
		return t
	}()
)

// toInteger + v has the integer next to v in its lowest bits, if v is within ±2^51.
const (
	toInteger     = 3 << 51
	toIntegerBits = 0x433<<52 | 1<<51
)

// mantissa is the integer next to v · power; whether it gives v back must be looked at. The conversion keeps it the same on machines that multiply and add at once.
func mantissa(v, power float64) int64 {
	return int64(math.Float64bits(float64(v*power)+toInteger)) - toIntegerBits
}

func quotient(m int64, power float64) float64 { return float64(m) / power }

func product(m int64, high, low float64) float64 {
	return float64(float64(m)*high) + float64(float64(m)*low)
}

func same(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

// decimals is how many decimals v has, at least from, or -1.
func decimals(v float64, from int) int {
	for k := from; k <= maxDecimals; k++ {
		x := v * powers[k]
		m := mantissa(v, powers[k])
		if math.Abs(x-float64(m)) > math.Abs(x)*0x1p-50 { // spares most divisions; false for what is no number
			continue
		}
		if same(quotient(m, powers[k]), v) {
			return k
		}
	}
	return -1
}

// span is what there is to know of a run of integers.
type span struct {
	first    int64
	lo, hi   int64
	dlo, dhi int64  // of the differences
	all      uint64 // of the bits of the differences
}

// decimals looks at the mantissas and says how many of the values they give back.
func (s *span) decimals(values []float64, kind int, divide bool) int {
	power, high, low := powers[kind], parts[kind][0], parts[kind][1]
	m := mantissa(values[0], power)
	*s = span{first: m, lo: m, hi: m, dlo: math.MaxInt64, dhi: math.MinInt64}
	last := m
	for i, v := range values {
		m := mantissa(v, power)
		var back float64
		if divide {
			back = quotient(m, power)
		} else {
			back = product(m, high, low)
		}
		if !same(back, v) {
			return i
		}
		s.lo, s.hi = min(s.lo, m), max(s.hi, m)
		if i > 0 {
			d := m - last
			s.dlo, s.dhi, s.all = min(s.dlo, d), max(s.dhi, d), s.all|uint64(d)
		}
		last = m
	}
	return len(values)
}

// bits looks at the bits of the values.
func (s *span) bits(values []float64) {
	m := int64(math.Float64bits(values[0]))
	*s = span{first: m, lo: m, hi: m, dlo: math.MaxInt64, dhi: math.MinInt64}
	for _, v := range values[1:] {
		last := m
		m = int64(math.Float64bits(v))
		d := m - last
		s.lo, s.hi = min(s.lo, m), max(s.hi, m)
		s.dlo, s.dhi, s.all = min(s.dlo, d), max(s.dhi, d), s.all|uint64(d)
	}
}

// plan is how values are packed.
type plan struct {
	modes       byte
	kind        int
	base, step  int64 // the lowest integer; or the first one and the lowest difference
	baseLen     int
	stepLen     int
	shift       uint
	width       uint
	valueBytes  int
	headerBytes int
}

// length is how many bytes m takes as a signed integer, none if it is 0.
func length(m int64) int {
	if m == 0 {
		return 0
	}
	return (bits.Len64(uint64(m^m>>63)) + 8) / 8
}

// of chooses how to pack the values.
func (p *plan) of(values []float64) {
	n := len(values)
	if constant(values) {
		values = values[:1]
	}
	var s span
	kind, flags := p.domain(&s, values)
	*p = plan{kind: kind, modes: flags}
	if s.all == 0 {
		p.base, p.baseLen = s.first, length(s.first)
		p.headerBytes = headBytes + p.baseLen
		return
	}
	if shift := uint(bits.TrailingZeros64(s.all)); int(shift)*n >= shiftPays {
		p.shift = shift
		p.modes |= modeShift
	}
	plain, deltas := uint(bits.Len64(uint64(s.hi-s.lo)>>p.shift)), uint(bits.Len64(uint64(s.dhi-s.dlo)>>p.shift))
	p.base, p.width, p.baseLen, p.valueBytes = s.lo, plain, length(s.lo), packedBytes(n, plain)
	p.headerBytes = headBytes + p.baseLen
	if deltas < plain {
		b, st := length(s.first), length(s.dlo)
		if h, v := headBytes+b+1+st, packedBytes(n-1, deltas); h+v < p.headerBytes+p.valueBytes {
			p.modes |= modeDeltas
			p.base, p.step, p.width, p.baseLen, p.stepLen, p.headerBytes, p.valueBytes = s.first, s.dlo, deltas, b, st, h, v
		}
	}
	if p.shift > 0 {
		p.headerBytes++
	}
	if p.width > maxWidth || p.headerBytes+p.valueBytes > headBytes+8*n {
		*p = plan{kind: kindBits, width: rawWidth, valueBytes: 8 * n, headerBytes: headBytes}
	}
}

// domain chooses what integers are made of the values, and looks at them.
func (p *plan) domain(s *span, values []float64) (kind int, flags byte) {
	divide := false
	for k := decimals(values[0], 0); k >= 0; {
		i := s.decimals(values, k, divide)
		if i == len(values) {
			if !divide {
				flags = modeProduct
			}
			return k, flags
		}
		if !divide && same(quotient(mantissa(values[i], powers[k]), powers[k]), values[i]) {
			divide = true
			continue
		}
		k = decimals(values[i], k+1)
	}
	s.bits(values)
	return kindBits, 0
}

func constant(values []float64) bool {
	for _, v := range values[1:] {
		if !same(v, values[0]) {
			return false
		}
	}
	return true
}

func packedBytes(n int, width uint) int { return (n*int(width) + 7) / 8 }

// clock is how times are packed.
type clock struct {
	modes  byte
	delta  uint32 // the least
	factor uint32
	width  uint
	bytes  int
	header int
}

func (c *clock) of(times []uint32) {
	*c = clock{factor: 1}
	if len(times) < 2 {
		return
	}
	lo, hi := uint32(math.MaxUint32), uint32(0)
	for i, t := range times[1:] {
		d := t - times[i]
		lo, hi = min(lo, d), max(hi, d)
	}
	c.delta = lo
	if lo == hi {
		return
	}
	c.modes, c.header = modeJitter, 1
	if f := factor(times, lo); f > 1 {
		c.factor = f
		c.modes |= modeFactor
		c.header += 4
	}
	c.width = uint(bits.Len32((hi - lo) / c.factor))
	c.bytes = packedBytes(len(times)-1, c.width)
}

// factor is the least of what the differences are above lo, if it divides all others and that pays: if scrapes were left out, it is their distance.
func factor(times []uint32, lo uint32) uint32 {
	f := uint32(math.MaxUint32)
	for i, t := range times[1:] {
		if d := t - times[i] - lo; d > 0 {
			f = min(f, d)
		}
	}
	if (bits.Len32(f)-1)*(len(times)-1) < 4*8 {
		return 1
	}
	for i, t := range times[1:] {
		if (t-times[i]-lo)%f != 0 {
			return 1
		}
	}
	return f
}

// Append appends the packed samples to dst. times are milliseconds after the time of the first sample, so the first is 0; they do not descend. There are as many
// values, 1 to MaxSamples.
func Append(dst []byte, times []uint32, values []float64) []byte {
	if len(values) == 0 || len(values) > MaxSamples || len(times) != len(values) {
		panic("pack: not 1 to 255 samples")
	}
	var p plan
	p.of(values)
	if p.width == rawWidth {
		if odd := countOdd(values); odd > 0 && odd <= len(values)/oddOneIn {
			return appendOdd(dst, times, values, &p)
		}
	}
	return appendPlanned(dst, times, values, &p, nil)
}

// odd tells what no decimal is, nor near to one as bits: NaN, infinite, -0.
func odd(v float64) bool { return v-v != 0 || math.Float64bits(v) == 1<<63 }

func countOdd(values []float64) (n int) {
	for _, v := range values {
		if odd(v) {
			n++
		}
	}
	return n
}

// appendOdd lists what is odd and packs the others, if that is shorter than the plan: in the place of an odd one stands what is before.
func appendOdd(dst []byte, times []uint32, values []float64, all *plan) []byte {
	var (
		others [MaxSamples]float64
		list   [1 + maxOdd*oddBytes]byte
		last   float64
	)
	for _, v := range values {
		if !odd(v) {
			last = v
			break
		}
	}
	to := list[:1]
	for i, v := range values {
		if odd(v) {
			list[0]++
			to = append(to, byte(i))
			to = binary.LittleEndian.AppendUint64(to, math.Float64bits(v))
		} else {
			last = v
		}
		others[i] = last
	}
	var p plan
	p.of(others[:len(values)])
	if p.headerBytes+len(to)+p.valueBytes >= all.headerBytes+all.valueBytes {
		return appendPlanned(dst, times, values, all, nil)
	}
	return appendPlanned(dst, times, others[:len(values)], &p, to)
}

// appendPlanned writes from the end: each word ends where its last integer does, and overwrites bytes before that are written after it.
func appendPlanned(dst []byte, times []uint32, values []float64, p *plan, oddList []byte) []byte {
	var c clock
	c.of(times)
	start := len(dst)
	header := p.headerBytes + c.header + len(oddList)
	size := header + c.bytes + p.valueBytes
	dst = slices.Grow(dst, size)[:start+size]
	b := dst[start:]

	switch at := header + c.bytes - headBytes; {
	case p.width == rawWidth:
		for i, v := range values {
			binary.LittleEndian.PutUint64(b[at+8+8*i:], math.Float64bits(v))
		}
	case p.width > 0:
		p.pack(b[at:], values)
	}
	if c.width > 0 {
		c.pack(b[header-headBytes:], times)
	}

	at := p.headerBytes
	if p.shift > 0 {
		b[at-1] = byte(p.shift)
	}
	flags := p.modes | c.modes
	if c.modes&modeJitter != 0 {
		b[at] = byte(c.width)
		at++
	}
	if c.modes&modeFactor != 0 {
		binary.LittleEndian.PutUint32(b[at:], c.factor)
		at += 4
	}
	if len(oddList) > 0 {
		flags |= modeOdd
		copy(b[at:], oddList)
	}
	at = headBytes + p.baseLen
	if p.modes&modeDeltas != 0 {
		putInteger(b[:at+1+p.stepLen], p.step, p.stepLen)
		b[at] = byte(p.stepLen)
	}
	putInteger(b[:at], p.base, p.baseLen)
	binary.LittleEndian.PutUint64(b, uint64(len(values))|uint64(flags)<<8|uint64(c.delta)<<16|uint64(p.kind|p.baseLen<<4)<<48|uint64(p.width)<<56)
	return dst
}

// putInteger writes the lowest bytes of m to the end of b, and anything to the rest of the last 8 bytes.
func putInteger(b []byte, m int64, bytes int) {
	if bytes > 0 {
		binary.LittleEndian.PutUint64(b[len(b)-8:], uint64(m)<<(64-8*uint(bytes)))
	}
}

// pack writes the integers of the values into b, which begins headBytes before them.
func (p *plan) pack(b []byte, values []float64) {
	n := len(values)
	var (
		word        uint64
		power       = 1.0
		width       = p.width
		least       = p.base
		first       = 0
		differences = int64(0) // a mask
	)
	if p.kind != kindBits {
		power = powers[p.kind]
	}
	if p.modes&modeDeltas != 0 {
		least, first, differences = p.step, 1, -1
	}
	q := uint(n-first)*width + 7
	end := q >> 3
	integer := func(v float64) int64 {
		if p.kind == kindBits {
			return int64(math.Float64bits(v))
		}
		return mantissa(v, power)
	}
	m := integer(values[n-1])
	for i := n - 1; i >= first; i-- {
		before := m
		if i > 0 {
			before = integer(values[i-1])
		}
		u := uint64(m-before&differences-least) >> (p.shift & 63)
		e := q >> 3
		word = word<<((end-e)<<3&63) | u<<((q&7+57-width)&63)
		binary.LittleEndian.PutUint64(b[e:], word)
		m, end = before, e
		q -= width
	}
}

// pack writes what is above the least of the differences between times into b, which begins headBytes before.
func (c *clock) pack(b []byte, times []uint32) {
	var word uint64
	q := uint(len(times)-1)*c.width + 7
	end := q >> 3
	for i := len(times) - 1; i > 0; i-- {
		u := times[i] - times[i-1] - c.delta
		if c.factor > 1 {
			u /= c.factor
		}
		e := q >> 3
		word = word<<((end-e)<<3&63) | uint64(u)<<((q&7+57-c.width)&63)
		binary.LittleEndian.PutUint64(b[e:], word)
		end = e
		q -= c.width
	}
}
