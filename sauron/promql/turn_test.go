package promql

import (
	"context"
	"runtime"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/storetest"
	"kemi/sauron/limit"
)

// TestTurns: queries wait while as many others work as there are processors, in columns and on the engine, and do not hold their own turn while their answer is
// written.
func TestTurns(t *testing.T) {
	gate, err := limit.New(limit.DefaultConfig(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(DefaultConfig(), Options{Source: storetest.InColumns{Of: testStorage(t)}, Gate: gate, Now: func() time.Time { return time.Unix(600, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	others := make([]*limit.Ticket, runtime.GOMAXPROCS(0))
	for i := range others {
		if others[i], err = gate.Enter(t.Context(), kemi.Identity{Subject: "other", Project: "default"}); err != nil {
			t.Fatal(err)
		}
		defer others[i].Leave()
	}
	for name, q := range map[string]request{
		"columns": {id: reader, expr: "sum(up)"}, "both": {id: reader, expr: "topk(1, sum by (job) (up))"}, "engine": {id: reader, expr: "up", counted: true},
	} {
		q.start, q.end = time.Unix(540, 0), time.Unix(540, 0)
		for _, o := range others {
			if err := o.Work(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		out, err := a.execute(ctx, q)
		cancel()
		if err == nil {
			out.close()
			t.Errorf("%s: answered while it was the turn of others", name)
		}
		for _, o := range others {
			o.Rest()
		}
		if out, err = a.execute(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// The answer is still to be written: all turns are free again.
		for _, o := range others {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if err := o.Work(ctx, 0); err != nil {
				t.Errorf("%s: its turn is held: %v", name, err)
			}
			cancel()
			defer o.Rest()
		}
		for _, o := range others {
			o.Rest()
		}
		out.close()
	}
}
