package promql

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/stats"
)

// Answers are written by hand: a matrix of a million points takes most of its time here. They are appended to one buffer, which a sink, where there is one,
// takes whenever it is full.

// sink takes what has been appended and gives the buffer back.
type sink func(b []byte) []byte

// drain is how full the buffer may become before the sink takes it.
const drain = 64 << 10

func (s sink) drained(b []byte) []byte {
	if s == nil || len(b) < drain {
		return b
	}
	return s(b)
}

// queryData is the data of a query's answer.
type queryData struct {
	value parser.Value
	stats stats.QueryStats // nil unless asked for
}

type (
	stringList []string
	labelSets  []labels.Labels
	exemplars  []exemplar.QueryResult
)

func appendData(b []byte, data any, to sink) ([]byte, error) {
	switch d := data.(type) {
	case *queryData:
		return appendQuery(b, d, to)
	case string:
		return appendString(b, d), nil
	case stringList:
		b = append(b, '[')
		for i, s := range d {
			b = to.drained(appendString(comma(b, i), s))
		}
		return append(b, ']'), nil
	case labelSets:
		b = append(b, '[')
		for i, ls := range d {
			b = to.drained(appendLabels(comma(b, i), ls))
		}
		return append(b, ']'), nil
	case exemplars:
		return appendExemplars(b, d), nil
	}
	j, err := json.Marshal(data)
	return append(b, j...), err
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

func appendQuery(b []byte, d *queryData, to sink) ([]byte, error) {
	b = append(b, `{"resultType":`...)
	b = appendString(b, string(d.value.Type()))
	b = append(b, `,"result":`...)
	switch v := d.value.(type) {
	case promql.Vector:
		b = append(b, '[')
		for i, s := range v {
			b = to.drained(appendSample(comma(b, i), s))
		}
		b = append(b, ']')
	case promql.Matrix:
		b = append(b, '[')
		for i, s := range v {
			b = to.drained(appendSeries(comma(b, i), s, to))
		}
		b = append(b, ']')
	case promql.Scalar:
		b = append(b, '[')
		b = appendJSONFloat(b, float64(v.T)/1000)
		b = append(b, ',', '"')
		b = strconv.AppendFloat(b, v.V, 'f', -1, 64)
		b = append(b, '"', ']')
	case promql.String:
		b = append(b, '[')
		b = appendJSONFloat(b, float64(v.T)/1000)
		b = append(b, ',')
		b = appendString(b, v.V)
		b = append(b, ']')
	default:
		return b, fmt.Errorf("no way to write a %T", d.value)
	}
	if d.stats != nil {
		j, err := json.Marshal(d.stats.Builtin())
		if err != nil {
			return b, err
		}
		b = append(b, `,"stats":`...)
		b = append(b, j...)
	}
	return append(b, '}'), nil
}

func appendSample(b []byte, s promql.Sample) []byte {
	b = append(b, `{"metric":`...)
	b = appendLabels(b, s.Metric)
	if s.H != nil {
		b = append(b, `,"histogram":`...)
		b = appendHistogramPoint(b, s.T, s.H)
	} else {
		b = append(b, `,"value":`...)
		b = appendFloatPoint(b, s.T, s.F)
	}
	return append(b, '}')
}

func appendSeries(b []byte, s promql.Series, to sink) []byte {
	b = append(b, `{"metric":`...)
	b = appendLabels(b, s.Metric)
	for i, p := range s.Floats {
		if i == 0 {
			b = append(b, `,"values":[`...)
		}
		b = to.drained(appendFloatPoint(comma(b, i), p.T, p.F))
	}
	if len(s.Floats) > 0 {
		b = append(b, ']')
	}
	for i, p := range s.Histograms {
		if i == 0 {
			b = append(b, `,"histograms":[`...)
		}
		b = to.drained(appendHistogramPoint(comma(b, i), p.T, p.H))
	}
	if len(s.Histograms) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendFloatPoint(b []byte, t int64, v float64) []byte {
	b = append(b, '[')
	b = appendTime(b, t)
	b = append(b, ',')
	b = appendFloat(b, v)
	return append(b, ']')
}

func appendHistogramPoint(b []byte, t int64, h *histogram.FloatHistogram) []byte {
	b = append(b, '[')
	b = appendTime(b, t)
	b = append(b, `,{"count":`...)
	b = appendFloat(b, h.Count)
	b = append(b, `,"sum":`...)
	b = appendFloat(b, h.Sum)
	n := 0
	for it := h.AllBucketIterator(); it.Next(); {
		k := it.At()
		if k.Count == 0 {
			continue
		}
		if n == 0 {
			b = append(b, `,"buckets":[`...)
		}
		b = append(comma(b, n), '[', bounds(k.LowerInclusive, k.UpperInclusive), ',')
		b = appendFloat(b, k.Lower)
		b = append(b, ',')
		b = appendFloat(b, k.Upper)
		b = append(b, ',')
		b = appendFloat(b, k.Count)
		b = append(b, ']')
		n++
	}
	if n > 0 {
		b = append(b, ']')
	}
	return append(b, '}', ']')
}

// bounds is Prometheus' code for which ends belong to a bucket.
func bounds(lower, upper bool) byte {
	switch {
	case lower && upper:
		return '3'
	case lower:
		return '1'
	case upper:
		return '0'
	}
	return '2'
}

// appendTime writes milliseconds as seconds, with as many decimals as they have, three or none.
func appendTime(b []byte, t int64) []byte {
	u := uint64(t)
	if t < 0 {
		b = append(b, '-')
		u = -u
	}
	b = strconv.AppendUint(b, u/1000, 10)
	if ms := u % 1000; ms != 0 {
		b = append(b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	}
	return b
}

// appendJSONFloat writes a finite number as encoding/json does: so Prometheus writes the times of scalars and strings.
func appendJSONFloat(b []byte, v float64) []byte {
	abs := math.Abs(v)
	if abs == 0 || abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	b = strconv.AppendFloat(b, v, 'e', -1, 64)
	if n := len(b); n >= 4 && b[n-4] == 'e' && b[n-3] == '-' && b[n-2] == '0' { // e-09 is e-9 there
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}

// appendStats writes stats as JSON.
func appendStats(b []byte, s *queryStats) []byte {
	b = append(b, `{"samplesRead":`...)
	b = strconv.AppendInt(b, s.SamplesRead, 10)
	b = append(b, `,"series":`...)
	b = strconv.AppendInt(b, s.Series, 10)
	b = append(b, `,"peakSamples":`...)
	b = strconv.AppendInt(b, int64(s.PeakSamples), 10)
	b = append(b, `,"seconds":`...)
	b = appendJSONFloat(b, s.Seconds)
	b = append(b, `,"views":[`...)
	for i, v := range s.Views {
		b = append(comma(b, i), `{"name":`...)
		b = appendString(b, v.Name)
		b = append(b, `,"asOf":`...)
		b = strconv.AppendInt(b, int64(v.AsOf), 10)
		b = append(b, '}')
	}
	b = append(b, `],"complete":`...)
	b = strconv.AppendBool(b, s.Complete)
	if s.Reason != "" {
		b = append(b, `,"reason":`...)
		b = appendString(b, s.Reason)
	}
	return append(b, '}')
}

// appendFloat writes a value as a string, as Prometheus does for want of NaN and Inf in JSON.
func appendFloat(b []byte, v float64) []byte {
	b = append(b, '"')
	if out, ok := appendShort(b, v); ok {
		return append(out, '"')
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	b = strconv.AppendFloat(b, v, format, -1, 64)
	return append(b, '"')
}

// appendShort writes a number of at most 15 digits and three decimals, as most are. No other decimal of so few digits is the same float64, so these are the
// digits that strconv would find the long way.
func appendShort(b []byte, v float64) ([]byte, bool) {
	const most = 1e12 // with three decimals: 15 digits
	if !(v > -most && v < most) || v == 0 && math.Signbit(v) {
		return b, false
	}
	n := int64(v)
	if float64(n) == v {
		return strconv.AppendInt(b, n, 10), true
	}
	m := int64(math.Round(v * 1000))
	if float64(m)/1000 != v {
		return b, false
	}
	if m < 0 {
		b = append(b, '-')
		m = -m
	}
	b = strconv.AppendInt(b, m/1000, 10)
	frac := m % 1000
	b = append(b, '.', byte('0'+frac/100))
	if frac %= 100; frac != 0 {
		b = append(b, byte('0'+frac/10))
		if frac %= 10; frac != 0 {
			b = append(b, byte('0'+frac))
		}
	}
	return b, true
}

func appendLabels(b []byte, ls labels.Labels) []byte {
	b = append(b, '{')
	i := 0
	ls.Range(func(l labels.Label) {
		b = appendString(comma(b, i), l.Name)
		b = append(b, ':')
		b = appendString(b, l.Value)
		i++
	})
	return append(b, '}')
}

func appendExemplars(b []byte, es exemplars) []byte {
	b = append(b, '[')
	for i, r := range es {
		b = append(comma(b, i), `{"seriesLabels":`...)
		b = appendLabels(b, r.SeriesLabels)
		b = append(b, `,"exemplars":[`...)
		for j, e := range r.Exemplars {
			b = append(comma(b, j), `{"labels":`...)
			b = appendLabels(b, e.Labels)
			b = append(b, `,"value":`...)
			b = appendFloat(b, e.Value)
			b = append(b, `,"timestamp":`...)
			b = appendTime(b, e.Ts)
			b = append(b, '}')
		}
		b = append(b, ']', '}')
	}
	return append(b, ']')
}

// appendStrings writes a member with a list, unless it is empty.
func appendStrings(b []byte, member string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, member...)
	b, _ = appendData(b, stringList(list), nil)
	return b
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			// U+2028 and U+2029 end a line in JavaScript: encoding/json escapes them too.
			if r != utf8.RuneError && r != 0x2028 && r != 0x2029 || n > 1 && r == utf8.RuneError {
				i += n
				continue
			}
			b = append(b, s[from:i]...)
			if r == utf8.RuneError {
				b = append(b, "\ufffd"...)
			} else {
				b = append(b, `\u202`...)
				b = append(b, hexDigits[r&0xf])
			}
			i += n
			from = i
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
