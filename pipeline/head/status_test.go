package head

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

func TestStatus(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	if s := db.Stats(); s.Series != 0 || s.MinTime != 0 || s.MaxTime != 0 {
		t.Errorf("empty: %+v", s)
	}
	w.put(
		kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", "a"), At: []kemi.Millis{kemi.Millis(now)}, Values: []float64{1}},
		kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", "bb"), At: []kemi.Millis{kemi.Millis(now)}, Values: []float64{1}},
		one("mem", now, 1))
	if err := db.Append(t.Context(), w.table.BatchOf("other", []kemi.Points{one("secret", now, 1), one("secret", now-60_000, 1)}), store.Position{Next: 9}); err != nil {
		t.Fatal(err)
	}
	check := func(id kemi.Identity, want string) {
		t.Helper()
		s, err := db.Status(t.Context(), id, 1)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(s); string(b) != want {
			t.Errorf("got  %s\nwant %s", b, want)
		}
	}
	check(reader, fmt.Sprintf(`{"headStats":{"numSeries":3,"numLabelPairs":4,"chunkCount":3,"minTime":%d,"maxTime":%d},"seriesCountByMetricName":[{"name":"cpu","value":2}],`+
		`"labelValueCountByLabelName":[{"name":"__name__","value":2}],"memoryInBytesByLabelName":[{"name":"__name__","value":39}],"seriesCountByLabelValuePair":[{"name":"__name__=cpu","value":2}]}`, now, now))
	check(kemi.Identity{Subject: "test", Project: "none"}, `{"headStats":{"numSeries":0,"numLabelPairs":0,"chunkCount":0,"minTime":0,"maxTime":0},"seriesCountByMetricName":[],`+
		`"labelValueCountByLabelName":[],"memoryInBytesByLabelName":[],"seriesCountByLabelValuePair":[]}`)
	if _, err := db.Status(t.Context(), kemi.Identity{}, 1); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("without a project: %v", err)
	}
	if s := db.Stats(); s.Series != 4 || s.MinTime != kemi.Millis(now-60_000) || s.MaxTime != kemi.Millis(now) || s.LateSamples != 1 {
		t.Errorf("stats %+v", s)
	}
	w.put(one("mem", 1000, 1), one("mem", now+365*24*3600e3, 1)) // refused
	if s := db.Stats(); s.MaxTime > kemi.Millis(now+3600e3) || s.MinTime < kemi.Millis(now)-11*365*24*3600e3 {
		t.Errorf("stats know times that nothing has: %+v", s)
	}
	for i := range int64(100) {
		w.put(one("full", now-1000+i, float64(i)))
	}
	if s := db.Stats(); s.Files != 1 || s.ChunkBytes < 3*recordHeader {
		t.Errorf("stats %+v", s)
	}
	settleAll(t, db, now+1)
	w.put(one("next", now+1000, 1))
	if s := db.Stats(); s.LateSamples != 0 || s.MinTime != kemi.Millis(now+1) || s.MaxTime > kemi.Millis(now+3600e3) {
		t.Errorf("settled: %+v", s)
	}
}

// TestLargest: whatever the order, the largest stay.
func TestLargest(t *testing.T) {
	for _, limit := range []int{0, 1, 10, 5000} {
		l := largest{limit: limit}
		for i := range 10_000 {
			n := (i * 7919) % 10_000
			l.add("n", fmt.Sprintf("v%05d", n), uint64(n/2))
		}
		got := l.list()
		if len(got) != limit {
			t.Fatalf("%d entries, want %d", len(got), limit)
		}
		for i, c := range got {
			if n := 9999 - i ^ 1; c.Value != uint64(n/2) || c.Name != fmt.Sprintf("n=v%05d", n) {
				t.Fatalf("entry %d is %+v, want %d", i, c, n)
			}
		}
	}
}
