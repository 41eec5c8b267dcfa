package promtext

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"kemi"
)

// Format says in which unit timestamps are.
type Format uint8

// The formats.
const (
	Prometheus  Format = iota // milliseconds, whole
	OpenMetrics               // seconds, also with a fraction
)

// Sample is a line that is one. Its bytes are those of the line.
type Sample struct {
	Series   []byte // name{label="value",…}, as it was written
	Value    float64
	At       kemi.Millis
	HasTime  bool
	Exemplar []byte // what stands after the #, or nil
}

func bad(format string, args ...any) error { return kemi.Errorf(kemi.ErrInvalid, format, args...) }

// Parse reads a line without its end that is neither empty nor a comment.
func Parse(line []byte, f Format) (s Sample, err error) {
	end := seriesEnd(line)
	if end <= 0 {
		return s, bad("must be: name{label=\"value\",…} value time")
	}
	s.Series = line[:end]
	rest := trim(line[end:])
	value, rest := word(rest)
	if len(value) == 0 {
		return s, bad("no value")
	}
	if s.Value, err = parseValue(value); err != nil {
		return s, err
	}
	if len(rest) > 0 && rest[0] != '#' {
		var at []byte
		at, rest = word(rest)
		if s.At, err = parseTime(at, f); err != nil {
			return s, err
		}
		s.HasTime = true
	}
	if len(rest) == 0 {
		return s, nil
	}
	if rest[0] != '#' {
		return s, bad("%q after the time", clip(rest))
	}
	if s.Exemplar = trim(rest[1:]); len(s.Exemplar) == 0 || s.Exemplar[0] != '{' {
		return s, bad("exemplar %q: must be {label=\"value\"} value time", clip(s.Exemplar))
	}
	return s, nil
}

// seriesEnd is where the series ends: after its closing brace, or at a blank if it has none. It is -1 if a brace is not closed.
func seriesEnd(line []byte) int {
	i := 0
	for i < len(line) && line[i] != '{' {
		if line[i] == ' ' || line[i] == '\t' {
			// A name may be apart from its labels.
			j := i
			for j < len(line) && (line[j] == ' ' || line[j] == '\t') {
				j++
			}
			if j == len(line) || line[j] != '{' {
				return i
			}
			i = j
			break
		}
		i++
	}
	if i == len(line) {
		return i
	}
	for i++; i < len(line); i++ {
		switch line[i] {
		case '}':
			return i + 1
		case '"':
			n := quoted(line[i:])
			if n < 0 {
				return -1
			}
			i += n - 1
		}
	}
	return -1
}

// quoted is how long the text in quotes is that b begins with, or -1 if it does not end.
func quoted(b []byte) int {
	for i := 1; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 || slashes == i { // the opening quote is not a backslash, so it ends there at the latest
			return i + 1
		}
	}
	return -1
}

func trim(b []byte) []byte { return bytes.TrimLeft(b, " \t") }

func word(b []byte) (w, rest []byte) {
	if i := bytes.IndexAny(b, " \t"); i >= 0 {
		return b[:i], trim(b[i:])
	}
	return b, nil
}

func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func parseValue(b []byte) (float64, error) {
	v, err := strconv.ParseFloat(text(b), 64) // also NaN, +Inf, -Inf
	if err != nil || bytes.IndexByte(b, '_') >= 0 {
		return 0, bad("value %q: must be a number", clip(b))
	}
	return v, nil
}

func parseTime(b []byte, f Format) (kemi.Millis, error) {
	if f == Prometheus {
		n, err := strconv.ParseInt(text(b), 10, 64)
		if err != nil {
			return 0, bad("time %q: must be milliseconds since 1970, a whole number", clip(b))
		}
		return kemi.Millis(n), nil
	}
	if n, err := strconv.ParseInt(text(b), 10, 64); err == nil && n > -1e12 && n < 1e12 {
		return kemi.Millis(n * 1000), nil
	}
	v, err := strconv.ParseFloat(text(b), 64)
	if err != nil || !(v > -1e12 && v < 1e12) {
		return 0, bad("time %q: must be seconds since 1970", clip(b))
	}
	return kemi.Millis(math.Round(v * 1000)), nil
}

// ParseSeries is the labels of a series, appended to ls: the name may stand before the braces, or within them in quotes.
func ParseSeries(ls kemi.Labels, b []byte) (kemi.Labels, error) {
	if !utf8.Valid(b) {
		return nil, bad("series %q: must be UTF-8", clip(b))
	}
	named := len(ls)
	name, rest := b, []byte(nil)
	if i := bytes.IndexByte(b, '{'); i >= 0 {
		name, rest = bytes.TrimRight(b[:i], " \t"), b[i+1:]
	}
	ls = append(ls, kemi.Label{Name: kemi.MetricName, Value: string(name)})
	if bytes.ContainsAny(name, "}\"=,#") {
		return nil, bad("series %q: name %q: must be in quotes within the braces", clip(b), clip(name))
	}
	for rest = trim(rest); len(rest) > 0; {
		if rest[0] == '}' {
			break
		}
		var key, value string
		var err error
		if key, rest, err = labelName(rest); err != nil {
			return nil, err
		}
		rest = trim(rest)
		if len(rest) > 0 && rest[0] == '=' {
			if value, rest, err = unquote(trim(rest[1:])); err != nil {
				return nil, err
			}
			if key == kemi.MetricName {
				return nil, bad("series %q: label %s: is the name", clip(b), key)
			}
			ls = append(ls, kemi.Label{Name: key, Value: value})
		} else { // {"name", …}
			if ls[named].Value != "" {
				return nil, bad("series %q: has two names, or a label without a value: %q", clip(b), key)
			}
			ls[named].Value = key
		}
		if rest = trim(rest); len(rest) == 0 || rest[0] != ',' && rest[0] != '}' {
			return nil, bad("series %q: labels must have commas between them", clip(b))
		}
		if rest[0] == ',' {
			rest = trim(rest[1:])
		}
	}
	if ls[named].Value == "" {
		return nil, bad("series %q: has no name", clip(b))
	}
	for i, l := range ls[named+1:] {
		for _, other := range ls[named+1 : named+1+i] {
			if l.Name == other.Name {
				return nil, bad("series %q: label %q stands there twice", clip(b), l.Name)
			}
		}
	}
	return ls, nil
}

func labelName(b []byte) (name string, rest []byte, err error) {
	if b[0] == '"' {
		return unquote(b)
	}
	i := 0
	for i < len(b) && b[i] != '=' && b[i] != ' ' && b[i] != '\t' && b[i] != ',' && b[i] != '}' && b[i] != '"' {
		i++
	}
	if i == 0 {
		return "", nil, bad("a label without a name at %q", clip(b))
	}
	return string(b[:i]), b[i:], nil
}

// unquote reads a text in quotes.
func unquote(b []byte) (s string, rest []byte, err error) {
	if len(b) == 0 || b[0] != '"' {
		return "", nil, bad("%q: must be in quotes", clip(b))
	}
	n := quoted(b)
	if n < 0 {
		return "", nil, bad("%q: the quotes do not end", clip(b))
	}
	in := b[1 : n-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in), b[n:], nil
	}
	var out strings.Builder
	for i := 0; i < len(in); i++ {
		if in[i] == '\\' && i+1 < len(in) {
			switch in[i+1] {
			case 'n':
				out.WriteByte('\n')
				i++
				continue
			case '\\', '"':
				i++
			}
		}
		out.WriteByte(in[i])
	}
	return out.String(), b[n:], nil
}

// clip cuts a text that an error repeats, and makes it readable.
func clip(b []byte) string {
	const most = 200
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "\ufffd") + "…"
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}
