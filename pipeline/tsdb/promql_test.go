package tsdb

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

// TestPromQLCorpus runs Prometheus' own acceptance tests of PromQL on our Queryable, with the series of another project beside
// those of each test.
func TestPromQLCorpus(t *testing.T) {
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	promqltest.RunBuiltinTestsWithStorage(t, engine, func(tb testing.TB) storage.Storage {
		cfg := DefaultConfig()
		cfg.Dir, cfg.BlockDuration = memoryDir(tb), 24*time.Hour
		db, err := open(cfg, Options{}, func(o *tsdb.Options) {
			o.EnableSTStorage, o.EnableHistogramSTEncoding, o.FloatChunkEncoding = true, true, chunkenc.EncXOR2
		})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = db.Close() })
		return corpusStorage{db, kemi.Identity{Subject: "test", Project: "default"}}
	})
}

// memoryDir is a folder in memory where there is such a file system: hundreds of stores are opened, and none is about disks.
func memoryDir(tb testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "kemi-corpus")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// corpusStorage is a DB as the corpus wants it. What is appended goes to two projects, with other values to the second.
type corpusStorage struct {
	db *DB
	id kemi.Identity
}

func (s corpusStorage) Querier(mint, maxt int64) (storage.Querier, error) {
	return s.db.Queryable(s.id).Querier(mint, maxt)
}

func (s corpusStorage) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return s.db.ChunkQueryable(s.id).ChunkQuerier(mint, maxt)
}

func (s corpusStorage) Appender(ctx context.Context) storage.Appender { return s.db.db.Appender(ctx) }

func (s corpusStorage) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return corpusAppender{s.db.db.AppenderV2(ctx)}
}

func (s corpusStorage) StartTime() (int64, error) { return s.db.db.StartTime() }
func (s corpusStorage) Close() error              { return s.db.Close() }

type corpusAppender struct{ storage.AppenderV2 }

func (a corpusAppender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	in := func(project string) labels.Labels {
		b := labels.NewBuilder(ls)
		return b.Set(projectLabel, project).Labels()
	}
	if _, err := a.AppenderV2.Append(0, in("other"), 0, t, v+1, nil, nil, o); err != nil {
		return 0, err
	}
	return a.AppenderV2.Append(0, in("default"), st, t, v, h, fh, o)
}
