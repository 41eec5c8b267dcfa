package pattern

import (
	"encoding/binary"

	"github.com/FastFilter/xorfilter"
	"github.com/cespare/xxhash/v2"
)

// keySet is the hashes of the terms of a block, each once.
type keySet struct {
	table   []uint64 // open addressing; 0 is empty
	keys    []uint64
	builder xorfilter.BinaryFuseBuilder
}

func (s *keySet) reset() {
	s.keys = s.keys[:0]
	if len(s.table) > 1<<20 {
		s.table = nil
	}
	clear(s.table)
}

func (s *keySet) add(h uint64) {
	if h == 0 {
		h = 1
	}
	if 2*len(s.keys) >= len(s.table) {
		s.table = make([]uint64, max(1<<12, 2*len(s.table)))
		for _, k := range s.keys {
			s.put(k)
		}
	}
	if s.put(h) {
		s.keys = append(s.keys, h)
	}
}

func (s *keySet) put(h uint64) bool {
	mask := uint64(len(s.table) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		switch s.table[i] {
		case 0:
			s.table[i] = h
			return true
		case h:
			return false
		}
	}
}

func hashTerm(term string) uint64 { return xxhash.Sum64String(term) }

// hashFolded is hashTerm of an ASCII word in lower case.
func hashFolded(word string) uint64 {
	var buf [128]byte
	if len(word) > len(buf) {
		b := make([]byte, 0, len(word))
		return xxhash.Sum64(appendLower(b, word))
	}
	return xxhash.Sum64(appendLower(buf[:0], word))
}

func appendLower(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

const filterHeader = 8 + 4*4

// appendFilter writes a binary fuse filter (Graf and Lemire, 2022) of the keys: 9 bits each, one in 256 others is found too. Without keys, or if it cannot be made, it is empty.
func (s *keySet) appendFilter(b []byte) []byte {
	if len(s.keys) == 0 {
		return b
	}
	f, err := xorfilter.BuildBinaryFuse[uint8](&s.builder, s.keys)
	if err != nil {
		return b
	}
	b = binary.LittleEndian.AppendUint64(b, f.Seed)
	for _, n := range []uint32{f.SegmentLength, f.SegmentLengthMask, f.SegmentCount, f.SegmentCountLength} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, f.Fingerprints...)
}

// filter tells which terms there may be.
type filter struct{ f *xorfilter.BinaryFuse[uint8] }

func openFilter(b []byte) (filter, error) {
	if len(b) == 0 {
		return filter{}, nil
	}
	if len(b) < filterHeader {
		return filter{}, damaged("a filter of %d bytes", len(b))
	}
	f := &xorfilter.BinaryFuse[uint8]{
		Seed: binary.LittleEndian.Uint64(b), SegmentLength: binary.LittleEndian.Uint32(b[8:]), SegmentLengthMask: binary.LittleEndian.Uint32(b[12:]),
		SegmentCount: binary.LittleEndian.Uint32(b[16:]), SegmentCountLength: binary.LittleEndian.Uint32(b[20:]), Fingerprints: b[filterHeader:],
	}
	if f.SegmentLength == 0 || f.SegmentLengthMask != f.SegmentLength-1 || uint64(f.SegmentCountLength)+2*uint64(f.SegmentLength) > uint64(len(f.Fingerprints)) {
		return filter{}, damaged("a filter whose sizes do not fit")
	}
	return filter{f}, nil
}

// has tells whether there may be the key. A filter that is empty knows nothing.
func (f filter) has(key uint64) bool { return f.f == nil || f.f.Contains(key) }

// filters tell which terms a block may have, but for those that are exempt: fixed has those of fixed text and of stream labels, slots those of what varies, with the page in
// which it lies, so that others need not be looked at, or, where the different values of a column are few, with the column.
type filters struct {
	fixed, slots filter
	pages        int
}

const (
	// ownPage stands for all columns whose terms are known by column, besidePage for lines in which words have no clear end.
	ownPage    = 1<<16 - 1
	besidePage = 1<<16 - 2
	maxPages   = 1<<16 - 3
)

// columnKey is the key of a term in a column.
func columnKey(term uint64, num uint32) uint64 { return slotKey(term, 1<<16+int(num)) }

// slotKey is the key of a term in a page.
func slotKey(term uint64, page int) uint64 {
	return (term ^ uint64(page+1)*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd
}

// mayHave tells whether the block may have the term.
func (f *filters) mayHave(term string) bool {
	if exempt(term) {
		return true
	}
	h := hashTerm(term)
	return f.fixed.has(h) || f.inSlots(h)
}

func (f *filters) inSlots(h uint64) bool {
	for p := range f.pages {
		if f.slots.has(slotKey(h, p)) {
			return true
		}
	}
	return f.slots.has(slotKey(h, ownPage)) || f.slots.has(slotKey(h, besidePage))
}

// slotsMayHave tells whether what varies may have the term.
func (f *filters) slotsMayHave(term string) bool { return exempt(term) || f.inSlots(hashTerm(term)) }

// linesMayHave tells whether lines in which words have no clear end may have the term.
func (f *filters) linesMayHave(term string) bool {
	return exempt(term) || f.slots.has(slotKey(hashTerm(term), besidePage))
}

// presence is where in a block a term may be.
type presence struct {
	own   bool // in a column whose terms are known by column
	pages []bool
}

func (f *filters) presence(h uint64) *presence {
	p := &presence{own: f.slots.has(slotKey(h, ownPage)), pages: make([]bool, f.pages)}
	for i := range p.pages {
		p.pages[i] = f.slots.has(slotKey(h, i))
	}
	return p
}

// columnMayHave tells whether the column may have a term of that hash.
func (x *reading) columnMayHave(h uint64, c *column) bool {
	p := x.present[h]
	if p == nil {
		p = x.b.filters.presence(h)
		if x.present == nil {
			x.present = map[uint64]*presence{}
		}
		x.present[h] = p
	}
	if c.own() {
		return p.own && x.b.filters.slots.has(columnKey(h, c.num))
	}
	return int(c.page) < len(p.pages) && p.pages[c.page]
}
