package tsdb

import (
	"testing"
	"time"

	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

func openTest(tb testing.TB, dir string) store.SeriesStore {
	cfg := DefaultConfig()
	cfg.Dir = dir
	cfg.Checkpoint = time.Second
	db, err := Open(cfg, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

func TestConformance(t *testing.T) { storetest.Series(t, openTest) }

func BenchmarkSeries(b *testing.B) { storetest.BenchSeries(b, openTest) }
