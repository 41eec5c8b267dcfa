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
	value       float64
	h           *histogram.FloatHistogram
	used        time.Time
}

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
				c.next = stream{start: x.start, last: math.MinInt64}
			}
			changes[keys[i]] = c
		}
		before := c.next
		if err := c.next.add(x); err != nil {
			w.lost(x, err)
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

// add moves the stream by a delta, and makes the sample what it has come to.
func (s *stream) add(x *sample) error {
	switch {
	case x.at < s.last:
		return errLateDelta(x.at, s.last)
	case x.at == s.last && x.start == s.lastStart: // it is here already: said again, not counted again
		x.h, x.fh, x.value = nil, nil, s.value
		if s.h != nil {
			x.fh = s.h.Copy()
		}
		x.start = s.start
		return nil
	}
	switch {
	case x.h != nil || x.fh != nil:
		delta := x.fh
		if x.h != nil {
			delta = x.h.ToFloat(nil)
		}
		if math.Float64bits(delta.Sum) == staleNaN {
			return nil
		}
		if s.h == nil {
			s.h = delta.Copy()
		} else {
			sum, _, _, err := s.h.Copy().Add(delta)
			if err != nil {
				return err
			}
			s.h = sum.Compact(0)
		}
		s.h.CounterResetHint = histogram.UnknownCounterReset
		x.h, x.fh = nil, s.h.Copy()
	case math.Float64bits(x.value) == staleNaN:
		return nil
	default:
		s.value += x.value
		x.value = s.value
	}
	s.last, s.lastStart, x.start = x.at, x.start, s.start
	return nil
}
