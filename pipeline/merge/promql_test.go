package merge

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"kemi/pipeline/storetest"
)

// TestPromQLCorpus runs Prometheus' own acceptance tests of PromQL on the merged store: what a test loads is settled up to some moment, and live from
// there on. Files with many stores run with KEMI_TEST_LONG=1 only. native_histograms.test and range_queries.test are pipeline/tsdb's: they want to know of
// the first native histogram in a range that it is no reset of the one before, which is not told where the layers meet, nor of what is settled.
func TestPromQLCorpus(t *testing.T) {
	files := []string{"aggregators.test", "at_modifier.test", "collision.test", "literals.test", "name_label_dropping.test", "operators.test", "selectors.test",
		"staleness.test", "subquery.test", "unquoted_utf8_names.test"}
	if os.Getenv("KEMI_TEST_LONG") == "1" {
		files = append(files, "duration_expression.test", "extended_vectors.test", "fill-modifier.test", "functions.test", "histograms.test", "info.test", "limit.test",
			"trig_functions.test", "type_and_unit.test")
	}
	settled := 0
	storetest.PromQL(t, storetest.Corpus{
		Files: files,
		Open:  func(tb testing.TB, dir string, now func() time.Time) storetest.Queried { return openTest(tb, dir, now) },
		Move: func(q storetest.Queried, whole bool) (storetest.Queried, error) {
			s := q.(*Store)
			if whole {
				return s, nil
			}
			if _, err := s.Settle(context.Background(), true); err != nil {
				return nil, err
			}
			if s.SettledStats().Blocks == 0 {
				return nil, errors.New("nothing was settled")
			}
			settled++
			return s, nil
		},
	})
	t.Logf("%d loads were settled", settled)
	if settled < 50 {
		t.Errorf("%d loads were settled", settled)
	}
}
