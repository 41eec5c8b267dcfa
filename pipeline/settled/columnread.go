package settled

import (
	"encoding/binary"
	"math"
)

// column is a head as it was read.
type column struct {
	domain, order byte
	parameter     byte
	first, slope  int64
	factor        uint64
	constant      uint64
	same          bool // as the column parameter of the rollup
	packing       packing
	n             int
	escapes       []byte // the list in the head, checked
	exceptions    []byte
	exceptionsN   int
}

type headReader struct {
	b   []byte
	bad bool
}

func (r *headReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *headReader) uvarint() uint64 {
	if b := r.b; len(b) > 0 && b[0] < 0x80 { // most are small
		r.b = b[1:]
		return uint64(b[0])
	}
	return r.long()
}

func (r *headReader) long() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *headReader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *headReader) skip(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad = true
		r.b = nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// coded is how many integers lie in the streams.
func (c *column) coded() int {
	if c.order == 3 {
		return c.n
	}
	return max(0, c.n-int(c.order))
}

func (c *column) highBytes() int {
	if c.packing.high {
		return c.coded()
	}
	return 0
}

func (c *column) lowBytes() int {
	if c.packing.high {
		return c.packing.lowBytes(c.coded())
	}
	return 0
}

// read takes the head of a column of n values.
func (c *column) read(r *headReader, n int) {
	tag := r.byte()
	*c = column{domain: tag & 3, order: tag >> tagOrder & 3, n: n, factor: 1}
	if c.domain == domainConstant {
		if c.order == 3 {
			c.same, c.order, c.parameter = true, 0, r.byte()
			r.bad = r.bad || c.parameter >= rollupColumns
		} else if b := r.skip(8); b != nil {
			c.order, c.constant = 0, binary.LittleEndian.Uint64(b)
		}
		return
	}
	if c.domain != domainInteger {
		c.parameter = r.byte()
	}
	c.first = r.varint()
	if tag&tagFactor != 0 {
		c.factor = r.uvarint()
	}
	if c.order >= 2 {
		c.slope = r.varint()
	}
	c.packing.base = r.varint()
	if tag&tagHigh != 0 {
		c.packing.high, c.packing.low = true, r.byte()
	}
	if c.packing.low > maxLow || c.domain == domainDecimal && c.parameter > maxDecimals || c.domain == domainBits && c.parameter > 63 {
		r.bad = true
		return
	}
	if tag&tagEscapes != 0 {
		c.packing.escaped, c.escapes = c.list(r, c.coded(), false)
	}
	if tag&tagExceptions != 0 {
		c.exceptionsN, c.exceptions = c.list(r, n, true)
	}
}

// list checks that all positions of a list are below n.
func (c *column) list(r *headReader, n int, fixed bool) (count int, body []byte) {
	many := r.uvarint()
	if many > uint64(n) {
		r.bad = true
		return 0, nil
	}
	body = r.b
	pos := uint64(0)
	for range many {
		if pos += r.uvarint(); pos >= uint64(n) {
			r.bad = true
		}
		if fixed {
			r.skip(8)
		} else {
			r.varint()
		}
		if r.bad {
			return 0, nil
		}
	}
	return int(many), body[:len(body)-len(r.b)]
}

// unpackInts writes what was coded: y (see integers), the escapes in their places, before the sums. The first c.order places are left out.
func (c *column) unpackInts(out []int64, high, low []byte) []int64 {
	out = out[:c.coded()]
	c.packing.unpack(out, high, low)
	if c.packing.escaped > 0 {
		b, pos := c.escapes, uint64(0)
		for range c.packing.escaped {
			d, n := binary.Uvarint(b)
			pos += d
			b = b[n:]
			v, n := binary.Varint(b)
			b = b[n:]
			out[pos] = v
		}
	}
	return out
}

// floats appends the values from the i-th to before the j-th. scratch holds c.n integers at least; low has lowPadding bytes after the column's own.
func (c *column) floats(out []float64, i, j int, scratch []int64, high, low []byte) []float64 {
	if i >= j {
		return out
	}
	at := len(out)
	out = grow(out, j-i)
	v := out[at:]
	if c.domain == domainConstant {
		f := math.Float64frombits(c.constant)
		for i := range v {
			v[i] = f
		}
		return out
	}
	if c.order <= 1 && c.packing.escaped == 0 && c.domain == domainDecimal {
		c.decimals(v, i, scratch, high, low)
	} else {
		c.convert(v, c.mantissas(scratch, high, low)[i:j])
	}
	c.except(v, i)
	return out
}

// stride is how many values go through all steps together: few enough for the fastest memory, and a multiple of 8, so that the low bits of each stride begin at a byte.
const stride = 512

// decimals is mantissas and convert for most columns, a stride after another. v are the values from the given one on: those before are passed over, or
// only added up.
func (c *column) decimals(v []float64, from int, scratch []int64, high, low []byte) {
	factor, at, to := int64(c.factor), 0, from+len(v)
	first := [1]int64{c.first}
	if c.order == 1 {
		if at = 1; from == 0 {
			c.convert(v, first[:])
		}
	}
	if skip := max(from-at, 0) &^ 7; skip > 0 { // the low bits of what follows begin at a byte
		if c.order == 1 {
			first[0] += c.packing.total(skip, high, low) * factor
		}
		if at += skip; c.packing.high {
			high, low = high[skip:], low[c.packing.lowBytes(skip):]
		}
	}
	for at < to {
		m := scratch[:min(stride, to-at)]
		if c.order == 1 {
			c.packing.sums(m, high, low, first[0], factor)
			first[0] = m[len(m)-1]
		} else {
			c.packing.unpack(m, high, low)
			for i, d := range m {
				m[i] = d*factor + c.first
			}
		}
		if skip := max(from-at, 0); skip < len(m) {
			c.convert(v[at+skip-from:], m[skip:])
		}
		at += len(m)
		if c.packing.high {
			high, low = high[len(m):], low[c.packing.lowBytes(len(m)):]
		}
	}
}

// convert makes values of the integers.
func (c *column) convert(v []float64, m []int64) {
	v = v[:len(m)]
	switch c.domain {
	case domainDecimal:
		if c.parameter == 0 {
			for i, x := range m {
				v[i] = float64(x)
			}
		} else {
			p := powers[c.parameter]
			for i, x := range m {
				v[i] = float64(x) / p
			}
		}
	case domainBits:
		for i, x := range m {
			v[i] = c.fromBits(x)
		}
	case domainInteger:
		for i, x := range m {
			v[i] = float64(x)
		}
	}
}

func (c *column) fromBits(x int64) float64 {
	x <<= c.parameter & 63
	if x < 0 {
		return math.Float64frombits(uint64(-x) | 1<<63)
	}
	return math.Float64frombits(uint64(x))
}

// except puts the exceptions in their places. v are the values from the given one on.
func (c *column) except(v []float64, from int) {
	b, pos := c.exceptions, 0
	for range c.exceptionsN {
		d, n := binary.Uvarint(b)
		if pos += int(d); pos >= from+len(v) {
			break
		}
		if pos >= from {
			v[pos-from] = math.Float64frombits(binary.LittleEndian.Uint64(b[n:]))
		}
		b = b[n+8:]
	}
}

// mantissas are the integers that e.ints were.
func (c *column) mantissas(scratch []int64, high, low []byte) []int64 {
	m := scratch[:c.n]
	if c.order == 1 && c.packing.escaped == 0 {
		m[0] = c.first
		c.packing.sums(m[1:], high, low, c.first, int64(c.factor))
		return m
	}
	coded := c.unpackInts(m[c.n-c.coded():], high, low)
	g, sum := int64(c.factor), c.first
	switch c.order {
	case 0:
		if g == 1 {
			for i, d := range coded {
				m[i] = d + sum
			}
		} else {
			for i, d := range coded {
				m[i] = d*g + sum
			}
		}
	case 1:
		m[0] = sum
		rest := m[1:]
		if g == 1 {
			for i, d := range rest {
				sum += d
				rest[i] = sum
			}
		} else {
			for i, d := range rest {
				sum += d * g
				rest[i] = sum
			}
		}
	case 2:
		m[0] = sum
		if c.n < 2 {
			break
		}
		slope := c.slope * g
		sum += slope
		m[1] = sum
		rest := m[2:]
		for i, d := range rest {
			slope += d * g
			sum += slope
			rest[i] = sum
		}
	case 3:
		slope := c.slope * g
		for i, d := range coded {
			m[i] = sum + d*g
			sum += slope
		}
	}
	return m
}
