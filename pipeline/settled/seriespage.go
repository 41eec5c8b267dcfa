package settled

import (
	"unsafe"

	"kemi"
)

// seriesPage is the entries and labels of seriesPerPage series, decoded one after another. It does not change any more: cursors share it. What is the
// same for all of them, which is most of the entries, is there once.
type seriesPage struct {
	number int
	levels int
	first  ordinals      // of the first series
	shapes []seriesEntry // what they consist of: one for all, or one of each
	before []uint32      // ordinals of each series, if shapes are of each
	spans  []span        // one for all, or one of each
	refs   []uint32      // pairs
	ends   []uint32
}

// span is the first and the last sample.
type span struct{ from, to kemi.Millis }

// bytes are what it takes in memory.
func (p *seriesPage) bytes() int {
	return int(unsafe.Sizeof(*p)) + 4*(cap(p.before)+cap(p.refs)+cap(p.ends)) + int(unsafe.Sizeof(seriesEntry{}))*cap(p.shapes) + int(unsafe.Sizeof(span{}))*cap(p.spans)
}

// seriesPage is page number n, decoded.
func (x *index) seriesPage(n int) (*seriesPage, error) {
	key := pageKey{index: x, number: uint32(n)}
	kept := seriesPages.part(key)
	if p, ok := kept.get(key); ok {
		return p, nil
	}
	raw, err := x.blob(secSeriesPages, uint32(n))
	if err != nil {
		return nil, err
	}
	count := min(seriesPerPage, int(x.series)-n*seriesPerPage)
	p := &seriesPage{number: n, levels: x.levels, ends: make([]uint32, 0, count), refs: make([]uint32, 0, 12*count)}
	r := headReader{b: raw}
	for i := range 2 + ordinalsPerLevel*x.levels {
		p.first[i] = uint32(r.uvarint())
	}
	var from kemi.Millis
	var entries [seriesPerPage]seriesEntry
	for i := range count {
		if !p.readLabels(&r, uint32(x.pairs())) {
			break
		}
		entries[i].read(&r, x.levels, &from)
	}
	if r.bad || len(r.b) != 0 {
		return nil, x.corrupt(x.offset[secSeriesPages]+int64(n)*blobEntryBytes, "page %d of series is not well formed", n)
	}
	p.join(entries[:count])
	if n := len(p.refs); cap(p.refs)-n > n/8 { // it stays for long
		p.refs = append(make([]uint32, 0, n), p.refs...)
	}
	kept.put(key, p)
	return p, nil
}

// readLabels takes the labels of the next series.
func (p *seriesPage) readLabels(r *headReader, pairs uint32) bool {
	v := r.uvarint()
	n := int(v >> 1)
	if v>>1 > uint64(len(r.b)) {
		r.bad = true
		return false
	}
	start := len(p.refs)
	if v&1 != 0 {
		last := p.pairsOf(len(p.ends) - 1)
		if n > len(last) {
			r.bad = true
			return false
		}
		for _, ref := range last[:n] {
			ref = uint32(int64(ref) + r.varint())
			r.bad = r.bad || ref >= pairs
			p.refs = append(p.refs, ref)
		}
	} else {
		ref := uint32(0)
		for range n {
			ref += uint32(r.uvarint())
			r.bad = r.bad || ref >= pairs
			p.refs = append(p.refs, ref)
		}
	}
	if r.bad {
		p.refs = p.refs[:start]
		return false
	}
	p.ends = append(p.ends, uint32(len(p.refs)))
	return true
}

// join keeps the entries.
func (p *seriesPage) join(entries []seriesEntry) {
	sameShape, sameSpan := true, true
	for i := range entries {
		a, b := &entries[0], &entries[i]
		sameSpan = sameSpan && a.from == b.from && a.to == b.to
		sameShape = sameShape && a.chunks == b.chunks && a.histograms == b.histograms && a.rollups == b.rollups && a.sums == b.sums && a.resets == b.resets && a.edges == b.edges
	}
	shapes, spans := entries, entries
	if sameShape {
		shapes = entries[:1]
	} else {
		o, n := p.first, 2+ordinalsPerLevel*p.levels
		p.before = make([]uint32, 0, n*len(entries))
		for i := range entries {
			p.before = append(p.before, o[:n]...)
			o.add(&entries[i], p.levels)
		}
	}
	p.shapes = append(make([]seriesEntry, 0, len(shapes)), shapes...)
	if sameSpan {
		spans = entries[:1]
	}
	p.spans = make([]span, len(spans))
	for i := range spans {
		p.spans[i] = span{spans[i].from, spans[i].to}
	}
}

// spanOf is when the i-th series of the page has samples.
func (p *seriesPage) spanOf(i int) span {
	if len(p.spans) == 1 {
		i = 0
	}
	return p.spans[i]
}

// entry is what the page says of its i-th series, and its ordinals.
func (p *seriesPage) entry(i int, e *seriesEntry, o *ordinals) {
	n := 2 + ordinalsPerLevel*p.levels
	if p.before == nil {
		*e = p.shapes[0]
		var one ordinals
		one.add(e, p.levels)
		for j := range n {
			o[j] = p.first[j] + uint32(i)*one[j]
		}
	} else {
		*e = p.shapes[i]
		copy(o[:n], p.before[i*n:])
	}
	s := p.spanOf(i)
	e.from, e.to = s.from, s.to
}

// pairsOf are the labels of the i-th series of the page.
func (p *seriesPage) pairsOf(i int) []uint32 {
	if i < 0 {
		return nil
	}
	from := uint32(0)
	if i > 0 {
		from = p.ends[i-1]
	}
	return p.refs[from:p.ends[i]]
}
