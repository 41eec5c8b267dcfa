// Package speed is the live layer: it follows the log of record and puts what is new into the stores, so that it can be
// queried within milliseconds of its acknowledgement. After a start it first replays what the stores had not made their
// own before the process ended.
//
// It decides nothing about the records: it keeps order, retries what is worth a retry, and knows how far it has come.
package speed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// Apply puts the records of a batch into a store. It returns only after they can be queried.
type Apply func(ctx context.Context, b bus.Batch) error

// Options are what a Follower works with. All are needed.
type Options struct {
	Bus       bus.Bus
	Topic     string
	Group     string
	Positions func() bus.Positions // of the store: where a crash at this moment would have to begin again
	Apply     Apply
	Log       *slog.Logger
	Registry  prometheus.Registerer
}

// Follower follows one topic.
type Follower struct {
	o        Options
	skipped  prometheus.Counter
	retries  prometheus.Counter
	lastAsOf prometheus.Gauge
	outrun   prometheus.Counter
	live     atomic.Bool // what there was at the start has been applied

	mu       sync.Mutex
	applied  bus.Positions
	target   bus.Positions // what there was at the start: until it is applied, answers are incomplete
	asOf     kemi.Millis
	progress chan struct{} // closed and replaced whenever applied grows
}

// New makes a Follower. Answers count as incomplete until Run has replayed what the log held at the start.
func New(o Options) *Follower {
	labels := prometheus.Labels{"topic": o.Topic, "group": o.Group}
	f := &Follower{
		o: o, applied: bus.Positions{}, progress: make(chan struct{}),
		skipped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_speed_skipped_records_total", Help: "Records that retention deleted before they were read.", ConstLabels: labels}),
		retries:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_speed_retries_total", Help: "Batches tried again because a store was unavailable.", ConstLabels: labels}),
		lastAsOf: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_speed_as_of_seconds", Help: "When the newest record that can be queried was published.", ConstLabels: labels}),
	}
	f.outrun = prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_speed_outrun_total", Help: "Publishers that were answered before their records could be queried.", ConstLabels: labels})
	o.Registry.MustRegister(f.skipped, f.retries, f.lastAsOf, f.outrun)
	return f
}

// commitEvery is how often the group's position is told to the bus, which may delete what lies before it.
const commitEvery = 10 * time.Second

// Run follows until ctx ends or the bus is closed.
func (f *Follower) Run(ctx context.Context) error {
	from := f.o.Positions()
	target, err := bus.Latest(ctx, f.o.Bus, f.o.Topic)
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.o.Topic, err)
	}
	f.start(from, target)
	r, err := f.o.Bus.Subscribe(ctx, f.o.Topic, f.o.Group, from)
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.o.Topic, err)
	}
	defer r.Close()
	lastCommit := time.Now()
	for {
		b, err := r.Next(ctx)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow %s: %w", f.o.Topic, err)
		}
		if b.Skipped > 0 {
			f.skipped.Add(float64(b.Skipped))
			f.o.Log.Error("records were deleted before they were read", "topic", f.o.Topic, "partition", b.Partition, "records", b.Skipped)
		}
		if err := f.apply(ctx, b); err != nil {
			return err
		}
		f.advance(b)
		if time.Since(lastCommit) >= commitEvery {
			lastCommit = time.Now()
			if err := r.Commit(ctx, f.o.Positions()); err != nil && ctx.Err() == nil {
				f.o.Log.Warn("position not committed; retention waits", "topic", f.o.Topic, "err", err)
			}
		}
	}
}

// apply tries until the store takes the batch: what is acknowledged is never given up. Ends with ctx, without an error.
func (f *Follower) apply(ctx context.Context, b bus.Batch) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := f.o.Apply(ctx, b)
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case !errors.Is(err, kemi.ErrUnavailable):
			return fmt.Errorf("apply %s %d/%d: %w", f.o.Topic, b.Partition, b.Records[0].Offset, err)
		}
		f.retries.Inc()
		f.o.Log.Warn("store unavailable; trying again", "topic", f.o.Topic, "wait", wait, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (f *Follower) start(from, target bus.Positions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, next := range from {
		f.applied[p] = next
	}
	f.target = target
	f.live.Store(f.behindLocked() == 0)
}

// behindLocked is how many of the records that there were at the start are still to be applied.
func (f *Follower) behindLocked() (left int64) {
	for p, next := range f.target {
		left += max(0, next-f.applied[p])
	}
	return left
}

func (f *Follower) caughtUp() bool { return f.live.Load() }

func (f *Follower) advance(b bus.Batch) {
	asOf := b.Records[len(b.Records)-1].At
	f.lastAsOf.Set(float64(asOf) / 1000)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied[b.Partition] = b.Next()
	f.asOf = max(f.asOf, asOf)
	if !f.live.Load() {
		f.live.Store(f.behindLocked() == 0)
	}
	close(f.progress)
	f.progress = make(chan struct{})
}

// Freshness says how near the store is to the log.
func (f *Follower) Freshness() store.Freshness {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == nil {
		return store.Freshness{Reason: "not started"}
	}
	if left := f.behindLocked(); left > 0 {
		return store.Freshness{AsOf: f.asOf, Reason: fmt.Sprintf("replay under way: %d records of %s left", left, f.o.Topic)}
	}
	return store.Freshness{AsOf: f.asOf, Complete: true}
}

// WaitApplied waits until the record at offset can be queried.
func (f *Follower) WaitApplied(ctx context.Context, partition int32, offset int64) error {
	for {
		f.mu.Lock()
		done, progress := f.applied[partition] > offset, f.progress
		f.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return kemi.Errorf(kemi.ErrUnavailable, "wait until %s %d/%d can be queried: %w", f.o.Topic, partition, offset, ctx.Err())
		case <-progress:
		}
	}
}

// Series is the Apply of a series store. Records that cannot be decoded were checked when they came in, so they are a defect: they
// are logged and left out, and the log keeps them.
func Series(table *codec.Table, s store.SeriesStore, log *slog.Logger) Apply {
	return func(ctx context.Context, b bus.Batch) error {
		for i := range b.Records {
			r := &b.Records[i]
			batch, err := table.Decode(r)
			if err != nil {
				log.Error("record left out", "topic", bus.Metrics, "partition", r.Partition, "offset", r.Offset, "err", err)
				continue
			}
			if err := s.Append(ctx, batch, store.Position{Partition: r.Partition, Next: r.Offset + 1}); err != nil {
				return err
			}
		}
		return nil
	}
}

// Logs is the Apply of a log store.
func Logs(s store.LogStore, log *slog.Logger) Apply {
	return func(ctx context.Context, b bus.Batch) error {
		var all []kemi.LogRecord
		for i := range b.Records {
			records, err := codec.DecodeLogs(&b.Records[i])
			if err != nil {
				log.Error("record left out", "topic", bus.Logs, "partition", b.Partition, "offset", b.Records[i].Offset, "err", err)
				continue
			}
			all = append(all, records...)
		}
		return s.Index(ctx, all, store.Position{Partition: b.Partition, Next: b.Next()})
	}
}
