package pattern

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"kemi"
	"kemi/pipeline/store"
)

// A block is a preamble, pages, a filter and the directory, which is packed with zstd. docs/formats/pattern.md says what stands where.
const (
	magic        = "KPAT"
	version      = 1
	preambleSize = 32
)

// The kinds of what stands beside the body.
const (
	extraAttr = iota
	extraTrace
	extraSpan
)

// extra is an attribute or an id that records have beside the body.
type extra struct {
	kind byte
	name string
}

// encoder holds what Encode works with, to be used again.
type encoder struct {
	split splitter
	cols  columnEncoder
	pager pager
	fixed keySet // terms of fixed text
	slots keySet // terms of what varies, by page

	streams   []kemi.Labels
	byPointer map[*kemi.Label]int32
	byKey     map[string]int32
	key       []byte
	of        []int32 // stream of each record, in the order of arrival
	order     []int32 // record of each row

	next    places
	arrived []*kemi.LogRecord

	rows      []row
	spans     []span
	found     map[string]int32
	templates []found // of the lines as they were cut
	final     []final // of the block
	joined    []string
	values    []string
	numbers   []int64
	directory []byte
}

// row is a record in the block's order.
type row struct {
	r     *kemi.LogRecord
	tmpl  int32 // of templates
	spans int32 // where its spans begin
}

// found is a template of lines as they were cut.
type found struct {
	text  string
	rows  int
	final int32
	from  []source // of a template that was joined with others: where the slots of final come from
}

// source is where a slot of a joined template comes from: a slot, or fixed text.
type source struct {
	slot int
	text string
}

// final is a template of the block.
type final struct {
	text string
	rows []int32
}

func newEncoder() *encoder {
	e := &encoder{byPointer: map[*kemi.Label]int32{}, byKey: map[string]int32{}, found: map[string]int32{}}
	e.cols.pager = &e.pager
	e.cols.note = e.note
	e.pager.packers = newPackers()
	return e
}

// idle are encoders that wait to be used again, more than which are seldom at work. A sync.Pool would let go of them, and of their ten megabytes of buffers, between one block and
// the next.
var idle = make(chan *encoder, 2)

// Encode codes records of one project, in the order in which they came: at least one, at most MaxRecords. Those of one stream should share their Stream.
// Any bytes come back as they were. The records come in one stretch or in several, one after another.
func Encode(stretches ...[]kemi.LogRecord) ([]byte, Meta, error) {
	n := 0
	var m Meta
	for _, records := range stretches {
		for i := range records {
			r := &records[i]
			if n++; n == 1 {
				m = Meta{Project: r.Project, From: r.At, To: r.At}
			}
			m.Raw += int64(len(r.Body))
			m.From, m.To = min(m.From, r.At), max(m.To, r.At)
		}
	}
	if m.Records = n; n == 0 || n > MaxRecords {
		return nil, Meta{}, kemi.Errorf(kemi.ErrInvalid, "log block: %d records: from 1 to %d", n, MaxRecords)
	}
	var e *encoder
	select {
	case e = <-idle:
	default:
		e = newEncoder()
	}
	out := e.encode(stretches)
	e.reset()
	select {
	case idle <- e:
	default:
	}
	return out, m, nil
}

// reset lets go of the records.
func (e *encoder) reset() {
	clear(e.byPointer)
	clear(e.byKey)
	clear(e.found)
	clear(e.cols.index)
	clear(e.cols.words)
	clear(e.streams)
	clear(e.rows)
	clear(e.arrived)
	clear(e.templates)
	clear(e.values)
	for i := range e.final {
		e.final[i].text = ""
	}
	e.fixed.reset()
	e.slots.reset()
	e.pager.out = nil
}

func (e *encoder) encode(stretches [][]kemi.LogRecord) []byte {
	e.arrived = e.arrived[:0]
	for _, records := range stretches {
		for i := range records {
			e.arrived = append(e.arrived, &records[i])
		}
	}
	e.sortRows()
	e.cut()
	e.join()
	out := make([]byte, preambleSize, preambleSize+len(e.arrived)*32)
	e.pager.reset(out)
	e.next = places{}
	d := e.directory[:0]
	d = binary.AppendUvarint(d, uint64(len(e.rows)))
	d = e.putStreams(d)
	d = e.putTimes(d)
	d = e.putSeverities(d)
	d = e.putCells(d)
	d = e.putIDs(d)
	d = e.putExtras(d)
	d = e.putTemplates(d)
	for c := range classes {
		e.pager.flush(c)
	}
	d = binary.AppendUvarint(d, uint64(len(e.pager.pages)))
	for _, p := range e.pager.pages {
		d = binary.AppendUvarint(d, uint64(p.at))
		d = binary.AppendUvarint(d, uint64(p.packed))
		d = binary.AppendUvarint(d, uint64(p.raw))
	}
	e.directory = d

	out = e.pager.out
	fixedAt := len(out)
	out = e.fixed.appendFilter(out)
	slotsAt := len(out)
	out = e.slots.appendFilter(out)
	directoryAt := len(out)
	out = e.pager.packers.quick.EncodeAll(d, out)
	copy(out, magic)
	out[4] = version
	for i, n := range []int{fixedAt, slotsAt, directoryAt, len(d), len(e.pager.pages)} {
		binary.LittleEndian.PutUint32(out[8+4*i:], uint32(n))
	}
	return slices.Clip(out)
}

// sortRows puts the records of a stream together, in the order in which they came.
func (e *encoder) sortRows() {
	records := e.arrived
	e.streams, e.of = e.streams[:0], e.of[:0]
	for i := range records {
		s := records[i].Stream
		var first *kemi.Label
		if len(s) > 0 {
			first = &s[0]
		}
		n, ok := e.byPointer[first]
		if !ok || len(e.streams[n]) != len(s) {
			e.key = e.key[:0]
			for _, l := range s {
				e.key = appendString(appendString(e.key, l.Name), l.Value)
			}
			if n, ok = e.byKey[string(e.key)]; !ok {
				n = int32(len(e.streams))
				e.streams = append(e.streams, s)
				e.byKey[string(e.key)] = n
			}
			e.byPointer[first] = n
		}
		e.of = append(e.of, n)
	}
	// Streams that are alike stand near each other, so that what they say packs well.
	sorted := make([]int32, len(e.streams))
	for i := range sorted {
		sorted[i] = int32(i)
	}
	slices.SortFunc(sorted, func(a, b int32) int { return e.streams[a].Compare(e.streams[b]) })
	place := make([]int32, len(sorted))
	streams := make([]kemi.Labels, len(sorted))
	for at, s := range sorted {
		place[s], streams[at] = int32(at), e.streams[s]
	}
	e.streams = append(e.streams[:0], streams...)
	next := make([]int32, len(streams)+1)
	for i, s := range e.of {
		e.of[i] = place[s]
		next[place[s]+1]++
	}
	for i := range streams {
		next[i+1] += next[i]
	}
	e.order = slices.Grow(e.order[:0], len(records))[:len(records)]
	for i, s := range e.of {
		e.order[next[s]] = int32(i)
		next[s]++
	}
	e.rows = e.rows[:0]
	for _, i := range e.order {
		e.rows = append(e.rows, row{r: records[i]})
	}
}

// cut cuts the lines.
func (e *encoder) cut() {
	e.spans, e.templates = e.spans[:0], e.templates[:0]
	last := int32(-1)
	for i := range e.rows {
		w := &e.rows[i]
		w.spans = int32(len(e.spans))
		line := w.r.Body
		if !e.split.split(line, w.r.At) {
			e.split.key = append(e.split.key[:0], markLine)
			e.split.spans = append(e.split.spans[:0], span{to: len(line), kind: slotLine})
		}
		e.spans = append(e.spans, e.split.spans...)
		if last < 0 || e.templates[last].text != string(e.split.key) {
			n, ok := e.found[string(e.split.key)]
			if !ok {
				n = int32(len(e.templates))
				e.templates = append(e.templates, found{text: string(e.split.key)})
				e.found[e.templates[n].text] = n
			}
			last = n
		}
		e.templates[last].rows++
		w.tmpl = last
	}
}

func (e *encoder) putStreams(d []byte) []byte {
	counts := make([]int, len(e.streams))
	for _, s := range e.of {
		counts[s]++
	}
	d = binary.AppendUvarint(d, uint64(len(e.streams)))
	for i, ls := range e.streams {
		d = binary.AppendUvarint(d, uint64(len(ls)))
		for _, l := range ls {
			d = appendString(appendString(d, l.Name), l.Value)
			e.terms(l.Value)
		}
		d = binary.AppendUvarint(d, uint64(counts[i]))
	}
	return d
}

// putTimes writes the first time of each stream, and for the others how far each is from the one before, in the largest unit that all are multiples of.
func (e *encoder) putTimes(d []byte) []byte {
	unit := int64(1e9)
	for i := range e.rows {
		for int64(e.rows[i].r.At)%unit != 0 {
			unit /= 1000
		}
	}
	d = binary.AppendUvarint(d, uint64(unit))
	var firsts []int64
	e.numbers = e.numbers[:0]
	for i := range e.rows {
		at := int64(e.rows[i].r.At) / unit
		if i == 0 || e.of[e.order[i]] != e.of[e.order[i-1]] {
			firsts = append(firsts, at)
			continue
		}
		e.numbers = append(e.numbers, int64(zigzag(at-int64(e.rows[i-1].r.At)/unit)))
	}
	d = e.putRows(d, firsts)
	return e.putRows(d, e.numbers)
}

// putRows writes numbers that each record has.
func (e *encoder) putRows(d []byte, ns []int64) []byte {
	c := &e.cols
	lo, hi := int64(0), int64(0)
	if len(ns) > 0 {
		lo, hi = slices.Min(ns), slices.Max(ns)
	}
	span := uint64(hi) - uint64(lo)
	width := bytesOf(span)
	d = binary.AppendUvarint(appendVarint(d, lo), uint64(width))
	if width == 0 {
		return d
	}
	c.dist = c.dist[:0]
	for _, n := range ns {
		c.dist = append(c.dist, uint64(n-lo))
	}
	num, b := e.pager.begin(classRows)
	d = binary.AppendUvarint(d, uint64(num))
	d = binary.AppendUvarint(d, uint64(len(b)))
	e.pager.end(classRows, appendPlanes(b, c.dist, int(width)))
	e.pager.flush(classRows) // they are asked for one by one
	return d
}

// putSeverities writes the severities as they are, or the one that all have.
func (e *encoder) putSeverities(d []byte) []byte {
	first := e.rows[0].r.Severity
	if !slices.ContainsFunc(e.rows, func(w row) bool { return w.r.Severity != first }) {
		return append(d, 1, byte(first))
	}
	num, b := e.pager.begin(classRows)
	d = append(d, 0)
	d = binary.AppendUvarint(d, uint64(num))
	for i := range e.rows {
		b = append(b, byte(e.rows[i].r.Severity))
	}
	e.pager.end(classRows, b)
	e.pager.flush(classRows)
	return d
}

// putIDs writes the IDs: as the runs of numbers that the log gives, or, if there are others, as they are.
func (e *encoder) putIDs(d []byte) []byte {
	records := e.arrived
	type run struct {
		prefix int
		first  uint64
		count  int
	}
	var prefixes []string
	var runs []run
	for i := range records {
		prefix, n, ok := cutID(records[i].ID)
		if !ok || len(runs) > len(records)/4+16 {
			return e.putPlainIDs(d)
		}
		if k := len(runs) - 1; k >= 0 && prefixes[runs[k].prefix] == prefix {
			if runs[k].first+uint64(runs[k].count) != n {
				runs = append(runs, run{runs[k].prefix, n, 1})
			} else {
				runs[k].count++
			}
			continue
		}
		at := slices.Index(prefixes[max(0, len(prefixes)-8):], prefix)
		if at >= 0 {
			at += max(0, len(prefixes)-8)
		} else {
			at = len(prefixes)
			prefixes = append(prefixes, prefix)
		}
		runs = append(runs, run{at, n, 1})
	}
	d = append(d, 0)
	d = binary.AppendUvarint(d, uint64(len(prefixes)))
	for _, p := range prefixes {
		d = appendString(d, p)
	}
	d = binary.AppendUvarint(d, uint64(len(runs)))
	for _, r := range runs {
		d = binary.AppendUvarint(d, uint64(r.prefix))
		d = binary.AppendUvarint(d, r.first)
		d = binary.AppendUvarint(d, uint64(r.count))
	}
	// In which order the streams came: for each stretch of one stream which, and how long.
	stretches := 0
	at := len(d)
	for i := 0; i < len(e.of); stretches++ {
		from := i
		for i < len(e.of) && e.of[i] == e.of[from] {
			i++
		}
		last := int32(0)
		if from > 0 {
			last = e.of[from-1]
		}
		d = appendVarint(d, int64(e.of[from]-last))
		d = binary.AppendUvarint(d, uint64(i-from))
	}
	return slices.Insert(d, at, binary.AppendUvarint(nil, uint64(stretches))...)
}

func (e *encoder) putPlainIDs(d []byte) []byte {
	d = append(d, 1)
	e.values = e.values[:0]
	for i := range e.rows {
		e.values = append(e.values, e.rows[i].r.ID)
	}
	note := e.cols.note
	e.cols.note = func(string, slotKind) {}
	c := e.cols.text(e.values, slotWord)
	e.cols.note = note
	return c.put(d, len(e.values), &e.next)
}

// cutID cuts an ID of the form …-hex or …~hex, at least five digits and no more zeros before them than that takes, at the number.
func cutID(id string) (prefix string, n uint64, ok bool) {
	i := len(id)
	for i > 0 && isHex(id[i-1]) {
		i--
	}
	digits := len(id) - i
	if i == 0 || id[i-1] != '-' && id[i-1] != '~' || digits < 5 || digits > 15 || digits > 5 && id[i] == '0' {
		return "", 0, false
	}
	for _, c := range []byte(id[i:]) {
		n = n<<4 | uint64(nibble(c))
	}
	return id[:i], n, true
}

// appendID is the reverse of cutID.
func appendID(b []byte, prefix string, n uint64) []byte {
	b = append(b, prefix...)
	digits := 5
	for n>>(4*digits) != 0 {
		digits++
	}
	for k := digits - 1; k >= 0; k-- {
		b = append(b, lowerDigits[n>>(4*k)&15])
	}
	return b
}

// putExtras writes what records have beside the body: which records have which, and the values of each.
func (e *encoder) putExtras(d []byte) []byte {
	type values struct {
		extra
		texts []string
	}
	var all []values
	index := map[extra]int{}
	schemas := map[string]int{}
	var names []string // of the schemas
	var key []byte
	e.numbers = e.numbers[:0]
	add := func(x extra, v string) {
		n, ok := index[x]
		if !ok {
			n = len(all)
			index[x] = n
			all = append(all, values{extra: x})
		}
		all[n].texts = append(all[n].texts, v)
		key = binary.AppendUvarint(key, uint64(n))
	}
	for i := range e.rows {
		r := e.rows[i].r
		key = key[:0]
		if r.TraceID != "" {
			add(extra{kind: extraTrace}, r.TraceID)
		}
		if r.SpanID != "" {
			add(extra{kind: extraSpan}, r.SpanID)
		}
		for _, a := range r.Attrs {
			add(extra{name: a.Name}, a.Value)
		}
		n, ok := schemas[string(key)]
		if !ok {
			n = len(names)
			schemas[string(key)] = n
			names = append(names, string(key))
		}
		e.numbers = append(e.numbers, int64(n))
	}
	d = binary.AppendUvarint(d, uint64(len(all)))
	for i := range all {
		d = appendString(append(d, all[i].kind), all[i].name)
		d = binary.AppendUvarint(d, uint64(len(all[i].texts)))
		c := e.cols.text(all[i].texts, slotExtra)
		d = c.put(d, len(all[i].texts), &e.next)
	}
	d = binary.AppendUvarint(d, uint64(len(names)))
	for _, n := range names {
		d = appendString(d, n)
	}
	return e.putRows(d, e.numbers)
}

// slotExtra is noted for values of attributes: they may have several words.
const slotExtra = slotLine + 1

// putTemplates writes the templates, those of most records first, with their columns, and which record has which.
func (e *encoder) putTemplates(d []byte) []byte {
	order := make([]int32, len(e.final))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(len(e.final[b].rows), len(e.final[a].rows)) })
	e.numbers = slices.Grow(e.numbers[:0], len(e.rows))[:len(e.rows)]
	d = binary.AppendUvarint(d, uint64(len(order)))
	for n, f := range order {
		t := &e.final[f]
		for _, r := range t.rows {
			e.numbers[r] = int64(n)
		}
		d = appendString(d, t.text)
		d = binary.AppendUvarint(d, uint64(len(t.rows)))
		d = e.putSlots(d, t)
	}
	return e.putRows(d, e.numbers)
}

// putSlots writes the columns of a template's slots.
func (e *encoder) putSlots(d []byte, t *final) []byte {
	ps, _ := parts(t.text)
	slot, safe := 0, true
	for _, p := range ps {
		if safe = safe && store.WildSafe(p.text); safe {
			e.terms(p.text)
		}
		if !p.slot {
			continue
		}
		var c column
		if p.kind == slotStamp {
			ns := e.cols.ints[:0]
			for _, r := range t.rows {
				ns = append(ns, e.span(r, slot).value)
			}
			e.cols.ints = ns
			c = e.cols.integers(e.cols.plan(column{}))
			for _, r := range t.rows {
				s := e.span(r, slot)
				e.noteStamp(p.layout, e.rows[r].r.Body[s.from:s.to])
			}
		} else {
			e.values = e.values[:0]
			for _, r := range t.rows {
				e.values = append(e.values, e.value(r, slot))
			}
			c = e.cols.text(e.values, p.kind)
		}
		d = c.put(d, len(t.rows), &e.next)
		slot++
	}
	if !safe { // a word may go on from a slot into the fixed text
		e.cols.num = besidePage
		for _, r := range t.rows {
			e.slotTerms(e.rows[r].r.Body)
		}
	}
	return d
}

// value is what row r has in a slot of its template.
func (e *encoder) value(r int32, slot int) string {
	w := &e.rows[r]
	f := &e.templates[w.tmpl]
	if f.from != nil {
		s := f.from[slot]
		if s.slot < 0 {
			return s.text
		}
		slot = s.slot
	} else if e.final[f.final].text == lineTemplate {
		return w.r.Body
	}
	s := &e.spans[int(w.spans)+slot]
	return w.r.Body[s.from:s.to]
}

// span is the span that row r has in a slot of its template, which is no fixed text in what was found.
func (e *encoder) span(r int32, slot int) *span {
	w := &e.rows[r]
	if f := &e.templates[w.tmpl]; f.from != nil {
		slot = f.from[slot].slot
	}
	return &e.spans[int(w.spans)+slot]
}

// The filters have the terms (store.Terms) of all that a block holds, but for those that exempt tells.

// terms adds the terms of fixed text.
func (e *encoder) terms(text string) {
	store.Terms(text, func(term []byte) { e.fixed.add(hashTerm(view(term))) })
}

// slotTerms adds the terms of what varies.
func (e *encoder) slotTerms(text string) {
	store.Terms(text, func(term []byte) {
		if !exempt(view(term)) {
			e.noteHash(hashTerm(view(term)))
		}
	})
}

func (e *encoder) noteHash(h uint64) {
	e.slots.add(slotKey(h, e.cols.num))
	if e.cols.num == ownPage {
		e.slots.add(columnKey(h, e.next.columns))
	}
}

// note adds the terms of a value.
func (e *encoder) note(value string, kind slotKind) {
	switch kind {
	case slotIPv4: // all of it is exempt
	case slotWord:
		if !exempt(value) {
			e.noteHash(hashFolded(value))
		}
	default:
		e.slotTerms(value)
	}
}

// noteStamp adds the words of a stamp that are not exempt.
func (e *encoder) noteStamp(l layout, text string) {
	if l.form == formUnix || l.form == formUnixMillis || l.form == formDashed || l.n > 6 {
		e.slotTerms(text)
	}
}

// exempt tells whether the filter of slots leaves the term, in lower case or not, out: numbers of few digits, of which each block has most, and what stamps are made of.
func exempt(term string) bool {
	n := len(term)
	if n == 0 || n > 10 {
		return false
	}
	digits := 0
	for digits < n && term[digits]-'0' <= 9 {
		digits++
	}
	switch {
	case digits == n:
		return n <= 6
	case digits == n-1:
		return term[n-1]|0x20 == 'z'
	case n == 3:
		return isMonth(term)
	case n == 5:
		return digits == 2 && term[2]|0x20 == 't' && term[3]-'0' <= 9 && term[4]-'0' <= 9
	}
	return false
}

func isMonth(term string) bool {
	for m := 0; m < len(months); m += 3 {
		if strings.EqualFold(term, months[m:m+3]) {
			return true
		}
	}
	return false
}
