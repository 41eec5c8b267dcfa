package limit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

func id(subject string) kemi.Identity { return kemi.Identity{Subject: subject, Project: "p"} }

func gate(t *testing.T, change func(*Config)) *Gate {
	c := DefaultConfig()
	c.Concurrent, c.PerIdentity, c.Waiting, c.Memory, c.MemoryPerIdentity = 4, 2, 3, 10<<20, 5<<20
	if change != nil {
		change(&c)
	}
	g, err := New(c, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func enter(t *testing.T, g *Gate, who string) *Ticket {
	k, err := g.Enter(t.Context(), id(who))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestHeavyUserWaitsAlone: one with a hundred queries has two places, the next comes in at once, and of those who wait whoever has the fewest is next.
func TestHeavyUserWaitsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate(t, nil)
		var mu sync.Mutex
		var order []string
		seen := func() string {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(order, " ")
		}
		ask := func(who string, then time.Duration) {
			go func() {
				k, err := g.Enter(t.Context(), id(who))
				if err != nil {
					t.Errorf("%s: %v", who, err)
					return
				}
				mu.Lock()
				order = append(order, who)
				mu.Unlock()
				time.Sleep(then)
				k.Leave()
			}()
			synctest.Wait()
		}
		for range 5 {
			ask("heavy", 10*time.Second)
		}
		if got := seen(); got != "heavy heavy" {
			t.Fatal(got)
		}
		ask("kim", time.Second)
		ask("lee", 20*time.Second) // all four places are taken
		ask("kim", time.Second)
		ask("park", time.Second)
		if got := seen(); got != "heavy heavy kim lee" {
			t.Fatal(got)
		}
		time.Sleep(time.Second + time.Millisecond) // kim's first ends: kim and park have none, and kim came first; the heavy one has waited longer, but has two
		synctest.Wait()
		if got := seen(); got != "heavy heavy kim lee kim" {
			t.Fatal(got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := seen(); got != "heavy heavy kim lee kim park heavy heavy heavy" {
			t.Fatal(got)
		}
		if g.running != 0 || g.waiting != 0 || len(g.users) != 0 {
			t.Errorf("left behind: %d running, %d waiting, %d accounts", g.running, g.waiting, len(g.users))
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate(t, nil)
		a, b := enter(t, g, "kim"), enter(t, g, "kim")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		for range 3 {
			go func() {
				_, err := g.Enter(ctx, id("kim"))
				ended <- err
			}()
		}
		synctest.Wait()
		_, err := g.Enter(t.Context(), id("kim"))
		if !errors.Is(err, kemi.ErrLimited) || !strings.Contains(err.Error(), "kim has 2 queries running (limits.perIdentity = 2) and 3 waiting (limits.waiting = 3)") || kemi.RetryDelay(err) != time.Second {
			t.Errorf("%v", err)
		}
		patient := make(chan error)
		go func() {
			k, err := g.EnterPatiently(t.Context(), id("kim"))
			if err == nil {
				defer k.Leave()
			}
			patient <- err
		}()
		synctest.Wait()
		why := errors.New("went away")
		cancel(why)
		for range 3 {
			if err := <-ended; !errors.Is(err, why) {
				t.Error(err)
			}
		}
		a.Leave()
		a.Leave()
		if err := <-patient; err != nil {
			t.Errorf("patient: %v", err)
		}
		enter(t, g, "kim").Leave()
		b.Leave()
		if g.running != 0 || g.waiting != 0 || len(g.users) != 0 {
			t.Errorf("left behind: %d running, %d waiting, %d accounts", g.running, g.waiting, len(g.users))
		}
	})
}

func TestAllQueuesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate(t, func(c *Config) { c.Concurrent, c.PerIdentity, c.Waiting = 1, 1, 1 })
		k := enter(t, g, "first")
		for i := range 5 {
			go func() {
				if k, err := g.Enter(t.Context(), id(fmt.Sprint(i))); err == nil {
					k.Leave()
				}
			}()
		}
		synctest.Wait()
		if _, err := g.Enter(t.Context(), id("late")); !errors.Is(err, kemi.ErrLimited) || !strings.Contains(err.Error(), "1 queries of all users run (limits.concurrent = 1) and 5 wait (5 × limits.waiting = 5)") {
			t.Error(err)
		}
		k.Leave()
		synctest.Wait()
	})
}

func TestMemory(t *testing.T) {
	g := gate(t, nil)
	a, b, c, d := enter(t, g, "kim"), enter(t, g, "kim"), enter(t, g, "lee"), enter(t, g, "park")
	for _, s := range []struct {
		k     *Ticket
		bytes int64
		kind  error
		say   string
	}{
		{a, 3 << 20, nil, ""},
		{a, 3 << 20, kemi.ErrTooLarge, "limits.memoryPerIdentity = 5 MiB (used 3 MiB when it asked for 3072 KiB more)"},
		{b, 3 << 20, kemi.ErrLimited, "the queries of kim hold 3 MiB of limits.memoryPerIdentity = 5 MiB"},
		{b, 1 << 20, nil, ""},
		{c, 5 << 20, nil, ""},
		{d, 2 << 20, kemi.ErrLimited, "all queries together hold 9 MiB of limits.memory = 10 MiB"},
		{a, -2 << 20, nil, ""},
		{d, 2 << 20, nil, ""},
	} {
		err := s.k.Hold(s.bytes)
		if !errors.Is(err, s.kind) || err != nil && !strings.Contains(err.Error(), s.say) {
			t.Errorf("%d: %v", s.bytes, err)
		}
	}
	if a.Held() != 1<<20 || g.bytes != 9<<20 {
		t.Errorf("%d held by a, %d by all", a.Held(), g.bytes)
	}
	for _, k := range []*Ticket{a, b, c, d, d} {
		k.Leave()
	}
	if g.bytes != 0 || g.running != 0 || len(g.users) != 0 {
		t.Errorf("left behind: %d bytes, %d running, %d accounts", g.bytes, g.running, len(g.users))
	}
	if err := a.Hold(1); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("a place given back: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	g := gate(t, func(c *Config) { c.Waiting = 1000 })
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7)*100*time.Microsecond)
			defer cancel()
			if i%2 == 0 {
				ctx = t.Context()
			}
			k, err := g.Enter(ctx, id(fmt.Sprint(i%5)))
			if err != nil {
				return
			}
			_ = k.Hold(1 << 18)
			k.Leave()
		})
	}
	wg.Wait()
	if g.running != 0 || g.waiting != 0 || g.bytes != 0 || len(g.users) != 0 {
		t.Errorf("left behind: %d running, %d waiting, %d bytes, %d accounts", g.running, g.waiting, g.bytes, len(g.users))
	}
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for key, change := range map[string]func(*Config){
		"concurrent": func(c *Config) { c.Concurrent = 0 }, "perIdentity": func(c *Config) { c.PerIdentity = 21 }, "waiting": func(c *Config) { c.Waiting = -1 },
		"memory": func(c *Config) { c.Memory = 5 }, "memoryPerIdentity": func(c *Config) { c.Memory, c.MemoryPerIdentity = 1<<20, 1<<21 }, "retryAfter": func(c *Config) { c.RetryAfter = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); !errors.Is(err, kemi.ErrInvalid) || !strings.HasPrefix(err.Error(), key+": value ") {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := New(c, nil); err == nil {
			t.Errorf("%s: New takes it", key)
		}
	}
	g, err := New(DefaultConfig(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := g.Config(); c.Memory <= 0 || c.MemoryPerIdentity != c.Memory/2 {
		t.Errorf("%+v", c)
	}
}
