package otlp

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/zeebo/xxh3"
	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

// The field numbers of OTLP's messages that this looks into.
const (
	requestResourceMetrics = 1

	resourceMetricsResource = 1
	resourceMetricsScopes   = 2

	scopeMetricsScope   = 1
	scopeMetricsMetrics = 2
	scopeMetricsSchema  = 3

	metricName        = 1
	metricDescription = 2
	metricUnit        = 3
	metricGauge       = 5
	metricSum         = 7
	metricHistogram   = 9
	metricExponential = 10
	metricSummary     = 11

	dataPoints     = 1 // of all kinds of metrics
	sumTemporality = 2
	sumMonotonic   = 3

	pointStart      = 2
	pointTime       = 3
	pointDouble     = 4
	pointExemplars  = 5
	pointInt        = 6
	pointAttributes = 7
	pointFlags      = 8

	temporalityCumulative = 2
)

// walker goes through one request. What is a number it takes itself; the rest it puts together into a request of its own for the translation.
type walker struct {
	r       *Receiver
	ctx     context.Context //nolint:containedctx // of one call
	project string
	out     *push.Request

	resource, scope, schema []byte // at hand: the contents of the messages
	resourceKey             codec.Key
	scopeKey                codec.Key
	resourceSum             xxh3.Uint128
	first, last             uint64 // times of the numbers of the resource, in ns; 0 = none
	metric                  metricHead
	key                     []byte

	slow, slowResource, slowScope []byte // what is left for the translation
	slowOf                        []leftOver
	infos                         map[infoKey]struct{}
	lostPoints                    map[lostPoint]struct{}

	points   int // good data points
	rejected int
	reasons  []string
}

// leftOver is a resource of which something is left for the translation.
type leftOver struct {
	content []byte
	key     codec.Key // of its target_info
}

// lostPoint is a data point of which not all is taken.
type lostPoint struct {
	family string
	at     int64
	labels uint64
}

type infoKey struct {
	s  *codec.Series
	at kemi.Millis
}

// metricHead is a metric without its points.
type metricHead struct {
	name, description, unit []byte
	data                    field // gauge, sum, …
	sumFields               []byte
	key                     codec.Key
}

const maxReasons = 10

// reject counts n data points that are not taken. An error among args says whether it is for want of room.
func (w *walker) reject(n int, format string, args ...any) {
	var why error
	for _, a := range args {
		if err, ok := a.(error); ok {
			why = err
		}
	}
	w.out.Refuse(why)
	if w.rejected += n; len(w.reasons) < maxReasons {
		reason := strings.ToValidUTF8(fmt.Sprintf(format, args...), "\ufffd")
		if len(w.reasons) == 0 || w.reasons[len(w.reasons)-1] != reason {
			w.reasons = append(w.reasons, reason)
		}
	}
}

// message tells what was rejected, or is "".
func (w *walker) message() string {
	if w.rejected == 0 {
		return ""
	}
	s := fmt.Sprintf("%d of %d data points rejected: %s", w.rejected, w.rejected+w.points, strings.Join(w.reasons, "; "))
	if w.rejected > len(w.reasons) {
		s += "; …"
	}
	return s
}

// request walks an ExportMetricsServiceRequest.
func (w *walker) request(b []byte) error {
	for len(b) > 0 {
		f, rest, ok := next(b)
		if !ok || f.number == requestResourceMetrics && f.wire != protowire.BytesType {
			return errBroken
		}
		b = rest
		if f.number == requestResourceMetrics {
			if err := w.resourceMetrics(f.v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walker) resourceMetrics(m []byte) error {
	w.resource, w.first, w.last = nil, 0, 0
	scopes, others := 0, []byte(nil)
	for b := m; len(b) > 0; {
		f, rest, ok := next(b)
		if !ok || f.number <= resourceMetricsScopes && f.wire != protowire.BytesType {
			return errBroken
		}
		b = rest
		switch f.number {
		case resourceMetricsResource:
			if w.resource != nil { // twice: protobuf merges them
				w.resource = append(w.resource[:len(w.resource):len(w.resource)], f.v...)
			} else {
				w.resource = f.v
			}
		case resourceMetricsScopes:
			scopes++
		default:
			others = append(others, f.raw...)
		}
	}
	w.resourceSum = xxh3.Hash128(w.resource)
	w.resourceKey = w.resourceSum
	w.resourceKey.Hi ^= infoSeed
	w.slowResource = w.slowResource[:0]
	for b := m; scopes > 0; {
		f, rest, _ := next(b)
		b = rest
		if f.number == resourceMetricsScopes {
			scopes--
			if err := w.scopeMetrics(f.v); err != nil {
				return err
			}
		}
	}
	if len(w.slowResource) > 0 {
		w.slowOf = append(w.slowOf, leftOver{w.resource, w.resourceKey})
		w.slow = appendField(w.slow, requestResourceMetrics, appendField(nil, resourceMetricsResource, w.resource), w.slowResource, others)
	}
	if w.last > 0 {
		return w.targetInfo()
	}
	return nil
}

func (w *walker) scopeMetrics(m []byte) error {
	w.scope, w.schema = nil, nil
	metrics := 0
	for b := m; len(b) > 0; {
		f, rest, ok := next(b)
		if !ok || f.number <= scopeMetricsSchema && f.wire != protowire.BytesType {
			return errBroken
		}
		b = rest
		switch f.number {
		case scopeMetricsScope:
			w.scope = f.v
		case scopeMetricsSchema:
			w.schema = f.v
		case scopeMetricsMetrics:
			metrics++
		}
	}
	key := binary.LittleEndian.AppendUint64(w.key[:0], w.resourceSum.Lo)
	key = binary.LittleEndian.AppendUint64(key, w.resourceSum.Hi)
	w.key = appendField(appendField(key, 1, w.scope), 2, w.schema)
	w.scopeKey = xxh3.Hash128(w.key)
	w.slowScope = w.slowScope[:0]
	for b := m; metrics > 0; {
		f, rest, _ := next(b)
		b = rest
		if f.number == scopeMetricsMetrics {
			metrics--
			if err := w.metricOf(f); err != nil {
				return err
			}
		}
	}
	if len(w.slowScope) > 0 {
		w.slowResource = appendField(w.slowResource, resourceMetricsScopes, appendField(nil, scopeMetricsScope, w.scope), w.slowScope, appendField(nil, scopeMetricsSchema, w.schema))
	}
	return nil
}

func (w *walker) metricOf(m field) error {
	h := metricHead{}
	for b := m.v; len(b) > 0; {
		f, rest, ok := next(b)
		if !ok || f.number <= metricSummary && f.wire != protowire.BytesType {
			return errBroken
		}
		b = rest
		switch f.number {
		case metricName:
			h.name = f.v
		case metricDescription:
			h.description = f.v
		case metricUnit:
			h.unit = f.v
		case metricGauge, metricSum, metricHistogram, metricExponential, metricSummary:
			if h.data.v != nil && h.data.number != f.number {
				return errBroken
			}
			h.data = f
		}
	}
	kind := byte(0)
	switch h.data.number {
	case metricGauge:
	case metricSum:
		temporality, monotonic := uint64(0), uint64(0)
		for b := h.data.v; len(b) > 0; {
			f, rest, ok := next(b)
			if !ok || f.number == dataPoints && f.wire != protowire.BytesType || (f.number == sumTemporality || f.number == sumMonotonic) && f.wire != protowire.VarintType {
				return errBroken
			}
			b = rest
			switch f.number {
			case sumTemporality:
				temporality = f.u
			case sumMonotonic:
				monotonic = f.u
			}
		}
		if temporality != temporalityCumulative {
			w.slowScope = append(w.slowScope, m.raw...)
			return nil
		}
		kind = 1 + byte(min(monotonic, 1))
		h.sumFields = protowire.AppendVarint(protowire.AppendTag(h.sumFields, sumTemporality, protowire.VarintType), temporality)
		h.sumFields = protowire.AppendVarint(protowire.AppendTag(h.sumFields, sumMonotonic, protowire.VarintType), monotonic)
	default:
		w.slowScope = append(w.slowScope, m.raw...)
		return nil
	}
	key := binary.LittleEndian.AppendUint64(w.key[:0], w.scopeKey.Lo)
	key = append(binary.LittleEndian.AppendUint64(key, w.scopeKey.Hi), kind)
	key = binary.AppendUvarint(key, uint64(len(h.name)))
	key = append(key, h.name...)
	key = binary.AppendUvarint(key, uint64(len(h.unit)))
	key = append(key, h.unit...)
	w.key = append(key, h.description...)
	h.key = xxh3.Hash128(w.key)
	w.metric = h
	for b := h.data.v; len(b) > 0; {
		f, rest, ok := next(b)
		if !ok || f.number == dataPoints && f.wire != protowire.BytesType {
			return errBroken
		}
		b = rest
		if f.number == dataPoints {
			if err := w.number(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// staleNaN ends a series, as Prometheus has it.
const staleNaN = 0x7ff0_0000_0000_0002

// number takes a data point of a gauge or of a cumulative sum.
func (w *walker) number(point field) error {
	var start, at, bits, flags uint64
	has, exemplars := false, false
	key := binary.LittleEndian.AppendUint64(w.key[:0], w.metric.key.Lo)
	key = binary.LittleEndian.AppendUint64(key, w.metric.key.Hi)
	for b := point.v; len(b) > 0; {
		f, rest, ok := next(b)
		if !ok {
			return errBroken
		}
		b = rest
		fixed := f.wire == protowire.Fixed64Type
		switch f.number {
		case pointStart:
			start, ok = f.u, fixed
		case pointTime:
			at, ok = f.u, fixed
		case pointDouble:
			bits, has, ok = f.u, true, fixed
		case pointInt:
			bits, has, ok = math.Float64bits(float64(int64(f.u))), true, fixed
		case pointAttributes:
			key, ok = append(key, f.raw...), f.wire == protowire.BytesType
		case pointExemplars:
			exemplars, ok = true, f.wire == protowire.BytesType
		case pointFlags:
			if ok = f.wire == protowire.VarintType || f.wire == protowire.Fixed32Type; ok {
				flags = f.u
			}
		}
		if !ok {
			return errBroken
		}
	}
	w.key = key
	if exemplars {
		w.slowScope = appendField(w.slowScope, scopeMetricsMetrics, w.single(point.raw))
		return nil
	}
	switch {
	case flags&1 != 0:
		bits = staleNaN
	case !has:
		w.reject(1, "metric %q: a data point has neither as_double nor as_int", clip(w.metric.name))
		return nil
	}
	if at == 0 {
		w.reject(1, "metric %q: a data point without time_unix_nano", clip(w.metric.name))
		return nil
	}
	b, err := w.out.Points(w.ctx)
	if err != nil {
		return err
	}
	k := codec.KeyOf(key, numberSeed)
	s := b.Known(k)
	if s == nil {
		if s, err = w.define(b, k, point.raw); err != nil {
			w.reject(1, "metric %q: %v", clip(w.metric.name), err)
			return nil
		}
	}
	if err := b.Add(s, millis(at), math.Float64frombits(bits), millis(start)); err != nil {
		w.reject(1, "%v", err)
		return nil
	}
	w.points++
	w.seen(at)
	return nil
}

// seen notes the time of a point of the resource at hand.
func (w *walker) seen(at uint64) {
	w.last = max(w.last, at)
	if w.first == 0 || w.first > at {
		w.first = at
	}
}

// The seeds keep what OTLP calls series apart from what other protocols do, and its ways apart from each other.
const (
	numberSeed = 0xa54f_f53a_5f1d_36f1
	infoSeed   = 0x510e_527f_ade6_82d1
	labelSeed  = 0x9b05_688c_2b3e_6c1f
)

func millis(ns uint64) kemi.Millis { return kemi.Millis(ns / 1e6) }

// single is the message of the metric at hand with that one point, which comes with its tag.
func (w *walker) single(point []byte) []byte {
	h := &w.metric
	m := appendField(nil, metricName, h.name)
	m = appendField(m, metricDescription, h.description)
	m = appendField(m, metricUnit, h.unit)
	return appendField(m, h.data.number, point, h.sumFields)
}

// whole is a request of the resource and scope at hand with one metric.
func (w *walker) whole(metric []byte) []byte {
	scope := appendField(nil, scopeMetricsScope, w.scope)
	scope = appendField(scope, scopeMetricsMetrics, metric)
	scope = appendField(scope, scopeMetricsSchema, w.schema)
	m := appendField(nil, resourceMetricsResource, w.resource)
	return appendField(nil, requestResourceMetrics, appendField(m, resourceMetricsScopes, scope))
}

func clip(b []byte) string {
	const most = 128
	if len(b) > most {
		b = b[:most]
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}
