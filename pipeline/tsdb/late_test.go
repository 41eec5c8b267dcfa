package tsdb

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestYearsApart has samples of 2018 and of now in one head, in either order, and compacts.
func TestYearsApart(t *testing.T) {
	const old = 1515917973043
	now := time.Now().UnixMilli()
	hour := int64(3600e3)
	for name, put := range map[string]func(w *writer){
		"old first": func(w *writer) {
			w.put(one("m", old, 1))
			w.put(one("m", now, 2), one("n", now, 3))
		},
		"new first": func(w *writer) {
			w.put(one("m", now, 2), one("n", now, 3))
			w.put(one("m", old, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, testConfig(t.TempDir()))
			w := newWriter(t, db)
			put(w)
			// More of the past, every day of a year, and of the last hours, every minute.
			var want []string
			for d := range int64(365) {
				w.put(one("past", old+d*24*hour, float64(d)))
				want = append(want, fmt.Sprintf("%d=%d", old+d*24*hour, d))
			}
			for i := range int64(300) {
				w.put(one("n", now-300*60e3+i*60e3, float64(i)))
			}
			n := samples(t, db, "n")
			check := func(when string) {
				t.Helper()
				if got := samples(t, db, "m"); got != fmt.Sprintf("%d=1 %d=2", old, now) {
					t.Fatalf("%s: m is %s", when, got)
				}
				if got := samples(t, db, "past"); got != strings.Join(want, " ") {
					t.Fatalf("%s: past is %.200s", when, got)
				}
				if got := samples(t, db, "n"); got != n {
					t.Fatalf("%s: n is %.200s", when, got)
				}
			}
			check("before")
			began := time.Now()
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.compactLate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("compacted to %d blocks in %v", db.Stats().Blocks, time.Since(began))
			if took := time.Since(began); took > time.Minute {
				t.Errorf("compaction took %v", took)
			}
			if b := db.Stats().Blocks; b > 40 || b < 3 {
				t.Errorf("%d blocks", b)
			}
			check("compacted")
			// Conflicts and duplicates with what lies in blocks.
			before := testutil.ToFloat64(db.m.conflicts)
			w.put(one("m", old, 99), one("past", old+24*hour, 1))
			if got := testutil.ToFloat64(db.m.conflicts) - before; got != 1 {
				t.Errorf("%v conflicts with blocks, want 1", got)
			}
			check("after a conflict")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = mustOpen(t, testConfig(db.cfg.Dir))
			check("opened again")
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			check("compacted again")
		})
	}
}

// TestLateIntoHead has late samples in blocks that reach into what the head still holds, merges, and restarts: what is in the
// WAL only must not be taken for written.
func TestLateIntoHead(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	for i := range int64(6 * 60) {
		w.put(one("m", now-6*3600e3+i*60e3, float64(i)))
	}
	for i := range int64(6 * 60) {
		w.put(one("m", now-6*3600e3+i*60e3+1, float64(i)))
	}
	want := samples(t, db, "m")
	for range 3 {
		if err := db.compactLate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.put(one("m", now-3600e3+2, 1), one("m", now-5*3600e3+2, 1))
		if got := strings.Fields(samples(t, db, "m")); len(got) != 722 {
			t.Fatalf("%d samples", len(got))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = mustOpen(t, testConfig(db.cfg.Dir))
		w.db = db
		if got := strings.Fields(samples(t, db, "m")); len(got) != 722 {
			t.Fatalf("opened again: %d samples of %d", len(got), len(strings.Fields(want))+2)
		}
	}
}

// TestForgottenSeries appends to series that the head has forgotten since the table learned their number.
func TestForgottenSeries(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("rare", now-10*3600e3, 1))
	for i := range int64(600) {
		w.put(one("often", now-10*3600e3+i*60e3, 1))
	}
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := db.Stats().Series; n != 1 {
		t.Fatalf("%d series in memory, want 1", n)
	}
	w.put(one("rare", now, 2))
	w.put(one("rare", now+1, 3))
	if got, want := samples(t, db, "rare"), fmt.Sprintf("%d=1 %d=2 %d=3", now-10*3600000, now, now+1); got != want {
		t.Errorf("rare is %s, want %s", got, want)
	}
}
