package head

import (
	"bytes"
	"math"
	"slices"

	"kemi"
)

// lot is some series, copied so that they can be read without the lock. Its memory is used again.
type lot struct {
	items  []item
	labels []kemi.Label
	pieces []piece // in order of time, those that came late after the others
	slots  []slot
	late   []lateSample
	hist   []lateHistogram // on its own, as long as it is not packed

	chases []chase
	found  []foundPiece
}

// item is one series of a lot: where in the lot is what it has.
type item struct {
	id                        uint32
	labels, slots, late, hist part
	pieces, latePieces        part
	base                      int64 // of the slots
	from, to                  int64 // of samples in order: others are not shown
}

// part is a part of a slice.
type part struct{ from, to int }

// piece is a record.
type piece struct {
	record
	late bool
}

// chase is how far the chain of a series has been followed.
type chase struct {
	item int
	ref  uint64
	from int64
}

// foundPiece is a record of a chain, and of which item.
type foundPiece struct {
	item int
	record
}

type lateSample struct {
	at    int64
	value float64
}

func (l *lot) reset() {
	clear(l.labels)
	clear(l.pieces)
	clear(l.hist)
	clear(l.found)
	l.items, l.labels, l.pieces, l.slots, l.late, l.hist = l.items[:0], l.labels[:0], l.pieces[:0], l.slots[:0], l.late[:0], l.hist[:0]
	l.chases, l.found = l.chases[:0], l.found[:0]
}

// fill adds series that have something from mint to maxt, both included, to the lot, which is empty. Those that are gone are passed over.
func (v *view) fill(l *lot, ids []uint32, mint, maxt int64) {
	v.db.mu.RLock()
	defer v.db.mu.RUnlock()
	v.copy(l, ids, mint, maxt)
}

// copy is fill when the lock is held.
func (v *view) copy(l *lot, ids []uint32, mint, maxt int64) {
	db := v.db
	from := max(mint, v.cut)
	for _, id := range ids {
		s := db.there(id)
		if s == nil || s.last < from && !s.is(laned) {
			continue
		}
		it := l.begin(id, s, v.cut, math.MaxInt64)
		if s.last >= from {
			l.newest(db, it, s, from, maxt)
		}
		if s.is(laned) {
			v.late(l, it, db.lanes[id], mint, maxt)
		}
	}
	l.follow(db, maxt)
	l.finish(db)
}

// begin adds a series.
func (l *lot) begin(id uint32, s *series, from, to int64) *item {
	at := len(l.pieces)
	l.items = append(l.items, item{
		id: id, base: s.base, from: from, to: to, slots: part{len(l.slots), len(l.slots)}, late: part{len(l.late), len(l.late)}, hist: part{len(l.hist), len(l.hist)},
		latePieces: part{at, at},
	})
	return &l.items[len(l.items)-1]
}

// newest adds what is not in a record yet, and begins to follow the chain.
func (l *lot) newest(db *DB, it *item, s *series, from, maxt int64) {
	n := len(l.items) - 1
	if o := db.open[it.id]; s.is(histograms) && o != nil && o.n > 0 && o.first <= maxt && o.last >= from {
		l.found = append(l.found, foundPiece{n, record{first: o.first, last: o.last, kind: uint8(o.chunk.Encoding()), content: bytes.Clone(o.chunk.Bytes())}})
	}
	if s.n > 0 && s.base <= maxt {
		if b := db.buffers.buffer(s.class, s.buffer)[:s.n]; s.base+int64(b[len(b)-1].after) >= from {
			l.slots = append(l.slots, b...)
			it.slots.to = len(l.slots)
		}
	}
	if s.chain != 0 {
		l.chases = append(l.chases, chase{n, s.chain, from})
	}
}

// follow follows the chains of all series side by side: where a record lies is known only from the one after it, and to wait for one after another would be most of what a
// question costs.
func (l *lot) follow(db *DB, maxt int64) {
	for len(l.chases) > 0 {
		left := l.chases[:0]
		for _, c := range l.chases {
			r, ok := db.chunks.read(c.ref)
			if !ok || r.last < c.from {
				continue
			}
			if r.first <= maxt {
				l.found = append(l.found, foundPiece{c.item, r})
			}
			if c.ref = r.prev; c.ref != 0 {
				left = append(left, c)
			}
		}
		l.chases = left
	}
}

// finish gives each series its records, and its labels, and takes those out that have nothing.
func (l *lot) finish(db *DB) {
	at := len(l.pieces)
	for i := range l.found {
		l.items[l.found[i].item].pieces.to++
	}
	for i := range l.items {
		p := &l.items[i].pieces
		p.from, at = at, at+p.to
		p.to = at
	}
	l.pieces = slices.Grow(l.pieces, len(l.found))[:at]
	for i := range l.found { // the newest first
		f := &l.found[i]
		p := &l.items[f.item].pieces
		p.to--
		l.pieces[p.to] = piece{f.record, false}
	}
	for i := range l.items {
		if p := &l.items[i].pieces; i+1 < len(l.items) {
			p.to = l.items[i+1].pieces.from
		} else {
			p.to = len(l.pieces)
		}
	}
	kept := l.items[:0]
	for _, it := range l.items {
		if it.pieces.len()+it.latePieces.len()+it.slots.len()+it.late.len()+it.hist.len() == 0 {
			continue
		}
		it.labels.from = len(l.labels)
		l.labels = db.labelsOf(l.labels, db.at(it.id))
		it.labels.to = len(l.labels)
		kept = append(kept, it)
	}
	l.items = kept
}

func (p part) len() int { return p.to - p.from }

// late adds what came late.
func (v *view) late(l *lot, it *item, ln *lane, mint, maxt int64) {
	if ln.from > maxt || ln.to < mint {
		return
	}
	for _, f := range ln.frozen {
		if f.epoch == 0 || v.epoch < f.epoch {
			l.lateChain(v.db, f.chain, mint, maxt)
		}
	}
	l.lateChain(v.db, ln.chain, mint, maxt)
	it.latePieces.to = len(l.pieces)
	for i, t := range ln.at {
		if t >= mint && t <= maxt {
			l.late = append(l.late, lateSample{t, ln.values[i]})
		}
	}
	it.late.to = len(l.late)
	for _, x := range ln.hist {
		if x.at >= mint && x.at <= maxt {
			l.hist = append(l.hist, x)
		}
	}
	it.hist.to = len(l.hist)
}

// lateChain adds the records of a chain of late samples, as they came.
func (l *lot) lateChain(db *DB, ref uint64, mint, maxt int64) {
	begin := len(l.pieces)
	for ref != 0 {
		r, ok := db.chunks.read(ref)
		if !ok {
			break
		}
		if r.first <= maxt && r.last >= mint {
			l.pieces = append(l.pieces, piece{r, true})
		}
		ref = r.prev
	}
	slices.Reverse(l.pieces[begin:])
}

// span is the first and the last time of what the i-th series has.
func (l *lot) span(i int) (first, last int64) {
	it := &l.items[i]
	first, last = math.MaxInt64, math.MinInt64
	for _, own := range [][]piece{l.pieces[it.pieces.from:it.pieces.to], l.pieces[it.latePieces.from:it.latePieces.to]} {
		for k := range own {
			first, last = min(first, own[k].first), max(last, own[k].last)
		}
	}
	if slots := l.slots[it.slots.from:it.slots.to]; len(slots) > 0 {
		first, last = min(first, it.base), max(last, it.base+int64(slots[len(slots)-1].after))
	}
	for _, x := range l.late[it.late.from:it.late.to] {
		first, last = min(first, x.at), max(last, x.at)
	}
	return first, last
}

// labelsOf are the labels of the i-th series, valid as long as the lot.
func (l *lot) labelsOf(i int) kemi.Labels {
	p := l.items[i].labels
	return l.labels[p.from:p.to:p.to]
}

// hasHistograms tells whether the i-th series has histograms.
func (l *lot) hasHistograms(i int) bool {
	it := &l.items[i]
	packed := func(p piece) bool { return p.kind != kindFloats }
	return it.hist.len() > 0 || slices.ContainsFunc(l.pieces[it.pieces.from:it.pieces.to], packed) || slices.ContainsFunc(l.pieces[it.latePieces.from:it.latePieces.to], packed)
}
