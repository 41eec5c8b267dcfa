package head

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"kemi"
)

// What the batch layer needs. It is told of one source at most: what came in order and is older than a cut, and all that came late. To read it is to freeze
// it: what comes for that time from then on goes to lanes, and the lanes begin anew. When it is settled, Retire hides it from whoever begins then;
// it goes for good when nobody is left who began before.

// source is what is to be settled.
type source struct {
	id     string
	cut    int64
	frozen bool   // it has been read: it stays as it is until it is retired
	upto   uint32 // the files of late samples before this one are part of it
}

// Source describes what is to be settled.
type Source struct {
	ID    string
	Range kemi.Range
	Late  bool // only what came late
	Bytes int64
}

const sourcePrefix = "head-"

// cutOf is up to where samples in order are in the source.
func cutOf(id string) (int64, bool) {
	rest, ok := strings.CutPrefix(id, sourcePrefix)
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(rest[:i], 10, 64)
	return n, err == nil
}

// lateSource is how many late samples are waited for before they are settled by themselves.
const lateSource = 1 << 20

// Sources are what is due, and up to where all in order has been settled.
func (db *DB) Sources() ([]Source, kemi.Millis) {
	if db.Ready(context.Background()) != nil {
		return nil, 0
	}
	db.freezeMu.Lock()
	defer db.freezeMu.Unlock()
	if db.frozen == nil && db.legacy.Load() {
		db.frozen = &source{id: legacySource, cut: never}
	}
	if db.frozen == nil {
		block := db.cfg.BlockDuration.Milliseconds()
		oldest, newest, late := db.extent()
		newest = min(newest, db.now().UnixMilli())
		if oldest < newest && newest-oldest > block/2*3 {
			db.frozen = db.sourceAt(align(newest-block/2, block))
		} else if late >= lateSource {
			db.frozen = db.sourceAt(db.floorNow())
		}
	}
	if db.frozen == nil {
		return nil, db.closedUntil()
	}
	r, late := db.rangeOf(db.frozen)
	return []Source{{ID: db.frozen.id, Range: r, Late: late, Bytes: db.Stats().ChunkBytes}}, db.closedUntil()
}

// closedUntil is up to where all samples in order are settled, or are about to be.
func (db *DB) closedUntil() kemi.Millis {
	db.mu.RLock()
	defer db.mu.RUnlock()
	cut := db.cut
	if db.frozen != nil {
		cut = max(cut, db.frozen.cut)
	}
	return kemi.Millis(max(0, cut))
}

func (db *DB) floorNow() int64 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.floor
}

func (db *DB) sourceAt(cut int64) *source {
	return &source{id: sourcePrefix + strconv.FormatInt(cut, 10) + "-" + ulid.Make().String(), cut: cut}
}

func align(t, span int64) int64 {
	r := t % span
	if r < 0 {
		r += span
	}
	return t - r
}

// extent is from the first to the last sample in order that is shown, about, and how many late ones there are.
func (db *DB) extent() (oldest, newest, late int64) {
	oldest, newest = math.MaxInt64, math.MinInt64
	db.eachSlab(func(sl *slab) {
		for i := range sl {
			if s := &sl[i]; s.is(live) && s.last != never && s.last >= db.cut {
				newest = max(newest, s.last)
				if s.n > 0 {
					oldest = min(oldest, s.base)
				} else {
					oldest = min(oldest, s.last)
				}
			}
		}
	})
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, f := range db.chunks.files {
		if !f.late && !f.doomed {
			oldest = min(oldest, f.first)
		}
	}
	return max(oldest, db.cut), newest, db.lateSamples
}

// eachSlab calls f for all slabs, each under the read lock.
func (db *DB) eachSlab(f func(sl *slab)) {
	for i := 0; ; i++ {
		db.mu.RLock()
		if i == len(db.slabs) {
			db.mu.RUnlock()
			return
		}
		if sl := db.slabs[i]; sl != nil {
			f(sl)
		}
		db.mu.RUnlock()
	}
}

// rangeOf is from the first to after the last sample of a source, about.
func (db *DB) rangeOf(src *source) (r kemi.Range, lateOnly bool) {
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	oldest, newest, _ := db.extent()
	if oldest < src.cut {
		from, to = oldest, min(newest+1, src.cut)
	} else {
		lateOnly = true
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, l := range db.lanes {
		if l.from <= l.to {
			from, to = min(from, l.from), max(to, l.to+1)
		}
	}
	if from > to {
		return kemi.Range{}, lateOnly
	}
	return kemi.Range{From: kemi.Millis(from), To: kemi.Millis(to)}, lateOnly
}

// Flush makes all that is older than before due, and what came late. False if something else is due already: it is to be settled first.
func (db *DB) Flush(ctx context.Context, before kemi.Millis) (bool, error) {
	if err := db.Ready(ctx); err != nil {
		return false, err
	}
	db.freezeMu.Lock()
	defer db.freezeMu.Unlock()
	if db.frozen != nil || db.legacy.Load() {
		return false, nil
	}
	oldest, newest, late := db.extent()
	floor := db.floorNow()
	switch cut := min(int64(before), newest+1); {
	case newest != math.MinInt64 && oldest < cut:
		db.frozen = db.sourceAt(max(cut, floor))
	case late > 0:
		db.frozen = db.sourceAt(floor)
	}
	return true, nil
}

// rotateFrom is how large a chunk file has to be for a new one to be begun before it is full.
const rotateFrom = 1 << 20

// freeze begins the lanes anew, and has what comes for the time before the cut go to them.
func (db *DB) freeze(src *source) error {
	if src.frozen {
		return nil
	}
	db.appendMu.Lock()
	defer db.appendMu.Unlock()
	if db.broken != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "series: an earlier write failed: %w", db.broken)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.floor = max(db.floor, src.cut)
	n := 0
	for _, l := range db.lanes {
		if err := db.sealLane(l); err != nil {
			return db.writeError("pack late samples", err)
		}
		if l.chain != 0 {
			l.frozen = append(l.frozen, frozenChain{chain: l.chain})
			l.chain = 0
		}
		if n++; n%1024 == 0 {
			if err := db.chunks.flush(); err != nil {
				return db.writeError("pack late samples", err)
			}
		}
	}
	db.lateSamples = 0
	if err := db.chunks.flush(); err != nil {
		return db.writeError("pack late samples", err)
	}
	if f := db.chunks.open[0].f; f != nil && f.size > rotateFrom {
		if err := db.chunks.rotate(false); err != nil { // so that this one can go with one of the next cuts
			return db.writeError("begin a chunk file", err)
		}
	}
	src.upto = db.chunks.next // what is frozen goes away with its files
	if f := db.chunks.open[1].f; f != nil {
		if f.size == int64(len(chunkMagic)) {
			src.upto = f.number
		} else if err := db.chunks.rotate(true); err != nil {
			return db.writeError("begin a chunk file", err)
		}
	}
	src.frozen = true
	return nil
}

// StoredSeries is a series of a source. It is valid until the next step only.
type StoredSeries struct {
	Project    string
	Labels     kemi.Labels
	At         []kemi.Millis // of the plain samples, stale markers included
	Values     []float64
	Histograms []HistogramChunk // in order of time, not overlapping
}

// ReadSource yields the series of a source in the order of projects and labels.
func (db *DB) ReadSource(ctx context.Context, id string) iter.Seq2[StoredSeries, error] {
	return func(yield func(StoredSeries, error) bool) {
		if err := db.Ready(ctx); err != nil {
			yield(StoredSeries{}, err)
			return
		}
		db.freezeMu.Lock()
		src := db.frozen
		if src == nil || src.id != id {
			db.freezeMu.Unlock()
			yield(StoredSeries{}, kemi.Errorf(kemi.ErrNotFound, "read source %q: there is none of that name", id))
			return
		}
		if id == legacySource {
			src.frozen = true
			db.freezeMu.Unlock()
			db.readLegacy(ctx, yield)
			return
		}
		err := db.freeze(src)
		db.freezeMu.Unlock()
		if err != nil {
			yield(StoredSeries{}, err)
			return
		}
		db.mu.RLock()
		projects := make([]string, 0, len(db.byName))
		for name := range db.byName {
			projects = append(projects, name)
		}
		db.mu.RUnlock()
		slices.Sort(projects)
		for _, p := range projects {
			if !db.readProject(ctx, p, src.cut, yield) {
				return
			}
		}
	}
}

// readProject yields the series of a project; false = it was enough.
func (db *DB) readProject(ctx context.Context, project string, cut int64, yield func(StoredSeries, error) bool) bool {
	v := db.view(project)
	defer v.close()
	ids := v.all()
	var l lot
	var d decoder
	var c columns
	for len(ids) > 0 {
		if err := ctx.Err(); err != nil {
			yield(StoredSeries{}, err)
			return false
		}
		n := min(64, len(ids))
		l.reset()
		v.fillFrozen(&l, ids[:n], cut)
		ids = ids[n:]
		for i := range l.items {
			c.reset()
			if err := d.floats(&l, i, math.MinInt64, math.MaxInt64-1, &c); err != nil {
				yield(StoredSeries{}, fmt.Errorf("read %s: %w", l.labelsOf(i), err))
				return false
			}
			hs, err := d.histograms(&l, i)
			if err == nil {
				hs, err = apart(hs)
			}
			if err != nil {
				yield(StoredSeries{}, fmt.Errorf("read %s: %w", l.labelsOf(i), err))
				return false
			}
			if len(c.at) == 0 && len(hs) == 0 {
				continue
			}
			if !yield(StoredSeries{Project: project, Labels: l.labelsOf(i), At: c.at, Values: c.values, Histograms: hs}, nil) {
				return false
			}
		}
	}
	return true
}

// fillFrozen is fill for what is frozen: in order before the cut, and of the lanes what was there when they were frozen.
func (v *view) fillFrozen(l *lot, ids []uint32, cut int64) {
	db := v.db
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, id := range ids {
		s := db.there(id)
		if s == nil {
			continue
		}
		it := l.begin(id, s, v.cut, cut)
		if s.last >= v.cut && cut > v.cut { // otherwise it is late ones alone
			l.newest(db, it, s, v.cut, cut-1)
		}
		if s.is(laned) {
			for _, f := range db.lanes[id].frozen {
				if f.epoch == 0 {
					l.lateChain(db, f.chain, math.MinInt64, math.MaxInt64)
				}
			}
			it.latePieces.to = len(l.pieces)
		}
	}
	l.follow(db, cut-1)
	l.finish(db)
}

// Retire says that sources are settled: whoever begins from now on does not see them here, and no crash brings them back. Those that are gone already
// are passed over.
func (db *DB) Retire(ids []string) error {
	if err := db.Ready(context.Background()); err != nil {
		return err
	}
	db.freezeMu.Lock()
	defer db.freezeMu.Unlock()
	if db.frozen == nil || !db.frozen.frozen || !slices.Contains(ids, db.frozen.id) {
		return nil
	}
	if db.frozen.id == legacySource {
		if err := os.RemoveAll(filepath.Join(db.cfg.Dir, legacyDir)); err != nil {
			return fmt.Errorf("delete the series of an earlier version: %w", err)
		}
		db.frozen = nil
		db.legacy.Store(false)
		return nil
	}
	db.mu.Lock()
	db.cut = max(db.cut, db.frozen.cut)
	db.epoch++
	db.dropSettled(db.epoch, db.frozen)
	db.mu.Unlock()
	db.frozen = nil
	if err := db.checkpoint(); err != nil { // reclaims, too
		return fmt.Errorf("after settling: %w", err)
	}
	return nil
}

// dropSettled marks what is settled: whoever begins in the epoch does not see it. src is the source, nil at a start. mu is held.
func (db *DB) dropSettled(epoch uint32, src *source) {
	if src != nil {
		for _, l := range db.lanes {
			for i := range l.frozen {
				if l.frozen[i].epoch == 0 {
					l.frozen[i].epoch = epoch
				}
			}
		}
	}
	for _, f := range db.chunks.files {
		gone := f.last < db.cut
		if f.late {
			gone = src != nil && f.number < src.upto
		}
		if gone && !f.doomed && f != db.chunks.open[kindOf(f.late)].f {
			f.doomed = true
			db.doomed = append(db.doomed, doomedFile{f: f, epoch: epoch})
		}
	}
}

// doomedFile is a chunk file that goes as soon as nobody needs it.
type doomedFile struct {
	f        *chunkFile
	epoch    uint32
	left     bool // the checkpoint that is being written has it no more
	replaced bool // no checkpoint has it any more
	closed   bool
}

// reclaim lets go of what is settled, if nobody is left who may read it. checkpointMu is held.
func (db *DB) reclaim() error {
	db.mu.RLock()
	epoch, cut, done := db.epoch, db.cut, db.reclaimed
	files := len(db.doomed)
	db.mu.RUnlock()
	if done == epoch && files == 0 || db.oldReaders(epoch) {
		return nil
	}
	if done != epoch {
		db.reclaimSeries(epoch, cut)
	}
	var errs []error
	db.mu.Lock()
	defer db.mu.Unlock()
	db.reclaimed = epoch
	for i := range db.doomed {
		d := &db.doomed[i]
		if d.epoch <= epoch && d.replaced {
			delete(db.chunks.files, d.f.number)
			errs = append(errs, d.f.close(), removeIfThere(d.f.path))
			d.closed = true
		}
	}
	db.doomed = slices.DeleteFunc(db.doomed, func(d doomedFile) bool { return d.closed })
	return errors.Join(errs...)
}

// reclaimSeries lets go of lanes that are settled, and of series that have nothing else.
func (db *DB) reclaimSeries(epoch uint32, cut int64) {
	db.mu.Lock()
	for id, l := range db.lanes {
		l.frozen = slices.DeleteFunc(l.frozen, func(f frozenChain) bool { return f.epoch != 0 && f.epoch <= epoch })
		if len(l.frozen) == 0 && l.chain == 0 && len(l.at) == 0 && len(l.hist) == 0 {
			delete(db.lanes, id)
			db.at(id).flags &^= laned
		} else if len(l.frozen) == 0 && l.chain == 0 {
			l.from, l.to = math.MaxInt64, math.MinInt64
			for _, t := range l.at {
				l.from, l.to = min(l.from, t), max(l.to, t)
			}
			for _, x := range l.hist {
				l.from, l.to = min(l.from, x.at), max(l.to, x.at)
			}
		}
	}
	db.mu.Unlock()
	touched := map[uint32]bool{}
	for i := 0; ; i++ {
		db.mu.Lock()
		if i == len(db.slabs) {
			db.mu.Unlock()
			break
		}
		if sl := db.slabs[i]; sl != nil {
			for j := range sl {
				s := &sl[j]
				if !s.is(live) || s.is(laned) || s.last >= cut {
					continue
				}
				s.flags &^= live
				db.alive.Add(-1)
				touched[s.space] = true
			}
		}
		db.mu.Unlock()
	}
	for number := range touched {
		db.mu.RLock()
		sp := db.spaces[number]
		db.mu.RUnlock()
		db.purge(sp)
	}
	db.mu.Lock()
	db.freeSlabs() // when no index has any of their series
	db.compactLabels()
	db.mu.Unlock()
}

// HeadRange is from the first to after the last sample that is here, late ones included, about; empty if there are none.
func (db *DB) HeadRange() kemi.Range {
	if db.Ready(context.Background()) != nil {
		return kemi.Range{}
	}
	r, _ := db.rangeOf(&source{cut: math.MaxInt64})
	return r
}
