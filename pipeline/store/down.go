package store

import (
	"context"
	"iter"

	"kemi"
)

// Reduce is how the samples of an interval become one value. Samples that are NaN take no part; an interval that has no others is NaN, and its
// count is 0.
type Reduce uint8

// The reductions.
const (
	ReduceMin Reduce = iota
	ReduceMax
	ReduceSum
	ReduceCount
	ReduceAvg
	ReduceFirst
	ReduceLast
)

// Down is a series in intervals.
type Down struct {
	kemi.Points       // At is where each interval that has samples begins, Values what they reduce to
	Samples     int64 // how many samples the points stand for; those that are NaN may not be counted
	Read        int64 // how many of them were read; the others were reduced beforehand, in rollups
}

// Downsampler is a SeriesStore that reduces while it reads, or has reduced already: what comes out is what a reader of Select would
// have made of the same samples, bit for bit.
type Downsampler interface {
	// SelectDown yields the series that match and have samples in the range, one after another in the order of their labels. Intervals begin at multiples of
	// interval since the epoch; r begins and ends at such. A yielded Down is valid until the next step only, its labels too (but their strings stay).
	//
	// Core is a part of r that begins and ends at multiples, too, or r. Of a series that has samples in each interval of core the intervals out of it may be left out:
	// nobody has to read them. Of others all are wanted.
	SelectDown(ctx context.Context, id kemi.Identity, sel Selector, r, core kemi.Range, interval kemi.Millis, fn Reduce) iter.Seq2[Down, error]
}

// Deleter is a SeriesStore that can forget.
type Deleter interface {
	// Delete takes the samples of the matching series in the range away: when it returns nil no answer has them, now or after a crash, and their room on
	// disk is given back by the next compaction. Samples of that time that arrive later are new ones. The empty selector is refused.
	Delete(ctx context.Context, id kemi.Identity, sel Selector, r kemi.Range) error
}
