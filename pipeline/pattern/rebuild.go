package pattern

import (
	"sync"

	"kemi"
)

// textOf puts the line of a row together; ord is which of its template's rows it is.
func (x *reading) textOf(buf []byte, t int, ord int, row uint32) ([]byte, error) {
	bt := &x.templates[t]
	slot := 0
	for i := range bt.parts {
		p := &bt.parts[i]
		buf = append(buf, p.text...)
		if !p.slot {
			continue
		}
		d, err := x.slot(t, slot)
		if err != nil {
			return nil, err
		}
		if p.kind == slotStamp {
			at, err := x.times()
			if err != nil {
				return nil, err
			}
			buf = p.layout.append(buf, at[row], d.number(ord))
		} else {
			buf = d.append(buf, ord)
		}
		slot++
	}
	return buf, nil
}

// ordinals are, for each of rows, which ascend, which row of its template it is.
func (x *reading) ordinals(rows []int) ([]uint32, error) {
	of, err := x.templateOf()
	if err != nil {
		return nil, err
	}
	seen := make([]uint32, len(x.templates))
	out := make([]uint32, 0, len(rows))
	k := 0
	for r, t := range of {
		if k == len(rows) {
			break
		}
		if r == rows[k] {
			out = append(out, seen[t])
			k++
		}
		seen[t]++
	}
	for t, n := range seen {
		if int(n) > x.templates[t].rows {
			return nil, damaged("template %d has more records than it says", t)
		}
	}
	if k < len(rows) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "log block: row %d of %d", rows[k], x.rows)
	}
	return out, nil
}

// extrasOf sets what a record has beside the body; ords are, by extra, which of the rows that have it this is.
func (x *reading) extrasOf(r *kemi.LogRecord, schema []int, ords []uint32, slab *kemi.Labels) error {
	from := len(*slab)
	for _, n := range schema {
		d, err := x.column(&x.extras[n].column, x.extras[n].rows)
		if err != nil {
			return err
		}
		if int(ords[n]) >= x.extras[n].rows {
			return damaged("more records have %q than it says", x.extras[n].name)
		}
		v := string(d.append(nil, int(ords[n])))
		switch x.extras[n].kind {
		case extraTrace:
			r.TraceID = v
		case extraSpan:
			r.SpanID = v
		default:
			*slab = append(*slab, kemi.Label{Name: x.extras[n].name, Value: v})
		}
	}
	if len(*slab) > from {
		r.Attrs = (*slab)[from:len(*slab):len(*slab)]
	}
	return nil
}

var textPool = sync.Pool{New: func() any { return new([]byte) }}

// Records puts rows together again and calls f with each until f returns false; rows must ascend. Strings of the record stay valid.
func (b *Block) Records(rows []int, f func(row int, r *kemi.LogRecord) bool) (err error) {
	defer notSound(&err)
	x, err := b.read()
	if err != nil {
		return err
	}
	defer x.close()
	return x.records(rows, f)
}

func (x *reading) records(rows []int, f func(row int, r *kemi.LogRecord) bool) error {
	if len(rows) == 0 {
		return nil
	}
	of, err := x.templateOf()
	if err != nil {
		return err
	}
	ords, err := x.ordinals(rows)
	if err != nil {
		return err
	}
	at, err := x.times()
	if err != nil {
		return err
	}
	sev, err := x.severities()
	if err != nil {
		return err
	}
	ids, err := x.idsOf(rows)
	if err != nil {
		return err
	}
	schema, err := x.schemaOfRows()
	if err != nil {
		return err
	}
	buf := textPool.Get().(*[]byte)
	defer textPool.Put(buf)
	seen := make([]uint32, len(x.extras))
	var slab kemi.Labels
	stream, done := 0, 0
	for k, row := range rows {
		for row >= x.ends[stream] {
			stream++
		}
		for ; done < row; done++ {
			for _, n := range x.directory.schemas[schema[done]] {
				seen[n]++
			}
		}
		text, err := x.textOf((*buf)[:0], int(of[row]), int(ords[k]), uint32(row))
		if err != nil {
			return err
		}
		*buf = text
		r := kemi.LogRecord{ID: ids[k], Project: x.b.Project, At: at[row], Severity: sev[row], Stream: x.streams[stream], Body: string(text)}
		if err := x.extrasOf(&r, x.directory.schemas[schema[row]], seen, &slab); err != nil {
			return err
		}
		if !f(row, &r) {
			return nil
		}
	}
	return nil
}
