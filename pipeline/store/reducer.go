package store

import (
	"math"
	"slices"

	"kemi"
)

// Reducer makes the intervals of one series from parts of it that come in the order of time: samples, or buckets that were reduced beforehand. The result
// does not depend on how the series was cut into parts. Of equal extremes (0 and -0) the first in time stands.
type Reducer struct {
	interval kemi.Millis
	fn       Reduce
	down     Down

	end   kemi.Millis // of the interval that is open; it is open if there are any points
	value float64     // of the open interval: extreme, first or last; NaN if there is none yet
	count int64       // samples of the open interval that are not NaN
	sum   Sum
	guess int // how many samples the last whole interval had
}

// Buckets are parts of a series that were reduced beforehand. At is where each bucket begins; none reaches over the end of an interval. Buckets without samples are
// left out; one in which all samples are NaN has count 0 (and NaN in Values).
type Buckets struct {
	At     []kemi.Millis
	Counts []int64   // samples that are not NaN
	Values []float64 // the extreme, the first, the last, or Sum.Split's sum; not used for ReduceCount
	Errors []float64 // Sum.Split's err, or nil if all are 0
}

// Reset begins a series. What Down returned before is not valid any more.
func (r *Reducer) Reset(interval kemi.Millis, fn Reduce) {
	r.interval, r.fn = interval, fn
	r.down.Labels, r.down.At, r.down.Values, r.down.Samples, r.down.Read = nil, r.down.At[:0], r.down.Values[:0], 0, 0
}

// Interval is how wide the intervals are.
func (r *Reducer) Interval() kemi.Millis { return r.interval }

// Reduce is the reduction.
func (r *Reducer) Reduce() Reduce { return r.fn }

// IntervalStart is where the interval that contains at begins.
func IntervalStart(at, interval kemi.Millis) kemi.Millis {
	rest := at % interval
	if rest < 0 {
		rest += interval
	}
	return at - rest
}

// open makes the interval of at the open one.
func (r *Reducer) open(at kemi.Millis) {
	r.close()
	start := IntervalStart(at, r.interval)
	r.end = start + r.interval
	r.down.At = append(r.down.At, start)
	r.value, r.count = math.NaN(), 0
	if r.fn == ReduceSum || r.fn == ReduceAvg {
		r.sum.Reset()
	}
}

func (r *Reducer) close() {
	if len(r.down.At) != len(r.down.Values) {
		r.down.Values = append(r.down.Values, r.reduced())
	}
}

// reduced is the value of the open interval.
func (r *Reducer) reduced() float64 {
	switch {
	case r.fn == ReduceCount:
		return float64(r.count)
	case r.fn != ReduceSum && r.fn != ReduceAvg:
		return r.value
	case r.count == 0:
		return math.NaN()
	case r.fn == ReduceAvg:
		return r.sum.Value() / float64(r.count)
	}
	return r.sum.Value()
}

// Of is what the samples of one interval reduce to.
func (fn Reduce) Of(values []float64) float64 {
	r := Reducer{fn: fn, value: math.NaN()}
	r.stretch(values)
	return r.reduced()
}

// Samples adds samples, which must be ascending in time and not before those that were added before.
func (r *Reducer) Samples(at []kemi.Millis, values []float64) {
	r.down.Read += int64(len(at))
	r.down.Samples += int64(len(at))
	for len(at) > 0 {
		if len(r.down.At) == len(r.down.Values) || at[0] >= r.end {
			r.open(at[0])
		}
		n := len(at)
		if at[n-1] >= r.end {
			n = r.guess // most intervals have as many samples as the one before
			if n < 1 || n >= len(at) || at[n] < r.end || at[n-1] >= r.end {
				for n = 1; at[n] < r.end; n++ {
				}
				r.guess = n
			}
		}
		r.stretch(values[:n])
		at, values = at[n:], values[n:]
	}
}

// stretch adds values of the open interval.
func (r *Reducer) stretch(values []float64) {
	switch r.fn {
	case ReduceMin:
		v, rest := firstNumber(r.value, values)
		for _, x := range rest {
			if x < v {
				v = x
			}
		}
		r.value = v
	case ReduceMax:
		v, rest := firstNumber(r.value, values)
		for _, x := range rest {
			if x > v {
				v = x
			}
		}
		r.value = v
	case ReduceSum, ReduceAvg:
		r.count += r.sum.AddAll(values)
	case ReduceCount:
		for _, x := range values {
			if x == x {
				r.count++
			}
		}
	case ReduceFirst:
		for _, x := range values {
			if r.value == r.value {
				break
			}
			r.value = x
		}
	case ReduceLast:
		for i := len(values) - 1; i >= 0; i-- {
			if values[i] == values[i] {
				r.value = values[i]
				break
			}
		}
	}
}

// firstNumber is v or, if that is NaN, the first of values that is not, and what follows it.
func firstNumber(v float64, values []float64) (float64, []float64) {
	for v != v && len(values) > 0 {
		v, values = values[0], values[1:]
	}
	return v, values
}

// Buckets adds buckets.
func (r *Reducer) Buckets(b *Buckets) {
	i := 0
	for i < len(b.At) {
		if len(r.down.At) == len(r.down.Values) || b.At[i] >= r.end {
			r.open(b.At[i])
		}
		n := i + 1
		for n < len(b.At) && b.At[n] < r.end {
			n++
		}
		switch r.fn {
		case ReduceSum, ReduceAvg:
			for j, v := range b.Values[i:n] {
				if b.Counts[i+j] == 0 {
					continue
				}
				r.sum.Add(v)
				if b.Errors != nil {
					r.sum.Add(b.Errors[i+j])
				}
			}
		case ReduceCount:
		default:
			r.stretch(b.Values[i:n])
		}
		for _, c := range b.Counts[i:n] {
			r.count += c
			r.down.Samples += c
		}
		i = n
	}
}

// Whole is room for n intervals that are reduced completely, without gaps between them, the first of which begins at start: no sample of them was added before or comes
// after. The caller writes their values into it before it does anything else. Samples is how many samples that are not NaN they stand for, read how many of
// these were read.
func (r *Reducer) Whole(start kemi.Millis, n int, samples, read int64) []float64 {
	r.close()
	r.down.Samples += samples
	r.down.Read += read
	had := len(r.down.Values)
	r.down.Values = slices.Grow(r.down.Values, n)[:had+n]
	r.down.At = slices.Grow(r.down.At, n)[:had+n]
	at := r.down.At[had:]
	for i := range at {
		at[i] = start
		start += r.interval
	}
	return r.down.Values[had:]
}

// Down closes the last interval. Its columns are used again after Reset.
func (r *Reducer) Down() Down {
	r.close()
	return r.down
}
