package merge

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kemi/pipeline/batch"
	"kemi/pipeline/codec"
	"kemi/pipeline/head"
	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

func openTest(tb testing.TB, dir string, now func() time.Time) *Store {
	tb.Helper()
	live := head.DefaultConfig()
	live.Dir, live.Checkpoint, live.CheckpointQuiet = filepath.Join(dir, "metrics"), time.Hour, 0 // only when it is asked for: the suite copies the folder
	settles := batch.DefaultConfig()
	settles.Dir = filepath.Join(dir, "settled")
	s, err := Open(tb.Context(), live, settles, Options{Now: now})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// restless is a Store that is settled at random moments, before something is appended. (Not beside it: the suite's crash copies the folder,
// which nothing may change meanwhile; what a crash leaves in the middle is TestCrashBetweenSteps.)
type restless struct {
	*Store
	tb     testing.TB
	mu     sync.Mutex
	rnd    *rand.Rand
	closed atomic.Bool
}

func (r *restless) Close() error {
	r.closed.Store(true)
	return r.Store.Close()
}

func (r *restless) Append(ctx context.Context, b *codec.SeriesBatch, at store.Position) error {
	r.mu.Lock()
	n := r.rnd.IntN(60)
	r.mu.Unlock()
	switch {
	case r.closed.Load(): // there is nothing to settle: the suite looks at what Append says
	case n == 0:
		r.settle(false)
	case n == 1:
		r.settle(true)
	case n == 2:
		if _, err := r.live.Flush(context.WithoutCancel(ctx), 1<<62); err != nil {
			r.tb.Errorf("flush: %v", err)
		}
	}
	return r.Store.Append(ctx, b, at)
}

func (r *restless) settle(all bool) {
	if _, err := r.Settle(context.Background(), all); err != nil {
		r.tb.Errorf("settle: %v", err)
	}
}

func TestConformance(t *testing.T) {
	opened := map[string]uint64{}
	storetest.Series(t, func(tb testing.TB, dir string, now func() time.Time) store.SeriesStore {
		opened[tb.Name()]++
		seed := uint64(now().UnixMilli()) // which the seed of the case has chosen
		return &restless{Store: openTest(tb, dir, now), tb: tb, rnd: rand.New(rand.NewPCG(seed, opened[tb.Name()]))}
	})
}
