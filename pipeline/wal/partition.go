package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/bus"
)

const (
	// groupBytes is about how much is written with one sync at most, so that the first of many need not wait for all.
	groupBytes = 4 << 20
	// flushBytes is how much is worth a sync of its own: nobody waits for company longer than until so much is there.
	flushBytes = 1 << 20
	// coalesceBytes: frames smaller than this are copied together, so that many small ones cost one system call.
	coalesceBytes = 64 << 10
)

// frame is one publish on its way to disk, and afterwards, in the tail, on its way to readers.
type frame struct {
	buf    []byte // header and records
	h      frameHeader
	locals []any // of the records, or nil
	charge int64 // what it costs to keep it in the tail
	kept   bool  // it is, or was, in the tail: readers may have its bytes
	done   chan error
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

// write is the writer: it takes what is queued, writes it, and tells the publishers, until stop.
func (p *partition) write() {
	defer close(p.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var group []*frame
	for {
		var more bool
		if group, more = p.next(group[:0], timer); !more {
			break
		}
		err := p.commit(group)
		for i, f := range group {
			p.pending.Release(int64(len(f.buf)))
			f.done <- err
			group[i] = nil
		}
	}
	p.keepIndex(p.active())
	if err := p.file.Close(); err != nil {
		p.log.Error("close the log", "segment", p.active().path, "error", err)
	}
}

// next waits for frames and appends to group those to write together. If others shared the last sync it waits for as
// many again, but at most for the window.
func (p *partition) next(group []*frame, timer *time.Timer) (_ []*frame, more bool) {
	waiting := false
	for {
		p.mu.Lock()
		n := len(p.queue)
		switch {
		case n == 0 && p.sealWant:
			p.sealWant = false
			p.mu.Unlock()
			if err := p.roll(); err != nil {
				p.log.Error("begin a new segment of the log", "topic", p.topic, "partition", p.id, "error", err)
			}
			continue
		case n == 0 && p.closing:
			p.mu.Unlock()
			return group, false
		case n == 0:
			p.mu.Unlock()
			<-p.kick
			continue
		}
		if w := p.cfg.FlushWindow; w > 0 && n < p.company && p.queued < flushBytes && !p.closing {
			p.mu.Unlock()
			if !waiting {
				timer.Reset(w)
				waiting = true
			}
			select {
			case <-p.kick:
				continue
			case <-timer.C:
			}
			p.mu.Lock()
		}
		var bytes int64
		i := 0
		for ; i < len(p.queue) && (i == 0 || bytes+int64(len(p.queue[i].buf)) <= groupBytes); i++ {
			bytes += int64(len(p.queue[i].buf))
		}
		group = append(group, p.queue[:i]...)
		rest := copy(p.queue, p.queue[i:])
		clear(p.queue[rest:])
		p.queue = p.queue[:rest]
		p.queued -= bytes
		p.company = i
		p.mu.Unlock()
		return group, true
	}
}

// commit makes the frames of group durable, all or none, and shows them to readers.
func (p *partition) commit(group []*frame) error {
	p.mu.Lock()
	failed, s := p.failed, p.active()
	p.mu.Unlock()
	if failed != nil {
		return failed
	}
	var total int64
	for _, f := range group {
		total += int64(len(f.buf))
	}
	if !s.empty() && s.size+total > p.cfg.SegmentBytes {
		if err := p.roll(); err != nil {
			return p.refuse("begin a new segment", err)
		}
		s = p.active()
	}
	offset := s.next
	for _, f := range group {
		f.h.first, f.h.durable = offset, s.size
		f.h.put(f.buf, s.salt)
		offset = f.h.next()
	}
	if err := p.writeGroup(group, s.size); err != nil {
		// Part of the group may be in the file. None of it has an offset that anybody knows: take it out again.
		if terr := p.file.Truncate(s.size); terr != nil {
			return p.fail("take back a write that failed", errors.Join(err, terr))
		}
		return p.refuse("write", err)
	}
	start := time.Now()
	if err := p.disk.sync(p.file); err != nil {
		// What the kernel could not write it may forget, and say that all is well the next time. Only what was synced
		// before is certain; so cut the file there, and trust this file handle no more.
		return p.fail("sync", errors.Join(err, p.file.Truncate(s.size)))
	}
	p.m.sync.Observe(time.Since(start).Seconds())
	p.show(s, group)
	return nil
}

func (p *partition) writeGroup(group []*frame, pos int64) error {
	flush := func() error {
		n, err := p.disk.writeAt(p.file, p.small, pos)
		pos += int64(n)
		p.small = p.small[:0]
		return err
	}
	for _, f := range group {
		if len(f.buf) < coalesceBytes {
			p.small = append(p.small, f.buf...)
			if len(p.small) < 4*coalesceBytes {
				continue
			}
		}
		if len(p.small) > 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		if len(f.buf) >= coalesceBytes {
			n, err := p.disk.writeAt(p.file, f.buf, pos)
			if err != nil {
				return err
			}
			pos += int64(n)
		}
	}
	if len(p.small) > 0 {
		return flush()
	}
	return nil
}

// show makes frames that are durable visible.
func (p *partition) show(s *segment, group []*frame) {
	var bytes, records float64
	p.mu.Lock()
	slowest := p.slowest()
	for _, f := range group {
		s.add(f.h, int64(len(f.buf)))
		bytes += float64(len(f.buf))
		records += float64(f.h.count)
		// Nobody reads, or the readers are far behind: whoever comes later finds it on disk.
		if len(p.cursors) > 0 && f.charge <= p.cfg.TailBytes {
			f.kept = true
			p.tail = append(p.tail, f)
			p.tailBytes += f.charge
		} else {
			p.dropTail(len(p.tail))
		}
	}
	p.trimTail(slowest)
	for c := range p.cursors {
		c.wake()
	}
	p.mu.Unlock()
	p.m.bytes.Add(bytes)
	p.m.records.Add(records)
	p.m.publishes.Add(float64(len(group)))
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
	}
	rest := copy(p.tail, p.tail[n:])
	clear(p.tail[rest:])
	p.tail = p.tail[:rest]
}

// roll begins a new segment. On an error the present one stays in use.
func (p *partition) roll() error {
	p.mu.Lock()
	old := p.active()
	p.mu.Unlock()
	if old.empty() {
		return nil
	}
	s, f, err := createSegment(p.disk, p.dir, old.next, p.id, kemi.MillisOf(p.now()))
	if err != nil {
		return err
	}
	p.keepIndex(old)
	if err := p.file.Close(); err != nil { // all of it was synced before
		p.log.Warn("close a full segment of the log", "segment", old.path, "error", err)
	}
	p.mu.Lock()
	p.segments = append(p.segments, s)
	p.mu.Unlock()
	p.file = f
	p.rolled()
	return nil
}

// refuse is the error of publishes that left no trace: they may be tried again.
func (p *partition) refuse(what string, err error) error {
	reason := "write"
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		reason = "full"
		err = fmt.Errorf("the disk is full: %w", err)
	}
	p.m.errors.WithLabelValues(reason).Inc()
	return kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "%s in topic %s: %w", what, p.topic, err), 5*time.Second)
}

// fail ends all writing to the partition until the log is opened again.
func (p *partition) fail(what string, err error) error {
	err = kemi.Errorf(kemi.ErrUnavailable, "partition %d of topic %s takes no more records until restart, because the disk failed: %s %s: %w",
		p.id, p.topic, what, filepath.Base(p.file.Name()), err)
	p.mu.Lock()
	p.failed = err
	p.mu.Unlock()
	p.m.errors.WithLabelValues("sync").Inc()
	p.m.failed.Set(1)
	p.log.Error("the log of record takes no more records", "topic", p.topic, "partition", p.id, "error", err)
	return err
}
