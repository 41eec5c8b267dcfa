package head

import (
	"math"
	"slices"

	"kemi"
	"kemi/pipeline/pack"
)

// view is what a question sees. Whatever is settled after it was opened stays visible to it until it is closed.
type view struct {
	db    *DB
	epoch uint32
	cut   int64
	sp    *space // nil: the project has nothing
}

func (db *DB) view(project string) *view {
	db.mu.RLock()
	defer db.mu.RUnlock()
	v := &view{db: db, epoch: db.epoch, cut: db.cut, sp: db.byName[project]}
	db.readersMu.Lock()
	db.readers[v.epoch]++
	db.readersMu.Unlock()
	return v
}

// close lets go of what was settled meanwhile. It may be called more than once.
func (v *view) close() {
	if v.db == nil {
		return
	}
	db := v.db
	v.db = nil
	db.readersMu.Lock()
	defer db.readersMu.Unlock()
	if db.readers[v.epoch]--; db.readers[v.epoch] == 0 {
		delete(db.readers, v.epoch)
		wake(db.reclaimWaker)
	}
}

// oldReaders tells whether some view began before the epoch.
func (db *DB) oldReaders(epoch uint32) bool {
	db.readersMu.Lock()
	defer db.readersMu.Unlock()
	for e := range db.readers {
		if e < epoch {
			return true
		}
	}
	return false
}

// columns are samples of one series, in order.
type columns struct {
	at     []kemi.Millis
	values []float64
}

func (c *columns) reset() { c.at, c.values = c.at[:0], c.values[:0] }

// decoder reads what a lot has. Its memory is used again.
type decoder struct {
	late, merged columns
	order        []lateSample
}

// floats appends the plain samples of the i-th series from mint to maxt, both included, to c: stale markers too, each time once.
func (d *decoder) floats(l *lot, i int, mint, maxt int64, c *columns) (err error) {
	it := &l.items[i]
	begin := len(c.at)
	low, high := max(mint, it.from), min(maxt, it.to-1)
	pieces := l.pieces[it.pieces.from:it.pieces.to]
	for k := range pieces {
		p := &pieces[k]
		if p.kind != kindFloats || p.last < low || p.first > high {
			continue
		}
		n := len(c.at)
		if c.at, c.values, err = pack.Decode(p.content, kemi.Millis(p.first), c.at, c.values); err != nil {
			return err
		}
		c.trim(n, p.first, p.last, low, high)
	}
	if slots := l.slots[it.slots.from:it.slots.to]; len(slots) > 0 {
		n := len(c.at)
		for _, x := range slots {
			c.at, c.values = append(c.at, kemi.Millis(it.base+int64(x.after))), append(c.values, x.value())
		}
		c.trim(n, it.base, it.base+int64(slots[len(slots)-1].after), low, high)
	}
	pieces, late := l.pieces[it.latePieces.from:it.latePieces.to], l.late[it.late.from:it.late.to]
	if len(pieces)+len(late) == 0 {
		return nil
	}
	d.late.reset()
	for k := range pieces {
		p := &pieces[k]
		if p.kind != kindFloats || p.last < mint || p.first > maxt {
			continue
		}
		n := len(d.late.at)
		if d.late.at, d.late.values, err = pack.Decode(p.content, kemi.Millis(p.first), d.late.at, d.late.values); err != nil {
			return err
		}
		d.late.trim(n, p.first, p.last, mint, maxt)
	}
	for _, x := range late {
		if x.at >= mint && x.at <= maxt {
			d.late.at, d.late.values = append(d.late.at, kemi.Millis(x.at)), append(d.late.values, x.value)
		}
	}
	d.sortLate()
	if len(d.late.at) == 0 {
		return nil
	}
	d.merged.reset()
	merge(&d.merged, c.at[begin:], c.values[begin:], d.late.at, d.late.values)
	c.at, c.values = append(c.at[:begin], d.merged.at...), append(c.values[:begin], d.merged.values...)
	return nil
}

// trim cuts off what was appended from n on and is not from mint to maxt. first and last are the times of the first and the last of it.
func (c *columns) trim(n int, first, last, mint, maxt int64) {
	if last > maxt {
		k, _ := slices.BinarySearch(c.at[n:], kemi.Millis(maxt+1))
		c.at, c.values = c.at[:n+k], c.values[:n+k]
	}
	if first < mint {
		k, _ := slices.BinarySearch(c.at[n:], kemi.Millis(mint))
		c.at = append(c.at[:n], c.at[n+k:]...)
		c.values = append(c.values[:n], c.values[n+k:]...)
	}
}

// sortLate puts late samples in order. Of several for one time the one that came first stays.
func (d *decoder) sortLate() {
	sorted := true
	for i := 1; i < len(d.late.at) && sorted; i++ {
		sorted = d.late.at[i-1] < d.late.at[i]
	}
	if sorted {
		return
	}
	d.order = d.order[:0]
	for i, t := range d.late.at {
		d.order = append(d.order, lateSample{int64(t), d.late.values[i]})
	}
	slices.SortStableFunc(d.order, func(a, b lateSample) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	d.late.reset()
	last := int64(math.MinInt64)
	for i, x := range d.order {
		if i > 0 && x.at == last {
			continue
		}
		last = x.at
		d.late.at, d.late.values = append(d.late.at, kemi.Millis(x.at)), append(d.late.values, x.value)
	}
}

// merge appends two ascending columns to out as one. Of the same time the first's sample stays.
func merge(out *columns, at []kemi.Millis, values []float64, at2 []kemi.Millis, values2 []float64) {
	i, j := 0, 0
	for i < len(at) && j < len(at2) {
		switch {
		case at[i] < at2[j]:
			out.at, out.values = append(out.at, at[i]), append(out.values, values[i])
			i++
		case at[i] > at2[j]:
			out.at, out.values = append(out.at, at2[j]), append(out.values, values2[j])
			j++
		default:
			out.at, out.values = append(out.at, at[i]), append(out.values, values[i])
			i++
			j++
		}
	}
	out.at, out.values = append(append(out.at, at[i:]...), at2[j:]...), append(append(out.values, values[i:]...), values2[j:]...)
}
