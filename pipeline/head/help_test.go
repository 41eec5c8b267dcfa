package head

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

var reader = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.MetricsRead}

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir = dir
	cfg.Checkpoint, cfg.CheckpointQuiet = time.Hour, 0 // by hand
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

// loading is a DB that is still being loaded, until done is called.
func loading(t *testing.T, cfg Config) (db *DB, done func()) {
	t.Helper()
	db, err := Open(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	db.opened = make(chan struct{})
	t.Cleanup(func() { _ = db.Close() })
	return db, func() { close(db.opened) }
}

// copyDir is what a crash leaves.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
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

// settleAll settles what is older than before, and what came late, and throws it away.
func settleAll(t *testing.T, db *DB, before int64) {
	t.Helper()
	if _, err := db.Flush(t.Context(), kemi.Millis(before)); err != nil {
		t.Fatal(err)
	}
	due, _ := db.Sources()
	for _, s := range due {
		for _, err := range db.ReadSource(t.Context(), s.ID) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Retire([]string{s.ID}); err != nil {
			t.Fatal(err)
		}
	}
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
