package app

import (
	"context"
	"time"

	upstream "github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/merge"
	"kemi/pipeline/store"
	"kemi/sauron/limit"
	"kemi/sauron/promql"
)

// metricsOf is what alerting asks: the PromQL engine and the store behind it. As long as that is not complete there is no answer: an
// alert must not end, nor begin, because a start has not read everything yet.
type metricsOf struct {
	*promql.API
	series *merge.Store
	fresh  func() store.Freshness
}

func (m metricsOf) Queryable(id kemi.Identity) upstream.Queryable {
	inner := m.series.Queryable(id)
	return upstream.QueryableFunc(func(mint, maxt int64) (upstream.Querier, error) {
		if err := incomplete(m.fresh()); err != nil {
			return nil, err
		}
		return inner.Querier(mint, maxt)
	})
}

func (m metricsOf) Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (promql.Vector, error) {
	if err := incomplete(m.fresh()); err != nil {
		return nil, err
	}
	return m.API.Instant(ctx, id, expr, at)
}

func incomplete(f store.Freshness) error {
	if f.Complete {
		return nil
	}
	return kemi.Errorf(kemi.ErrUnavailable, "metrics are not complete: %s", f.Reason)
}

// writer puts what rules record through the same door as any sender's samples.
type writer struct{ in *push.Push }

func (w writer) Write(ctx context.Context, id kemi.Identity, points []kemi.Points) error {
	_, err := w.in.WritePoints(ctx, id, points)
	return err
}

// scalar is what autoscaling asks: the one value of an expression.
type scalar struct {
	*promql.API
	fresh func() store.Freshness
}

func (s scalar) Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (float64, bool, error) {
	if err := incomplete(s.fresh()); err != nil {
		return 0, false, err
	}
	v, err := s.API.Instant(ctx, id, expr, at)
	if err != nil || len(v) == 0 {
		return 0, false, err
	}
	if len(v) > 1 {
		return 0, false, kemi.Errorf(kemi.ErrInvalid, "query %q: %d series; write an expression that has one value, such as sum(…) or avg(…)", expr, len(v))
	}
	return v[0].F, true, nil
}

// entering waits at a gate, for those who only want to be let in.
func entering(g *limit.Gate) func(context.Context, kemi.Identity) (func(), error) {
	return func(ctx context.Context, id kemi.Identity) (func(), error) {
		t, err := g.Enter(ctx, id)
		if err != nil {
			return nil, err
		}
		return t.Leave, nil
	}
}
