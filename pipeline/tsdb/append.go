package tsdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// A codec.Series.Ref is the head's number of the series below the DB's generation.
const (
	refBits = 48
	refMask = 1<<refBits - 1
)

// ref is the head's number of s, or 0 if this DB has not given it one.
func (db *DB) ref(s *codec.Series) storage.SeriesRef {
	if r := s.Ref.Load(); r&^refMask == db.gen {
		return storage.SeriesRef(r & refMask)
	}
	return 0
}

// setRef notes where the head has the series. Two entries of the codec's table can be one series (it has been written in two forms, or was
// forgotten there meanwhile): then neither knows alone what the series has.
func (db *DB) setRef(s *codec.Series, ref storage.SeriesRef) {
	if s.Ref.Load() == db.gen|uint64(ref) {
		return
	}
	if !db.claimed.add(ref) {
		db.shared.add(ref)
	}
	s.Newest.Store(0)
	s.Ref.Store(db.gen | uint64(ref))
}

// refSet is a set of references, which the head counts up from 1.
type refSet []uint64

// add tells whether n was not in the set before.
func (b *refSet) add(n storage.SeriesRef) bool {
	for uint64(n)/64 >= uint64(len(*b)) {
		*b = append(*b, 0)
	}
	old := (*b)[n/64]
	(*b)[n/64] = old | 1<<(n%64)
	return old&(1<<(n%64)) == 0
}

func (b refSet) has(n storage.SeriesRef) bool {
	return uint64(n)/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0
}

// labelsOf are the labels of Series[i] as the head knows them, with the project.
func labelsOf(batch *codec.SeriesBatch, i int) labels.Labels {
	ls := batch.Labels(i)
	b := labels.NewScratchBuilder(len(ls) + 1)
	b.Add(projectLabel, batch.Project)
	for _, l := range ls {
		if l.Name != projectLabel && l.Name != "" && l.Value != "" {
			b.Add(l.Name, l.Value)
		}
	}
	return b.Labels()
}

// Append adds the samples of a batch. Those newer than all of their series go straight in; the others are put aside and
// merged in afterwards, see late.go.
func (db *DB) Append(ctx context.Context, batch *codec.SeriesBatch, at store.Position) error {
	db.appendMu.Lock()
	defer db.appendMu.Unlock()
	if err := db.writable(); err != nil {
		return err
	}
	db.late = db.late[:0]
	if len(batch.Series) > 0 {
		if err := db.appendFloats(ctx, batch); err != nil {
			return err
		}
	}
	if len(db.late) > 0 {
		if err := db.appendLate(ctx, batch); err != nil {
			return err
		}
	}
	if batch.Complex != nil {
		if err := db.appendComplex(ctx, batch); err != nil {
			return err
		}
	}
	db.applied[at.Partition] = at.Next
	if err := db.quick.set(at.Partition, at.Next); err != nil {
		return db.writeError("note position", err)
	}
	db.freshMu.Lock()
	db.asOf = kemi.MillisOf(db.now())
	db.freshMu.Unlock()
	return nil
}

func (db *DB) writable() error {
	if db.closed {
		return errClosed
	}
	if db.broken != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "series: an earlier write failed, a restart will replay from the log: %w", db.broken)
	}
	return db.room()
}

// writeError is what Append says of an error that came while it wrote.
func (db *DB) writeError(what string, err error) error {
	// Series may be in the head by now whose record did not reach the WAL: samples that refer to them would be lost with the next
	// restart. So nothing more is taken, the positions stay, and a restart brings all back from the log.
	db.broken = err
	if diskFull(err) {
		return kemi.Errorf(kemi.ErrUnavailable, "series: %s: disk full: %w", what, err)
	}
	return kemi.Errorf(kemi.ErrUnavailable, "series: %s: %w", what, err)
}

var inOrderOnly = storage.AOptions{RejectOutOfOrder: true}

// appendFloats appends what is newer than all that its series has, and puts the rest on db.late.
func (db *DB) appendFloats(ctx context.Context, batch *codec.SeriesBatch) error {
	app := db.db.AppenderV2(ctx)
	newest := int64(kemi.MillisOf(db.now().Add(db.cfg.MaxFuture)))
	db.seen.reset(len(batch.Series))
	taken, lo := 0, int32(0)
	for i, s := range batch.Series {
		hi := batch.Ends[i]
		if lo == hi {
			continue // it has histograms or exemplars only
		}
		ref := db.ref(s)
		var ls labels.Labels
		if ref == 0 {
			ls = labelsOf(batch, i)
			if !db.mayCreate(app, ls) {
				db.m.overLimit.Add(float64(hi - lo))
				lo = hi
				continue
			}
		}
		last := db.seen.last(ref)
		for j := lo; j < hi; j++ {
			t := int64(batch.At[j])
			if t > newest {
				db.m.future.Inc()
				continue
			}
			if t <= last {
				db.late = append(db.late, lateSample{int32(i), j})
				continue
			}
			got, err := app.Append(ref, ls, 0, t, batch.Values[j], nil, nil, inOrderOnly)
			if err != nil && ls.IsEmpty() && errors.Is(err, tsdb.ErrInvalidSample) {
				// The head has forgotten the series since: it needs the labels again.
				ref, ls = 0, labelsOf(batch, i)
				got, err = app.Append(ref, ls, 0, t, batch.Values[j], nil, nil, inOrderOnly)
			}
			switch {
			case err == nil:
				if got != ref {
					ref = got
					db.setRef(s, ref)
					last = db.seen.last(ref)
				}
				last = max(last, t)
				// What goes in in order is newer than all that there is of the series, in the head and in blocks.
				if t > s.Newest.Load() {
					s.Newest.Store(t)
				}
				taken++
			case err == storage.ErrOutOfOrderSample: //nolint:errorlint // the hot path of backfills; the head returns it as it is
				db.late = append(db.late, lateSample{int32(i), j})
			default:
				db.count(err)
			}
		}
		db.seen.set(ref, last)
		lo = hi
	}
	if err := app.Commit(); err != nil {
		return db.writeError(fmt.Sprintf("append %d samples", len(batch.At)), err)
	}
	db.m.appended.Add(float64(taken))
	return nil
}

// mayCreate tells whether the series is there or there is room for one more.
func (db *DB) mayCreate(app storage.AppenderV2, ls labels.Labels) bool {
	if db.db.Head().NumSeries() < db.cfg.MaxSeries {
		return true
	}
	g, ok := app.(storage.GetRef)
	if !ok {
		return false
	}
	ref, _ := g.GetRef(ls, ls.Hash())
	return ref != 0
}

// count counts a sample that cannot be taken.
func (db *DB) count(err error) {
	switch {
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		db.m.conflicts.Inc()
	case errors.Is(err, storage.ErrTooOldSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrOutOfOrderSample):
		db.m.tooOld.Inc()
	default:
		db.m.invalid.Inc()
		db.log.Debug("sample left out", "err", err)
	}
}

// seenSet knows the newest time that a batch has appended for each series so far: one series may stand in a batch more than
// once, and the head does not look at what is not committed yet. Open addressing over a slice that is kept from batch to batch.
type seenSet struct {
	slots []seenSlot
	round uint32
	mask  uint64
}

type seenSlot struct {
	ref   storage.SeriesRef
	last  int64
	round uint32
}

const never = -1 << 63

func (s *seenSet) reset(series int) {
	size := 256
	for size < 2*series {
		size *= 2
	}
	s.round++
	if len(s.slots) < size || s.round == 0 {
		s.slots = make([]seenSlot, size)
		s.round = 1
	}
	s.mask = uint64(len(s.slots) - 1)
}

func (s *seenSet) slot(ref storage.SeriesRef) *seenSlot {
	for i := uint64(ref) * 0x9E3779B97F4A7C15 >> 20 & s.mask; ; i = (i + 1) & s.mask {
		if e := &s.slots[i]; e.round != s.round || e.ref == ref {
			return e
		}
	}
}

func (s *seenSet) last(ref storage.SeriesRef) int64 {
	if e := s.slot(ref); ref != 0 && e.round == s.round {
		return e.last
	}
	return never
}

func (s *seenSet) set(ref storage.SeriesRef, last int64) {
	if ref != 0 {
		*s.slot(ref) = seenSlot{ref, last, s.round}
	}
}
