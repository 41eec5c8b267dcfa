package head

import (
	"context"
	"maps"
	"math/bits"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
)

// all are the series of the project in the order of their labels.
func (v *view) all() []uint32 {
	if v.sp == nil {
		return nil
	}
	v.db.mu.RLock()
	ids := slices.Clone(v.sp.ids)
	v.db.mu.RUnlock()
	return v.sort(ids)
}

// find are the numbers of the series that match, in the order of their labels.
func (v *view) find(ctx context.Context, ms []*labels.Matcher) ([]uint32, error) {
	if v.sp == nil {
		return nil, nil
	}
	ids, err := v.matching(ctx, ms)
	if err != nil {
		return nil, err
	}
	return v.sort(ids), nil
}

// matching are the numbers of the series that match, ascending.
func (v *view) matching(ctx context.Context, ms []*labels.Matcher) ([]uint32, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v.db.mu.RLock()
	defer v.db.mu.RUnlock()
	sp := v.sp
	var lists [][]uint32        // pairs of which a series has to have one, of each
	var tests []*labels.Matcher // what is left
	for _, m := range ms {
		n := sp.names[m.Name]
		switch {
		case m.Matches(""):
			if n != nil {
				tests = append(tests, m)
			}
			continue
		case n == nil:
			return nil, nil
		}
		var values []string
		switch m.Type {
		case labels.MatchEqual:
			values = []string{m.Value}
		case labels.MatchRegexp:
			values = m.SetMatches()
		}
		if len(values) == 0 {
			tests = append(tests, m)
			continue
		}
		var pairs []uint32
		for _, value := range values {
			if p, ok := n.values[value]; ok && !slices.Contains(pairs, p) {
				pairs = append(pairs, p)
			}
		}
		if len(pairs) == 0 {
			return nil, nil
		}
		lists = append(lists, pairs)
	}
	slices.SortFunc(lists, func(a, b []uint32) int { return sp.count(a) - sp.count(b) })
	var ids []uint32
	known := false
	for _, pairs := range lists {
		if !known {
			ids, known = sp.union(pairs), true
		} else {
			ids = sp.having(ids, pairs)
		}
		if len(ids) == 0 {
			return nil, nil
		}
	}
	for _, m := range tests {
		if !known {
			if !m.Matches("") {
				ids, known = sp.union(sp.fitting(m)), true
				continue
			}
			ids, known = slices.Clone(sp.ids), true
		}
		if ids = v.test(ids, m); len(ids) == 0 {
			return nil, nil
		}
	}
	if !known {
		ids = slices.Clone(sp.ids)
	}
	return ids, nil
}

// count is how many series have one of the pairs.
func (sp *space) count(pairs []uint32) (n int) {
	for _, p := range pairs {
		n += sp.pairs[p].len()
	}
	return n
}

// fitting are the pairs that a matcher fits.
func (sp *space) fitting(m *labels.Matcher) (pairs []uint32) {
	for value, p := range sp.names[m.Name].values {
		if m.Matches(value) {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// union is the series that have one of the pairs, which are of one name, ascending.
func (sp *space) union(pairs []uint32) []uint32 {
	total := sp.count(pairs)
	out := make([]uint32, 0, total)
	for _, p := range pairs {
		if e := &sp.pairs[p]; e.any {
			out = append(append(out, e.first), e.more...)
		}
	}
	if len(pairs) == 1 {
		return out
	}
	if total < 1024 || len(sp.ids) == 0 {
		slices.Sort(out)
		return out
	}
	// A bit for each series that there may be.
	low := sp.ids[0]
	set := make([]uint64, (sp.ids[len(sp.ids)-1]-low)/64+1)
	for _, id := range out {
		set[(id-low)/64] |= 1 << ((id - low) % 64)
	}
	return bitsOf(set, low, out[:0])
}

// having is those of ids, which ascend, that have one of the pairs.
func (sp *space) having(ids, pairs []uint32) []uint32 {
	if len(pairs) == 1 {
		return intersect(ids, &sp.pairs[pairs[0]])
	}
	return intersect(ids, &pair{any: false, more: sp.union(pairs)})
}

// intersect keeps those of ids that p has.
func intersect(ids []uint32, p *pair) []uint32 {
	out := ids[:0]
	more := p.more
	for _, id := range ids {
		if p.any && id == p.first {
			out = append(out, id)
			continue
		}
		// Near by first, then by halving: one of the lists may be much longer.
		step := 1
		for step < len(more) && more[step] < id {
			step *= 2
		}
		k, ok := slices.BinarySearch(more[:min(step+1, len(more))], id)
		more = more[k:]
		if ok {
			out = append(out, id)
		}
		if len(more) == 0 && !(p.any && id < p.first) {
			break
		}
	}
	return out
}

// without drops those of ids that p has.
func without(ids []uint32, p *pair) []uint32 {
	gone := intersect(slices.Clone(ids), p)
	if len(gone) == 0 {
		return ids
	}
	out := ids[:0]
	for _, id := range ids {
		if len(gone) > 0 && gone[0] == id {
			gone = gone[1:]
			continue
		}
		out = append(out, id)
	}
	return out
}

// test keeps those of ids that a matcher fits. Either the values of the label are asked, or the series.
func (v *view) test(ids []uint32, m *labels.Matcher) []uint32 {
	sp := v.sp
	n := sp.names[m.Name]
	empty := m.Matches("")
	if len(ids) > 2*len(n.values) {
		fit := sp.fitting(m)
		if !empty {
			if sp.count(fit) <= 4*len(ids) {
				return sp.having(ids, fit)
			}
		} else if len(fit) < len(n.values) {
			good := make(map[uint32]bool, len(fit))
			for _, p := range fit {
				good[p] = true
			}
			var bad []uint32
			for _, p := range n.values {
				if !good[p] {
					bad = append(bad, p)
				}
			}
			if sp.count(bad) <= 4*len(ids) {
				return without(ids, &pair{more: sp.union(bad)})
			}
		} else {
			return ids
		}
	}
	fits := map[uint32]bool{}
	out := ids[:0]
	for _, id := range ids {
		s := v.db.there(id)
		if s == nil {
			continue
		}
		ok := empty
		for _, p := range v.db.pairsOf(s) {
			if sp.pairs[p].name != m.Name {
				continue
			}
			known := false
			if ok, known = fits[p]; !known {
				ok = m.Matches(sp.pairs[p].value)
				fits[p] = ok
			}
			break
		}
		if ok {
			out = append(out, id)
		}
	}
	return out
}

// bitsOf appends the numbers of the bits that are set.
func bitsOf(set []uint64, low uint32, out []uint32) []uint32 {
	for i, w := range set {
		for ; w != 0; w &= w - 1 {
			out = append(out, low+uint32(i*64)+uint32(bits.TrailingZeros64(w)))
		}
	}
	return out
}

// touches tells whether there may be something from mint to maxt.
func (v *view) touches(mint, maxt int64) bool {
	if v.sp == nil {
		return false
	}
	v.db.mu.RLock()
	defer v.db.mu.RUnlock()
	return v.db.from <= maxt && v.db.to >= mint
}

// labelNames are the names that the matching series have, sorted.
func (v *view) labelNames(ctx context.Context, ms []*labels.Matcher, mint, maxt int64) ([]string, error) {
	if !v.touches(mint, maxt) {
		return nil, nil
	}
	if len(ms) == 0 {
		v.db.mu.RLock()
		defer v.db.mu.RUnlock()
		return slices.Sorted(maps.Keys(v.sp.names)), nil
	}
	found := map[string]bool{}
	err := v.eachMatching(ctx, ms, func(s *series) {
		for _, p := range v.db.pairsOf(s) {
			found[v.sp.pairs[p].name] = true
		}
	})
	return slices.Sorted(maps.Keys(found)), err
}

// labelValues are the values of a label that the matching series have, sorted.
func (v *view) labelValues(ctx context.Context, name string, ms []*labels.Matcher, mint, maxt int64) ([]string, error) {
	if !v.touches(mint, maxt) {
		return nil, nil
	}
	if len(ms) == 0 {
		v.db.mu.RLock()
		n := v.sp.names[name]
		var out []string
		if n != nil {
			out = slices.Collect(maps.Keys(n.values))
		}
		v.db.mu.RUnlock()
		slices.Sort(out)
		return out, nil
	}
	found := map[string]bool{}
	var last string
	err := v.eachMatching(ctx, ms, func(s *series) {
		for _, p := range v.db.pairsOf(s) {
			if e := &v.sp.pairs[p]; e.name == name {
				if e.value != last {
					last = e.value
					found[last] = true
				}
				return
			}
		}
	})
	return slices.Sorted(maps.Keys(found)), err
}

// eachMatching calls f for the matching series, under the read lock.
func (v *view) eachMatching(ctx context.Context, ms []*labels.Matcher, f func(*series)) error {
	ids, err := v.matching(ctx, ms)
	for len(ids) > 0 && err == nil {
		n := min(len(ids), slabSeries)
		v.db.mu.RLock()
		for _, id := range ids[:n] {
			if s := v.db.there(id); s != nil {
				f(s)
			}
		}
		v.db.mu.RUnlock()
		ids = ids[n:]
		err = ctx.Err()
	}
	return err
}

// ask opens a view for an identity. As long as not all is loaded it waits for that, but not for long: then the view has nothing.
func (db *DB) ask(ctx context.Context, id kemi.Identity) (*view, error) {
	if err := mayRead(id); err != nil {
		return nil, err
	}
	if !db.settle(ctx) {
		if db.isDone() {
			return nil, db.openErr
		}
		return &view{}, nil
	}
	return db.view(id.Project), nil
}
