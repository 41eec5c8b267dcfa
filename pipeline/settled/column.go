package settled

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
)

// A column is a stretch of float64 or int64, at most maxChunkSamples of them. What is left of it once its integers are in the streams is its head:
//
//	tag            bits 0-1 domain, 2-3 order, 4 exceptions, 5 factor, 6 high bytes, 7 escapes
//	constant:      8 bytes, the value
//	the same:      (order 3) 1 byte, the column of the rollup that has the same values
//	others:        [decimals or shift, 1 byte] first (varint) [factor (uvarint)] [slope (varint), if the order is 2 or 3]
//	               base (varint) [bits of low, 1 byte, if there are high bytes] [escapes] [exceptions]
//	escapes:       count (uvarint), then each: distance from the one before (uvarint), value (varint)
//	exceptions:    count (uvarint), then each: distance from the one before (uvarint), 8 bytes

const (
	domainConstant = iota
	domainDecimal  // mantissa / 10^decimals is the value exactly
	domainBits     // sign and magnitude of the float's bits, shifted right as long as only zeros go
	domainInteger  // int64
)

const (
	tagOrder      = 2 // shift
	tagExceptions = 1 << 4
	tagFactor     = 1 << 5
	tagHigh       = 1 << 6
	tagEscapes    = 1 << 7
)

const maxDecimals = 12

var errColumn = errors.New("a column is not well formed")

var powers = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12}

// mantissa is v · 10^decimals if that gives v back.
func mantissa(v float64, power float64) (int64, bool) {
	m := math.RoundToEven(v * power)
	if !(math.Abs(m) < 1<<53) {
		return 0, false
	}
	i := int64(m)
	return i, math.Float64bits(float64(i)/power) == math.Float64bits(v) // -0 has none
}

// decimalsOf is how many decimals v has, at least from, or -1.
func decimalsOf(v float64, from int) int {
	for k := from; k <= maxDecimals; k++ {
		if _, ok := mantissa(v, powers[k]); ok {
			return k
		}
	}
	return -1
}

// encoder makes columns; it keeps its scratch.
type encoder struct {
	packer
	ints   []int64
	diffs  []int64
	exPos  []int
	exBits []uint64
}

// streams is where columns go: the streams of an open page.
type streams struct{ heads, high, low []byte }

// same appends a column whose values are those of another column of the rollup.
func (s *streams) same(column byte) { s.heads = append(s.heads, domainConstant|3<<tagOrder, column) }

// floats appends a column of values.
func (e *encoder) floats(s *streams, values []float64) {
	first := math.Float64bits(values[0])
	same := true
	for _, v := range values {
		if math.Float64bits(v) != first {
			same = false
			break
		}
	}
	if same {
		s.heads = append(s.heads, domainConstant)
		s.heads = binary.LittleEndian.AppendUint64(s.heads, first)
		return
	}
	if k, ok := e.decimals(values); ok {
		e.integers(s, domainDecimal, byte(k))
		return
	}
	e.integers(s, domainBits, e.bits(values))
}

// decimals makes e.ints the mantissas and e.ex… what has none.
func (e *encoder) decimals(values []float64) (digits int, ok bool) {
	for i := 0; i < len(values); i += max(1, len(values)/8) {
		v := values[i]
		if v-v != 0 {
			continue
		}
		if k := decimalsOf(v, digits); k > digits {
			digits = k
		}
	}
	limit := len(values)/32 + 1
again:
	e.ints, e.exPos, e.exBits = e.ints[:0], e.exPos[:0], e.exBits[:0]
	power, last, next := powers[digits], int64(0), digits
	finite := 0 // exceptions that are numbers
	for i, v := range values {
		m, ok := mantissa(v, power)
		if !ok {
			if v-v == 0 && v != 0 {
				if finite++; finite > limit || finite > 2 && finite == i+1 {
					for _, v := range values[:i+1] {
						if k := decimalsOf(v, next); k > next {
							next = k
						}
					}
					if next == digits {
						return 0, false
					}
					digits = next
					goto again
				}
			} else if len(e.exPos) > len(values)/2 {
				return 0, false
			}
			e.exPos, e.exBits = append(e.exPos, i), append(e.exBits, math.Float64bits(v))
			m = last
		}
		last = m
		e.ints = append(e.ints, m)
	}
	if n := len(e.exPos); n > 0 && n == e.exPos[n-1]+1 && n < len(e.ints) { // only at the beginning: what follows is nearer than 0
		for i := range n {
			e.ints[i] = e.ints[n]
		}
	} else if n > 0 && e.exPos[0] == 0 {
		i := 0
		for i < n && e.exPos[i] == i {
			i++
		}
		if i < len(e.ints) {
			for j := range i {
				e.ints[j] = e.ints[i]
			}
		}
	}
	return digits, true
}

// bits makes e.ints the floats' bits and returns how far they are shifted.
func (e *encoder) bits(values []float64) byte {
	e.ints, e.exPos, e.exBits = e.ints[:0], e.exPos[:0], e.exBits[:0]
	var all uint64
	for _, v := range values {
		all |= math.Float64bits(v)
	}
	shift := byte(min(bits.TrailingZeros64(all), 52))
	for i, v := range values {
		b := math.Float64bits(v)
		m := int64(b & math.MaxInt64)
		if b>>63 != 0 {
			if m == 0 {
				e.exPos, e.exBits = append(e.exPos, i), append(e.exBits, b)
			}
			m = -m
		}
		e.ints = append(e.ints, m>>shift)
	}
	return shift
}

// integersColumn appends a column of int64.
func (e *encoder) integersColumn(s *streams, values []int64) {
	e.ints = append(e.ints[:0], values...)
	e.exPos, e.exBits = e.exPos[:0], e.exBits[:0]
	e.integers(s, domainInteger, 0)
}

// factor is what divides all of e.ints minus the first of them, 1 at least.
func (e *encoder) factor() uint64 {
	first := e.ints[0]
	var g uint64
	for _, m := range e.ints {
		if m >= 1<<61 || m <= -1<<61 {
			return 1 // differences could overflow
		}
		d := m - first
		u := uint64(max(d, -d))
		for u != 0 { // Euclid
			g, u = u, g%u
		}
		if g == 1 {
			return 1
		}
	}
	return max(g, 1)
}

// integers appends the column of e.ints.
func (e *encoder) integers(s *streams, domain byte, parameter byte) {
	first, g := e.ints[0], e.factor()
	y := e.ints
	for i := range y {
		y[i] -= first
	}
	if g > 1 {
		if g&(g-1) == 0 {
			shift := bits.TrailingZeros64(g)
			for i := range y {
				y[i] >>= shift
			}
		} else {
			for i := range y {
				y[i] /= int64(g)
			}
		}
	}
	order := e.order(y)
	coded := y
	var slope int64
	switch order {
	case 1:
		e.diffs = grow(e.diffs[:0], len(y)-1)
		for i := range e.diffs {
			e.diffs[i] = y[i+1] - y[i]
		}
		coded = e.diffs
	case 2:
		slope = y[1] - y[0]
		e.diffs = grow(e.diffs[:0], len(y)-2)
		for i := range e.diffs {
			e.diffs[i] = y[i+2] - 2*y[i+1] + y[i]
		}
		coded = e.diffs
	case 3:
		slope = slopeOf(y)
		e.diffs = grow(e.diffs[:0], len(y))
		for i := range e.diffs {
			e.diffs[i] = y[i] - int64(i)*slope
		}
		coded = e.diffs
	}
	var p packing
	p, s.high, s.low = e.pack(coded, s.high, s.low)
	tag := domain | byte(order)<<tagOrder
	if len(e.exPos) > 0 {
		tag |= tagExceptions
	}
	if g > 1 {
		tag |= tagFactor
	}
	if p.high {
		tag |= tagHigh
	}
	if p.escaped > 0 {
		tag |= tagEscapes
	}
	h := append(s.heads, tag)
	if domain != domainInteger {
		h = append(h, parameter)
	}
	h = binary.AppendVarint(h, first)
	if g > 1 {
		h = binary.AppendUvarint(h, g)
	}
	if order >= 2 {
		h = binary.AppendVarint(h, slope)
	}
	h = binary.AppendVarint(h, p.base)
	if p.high {
		h = append(h, p.low)
	}
	if p.escaped > 0 {
		h = binary.AppendUvarint(h, uint64(p.escaped))
		last := 0
		for i, pos := range e.escPos {
			h = binary.AppendUvarint(h, uint64(pos-last))
			h = binary.AppendVarint(h, e.escVal[i])
			last = pos
		}
	}
	if len(e.exPos) > 0 {
		h = binary.AppendUvarint(h, uint64(len(e.exPos)))
		last := 0
		for i, pos := range e.exPos {
			h = binary.AppendUvarint(h, uint64(pos-last))
			h = binary.LittleEndian.AppendUint64(h, e.exBits[i])
			last = pos
		}
	}
	s.heads = h
}

func zigzagBits(d int64) int { return bits.Len64(uint64(d<<1 ^ d>>63)) }

// slopeOf is the mean difference.
func slopeOf(y []int64) int64 {
	if mean := (float64(y[len(y)-1]) - float64(y[0])) / float64(len(y)-1); math.Abs(mean) < 1<<40 {
		return int64(math.Round(mean))
	}
	return 0
}

// order is how often differences are taken, or 3 for the distance from a line: what makes the integers shortest.
func (e *encoder) order(y []int64) int {
	if len(y) < 3 {
		return 0
	}
	var n0, n1, n2 int
	var mean float64
	for _, v := range y {
		mean += float64(v)
	}
	middle := int64(0)
	if mean /= float64(len(y)); math.Abs(mean) < 1<<61 {
		middle = int64(mean)
	}
	prev, d1 := y[1], y[1]-y[0]
	slope := slopeOf(y) // of first differences the packing's base takes it away
	n3, line := 0, y[0]+slope
	for _, v := range y[2:] {
		d := v - prev
		line += slope
		n0 += zigzagBits(v - middle)
		n1 += zigzagBits(d - slope)
		n2 += zigzagBits(d - d1)
		n3 += zigzagBits(v - line)
		prev, d1 = v, d
	}
	least := min(n0, n1, n2, n3)
	switch clearly := len(y) / 4; {
	// Jitter doubles in second differences although they are short; they must be clearly so. What has no slope lies on no line.
	case n2 == least && n2 < n1-clearly:
		return 2
	case n3 == least && slope != 0 && n3 < n1-clearly/4 && n3 < n0-clearly:
		return 3
	case n1 <= n0:
		return 1
	}
	return 0
}
