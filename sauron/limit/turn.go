package limit

import (
	"context"
	"slices"
	"sync"
)

// turns divide the processor. As many queries work at a time as there are processors; each, when it has read so many samples, lets others go on
// if any wait. Who comes next is the identity that has the fewest at work and has waited longest since it last had a turn: so a light query waits
// for a few stretches of the heavy ones of others, however many of them there are.
type turns struct {
	mu      sync.Mutex
	free    int
	clock   uint64
	waiting int
	lines   map[user]*line
}

// line is what one identity has at work and waiting.
type line struct {
	working int
	last    uint64 // when it last got a turn
	waiting []*turn
}

type turn struct {
	granted bool
	ready   chan struct{}
}

// stretch is how many samples a query reads before it lets others go on: a few milliseconds' worth.
const stretch = 1 << 18

// Work notes that the query has read so many samples since the last call. It waits where others are to go on first, and before the first of
// them has come. The error is the cause of ctx's end.
func (t *Ticket) Work(ctx context.Context, samples int64) error {
	t.worked += samples
	if t.atWork && t.worked < stretch {
		return nil
	}
	t.worked = 0
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s := &t.g.turns
	s.mu.Lock()
	l := s.lines[t.who]
	if l == nil {
		l = &line{}
		s.lines[t.who] = l
	}
	if t.atWork {
		if s.waiting == 0 {
			s.mu.Unlock()
			return nil
		}
		t.atWork = false
		l.working--
		s.free++
	}
	if s.waiting == 0 && s.free > 0 {
		s.grant(l)
		s.mu.Unlock()
		t.atWork = true
		return nil
	}
	w := &turn{ready: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	s.waiting++
	s.next()
	s.mu.Unlock()
	select {
	case <-w.ready:
		t.atWork = true
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.granted { // both happened
		l.working--
		s.free++
		s.next()
	} else {
		l.waiting = slices.DeleteFunc(l.waiting, func(x *turn) bool { return x == w })
		s.waiting--
	}
	s.tidy(t.who, l)
	return context.Cause(ctx)
}

// Rest gives the turn back while the query waits for something else, such as its reader. The next Work asks for one again.
func (t *Ticket) Rest() {
	if !t.atWork {
		return
	}
	t.atWork, t.worked = false, 0
	s := &t.g.turns
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[t.who]
	l.working--
	s.free++
	s.next()
	s.tidy(t.who, l)
}

func (s *turns) grant(l *line) {
	s.clock++
	l.last = s.clock
	l.working++
	s.free--
}

// next gives free turns to those who wait.
func (s *turns) next() {
	for s.free > 0 && s.waiting > 0 {
		var best *line
		for _, l := range s.lines {
			if len(l.waiting) > 0 && (best == nil || l.working < best.working || l.working == best.working && l.last < best.last) {
				best = l
			}
		}
		w := best.waiting[0]
		best.waiting = best.waiting[1:]
		s.waiting--
		s.grant(best)
		w.granted = true
		close(w.ready)
	}
}

func (s *turns) tidy(who user, l *line) {
	if l.working == 0 && len(l.waiting) == 0 && s.lines[who] == l {
		delete(s.lines, who)
	}
}
