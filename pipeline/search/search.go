package search

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"kemi"
	"kemi/pipeline/store"
)

// A page is what Search gathers at a time. It grows, so that a caller who stops early has cost little.
const (
	firstPage = 1000
	lastPage  = 50_000
	pageBytes = 32 << 20
)

// Search yields the records that match; see store.LogStore. The newest first is the exact reverse of the oldest first. It
// holds one page in memory; what is indexed between two pages may appear in the later one.
func (x *Index) Search(ctx context.Context, id kemi.Identity, lq store.LogQuery) iter.Seq2[kemi.LogRecord, error] {
	return func(yield func(kemi.LogRecord, error) bool) {
		q, err := newQuery(id, lq)
		if err != nil {
			yield(kemi.LogRecord{}, err)
			return
		}
		var after *kemi.LogRecord
		left := lq.Limit
		for size := firstPage; ; size = min(8*size, lastPage) {
			n := size
			if lq.Limit > 0 {
				n = min(left, lastPage)
			}
			p := &page{ascending: lq.Ascending, limit: n, after: after}
			if err := x.fill(ctx, q, p); err != nil {
				yield(kemi.LogRecord{}, err)
				return
			}
			records := p.sorted()
			for i := range records {
				if !yield(records[i], nil) {
					return
				}
			}
			left -= len(records)
			if len(records) < p.limit || lq.Limit > 0 && left <= 0 {
				return
			}
			after = &records[len(records)-1]
		}
	}
}

// page is the first limit records after a given one, in the order of the answer: a heap with the last of them at the top.
type page struct {
	ascending bool
	limit     int // lowered when the page becomes too large in bytes
	after     *kemi.LogRecord
	records   []kemi.LogRecord
	bytes     int64
}

func (p *page) compare(a, b *kemi.LogRecord) int {
	c := cmp.Compare(a.At, b.At)
	if c == 0 {
		c = strings.Compare(a.ID, b.ID)
	}
	if p.ascending {
		return c
	}
	return -c
}

// out tells whether no record of that time has a place in the page.
func (p *page) out(at kemi.Nanos) bool {
	if p.after != nil && (p.ascending && at < p.after.At || !p.ascending && at > p.after.At) {
		return true
	}
	if len(p.records) < p.limit {
		return false
	}
	last := p.records[0].At
	return p.ascending && at > last || !p.ascending && at < last
}

// takes tells whether r, of which time and ID count, has a place.
func (p *page) takes(r *kemi.LogRecord) bool {
	return (p.after == nil || p.compare(r, p.after) > 0) && (len(p.records) < p.limit || p.compare(r, &p.records[0]) < 0)
}

// add takes a copy of r.
func (p *page) add(r *kemi.LogRecord) {
	heap.Push(p, cloneRecord(r))
	for len(p.records) > p.limit {
		heap.Pop(p)
	}
	for p.bytes > pageBytes && len(p.records) > 1 {
		heap.Pop(p)
		p.limit = len(p.records)
	}
}

func (p *page) Len() int           { return len(p.records) }
func (p *page) Less(i, j int) bool { return p.compare(&p.records[i], &p.records[j]) > 0 }
func (p *page) Swap(i, j int)      { p.records[i], p.records[j] = p.records[j], p.records[i] }
func (p *page) Push(v any) {
	r := v.(kemi.LogRecord)
	p.records = append(p.records, r)
	p.bytes += recordBytes(&r)
}
func (p *page) Pop() any {
	n := len(p.records) - 1
	r := p.records[n]
	p.records[n] = kemi.LogRecord{}
	p.records = p.records[:n]
	p.bytes -= recordBytes(&r)
	return r
}

func (p *page) sorted() []kemi.LogRecord {
	slices.SortFunc(p.records, func(a, b kemi.LogRecord) int { return p.compare(&a, &b) })
	return p.records
}

// fill gathers a page: blocks are opened in the order of time until no other can have a record of it.
func (x *Index) fill(ctx context.Context, q *query, p *page) error {
	s := x.snapshot()
	defer s.release()
	err := q.inHeads(s, func(r *kemi.LogRecord) error {
		if p.takes(r) {
			p.add(r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	cands, err := q.candidates(ctx, s)
	if err != nil {
		return err
	}
	first := func(c *candidate) kemi.Nanos { // the record of the block that comes first
		if p.ascending {
			return c.meta.from
		}
		return -c.meta.to
	}
	slices.SortFunc(cands, func(a, b candidate) int { return cmp.Compare(first(&a), first(&b)) })
	for i := range cands {
		c := &cands[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.after != nil && (p.ascending && c.meta.to < p.after.At || !p.ascending && c.meta.from > p.after.At) {
			continue
		}
		if len(p.records) >= p.limit && (p.ascending && c.meta.from > p.records[0].At || !p.ascending && c.meta.to < p.records[0].At) {
			break
		}
		err := x.fillFrom(q, s, c, p)
		if errors.Is(err, errBlock) {
			x.damage(c.v.slice, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// fillFrom adds the records of a block: first it finds out which have a place, then it reads those whole.
func (x *Index) fillFrom(q *query, s *snapshot, c *candidate, p *page) error {
	b, err := c.sg.block(c.num)
	if err != nil {
		return err
	}
	defer b.release()
	x.m.blocksRead.Inc()
	var hits []int
	if err := q.eachIn(s, b, needs{}, p.out, func(i int, _ *kemi.LogRecord) error {
		hits = append(hits, i)
		return nil
	}); err != nil || len(hits) == 0 {
		return err
	}
	if err := errors.Join(b.openIDs(), b.openBodies()); err != nil {
		return err
	}
	attrs, err := b.openAttrs()
	if err != nil {
		return err
	}
	r := kemi.LogRecord{Project: b.project}
	next := 0 // record whose attributes come next
	for _, i := range hits {
		for ; attrs != nil && next <= i; next++ {
			if err := attrs(&r); err != nil {
				return err
			}
		}
		r.ID, r.At = b.ids[i], b.at[i]
		if !p.takes(&r) {
			continue
		}
		r.Severity, r.Stream, r.Body = kemi.Severity(b.severity[i]), b.streams[b.stream[i]], b.body(i)
		p.add(&r)
	}
	return nil
}
