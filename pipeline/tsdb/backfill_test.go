package tsdb

import (
	"fmt"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// TestBackfillBesideLiveData writes a past that lies out of the head's reach while there is a present: in order, again, in conflict, through a second
// table (the same series written in another form), and across a restart. Each sample is there once, the first value stays.
func TestBackfillBesideLiveData(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.Dir = dir
	db, err := Open(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { db.Close() }()
	now := kemi.MillisOf(time.Now())
	past := now - 12*3600_000
	one, two := codec.NewTable(nil, time.Now), codec.NewTable(nil, time.Now)
	next := int64(0)
	write := func(table *codec.Table, series string, value float64, at ...kemi.Millis) {
		t.Helper()
		next++
		p := kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, series)}
		for _, x := range at {
			p.At, p.Values = append(p.At, x), append(p.Values, value)
		}
		if err := db.Append(t.Context(), table.BatchOf("p", []kemi.Points{p}), store.Position{Next: next}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(series string, samples ...string) {
		t.Helper()
		var got []string
		id := kemi.Identity{Project: "p", Permissions: kemi.MetricsRead}
		for p, err := range db.Select(t.Context(), id, store.Selector{{Name: kemi.MetricName, Value: series}}, kemi.Range{From: 0, To: now + 1000}) {
			if err != nil {
				t.Fatal(err)
			}
			for i := range p.At {
				got = append(got, fmt.Sprintf("%d=%g", (p.At[i]-past)/1000, p.Values[i]))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(samples) {
			t.Fatalf("%s: got %v, want %v", series, got, samples)
		}
	}
	write(one, "live", 1, now)
	write(one, "s", 1, past, past+1000)
	write(one, "s", 2, past+2000)              // behind what is known: no look-up
	write(one, "s", 2, past+2000)              // again
	write(one, "s", 9, past+1000)              // in conflict
	write(one, "s", 3, past+4000, past+3000)   // not in order
	write(two, "s", 9, past+4000)              // in conflict, through another entry
	write(two, "s", 4, past+6000)              // newer than the first entry knows
	write(one, "s", 9, past+6000)              // in conflict with that
	write(one, "s", 5, past+5000)              // between
	write(one, "s", 6, past+7000, past+7000)   // twice in one batch
	write(one, "both", 1, now-1000)            // in order first,
	write(one, "both", 2, past)                // then the past,
	write(one, "both", 9, now-1000, past, now) // then both again, and something new
	want("s", "0=1", "1=1", "2=2", "3=3", "4=3", "5=5", "6=4", "7=6")
	end := (now - past) / 1000
	want("both", "0=2", fmt.Sprintf("%d=1", end-1), fmt.Sprintf("%d=9", end))

	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(cfg, Options{}); err != nil {
		t.Fatal(err)
	}
	write(two, "s", 9, past+7000) // the table is older than this DB: what it knew counts no more
	write(one, "s", 9, past+6000)
	write(one, "s", 8, past+8000)
	want("s", "0=1", "1=1", "2=2", "3=3", "4=3", "5=5", "6=4", "7=6", "8=8")
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(one, "s", 9, past+8000)
	write(one, "s", 9, past+9000)
	want("s", "0=1", "1=1", "2=2", "3=3", "4=3", "5=5", "6=4", "7=6", "8=8", "9=9")
}

// BenchmarkBackfill writes in order, but behind live data: ns a sample.
func BenchmarkBackfill(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Dir = b.TempDir()
	db, err := Open(cfg, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	now := kemi.MillisOf(time.Now())
	table := codec.NewTable(nil, time.Now)
	points := make([]kemi.Points, 2000)
	for i := range points {
		points[i] = kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "m", "host", fmt.Sprint(i)), At: make([]kemi.Millis, 1), Values: make([]float64, 1)}
	}
	live := []kemi.Points{{Labels: kemi.LabelsOf(kemi.MetricName, "live"), At: []kemi.Millis{now}, Values: []float64{1}}}
	if err := db.Append(b.Context(), table.BatchOf("p", live), store.Position{Next: 1}); err != nil {
		b.Fatal(err)
	}
	n := int64(0)
	for b.Loop() {
		n++
		for i := range points {
			points[i].At[0] = now - 12*3600_000 + kemi.Millis(n*1000)
			points[i].Values[0] = float64(n)
		}
		b.StopTimer()
		batch := table.BatchOf("p", points)
		b.StartTimer()
		if err := db.Append(b.Context(), batch, store.Position{Next: n + 1}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*int64(len(points))), "ns/sample")
}
