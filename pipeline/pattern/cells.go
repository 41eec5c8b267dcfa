package pattern

import (
	"encoding/binary"
	"slices"

	"kemi"
)

// A cell is the records of one stream and one severity. The directory counts them, so that what is asked of streams and severities alone is answered without looking at a record.
type cell struct {
	stream int
	sev    kemi.Severity
	count  int
}

// minuteCell is the records of a minute and a severity.
type minuteCell struct {
	minute int64 // since the epoch
	sev    kemi.Severity
	count  int64
}

const minute = 60e9

// putCells writes how many records each stream has of each severity, and each minute, unless that would take more than it is worth.
func (e *encoder) putCells(d []byte) []byte {
	var counts [256]int
	flush := func() {
		n := 0
		for _, c := range counts {
			if c > 0 {
				n++
			}
		}
		d = binary.AppendUvarint(d, uint64(n))
		for s, c := range counts {
			if c > 0 {
				d = binary.AppendUvarint(append(d, byte(s)), uint64(c))
			}
		}
		clear(counts[:])
	}
	for i := range e.rows {
		if i > 0 && e.of[e.order[i]] != e.of[e.order[i-1]] {
			flush()
		}
		counts[e.rows[i].r.Severity]++
	}
	flush()

	minutes := map[minuteCell]int64{}
	for i := range e.rows {
		r := e.rows[i].r
		minutes[minuteCell{minute: floorDiv(int64(r.At), minute), sev: r.Severity}]++
		if len(minutes) > len(e.rows)/16+8 {
			return append(d, 0)
		}
	}
	all := make([]minuteCell, 0, len(minutes))
	for c, n := range minutes {
		c.count = n
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b minuteCell) int {
		if a.minute != b.minute {
			return int(max(-1, min(1, a.minute-b.minute)))
		}
		return int(a.sev) - int(b.sev)
	})
	d = binary.AppendUvarint(d, uint64(len(all)))
	edge := byte(0)
	for i := range e.rows {
		if int64(e.rows[i].r.At)%minute == 0 {
			edge = 1
		}
	}
	d = append(d, edge)
	last := int64(0)
	for _, c := range all {
		d = append(appendVarint(d, c.minute-last), byte(c.sev))
		d = binary.AppendUvarint(d, uint64(c.count))
		last = c.minute
	}
	return d
}

func (d *directory) readCells(r *byteReader) {
	from := 0
	for s, end := range d.ends {
		sum := 0
		for n := r.count(256); n > 0 && !r.bad; n-- {
			c := cell{stream: s, sev: kemi.Severity(r.byte()), count: r.count(d.rows)}
			sum += c.count
			d.cells = append(d.cells, c)
		}
		r.bad = r.bad || sum != end-from
		from = end
	}
	last := int64(0)
	n := r.count(d.rows)
	if n > 0 {
		d.edge = r.byte() == 1
	}
	for ; n > 0 && !r.bad; n-- {
		c := minuteCell{minute: last + r.varint(), sev: kemi.Severity(r.byte()), count: int64(r.count(d.rows))}
		last = c.minute
		d.minutes = append(d.minutes, c)
	}
}

// hasExtra tells whether some record has an attribute of that name.
func (d *directory) hasExtra(name string) bool {
	return slices.ContainsFunc(d.extras, func(x extraColumn) bool { return x.kind == extraAttr && x.name == name })
}

// streamField is the values that streams have of a label: which each stream has, 0 being none.
type streamField struct {
	of     []uint32
	values []string
}

// field is a stream label of all streams.
func (d *directory) field(name string) *streamField {
	d.fieldsMu.Lock()
	defer d.fieldsMu.Unlock()
	f := d.fields[name]
	if f != nil {
		return f
	}
	f = &streamField{of: make([]uint32, len(d.streams)), values: []string{""}}
	index := map[string]uint32{"": 0}
	for i, s := range d.streams {
		v := s.Get(name)
		n, ok := index[v]
		if !ok {
			n = uint32(len(f.values))
			index[v] = n
			f.values = append(f.values, v)
		}
		f.of[i] = n
	}
	if d.fields == nil || len(d.fields) >= maxFields {
		d.fields = map[string]*streamField{}
	}
	d.fields[name] = f
	return f
}

// maxFields is how many labels of streams a block keeps ready.
const maxFields = 16

// cellRows are the rows of within that lie in the cells for which is holds.
func (x *reading) cellRows(is []bool, within rowSet) (rowSet, error) {
	out := append(rowSet(nil), within...)
	from, k := 0, 0
	for s, end := range x.ends {
		some, all := false, true
		first := k
		for ; k < len(x.cells) && x.cells[k].stream == s; k++ {
			some, all = some || is[k], all && is[k]
		}
		switch {
		case all:
		case !some:
			out.removeRange(from, end)
		default:
			sev, err := x.severities()
			if err != nil {
				return nil, err
			}
			var yes [256]bool
			for i := first; i < k; i++ {
				yes[x.cells[i].sev] = is[i]
			}
			for r := from; r < end; r++ {
				if !yes[sev[r]] {
					out[r>>6] &^= 1 << (r & 63)
				}
			}
		}
		from = end
	}
	return out, nil
}

func (n andNode) cells(x *reading) ([]bool, bool) {
	var all []bool
	for _, c := range n {
		is, ok := c.cells(x)
		if !ok {
			return nil, false
		}
		if all == nil {
			all = is
			continue
		}
		for i := range all {
			all[i] = all[i] && is[i]
		}
	}
	return all, len(n) > 0
}

func (n orNode) cells(x *reading) ([]bool, bool) {
	var any []bool
	for _, c := range n {
		is, ok := c.cells(x)
		if !ok {
			return nil, false
		}
		if any == nil {
			any = is
			continue
		}
		for i := range any {
			any[i] = any[i] || is[i]
		}
	}
	return any, len(n) > 0
}

func (n notNode) cells(x *reading) ([]bool, bool) {
	is, ok := n.node.cells(x)
	for i := range is {
		is[i] = !is[i]
	}
	return is, ok
}

func (l *leaf) cells(x *reading) ([]bool, bool) {
	switch l.field {
	case "", "id", "trace_id", "span_id":
		return nil, false
	}
	if l.field != "level" && x.hasExtra(l.field) {
		return nil, false
	}
	out := make([]bool, len(x.directory.cells))
	f := x.field(l.field)
	matches := make([]bool, len(f.values))
	for i, v := range f.values {
		matches[i] = v != "" && l.match(v)
	}
	level, extra := l.field == "level", x.hasExtra(l.field)
	for i := range out {
		c := &x.directory.cells[i]
		if level && sevNames[c.sev] {
			out[i] = l.severities()[c.sev]
			continue
		}
		if level && extra && f.of[c.stream] == 0 {
			return nil, false
		}
		out[i] = matches[f.of[c.stream]]
	}
	return out, true
}

// sevNames tells which severities have a name.
var sevNames = func() (t [256]bool) {
	for s := range t {
		t[s] = kemi.Severity(s).String() != ""
	}
	return t
}()

// severities tells which severities meet a condition on the level.
func (l *leaf) severities() *[256]bool {
	l.once.Do(func() {
		for s := range l.sevs {
			if sevNames[s] {
				l.sevs[s] = l.e.Match(&kemi.LogRecord{Severity: kemi.Severity(s)})
			}
		}
	})
	return &l.sevs
}

// evaluate are the rows of within that meet a condition.
func evaluate(n node, x *reading, within rowSet) (rowSet, error) {
	if is, ok := n.cells(x); ok {
		return x.cellRows(is, within)
	}
	return n.rows(x, within)
}

// countCells counts the records of cells by fields that all records of a cell have alike; false if there are others.
func (s *Selection) countCells(fields []string, add func(values []string, n int64)) bool {
	d := s.x.directory
	of := make([]*streamField, len(fields))
	for i, f := range fields {
		switch f {
		case "", "id", "trace_id", "span_id":
			return false
		}
		if d.hasExtra(f) {
			return false
		}
		of[i] = d.field(f)
	}
	// A group is the values' numbers, or the severity's where that is the level, one after another.
	counts := map[string]int64{}
	single := make([]int64, 0)
	one := len(fields) == 1 && fields[0] != "level"
	if one {
		single = make([]int64, len(of[0].values))
	}
	var key []byte
	for i := range d.cells {
		if s.cells != nil && !s.cells[i] {
			continue
		}
		c := &d.cells[i]
		if one {
			single[of[0].of[c.stream]] += int64(c.count)
			continue
		}
		key = key[:0]
		for k, f := range fields {
			n := of[k].of[c.stream]
			if f == "level" && sevNames[c.sev] {
				n = 1<<31 | uint32(c.sev)
			}
			key = binary.LittleEndian.AppendUint32(key, n)
		}
		counts[string(key)] += int64(c.count)
	}
	values := make([]string, len(fields))
	for i, n := range single {
		if n > 0 {
			values[0] = of[0].values[i]
			add(values, n)
		}
	}
	for g, n := range counts {
		for k := range fields {
			v := binary.LittleEndian.Uint32([]byte(g[4*k:]))
			if v&(1<<31) != 0 {
				values[k] = kemi.Severity(v).String()
			} else {
				values[k] = of[k].values[v]
			}
		}
		add(values, n)
	}
	return true
}

// minuteCells adds the records of cells by minute; false if the directory does not say as much.
func (s *Selection) minuteCells(step kemi.Millis, add func(at kemi.Millis, sev kemi.Severity, n int64)) bool {
	d := s.x.directory
	if step%60e3 != 0 || len(d.minutes) == 0 {
		return false
	}
	var yes, no [256]bool
	for i := range d.cells {
		if s.cells == nil || s.cells[i] {
			yes[d.cells[i].sev] = true
		} else {
			no[d.cells[i].sev] = true
		}
	}
	for sev := range yes {
		if yes[sev] && no[sev] { // it depends on the stream
			return false
		}
	}
	for _, c := range d.minutes {
		if yes[c.sev] {
			add(kemi.Millis(floorDiv(c.minute*60e3, int64(step))*int64(step)), c.sev, c.count)
		}
	}
	return true
}

// minuteSeries is Series by nothing for cells; false if the directory does not say as much.
func (s *Selection) minuteSeries(from kemi.Nanos, step kemi.Nanos, add func(bucket int64, n int64)) bool {
	// Buckets that begin a nanosecond after a minute are the same if no record lies on one.
	begin := int64(from)
	if begin%minute == 1 && !s.x.edge {
		begin--
	}
	if step%minute != 0 || begin%minute != 0 {
		return false
	}
	return s.minuteCells(60e3, func(at kemi.Millis, _ kemi.Severity, n int64) { add(floorDiv(int64(at)*1e6-begin, int64(step)), n) })
}
