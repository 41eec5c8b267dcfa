package query

import (
	"math"
	"slices"
	"sort"

	"kemi/pipeline/store"
)

// function is what an aggregator computes of several values.
type function uint8

const (
	fnSum function = iota
	fnMin
	fnMax
	fnAvg
	fnDev
	fnCount
	fnFirst
	fnLast
	fnDiff
	fnMult
	fnSquareSum
	fnMedian
	fnPercentile
	fnNone
)

// interpolation is what a series counts as at a time between two of its points, when another series has a point there.
type interpolation uint8

const (
	lerp     interpolation = iota // on the line between the two
	zero                          // 0
	highest                       // the largest number, so that it is no minimum
	lowest                        // the smallest number, so that it is no maximum
	previous                      // as the point before
)

// estimation is how a percentile between two values is estimated.
type estimation uint8

const (
	legacy estimation = iota // p(n+1), as the first version of Commons Math
	r3                       // the nearest value
	r7                       // linear, as most spreadsheets
)

type aggregator struct {
	name       string
	fn         function
	interp     interpolation
	percentile float64
	estimate   estimation
}

// aggregators by name. The same names are functions for down-sampling, none excepted.
var aggregators = func() map[string]aggregator {
	m := map[string]aggregator{}
	for _, a := range []aggregator{
		{name: "none", fn: fnNone, interp: zero},
		{name: "sum", fn: fnSum}, {name: "zimsum", fn: fnSum, interp: zero}, {name: "pfsum", fn: fnSum, interp: previous},
		{name: "min", fn: fnMin}, {name: "mimmin", fn: fnMin, interp: highest},
		{name: "max", fn: fnMax}, {name: "mimmax", fn: fnMax, interp: lowest},
		{name: "avg", fn: fnAvg}, {name: "dev", fn: fnDev}, {name: "median", fn: fnMedian},
		{name: "mult", fn: fnMult}, {name: "diff", fn: fnDiff}, {name: "squareSum", fn: fnSquareSum, interp: zero},
		{name: "count", fn: fnCount, interp: zero}, {name: "first", fn: fnFirst, interp: zero}, {name: "last", fn: fnLast, interp: zero},
	} {
		m[a.name] = a
	}
	for _, p := range []struct {
		digits string
		value  float64
	}{{"50", 50}, {"75", 75}, {"90", 90}, {"95", 95}, {"99", 99}, {"999", 99.9}} {
		for _, a := range []aggregator{
			{name: "p" + p.digits}, {name: "ep" + p.digits + "r3", estimate: r3}, {name: "ep" + p.digits + "r7", estimate: r7},
		} {
			a.fn, a.percentile = fnPercentile, p.value
			m[a.name] = a
		}
	}
	return m
}()

// Aggregators are the names that a query may use, sorted.
func Aggregators() []string {
	names := make([]string, 0, len(aggregators))
	for n := range aggregators {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func aggregatorOf(name string) (aggregator, bool) {
	if name == "multiply" {
		name = "mult"
	}
	a, ok := aggregators[name]
	return a, ok
}

// reduction is the store's name for the function, if it has one.
func (a aggregator) reduction() (store.Reduce, bool) {
	switch a.fn {
	case fnSum:
		return store.ReduceSum, true
	case fnMin:
		return store.ReduceMin, true
	case fnMax:
		return store.ReduceMax, true
	case fnAvg:
		return store.ReduceAvg, true
	case fnCount:
		return store.ReduceCount, true
	case fnFirst:
		return store.ReduceFirst, true
	case fnLast:
		return store.ReduceLast, true
	}
	return 0, false
}

// reduce is the aggregate of values, which are at least one, in their order; NaN stands for a missing one. A scratch slice
// may be handed in and is handed back for the next call.
func (a aggregator) reduce(values, scratch []float64) (result float64, _ []float64) {
	n := 0
	switch a.fn {
	case fnSum, fnAvg:
		sum := 0.0
		for _, v := range values {
			if v == v {
				sum += v
				n++
			}
		}
		switch {
		case n == 0:
			return math.NaN(), scratch
		case a.fn == fnAvg:
			return sum / float64(n), scratch
		}
		return sum, scratch
	case fnMax:
		m := math.Inf(-1)
		for _, v := range values {
			if v > m {
				m = v
			}
		}
		if math.IsInf(m, -1) && !slices.Contains(values, m) {
			m = math.NaN()
		}
		return m, scratch
	case fnMin:
		m := math.Inf(1)
		for _, v := range values {
			if v < m {
				m = v
			}
		}
		if math.IsInf(m, 1) && !slices.Contains(values, m) {
			m = math.NaN()
		}
		return m, scratch
	case fnCount:
		for _, v := range values {
			if v == v {
				n++
			}
		}
		return float64(n), scratch
	case fnFirst, fnNone:
		return values[0], scratch
	case fnLast:
		return values[len(values)-1], scratch
	case fnMedian, fnPercentile:
		scratch = scratch[:0]
		for _, v := range values {
			if v == v {
				scratch = append(scratch, v)
			}
		}
		if len(scratch) == 0 {
			return math.NaN(), scratch
		}
		if a.fn == fnMedian {
			place(scratch, len(scratch)/2)
			return scratch[len(scratch)/2], scratch
		}
		// OpenTSDB 2.4 estimates percentiles of floating point numbers in one way, whatever the name says.
		return percentileOf(scratch, a.percentile, legacy), scratch
	}
	var c cell
	for _, v := range values {
		c.add(a.fn, v)
	}
	return c.value(a.fn), scratch
}

// reduceInts is reduce of integers, in integers: an average is cut to a whole number, a deviation and a percentile, too.
func (a aggregator) reduceInts(values []int64, scratch []float64) (int64, []float64) {
	result := values[0]
	switch a.fn {
	case fnSum, fnAvg:
		for _, v := range values[1:] {
			result += v
		}
		if a.fn == fnAvg {
			result /= int64(len(values))
		}
	case fnMin:
		result = slices.Min(values)
	case fnMax:
		result = slices.Max(values)
	case fnCount:
		result = int64(len(values))
	case fnLast:
		result = values[len(values)-1]
	case fnMult:
		for _, v := range values[1:] {
			result *= v
		}
	case fnSquareSum:
		result = 0
		for _, v := range values {
			result += v * v
		}
	case fnDiff:
		result = values[len(values)-1] - values[0]
	case fnMedian:
		values = slices.Clone(values)
		slices.Sort(values)
		result = values[len(values)/2]
	case fnDev:
		var c cell
		for _, v := range values {
			c.add(fnDev, float64(v))
		}
		result = int64(c.value(fnDev))
	case fnPercentile:
		scratch = scratch[:0]
		for _, v := range values {
			scratch = append(scratch, float64(v))
		}
		slices.Sort(scratch)
		result = int64(percentile(scratch, a.percentile, a.estimate))
	}
	return result, scratch
}

// percentile of sorted values, which are at least one.
func percentile(sorted []float64, p float64, e estimation) float64 {
	n, pos := float64(len(sorted)), position(len(sorted), p, e)
	switch {
	case pos < 1 || len(sorted) == 1:
		return sorted[0]
	case pos >= n:
		return sorted[len(sorted)-1]
	}
	i := int(pos)
	lower, upper := sorted[i-1], sorted[i]
	return lower + (pos-math.Floor(pos))*(upper-lower)
}

// position is the place of a percentile among n sorted values, counted from 1; it may lie between two, or outside.
func position(n int, p float64, e estimation) float64 {
	q := p / 100
	switch e {
	case r3:
		if q > 0.5/float64(n) {
			return math.RoundToEven(float64(n) * q)
		}
		return 0
	case r7:
		return 1 + float64(n-1)*q
	}
	return q * float64(n+1)
}

// folds tells whether values can be added to a cell one by one.
func (a aggregator) folds() bool { return a.fn != fnMedian && a.fn != fnPercentile }

// cell is an aggregate that values are added to one by one; what a and b hold depends on the function.
type cell struct {
	n    int32
	a, b float64
}

func (c *cell) add(fn function, v float64) {
	if v != v {
		switch fn {
		case fnFirst, fnLast, fnMult, fnNone: // these take NaN as a value
		case fnDiff:
			if c.n == 0 {
				return
			}
		default:
			return
		}
	}
	first := c.n == 0
	c.n++
	switch fn {
	case fnSum, fnAvg:
		c.a += v
	case fnSquareSum:
		c.a += v * v
	case fnMin:
		if first || v < c.a {
			c.a = v
		}
	case fnMax:
		if first || v > c.a {
			c.a = v
		}
	case fnDev: // a is the mean so far, b the sum of squared differences from it
		if first {
			c.a = v
			return
		}
		mean := c.a + (v-c.a)/float64(c.n)
		c.b += (v - c.a) * (v - mean)
		c.a = mean
	case fnFirst, fnNone:
		if first {
			c.a = v
		}
	case fnLast:
		c.a = v
	case fnMult:
		if first {
			c.a = 1
		}
		c.a *= v
	case fnDiff: // a is the first, b the last
		if first {
			c.a = v
		}
		c.b = v
	}
}

func (c *cell) value(fn function) float64 {
	if c.n == 0 && fn != fnCount {
		return math.NaN()
	}
	switch fn {
	case fnCount:
		return float64(c.n)
	case fnAvg:
		return c.a / float64(c.n)
	case fnDev:
		return math.Sqrt(c.b / float64(c.n))
	case fnDiff:
		return c.b - c.a
	}
	return c.a
}

// single is the aggregate of one value.
func (a aggregator) single(v float64) float64 {
	switch a.fn {
	case fnSquareSum:
		return v * v
	case fnDev, fnDiff:
		if v == v {
			return 0
		}
	case fnCount:
		if v == v {
			return 1
		}
		return 0
	}
	return v
}

// keeps tells whether the aggregate of one value is the value.
func (a aggregator) keeps() bool {
	return a.fn != fnSquareSum && a.fn != fnDev && a.fn != fnDiff && a.fn != fnCount
}

// between is what a series counts as at x, between its points (x0, y0) and (x1, y1).
func (i interpolation) between(x, x0, x1 int64, y0, y1 float64) float64 {
	switch i {
	case lerp:
		return y0 + float64(x-x0)*(y1-y0)/float64(x1-x0)
	case highest:
		return math.MaxFloat64
	case lowest:
		return -math.MaxFloat64
	case previous:
		return y0
	}
	return 0
}

func (i interpolation) betweenInts(x, x0, x1, y0, y1 int64) int64 {
	switch i {
	case lerp:
		return y0 + (x-x0)*(y1-y0)/(x1-x0)
	case highest:
		return math.MaxInt64
	case lowest:
		return math.MinInt64
	case previous:
		return y0
	}
	return 0
}
