package otlp

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/histogram"

	"kemi/pipeline/codec"
)

// streams adds up what comes as deltas. A sum moves on only when the log has what it was moved by: a request that failed, and is sent again,
// counts once, and so does one that is sent again although it had arrived.
//
// The sums are in memory. After a restart they begin at zero, which rate() and increase() see as a reset of the counter and lose nothing by.
type streams struct {
	max     int
	now     func() time.Time
	count   atomic.Int64
	stripes [stripes]stripe
}

const stripes = 64

type stripe struct {
	mu      sync.Mutex
	streams map[codec.Key]*stream
	swept   time.Time
}

// stream is what a series has come to.
type stream struct {
	start, last int64 // ms
	lastStart   int64 // of the point at last: two of one millisecond are not one point
	shown       int64 // of the sample that was written last: at last, or a few ms after it, see late
	value       float64
	h           *histogram.FloatHistogram
	used        time.Time

	recent    [remembered]span // of the points that were added last, the next at n % remembered
	n         int
	forgotten int64 // the newest of those that were added before them
}

// span is between which times a point's delta came up, in ms; from is 0 if the sender does not say.
type span struct{ from, to int64 }

// remembered is how many points of a stream are known one by one: a late one is told from one that comes again by them.
const remembered = 16

// forgetAfter is how long a stream is kept that nobody adds to.
const forgetAfter = time.Hour

func newStreams(most int, now func() time.Time) *streams {
	s := &streams{max: most, now: now}
	for i := range s.stripes {
		s.stripes[i].streams = map[codec.Key]*stream{}
	}
	return s
}

// change is what a request makes of a stream, until the log has it.
type change struct {
	stripe *stripe
	key    codec.Key
	next   stream
}

func (s *streams) stripe(k codec.Key) int { return int(k.Lo % stripes) }

// lock locks the stripes of the keys, always in one order, and gives the way back.
func (s *streams) lock(keys []codec.Key) (unlock func()) {
	var want [stripes]bool
	for _, k := range keys {
		want[s.stripe(k)] = true
	}
	now := s.now()
	for i := range want {
		if want[i] {
			s.stripes[i].mu.Lock()
			s.sweep(&s.stripes[i], now)
		}
	}
	return func() {
		for i := range want {
			if want[i] {
				s.stripes[i].mu.Unlock()
			}
		}
	}
}

func (s *streams) sweep(st *stripe, now time.Time) {
	if now.Sub(st.swept) < forgetAfter/8 {
		return
	}
	st.swept = now
	for k, x := range st.streams {
		if now.Sub(x.used) > forgetAfter {
			delete(st.streams, k)
			s.count.Add(-1)
		}
	}
}

// accumulate makes cumulative samples of deltas and makes them durable with all else that is in the record.
func (w *walker) accumulate(samples []sample) error {
	s := w.r.streams
	keys := make([]codec.Key, len(samples))
	for i := range samples {
		w.key = append(append(w.key[:0], w.project...), 0)
		w.key = append(w.key, samples[i].labels.Bytes(nil)...)
		keys[i] = codec.KeyOf(w.key, 0)
	}
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	// A sender may put several points of one stream into a request, in any order.
	slices.SortStableFunc(order, func(a, b int) int { return int(max(-1, min(1, samples[a].at-samples[b].at))) })
	defer s.lock(keys)()
	changes := map[codec.Key]*change{}
	for _, i := range order {
		x := &samples[i]
		c := changes[keys[i]]
		if c == nil {
			c = &change{stripe: &s.stripes[s.stripe(keys[i])], key: keys[i]}
			if old := c.stripe.streams[c.key]; old != nil {
				c.next = *old
			} else if int(s.count.Load())+len(changes) >= s.max {
				w.lost(x, errTooManyStreams(s.max))
				continue
			} else {
				c.next = stream{start: x.start, last: math.MinInt64, shown: math.MinInt64}
			}
			changes[keys[i]] = c
		}
		before := c.next
		write, err := c.next.add(x)
		if err != nil {
			w.lost(x, err)
			continue
		}
		if !write {
			continue
		}
		ok, err := w.add(x)
		if err != nil {
			return err
		}
		if !ok {
			c.next = before
		}
	}
	if err := w.out.Flush(w.ctx); err != nil {
		return err
	}
	now := s.now()
	for _, c := range changes {
		if c.next.last == math.MinInt64 {
			continue // nothing of it was taken
		}
		next := c.next
		next.used = now
		if c.stripe.streams[c.key] == nil {
			s.count.Add(1)
		}
		c.stripe.streams[c.key] = &next
	}
	return nil
}

// add moves the stream by a delta, and makes the sample what it has come to. false means that there is nothing to be written.
func (s *stream) add(x *sample) (write bool, err error) {
	if x.at < s.last {
		return s.late(x)
	}
	if x.at == s.last && x.start == s.lastStart { // it is here already: said again, not counted again
		x.h, x.fh, x.value = nil, nil, s.value
		if s.h != nil {
			x.fh = s.h.Copy()
		}
		x.at, x.start = s.shown, s.start
		return true, nil
	}
	if x.at == s.last && slices.Contains(s.recent[:min(s.n, remembered)], span{x.start, x.at}) {
		return false, nil
	}
	from, at := x.start, x.at
	if counts, err := s.count(x); err != nil || !counts {
		return err == nil, err
	}
	s.last, s.lastStart, x.start = at, from, s.start
	if x.at <= s.shown { // another point of this millisecond is there, or a late one
		x.at = s.shown + 1
	}
	s.shown = x.at
	s.remember(from, at)
	return true, nil
}

// late adds a point that is older than the newest. The sum at that time is written, and stays as it is; what the point adds is in the next sample, which is put
// right behind the newest: so rate() and increase() count it, a little late.
func (s *stream) late(x *sample) (write bool, err error) {
	known := s.recent[:min(s.n, remembered)]
	for _, k := range known {
		if k == (span{x.start, x.at}) {
			return false, nil // it is here already
		}
		if k.to == x.at || x.start != 0 && k.from != 0 && x.start < k.to && k.from < x.at {
			return false, errLateDelta(x.at, s.last, "overlaps one that is in its sum")
		}
	}
	if s.n > remembered && x.at <= s.forgotten {
		return false, errLateDelta(x.at, s.last, "is too old to tell whether it is in its sum already")
	}
	from, at := x.start, x.at
	if counts, err := s.count(x); err != nil || !counts {
		return false, err
	}
	s.shown++
	x.at, x.start = s.shown, s.start
	s.remember(from, at)
	return true, nil
}

func (s *stream) remember(from, to int64) {
	if old := s.recent[s.n%remembered]; s.n >= remembered {
		s.forgotten = max(s.forgotten, old.to)
	}
	s.recent[s.n%remembered] = span{from, to}
	s.n++
}

// count adds a delta to the sum, and makes the sample the sum; false if it was a stale marker.
func (s *stream) count(x *sample) (bool, error) {
	switch {
	case x.h != nil || x.fh != nil:
		delta := x.fh
		if x.h != nil {
			delta = x.h.ToFloat(nil)
		}
		if math.Float64bits(delta.Sum) == staleNaN {
			return false, nil
		}
		if s.h == nil {
			s.h = delta.Copy()
		} else {
			sum, _, _, err := s.h.Copy().Add(delta)
			if err != nil {
				return false, err
			}
			s.h = sum.Compact(0)
		}
		s.h.CounterResetHint = histogram.UnknownCounterReset
		x.h, x.fh = nil, s.h.Copy()
	case math.Float64bits(x.value) == staleNaN:
		return false, nil
	default:
		s.value += x.value
		x.value = s.value
	}
	return true, nil
}
