package tsdb

import (
	"encoding/binary"
	"errors"
	"math"

	"kemi"
)

// decodeXOR appends the samples of an XOR chunk (Gorilla's coding, as Prometheus writes it) that lie in [from, to] to the
// columns, without the stale markers. It does what chunkenc's iterator does, for the whole chunk at once: the bits are read from
// a register that is filled eight bytes at a time, and there is no call per sample.
func decodeXOR(b []byte, from, to int64, at []kemi.Millis, values []float64) ([]kemi.Millis, []float64, error) {
	if len(b) < 2 {
		return at, values, errShortChunk
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 {
		return at, values, nil
	}
	r := bitReader{b: b[2:]}
	t, ok := r.varint()
	if !ok {
		return at, values, errShortChunk
	}
	v := r.bits(64)
	var delta int64
	leading, trailing := uint(0), uint(0)
	if t >= from && t <= to && v != staleBits {
		at, values = append(at, kemi.Millis(t)), append(values, math.Float64frombits(v))
	}
	for i := 1; i < n; i++ {
		if i == 1 {
			d, ok := r.uvarint()
			if !ok {
				return at, values, errShortChunk
			}
			delta = int64(d)
		} else if r.bit() {
			delta += r.deltaOfDelta()
		}
		t += delta
		if r.bit() {
			if r.bit() {
				leading = uint(r.bits(5))
				size := uint(r.bits(6))
				if size == 0 {
					size = 64
				}
				if leading+size > 64 {
					return at, values, errBadChunk
				}
				trailing = 64 - leading - size
			}
			v ^= r.bits(64-leading-trailing) << trailing
		}
		if r.over {
			return at, values, errShortChunk
		}
		if t > to {
			break
		}
		if t >= from && v != staleBits {
			at, values = append(at, kemi.Millis(t)), append(values, math.Float64frombits(v))
		}
	}
	if r.over {
		return at, values, errShortChunk
	}
	return at, values, nil
}

// staleBits is the NaN that Prometheus writes when a series ends.
const staleBits = 0x7ff0000000000002

var (
	errShortChunk = errors.New("chunk ends too early")
	errBadChunk   = errors.New("chunk is not well formed")
)

// bitReader reads bits from the most significant one on. After the end it gives zeros and sets over.
type bitReader struct {
	b    []byte
	reg  uint64 // the next bits, from the top
	have uint   // how many
	over bool
}

func (r *bitReader) fill() {
	if len(r.b) >= 8 {
		// Take as many whole bytes as fit beside what is there.
		r.reg |= binary.BigEndian.Uint64(r.b) >> r.have
		n := (64 - r.have) / 8
		r.b = r.b[n:]
		r.have += n * 8
		r.reg &= ^uint64(0) << (64 - r.have)
		return
	}
	for r.have <= 56 && len(r.b) > 0 {
		r.reg |= uint64(r.b[0]) << (56 - r.have)
		r.b = r.b[1:]
		r.have += 8
	}
}

func (r *bitReader) bit() bool {
	if r.have == 0 {
		r.fill()
		if r.have == 0 {
			r.over = true
			return false
		}
	}
	set := r.reg>>63 != 0
	r.reg <<= 1
	r.have--
	return set
}

// bits reads n bits, 1 ≤ n ≤ 64.
func (r *bitReader) bits(n uint) uint64 {
	if r.have < n {
		r.fill()
		if r.have < n {
			return r.bitsSlow(n)
		}
	}
	v := r.reg >> (64 - n)
	r.reg <<= n
	r.have -= n
	return v
}

// bitsSlow is for when the register cannot hold n bits on top of a part of a byte.
func (r *bitReader) bitsSlow(n uint) uint64 {
	have := r.have
	v := uint64(0)
	if have > 0 {
		v = r.reg >> (64 - have)
	}
	r.reg, r.have = 0, 0
	r.fill()
	rest := n - have
	if r.have < rest {
		r.over = true
		r.reg, r.have = 0, 0
		return 0
	}
	v = v<<rest | r.reg>>(64-rest)
	r.reg <<= rest
	r.have -= rest
	return v
}

// deltaOfDelta reads what follows the first bit of a timestamp's code.
func (r *bitReader) deltaOfDelta() int64 {
	size := uint(14)
	switch {
	case !r.bit():
	case !r.bit():
		size = 17
	case !r.bit():
		size = 20
	default:
		return int64(r.bits(64))
	}
	v := r.bits(size)
	if v > 1<<(size-1) { // 2^(size-1) itself is positive in this code
		return int64(v) - 1<<size
	}
	return int64(v)
}

func (r *bitReader) uvarint() (v uint64, ok bool) {
	for shift := uint(0); shift < 64; shift += 7 {
		b := r.bits(8)
		v |= b & 0x7f << shift
		if b < 0x80 {
			return v, !r.over
		}
	}
	return 0, false
}

func (r *bitReader) varint() (int64, bool) {
	u, ok := r.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v, ok
}
