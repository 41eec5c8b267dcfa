package settled

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strings"
	"unsafe"

	"github.com/RoaringBitmap/roaring/v2"

	"kemi/pipeline/store"
)

// matching are the labels of a name, which lie in from … to, whose values match (before the negation) or, if not is set, of the others; ascending.
func (x *index) matching(m *matcher, from, to int, not bool) []uint32 {
	found := x.positives(m, from, to)
	if !not {
		return found
	}
	others := make([]uint32, 0, to-from-len(found))
	for p := from; p < to; p++ {
		if len(found) > 0 && int(found[0]) == p {
			found = found[1:]
		} else {
			others = append(others, uint32(p))
		}
	}
	return others
}

// valuesKey is an expression asked of the values of a name.
type valuesKey struct {
	from, to int
	pattern  string
}

func newValues() *recent[valuesKey, []uint32] {
	return newRecent[valuesKey](1<<19, func(pairs []uint32) int { return 256 + 4*len(pairs) })
}

func (x *index) positives(m *matcher, from, to int) (found []uint32) {
	if m.pattern == nil {
		for _, v := range m.set {
			if p, ok := x.value(from, to, v); ok && v != "" {
				found = append(found, uint32(p))
			}
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	key := valuesKey{from, to, m.pattern.source}
	if found, ok := x.values.get(key); ok {
		return found
	}
	first, _ := x.value(from, to, m.pattern.prefix)
	for p := first; p < to; p++ {
		v := x.valueOf(p)
		if !strings.HasPrefix(v, m.pattern.prefix) {
			break
		}
		if m.pattern.regexp.MatchString(v) {
			found = append(found, uint32(p))
		}
	}
	x.values.put(key, slices.Clip(found))
	return found
}

// valueOf is the value of a label, in the mapped file: nothing may keep it.
func (x *index) valueOf(pair int) string {
	b := x.symbol(x.pair(pair).symbol)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Select is the series of a project that match, ascending, which is the order of their labels.
func (b *Block) Select(project string, sel store.Selector) ([]Ref, error) {
	ms, err := Compile(sel)
	if err != nil {
		return nil, err
	}
	return b.SelectMatchers(project, ms)
}

// SelectMatchers is Select with matchers that are ready.
func (b *Block) SelectMatchers(project string, ms Matchers) ([]Ref, error) {
	set, all, err := b.match(project, ms)
	if err != nil {
		return nil, err
	}
	if all {
		from, to := b.All(project)
		out := make([]Ref, 0, to-from)
		for r := from; r < to; r++ {
			out = append(out, r)
		}
		return out, nil
	}
	out := make([]Ref, 0, set.GetCardinality())
	for it := set.Iterator(); it.HasNext(); {
		out = append(out, Ref(it.Next()))
	}
	return out, nil
}

// match is the set of the matching series, or all of the project.
func (b *Block) match(project string, ms Matchers) (set *roaring.Bitmap, all bool, err error) {
	x := b.index
	first, last, firstName, lastName, ok := x.project(project)
	if !ok {
		return roaring.New(), false, nil
	}
	for i := range ms {
		m := &ms[i]
		from, to, _ := x.name(firstName, lastName, m.name)
		if set != nil && int(set.GetCardinality()) < (to-from)/4 {
			if err := b.filter(set, from, to, m.empty, func(p uint32) bool { return m.positive(x.valueOf(int(p))) != m.negative }); err != nil {
				return nil, false, err
			}
			continue
		}
		// The values that are looked up: those that match, or, if a series without the label matches, those that do not.
		wanted := !m.empty
		pairs := x.matching(m, from, to, wanted == m.negative)
		series, bytes := 0, 0 // that have one of them; of the lists of those
		for _, p := range pairs {
			e := x.pair(int(p))
			series += int(e.series)
			bytes += int(e.bytes)
		}
		if wanted && series == int(last-first) {
			continue // all series of the project have it
		}
		if set != nil && bytes > int(set.GetCardinality())*askedPerByte {
			if err := b.filter(set, from, to, !wanted, func(p uint32) bool {
				_, ok := slices.BinarySearch(pairs, p)
				return ok == wanted
			}); err != nil {
				return nil, false, err
			}
			continue
		}
		within := [2]uint32{uint32(first), uint32(last) - 1}
		if set != nil { // what lies outside makes no difference
			within = [2]uint32{set.Minimum(), set.Maximum()}
		}
		found, err := x.union(pairs, within[0], within[1])
		if err != nil {
			return nil, false, err
		}
		switch {
		case wanted && set == nil:
			set = found
		case wanted:
			set.And(found)
		default:
			if set == nil {
				if found.IsEmpty() {
					continue
				}
				set = roaring.New()
				set.AddRange(uint64(first), uint64(last))
			}
			set.AndNot(found)
		}
		if set.IsEmpty() {
			break
		}
	}
	return set, set == nil, nil
}

// askedPerByte is how many bytes of postings are read in the time that a series is asked for its labels.
const askedPerByte = 16

// filter asks each series of a small set: whether keep holds for its label of a name, whose labels are from … to, or else what holds for those without it.
func (b *Block) filter(set *roaring.Bitmap, from, to int, without bool, keepLabel func(pair uint32) bool) error {
	c := b.Cursor()
	defer c.Close()
	var drop []uint32
	for it := set.Iterator(); it.HasNext(); {
		ref := it.Next()
		i, err := c.page(Ref(ref))
		if err != nil {
			return err
		}
		keep := without
		for _, p := range c.series.pairsOf(i) {
			if int(p) >= from && int(p) < to {
				keep = keepLabel(p)
				break
			}
		}
		if !keep {
			drop = append(drop, ref)
		}
	}
	for _, ref := range drop {
		set.Remove(ref)
	}
	return nil
}

// union is the series from first to last, both included, that have one of the pairs.
func (x *index) union(pairs []uint32, first, last uint32) (*roaring.Bitmap, error) {
	out := roaring.New()
	if len(pairs) == 0 || first > last {
		return out, nil
	}
	if len(pairs) == 1 {
		var buf [512]uint32
		n := 0
		err := x.eachPosting(int(pairs[0]), func(from, count uint32) bool {
			to := min(from+count-1, last)
			if from > last {
				return false
			}
			if from = max(from, first); from < to {
				out.AddRange(uint64(from), uint64(to)+1)
			} else if from == to {
				if n == len(buf) {
					out.AddMany(buf[:])
					n = 0
				}
				buf[n] = from
				n++
			}
			return true
		})
		out.AddMany(buf[:n])
		return out, err
	}
	// A list after another into a set is slow, unless it has room for all.
	base := first &^ 63
	words := make([]uint64, (last-base)>>6+1)
	for _, p := range pairs {
		if err := x.eachPosting(int(p), func(from, count uint32) bool {
			if from > last {
				return false
			}
			if count == 1 {
				if from >= first {
					words[(from-base)>>6] |= 1 << (from & 63)
				}
				return true
			}
			for i, to := max(from, first), min(from+count-1, last); i <= to; {
				if i&63 == 0 && to-i >= 63 {
					words[(i-base)>>6] = math.MaxUint64
					i += 64
					continue
				}
				words[(i-base)>>6] |= 1 << (i & 63)
				i++
			}
			return true
		}); err != nil {
			return nil, err
		}
	}
	addWords(out, base, words)
	return out, nil
}

// addWords adds the bits of words, the first of which is that of base: what is set one after another at once.
func addWords(out *roaring.Bitmap, base uint32, words []uint64) {
	var buf [512]uint32
	n, run := 0, -1 // where the run begins that the last word ended in, or -1
	for i, w := range words {
		if w == 0 || w == math.MaxUint64 {
			if w != 0 && run < 0 {
				run = i
			} else if w == 0 && run >= 0 {
				out.AddRange(uint64(base)+uint64(run)<<6, uint64(base)+uint64(i)<<6)
				run = -1
			}
			continue
		}
		if run >= 0 {
			out.AddRange(uint64(base)+uint64(run)<<6, uint64(base)+uint64(i)<<6)
			run = -1
		}
		if n > len(buf)-64 {
			out.AddMany(buf[:n])
			n = 0
		}
		for ; w != 0; w &= w - 1 {
			buf[n] = base + uint32(i)<<6 + uint32(bits.TrailingZeros64(w))
			n++
		}
	}
	if run >= 0 {
		out.AddRange(uint64(base)+uint64(run)<<6, uint64(base)+uint64(len(words))<<6)
	}
	out.AddMany(buf[:n])
}

// eachPosting calls f for runs of series of a pair, ascending, until it returns false.
func (x *index) eachPosting(pair int, f func(from, count uint32) bool) error {
	e := x.pair(pair)
	raw, err := x.blob(secPostingsPages, e.page)
	if err != nil {
		return err
	}
	bad := func() error {
		return x.corrupt(x.offset[secPairs]+int64(pair)*pairEntryBytes, "the series of label %d", pair)
	}
	if uint64(e.offset)+uint64(e.bytes) > uint64(len(raw)) || e.bytes == 0 {
		return bad()
	}
	b := raw[e.offset : e.offset+e.bytes]
	runs := b[0] == 1
	b = b[1:]
	at := uint64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 {
			return bad()
		}
		b = b[n:]
		at += d
		more := uint64(0)
		if runs {
			if more, n = binary.Uvarint(b); n <= 0 {
				return bad()
			}
			b = b[n:]
		}
		if d > uint64(x.series) || more > uint64(x.series) || at+more >= uint64(x.series) {
			return bad()
		}
		if !f(uint32(at), uint32(more)+1) {
			return nil
		}
		at += more
	}
	return nil
}

// fewSeries is up to how many series are asked one by one for their labels.
const fewSeries = 4096

// LabelNames are the names that the matching series have, sorted.
func (b *Block) LabelNames(project string, sel store.Selector) ([]string, error) {
	return b.labels(project, sel, func(x *index, firstName, lastName int, has func(pair uint32) (bool, error)) ([]string, error) {
		var out []string
		for i := firstName; i < lastName; i++ {
			for p := x.u32(secNames, 2*i+1); p < x.u32(secNames, 2*i+3); p++ {
				ok, err := has(p)
				if err != nil {
					return nil, err
				}
				if ok {
					out = append(out, x.string(x.u32(secNames, 2*i)))
					break
				}
			}
		}
		return out, nil
	})
}

// LabelValues are the values of a label that the matching series have, sorted.
func (b *Block) LabelValues(project, name string, sel store.Selector) ([]string, error) {
	return b.labels(project, sel, func(x *index, firstName, lastName int, has func(pair uint32) (bool, error)) ([]string, error) {
		from, to, _ := x.name(firstName, lastName, name)
		found := make([]string, 0, to-from)
		bytes := 0
		for p := from; p < to; p++ {
			ok, err := has(uint32(p))
			if err != nil {
				return nil, err
			}
			if ok {
				found = append(found, x.valueOf(p))
				bytes += len(found[len(found)-1])
			}
		}
		all := make([]byte, 0, bytes) // one copy of all of them, for they outlive the block
		for i, v := range found {
			all = append(all, v...)
			found[i] = unsafe.String(unsafe.SliceData(all[len(all)-len(v):]), len(v))
		}
		return found, nil
	})
}

// labels calls list with a function that tells whether a matching series has a label.
func (b *Block) labels(project string, sel store.Selector, list func(x *index, firstName, lastName int, has func(pair uint32) (bool, error)) ([]string, error)) ([]string, error) {
	ms, err := Compile(sel)
	if err != nil {
		return nil, err
	}
	x := b.index
	_, _, firstName, lastName, ok := x.project(project)
	if !ok {
		return nil, nil
	}
	set, all, err := b.match(project, ms)
	if err != nil {
		return nil, err
	}
	if all {
		return list(x, firstName, lastName, func(uint32) (bool, error) { return true, nil })
	}
	if set.GetCardinality() <= fewSeries {
		c := b.Cursor()
		defer c.Close()
		pairs := map[uint32]struct{}{}
		for it := set.Iterator(); it.HasNext(); {
			i, err := c.page(Ref(it.Next()))
			if err != nil {
				return nil, err
			}
			for _, p := range c.series.pairsOf(i) {
				pairs[p] = struct{}{}
			}
		}
		return list(x, firstName, lastName, func(p uint32) (bool, error) {
			_, ok := pairs[p]
			return ok, nil
		})
	}
	return list(x, firstName, lastName, func(p uint32) (ok bool, err error) {
		err = x.eachPosting(int(p), func(from, count uint32) bool {
			for i := from; i < from+count && !ok; i++ {
				ok = set.Contains(i)
			}
			return !ok
		})
		return ok, err
	})
}
