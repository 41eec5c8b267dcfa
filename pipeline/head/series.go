package head

import (
	"math"
	"slices"

	"kemi"
	"kemi/pipeline/pack"
)

// series is what is known of one. It has no pointers.
type series struct {
	last   int64  // the newest sample, or never
	base   int64  // the first in the buffer
	chain  uint64 // the newest record, or 0
	hash   uint32 // of its pairs
	labels uint32 // where its pairs are
	buffer uint32
	space  uint32
	pairs  uint16
	n      uint8 // samples in the buffer
	class  uint8 // of the buffer; noBuffer = it has none
	flags  uint8
}

const (
	live       = 1 << iota // it is in the index
	laned                  // it has a lane
	histograms             // it has an open chunk of histograms
)

const (
	noBuffer   = 0xff
	never      = math.MinInt64
	slabSeries = 1 << 10
)

func (s *series) is(flag uint8) bool { return s.flags&flag != 0 }

type slab [slabSeries]series

// at is a series by its number, which is in the index.
func (db *DB) at(id uint32) *series { return &db.slabs[id/slabSeries][id%slabSeries] }

// there is a series by its number, or nil if it is no more.
func (db *DB) there(id uint32) *series {
	if int(id/slabSeries) >= len(db.slabs) || db.slabs[id/slabSeries] == nil {
		return nil
	}
	if s := db.at(id); s.is(live) {
		return s
	}
	return nil
}

// create makes a series that is not there yet.
func (db *DB) create(sp *space, pairs []uint32, hash uint32) uint32 {
	id := db.nextID
	db.nextID++
	if int(id/slabSeries) == len(db.slabs) {
		db.slabs = append(db.slabs, new(slab))
	}
	s := db.at(id)
	*s = series{last: never, hash: hash, labels: db.labels.put(pairs), pairs: uint16(len(pairs)), space: sp.number, class: noBuffer, flags: live}
	db.enter(sp, id, s)
	db.alive.Add(1)
	db.made++
	return id
}

// forget lets go of what a dead series has.
func (db *DB) forget(id uint32, s *series) {
	if s.class != noBuffer {
		db.buffers.release(s.class, s.buffer)
		s.class, s.n = noBuffer, 0
	}
	delete(db.open, id)
	db.labels.held -= int(s.pairs)
	s.pairs = 0
}

// freeSlabs gives slabs back whose series are all gone.
func (db *DB) freeSlabs() {
	for i, sl := range db.slabs {
		if sl == nil || (i+1)*slabSeries > int(db.nextID) {
			continue
		}
		gone := true
		for j := range sl {
			if sl[j].is(live) || sl[j].pairs > 0 {
				gone = false
				break
			}
		}
		if gone {
			db.slabs[i] = nil
		}
	}
}

// labelsOf are the labels of a series. Their strings stay.
func (db *DB) labelsOf(dst []kemi.Label, s *series) []kemi.Label {
	all, own := db.spaces[s.space].pairs, db.pairsOf(s)
	n := len(dst)
	dst = slices.Grow(dst, len(own))[:n+len(own)]
	for i, to := 0, dst[n:]; i < len(own) && i < len(to); i++ {
		p := &all[own[i]]
		to[i] = kemi.Label{Name: p.name, Value: p.value}
	}
	return dst
}

// push adds a sample that is newer than all of its series.
func (db *DB) push(id uint32, s *series, t int64, v float64) error {
	if s.flags&histograms != 0 {
		if err := db.sealHistograms(id, s); err != nil {
			return err
		}
	}
	switch {
	case s.class == noBuffer:
		s.class, s.n = 0, 0
		s.buffer = db.buffers.alloc(0)
	case s.n > 0 && t-s.base > math.MaxUint32 || int(s.n) == maxBuffered:
		if err := db.seal(s); err != nil {
			return err
		}
	case int(s.n) == roomOf(s.class):
		bigger := db.buffers.alloc(s.class + 1)
		copy(db.buffers.buffer(s.class+1, bigger), db.buffers.buffer(s.class, s.buffer))
		db.buffers.release(s.class, s.buffer)
		s.class, s.buffer = s.class+1, bigger
	}
	if s.n == 0 {
		s.base = t
	}
	bits := math.Float64bits(v)
	db.buffers.buffer(s.class, s.buffer)[s.n] = slot{uint32(t - s.base), uint32(bits), uint32(bits >> 32)}
	s.n++
	s.last = t
	return nil
}

func (x slot) value() float64 { return math.Float64frombits(uint64(x.high)<<32 | uint64(x.low)) }

// seal packs what is in the buffer into a record.
func (db *DB) seal(s *series) error {
	if s.n == 0 {
		return nil
	}
	var times [maxBuffered]uint32
	var values [maxBuffered]float64
	b := db.buffers.buffer(s.class, s.buffer)[:s.n]
	for i := range b {
		times[i], values[i] = b[i].after, b[i].value()
	}
	ref, buf, err := db.chunks.begin(false, s.chain, s.base, s.base+int64(b[len(b)-1].after))
	if err != nil {
		return err
	}
	db.chunks.end(false, kindFloats, pack.Append(buf, times[:len(b)], values[:len(b)]))
	s.chain, s.n = ref, 0
	return nil
}

// drop seals what is in the buffer and gives it back: the series rests.
func (db *DB) drop(s *series) error {
	if s.class == noBuffer {
		return nil
	}
	if err := db.seal(s); err != nil {
		return err
	}
	db.buffers.release(s.class, s.buffer)
	s.class = noBuffer
	return nil
}
