package promql

import (
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi/sauron/columns"
)

// partLabel is the label by which the engine selects what a part came to. No series has it: its name cannot be sent.
const partLabel = "\x00part"

// partsQueryable gives the engine what parts came to as series, beside those of the store.
type partsQueryable struct {
	storage.Queryable
	results []columns.Result
	q       request
}

func (p partsQueryable) Querier(mint, maxt int64) (storage.Querier, error) {
	return &partsQuerier{Querier: storage.NoopQuerier(), p: p, mint: mint, maxt: maxt}, nil
}

// partsQuerier opens the store when something is selected from it.
type partsQuerier struct {
	storage.Querier
	p          partsQueryable
	mint, maxt int64
	opened     bool
}

func (q *partsQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	if len(ms) == 1 && ms[0].Name == partLabel {
		i, _ := strconv.Atoi(ms[0].Value)
		m := q.p.results[i].Matrix
		if sorted {
			m = slices.Clone(m)
			slices.SortFunc(m, func(a, b promql.Series) int { return labels.Compare(a.Metric, b.Metric) })
		}
		set := &partSet{m: m, at: -1, interval: 1, last: timestamp.FromTime(q.p.q.end)}
		if q.p.q.step != 0 {
			set.interval = q.p.q.step.Milliseconds()
		}
		return set
	}
	if !q.opened {
		inner, err := q.p.Queryable.Querier(q.mint, q.maxt)
		if err != nil {
			return storage.ErrSeriesSet(err)
		}
		q.Querier, q.opened = inner, true
	}
	return q.Querier.Select(ctx, sorted, h, ms...)
}

type partSet struct {
	m        promql.Matrix
	at       int
	interval int64
	last     int64 // the end of the query
}

func (s *partSet) Next() bool                      { s.at++; return s.at < len(s.m) }
func (s *partSet) At() storage.Series              { return promql.NewStorageSeries(s.ended(s.m[s.at])) }
func (*partSet) Err() error                        { return nil }
func (*partSet) Warnings() annotations.Annotations { return nil }

// ended is a series with a stale marker at each step without a point that follows one with a point, so that the older point is not taken for the newer step's.
func (s *partSet) ended(of promql.Series) promql.Series {
	points := of.Floats
	gaps := 0
	for i, p := range points {
		if next := p.T + s.interval; i+1 < len(points) && points[i+1].T > next || i+1 == len(points) && next <= s.last {
			gaps++
		}
	}
	if gaps == 0 {
		return of
	}
	stale := math.Float64frombits(value.StaleNaN)
	of.Floats = make([]promql.FPoint, 0, len(points)+gaps)
	for i, p := range points {
		of.Floats = append(of.Floats, p)
		if next := p.T + s.interval; i+1 < len(points) && points[i+1].T > next || i+1 == len(points) && next <= s.last {
			of.Floats = append(of.Floats, promql.FPoint{T: next, F: stale})
		}
	}
	return of
}
