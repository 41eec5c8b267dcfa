// Package bus is the contract of the log of record: the one place where what came in is made durable, in order, before
// it is acknowledged. Everything behind it (series, logs, alert state, pools) can be made again from it.
//
// A topic has partitions; a partition is a sequence of records with ascending offsets. Back-ends: pipeline/wal
// (embedded), Kafka later. This package has types only.
package bus

import (
	"context"

	"kemi"
)

// The topics.
const (
	Metrics = "metrics" // remote-write bodies, see pipeline/codec
	Logs    = "logs"    // OpenTelemetry logs, see pipeline/codec
	Events  = "events"  // CloudEvents JSON, see pipeline/codec
	Jobs    = "jobs"    // work that any of several processes may take: SNMP polls, see collectors/snmp
)

// Header is a name and a value that travel with a record, as in Kafka.
type Header struct{ Name, Value string }

// Record is one entry of a partition.
type Record struct {
	Key     []byte // records of one key keep their order: they go to one partition
	Value   []byte
	Headers []Header
	At      kemi.Millis // when it was published; set by Publish if 0

	// Partition and Offset are set by Publish and by Next.
	Partition int32
	Offset    int64

	// Local is the decoded form of Value, if the publisher has it at hand. A back-end in this process hands it to
	// readers that are close behind, so that they need not decode again; it is nil whenever the record comes from disk or
	// from elsewhere. Neither side may change it after Publish. If it has a method Recycle, that is called once nobody needs it any more, which may
	// be before Publish returns: the publisher must not look at it afterwards.
	Local any
}

// Header is the value of the header of that name, or "".
func (r *Record) Header(name string) string {
	for _, h := range r.Headers {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// Positions are, by partition, the offset of the next record to read.
type Positions map[int32]int64

// Span is the offsets that a partition holds: First is the oldest kept, Next the one that the next record will get.
// Durable records are those below Next.
type Span struct{ First, Next int64 }

// Bus is a log of record. All methods may be called concurrently.
type Bus interface {
	// Publish appends records to a topic, all of them or none, and sets Partition and Offset in them. When it returns nil
	// they are durable: they survive kill -9 and a power cut. Records with the same key, published one after another, keep
	// their order. The values may be reused by the caller after it returns, unless Local refers to them: then they may not.
	// Errors: ErrInvalid (no such topic), ErrTooLarge (a record over the limit), ErrUnavailable (disk full, closing): then
	// nothing was published, or it is not known whether it was; publishing again may make a duplicate.
	Publish(ctx context.Context, topic string, records []Record) error

	// Subscribe reads all partitions of a topic from the given positions. A partition that is not named there begins at the
	// committed position of the group, and without one at the oldest record. A position that has been deleted by retention
	// moves to the oldest kept one; Reader tells the gap by Batch.Skipped.
	Subscribe(ctx context.Context, topic, group string, from Positions) (Reader, error)

	// Spans tells what each partition of the topic holds.
	Spans(ctx context.Context, topic string) (map[int32]Span, error)

	// Close makes Publish refuse, ends readers, and returns when everything is on disk.
	Close() error
}

// Batch is records of one partition in ascending order of offset.
type Batch struct {
	Partition int32
	Records   []Record
	Skipped   int64 // how many records before the first one are gone by retention, unread
}

// Next is the offset after the batch.
func (b Batch) Next() int64 { return b.Records[len(b.Records)-1].Offset + 1 }

// Reader reads records in order. It is for one goroutine, but Commit and Close may be called from any.
type Reader interface {
	// Next waits for at least one record and returns what is there, at most about 1 MiB unless one record is larger. The batch and its bytes
	// are the caller's to keep. It returns io.EOF after Close of the bus or the reader and ctx.Err() when ctx ends.
	Next(ctx context.Context) (Batch, error)
	// Commit keeps p as the group's positions: where Subscribe begins the next time, and what retention must not delete. A sink that
	// keeps positions with its own data commits them here too, after its data are durable.
	Commit(ctx context.Context, p Positions) error
	Close() error
}

// Latest is positions after the newest record of each partition.
func Latest(ctx context.Context, b Bus, topic string) (Positions, error) {
	spans, err := b.Spans(ctx, topic)
	if err != nil {
		return nil, err
	}
	p := make(Positions, len(spans))
	for part, s := range spans {
		p[part] = s.Next
	}
	return p, nil
}
