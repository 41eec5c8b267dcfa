package transform

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zeebo/xxh3"

	"kemi"
)

const (
	// maxName is how long the name of a field may be, maxFields how many a step makes, maxDepth how deep objects lie within each other whose members become
	// fields; what lies deeper is JSON.
	maxName   = 255
	maxFields = 256
	maxDepth  = 10
)

func hash(s string) uint64 { return xxh3.HashString(s) }

type parse struct {
	as     string
	field  string
	prefix string
	re     *regexp.Regexp
	layout string
	zone   *time.Location
	levels map[string]kemi.Severity
}

func (c *Parse) compile() (action, error) {
	p := parse{as: c.As, field: c.Field, prefix: c.Prefix, layout: c.Layout, levels: map[string]kemi.Severity{}}
	only := func(key string, given bool, as string) error {
		if given && c.As != as {
			return kemi.Errorf(kemi.ErrInvalid, "%s: is for %s only", key, as)
		}
		return nil
	}
	for _, err := range []error{only("pattern", c.Pattern != "", "regexp"), only("layout", c.Layout != "", "timestamp"), only("timeZone", c.TimeZone != "", "timestamp"), only("levels", c.Levels != nil, "severity")} {
		if err != nil {
			return nil, err
		}
	}
	var err error
	switch c.As {
	case "json", "logfmt":
	case "regexp":
		if p.re, err = pattern(c.Pattern); err != nil {
			return nil, fmt.Errorf("pattern: %w", err)
		}
		if strings.Join(p.re.SubexpNames(), "") == "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "pattern: %q: has no named groups such as (?P<user>\\w+)", c.Pattern)
		}
	case "timestamp":
		if p.zone, err = zone(c.TimeZone); err != nil {
			return nil, err
		}
		if p.layout == "" {
			p.layout = "auto"
		}
		if c.Field == "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "field: is missing; name the one with the time")
		}
	case "severity":
		if c.Field == "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "field: is missing; name the one with the severity")
		}
		for name, level := range c.Levels {
			s := kemi.ParseSeverity(level)
			if s == 0 {
				return nil, kemi.Errorf(kemi.ErrInvalid, "levels: %s: %q: must be trace, debug, info, notice, warn, error, critical, alert or fatal", name, level)
			}
			p.levels[strings.ToLower(name)] = s
		}
	default:
		return nil, kemi.Errorf(kemi.ErrInvalid, "as: %q: must be json, logfmt, regexp, timestamp or severity", c.As)
	}
	if p.field == "" {
		p.field = fieldBody
	}
	if len(p.prefix) > maxName/2 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "prefix: %d bytes: at most %d", len(p.prefix), maxName/2)
	}
	return p, nil
}

func (p parse) apply(t *Transform, r *kemi.LogRecord) (problem, drop string) {
	text := get(r, p.field)
	if text == "" {
		return "no field " + p.field, ""
	}
	switch p.as {
	case "timestamp":
		return p.timestamp(t, r, text), ""
	case "severity":
		return p.severity(r, text), ""
	}
	f := fields{prefix: p.prefix}
	switch p.as {
	case "json":
		f.json(text)
	case "logfmt":
		f.logfmt(text)
	default:
		f.regexp(p.re, text)
	}
	if f.problem != "" {
		return f.problem, ""
	}
	all := append(append(make(kemi.Labels, 0, len(r.Attrs)+len(f.found)), r.Attrs...), f.found...)
	r.Attrs = all.Normalize() // of a name that is there twice the new one stays
	return "", ""
}

// fields are those that a parser finds.
type fields struct {
	prefix  string
	found   kemi.Labels
	problem string
}

func (f *fields) add(name, value string) {
	name = f.prefix + name
	switch {
	case f.problem != "" || value == "" || name == "":
	case len(f.found) >= maxFields:
		f.problem = fmt.Sprintf("more than %d fields", maxFields)
	case len(name) > maxName || !utf8.ValidString(name):
		f.problem = fmt.Sprintf("field %.64q: a name must be UTF-8 and not longer than %d bytes", name, maxName)
	default:
		f.found = append(f.found, kemi.Label{Name: name, Value: value})
	}
}

func (f *fields) json(text string) {
	trimmed := strings.TrimSpace(text)
	if !strings.HasPrefix(trimmed, "{") || !json.Valid([]byte(trimmed)) {
		f.problem = "not a JSON object"
		return
	}
	f.object([]byte(trimmed), "", 0)
}

func (f *fields) object(b []byte, path string, depth int) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		f.problem = "not a JSON object"
		return
	}
	for name, v := range members {
		if f.problem != "" {
			return
		}
		if path != "" {
			name = path + "." + name
		}
		switch {
		case v[0] == '{' && depth < maxDepth && len(name) <= maxName:
			f.object(v, name, depth+1)
		case v[0] == '"':
			var s string
			_ = json.Unmarshal(v, &s) // it is valid
			f.add(name, s)
		case string(v) != "null":
			f.add(name, string(v))
		}
	}
}

// logfmt reads key=value key="a value" key.
func (f *fields) logfmt(s string) {
	pairs := 0
	for f.problem == "" {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			break
		}
		end := strings.IndexAny(s, "= \t")
		if end < 0 || s[end] != '=' { // a word alone
			if end < 0 {
				end = len(s)
			}
			s = s[end:]
			continue
		}
		name := s[:end]
		s = s[end+1:]
		var value string
		if strings.HasPrefix(s, `"`) {
			quoted, err := strconv.QuotedPrefix(s)
			if err != nil {
				f.problem = fmt.Sprintf("logfmt: the value of %.64q has no end", name)
				return
			}
			if value, err = strconv.Unquote(quoted); err != nil {
				value = quoted
			}
			s = s[len(quoted):]
		} else {
			if end = strings.IndexAny(s, " \t"); end < 0 {
				end = len(s)
			}
			value, s = s[:end], s[end:]
		}
		if name != "" {
			f.add(name, value)
			pairs++
		}
	}
	if pairs == 0 && f.problem == "" {
		f.problem = "not logfmt: no name=value"
	}
}

func (f *fields) regexp(re *regexp.Regexp, s string) {
	at := re.FindStringSubmatchIndex(s)
	if at == nil {
		f.problem = "the pattern does not match"
		return
	}
	for i, name := range re.SubexpNames() {
		if name != "" && at[2*i] >= 0 {
			f.add(name, s[at[2*i]:at[2*i+1]])
		}
	}
}

// layouts are those of auto.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999Z0700", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999 Z0700", "2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999", "2006/01/02 15:04:05.999999999", "02/Jan/2006:15:04:05 -0700", time.RFC1123Z, time.RFC1123, time.ANSIC,
}

func (p parse) timestamp(t *Transform, r *kemi.LogRecord, text string) (problem string) {
	at, ok := p.time(strings.TrimSpace(text))
	if !ok {
		return fmt.Sprintf("field %s: %.64q is not a time of layout %s", p.field, text, p.layout)
	}
	now := t.o.Now()
	if age := now.Sub(at); t.o.MaxPast > 0 && age > t.o.MaxPast || t.o.MaxFuture > 0 && -age > t.o.MaxFuture || at.Year() < 1970 || at.Year() > 2261 {
		return fmt.Sprintf("field %s: %.64q is too far from now", p.field, text)
	}
	r.At = kemi.NanosOf(at)
	if p.field != fieldBody {
		r.Attrs = r.Attrs.With(p.field, "")
	}
	return ""
}

func (p parse) time(s string) (time.Time, bool) {
	if len(s) > 64 {
		return time.Time{}, false
	}
	switch p.layout {
	case "unix", "unix_ms", "unix_us", "unix_ns":
		return unix(s, map[string]int64{"unix": 1e9, "unix_ms": 1e6, "unix_us": 1e3, "unix_ns": 1}[p.layout])
	case "auto":
		for _, l := range layouts {
			if at, err := time.ParseInLocation(l, s, p.zone); err == nil {
				return at, true
			}
		}
		// The unit that puts it nearest to our days.
		whole, _, _ := strings.Cut(s, ".")
		switch n := len(strings.TrimPrefix(whole, "-")); {
		case n <= 11:
			return unix(s, 1e9)
		case n <= 14:
			return unix(s, 1e6)
		case n <= 17:
			return unix(s, 1e3)
		default:
			return unix(s, 1)
		}
	}
	at, err := time.ParseInLocation(p.layout, s, p.zone)
	return at, err == nil
}

func unix(s string, unit int64) (time.Time, bool) {
	whole, fraction, dot := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit || dot && (fraction == "" || strings.Trim(fraction, "0123456789") != "") {
		return time.Time{}, false
	}
	part, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	return time.Unix(0, n*unit+part*unit/1e9), true
}

func (p parse) severity(r *kemi.LogRecord, text string) (problem string) {
	name := strings.ToLower(strings.TrimSpace(text))
	s, ok := p.levels[name]
	if !ok {
		s = kemi.ParseSeverity(name)
	}
	if n, err := strconv.Atoi(name); s == 0 && err == nil {
		switch {
		case n >= 10 && n <= 60 && n%10 == 0: // of pino and bunyan
			s = kemi.Severity(n/10-1)*4 + 1
		case n >= 0 && n <= 7: // of syslog
			s = [...]kemi.Severity{kemi.SeverityFatal, kemi.SeverityError + 2, kemi.SeverityError + 1, kemi.SeverityError, kemi.SeverityWarn, kemi.SeverityInfo + 1, kemi.SeverityInfo, kemi.SeverityDebug}[n]
		}
	}
	if s == 0 {
		return fmt.Sprintf("field %s: %.64q is no severity", p.field, text)
	}
	r.Severity = s
	if p.field != fieldBody {
		r.Attrs = r.Attrs.With(p.field, "")
	}
	return ""
}
