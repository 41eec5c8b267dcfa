package pack

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"slices"
	"unsafe"

	"kemi"
)

var errPack = errors.New("packed samples are not well formed")

// Count is how many samples src holds.
func Count(src []byte) int {
	if len(src) == 0 {
		return 0
	}
	return int(src[0])
}

// Decode appends the samples that src holds to at and values. first is the time of the first.
func Decode(src []byte, first kemi.Millis, at []kemi.Millis, values []float64) ([]kemi.Millis, []float64, error) {
	if len(src) < headBytes {
		return at, values, errPack
	}
	head := binary.LittleEndian.Uint64(src)
	n, flags, delta, kind, width := int(head&0xff), byte(head>>8), kemi.Millis(head>>16&math.MaxUint32), int(head>>48&15), uint(head>>56)
	body := headBytes + int(head>>52&15)
	if n == 0 || flags >= modes || body > min(headBytes+8, len(src)) || kind > maxDecimals && kind != kindBits {
		return at, values, errPack
	}
	if width > maxWidth && (width != rawWidth || kind != kindBits || flags&(modeDeltas|modeShift) != 0) {
		return at, values, errPack
	}
	base := integer(src[:body], body-headBytes)
	var x extras
	coded := n
	if flags&^modeProduct != 0 {
		if body = x.read(src, body, flags, n); body < 0 || x.shift+width > 64 {
			return at, values, errPack
		}
		if flags&modeDeltas != 0 {
			coded--
		}
	}
	timeBytes := packedBytes(n-1, x.width)
	if body+timeBytes+packedBytes(coded, width) != len(src) {
		return at, values, errPack
	}

	at, values = slices.Grow(at, n), slices.Grow(values, n)
	t := at[len(at) : len(at)+n]
	if x.width == 0 {
		everySo(t, first, delta)
	} else {
		t[0] = first
		var r run
		r.b, r.width, r.sum, r.carry, r.add, r.factor = src[body-headBytes:], x.width, int64(first), -1, int64(delta), x.factor
		r.integers((*int64)(unsafe.Pointer(unsafe.SliceData(t[1:]))), n-1)
	}
	if uint64(t[n-1]-first) > math.MaxUint32 {
		return at, values, errPack
	}

	v := values[len(values) : len(values)+n]
	b := src[body+timeBytes-headBytes:]
	var r run // field by field: a literal is copied as soon as it is written, which waits
	r.b, r.width, r.add, r.factor = b, width, base, 1<<(x.shift&63)
	todo := v
	if flags&modeDeltas != 0 {
		v[0] = value(base, kind, flags)
		r.sum, r.carry, r.add = base, -1, x.step
		todo = v[1:]
	}
	switch {
	case width == 0 && flags&modeDeltas == 0:
		all(v, value(base, kind, flags))
	case width == rawWidth:
		for i := range v {
			v[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[headBytes+8*i:]))
		}
	case kind == 0 || flags&modeProduct != 0 && kind != kindBits:
		r.products(todo, parts[kind][0], parts[kind][1])
	default:
		r.integers((*int64)(unsafe.Pointer(unsafe.SliceData(todo))), len(todo)) // the bits, or integers in the places of the values that they become
		if kind != kindBits {
			power := powers[kind]
			for i, m := range todo {
				todo[i] = quotient(int64(math.Float64bits(m)), power)
			}
		}
	}
	for i := 0; i < len(x.odd); i += oddBytes {
		v[x.odd[i]] = math.Float64frombits(binary.LittleEndian.Uint64(x.odd[i+1:]))
	}
	return at[:len(at)+n], values[:len(values)+n], nil
}

// value is what the integer m stands for.
func value(m int64, kind int, flags byte) float64 {
	switch {
	case kind == kindBits:
		return math.Float64frombits(uint64(m))
	case flags&modeProduct != 0:
		return product(m, parts[kind][0], parts[kind][1])
	}
	return quotient(m, powers[kind])
}

// integer is the signed integer of so many bytes at the end of b.
func integer(b []byte, bytes int) int64 {
	if bytes == 0 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(b[len(b)-8:])) >> ((64 - 8*uint(bytes)) & 63)
}

// extras is what the header may have after the base.
type extras struct {
	step   int64
	shift  uint
	width  uint // of the times
	factor int64
	odd    []byte
}

// read returns where the header ends, or -1.
func (x *extras) read(src []byte, at int, flags byte, n int) int {
	x.factor = 1
	if flags&modeDeltas != 0 {
		if at == len(src) || src[at] > 8 || at+1+int(src[at]) > len(src) {
			return -1
		}
		bytes := int(src[at])
		at += 1 + bytes
		x.step = integer(src[:at], bytes)
	}
	if flags&modeShift != 0 {
		if at == len(src) {
			return -1
		}
		x.shift = uint(src[at])
		at++
	}
	if flags&modeJitter != 0 {
		if at == len(src) || src[at] > 32 {
			return -1
		}
		x.width = uint(src[at])
		at++
	}
	if flags&modeFactor != 0 {
		if at+4 > len(src) {
			return -1
		}
		f := binary.LittleEndian.Uint32(src[at:])
		x.factor = int64(f)
		at += 4
		if int(x.width)+bits.Len32(f) > lastFactor {
			return -1
		}
	}
	if flags&modeOdd != 0 {
		if at == len(src) || at+1+int(src[at])*oddBytes > len(src) {
			return -1
		}
		x.odd = src[at+1 : at+1+int(src[at])*oddBytes]
		at += 1 + len(x.odd)
		for i := 0; i < len(x.odd); i += oddBytes {
			if int(x.odd[i]) >= n {
				return -1
			}
		}
	}
	return at
}

func everySo(t []kemi.Millis, first, delta kemi.Millis) {
	now := first
	i := 3
	for ; i < len(t); i += 4 {
		t[i-3], t[i-2], t[i-1], t[i] = now, now+delta, now+2*delta, now+3*delta
		now += 4 * delta
	}
	t = t[i-3:]
	for i := range t {
		t[i] = now
		now += delta
	}
}

func all(v []float64, f float64) {
	i := 3
	for ; i < len(v); i += 4 {
		v[i-3], v[i-2], v[i-1], v[i] = f, f, f, f
	}
	v = v[i-3:]
	for i := range v {
		v[i] = f
	}
}

// run is a run of packed integers. What each stands for is what the one before does & carry + add + factor · itself: carry makes sums, or does not.
type run struct {
	b          []byte // begins headBytes before it
	width      uint
	sum, carry int64
	add        int64
	factor     int64
}

// word is the 8 bytes of b that begin at a bit's byte. That they are there was checked once for all of them.
func word(b *byte, bit uint) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(b), bit>>3))[:])
}

// integers writes n of them.
func (r *run) integers(out *int64, n int) {
	from, width, mask := unsafe.SliceData(r.b), r.width, uint64(1)<<(r.width&63)-1
	sum, carry, add, factor := r.sum, r.carry, r.add, r.factor
	end := uint(7) // of an integer in bits; shifted to bytes that is rounded up
	to := unsafe.Slice(out, n)
	if width <= maxWidth/4 { // they come out of a word by four
		down := 57 - 4*width
		i := 3
		for ; i < len(to); i += 4 {
			end += 4 * width
			w := word(from, end) >> ((end&7 + down) & 63)
			m0 := sum&carry + add + int64(w&mask)*factor
			w >>= width & 63
			m1 := m0&carry + add + int64(w&mask)*factor
			w >>= width & 63
			m2 := m1&carry + add + int64(w&mask)*factor
			w >>= width & 63
			sum = m2&carry + add + int64(w&mask)*factor
			to[i-3], to[i-2], to[i-1], to[i] = m0, m1, m2, sum
		}
		to = to[i-3:]
	}
	for i := range to {
		end += width
		w := word(from, end) >> ((end&7 + 57 - width) & 63)
		sum = sum&carry + add + int64(w&mask)*factor
		to[i] = sum
	}
}

// products writes the values of decimals; narrow ones by four or two.
func (r *run) products(v []float64, high, low float64) {
	i, end := 0, uint(7)
	if r.factor == 1 {
		switch {
		case r.width > maxWidth/2:
		case r.carry == 0 && r.width <= maxWidth/4:
			i, end = r.plainFours(v, high, low)
		case r.carry == 0:
			i, end = r.plainTwos(v, high, low)
		case r.width <= maxWidth/4:
			i, end = r.sumsFours(v, high, low)
		default:
			i, end = r.sumsTwos(v, high, low)
		}
	}
	from, width, mask := unsafe.SliceData(r.b), r.width, uint64(1)<<(r.width&63)-1
	sum, carry, add, factor := r.sum, r.carry, r.add, r.factor
	v = v[i:]
	for i := range v {
		end += width
		w := word(from, end) >> ((end&7 + 57 - width) & 63)
		sum = sum&carry + add + int64(w&mask)*factor
		v[i] = product(sum, high, low)
	}
}

func (r *run) plainFours(v []float64, high, low float64) (int, uint) {
	from, width, mask, add := unsafe.SliceData(r.b), r.width&63, uint64(1)<<(r.width&63)-1, r.add
	end, group, down := uint(7), 4*width, 57-4*width
	i := 3
	for ; i < len(v); i += 4 {
		end += group
		w := word(from, end) >> ((end&7 + down) & 63)
		v[i-3] = product(add+int64(w&mask), high, low)
		w >>= width
		v[i-2] = product(add+int64(w&mask), high, low)
		w >>= width
		v[i-1] = product(add+int64(w&mask), high, low)
		w >>= width
		v[i] = product(add+int64(w&mask), high, low)
	}
	return i - 3, end
}

func (r *run) plainTwos(v []float64, high, low float64) (int, uint) {
	from, width, mask, add := unsafe.SliceData(r.b), r.width&63, uint64(1)<<(r.width&63)-1, r.add
	end, group, down := uint(7), 2*width, 57-2*width
	i := 1
	for ; i < len(v); i += 2 {
		end += group
		w := word(from, end) >> ((end&7 + down) & 63)
		v[i-1] = product(add+int64(w&mask), high, low)
		w >>= width
		v[i] = product(add+int64(w&mask), high, low)
	}
	return i - 1, end
}

func (r *run) sumsFours(v []float64, high, low float64) (int, uint) {
	from, width, mask, add, sum := unsafe.SliceData(r.b), r.width&63, uint64(1)<<(r.width&63)-1, r.add, r.sum
	end, group, down := uint(7), 4*width, 57-4*width
	i := 3
	for ; i < len(v); i += 4 {
		end += group
		w := word(from, end) >> ((end&7 + down) & 63)
		sum += add + int64(w&mask)
		v[i-3] = product(sum, high, low)
		w >>= width
		sum += add + int64(w&mask)
		v[i-2] = product(sum, high, low)
		w >>= width
		sum += add + int64(w&mask)
		v[i-1] = product(sum, high, low)
		w >>= width
		sum += add + int64(w&mask)
		v[i] = product(sum, high, low)
	}
	r.sum = sum
	return i - 3, end
}

func (r *run) sumsTwos(v []float64, high, low float64) (int, uint) {
	from, width, mask, add, sum := unsafe.SliceData(r.b), r.width&63, uint64(1)<<(r.width&63)-1, r.add, r.sum
	end, group, down := uint(7), 2*width, 57-2*width
	i := 1
	for ; i < len(v); i += 2 {
		end += group
		w := word(from, end) >> ((end&7 + down) & 63)
		sum += add + int64(w&mask)
		v[i-1] = product(sum, high, low)
		w >>= width
		sum += add + int64(w&mask)
		v[i] = product(sum, high, low)
	}
	r.sum = sum
	return i - 1, end
}
