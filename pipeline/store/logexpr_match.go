package store

import (
	"regexp"
	"strconv"
	"strings"

	"kemi"
)

// FieldOf is the value of a field of r, as LogExpr names them, and whether r has it.
func FieldOf(r *kemi.LogRecord, name string) (string, bool) {
	var v string
	switch name {
	case "":
		return r.Body, true
	case "id":
		v = r.ID
	case "trace_id":
		v = r.TraceID
	case "span_id":
		v = r.SpanID
	case "level":
		v = r.Severity.String()
	}
	if v == "" {
		v = r.Stream.Get(name)
	}
	if v == "" {
		v = r.Attrs.Get(name)
	}
	return v, v != ""
}

// CompileLog makes e ready to be matched against many records: what it returns says what e.Match says, and sooner. It may be
// called concurrently. A nil e matches all.
func CompileLog(e LogExpr) func(*kemi.LogRecord) bool {
	switch e := e.(type) {
	case nil:
		return func(*kemi.LogRecord) bool { return true }
	case LogAnd:
		all := compileAll(e)
		if len(all) == 1 {
			return all[0]
		}
		return func(r *kemi.LogRecord) bool {
			for _, m := range all {
				if !m(r) {
					return false
				}
			}
			return true
		}
	case LogOr:
		any := compileAll(e)
		return func(r *kemi.LogRecord) bool {
			for _, m := range any {
				if m(r) {
					return true
				}
			}
			return false
		}
	case LogNot:
		m := CompileLog(e.X)
		return func(r *kemi.LogRecord) bool { return !m(r) }
	case LogPhrase:
		p := prepare(e.Text, false, nil)
		return func(r *kemi.LogRecord) bool { return e.match(r, &p) }
	case LogPrefix:
		p := prepare(e.Prefix, true, nil)
		return func(r *kemi.LogRecord) bool { return matchPhrase(r, e.Field, &p) }
	case LogRegexp:
		if e.Re == nil {
			e.Re, _ = regexp.Compile(e.Source)
		}
		return e.Match
	default:
		return e.Match
	}
}

func compileAll(es []LogExpr) []func(*kemi.LogRecord) bool {
	out := make([]func(*kemi.LogRecord) bool, len(es))
	for i, e := range es {
		out[i] = CompileLog(e)
	}
	return out
}

// Match tells whether r meets the condition.
func (e LogAnd) Match(r *kemi.LogRecord) bool {
	for _, x := range e {
		if !x.Match(r) {
			return false
		}
	}
	return true
}

// Match tells whether r meets the condition.
func (e LogOr) Match(r *kemi.LogRecord) bool {
	for _, x := range e {
		if x.Match(r) {
			return true
		}
	}
	return false
}

// Match tells whether r meets the condition.
func (e LogNot) Match(r *kemi.LogRecord) bool { return !e.X.Match(r) }

// Match tells whether r meets the condition.
func (e LogPhrase) Match(r *kemi.LogRecord) bool {
	var buf [8]unit
	p := prepare(e.Text, false, buf[:0])
	return e.match(r, &p)
}

func (e LogPhrase) match(r *kemi.LogRecord, p *phrase) bool {
	if e.Field == "level" && r.Severity.String() != "" {
		lo, hi := severityRange(e.Text)
		return lo != 0 && lo <= r.Severity && r.Severity <= hi
	}
	return matchPhrase(r, e.Field, p)
}

// Match tells whether r meets the condition.
func (e LogPrefix) Match(r *kemi.LogRecord) bool {
	var buf [8]unit
	p := prepare(e.Prefix, true, buf[:0])
	return matchPhrase(r, e.Field, &p)
}

func matchPhrase(r *kemi.LogRecord, field string, p *phrase) bool {
	v, ok := FieldOf(r, field)
	return ok && p.in(v)
}

// Match tells whether r meets the condition. An expression that is not compiled and cannot be matches nothing.
func (e LogRegexp) Match(r *kemi.LogRecord) bool {
	v, ok := FieldOf(r, e.Field)
	if !ok {
		return false
	}
	re := e.Re
	if re == nil {
		var err error
		if re, err = regexp.Compile(e.Source); err != nil {
			return false
		}
	}
	return re.MatchString(v)
}

// Match tells whether r meets the condition.
func (e LogExists) Match(r *kemi.LogRecord) bool {
	_, ok := FieldOf(r, e.Field)
	return ok
}

// Match tells whether r meets the condition.
func (e LogRange) Match(r *kemi.LogRecord) bool {
	v, ok := FieldOf(r, e.Field)
	if !ok {
		return false
	}
	compare := func(bound string) (int, bool) { return compareValues(v, bound), true }
	if e.Field == "level" && r.Severity.String() != "" {
		compare = func(bound string) (int, bool) { return compareSeverity(r.Severity, bound) }
	}
	return e.holds(compare)
}

// holds tells whether a value that compare compares with a bound lies in the range.
func (e LogRange) holds(compare func(bound string) (int, bool)) bool {
	if e.Min != nil {
		if c, ok := compare(*e.Min); !ok || c < 0 || c == 0 && e.MinOpen {
			return false
		}
	}
	if e.Max != nil {
		if c, ok := compare(*e.Max); !ok || c > 0 || c == 0 && e.MaxOpen {
			return false
		}
	}
	return true
}

func compareValues(v, bound string) int {
	if a, ok := ParseNumber(v); ok {
		if b, ok := ParseNumber(bound); ok {
			switch {
			case a < b:
				return -1
			case a > b:
				return 1
			}
			return 0
		}
	}
	return strings.Compare(v, bound)
}

// ParseNumber reads a decimal number, as LogRange does: digits with a sign, a point and an exponent if need be, and nothing else.
func ParseNumber(s string) (float64, bool) {
	if s == "" || len(s) > 64 {
		return 0, false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// severityRange is the severities that a name stands for: the whole range for trace, debug, info, warn, error and fatal
// and their other spellings, one number for what lies between them (notice, critical). 0, 0 if it is no such name.
func severityRange(name string) (lo, hi kemi.Severity) {
	s := kemi.ParseSeverity(name)
	switch {
	case s == 0:
		if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 24 {
			return kemi.Severity(n), kemi.Severity(n)
		}
		return 0, 0
	case s%4 == 1:
		return s, s + 3
	}
	return s, s
}

func compareSeverity(s kemi.Severity, bound string) (int, bool) {
	lo, hi := severityRange(bound)
	switch {
	case lo == 0:
		return 0, false
	case s < lo:
		return -1, true
	case s > hi:
		return 1, true
	}
	return 0, true
}
