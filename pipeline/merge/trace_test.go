package merge

import (
	"context"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/pipeline/store"
)

// TestViews: whoever asks is told which views have answered, in whatever way he asks, and up to when each has what was recorded.
func TestViews(t *testing.T) {
	b := newBench(t)
	id := kemi.Identity{Subject: "test", Project: "p"}
	next := int64(0)
	put := func(name string, at kemi.Millis) {
		next++
		p := kemi.Points{Labels: kemi.Labels{{Name: kemi.MetricName, Value: name}}, At: []kemi.Millis{at}, Values: []float64{1}}
		if err := b.Append(t.Context(), b.table.BatchOf("p", []kemi.Points{p}), store.Position{Next: next}); err != nil {
			t.Fatal(err)
		}
	}
	old, recent := b.now-2*3600_000, b.now-1000
	put("old", old)
	b.settle(true)
	put("live", recent)
	live := b.Freshness().AsOf
	if live == 0 {
		t.Fatal("the live store does not know how fresh it is")
	}
	all := kemi.Range{From: old - 1000, To: b.now + 1}
	m := labels.MustNewMatcher(labels.MatchNotEqual, labels.MetricName, "")
	ways := map[string]func(ctx context.Context) error{
		"select": func(ctx context.Context) error {
			for _, err := range b.Select(ctx, id, nil, all) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"columns": func(ctx context.Context) error {
			return b.Columns(ctx, id, int64(all.From), int64(all.To), []*labels.Matcher{m}, func(labels.Labels, []kemi.Millis, []float64) error { return nil })
		},
		"engine": func(ctx context.Context) error {
			q, err := b.Queryable(id).Querier(int64(all.From), int64(all.To))
			if err != nil {
				return err
			}
			defer q.Close()
			set := q.Select(ctx, true, &storage.SelectHints{Start: int64(all.From), End: int64(all.To)}, m)
			for set.Next() {
			}
			return set.Err()
		},
	}
	for name, ask := range ways {
		ctx, trace := store.WithTrace(t.Context())
		if err := ask(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		v := trace.Views()
		if len(v) != 2 || v[0] != (store.View{Name: "speed", AsOf: live}) || v[1].Name != "batch" || v[1].AsOf <= old || v[1].AsOf > old+2 {
			t.Errorf("%s: %v, want speed up to %d and batch up to %d", name, v, live, old)
		}
	}
}
