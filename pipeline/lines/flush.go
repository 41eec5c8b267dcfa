package lines

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/pattern"
)

const (
	retryAfter     = 500 * time.Millisecond
	retentionEvery = time.Minute
)

// run writes the head when it is full or old, and merges and applies retention beside, until Close.
func (s *Store) run() error {
	tick := time.NewTicker(min(max(s.c.FlushInterval/4, 5*time.Millisecond), time.Second))
	defer tick.Stop()
	work := make(chan struct{}, 1)
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		s.tend(work)
	}()
	var retry <-chan time.Time
	for {
		var waiting chan<- error
		due := false
		select {
		case <-s.stop:
			close(work)
			<-idle
			return s.end()
		case waiting = <-s.sync:
			due = true
		case <-s.kick:
			due = retry == nil
		case <-retry:
			due, retry = true, nil
		case <-tick.C:
			due = s.old() && retry == nil
		}
		if !due {
			continue
		}
		err := s.flush()
		if retry = nil; err != nil {
			retry = time.After(retryAfter)
		}
		if waiting != nil {
			waiting <- err
		}
		select {
		case work <- struct{}{}:
		default:
		}
	}
}

// tend merges after each write, and applies retention every minute.
func (s *Store) tend(work <-chan struct{}) {
	tick := time.NewTicker(retentionEvery)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-work:
			if !ok {
				return
			}
		case <-tick.C:
			if err := s.retain(); err != nil {
				s.o.Log.Error("retention not applied", "err", err)
			}
		}
		for {
			more, err := s.merge()
			if err != nil {
				s.o.Log.Warn("parts of the logs not merged", "err", err)
			}
			if err != nil || !more || s.stopped() {
				break
			}
		}
	}
}

func (s *Store) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// Sync writes what is in memory; afterwards Positions are up to it.
func (s *Store) Sync() error {
	for range 2 { // what is being written, and what came meanwhile
		done := make(chan error, 1)
		select {
		case <-s.stop:
			return kemi.Errorf(kemi.ErrUnavailable, "log store is closed")
		case s.sync <- done:
			if err := <-done; err != nil {
				return kemi.Errorf(kemi.ErrUnavailable, "log store cannot write: %w", err)
			}
		}
	}
	return nil
}

// old tells whether what is in memory waits for longer than FlushInterval.
func (s *Store) old() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.frozen != nil || !s.head.since.IsZero() && s.o.Now().Sub(s.head.since) >= s.c.FlushInterval
}

// end writes the rest and closes.
func (s *Store) end() error {
	err := s.flush()
	if err == nil {
		err = s.flush()
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		p.release()
	}
	s.parts = nil
	if e := s.lock.Close(); err == nil {
		err = e
	}
	return err
}

// flush writes the head. What it writes answers as before until it is a part.
func (s *Store) flush() error {
	s.mu.Lock()
	if s.frozen == nil {
		if s.head.since.IsZero() {
			s.mu.Unlock()
			return nil
		}
		s.frozen = s.head
		s.head = newHead(s.taken)
		s.m.headBytes.Set(0)
		s.wake()
	}
	h := s.frozen
	s.mu.Unlock()
	began := time.Now()
	p, err := s.write(h)
	s.m.flushSeconds.Observe(time.Since(began).Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
	if err != nil {
		if s.failing == nil {
			s.o.Log.Warn("log store cannot write; waiting until it can", "err", err)
		}
		s.failing = err
		s.m.flushErrors.Inc()
		return err
	}
	if s.failing != nil {
		s.o.Log.Info("log store writes again")
	}
	s.failing = nil
	s.m.flushes.Inc()
	s.frozen = nil
	s.durable = maps.Clone(h.positions)
	s.parts = append(slices.Clone(s.parts), p)
	s.measure()
	return nil
}

// write makes a part of the head.
func (s *Store) write(h *head) (*part, error) {
	if err := s.checkFree(h.bytes); err != nil {
		return nil, err
	}
	w, err := s.newPart()
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	maps.Copy(w.footer.Positions, h.positions)
	w.footer.Replaces = slices.Clone(h.failed)
	for _, name := range slices.Sorted(maps.Keys(h.projects)) {
		p := h.projects[name]
		if err := w.records(p.runs); err != nil {
			return nil, err
		}
	}
	out, err := w.finish()
	if err != nil { // it may be there all the same
		h.failed = append(h.failed, w.seq)
		_ = os.Remove(partPath(s.dir, w.seq))
	}
	return out, err
}

// newPart begins a part.
func (s *Store) newPart() (*partWriter, error) {
	s.mu.Lock()
	seq := s.next
	s.next++
	s.mu.Unlock()
	return newPartWriter(s.dir, seq, s.o.step)
}

// records codes records of one project, in the order in which they came, and appends the blocks: as few as will do, all of about one size.
func (w *partWriter) records(runs [][]kemi.LogRecord) error {
	var raw int64
	count := 0
	for _, rs := range runs {
		for i := range rs {
			raw += recordBytes(&rs[i])
		}
		count += len(rs)
	}
	blocks := max(1, (raw+blockRaw/2)/blockRaw, int64(count+pattern.MaxRecords-1)/pattern.MaxRecords)
	size := raw/blocks + 1 // of each
	var taken [][]kemi.LogRecord
	n, bytes := 0, int64(0)
	flush := func() error {
		if n == 0 {
			return nil
		}
		data, m, err := pattern.Encode(taken...)
		if err == nil {
			err = w.block(data, m, batchesOf(taken))
		}
		taken, n, bytes = taken[:0], 0, 0
		return err
	}
	for _, rs := range runs {
		for from := 0; from < len(rs); {
			to := from
			for to < len(rs) && n < pattern.MaxRecords && bytes < size {
				bytes += recordBytes(&rs[to])
				to, n = to+1, n+1
			}
			if to > from {
				taken = append(taken, rs[from:to])
			}
			if from = to; n >= pattern.MaxRecords || bytes >= size {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// batchesOf are the hashes of the names of the senders' batches of records, ascending.
func batchesOf(runs [][]kemi.LogRecord) (out []uint64) {
	last := ""
	for _, rs := range runs {
		for i := range rs {
			if name, ok := batchOf(rs[i].ID); ok && (len(out) == 0 || name != last) {
				out = append(out, batchHash(name))
				last = name
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// checkFree refuses to write when the disk is nearly full.
func (s *Store) checkFree(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if need += s.c.MinFreeBytes; free < need {
		return fmt.Errorf("%s has %d bytes free, less than the %d that are needed (minFreeBytes): %w", s.dir, free, need, unix.ENOSPC)
	}
	return nil
}
