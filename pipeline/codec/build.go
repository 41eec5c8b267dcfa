package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/zeebo/xxh3"

	"kemi"
	"kemi/pipeline/bus"
)

// Builder makes the record of points that come in another form than remote write: OTLP, line protocols, text. What it makes is a
// remote-write 1.0 request, so that there is one form on the log, and the decoded batch of it, so that nobody decodes it again.
//
// The idea is the one of the Table: a sender names a series with the same bytes each time, whatever the protocol. Known finds the
// series by the hash of those bytes; only what is not known needs labels (Define). A Builder is for one goroutine and one request.
type Builder struct {
	t *Table
	d *decoder
	c *check

	open  *Series // the series whose message ends the body; nil if none
	began int     // where its field begins in the body
}

// Key is the hash of what a protocol calls a series.
type Key = xxh3.Uint128

// KeyOf is the key of the bytes that name a series in a protocol. Each protocol has a seed of its own, so that equal bytes of two of them
// are not one series.
func KeyOf(name []byte, seed uint64) Key {
	k := xxh3.Hash128(name)
	k.Hi ^= seed
	return k
}

// AppendName appends a part of what a series is called to dst, in such a way that no other parts give the same bytes.
func AppendName[T string | []byte](dst []byte, part T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(part))), part...)
}

// Build begins a request of a project. Release must be called when it is done with.
func (t *Table) Build(project string, l Limits) *Builder {
	c := &check{Limits: l, oldest: int64(l.Oldest), newest: int64(l.Newest)}
	return &Builder{t: t, d: t.decoder(project, t.enricher, c), c: c}
}

// Release gives the memory of the builder back. What Incoming returned stays.
func (b *Builder) Release() {
	if b.d != nil {
		b.t.done(b.d)
		b.d = nil
	}
}

// Known is the series of a key, or nil if it is not known.
func (b *Builder) Known(k Key) *Series {
	d := b.d
	if d.prev != nil {
		// What followed the last time is here again, most often: then no place in a large table is looked at.
		if p := d.prev.next.Load(); p != nil && p.high2.Load() == k.Hi^k.Lo && p.is(valid) && p.HasLabels() {
			d.prev = p
			return p
		}
	}
	if s := d.space.find(k); s != nil && s.is(valid) && s.HasLabels() {
		b.follow(k, s)
		return s
	}
	return nil
}

// follow remembers that s, known under k, comes after the one before.
func (b *Builder) follow(k Key, s *Series) {
	if half := k.Hi ^ k.Lo; s.high2.Load() != half {
		s.high2.Store(half)
	}
	if p := b.d.prev; p != nil && p.next.Load() != s {
		p.next.Store(s)
	}
	b.d.prev = s
}

// Define is the series with these labels, which are sorted and freed of empty values in place; from now on it is known under the key.
//
// Errors: ErrInvalid, saying which label breaks which limit; ErrLimited, if there is no room for another series.
func (b *Builder) Define(k Key, ls kemi.Labels) (*Series, error) {
	d := b.d
	ls = ls.Normalize()
	d.labels = append(d.labels[:0], ls...)
	d.raw = appendRawLabels(d.raw[:0], d.labels)
	k1 := xxh3.Hash128(d.raw)
	s, err := d.unknown(k1, d.space.find(k1), d.raw)
	if full, ok := errors.AsType[*fullError](err); ok {
		return nil, full.error
	}
	if err == nil {
		s.flags.Or(keep)
		s.give(d.raw)
	}
	if err == nil && k != k1 && s.refs.Load() > 0 {
		s = d.space.add(k, s)
		b.follow(k, s)
	}
	return s, err
}

// Samples is how many samples and histograms are in it, Size how many bytes its body has before it is packed.
func (b *Builder) Samples() int { return len(b.d.at) + len(b.d.complex.Histograms) }

// Size is how many bytes its body has before it is packed.
func (b *Builder) Size() int { return len(b.d.buf) }

// Full tells that no more fits in one record.
func (b *Builder) Full() bool {
	return b.Samples()+len(b.d.complex.Exemplars) >= maxItems-1 || int64(len(b.d.buf)) > max(b.c.MaxDecodedBytes-maxSeriesBytes, b.c.MaxDecodedBytes/2)
}

// maxSeriesBytes is more than what one series with one sample takes, with the default limits.
const maxSeriesBytes = 1 << 20

// Add adds a sample. start is since when the counter behind it counts, or 0.
//
// Errors: ErrInvalid if the time is not within the limits.
func (b *Builder) Add(s *Series, at kemi.Millis, v float64, start kemi.Millis) error {
	d := b.d
	if !d.inTime(int64(at)) {
		return b.outOfTime(s, "sample", at, v)
	}
	b.enter(s)
	// Without the value 0 and the time 0, as protobuf has it.
	bits, size := math.Float64bits(v), 0
	if bits != 0 {
		size += 9
	}
	if at != 0 {
		size += 1 + uvarintLen64(uint64(at))
	}
	if start != 0 {
		size += 1 + uvarintLen64(uint64(start))
	}
	buf := append(d.buf, 2<<3|pbBytes, byte(size))
	if bits != 0 {
		buf = binary.LittleEndian.AppendUint64(append(buf, 1<<3|pbFixed64), bits)
	}
	if at != 0 {
		buf = binary.AppendUvarint(append(buf, 2<<3|pbVarint), uint64(at))
	}
	if start != 0 {
		buf = binary.AppendUvarint(append(buf, 3<<3|pbVarint), uint64(start))
		d.start(len(d.at), int64(start))
	}
	d.buf = buf
	d.at = append(d.at, at)
	d.values = append(d.values, v)
	d.ends[len(d.ends)-1] = int32(len(d.at))
	return nil
}

// AddHistogram adds a native histogram; its Series does not matter.
//
// Errors: ErrInvalid if the time is not within the limits, or the buckets are not consistent.
func (b *Builder) AddHistogram(s *Series, h Histogram) error {
	d := b.d
	if !d.inTime(int64(h.At)) {
		return b.outOfTime(s, "histogram of sum", h.At, h.Sum)
	}
	if err := h.validate(); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "series %s: histogram at %s: %w", describe(s.Labels()), describeTime(int64(h.At)), err)
	}
	b.enter(s)
	h.Series = int32(len(d.series) - 1)
	d.raw = h.append(d.raw[:0])
	d.buf = appendBytesField(d.buf, 4, d.raw)
	d.complex.Histograms = append(d.complex.Histograms, h)
	return nil
}

// AddExemplar adds an exemplar of a series that has a sample in this request; its Series does not matter. An exemplar without a time has
// the one of the sample.
//
// Errors: ErrInvalid if the time or a label is not within the limits.
func (b *Builder) AddExemplar(s *Series, e Exemplar) error {
	d := b.d
	if e.At != 0 && !d.inTime(int64(e.At)) {
		return b.outOfTime(s, "exemplar", e.At, e.Value)
	}
	e.Labels = e.Labels.Normalize()
	if err := b.c.exemplar(e.Labels); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "series %s: exemplar: %w", describe(s.Labels()), err)
	}
	b.enter(s)
	e.Series = int32(len(d.series) - 1)
	raw := appendRawLabels(d.raw[:0], e.Labels)
	if bits := math.Float64bits(e.Value); bits != 0 {
		raw = binary.LittleEndian.AppendUint64(append(raw, 2<<3|pbFixed64), bits)
	}
	d.raw = appendUvarintField(raw, 3, uint64(e.At))
	d.buf = appendBytesField(d.buf, 3, d.raw)
	d.complex.Exemplars = append(d.complex.Exemplars, e)
	return nil
}

// Describe says what the metric of a series is, unless the log has it already.
func (b *Builder) Describe(s *Series, m Metadata) {
	d := b.d
	kind := metadataType(m.Type)
	hash := hashOf64(kind, []byte(m.Help), []byte(m.Unit))
	if s.meta.Load() == hash || kind == 0 && m.Help == "" && m.Unit == "" {
		return
	}
	d.marks = append(d.marks, mark{s, hash})
	md := metadata(kind, m.Metric, []byte(m.Help), []byte(m.Unit))
	if n := len(d.complex.Metadata); n > 0 && d.complex.Metadata[n-1] == md || m.Metric == "" || len(m.Metric) > maxHelp {
		return
	}
	b.close()
	raw := appendUvarintField(d.raw[:0], 1, kind)
	raw = appendStringField(raw, 2, md.Metric)
	raw = appendStringField(raw, 4, md.Help)
	d.raw = appendStringField(raw, 5, md.Unit)
	d.buf = appendBytesField(d.buf, 3, d.raw)
	d.complex.Metadata = append(d.complex.Metadata, md)
}

func (b *Builder) outOfTime(s *Series, what string, at kemi.Millis, v float64) error {
	return kemi.Errorf(kemi.ErrInvalid, "series %s: %s %v at %s: time must be between %s and %s", describe(s.Labels()), what, v, describeTime(int64(at)),
		describeTime(b.c.oldest), describeTime(b.c.newest))
}

// lengthBytes is what is left free for the length of a series before it is known.
const lengthBytes = 2

// enter makes s the series that what follows belongs to.
func (b *Builder) enter(s *Series) {
	if s == b.open {
		return
	}
	b.close()
	d := b.d
	b.open, b.began = s, len(d.buf)
	d.buf = append(d.buf, 1<<3|pbBytes, 0, 0)
	d.buf = append(d.buf, s.bytes()...)
	if d.enrich.active {
		s = d.enrich.apply(s, nil)
	}
	s.touch(d.now)
	d.series = append(d.series, s)
	d.ends = append(d.ends, int32(len(d.at)))
}

// close writes the length of the open series.
func (b *Builder) close() {
	if b.open == nil {
		return
	}
	b.open = nil
	d := b.d
	at := b.began + 1
	n := len(d.buf) - at - lengthBytes
	switch l := varintLen(n); {
	case l == lengthBytes:
		binary.PutUvarint(d.buf[at:], uint64(n))
	case l < lengthBytes:
		d.buf[at] = byte(n)
		d.buf = slices.Delete(d.buf, at+1, at+lengthBytes)
	default:
		d.buf = slices.Insert(d.buf, at, make([]byte, l-lengthBytes)...)
		binary.PutUvarint(d.buf[at:], uint64(n))
	}
}

// Incoming is the record and its batch. The builder takes nothing more afterwards.
func (b *Builder) Incoming() *Incoming {
	b.close()
	d := b.d
	if len(d.starts) > 0 {
		d.starts = append(d.starts, make([]kemi.Millis, len(d.at)-len(d.starts))...)
	}
	in := &Incoming{Batch: d.batch(), marks: slices.Clone(d.marks)}
	in.Samples, in.Histograms, in.Exemplars, in.Metadata = len(d.at), len(d.complex.Histograms), len(d.complex.Exemplars), len(d.complex.Metadata)
	// What snappy may take at the most is far more than what it takes: the record has bytes of its own, as many as there are.
	d.packed = s2.EncodeSnappy(d.packed, d.buf)
	in.Record = bus.Record{
		Value: slices.Clone(d.packed), Local: in.Batch,
		Headers: append(make([]bus.Header, 0, 5), bus.Header{Name: HeaderProject, Value: d.space.project}, bus.Header{Name: HeaderType, Value: RemoteWrite1},
			bus.Header{Name: HeaderEncoding, Value: EncodingSnappy}),
	}
	if v := d.enrich.value(); v != "" {
		in.Record.Headers = append(in.Record.Headers, bus.Header{Name: HeaderEnrich, Value: v})
	}
	return in
}

// append writes the histogram as the message of remote write, which is the same in both versions but for the start.
func (h *Histogram) append(b []byte) []byte {
	double := func(number int, v float64) {
		if bits := math.Float64bits(v); bits != 0 {
			b = binary.LittleEndian.AppendUint64(append(b, byte(number<<3|pbFixed64)), bits)
		}
	}
	doubles := func(number int, vs []float64) {
		if len(vs) == 0 {
			return
		}
		b = binary.AppendUvarint(b, uint64(number<<3|pbBytes))
		b = binary.AppendUvarint(b, uint64(8*len(vs)))
		for _, v := range vs {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
	}
	deltas := func(number int, vs []int64) {
		if len(vs) == 0 {
			return
		}
		size := 0
		for _, v := range vs {
			size += uvarintLen64(unzigzag(v))
		}
		b = binary.AppendUvarint(b, uint64(number<<3|pbBytes))
		b = binary.AppendUvarint(b, uint64(size))
		for _, v := range vs {
			b = binary.AppendUvarint(b, unzigzag(v))
		}
	}
	spans := func(number int, ss []Span) {
		for _, s := range ss {
			m := appendUvarintField(nil, 1, unzigzag(int64(s.Offset)))
			b = appendBytesField(b, number, appendUvarintField(m, 2, uint64(s.Length)))
		}
	}
	// Of the counts one kind must be there, also if it is 0: it says which kind the histogram is.
	if h.Float {
		b = binary.LittleEndian.AppendUint64(append(b, 2<<3|pbFixed64), math.Float64bits(h.FloatCount))
	} else {
		b = binary.AppendUvarint(append(b, 1<<3|pbVarint), h.Count)
	}
	double(3, h.Sum)
	b = appendUvarintField(b, 4, unzigzag(int64(h.Schema)))
	double(5, h.ZeroThreshold)
	if h.Float {
		b = binary.LittleEndian.AppendUint64(append(b, 7<<3|pbFixed64), math.Float64bits(h.FloatZeroCount))
	} else {
		b = binary.AppendUvarint(append(b, 6<<3|pbVarint), h.ZeroCount)
	}
	spans(8, h.NegativeSpans)
	deltas(9, h.NegativeDeltas)
	doubles(10, h.NegativeCounts)
	spans(11, h.PositiveSpans)
	deltas(12, h.PositiveDeltas)
	doubles(13, h.PositiveCounts)
	b = appendUvarintField(b, 14, uint64(h.Hint))
	b = appendUvarintField(b, 15, uint64(h.At))
	doubles(16, h.CustomValues)
	return appendUvarintField(b, 17, uint64(h.Start))
}

// unzigzag is zigzag backwards.
func unzigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }
