package pattern

import "kemi"

// A stamp is a point in time that a line holds as text. It is coded as its distance from the record's own time, in units of its last digit: mostly 0,
// or the same for all lines of a source.
//
// A layout is three bytes: how date and time are written, what stands before the fraction of a second and how many digits it has, and what ends it.
type layout struct {
	form form
	frac byte // '.', ',' or ':' before the fraction; 0 if there is none
	n    byte // digits of the fraction
	zulu bool // Z behind it
}

type form byte

const (
	formISO        form = iota // 2006-01-02T15:04:05
	formSQL                    // 2006-01-02 15:04:05
	formShortSlash             // 06/01/02 15:04:05
	formSlash                  // 2006/01/02 15:04:05
	formSyslog                 // Jan  2 15:04:05
	formSyslogZero             // Jan 02 15:04:05, below the tenth
	formANSI                   // Jan  2 15:04:05 2006
	formPacked                 // 060102 150405
	formCommon                 // 02/Jan/2006:15:04:05
	formDashed                 // 20060102-15:04:05
	formMonthDay               // 01-02 15:04:05
	formDotted                 // 2006-01-02-15.04.05
	formDate                   // 2006.01.02
	formUnix                   // seconds, ten digits
	formUnixMillis             // thirteen digits
	formClock                  // 15:04:05
	forms
)

const months = "JanFebMarAprMayJunJulAugSepOctNovDec"

// nearUnix is how far from its record's time a number may be to be taken for a Unix time, in seconds.
const nearUnix = 2 * 86400

var pow10 = [...]int64{1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// unit is how many nanoseconds the last digit stands for.
func (l layout) unit() int64 {
	switch l.form {
	case formDate:
		return 86400e9
	case formUnixMillis:
		return 1e6
	}
	return pow10[9-l.n]
}

// put writes the layout as it stands in a template, parse reads that.
func (l layout) put(b []byte) []byte {
	e := byte('-')
	if l.zulu {
		e = 'Z'
	}
	f := l.frac
	if f == 0 {
		f = '-'
	}
	return append(b, markStamp, 'a'+byte(l.form), f, '0'+l.n, e)
}

// stampMark is how long what put writes is.
const stampMark = 5

func parseLayout(s string) (l layout, ok bool) {
	if len(s) < stampMark || s[1] < 'a' || s[1] >= 'a'+byte(forms) || s[3] < '0' || s[3] > '9' {
		return l, false
	}
	l = layout{form: form(s[1] - 'a'), n: s[3] - '0', zulu: s[4] == 'Z'}
	if s[2] != '-' {
		l.frac = s[2]
	}
	return l, true
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// findStamp finds the stamp that begins at line[i], which begins a word, and tells its layout, its end and its value: the distance from at in units.
func findStamp(line string, i int, at kemi.Nanos) (l layout, end int, value int64, ok bool) {
	p := stampParser{s: line, i: i}
	if !p.parse(at) {
		return l, 0, 0, false
	}
	if p.i < len(line) && charKind[line[p.i]] != 0 {
		return l, 0, 0, false
	}
	u := p.l.unit()
	ref := floorDiv(int64(at), u)
	switch p.l.form {
	case formUnix:
		value = p.unix - ref
	case formUnixMillis:
		value = p.unix - ref
	case formDate:
		d, ok := days(p.year, p.month, p.day)
		if !ok {
			return l, 0, 0, false
		}
		value = d - ref
	case formClock:
		d := floorDiv(int64(at), 86400e9)
		value = (d*86400+p.seconds())*pow10[p.l.n] + p.fraction - ref
		switch half := 43200 * pow10[p.l.n]; {
		case value > half:
			value -= 2 * half
		case value < -half:
			value += 2 * half
		}
	default:
		if p.year == 0 {
			p.year, _, _ = civil(floorDiv(int64(at), 86400e9))
		}
		d, ok := days(p.year, p.month, p.day)
		if !ok {
			return l, 0, 0, false
		}
		value = (d*86400+p.seconds())*pow10[p.l.n] + p.fraction - ref
	}
	return p.l, p.i, value, true
}

type stampParser struct {
	s                    string
	i                    int
	l                    layout
	year, month, day     int
	hour, minute, second int
	fraction, unix       int64
}

func (p *stampParser) seconds() int64 { return int64(p.hour*3600 + p.minute*60 + p.second) }

// two reads two digits.
func (p *stampParser) two(to *int) bool {
	if p.i+2 > len(p.s) {
		return false
	}
	a, b := p.s[p.i]-'0', p.s[p.i+1]-'0'
	if a > 9 || b > 9 {
		return false
	}
	*to = int(a)*10 + int(b)
	p.i += 2
	return true
}

func (p *stampParser) four(to *int) bool {
	var a, b int
	if !p.two(&a) || !p.two(&b) {
		return false
	}
	*to = a*100 + b
	return true
}

func (p *stampParser) byte(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *stampParser) monthName() bool {
	if p.i+3 > len(p.s) {
		return false
	}
	for m := 0; m < 12; m++ {
		if months[3*m:3*m+3] == p.s[p.i:p.i+3] {
			p.month = m + 1
			p.i += 3
			return true
		}
	}
	return false
}

// clock reads 15:04:05, with other separators if they are given; sep 0 is none.
func (p *stampParser) clock(sep byte) bool {
	ok := p.two(&p.hour) && (sep == 0 || p.byte(sep)) && p.two(&p.minute) && (sep == 0 || p.byte(sep)) && p.two(&p.second)
	return ok && p.hour < 24 && p.minute < 60 && p.second < 60
}

// tail reads the fraction of a second, if there is one, and Z.
func (p *stampParser) tail(seps string) {
	if p.i+1 < len(p.s) {
		c := p.s[p.i]
		for k := range len(seps) {
			if c != seps[k] {
				continue
			}
			j, n := p.i+1, int64(0)
			for ; j < len(p.s) && j-p.i <= 9 && p.s[j]-'0' <= 9; j++ {
				n = n*10 + int64(p.s[j]-'0')
			}
			digits := j - p.i - 1
			if digits > 0 && (j == len(p.s) || charKind[p.s[j]] == 0 || p.s[j] == 'Z') && (c != ':' || digits == 3) {
				p.l.frac, p.l.n, p.fraction, p.i = c, byte(digits), n, j
			}
			break
		}
	}
	if p.i < len(p.s) && p.s[p.i] == 'Z' {
		p.l.zulu = true
		p.i++
	}
}

func (p *stampParser) parse(at kemi.Nanos) bool {
	s, i := p.s[p.i:], p.i
	if len(s) < 8 {
		return false
	}
	if s[0] > '9' {
		return p.parseNamed()
	}
	switch {
	case s[2] == ':':
		p.l.form = formClock
		if !p.clock(':') {
			return false
		}
		p.tail(".,")
		return true
	case s[2] == '/':
		if len(s) >= 20 && s[6] == '/' {
			p.l.form = formCommon
			return p.two(&p.day) && p.byte('/') && p.monthName() && p.byte('/') && p.four(&p.year) && p.byte(':') && p.clock(':')
		}
		p.l.form = formShortSlash
		if !(p.two(&p.year) && p.byte('/') && p.two(&p.month) && p.byte('/') && p.two(&p.day) && p.byte(' ') && p.clock(':')) {
			return false
		}
		p.year += 2000
		p.tail(".,")
		return true
	case s[2] == '-':
		p.l.form = formMonthDay
		if !(p.two(&p.month) && p.byte('-') && p.two(&p.day) && p.byte(' ') && p.clock(':')) {
			return false
		}
		p.tail(".,")
		return true
	case s[4] == '-':
		if len(s) < 19 || !(p.four(&p.year) && p.byte('-') && p.two(&p.month) && p.byte('-') && p.two(&p.day)) || p.year == 0 {
			return false
		}
		sep := byte(':')
		switch s[10] {
		case 'T':
			p.l.form = formISO
		case ' ':
			p.l.form = formSQL
		case '-':
			p.l.form, sep = formDotted, '.'
		default:
			return false
		}
		p.i++
		if !p.clock(sep) {
			return false
		}
		p.tail(".,")
		return true
	case s[4] == '/':
		p.l.form = formSlash
		if !(p.four(&p.year) && p.byte('/') && p.two(&p.month) && p.byte('/') && p.two(&p.day) && p.byte(' ') && p.clock(':')) || p.year == 0 {
			return false
		}
		p.tail(".,")
		return true
	case s[4] == '.':
		p.l.form = formDate
		return len(s) >= 10 && p.four(&p.year) && p.byte('.') && p.two(&p.month) && p.byte('.') && p.two(&p.day) && p.year > 0 &&
			!(p.i+1 < len(p.s) && p.s[p.i] == '.' && p.s[p.i+1]-'0' <= 9)
	case s[6] == ' ':
		p.l.form = formPacked
		if !(p.two(&p.year) && p.two(&p.month) && p.two(&p.day) && p.byte(' ') && p.clock(0)) {
			return false
		}
		p.year += 2000
		return true
	case len(s) >= 17 && s[8] == '-' && s[11] == ':':
		p.l.form = formDashed
		if !(p.four(&p.year) && p.two(&p.month) && p.two(&p.day) && p.byte('-') && p.clock(':')) || p.year == 0 {
			return false
		}
		p.tail(".,:")
		return true
	}
	n, j := int64(0), 0
	for ; j < len(s) && j < 14 && s[j]-'0' <= 9; j++ {
		n = n*10 + int64(s[j]-'0')
	}
	if s[0] == '0' {
		return false
	}
	now := floorDiv(int64(at), 1e9)
	switch {
	case j == 10 && abs(n-now) < nearUnix:
		p.l.form = formUnix
	case j == 13 && abs(n/1000-now) < nearUnix:
		p.l.form = formUnixMillis
	default:
		return false
	}
	p.unix, p.i = n, i+j
	return true
}

// parseNamed reads what begins with the name of a month.
func (p *stampParser) parseNamed() bool {
	if len(p.s)-p.i < 15 || p.s[p.i+3] != ' ' || !p.monthName() {
		return false
	}
	p.i++
	p.l.form = formSyslog
	if p.s[p.i] == ' ' {
		p.i++
		p.day = int(p.s[p.i] - '0')
		if p.day < 1 || p.day > 9 {
			return false
		}
		p.i++
	} else {
		if !p.two(&p.day) {
			return false
		}
		if p.day < 10 {
			p.l.form = formSyslogZero
		}
	}
	if !p.byte(' ') || !p.clock(':') {
		return false
	}
	if p.l.form == formSyslog && p.i+5 <= len(p.s) && p.s[p.i] == ' ' && (p.i+5 == len(p.s) || charKind[p.s[p.i+5]] == 0) {
		was := p.i
		p.i++
		if p.four(&p.year) && p.year > 0 {
			p.l.form = formANSI
			return true
		}
		p.i, p.year = was, 0
	}
	p.tail(".,")
	return true
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

// days are the days from 1970-01-01 to a date; false if there is no such date. After Hinnant, "chrono-compatible low-level date algorithms".
func days(y, m, d int) (int64, bool) {
	if m < 1 || m > 12 || d < 1 || d > monthDays(y, m) {
		return 0, false
	}
	if m <= 2 {
		y--
	}
	era := floorDiv(int64(y), 400)
	yoe := int64(y) - era*400
	mp := int64((m + 9) % 12)
	doy := (153*mp+2)/5 + int64(d) - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return era*146097 + doe - 719468, true
}

func monthDays(y, m int) int {
	switch m {
	case 2:
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// civil is the date of a day.
func civil(day int64) (y, m, d int) {
	z := day + 719468
	era := floorDiv(z, 146097)
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = int(doy - (153*mp+2)/5 + 1)
	if m = int(mp + 3); m > 12 {
		m -= 12
	}
	y = int(yoe + era*400)
	if m <= 2 {
		y++
	}
	return y, m, d
}

// append writes the stamp of a record of the time at whose distance is value.
func (l layout) append(b []byte, at kemi.Nanos, value int64) []byte {
	t := floorDiv(int64(at), l.unit()) + value
	switch l.form {
	case formUnix, formUnixMillis:
		return appendInt(b, t)
	case formDate:
		y, m, d := civil(t)
		return pad2(append(pad2(append(pad4(b, y), '.'), m), '.'), d)
	}
	second := floorDiv(t, pow10[l.n])
	fraction := t - second*pow10[l.n]
	day := floorDiv(second, 86400)
	sod := int(second - day*86400)
	hh, mm, ss := sod/3600, sod/60%60, sod%60
	sep := byte(':')
	if l.form != formClock {
		y, m, d := civil(day)
		switch l.form {
		case formISO, formSQL, formDotted:
			b = pad2(append(pad2(append(pad4(b, y), '-'), m), '-'), d)
			b = append(b, [...]byte{formISO: 'T', formSQL: ' ', formDotted: '-'}[l.form])
			if l.form == formDotted {
				sep = '.'
			}
		case formShortSlash:
			b = append(pad2(append(pad2(append(pad2(b, y%100), '/'), m), '/'), d), ' ')
		case formSlash:
			b = append(pad2(append(pad2(append(pad4(b, y), '/'), m), '/'), d), ' ')
		case formSyslog, formSyslogZero, formANSI:
			b = append(append(b, months[3*m-3:3*m]...), ' ')
			if l.form != formSyslogZero && d < 10 {
				b = append(b, ' ', '0'+byte(d))
			} else {
				b = pad2(b, d)
			}
			b = append(b, ' ')
		case formPacked:
			b = append(pad2(pad2(pad2(b, y%100), m), d), ' ')
			sep = 0
		case formCommon:
			b = append(append(append(pad2(b, d), '/'), months[3*m-3:3*m]...), '/')
			b = append(pad4(b, y), ':')
		case formDashed:
			b = append(pad2(pad2(pad4(b, y), m), d), '-')
		case formMonthDay:
			b = append(pad2(append(pad2(b, m), '-'), d), ' ')
		}
		if l.form == formANSI {
			b = pad2(append(pad2(append(pad2(b, hh), ':'), mm), ':'), ss)
			return pad4(append(b, ' '), y)
		}
	}
	b = pad2(b, hh)
	if sep != 0 {
		b = append(b, sep)
	}
	b = pad2(b, mm)
	if sep != 0 {
		b = append(b, sep)
	}
	b = pad2(b, ss)
	if l.n > 0 {
		b = append(b, l.frac)
		for k := int(l.n) - 1; k >= 0; k-- {
			b = append(b, '0'+byte(fraction/pow10[k]%10))
		}
	}
	if l.zulu {
		b = append(b, 'Z')
	}
	return b
}

func pad2(b []byte, n int) []byte { return append(b, '0'+byte(n/10%10), '0'+byte(n%10)) }
func pad4(b []byte, n int) []byte { return pad2(pad2(b, n/100), n%100) }
