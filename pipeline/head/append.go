package head

import (
	"context"
	"fmt"
	"math"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// A codec.Series.Ref is 1 + the number of the series below the DB's generation.
const (
	refBits = 32
	refMask = 1<<refBits - 1
)

// turnSamples is how many samples are appended before readers have their turn.
const turnSamples = 4096

// Append adds the samples of a batch.
func (db *DB) Append(ctx context.Context, batch *codec.SeriesBatch, at store.Position) error {
	if err := db.Ready(ctx); err != nil {
		return err
	}
	db.appendMu.Lock()
	defer db.appendMu.Unlock()
	if err := db.writable(); err != nil {
		return err
	}
	db.wanted, db.taken, db.takenLate = false, 0, 0
	db.made = 0
	err := db.appendFloats(batch)
	if err == nil && batch.Complex != nil {
		err = db.appendComplex(batch)
	}
	if err == nil {
		db.mu.Lock()
		err = db.chunks.flush()
		db.mu.Unlock()
	}
	db.filled(batch.Project, db.made)
	db.m.appended.Add(float64(db.taken))
	db.m.late.Add(float64(db.takenLate))
	if err != nil {
		return db.writeError(fmt.Sprintf("append %d samples", len(batch.At)), err)
	}
	if db.wanted {
		return codec.ErrLabelsWanted
	}
	db.applied[at.Partition] = at.Next
	if db.since += db.taken; db.since >= db.checkpointAfter() {
		wake(db.checkpointWaker)
	}
	db.freshMu.Lock()
	db.asOf = kemi.MillisOf(db.now())
	db.freshMu.Unlock()
	return nil
}

// bounds are between which times samples are taken.
func (db *DB) bounds() (newest, oldest int64) {
	now := db.now()
	// A receiver that took it as young enough did so some time ago.
	return now.Add(db.cfg.MaxFuture).UnixMilli(), now.Add(-db.cfg.Retention - db.cfg.MaxFuture - keepLonger).UnixMilli()
}

// aged asks which samples are older than their series is kept.
type aged struct {
	db      *DB
	project string
	now     int64
	young   int64 // what is not older than this is kept of every series
	series  *series
	oldest  int64 // of series, once asked for
}

func (db *DB) newAged(project string) aged {
	if db.keep == nil {
		return aged{young: math.MinInt64}
	}
	now := db.now().UnixMilli()
	return aged{db: db, project: project, now: now, young: now - int64(db.keepLeast)}
}

// out tells whether a sample of s at t, which is older than young, is left out.
func (a *aged) out(s *series, t int64) bool {
	if s != a.series {
		a.series, a.oldest = s, math.MinInt64
		a.db.scratch = a.db.labelsOf(a.db.scratch[:0], s)
		if keep := a.db.keep(a.project, a.db.scratch); keep > 0 {
			a.oldest = a.now - int64(keep)
		}
	}
	return t < a.oldest
}

// appendFloats appends the plain samples.
func (db *DB) appendFloats(batch *codec.SeriesBatch) error {
	newest, oldest := db.bounds()
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, t := range batch.At { // about: some may not be taken
		db.from, db.to = min(db.from, int64(t)), max(db.to, int64(t))
	}
	sp := db.spaceOf(batch.Project)
	age := db.newAged(batch.Project)
	lo, turn := int32(0), 0
	for i, cs := range batch.Series {
		hi := batch.Ends[i]
		if lo == hi {
			continue // it has histograms or exemplars only
		}
		if turn += int(hi - lo); turn > turnSamples {
			turn = 0
			if err := db.chunks.flush(); err != nil { // readers look into files only
				return err
			}
			db.mu.Unlock()
			db.mu.Lock()
		}
		var s *series
		var id uint32
		if r := cs.Ref.Load(); r&^refMask == db.gen {
			id = uint32(r&refMask) - 1
			s = db.there(id)
		}
		if s == nil {
			var ok bool
			if id, s, ok = db.make(sp, cs); !ok {
				lo = hi
				continue
			}
		}
		floor := max(db.floor, oldest)
		for j := lo; j < hi; j++ {
			t := int64(batch.At[j])
			if t < age.young && age.out(s, t) {
				db.m.tooOld.Inc()
				continue
			}
			if t > s.last && t >= floor && t <= newest {
				if batch.Complex != nil && batch.Complex.Starts != nil {
					// A sample of 0 is put where the counter began: so rate() and increase() count the first increment, and see a reset that a larger value
					// hides (decision 0010).
					if start := int64(batch.Complex.Starts[j]); start != 0 && start < t && start > s.last && start >= floor && (start >= age.young || !age.out(s, start)) {
						if err := db.push(id, s, start, 0); err != nil {
							return err
						}
					}
				}
				if err := db.push(id, s, t, batch.Values[j]); err != nil {
					return err
				}
				db.taken++
				continue
			}
			if err := db.appendOther(id, s, t, batch.Values[j], newest, oldest); err != nil {
				return err
			}
		}
		lo = hi
	}
	return nil
}

// appendOther appends a sample that does not simply follow those of its series.
func (db *DB) appendOther(id uint32, s *series, t int64, v float64, newest, oldest int64) error {
	switch {
	case t > newest:
		db.m.future.Inc()
		return nil
	case t < oldest:
		db.m.tooOld.Inc()
		return nil
	}
	f, err := db.pushLate(id, s, t, v)
	if err != nil {
		return err
	}
	switch f {
	case absent:
		db.taken++
		db.takenLate++
	case same:
		db.m.duplicates.Inc()
	default:
		db.m.conflicts.Inc()
	}
	return nil
}

// spaceOf is the space of a project, made if need be.
func (db *DB) spaceOf(project string) *space {
	sp := db.byName[project]
	if sp == nil {
		sp = newSpace(project, uint32(len(db.spaces)))
		db.spaces = append(db.spaces, sp)
		db.byName[project] = sp
	}
	return sp
}

// make finds a series by its labels, or makes it, and notes where it is. ok is false if nobody has the labels any more: then the batch has
// to come again with them.
func (db *DB) make(sp *space, cs *codec.Series) (id uint32, s *series, ok bool) {
	if !cs.HasLabels() {
		cs.Want()
		db.wanted = true
		return 0, nil, false
	}
	db.scratch = cs.AppendLabels(db.scratch[:0])
	pairs := db.scratchPairs[:0]
	for _, l := range db.scratch {
		if l.Name != ProjectLabel && l.Name != "" && l.Value != "" && len(pairs) < maxPairs {
			pairs = append(pairs, sp.pairOf(l.Name, l.Value))
		}
	}
	db.scratchPairs = pairs
	hash := hashOf(pairs)
	id, ok = db.find(sp, pairs, hash)
	if !ok {
		id = db.create(sp, pairs, hash)
	}
	if cs.Admitted() {
		db.limits.made++
	}
	cs.Ref.Store(db.gen | uint64(id+1))
	cs.LetGo()
	return id, db.at(id), true
}

// series finds Series[i] of a batch, or makes it.
func (db *DB) series(batch *codec.SeriesBatch, i int) (id uint32, s *series, ok bool) {
	cs := batch.Series[i]
	if r := cs.Ref.Load(); r&^refMask == db.gen {
		id = uint32(r&refMask) - 1
		if s = db.there(id); s != nil {
			return id, s, true
		}
	}
	return db.make(db.spaceOf(batch.Project), cs)
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
	// Records may be missing to which series refer. So nothing more is taken, the positions stay, and a restart brings all back from the log.
	db.broken = err
	if diskFull(err) {
		return kemi.Errorf(kemi.ErrUnavailable, "series: %s: disk full: %w", what, err)
	}
	return kemi.Errorf(kemi.ErrUnavailable, "series: %s: %w", what, err)
}
