package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"kemi"
	"kemi/pipeline/bus"
)

// frame is one publish on its way to disk, and afterwards, in the tail, on its way to readers.
type frame struct {
	buf    []byte // header and records
	h      frameHeader
	locals []any        // of the records, or nil
	charge int64        // what it costs to keep it in the tail
	users  atomic.Int32 // who has its bytes: the publisher, the tail, readers that have not given them back
	home   *sync.Pool
	done   chan error
}

// drop is what a user says who needs the frame no more. The last one sends it, and the decoded forms, to where they are used again.
func (f *frame) drop() {
	if f.users.Add(-1) > 0 {
		return
	}
	for i, l := range f.locals {
		if r, ok := l.(interface{ Recycle() }); ok {
			r.Recycle()
		}
		f.locals[i] = nil
	}
	f.locals = nil
	if cap(f.buf) <= 1<<20 {
		f.home.Put(f)
	}
}

// partition is a chain of segments with one writer. The writer goroutine alone writes files; what readers need to know
// is behind mu and changes only after a sync.
type partition struct {
	topic   string
	id      int32
	dir     string
	cfg     *Config
	disk    *disk
	log     *slog.Logger
	m       partitionMetrics
	now     func() time.Time
	pending *semaphore.Weighted

	segmentBytes int64

	kick   chan struct{} // there is something for the writer to do
	rolled func()        // called when a segment is full
	ended  chan struct{} // the writer has ended

	mu        sync.Mutex
	queue     []*frame
	queued    int64 // bytes
	company   int   // how many frames shared the last sync
	sealWant  bool
	closing   bool
	failed    error      // why nothing may be written any more
	segments  []*segment // never empty; the last one is being written
	tail      []*frame   // the newest frames, without a gap, up to the end
	tailBytes int64
	cursors   map[*cursor]struct{}

	// Of the writer alone.
	file  *os.File
	small []byte // frames that are written together
}

// openPartition reads what is on disk. floor is where a partition without segments begins.
func openPartition(p *partition, floor int64) error {
	bases, err := listSegments(p.dir)
	if err != nil {
		return err
	}
	for i, base := range bases {
		last := i == len(bases)-1
		s, size, err := openSegment(segmentPath(p.dir, base), base, p.id, last)
		if errors.Is(err, errNoHeader) {
			if err := os.Remove(segmentPath(p.dir, base)); err != nil {
				return err
			}
			floor = base
			break
		}
		if err != nil {
			return err
		}
		if i > 0 && p.segments[i-1].next != base {
			return &CorruptError{s.path, 0, p.segments[i-1].next, fmt.Sprintf("it begins with offset %d, but the segment before it ends with %d: one is missing", base, p.segments[i-1].next-1)}
		}
		p.segments = append(p.segments, s)
		if last {
			if err := p.reopenLast(s, size); err != nil {
				return err
			}
		} else if s.indexed != s.size {
			p.keepIndex(s)
		}
	}
	if p.file == nil {
		if n := len(p.segments); n > 0 {
			floor = p.segments[n-1].next
		}
		s, f, err := createSegment(p.disk, p.dir, floor, p.id, kemi.MillisOf(p.now()))
		if err != nil {
			return err
		}
		p.segments, p.file = append(p.segments, s), f
	}
	return nil
}

// reopenLast cuts an unfinished write off and makes durable what is left: after kill -9 it may be in the page cache only.
func (p *partition) reopenLast(s *segment, size int64) error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if size > s.size {
		p.log.Warn("cut off the unfinished end of the log; nothing of it had been acknowledged", "segment", s.path, "position", s.size, "bytes", size-s.size)
		p.m.truncated.Add(float64(size - s.size))
		err = f.Truncate(s.size)
	}
	if err == nil {
		err = p.disk.sync(f)
	}
	if err == nil {
		err = p.disk.syncDir(p.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	p.file = f
	return nil
}

// keepIndex writes the index of s, which costs nothing but time if it fails.
func (p *partition) keepIndex(s *segment) {
	if err := s.writeIndex(); err != nil {
		p.log.Warn("index of a segment of the log cannot be written: the next start will be slower", "segment", s.path, "error", err)
	}
}

// active is the segment that is being written. p.mu must be held.
func (p *partition) active() *segment { return p.segments[len(p.segments)-1] }

func (p *partition) span() bus.Span {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bus.Span{First: p.segments[0].base, Next: p.active().next}
}

// enqueue hands f to the writer, who answers on f.done.
func (p *partition) enqueue(f *frame) error {
	p.mu.Lock()
	switch {
	case p.failed != nil:
		p.mu.Unlock()
		return p.failed
	case p.closing:
		p.mu.Unlock()
		return errClosed
	}
	p.queue = append(p.queue, f)
	p.queued += int64(len(f.buf))
	wake := len(p.queue) == 1 || len(p.queue) >= p.company || p.queued >= flushBytes
	p.mu.Unlock()
	if wake {
		p.wake()
	}
	return nil
}

func (p *partition) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// stop lets the writer finish what is queued and end.
func (p *partition) stop() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.wake()
}

// seal asks the writer to begin a new segment although the present one is not full.
func (p *partition) seal() {
	p.mu.Lock()
	p.sealWant = true
	p.mu.Unlock()
	p.wake()
}

// slowest is the position of the reader that is farthest behind.
func (p *partition) slowest() int64 {
	lowest := p.active().next
	for c := range p.cursors {
		lowest = min(lowest, c.offset)
	}
	return lowest
}

// trimTail drops what is over the limit and what all readers have passed.
func (p *partition) trimTail(slowest int64) {
	i, bytes := 0, p.tailBytes
	for ; i < len(p.tail) && (bytes > p.cfg.TailBytes || p.tail[i].h.next() <= slowest); i++ {
		bytes -= p.tail[i].charge
	}
	p.dropTail(i)
}

func (p *partition) dropTail(n int) {
	for _, f := range p.tail[:n] {
		p.tailBytes -= f.charge
		f.drop()
	}
	rest := copy(p.tail, p.tail[n:])
	clear(p.tail[rest:])
	p.tail = p.tail[:rest]
}
