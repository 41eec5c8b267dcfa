package merge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/head"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
)

// Options are what a Store works with. All have a default.
type Options struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// CaughtUp waits until what the log of record has at this moment has been appended. A deletion waits for it: what was acknowledged before is gone
	// after it. nil = there is no such log.
	CaughtUp func(ctx context.Context) error
}

// Store is the live store and the batch layer as one.
type Store struct {
	live  *head.DB
	layer *batch.Layer
	o     Options
}

var (
	_ store.SeriesStore = (*Store)(nil)
	_ store.Downsampler = (*Store)(nil)
	_ store.Deleter     = (*Store)(nil)
)

// Open opens both.
func Open(ctx context.Context, live head.Config, settles batch.Config, o Options) (*Store, error) {
	s, err := Begin(ctx, live, settles, o)
	if err != nil {
		return nil, err
	}
	if err := s.Ready(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Begin is Open that does not wait for what the live store has in memory: Ready does.
func Begin(_ context.Context, live head.Config, settles batch.Config, o Options) (*Store, error) {
	return begin(live, settles, o, nil)
}

// begin has the tests tune what the batch layer works with.
func begin(live head.Config, settles batch.Config, o Options, tune func(*batch.Options)) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	bo := batch.Options{Retention: live.Retention, Log: o.Log, Registerer: o.Registerer, Now: o.Now}
	if tune != nil {
		tune(&bo)
	}
	layer, err := batch.Open(settles, bo)
	if err != nil {
		return nil, err
	}
	s := &Store{layer: layer, o: o}
	keep, least := layer.Keep()
	s.live, err = head.Begin(live, head.Options{Log: o.Log, Registerer: o.Registerer, Now: o.Now, Retired: layer.Replaced(), Keep: keep, KeepLeast: least})
	if err != nil {
		return nil, errors.Join(err, layer.Close())
	}
	layer.Attach(liveStore{s.live})
	return s, nil
}

// Run settles and merges what is due, until ctx ends.
func (s *Store) Run(ctx context.Context) error { return s.layer.Run(ctx) }

// Settle settles now. With everything, also what lies in memory and is older than a few minutes, and all merges that are possible are done.
func (s *Store) Settle(ctx context.Context, everything bool) (batch.Report, error) {
	if !everything {
		return s.layer.Settle(ctx, batch.Due)
	}
	now := time.Now
	if s.o.Now != nil {
		now = s.o.Now
	}
	return s.settleUntil(ctx, kemi.MillisOf(now().Add(-batch.SettledUntil)), batch.All)
}

// CleanTombstones writes anew what deletions have touched, so that the room of what was deleted comes back now and not with the next run.
func (s *Store) CleanTombstones(ctx context.Context) error {
	_, err := s.layer.Settle(ctx, batch.Due)
	return err
}

// SettledStats tells what the batch layer holds.
func (s *Store) SettledStats() batch.Stats { return s.layer.Stats() }

// Close closes both.
func (s *Store) Close() error { return errors.Join(s.live.Close(), s.layer.Close()) }

// Select yields the series that match.
func (s *Store) Select(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Points, error] {
	return func(yield func(kemi.Points, error) bool) {
		if only(s, ctx, r, s.live.Select(ctx, id, sel, r), yield) {
			return
		}
		w := &walk{s: s, project: id.Project, sel: sel, r: r, keep: true, trace: store.TraceOf(ctx)}
		w.work = func(rd *batch.Reader, j *job) { w.readRaw(rd, j, false) }
		ok := true
		w.yield = func(j *job) (bool, error) {
			ok = len(j.cols.At) == 0 || yield(kemi.Points{Labels: j.labels, At: j.cols.At, Values: j.cols.Values}, nil)
			return ok, nil
		}
		if err := w.run(ctx, s.livePoints(ctx, id, sel, r)); err != nil && ok {
			yield(kemi.Points{}, err)
		}
	}
}

type eachSeries = func(ls kemi.Labels, at []kemi.Millis, values []float64) (bool, error)

// livePoints calls each for the series of the live store.
func (s *Store) livePoints(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) func(eachSeries) error {
	return func(each eachSeries) error {
		for p, err := range s.live.SelectBriefly(ctx, id, sel, r) {
			if err != nil {
				return err
			}
			if ok, err := each(p.Labels, p.At, p.Values); err != nil || !ok {
				return err
			}
		}
		return nil
	}
}

// Columns calls each for every series that matches and may have samples from mint to maxt, both included, with those samples; stale markers are among them. Series
// come in the order of their labels. What each is given is used again afterwards, but for the labels. A series with histograms ends it
// with errors.ErrUnsupported.
func (s *Store) Columns(ctx context.Context, id kemi.Identity, mint, maxt int64, ms []*labels.Matcher, each func(ls labels.Labels, at []kemi.Millis, values []float64) error) error {
	sel, err := selectorOf(ms)
	if err != nil {
		return err
	}
	if !s.settledIn(rangeOf(mint, maxt)) {
		opened, settled := false, false
		var set scratchLabels
		err := s.live.Columns(ctx, id, mint, maxt, ms, func(ls kemi.Labels, at []kemi.Millis, values []float64) error {
			if !opened {
				if opened, settled = true, s.settledIn(rangeOf(mint, maxt)); settled {
					return errSettled
				}
				store.TraceOf(ctx).Note("speed", s.live.Freshness().AsOf)
			}
			return each(set.of(ls), at, values)
		})
		if !settled && (opened || err != nil || !s.settledIn(rangeOf(mint, maxt))) {
			return err
		}
	}
	w := &walk{s: s, project: id.Project, sel: sel, r: rangeOf(mint, maxt), trace: store.TraceOf(ctx)}
	w.work = func(rd *batch.Reader, j *job) {
		w.readRaw(rd, j, true)
		if j.series == nil || j.err != nil {
			return
		}
		if hs, err := rd.Histograms(j.series, w.r); err != nil || len(hs) > 0 {
			j.err = errors.Join(err, errHistograms)
			return
		}
	}
	var set scratchLabels
	w.yield = func(j *job) (bool, error) {
		if len(j.cols.At) == 0 {
			return true, nil
		}
		return true, each(set.of(j.labels), j.cols.At, j.cols.Values)
	}
	return w.run(ctx, func(next eachSeries) error {
		return s.live.Columns(ctx, id, mint, maxt, ms, func(ls kemi.Labels, at []kemi.Millis, values []float64) error {
			_, err := next(ls, at, values)
			return err
		})
	})
}

// scratchLabels makes labels as the library has them.
type scratchLabels struct{ b labels.ScratchBuilder }

func (s *scratchLabels) of(ls kemi.Labels) labels.Labels {
	s.b.Reset()
	for _, l := range ls {
		s.b.Add(l.Name, l.Value)
	}
	return s.b.Labels()
}

var errSettled = errors.New("settled meanwhile")

var errHistograms = fmt.Errorf("series has histograms: %w", errors.ErrUnsupported)

// Series yields the label sets that match, in order.
func (s *Store) Series(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Labels, error] {
	return func(yield func(kemi.Labels, error) bool) {
		if only(s, ctx, r, s.live.Series(ctx, id, sel, r), yield) {
			return
		}
		w := &walk{s: s, project: id.Project, sel: sel, r: r, keep: true, trace: store.TraceOf(ctx)}
		w.work = func(rd *batch.Reader, j *job) {
			j.down.Samples = 1
			if len(j.live.At) == 0 {
				has, err := rd.Has(j.series, r)
				if j.err = err; !has {
					j.down.Samples = 0
				}
			}
		}
		ok := true
		w.yield = func(j *job) (bool, error) {
			ok = j.down.Samples == 0 || yield(j.labels, nil)
			return ok, nil
		}
		there := []kemi.Millis{0} // says that the live store has the series
		err := w.run(ctx, func(each eachSeries) error {
			for ls, err := range s.live.Series(ctx, id, sel, r) {
				if err != nil {
					return err
				}
				if ok, err := each(ls, there, nil); err != nil || !ok {
					return err
				}
			}
			return nil
		})
		if err != nil && ok {
			yield(nil, err)
		}
	}
}

// LabelNames are the names that the matching series have.
func (s *Store) LabelNames(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	live, err := s.live.LabelNames(ctx, id, sel, r, limit)
	if err != nil {
		return nil, err
	}
	return s.union(ctx, id, sel, r, limit, live, (*settled.Block).LabelNames,
		func(ls kemi.Labels, add func(string)) {
			for _, l := range ls {
				add(l.Name)
			}
		})
}

// LabelValues are the values of a label that the matching series have.
func (s *Store) LabelValues(ctx context.Context, id kemi.Identity, name string, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	live, err := s.live.LabelValues(ctx, id, name, sel, r, limit)
	if err != nil || name == head.ProjectLabel {
		return nil, err
	}
	return s.union(ctx, id, sel, r, limit, live, func(b *settled.Block, project string, sel store.Selector) ([]string, error) {
		return b.LabelValues(project, name, sel)
	},
		func(ls kemi.Labels, add func(string)) {
			if v := ls.Get(name); v != "" {
				add(v)
			}
		})
}

// union adds to what the live store has what the settled blocks have.
func (s *Store) union(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int, live []string,
	read func(*settled.Block, string, store.Selector) ([]string, error), of func(kemi.Labels, func(string)),
) ([]string, error) {
	if r.From >= r.To {
		return live, nil
	}
	v := s.layer.Acquire()
	defer v.Release()
	rd := v.NewReader()
	defer rd.Close()
	more, err := labelsOf(ctx, v, rd, id.Project, sel, r, read, of)
	if err != nil || len(more) == 0 {
		return live, err
	}
	out := append(more, live...)
	slices.Sort(out)
	out = slices.Compact(out)
	if limit <= 0 {
		limit = math.MaxInt
	}
	return out[:min(limit, len(out))], nil
}

// Delete takes samples away: see store.Deleter.
func (s *Store) Delete(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) error {
	if id.Project == "" {
		return kemi.Errorf(kemi.ErrDenied, "delete: %q writes no project", id.Subject)
	}
	if len(sel) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "delete: no selector: it would take all series away; name some")
	}
	if _, err := batch.Matching(sel); err != nil {
		return err
	}
	if r.From >= r.To {
		return nil
	}
	if s.o.CaughtUp != nil {
		if err := s.o.CaughtUp(ctx); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	touched, err := s.liveHas(ctx, id, sel, r)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if touched {
		// A deletion is of settled blocks. What the live store has of it is settled first; after that a crash does not bring it back.
		if _, err := s.settleUntil(ctx, math.MaxInt64/2, batch.Due); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	return s.layer.Delete(batch.Deletion{Subject: id.Subject, Project: id.Project, Selector: sel, From: r.From, To: r.To})
}

// liveHas tells whether the live store may have something of a selection.
func (s *Store) liveHas(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) (bool, error) {
	h := s.live.HeadRange()
	if h.From >= r.To || h.To <= r.From {
		return false, nil
	}
	for _, err := range s.live.Series(ctx, id, sel, kemi.Range{From: max(h.From, r.From), To: min(h.To, r.To)}) {
		return true, err
	}
	return false, nil
}

// settleUntil settles what is older than before, and all that came late.
func (s *Store) settleUntil(ctx context.Context, before kemi.Millis, how batch.Extent) (batch.Report, error) {
	for {
		taken, err := s.live.Flush(ctx, before)
		if err != nil {
			return batch.Report{}, err
		}
		if taken {
			return s.layer.Settle(ctx, how)
		}
		// What is due at this moment comes first: it may not have all.
		if _, err := s.layer.Settle(ctx, batch.Due); err != nil {
			return batch.Report{}, err
		}
	}
}
