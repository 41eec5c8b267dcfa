package pattern

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"kemi"
)

// directory is what a block says of itself. It does not change.
type directory struct {
	rows      int
	streams   []kemi.Labels
	ends      []int // row behind the last of each stream
	unit      int64 // of times
	firsts    rowColumn
	deltas    rowColumn
	severity  int64 // the one that all have, or -1
	sevPage   uint32
	cells     []cell
	minutes   []minuteCell
	edge      bool // a record lies on a minute
	ids       ids
	extras    []extraColumn
	schemas   [][]int // which extras a record of it has
	schema    rowColumn
	templates []blockTemplate
	template  rowColumn
	pages     []page

	fieldsMu sync.Mutex
	fields   map[string]*streamField
}

// blockTemplate is a template of the block.
type blockTemplate struct {
	*Template
	rows    int
	columns []column
}

// extraColumn is the values of those records that have it.
type extraColumn struct {
	extra
	rows   int
	column column
}

// ids are the IDs: plain ones, or runs of numbers.
type ids struct {
	plain    *column
	prefixes []string
	runs     []idRun
	order    []stretch
}

type idRun struct {
	prefix, count int
	first         uint64
}

// stretch is records of one stream that came one after another.
type stretch struct{ stream, count int }

// rowColumn is numbers that each record has.
type rowColumn struct {
	base     int64
	width    uint8
	page, at uint32
}

func readRows(r *byteReader) (c rowColumn) {
	c.base = r.varint()
	c.width = r.byte()
	r.bad = r.bad || c.width > 8
	if c.width > 0 {
		c.page, c.at = uint32(r.uvarint()), uint32(r.uvarint())
	}
	return c
}

// Block is an open block. It may be used concurrently.
type Block struct {
	Meta
	data      []byte
	templates *Templates
	filters   filters
	open      func() (*directory, error)
	loaded    atomic.Bool
}

// Open opens what Encode made; data must stay as it is, and readable, as long as the block is used (it may be a mapped file). What is not a block, or is
// damaged, is an error wrapping kemi.ErrInvalid, here or when its parts are read.
func Open(data []byte, m Meta, t *Templates) (*Block, error) {
	if len(data) < preambleSize || string(data[:4]) != magic {
		return nil, damaged("no block")
	}
	if data[4] != version {
		return nil, kemi.Errorf(kemi.ErrInvalid, "log block: version %d: only %d is known", data[4], version)
	}
	fixedAt, slotsAt, dirAt := word(data, 0), word(data, 1), word(data, 2)
	if fixedAt > slotsAt || slotsAt > dirAt || uint64(dirAt) > uint64(len(data)) || word(data, 4) > maxPages {
		return nil, damaged("its parts lie behind its end")
	}
	fixed, err := openFilter(data[fixedAt:slotsAt])
	if err != nil {
		return nil, err
	}
	slots, err := openFilter(data[slotsAt:dirAt])
	if err != nil {
		return nil, err
	}
	b := &Block{Meta: m, data: data, templates: t, filters: filters{fixed: fixed, slots: slots, pages: int(word(data, 4))}}
	b.open = sync.OnceValues(b.readDirectory)
	return b, nil
}

// word is one of the numbers of the preamble.
func word(data []byte, n int) uint32 { return binary.LittleEndian.Uint32(data[8+4*n:]) }

// MemoryBytes is about how much memory the open block holds now, beside data.
func (b *Block) MemoryBytes() int64 {
	if !b.loaded.Load() {
		return 512
	}
	return 512 + 4*int64(word(b.data, 3))
}

func (b *Block) readDirectory() (d *directory, err error) {
	defer notSound(&err)
	b.loaded.Store(true)
	size := word(b.data, 3)
	raw, err := decoder().DecodeAll(b.data[word(b.data, 2):], nil)
	if err != nil || len(raw) != int(size) {
		return nil, damaged("its directory cannot be unpacked")
	}
	r := &byteReader{b: raw}
	d = &directory{rows: r.count(MaxRecords)}
	if d.rows != b.Meta.Records {
		return nil, damaged("it has %d records and should have %d", d.rows, b.Meta.Records)
	}
	var next places
	d.readStreams(r)
	d.unit = int64(r.uvarint())
	d.firsts, d.deltas = readRows(r), readRows(r)
	if d.severity = -1; r.byte() == 1 {
		d.severity = int64(r.byte())
	} else {
		d.sevPage = uint32(r.uvarint())
	}
	d.readCells(r)
	d.readIDs(r, &next)
	d.readExtras(r, &next)
	if err := d.readTemplates(r, &next, b.templates); err != nil {
		return nil, err
	}
	for n := r.count(len(raw)); n > 0 && !r.bad; n-- {
		d.pages = append(d.pages, page{uint32(r.uvarint()), uint32(r.uvarint()), uint32(r.uvarint())})
	}
	if r.bad || d.unit < 1 || d.unit > 1e9 {
		return nil, damaged("its directory makes no sense")
	}
	return d, nil
}

func (d *directory) readStreams(r *byteReader) {
	end := 0
	for n := r.count(d.rows); n > 0 && !r.bad; n-- {
		ls := make(kemi.Labels, r.count(len(r.b)))
		for i := range ls {
			ls[i] = kemi.Label{Name: r.string(), Value: r.string()}
		}
		if len(ls) == 0 {
			ls = nil
		}
		end += r.count(d.rows)
		d.streams, d.ends = append(d.streams, ls), append(d.ends, end)
	}
	r.bad = r.bad || end != d.rows
}

func (d *directory) readIDs(r *byteReader, next *places) {
	if r.byte() == 1 {
		c := readColumn(r, d.rows, next)
		d.ids.plain = &c
		return
	}
	for n := r.count(d.rows); n > 0 && !r.bad; n-- {
		d.ids.prefixes = append(d.ids.prefixes, r.string())
	}
	sum := 0
	for n := r.count(d.rows); n > 0 && !r.bad; n-- {
		run := idRun{prefix: r.count(len(d.ids.prefixes) - 1), first: r.uvarint(), count: r.count(d.rows)}
		sum += run.count
		d.ids.runs = append(d.ids.runs, run)
	}
	stream, of := int64(0), 0
	for n := r.count(d.rows); n > 0 && !r.bad; n-- {
		stream += r.varint()
		s := stretch{stream: int(stream), count: r.count(d.rows)}
		r.bad = r.bad || stream < 0 || stream >= int64(len(d.streams))
		of += s.count
		d.ids.order = append(d.ids.order, s)
	}
	r.bad = r.bad || sum != d.rows || of != d.rows
}

func (d *directory) readExtras(r *byteReader, next *places) {
	for n := r.count(len(r.b)); n > 0 && !r.bad; n-- {
		x := extraColumn{extra: extra{kind: r.byte(), name: r.string()}, rows: r.count(d.rows)}
		x.column = readColumn(r, x.rows, next)
		d.extras = append(d.extras, x)
	}
	for n := r.count(d.rows); n > 0 && !r.bad; n-- {
		in := &byteReader{b: []byte(r.string())}
		var s []int
		for len(in.b) > 0 && !in.bad {
			s = append(s, in.count(len(d.extras)-1))
		}
		r.bad = r.bad || in.bad
		d.schemas = append(d.schemas, s)
	}
	d.schema = readRows(r)
}

func (d *directory) readTemplates(r *byteReader, next *places, all *Templates) error {
	sum := 0
	for n := r.count(d.rows); n > 0 && !r.bad; n-- {
		text := r.string()
		if r.bad {
			break
		}
		t, err := all.get(text)
		if err != nil {
			return err
		}
		bt := blockTemplate{Template: t, rows: r.count(d.rows), columns: make([]column, t.slots)}
		for i := range bt.columns {
			bt.columns[i] = readColumn(r, bt.rows, next)
		}
		sum += bt.rows
		d.templates = append(d.templates, bt)
	}
	r.bad = r.bad || sum != d.rows
	d.template = readRows(r)
	return nil
}

// reading is one use of a block: what it has unpacked so far. It is for one goroutine.
type reading struct {
	*directory
	b          *Block
	pages      map[uint32][]byte
	present    map[uint64]*presence
	buffers    []*[]byte
	numbersOut []*[]uint32
	atBuffer   *[]kemi.Nanos

	at        []kemi.Nanos
	tmpl      []uint32
	sev       []kemi.Severity
	someRows  map[int][]uint32
	byTmpl    []uint32 // rows, those of one template one after another
	starts    []int    // where those of each template begin
	schemaOf  []uint32
	extraRows [][]uint32
	cols      map[*column]*columnData
	idOf      []string
}

func (b *Block) read() (*reading, error) {
	d, err := b.open()
	if err != nil {
		return nil, err
	}
	return &reading{directory: d, b: b, pages: map[uint32][]byte{}, cols: map[*column]*columnData{}}, nil
}

// pageBuffers are unpacked pages that nobody reads any more.
var pageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// close gives the unpacked pages back: nothing that was read may be used any more.
func (x *reading) close() {
	for _, b := range x.buffers {
		pageBuffers.Put(b)
	}
	for _, b := range x.numbersOut {
		numberBuffers.Put(b)
	}
	if x.atBuffer != nil {
		timeBuffers.Put(x.atBuffer)
	}
	*x = reading{directory: x.directory, b: x.b}
}

// numberBuffers and timeBuffers are what readings have used for numbers and times of rows.
var (
	numberBuffers = sync.Pool{New: func() any { return new([]uint32) }}
	timeBuffers   = sync.Pool{New: func() any { return new([]kemi.Nanos) }}
)

// uint32s are n numbers, of any value, that live as long as the reading.
func (x *reading) uint32s(n int) []uint32 {
	b := numberBuffers.Get().(*[]uint32)
	*b = slices.Grow((*b)[:0], n)[:n]
	x.numbersOut = append(x.numbersOut, b)
	return *b
}

func (x *reading) page(num uint32) ([]byte, error) {
	if p, ok := x.pages[num]; ok {
		return p, nil
	}
	if uint64(num) >= uint64(len(x.directory.pages)) {
		return nil, damaged("there is no page %d", num)
	}
	buf := pageBuffers.Get().(*[]byte)
	p, err := unpack(x.b.data, x.directory.pages[num], *buf)
	if err != nil {
		return nil, err
	}
	if pg := x.directory.pages[num]; pg.packed != pg.raw {
		*buf = p
	}
	x.buffers = append(x.buffers, buf)
	x.pages[num] = p
	return p, nil
}

func (x *reading) numbers(c rowColumn, n int) ([]uint64, error) {
	out := make([]uint64, n)
	if c.width > 0 {
		p, err := x.page(c.page)
		if err != nil {
			return nil, err
		}
		if uint64(c.at)+uint64(n)*uint64(c.width) > uint64(len(p)) {
			return nil, damaged("numbers of records end behind their page")
		}
		readPlanes(out, p[c.at:], int(c.width))
	}
	if c.base != 0 {
		for i := range out {
			out[i] += uint64(c.base)
		}
	}
	return out, nil
}

// plane gives the bytes of numbers of records: width times n.
func (x *reading) plane(c rowColumn, n int) ([]byte, error) {
	p, err := x.page(c.page)
	if err != nil {
		return nil, err
	}
	if uint64(c.at)+uint64(n)*uint64(c.width) > uint64(len(p)) {
		return nil, damaged("numbers of records end behind their page")
	}
	return p[c.at:][:n*int(c.width)], nil
}

// times are the times of all rows.
func (x *reading) times() ([]kemi.Nanos, error) {
	if x.at != nil {
		return x.at, nil
	}
	firsts, err := x.numbers(x.firsts, len(x.streams))
	if err != nil {
		return nil, err
	}
	n := x.directory.rows - len(x.streams)
	c := x.deltas
	var b []byte
	if c.width > 0 {
		if b, err = x.plane(c, n); err != nil {
			return nil, err
		}
	}
	buf := timeBuffers.Get().(*[]kemi.Nanos)
	x.atBuffer = buf
	*buf = slices.Grow((*buf)[:0], x.directory.rows)[:x.directory.rows]
	out := *buf
	row, k := 0, 0
	base, unit := uint64(c.base), x.unit
	for s, end := range x.ends {
		if row == end {
			return nil, damaged("a stream has no record")
		}
		at := int64(firsts[s])
		out[row] = kemi.Nanos(at * unit)
		row++
		m := end - row
		part := out[row:end]
		switch c.width {
		case 1:
			for i, lo := range b[k : k+m] {
				at += unzigzag(base + uint64(lo))
				part[i] = kemi.Nanos(at * unit)
			}
		case 2:
			hi := b[n+k : n+k+m]
			for i, lo := range b[k : k+m] {
				at += unzigzag(base + (uint64(lo) | uint64(hi[i])<<8))
				part[i] = kemi.Nanos(at * unit)
			}
		case 3:
			mid, hi := b[n+k:n+k+m], b[2*n+k:2*n+k+m]
			for i, lo := range b[k : k+m] {
				at += unzigzag(base + (uint64(lo) | uint64(mid[i])<<8 | uint64(hi[i])<<16))
				part[i] = kemi.Nanos(at * unit)
			}
		default:
			for i := range part {
				z := base
				for w := range int(c.width) {
					z += uint64(b[w*n+k+i]) << (8 * w)
				}
				at += unzigzag(z)
				part[i] = kemi.Nanos(at * unit)
			}
		}
		row, k = end, k+m
	}
	x.at = out
	return out, nil
}

func (x *reading) severities() ([]kemi.Severity, error) {
	if x.sev != nil {
		return x.sev, nil
	}
	if x.severity >= 0 {
		x.sev = slices.Repeat([]kemi.Severity{kemi.Severity(x.severity)}, x.directory.rows)
		return x.sev, nil
	}
	p, err := x.page(x.sevPage)
	if err != nil {
		return nil, err
	}
	if len(p) != x.directory.rows {
		return nil, damaged("%d severities of %d records", len(p), x.directory.rows)
	}
	x.sev = unsafe.Slice((*kemi.Severity)(unsafe.SliceData(p)), len(p))
	return x.sev, nil
}

// templateOf is the number of the template of each row.
func (x *reading) templateOf() ([]uint32, error) {
	if x.tmpl != nil {
		return x.tmpl, nil
	}
	c, n, limit := x.template, x.directory.rows, uint32(len(x.templates))
	out := x.uint32s(n)
	switch c.width {
	case 0:
		clear(out)
	case 1, 2:
		b, err := x.plane(c, n)
		if err != nil {
			return nil, err
		}
		for i, v := range b[:n] {
			out[i] = uint32(v)
		}
		if c.width == 2 {
			for i, v := range b[n : 2*n] {
				out[i] |= uint32(v) << 8
			}
		}
	default:
		ns, err := x.numbers(rowColumn{width: c.width, page: c.page, at: c.at}, n)
		if err != nil {
			return nil, err
		}
		for i, v := range ns {
			out[i] = uint32(v)
		}
	}
	top := uint32(0)
	for i := range out {
		out[i] += uint32(c.base)
		top = max(top, out[i])
	}
	if top >= limit {
		return nil, damaged("a record is of template %d of %d", top, limit)
	}
	x.tmpl = out
	return out, nil
}

func small(ns []uint64, limit int) ([]uint32, error) {
	out := make([]uint32, len(ns))
	for i, n := range ns {
		if n >= uint64(limit) {
			return nil, damaged("a record is of kind %d of %d", n, limit)
		}
		out[i] = uint32(n)
	}
	return out, nil
}

// fewTemplatesAsked is of how many templates the rows are looked for one by one, before all are sorted by template.
const fewTemplatesAsked = 6

// rowsOf are the rows of a template, ascending.
func (x *reading) rowsOf(t int) ([]uint32, error) {
	if rows, ok := x.someRows[t]; ok {
		return rows, nil
	}
	of, err := x.templateOf()
	if err != nil {
		return nil, err
	}
	if x.byTmpl == nil && len(x.someRows) < fewTemplatesAsked {
		rows := make([]uint32, 0, x.templates[t].rows)
		for r, n := range of {
			if n == uint32(t) {
				rows = append(rows, uint32(r))
			}
		}
		if len(rows) != x.templates[t].rows {
			return nil, damaged("template %d has %d records and should have %d", t, len(rows), x.templates[t].rows)
		}
		if x.someRows == nil {
			x.someRows = map[int][]uint32{}
		}
		x.someRows[t] = rows
		return rows, nil
	}
	if x.byTmpl == nil {
		x.starts = make([]int, len(x.templates)+1)
		for i := range x.templates {
			x.starts[i+1] = x.starts[i] + x.templates[i].rows
		}
		next := slices.Clone(x.starts)
		byTmpl := x.uint32s(x.directory.rows)
		for r, n := range of {
			if next[n] >= x.starts[n+1] {
				return nil, damaged("template %d has more records than it says", n)
			}
			byTmpl[next[n]] = uint32(r)
			next[n]++
		}
		x.byTmpl = byTmpl
	}
	return x.byTmpl[x.starts[t]:x.starts[t+1]], nil
}

// schemas are the number of the schema of each row.
func (x *reading) schemaOfRows() ([]uint32, error) {
	if x.schemaOf != nil {
		return x.schemaOf, nil
	}
	ns, err := x.numbers(x.schema, x.rows)
	if err != nil {
		return nil, err
	}
	x.schemaOf, err = small(ns, len(x.directory.schemas))
	return x.schemaOf, err
}

// rowsWith are the rows that have the extra, ascending.
func (x *reading) rowsWith(n int) ([]uint32, error) {
	if x.extraRows == nil {
		x.extraRows = make([][]uint32, len(x.extras))
	}
	if x.extraRows[n] != nil {
		return x.extraRows[n], nil
	}
	of, err := x.schemaOfRows()
	if err != nil {
		return nil, err
	}
	has := make([]bool, len(x.directory.schemas))
	for i, s := range x.directory.schemas {
		has[i] = slices.Contains(s, n)
	}
	rows := make([]uint32, 0, x.extras[n].rows)
	for r, s := range of {
		if has[s] {
			rows = append(rows, uint32(r))
		}
	}
	if len(rows) != x.extras[n].rows {
		return nil, damaged("%d records have %q and should be %d", len(rows), x.extras[n].name, x.extras[n].rows)
	}
	x.extraRows[n] = rows
	return rows, nil
}

// column is a column made ready to be read.
func (x *reading) column(c *column, n int) (*columnData, error) {
	if d, ok := x.cols[c]; ok {
		return d, nil
	}
	d, err := c.read(n, x.page)
	if err != nil {
		return nil, err
	}
	x.cols[c] = &d
	return &d, nil
}

// slot is the column of a template's slot.
func (x *reading) slot(t, slot int) (*columnData, error) {
	return x.column(&x.templates[t].columns[slot], x.templates[t].rows)
}

// allIDs are the IDs of all rows.
func (x *reading) allIDs() ([]string, error) {
	if x.idOf != nil {
		return x.idOf, nil
	}
	out := make([]string, x.directory.rows)
	err := x.eachID(nil, func(row int, id []byte) { out[row] = string(id) })
	if err == nil {
		x.idOf = out
	}
	return out, err
}

// idsOf are the IDs of rows, which ascend.
func (x *reading) idsOf(rows []int) ([]string, error) {
	want := newRowSet(x.directory.rows)
	for _, r := range rows {
		want.add(uint32(r))
	}
	of := make(map[int]string, len(rows))
	if err := x.eachID(want, func(row int, id []byte) { of[row] = string(id) }); err != nil {
		return nil, err
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = of[r]
	}
	return out, nil
}

// eachID calls f with the IDs of the rows of a set, nil being all.
func (x *reading) eachID(want rowSet, f func(row int, id []byte)) error {
	var buf []byte
	if c := x.ids.plain; c != nil {
		d, err := x.column(c, x.directory.rows)
		if err != nil {
			return err
		}
		for i := range x.directory.rows {
			if want == nil || want.has(uint32(i)) {
				buf = d.append(buf[:0], i)
				f(i, buf)
			}
		}
		return nil
	}
	next := make([]int, len(x.streams)) // the row of each stream that came next
	for s := range next {
		if s > 0 {
			next[s] = x.ends[s-1]
		}
	}
	run, used := 0, 0
	for _, s := range x.ids.order {
		first := next[s.stream]
		if next[s.stream] += s.count; next[s.stream] > x.ends[s.stream] {
			return damaged("stream %d has more IDs than records", s.stream)
		}
		wanted := want == nil || want.lenIn(first, first+s.count) > 0
		for row, left := first, s.count; left > 0; {
			for used == x.ids.runs[run].count {
				run, used = run+1, 0
			}
			r := &x.ids.runs[run]
			n := min(left, r.count-used)
			if wanted {
				for k := range n {
					if want == nil || want.has(uint32(row+k)) {
						buf = appendID(buf[:0], x.ids.prefixes[r.prefix], r.first+uint64(used+k))
						f(row+k, buf)
					}
				}
			}
			used, row, left = used+n, row+n, left-n
		}
	}
	return nil
}

// IDs are the IDs of all records, by row.
func (b *Block) IDs() (ids []string, err error) {
	defer notSound(&err)
	x, err := b.read()
	if err != nil {
		return nil, err
	}
	defer x.close()
	return x.allIDs()
}
