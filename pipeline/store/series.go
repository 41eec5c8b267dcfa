package store

import (
	"context"
	"io"
	"iter"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// MatchOp is how a Matcher compares.
type MatchOp uint8

// The ways to compare. A missing label has the value "". Regular expressions are RE2 and match the whole value.
const (
	Equal MatchOp = iota
	NotEqual
	Regexp
	NotRegexp
)

// Matcher is a condition on one label; the metric's name is the label kemi.MetricName.
type Matcher struct {
	Op          MatchOp
	Name, Value string
}

// Selector is the series for which all matchers hold. The empty one selects all series of the project.
type Selector []Matcher

// Position is the place in the log of record up to which a batch brings a partition: the next offset to read.
type Position struct {
	Partition int32
	Next      int64
}

// Freshness says how near a store is to the log of record.
type Freshness struct {
	AsOf     kemi.Millis // when the newest record that it holds was published; 0 if none
	Complete bool        // false while it still replays what had been acknowledged before the start
	Reason   string      // why not
}

// SeriesStore keeps time series. All methods may be called concurrently, but Append of one partition from one goroutine
// only, in the order of the log.
//
// The same sample appended twice changes nothing. Of two different values for one series and time, one is kept and the other is
// counted as a conflict; both never come back.
type SeriesStore interface {
	// Append adds the samples of a batch, late ones too. When it returns they can be queried. An error says that the batch as
	// a whole could not be taken (ErrUnavailable: try again); samples that can never be taken are counted and left out.
	Append(ctx context.Context, batch *codec.SeriesBatch, at Position) error

	// Positions are where replay has to begin after a crash at this moment. They follow Append by some seconds.
	Positions() bus.Positions

	// Select yields the series that match and have samples in the range, one after another in the order of their labels. A yielded
	// Points is valid until the next step only. Stale markers (Prometheus) are left out. It ends at the first error.
	Select(ctx context.Context, id kemi.Identity, sel Selector, r kemi.Range) iter.Seq2[kemi.Points, error]

	// Series yields the label sets that match and may have samples in the range, in order.
	Series(ctx context.Context, id kemi.Identity, sel Selector, r kemi.Range) iter.Seq2[kemi.Labels, error]

	// LabelNames and LabelValues are sorted, at most limit of them (0 = no limit).
	LabelNames(ctx context.Context, id kemi.Identity, sel Selector, r kemi.Range, limit int) ([]string, error)
	LabelValues(ctx context.Context, id kemi.Identity, name string, sel Selector, r kemi.Range, limit int) ([]string, error)

	// Sync makes all that was appended durable in the store and brings Positions up to it.
	Sync(ctx context.Context) error
	io.Closer
}
