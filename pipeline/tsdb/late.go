package tsdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi/pipeline/codec"
)

// lateSample points into a batch at a sample that is not newer than all that its series has.
type lateSample struct {
	series int32 // index into batch.Series
	sample int32 // index into batch.At and batch.Values
}

// appendLate merges in what appendFloats has put on db.late. The head would take a late sample whether or not there is one at
// that time already, so what is there is read first.
func (db *DB) appendLate(ctx context.Context, batch *codec.SeriesBatch) error {
	slices.SortStableFunc(db.late, func(a, b lateSample) int {
		return cmp.Or(cmp.Compare(a.series, b.series), cmp.Compare(batch.At[a.sample], batch.At[b.sample]))
	})
	var there *existing
	defer func() { there.close() }()
	app := db.db.AppenderV2(ctx)
	taken := 0
	for lo := 0; lo < len(db.late); {
		hi, series := lo+1, db.late[lo].series
		for hi < len(db.late) && db.late[hi].series == series {
			hi++
		}
		run := db.late[lo:hi]
		lo = hi
		if n, ok := db.appendBehind(app, batch, run); ok {
			taken += n
			continue
		}
		if there == nil {
			var err error
			if there, err = db.newExisting(db.lateFrom(batch), math.MaxInt64); err != nil {
				_ = app.Rollback()
				return fmt.Errorf("read before late samples: %w", err)
			}
		}
		ls, s := labelsOf(batch, int(series)), batch.Series[series]
		newest, upto := s.Newest.Load(), int64(batch.At[run[len(run)-1].sample])
		if newest == 0 {
			upto = math.MaxInt64 // once: then it is known
		}
		if err := there.load(ctx, ls, int64(batch.At[run[0].sample]), upto); err != nil {
			_ = app.Rollback()
			return fmt.Errorf("read before late samples: %w", err)
		}
		if n := len(there.t); n > 0 {
			newest = max(newest, there.t[n-1])
		}
		for _, l := range run {
			t, v := int64(batch.At[l.sample]), batch.Values[l.sample]
			if !db.fresh(there, t, v) {
				continue
			}
			switch got, err := app.Append(db.ref(s), ls, 0, t, v, nil, nil, storage.AOptions{}); {
			case err == nil:
				db.setRef(s, got)
				there.add(t, sample{v: v})
				newest = max(newest, t)
				taken++
			default:
				db.count(err)
			}
		}
		s.Newest.Store(max(newest, s.Newest.Load()))
	}
	if err := app.Commit(); err != nil {
		return db.writeError(fmt.Sprintf("append %d late samples", taken), err)
	}
	db.m.late.Add(float64(taken))
	db.m.appended.Add(float64(taken))
	return nil
}

// appendBehind appends samples of one series that are late for the head, but newer than all that the series has: a backfill in order, beside
// live data. There is nothing to look up for them. ok is false, and nothing was done, if it is not known to be so.
func (db *DB) appendBehind(app storage.AppenderV2, batch *codec.SeriesBatch, run []lateSample) (taken int, ok bool) {
	s := batch.Series[run[0].series]
	ref, newest := db.ref(s), s.Newest.Load()
	if ref == 0 || newest == 0 || db.shared.has(ref) {
		return 0, false
	}
	for i, l := range run {
		t := int64(batch.At[l.sample])
		if t <= newest {
			return 0, false
		}
		if i > 0 && t == int64(batch.At[run[i-1].sample]) {
			return 0, false // twice in one batch
		}
	}
	for i, l := range run {
		t := int64(batch.At[l.sample])
		switch _, err := app.Append(ref, labels.EmptyLabels(), 0, t, batch.Values[l.sample], nil, nil, storage.AOptions{}); {
		case err == nil:
			newest = t
			taken++
		case i == 0 && errors.Is(err, tsdb.ErrInvalidSample):
			return 0, false // the head has forgotten the series since: it needs the labels again
		default:
			db.count(err)
		}
	}
	s.Newest.Store(newest)
	return taken, true
}

// lateFrom is the time of the oldest late sample.
func (db *DB) lateFrom(batch *codec.SeriesBatch) int64 {
	mint := int64(math.MaxInt64)
	for _, l := range db.late {
		mint = min(mint, int64(batch.At[l.sample]))
	}
	return mint
}

// fresh tells whether the series has no sample at t; it counts what it has.
func (db *DB) fresh(there *existing, t int64, v float64) bool {
	old, found := there.at(t)
	switch {
	case !found:
		return true
	case old.h == nil && math.Float64bits(old.v) == math.Float64bits(v):
		db.m.duplicates.Inc()
	default:
		db.m.conflicts.Inc()
	}
	return false
}

// sample is a value, or a histogram.
type sample struct {
	v float64
	h *histogram.FloatHistogram
}

// existing is the samples that a series has in a span of time.
type existing struct {
	q     storage.Querier
	ls    labels.Labels // of the series that is loaded
	t     []int64
	v     []sample
	added map[int64]sample // by this batch, not committed yet
	it    chunkenc.Iterator
}

func (db *DB) newExisting(mint, maxt int64) (*existing, error) {
	q, err := db.db.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return &existing{q: q, added: map[int64]sample{}}, nil
}

func (e *existing) close() {
	if e != nil {
		_ = e.q.Close()
	}
}

// load reads what the series has from mint to maxt. If the series is the one that is loaded (it may stand in a batch twice, one
// after the other), what was added stays.
func (e *existing) load(ctx context.Context, ls labels.Labels, mint, maxt int64) error {
	if !labels.Equal(ls, e.ls) {
		clear(e.added)
		e.ls = ls
	}
	e.t, e.v = e.t[:0], e.v[:0]
	ms := make([]*labels.Matcher, 0, ls.Len())
	ls.Range(func(l labels.Label) {
		ms = append(ms, &labels.Matcher{Type: labels.MatchEqual, Name: l.Name, Value: l.Value})
	})
	set := e.q.Select(ctx, false, &storage.SelectHints{Start: mint, End: maxt}, ms...)
	for set.Next() {
		s := set.At()
		if !labels.Equal(s.Labels(), ls) {
			continue // has more labels than these
		}
		e.it = s.Iterator(e.it)
		for k := e.it.Next(); k != chunkenc.ValNone; k = e.it.Next() {
			var x sample
			if k == chunkenc.ValFloat {
				_, x.v = e.it.At()
			} else {
				_, x.h = e.it.AtFloatHistogram(nil)
				x.h.Compact(0)
			}
			e.t, e.v = append(e.t, e.it.AtT()), append(e.v, x)
		}
		if err := e.it.Err(); err != nil {
			return err
		}
	}
	return set.Err()
}

// at is the sample at t.
func (e *existing) at(t int64) (s sample, found bool) {
	if i, ok := slices.BinarySearch(e.t, t); ok {
		return e.v[i], true
	}
	s, found = e.added[t]
	return s, found
}

func (e *existing) add(t int64, s sample) { e.added[t] = s }
