package head

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/pipeline/store"
)

var _ store.Downsampler = (*DB)(nil)

// mayRead is an error for an identity without a project.
func mayRead(id kemi.Identity) error {
	if id.Project == "" {
		return kemi.Errorf(kemi.ErrDenied, "series: %q reads no project", id.Subject)
	}
	return nil
}

// matchers are sel as the library has them.
func matchers(sel store.Selector) ([]*labels.Matcher, error) {
	ms := make([]*labels.Matcher, 0, len(sel))
	for _, m := range sel {
		if m.Name == "" || m.Name == ProjectLabel {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher: label name %q: no label has that name", m.Name)
		}
		var kind labels.MatchType
		switch m.Op {
		case store.Equal:
			kind = labels.MatchEqual
		case store.NotEqual:
			kind = labels.MatchNotEqual
		case store.Regexp:
			kind = labels.MatchRegexp
		case store.NotRegexp:
			kind = labels.MatchNotRegexp
		default:
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: operation %d: there are =, !=, =~ and !~", m.Name, m.Op)
		}
		lm, err := labels.NewMatcher(kind, m.Name, m.Value)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: regular expression %q: %w", m.Name, m.Value, err)
		}
		ms = append(ms, lm)
	}
	return ms, nil
}

// begin opens a view for a question about a selector.
func (db *DB) beginSelect(ctx context.Context, id kemi.Identity, sel store.Selector) (*view, []*labels.Matcher, error) {
	if err := mayRead(id); err != nil {
		return nil, nil, err
	}
	ms, err := matchers(sel)
	if err != nil {
		return nil, nil, err
	}
	v, err := db.ask(ctx, id)
	return v, ms, err
}

// Select yields the series that match. Samples are decoded straight into the columns that are yielded, several series at a time; they
// are used again for the next ones.
func (db *DB) Select(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Points, error] {
	return db.selectPoints(ctx, id, sel, r, true) // many readers keep the labels
}

// SelectBriefly is Select whose labels, too, are valid until the next step only; their strings stay.
func (db *DB) SelectBriefly(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Points, error] {
	return db.selectPoints(ctx, id, sel, r, false)
}

func (db *DB) selectPoints(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, keep bool) iter.Seq2[kemi.Points, error] {
	return func(yield func(kemi.Points, error) bool) {
		v, ms, err := db.beginSelect(ctx, id, sel)
		if err != nil {
			yield(kemi.Points{}, err)
			return
		}
		defer v.close()
		if r.To <= r.From {
			return
		}
		ok := true
		s := &scan{v: v, mint: int64(r.From), maxt: int64(r.To) - 1, keep: keep}
		err = s.run(ctx, ms, func(b *batch, i int) bool {
			ok = yield(b.pointsOf(i), nil)
			return ok
		})
		if err != nil && ok {
			yield(kemi.Points{}, selectError(err))
		}
	}
}

// selectError says what failed; the end of a context stays what it is.
func selectError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("select series: %w", err)
}

// reduction is what is made of the samples of each interval.
type reduction struct {
	interval kemi.Millis
	fn       store.Reduce
	core     kemi.Range // whoever has all of its intervals needs no others; empty if all are needed
}

// SelectDown yields the series that match, reduced while they are decoded, in several goroutines.
func (db *DB) SelectDown(ctx context.Context, id kemi.Identity, sel store.Selector, r, core kemi.Range, interval kemi.Millis, fn store.Reduce) iter.Seq2[store.Down, error] {
	return func(yield func(store.Down, error) bool) {
		var err error
		switch {
		case interval <= 0:
			err = kemi.Errorf(kemi.ErrInvalid, "interval of %d ms: must be positive", interval)
		case store.IntervalStart(r.From, interval) != r.From || store.IntervalStart(r.To, interval) != r.To:
			err = kemi.Errorf(kemi.ErrInvalid, "range from %d to %d: must begin and end at multiples of the interval, %d ms", r.From, r.To, interval)
		case fn > store.ReduceLast:
			err = kemi.Errorf(kemi.ErrInvalid, "reduction %d: there is none of that number", fn)
		}
		if err != nil {
			yield(store.Down{}, err)
			return
		}
		v, ms, err := db.beginSelect(ctx, id, sel)
		if err != nil {
			yield(store.Down{}, err)
			return
		}
		defer v.close()
		if r.To <= r.From {
			return
		}
		if core.From < r.From || core.To > r.To || core == r {
			core = kemi.Range{}
		}
		ok := true
		s := &scan{v: v, mint: int64(r.From), maxt: int64(r.To) - 1, reduce: &reduction{interval, fn, core}}
		err = s.run(ctx, ms, func(b *batch, i int) bool {
			ok = yield(store.Down{Points: b.pointsOf(i), Samples: b.read[i].samples, Read: b.read[i].samples}, nil)
			return ok
		})
		if err != nil && ok {
			yield(store.Down{}, selectError(err))
		}
	}
}

var errHistograms = fmt.Errorf("series has histograms: %w", errors.ErrUnsupported)

// Columns calls each for every series of the identity's project that matches and may have samples from mint to maxt, both included, with those samples:
// at ascends, and stale markers are among the values. Series come in the order of their labels. What each is given is used again
// afterwards. A series with histograms ends it with errors.ErrUnsupported.
func (db *DB) Columns(ctx context.Context, id kemi.Identity, mint, maxt int64, ms []*labels.Matcher,
	each func(ls kemi.Labels, at []kemi.Millis, values []float64) error,
) error {
	v, err := db.ask(ctx, id)
	if err != nil {
		return err
	}
	defer v.close()
	var failed error
	s := &scan{v: v, mint: mint, maxt: maxt, raw: true}
	err = s.run(ctx, ms, func(b *batch, i int) bool {
		p := b.pointsOf(i)
		failed = each(p.Labels, p.At, p.Values)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return selectError(err)
	}
	return nil
}

// Series yields the label sets that match, in order.
func (db *DB) Series(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Labels, error] {
	return func(yield func(kemi.Labels, error) bool) {
		v, ms, err := db.beginSelect(ctx, id, sel)
		if err != nil {
			yield(nil, err)
			return
		}
		defer v.close()
		if r.To <= r.From {
			return
		}
		ids, err := v.find(ctx, ms)
		var l lot
		for len(ids) > 0 && err == nil {
			if err = ctx.Err(); err != nil {
				break
			}
			n := min(batchSeries, len(ids))
			l.reset()
			l.labels = nil // they are kept
			v.fill(&l, ids[:n], int64(r.From), int64(r.To)-1)
			ids = ids[n:]
			for i := range l.items {
				if !yield(l.labelsOf(i), nil) {
					return
				}
			}
		}
		if err != nil {
			yield(nil, selectError(err))
		}
	}
}

// LabelNames are the names that the matching series have.
func (db *DB) LabelNames(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	return db.labelsIn(ctx, id, sel, r, limit, func(v *view, ms []*labels.Matcher) ([]string, error) {
		return v.labelNames(ctx, ms, int64(r.From), int64(r.To)-1)
	})
}

// LabelValues are the values of a label that the matching series have.
func (db *DB) LabelValues(ctx context.Context, id kemi.Identity, name string, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	return db.labelsIn(ctx, id, sel, r, limit, func(v *view, ms []*labels.Matcher) ([]string, error) {
		return v.labelValues(ctx, name, ms, int64(r.From), int64(r.To)-1)
	})
}

func (db *DB) labelsIn(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int, read func(*view, []*labels.Matcher) ([]string, error)) ([]string, error) {
	v, ms, err := db.beginSelect(ctx, id, sel)
	if err != nil {
		return nil, err
	}
	defer v.close()
	if r.To <= r.From {
		return nil, nil
	}
	out, err := read(v, ms)
	if err != nil {
		return nil, fmt.Errorf("list labels: %w", err)
	}
	if limit <= 0 {
		limit = math.MaxInt
	}
	return out[:min(limit, len(out))], nil
}
