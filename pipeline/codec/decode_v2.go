package codec

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/zeebo/xxh3"

	"kemi"
)

// v2Key keeps the keys of series that version 2 names by references apart from those of raw labels.
const v2Key = 0x5bd1_e995_97f4_a7c1

// writeV2 decodes an io.prometheus.write.v2.Request. Symbols may stand anywhere in it, so they are gathered first.
func (d *decoder) writeV2() error {
	known := len(d.buf) == 0
	for b := d.buf; len(b) > 0; {
		tag, n := varint(b)
		if n <= 0 || tag>>3 == 0 {
			return errBroken("field of the request", d.offset(b))
		}
		k, ok := skip(tag&7, b[n:])
		if !ok || (tag>>3 == 4 || tag>>3 == 5) && tag&7 != pbBytes {
			return errBroken("field of the request, which is cut short", d.offset(b))
		}
		known = known || tag>>3 == 4 || tag>>3 == 5
		if tag>>3 != 4 && tag>>3 != 5 {
			d.foreign("the request", tag>>3)
		}
		if tag>>3 == 4 {
			v, _, _ := bytesAt(b[n:])
			h := xxh3.Hash128(v)
			d.symbols = append(d.symbols, v)
			d.hashes = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(d.hashes, h.Lo), h.Hi)
			if len(d.symbols) > maxItems {
				return kemi.Errorf(kemi.ErrTooLarge, "more than %d symbols in one request; send it in parts", maxItems)
			}
		}
		b = b[n+k:]
	}
	if !known {
		return errUnknown(RemoteWrite2)
	}
	for b := d.buf; len(b) > 0; {
		tag, n := varint(b)
		k, _ := skip(tag&7, b[n:])
		if tag>>3 == 5 {
			l, j := varint(b[n:])
			if err := d.seriesV2(b[n+j:n+j+int(l)], b); err != nil {
				return err
			}
		}
		b = b[n+k:]
	}
	return nil
}

// seriesV2 decodes one series.
func (d *decoder) seriesV2(m, field []byte) error {
	d.refs = d.refs[:0]
	rest := m
	for len(rest) > 0 && rest[0]>>3 == 1 {
		switch rest[0] & 7 {
		case pbBytes:
			packed, n, ok := bytesAt(rest[1:])
			if !ok {
				return errBroken("label references, which are cut short", d.offset(rest))
			}
			for len(packed) > 0 {
				u, k := varint(packed)
				if k <= 0 {
					return errBroken("label reference", d.offset(rest))
				}
				d.refs = append(d.refs, u)
				packed = packed[k:]
			}
			rest = rest[1+n:]
		case pbVarint:
			u, n := varint(rest[1:])
			if n <= 0 {
				return errBroken("label reference", d.offset(rest))
			}
			d.refs = append(d.refs, u)
			rest = rest[1+n:]
		default:
			return errBroken("label references", d.offset(rest))
		}
		if len(d.refs) > maxRefs {
			return d.refuseSeries(m, field, kemi.Errorf(kemi.ErrInvalid, "series with more than %d labels", maxRefs/2))
		}
	}
	s, err := d.findRefs()
	d.named = append(d.named[:0], d.refs...) // exemplars have references as well
	if err != nil {
		return d.refuseSeries(m, field, err)
	}
	if d.prev != nil && d.prev.next.Load() != s {
		d.prev.next.Store(s)
	}
	d.prev = s
	return d.samples(s, m, rest, field, true)
}

// findRefs is the entry of the series that d.refs name: the hash of the hashes of its symbols, which are made once a request.
func (d *decoder) findRefs() (*Series, error) {
	d.key = d.key[:0]
	for _, r := range d.refs {
		if r >= uint64(len(d.symbols)) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "label reference %d: there are %d symbols", r, len(d.symbols))
		}
		d.key = append(d.key, d.hashes[16*r:16*r+16]...)
	}
	k := xxh3.Hash128(d.key)
	k.Hi ^= v2Key
	if d.prev != nil {
		if p := d.prev.next.Load(); p != nil && p.high2.Load() == k.Hi && d.good(p) {
			return p, nil
		}
	}
	s := d.space.find(k)
	if s != nil && d.good(s) {
		return s, nil
	}
	if len(d.refs)%2 != 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "%d label references: must be pairs of name and value", len(d.refs))
	}
	d.labels = d.labels[:0]
	size := 0
	for i := 0; i < len(d.refs); i += 2 {
		n, v := d.symbols[d.refs[i]], d.symbols[d.refs[i+1]]
		d.labels = append(d.labels, kemi.Label{Name: text(n), Value: text(v)})
		size += len(n) + len(v)
	}
	if d.check != nil {
		// Before the labels are written out: the references may name a large symbol many times.
		if err := d.check.labels(d.labels); err != nil {
			return nil, err
		}
	} else if size > maxItems {
		return nil, kemi.Errorf(kemi.ErrInvalid, "series with %d bytes of labels", size)
	}
	// The same series may be known from version 1; then both keys lead to one entry.
	d.raw = appendRawLabels(d.raw[:0], d.labels)
	k1 := xxh3.Hash128(d.raw)
	s, err := d.unknown(k1, d.space.find(k1), d.raw)
	if err == nil && s.refs.Load() > 0 {
		s = d.space.add(k, s)
		s.high2.Store(k.Hi)
	}
	return s, err
}

// metadataV2 takes what a series says of its metric, unless the log has it already.
func (d *decoder) metadataV2(s *Series, m []byte) error {
	var kind, help, unit uint64
	if !fields(m, func(number int, wire uint64, _ []byte, u uint64) bool {
		if number <= 4 && wire != pbVarint {
			return number == 2
		}
		switch number {
		case 1:
			kind = u
		case 3:
			help = u
		case 4:
			unit = u
		default:
			d.foreign("metadata", uint64(number))
		}
		return true
	}) {
		return errBroken("metadata", d.offset(m))
	}
	if kind == 0 && help == 0 && unit == 0 {
		return nil
	}
	if help >= uint64(len(d.symbols)) || unit >= uint64(len(d.symbols)) {
		return kemi.Errorf(kemi.ErrInvalid, "metadata of series %s: references to help %d and unit %d: there are %d symbols", describe(d.labelsNow()), help, unit, len(d.symbols))
	}
	hash := hashOf64(kind, d.symbols[help], d.symbols[unit])
	if s.meta.Load() == hash {
		return nil
	}
	md := metadata(kind, d.labelsNow().Get(kemi.MetricName), d.symbols[help], d.symbols[unit])
	switch md.Type {
	case "histogram", "gaugehistogram", "summary":
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if base, ok := strings.CutSuffix(md.Metric, suffix); ok {
				md.Metric = base
				break
			}
		}
	}
	if n := len(d.complex.Metadata); n == 0 || d.complex.Metadata[n-1] != md {
		d.complex.Metadata = append(d.complex.Metadata, md)
	}
	d.marks = append(d.marks, mark{s, hash})
	return nil
}

// metadataV1 decodes a prometheus.MetricMetadata.
func (d *decoder) metadataV1(m []byte) error {
	var kind uint64
	var name, help, unit []byte
	if !fields(m, func(number int, wire uint64, v []byte, u uint64) bool {
		switch {
		case number == 1 && wire == pbVarint:
			kind = u
		case number == 2 && wire == pbBytes:
			name = v
		case number == 4 && wire == pbBytes:
			help = v
		case number == 5 && wire == pbBytes:
			unit = v
		case number == 1 || number == 2 || number == 4 || number == 5:
			return false
		default:
			d.foreign("metadata", uint64(number))
		}
		return true
	}) {
		return errBroken("metadata", d.offset(m))
	}
	if len(d.complex.Metadata) >= maxItems/8 {
		return kemi.Errorf(kemi.ErrTooLarge, "metadata of more than %d metrics in one request; send it in parts", maxItems/8)
	}
	if len(name) > 0 && len(name) <= maxHelp {
		d.complex.Metadata = append(d.complex.Metadata, metadata(kind, string(name), help, unit))
	}
	return nil
}

// maxHelp is how much of a help text is kept, in bytes.
const maxHelp = 16 << 10

func metadata(kind uint64, metric string, help, unit []byte) Metadata {
	if kind >= uint64(len(metadataTypes)) {
		kind = 0
	}
	return Metadata{
		Metric: strings.Clone(metric), Type: metadataTypes[kind], // what metric is a part of may be used again
		Help: strings.ToValidUTF8(string(help[:min(len(help), maxHelp)]), "\uFFFD"), Unit: strings.ToValidUTF8(string(unit[:min(len(unit), maxHelp)]), "\uFFFD"),
	}
}

// exemplar decodes an exemplar; false if it is refused.
func (d *decoder) exemplar(m []byte, v2 bool) (bool, error) {
	e := Exemplar{Series: int32(len(d.series) - 1)}
	var broken error
	if !fields(m, func(number int, wire uint64, v []byte, u uint64) bool {
		switch {
		case number == 1 && v2:
			broken = d.exemplarRefs(&e, wire, v, u)
			return broken == nil
		case number == 1 && wire == pbBytes:
			ls, ok := appendLabels(nil, appendField(nil, v))
			e.Labels = append(e.Labels, ls...)
			return ok && len(e.Labels) <= maxRefs
		case number == 2 && wire == pbFixed64:
			e.Value = math.Float64frombits(u)
		case number == 3 && wire == pbVarint:
			e.At = kemi.Millis(u)
		case number <= 3:
			return false
		default:
			d.foreign("an exemplar", uint64(number))
		}
		return true
	}) {
		if broken == nil {
			broken = errBroken("exemplar", d.offset(m))
		}
		return false, broken
	}
	if e.At != 0 && !d.inTime(int64(e.At)) {
		return false, d.refuseTime(&d.check.refused.Exemplars, "exemplar", int64(e.At), e.Value)
	}
	if d.check != nil {
		if err := d.check.exemplar(e.Labels); err != nil {
			return false, d.check.refuse(&d.check.refused.Exemplars, "series %s: exemplar: %w", describe(d.labelsNow()), err)
		}
	}
	e.Labels = copyLabels(e.Labels).Normalize()
	d.complex.Exemplars = append(d.complex.Exemplars, e)
	return true, nil
}

func (d *decoder) exemplarRefs(e *Exemplar, wire uint64, packed []byte, u uint64) error {
	d.refs = d.refs[:0]
	switch wire {
	case pbVarint:
		return kemi.Errorf(kemi.ErrInvalid, "exemplar: label references must be packed")
	case pbBytes:
		for len(packed) > 0 {
			r, k := varint(packed)
			if k <= 0 || r >= uint64(len(d.symbols)) || len(d.refs) >= maxRefs {
				return kemi.Errorf(kemi.ErrInvalid, "exemplar: label reference %d: there are %d symbols", r, len(d.symbols))
			}
			d.refs = append(d.refs, r)
			packed = packed[k:]
		}
	}
	if len(d.refs)%2 != 0 {
		return kemi.Errorf(kemi.ErrInvalid, "exemplar: %d label references: must be pairs of name and value", len(d.refs))
	}
	for i := 0; i < len(d.refs); i += 2 {
		e.Labels = append(e.Labels, kemi.Label{Name: text(d.symbols[d.refs[i]]), Value: text(d.symbols[d.refs[i+1]])})
	}
	return nil
}

// appendField makes a label field of the content of one.
func appendField(dst, content []byte) []byte {
	dst = append(dst, 1<<3|pbBytes)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	return append(dst, content...)
}

// copyLabels is ls with bytes of its own.
func copyLabels(ls kemi.Labels) kemi.Labels {
	out := make(kemi.Labels, len(ls))
	for i, l := range ls {
		out[i] = kemi.Label{Name: strings.Clone(l.Name), Value: strings.Clone(l.Value)}
	}
	return out
}
