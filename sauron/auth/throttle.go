package auth

import (
	"sync"
	"time"
)

// throttle slows down whoever tries secrets: after some failures from one address it refuses for a while.
type throttle struct {
	now  func() time.Time
	mu   sync.Mutex
	fail map[string]failures
}

type failures struct {
	n     int
	until time.Time
}

const (
	freeTries    = 5
	blockFor     = 30 * time.Second
	maxAddresses = 10_000
)

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, fail: map[string]failures{}}
}

// wait is how long the address has to wait before its next try, or 0.
func (t *throttle) wait(addr string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.fail[addr]
	if f.n < freeTries {
		return 0
	}
	return max(0, f.until.Sub(t.now()))
}

func (t *throttle) failed(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.fail) >= maxAddresses {
		clear(t.fail) // bounded; the worst is that a few get five more tries
	}
	f := t.fail[addr]
	f.n++
	f.until = t.now().Add(blockFor)
	t.fail[addr] = f
}

func (t *throttle) succeeded(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.fail, addr)
}
