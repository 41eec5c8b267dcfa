package merge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/head"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
)

// Queryable is the series of the identity's project as the PromQL engine reads them.
func (s *Store) Queryable(id kemi.Identity) storage.Queryable {
	return storage.QueryableFunc(func(mint, maxt int64) (storage.Querier, error) {
		live, err := s.live.Queryable(id).Querier(mint, maxt)
		if err != nil {
			return nil, err
		}
		live = traced{live, "speed", func() kemi.Millis { return s.live.Freshness().AsOf }}
		q := s.querier(id.Project, mint, maxt)
		if q == nil {
			return live, nil
		}
		return storage.NewMergeQuerier([]storage.Querier{live, traced{q, "batch", q.view.AsOf}}, nil, joined), nil
	})
}

// traced notes that its view has answered when a series of it is selected.
type traced struct {
	storage.Querier
	view string
	asOf func() kemi.Millis
}

func (t traced) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	set := t.Querier.Select(ctx, sorted, h, ms...)
	if trace := store.TraceOf(ctx); trace != nil {
		set = &tracedSet{SeriesSet: set, note: func() { trace.Note(t.view, t.asOf()) }}
	}
	return set
}

type tracedSet struct {
	storage.SeriesSet
	note func() // nil: done
}

func (s *tracedSet) Next() bool {
	if !s.SeriesSet.Next() {
		return false
	}
	if s.note != nil {
		s.note()
		s.note = nil
	}
	return true
}

// ChunkQueryable is the same in chunks, for remote read. What is settled is put into chunks while it is read.
func (s *Store) ChunkQueryable(id kemi.Identity) storage.ChunkQueryable { return chunkQueryable{s, id} }

type chunkQueryable struct {
	s  *Store
	id kemi.Identity
}

// ChunkQuerier reads from mint to maxt, both included.
func (c chunkQueryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	q := c.s.querier(c.id.Project, mint, maxt)
	if q == nil {
		return c.s.live.ChunkQueryable(c.id).ChunkQuerier(mint, maxt)
	}
	live, err := c.s.live.Queryable(c.id).Querier(mint, maxt)
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return chunkQuerier{storage.NewMergeQuerier([]storage.Querier{live, q}, nil, joined)}, nil
}

type chunkQuerier struct{ storage.Querier }

func (c chunkQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return storage.NewSeriesSetToChunkSet(head.Filled(c.Querier.Select(ctx, sorted, h, ms...)))
}

// querier reads settled blocks; nil if there are none in that time.
func (s *Store) querier(project string, mint, maxt int64) *querier {
	v := s.layer.Acquire()
	r := rangeOf(mint, maxt)
	if len(v.Blocks(r)) == 0 {
		v.Release()
		return nil
	}
	return &querier{view: v, reader: v.NewReader(), project: project, r: r}
}

// rangeOf is from mint to maxt, both included.
func rangeOf(mint, maxt int64) kemi.Range {
	if maxt < math.MaxInt64 {
		maxt++
	}
	return kemi.Range{From: kemi.Millis(mint), To: kemi.Millis(maxt)}
}

type querier struct {
	view    *batch.View
	project string
	r       kemi.Range

	mu     sync.Mutex // the reader is for one at a time
	reader *batch.Reader
}

// Close gives the blocks back.
func (q *querier) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.reader != nil {
		q.reader.Close()
		q.reader = nil
		q.view.Release()
	}
	return nil
}

// selectorOf is matchers as a selector.
func selectorOf(ms []*labels.Matcher) (store.Selector, error) {
	sel := make(store.Selector, 0, len(ms))
	for _, m := range ms {
		if m.Name == head.ProjectLabel {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher: label name %q: no label has that name", m.Name)
		}
		x := store.Matcher{Name: m.Name, Value: m.Value}
		switch m.Type {
		case labels.MatchEqual:
			x.Op = store.Equal
		case labels.MatchNotEqual:
			x.Op = store.NotEqual
		case labels.MatchRegexp:
			x.Op = store.Regexp
		case labels.MatchNotRegexp:
			x.Op = store.NotRegexp
		}
		sel = append(sel, x)
	}
	return sel, nil
}

// Select are the series that match, in order whether that is asked for or not.
func (q *querier) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	sel, err := selectorOf(ms)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	r := q.r
	if h != nil && h.Start <= h.End && (h.Start != 0 || h.End != 0) {
		r = rangeOf(max(h.Start, int64(q.r.From)), h.End)
		r.To = min(r.To, q.r.To)
	}
	set, err := q.view.Select(q.project, sel, r)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	return &seriesSet{ctx: ctx, q: q, set: set, r: r}
}

// LabelValues are the values of a label that the matching series have.
func (q *querier) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(ctx, h, ms, func(b *settled.Block, project string, sel store.Selector) ([]string, error) {
		return b.LabelValues(project, name, sel)
	}, func(ls kemi.Labels, add func(string)) {
		if v := ls.Get(name); v != "" {
			add(v)
		}
	})
}

// LabelNames are the names that the matching series have.
func (q *querier) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(ctx, h, ms, (*settled.Block).LabelNames, func(ls kemi.Labels, add func(string)) {
		for _, l := range ls {
			add(l.Name)
		}
	})
}

func (q *querier) labels(ctx context.Context, h *storage.LabelHints, ms []*labels.Matcher, read func(*settled.Block, string, store.Selector) ([]string, error),
	of func(kemi.Labels, func(string)),
) ([]string, annotations.Annotations, error) {
	sel, err := selectorOf(ms)
	if err != nil {
		return nil, nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	out, err := labelsOf(ctx, q.view, q.reader, q.project, sel, q.r, read, of)
	if err != nil {
		return nil, nil, err
	}
	if h != nil && h.Limit > 0 && len(out) > h.Limit {
		out = out[:h.Limit]
	}
	return out, nil, nil
}

// labelsOf is the union of what the blocks of a view have, sorted. Of blocks that have lost something, the series are looked at one by one.
func labelsOf(ctx context.Context, v *batch.View, rd *batch.Reader, project string, sel store.Selector, r kemi.Range,
	read func(*settled.Block, string, store.Selector) ([]string, error), of func(kemi.Labels, func(string)),
) ([]string, error) {
	var lists [][]string
	whole := true
	for _, b := range v.Blocks(r) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !v.Untouched(b) {
			whole = false
			continue
		}
		names, err := read(b.Settled(), project, sel)
		if err != nil {
			return nil, fmt.Errorf("list labels of settled block %s: %w", b.ID, err)
		}
		lists = append(lists, names)
	}
	if !whole {
		set, err := v.Select(project, sel, r)
		if err != nil {
			return nil, err
		}
		found := map[string]bool{}
		for set.Next() {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			has, err := rd.Has(set.At(), r)
			if err != nil {
				return nil, err
			}
			if has {
				of(set.At().Labels, func(v string) { found[v] = true })
			}
		}
		if err := set.Err(); err != nil {
			return nil, err
		}
		var names []string
		for v := range found {
			names = append(names, v)
		}
		slices.Sort(names)
		lists = append(lists, names)
	}
	return union(lists...), nil
}

// union is what is in one of the lists, each once. They are sorted, and most often the same.
func union(lists ...[]string) (out []string) {
	for i, list := range lists {
		if i == 0 || len(out) == 0 {
			out = list
			continue
		}
		if len(list) == 0 || slices.Equal(out, list) {
			continue
		}
		a, b := out, list
		out = make([]string, 0, max(len(a), len(b)))
		for len(a) > 0 && len(b) > 0 {
			c := strings.Compare(a[0], b[0])
			if c <= 0 {
				out, a = append(out, a[0]), a[1:]
			} else {
				out = append(out, b[0])
			}
			if c >= 0 {
				b = b[1:]
			}
		}
		out = append(append(out, a...), b...)
	}
	return out
}

// seriesSet is the settled series of a selection.
type seriesSet struct {
	ctx context.Context //nolint:containedctx // of the selection
	q   *querier
	set *batch.Set
	r   kemi.Range
	at  *series
	err error
}

func (s *seriesSet) Next() bool {
	for s.err == nil && s.set.Next() {
		if s.err = s.ctx.Err(); s.err != nil {
			return false
		}
		s.q.mu.Lock()
		has, err := s.has()
		s.q.mu.Unlock()
		if s.err = err; err != nil {
			return false
		}
		if !has {
			continue
		}
		x := &series{q: s.q, r: s.r, settled: *s.set.At().Clone()}
		b := labels.NewScratchBuilder(len(x.settled.Labels))
		for _, l := range x.settled.Labels {
			b.Add(l.Name, l.Value)
		}
		x.labels = b.Labels()
		s.at = x
		return true
	}
	return false
}

func (s *seriesSet) has() (bool, error) {
	if s.q.reader == nil {
		return false, errClosed
	}
	return s.q.reader.Has(s.set.At(), s.r)
}

var errClosed = kemi.Errorf(kemi.ErrUnavailable, "the querier is closed")

func (s *seriesSet) At() storage.Series { return s.at }

func (s *seriesSet) Err() error {
	if s.err != nil {
		return s.err
	}
	return s.set.Err()
}

func (s *seriesSet) Warnings() annotations.Annotations { return nil }
