package wal

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// retainEvery is how often age is looked at; size is also looked at whenever a segment is full.
const retainEvery = 30 * time.Second

func (w *WAL) kickRetention() {
	select {
	case w.retain <- struct{}{}:
	default:
	}
}

func (w *WAL) retention() {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		for _, t := range w.topics {
			w.retainTopic(t, w.now())
		}
		select {
		case <-w.closing:
			return
		case <-w.retain:
		case <-tick.C:
		}
	}
}

// retainTopic deletes what t need not keep.
func (w *WAL) retainTopic(t *topic, now time.Time) {
	r := t.retention
	before := func(age time.Duration) kemi.Millis { return kemi.MillisOf(now.Add(-age)) }
	tooOld, consumedOld := before(r.RetentionAge), minMillis
	// A segment goes as a whole; so that a quiet topic does not keep old records for ever, its segment ends after a
	// quarter of the time that they are to be kept, and once it is consumed when it would go.
	sealBefore := before(r.RetentionAge / 4)
	if r.ConsumedAge > 0 {
		consumedOld = before(r.ConsumedAge)
	}
	committed := t.groups.all()
	var total, consumed int64
	upto := make([]int64, len(t.partitions))
	for i, p := range t.partitions {
		p.mu.Lock()
		upto[i] = p.consumed(committed)
		for _, s := range p.segments {
			total += s.size
			if s.next <= upto[i] && !s.empty() {
				consumed += s.size
			}
		}
		p.mu.Unlock()
	}
	over := func() bool { return r.ConsumedBytes > 0 && consumed > r.ConsumedBytes }
	for i, p := range t.partitions {
		p.mu.Lock()
		s := p.active()
		seal := s.created < sealBefore || s.next <= upto[i] && (over() || s.created < consumedOld)
		seal = seal && !s.empty() && p.failed == nil
		p.mu.Unlock()
		if seal {
			p.seal()
		}
	}
	for {
		// The oldest full segment of all partitions that may go.
		var from *partition
		var victim *segment
		hard := total > r.RetentionHardBytes
		for i, p := range t.partitions {
			p.mu.Lock()
			if len(p.segments) > 1 {
				s := p.segments[0]
				due := hard || (total > r.RetentionBytes || s.written < tooOld) && s.next <= needed(committed, p.id) ||
					(over() || s.written < consumedOld) && s.next <= upto[i]
				if due && (victim == nil || s.written < victim.written) {
					from, victim = p, s
				}
			}
			p.mu.Unlock()
		}
		if victim == nil {
			return
		}
		w.countUnread(committed, from, victim)
		if err := from.dropOldest(); err != nil {
			w.log.Error("delete an old segment of the log", "segment", victim.path, "error", err)
		}
		total -= victim.size
		if victim.next <= upto[from.id] {
			consumed -= victim.size
		}
	}
}

// consumed is the offset before which all groups, of which there is at least one, and all open readers have done with the partition. p.mu must be held.
func (p *partition) consumed(committed map[string]bus.Positions) int64 {
	if len(committed) == 0 {
		return 0
	}
	return min(needed(committed, p.id), p.slowest())
}

// needed is the lowest offset of a partition that some group with committed positions has yet to read.
func needed(committed map[string]bus.Positions, partition int32) int64 {
	lowest := int64(math.MaxInt64)
	for _, p := range committed {
		lowest = min(lowest, p[partition])
	}
	return lowest
}

// countUnread tells what groups lose with a segment that the hard limit takes from them.
func (w *WAL) countUnread(committed map[string]bus.Positions, p *partition, s *segment) {
	for group, positions := range committed {
		if lost := s.next - max(s.base, positions[p.id]); lost > 0 {
			w.metrics.unread.WithLabelValues(p.topic, group).Add(float64(lost))
			w.log.Error("the log is over its hard limit and deletes records that a group has not read",
				"topic", p.topic, "partition", p.id, "group", group, "records", lost, "retentionHardBytes", w.cfg.retention(p.topic).RetentionHardBytes)
		}
	}
}

// dropOldest deletes the first segment. Readers that have it open jump to the next one.
func (p *partition) dropOldest() error {
	p.mu.Lock()
	s := p.segments[0]
	p.segments = append([]*segment(nil), p.segments[1:]...)
	for c := range p.cursors {
		c.wake()
	}
	p.mu.Unlock()
	p.m.deleted.Add(float64(s.size))
	err := os.Remove(s.path)
	if ierr := os.Remove(s.indexPath()); ierr != nil && !errors.Is(ierr, fs.ErrNotExist) {
		err = errors.Join(err, ierr)
	}
	return errors.Join(err, p.disk.syncDir(p.dir))
}

// Forget removes the committed positions of a group that will not come back, so that retention need not keep what it has not read.
func (w *WAL) Forget(_ context.Context, topic, group string) error {
	t, err := w.topic(topic)
	if err != nil {
		return err
	}
	if err := t.groups.forget(group); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "forget group %s of topic %s: %w", group, topic, err)
	}
	w.kickRetention()
	return nil
}
