package pattern

import (
	"encoding/binary"
	"slices"

	"kemi"
	"kemi/pipeline/store"
)

// Selection is the records of a block that a query selects. Rows are the numbers of records in the block, in an order of the block's own. It is for one goroutine, and
// has to be closed.
type Selection struct {
	b     *Block
	x     *reading // nil until it is needed
	count int
	tmpls []bool // if rows is nil: the templates whose records are selected,
	extra rowSet // and records of others
	cells []bool // if that is nil, too: the cells whose records are selected; nil: all records
	rows  rowSet
}

// Select finds the records of b that q selects: exactly those for which the condition's Match is true and whose time lies in the range.
func (q *Query) Select(b *Block) (*Selection, error) {
	s := &Selection{b: b}
	if err := q.selectIn(b, s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (q *Query) selectIn(b *Block, s *Selection) (err error) {
	defer notSound(&err)
	if b.To < q.r.From || b.From >= q.r.To {
		s.rows = rowSet{}
		return nil
	}
	inside := b.From >= q.r.From && b.To < q.r.To
	if q.root == nil && inside {
		s.count = b.Meta.Records
		return nil
	}
	if q.root != nil && !q.root.possible(&b.filters) {
		s.rows = rowSet{}
		return nil
	}
	if s.x, err = b.read(); err != nil {
		return err
	}
	if inside {
		if is, ok := q.root.cells(s.x); ok {
			s.cells = is
			for i, yes := range is {
				if yes {
					s.count += s.x.directory.cells[i].count
				}
			}
			return nil
		}
		is, ok := q.root.judge(s.x)
		if l, one := q.root.(*leaf); !ok && one && l.field == "" {
			if is, s.extra, err = l.byTemplates(s.x, nil); err != nil {
				return err
			}
			ok = true
		}
		if ok {
			s.tmpls = is
			if s.extra != nil {
				s.count = s.extra.len()
			}
			for t, yes := range is {
				if yes {
					s.count += s.x.templates[t].rows
				}
			}
			return nil
		}
	}
	s.rows = allRows(s.x.directory.rows)
	if !inside {
		if err := s.x.inRange(q.r, s.rows); err != nil {
			return err
		}
	}
	if q.root != nil {
		if s.rows, err = evaluate(q.root, s.x, s.rows); err != nil {
			return err
		}
	}
	s.count = s.rows.len()
	return nil
}

// inRange takes the rows out of the set that are not in the range.
func (x *reading) inRange(r store.NanoRange, set rowSet) error {
	at, err := x.times()
	if err != nil {
		return err
	}
	for i, t := range at {
		if t < r.From || t >= r.To {
			set[i>>6] &^= 1 << (i & 63)
		}
	}
	return nil
}

// Close gives back what the selection has unpacked. What Records gave stays valid.
func (s *Selection) Close() {
	if s.x != nil {
		s.x.close()
		s.x = nil
	}
}

// Len is how many records are selected.
func (s *Selection) Len() int { return s.count }

// set are the rows as a set.
func (s *Selection) set() (rowSet, error) {
	if s.rows != nil {
		return s.rows, nil
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	switch {
	case s.tmpls == nil:
		rows := allRows(s.x.directory.rows)
		if s.cells != nil {
			var err error
			if rows, err = s.x.cellRows(s.cells, rows); err != nil {
				return nil, err
			}
		}
		s.rows = rows
	default:
		rows := newRowSet(s.x.directory.rows)
		if s.extra != nil {
			rows.or(s.extra)
		}
		if err := s.x.addTemplates(s.tmpls, allRows(s.x.directory.rows), rows); err != nil {
			return nil, err
		}
		s.rows = rows
	}
	return s.rows, nil
}

func (s *Selection) open() (err error) {
	if s.x == nil {
		s.x, err = s.b.read()
	}
	return err
}

// Times calls f with each selected row, ascending, and its time until f returns false.
func (s *Selection) Times(f func(row int, at kemi.Nanos) bool) (err error) {
	defer notSound(&err)
	if s.count == 0 {
		return nil
	}
	rows, err := s.set()
	if err != nil {
		return err
	}
	at, err := s.x.times()
	if err != nil {
		return err
	}
	rows.each(func(r uint32) bool { return f(int(r), at[r]) })
	return nil
}

// Records is Block.Records, with what the selection has unpacked already.
func (s *Selection) Records(rows []int, f func(row int, r *kemi.LogRecord) bool) (err error) {
	defer notSound(&err)
	if err := s.open(); err != nil {
		return err
	}
	return s.x.records(rows, f)
}

// Histogram adds the selected records to counts by the start of their step (a multiple of step since the epoch) and their severity.
func (s *Selection) Histogram(step kemi.Millis, add func(at kemi.Millis, sev kemi.Severity, n int64)) (err error) {
	defer notSound(&err)
	if s.count == 0 {
		return nil
	}
	if err := s.open(); err != nil {
		return err
	}
	if s.rows == nil && s.tmpls == nil && s.minuteCells(step, add) {
		return nil
	}
	rows, err := s.set()
	if err != nil {
		return err
	}
	at, err := s.x.times()
	if err != nil {
		return err
	}
	sev, err := s.x.severities()
	if err != nil {
		return err
	}
	size := int64(step) * 1e6
	first := floorDiv(int64(s.b.From), size)
	n := floorDiv(int64(s.b.To), size) - first + 1
	const severities = 32
	if n > 1<<12 { // longer than any answer
		rows.each(func(r uint32) bool {
			add(kemi.Millis(floorDiv(int64(at[r]), size)*int64(step)), sev[r], 1)
			return true
		})
		return nil
	}
	counts := make([]int64, n*severities)
	cut, lo, hi := int64(0), int64(0), int64(0) // the step of the row before
	rows.each(func(r uint32) bool {
		if t := int64(at[r]); t < lo || t >= hi {
			cut = floorDiv(t, size)
			lo, hi = cut*size, (cut+1)*size
		}
		counts[(cut-first)*severities+int64(min(sev[r], severities-1))]++
		return true
	})
	for i, c := range counts {
		if c > 0 {
			add(kemi.Millis((first+int64(i)/severities)*int64(step)), kemi.Severity(i%severities), c)
		}
	}
	return nil
}

// CountBy counts the selected records by the values of fields (see store.FieldOf), "" where a record has none. Values are valid until add returns. A
// combination may come several times.
func (s *Selection) CountBy(fields []string, add func(values []string, n int64)) (err error) {
	defer notSound(&err)
	switch {
	case s.count == 0:
		return nil
	case len(fields) == 0:
		add(nil, int64(s.count))
		return nil
	}
	if err := s.open(); err != nil {
		return err
	}
	if s.rows == nil && s.tmpls == nil && s.countCells(fields, add) {
		return nil
	}
	rows, err := s.set()
	if err != nil {
		return err
	}
	values := make([]string, len(fields))
	if len(fields) == 1 {
		if by, ok := s.x.byStream(fields[0]); ok {
			from := 0
			for i, end := range s.x.ends {
				if n := rows.lenIn(from, end); n > 0 {
					values[0] = by[i]
					add(values, int64(n))
				}
				from = end
			}
			return nil
		}
	}
	all := make([]fieldValues, len(fields))
	for i, f := range fields {
		if all[i], err = s.x.valuesOf(f, rows); err != nil {
			return err
		}
	}
	counts := map[string]int64{}
	var key []byte
	rows.each(func(r uint32) bool {
		key = key[:0]
		for i := range all {
			key = binary.LittleEndian.AppendUint32(key, all[i].code[r])
		}
		counts[string(key)]++
		return true
	})
	for k, n := range counts {
		for i := range all {
			values[i] = all[i].texts[binary.LittleEndian.Uint32([]byte(k[4*i:]))]
		}
		add(values, n)
	}
	return nil
}

// Series counts the selected records, which lie in n buckets of step from from on, by the values of fields and by bucket. Values are valid until add returns. A
// combination may come several times.
func (s *Selection) Series(fields []string, from, step kemi.Nanos, n int, add func(values []string, bucket int, n int64)) (err error) {
	defer notSound(&err)
	if s.count == 0 {
		return nil
	}
	if err := s.open(); err != nil {
		return err
	}
	if len(fields) == 0 && s.rows == nil && s.tmpls == nil && s.minuteSeries(from, step, func(b, n int64) { add(nil, int(b), n) }) {
		return nil
	}
	rows, err := s.set()
	if err != nil {
		return err
	}
	at, err := s.x.times()
	if err != nil {
		return err
	}
	values := make([]string, len(fields))
	all := make([]fieldValues, len(fields))
	for i, f := range fields {
		if all[i], err = s.x.valuesOf(f, rows); err != nil {
			return err
		}
	}
	counts := map[string][]int64{}
	var key []byte
	var last []int64
	lo, hi, b := int64(0), int64(0), 0 // the bucket of the row before
	rows.each(func(r uint32) bool {
		if t := int64(at[r]); t < lo || t >= hi {
			b = int(floorDiv(t-int64(from), int64(step)))
			lo = int64(from) + int64(b)*int64(step)
			hi = lo + int64(step)
		}
		k := len(key)
		for i := range all {
			key = binary.LittleEndian.AppendUint32(key, all[i].code[r])
		}
		if last == nil || string(key[:k]) != string(key[k:]) {
			if last = counts[string(key[k:])]; last == nil {
				last = make([]int64, n)
				counts[string(key[k:])] = last
			}
		}
		key = append(key[:0], key[k:]...)
		last[b]++
		return true
	})
	for k, c := range counts {
		for i := range all {
			values[i] = all[i].texts[binary.LittleEndian.Uint32([]byte(k[4*i:]))]
		}
		for b, n := range c {
			if n > 0 {
				add(values, b, n)
			}
		}
	}
	return nil
}

// byStream are the values of a field by stream, if each stream has one, so that nothing else can be asked.
func (x *reading) byStream(field string) ([]string, bool) {
	switch field {
	case "", "id", "trace_id", "span_id", "level":
		return nil, false
	}
	out := make([]string, len(x.streams))
	for i, s := range x.streams {
		if out[i] = s.Get(field); out[i] == "" {
			return nil, false
		}
	}
	return out, true
}

// fieldValues are the values of a field: which each row has.
type fieldValues struct {
	code  []uint32
	texts []string
	index map[string]uint32
}

func (v *fieldValues) of(text string) uint32 {
	n, ok := v.index[text]
	if !ok {
		n = uint32(len(v.texts))
		v.texts = append(v.texts, text)
		v.index[text] = n
	}
	return n
}

// valuesOf are the values of a field, in the order of store.FieldOf; 0 is none.
func (x *reading) valuesOf(field string, rows rowSet) (v fieldValues, err error) {
	v = fieldValues{code: make([]uint32, x.directory.rows), index: map[string]uint32{}}
	v.of("")
	set := func(r uint32, text string) {
		if v.code[r] == 0 {
			v.code[r] = v.of(text)
		}
	}
	switch field {
	case "":
		var list []int
		rows.each(func(r uint32) bool { list = append(list, int(r)); return true })
		return v, x.records(list, func(r int, rec *kemi.LogRecord) bool { set(uint32(r), rec.Body); return true })
	case "id":
		ids, err := x.allIDs()
		if err != nil {
			return v, err
		}
		rows.each(func(r uint32) bool { set(r, ids[r]); return true })
	case "trace_id":
		err = x.extraValues(extra{kind: extraTrace}, rows, set)
	case "span_id":
		err = x.extraValues(extra{kind: extraSpan}, rows, set)
	case "level":
		sev, err := x.severities()
		if err != nil {
			return v, err
		}
		rows.each(func(r uint32) bool {
			if name := sev[r].String(); name != "" {
				set(r, name)
			}
			return true
		})
	}
	if err != nil {
		return v, err
	}
	from := 0
	for s, end := range x.ends {
		if text := x.streams[s].Get(field); text != "" {
			rows.eachIn(from, end, func(r uint32) { set(r, text) })
		}
		from = end
	}
	return v, x.extraValues(extra{name: field}, rows, set)
}

func (x *reading) extraValues(e extra, rows rowSet, set func(r uint32, text string)) error {
	for n := range x.extras {
		if x.extras[n].extra != e {
			continue
		}
		with, err := x.rowsWith(n)
		if err != nil {
			return err
		}
		d, err := x.column(&x.extras[n].column, x.extras[n].rows)
		if err != nil {
			return err
		}
		for i, r := range with {
			if rows.has(r) {
				set(r, string(d.append(nil, i)))
			}
		}
		break
	}
	return nil
}

// Fields tells the names of the fields (level, stream labels, attributes) that selected records have, sorted.
func (s *Selection) Fields() (names []string, err error) {
	defer notSound(&err)
	if s.count == 0 {
		return nil, nil
	}
	rows, err := s.set()
	if err != nil {
		return nil, err
	}
	x := s.x
	seen := map[string]bool{}
	sev, err := x.severities()
	if err != nil {
		return nil, err
	}
	schema, err := x.schemaOfRows()
	if err != nil {
		return nil, err
	}
	schemas := make([]bool, len(x.directory.schemas))
	rows.each(func(r uint32) bool {
		if !seen["level"] && sev[r].String() != "" {
			seen["level"] = true
		}
		schemas[schema[r]] = true
		return true
	})
	from := 0
	for i, end := range x.ends {
		if rows.lenIn(from, end) > 0 {
			for _, l := range x.streams[i] {
				seen[l.Name] = true
			}
		}
		from = end
	}
	for i, is := range schemas {
		if !is {
			continue
		}
		for _, n := range x.directory.schemas[i] {
			if x.extras[n].kind == extraAttr {
				seen[x.extras[n].name] = true
			}
		}
	}
	out := make([]string, 0, len(seen))
	for n := range seen {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}
