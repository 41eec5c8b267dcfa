package merge

import (
	"context"
	"iter"
	"time"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/store"
)

// SelectDown yields the series that match, in intervals: from rollups where they are exact and nothing that is not settled comes in between, from
// samples elsewhere. Series are reduced side by side, and come in order.
func (s *Store) SelectDown(ctx context.Context, id kemi.Identity, sel store.Selector, r, core kemi.Range, interval kemi.Millis, fn store.Reduce) iter.Seq2[store.Down, error] {
	return func(yield func(store.Down, error) bool) {
		if interval <= 0 {
			yield(store.Down{}, kemi.Errorf(kemi.ErrInvalid, "interval of %d ms: must be positive", interval))
			return
		}
		if store.IntervalStart(r.From, interval) != r.From || store.IntervalStart(r.To, interval) != r.To {
			yield(store.Down{}, kemi.Errorf(kemi.ErrInvalid, "range from %d to %d: must begin and end at multiples of the interval, %d ms", r.From, r.To, interval))
			return
		}
		if fn > store.ReduceLast {
			yield(store.Down{}, kemi.Errorf(kemi.ErrInvalid, "reduction %d: there is none of that number", fn))
			return
		}
		if only(s, ctx, r, s.live.SelectDown(ctx, id, sel, r, core, interval, fn), yield) {
			return
		}
		w := &walk{s: s, project: id.Project, sel: sel, r: r, points: int64((r.To - r.From) / interval), trace: store.TraceOf(ctx)}
		w.work = func(rd *batch.Reader, j *job) {
			if j.series != nil {
				j.down, j.err = rd.Reduce(j.series, r, interval, fn, j.live, &j.red)
			} else {
				j.red.Reset(interval, fn)
				j.red.Samples(j.live.At, j.live.Values)
				j.down = j.red.Down()
			}
			j.down.Labels = j.labels
		}
		ok := true
		w.yield = func(j *job) (bool, error) {
			ok = len(j.down.At) == 0 || yield(j.down, nil)
			return ok, nil
		}
		if err := w.run(ctx, s.livePoints(ctx, id, sel, r)); err != nil && ok {
			yield(store.Down{}, err)
		}
	}
}

// only yields what the live store has, if nothing is settled in the range: it reads many series faster than a walk joins them. False if something
// is; then nothing was yielded.
func only[T any](s *Store, ctx context.Context, r kemi.Range, live iter.Seq2[T, error], yield func(T, error) bool) bool {
	if s.settledIn(r) {
		return false
	}
	opened := false
	for x, err := range live {
		if !opened {
			// From here on the live store keeps what it has for this reader. What it gave away before has been settled before.
			if opened = true; s.settledIn(r) {
				return false
			}
			store.TraceOf(ctx).Note("speed", s.live.Freshness().AsOf)
		}
		if !yield(x, err) || err != nil {
			return true
		}
	}
	return opened || !s.settledIn(r)
}

// settledIn tells whether a settled block touches r.
func (s *Store) settledIn(r kemi.Range) bool {
	v := s.layer.Acquire()
	defer v.Release()
	return len(v.Blocks(r)) > 0
}

// viewName is what answers call a view: batch:5m for rollups of five minutes, batch for raw samples that are settled.
func viewName(level kemi.Millis) string {
	if level == 0 {
		return "batch"
	}
	name := (time.Duration(level) * time.Millisecond).String()
	for _, zero := range []string{"0s", "0m"} {
		if len(name) > 2 && name[len(name)-2:] == zero && name[len(name)-3] > '9' {
			name = name[:len(name)-2]
		}
	}
	return "batch:" + name
}
