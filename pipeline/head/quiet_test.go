package head

import (
	"fmt"
	"testing"
	"time"

	"kemi"
)

// spread is n samples of one series each, beginning with number from.
func spread(from, n int) []kemi.Points {
	at := time.Now().UnixMilli()
	ps := make([]kemi.Points, n)
	for i := range ps {
		ps[i] = one(fmt.Sprintf("s%d", (from+i)%1000), at+int64((from+i)/1000), float64(from+i))
	}
	return ps
}

// TestQuiet: a checkpoint out of turn is due when much is to be replayed and next to nothing comes any more; not while samples come, nor for a few, nor so soon
// that checkpoints would take all of the time.
func TestQuiet(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	var q quiet
	// due looks as often as it takes for a checkpoint to be due, while n samples come in all.
	sent := 0
	put := func(n int) {
		t.Helper()
		w.put(spread(sent, n)...)
		sent += n
	}
	due := func(n int) bool {
		t.Helper()
		for i := range quietLooks + 1 {
			if n > 0 && i > 0 {
				put(n / quietLooks)
			}
			if db.quiet(&q) {
				return true
			}
		}
		return false
	}
	put(1000)
	if due(0) {
		t.Error("due for few samples")
	}
	put(quietSamples)
	if due(quietSamples / 2) {
		t.Error("due while many samples come")
	}
	if !due(quietSamples / 100) {
		t.Error("not due when few come")
	}
	db.took = time.Hour
	db.ended = time.Now()
	if due(0) {
		t.Error("due although the last one took an hour")
	}
	db.took = 0
	if !due(0) {
		t.Error("not due when it has become quiet")
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if due(0) {
		t.Error("due after a checkpoint")
	}
	put(2000)
	if err := db.makeCheckpoint(true); err != nil {
		t.Fatal(err)
	}
	if due(2 * quietSamples) {
		t.Error("due after a plain one while many samples come")
	}
	if err := db.makeCheckpoint(true); err != nil {
		t.Fatal(err)
	}
	db.took = 0
	if !due(100) {
		t.Error("not due after a plain one when it has become quiet")
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	db.took = 0
	q = quiet{}
	put(1000)
	long := 0
	for !due(0) {
		if long++; long > 2*quietLong {
			t.Fatal("not due for few samples when it has been quiet for long")
		}
	}
	if long < quietLong/2 {
		t.Errorf("due for few samples after %d times as long", long)
	}
}

// TestQuietCheckpoint: the positions follow by themselves when it has become quiet.
func TestQuietCheckpoint(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.CheckpointQuiet = 100 * time.Millisecond
	db := mustOpen(t, cfg)
	w := newWriter(t, db)
	for i := range 70 {
		w.put(spread(1000*i, 1000)...)
	}
	for deadline := time.Now().Add(20 * time.Second); db.Positions()[0] != w.next; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("positions %v, want %d", db.Positions(), w.next)
		}
	}
}
