package head

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"

	"kemi/pipeline/pack"
)

// lane is the late samples of a series: those that came when it had a newer one already. They are gathered as they come; when there are many
// they are sorted and go to a record of a chain of their own. Once they are settled all of them go at once.
type lane struct {
	at     []int64
	values []float64
	newest int64 // of at
	hist   []lateHistogram
	chain  uint64
	from   int64 // the oldest and the newest of all, frozen ones included
	to     int64
	frozen []frozenChain

	// Of the samples in order none lies between the two.
	gapFrom, gapTo int64
}

type lateHistogram struct {
	at int64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

// frozenChain is late samples that are being settled, or are settled and still shown to those who began before.
type frozenChain struct {
	chain uint64
	epoch uint32 // 0 = not settled yet; otherwise who begins from that epoch on does not see it
}

// laneSamples is how many late samples of a series are gathered before they are packed, or fewLaneSamples if there are very many lanes.
const (
	laneSamples    = 128
	fewLaneSamples = 32
	manyLanes      = 1 << 16
)

func (db *DB) laneOf(id uint32, s *series) *lane {
	if s.is(laned) {
		return db.lanes[id]
	}
	l := &lane{newest: never, from: math.MaxInt64, to: math.MinInt64, gapFrom: math.MaxInt64, gapTo: math.MinInt64}
	db.lanes[id] = l
	s.flags |= laned
	return l
}

// found is how a late sample stands to what there is.
type found uint8

const (
	absent found = iota
	same
	other
)

func compare(a, b float64) found {
	if math.Float64bits(a) == math.Float64bits(b) {
		return same
	}
	return other
}

// pushLate adds a sample that is not newer than all of its series. It tells whether there was one at that time, as far as memory and its chunks know.
func (db *DB) pushLate(id uint32, s *series, t int64, v float64) (found, error) {
	if t == s.last && s.n > 0 && t >= db.cut { // what comes twice
		b := db.buffers.buffer(s.class, s.buffer)
		return compare(b[s.n-1].value(), v), nil
	}
	var l *lane
	if s.is(laned) {
		l = db.lanes[id]
	}
	if l == nil || t <= l.gapFrom || t >= l.gapTo {
		f, from, to, err := db.inOrder(id, s, t, v)
		if err != nil || f != absent {
			return f, err
		}
		l = db.laneOf(id, s)
		l.gapFrom, l.gapTo = from, min(to, max(s.last+1, db.floor)) // from there on samples may come in order
	}
	if t <= l.newest || len(l.hist) > 0 {
		for i, at := range l.at {
			if at == t {
				return compare(l.values[i], v), nil
			}
		}
		for i := range l.hist {
			if l.hist[i].at == t {
				return other, nil
			}
		}
	}
	l.at, l.values = append(l.at, t), append(l.values, v)
	l.newest = max(l.newest, t)
	l.from, l.to = min(l.from, t), max(l.to, t)
	db.lateSamples++
	if n := len(l.at); n >= laneSamples || n >= fewLaneSamples && len(db.lanes) > manyLanes {
		err := db.sealLane(l)
		if len(db.lanes) > manyLanes {
			l.at, l.values = nil, nil // most series need none for a while
		}
		return absent, err
	}
	return absent, nil
}

// inOrder looks for a sample at t among those in order, and if there is none says between which two it would be.
func (db *DB) inOrder(id uint32, s *series, t int64, v float64) (f found, from, to int64, err error) {
	if t < db.cut { // that is settled, and may be deleted since
		return absent, never, db.cut, nil
	}
	to = math.MaxInt64
	if s.n > 0 {
		if t >= s.base {
			b := db.buffers.buffer(s.class, s.buffer)[:s.n]
			i, ok := slices.BinarySearchFunc(b, t, func(x slot, t int64) int { return cmp.Compare(s.base+int64(x.after), t) })
			if ok {
				return compare(b[i].value(), v), 0, 0, nil
			}
			if i < len(b) {
				to = s.base + int64(b[i].after)
			}
			return absent, s.base + int64(b[i-1].after), to, nil // there is one before: base is less than t
		}
		to = s.base
	}
	if o := db.open[id]; o != nil && o.n > 0 {
		if t >= o.first {
			return db.inHistograms(o.chunk.Bytes(), uint8(o.chunk.Encoding()), t, v, to)
		}
		to = o.first
	}
	for ref := s.chain; ref != 0; {
		r, ok := db.chunks.read(ref)
		if !ok {
			break
		}
		switch {
		case t > r.last:
			return absent, r.last, to, nil
		case t < r.first:
			to, ref = r.first, r.prev
			continue
		case r.kind != kindFloats:
			return db.inHistograms(r.content, r.kind, t, v, to)
		}
		db.scratchAt, db.scratchValues, err = pack.Decode(r.content, 0, db.scratchAt[:0], db.scratchValues[:0])
		if err != nil {
			return absent, 0, 0, err
		}
		i, ok := slices.BinarySearchFunc(db.scratchAt, t-r.first, func(x millis, t int64) int { return cmp.Compare(int64(x), t) })
		if ok {
			return compare(db.scratchValues[i], v), 0, 0, nil
		}
		return absent, r.first + int64(db.scratchAt[i-1]), r.first + int64(db.scratchAt[i]), nil
	}
	return absent, math.MinInt64, to, nil
}

// sealLane packs what a lane has gathered.
func (db *DB) sealLane(l *lane) error {
	if len(l.at) > 0 {
		order := db.laneOrder[:0]
		for i := range l.at {
			order = append(order, i)
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(l.at[a], l.at[b]) }) // no time stands twice
		db.laneOrder = order
		for len(order) > 0 {
			first := l.at[order[0]]
			var times [laneSamples]uint32
			var values [laneSamples]float64
			n := 0
			for n < len(order) && n < laneSamples && l.at[order[n]]-first <= math.MaxUint32 {
				times[n], values[n] = uint32(l.at[order[n]]-first), l.values[order[n]]
				n++
			}
			ref, buf, err := db.chunks.begin(true, l.chain, first, first+int64(times[n-1]))
			if err != nil {
				return err
			}
			db.chunks.end(true, kindFloats, pack.Append(buf, times[:n], values[:n]))
			l.chain = ref
			order = order[n:]
		}
		l.at, l.values, l.newest = l.at[:0], l.values[:0], never
	}
	return db.sealLateHistograms(l)
}
