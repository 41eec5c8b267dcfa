package otlp

import (
	"github.com/prometheus/otlptranslator"
	translator "github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// each calls f for all metrics.
func each(md pmetric.Metrics, f func(pmetric.Metric)) {
	keep(md, func(m pmetric.Metric) bool {
		f(m)
		return true
	})
}

// keep leaves the metrics of which f is true.
func keep(md pmetric.Metrics, f func(pmetric.Metric) bool) {
	for i := range md.ResourceMetrics().Len() {
		scopes := md.ResourceMetrics().At(i).ScopeMetrics()
		for j := range scopes.Len() {
			scopes.At(j).Metrics().RemoveIf(func(m pmetric.Metric) bool { return !f(m) })
		}
	}
}

func temporality(m pmetric.Metric) (t pmetric.AggregationTemporality, has bool) {
	switch m.Type() {
	case pmetric.MetricTypeSum:
		return m.Sum().AggregationTemporality(), true
	case pmetric.MetricTypeHistogram:
		return m.Histogram().AggregationTemporality(), true
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().AggregationTemporality(), true
	}
	return 0, false
}

func isDelta(m pmetric.Metric) bool {
	t, _ := temporality(m)
	return t == pmetric.AggregationTemporalityDelta
}

func hasDelta(md pmetric.Metrics) (found bool) {
	each(md, func(m pmetric.Metric) { found = found || isDelta(m) })
	return found
}

func setCumulative(m pmetric.Metric) {
	switch m.Type() {
	case pmetric.MetricTypeSum:
		m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	case pmetric.MetricTypeHistogram:
		m.Histogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	}
}

// check takes out what the translation would refuse, which it does by whole metrics and without a count, or would take although it makes
// no sense. What is taken out is counted point by point.
func (w *walker) check(md pmetric.Metrics) {
	namer := otlptranslator.MetricNamer{WithMetricSuffixes: w.r.settings.AddMetricSuffixes, UTF8Allowed: w.r.settings.AllowUTF8}
	keep(md, func(m pmetric.Metric) bool {
		name := clip([]byte(m.Name()))
		n := pointsOf(m)
		if m.Type() == pmetric.MetricTypeEmpty {
			w.reject(1, "metric %q: is of no kind that is known", name)
			return false
		}
		if _, err := namer.Build(translator.TranslatorMetricFromOtelMetric(m)); err != nil {
			w.reject(n, "metric %q: %v", name, err)
			return false
		}
		if t, has := temporality(m); has {
			switch {
			case t == pmetric.AggregationTemporalityCumulative:
			case t != pmetric.AggregationTemporalityDelta:
				w.reject(n, "metric %q: aggregation_temporality %d: must be 1 (delta) or 2 (cumulative)", name, t)
				return false
			case w.r.cfg.Delta == deltaRefuse:
				w.reject(n, "metric %q: delta temporality is not taken here (ingest.otlp.delta)", name)
				return false
			}
		}
		w.checkPoints(m, name)
		return pointsOf(m) > 0
	})
}

func pointsOf(m pmetric.Metric) int {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().Len()
	}
	return 0
}

func (w *walker) checkPoints(m pmetric.Metric, name string) {
	bad := func(is bool, format string, args ...any) bool {
		if is {
			w.reject(1, "metric %q: "+format, append([]any{name}, args...)...)
		}
		return is
	}
	untimed := func(t pcommon.Timestamp) bool { return bad(t == 0, "a data point without time_unix_nano") }
	number := func(p pmetric.NumberDataPoint) bool {
		w.checkExemplars(p.Exemplars())
		return untimed(p.Timestamp()) ||
			bad(p.ValueType() == pmetric.NumberDataPointValueTypeEmpty && !p.Flags().NoRecordedValue(), "a data point has neither as_double nor as_int")
	}
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(number)
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(number)
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(p pmetric.HistogramDataPoint) bool {
			w.checkExemplars(p.Exemplars())
			bounds, counts := p.ExplicitBounds(), p.BucketCounts()
			if untimed(p.Timestamp()) ||
				bad(counts.Len() != bounds.Len()+1 && counts.Len()+bounds.Len() > 0, "%d bucket_counts for %d explicit_bounds: must be one more", counts.Len(), bounds.Len()) {
				return true
			}
			for i := range bounds.Len() {
				if bad(bounds.At(i) != bounds.At(i) || i > 0 && bounds.At(i) <= bounds.At(i-1), "explicit_bounds %d: %v: must be larger than the one before", i, bounds.At(i)) {
					return true
				}
			}
			return false
		})
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(p pmetric.ExponentialHistogramDataPoint) bool {
			w.checkExemplars(p.Exemplars())
			const most = 1 << 30 // of an index: what is beyond is no histogram of numbers
			for _, b := range []pmetric.ExponentialHistogramDataPointBuckets{p.Positive(), p.Negative()} {
				if o := int64(b.Offset()); bad(o < -most || o+int64(b.BucketCounts().Len()) > most, "buckets at offset %d", o) {
					return true
				}
			}
			return untimed(p.Timestamp()) || bad(p.Scale() < -4, "scale %d: must be at least -4", p.Scale()) || bad(p.Scale() > 30, "scale %d: must be at most 30", p.Scale())
		})
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(p pmetric.SummaryDataPoint) bool { return untimed(p.Timestamp()) })
	}
}

// checkExemplars takes out those that say nothing.
func (w *walker) checkExemplars(es pmetric.ExemplarSlice) {
	es.RemoveIf(func(e pmetric.Exemplar) bool {
		empty := e.ValueType() == pmetric.ExemplarValueTypeEmpty
		if empty {
			w.r.in.Refused(protocol, "exemplars", 1)
		}
		return empty
	})
}
