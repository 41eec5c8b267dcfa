package tsdb

import (
	"context"

	"kemi/pipeline/codec"
)

func (db *DB) appendComplex(ctx context.Context, batch *codec.SeriesBatch) error { return nil }
