package tsdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

var reader = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.MetricsRead}

func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir = dir
	cfg.Checkpoint = time.Hour // by hand
	return cfg
}

func mustOpen(t *testing.T, cfg Config) *DB {
	t.Helper()
	db, err := Open(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// writer appends to a DB with a table and positions of its own.
type writer struct {
	t     *testing.T
	db    *DB
	table *codec.Table
	next  int64
}

func newWriter(t *testing.T, db *DB) *writer {
	return &writer{t: t, db: db, table: codec.NewTable(nil, time.Now)}
}

func (w *writer) put(ps ...kemi.Points) {
	w.t.Helper()
	w.next++
	if err := w.db.Append(w.t.Context(), w.table.BatchOf("default", ps), store.Position{Next: w.next}); err != nil {
		w.t.Fatal(err)
	}
}

func one(name string, at int64, v float64) kemi.Points {
	return kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, name), At: []kemi.Millis{kemi.Millis(at)}, Values: []float64{v}}
}

func samples(t *testing.T, db *DB, name string) string {
	t.Helper()
	var b strings.Builder
	sel := store.Selector{{Name: kemi.MetricName, Value: name}}
	for p, err := range db.Select(t.Context(), reader, sel, kemi.Range{From: 0, To: math.MaxInt64 / 2}) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.At {
			fmt.Fprintf(&b, "%d=%g ", p.At[i], p.Values[i])
		}
	}
	return strings.TrimSpace(b.String())
}

func TestCounters(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("m", now, 1))
	w.put(one("m", now, 2), one("m", now-10, 1))                                // a conflict, a late one
	w.put(one("m", now-10, 1), one("m", now-10, 3))                             // a duplicate, a conflict
	w.put(one("m", now+20*60e3, 1), one("m", now+30*365*24*3600e3, 1))          // too far ahead
	w.put(one("m", 1000, 1), one("m", now-11*365*24*3600e3, 1))                 // too old
	w.put(one("m", now+5*60e3, 5))                                              // ahead, but within bounds
	w.put(kemi.Points{Labels: nil, At: []kemi.Millis{1}, Values: []float64{1}}) // no labels: still a series of the project
	for name, c := range map[string]struct {
		got  prometheus.Collector
		want float64
	}{
		"appended": {db.m.appended, 3}, "conflicts": {db.m.conflicts, 2}, "duplicates": {db.m.duplicates, 1}, "late": {db.m.late, 1},
		"too far ahead": {db.m.future, 2}, "too old": {db.m.tooOld, 3},
	} {
		if got := testutil.ToFloat64(c.got); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got, want := samples(t, db, "m"), fmt.Sprintf("%d=1 %d=1 %d=5", now-10, now, now+5*60000); got != want {
		t.Errorf("m is %s, want %s", got, want)
	}
}

func TestSeriesLimit(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxSeries = 3
	db := mustOpen(t, cfg)
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	for i := range 6 {
		w.put(one(fmt.Sprintf("m%d", i), now, 1))
	}
	w.put(one("m0", now+1, 2), one("m5", now+1, 2))
	w = newWriter(t, db) // another table: the series are known to the store only
	w.put(one("m1", now+1, 3), one("m4", now+1, 3))
	if got := testutil.ToFloat64(db.m.overLimit); got != 5 {
		t.Errorf("%v samples over the limit, want 5", got)
	}
	if got := samples(t, db, "m0") + samples(t, db, "m1") + samples(t, db, "m4"); got != fmt.Sprintf("%d=1 %d=2%d=1 %d=3", now, now+1, now, now+1) {
		t.Errorf("got %s", got)
	}
}

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(filepath.Join(file, "tsdb")), Options{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("folder below a file: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, positionsFile), []byte(`{"version":99}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(dir), Options{}); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("positions of a later version: %v", err)
	}
	for key, change := range map[string]func(*Config){
		"dir": func(c *Config) { c.Dir = "" }, "retention": func(c *Config) { c.Retention = time.Hour }, "maxFuture": func(c *Config) { c.MaxFuture = 2 * time.Hour },
		"maxSeries": func(c *Config) { c.MaxSeries = 0 }, "maxExemplars": func(c *Config) { c.MaxExemplars = -1 }, "checkpoint": func(c *Config) { c.Checkpoint = 1 },
		"blockDuration": func(c *Config) { c.BlockDuration = 48 * time.Hour; c.MaxFuture = time.Minute },
	} {
		cfg := testConfig(t.TempDir())
		change(&cfg)
		if _, err := Open(cfg, Options{}); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestMetadata(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, testConfig(dir))
	db.meta.set("default", "up", md("gauge", "", "old"))
	db.meta.set("default", "up", md("gauge", "", "new"))
	db.meta.set("default", "lat", md("histogram", "seconds", strings.Repeat("x", maxHelp+1)))
	db.meta.set("other", "secret", md("counter", "", ""))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, testConfig(dir))
	all := db.Metadata(reader, "")
	if len(all) != 2 || all["up"].Help != "new" || all["up"].Type != "gauge" || len(all["lat"].Help) != maxHelp {
		t.Errorf("metadata %v", all)
	}
	if one := db.Metadata(reader, "up"); len(one) != 1 {
		t.Errorf("metadata of up: %v", one)
	}
	if one := db.Metadata(reader, "secret"); len(one) != 0 {
		t.Errorf("metadata of another project: %v", one)
	}
}

func TestStatus(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(
		kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", "a"), At: []kemi.Millis{kemi.Millis(now)}, Values: []float64{1}},
		kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "cpu", "host", "bb"), At: []kemi.Millis{kemi.Millis(now)}, Values: []float64{1}},
		one("mem", now, 1))
	if err := db.Append(t.Context(), w.table.BatchOf("other", []kemi.Points{one("secret", now, 1)}), store.Position{Next: 9}); err != nil {
		t.Fatal(err)
	}
	s, err := db.Status(t.Context(), reader, 1)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(s)
	want := fmt.Sprintf(`{"headStats":{"numSeries":3,"numLabelPairs":4,"chunkCount":3,"minTime":%d,"maxTime":%d},"seriesCountByMetricName":[{"name":"cpu","value":2}],`+
		`"labelValueCountByLabelName":[{"name":"__name__","value":2}],"memoryInBytesByLabelName":[{"name":"__name__","value":6}],"seriesCountByLabelValuePair":[{"name":"__name__=cpu","value":2}]}`, now, now)
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if _, err := db.Status(t.Context(), kemi.Identity{}, 1); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("without a project: %v", err)
	}
	if st := db.Stats(); st.Series != 4 || st.LogBytes == 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestFreshness(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	db.SetReplaying("replay under way")
	if f := db.Freshness(); f.Complete || f.Reason != "replay under way" || f.AsOf != 0 {
		t.Errorf("%+v", f)
	}
	newWriter(t, db).put(one("m", time.Now().UnixMilli(), 1))
	db.SetReplaying("")
	if f := db.Freshness(); !f.Complete || f.Reason != "" || time.Since(f.AsOf.Time()) > time.Minute {
		t.Errorf("%+v", f)
	}
}

func TestNothingLeft(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	db, err := Open(testConfig(t.TempDir()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	newWriter(t, db).put(one("m", time.Now().UnixMilli(), 1))
	for range 2 {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoAllocations: a batch of known series costs a few allocations, not some per sample.
func TestNoAllocations(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	var ps []kemi.Points
	for i := range 1000 {
		ps = append(ps, one(fmt.Sprintf("m%d", i), 0, 0))
	}
	batch := w.table.BatchOf("default", ps)
	at := time.Now().Add(-time.Hour).UnixMilli()
	round := func() {
		at += 1000
		for i := range batch.At {
			batch.At[i] = kemi.Millis(at)
		}
		if err := db.Append(t.Context(), batch, store.Position{Next: at}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		round()
	}
	// A chunk of 120 samples grows a few times and is replaced once: well below one allocation in ten samples.
	if n := testing.AllocsPerRun(100, round); n > 100 {
		t.Errorf("%v allocations for 1000 samples", n)
	}
}

func md(kind, unit, help string) metadata.Metadata {
	return metadata.Metadata{Type: model.MetricType(kind), Unit: unit, Help: help}
}
