package statsd

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"kemi"
)

// kind is what a metric is.
type kind uint8

const (
	counter kind = iota
	gauge
	timer // also histogram and distribution
	set
)

func (k kind) String() string { return [...]string{"counter", "gauge", "timer", "set"}[k] }

// metric is a line in its parts. They point into the line.
type metric struct {
	name   []byte
	values []byte // one or more, with colons between
	kind   kind
	rate   float64
	tags   []byte      // name:value,… of DogStatsD
	at     kemi.Millis // when it was, if the sender says so
}

func bad(format string, args ...any) error { return kemi.Errorf(kemi.ErrInvalid, format, args...) }

// parse reads `name:value|type|@rate|#tags|Ttime`.
func parse(line []byte) (m metric, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return m, bad("%q: must be name:value|type", clip(line))
	}
	m.name, m.rate = line[:colon], 1
	rest := line[colon+1:]
	pipe := bytes.IndexByte(rest, '|')
	if pipe < 0 {
		return m, bad("%q: must be name:value|type", clip(line))
	}
	m.values, rest = rest[:pipe], rest[pipe+1:]
	if len(m.name) == 0 || len(m.values) == 0 {
		return m, bad("%q: must be name:value|type", clip(line))
	}
	var part []byte
	part, rest, _ = bytes.Cut(rest, []byte("|"))
	switch string(part) {
	case "c":
		m.kind = counter
	case "g":
		m.kind = gauge
	case "ms", "h", "d":
		m.kind = timer
	case "s":
		m.kind = set
	default:
		return m, bad("%q: type %q: must be c, g, ms, h, d or s", clip(line), clip(part))
	}
	for len(rest) > 0 {
		part, rest, _ = bytes.Cut(rest, []byte("|"))
		switch {
		case len(part) > 1 && part[0] == '@':
			if m.rate, err = strconv.ParseFloat(string(part[1:]), 64); err != nil || !(m.rate > 0 && m.rate <= 1) {
				return m, bad("%q: sample rate %q: must be more than 0 and at most 1", clip(line), clip(part[1:]))
			}
		case len(part) > 0 && part[0] == '#':
			m.tags = part[1:]
		case len(part) > 1 && part[0] == 'T':
			seconds, err := strconv.ParseInt(string(part[1:]), 10, 64)
			if err != nil || seconds <= 0 || seconds > math.MaxUint32 {
				return m, bad("%q: time %q: must be seconds since 1970", clip(line), clip(part[1:]))
			}
			if m.kind != counter && m.kind != gauge {
				return m, bad("%q: only counters and gauges can have a time", clip(line))
			}
			m.at = kemi.Millis(seconds * 1000)
		case bytes.HasPrefix(part, []byte("c:")), bytes.HasPrefix(part, []byte("e:")), bytes.HasPrefix(part, []byte("card:")):
			// Where the sender runs: for an agent that adds tags of the container.
		default:
			return m, bad("%q: %q: must be @rate, #tags or Ttime", clip(line), clip(part))
		}
	}
	return m, nil
}

// labels are the name and the tags.
func (m *metric) labels() (kemi.Labels, error) {
	if !utf8.Valid(m.name) || !utf8.Valid(m.tags) {
		return nil, bad("%q: must be UTF-8", clip(m.name))
	}
	ls := kemi.Labels{{Name: kemi.MetricName, Value: string(m.name)}}
	for tag := range strings.SplitSeq(string(m.tags), ",") {
		if tag == "" {
			continue
		}
		k, v, ok := strings.Cut(tag, ":")
		if !ok {
			v = "true" // a tag that is only there or not
		}
		if k == "" || k == kemi.MetricName || k == "quantile" && m.kind == timer {
			return nil, bad("tag %q: this name cannot be had", tag)
		}
		ls = append(ls, kemi.Label{Name: k, Value: v})
	}
	return ls.Normalize(), nil
}

func parseNumber(b []byte) (float64, error) {
	v, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(b), len(b)), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, bad("value %q: must be a number", clip(b))
	}
	return v, nil
}

func clip(b []byte) string {
	const most = 200
	if len(b) > most {
		b = b[:most]
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}
