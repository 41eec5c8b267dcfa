package columns

import (
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/kahansum"

	"kemi"
)

// window is a function over the samples [from, to) of a series, at the step ts; at least one sample. ok is false if it has no value there.
type window func(s *samples, from, to int, ts int64) (v float64, ok bool)

// samples are those of one series, without stale markers.
type samples struct {
	at     []kemi.Millis
	values []float64
	drops  []int32 // where a value is less than the one before it; found when first asked for
	sought bool
	next   int // the first of drops that may lie in the window
}

// windowOf is the function where it is written out for columns, or nil.
func (e *evaluation) windowOf(name string) window {
	switch name {
	case "max_over_time":
		return func(s *samples, from, to int, _ int64) (float64, bool) {
			most := s.values[from]
			for _, v := range s.values[from+1 : to] {
				if v > most || most != most {
					most = v
				}
			}
			return most, true
		}
	case "min_over_time":
		return func(s *samples, from, to int, _ int64) (float64, bool) {
			least := s.values[from]
			for _, v := range s.values[from+1 : to] {
				if v < least || least != least {
					least = v
				}
			}
			return least, true
		}
	case "sum_over_time":
		return func(s *samples, from, to int, _ int64) (float64, bool) {
			var sum, lost float64
			for _, v := range s.values[from:to] {
				sum, lost = kahansum.Inc(v, sum, lost)
			}
			if math.IsInf(sum, 0) {
				return sum, true
			}
			return sum + lost, true
		}
	case "avg_over_time":
		return func(s *samples, from, to int, _ int64) (float64, bool) { return mean(s.values[from:to]), true }
	case "count_over_time":
		return func(_ *samples, from, to int, _ int64) (float64, bool) { return float64(to - from), true }
	case "last_over_time":
		return func(s *samples, _, to int, _ int64) (float64, bool) { return s.values[to-1], true }
	case "present_over_time":
		return func(*samples, int, int, int64) (float64, bool) { return 1, true }
	case "rate":
		return e.extrapolated(true, true)
	case "increase":
		return e.extrapolated(true, false)
	case "delta":
		return e.extrapolated(false, false)
	}
	return nil
}

// mean goes by the sum as long as that does not overflow, and from there by the mean of what there was.
func mean(values []float64) float64 {
	sum, lost := values[0], 0.0
	for i, v := range values[1:] {
		next, c := kahansum.Inc(v, sum, lost)
		if math.IsInf(next, 0) {
			n := float64(i + 2)
			return meanFrom(values[i+1:], n, sum/(n-1), lost/(n-1))
		}
		sum, lost = next, c
	}
	n := float64(len(values))
	return sum/n + lost/n
}

// meanFrom goes on with the n-th value.
func meanFrom(values []float64, n, mean, lost float64) float64 {
	for _, v := range values {
		q := (n - 1) / n
		mean, lost = kahansum.Inc(v/n, q*mean, q*lost)
		n++
	}
	return mean + lost
}

// extrapolated is how much a series grew over a window's range, or per second of it: what its samples say, stretched to the window's ends where the series seems to
// reach there, but not below zero for a counter.
func (e *evaluation) extrapolated(counter, perSecond bool) window {
	seconds := e.window.Range.Seconds()
	return func(s *samples, from, to int, ts int64) (float64, bool) {
		if to-from < 2 {
			return 0, false
		}
		first, last := s.values[from], s.values[to-1]
		grown := last - first
		if counter {
			grown = s.withDrops(grown, from, to)
		}
		end := ts - e.offset
		firstAt, lastAt := int64(s.at[from]), int64(s.at[to-1])
		toStart, toEnd := float64(firstAt-(end-e.reach))/1000, float64(end-lastAt)/1000
		sampled := float64(lastAt-firstAt) / 1000
		apart := sampled / float64(to-from-1)
		near := apart * 1.1
		if toStart >= near {
			toStart = apart / 2
		}
		if counter {
			toZero := toStart
			if grown > 0 && first >= 0 {
				toZero = sampled * (first / grown)
			}
			if toZero < toStart {
				toStart = toZero
			}
		}
		if toEnd >= near {
			toEnd = apart / 2
		}
		factor := 1.0
		if sampled != 0 {
			factor = (sampled + toStart + toEnd) / sampled
		}
		if perSecond {
			factor /= seconds
		}
		return grown * factor, true
	}
}

// withDrops adds to grown what a counter had before each of its resets in the window. Windows come in order.
func (s *samples) withDrops(grown float64, from, to int) float64 {
	if !s.sought {
		s.sought = true
		for i := 1; i < len(s.values); i++ {
			if s.values[i] < s.values[i-1] {
				s.drops = append(s.drops, int32(i))
			}
		}
	}
	for s.next < len(s.drops) && int(s.drops[s.next]) <= from {
		s.next++
	}
	for _, i := range s.drops[s.next:] {
		if int(i) >= to {
			break
		}
		grown += s.values[i-1]
	}
	return grown
}

// windows evaluates a function of a range selector at each step: over the samples that are younger than its range, stale markers left out.
func (e *evaluation) windows(ls labels.Labels, at []kemi.Millis, values []float64) {
	s := &e.samples
	s.at, s.values = e.withoutStale(at, values)
	s.drops, s.sought, s.next = s.drops[:0], false, 0
	n := len(s.at)
	var points []promql.FPoint
	if e.native == nil {
		points = e.pointsOf(s)
		e.in[0].Metric = ls
	}
	from, to := 0, 0
	for i := range e.n {
		ts := e.steps.Start + int64(i)*e.steps.Interval
		end := kemi.Millis(ts - e.offset)
		for to < n && s.at[to] <= end {
			to++
		}
		for from < to && s.at[from] <= end-kemi.Millis(e.reach) {
			from++
		}
		if from == to {
			if to == n && n > 0 && end > s.at[n-1]+kemi.Millis(e.reach) {
				return // there will be none any more
			}
			continue
		}
		if e.native != nil {
			if v, ok := e.native(s, from, to, ts); ok {
				e.at, e.val = append(e.at, int32(i)), append(e.val, v)
			}
			continue
		}
		e.in[0].Floats, e.enh.Ts = points[from:to:to], ts
		out, notes := e.function(nil, e.in, e.args, &e.enh)
		if len(notes) > 0 {
			e.result.Notes.Merge(notes)
		}
		if len(out) > 0 {
			e.at, e.val = append(e.at, int32(i)), append(e.val, out[0].F)
		}
		e.enh.Out = out[:0]
	}
}

// withoutStale is the columns themselves, unless there are stale markers in them.
func (e *evaluation) withoutStale(at []kemi.Millis, values []float64) ([]kemi.Millis, []float64) {
	for i, v := range values {
		if math.Float64bits(v) != staleBits {
			continue
		}
		e.liveAt, e.live = append(e.liveAt[:0], at[:i]...), append(e.live[:0], values[:i]...)
		for j := i + 1; j < len(values); j++ {
			if math.Float64bits(values[j]) != staleBits {
				e.liveAt, e.live = append(e.liveAt, at[j]), append(e.live, values[j])
			}
		}
		return e.liveAt, e.live
	}
	return at, values
}

// pointsOf is the samples as the engine's functions want them.
func (e *evaluation) pointsOf(s *samples) []promql.FPoint {
	if cap(e.points) < len(s.at) {
		e.points = make([]promql.FPoint, 0, len(s.at)+len(s.at)/4)
	}
	points := e.points[:len(s.at)]
	for i, v := range s.values {
		points[i] = promql.FPoint{T: int64(s.at[i]), F: v}
	}
	return points
}
