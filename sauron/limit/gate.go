package limit

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

// Gate lets queries in. Its methods may be called concurrently.
type Gate struct {
	cfg     Config
	refused *prometheus.CounterVec

	mu      sync.Mutex
	running int
	waiting int
	bytes   int64
	users   map[user]*account // those with queries that run or wait
	turn    uint64            // counts those who waited, for who came first
	entered uint64            // how many wanted to come in

	turns turns
}

// user is on whose account a query goes: a token or a person, within a project.
type user struct{ project, subject string }

type account struct {
	running int
	bytes   int64
	waiting []*waiter // the first came first
}

type waiter struct {
	turn  uint64
	ready chan struct{} // closed when it has a place
	in    bool
}

// New makes a Gate. Without a Registerer it is not seen in the metrics.
func New(cfg Config, r prometheus.Registerer) (*Gate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Gate{
		cfg: cfg.complete(), users: map[user]*account{}, turns: turns{free: runtime.GOMAXPROCS(0), lines: map[user]*line{}},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_query_refused_total", Help: "Queries refused by the gate, by reason."}, []string{"reason"}),
	}
	for _, reason := range []string{"queue", "memory"} {
		g.refused.WithLabelValues(reason)
	}
	if r == nil {
		return g, nil
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			g.mu.Lock()
			defer g.mu.Unlock()
			return read()
		})
	}
	for _, c := range []prometheus.Collector{
		g.refused,
		gauge("kemi_query_running", "Queries that run.", func() float64 { return float64(g.running) }),
		gauge("kemi_query_waiting", "Queries that wait for a place.", func() float64 { return float64(g.waiting) }),
		gauge("kemi_query_memory_bytes", "What the queries under way hold, as they reckon.", func() float64 { return float64(g.bytes) }),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("query gate: register metrics: %w", err)
		}
	}
	return g, nil
}

// Entered is how many queries wanted to come in so far, but for those that wait patiently.
func (g *Gate) Entered() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.entered
}

// Config is what holds, the figures that were left to the process included.
func (g *Gate) Config() Config { return g.cfg }

// Ticket is a query's place. It is the query's own: one goroutine at a time calls its methods.
type Ticket struct {
	g    *Gate
	who  user
	held int64
	gone bool

	atWork bool  // it has a turn
	worked int64 // samples since it got it
}

// Enter waits for a place. The error is ErrLimited if the identity has too many queries waiting, or the cause of ctx's end.
func (g *Gate) Enter(ctx context.Context, id kemi.Identity) (*Ticket, error) {
	return g.enter(ctx, id, false)
}

// EnterPatiently waits for a place however many wait already. It is for what asks on its own, such as rules: that comes in bounded number, and to refuse it
// would be to leave an alert out.
func (g *Gate) EnterPatiently(ctx context.Context, id kemi.Identity) (*Ticket, error) {
	return g.enter(ctx, id, true)
}

// TryEnter is Enter where there is a place at once, and nil where there is none.
func (g *Gate) TryEnter(id kemi.Identity, patiently bool) *Ticket {
	who := user{id.Project, id.Subject}
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.account(who)
	if !g.free(a) {
		g.tidy(who, a)
		return nil
	}
	if !patiently {
		g.entered++
	}
	return g.admit(who, a)
}

func (g *Gate) account(who user) *account {
	a := g.users[who]
	if a == nil {
		a = &account{}
		g.users[who] = a
	}
	return a
}

func (g *Gate) free(a *account) bool {
	return g.running < g.cfg.Concurrent && a.running < g.cfg.PerIdentity
}

func (g *Gate) admit(who user, a *account) *Ticket {
	g.running++
	a.running++
	return &Ticket{g: g, who: who}
}

func (g *Gate) enter(ctx context.Context, id kemi.Identity, patient bool) (*Ticket, error) {
	who := user{id.Project, id.Subject}
	g.mu.Lock()
	if !patient {
		g.entered++
	}
	a := g.account(who)
	if g.free(a) {
		defer g.mu.Unlock()
		return g.admit(who, a), nil
	}
	if !patient && (len(a.waiting) >= g.cfg.Waiting || g.waiting >= 5*g.cfg.Waiting) {
		running, waiting, all := a.running, len(a.waiting), g.waiting
		g.tidy(who, a)
		g.mu.Unlock()
		g.refused.WithLabelValues("queue").Inc()
		if waiting >= g.cfg.Waiting {
			return nil, kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "%s has %d queries running (limits.perIdentity = %d) and %d waiting (limits.waiting = %d): ask fewer at once, or again later",
				id.Subject, running, g.cfg.PerIdentity, waiting, g.cfg.Waiting), g.cfg.RetryAfter)
		}
		return nil, kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "%d queries of all users run (limits.concurrent = %d) and %d wait (5 × limits.waiting = %d): ask again later",
			g.cfg.Concurrent, g.cfg.Concurrent, all, 5*g.cfg.Waiting), g.cfg.RetryAfter)
	}
	g.turn++
	w := &waiter{turn: g.turn, ready: make(chan struct{})}
	a.waiting = append(a.waiting, w)
	g.waiting++
	g.mu.Unlock()
	select {
	case <-w.ready:
		return &Ticket{g: g, who: who}, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.in { // both happened
		g.leave(who, a)
		return nil, context.Cause(ctx)
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(x *waiter) bool { return x == w })
	g.waiting--
	g.tidy(who, a)
	return nil, context.Cause(ctx)
}

// leave frees a place and gives it to whoever has the fewest, of those to whoever waited longest.
func (g *Gate) leave(who user, a *account) {
	g.running--
	a.running--
	g.tidy(who, a)
	for g.running < g.cfg.Concurrent && g.waiting > 0 {
		var next *account
		for _, x := range g.users {
			if len(x.waiting) == 0 || x.running >= g.cfg.PerIdentity {
				continue
			}
			if next == nil || x.running < next.running || x.running == next.running && x.waiting[0].turn < next.waiting[0].turn {
				next = x
			}
		}
		if next == nil {
			return
		}
		w := next.waiting[0]
		next.waiting = next.waiting[1:]
		g.waiting--
		next.running++
		g.running++
		w.in = true
		close(w.ready)
	}
}

// tidy forgets an account that has nothing left.
func (g *Gate) tidy(who user, a *account) {
	if a.running == 0 && len(a.waiting) == 0 && a.bytes == 0 && g.users[who] == a {
		delete(g.users, who)
	}
}

// Hold notes that the query holds so many bytes more (or, if negative, fewer). The error is ErrTooLarge if the query alone holds more than one identity
// may, so that it would never be answered as it is; ErrLimited if others that are under way hold the rest. Then the bytes are not counted.
func (t *Ticket) Hold(bytes int64) error {
	g := t.g
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.users[t.who]
	if t.gone || a == nil {
		return kemi.Errorf(kemi.ErrUnavailable, "query: its place was given back")
	}
	if bytes > 0 {
		if err := g.mayHold(t, a, bytes); err != nil {
			g.refused.WithLabelValues("memory").Inc()
			return err
		}
	}
	t.held += bytes
	a.bytes += bytes
	g.bytes += bytes
	return nil
}

func (g *Gate) mayHold(t *Ticket, a *account, bytes int64) error {
	const mib = 1 << 20
	switch {
	case t.held+bytes > g.cfg.MemoryPerIdentity:
		return kemi.Errorf(kemi.ErrTooLarge, "query needs more memory than limits.memoryPerIdentity = %d MiB (used %d MiB when it asked for %d KiB more): select fewer series, a shorter range or a larger step",
			g.cfg.MemoryPerIdentity/mib, t.held/mib, (bytes+1023)/1024)
	case a.bytes+bytes > g.cfg.MemoryPerIdentity:
		return kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "the queries of %s hold %d MiB of limits.memoryPerIdentity = %d MiB: ask fewer at once, or for fewer series, a shorter range or a larger step",
			t.who.subject, a.bytes/mib, g.cfg.MemoryPerIdentity/mib), g.cfg.RetryAfter)
	case g.bytes+bytes > g.cfg.Memory:
		return kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "all queries together hold %d MiB of limits.memory = %d MiB: ask again later, or for fewer series, a shorter range or a larger step",
			g.bytes/mib, g.cfg.Memory/mib), g.cfg.RetryAfter)
	}
	return nil
}

// Held is how many bytes the query holds.
func (t *Ticket) Held() int64 {
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	return t.held
}

// Leave gives the place back, and all that was held. Further calls do nothing.
func (t *Ticket) Leave() {
	t.Rest()
	g := t.g
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.users[t.who]
	if t.gone || a == nil {
		return
	}
	t.gone = true
	a.bytes -= t.held
	g.bytes -= t.held
	t.held = 0
	g.leave(t.who, a)
}
