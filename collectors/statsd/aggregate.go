package statsd

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"kemi"
	"kemi/pipeline/codec"
)

// aggregate is the sums of all metrics.
type aggregate struct {
	cfg Config
	now func() time.Time

	mu     sync.Mutex
	byName map[string]*entry    // by kind-free canonical labels
	byKey  map[codec.Key]*entry // by the bytes that senders write: nothing is parsed for a known one
	keyBuf []byte
	timed  []point // values of gauges that have times of their own
}

// entry is one metric.
type entry struct {
	labels kemi.Labels
	kind   kind
	began  kemi.Millis // since when it counts
	used   time.Time   // when it was last mentioned
	fresh  bool        // something came in this interval

	value   float64 // counter: all of it; gauge: the last one
	count   float64 // timer: how many, weighted with the sample rate, since it began
	sum     float64
	sample  []float64 // timer: values of this interval
	seen    int       // of which sample is a fair choice
	hist    prometheus.Histogram
	members map[string]struct{} // set: of this interval
}

const (
	// maxSample is how many values of an interval quantiles are taken from.
	maxSample = 1024
	// maxMembers bounds the members of one set in one interval.
	maxMembers = 100_000
)

func newAggregate(cfg Config, now func() time.Time) *aggregate {
	return &aggregate{cfg: cfg, now: now, byName: map[string]*entry{}, byKey: map[codec.Key]*entry{}}
}

// add takes a line.
func (a *aggregate) add(line []byte) error {
	m, err := parse(line)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keyBuf = append(codec.AppendName(a.keyBuf[:0], m.name), m.tags...)
	key := codec.KeyOf(a.keyBuf, 0)
	e := a.byKey[key]
	if m.at != 0 && m.kind == gauge { // what it was then says nothing of what it is
		if e != nil && e.kind != gauge {
			return bad("metric %q: is a %s already, not a %s", clip(m.name), e.kind, m.kind)
		}
		return a.addTimed(&m)
	}
	if e == nil {
		if e, err = a.define(key, &m); err != nil {
			return err
		}
	}
	if e.kind != m.kind {
		return bad("metric %q: is a %s already, not a %s", clip(m.name), e.kind, m.kind)
	}
	for rest := m.values; ; {
		v, more, found := bytes.Cut(rest, []byte(":"))
		if err := a.take(e, &m, v); err != nil {
			return err
		}
		if !found {
			break
		}
		rest = more
	}
	e.used, e.fresh = a.now(), true
	return nil
}

// addTimed takes values of a gauge that are to be written as they are.
func (a *aggregate) addTimed(m *metric) error {
	ls, err := m.labels()
	if err != nil {
		return err
	}
	for v := range bytes.SplitSeq(m.values, []byte(":")) {
		value, err := parseNumber(v)
		if err != nil {
			return err
		}
		if len(a.timed) >= a.cfg.MaxSeries {
			return kemi.Errorf(kemi.ErrLimited, "gauge %q: %d values with times wait already to be written (maxSeries)", clip(m.name), len(a.timed))
		}
		a.timed = append(a.timed, point{labels: ls, meta: codec.Metadata{Metric: ls.Get(kemi.MetricName), Type: "gauge"}, at: m.at, value: value})
	}
	return nil
}

// again takes points back that could not be written. Those without a time are in the sums still.
func (a *aggregate) again(points []point) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range points {
		if p.at != 0 && len(a.timed) < a.cfg.MaxSeries {
			a.timed = append(a.timed, p)
		}
	}
}

func (a *aggregate) define(key codec.Key, m *metric) (*entry, error) {
	ls, err := m.labels()
	if err != nil {
		return nil, err
	}
	name := ls.String()
	e := a.byName[name]
	if e == nil {
		if len(a.byName) >= a.cfg.MaxSeries {
			return nil, kemi.Errorf(kemi.ErrLimited, "metric %s: there are %d already (maxSeries)", name, a.cfg.MaxSeries)
		}
		e = &entry{labels: ls, kind: m.kind, began: kemi.MillisOf(a.now())}
		if m.kind == timer && a.cfg.Timers == "histogram" {
			e.hist = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160})
		}
		a.byName[name] = e
	}
	if len(a.byKey) > 4*a.cfg.MaxSeries {
		clear(a.byKey) // one set of tags in ever new orders
	}
	a.byKey[key] = e
	return e, nil
}

// take takes one value.
func (a *aggregate) take(e *entry, m *metric, b []byte) error {
	if m.kind == set {
		if e.members == nil {
			e.members = map[string]struct{}{}
		}
		if _, ok := e.members[string(b)]; !ok {
			if len(e.members) >= maxMembers {
				return kemi.Errorf(kemi.ErrLimited, "set %q: more than %d members in an interval", clip(m.name), maxMembers)
			}
			e.members[string(b)] = struct{}{}
		}
		return nil
	}
	v, err := parseNumber(b)
	if err != nil {
		return err
	}
	switch m.kind {
	case counter:
		if v < 0 {
			return bad("counter %q: %v: must not be negative; a gauge goes down", clip(m.name), v)
		}
		e.value += v / m.rate
	case gauge:
		if b[0] == '+' || b[0] == '-' {
			e.value += v
		} else {
			e.value = v
		}
	case timer:
		weight := 1 / m.rate
		e.count += weight
		e.sum += v * weight
		if e.hist != nil {
			for range int(math.Round(min(weight, 1000))) {
				e.hist.Observe(v)
			}
			return nil
		}
		if e.seen++; len(e.sample) < maxSample {
			e.sample = append(e.sample, v)
		} else if i := rand.IntN(e.seen); i < maxSample {
			e.sample[i] = v
		}
	}
	return nil
}

// point is a sample that is to be written; if h is not nil it is that histogram.
type point struct {
	labels kemi.Labels
	meta   codec.Metadata
	at     kemi.Millis // 0: when it is written
	start  kemi.Millis
	value  float64
	h      *codec.Histogram
}

// staleNaN ends a series, as Prometheus has it.
var staleNaN = math.Float64frombits(0x7ff0_0000_0000_0002)

// flush gives what is to be written now, and begins a new interval. What nobody mentions any more ends.
func (a *aggregate) flush(at kemi.Millis) []point {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	out := a.timed
	a.timed = nil
	expired := false
	for name, e := range a.byName {
		stale := now.Sub(e.used) > a.cfg.Expire
		for _, p := range e.points(a.cfg.Quantiles, at) {
			if stale && p.h == nil {
				p.value, p.start = staleNaN, 0
			}
			if !stale || p.h == nil {
				out = append(out, p)
			}
		}
		e.sample, e.seen, e.fresh = e.sample[:0], 0, false
		clear(e.members)
		if stale {
			delete(a.byName, name)
			expired = true
		}
	}
	if expired {
		clear(a.byKey)
	}
	slices.SortStableFunc(out, func(a, b point) int { return a.labels.Compare(b.labels) })
	return out
}

func (e *entry) points(quantiles []float64, at kemi.Millis) []point {
	name := e.labels.Get(kemi.MetricName)
	meta := func(kind string) codec.Metadata { return codec.Metadata{Metric: name, Type: kind} }
	switch e.kind {
	case counter:
		return []point{{labels: e.labels, meta: meta("counter"), start: e.began, value: e.value}}
	case gauge:
		return []point{{labels: e.labels, meta: meta("gauge"), value: e.value}}
	case set:
		return []point{{labels: e.labels, meta: meta("gauge"), value: float64(len(e.members))}}
	}
	if e.hist != nil {
		h := nativeOf(e.hist)
		h.At, h.Start = at, e.began
		return []point{{labels: e.labels, meta: meta("histogram"), start: e.began, h: h}}
	}
	out := []point{
		{labels: e.labels.With(kemi.MetricName, name+"_count"), meta: meta("summary"), start: e.began, value: e.count},
		{labels: e.labels.With(kemi.MetricName, name+"_sum"), meta: meta("summary"), value: e.sum},
	}
	slices.Sort(e.sample)
	for _, q := range quantiles {
		v := math.NaN() // of an interval without values there are none
		if n := len(e.sample); n > 0 {
			v = e.sample[max(0, int(math.Ceil(q*float64(n)))-1)]
		}
		out = append(out, point{labels: e.labels.With("quantile", strconv.FormatFloat(q, 'g', -1, 64)), meta: meta("summary"), value: v})
	}
	return out
}

// nativeOf is the histogram as it goes to the log.
func nativeOf(h prometheus.Histogram) *codec.Histogram {
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		return &codec.Histogram{}
	}
	d := m.GetHistogram()
	out := &codec.Histogram{
		Schema: d.GetSchema(), ZeroThreshold: d.GetZeroThreshold(), ZeroCount: d.GetZeroCount(), Count: d.GetSampleCount(), Sum: d.GetSampleSum(),
		PositiveDeltas: d.GetPositiveDelta(), NegativeDeltas: d.GetNegativeDelta(),
	}
	spans := func(in []*dto.BucketSpan) (out []codec.Span) {
		for _, s := range in {
			out = append(out, codec.Span{Offset: s.GetOffset(), Length: s.GetLength()})
		}
		return out
	}
	out.PositiveSpans, out.NegativeSpans = spans(d.GetPositiveSpan()), spans(d.GetNegativeSpan())
	return out
}
