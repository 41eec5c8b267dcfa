package otlp

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	translator "github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"kemi"
	"kemi/pipeline/codec"
)

// lookback is PromQL's default: target_info is written at least twice as often where a request has points of a longer time.
const lookback = 5 * time.Minute

func settingsOf(c Config) translator.Settings {
	strategy := otlptranslator.TranslationStrategyOption(c.TranslationStrategy)
	promote := append([]string(nil), c.PromoteResourceAttributes...)
	if c.HostLabel != "" {
		promote = append(promote, c.HostLabel)
	}
	o := config.OTLPConfig{PromoteResourceAttributes: promote, PromoteAllResourceAttributes: c.PromoteAllResourceAttributes}
	return translator.Settings{
		AddMetricSuffixes: strategy.ShouldAddSuffixes(), AllowUTF8: !strategy.ShouldEscape(),
		PromoteResourceAttributes: translator.NewPromoteResourceAttributes(o), KeepIdentifyingResourceAttributes: c.KeepIdentifyingResourceAttributes,
		ConvertHistogramsToNHCB: c.ConvertHistogramsToNHCB, PromoteScopeMetadata: c.PromoteScopeMetadata, LookbackDelta: lookback,
		AllowDeltaTemporality: c.Delta == deltaRaw, LabelNameUnderscoreSanitization: true, LabelNamePreserveMultipleUnderscores: true,
	}
}

// sample is what the translation makes of a part of a data point.
type sample struct {
	labels    labels.Labels
	start, at int64
	value     float64
	h         *histogram.Histogram
	fh        *histogram.FloatHistogram
	family    string
	meta      codec.Metadata
	exemplars []exemplar.Exemplar
}

// collect is the appender that the translation writes to. It refuses nothing, for an error ends the translation of a whole metric.
type collect struct{ samples []sample }

// Append keeps a sample.
func (c *collect) Append(_ storage.SeriesRef, ls labels.Labels, start, at int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	s := sample{labels: ls, start: start, at: at, value: v, h: h, fh: fh, family: o.MetricFamilyName}
	s.meta = codec.Metadata{Metric: o.MetricFamilyName, Type: string(o.Metadata.Type), Unit: o.Metadata.Unit, Help: o.Metadata.Help}
	s.exemplars = append(s.exemplars, o.Exemplars...) // theirs to use again
	c.samples = append(c.samples, s)
	return 0, nil
}

// Commit does nothing.
func (c *collect) Commit() error { return nil }

// Rollback does nothing.
func (c *collect) Rollback() error { return nil }

// parse reads a request, which the walk has found to be good protobuf as far as it went. Each resource gets the host label.
func (r *Receiver) parse(b []byte) (pmetric.Metrics, error) {
	req := pmetricotlp.NewExportRequest()
	if err := req.UnmarshalProto(b); err != nil {
		return pmetric.Metrics{}, kemi.Errorf(kemi.ErrInvalid, "body: not an OTLP metrics request: %w", err)
	}
	md := req.Metrics()
	if r.cfg.HostLabel != "" {
		for i := range md.ResourceMetrics().Len() {
			a := md.ResourceMetrics().At(i).Resource().Attributes()
			if _, has := a.Get(r.cfg.HostLabel); has {
				continue
			}
			if host, ok := a.Get("host.name"); ok {
				a.PutStr(r.cfg.HostLabel, host.AsString())
			}
		}
	}
	return md, nil
}

// translate asks Prometheus what the data points are called. withInfo adds target_info.
func (r *Receiver) translate(ctx context.Context, md pmetric.Metrics, withInfo bool) ([]sample, error) {
	var c collect
	conv, _ := r.converters.Get().(*translator.PrometheusConverter)
	if conv == nil {
		conv = translator.NewPrometheusConverter(&c)
	} else {
		conv.Reset(&c)
	}
	defer func() {
		conv.Reset(nil)
		r.converters.Put(conv)
	}()
	settings := r.settings
	settings.DisableTargetInfo = !withInfo
	_, err := conv.FromMetrics(ctx, md, settings)
	return c.samples, err
}

// define finds out what the point is called as a series, which nobody has asked for yet.
func (w *walker) define(b *codec.Builder, k codec.Key, point []byte) (*codec.Series, error) {
	md, err := w.r.parse(w.whole(w.single(point)))
	if err != nil {
		return nil, err
	}
	samples, err := w.r.translate(w.ctx, md, false)
	if err != nil {
		return nil, err
	}
	if len(samples) != 1 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "a data point that makes %d samples", len(samples))
	}
	s, err := b.Define(k, labelsOf(samples[0].labels))
	if err != nil {
		return nil, err
	}
	b.Describe(s, samples[0].meta)
	return s, nil
}

func labelsOf(ls labels.Labels) kemi.Labels {
	out := make(kemi.Labels, 0, ls.Len()+1)
	ls.Range(func(l labels.Label) { out = append(out, kemi.Label{Name: l.Name, Value: l.Value}) })
	return out
}

// maxInfos is how many samples of target_info a request may make of one resource: two days without a gap for PromQL.
const maxInfos = 1152

// targetInfo adds target_info of the resource at hand, which has had numbers: one sample at its last time, and as many before as PromQL's
// lookback needs to see it all the time since the first.
func (w *walker) targetInfo() error {
	if w.r.plain.has(w.resourceKey) {
		return nil
	}
	b, err := w.out.Points(w.ctx)
	if err != nil {
		return err
	}
	s := b.Known(w.resourceKey)
	if s == nil {
		m := pmetric.NewMetric()
		m.SetName("x")
		m.SetEmptyGauge().DataPoints().AppendEmpty().SetDoubleValue(1)
		md, err := w.r.parse(w.whole(nil))
		if err != nil {
			return err
		}
		m.MoveTo(md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0))
		samples, err := w.r.translate(w.ctx, md, true)
		if err != nil || len(samples) < 2 {
			w.r.plain.add(w.resourceKey) // there is none
			return nil                   //nolint:nilerr // its points have told what is wrong
		}
		last := samples[len(samples)-1]
		if s, err = b.Define(w.resourceKey, labelsOf(last.labels)); err != nil {
			w.r.plain.add(w.resourceKey)
			return nil //nolint:nilerr // too large for a series; the points are there
		}
		b.Describe(s, last.meta)
	}
	step := max(uint64(lookback/2), (w.last-w.first)/maxInfos)
	for t := w.first; ; t += step {
		t = min(t, w.last)
		at := millis(t)
		if w.firstInfo(s, at) {
			if err := b.Add(s, at, 1, 0); err != nil {
				return nil //nolint:nilerr // the points at that time are taken or told
			}
		}
		if t == w.last {
			return nil
		}
	}
}

// firstInfo tells whether target_info of that time is not in the request yet: a resource's numbers and its histograms both ask for it.
func (w *walker) firstInfo(s *codec.Series, at kemi.Millis) bool {
	if _, twice := w.infos[infoKey{s, at}]; twice {
		return false
	}
	if w.infos == nil {
		w.infos = map[infoKey]struct{}{}
	}
	w.infos[infoKey{s, at}] = struct{}{}
	return true
}

// rest translates what the walk has left: histograms, summaries, deltas, points with exemplars.
func (w *walker) rest() error {
	if len(w.slow) == 0 {
		return nil
	}
	md, err := w.r.parse(w.slow)
	if err != nil {
		return err
	}
	w.check(md)
	for i, r := range w.slowOf {
		if i >= md.ResourceMetrics().Len() {
			break
		}
		w.resource, w.resourceKey, w.scope, w.schema, w.first, w.last = r.content, r.key, nil, nil, 0, 0
		w.times(md.ResourceMetrics().At(i))
		if w.last > 0 {
			if err := w.targetInfo(); err != nil {
				return err
			}
		}
	}
	deltas := pmetric.NewMetrics()
	if w.r.cfg.Delta == deltaCumulative && hasDelta(md) {
		md.CopyTo(deltas)
		keep(md, func(m pmetric.Metric) bool { return !isDelta(m) })
		keep(deltas, isDelta)
		each(deltas, func(m pmetric.Metric) { setCumulative(m) })
	}
	if md.DataPointCount() > 0 {
		samples, err := w.r.translate(w.ctx, md, false)
		if err != nil {
			w.untranslated(err)
		}
		for i := range samples {
			if _, err := w.add(&samples[i]); err != nil {
				return err
			}
		}
		w.points += md.DataPointCount()
	}
	if deltas.DataPointCount() > 0 {
		samples, err := w.r.translate(w.ctx, deltas, false)
		if err != nil {
			w.untranslated(err)
		}
		w.points += deltas.DataPointCount()
		return w.accumulate(samples)
	}
	return nil
}

// times notes the times of a resource's points, as far as they will be taken.
func (w *walker) times(rm pmetric.ResourceMetrics) {
	l := w.r.in.Limits()
	note := func(t pcommon.Timestamp) {
		if at := millis(uint64(t)); at >= l.Oldest && at <= l.Newest {
			w.seen(uint64(t))
		}
	}
	for i := range rm.ScopeMetrics().Len() {
		ms := rm.ScopeMetrics().At(i).Metrics()
		for j := range ms.Len() {
			switch m := ms.At(j); m.Type() {
			case pmetric.MetricTypeGauge:
				for k := range m.Gauge().DataPoints().Len() {
					note(m.Gauge().DataPoints().At(k).Timestamp())
				}
			case pmetric.MetricTypeSum:
				for k := range m.Sum().DataPoints().Len() {
					note(m.Sum().DataPoints().At(k).Timestamp())
				}
			case pmetric.MetricTypeHistogram:
				for k := range m.Histogram().DataPoints().Len() {
					note(m.Histogram().DataPoints().At(k).Timestamp())
				}
			case pmetric.MetricTypeExponentialHistogram:
				for k := range m.ExponentialHistogram().DataPoints().Len() {
					note(m.ExponentialHistogram().DataPoints().At(k).Timestamp())
				}
			case pmetric.MetricTypeSummary:
				for k := range m.Summary().DataPoints().Len() {
					note(m.Summary().DataPoints().At(k).Timestamp())
				}
			}
		}
	}
}

// untranslated counts what the translation says that it left out; check leaves hardly anything for it to say.
func (w *walker) untranslated(err error) {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		for _, e := range many.Unwrap() {
			w.untranslated(e)
		}
		return
	}
	w.reject(1, "%v", err)
	w.points--
}

// add puts a sample of the translation into the record; ok is false if it was refused.
func (w *walker) add(s *sample) (ok bool, _ error) {
	b, err := w.out.Points(w.ctx)
	if err != nil {
		return false, err
	}
	w.key = s.labels.Bytes(w.key[:0])
	k := codec.KeyOf(w.key, labelSeed)
	series := b.Known(k)
	if series == nil {
		if series, err = b.Define(k, labelsOf(s.labels)); err != nil {
			w.lost(s, err)
			return false, nil
		}
	}
	b.Describe(series, s.meta)
	switch {
	case s.h != nil || s.fh != nil:
		err = b.AddHistogram(series, histogramOf(s))
	default:
		err = b.Add(series, kemi.Millis(s.at), s.value, kemi.Millis(s.start))
	}
	if err != nil {
		w.lost(s, err)
		return false, nil
	}
	for _, e := range s.exemplars {
		x := codec.Exemplar{Labels: labelsOf(e.Labels), Value: e.Value}
		if e.HasTs {
			x.At = kemi.Millis(e.Ts)
		}
		if err := b.AddExemplar(series, x); err != nil {
			w.r.in.Refused(protocol, "exemplars", 1)
		}
	}
	return true, nil
}

// lost counts a data point once, of however many samples it makes.
func (w *walker) lost(s *sample, err error) {
	b := labels.NewBuilder(s.labels)
	b.Del("__name__", "le", "quantile")
	id := lostPoint{s.family, s.at, b.Labels().Hash()}
	if _, told := w.lostPoints[id]; told {
		return
	}
	if w.lostPoints == nil {
		w.lostPoints = map[lostPoint]struct{}{}
	}
	w.lostPoints[id] = struct{}{}
	w.reject(1, "%v", err)
	w.points--
}

// histogramOf is the histogram of a sample as the log has it.
func histogramOf(s *sample) codec.Histogram {
	h := codec.Histogram{At: kemi.Millis(s.at), Start: kemi.Millis(s.start)}
	spans := func(in []histogram.Span) (out []codec.Span) {
		for _, x := range in {
			out = append(out, codec.Span{Offset: x.Offset, Length: x.Length})
		}
		return out
	}
	if x := s.h; x != nil {
		h.Hint, h.Schema, h.ZeroThreshold, h.Sum, h.CustomValues = codec.ResetHint(x.CounterResetHint), x.Schema, x.ZeroThreshold, x.Sum, x.CustomValues
		h.Count, h.ZeroCount, h.PositiveDeltas, h.NegativeDeltas = x.Count, x.ZeroCount, x.PositiveBuckets, x.NegativeBuckets
		h.PositiveSpans, h.NegativeSpans = spans(x.PositiveSpans), spans(x.NegativeSpans)
		if math.Float64bits(x.Sum) == staleNaN { // the end of the series has no counts
			return codec.Histogram{At: h.At, Sum: x.Sum}
		}
		return h
	}
	x := s.fh
	h.Float = true
	h.Hint, h.Schema, h.ZeroThreshold, h.Sum, h.CustomValues = codec.ResetHint(x.CounterResetHint), x.Schema, x.ZeroThreshold, x.Sum, x.CustomValues
	h.FloatCount, h.FloatZeroCount, h.PositiveCounts, h.NegativeCounts = x.Count, x.ZeroCount, x.PositiveBuckets, x.NegativeBuckets
	h.PositiveSpans, h.NegativeSpans = spans(x.PositiveSpans), spans(x.NegativeSpans)
	return h
}
