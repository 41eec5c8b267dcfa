package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
)

const (
	// groupBytes is about how much is written with one sync at most, so that the first of many need not wait for all.
	groupBytes = 4 << 20
	// flushBytes is how much is worth a sync of its own: nobody waits for company longer than until so much is there.
	flushBytes = 1 << 20
	// coalesceBytes: frames smaller than this are copied together, so that many small ones cost one system call.
	coalesceBytes = 64 << 10
)

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
	p.mu.Lock()
	s := p.active()
	p.mu.Unlock()
	p.keepIndex(s)
	if err := p.file.Close(); err != nil {
		p.log.Error("close the log", "segment", s.path, "error", err)
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
			s := p.active()
			p.mu.Unlock()
			if s.empty() {
				continue
			}
			if _, err := p.roll(s); err != nil {
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
	if !s.empty() && s.size+total > p.segmentBytes {
		var err error
		if s, err = p.roll(s); err != nil {
			return p.refuse("begin a new segment", err)
		}
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
	now := kemi.MillisOf(p.now())
	p.mu.Lock()
	slowest := p.slowest()
	s.written = now
	for _, f := range group {
		s.add(f.h, int64(len(f.buf)))
		bytes += float64(len(f.buf))
		records += float64(f.h.count)
		// Nobody reads, or the readers are far behind: whoever comes later finds it on disk.
		if len(p.cursors) > 0 && f.charge <= p.cfg.TailBytes {
			f.users.Add(1)
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

// roll begins a new segment behind old, the present one, which stays in use if there is an error.
func (p *partition) roll(old *segment) (*segment, error) {
	s, f, err := createSegment(p.disk, p.dir, old.next, p.id, kemi.MillisOf(p.now()))
	if err != nil {
		return nil, err
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
	return s, nil
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
