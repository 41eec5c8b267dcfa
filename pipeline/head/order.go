package head

import (
	"cmp"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"kemi"
)

// order knows how the series of a project are ordered by their labels, so that a selection of many need not compare labels again and again. It
// is made when a selection first wants it, and made anew with what has come since.
type order struct {
	learning sync.Mutex
	known    atomic.Pointer[orderState]
}

// orderState does not change.
type orderState struct {
	rank   pages    // 1 + the place in sorted, of each series; 0 = not known
	sorted []uint32 // by labels
}

// fewSeries are sorted by their labels at once.
const fewSeries = 32

// pages is a sparse array: series are counted up for ever, and most of the old ones are gone.
type pages map[uint32]*[slabSeries]uint32

func (p pages) set(id, v uint32) {
	pg := p[id/slabSeries]
	if pg == nil {
		pg = new([slabSeries]uint32)
		p[id/slabSeries] = pg
	}
	pg[id%slabSeries] = v
}

func newOrder(sorted []uint32) *orderState {
	o := &orderState{rank: pages{}, sorted: sorted}
	for i, id := range sorted {
		o.rank.set(id, uint32(i)+1)
	}
	return o
}

// keep forgets those that are gone.
func (o *order) keep(there func(id uint32) bool) {
	if s := o.known.Load(); s != nil {
		o.known.Store(newOrder(slices.DeleteFunc(slices.Clone(s.sorted), func(id uint32) bool { return !there(id) })))
	}
}

// sort orders ids, which ascend, by the labels of their series. DB.mu is held by nobody.
func (v *view) sort(ids []uint32) []uint32 {
	if len(ids) < 2 {
		return ids
	}
	if len(ids) <= fewSeries {
		return v.byLabels(ids)
	}
	o := &v.sp.order
	out, fresh := o.known.Load().split(ids)
	if len(fresh) > 1024 || len(fresh) > fewSeries+len(ids)/8 {
		v.learn(fresh)
		out, fresh = o.known.Load().split(ids)
	}
	if len(fresh) == 0 {
		return out
	}
	return v.insert(out, v.byLabels(fresh))
}

// split is those of ids whose places are known, in order, and the others.
func (o *orderState) split(ids []uint32) (out, fresh []uint32) {
	if o == nil {
		return nil, slices.Clone(ids)
	}
	// A bit for each place: reading them off in order is sorting, and cheaper than comparing unless there are very few.
	dense := len(ids) >= len(o.sorted)/256
	var set []uint64
	var ranks []uint32
	if dense {
		set = make([]uint64, len(o.sorted)/64+1)
	} else {
		ranks = make([]uint32, 0, len(ids))
	}
	var pg *[slabSeries]uint32
	no := ^uint32(0)
	for _, id := range ids {
		if n := id / slabSeries; n != no {
			no, pg = n, o.rank[n]
		}
		switch {
		case pg == nil || pg[id%slabSeries] == 0:
			fresh = append(fresh, id)
		case dense:
			r := pg[id%slabSeries] - 1
			set[r/64] |= 1 << (r % 64)
		default:
			ranks = append(ranks, pg[id%slabSeries]-1)
		}
	}
	out = make([]uint32, 0, len(ids))
	if !dense {
		slices.Sort(ranks)
		for _, r := range ranks {
			out = append(out, o.sorted[r])
		}
		return out, fresh
	}
	for i, w := range set {
		for ; w != 0; w &= w - 1 {
			out = append(out, o.sorted[i*64+bits.TrailingZeros64(w)])
		}
	}
	return out, fresh
}

// learn takes the places of fresh ones in.
func (v *view) learn(fresh []uint32) {
	o := &v.sp.order
	o.learning.Lock()
	defer o.learning.Unlock()
	old := o.known.Load()
	_, fresh = old.split(fresh) // another selection may have been faster
	if len(fresh) == 0 {
		return
	}
	var sorted []uint32
	if old == nil || len(fresh) > len(old.sorted)/8 {
		all := fresh
		if old != nil {
			all = slices.Concat(old.sorted, fresh)
		}
		sorted = v.byLabels(all)
	} else {
		sorted = v.insert(old.sorted, v.byLabels(fresh))
	}
	o.known.Store(newOrder(sorted))
}

// byLabels sorts by labels; those that are gone are left out.
func (v *view) byLabels(ids []uint32) []uint32 {
	type labelled struct {
		id       uint32
		from, to uint32
	}
	db := v.db
	all := make([]labelled, 0, len(ids))
	var pairs []uint32
	for rest := ids; len(rest) > 0; {
		n := min(len(rest), slabSeries)
		db.mu.RLock()
		for _, id := range rest[:n] {
			if s := db.there(id); s != nil {
				from := len(pairs)
				pairs = append(pairs, db.pairsOf(s)...)
				all = append(all, labelled{id, uint32(from), uint32(len(pairs))})
			}
		}
		db.mu.RUnlock()
		rest = rest[n:]
	}
	if len(ids) <= fewSeries {
		db.mu.RLock()
		slices.SortFunc(all, func(a, b labelled) int { return v.sp.compare(pairs[a.from:a.to], pairs[b.from:b.to]) })
		db.mu.RUnlock()
	} else {
		rank := v.ranks(pairs)
		slices.SortFunc(all, func(a, b labelled) int {
			p, q := pairs[a.from:a.to], pairs[b.from:b.to]
			for i := range min(len(p), len(q)) {
				if p[i] != q[i] {
					return cmp.Compare(rank[p[i]], rank[q[i]])
				}
			}
			return cmp.Compare(len(p), len(q))
		})
	}
	out := make([]uint32, len(all))
	for i := range all {
		out[i] = all[i].id
	}
	return out
}

// ranks is the order of pairs by name and value.
func (v *view) ranks(used []uint32) []uint32 {
	db := v.db
	db.mu.RLock()
	text := make([]kemi.Label, len(v.sp.pairs))
	db.mu.RUnlock()
	seen := make([]bool, len(text))
	numbers := make([]uint32, 0, 1024)
	for i := 0; i < len(used); {
		db.mu.RLock()
		for end := min(len(used), i+1<<14); i < end; i++ {
			if p := used[i]; int(p) < len(text) && !seen[p] {
				seen[p] = true
				text[p] = kemi.Label{Name: v.sp.pairs[p].name, Value: v.sp.pairs[p].value}
				numbers = append(numbers, p)
			}
		}
		db.mu.RUnlock()
	}
	slices.SortFunc(numbers, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(text[a].Name, text[b].Name), cmp.Compare(text[a].Value, text[b].Value))
	})
	rank := make([]uint32, len(text))
	for i, p := range numbers {
		rank[p] = uint32(i)
	}
	return rank
}

// compare compares the labels of two series.
func (sp *space) compare(a, b []uint32) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			p, q := &sp.pairs[a[i]], &sp.pairs[b[i]]
			return cmp.Or(cmp.Compare(p.name, q.name), cmp.Compare(p.value, q.value))
		}
	}
	return cmp.Compare(len(a), len(b))
}

// insert puts add between ids; both are in order. Where the next belongs is found by halving, so that few cost few comparisons.
func (v *view) insert(ids, add []uint32) []uint32 {
	merged := make([]uint32, 0, len(ids)+len(add))
	for _, n := range add {
		lo := v.placeOf(ids, n)
		merged = append(append(merged, ids[:lo]...), n)
		ids = ids[lo:]
	}
	return append(merged, ids...)
}

// placeOf is before which of ids a series belongs.
func (v *view) placeOf(ids []uint32, id uint32) int {
	db := v.db
	db.mu.RLock()
	defer db.mu.RUnlock()
	s := db.there(id)
	if s == nil {
		return 0
	}
	mine := db.pairsOf(s)
	lo, hi := 0, len(ids)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		at := mid
		for at < hi && db.there(ids[at]) == nil { // it is gone
			at++
		}
		if at < hi && v.sp.compare(db.pairsOf(db.at(ids[at])), mine) < 0 {
			lo = at + 1
		} else {
			hi = mid
		}
	}
	return lo
}
