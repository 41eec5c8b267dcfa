package codec

import (
	"encoding/binary"
	"math"

	"kemi"
)

// histogram decodes a native histogram; false if it is refused.
func (d *decoder) histogram(m []byte) (bool, error) {
	h := Histogram{Series: int32(len(d.series) - 1)}
	if !fields(m, func(number int, wire uint64, v []byte, u uint64) bool {
		if number > 17 {
			d.foreign("a histogram", uint64(number))
			return true
		}
		return h.field(number, wire, v, u)
	}) {
		return false, errBroken("histogram", d.offset(m))
	}
	if d.check != nil {
		if !d.inTime(int64(h.At)) {
			return false, d.refuseTime(&d.check.refused.Histograms, "histogram of sum", int64(h.At), h.Sum)
		}
		if err := h.validate(); err != nil {
			return false, d.check.refuse(&d.check.refused.Histograms, "series %s: histogram at %s: %w", describe(d.labelsNow()), describeTime(int64(h.At)), err)
		}
	}
	d.complex.Histograms = append(d.complex.Histograms, h)
	return true, nil
}

func (h *Histogram) field(number int, wire uint64, v []byte, u uint64) bool {
	switch number {
	case 1, 6, 14, 15, 17, 4:
		if wire != pbVarint {
			return false
		}
	case 2, 3, 5, 7:
		if wire != pbFixed64 {
			return false
		}
	case 8, 11:
		if wire != pbBytes {
			return false
		}
	}
	ok := true
	switch number {
	case 1:
		h.Count, h.FloatCount, h.Float = u, 0, false
	case 2:
		h.FloatCount, h.Count, h.Float = math.Float64frombits(u), 0, true
	case 3:
		h.Sum = math.Float64frombits(u)
	case 4:
		h.Schema = int32(zigzag(u))
	case 5:
		h.ZeroThreshold = math.Float64frombits(u)
	case 6:
		h.ZeroCount, h.FloatZeroCount = u, 0
	case 7:
		h.FloatZeroCount, h.ZeroCount = math.Float64frombits(u), 0
	case 8:
		h.NegativeSpans, ok = appendSpan(h.NegativeSpans, v)
	case 9:
		h.NegativeDeltas, ok = appendDeltas(h.NegativeDeltas, wire, v, u)
	case 10:
		h.NegativeCounts, ok = appendDoubles(h.NegativeCounts, wire, v, u)
	case 11:
		h.PositiveSpans, ok = appendSpan(h.PositiveSpans, v)
	case 12:
		h.PositiveDeltas, ok = appendDeltas(h.PositiveDeltas, wire, v, u)
	case 13:
		h.PositiveCounts, ok = appendDoubles(h.PositiveCounts, wire, v, u)
	case 14:
		if u <= uint64(ResetGauge) {
			h.Hint = ResetHint(u)
		}
	case 15:
		h.At = kemi.Millis(u)
	case 16:
		h.CustomValues, ok = appendDoubles(h.CustomValues, wire, v, u)
	case 17:
		h.Start = kemi.Millis(u)
	}
	return ok
}

func zigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func appendSpan(spans []Span, m []byte) ([]Span, bool) {
	var s Span
	ok := len(spans) < maxBuckets && fields(m, func(number int, wire uint64, _ []byte, u uint64) bool {
		switch {
		case number <= 2 && wire != pbVarint:
			return false
		case number == 1:
			s.Offset = int32(zigzag(u))
		case number == 2:
			s.Length = uint32(u)
		}
		return true
	})
	return append(spans, s), ok
}

// maxBuckets bounds the buckets of one histogram.
const maxBuckets = 1 << 16

func appendDeltas(dst []int64, wire uint64, packed []byte, u uint64) ([]int64, bool) {
	switch wire {
	case pbVarint:
		dst = append(dst, zigzag(u))
	case pbBytes:
		for len(packed) > 0 {
			u, n := varint(packed)
			if n <= 0 || len(dst) >= maxBuckets {
				return dst, false
			}
			dst = append(dst, zigzag(u))
			packed = packed[n:]
		}
	default:
		return dst, false
	}
	return dst, len(dst) <= maxBuckets
}

func appendDoubles(dst []float64, wire uint64, packed []byte, u uint64) ([]float64, bool) {
	switch wire {
	case pbFixed64:
		dst = append(dst, math.Float64frombits(u))
	case pbBytes:
		if len(packed)%8 != 0 || len(dst)+len(packed)/8 > maxBuckets {
			return dst, false
		}
		for ; len(packed) > 0; packed = packed[8:] {
			dst = append(dst, math.Float64frombits(binary.LittleEndian.Uint64(packed)))
		}
	default:
		return dst, false
	}
	return dst, len(dst) <= maxBuckets
}

// The schemas of buckets: exponential ones of this resolution (finer ones than 8 are made coarser by the store), or bounds of one's own.
const (
	minSchema    = -4
	maxSchema    = 52
	customSchema = -53
)

// validate tells what is wrong with the buckets.
func (h *Histogram) validate() error {
	invalid := func(format string, args ...any) error { return kemi.Errorf(kemi.ErrInvalid, format, args...) }
	positive, negative := len(h.PositiveDeltas), len(h.NegativeDeltas)
	if h.Float {
		positive, negative = len(h.PositiveCounts), len(h.NegativeCounts)
		if len(h.PositiveDeltas)+len(h.NegativeDeltas) > 0 {
			return invalid("buckets of whole counts in a histogram of float counts")
		}
		if h.ZeroCount != 0 {
			return invalid("a whole zero count in a histogram of float counts")
		}
	} else if h.FloatZeroCount != 0 {
		return invalid("a float zero count in a histogram of whole counts")
	} else if len(h.PositiveCounts)+len(h.NegativeCounts) > 0 {
		return invalid("buckets of float counts in a histogram of whole counts")
	}
	switch {
	case h.Schema == customSchema:
		switch {
		case h.ZeroCount != 0 || h.FloatZeroCount != 0 || h.ZeroThreshold != 0:
			return invalid("custom buckets with a zero bucket")
		case len(h.NegativeSpans)+negative > 0:
			return invalid("custom buckets with negative buckets")
		}
		if err := checkBounds(h.CustomValues, h.PositiveSpans, positive); err != nil {
			return err
		}
	case h.Schema >= minSchema && h.Schema <= maxSchema:
		if h.CustomValues != nil {
			return invalid("schema %d with bounds of custom buckets", h.Schema)
		}
		if err := checkSpans("positive", h.PositiveSpans, positive); err != nil {
			return err
		}
		if err := checkSpans("negative", h.NegativeSpans, negative); err != nil {
			return err
		}
	default:
		return invalid("schema %d: must be between %d and %d, or %d for custom buckets", h.Schema, minSchema, maxSchema, customSchema)
	}
	if h.Float {
		switch {
		case h.FloatCount < 0:
			return invalid("count %v: must not be negative", h.FloatCount)
		case h.FloatZeroCount < 0:
			return invalid("zero count %v: must not be negative", h.FloatZeroCount)
		}
		for _, counts := range [][]float64{h.PositiveCounts, h.NegativeCounts} {
			for i, c := range counts {
				if c < 0 {
					return invalid("bucket %d: count %v: must not be negative", i, c)
				}
			}
		}
		return nil
	}
	sum := h.ZeroCount
	for _, deltas := range [][]int64{h.PositiveDeltas, h.NegativeDeltas} {
		last := int64(0)
		for i, x := range deltas {
			if last += x; last < 0 {
				return invalid("bucket %d: count %d: must not be negative", i, last)
			}
			sum += uint64(last)
		}
	}
	if sum != h.Count && !(math.IsNaN(h.Sum) && sum < h.Count) {
		return invalid("count %d: the buckets hold %d", h.Count, sum)
	}
	return nil
}

func checkSpans(side string, spans []Span, buckets int) error {
	need, end := 0, int64(0)
	for i, s := range spans {
		if i > 0 && s.Offset < 0 || s.Offset == math.MinInt32 {
			return kemi.Errorf(kemi.ErrInvalid, "%s span %d: offset %d", side, i, s.Offset)
		}
		need += int(s.Length)
		if end += int64(s.Offset) + int64(s.Length); end-1 > math.MaxInt32 {
			return kemi.Errorf(kemi.ErrInvalid, "%s span %d: ends at bucket %d", side, i, end-1)
		}
	}
	if need != buckets {
		return kemi.Errorf(kemi.ErrInvalid, "%s spans of %d buckets, but there are %d", side, need, buckets)
	}
	return nil
}

func checkBounds(bounds []float64, spans []Span, buckets int) error {
	for i, b := range bounds {
		if math.IsNaN(b) || i > 0 && b <= bounds[i-1] {
			return kemi.Errorf(kemi.ErrInvalid, "custom bound %d: %v: must be larger than the one before", i, b)
		}
	}
	if n := len(bounds); n > 0 && math.IsInf(bounds[n-1], 1) {
		return kemi.Errorf(kemi.ErrInvalid, "custom bound %d: +Inf is there by itself and must not be named", n-1)
	}
	need, total := 0, 0
	for i, s := range spans {
		if s.Offset < 0 {
			return kemi.Errorf(kemi.ErrInvalid, "span %d: offset %d", i, s.Offset)
		}
		need += int(s.Length)
		total += int(s.Length) + int(s.Offset)
	}
	switch {
	case need != buckets:
		return kemi.Errorf(kemi.ErrInvalid, "spans of %d buckets, but there are %d", need, buckets)
	case len(bounds)+1 < total:
		return kemi.Errorf(kemi.ErrInvalid, "%d custom bounds for %d buckets", len(bounds), total)
	}
	return nil
}
