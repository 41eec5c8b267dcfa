package syslog

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"

	"kemi"
)

// message is a message taken apart. The bytes are parts of the frame.
type message struct {
	facility, level int        // -1 if there is no priority
	at              kemi.Nanos // 0 if it has none
	when            []byte     // the time as it is written, if it could not be read
	host, app, proc []byte     // nil if there is none
	id, data        []byte     // of RFC 5424
	source          []byte     // the bytes that host and app are read from
	details         []byte     // the bytes that proc, id and data are read from
	text            []byte
	problem         string // why it is not taken apart; then text is the whole frame
}

// maxName is how long a host or the name of an application may be: longer ones are no such thing.
const maxName = 255

// parse takes a frame apart. now is what a time without a year is near, zone where one without an offset is.
func parse(frame []byte, now time.Time, zone *time.Location) message {
	m := message{facility: -1, level: -1}
	rest, ok := m.priority(frame)
	if !ok {
		m.text, m.problem = frame, "no priority: must begin with <0> to <191>"
		return m
	}
	if len(rest) > 1 && rest[0] == '1' && rest[1] == ' ' {
		m.modern(rest[2:])
	} else {
		m.old(rest, now, zone)
	}
	if m.problem == "" && (!utf8.Valid(m.host) || !utf8.Valid(m.app)) {
		m.problem = "host or application is not UTF-8"
	}
	if m.problem != "" {
		m = message{facility: m.facility, level: m.level, text: frame, problem: m.problem}
	}
	return m
}

// priority reads <PRI>.
func (m *message) priority(b []byte) (rest []byte, ok bool) {
	if len(b) < 3 || b[0] != '<' {
		return b, false
	}
	n := 0
	for i := 1; i < len(b) && i < 5; i++ {
		c := b[i]
		if c == '>' && i > 1 && n <= 191 {
			m.facility, m.level = n>>3, n&7
			return b[i+1:], true
		}
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return b, false
}

// field is what stands before the next space.
func field(b []byte) (f, rest []byte, ok bool) {
	i := bytes.IndexByte(b, ' ')
	if i <= 0 {
		return nil, b, false
	}
	return b[:i], b[i+1:], true
}

func unlessNil(b []byte) []byte {
	if len(b) == 1 && b[0] == '-' {
		return nil
	}
	return b
}

// modern reads what comes behind the version in RFC 5424: TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [MSG].
func (m *message) modern(b []byte) {
	when, b, ok1 := field(b)
	from := b
	host, b, ok2 := field(b)
	app, b, ok3 := field(b)
	if !ok1 || !ok2 || !ok3 || len(host) > maxName || len(app) > maxName {
		m.problem = "RFC 5424: must have time, host and application"
		return
	}
	m.source = from[:len(from)-len(b)-1]
	from = b
	proc, b, ok1 := field(b)
	id, b, ok2 := field(b)
	if !ok1 || !ok2 {
		m.problem = "RFC 5424: must have a process and a message ID"
		return
	}
	n := dataLength(b)
	if n < 0 || n < len(b) && b[n] != ' ' {
		m.problem = "RFC 5424: broken structured data"
		return
	}
	m.host, m.app, m.proc, m.id, m.data = unlessNil(host), unlessNil(app), unlessNil(proc), unlessNil(id), unlessNil(b[:n])
	m.details = from[:len(from)-len(b)+n]
	if b = b[n:]; len(b) > 0 {
		b = b[1:]
	}
	m.text = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // says that UTF-8 follows
	if when = unlessNil(when); when != nil {
		if m.at, ok1 = rfc3339(when); !ok1 {
			m.when = when
		}
	}
}

// dataLength is how many bytes of b are STRUCTURED-DATA, or -1.
func dataLength(b []byte) int {
	if len(b) == 0 {
		return -1
	}
	if b[0] == '-' {
		return 1
	}
	i := 0
	for i < len(b) && b[i] == '[' {
		quoted := false
		for i++; ; i++ {
			if i >= len(b) {
				return -1
			}
			switch c := b[i]; {
			case c == '\\' && quoted:
				i++
				continue
			case c == '"':
				quoted = !quoted
				continue
			case c != ']' || quoted:
				continue
			}
			break
		}
		i++
	}
	if i == 0 {
		return -1
	}
	return i
}

// old reads what comes behind the priority in RFC 3164: Mmm dd hh:mm:ss HOSTNAME TAG[PID]: text. Times as in RFC 3339, which many senders can
// be told to write, are good, too, and the host may be missing, as in messages of a host to itself.
func (m *message) old(b []byte, now time.Time, zone *time.Location) {
	var ok bool
	if m.at, b, ok = oldTime(b, now, zone); !ok {
		m.problem = "RFC 3164: must have a time as Jan _2 15:04:05 or as in RFC 3339"
		return
	}
	from := b
	if host, rest, ok := field(b); ok && len(host) <= maxName && host[len(host)-1] != ':' && !bytes.ContainsAny(host, "[]=\"{}") {
		m.host, b = unlessNil(host), rest
	}
	end := bytes.IndexAny(b[:min(len(b), maxName)], ": [")
	if end > 0 && b[end] != ' ' && !bytes.ContainsAny(b[:end], "\"'{}()=") {
		app, rest := b[:end], b[end:]
		if rest[0] == '[' {
			if i := bytes.IndexByte(rest[:min(len(rest), maxName)], ']'); i > 1 && i+1 < len(rest) && (rest[i+1] == ':' || rest[i+1] == ' ') && bytes.IndexByte(rest[:i], ' ') < 0 {
				m.app, m.source = app, from[:len(from)-len(rest)]
				m.proc, m.details = rest[1:i], rest[:i+1]
				b = bytes.TrimPrefix(rest[i+1:], []byte(":"))
			}
		} else if len(rest) == 1 || rest[1] == ' ' {
			m.app, b, m.source = app, rest[1:], from[:len(from)-len(rest)]
		}
	}
	if m.app == nil {
		m.source = from[:len(from)-len(b)]
	} else {
		b = bytes.TrimPrefix(b, []byte(" "))
	}
	m.text = b
}

var months = [...]string{"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"}

// oldTime reads the time of RFC 3164, also with a year and with a fraction, as devices write it, or one of RFC 3339; and the space behind it.
func oldTime(b []byte, now time.Time, zone *time.Location) (at kemi.Nanos, rest []byte, ok bool) {
	if len(b) > 10 && b[0] >= '0' && b[0] <= '9' {
		word, rest, found := field(b)
		if at, ok = rfc3339(word); found && ok {
			return at, rest, true
		}
		return 0, b, false
	}
	if len(b) < 16 || b[3] != ' ' || b[6] != ' ' {
		return 0, b, false
	}
	month := 0
	for i, name := range months {
		if string(b[:3]) == name {
			month = i + 1
		}
	}
	day, ok := number(bytes.TrimPrefix(b[4:6], []byte(" ")))
	if month == 0 || !ok || day < 1 || day > 31 {
		return 0, b, false
	}
	b = b[7:]
	year := 0
	if len(b) > 13 && b[4] == ' ' {
		if year, ok = number(b[:4]); ok {
			b = b[5:]
		}
	}
	seconds, ok := clock(b)
	if !ok {
		return 0, b, false
	}
	b = b[8:]
	nanos, n := fraction(b)
	b = bytes.TrimPrefix(b[n:], []byte(":")) // of devices
	if len(b) == 0 || b[0] != ' ' {
		return 0, b, false
	}
	on := func(year int) time.Time {
		return time.Date(year, time.Month(month), day, seconds/3600, seconds/60%60, seconds%60, nanos, zone)
	}
	t := on(year)
	if year == 0 { // the one nearest to now
		t = on(now.In(zone).Year())
		for _, other := range []time.Time{on(t.Year() - 1), on(t.Year() + 1)} {
			if other.Sub(now).Abs() < t.Sub(now).Abs() && other.Day() == day {
				t = other
			}
		}
	}
	if t.Year() < 1970 || t.Year() > 2261 {
		return 0, b, false
	}
	return kemi.NanosOf(t), b[1:], true
}

// number reads digits only.
func number(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(b) > 0 && len(b) < 10
}

// clock reads hh:mm:ss as seconds.
func clock(b []byte) (seconds int, ok bool) {
	if len(b) < 8 || b[2] != ':' || b[5] != ':' {
		return 0, false
	}
	h, ok1 := number(b[:2])
	m, ok2 := number(b[3:5])
	s, ok3 := number(b[6:8])
	return h*3600 + m*60 + s, ok1 && ok2 && ok3 && h < 24 && m < 60 && s <= 60
}

// fraction reads .123 as nanoseconds, and how many bytes that takes.
func fraction(b []byte) (nanos, n int) {
	if len(b) < 2 || b[0] != '.' {
		return 0, 0
	}
	unit := 100_000_000
	for n = 1; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		nanos += int(b[n]-'0') * unit
		unit /= 10
	}
	if n == 1 {
		return 0, 0
	}
	return nanos, n
}

// rfc3339 reads 2006-01-02T15:04:05.999999999+07:00.
func rfc3339(b []byte) (kemi.Nanos, bool) {
	if len(b) < 20 || len(b) > 40 || b[4] != '-' || b[7] != '-' || b[10] != 'T' {
		return 0, false
	}
	year, ok1 := number(b[:4])
	month, ok2 := number(b[5:7])
	day, ok3 := number(b[8:10])
	seconds, ok4 := clock(b[11:])
	if !ok1 || !ok2 || !ok3 || !ok4 || year < 1970 || year > 2261 || month < 1 || month > 12 || day < 1 || day > monthDays(year, month) {
		return 0, false
	}
	nanos, n := fraction(b[19:])
	offset, ok := zoneOffset(b[19+n:])
	if !ok {
		return 0, false
	}
	return kemi.Nanos(int64(daysSince1970(year, month, day)*86400+seconds-offset)*1e9 + int64(nanos)), true
}

func zoneOffset(b []byte) (seconds int, ok bool) {
	if len(b) == 1 && b[0] == 'Z' {
		return 0, true
	}
	if len(b) != 6 || b[0] != '+' && b[0] != '-' || b[3] != ':' {
		return 0, false
	}
	h, ok1 := number(b[1:3])
	m, ok2 := number(b[4:6])
	seconds = h*3600 + m*60
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, ok1 && ok2 && h < 24 && m < 60
}

func monthDays(year, month int) int {
	if month == 2 && (year%4 != 0 || year%100 == 0 && year%400 != 0) {
		return 28
	}
	return [...]int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
}

// daysSince1970 counts in years that begin in March, so that the leap day is the last of one.
func daysSince1970(year, month, day int) int {
	if month <= 2 {
		year--
		month += 12
	}
	return year*365 + year/4 - year/100 + year/400 + (month*153-457)/5 + day - 719469
}

// attributes are those of a message: procid, msgid, and the structured data as id.name, or id of an element without any. Of a name that
// stands in an element several times, as some do, the later ones have a number behind it.
func (m *message) attributes(most int) (kemi.Labels, string) {
	var out kemi.Labels
	used := map[string]int{}
	add := func(name, value string) {
		used[name]++
		if n := used[name]; n > 1 {
			name += "." + strconv.Itoa(n)
			used[name]++
		}
		out = append(out, kemi.Label{Name: name, Value: value})
	}
	if len(m.proc) > 0 {
		add("procid", string(m.proc))
	}
	if len(m.id) > 0 {
		add("msgid", string(m.id))
	}
	for b := m.data; len(b) > 0; {
		end := bytes.IndexAny(b, " ]")
		if b[0] != '[' || end < 2 || end > maxName {
			return nil, "RFC 5424: an element of structured data without a name"
		}
		id, alone := string(b[1:end]), true
		for b = b[end:]; b[0] == ' '; {
			b = bytes.TrimLeft(b, " ")
			eq := bytes.IndexByte(b, '=')
			if eq <= 0 || eq > maxName || eq+1 >= len(b) || b[eq+1] != '"' {
				if len(b) > 0 && b[0] == ']' {
					break
				}
				return nil, "RFC 5424: a parameter of structured data must be name=\"value\""
			}
			name := id + "." + string(b[:eq])
			value, rest, ok := unquote(b[eq+2:])
			if !ok {
				return nil, "RFC 5424: a value of structured data without an end"
			}
			add(name, value)
			b, alone = rest, false
		}
		if b[0] != ']' {
			return nil, "RFC 5424: an element of structured data without an end"
		}
		if b = b[1:]; alone {
			add(id, "true")
		}
		if len(out) > most {
			return nil, "more than " + strconv.Itoa(most) + " attributes (ingest.maxAttributes)"
		}
	}
	for _, l := range out {
		if !utf8.ValidString(l.Name) {
			return nil, "RFC 5424: a name in structured data is not UTF-8"
		}
	}
	return out.Normalize(), ""
}

// unquote reads a value to its closing quote; \", \\ and \] stand for what is behind the backslash.
func unquote(b []byte) (value string, rest []byte, ok bool) {
	var out []byte
	from := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if out == nil {
				return string(b[:i]), b[i+1:], len(b) > i+1
			}
			return string(append(out, b[from:i]...)), b[i+1:], len(b) > i+1
		case '\\':
			if i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\' || b[i+1] == ']') {
				out = append(out, b[from:i]...)
				from = i + 1
				if out == nil {
					out = []byte{}
				}
				i++
			}
		}
	}
	return "", nil, false
}
