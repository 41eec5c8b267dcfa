// Package eval is the state machine of alerts that count log records in a sliding window. It is pure: it takes records'
// times and labels, and the time up to which the stream is known, and says which alerts begin and end. No clock, no
// socket, no goroutine.
//
// Time is the stream's: a record counts at the time that it carries, and the window's end is how far the stream has come. A feed that
// lags delays an alert; it neither hides nor invents one.
package eval

import (
	"slices"
	"time"

	"kemi"
)

// Keyword is a rule: fire while at least Threshold records lie within the last Window, for each combination of values of
// the labels in By.
type Keyword struct {
	Window    time.Duration
	Threshold int64
	By        []string
}

// MaxGroups is how many combinations of labels a rule follows at once. Beyond it new ones are counted together, with no labels.
const MaxGroups = 10_000

// slots is into how many pieces the window is cut. A record leaves the window up to Window/slots after its time is over, never
// before; so a burst that fits the window is never missed.
const slots = 60

// Change is an alert that begins (Firing) or ends.
type Change struct {
	Labels kemi.Labels
	Firing bool
	Count  int64 // in the window, when it changed
	At     kemi.Millis
}

// State is what a rule remembers. It is for one goroutine.
type State struct {
	rule   Keyword
	slot   int64 // milliseconds
	now    kemi.Millis
	groups map[string]*group
	extra  int64
}

type group struct {
	labels kemi.Labels
	counts [slots + 1]int64 // ring of slots, by slot number
	newest int64            // number of the newest slot in the ring
	sum    int64
	since  kemi.Millis // when it began to fire, or 0
}

// New is the state of a rule that has seen nothing.
func New(k Keyword) *State {
	return &State{rule: k, slot: max(1, k.Window.Milliseconds()/slots), groups: map[string]*group{}}
}

// Observe counts a record and returns the alert that it sets off, if any. A record older than the window, as the stream stands, counts
// no more.
func (s *State) Observe(at kemi.Millis, labels func(name string) string) []Change {
	s.now = max(s.now, at)
	number := int64(at) / s.slot
	if number <= int64(s.now)/s.slot-slots-1 {
		return nil
	}
	g := s.groupOf(labels)
	g.advance(max(number, g.newest))
	if number <= g.newest-slots-1 {
		return nil
	}
	g.counts[index(number)]++
	g.sum++
	if g.since == 0 && g.sum >= s.rule.Threshold {
		g.since = s.now
		return []Change{{Labels: g.labels, Firing: true, Count: g.sum, At: s.now}}
	}
	return nil
}

func (s *State) groupOf(labels func(string) string) *group {
	var key []byte
	for _, n := range s.rule.By {
		key = append(append(key, labels(n)...), 0)
	}
	g := s.groups[string(key)]
	if g != nil {
		return g
	}
	var ls kemi.Labels
	if len(s.groups) < MaxGroups {
		for _, n := range s.rule.By {
			ls = append(ls, kemi.Label{Name: n, Value: labels(n)})
		}
	} else {
		s.extra++
		key = nil
		if g = s.groups[""]; g != nil {
			return g
		}
	}
	g = &group{labels: ls.Normalize(), newest: int64(s.now)/s.slot - slots}
	s.groups[string(key)] = g
	return g
}

// index is the place of slot number n in the ring.
func index(n int64) int64 { return ((n % (slots + 1)) + slots + 1) % (slots + 1) }

// advance makes n the newest slot: what falls out of the window is taken off.
func (g *group) advance(n int64) {
	if n-g.newest > slots {
		g.counts, g.sum, g.newest = [slots + 1]int64{}, 0, n
		return
	}
	for g.newest < n {
		g.newest++
		i := index(g.newest)
		g.sum -= g.counts[i]
		g.counts[i] = 0
	}
}

// Tick says that the stream is known up to now, and returns the alerts that end because records left the window. Groups
// without records are forgotten.
func (s *State) Tick(now kemi.Millis) []Change {
	s.now = max(s.now, now)
	number := int64(s.now) / s.slot
	var out []Change
	for key, g := range s.groups {
		g.advance(max(number, g.newest))
		if g.since != 0 && g.sum < s.rule.Threshold {
			g.since = 0
			out = append(out, Change{Labels: g.labels, Count: g.sum, At: s.now})
		}
		if g.sum == 0 {
			delete(s.groups, key)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return a.Labels.Compare(b.Labels) })
	return out
}

// Firing are the alerts that fire now, by their labels.
func (s *State) Firing() []Change {
	var out []Change
	for _, g := range s.groups {
		if g.since != 0 {
			out = append(out, Change{Labels: g.labels, Firing: true, Count: g.sum, At: g.since})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return a.Labels.Compare(b.Labels) })
	return out
}

// Folded is how many records began a group that was one too many.
func (s *State) Folded() int64 { return s.extra }
