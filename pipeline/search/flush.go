package search

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	index "github.com/blevesearch/bleve_index_api"

	"kemi"
)

const (
	retryAfter     = 500 * time.Millisecond
	retentionEvery = time.Minute
	refreshEvery   = 5 * time.Second
	droppedExt     = ".dropped"
)

// run writes the head when it is full or old, and applies retention, until Close. It is the only one that changes slices.
func (x *Index) run() error {
	tick := time.NewTicker(min(max(x.c.FlushInterval/4, 5*time.Millisecond), time.Second))
	defer tick.Stop()
	var retry <-chan time.Time
	var lastRetention, lastRefresh time.Time
	for {
		var waiting chan<- error
		due := false
		select {
		case <-x.stop:
			return x.end()
		case waiting = <-x.sync:
			due = true
		case <-x.kick:
			due = true
		case <-retry:
			due, retry = true, nil
		case <-tick.C:
			due = x.old() && retry == nil
		}
		if due {
			err := x.flush()
			if retry = nil; err != nil {
				retry = time.After(retryAfter)
			}
			if waiting != nil {
				waiting <- err
			}
		}
		now := time.Now()
		if now.Sub(lastRetention) >= retentionEvery {
			lastRetention = now
			x.retain()
		}
		if now.Sub(lastRefresh) >= refreshEvery {
			lastRefresh = now
			x.refreshViews()
		}
	}
}

// Sync writes what is in memory; afterwards Positions are up to it.
func (x *Index) Sync() error {
	for range 2 { // what is being written, and what came meanwhile
		ch := make(chan error, 1)
		select {
		case x.sync <- ch:
		case <-x.stop:
			return kemi.Errorf(kemi.ErrUnavailable, "log index is closed")
		}
		if err := <-ch; err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) old() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.frozen != nil || !x.active.since.IsZero() && x.o.Now().Sub(x.active.since) >= x.c.FlushInterval
}

// end writes what is left and closes the slices. What cannot be written comes again by replay.
func (x *Index) end() error {
	err := x.flush()
	if err == nil {
		err = x.flush()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	errs := []error{err}
	for _, s := range x.slices {
		errs = append(errs, s.close())
	}
	x.slices, x.current = nil, nil
	x.queue.Close()
	errs = append(errs, x.lock.Close())
	return errors.Join(errs...)
}

// flush writes the head to the current slice: blocks, positions, all in one batch.
func (x *Index) flush() error {
	begin := time.Now()
	x.mu.Lock()
	if x.frozen == nil {
		if x.active.since.IsZero() {
			x.mu.Unlock()
			return nil
		}
		x.frozen, x.active = x.active, newHead()
		maps.Copy(x.active.positions, x.frozen.positions)
	}
	h := x.frozen
	x.mu.Unlock()

	err := x.write(h)
	x.mu.Lock()
	defer x.mu.Unlock()
	defer x.wake()
	if x.failing = err; err != nil {
		x.m.flushErrors.Inc()
		return err
	}
	x.m.flushes.Inc()
	x.m.flushSeconds.Observe(time.Since(begin).Seconds())
	x.m.headBytes.Set(float64(x.active.bytes))
	return nil
}

// write brings h into a slice, and then takes it out of memory.
func (x *Index) write(h *head) error {
	s, err := x.slice()
	if err != nil {
		return err
	}
	if err := x.checkFree(h); err != nil {
		return err
	}
	state := s.state
	state.Version = stateVersion
	state.Seq++
	if h.docs == nil {
		h.docs = h.documents(state.Seq)
	}
	batch := index.NewBatch()
	for i, d := range h.docs {
		d.rename(docID(state.Seq, i))
		batch.Update(d)
		if state.Records == 0 {
			state.From, state.To = d.meta.from, d.meta.to
		}
		state.From, state.To = min(state.From, d.meta.from), max(state.To, d.meta.to)
		state.Records += d.meta.count
		state.Bytes += int64(len(d.data))
	}
	state.Positions = h.positions

	touched, err := x.takeOut(h, s, batch)
	if err != nil {
		return err
	}
	batch.SetInternal(stateKey, []byte(mustJSON(state)))
	if err := x.apply(s, batch); err != nil {
		return err
	}

	x.mu.Lock()
	defer x.mu.Unlock()
	s.state = state
	for _, t := range append(touched, s) {
		if err := t.refresh(); err != nil {
			x.o.Log.Error("slice cannot be read after it was written", "slice", t.name, "err", err)
		}
	}
	x.frozen = nil
	x.durable = maps.Clone(h.positions)
	if err := s.noteSeq(); err != nil {
		x.o.Log.Warn("number of the last batch not noted", "slice", s.name, "err", err)
	}
	return nil
}

// apply applies a batch and waits until it is durable, as long as it takes. While it is not, failing says why; that is how Index knows.
// A slice of which a background task died takes no more: the batch goes to a new one.
func (x *Index) apply(s *slice, b *index.Batch) error {
	settled, err := s.apply(b)
	if err == nil {
		return nil
	}
	select {
	case <-s.broken:
		x.damage(s, err)
		x.mu.Lock()
		if x.current == s {
			x.current = nil
		}
		x.mu.Unlock()
		return err
	default:
	}
	if settled == nil {
		return err
	}
	x.o.Log.Warn("log index cannot write; waiting until it can", "err", err)
	x.m.flushErrors.Inc()
	x.mu.Lock()
	x.failing = err
	x.wake()
	x.mu.Unlock()
	select {
	case <-settled:
		return nil
	case <-s.broken:
		return err
	case <-x.stop:
		return fmt.Errorf("closed before it could write: %w", err)
	}
}

// takeOut takes the records that h supersedes out of the blocks that hold them: those of the slice s in the batch, those of other
// slices at once. If the process dies between the two, replay brings the records again.
func (x *Index) takeOut(h *head, s *slice, batch *index.Batch) (touched []*slice, err error) {
	if len(h.superseded) == 0 {
		return nil, nil
	}
	snap := x.snapshot()
	defer snap.release()
	groups := map[uint64]bool{}
	for i := range h.records {
		r := &h.records[i]
		if _, ok := h.superseded[keyOf(r.Project, r.ID)]; ok {
			groups[groupHash(r.Project, r.ID)] = true
		}
	}
	batches := map[*slice]*index.Batch{s: batch}
	done := map[place]bool{}
	for g := range groups {
		err := snap.blocksOf(g, func(p place, b *block) error {
			if done[p] {
				return nil
			}
			done[p] = true
			all, err := b.all()
			if err != nil {
				return err
			}
			left := slices.DeleteFunc(all, func(r kemi.LogRecord) bool {
				_, gone := h.superseded[keyOf(r.Project, r.ID)]
				return gone
			})
			if len(left) == b.count {
				return nil
			}
			id, err := p.sg.docID(p.num)
			if err != nil {
				return err
			}
			to := batches[p.v.slice]
			if to == nil {
				to = index.NewBatch()
				batches[p.v.slice] = to
			}
			if len(left) == 0 {
				to.Delete(id)
			} else {
				to.Update(newDocument(id, left))
			}
			return nil
		})
		if err != nil {
			x.o.Log.Error("replaced records cannot be taken out", "err", err)
		}
	}
	for other, b := range batches {
		if other == s {
			continue
		}
		// Its state changes too, so that apply can tell whether the batch has arrived.
		st := other.state
		st.Seq++
		b.SetInternal(stateKey, []byte(mustJSON(st)))
		if err := x.apply(other, b); err != nil {
			return nil, err
		}
		other.state = st
		touched = append(touched, other)
	}
	return touched, nil
}
