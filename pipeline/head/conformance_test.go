package head

import (
	"testing"
	"time"

	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

func openTest(tb testing.TB, dir string, now func() time.Time) store.SeriesStore {
	cfg := DefaultConfig()
	cfg.Dir = dir
	cfg.Checkpoint, cfg.CheckpointQuiet = time.Hour, 0 // only when it is asked for: the suite copies the folder
	db, err := Open(cfg, Options{Now: now})
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

func TestConformance(t *testing.T) { storetest.Series(t, openTest) }

func BenchmarkSeries(b *testing.B) { storetest.BenchSeries(b, openTest) }
