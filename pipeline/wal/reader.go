package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"kemi"
	"kemi/pipeline/bus"
)

// readBytes is how much is read from disk at once, and about how much a batch holds.
const readBytes = 1 << 20

// reader reads a topic for one subscriber.
type reader struct {
	w     *WAL
	topic *topic
	group string
	awake chan struct{} // a partition has something new
	done  chan struct{}
	once  sync.Once

	mu      sync.Mutex // held while reading and while closing
	cursors []*cursor
	turn    int // the cursor to ask first
}

// Subscribe implements bus.Bus. A reader without a group ("") cannot commit.
func (w *WAL) Subscribe(_ context.Context, topic, group string, from bus.Positions) (bus.Reader, error) {
	t, err := w.topic(topic)
	if err != nil {
		return nil, err
	}
	if group != "" && !validName.MatchString(group) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "group %q: must be 1 to 128 letters, digits, '_', '-' or '.', not beginning with '-' or '.'", group)
	}
	for part := range from {
		if part < 0 || int(part) >= len(t.partitions) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "position of partition %d: topic %s has %d partitions", part, topic, len(t.partitions))
		}
	}
	committed := t.groups.get(group)
	r := &reader{w: w, topic: t, group: group, awake: make(chan struct{}, 1), done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	for _, p := range t.partitions {
		offset, ok := from[p.id]
		if !ok {
			offset, ok = committed[p.id]
		}
		c := &cursor{p: p, wake: r.wake}
		p.mu.Lock()
		span := bus.Span{First: p.segments[0].base, Next: p.active().next}
		if !ok {
			offset = span.First
		}
		if ok = offset >= 0 && offset <= span.Next; ok {
			c.offset = offset
			p.cursors[c] = struct{}{}
		}
		p.mu.Unlock()
		if !ok {
			r.forget()
			return nil, kemi.Errorf(kemi.ErrInvalid, "position %d of partition %d: topic %s has offsets %d to %d there: the position belongs to another log", offset, p.id, topic, span.First, span.Next)
		}
		r.cursors = append(r.cursors, c)
	}
	t.readers[r] = struct{}{}
	return r, nil
}

func (r *reader) wake() {
	select {
	case r.awake <- struct{}{}:
	default:
	}
}

// Next implements bus.Reader.
func (r *reader) Next(ctx context.Context) (bus.Batch, error) {
	for {
		if err := ctx.Err(); err != nil {
			return bus.Batch{}, err
		}
		if b, ok, err := r.poll(); ok || err != nil {
			return b, err
		}
		select {
		case <-ctx.Done():
		case <-r.awake:
		case <-r.done:
		}
	}
}

// poll returns what the next partition in turn has.
func (r *reader) poll() (bus.Batch, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.done:
		return bus.Batch{}, false, io.EOF
	default:
	}
	for i := range r.cursors {
		at := (r.turn + i) % len(r.cursors)
		b, err := r.cursors[at].read()
		if err != nil {
			return bus.Batch{}, false, fmt.Errorf("read topic %s: %w", r.topic.name, err)
		}
		if len(b.Records) > 0 {
			r.turn = at + 1
			return b, true, nil
		}
	}
	return bus.Batch{}, false, nil
}

// Recycle gives the batch that Next returned last back: its records and their bytes become the next batch, and must not
// be used any more, nor what is Local in them: that is told by its method Recycle, if it has one, once the publisher and all readers are done with
// it. A caller that need not keep them halves the cost of reading from disk with it; nobody has to call it.
func (r *reader) Recycle(b bus.Batch) {
	if b.Partition < 0 || int(b.Partition) >= len(r.cursors) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cursors[b.Partition].recycle(b)
}

// Commit implements bus.Reader. The positions are durable when it returns, which takes a sync or two: commit every
// second or every few batches, not after each record.
func (r *reader) Commit(_ context.Context, p bus.Positions) error {
	if r.group == "" {
		return kemi.Errorf(kemi.ErrInvalid, "commit: the reader has no group")
	}
	for part, offset := range p {
		if part < 0 || int(part) >= len(r.topic.partitions) {
			return kemi.Errorf(kemi.ErrInvalid, "commit of partition %d: topic %s has %d partitions", part, r.topic.name, len(r.topic.partitions))
		}
		if span := r.topic.partitions[part].span(); offset < 0 || offset > span.Next {
			return kemi.Errorf(kemi.ErrInvalid, "commit of position %d of partition %d: topic %s ends at %d there", offset, part, r.topic.name, span.Next)
		}
	}
	if err := r.topic.groups.commit(r.group, p); err != nil {
		if errors.Is(err, errClosed) {
			return err
		}
		return kemi.Errorf(kemi.ErrUnavailable, "commit positions of group %s in topic %s: %w", r.group, r.topic.name, err)
	}
	r.w.kickRetention()
	return nil
}

// Close implements bus.Reader.
func (r *reader) Close() error {
	r.once.Do(func() { close(r.done) })
	r.topic.mu.Lock()
	delete(r.topic.readers, r)
	r.topic.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget()
	return nil
}

func (r *reader) forget() {
	for _, c := range r.cursors {
		c.p.mu.Lock()
		delete(c.p.cursors, c)
		c.p.trimTail(c.p.slowest())
		c.p.mu.Unlock()
		c.closeFile()
	}
}

func (t *topic) closeReaders() {
	t.mu.Lock()
	t.closed = true
	readers := make([]*reader, 0, len(t.readers))
	for r := range t.readers {
		readers = append(readers, r)
	}
	t.mu.Unlock()
	for _, r := range readers {
		_ = r.Close()
	}
}
