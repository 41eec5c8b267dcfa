package lines

import (
	"cmp"
	"container/heap"
	"context"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"kemi"
	"kemi/pipeline/pattern"
	"kemi/pipeline/store"
)

// A page is what Search gathers at a time. It grows, so that a caller who stops early has cost little.
const (
	firstPage = 1000
	lastPage  = 50_000
	pageBytes = 32 << 20
)

// query is a LogQuery of one project, made ready.
type query struct {
	project string
	r       store.NanoRange
	match   func(*kemi.LogRecord) bool
	blocks  *pattern.Query
}

func newQuery(id kemi.Identity, lq store.LogQuery) (*query, error) {
	if id.Project == "" {
		return nil, kemi.Errorf(kemi.ErrDenied, "read logs: the identity %q has no project", id.Subject)
	}
	return &query{project: id.Project, r: lq.Range, match: store.CompileLog(lq.Expr), blocks: pattern.NewQuery(lq.Expr, lq.Range)}, nil
}

func (q *query) takes(r *kemi.LogRecord) bool { return r.At >= q.r.From && r.At < q.r.To && q.match(r) }

// inHeads calls f with what is in memory and selected.
func (q *query) inHeads(ctx context.Context, v *view, f func(*kemi.LogRecord) error) error {
	for _, h := range v.heads {
		p := h.projects[q.project]
		if p == nil {
			continue
		}
		for _, run := range p.runs {
			if err := ctx.Err(); err != nil {
				return err
			}
			for i := range run {
				if q.takes(&run[i]) {
					if err := f(&run[i]); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// candidates are the blocks that may hold what is selected.
func (q *query) candidates(v *view) (out []*block) {
	for _, p := range v.parts {
		for _, b := range p.blocks {
			if b.Project == q.project && b.To >= q.r.From && b.From < q.r.To && !b.bad.Load() {
				out = append(out, b)
			}
		}
	}
	return out
}

// each asks the blocks, several at a time, and calls f with each selection that is not empty, one at a time.
func (s *Store) each(ctx context.Context, q *query, v *view, f func(sel *pattern.Selection) error) error {
	blocks := q.candidates(v)
	var mu sync.Mutex
	var next atomic.Int64
	var failed atomic.Pointer[error]
	work := func() {
		for {
			n := int(next.Add(1)) - 1
			if n >= len(blocks) || failed.Load() != nil {
				return
			}
			err := ctx.Err()
			if err == nil {
				err = s.ask(q, blocks[n], func(sel *pattern.Selection) error {
					mu.Lock()
					defer mu.Unlock()
					return f(sel)
				})
			}
			if err != nil {
				failed.CompareAndSwap(nil, &err)
				return
			}
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(blocks)/8) {
		wg.Go(work)
	}
	work()
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// ask asks one block. One that is damaged is noted and passed over.
func (s *Store) ask(q *query, b *block, f func(sel *pattern.Selection) error) error {
	s.m.blocksRead.Inc()
	pb, err := s.open(b)
	if err != nil {
		s.damage(b, err)
		return nil
	}
	sel, err := q.blocks.Select(pb)
	if err != nil {
		s.damage(b, err)
		return nil
	}
	defer sel.Close()
	if sel.Len() == 0 {
		return nil
	}
	return f(sel)
}

// Search yields the records that match; see store.LogStore. The newest first is the exact reverse of the oldest first. It holds one page in memory; what is
// indexed between two pages may appear in the later one.
func (s *Store) Search(ctx context.Context, id kemi.Identity, lq store.LogQuery) iter.Seq2[kemi.LogRecord, error] {
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
			if err := s.fill(ctx, q, p); err != nil {
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

func (p *page) add(r kemi.LogRecord) {
	heap.Push(p, r)
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

// fill gathers a page: blocks are asked in the order of time until no other can have a record of it.
func (s *Store) fill(ctx context.Context, q *query, p *page) error {
	v := s.view()
	defer v.release()
	err := q.inHeads(ctx, v, func(r *kemi.LogRecord) error {
		if p.takes(r) {
			p.add(*r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	blocks := q.candidates(v)
	first := func(b *block) kemi.Nanos { // the record of the block that comes first
		if p.ascending {
			return b.From
		}
		return -b.To
	}
	slices.SortFunc(blocks, func(a, b *block) int { return cmp.Compare(first(a), first(b)) })
	for _, b := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.after != nil && (p.ascending && b.To < p.after.At || !p.ascending && b.From > p.after.At) {
			continue
		}
		if len(p.records) >= p.limit && (p.ascending && b.From > p.records[0].At || !p.ascending && b.To < p.records[0].At) {
			break
		}
		if err := s.ask(q, b, func(sel *pattern.Selection) error {
			if err := fillFrom(sel, p); err != nil {
				s.damage(b, err)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// fillFrom adds the records of a block: first it finds out by their times which may have a place, then it puts those together.
func fillFrom(sel *pattern.Selection, p *page) error {
	type hit struct {
		row int
		at  kemi.Nanos
	}
	var hits []hit
	err := sel.Times(func(row int, at kemi.Nanos) bool {
		if !p.out(at) {
			hits = append(hits, hit{row, at})
		}
		return true
	})
	if err != nil {
		return err
	}
	// Of these the first limit in the order of time, and those that are as late as the last of them.
	if skip := p.after; len(hits) > p.limit {
		slices.SortFunc(hits, func(a, b hit) int {
			if p.ascending {
				return cmp.Compare(a.at, b.at)
			}
			return cmp.Compare(b.at, a.at)
		})
		n := p.limit
		if skip != nil { // those of the same time as the one before the page may be before it, too
			for i := 0; i < len(hits) && hits[i].at == skip.At; i++ {
				n++
			}
		}
		for n < len(hits) && n > 0 && hits[n].at == hits[n-1].at {
			n++
		}
		hits = hits[:min(n, len(hits))]
	}
	rows := make([]int, len(hits))
	for i, h := range hits {
		rows[i] = h.row
	}
	slices.Sort(rows)
	return sel.Records(rows, func(_ int, r *kemi.LogRecord) bool {
		if p.takes(r) {
			p.add(*r)
		}
		return true
	})
}
