package app

import (
	"context"
	"time"

	upstream "github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/tsdb"
	"kemi/sauron/promql"
)

// metricsOf is what alerting asks: the PromQL engine and the store behind it.
type metricsOf struct {
	*promql.API
	series *tsdb.DB
}

func (m metricsOf) Queryable(id kemi.Identity) upstream.Queryable { return m.series.Queryable(id) }

// writer puts what rules record through the same door as any sender's samples.
type writer struct{ in *push.Push }

func (w writer) Write(ctx context.Context, id kemi.Identity, points []kemi.Points) error {
	_, err := w.in.WritePoints(ctx, id, points)
	return err
}

// scalar is what autoscaling asks: the one value of an expression.
type scalar struct{ *promql.API }

func (s scalar) Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (float64, bool, error) {
	v, err := s.API.Instant(ctx, id, expr, at)
	if err != nil || len(v) == 0 {
		return 0, false, err
	}
	if len(v) > 1 {
		return 0, false, kemi.Errorf(kemi.ErrInvalid, "query %q: %d series; write an expression that has one value, such as sum(…) or avg(…)", expr, len(v))
	}
	return v[0].F, true, nil
}
