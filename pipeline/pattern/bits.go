package pattern

import "math/bits"

// rowSet is a set of rows.
type rowSet []uint64

func newRowSet(n int) rowSet { return make(rowSet, (n+63)/64) }

// allRows are the rows below n.
func allRows(n int) rowSet {
	s := newRowSet(n)
	s.addRange(0, n)
	return s
}

func (s rowSet) add(r uint32)      { s[r>>6] |= 1 << (r & 63) }
func (s rowSet) has(r uint32) bool { return s[r>>6]&(1<<(r&63)) != 0 }

func (s rowSet) addRange(from, to int) {
	for from < to && from&63 != 0 {
		s.add(uint32(from))
		from++
	}
	for ; from+64 <= to; from += 64 {
		s[from>>6] = ^uint64(0)
	}
	for ; from < to; from++ {
		s.add(uint32(from))
	}
}

func (s rowSet) removeRange(from, to int) {
	for from < to && from&63 != 0 {
		s[from>>6] &^= 1 << (from & 63)
		from++
	}
	for ; from+64 <= to; from += 64 {
		s[from>>6] = 0
	}
	for ; from < to; from++ {
		s[from>>6] &^= 1 << (from & 63)
	}
}

func (s rowSet) and(o rowSet) {
	for i := range s {
		s[i] &= o[i]
	}
}

func (s rowSet) or(o rowSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

func (s rowSet) without(o rowSet) {
	for i := range s {
		s[i] &^= o[i]
	}
}

func (s rowSet) empty() bool {
	for _, w := range s {
		if w != 0 {
			return false
		}
	}
	return true
}

func (s rowSet) len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// lenIn is how many rows of [from, to) are in the set.
func (s rowSet) lenIn(from, to int) (n int) {
	for from < to && from&63 != 0 {
		n += int(s[from>>6] >> (from & 63) & 1)
		from++
	}
	for ; from+64 <= to; from += 64 {
		n += bits.OnesCount64(s[from>>6])
	}
	for ; from < to; from++ {
		n += int(s[from>>6] >> (from & 63) & 1)
	}
	return n
}

// each calls f with the rows, ascending, until it returns false.
func (s rowSet) each(f func(r uint32) bool) {
	for i, w := range s {
		for w != 0 {
			if !f(uint32(i<<6 + bits.TrailingZeros64(w))) {
				return
			}
			w &= w - 1
		}
	}
}

// eachIn is each for the rows of [from, to).
func (s rowSet) eachIn(from, to int, f func(r uint32)) {
	for i := from >> 6; i<<6 < to; i++ {
		w := s[i]
		if base := i << 6; base < from {
			w &= ^uint64(0) << (from - base)
		}
		if left := to - i<<6; left < 64 {
			w &= 1<<left - 1
		}
		for ; w != 0; w &= w - 1 {
			f(uint32(i<<6 + bits.TrailingZeros64(w)))
		}
	}
}
