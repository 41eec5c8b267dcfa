package pattern

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// findWord are the values of a column, of which there are n, that are the word, in lower case, without regard to case; nil if there are none. It unpacks what it must only.
func (x *reading) findWord(c *column, n int, word string) (rowSet, error) {
	switch c.typ {
	case columnConst:
		if strings.EqualFold(c.before, word) {
			return allRows(n), nil
		}
		return nil, nil
	case columnInt, columnDelta:
		v, ok := c.wanted(word)
		switch {
		case !ok || c.width == 0 && v != c.base:
			return nil, nil
		case c.width == 0:
			return allRows(n), nil
		case c.typ == columnInt:
			b, err := x.columnBytes(c, n)
			if err != nil {
				return nil, err
			}
			return findNumber(b, n, int(c.width), uint64(v-c.base)), nil
		}
		d, err := x.column(c, n)
		if err != nil {
			return nil, err
		}
		var out rowSet
		for i, k := range d.nums {
			if int64(k) == v {
				out = out.with(n, uint32(i))
			}
		}
		return out, nil
	case columnHex:
		if len(word) != int(c.width) {
			return nil, nil
		}
		var want [maxHex / 2]byte
		for k := 0; k < len(word); k += 2 {
			if !isHex(word[k]) || !isHex(word[k+1]) {
				return nil, nil
			}
			want[k/2] = nibble(word[k])<<4 | nibble(word[k+1])
		}
		b, err := x.columnBytes(c, n)
		if err != nil {
			return nil, err
		}
		var out rowSet
		half := len(word) / 2
		for i := range n {
			if v := b[i*half:][:half]; v[0] == want[0] && string(v) == string(want[:half]) {
				out = out.with(n, uint32(i))
			}
		}
		return out, nil
	case columnDict:
		w, err := c.strings(x.page)
		if err != nil || !containsFold(w, word) {
			return nil, err
		}
		for k := uint64(0); len(w) > 0; k++ {
			size, m := binary.Uvarint(w)
			if m <= 0 || size > uint64(len(w)-m) {
				return nil, damaged("a dictionary ends behind its page")
			}
			entry := w[m : m+int(size)]
			w = w[m+int(size):]
			if len(entry) != len(word) || !strings.EqualFold(view(entry), word) {
				continue
			}
			b, err := x.columnBytes(c, n)
			if err != nil {
				return nil, err
			}
			out := findNumber(b, n, int(c.width), k)
			// The word may be there in other cases.
			if rest := w; containsFold(rest, word) {
				more, err := x.findOther(c, n, word, k, rest)
				if err != nil {
					return nil, err
				}
				out = out.union(more)
			}
			return out, nil
		}
		return nil, nil
	case columnText:
		w, err := c.strings(x.page)
		if err != nil || !containsFold(w, word) {
			return nil, err
		}
		var out rowSet
		for i := range n {
			size, m := binary.Uvarint(w)
			if m <= 0 || size > uint64(len(w)-m) {
				return nil, damaged("a text ends behind its page")
			}
			if int(size) == len(word) && strings.EqualFold(view(w[m:m+int(size)]), word) {
				out = out.with(n, uint32(i))
			}
			w = w[m+int(size):]
		}
		return out, nil
	}
	d, err := x.column(c, n) // addresses and UUIDs, which are no words
	if err != nil {
		return nil, err
	}
	var out rowSet
	d.each(allRows(n), func(v string) bool { return strings.EqualFold(v, word) }, func(i uint32) { out = out.with(n, i) })
	return out, nil
}

// findOther goes on in a dictionary behind entry k.
func (x *reading) findOther(c *column, n int, word string, k uint64, w []byte) (out rowSet, err error) {
	b, err := x.columnBytes(c, n)
	if err != nil {
		return nil, err
	}
	for k++; len(w) > 0; k++ {
		size, m := binary.Uvarint(w)
		if m <= 0 || size > uint64(len(w)-m) {
			return nil, damaged("a dictionary ends behind its page")
		}
		if int(size) == len(word) && strings.EqualFold(view(w[m:m+int(size)]), word) {
			out = out.union(findNumber(b, n, int(c.width), k))
		}
		w = w[m+int(size):]
	}
	return out, nil
}

// columnBytes are the bytes of the values of a column.
func (x *reading) columnBytes(c *column, n int) ([]byte, error) {
	p, err := x.page(c.page)
	if err != nil {
		return nil, err
	}
	if uint64(c.at)+uint64(c.bytes(n)) > uint64(len(p)) {
		return nil, damaged("a column ends behind its page")
	}
	return p[c.at:][:c.bytes(n)], nil
}

// findNumber are those of n numbers in planes that are v.
func findNumber(b []byte, n, width int, v uint64) (out rowSet) {
	if bytesOf(v) > uint8(width) {
		return nil
	}
	low := b[:n]
next:
	for from := 0; ; {
		i := bytes.IndexByte(low[from:], byte(v))
		if i < 0 {
			return out
		}
		i += from
		from = i + 1
		for w := 1; w < width; w++ {
			if b[w*n+i] != byte(v>>(8*w)) {
				continue next
			}
		}
		out = out.with(n, uint32(i))
	}
}

// with adds a row to a set that may be nil still.
func (s rowSet) with(n int, r uint32) rowSet {
	if s == nil {
		s = newRowSet(n)
	}
	s.add(r)
	return s
}

// union is both, each of which may be nil; s may be changed.
func (s rowSet) union(o rowSet) rowSet {
	switch {
	case s == nil:
		return o
	case o != nil:
		s.or(o)
	}
	return s
}

// rare is how seldom a byte is in logs, about.
var rare = func() (t [256]uint8) {
	for i, c := range []byte("e tainosrlcdmpughbfv.0w:/1yk2-3") {
		t[c] = uint8(200 - 4*i)
	}
	return t
}()

// anchorOf is the place of the rarest byte of a text.
func anchorOf(s string) int {
	at := 0
	for i := range len(s) {
		if rare[s[i]] < rare[s[at]] {
			at = i
		}
	}
	return at
}

// containsFold tells whether b has s, which is in lower case, without regard to case (of ASCII).
func containsFold(b []byte, s string) bool {
	if s == "" {
		return true
	}
	at := anchorOf(s)
	c := s[at]
	upper := c
	if c >= 'a' && c <= 'z' {
		upper -= 'a' - 'A'
	}
	return containsAt(b, s, at, c) || upper != c && containsAt(b, s, at, upper)
}

func containsAt(b []byte, s string, at int, c byte) bool {
	for from := at; from < len(b); {
		i := bytes.IndexByte(b[from:], c)
		if i < 0 {
			return false
		}
		i += from
		from = i + 1
		if start := i - at; start+len(s) <= len(b) && equalFold(b[start:start+len(s)], s) {
			return true
		}
	}
	return false
}

// equalFold tells whether b is s, which is in lower case, without regard to case (of ASCII).
func equalFold(b []byte, s string) bool {
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}
