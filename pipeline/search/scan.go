package search

import (
	"context"
	"errors"

	"kemi"
	"kemi/pipeline/store"
)

// query is a question made ready.
type query struct {
	project string
	expr    store.LogExpr
	match   func(*kemi.LogRecord) bool
	all     bool // everything matches
	needs   needs
	from    kemi.Nanos // half open
	to      kemi.Nanos
}

func newQuery(id kemi.Identity, q store.LogQuery) (*query, error) {
	if id.Project == "" {
		return nil, kemi.Errorf(kemi.ErrDenied, "read logs: the identity %q has no project", id.Subject)
	}
	out := &query{project: id.Project, expr: q.Expr, match: store.CompileLog(q.Expr), from: q.Range.From, to: q.Range.To}
	if and, ok := q.Expr.(store.LogAnd); q.Expr == nil || ok && len(and) == 0 {
		out.all = true
	}
	out.needs.of(q.Expr)
	return out, nil
}

// candidate is a block that may hold what is looked for.
type candidate struct {
	place
	meta blockMeta
}

// candidates are the blocks that may hold matches. What is damaged is left out and noted.
func (q *query) candidates(ctx context.Context, s *snapshot) ([]candidate, error) {
	var out []candidate
	for _, v := range s.views {
		if v.empty || v.to < q.from || v.from >= q.to {
			continue
		}
		for _, sg := range v.segments {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			found, err := q.inSegment(v, sg)
			if err != nil {
				s.x.damage(v.slice, err)
				continue
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

func (q *query) inSegment(v *view, sg *segmentView) (out []candidate, err error) {
	metas, err := sg.metas()
	if err != nil {
		return nil, err
	}
	docs, cond, err := candidates(sg, q.project, q.expr)
	if err != nil {
		return nil, err
	}
	filtered := cond.filtered()
	for it := docs.Iterator(); it.HasNext(); {
		num := it.Next()
		m := metas[num]
		if m.to < q.from || m.from >= q.to {
			continue
		}
		if filtered {
			may := false
			if err := sg.bloom(uint64(num), func(b []byte) { may = cond.may(num, b) }); err != nil {
				return nil, err
			}
			if !may {
				continue
			}
		}
		out = append(out, candidate{place{v, sg, uint64(num)}, m})
	}
	return out, nil
}

// inHeads calls f for the records in memory that match.
func (q *query) inHeads(s *snapshot, f func(*kemi.LogRecord) error) error {
	looked := 0
	for _, h := range s.heads {
		for i := range h.records {
			r := &h.records[i]
			if r.At < q.from || r.At >= q.to || r.Project != q.project {
				continue
			}
			if _, dead := h.dead[int32(i)]; dead {
				continue
			}
			if h.hidden != nil {
				if _, gone := h.hidden[keyOf(r.Project, r.ID)]; gone {
					continue
				}
			}
			looked++
			if !q.match(r) {
				continue
			}
			if err := f(r); err != nil {
				return err
			}
		}
	}
	s.x.m.recordsRead.Add(float64(looked))
	return nil
}

// inBlock opens a block and calls f for the records that match; r has the parts that want names beside those that the condition
// needs, and is valid until f returns. Records for which skip holds are passed over.
func (q *query) inBlock(s *snapshot, c *candidate, want needs, skip func(at kemi.Nanos) bool, f func(i int, r *kemi.LogRecord) error) error {
	b, err := c.sg.block(c.num)
	if err != nil {
		return err
	}
	defer b.release()
	s.x.m.blocksRead.Inc()
	return q.eachIn(s, b, want, skip, f)
}

func (q *query) eachIn(s *snapshot, b *block, want needs, skip func(at kemi.Nanos) bool, f func(i int, r *kemi.LogRecord) error) error {
	if err := b.openColumns(); err != nil {
		return err
	}
	body, ids := q.needs.body || want.body, q.needs.id || want.id || len(s.hidden) > 0
	if body {
		if err := b.openBodies(); err != nil {
			return err
		}
	}
	if ids {
		if err := b.openIDs(); err != nil {
			return err
		}
	}
	var attrs func(*kemi.LogRecord) error
	if q.needs.attrsOf(b) || want.attrsOf(b) {
		var err error
		if attrs, err = b.openAttrs(); err != nil {
			return err
		}
	}
	r := kemi.LogRecord{Project: b.project}
	looked := 0
	for i := range b.count {
		if attrs != nil {
			if err := attrs(&r); err != nil {
				return err
			}
		}
		r.At = b.at[i]
		if r.At < q.from || r.At >= q.to || skip != nil && skip(r.At) {
			continue
		}
		r.Severity, r.Stream = kemi.Severity(b.severity[i]), b.streams[b.stream[i]]
		if body {
			r.Body = b.body(i)
		}
		if ids {
			r.ID = b.ids[i]
			if len(s.hidden) > 0 && s.superseded(keyOf(q.project, r.ID)) {
				continue
			}
		}
		looked++
		if !q.match(&r) {
			continue
		}
		if err := f(i, &r); err != nil {
			return err
		}
	}
	s.x.m.recordsRead.Add(float64(looked))
	return nil
}

// each calls f for every match, in no order. block, if given, may answer for a block as a whole: then it is not opened.
func (x *Index) each(ctx context.Context, q *query, want needs, whole func(*blockMeta) bool, f func(*kemi.LogRecord) error) error {
	s := x.snapshot()
	defer s.release()
	if err := q.inHeads(s, f); err != nil {
		return err
	}
	cands, err := q.candidates(ctx, s)
	if err != nil {
		return err
	}
	for i := range cands {
		c := &cands[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if whole != nil && q.all && len(s.hidden) == 0 && c.meta.from >= q.from && c.meta.to < q.to && whole(&c.meta) {
			continue
		}
		err := q.inBlock(s, c, want, nil, func(_ int, r *kemi.LogRecord) error { return f(r) })
		if errors.Is(err, errBlock) {
			x.damage(c.v.slice, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}
