package influx

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"kemi"
)

// line is a line of the protocol in its parts, still escaped.
type line struct {
	series []byte // measurement and tags
	fields []byte
	time   []byte // may be empty
}

// errors of a line, in InfluxDB's words where it has some.
type parseError string

func (e parseError) Error() string { return string(e) }

const (
	errNoMeasurement = parseError("missing measurement")
	errNoFields      = parseError("missing fields")
	errBadTimestamp  = parseError("bad timestamp")
	errNoFieldKey    = parseError("missing field key")
	errNoFieldValue  = parseError("missing field value")
	errNumber        = parseError("invalid number")
	errBoolean       = parseError("invalid boolean")
	errQuotes        = parseError("unbalanced quotes")
	errNoTagKey      = parseError("missing tag key")
	errNoTagValue    = parseError("missing tag value")
	errTagTwice      = parseError("duplicate tags")
	errUTF8          = parseError("invalid UTF-8")
)

// cut takes the first line off b. A line break within a string does not end a line. lines is how many line breaks it has taken.
func cut(b []byte) (l line, rest []byte, lines int, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		end = len(b)
	}
	head := b[:end]
	i := unescaped(head, ' ')
	if i < 0 {
		i = end
	}
	l.series = head[:i]
	for i < end && b[i] == ' ' {
		i++
	}
	from := i
	// The fields: up to a space that is neither escaped nor in a string. Most have no string at all.
	if !bytes.ContainsAny(head[from:], `"\`) {
		if n := bytes.IndexByte(head[from:], ' '); n >= 0 {
			i = from + n
		} else {
			i = end
		}
	} else {
		quoted, value := false, false
	scan:
		for ; i < len(b); i++ {
			switch c := b[i]; {
			case c == '\\' && i+1 < len(b) && b[i+1] != '\n':
				i++
				value = false
				continue
			case quoted && c == '"':
				quoted = false
			case quoted && c == '\n':
				lines++
			case quoted:
			case c == '"' && value:
				quoted = true
			case c == ' ' || c == '\n':
				break scan
			}
			value = b[i] == '='
		}
		if quoted {
			// Only this line is given up, not all that follows it.
			return l, after(b, end), 1, errQuotes
		}
		if i = min(i, len(b)); i > end {
			if end = bytes.IndexByte(b[i:], '\n'); end < 0 {
				end = len(b)
			} else {
				end += i
			}
		}
	}
	l.fields = b[from:i]
	l.time = bytes.TrimSpace(b[i:end])
	l.fields = bytes.TrimSuffix(l.fields, []byte("\r"))
	return l, after(b, end), lines + 1, nil
}

func after(b []byte, end int) []byte {
	if end < len(b) {
		return b[end+1:]
	}
	return nil
}

// unescaped is where the first c is that no backslash stands before, or -1.
func unescaped(b []byte, c byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(b[from:], c)
		if i < 0 {
			return -1
		}
		i += from
		if i == 0 || b[i-1] != '\\' {
			return i
		}
		from = i + 1
	}
}

// unescape takes the backslashes away that stand before a comma, a space or an equals sign. A backslash before anything else is itself.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var s strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) && (b[i+1] == ',' || b[i+1] == ' ' || b[i+1] == '=') {
			i++
		}
		s.WriteByte(b[i])
	}
	return s.String()
}

// parseSeries is the measurement and the tags. Empty tag values do not occur: InfluxDB refuses them.
func parseSeries(b []byte) (measurement string, tags kemi.Labels, err error) {
	if !utf8.Valid(b) {
		return "", nil, errUTF8
	}
	i := unescaped(b, ',')
	if i < 0 {
		i = len(b)
	}
	if measurement = unescape(b[:i]); measurement == "" {
		return "", nil, errNoMeasurement
	}
	for i < len(b) {
		b = b[i+1:]
		if i = unescaped(b, ','); i < 0 {
			i = len(b)
		}
		tag := b[:i]
		eq := unescaped(tag, '=')
		switch {
		case eq == 0 || len(tag) == 0:
			return "", nil, errNoTagKey
		case eq < 0 || eq == len(tag)-1:
			return "", nil, errNoTagValue
		}
		l := kemi.Label{Name: unescape(tag[:eq]), Value: unescape(tag[eq+1:])}
		for _, other := range tags {
			if other.Name == l.Name {
				return "", nil, errTagTwice
			}
		}
		tags = append(tags, l)
	}
	return measurement, tags, nil
}

// kind is what a field's value is.
type kind uint8

const (
	number kind = iota
	text        // has no place in a series: strings.go
)

// nextField takes the first field off b. key is escaped still.
func nextField(b []byte) (key []byte, v float64, k kind, rest []byte, err error) {
	eq := unescaped(b, '=')
	if comma := unescaped(b, ','); eq < 0 || comma >= 0 && comma < eq {
		return nil, 0, 0, nil, errNoFieldValue
	}
	if eq == 0 {
		return nil, 0, 0, nil, errNoFieldKey
	}
	key, b = b[:eq], b[eq+1:]
	if len(b) == 0 {
		return nil, 0, 0, nil, errNoFieldValue
	}
	var value []byte
	if b[0] == '"' {
		end := 1
		for end < len(b) && b[end] != '"' {
			if b[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(b) {
			return nil, 0, 0, nil, errQuotes
		}
		k, rest = text, b[end+1:]
		if len(rest) > 0 && rest[0] != ',' {
			return nil, 0, 0, nil, errQuotes
		}
	} else {
		end := bytes.IndexByte(b, ',')
		if end < 0 {
			end = len(b)
		}
		value, rest = b[:end], b[end:]
		if v, err = parseValue(value); err != nil {
			return nil, 0, 0, nil, err
		}
	}
	if len(rest) > 0 {
		if rest = rest[1:]; len(rest) == 0 {
			return nil, 0, 0, nil, errNoFieldKey
		}
	}
	return key, v, k, rest, nil
}

// parseValue reads a number or a boolean, which is 1 or 0.
func parseValue(b []byte) (float64, error) {
	if len(b) == 0 {
		return 0, errNoFieldValue
	}
	s := unsafe.String(unsafe.SliceData(b), len(b))
	switch c := b[0]; {
	case c >= '0' && c <= '9', c == '-', c == '+', c == '.':
	case s == "t", s == "T", s == "true", s == "True", s == "TRUE":
		return 1, nil
	case s == "f", s == "F", s == "false", s == "False", s == "FALSE":
		return 0, nil
	case c == 't', c == 'T', c == 'f', c == 'F':
		return 0, errBoolean
	default:
		return 0, errNumber
	}
	switch b[len(b)-1] {
	case 'i':
		n, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
		if err != nil {
			return 0, errNumber
		}
		return float64(n), nil
	case 'u':
		n, err := strconv.ParseUint(s[:len(s)-1], 10, 64)
		if err != nil {
			return 0, errNumber
		}
		return float64(n), nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) || goOnly(s) {
		return 0, errNumber
	}
	return v, nil
}

// goOnly tells whether a number that Go reads is one that InfluxDB does not: hexadecimal, or with underscores.
func goOnly(s string) bool {
	return len(s) > 2 && (s[1]|' ' == 'x' || s[2]|' ' == 'x' || strings.IndexByte(s, '_') >= 0)
}

// parseTime reads a time in units of so many nanoseconds, as milliseconds rounded down.
func parseTime(b []byte, unit int64) (kemi.Millis, error) {
	n, err := strconv.ParseInt(unsafe.String(unsafe.SliceData(b), len(b)), 10, 64)
	if err != nil {
		return 0, errBadTimestamp
	}
	const ms = 1_000_000
	if unit >= ms {
		if factor := unit / ms; n > math.MaxInt64/factor || n < math.MinInt64/factor {
			return 0, errBadTimestamp
		}
		return kemi.Millis(n * (unit / ms)), nil
	}
	per := ms / unit
	if n < 0 {
		n -= per - 1
	}
	return kemi.Millis(n / per), nil
}
