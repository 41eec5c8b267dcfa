package query

import (
	"math"
	"slices"
	"sort"

	"kemi"
)

// column is a series after down-sampling and rate: its points, ascending.
type column struct {
	at   []int64
	v    []float64
	seed float64 // with rate: what the series counts as before its first point
	ints bool    // all values are whole numbers, and count as written so
}

// reader turns the stretches of one series after the other into columns.
type reader struct {
	p      *plan
	budget *budget
	fillAt []int64
	own    bool // each column is kept: its memory is not used again
	arena  *arena

	col       column
	have      bool      // an interval is open
	from, end int64     // the interval that is open
	rest      []float64 // its values from stretches before
	guess     int       // how many samples the last interval had
	scratch   []float64
}

// begin forgets the series before.
func (r *reader) begin() {
	r.have, r.rest = false, r.rest[:0]
	if r.own {
		r.col = column{}
	} else {
		r.col.at, r.col.v = r.col.at[:0], r.col.v[:0]
	}
}

// feed takes the next stretch of the series.
func (r *reader) feed(pts kemi.Points) error {
	at, v := pts.At, pts.Values
	if n := len(at); n > 0 && int64(at[0]) < r.p.seek {
		i := sort.Search(n, func(i int) bool { return int64(at[i]) >= r.p.seek })
		at, v = at[i:], v[i:]
	}
	if n := len(at); n > 0 && int64(at[n-1]) >= r.p.until {
		i := sort.Search(n, func(i int) bool { return int64(at[i]) >= r.p.until })
		at, v = at[:i], v[:i]
	}
	if r.p.down.kind != downNone {
		return r.downsample(at, v)
	}
	if r.col.at == nil {
		r.col.at, r.col.v = make([]int64, 0, len(at)), make([]float64, 0, len(at))
	}
	for _, t := range at {
		r.col.at = append(r.col.at, int64(t))
	}
	r.col.v = append(r.col.v, v...)
	return r.budget.room(16 * len(r.col.at))
}

func (r *reader) downsample(at []kemi.Millis, v []float64) error {
	n := len(at)
	for i := 0; i < n; {
		if t := int64(at[i]); !r.have || t >= r.end {
			r.flush(nil)
			r.open(t)
		}
		end := kemi.Millis(r.end)
		j := i + r.guess // most intervals have as many samples as the one before
		if j >= n || j <= i || at[j] < end || at[j-1] >= end {
			for j = i + 1; j < n && at[j] < end; j++ {
			}
		}
		if j == n { // the next stretch may go on with this interval
			r.rest = append(r.rest, v[i:]...)
			return r.budget.room(8*len(r.rest) + 16*len(r.col.at))
		}
		r.guess = j - i
		r.flush(v[i:j])
		i = j
	}
	return nil
}

// reduced takes a whole series that the store has down-sampled.
func (r *reader) reduced(pts kemi.Points) error {
	at := millis(pts.At)
	switch {
	case r.fillAt != nil || r.p.Rate: // it is changed in place
		r.col.at, r.col.v = append(r.col.at, at...), append(r.col.v, pts.Values...)
	case r.own:
		r.col.at, r.col.v = r.arena.times(at), r.arena.values(pts.Values)
	default:
		r.col.at, r.col.v = at, pts.Values
	}
	return r.budget.room(16 * len(at))
}

// open begins the interval that t lies in.
func (r *reader) open(t int64) {
	r.have = true
	switch d := &r.p.down; d.kind {
	case downAll:
		r.from, r.end = r.p.start, math.MaxInt64
	case downFixed:
		r.from = t - t%d.interval
		r.end = r.from + d.interval
	default:
		// Calendar intervals are counted on from the one of the series' first point.
		if len(r.col.at) == 0 {
			r.from = previousInterval(t, d.count, d.unit, d.loc)
			r.end = addCalendar(r.from, d.count, d.unit, d.loc)
		}
		if d.unit.millis <= rowMillis {
			r.from += (t - r.from) / d.interval * d.interval
			r.end = r.from + d.interval
		}
		for t >= r.end {
			r.from, r.end = r.end, addCalendar(r.end, d.count, d.unit, d.loc)
		}
	}
}

// flush ends the open interval with its last values.
func (r *reader) flush(v []float64) {
	if !r.have {
		return
	}
	if len(r.rest) > 0 {
		r.rest = append(r.rest, v...)
		v = r.rest
	}
	var x float64
	if fn, ok := r.p.down.agg.reduction(); ok {
		x = fn.Of(v)
	} else {
		x, r.scratch = r.p.down.agg.reduce(v, r.scratch)
	}
	r.col.at, r.col.v = append(r.col.at, r.from), append(r.col.v, x)
	r.have, r.rest = false, r.rest[:0]
}

// finish is the column of the series; ok is false if it has no part in its group.
func (r *reader) finish() (c column, ok bool, err error) {
	r.flush(nil)
	if r.fillAt != nil {
		r.fill()
	}
	c = r.col
	c.ints = r.p.down.kind == downNone && !r.p.any && allWhole(c.v)
	if r.p.Rate {
		c.at, c.v = rates(c.at, c.v, c.ints, r.p.RateOptions)
		c.ints = false
		if skip, _ := slices.BinarySearch(c.at, int64(r.p.scan.From)); skip > 0 { // an interval that begins before what is read
			c.at, c.v = c.at[skip:], c.v[skip:]
		}
		if len(c.at) < 2 {
			return c, false, nil
		}
		c.seed, c.at, c.v = c.v[0], c.at[1:], c.v[1:]
	}
	return c, len(c.at) > 0, r.budget.room(16 * len(c.at))
}

// fill gives the column a point at each interval. An interval that the column has but the calendar of the query does not is left out.
func (r *reader) fill() {
	at, v := r.col.at, r.col.v
	filled := make([]float64, len(r.fillAt))
	k := 0
	for i, t := range r.fillAt {
		for k < len(at) && at[k] < t {
			k++
		}
		filled[i] = r.p.down.value
		if k < len(at) && at[k] == t {
			filled[i] = v[k]
		}
	}
	r.col.at, r.col.v = append(r.col.at[:0], r.fillAt...), filled
}

// allWhole tells whether all values are integers that a float64 holds exactly.
func allWhole(v []float64) bool {
	for _, x := range v {
		if x != math.Trunc(x) || math.Abs(x) > 1<<53 {
			return false
		}
	}
	return true
}

// rates makes rates per second of points, in place. The first one is against the value 0 at the time 0: it is for what comes before
// the second point, nobody is shown it.
func rates(at []int64, v []float64, ints bool, o RateOptions) ([]int64, []float64) {
	n := 0
	var t0 int64
	var v0 float64
	for i, t := range at {
		if t <= t0 {
			continue // at the very epoch there is no time to divide by
		}
		value, seconds := v[i], float64(t-t0)/1000
		diff := value - v0
		rate := diff / seconds
		drop := false
		if o.Counter && diff < 0 {
			drop = o.DropResets
			if ints {
				diff = float64(o.CounterMax - int64(v0) + int64(value))
			} else {
				diff = float64(o.CounterMax) - v0 + value
			}
			rate = diff / seconds
			if o.ResetValue > 0 && rate > float64(o.ResetValue) {
				rate = 0
			}
		}
		t0, v0 = t, value
		if !drop {
			at[n], v[n] = t, rate
			n++
		}
	}
	return at[:n], v[:n]
}
