package settled

import (
	"math"
	"slices"

	"kemi"
	"kemi/pipeline/store"
)

// The columns of a rollup. A sample that is a stale marker is none here; samples that are NaN count for nothing, but a bucket that has no others
// exists: its count is 0, its sum 0, its extremes, first and last NaN.
const (
	rollCount  = iota // samples that are not NaN
	rollSum           // with rollError what store.Sum.Split makes of them
	rollError         //
	rollMin           //
	rollMax           //
	rollFirst         //
	rollLast          //
	rollResets        // the sum of the values that were followed by a smaller one in the bucket
	rollupColumns
)

const staleBits = 0x7ff0000000000002

// bucket is one while it is filled.
type bucket struct {
	at                    kemi.Millis
	count                 int64
	samples               int64 // with those that are NaN
	sum                   store.Sum
	min, max, first, last float64
	resets                store.Sum
	falls, rises          int64
}

// rollup is the buckets of one level of a series as columns.
type rollup struct {
	at      []kemi.Millis
	columns [rollupColumns][]float64
	sums    bool // rollSum and rollError are exact
	samples int64
	resets  int64 // how often a value was smaller than the one before it in its bucket
	rises   int64 // how often it was larger
}

// counter tells whether it looks like one of a counter: what falls as often as it rises is none, however seldom it does either.
func (r *rollup) counter() bool { return r.resets*3 <= r.rises }

// lively tells whether its buckets hold more than a value or two on average. Samples that are the same as the one before take next to no room: rollups of them
// would take more. What never changes at all takes none either way.
func (r *rollup) lively() bool {
	changes := r.resets + r.rises
	return changes == 0 || changes >= 2*int64(len(r.at))
}

// columnsAt are the columns that are written. Gauges have no first and last, which would cost as much as min and max and are asked for less; those of counters are
// the same as min and max. Sums take the most room: below the widest level they stand only in buckets of many samples, and if they need no second column.
func (r *rollup) columnsAt(widest, many bool) (has [rollupColumns]bool) {
	has[rollCount], has[rollMin], has[rollMax] = true, true, true
	has[rollResets] = r.counter()
	has[rollFirst] = r.counter()
	has[rollLast] = has[rollFirst]
	has[rollSum] = r.sums && (widest || many && !slices.ContainsFunc(r.columns[rollError], func(e float64) bool { return e != 0 }))
	has[rollError] = has[rollSum]
	return has
}

// filled tells whether its buckets have so many samples on average.
func (r *rollup) filled(perBucket int) bool { return r.samples >= int64(perBucket)*int64(len(r.at)) }

// worthy are the levels whose buckets are worth their room: with few samples in each, or few of them, what lies below is as quick to read.
func (r *roller) worthy(o *Options) (levels [maxLevels]bool) {
	above := kemi.Millis(math.MaxInt64)
	for l := len(o.Levels) - 1; l >= 0; l-- {
		enough, perBucket := 16, o.MinNarrow
		if l == len(o.Levels)-1 {
			enough, perBucket = 4, o.MinPerBucket
		}
		if x := &r.rollups[l]; len(x.at) >= enough && x.filled(perBucket) && o.Levels[l] <= above/minWiden && (l == len(o.Levels)-1 || x.lively()) {
			levels[l], above = true, o.Levels[l]
		}
	}
	return levels
}

func (r *rollup) reset() {
	r.at, r.sums, r.samples, r.resets, r.rises = r.at[:0], true, 0, 0, 0
	for i := range r.columns {
		r.columns[i] = r.columns[i][:0]
	}
}

func (r *rollup) add(b *bucket) {
	sum, err, ok := b.sum.Split()
	r.sums = r.sums && ok
	r.samples += b.samples
	r.resets += b.falls
	r.rises += b.rises
	r.at = append(r.at, b.at)
	for i, v := range [rollupColumns]float64{float64(b.count), sum, err, b.min, b.max, b.first, b.last, b.resets.Value()} {
		r.columns[i] = append(r.columns[i], v)
	}
}

// roller makes rollups of all levels in one pass.
type roller struct {
	levels  []kemi.Millis
	rollups []rollup
	open    []bucket // one a level, empty if it has no samples
}

func (r *roller) reset(levels []kemi.Millis) {
	r.levels = levels
	for len(r.rollups) < len(levels) {
		r.rollups, r.open = append(r.rollups, rollup{}), append(r.open, bucket{})
	}
	for i := range r.rollups {
		r.rollups[i].reset()
		r.open[i] = bucket{}
	}
}

// roll makes the rollups of a series.
func (r *roller) roll(at []kemi.Millis, values []float64) {
	level := r.levels[0]
	for i := 0; i < len(at); {
		start := store.IntervalStart(at[i], level)
		j := i + 1
		for j < len(at) && at[j] < start+level {
			j++
		}
		b := &r.open[0]
		*b = bucket{at: start, min: math.NaN(), max: math.NaN(), first: math.NaN(), last: math.NaN()}
		b.fill(values[i:j])
		if b.samples > 0 {
			r.rollups[0].add(b)
			r.up(1, b)
		}
		i = j
	}
	for l := 1; l < len(r.levels); l++ {
		r.flush(l)
	}
}

// up adds a bucket to the level above.
func (r *roller) up(l int, b *bucket) {
	if l >= len(r.levels) {
		return
	}
	start := store.IntervalStart(b.at, r.levels[l])
	o := &r.open[l]
	if o.samples > 0 && o.at != start {
		r.flush(l)
	}
	if o.samples == 0 {
		*o = *b
		o.at = start
		return
	}
	o.merge(b)
}

func (r *roller) flush(l int) {
	if o := &r.open[l]; o.samples > 0 {
		r.rollups[l].add(o)
		r.up(l+1, o)
		o.samples = 0
	}
}

func (b *bucket) fill(values []float64) {
	stale := 0
	for _, v := range values {
		if v != v {
			if math.Float64bits(v) == staleBits {
				stale++
			}
			continue
		}
		if b.last == b.last {
			if v < b.last {
				b.resets.Add(b.last)
				b.falls++
			} else if v > b.last {
				b.rises++
			}
			if v < b.min {
				b.min = v
			}
			if v > b.max {
				b.max = v
			}
		} else {
			b.first, b.min, b.max = v, v, v
		}
		b.last = v
	}
	b.count = b.sum.AddAll(values)
	b.samples = int64(len(values) - stale)
}

func (b *bucket) merge(o *bucket) {
	b.samples += o.samples
	if o.count == 0 {
		return
	}
	if b.count == 0 {
		at, samples := b.at, b.samples
		*b = *o
		b.at, b.samples = at, samples
		return
	}
	b.count += o.count
	b.sum.Merge(&o.sum)
	if o.first < b.last {
		b.resets.Add(b.last)
		b.falls++
	} else if o.first > b.last {
		b.rises++
	}
	b.falls += o.falls
	b.rises += o.rises
	b.resets.Merge(&o.resets)
	if o.min < b.min {
		b.min = o.min
	}
	if o.max > b.max {
		b.max = o.max
	}
	b.last = o.last
}
