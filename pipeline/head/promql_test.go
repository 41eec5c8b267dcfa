package head

import (
	"context"
	"os"
	"testing"
	"time"

	"kemi/pipeline/storetest"
)

// TestPromQLCorpus runs Prometheus' own acceptance tests of PromQL on our Queryable: as it was appended, and with restarts in between. With restarts
// range_queries.test is left out: it wants to know of a native histogram that it is no reset of the one before, which the library does not tell of the first in
// a chunk, and a restart begins a new one. Files with many stores run with KEMI_TEST_LONG=1 only.
func TestPromQLCorpus(t *testing.T) {
	open := func(tb testing.TB, dir string, now func() time.Time) storetest.Queried {
		cfg := DefaultConfig()
		cfg.Dir, cfg.BlockDuration = dir, 24*time.Hour
		db, err := Open(cfg, Options{Now: now})
		if err != nil {
			tb.Fatal(err)
		}
		return db
	}
	t.Run("appended", func(t *testing.T) { storetest.PromQL(t, storetest.Corpus{Open: open}) })
	t.Run("loaded", func(t *testing.T) {
		c := storetest.Corpus{Open: open, Move: func(q storetest.Queried, _ bool) (storetest.Queried, error) {
			db := q.(*DB)
			if err := db.Close(); err != nil {
				return nil, err
			}
			again, err := Open(db.cfg, Options{Now: db.now})
			if err == nil {
				err = again.Ready(context.Background())
			}
			return again, err
		}}
		c.Files = []string{"collision.test", "limit.test", "literals.test", "name_label_dropping.test", "native_histograms.test", "staleness.test", "unquoted_utf8_names.test"}
		if os.Getenv("KEMI_TEST_LONG") == "1" {
			c.Files = append(c.Files, "aggregators.test", "at_modifier.test", "duration_expression.test", "extended_vectors.test", "fill-modifier.test", "functions.test",
				"histograms.test", "info.test", "operators.test", "selectors.test", "subquery.test", "trig_functions.test", "type_and_unit.test")
		}
		storetest.PromQL(t, c)
	})
}
