package pattern

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
	"unsafe"
)

// columnType is how a column is coded.
type columnType uint8

const (
	columnConst columnType = iota // one value, in text
	columnInt                     // numbers, as their distance from the smallest
	columnDelta                   // numbers, as the distance of each from the one before
	columnHex                     // hexadecimal digits, all of one length
	columnUUID                    // as markUUID says
	columnIPv4                    // as markIPv4 says
	columnDict                    // numbers of entries
	columnText                    // each with its length
)

// column is where the values of a slot lie, and what they are. Values that are text are, for columnInt and columnDelta, before+digits+after.
type column struct {
	typ           columnType
	upper         bool   // hexadecimal digits in upper case
	width         uint8  // bytes of a number; digits of a hexadecimal value
	pad           uint8  // digits that a number has at least
	lines         bool   // columnText of lines that are kept whole
	page, at      uint32 // of the numbers or the text
	words, wordAt uint32 // page and place of the entries of a dictionary
	size          uint32 // of the entries, or of the text
	entries       uint32 // how many
	num           uint32 // of the columns of the block, which one it is
	inline        string // the entries, if they lie in the directory
	base          int64  // what numbers are counted from
	before, after string // or the constant, in before
}

// class is the class of the pages that the column lies in.
func (c *column) class() int {
	switch c.typ {
	case columnHex, columnUUID:
		return classHex
	case columnDict:
		return classIndexes
	case columnText:
		if c.lines {
			return classLines
		}
		return classStrings
	}
	return classInts
}

// bytes is how many bytes n values take, but for dictionaries what belongs to their entries.
func (c *column) bytes(n int) uint32 {
	switch c.typ {
	case columnHex:
		return uint32(n * int(c.width) / 2)
	case columnUUID:
		return uint32(16 * n)
	case columnIPv4:
		return uint32(4 * n)
	case columnText:
		return c.size
	case columnInt, columnDelta, columnDict:
		return uint32(n * int(c.width))
	}
	return 0
}

// places are where the next column of each class begins, if it does not begin a page. Most do, so that the directory need not say it.
type places struct {
	next    [classes]struct{ page, at uint32 }
	columns uint32 // how many columns there were
}

// Flags beside the type of a column.
const (
	flagText   = 1 << (iota + 3) // it has before and after, or is padded; of columnText: it is of whole lines; of columnDict: its entries follow
	flagNext                     // it lies where the column before it in its class ends
	flagNextTo                   // so do its entries
)

func (c *column) put(b []byte, n int, next *places) []byte {
	next.columns++
	flags := len(b)
	b = append(b, byte(c.typ))
	switch c.typ {
	case columnConst:
		return appendString(b, c.before)
	case columnInt, columnDelta:
		b = append(b, c.width)
		if c.before != "" || c.after != "" || c.pad > 0 {
			b[flags] |= flagText
			b = appendString(appendString(append(b, c.pad), c.before), c.after)
		}
		b = appendVarint(b, c.base)
		if c.width == 0 {
			return b
		}
	case columnHex:
		u := byte(0)
		if c.upper {
			u = 128
		}
		b = append(b, c.width|u)
	case columnDict:
		b = append(b, c.width)
		b = binary.AppendUvarint(b, uint64(c.entries))
		b = binary.AppendUvarint(b, uint64(c.size))
		if c.inline != "" {
			b[flags] |= flagText
			b = append(b, c.inline...)
			break
		}
		if p := &next.next[classStrings]; p.page == c.words && p.at == c.wordAt {
			b[flags] |= flagNextTo
		} else {
			b = binary.AppendUvarint(b, uint64(c.words))
			b = binary.AppendUvarint(b, uint64(c.wordAt))
		}
		next.next[classStrings].page, next.next[classStrings].at = c.words, c.wordAt+c.size
	case columnText:
		if c.lines {
			b[flags] |= flagText
		}
		b = binary.AppendUvarint(b, uint64(c.size))
	}
	p := &next.next[c.class()]
	if p.page == c.page && p.at == c.at {
		b[flags] |= flagNext
	} else {
		b = binary.AppendUvarint(b, uint64(c.page))
		b = binary.AppendUvarint(b, uint64(c.at))
	}
	p.page, p.at = c.page, c.at+c.bytes(n)
	return b
}

func readColumn(r *byteReader, n int, next *places) (c column) {
	c.num = next.columns
	next.columns++
	f := r.byte()
	c.typ = columnType(f & 7)
	switch c.typ {
	case columnConst:
		c.before = r.string()
		return c
	case columnInt, columnDelta:
		c.width = r.byte()
		if f&flagText != 0 {
			c.pad = r.byte()
			c.before, c.after = r.string(), r.string()
		}
		c.base = r.varint()
		r.bad = r.bad || c.width > 8
		if c.width == 0 {
			return c
		}
	case columnHex:
		u := r.byte()
		c.width, c.upper = u&127, u&128 != 0
		r.bad = r.bad || c.width < 2 || c.width > maxHex || c.width%2 != 0
	case columnDict:
		c.width = r.byte()
		c.entries = uint32(r.count(MaxRecords))
		c.size = uint32(r.uvarint())
		r.bad = r.bad || c.width < 1 || c.width > 4 || c.entries == 0
		if f&flagText != 0 {
			if uint64(c.size) > uint64(len(r.b)) {
				r.bad = true
				return c
			}
			c.inline = string(r.b[:c.size])
			r.b = r.b[c.size:]
			break
		}
		if f&flagNextTo != 0 {
			c.words, c.wordAt = next.next[classStrings].page, next.next[classStrings].at
		} else {
			c.words, c.wordAt = uint32(r.uvarint()), uint32(r.uvarint())
		}
		next.next[classStrings].page, next.next[classStrings].at = c.words, c.wordAt+c.size
	case columnText:
		c.lines = f&flagText != 0
		c.size = uint32(r.uvarint())
	}
	p := &next.next[c.class()]
	if f&flagNext != 0 {
		c.page, c.at = p.page, p.at
	} else {
		c.page, c.at = uint32(r.uvarint()), uint32(r.uvarint())
	}
	p.page, p.at = c.page, c.at+c.bytes(n)
	return c
}

const (
	maxHex    = 64
	maxInline = 256
	maxDigits = 19 // and no number is larger than an int64 holds
)

// columnEncoder makes columns. Values of text go to note, each distinct one once or more, so that the filter knows them.
type columnEncoder struct {
	*pager
	note    func(value string, kind slotKind)
	num     int // the page that values are noted with; ownPage: none, but the column itself
	ints    []int64
	dist    []uint64
	index   map[string]uint32
	words   []string
	entries []byte
	at      []uint32
}

// text makes the column of values of a kind.
func (e *columnEncoder) text(values []string, kind slotKind) column {
	if slices.IndexFunc(values, func(v string) bool { return v != values[0] }) < 0 {
		e.num = ownPage
		e.note(values[0], kind)
		return column{typ: columnConst, before: values[0]}
	}
	switch kind {
	case slotUUID:
		if e.distinct(values, len(values)/2) {
			return e.dict(values, kind)
		}
		return e.hex(values, kind, column{typ: columnUUID})
	case slotIPv4:
		if e.distinct(values, len(values)/3) {
			return e.dict(values, kind)
		}
		num, b := e.open(classInts)
		c := column{typ: columnIPv4, page: uint32(num), at: uint32(len(b))}
		from := len(b)
		b = append(b, make([]byte, 4*len(values))...)
		for i, v := range values {
			e.note(v, kind)
			for part := range 4 {
				n := byte(0)
				for v != "" && v[0] != '.' {
					n, v = n*10+v[0]-'0', v[1:]
				}
				if v != "" {
					v = v[1:]
				}
				b[from+part*len(values)+i] = n
			}
		}
		e.end(classInts, b)
		return c
	case slotLine:
		return e.plain(values, kind)
	}
	if c, ok := e.numbers(values); ok {
		if c.width >= 3 && e.distinct(values, len(values)/4) {
			return e.dict(values, kind)
		}
		out := e.integers(c)
		if c.before != "" || c.after != "" || c.pad > 6 || slices.Max(e.ints) > 999_999 {
			for _, v := range values {
				e.note(v, kind)
			}
		}
		return out
	}
	if c, ok := hexColumn(values); ok {
		if e.distinct(values, len(values)/2) {
			return e.dict(values, kind)
		}
		return e.hex(values, kind, c)
	}
	if e.distinct(values, max(len(values)/2, min(len(values), 16))) {
		return e.dict(values, kind)
	}
	return e.plain(values, kind)
}

// numbers reads the values as numbers with the same text before and behind, into e.ints, and tells what the column would be.
func (e *columnEncoder) numbers(values []string) (c column, ok bool) {
	first := values[0]
	i := 0
	for i < len(first) && first[i]-'0' > 9 {
		i++
	}
	j := len(first)
	for j > i && first[j-1]-'0' > 9 {
		j--
	}
	if i == j {
		return c, false
	}
	c.before, c.after = first[:i], first[j:]
	e.ints = e.ints[:0]
	padded, plain := false, false
	for _, v := range values {
		if len(v) <= i+len(c.after) || v[:i] != c.before || v[len(v)-len(c.after):] != c.after {
			return c, false
		}
		d := v[i : len(v)-len(c.after)]
		if len(d) > maxDigits {
			return c, false
		}
		n := int64(0)
		for k := range len(d) {
			x := d[k] - '0'
			if x > 9 {
				return c, false
			}
			n = n*10 + int64(x)
		}
		if n < 0 { // of nineteen digits none gets past that
			return c, false
		}
		switch {
		case len(d) > 1 && d[0] == '0':
			padded = true
			if c.pad == 0 {
				c.pad = uint8(len(d))
			}
			if int(c.pad) != len(d) {
				return c, false
			}
		case c.pad > 0 && len(d) < int(c.pad):
			return c, false
		default:
			plain = plain || len(d) > 0
		}
		e.ints = append(e.ints, n)
	}
	if padded && plain { // those that came before the first with zeros may be too short
		for _, v := range values {
			if len(v)-i-len(c.after) < int(c.pad) {
				return c, false
			}
		}
	}
	return e.plan(c), true
}

// plan chooses between columnInt and columnDelta for e.ints.
func (e *columnEncoder) plan(c column) column {
	lo, hi := e.ints[0], e.ints[0]
	var far uint64
	for i, n := range e.ints {
		lo, hi = min(lo, n), max(hi, n)
		if i > 0 {
			far = max(far, zigzag(n-e.ints[i-1]))
		}
	}
	c.typ, c.base = columnInt, lo
	c.width = bytesOf(uint64(hi) - uint64(lo))
	if w := bytesOf(far); w < c.width {
		c.typ, c.width, c.base = columnDelta, w, e.ints[0]
	} else if c.width > 0 && lo > 0 && bytesOf(uint64(hi)) == c.width {
		c.base = 0 // which takes less to say
	}
	return c
}

func zigzag(n int64) uint64   { return uint64(n<<1) ^ uint64(n>>63) }
func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }
func bytesOf(n uint64) uint8  { return uint8(bits.Len64(n)+7) / 8 }

// open is pager.begin for values that are noted.
func (e *columnEncoder) open(class int) (num int, b []byte) {
	num, b = e.begin(class)
	e.num = num
	return num, b
}

// integers writes e.ints as c says.
func (e *columnEncoder) integers(c column) column {
	if c.width == 0 {
		e.num = ownPage
		return c
	}
	e.dist = e.dist[:0]
	for i, n := range e.ints {
		switch {
		case c.typ == columnInt:
			e.dist = append(e.dist, uint64(n-c.base))
		case i == 0:
			e.dist = append(e.dist, 0)
		default:
			e.dist = append(e.dist, zigzag(n-e.ints[i-1]))
		}
	}
	num, b := e.open(classInts)
	c.page, c.at = uint32(num), uint32(len(b))
	e.end(classInts, appendPlanes(b, e.dist, int(c.width)))
	return c
}

// values writes numbers that are no text.
func (e *columnEncoder) values(ns []int64) column {
	e.ints = append(e.ints[:0], ns...)
	return e.integers(e.plan(column{}))
}

// appendPlanes writes the lowest width bytes of each number: first the lowest of all, and so on.
func appendPlanes(b []byte, ns []uint64, width int) []byte {
	from := len(b)
	b = slices.Grow(b, width*len(ns))[:from+width*len(ns)]
	for w := range width {
		plane := b[from+w*len(ns):][:len(ns)]
		for i, n := range ns {
			plane[i] = byte(n >> (8 * w))
		}
	}
	return b
}

// readPlanes reads what appendPlanes wrote.
func readPlanes(out []uint64, b []byte, width int) {
	n := len(out)
	switch width {
	case 1:
		for i, c := range b[:n] {
			out[i] = uint64(c)
		}
	case 2:
		lo, hi := b[:n], b[n:2*n]
		for i := range out {
			out[i] = uint64(lo[i]) | uint64(hi[i])<<8
		}
	case 3:
		p0, p1, p2 := b[:n], b[n:2*n], b[2*n:3*n]
		for i := range out {
			out[i] = uint64(p0[i]) | uint64(p1[i])<<8 | uint64(p2[i])<<16
		}
	default:
		clear(out)
		for w := range width {
			plane := b[w*n:][:n]
			for i, c := range plane {
				out[i] |= uint64(c) << (8 * w)
			}
		}
	}
}

func hexColumn(values []string) (c column, ok bool) {
	n := len(values[0])
	if n < 4 || n > maxHex || n%2 != 0 {
		return c, false
	}
	lower, upper := true, true
	for _, v := range values {
		if len(v) != n {
			return c, false
		}
		for k := range len(v) {
			d := v[k]
			switch {
			case d-'0' <= 9:
			case d >= 'a' && d <= 'f':
				upper = false
			case d >= 'A' && d <= 'F':
				lower = false
			default:
				return c, false
			}
		}
		if !lower && !upper {
			return c, false
		}
	}
	return column{typ: columnHex, width: uint8(n), upper: !lower}, true
}

func (e *columnEncoder) hex(values []string, kind slotKind, c column) column {
	num, b := e.open(classHex)
	c.page, c.at = uint32(num), uint32(len(b))
	for _, v := range values {
		e.note(v, kind)
		for k := 0; k < len(v); k += 2 {
			if v[k] == '-' {
				k++
			}
			b = append(b, nibble(v[k])<<4|nibble(v[k+1]))
		}
	}
	e.end(classHex, b)
	return c
}

func nibble(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

// distinct tells whether there are at most limit different values, and notes them for dict.
func (e *columnEncoder) distinct(values []string, limit int) bool {
	if e.index == nil {
		e.index = map[string]uint32{}
	}
	clear(e.index)
	e.words, e.at = e.words[:0], e.at[:0]
	last, lastAt := "", uint32(0)
	for i, v := range values {
		if i > 0 && v == last {
			e.at = append(e.at, lastAt)
			continue
		}
		n, ok := e.index[v]
		if !ok {
			if len(e.words) == limit {
				return false
			}
			n = uint32(len(e.words))
			e.index[v] = n
			e.words = append(e.words, v)
		}
		e.at = append(e.at, n)
		last, lastAt = v, n
	}
	return true
}

// dict writes what distinct found.
func (e *columnEncoder) dict(values []string, kind slotKind) column {
	c := column{typ: columnDict, entries: uint32(len(e.words)), width: max(1, bytesOf(uint64(len(e.words)-1)))}
	e.num = ownPage
	e.entries = e.entries[:0]
	for _, w := range e.words {
		e.note(w, kind)
		e.entries = appendString(e.entries, w)
	}
	if c.size = uint32(len(e.entries)); c.size <= maxInline {
		c.inline = string(e.entries)
	} else {
		num, b := e.begin(classStrings)
		c.words, c.wordAt = uint32(num), uint32(len(b))
		e.end(classStrings, append(b, e.entries...))
	}
	e.dist = e.dist[:0]
	for _, n := range e.at {
		e.dist = append(e.dist, uint64(n))
	}
	num, b := e.begin(classIndexes)
	c.page, c.at = uint32(num), uint32(len(b))
	e.end(classIndexes, appendPlanes(b, e.dist, int(c.width)))
	return c
}

func (e *columnEncoder) plain(values []string, kind slotKind) column {
	c := column{typ: columnText, lines: kind == slotLine}
	num, b := e.open(c.class())
	c.page, c.at = uint32(num), uint32(len(b))
	for _, v := range values {
		e.note(v, kind)
		b = appendString(b, v)
	}
	c.size = uint32(len(b)) - c.at
	e.end(c.class(), b)
	return c
}

// A columnData is a column made ready to be read: n values.
type columnData struct {
	*column
	n     int
	b     []byte   // from the first value on
	nums  []uint64 // of numbers, their distances summed up to the numbers themselves as int64; of a dictionary, the entries' numbers
	words []string // of a dictionary
	texts []string // of columnText
}

// read makes n values of c ready; pages gives unpacked pages, which have to stay as they are.
func (c *column) read(n int, pages func(num uint32) ([]byte, error)) (d columnData, err error) {
	d = columnData{column: c, n: n}
	if c.typ == columnConst || (c.typ == columnInt || c.typ == columnDelta) && c.width == 0 {
		return d, nil
	}
	b, err := pages(c.page)
	if err != nil {
		return d, err
	}
	if uint64(c.at) > uint64(len(b)) {
		return d, damaged("a column begins behind its page")
	}
	d.b = b[c.at:]
	if uint64(len(d.b)) < uint64(c.bytes(n)) {
		return d, damaged("a column ends behind its page")
	}
	switch c.typ {
	case columnInt:
		d.nums = make([]uint64, n)
		readPlanes(d.nums, d.b, int(c.width))
		for i := range d.nums {
			d.nums[i] += uint64(c.base)
		}
	case columnDelta:
		d.nums = make([]uint64, n)
		readPlanes(d.nums, d.b, int(c.width))
		at := c.base
		for i, z := range d.nums {
			at += unzigzag(z)
			d.nums[i] = uint64(at)
		}
	case columnDict:
		if d.words, err = c.dictionary(pages); err != nil {
			return d, err
		}
		d.nums = make([]uint64, n)
		readPlanes(d.nums, d.b, int(c.width))
		for _, k := range d.nums {
			if k >= uint64(len(d.words)) {
				return d, damaged("a dictionary lacks entry %d", k)
			}
		}
	case columnText:
		d.texts = make([]string, n)
		if !cutStrings(d.texts, d.b) {
			return d, damaged("a text ends behind its page")
		}
	}
	return d, nil
}

// dictionary are the entries of a columnDict.
func (c *column) dictionary(pages func(num uint32) ([]byte, error)) ([]string, error) {
	w, err := c.strings(pages)
	if err != nil {
		return nil, err
	}
	words := make([]string, c.entries)
	if !cutStrings(words, w) {
		return nil, damaged("a dictionary ends behind its page")
	}
	return words, nil
}

// strings are the bytes of the entries of a dictionary, or of columnText.
func (c *column) strings(pages func(num uint32) ([]byte, error)) ([]byte, error) {
	if c.inline != "" {
		return unsafe.Slice(unsafe.StringData(c.inline), len(c.inline)), nil
	}
	num, at := c.words, c.wordAt
	if c.typ == columnText {
		num, at = c.page, c.at
	}
	w, err := pages(num)
	if err != nil {
		return nil, err
	}
	if uint64(at)+uint64(c.size) > uint64(len(w)) {
		return nil, damaged("strings end behind their page")
	}
	return w[at:][:c.size], nil
}

// cutStrings reads strings with their lengths; they are parts of b.
func cutStrings(out []string, b []byte) bool {
	for i := range out {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return false
		}
		out[i] = view(b[k : k+int(n)])
		b = b[k+int(n):]
	}
	return true
}

// append writes value i as text.
func (d *columnData) append(b []byte, i int) []byte {
	switch d.typ {
	case columnConst:
		return append(b, d.before...)
	case columnInt, columnDelta:
		n := d.base
		if d.width > 0 {
			n = int64(d.nums[i])
		}
		b = append(b, d.before...)
		if d.pad > 0 {
			from := len(b)
			b = appendInt(b, n)
			if short := int(d.pad) - (len(b) - from); short > 0 {
				b = slices.Insert(b, from, []byte(zeros[:short])...)
			}
		} else {
			b = appendInt(b, n)
		}
		return append(b, d.after...)
	case columnHex:
		digits := lowerDigits
		if d.upper {
			digits = upperDigits
		}
		half := int(d.width) / 2
		return appendHex(b, d.b[i*half:(i+1)*half], digits)
	case columnUUID:
		v := d.b[16*i : 16*i+16]
		b = append(appendHex(b, v[:4], lowerDigits), '-')
		b = append(appendHex(b, v[4:6], lowerDigits), '-')
		b = append(appendHex(b, v[6:8], lowerDigits), '-')
		b = append(appendHex(b, v[8:10], lowerDigits), '-')
		return appendHex(b, v[10:], lowerDigits)
	case columnIPv4:
		b = append(appendInt(b, int64(d.b[i])), '.')
		b = append(appendInt(b, int64(d.b[d.n+i])), '.')
		b = append(appendInt(b, int64(d.b[2*d.n+i])), '.')
		return appendInt(b, int64(d.b[3*d.n+i]))
	case columnDict:
		return append(b, d.words[d.nums[i]]...)
	}
	return append(b, d.texts[i]...)
}

// number is the number of value i of a column made by columnEncoder.values.
func (d *columnData) number(i int) int64 {
	if d.width == 0 {
		return d.base
	}
	return int64(d.nums[i])
}

const (
	zeros       = "0000000000000000000"
	lowerDigits = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

func appendHex(b, v []byte, digits string) []byte {
	for _, c := range v {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

func isHex(c byte) bool { return c-'0' <= 9 || c >= 'a' && c <= 'f' }

// wanted is the number whose text is the word, without regard to case, if the column can have it.
func (c *column) wanted(word string) (n int64, ok bool) {
	if len(word) <= len(c.before)+len(c.after) || !strings.EqualFold(word[:len(c.before)], c.before) || !strings.EqualFold(word[len(word)-len(c.after):], c.after) {
		return 0, false
	}
	d := word[len(c.before) : len(word)-len(c.after)]
	if len(d) > maxDigits || len(d) < int(c.pad) || len(d) > max(1, int(c.pad)) && d[0] == '0' {
		return 0, false
	}
	for k := range len(d) {
		if d[k]-'0' > 9 {
			return 0, false
		}
		n = n*10 + int64(d[k]-'0')
	}
	if n < 0 {
		return 0, false
	}
	if c.typ == columnInt && (n < c.base || bytesOf(uint64(n-c.base)) > c.width) {
		return 0, false
	}
	return n, true
}

// own tells whether the terms of the column are known by column, because they are few, and else by page.
func (c *column) own() bool {
	return c.typ == columnConst || c.typ == columnDict || (c.typ == columnInt || c.typ == columnDelta) && c.width == 0
}
