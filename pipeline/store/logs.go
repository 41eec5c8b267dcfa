package store

import (
	"context"
	"io"
	"iter"

	"kemi"
	"kemi/pipeline/bus"
)

// NanoRange is a half-open span of time in nanoseconds.
type NanoRange struct{ From, To kemi.Nanos }

// LogQuery selects log records. Limit 0 means no limit (the caller stops by ending the iteration).
type LogQuery struct {
	Expr      LogExpr // nil: all
	Range     NanoRange
	Limit     int
	Ascending bool // oldest first; otherwise newest first
}

// LogBucket is how many records lie in [At, At+step), in all and by severity name ("" where it is unknown).
type LogBucket struct {
	At         kemi.Millis      `json:"at"`
	Count      int64            `json:"count"`
	BySeverity map[string]int64 `json:"bySeverity,omitempty"`
}

// LogField is a field that records of a query have, with its most frequent values.
type LogField struct {
	Name   string       `json:"name"`
	Values []FieldCount `json:"values"`
	More   int64        `json:"more"` // how many records have a value that is not listed
}

// FieldCount is a value and the number of records that have it.
type FieldCount struct {
	Value string `json:"value"`
	Count int64  `json:"count"`
}

// GroupCount is the number of records with the given values of the grouping fields.
type GroupCount struct {
	Labels kemi.Labels
	Count  int64
}

// LogStore keeps log records and finds them. All methods may be called concurrently, but Index of one partition from one
// goroutine only, in the order of the log.
//
// The meaning of a LogExpr is what its Match method says on the record, whatever index answers it.
type LogStore interface {
	// Index adds records; when it returns they can be found. A record with the ID of one that is there already is the same record, and left out. at is
	// where the log of record stands after them; it is kept together with them, atomically.
	Index(ctx context.Context, records []kemi.LogRecord, at Position) error
	// Positions are where replay has to begin after a crash at this moment.
	Positions() bus.Positions
	// Search yields the records that match in order of time, equal times in order of ID.
	Search(ctx context.Context, id kemi.Identity, q LogQuery) iter.Seq2[kemi.LogRecord, error]
	// Histogram counts per step of time, buckets aligned to multiples of step since the epoch; empty buckets too, at most
	// 10 000. q.Limit is ignored here and below.
	Histogram(ctx context.Context, id kemi.Identity, q LogQuery, step kemi.Millis) ([]LogBucket, error)
	// Fields tells the fields of the records that match, with at most top values each, most frequent first.
	Fields(ctx context.Context, id kemi.Identity, q LogQuery, top int) ([]LogField, error)
	// Count counts the records that match by the values of the given fields, at most 10 000 groups; by none gives one count.
	Count(ctx context.Context, id kemi.Identity, q LogQuery, by []string) ([]GroupCount, error)
	// Series counts the records that match by the values of fields and by time: bucket i of a group has those of [From+i·step, From+(i+1)·step) of the range. At most 10 000
	// groups, and MaxSeriesCounts of all buckets of all groups together.
	Series(ctx context.Context, id kemi.Identity, q LogQuery, by []string, step kemi.Nanos) ([]GroupSeries, error)
	io.Closer
}

// GroupSeries is how many records with the given values of the grouping fields lie in each bucket of time.
type GroupSeries struct {
	Labels kemi.Labels
	Counts []int64
}

// MaxSeriesCounts is how many counts an answer of LogStore.Series has at the most.
const MaxSeriesCounts = 4 << 20
