package settled

import (
	"math"
	"slices"

	"kemi"
	"kemi/pipeline/store"
)

// RollupColumns is a set of columns of a rollup.
type RollupColumns uint8

// The columns.
const (
	RollupCount  RollupColumns = 1 << iota // samples that are not NaN
	RollupSum                              // Sum and Error: what store.Sum.Split makes of the samples
	RollupMin                              //
	RollupMax                              //
	RollupFirst                            //
	RollupLast                             //
	RollupResets                           // what was lost at counter resets
)

// Rollup is buckets of a series: those that have samples, stale markers aside. The columns that were asked for are as long as At. In a
// bucket all of whose samples are NaN the count is 0 and the extremes, First and Last are NaN.
//
// A counter that was never reset within a bucket has Resets 0; else it is the sum of all values that were followed by a smaller one.
// So the increase over buckets i…k, without extrapolation, is Last[k] - First[i] + the sum of their Resets + the sum of each Last[j] that is greater than
// First[j+1], among buckets whose Count is not 0. Add Last[i-1] in the same way to begin with the last sample before them.
type Rollup struct {
	At                                        []kemi.Millis
	Count                                     []int64
	Sum, Error, Min, Max, First, Last, Resets []float64
}

// Used says what a Reduce has read.
type Used struct {
	Level   kemi.Millis // of the rollup, 0 if there was none
	Buckets int64
	Samples int64 // that were read themselves
}

// level is the widest level of the series whose buckets fill intervals, or -1.
func (c *Cursor) level(e *seriesEntry, interval kemi.Millis, fn store.Reduce) int {
	levels := c.block.meta.Levels
	for l := len(levels) - 1; l >= 0; l-- {
		if interval%levels[l] != 0 || e.rollups[l] == 0 {
			continue
		}
		switch fn {
		case store.ReduceSum, store.ReduceAvg:
			if e.sums&(1<<l) == 0 {
				continue
			}
		case store.ReduceFirst, store.ReduceLast:
			if e.edges&(1<<l) == 0 {
				continue
			}
		}
		return l
	}
	return -1
}

// Reduce adds the samples of a series in r to the reducer: from the widest rollup that is exact for its interval, where whole buckets lie in r, else from
// the samples.
func (c *Cursor) Reduce(ref Ref, r kemi.Range, red *store.Reducer) (used Used, err error) {
	e, o, err := c.entry(ref)
	if err != nil {
		return used, err
	}
	if e.from >= r.To || e.to < r.From || e.chunks == 0 {
		return used, nil
	}
	l := c.level(e, red.Interval(), red.Reduce())
	if l < 0 {
		return used, c.reduceRaw(e, o, r, red, &used)
	}
	level := c.block.meta.Levels[l]
	inner := r
	if r.From > e.from {
		inner.From = -store.IntervalStart(-r.From, level)
	} else {
		inner.From = store.IntervalStart(e.from, level)
	}
	if r.To <= e.to {
		inner.To = store.IntervalStart(r.To, level)
	} else {
		inner.To = e.to + 1
	}
	if inner.From >= inner.To {
		return used, c.reduceRaw(e, o, r, red, &used)
	}
	if r.From > e.from && inner.From > r.From {
		if err := c.reduceRaw(e, o, kemi.Range{From: r.From, To: inner.From}, red, &used); err != nil {
			return used, err
		}
	}
	if err := c.reduceRollup(e, o, l, inner, red, &used); err != nil {
		return used, err
	}
	if inner.To < r.To && r.To <= e.to {
		err = c.reduceRaw(e, o, kemi.Range{From: inner.To, To: r.To}, red, &used)
	}
	return used, err
}

func (c *Cursor) reduceRaw(e *seriesEntry, o *ordinals, r kemi.Range, red *store.Reducer, used *Used) error {
	return c.each(streamValues, o[0], e.chunks, r, func(s *streamReader, ch *chunk, _ uint32) error {
		if ch.first >= r.From && ch.last < r.To {
			if ok, err := c.reduceWhole(s, ch, 1, nil, true, red); ok || err != nil {
				used.Samples += int64(ch.n)
				return err
			}
		}
		c.columns.Reset()
		if err := c.readChunk(s, ch, r, &c.columns); err != nil {
			return err
		}
		if ch.column.exceptionsN > 0 || ch.column.domain != domainDecimal {
			c.columns.DropStale()
		}
		used.Samples += int64(len(c.columns.At))
		red.Samples(c.columns.At, c.columns.Values)
		return nil
	})
}

// DropStale takes stale markers away.
func (c *Columns) DropStale() {
	n := 0
	for i, v := range c.Values {
		if v != v && math.Float64bits(v) == staleBits {
			continue
		}
		if n != i {
			c.At[n], c.Values[n] = c.At[i], v
		}
		n++
	}
	c.At, c.Values = c.At[:n], c.Values[:n]
}

var reduceColumn = [...]int{
	store.ReduceMin: rollMin, store.ReduceMax: rollMax, store.ReduceSum: rollSum, store.ReduceCount: rollCount,
	store.ReduceAvg: rollSum, store.ReduceFirst: rollFirst, store.ReduceLast: rollLast,
}

func (c *Cursor) reduceRollup(e *seriesEntry, o *ordinals, l int, r kemi.Range, red *store.Reducer, used *Used) error {
	fn := red.Reduce()
	sums := fn == store.ReduceSum || fn == store.ReduceAvg
	base := streamRollups + l*rollupColumns
	first, main := o.of(l, reduceColumn[fn]), o.of(l, rollCount)
	used.Level = c.block.meta.Levels[l]
	return c.each(base+reduceColumn[fn], first, e.rollups[l], r, func(s *streamReader, ch *chunk, number uint32) error {
		counts, countChunk := s, ch
		var err error
		if fn != store.ReduceCount {
			if counts, countChunk, err = c.beside(s, ch, base+rollCount, number-first+main); err != nil {
				return err
			}
		}
		errors, errorChunk := s, ch
		exact := true
		if sums {
			if errors, errorChunk, err = c.beside(s, ch, base+rollError, number); err != nil {
				return err
			}
			exact = errorChunk.column.domain == domainConstant && errorChunk.column.constant == 0
		}
		if ch.first >= r.From && ch.last < r.To && exact {
			if ok, err := c.reduceWholeRollup(s, ch, counts, countChunk, red); ok || err != nil {
				used.Buckets += int64(ch.n)
				return err
			}
		}
		b := &c.buckets
		cols := Columns{At: b.At[:0], Values: b.Values[:0]}
		if err := c.readChunk(s, ch, r, &cols); err != nil {
			return err
		}
		b.At, b.Values, b.Errors, b.Counts = cols.At, cols.Values, nil, b.Counts[:0]
		if sums && !exact {
			cols = Columns{At: c.columns.At[:0], Values: c.wide[:0]}
			if err := c.readChunk(errors, errorChunk, r, &cols); err != nil {
				return err
			}
			c.columns.At, c.wide, b.Errors = cols.At, cols.Values, cols.Values
		}
		cols = Columns{At: c.columns.At[:0], Values: c.columns.Values[:0]}
		if err := c.readChunk(counts, countChunk, r, &cols); err != nil {
			return err
		}
		c.columns.At, c.columns.Values = cols.At, cols.Values
		for _, n := range cols.Values {
			b.Counts = append(b.Counts, int64(n))
		}
		used.Buckets += int64(len(b.At))
		red.Buckets(b)
		return nil
	})
}

// reduceWholeRollup is reduceWhole for buckets, if none of them is without a count.
func (c *Cursor) reduceWholeRollup(s *streamReader, ch *chunk, counts *streamReader, countChunk *chunk, red *store.Reducer) (bool, error) {
	if countChunk.column.exceptionsN > 0 {
		return false, nil
	}
	if countChunk.column.domain == domainConstant {
		if n := math.Float64frombits(countChunk.column.constant); n >= 1 {
			return c.reduceWhole(s, ch, int64(n), nil, false, red)
		}
		return false, nil
	}
	if countChunk.column.domain != domainDecimal || countChunk.column.parameter != 0 {
		return false, nil
	}
	c.counts = grow(c.counts[:0], ch.n)
	high, low := counts.page.columnStreams(&countChunk.column, countChunk.high, countChunk.low)
	all := countChunk.column.mantissas(c.counts, high, low)
	if slices.Min(all) <= 0 {
		return false, nil
	}
	return c.reduceWhole(s, ch, 0, all, false, red)
}

// groups finds the intervals that begin and end in the chunk and follow one another with the same number of values: head values come before the first
// of them, k are in each. That there are no more of an interval is certain only if a value of the next is there.
func (c *Cursor) groups(ch *chunk, interval kemi.Millis) (head, k, groups int, err error) {
	start := store.IntervalStart(ch.first, interval)
	if !ch.shared {
		step := kemi.Millis(ch.step)
		if step <= 0 || interval%step != 0 {
			return 0, 0, 0, nil
		}
		if start != ch.first {
			head = int(min((start-ch.first+interval+step-1)/step, maxChunkSamples))
		}
		k = int(min(interval/step, maxChunkSamples))
		return head, k, (ch.n - 1 - head) / k, nil
	}
	at, err := c.sharedTimes(ch)
	if err != nil {
		return 0, 0, 0, err
	}
	if start != ch.first {
		for start += interval; head < len(at) && at[head] < start; head++ {
		}
	}
	for i := head; i < len(at) && at[i] < start+interval; i++ {
		k++
	}
	if k == 0 {
		return 0, 0, 0, nil
	}
	for i := head; i+k < len(at) && at[i] >= start && at[i+k-1] < start+interval && at[i+k] >= start+interval; i += k {
		groups++
		start += interval
	}
	return head, k, groups, nil
}

// reduceWhole reduces a chunk of decimals or a constant, all of which lies in the range. Each value stands for count samples, or for as many as counts
// says. It returns false if it did nothing.
func (c *Cursor) reduceWhole(s *streamReader, ch *chunk, count int64, counts []int64, raw bool, red *store.Reducer) (bool, error) {
	col, fn := &ch.column, red.Reduce()
	constant := math.Float64frombits(col.constant)
	if col.exceptionsN > 0 || col.domain != domainDecimal && (col.domain != domainConstant || constant != constant) {
		return false, nil
	}
	head, k, groups, err := c.groups(ch, red.Interval())
	if groups < 1 || err != nil {
		return false, err
	}
	power := powers[col.parameter]
	var m []int64 // nil for a constant
	if col.domain == domainDecimal {
		high, low := s.page.columnStreams(col, ch.high, ch.low)
		m = col.mantissas(c.room(ch.n), high, low)
		if (fn == store.ReduceSum || fn == store.ReduceAvg) && !summable(m[head:head+groups*k], k, power, int(col.parameter)) {
			return false, nil
		}
	}
	samples := count * int64(groups*k)
	if counts != nil {
		samples = 0
		for _, x := range counts[head : head+groups*k] {
			samples += x
		}
	}
	read := int64(0)
	if raw {
		read = samples
	}
	c.edge(ch, m, constant, 0, head, power, count, counts, raw, red)
	out := red.Whole(store.IntervalStart(c.timeOf(ch, head), red.Interval()), groups, samples, read)
	if m != nil {
		reduceIntegers(out, m[head:], k, power, fn, raw)
	} else {
		v := constant
		switch {
		case fn == store.ReduceCount && raw:
			v = float64(k)
		case fn == store.ReduceCount, fn == store.ReduceSum, fn == store.ReduceAvg:
			var sum store.Sum
			for range k {
				sum.Add(constant)
			}
			v = sum.Value()
		}
		for i := range out {
			out[i] = v
		}
	}
	if fn == store.ReduceAvg {
		for i := range out {
			n := count * int64(k)
			if counts != nil {
				n = 0
				for _, x := range counts[head+i*k : head+i*k+k] {
					n += x
				}
			}
			out[i] /= float64(n)
		}
	}
	c.edge(ch, m, constant, head+groups*k, ch.n, power, count, counts, raw, red)
	return true, nil
}

// summable tells whether sums of k of the integers each are exact, and their quotients what Sum makes of the decimals: if each value stands for the decimal
// that it is.
func summable(all []int64, k int, power float64, decimals int) bool {
	largest := max(slices.Max(all), -slices.Min(all))
	return largest <= 1<<53/int64(k) && (decimals == 0 || store.StandsForDecimal(float64(largest)/power, decimals))
}

// reduceIntegers reduces groups of k mantissas.
func reduceIntegers(out []float64, whole []int64, k int, power float64, fn store.Reduce, raw bool) {
	if k == 1 && (fn != store.ReduceCount || !raw) { // the buckets of a rollup as they are
		whole = whole[:len(out)]
		for i, x := range whole {
			out[i] = float64(x) / power
		}
		return
	}
	switch fn {
	case store.ReduceMax:
		for i := range out {
			g := whole[:k]
			whole = whole[k:]
			v := g[0]
			for _, x := range g[1:] {
				v = max(v, x)
			}
			out[i] = float64(v) / power
		}
	case store.ReduceMin:
		for i := range out {
			g := whole[:k]
			whole = whole[k:]
			v := g[0]
			for _, x := range g[1:] {
				v = min(v, x)
			}
			out[i] = float64(v) / power
		}
	case store.ReduceFirst:
		for i := range out {
			out[i] = float64(whole[i*k]) / power
		}
	case store.ReduceLast:
		for i := range out {
			out[i] = float64(whole[i*k+k-1]) / power
		}
	case store.ReduceSum, store.ReduceAvg:
		for i := range out {
			g := whole[:k]
			whole = whole[k:]
			v := int64(0)
			for _, x := range g {
				v += x
			}
			out[i] = float64(v) / power
		}
	case store.ReduceCount:
		for i := range out {
			n := int64(k)
			if !raw {
				n = 0
				for _, x := range whole[i*k : i*k+k] {
					n += x
				}
			}
			out[i] = float64(n)
		}
	}
}

// timeOf is the time of a value of the chunk that groups looked at.
func (c *Cursor) timeOf(ch *chunk, i int) kemi.Millis {
	if ch.shared {
		return c.times.last[i]
	}
	return ch.first + kemi.Millis(i)*kemi.Millis(ch.step)
}

// edge adds the values from one number to another, which do not fill an interval.
func (c *Cursor) edge(ch *chunk, m []int64, constant float64, from, to int, power float64, count int64, counts []int64, raw bool, red *store.Reducer) {
	b := &c.buckets
	b.At, b.Values, b.Counts, b.Errors = b.At[:0], b.Values[:0], b.Counts[:0], nil
	for i := from; i < to; i++ {
		b.At = append(b.At, c.timeOf(ch, i))
		if m != nil {
			b.Values = append(b.Values, float64(m[i])/power)
		} else {
			b.Values = append(b.Values, constant)
		}
		if counts != nil {
			count = counts[i]
		}
		b.Counts = append(b.Counts, count)
	}
	if raw {
		red.Samples(b.At, b.Values)
	} else {
		red.Buckets(b)
	}
}

// rollupColumn appends a column of a level.
func (c *Cursor) rollupColumn(e *seriesEntry, o *ordinals, l, column int, r kemi.Range, to *Columns) error {
	return c.each(streamRollups+l*rollupColumns+column, o.of(l, column), e.rollups[l], r, func(s *streamReader, ch *chunk, _ uint32) error {
		return c.readChunk(s, ch, r, to)
	})
}

// ReadRollup appends the buckets of a level that begin in r. Ok is false if the series has no rollups of that level, or lacks a column that is asked for (sums that would not be
// exact or need a second column, first, last and resets of what is no counter; the widest level has what can be exact): then its samples have to be read.
func (c *Cursor) ReadRollup(ref Ref, level kemi.Millis, columns RollupColumns, r kemi.Range, to *Rollup) (ok bool, err error) {
	e, o, err := c.entry(ref)
	if err != nil {
		return false, err
	}
	l := -1
	for i, width := range c.block.meta.Levels {
		if width == level && e.rollups[i] > 0 {
			l = i
		}
	}
	if l < 0 || columns&RollupSum != 0 && e.sums&(1<<l) == 0 || columns&RollupResets != 0 && e.resets&(1<<l) == 0 ||
		columns&(RollupFirst|RollupLast) != 0 && e.edges&(1<<l) == 0 {
		return false, nil
	}
	var counts []float64
	n := len(to.At)
	for _, col := range []struct {
		want   RollupColumns
		column int
		to     *[]float64
	}{
		{RollupCount, rollCount, &counts}, {RollupSum, rollSum, &to.Sum}, {RollupSum, rollError, &to.Error}, {RollupMin, rollMin, &to.Min},
		{RollupMax, rollMax, &to.Max}, {RollupFirst, rollFirst, &to.First}, {RollupLast, rollLast, &to.Last}, {RollupResets, rollResets, &to.Resets},
	} {
		if columns&col.want == 0 {
			continue
		}
		cols := Columns{At: to.At[:n], Values: *col.to}
		if err := c.rollupColumn(e, o, l, col.column, r, &cols); err != nil {
			return false, err
		}
		to.At, *col.to = cols.At, cols.Values
	}
	for _, f := range counts {
		to.Count = append(to.Count, int64(f))
	}
	return true, nil
}
