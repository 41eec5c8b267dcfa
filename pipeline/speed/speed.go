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
	"maps"
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

// Options are what a Follower works with. All but Ready, Recycle and Unclean are needed.
type Options struct {
	Bus       bus.Bus
	Topic     string
	Group     string
	Positions func() bus.Positions // of the store: where a crash at this moment would have to begin again
	Apply     Apply
	Ready     func(ctx context.Context) error // waits until the store takes records; publishers do not wait for it
	Recycle   bool                            // Apply keeps nothing of a batch: its memory can be used again
	Unclean   func() bool                     // the program before did not end in order: what is replayed is told even if it is nothing; nil: it did
	Log       *slog.Logger
	Registry  prometheus.Registerer
}

// Follower follows one topic.
type Follower struct {
	o         Options
	skipped   prometheus.Counter
	retries   prometheus.Counter
	lastAsOf  prometheus.Gauge
	outrun    prometheus.Counter
	live      atomic.Bool // what there was at the start has been applied
	lived     chan struct{}
	following atomic.Bool // the store is there

	mu       sync.Mutex
	applied  bus.Positions
	from     bus.Positions // where the store stood at the start
	target   bus.Positions // what there was at the start: until it is applied, answers are incomplete
	began    time.Time     // when the store was there and replay began
	missing  int64         // records that neither the store nor the log had at the start, or when it came to them
	asOf     kemi.Millis
	progress chan struct{} // closed and replaced whenever applied grows
}

// New makes a Follower. Answers count as incomplete until Run has replayed what the log held at the start.
func New(o Options) *Follower {
	labels := prometheus.Labels{"topic": o.Topic, "group": o.Group}
	f := &Follower{
		o: o, applied: bus.Positions{}, progress: make(chan struct{}), lived: make(chan struct{}),
		skipped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_speed_skipped_records_total", Help: "Records that retention deleted before they were read.", ConstLabels: labels}),
		retries:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_speed_retries_total", Help: "Batches tried again because a store was unavailable.", ConstLabels: labels}),
		lastAsOf: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_speed_as_of_seconds", Help: "When the newest record that can be queried was published.", ConstLabels: labels}),
	}
	f.outrun = prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_speed_outrun_total", Help: "Publishers that were answered before their records could be queried.", ConstLabels: labels})
	o.Registry.MustRegister(f.skipped, f.retries, f.lastAsOf, f.outrun)
	return f
}

// commitEvery is how often it is seen whether the store's positions have moved. They are told to the bus, which may delete what lies before them.
const (
	commitEvery = time.Second
	commitRetry = 10 * time.Second // after an error
)

// Run follows until ctx ends or the bus is closed.
func (f *Follower) Run(ctx context.Context) error {
	if f.o.Ready != nil {
		if err := f.o.Ready(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("follow %s: %w", f.o.Topic, err)
		}
	}
	f.following.Store(true)
	spans, err := f.o.Bus.Spans(ctx, f.o.Topic)
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.o.Topic, err)
	}
	from := f.start(f.o.Positions(), spans)
	r, err := f.o.Bus.Subscribe(ctx, f.o.Topic, f.o.Group, from)
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.o.Topic, err)
	}
	defer r.Close()
	if err := r.Commit(ctx, from); err != nil && ctx.Err() == nil { // a store that was lost needs again what the group had done with
		f.o.Log.Warn("position not committed; retention may delete what is to be replayed", "topic", f.o.Topic, "err", err)
	}
	running, cancel := context.WithCancel(ctx)
	var commits sync.WaitGroup
	commits.Go(func() { f.commit(running, r, from) })
	defer commits.Wait()
	defer cancel()
	recycler, _ := r.(interface{ Recycle(b bus.Batch) })
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
			f.miss(b.Skipped)
			f.o.Log.Error("records were deleted before they were read", "topic", f.o.Topic, "partition", b.Partition, "records", b.Skipped)
		}
		if err := f.apply(ctx, b); err != nil {
			return err
		}
		f.advance(b)
		if recycler != nil && f.o.Recycle {
			recycler.Recycle(b)
		}
	}
}

// commit tells the bus the store's positions when they have moved beyond told, until ctx ends. A store moves them when it has made something durable, which may be
// long after the last record came.
func (f *Follower) commit(ctx context.Context, r bus.Reader, told bus.Positions) {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		at := f.o.Positions()
		moved := false
		for p, next := range at {
			moved = moved || next > told[p]
		}
		if !moved {
			continue
		}
		if err := r.Commit(ctx, at); err != nil {
			if ctx.Err() == nil {
				f.o.Log.Warn("position not committed; retention waits", "topic", f.o.Topic, "wait", commitRetry, "err", err)
			}
			tick.Reset(commitRetry)
			continue
		}
		tick.Reset(commitEvery)
		told = at
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

// start says where to begin: where the store stands, and where it knows nothing of a partition at the oldest record. The group's position says nothing
// of a store that has lost its data. Of what the log has no more it says how much there was.
func (f *Follower) start(store bus.Positions, spans map[int32]bus.Span) (from bus.Positions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, f.target = bus.Positions{}, bus.Positions{}
	for p, span := range spans {
		from[p], f.target[p] = max(store[p], span.First), span.Next
		f.applied[p] = from[p]
		f.missing += from[p] - store[p]
		if from[p] > store[p] {
			f.o.Log.Error("the store wants records that the log has no more", "topic", f.o.Topic, "partition", p, "from", store[p], "kept_from", span.First)
		}
	}
	f.skipped.Add(float64(f.missing))
	f.from, f.began = maps.Clone(from), time.Now()
	f.liveIfLocked()
	return from
}

// miss notes that records were deleted before they were read.
func (f *Follower) miss(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missing += n
}

// liveIfLocked notes that what there was at the start has been applied, if it has.
func (f *Follower) liveIfLocked() {
	if !f.live.Load() && f.behindLocked() == 0 {
		f.live.Store(true)
		close(f.lived)
		f.tellReplayedLocked()
	}
}

// tellReplayedLocked says what the store took from the log of what came before this start.
func (f *Follower) tellReplayedLocked() {
	records := int64(0)
	for p, next := range f.target {
		records += max(0, next-f.from[p])
	}
	level := slog.LevelDebug
	switch {
	case f.o.Unclean != nil && f.o.Unclean():
		level = slog.LevelWarn
	case records > 0:
		level = slog.LevelInfo
	}
	f.o.Log.Log(context.Background(), level, "replayed from the log of record", "topic", f.o.Topic, "records", records, "from", f.from, "to", f.target,
		"missing", f.missing, "took", time.Since(f.began).Round(time.Millisecond))
}

// Live is closed once all is applied that the log had at the start.
func (f *Follower) Live() <-chan struct{} { return f.lived }

// behindLocked is how many of the records that there were at the start are still to be applied.
func (f *Follower) behindLocked() (left int64) {
	for p, next := range f.target {
		left += max(0, next-f.applied[p])
	}
	return left
}

// nearBy is how many records a follower may be behind for publishers to wait for it all the same.
const nearBy = 1000

// caughtUp tells whether publishers should wait for their records to be applied. One that is not told so before Run looks for the end of the
// log finds its record before that end: it counts for Live.
func (f *Follower) caughtUp() bool {
	if f.live.Load() {
		return true
	}
	if !f.following.Load() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.behindLocked() <= nearBy
}

func (f *Follower) advance(b bus.Batch) {
	asOf := b.Records[len(b.Records)-1].At
	f.lastAsOf.Set(float64(asOf) / 1000)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied[b.Partition] = b.Next()
	f.asOf = max(f.asOf, asOf)
	f.liveIfLocked()
	close(f.progress)
	f.progress = make(chan struct{})
}

// Freshness says how near the store is to the log, and whether something is missing that is older than what the log keeps.
func (f *Follower) Freshness() store.Freshness {
	fresh := f.Replayed()
	f.mu.Lock()
	missing := f.missing
	f.mu.Unlock()
	if fresh.Complete && missing > 0 {
		return store.Freshness{AsOf: fresh.AsOf, Reason: fmt.Sprintf("%d older records of %s are missing: at the start neither the store nor the log had them, unless they had been settled", missing, f.o.Topic)}
	}
	return fresh
}

// Replayed says how near the store is to the log.
func (f *Follower) Replayed() store.Freshness {
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

// WaitCaughtUp waits until all that the topic has at this moment can be queried.
func (f *Follower) WaitCaughtUp(ctx context.Context) error {
	latest, err := bus.Latest(ctx, f.o.Bus, f.o.Topic)
	if err != nil {
		return err
	}
	for partition, next := range latest {
		if next == 0 {
			continue
		}
		if err := f.WaitApplied(ctx, partition, next-1); err != nil {
			return err
		}
	}
	return nil
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
			at := store.Position{Partition: r.Partition, Next: r.Offset + 1}
			err = s.Append(ctx, batch, at)
			for tries := 0; errors.Is(err, codec.ErrLabelsWanted) && tries < 3; tries++ {
				// Decoded from the bytes it has the labels that the store had let go of.
				again := *r
				again.Local = nil
				if batch, err = table.Decode(&again); err == nil {
					err = s.Append(ctx, batch, at)
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// indexAlone is how many log records are worth a call of their own: fewer are copied together.
const indexAlone = 256

// Logs is the Apply of a log store.
func Logs(s store.LogStore, log *slog.Logger) Apply {
	return func(ctx context.Context, b bus.Batch) error {
		var all []kemi.LogRecord
		next := b.Records[0].Offset // what comes before it is in the store
		index := func(records []kemi.LogRecord, to int64) error {
			next = to
			return s.Index(ctx, records, store.Position{Partition: b.Partition, Next: to})
		}
		for i := range b.Records {
			r := &b.Records[i]
			records, err := codec.DecodeLogs(r)
			if err != nil {
				log.Error("record left out", "topic", bus.Logs, "partition", b.Partition, "offset", r.Offset, "err", err)
				continue
			}
			if len(records) < indexAlone {
				all = append(all, records...)
				continue
			}
			if len(all) > 0 {
				if err := index(all, r.Offset); err != nil {
					return err
				}
				all = nil // the store has it
			}
			if err := index(records, r.Offset+1); err != nil {
				return err
			}
		}
		if next < b.Next() {
			return index(all, b.Next())
		}
		return nil
	}
}
