package backfill

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"kemi"
	"kemi/collectors/promtext"
)

// Format is what the lines of a file are.
type Format string

// The formats.
const (
	Auto        Format = "auto"        // told by the first sample, and by the name of the file
	OpenMetrics Format = "openmetrics" // times in seconds
	Prometheus  Format = "prometheus"  // times in milliseconds
	OpenTSDB    Format = "opentsdb"    // put metric time value tag=value …
)

// ParseFormat reads the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Auto, OpenMetrics, Prometheus, OpenTSDB:
		return f, nil
	}
	return "", kemi.Errorf(kemi.ErrInvalid, "format %q: must be auto, openmetrics, prometheus or opentsdb", s)
}

// FormatOf is what the name of a file says.
func FormatOf(name string) Format {
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".gz"), ".zst")
	switch {
	case strings.HasSuffix(name, ".om"), strings.HasSuffix(name, ".openmetrics"):
		return OpenMetrics
	case strings.HasSuffix(name, ".prom"):
		return Prometheus
	case strings.HasSuffix(name, ".tsdb"):
		return OpenTSDB
	}
	return Auto
}

// guess tells the format by a line that is a sample.
func guess(line []byte) Format {
	words := strings.Fields(string(line))
	if words[0] == "put" {
		return OpenTSDB
	}
	if len(words) >= 4 && !strings.ContainsAny(string(line), "{#") && strings.Contains(words[3], "=") {
		return OpenTSDB
	}
	s, err := promtext.Parse(line, promtext.OpenMetrics)
	if err != nil || !s.HasTime {
		return Prometheus
	}
	// Milliseconds of any time after the spring of 1973 have more digits than seconds of any before the year 5138.
	if at := int64(s.At) / 1000; at >= 1e11 || at <= -1e11 {
		return Prometheus
	}
	return OpenMetrics
}

// point is a line that is a sample.
type point struct {
	series []byte // what the series is called in the file
	at     kemi.Millis
	value  float64
}

func bad(format string, args ...any) error { return kemi.Errorf(kemi.ErrInvalid, format, args...) }

// parse reads a line that is neither empty nor a comment.
func (f Format) parse(line []byte) (point, error) {
	if f == OpenTSDB {
		return parsePut(line)
	}
	unit := promtext.Prometheus
	if f == OpenMetrics {
		unit = promtext.OpenMetrics
	}
	s, err := promtext.Parse(line, unit)
	if err != nil {
		return point{}, err
	}
	if !s.HasTime {
		return point{}, bad("no time: a file of samples must say when they were")
	}
	return point{s.Series, s.At, s.Value}, nil
}

// labels are those of what parse gave as series.
func (f Format) labels(series []byte) (kemi.Labels, error) {
	if f != OpenTSDB {
		ls, err := promtext.ParseSeries(nil, series)
		return ls.Normalize(), err
	}
	if !utf8.Valid(series) {
		return nil, bad("series: must be UTF-8")
	}
	words := strings.Fields(string(series))
	ls := kemi.Labels{{Name: kemi.MetricName, Value: words[0]}}
	for _, w := range words[1:] {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" || v == "" || k == kemi.MetricName {
			return nil, bad("tag %q: must be name=value", w)
		}
		ls = append(ls, kemi.Label{Name: k, Value: v})
	}
	return ls.Normalize(), nil
}

// parsePut reads `[put] metric time value tag=value …`. The series is the metric and the tags, for which the line is changed.
func parsePut(line []byte) (point, error) {
	line = bytes.TrimPrefix(line, []byte("put "))
	line = bytes.TrimLeft(line, " \t")
	metric, rest := cutWord(line)
	at, rest := cutWord(rest)
	value, tags := cutWord(rest)
	if len(metric) == 0 || len(value) == 0 {
		return point{}, bad("must be: put metric time value tag=value …")
	}
	n, err := strconv.ParseInt(string(at), 10, 64)
	switch {
	case err == nil && n > 0 && n <= math.MaxUint32:
		n *= 1000
	case err != nil || n <= 0:
		f, err := strconv.ParseFloat(string(at), 64)
		if err != nil || !(f > 0 && f <= math.MaxUint32) {
			return point{}, bad("time %q: must be seconds or milliseconds since 1970", at)
		}
		n = int64(math.Round(f * 1000))
	}
	v, err := strconv.ParseFloat(string(value), 64)
	if err != nil {
		return point{}, bad("value %q: must be a number", value)
	}
	// The tags move up to the metric: then both are one piece, as they are in every line of this series.
	series := append(metric, ' ')
	series = append(series, tags...)
	return point{series, kemi.Millis(n), v}, nil
}

func cutWord(b []byte) (word, rest []byte) {
	if i := bytes.IndexAny(b, " \t"); i >= 0 {
		return b[:i], bytes.TrimLeft(b[i:], " \t")
	}
	return b, nil
}
