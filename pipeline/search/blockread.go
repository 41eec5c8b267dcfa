package search

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"sync"
	"unsafe"

	"github.com/zeebo/xxh3"

	"kemi"
)

// reader reads what the append functions above wrote. After an error everything reads as zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	r.b, r.err = nil, errBlock
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads how many things follow, each of at least one byte.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// string does not copy: what is unpacked is not changed before release.
func (r *reader) string() string { return text(r.bytes(r.count())) }

func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// block is an encoded block, its sections unpacked when they are asked for.
type block struct {
	count   int
	bloom   []byte
	packed  [sections][]byte
	lengths [sections]int

	project  string
	streams  []kemi.Labels
	names    []string
	marked   bool // some record has a trace or span id
	at       []kemi.Nanos
	stream   []uint32
	severity []byte

	ids     []string
	bodies  []byte
	bodyEnd []uint32 // where in bodies each ends
	opened  bool     // bodies are

	buffers []*[]byte // of the pool
}

// openBlock reads the header. b is not kept unless a section is unpacked.
func openBlock(b []byte) (*block, error) {
	if len(b) < len(blockMagic)+5 || string(b[:len(blockMagic)]) != blockMagic {
		return nil, errBlock
	}
	b = b[len(blockMagic):]
	sum := binary.LittleEndian.Uint32(b)
	r := reader{b: b[4:]}
	header := r.bytes(r.count())
	if r.err != nil || uint32(xxh3.Hash(header)) != sum {
		return nil, errBlock
	}
	h := reader{b: header}
	bl := &block{count: int(min(h.uvarint(), math.MaxInt32))}
	for i := range sections {
		bl.lengths[i] = int(min(h.uvarint(), math.MaxInt32))
		bl.packed[i] = r.bytes(int(min(h.uvarint(), math.MaxInt32)))
	}
	bl.bloom = h.bytes(h.count())
	if r.err != nil || h.err != nil {
		return nil, errBlock
	}
	return bl, nil
}

func (b *block) unpack(section int) (*reader, error) {
	if b.lengths[section] == 0 {
		return &reader{}, nil
	}
	buf := buffers.Get().(*[]byte)
	if cap(*buf) < b.lengths[section] {
		*buf = make([]byte, 0, b.lengths[section])
	}
	b.buffers = append(b.buffers, buf)
	raw, err := unpacker.DecodeAll(b.packed[section], (*buf)[:0])
	if err != nil || len(raw) != b.lengths[section] {
		return nil, errBlock
	}
	*buf = raw
	return &reader{b: raw}, nil
}

// buffers are for unpacked sections. Most are of the size of a block; larger ones are not kept.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// release gives back the memory: no record or string that was read from the block may be used any more.
func (b *block) release() {
	for _, buf := range b.buffers {
		if cap(*buf) <= 4*blockBytes {
			buffers.Put(buf)
		}
	}
	*b = block{}
}

func (b *block) openColumns() error {
	if b.at != nil {
		return nil
	}
	r, err := b.unpack(columnsSection)
	if err != nil {
		return err
	}
	b.project = r.string()
	b.streams = make([]kemi.Labels, r.count())
	for i := range b.streams {
		ls := make(kemi.Labels, r.count())
		for k := range ls {
			ls[k] = kemi.Label{Name: r.string(), Value: r.string()}
		}
		if len(ls) > 0 {
			b.streams[i] = ls
		}
	}
	b.names = make([]string, r.count())
	for i := range b.names {
		b.names[i] = r.string()
	}
	b.marked = r.byte() != 0
	if b.count > len(r.b) {
		return errBlock
	}
	at := make([]kemi.Nanos, b.count)
	var last kemi.Nanos
	for i := range at {
		last += kemi.Nanos(r.varint())
		at[i] = last
	}
	b.stream = make([]uint32, b.count)
	for i := range b.stream {
		n := r.uvarint()
		if n >= uint64(len(b.streams)) {
			return errBlock
		}
		b.stream[i] = uint32(n)
	}
	b.severity = r.bytes(b.count)
	if r.err != nil {
		return r.err
	}
	b.at = at
	return nil
}

func (b *block) openIDs() error {
	if b.ids != nil {
		return nil
	}
	r, err := b.unpack(idsSection)
	if err != nil {
		return err
	}
	ids := make([]string, b.count)
	prev := ""
	for i := range ids {
		shared, rest := r.uvarint(), r.string()
		if shared > uint64(len(prev)) {
			return errBlock
		}
		if shared == 0 {
			prev = rest
		} else {
			prev = prev[:shared] + rest
		}
		ids[i] = prev
	}
	if r.err != nil {
		return r.err
	}
	b.ids = ids
	return nil
}

func (b *block) openBodies() error {
	if b.opened {
		return nil
	}
	r, err := b.unpack(bodiesSection)
	if err != nil {
		return err
	}
	ends := make([]uint32, b.count)
	var end uint64
	for i := range ends {
		end += r.uvarint()
		ends[i] = uint32(min(end, math.MaxUint32))
	}
	if r.err != nil || end != uint64(len(r.b)) || end > math.MaxUint32 {
		return errBlock
	}
	b.bodies, b.bodyEnd, b.opened = r.b, ends, true
	return nil
}

func (b *block) body(i int) string {
	from := uint32(0)
	if i > 0 {
		from = b.bodyEnd[i-1]
	}
	return text(b.bodies[from:b.bodyEnd[i]])
}

// hasAttrs tells whether there is anything in the section of attributes.
func (b *block) hasAttrs() bool { return b.lengths[attrsSection] > 0 }

// openAttrs gives a function that reads trace and span and attributes of the records one after another, beginning with the
// first; it is nil if no record has any. The labels are valid until the next call.
func (b *block) openAttrs() (func(r *kemi.LogRecord) error, error) {
	if !b.hasAttrs() {
		return nil, nil
	}
	in, err := b.unpack(attrsSection)
	if err != nil {
		return nil, err
	}
	var ls kemi.Labels
	return func(r *kemi.LogRecord) error {
		r.TraceID, r.SpanID = in.string(), in.string()
		ls = ls[:0]
		for range in.count() {
			n := in.uvarint()
			if n >= uint64(len(b.names)) {
				return errBlock
			}
			ls = append(ls, kemi.Label{Name: b.names[n], Value: in.string()})
		}
		r.Attrs = nil
		if len(ls) > 0 {
			r.Attrs = ls
		}
		return in.err
	}, nil
}

// all is every record of the block, copied out of it.
func (b *block) all() ([]kemi.LogRecord, error) {
	if err := errors.Join(b.openColumns(), b.openIDs(), b.openBodies()); err != nil {
		return nil, err
	}
	attrs, err := b.openAttrs()
	if err != nil {
		return nil, err
	}
	out := make([]kemi.LogRecord, b.count)
	for i := range out {
		out[i] = kemi.LogRecord{ID: b.ids[i], Project: b.project, At: b.at[i], Severity: kemi.Severity(b.severity[i]), Stream: b.streams[b.stream[i]], Body: b.body(i)}
		if attrs != nil {
			if err := attrs(&out[i]); err != nil {
				return nil, err
			}
		}
		out[i] = cloneRecord(&out[i])
	}
	return out, nil
}

// cloneRecord copies r so that it keeps no block in memory.
func cloneRecord(r *kemi.LogRecord) kemi.LogRecord {
	c := *r
	c.ID, c.Project, c.Body = strings.Clone(r.ID), strings.Clone(r.Project), strings.Clone(r.Body)
	c.TraceID, c.SpanID = strings.Clone(r.TraceID), strings.Clone(r.SpanID)
	c.Stream, c.Attrs = cloneLabels(r.Stream), cloneLabels(r.Attrs)
	return c
}

// cloneLabels copies names and values into one string.
func cloneLabels(ls kemi.Labels) kemi.Labels {
	if len(ls) == 0 {
		return nil
	}
	var b strings.Builder
	n := 0
	for _, l := range ls {
		n += len(l.Name) + len(l.Value)
	}
	b.Grow(n)
	for _, l := range ls {
		b.WriteString(l.Name)
		b.WriteString(l.Value)
	}
	s, out := b.String(), make(kemi.Labels, len(ls))
	for i, l := range ls {
		out[i] = kemi.Label{Name: s[:len(l.Name)], Value: s[len(l.Name) : len(l.Name)+len(l.Value)]}
		s = s[len(l.Name)+len(l.Value):]
	}
	return out
}
