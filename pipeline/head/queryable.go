package head

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
)

// Queryable is the series of the identity's project as the PromQL engine reads them.
func (db *DB) Queryable(id kemi.Identity) storage.Queryable {
	return storage.QueryableFunc(func(mint, maxt int64) (storage.Querier, error) { return db.querier(id, mint, maxt) })
}

// ChunkQueryable is the same in chunks, for remote read. They are packed while they are read.
func (db *DB) ChunkQueryable(id kemi.Identity) storage.ChunkQueryable { return chunkQueryable{db, id} }

type chunkQueryable struct {
	db *DB
	id kemi.Identity
}

// ChunkQuerier reads from mint to maxt, both included.
func (q chunkQueryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	inner, err := q.db.querier(q.id, mint, maxt)
	if err != nil {
		return nil, err
	}
	return chunkQuerier{inner}, nil
}

type chunkQuerier struct{ *querier }

func (q chunkQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return storage.NewSeriesSetToChunkSet(Filled(q.querier.Select(ctx, sorted, h, ms...)))
}

// Filled leaves out series without samples: as chunks they would be none, which not everybody expects. The set's series have to be read with
// Iterators.
func Filled(set storage.SeriesSet) storage.SeriesSet { return &filledSet{SeriesSet: set} }

type filledSet struct {
	storage.SeriesSet
	at *filledSeries
}

// filledSeries has been read already.
type filledSeries struct {
	storage.Series
	first *Iterator // what the first call of Iterator returns
}

func (f *filledSet) Next() bool {
	var it chunkenc.Iterator
	for f.SeriesSet.Next() {
		s := f.SeriesSet.At()
		it = s.Iterator(it)
		if it.Next() == chunkenc.ValNone && it.Err() == nil {
			continue
		}
		f.at = &filledSeries{Series: s}
		if c, ok := it.(*Iterator); ok {
			c.Rewind()
			f.at.first = c
		}
		return true
	}
	return false
}

func (f *filledSet) At() storage.Series { return f.at }

func (f *filledSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	if first := f.first; first != nil {
		f.first = nil
		return first
	}
	return f.Series.Iterator(it)
}

// querier asks one view.
type querier struct {
	mint, maxt int64

	mu     sync.RWMutex // held while the view is read: what it shows may lie in files that go when it is closed
	v      *view
	closed bool

	readersMu sync.Mutex
	readers   []*lotReader // of its selections, to be used again by others
}

func (db *DB) querier(id kemi.Identity, mint, maxt int64) (*querier, error) {
	v, err := db.ask(context.Background(), id)
	if err != nil {
		return nil, err
	}
	return &querier{mint: mint, maxt: maxt, v: v}, nil
}

var errQuerierClosed = errors.New("series: the querier is closed")

// read calls f with the view, unless that has nothing.
func (q *querier) read(f func(v *view) error) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	switch {
	case q.closed:
		return errQuerierClosed
	case q.v.sp == nil:
		return nil
	}
	return f(q.v)
}

// Close lets go of what is settled meanwhile.
func (q *querier) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	q.v.close()
	q.readersMu.Lock()
	defer q.readersMu.Unlock()
	for _, r := range q.readers {
		r.lot.reset()
		r.probe.reset()
		lotReaders.Put(r)
	}
	q.readers = nil
	return nil
}

// LabelValues are the values of a label that the matching series have.
func (q *querier) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(h, func(v *view) ([]string, error) { return v.labelValues(ctx, name, ms, q.mint, q.maxt) })
}

// LabelNames are the names that the matching series have.
func (q *querier) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(h, func(v *view) ([]string, error) { return v.labelNames(ctx, ms, q.mint, q.maxt) })
}

func (q *querier) labels(h *storage.LabelHints, of func(*view) ([]string, error)) (out []string, _ annotations.Annotations, err error) {
	err = q.read(func(v *view) error {
		out, err = of(v)
		return err
	})
	if h != nil && h.Limit > 0 && len(out) > h.Limit {
		out = out[:h.Limit]
	}
	return out, nil, err
}

// Select are the series that match, in order whether that is asked for or not.
func (q *querier) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	s := &seriesSet{ctx: ctx, q: q, mint: q.mint, maxt: q.maxt, last: -1}
	if h != nil {
		if h.Start <= h.End && (h.Start != 0 || h.End != 0) {
			s.mint, s.maxt = max(s.mint, h.Start), min(s.maxt, h.End)
		}
		s.limit = h.Limit
	}
	err := q.read(func(v *view) (err error) {
		if s.mint <= s.maxt && v.touches(s.mint, s.maxt) {
			s.rest, err = v.find(ctx, ms)
		}
		return err
	})
	if err != nil {
		return storage.ErrSeriesSet(selectError(err))
	}
	s.found, s.r = s.rest[:0], q.reader()
	return s
}

// lotReader is what a selection works with.
type lotReader struct {
	lot     lot
	decoder decoder
	probe   lot          // to see whether a series has something
	labels  []kemi.Label // of some, and where those of each end
	ends    []int
}

var lotReaders = sync.Pool{New: func() any { return new(lotReader) }}

// seriesSet is the series of a selection. The engine lists all of them before it reads the first, so what is kept of each is its labels and its number;
// samples are copied, of some series at a time, when the first of those is read.
type seriesSet struct {
	ctx        context.Context //nolint:containedctx // of the selection
	q          *querier
	mint, maxt int64
	limit      int           // of series that are yielded; 0 = all
	rest       []uint32      // that were not looked at yet
	pending    []foundSeries // that were, and were not yielded
	at         *foundSeries
	err        error
	builder    labels.ScratchBuilder

	mu    sync.Mutex // series may be read while others are looked for
	found []uint32   // that have something, in order; it grows into the room that rest leaves
	last  int        // of found, which was read last
	r     *lotReader // has some of them
}

// foundSeries is one of a selection. It is valid until the querier is closed.
type foundSeries struct {
	set    *seriesSet
	n      int // in found
	labels labels.Labels
}

func (s *seriesSet) Next() bool {
	for len(s.pending) == 0 {
		if s.err == nil {
			s.err = s.ctx.Err()
		}
		if s.err != nil || len(s.rest) == 0 {
			return false
		}
		if s.err = s.q.read(s.look); s.err != nil {
			s.err = selectError(s.err)
			return false
		}
	}
	s.at, s.pending = &s.pending[0], s.pending[1:]
	return true
}

// look looks at some more series: which of them have something.
func (s *seriesSet) look(v *view) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(batchSeries, len(s.rest))
	ls, ends := s.r.labels[:0], s.r.ends[:0]
	v.db.mu.RLock()
	for _, id := range s.rest[:n] {
		if s.limit > 0 && len(s.found) == s.limit {
			break
		}
		if x := v.db.there(id); x != nil && v.has(&s.r.probe, id, x, s.mint, s.maxt) {
			s.found = append(s.found, id)
			ls = v.db.labelsOf(ls, x)
			ends = append(ends, len(ls))
		}
	}
	v.db.mu.RUnlock()
	if s.rest = s.rest[n:]; s.limit > 0 && len(s.found) == s.limit {
		s.rest = nil
	}
	first := len(s.found) - len(ends)
	s.pending = make([]foundSeries, len(ends))
	from := 0
	for i, to := range ends {
		s.builder.Reset()
		for _, x := range ls[from:to] {
			s.builder.Add(x.Name, x.Value)
		}
		s.pending[i] = foundSeries{set: s, n: first + i, labels: s.builder.Labels()}
		from = to
	}
	clear(ls)
	s.r.labels, s.r.ends = ls, ends
	return nil
}

// has tells whether a series has something from mint to maxt. The lock is held; the lot is used if it is not seen at once.
func (v *view) has(l *lot, id uint32, s *series, mint, maxt int64) bool {
	if s.n > 0 && s.base <= maxt && s.last >= max(mint, v.cut) && !s.is(histograms) { // the buffer's last is the newest
		return true
	}
	l.reset()
	v.copy(l, []uint32{id}, mint, maxt)
	return len(l.items) > 0
}

// fill copies series into the lot. mu is held.
func (s *seriesSet) fill(v *view, ids []uint32) *lot {
	l := &s.r.lot
	l.reset()
	v.fill(l, ids, s.mint, s.maxt)
	return l
}

// reader is one that is given back when the querier is closed.
func (q *querier) reader() *lotReader {
	r := lotReaders.Get().(*lotReader)
	q.readersMu.Lock()
	defer q.readersMu.Unlock()
	q.readers = append(q.readers, r)
	return r
}

func (s *seriesSet) At() storage.Series                { return s.at }
func (s *seriesSet) Err() error                        { return s.err }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

func (s *foundSeries) Labels() labels.Labels { return s.labels }

// Iterator reads all of the series in the range, and goes over it.
func (s *foundSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	c, ok := it.(*Iterator)
	if !ok {
		c = new(Iterator)
	}
	c.Reset()
	if err := s.set.q.read(func(v *view) error { return s.set.read(v, s.n, c) }); err != nil {
		c.Reset()
		c.Failed = selectError(err)
	}
	return c
}

// read has the iterator go over the n-th of what was found.
func (s *seriesSet) read(v *view, n int, it *Iterator) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, next := s.found[n], n == s.last+1
	s.last = n
	of := func(x item) bool { return x.id == id }
	i := slices.IndexFunc(s.r.lot.items, of)
	if i < 0 {
		to := n + 1
		if next { // they are read one after another
			to = min(n+batchSeries, len(s.found))
		}
		if i = slices.IndexFunc(s.fill(v, s.found[n:to]).items, of); i < 0 {
			return nil
		}
	}
	l, d := &s.r.lot, &s.r.decoder
	c := columns{it.Times, it.Values}
	err := d.floats(l, i, s.mint, s.maxt, &c)
	it.Times, it.Values = c.at, c.values
	if err != nil || !l.hasHistograms(i) {
		return err
	}
	hs, err := d.histograms(l, i)
	if err == nil {
		hs, err = apart(hs)
	}
	for _, h := range hs {
		if int64(h.From) > s.maxt || int64(h.To) < s.mint {
			continue
		}
		shown := kemi.Range{From: kemi.Millis(s.mint), To: kemi.Millis(min(s.maxt, math.MaxInt64-1)) + 1}
		// The iterator is not bound to the querier.
		it.Stretches = append(it.Stretches, Stretch{To: h.To, Encoding: h.Encoding, Chunk: bytes.Clone(h.Chunk), Shown: shown})
	}
	return err
}

// ExemplarQueryable is the exemplars of the identity's project.
func (db *DB) ExemplarQueryable(id kemi.Identity) storage.ExemplarQueryable {
	return exemplarQueryable{db, id}
}

type exemplarQueryable struct {
	db *DB
	id kemi.Identity
}

// ExemplarQuerier has nothing as long as not all is loaded.
func (q exemplarQueryable) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	if err := mayRead(q.id); err != nil {
		return nil, err
	}
	if !q.db.settle(ctx) || q.db.exemplars == nil {
		return exemplarQuerier{}, nil
	}
	inner, err := q.db.exemplars.ExemplarQuerier(ctx)
	return exemplarQuerier{inner, q.id.Project}, err
}

type exemplarQuerier struct {
	inner   storage.ExemplarQuerier // nil: there are none
	project string
}

// Select is what the series have that fit one of the sets of matchers.
func (q exemplarQuerier) Select(start, end int64, sets ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	if q.inner == nil || len(sets) == 0 {
		return nil, nil
	}
	mine := make([][]*labels.Matcher, 0, len(sets))
	for _, ms := range sets {
		mine = append(mine, append([]*labels.Matcher{{Type: labels.MatchEqual, Name: ProjectLabel, Value: q.project}}, ms...))
	}
	out, err := q.inner.Select(start, end, mine...)
	for i := range out {
		b := labels.NewScratchBuilder(out[i].SeriesLabels.Len())
		out[i].SeriesLabels.Range(func(l labels.Label) {
			if l.Name != ProjectLabel {
				b.Add(l.Name, l.Value)
			}
		})
		out[i].SeriesLabels = b.Labels()
	}
	return out, err
}
