package promql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
	"kemi/sauron/limit"
)

// enter waits for a place, at most as long as a query may run. The error is told as Prometheus tells of a query that ended in the queue.
func (a *API) enter(ctx context.Context, id kemi.Identity, patiently bool) (t *limit.Ticket, err error) {
	if t := a.o.Gate.TryEnter(id, patiently); t != nil {
		return t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	if patiently {
		t, err = a.o.Gate.EnterPatiently(ctx, id)
	} else {
		t, err = a.o.Gate.Enter(ctx, id)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, promql.ErrQueryTimeout("query queue")
	case errors.Is(err, context.Canceled):
		return nil, promql.ErrQueryCanceled("query queue")
	}
	return t, err
}

// budget reckons what a query holds, from the series that it selects: the engine takes all series of a selector, and for each of them a point
// at every step, before it goes on.
type budget struct {
	ticket    *limit.Ticket // set before the query runs
	maxSeries int
	series    int
	since     time.Time // when the engine began with what it is at
}

// workNanos is how long the engine is at a sample, about: what it reads is not counted before it ends.
const workNanos = 20

// work waits where others are to go on first, between one series and the next.
func (b *budget) work(ctx context.Context) {
	if b.ticket == nil {
		return
	}
	_ = b.ticket.Work(ctx, int64(time.Since(b.since))/workNanos) // whoever reads looks at ctx himself
	b.since = time.Now()
}

const (
	seriesBytes = 512 // of a series with its iterator and labels, about
	pointBytes  = 16
	perHold     = 64 // so many series are reckoned at once
)

// over is q, with what is selected through it counted.
func (b *budget) over(q storage.Queryable) storage.Queryable {
	return storage.QueryableFunc(func(mint, maxt int64) (storage.Querier, error) {
		inner, err := q.Querier(mint, maxt)
		if err != nil {
			return nil, err
		}
		return budgetQuerier{inner, b}, nil
	})
}

type budgetQuerier struct {
	storage.Querier
	b *budget
}

func (q budgetQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	each := int64(seriesBytes)
	if h != nil && h.Step > 0 && h.End > h.Start {
		each += pointBytes * ((h.End-h.Start)/h.Step + 1)
	}
	return &budgetSet{SeriesSet: q.Querier.Select(ctx, sorted, h, ms...), ctx: ctx, b: q.b, each: each}
}

type budgetSet struct {
	storage.SeriesSet
	ctx  context.Context //nolint:containedctx // of the selection
	b    *budget
	each int64 // bytes of a series
	left int   // series that are reckoned already
	err  error
}

func (s *budgetSet) Next() bool {
	if s.err != nil || !s.SeriesSet.Next() {
		return false
	}
	if s.err = s.b.another(); s.err != nil || s.b.ticket == nil {
		return s.err == nil
	}
	if s.left--; s.left < 0 {
		s.left = perHold - 1
		s.err = s.b.ticket.Hold(perHold * s.each)
	}
	return s.err == nil
}

func (s *budgetSet) At() storage.Series { return budgetSeries{s.SeriesSet.At(), s} }

// budgetSeries is a series whose reading begins when it is its query's turn.
type budgetSeries struct {
	storage.Series
	set *budgetSet
}

func (s budgetSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	s.set.b.work(s.set.ctx)
	return s.Series.Iterator(it)
}

func (s *budgetSet) Err() error {
	if s.err != nil {
		return s.err
	}
	return s.SeriesSet.Err()
}

func (s *budgetSet) Warnings() annotations.Annotations { return s.SeriesSet.Warnings() }

// another counts a series.
func (b *budget) another() error {
	if b.series++; b.series > b.maxSeries {
		return kemi.Errorf(kemi.ErrTooLarge, "query selects more series than promql.maxSeries = %d: name a metric, or more labels", b.maxSeries)
	}
	return nil
}

// explain adds to an error of the engine's limits which limit it was, what was used and what would do.
func (a *API) explain(err error, q promql.Query) error {
	var held promql.ErrTooManySamples
	var read promql.ErrTooManySamplesRead
	s := q.Stats()
	if s == nil || s.Samples == nil {
		return err
	}
	switch {
	case errors.As(err, &held):
		return fmt.Errorf("%w: more than promql.maxSamples = %d at once: select fewer series, a shorter range or a larger step", err, a.cfg.MaxSamples)
	case errors.As(err, &read):
		return fmt.Errorf("%w: %d read, promql.maxSamplesRead = %d: select fewer series or a shorter range", err, s.Samples.SamplesRead, a.cfg.MaxSamplesRead)
	}
	return err
}
