package head

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// TestTogether appends, settles, makes checkpoints and asks at the same time. Each sample is settled once, or is there in the end. The race detector looks on.
func TestTogether(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxSeriesPerProject = 1 << 40
	db := mustOpen(t, cfg)
	const rounds, perRound = 30, 50
	begin := time.Now().Add(-time.Hour).UnixMilli()
	name := func(i int) string { return fmt.Sprint("m", i%400) }
	turn := make(chan struct{})
	go func() {
		defer close(turn)
		table := codec.NewTable(nil, time.Now)
		for i := range rounds * perRound {
			batch := table.BatchOf("default", []kemi.Points{one(name(i), begin+int64(i)*10, float64(i)), one(name(i+7), begin+int64(i)*10-5, float64(i))})
			for range 3 {
				err := db.Append(t.Context(), batch, store.Position{Next: int64(i + 1)})
				if err == nil {
					break
				}
				batch = codec.NewTable(nil, time.Now).BatchOf("default", []kemi.Points{one(name(i), begin+int64(i)*10, float64(i)), one(name(i+7), begin+int64(i)*10-5, float64(i))})
			}
			if i%perRound == 0 {
				turn <- struct{}{}
			}
		}
	}()
	seen := map[float64]int{}
	round, settled := 0, 0
	for range turn {
		if round++; round%3 == 0 {
			if _, err := db.Flush(t.Context(), kemi.Millis(begin+int64(round)*perRound*5)); err != nil {
				t.Error(err)
			}
			due, _ := db.Sources()
			for _, s := range due {
				settled++
				for x, err := range db.ReadSource(t.Context(), s.ID) {
					if err != nil {
						t.Error(err)
					}
					for _, v := range x.Values {
						seen[v]++
					}
				}
				if err := db.Retire([]string{s.ID}); err != nil {
					t.Error(err)
				}
			}
		}
		if err := db.checkpoint(); err != nil {
			t.Error(err)
		}
		db.Has("default", kemi.LabelsOf(kemi.MetricName, "m1"))
		db.whatExploded("default", waiting{})
		if err := db.Room("default", nil); err != nil {
			t.Error(err)
		}
		if _, err := db.Status(t.Context(), reader, 3); err != nil {
			t.Error(err)
		}
		q := mustQuery(t, db, 0, math.MaxInt64)
		for _, s := range expand(t, q.Select(t.Context(), true, nil, everything(t), labels.MustNewMatcher(labels.MatchNotEqual, "__name__", "m3"))) {
			text(t, s.Iterator(nil))
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	for p, err := range db.Select(t.Context(), reader, nil, kemi.Range{From: 0, To: math.MaxInt64}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range p.Values {
			seen[v]++
		}
	}
	if settled < rounds/6 {
		t.Errorf("settled %d times", settled)
	}
	for i := range rounds * perRound {
		if n := seen[float64(i)]; n != 2 {
			t.Errorf("of the two samples of batch %d, %d are there or settled", i, n)
		}
	}
}
