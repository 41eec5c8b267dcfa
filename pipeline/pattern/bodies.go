package pattern

import (
	"bytes"
	"slices"
	"strings"
)

// inBodies looks at the bodies: at whole templates first, then at the columns of their slots, and at lines put together again only where that is not enough.
func (l *leaf) inBodies(x *reading, within rowSet) (rowSet, error) {
	yes, out, err := l.byTemplates(x, within)
	if err != nil {
		return nil, err
	}
	if out == nil {
		out = newRowSet(x.directory.rows)
	}
	return out, x.addTemplates(yes, within, out)
}

// addTemplates adds the rows of within that are of those templates.
func (x *reading) addTemplates(is []bool, within, out rowSet) error {
	if !slices.Contains(is, true) {
		return nil
	}
	of, err := x.templateOf()
	if err != nil {
		return err
	}
	for i, w := range within {
		if w == 0 {
			continue
		}
		var add uint64
		for k, t := range of[i<<6 : min(i<<6+64, len(of))] {
			if is[t] {
				add |= 1 << k
			}
		}
		out[i] |= add & w
	}
	return nil
}

// byTemplates are the templates of which all rows meet the condition, and those rows of the others, of within, nil being all, that do; nil if there are none.
func (l *leaf) byTemplates(x *reading, within rowSet) (yes []bool, out rowSet, err error) {
	yes = make([]bool, len(x.templates))
	rare, beside := l.inSlots(x), l.besideSlots(x)
	sets := rows{within: within, n: x.directory.rows}
	for t := range x.templates {
		bt := &x.templates[t]
		switch j := l.of(bt.Template); j.state {
		case judgedYes:
			yes[t] = true
		case judgedWays:
			err = l.byWays(x, t, j, &sets)
		case judgedRows:
			if bt.line && !rare || bt.whole && !bt.line && !beside {
				continue
			}
			err = l.byRows(x, t, j, &sets)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return yes, sets.out, nil
}

// rows gathers rows of a set.
type rows struct {
	within rowSet // nil: all
	out    rowSet // nil: none
	n      int
}

func (s *rows) wants(r uint32) bool { return s.within == nil || s.within.has(r) }

func (s *rows) add(r uint32) { s.out = s.out.with(s.n, r) }

// inSlots tells whether lines that are kept whole may meet the condition.
func (l *leaf) inSlots(x *reading) bool {
	for _, w := range l.needs {
		if !x.b.filters.slotsMayHave(w) {
			return false
		}
	}
	return true
}

// besideSlots tells whether lines of templates in which words have no clear end may meet the condition, of which the filter has all terms.
func (l *leaf) besideSlots(x *reading) bool {
	for _, w := range l.needs {
		if !x.b.filters.linesMayHave(w) {
			return false
		}
	}
	return true
}

// byWays adds the rows of a template whose wild words are as the judgement says.
func (l *leaf) byWays(x *reading, t int, j *judgement, set *rows) error {
	n := x.templates[t].rows
	for _, way := range j.ways {
		if !x.mayBe(t, way) {
			continue
		}
		var hit rowSet // nil: all
		for _, w := range way {
			is, err := x.wordIs(t, w, hit)
			if err != nil {
				return err
			}
			if is == nil {
				hit = newRowSet(n)
				break
			}
			if hit == nil {
				hit = is
			} else if hit.and(is); hit.empty() {
				break
			}
		}
		if hit.empty() {
			continue
		}
		rows, err := x.rowsOf(t)
		if err != nil {
			return err
		}
		hit.each(func(i uint32) bool {
			if set.wants(rows[i]) {
				set.add(rows[i])
			}
			return true
		})
	}
	return nil
}

// mayBe tells, by the directory and the filter alone, whether the words of a template can be as way says.
func (x *reading) mayBe(t int, way []wildIs) bool {
	for i := range way {
		w := &way[i]
		c := &x.templates[t].columns[w.slot]
		if w.prefix {
			continue
		}
		if w.kind == slotWord {
			switch c.typ {
			case columnConst:
				if len(c.before) != len(w.word) || !strings.EqualFold(c.before, w.word) {
					return false
				}
				continue
			case columnInt, columnDelta:
				if n, ok := c.wanted(w.word); !ok || c.width == 0 && n != c.base {
					return false
				}
			case columnHex:
				if len(w.word) != int(c.width) || !isHex(w.word[0]) || !isHex(w.word[len(w.word)-1]) {
					return false
				}
			}
		}
		if w.hash != 0 && w.kind != slotIPv4 && !x.columnMayHave(w.hash, c) {
			return false
		}
	}
	return true
}

// wordIs are the template's rows, by their number among them, whose word is as w says, nil if there are none; only those of among, nil being all, have to be right.
func (x *reading) wordIs(t int, w wildIs, among rowSet) (rowSet, error) {
	n := x.templates[t].rows
	c := &x.templates[t].columns[w.slot]
	if w.kind == slotWord && !w.prefix {
		return x.findWord(c, n, w.word)
	}
	is := func(value string) bool {
		word := nthWord(value, w.sub)
		return len(word) == len(w.word) && strings.EqualFold(word, w.word) || w.prefix && len(word) > len(w.word) && strings.EqualFold(word[:len(w.word)], w.word)
	}
	if among == nil {
		among = allRows(n)
	}
	var out rowSet
	if w.kind == slotStamp {
		err := x.eachStamp(t, w.slot, among, func(i uint32, text string) {
			if is(text) {
				out = out.with(n, i)
			}
		})
		return out, err
	}
	d, err := x.slot(t, w.slot)
	if err != nil {
		return nil, err
	}
	d.each(among, is, func(i uint32) { out = out.with(n, i) })
	return out, nil
}

// eachStamp calls f with the text of the stamps of those rows.
func (x *reading) eachStamp(t, slot int, among rowSet, f func(i uint32, text string)) error {
	rows, err := x.rowsOf(t)
	if err != nil {
		return err
	}
	at, err := x.times()
	if err != nil {
		return err
	}
	d, err := x.slot(t, slot)
	if err != nil {
		return err
	}
	var l layout
	k := 0
	for _, p := range x.templates[t].parts {
		if p.slot {
			if k == slot {
				l = p.layout
			}
			k++
		}
	}
	var buf []byte
	among.each(func(i uint32) bool {
		buf = l.append(buf[:0], at[rows[i]], d.number(int(i)))
		f(i, view(buf))
		return true
	})
	return nil
}

// each calls hit with those values of among for which is holds.
func (d *columnData) each(among rowSet, is func(value string) bool, hit func(i uint32)) {
	switch d.typ {
	case columnConst:
		if is(d.before) {
			among.each(func(i uint32) bool { hit(i); return true })
		}
	case columnDict:
		holds := make([]bool, len(d.words))
		some := false
		for k, w := range d.words {
			holds[k] = is(w)
			some = some || holds[k]
		}
		if some {
			among.each(func(i uint32) bool {
				if holds[d.nums[i]] {
					hit(i)
				}
				return true
			})
		}
	case columnText:
		among.each(func(i uint32) bool {
			if is(d.texts[i]) {
				hit(i)
			}
			return true
		})
	default:
		var buf []byte
		among.each(func(i uint32) bool {
			buf = d.append(buf[:0], int(i))
			if is(view(buf)) {
				hit(i)
			}
			return true
		})
	}
}

// nthWord is a word of a text of ASCII, the first is 0.
func nthWord(s string, n int) string {
	for i := 0; i < len(s); {
		if charKind[s[i]] == 0 {
			i++
			continue
		}
		from := i
		for i < len(s) && charKind[s[i]] != 0 {
			i++
		}
		if n == 0 {
			return s[from:i]
		}
		n--
	}
	return ""
}

// byRows looks at the lines of a template.
func (l *leaf) byRows(x *reading, t int, j *judgement, set *rows) error {
	if x.templates[t].line {
		return l.inLines(x, t, set)
	}
	var among rowSet // nil: all
	if j.inWord != "" {
		var err error
		if among, err = x.slotsWith(t, j); err != nil || among.empty() {
			return err
		}
	}
	rows, err := x.rowsOf(t)
	if err != nil {
		return err
	}
	buf := textPool.Get().(*[]byte)
	defer textPool.Put(buf)
	for i, r := range rows {
		if among != nil && !among.has(uint32(i)) || !set.wants(r) {
			continue
		}
		text, err := x.textOf((*buf)[:0], t, i, r)
		if err != nil {
			return err
		}
		*buf = text
		if (l.lit.text == "" || l.lit.in(view(text))) && l.match(view(text)) {
			set.add(r)
		}
	}
	return nil
}

// inLines looks at lines that are kept whole.
func (l *leaf) inLines(x *reading, t int, set *rows) error {
	c := &x.templates[t].columns[0]
	if c.typ == columnText && !l.needsIn(x, c) {
		return nil
	}
	d, err := x.slot(t, 0)
	if err != nil {
		return err
	}
	var rows []uint32 // once one of them is wanted
	var buf []byte
	for i := range d.n {
		text := ""
		if d.typ == columnText {
			text = d.texts[i]
		} else {
			buf = d.append(buf[:0], i)
			text = view(buf)
		}
		if l.lit.text != "" && !l.lit.in(text) || !l.match(text) {
			continue
		}
		if rows == nil {
			if rows, err = x.rowsOf(t); err != nil {
				return err
			}
		}
		if set.wants(rows[i]) {
			set.add(rows[i])
		}
	}
	return nil
}

// needsIn tells whether the texts of a column have all ASCII words that the condition needs, somewhere.
func (l *leaf) needsIn(x *reading, c *column) bool {
	b, err := c.strings(x.page)
	if err != nil {
		return true // reading the column says it
	}
	if bytes.Contains(b, []byte("\u212a")) || bytes.Contains(b, []byte("\u0130")) { // whose lower case is k and i
		return true
	}
	for _, w := range l.needs {
		if isASCII(w) && !containsFold(b, w) {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// slotsWith are the template's rows that have j.inWord in one of their slots.
func (x *reading) slotsWith(t int, j *judgement) (rowSet, error) {
	out := newRowSet(x.templates[t].rows)
	all := allRows(x.templates[t].rows)
	lit := literal{text: j.inWord, fold: j.fold}
	slot := -1
	for _, p := range x.templates[t].parts {
		if !p.slot {
			continue
		}
		slot++
		c := &x.templates[t].columns[slot]
		if p.kind == slotStamp {
			if !stampLike(lit.text) {
				continue
			}
			if err := x.eachStamp(t, slot, all, func(i uint32, text string) {
				if lit.in(text) {
					out.add(i)
				}
			}); err != nil {
				return nil, err
			}
			continue
		}
		if !c.mayHave(lit) {
			continue
		}
		if c.typ == columnDict || c.typ == columnText {
			w, err := c.strings(x.page)
			if err != nil {
				return nil, err
			}
			if !lit.in(view(w)) {
				continue
			}
		}
		d, err := x.slot(t, slot)
		if err != nil {
			return nil, err
		}
		d.each(all, lit.in, func(i uint32) { out.add(i) })
	}
	return out, nil
}

// stampLike tells whether a stamp may have the text in one of its words.
func stampLike(s string) bool {
	letters := 0
	for i := range len(s) {
		if s[i]-'0' > 9 {
			letters++
		}
	}
	return letters <= 3
}

// mayHave tells, by the directory alone, whether a value may have the literal, which is word characters only.
func (c *column) mayHave(l literal) bool {
	switch c.typ {
	case columnInt, columnDelta:
		for i := range len(l.text) {
			if d := l.text[i]; d-'0' > 9 && !l.hasByte(c.before, d) && !l.hasByte(c.after, d) {
				return false
			}
		}
	case columnHex:
		if len(l.text) > int(c.width) {
			return false
		}
		fallthrough
	case columnUUID:
		for i := range len(l.text) {
			if d := l.text[i] | 0x20; d-'0' > 9 && (d < 'a' || d > 'f') {
				return false
			}
		}
	case columnIPv4:
		return len(l.text) <= 3 && number(l.text)
	}
	return true
}

func (l literal) hasByte(text string, c byte) bool {
	return strings.IndexByte(text, c) >= 0 || l.fold && c >= 'a' && c <= 'z' && strings.IndexByte(text, c-0x20) >= 0
}
