package tsdb

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
)

// Queryable is the series of the identity's project as the PromQL engine reads them.
func (db *DB) Queryable(id kemi.Identity) storage.Queryable { return queryable{db, id} }

// ChunkQueryable is the same in chunks, for remote read.
func (db *DB) ChunkQueryable(id kemi.Identity) storage.ChunkQueryable { return chunkQueryable{db, id} }

// ExemplarQueryable is the exemplars of the identity's project.
func (db *DB) ExemplarQueryable(id kemi.Identity) storage.ExemplarQueryable {
	return exemplarQueryable{db, id}
}

type queryable struct {
	db *DB
	id kemi.Identity
}

// Querier reads from mint to maxt, both included.
func (q queryable) Querier(mint, maxt int64) (storage.Querier, error) {
	if err := mayRead(q.id); err != nil {
		return nil, err
	}
	inner, err := q.db.db.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return querier{projectLabels{inner, q.id}, inner}, nil
}

// within adds the project to matchers. The library sorts the slice that it gets, so it is a new one.
func within(id kemi.Identity, ms []*labels.Matcher) []*labels.Matcher {
	return append([]*labels.Matcher{inProject(id)}, ms...)
}

// projectLabels answers questions about labels within a project.
type projectLabels struct {
	storage.LabelQuerier
	id kemi.Identity
}

func (q projectLabels) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if name == projectLabel {
		return nil, nil, nil
	}
	return q.LabelQuerier.LabelValues(ctx, name, h, within(q.id, ms)...)
}

func (q projectLabels) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if h != nil && h.Limit > 0 { // one more, for the project's own
		more := *h
		more.Limit++
		h = &more
	}
	names, notes, err := q.LabelQuerier.LabelNames(ctx, h, within(q.id, ms)...)
	return withoutProject(names), notes, err
}

func withoutProject(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == projectLabel })
}

type querier struct {
	projectLabels
	inner storage.Querier
}

func (q querier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return strippedSet{q.inner.Select(ctx, sorted, h, within(q.id, ms)...)}
}

type strippedSet struct{ storage.SeriesSet }

func (s strippedSet) At() storage.Series { return strippedSeries{s.SeriesSet.At()} }

type strippedSeries struct{ storage.Series }

func (s strippedSeries) Labels() labels.Labels { return stripped(s.Series.Labels()) }

type chunkQueryable struct {
	db *DB
	id kemi.Identity
}

// ChunkQuerier reads from mint to maxt, both included.
func (q chunkQueryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	if err := mayRead(q.id); err != nil {
		return nil, err
	}
	inner, err := q.db.db.ChunkQuerier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return chunkQuerier{projectLabels{inner, q.id}, inner}, nil
}

type chunkQuerier struct {
	projectLabels
	inner storage.ChunkQuerier
}

func (q chunkQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return strippedChunkSet{q.inner.Select(ctx, sorted, h, within(q.id, ms)...)}
}

type strippedChunkSet struct{ storage.ChunkSeriesSet }

func (s strippedChunkSet) At() storage.ChunkSeries { return strippedChunkSeries{s.ChunkSeriesSet.At()} }

type strippedChunkSeries struct{ storage.ChunkSeries }

func (s strippedChunkSeries) Labels() labels.Labels { return stripped(s.ChunkSeries.Labels()) }

type exemplarQueryable struct {
	db *DB
	id kemi.Identity
}

func (q exemplarQueryable) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	if err := mayRead(q.id); err != nil {
		return nil, err
	}
	inner, err := q.db.db.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	return exemplarQuerier{inner, q.id}, nil
}

type exemplarQuerier struct {
	inner storage.ExemplarQuerier
	id    kemi.Identity
}

func (q exemplarQuerier) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	sets := make([][]*labels.Matcher, 0, len(ms))
	for _, set := range ms {
		sets = append(sets, within(q.id, set))
	}
	if len(sets) == 0 {
		return nil, nil
	}
	out, err := q.inner.Select(start, end, sets...)
	for i := range out {
		out[i].SeriesLabels = stripped(out[i].SeriesLabels)
	}
	return out, err
}
