package codec

import (
	"encoding/binary"
	"math"

	"kemi"
)

// samples decodes what stands after the labels of a series, in either version: the fields differ in their numbers only.
func (d *decoder) samples(s *Series, m, rest, field []byte, v2 bool) error {
	root := s
	d.now1 = nil
	if !v2 {
		d.now1 = m[:len(m)-len(rest)]
	}
	if d.enrich.active {
		if added, other := d.enrich.wants(s); other {
			v := s.with(added)
			if v == nil { // once for each series: only then are its labels needed
				raw := d.now1
				if v2 && !s.HasLabels() {
					raw = appendRawLabels(nil, d.labelsNow())
				}
				v = d.space.variant(s, added, raw)
			}
			s = v
		}
	}
	s.touch(d.now)
	d.series = append(d.series, s)
	began := len(d.at)
	others := len(d.complex.Histograms) + len(d.complex.Exemplars)
	numbers := numbersV1
	if v2 {
		numbers = numbersV2
	}
	start := int64(0)
	cuts := 0
	for len(rest) > 0 {
		if at, value, n := plainSample(rest); n > 0 && d.inTime(at) {
			d.at = append(d.at, kemi.Millis(at))
			d.values = append(d.values, value)
			rest = rest[n:]
			continue
		}
		part := rest
		tag, n := varint(rest)
		if n <= 0 || tag>>3 == 0 {
			return errBroken("field of a series", d.offset(rest))
		}
		if tag&7 != pbBytes {
			k, ok := skip(tag&7, rest[n:])
			switch {
			case !ok || tag>>3 <= 5 && !(v2 && tag>>3 == 1):
				return errBroken("field of a series", d.offset(rest))
			case tag>>3 == 1: // a label reference that is not packed, after others
				return errScattered
			case v2 && tag>>3 == 6 && tag&7 == pbVarint: // where drafts of version 2.0 had the start of all samples
				u, _ := varint(rest[n:])
				start = int64(u)
			default:
				d.foreign("a series", tag>>3)
			}
			rest = rest[n+k:]
			continue
		}
		l, k := varint(rest[n:])
		if k <= 0 || l > uint64(len(rest)-n-k) {
			return errBroken("field of a series, which is cut short", d.offset(rest))
		}
		v := rest[n+k : n+k+int(l)]
		rest = rest[n+k+int(l):]
		var err error
		ok := true
		switch tag >> 3 {
		case 1:
			return errScattered
		case numbers.sample:
			ok, err = d.sample(v)
		case numbers.histogram:
			ok, err = d.histogram(v)
		case numbers.exemplar:
			ok, err = d.exemplar(v, v2)
		case numbers.metadata:
			err = d.metadataV2(root, v)
		default:
			d.foreign("a series", tag>>3)
		}
		if err != nil {
			return err
		}
		if !ok {
			cuts++
			d.check.cut(d.offset(field), d.offset(part), len(part)-len(rest))
		}
	}
	if len(d.at)+len(d.complex.Histograms)+len(d.complex.Exemplars) > maxItems {
		return kemi.Errorf(kemi.ErrTooLarge, "more than %d samples in one request; send it in parts", maxItems)
	}
	if start != 0 {
		for i := began; i < len(d.at); i++ {
			if i >= len(d.starts) || d.starts[i] == 0 {
				d.start(i, start)
			}
		}
	}
	if len(d.starts) > 0 {
		d.starts = append(d.starts, make([]kemi.Millis, len(d.at)-len(d.starts))...)
	}
	if len(d.at) == began && len(d.complex.Histograms)+len(d.complex.Exemplars) == others {
		d.series = d.series[:len(d.series)-1]
		switch {
		case d.check == nil:
		case cuts > 0: // nothing of it is left
			d.check.cuts = d.check.cuts[:len(d.check.cuts)-cuts]
			d.check.cutField(d, field)
		case v2:
			d.check.cutField(d, field)
			return d.check.refuse(&d.check.refused.Series, "series %s: neither a sample nor a histogram", describe(d.labelsNow()))
		}
		return nil
	}
	d.ends = append(d.ends, int32(len(d.at)))
	return nil
}

// labelsNow are the labels of the series that is being decoded.
func (d *decoder) labelsNow() kemi.Labels {
	var ls kemi.Labels
	if d.now1 != nil {
		ls, _ = appendLabels(nil, d.now1)
	} else {
		for i := 0; i+1 < len(d.named); i += 2 {
			ls = append(ls, kemi.Label{Name: text(d.symbols[d.named[i]]), Value: text(d.symbols[d.named[i+1]])})
		}
	}
	return ls.Normalize()
}

// plainSample reads a sample as every sender writes it: a value, left out if it is 0, then a time of today in 6 bytes. n is 0 if
// it is not like that.
func plainSample(b []byte) (at int64, value float64, n int) {
	switch {
	case len(b) >= 18 && b[0] == 2<<3|pbBytes && b[1] == 16 && b[2] == 1<<3|pbFixed64 && b[11] == 2<<3|pbVarint:
		value, n = math.Float64frombits(binary.LittleEndian.Uint64(b[3:])), 18
	case len(b) >= 9 && b[0] == 2<<3|pbBytes && b[1] == 7 && b[2] == 2<<3|pbVarint:
		n = 9
	default:
		return 0, 0, 0
	}
	x := uint64(binary.LittleEndian.Uint32(b[n-6:])) | uint64(binary.LittleEndian.Uint16(b[n-2:]))<<32
	if x&0x8080_8080_8080 != 0x0080_8080_8080 {
		return 0, 0, 0
	}
	x &= 0x7f7f_7f7f_7f7f
	x = x&0x007f_007f_007f | x&0x7f00_7f00_7f00>>1
	return int64(x&0x3fff | x>>16&0x3fff<<14 | x>>32&0x3fff<<28), value, n
}

// numbers are the field numbers of a series.
type numbers struct{ sample, histogram, exemplar, metadata uint64 }

var (
	numbersV1 = numbers{sample: 2, exemplar: 3, histogram: 4, metadata: math.MaxUint64}
	numbersV2 = numbers{sample: 2, histogram: 3, exemplar: 4, metadata: 5}
)

// start notes the start of the sample i.
func (d *decoder) start(i int, start int64) {
	for len(d.starts) <= i {
		d.starts = append(d.starts, 0)
	}
	d.starts[i] = kemi.Millis(start)
}

// sample decodes a sample; false if it is refused.
func (d *decoder) sample(m []byte) (bool, error) {
	var value float64
	var at, start int64
	if !fields(m, func(number int, wire uint64, _ []byte, u uint64) bool {
		switch {
		case number == 1 && wire == pbFixed64:
			value = math.Float64frombits(u)
		case number == 2 && wire == pbVarint:
			at = int64(u)
		case number == 3 && wire == pbVarint:
			start = int64(u)
		case number <= 3:
			return false
		default:
			d.foreign("a sample", uint64(number))
		}
		return true
	}) {
		return false, errBroken("sample", d.offset(m))
	}
	if !d.inTime(at) {
		return false, d.refuseTime(&d.check.refused.Samples, "sample", at, value)
	}
	d.at = append(d.at, kemi.Millis(at))
	d.values = append(d.values, value)
	if start != 0 {
		d.start(len(d.at)-1, start)
	}
	return true, nil
}

func (d *decoder) inTime(at int64) bool {
	return d.check == nil || at >= d.check.oldest && at <= d.check.newest
}
