package limit

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kemi"
)

// One identity floods with queries that read and read; another asks something small again and again. Counted in stretches that the heavy ones read
// meanwhile, and not in time.
func TestLightQueryAmongHeavyOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(Config{Concurrent: 20, PerIdentity: 10, Waiting: 100, RetryAfter: time.Second}, nil)
		if err != nil {
			t.Fatal(err)
		}
		heavy, light := kemi.Identity{Subject: "heavy", Project: "p"}, kemi.Identity{Subject: "light", Project: "p"}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		stretches, atWork, most := 0, 0, 0
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				k, err := g.Enter(ctx, heavy)
				if err != nil {
					return
				}
				defer k.Leave()
				for n := int64(0); k.Work(ctx, n) == nil; n = stretch {
					mu.Lock()
					stretches++
					atWork++
					most = max(most, atWork)
					mu.Unlock()
					time.Sleep(5 * time.Millisecond) // reads
					mu.Lock()
					atWork--
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Second)
		worst := 0
		for range 100 {
			mu.Lock()
			before := stretches
			mu.Unlock()
			k, err := g.Enter(ctx, light)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Work(ctx, 0); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			worst = max(worst, stretches-before)
			mu.Unlock()
			k.Leave()
			time.Sleep(3 * time.Millisecond)
		}
		cancel()
		wg.Wait()
		n := runtime.GOMAXPROCS(0)
		if worst > n {
			t.Errorf("a light query waited for %d stretches of heavy ones; %d work at a time", worst, n)
		}
		if most > n {
			t.Errorf("%d worked at a time, on %d processors", most, n)
		}
		if stretches < 200 {
			t.Errorf("the heavy ones read %d stretches in about two seconds: nobody else wanted the processors", stretches)
		}
		if len(g.turns.lines) != 0 || g.turns.free != n || g.turns.waiting != 0 {
			t.Errorf("left behind: %+v", &g.turns)
		}
	})
}

func TestTurnsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(Config{Concurrent: 20, PerIdentity: 10, Waiting: 100, RetryAfter: time.Second}, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.turns.free = 1
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, of := range []struct {
			subject string
			queries int
		}{{"a", 9}, {"b", 2}, {"c", 1}} {
			for range of.queries {
				wg.Go(func() {
					k, err := g.Enter(ctx, kemi.Identity{Subject: of.subject, Project: "p"})
					if err != nil {
						t.Error(err)
						return
					}
					defer k.Leave()
					for k.Work(ctx, stretch) == nil {
						mu.Lock()
						got[of.subject]++
						mu.Unlock()
						time.Sleep(time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
		for s, n := range got {
			if n < 3000 || n > 3600 {
				t.Errorf("%s had %d turns of about 10000: each identity should have a third", s, n)
			}
		}
	})
}

func TestRestAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(DefaultConfig(), nil)
		if err != nil {
			t.Fatal(err)
		}
		g.turns.free = 1
		enter := func() *Ticket {
			k, err := g.Enter(t.Context(), kemi.Identity{Subject: "s", Project: "p"})
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		a, b := enter(), enter()
		if err := a.Work(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		went := make(chan error, 1)
		go func() { went <- b.Work(ctx, 0) }()
		synctest.Wait()
		cancel()
		if err := <-went; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting without end: %v", err)
		}
		go func() { went <- b.Work(t.Context(), 0) }()
		synctest.Wait()
		a.Rest()
		a.Rest()
		if err := <-went; err != nil {
			t.Errorf("after the other rests: %v", err)
		}
		b.Leave()
		if err := a.Work(t.Context(), 1); err != nil {
			t.Errorf("after the other left: %v", err)
		}
		a.Leave()
		if g.turns.free != 1 || len(g.turns.lines) != 0 {
			t.Errorf("left behind: %+v", &g.turns)
		}
	})
}
