package settled

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// Integers are coded as value = base + (high << low bits | low). The high part is a byte of the page's high stream, which zstd packs; the low bits, which
// are random in nearly all data, lie packed in the page's low stream. Values outside of that window are escapes: their high byte is 255.

const (
	escapeByte = 255
	maxLow     = 56 // so that 64 bits loaded from any bit hold them
	lowPadding = 8  // bytes after a low stream that a load may touch
)

// packing is how a run of integers is coded.
type packing struct {
	base    int64
	low     uint8 // bits in the low stream
	high    bool  // a byte each in the high stream
	escaped int   // how many are escapes
}

// packer chooses and writes packings; it keeps its scratch.
type packer struct {
	sample []int64
	counts [256]int32
	escPos []int
	escVal []int64
}

// entropy is the mean bits of the high bytes of the (sorted) sample that lie in the window, and how many lie outside.
func (k *packer) entropy(base int64, low uint8, window uint64) (float64, int) {
	n, outside, sum := 0, 0, 0.0
	run, last := 0, uint64(math.MaxUint64)
	for _, v := range k.sample {
		u := uint64(v - base)
		if v < base || u > window {
			outside++
			continue
		}
		n++
		if s := u >> low; s == last {
			run++
		} else {
			sum += log2Times(run)
			run, last = 1, s
		}
	}
	sum += log2Times(run)
	if n == 0 {
		return 0, outside
	}
	return math.Log2(float64(n)) - sum/float64(n), outside
}

var log2Table = func() (t [sampleSize + 1]float64) {
	for i := 2; i < len(t); i++ {
		t[i] = float64(i) * math.Log2(float64(i))
	}
	return t
}()

func log2Times(n int) float64 { return log2Table[n] }

const sampleSize = 256

// choose looks at the values and a sample of them.
func (k *packer) choose(d []int64) packing {
	if len(d) == 0 {
		return packing{}
	}
	lo, hi, mean := d[0], d[0], 0.0
	for _, v := range d {
		lo, hi, mean = min(lo, v), max(hi, v), mean+float64(v)
	}
	span := uint64(hi - lo)
	width := bits.Len64(span)
	if width == 0 {
		return packing{base: lo}
	}
	best := packing{low: uint8(max(width, 8) - 8), high: true}
	best.base = lo
	if mean /= float64(len(d)); len(d) >= 64 && mean-float64(lo) > float64(span)/5 {
		best.base = centred(lo, hi, mean, best.low)
	}
	if width <= 8 {
		return best
	}
	// If half of the values lie over many high bytes, nothing is gained by a smaller window. Few values tell that in most cases.
	spread := func(n int) bool {
		k.sample = k.sample[:0]
		step := max(1, (len(d)+n-1)/n)
		for i := 0; i < len(d); i += step {
			k.sample = append(k.sample, d[i])
		}
		slices.Sort(k.sample)
		n = len(k.sample)
		return uint64(k.sample[n*3/4]-k.sample[n/4])>>best.low >= 24
	}
	if spread(24) || spread(sampleSize) {
		return best
	}
	n := len(k.sample)
	h, _ := k.entropy(lo, best.low, math.MaxUint64)
	cost := float64(best.low) + max(h, 0.1)
	for low, worse := int(best.low)-1, 0; low >= 0 && worse < 3; low-- {
		window := uint64(escapeByte)<<low - 1
		from, most := 0, 0
		for i, j := 0, 0; i < n; i++ { // the window with the most of the sample
			for j < n && uint64(k.sample[j]-k.sample[i]) <= window {
				j++
			}
			if j-i > most {
				from, most = i, j-i
			}
			if j == n {
				break
			}
		}
		// The window begins a little before the first of the sample that it has: others lie between.
		base := k.sample[from]
		if spare := window - uint64(k.sample[from+most-1]-base); spare > 0 {
			if room := uint64(base - lo); spare/2 < room {
				base -= int64(spare / 2)
			} else {
				base = lo
			}
		}
		h, outside := k.entropy(base, uint8(low), window)
		c := float64(low) + max(h, 0.1) + float64(outside)/float64(n)*float64(width+14)
		if c < cost {
			cost, worse = c, 0
			best = packing{base: base, low: uint8(low), high: true, escaped: 1}
		} else {
			worse++
		}
	}
	return best
}

// centred is a base from lo down that puts the mean into the middle of the high bytes, as far as all up to hi fit into them. The chunks of a page are packed
// with one table: their bytes are to mean the same.
func centred(lo, hi int64, mean float64, low uint8) int64 {
	if lo < -1<<60 || hi > 1<<60 {
		return lo
	}
	base := int64(math.Round(mean)) - 128<<low
	if base = max(base, hi-(256<<low-1)); base >= lo {
		return lo
	}
	return lo - (lo-base)>>low<<low // low bits that are all the same stay zeros
}

// pack appends d to the streams. Escapes are in k.escPos and k.escVal after it.
func (k *packer) pack(d []int64, high, low []byte) (p packing, high2, low2 []byte) {
	p = k.choose(d)
	k.escPos, k.escVal = k.escPos[:0], k.escVal[:0]
	if !p.high {
		return p, high, low
	}
	window := uint64(math.MaxUint64)
	if p.escaped > 0 {
		window = uint64(escapeByte)<<p.low - 1
	}
	p.escaped = 0
	at := len(high)
	high = grow(high, len(d))
	out := high[at:]
	var acc uint64
	var filled uint8
	mask := uint64(1)<<p.low - 1
	for i, v := range d {
		u := uint64(v - p.base)
		if u > window {
			k.escPos, k.escVal = append(k.escPos, i), append(k.escVal, v)
			u = escapeByte << p.low
		}
		out[i] = byte(u >> p.low)
		if p.low == 0 {
			continue
		}
		u &= mask
		acc |= u << filled
		if filled += p.low; filled >= 64 {
			low = binary.LittleEndian.AppendUint64(low, acc)
			filled -= 64
			acc = u >> (p.low - filled)
		}
	}
	for ; filled > 0; filled -= min(filled, 8) {
		low = append(low, byte(acc))
		acc >>= 8
	}
	p.escaped = len(k.escPos)
	return p, high, low
}

// lowBytes is how long the low bits of n values are.
func (p packing) lowBytes(n int) int { return (n*int(p.low) + 7) / 8 }

// unpack writes the values but for escapes. low has lowPadding bytes after its own.
func (p packing) unpack(out []int64, high, low []byte) {
	base, n := p.base, len(out)
	switch {
	case !p.high:
		for i := range out {
			out[i] = base
		}
	case p.low == 0:
		for i, h := range high[:n] {
			out[i] = base + int64(h)
		}
	case p.low <= 8: // 7 values in each load
		shift, mask := p.low, uint64(1)<<p.low-1
		pos := uint(0)
		high = high[:n]
		i := 0
		for ; i+7 <= n; i += 7 {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			o, h := out[i:i+7:i+7], high[i:i+7:i+7]
			o[0] = base + int64(uint64(h[0])<<(shift&63)|w&mask)
			w >>= shift & 63
			o[1] = base + int64(uint64(h[1])<<(shift&63)|w&mask)
			w >>= shift & 63
			o[2] = base + int64(uint64(h[2])<<(shift&63)|w&mask)
			w >>= shift & 63
			o[3] = base + int64(uint64(h[3])<<(shift&63)|w&mask)
			w >>= shift & 63
			o[4] = base + int64(uint64(h[4])<<(shift&63)|w&mask)
			w >>= shift & 63
			o[5] = base + int64(uint64(h[5])<<(shift&63)|w&mask)
			w >>= shift & 63
			o[6] = base + int64(uint64(h[6])<<(shift&63)|w&mask)
			pos += 7 * uint(shift)
		}
		for ; i < n; i++ {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			out[i] = base + int64(uint64(high[i])<<(shift&63)|w&mask)
			pos += uint(shift)
		}
	default:
		shift, mask := uint(p.low), uint64(1)<<p.low-1
		pos := uint(0)
		for i, h := range high[:n] {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			out[i] = base + int64(uint64(h)<<(shift&63)|w&mask)
			pos += shift
		}
	}
}

// sums writes first + factor · the running sum of the values: it unpacks and adds up at once. There must be no escapes.
func (p packing) sums(out []int64, high, low []byte, first, factor int64) {
	n := len(out)
	base, sum := p.base*factor, first
	switch {
	case !p.high:
		for i := range out {
			sum += base
			out[i] = sum
		}
	case p.low == 0 && factor == 1:
		for i, h := range high[:n] {
			sum += base + int64(h)
			out[i] = sum
		}
	case p.low <= 8: // 7 values in each load
		shift, mask := p.low, uint64(1)<<p.low-1
		pos := uint(0)
		high = high[:n]
		i := 0
		for ; i+7 <= n; i += 7 {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			o, h := out[i:i+7:i+7], high[i:i+7:i+7]
			sum += base + int64(uint64(h[0])<<(shift&63)|w&mask)*factor
			o[0] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[1])<<(shift&63)|w&mask)*factor
			o[1] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[2])<<(shift&63)|w&mask)*factor
			o[2] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[3])<<(shift&63)|w&mask)*factor
			o[3] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[4])<<(shift&63)|w&mask)*factor
			o[4] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[5])<<(shift&63)|w&mask)*factor
			o[5] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[6])<<(shift&63)|w&mask)*factor
			o[6] = sum
			pos += 7 * uint(shift)
		}
		for ; i < n; i++ {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			sum += base + int64(uint64(high[i])<<(shift&63)|w&mask)*factor
			out[i] = sum
			pos += uint(shift)
		}
	case p.low <= 28: // 2 values in each load
		shift, mask := uint(p.low), uint64(1)<<p.low-1
		pos := uint(0)
		high = high[:n]
		i := 0
		for ; i+2 <= n; i += 2 {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			o, h := out[i:i+2:i+2], high[i:i+2:i+2]
			sum += base + int64(uint64(h[0])<<(shift&63)|w&mask)*factor
			o[0] = sum
			w >>= shift & 63
			sum += base + int64(uint64(h[1])<<(shift&63)|w&mask)*factor
			o[1] = sum
			pos += 2 * shift
		}
		if i < n {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			out[i] = sum + base + int64(uint64(high[i])<<(shift&63)|w&mask)*factor
		}
	default:
		shift, mask := uint(p.low), uint64(1)<<p.low-1
		pos := uint(0)
		for i, h := range high[:n] {
			w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
			sum += base + int64(uint64(h)<<(shift&63)|w&mask)*factor
			out[i] = sum
			pos += shift
		}
	}
}

// total is the sum of n values. There must be no escapes.
func (p packing) total(n int, high, low []byte) int64 {
	sum := p.base * int64(n)
	if !p.high {
		return sum
	}
	sum += int64(sumBytes(high[:n])) << (p.low & 63)
	if p.low == 0 {
		return sum
	}
	shift, mask := uint(p.low), uint64(1)<<p.low-1
	each := max(1, 56/int(shift)) // in each load, from any bit
	pos := uint(0)
	for n > 0 {
		w := binary.LittleEndian.Uint64(low[pos>>3:]) >> (pos & 7)
		k := min(each, n)
		for range k {
			sum += int64(w & mask)
			w >>= shift & 63
		}
		n -= k
		pos += uint(k) * shift
	}
	return sum
}

// sumBytes adds up bytes, eight at once.
func sumBytes(b []byte) (sum uint64) {
	const lanes = 0x00ff00ff00ff00ff
	for len(b) >= 8 {
		var acc uint64
		for i := 0; i < 128 && len(b) >= 8; i++ { // 128 · 510 fit into 16 bits
			w := binary.LittleEndian.Uint64(b)
			acc += w&lanes + w>>8&lanes
			b = b[8:]
		}
		sum += acc&0xffff + acc>>16&0xffff + acc>>32&0xffff + acc>>48
	}
	for _, c := range b {
		sum += uint64(c)
	}
	return sum
}
