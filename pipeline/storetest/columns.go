package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

// InColumns gives what a storage holds as the engine reads it, and in columns.
type InColumns struct{ Of storage.Queryable }

// Queryable is the storage, of whatever identity.
func (c InColumns) Queryable(kemi.Identity) storage.Queryable { return c.Of }

// Columns gives series of floats; one with native histograms ends it with errors.ErrUnsupported.

func (c InColumns) Columns(ctx context.Context, _ kemi.Identity, mint, maxt int64, ms []*labels.Matcher, each func(labels.Labels, []kemi.Millis, []float64) error) error {
	q, err := c.Of.Querier(mint, maxt)
	if err != nil {
		return err
	}
	defer q.Close()
	set := q.Select(ctx, true, nil, ms...)
	for set.Next() {
		var at []kemi.Millis
		var values []float64
		it := set.At().Iterator(nil)
		for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
			if k != chunkenc.ValFloat {
				return fmt.Errorf("%s: %w", set.At().Labels(), errors.ErrUnsupported)
			}
			if t, v := it.At(); t >= mint && t <= maxt {
				at, values = append(at, kemi.Millis(t)), append(values, v)
			}
		}
		if err := each(set.At().Labels(), at, values); err != nil {
			return err
		}
	}
	return set.Err()
}
