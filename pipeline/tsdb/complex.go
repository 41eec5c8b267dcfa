package tsdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"kemi/pipeline/codec"
)

// appendComplex adds what a batch holds beside plain samples, after those are in.
func (db *DB) appendComplex(ctx context.Context, batch *codec.SeriesBatch) error {
	c := batch.Complex
	for _, m := range c.Metadata {
		db.meta.set(batch.Project, m.Metric, metadata.Metadata{Type: model.MetricType(m.Type), Unit: m.Unit, Help: m.Help})
	}
	if len(c.Histograms) > 0 {
		if err := db.appendHistograms(ctx, batch); err != nil {
			return err
		}
	}
	if len(c.Exemplars) > 0 && db.cfg.MaxExemplars > 0 {
		return db.appendExemplars(ctx, batch)
	}
	return nil
}

// appendHistograms takes the same two ways as plain samples: what is newest goes straight in, the rest after what is there was read.
func (db *DB) appendHistograms(ctx context.Context, batch *codec.SeriesBatch) error {
	app := db.db.AppenderV2(ctx)
	newest := db.now().Add(db.cfg.MaxFuture).UnixMilli()
	db.seen.reset(len(batch.Complex.Histograms))
	var late []*codec.Histogram
	taken := 0
	for i := range batch.Complex.Histograms {
		src := &batch.Complex.Histograms[i]
		t, s := int64(src.At), batch.Series[src.Series]
		if t > newest {
			db.m.future.Inc()
			continue
		}
		h, fh := histogramsOf(src)
		ref := db.ref(s)
		if ref != 0 && t <= db.seen.last(ref) {
			late = append(late, src)
			continue
		}
		var ls labels.Labels
		if ref == 0 {
			if ls = labelsOf(batch, int(src.Series)); !db.mayCreate(app, ls) {
				db.m.overLimit.Inc()
				continue
			}
		}
		got, err := app.Append(ref, ls, 0, t, 0, h, fh, inOrderOnly)
		if err != nil && ls.IsEmpty() && errors.Is(err, tsdb.ErrInvalidSample) {
			ref, ls = 0, labelsOf(batch, int(src.Series))
			got, err = app.Append(ref, ls, 0, t, 0, h, fh, inOrderOnly)
		}
		switch {
		case err == nil:
			db.setRef(s, got)
			db.shared.add(got)
			db.seen.set(got, t)
			taken++
		case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
			late = append(late, src)
		default:
			db.count(err)
		}
	}
	if err := app.Commit(); err != nil {
		return db.writeError(fmt.Sprintf("append %d histograms", taken), err)
	}
	db.m.appended.Add(float64(taken))
	if len(late) == 0 {
		return nil
	}
	return db.appendLateHistograms(ctx, batch, late)
}

func (db *DB) appendLateHistograms(ctx context.Context, batch *codec.SeriesBatch, late []*codec.Histogram) error {
	slices.SortStableFunc(late, func(a, b *codec.Histogram) int {
		return cmp.Or(cmp.Compare(a.Series, b.Series), cmp.Compare(a.At, b.At))
	})
	mint, maxt := late[0].At, late[0].At
	for _, h := range late {
		mint, maxt = min(mint, h.At), max(maxt, h.At)
	}
	there, err := db.newExisting(int64(mint), int64(maxt))
	if err != nil {
		return fmt.Errorf("read before late histograms: %w", err)
	}
	defer there.close()
	app := db.db.AppenderV2(ctx)
	taken := 0
	for _, src := range late {
		t, ls := int64(src.At), labelsOf(batch, int(src.Series))
		if err := there.load(ctx, ls, t, t); err != nil {
			_ = app.Rollback()
			return fmt.Errorf("read before late histograms: %w", err)
		}
		h, fh := histogramsOf(src)
		if !db.freshHistogram(there, t, h, fh) {
			continue
		}
		got, err := app.Append(db.ref(batch.Series[src.Series]), ls, 0, t, 0, h, fh, storage.AOptions{})
		if err != nil {
			db.count(err)
			continue
		}
		db.shared.add(got)
		there.add(t, sample{h: floatHistogram(h, fh)})
		taken++
	}
	if err := app.Commit(); err != nil {
		return db.writeError(fmt.Sprintf("append %d late histograms", taken), err)
	}
	db.m.late.Add(float64(taken))
	db.m.appended.Add(float64(taken))
	return nil
}

func (db *DB) freshHistogram(there *existing, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) bool {
	old, found := there.at(t)
	switch {
	case !found:
		return true
	case old.h != nil && old.h.Equals(floatHistogram(h, fh).Compact(0)):
		db.m.duplicates.Inc()
	default:
		db.m.conflicts.Inc()
	}
	return false
}

// floatHistogram is whichever there is, in float counts.
func floatHistogram(h *histogram.Histogram, fh *histogram.FloatHistogram) *histogram.FloatHistogram {
	if fh != nil {
		return fh.Copy()
	}
	return h.ToFloat(nil)
}

// histogramsOf is the histogram as the library has it: of whole counts or of float counts.
func histogramsOf(s *codec.Histogram) (*histogram.Histogram, *histogram.FloatHistogram) {
	hint := histogram.CounterResetHint(s.Hint)
	if s.Float {
		return nil, &histogram.FloatHistogram{
			CounterResetHint: hint, Schema: s.Schema, ZeroThreshold: s.ZeroThreshold, ZeroCount: s.FloatZeroCount, Count: s.FloatCount, Sum: s.Sum,
			PositiveSpans: spansOf(s.PositiveSpans), NegativeSpans: spansOf(s.NegativeSpans),
			PositiveBuckets: slices.Clone(s.PositiveCounts), NegativeBuckets: slices.Clone(s.NegativeCounts), CustomValues: slices.Clone(s.CustomValues),
		}
	}
	return &histogram.Histogram{
		CounterResetHint: hint, Schema: s.Schema, ZeroThreshold: s.ZeroThreshold, ZeroCount: s.ZeroCount, Count: s.Count, Sum: s.Sum,
		PositiveSpans: spansOf(s.PositiveSpans), NegativeSpans: spansOf(s.NegativeSpans),
		PositiveBuckets: slices.Clone(s.PositiveDeltas), NegativeBuckets: slices.Clone(s.NegativeDeltas), CustomValues: slices.Clone(s.CustomValues),
	}, nil
}

func spansOf(in []codec.Span) []histogram.Span {
	out := make([]histogram.Span, len(in))
	for i, s := range in {
		out[i] = histogram.Span{Offset: s.Offset, Length: s.Length}
	}
	return out
}

// appendExemplars adds the exemplars of series that are there. Of one series they come in order of time; one that is older than what
// the series has is left out, as the library keeps them in a ring.
func (db *DB) appendExemplars(ctx context.Context, batch *codec.SeriesBatch) error {
	app := db.db.AppenderV2(ctx)
	ea, ok := app.(storage.ExemplarAppenderV2)
	if !ok {
		return errors.Join(errors.New("the library's appender takes no exemplars"), app.Rollback())
	}
	bySeries := slices.Clone(batch.Complex.Exemplars)
	slices.SortStableFunc(bySeries, func(a, b codec.Exemplar) int { return cmp.Or(cmp.Compare(a.Series, b.Series), cmp.Compare(a.At, b.At)) })
	for _, e := range bySeries {
		s := batch.Series[e.Series]
		x := exemplar.Exemplar{Value: e.Value, Ts: int64(e.At), HasTs: true}
		if e.At == 0 {
			x.Ts, x.HasTs = db.timeOf(batch, e.Series), false
		}
		b := labels.NewScratchBuilder(len(e.Labels))
		for _, l := range e.Labels {
			b.Add(l.Name, l.Value)
		}
		x.Labels = b.Labels()
		var ls labels.Labels
		ref := db.ref(s)
		if ref == 0 {
			ls = labelsOf(batch, int(e.Series))
		}
		_, err := ea.AppendExemplars(ref, ls, []exemplar.Exemplar{x})
		if err != nil && ref != 0 && errors.Is(err, storage.ErrNotFound) {
			_, err = ea.AppendExemplars(0, labelsOf(batch, int(e.Series)), []exemplar.Exemplar{x})
		}
		if err != nil {
			db.m.exemplarsLeftOut.Inc()
		}
	}
	if err := app.Commit(); err != nil {
		return db.writeError(fmt.Sprintf("append %d exemplars", len(bySeries)), err)
	}
	return nil
}

// timeOf is the time of the last sample of Series[i] in the batch, or now.
func (db *DB) timeOf(batch *codec.SeriesBatch, i int32) int64 {
	if from, to := batch.Span(int(i)); to > from {
		return int64(batch.At[to-1])
	}
	for _, h := range slices.Backward(batch.Complex.Histograms) {
		if h.Series == i {
			return int64(h.At)
		}
	}
	return db.now().UnixMilli()
}
