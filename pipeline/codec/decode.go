package codec

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/golang/snappy"
	"github.com/zeebo/xxh3"

	"kemi"
	"kemi/pipeline/bus"
)

// The media types of metrics on the log and in the receivers.
const (
	RemoteWrite1   = "application/x-protobuf"
	RemoteWrite2   = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
	EncodingSnappy = "snappy"
)

// IsWriteV2 tells which version of remote write a content type means. ok is false if it is neither.
func IsWriteV2(contentType string) (v2, ok bool) {
	media, params, _ := strings.Cut(strings.TrimSpace(contentType), ";")
	if media == "" && params == "" {
		return false, true
	}
	if strings.ToLower(strings.TrimSpace(media)) != RemoteWrite1 {
		return false, false
	}
	for p := range strings.SplitSeq(params, ";") {
		if k, v, _ := strings.Cut(strings.TrimSpace(p), "="); k == "proto" {
			switch strings.Trim(v, `"`) {
			case "io.prometheus.write.v2.Request":
				return true, true
			case "prometheus.WriteRequest":
				return false, true
			}
			return false, false
		}
	}
	return false, true
}

const (
	// maxItems bounds what one body may hold of one kind: small messages would otherwise unpack to many times their size.
	maxItems = 1 << 20
	// maxRefs bounds the label references of a series before any limit of the receiver applies.
	maxRefs = 2 * 1024
	// snappyRatio is more than what snappy can pack: a longer block is a lie.
	snappyRatio = 24
	// maxKeptBuffer is how large a buffer may be that is used again.
	maxKeptBuffer = 4 << 20
)

// decoder is what one body is decoded with. It is used again for others; nothing of it is in the batch that it makes.
type decoder struct {
	buf   []byte // the body, unpacked
	space *space
	check *check // of a receiver; nil for what the log has already taken
	now   int64

	enrich enrichment
	prev   *Series // the entry found last, before enrichment

	series  []*Series
	ends    []int32
	at      []kemi.Millis
	values  []float64
	starts  []kemi.Millis // as long as at once a sample has a start
	complex Complex
	marks   []mark
	skipped int

	now1  []byte   // the raw labels of the series that is being decoded, in version 1
	named []uint64 // in version 2 the references of its labels

	raw     []byte
	packed  []byte
	labels  kemi.Labels
	symbols [][]byte
	hashes  []byte // 16 bytes for each symbol
	key     []byte
	refs    []uint64
}

// mark is what Series.meta will be once the log has the metadata.
type mark struct {
	s    *Series
	hash uint64
}

func (t *Table) decoder(project string, enricher Enricher, c *check) *decoder {
	d, _ := t.scratch.Get().(*decoder)
	if d == nil {
		d = &decoder{}
	}
	d.space, d.check, d.now = t.space(project), c, t.now().Unix()
	d.enrich.reset(d.space, enricher)
	t.sweep(d.now)
	return d
}

// done gives the decoder back.
func (t *Table) done(d *decoder) {
	if cap(d.buf) > maxKeptBuffer || cap(d.at) > maxKeptBuffer/16 || cap(d.symbols) > maxKeptBuffer/40 || len(d.enrich.byHost) > 1<<14 {
		return
	}
	clear(d.series) // they may be forgotten meanwhile
	clear(d.symbols)
	clear(d.labels[:cap(d.labels)])
	clear(d.marks)
	*d = decoder{
		buf: d.buf[:0], enrich: enrichment{byHost: d.enrich.byHost}, series: d.series[:0], ends: d.ends[:0], at: d.at[:0], values: d.values[:0],
		starts: d.starts[:0], marks: d.marks[:0], raw: d.raw[:0], packed: d.packed[:0], labels: d.labels[:0], symbols: d.symbols[:0], hashes: d.hashes[:0], key: d.key[:0], refs: d.refs[:0], named: d.named[:0],
	}
	t.scratch.Put(d)
}

// Decode gives the batch of a record of topic metrics: r.Local if it is set, else it decodes the value. What is added to the labels
// is what the record's header says, whatever the inventory says today.
func (t *Table) Decode(r *bus.Record) (*SeriesBatch, error) {
	if b, ok := r.Local.(*SeriesBatch); ok {
		return b, nil
	}
	if enc := r.Header(HeaderEncoding); enc != EncodingSnappy {
		return nil, kemi.Errorf(kemi.ErrInvalid, "metrics at %d/%d: %s %q: must be %s", r.Partition, r.Offset, HeaderEncoding, enc, EncodingSnappy)
	}
	v2, ok := IsWriteV2(r.Header(HeaderType))
	if !ok {
		return nil, kemi.Errorf(kemi.ErrInvalid, "metrics at %d/%d: %s %q: must be %s or %s", r.Partition, r.Offset, HeaderType, r.Header(HeaderType), RemoteWrite1, RemoteWrite2)
	}
	d := t.decoder(r.Header(HeaderProject), nil, nil)
	defer t.done(d)
	if err := d.enrich.setHeader(r.Header(HeaderEnrich)); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "metrics at %d/%d: %w", r.Partition, r.Offset, err)
	}
	if err := d.body(v2, r.Value, math.MaxInt32); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "metrics at %d/%d: %w", r.Partition, r.Offset, err)
	}
	return d.batch(), nil
}

// body unpacks and decodes.
func (d *decoder) body(v2 bool, packed []byte, limit int64) error {
	n, err := snappy.DecodedLen(packed)
	switch {
	case err != nil:
		return kemi.Errorf(kemi.ErrInvalid, "broken snappy: %d bytes without a length at the beginning", len(packed))
	case int64(n) > limit:
		return kemi.Errorf(kemi.ErrTooLarge, "unpacks to %d bytes, at most %d are taken; send it in parts", n, limit)
	case n > snappyRatio*len(packed):
		return kemi.Errorf(kemi.ErrInvalid, "broken snappy: %d bytes cannot unpack to %d", len(packed), n)
	}
	if d.buf, err = snappy.Decode(d.buf[:cap(d.buf)], packed); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "broken snappy: %w", err)
	}
	write, series := d.writeV1, uint64(1)
	if v2 {
		write, series = d.writeV2, 5
	}
	if err = write(); err == errScattered { //nolint:errorlint // returned as it is
		d.buf = gather(d.buf, series)
		d.again()
		err = write()
	}
	return err
}

// batch copies what was decoded to where it can stay.
func (d *decoder) batch() *SeriesBatch {
	b, _ := batches.Get().(*SeriesBatch)
	if b == nil {
		b = &SeriesBatch{}
	}
	b.Project, b.Skipped, b.Complex = d.space.project, d.skipped, nil
	b.Series, b.Ends = append(b.Series[:0], d.series...), append(b.Ends[:0], d.ends...)
	b.At, b.Values = append(b.At[:0], d.at...), append(b.Values[:0], d.values...)
	if c := &d.complex; len(c.Histograms)+len(c.Exemplars)+len(c.Metadata)+len(d.starts) > 0 {
		b.Complex = &Complex{Histograms: c.Histograms, Exemplars: c.Exemplars, Metadata: c.Metadata}
		if len(d.starts) > 0 {
			b.Complex.Starts = slices.Clone(d.starts)
		}
	}
	return b
}

// brokenError says that a body is no protobuf. Nothing of it is taken then.
type brokenError struct {
	what   string
	offset int
}

func (e *brokenError) Error() string {
	return "broken protobuf: " + e.what + " at byte " + strconv.Itoa(e.offset) + " of the unpacked body"
}

func (e *brokenError) Unwrap() error { return kemi.ErrInvalid }

func errBroken(what string, offset int) error { return &brokenError{what, offset} }

// offset is where b, a part of buf, begins in it.
func (d *decoder) offset(b []byte) int { return cap(d.buf) - cap(b) }

// writeV1 decodes a prometheus.WriteRequest.
func (d *decoder) writeV1() error {
	known := len(d.buf) == 0
	for b := d.buf; len(b) > 0; {
		tag, n := varint(b)
		if n <= 0 || tag>>3 == 0 {
			return errBroken("field of the request", d.offset(b))
		}
		if tag&7 != pbBytes {
			k, ok := skip(tag&7, b[n:])
			if !ok || tag>>3 == 1 || tag>>3 == 3 {
				return errBroken("field of the request", d.offset(b))
			}
			if tag>>3 != 2 { // by which some senders say what they are
				d.foreign("the request", tag>>3)
			}
			b = b[n+k:]
			continue
		}
		l, k := varint(b[n:])
		if k <= 0 || l > uint64(len(b)-n-k) {
			return errBroken("field of the request, which is cut short", d.offset(b))
		}
		field := b
		m := b[n+k : n+k+int(l)]
		b = b[n+k+int(l):]
		var err error
		switch tag >> 3 {
		case 1:
			known = true
			err = d.seriesV1(m, field)
		case 3:
			known = true
			err = d.metadataV1(m)
		default:
			d.foreign("the request", tag>>3)
		}
		if err != nil {
			return err
		}
	}
	if !known {
		return errUnknown(RemoteWrite1)
	}
	return nil
}

// errUnknown says that a body, though well-formed, has nothing that its type knows: to take it would be to lose it.
func errUnknown(contentType string) error {
	return kemi.Errorf(kemi.ErrInvalid, "not a message of %s: it has neither series nor metadata; is the content type right?", contentType)
}

// seriesV1 decodes one series. field is the whole field that it is, to be cut out if it is refused.
func (d *decoder) seriesV1(m, field []byte) error {
	var s *Series
	rest := m
	if d.prev != nil {
		// What followed the last time is here again, most often: then its labels need not even be walked through.
		if p := d.prev.next.Load(); p != nil {
			if n := int(p.size); len(m) >= n && (len(m) == n || m[n] != 1<<3|pbBytes) && d.good(p) && xxh3.Hash128(m[:n]) == p.key {
				s, rest = p, m[n:]
			}
		}
	}
	if s == nil {
		n := 0
		for n < len(m) && m[n] == 1<<3|pbBytes {
			_, k, ok := bytesAt(m[n+1:])
			if !ok {
				return errBroken("label, which is cut short", d.offset(m[n:]))
			}
			n += 1 + k
		}
		var err error
		if s, err = d.find(m[:n]); err != nil {
			return d.refuseSeries(m, field, err)
		}
		rest = m[n:]
		if d.prev != nil && d.prev.next.Load() != s {
			d.prev.next.Store(s)
		}
	}
	d.prev = s
	return d.samples(s, m, rest, field, false)
}

// errScattered says that the labels of a series do not all stand at its beginning. Protobuf allows that, and nobody does it.
var errScattered = kemi.Errorf(kemi.ErrInvalid, "labels of a series that do not stand at its beginning")

// gather puts the labels of each series at its beginning.
func gather(body []byte, series uint64) []byte {
	out := make([]byte, 0, len(body))
	for len(body) > 0 {
		tag, n := varint(body)
		k, ok := skip(tag&7, body[max(n, 0):])
		if n <= 0 || !ok {
			return append(out, body...) // broken: to be found out by the decoder
		}
		if tag == series<<3|pbBytes {
			m, _, _ := bytesAt(body[n:])
			out = append(out, body[:n+k-len(m)]...)
			for _, labels := range []bool{true, false} {
				for rest := m; len(rest) > 0; {
					t, i := varint(rest)
					j, ok := skip(t&7, rest[max(i, 0):])
					if i <= 0 || !ok {
						i, j = 0, len(rest) // broken
					}
					if labels == (i > 0 && t>>3 == 1) {
						out = append(out, rest[:i+j]...)
					}
					rest = rest[i+j:]
				}
			}
		} else {
			out = append(out, body[:n+k]...)
		}
		body = body[n+k:]
	}
	return out
}

// again forgets what was decoded so far.
func (d *decoder) again() {
	d.prev, d.skipped = nil, 0
	d.series, d.ends, d.at, d.values, d.starts, d.marks = d.series[:0], d.ends[:0], d.at[:0], d.values[:0], d.starts[:0], d.marks[:0]
	d.symbols, d.hashes, d.complex = d.symbols[:0], d.hashes[:0], Complex{}
	if c := d.check; c != nil {
		c.refused, c.cuts, c.total = Refused{}, nil, 0
	}
}

// good tells whether an entry can be taken as it is: its labels were checked by a receiver, or were taken by the log and are at hand.
func (d *decoder) good(s *Series) bool {
	return s.is(valid) || d.check == nil && s.HasLabels()
}

// find is the entry of raw label fields. An error says what is wrong with the labels.
func (d *decoder) find(raw []byte) (*Series, error) {
	k := xxh3.Hash128(raw)
	s := d.space.find(k)
	if s != nil && d.good(s) {
		return s, nil
	}
	var ok bool
	if d.labels, ok = appendLabels(d.labels[:0], raw); !ok {
		return nil, errBroken("label", d.offset(raw))
	}
	return d.unknown(k, s, raw)
}

// unknown makes the entry of d.labels, whose raw form is raw and has the key k, if the labels are good. s is the entry that there is
// already, but unchecked.
func (d *decoder) unknown(k xxh3.Uint128, s *Series, raw []byte) (*Series, error) {
	if len(raw) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "series without labels")
	}
	if d.check != nil {
		if err := d.check.labels(d.labels); err != nil {
			return nil, err
		}
	}
	if s == nil {
		host := ""
		for _, l := range d.labels {
			if l.Name == HostLabel {
				host = strings.Clone(l.Value)
			}
		}
		taken := false
		if d.check != nil {
			var err error
			if taken, err = d.room(host); err != nil {
				return nil, err
			}
		}
		s = d.space.remember(k, slices.Clone(raw), host, d.now)
		if taken {
			s.flags.Or(admitted)
		}
	}
	s.give(raw)
	if d.check != nil {
		s.flags.Or(valid)
	}
	return s, nil
}

// hashOf64 mixes what metadata says into one number that is not 0.
func hashOf64(kind uint64, help, unit []byte) uint64 {
	return (xxh3.Hash(help)^bits.RotateLeft64(xxh3.Hash(unit), 21))*0x9E3779B97F4A7C15 + kind | 1
}
