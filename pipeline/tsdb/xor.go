package tsdb

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"

	"kemi"
)

// staleBits is the NaN that Prometheus writes when a series ends.
const staleBits = 0x7ff0000000000002

var (
	errShortChunk = errors.New("chunk ends too early")
	errBadChunk   = errors.New("chunk is not well formed")
)

const (
	// longestSample is how many bytes a sample may take, with those that the loads after it touch.
	longestSample = 32
	padded        = 3 * longestSample
)

// decodeXOR appends the samples of an XOR chunk (Gorilla's coding, as Prometheus writes it) that lie in [from, to] to the
// columns, without the stale markers. It does what chunkenc's iterator does, for the whole chunk at once: 64 bits are loaded from
// wherever the next code begins, with no state but that position. So that loads need no check, the last bytes of a
// chunk are read from a copy with zeros after it.
func decodeXOR(chunk []byte, from, to int64, at []kemi.Millis, values []float64) ([]kemi.Millis, []float64, error) {
	if len(chunk) < 2 {
		return at, values, errShortChunk
	}
	n := int(binary.BigEndian.Uint16(chunk))
	b := chunk[2:]
	if n == 0 {
		return at, values, nil
	}
	t, size := binary.Varint(b)
	if size <= 0 || len(b) < size+8 {
		return at, values, errShortChunk
	}
	v := binary.BigEndian.Uint64(b[size:])
	b = b[size+8:]
	var delta int64
	if n > 1 {
		d, size := binary.Uvarint(b)
		if size <= 0 {
			return at, values, errShortChunk
		}
		delta, b = int64(d), b[size:]
	}
	var (
		pos           uint // in bits
		last          uint // the bits of the tail, once it was copied
		tail          [padded]byte
		leading, used uint = 0, 64
	)
	for i := 0; ; {
		if t > to {
			return at, values, nil
		}
		if t >= from && v != staleBits {
			at, values = append(at, kemi.Millis(t)), append(values, math.Float64frombits(v))
		}
		if i++; i == n {
			return at, values, nil
		}
		if last == 0 && len(b)-int(pos>>3) < longestSample {
			rest := copy(tail[:], b[pos>>3:])
			b, pos, last = tail[:], pos&7, uint(rest)*8+1
		}
		w := load(b, pos)
		if i > 1 {
			switch ones := bits.LeadingZeros64(^w); ones {
			case 0: // the same distance as before
				pos++
				w <<= 1
			case 1, 2, 3:
				width := [...]uint{0, 14, 17, 20}[ones]
				d := int64(w << (ones + 1) >> (64 - width))
				if d > 1<<(width-1) { // 2^(width-1) itself is positive in this code
					d -= 1 << width
				}
				delta += d
				pos += uint(ones) + 1 + width
				w = load(b, pos)
			default:
				delta += int64(load64(b, pos+4))
				pos += 68
				w = load(b, pos)
			}
		}
		t += delta
		switch w >> 62 {
		case 0b10: // as many bits as before, in the same place
			pos += 2
			v ^= load64(b, pos) >> (64 - used) << (64 - leading - used)
			pos += used
		case 0b11:
			leading, used = uint(w>>57)&31, uint(w>>51)&63
			if used == 0 {
				used = 64
			}
			if leading+used > 64 {
				return at, values, errBadChunk
			}
			pos += 13
			v ^= load64(b, pos) >> (64 - used) << (64 - leading - used)
			pos += used
		default: // the same value
			pos++
		}
		if last != 0 && pos >= last {
			return at, values, errShortChunk
		}
	}
}

// load is the bits from pos on; at least the first 57 are there.
func load(b []byte, pos uint) uint64 { return binary.BigEndian.Uint64(b[pos>>3:]) << (pos & 7) }

// load64 is 64 bits.
func load64(b []byte, pos uint) uint64 {
	p := b[pos>>3:]
	return binary.BigEndian.Uint64(p)<<(pos&7) | uint64(p[8])>>(8-pos&7)&(1<<(pos&7)-1)
}
