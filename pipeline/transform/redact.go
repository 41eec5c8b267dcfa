package transform

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"kemi"
)

// span is a part of a text.
type span struct {
	from, to int
	name     string // of the detector
}

// detector finds what is to be unreadable, from left to right.
type detector struct {
	name string
	find func(s string, found func(from, to int))
}

var detectors = []detector{
	{"rrn", func(s string, found func(from, to int)) {
		numbers(s, 13, 14, func(n number) bool { return n.rrn(true) }, found)
	}},
	{"rrn-any", func(s string, found func(from, to int)) {
		numbers(s, 13, 14, func(n number) bool { return n.rrn(false) }, found)
	}},
	{"card", func(s string, found func(from, to int)) { numbers(s, 13, 19, number.card, found) }},
	{"phone", phones},
	{"email", emails},
	{"token", tokens},
}

type redact struct {
	find   []detector
	fields map[string]bool
	key    []byte // of hash; nil: mask
	keep   int
}

func (c *Redact) compile(keys bool) (action, error) {
	r := redact{keep: c.Keep}
	if len(c.Detectors)+len(c.Patterns) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "must name detectors or patterns")
	}
	for _, name := range c.Detectors {
		i := slices.IndexFunc(detectors, func(d detector) bool { return d.name == name })
		if i < 0 {
			return nil, kemi.Errorf(kemi.ErrInvalid, "detectors: %q: must be rrn, rrn-any, card, phone, email or token", name)
		}
		r.find = append(r.find, detectors[i])
	}
	names := make([]string, 0, len(c.Patterns))
	for name := range c.Patterns {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		re, err := pattern(c.Patterns[name])
		if err != nil {
			return nil, fmt.Errorf("patterns: %s: %w", name, err)
		}
		if re.MatchString("") {
			return nil, kemi.Errorf(kemi.ErrInvalid, "patterns: %s: %q: matches what is empty", name, c.Patterns[name])
		}
		r.find = append(r.find, detector{name, func(s string, found func(from, to int)) { groups(re, s, found) }})
	}
	for _, f := range c.Fields {
		if r.fields == nil {
			r.fields = map[string]bool{}
		}
		r.fields[f] = true
	}
	if c.Keep < 0 || c.Keep > 8 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keep: %d: must be 0 to 8", c.Keep)
	}
	switch c.With {
	case "", "mask":
		if c.KeyFile != "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "keyFile: is for hash only")
		}
	case "hash":
		if c.KeyFile == "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "keyFile: is missing; without a key who knows a hash can try all numbers that there are")
		}
		if r.key = []byte{0}; keys {
			var err error
			if r.key, err = keyOf(c.KeyFile); err != nil {
				return nil, err
			}
		}
	default:
		return nil, kemi.Errorf(kemi.ErrInvalid, "with: %q: must be mask or hash", c.With)
	}
	return r, nil
}

func keyOf(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keyFile: %w", err)
	}
	if key := strings.TrimSpace(string(b)); len(key) >= 16 {
		return []byte(key), nil
	}
	return nil, kemi.Errorf(kemi.ErrInvalid, "keyFile: %s: must hold at least 16 bytes", name)
}

func (c redact) apply(_ *Transform, r *kemi.LogRecord) (problem, drop string) {
	if c.fields == nil || c.fields[fieldBody] {
		r.Body = c.text(r.Body)
	}
	r.Attrs, r.Stream = c.labels(r.Attrs), c.labels(r.Stream)
	return "", ""
}

func (c redact) labels(ls kemi.Labels) kemi.Labels {
	copied := false
	for i, l := range ls {
		if c.fields != nil && !c.fields[l.Name] {
			continue
		}
		if v := c.text(l.Value); v != l.Value {
			if !copied {
				ls, copied = slices.Clone(ls), true
			}
			ls[i].Value = v
		}
	}
	return ls
}

// text is s with what the detectors find made unreadable.
func (c redact) text(s string) string {
	var spans []span
	for _, d := range c.find {
		d.find(s, func(from, to int) { spans = append(spans, span{from, to, d.name}) })
	}
	if len(spans) == 0 {
		return s
	}
	slices.SortFunc(spans, func(a, b span) int {
		if a.from != b.from {
			return a.from - b.from
		}
		return b.to - a.to
	})
	var out strings.Builder
	at := 0
	for i := 0; i < len(spans); {
		// Those that overlap are one.
		one := spans[i]
		for i++; i < len(spans) && spans[i].from < one.to; i++ {
			one.to = max(one.to, spans[i].to)
		}
		out.WriteString(s[at:one.from])
		c.hide(&out, s[one.from:one.to], one.name)
		at = one.to
	}
	out.WriteString(s[at:])
	return out.String()
}

func (c redact) hide(out *strings.Builder, s, name string) {
	if c.key != nil {
		h := hmac.New(sha256.New, c.key)
		h.Write([]byte(s))
		fmt.Fprintf(out, "<%s:%s>", name, hex.EncodeToString(h.Sum(nil)[:8]))
		return
	}
	left := 0 // letters and digits
	for _, r := range s {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			left++
		}
	}
	for left -= c.keep; s != ""; {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case (unicode.IsLetter(r) || unicode.IsDigit(r)) && left > 0:
			out.WriteByte('*')
			left--
		case r == utf8.RuneError && n == 1: // no character at all
			out.WriteByte('*')
		default:
			out.WriteString(s[:n])
		}
		s = s[n:]
	}
}

// groups finds what a pattern's first group matches, or all of it.
func groups(re *regexp.Regexp, s string, found func(from, to int)) {
	for _, at := range re.FindAllStringSubmatchIndex(s, -1) {
		from, to := at[0], at[1]
		if len(at) > 2 && at[2] >= 0 {
			from, to = at[2], at[3]
		}
		if to > from {
			found(from, to)
		}
	}
}

// number is the digits of something that is written with separators, and where these are.
type number struct {
	digits []byte // 0 to 9
	gaps   uint32 // bit i: something stands before digit i
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// numbers finds numbers of min to max digits, which may have single spaces and hyphens between them, for which ok holds. Digits stand neither before nor behind them.
func numbers(s string, least, most int, ok func(number) bool, found func(from, to int)) {
	var digits [24]byte
	for i := 0; i < len(s); {
		if !digit(s[i]) {
			i++
			continue
		}
		from := i
		n := number{digits: digits[:0]}
		to := from
		var ends [len(digits)]struct{ count, at int } // where each count of digits that is enough ends
		enough := 0
		for i < len(s) && len(n.digits) < len(digits) {
			c := s[i]
			if digit(c) {
				n.digits = append(n.digits, c-'0')
				i++
				to = i
				if k := len(n.digits); k >= least && k <= most && (i == len(s) || !digit(s[i])) {
					ends[enough].count, ends[enough].at = k, to
					enough++
				}
				continue
			}
			if (c == '-' || c == ' ') && i+1 < len(s) && digit(s[i+1]) {
				n.gaps |= 1 << len(n.digits)
				i++
				continue
			}
			break
		}
		hit := false
		for k := enough - 1; k >= 0 && !hit; k-- { // the longest first
			part := number{digits: n.digits[:ends[k].count], gaps: n.gaps & (1<<ends[k].count - 1)}
			if hit = ok(part); hit {
				found(from, ends[k].at)
				i = ends[k].at
			}
		}
		if hit {
			continue
		}
		// What begins behind the first group may be one.
		for i = from; i < len(s) && digit(s[i]); i++ {
		}
	}
}

// rrn tells whether it is a resident registration number, 900101-1234567: a date, a digit for sex, century and nation, and for those given out before October 2020 a checksum.
func (n number) rrn(checksum bool) bool {
	d := n.digits
	if len(d) != 13 || n.gaps&^(1<<6) != 0 || d[6] == 9 {
		return false
	}
	month, day := d[2]*10+d[3], d[4]*10+d[5]
	if month < 1 || month > 12 || day < 1 || day > 31 {
		return false
	}
	if !checksum {
		return true
	}
	sum := 0
	for i, weight := range []int{2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5} {
		sum += int(d[i]) * weight
	}
	check := (11 - sum%11) % 10
	if d[6] >= 5 && d[6] <= 8 { // of foreigners
		check = (13 - sum%11) % 10
	}
	return check == int(d[12])
}

// card tells whether it is the number of a payment card: it begins as one, and Luhn's checksum is right.
func (n number) card() bool {
	d := n.digits
	if len(d) < 13 || len(d) > 19 || d[0] < 2 || d[0] > 6 {
		return false
	}
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i])
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

// phonePattern is tried only where a number may begin: to look for it everywhere takes twenty times as long.
var phonePattern = regexp.MustCompile(`^(?:(?:\+82[- ]?\(?0?\)?|0)1[016789][- .]?\d{3,4}[- .]?\d{4}|(?:\+82[- ]?|0)(?:2|[3-6][1-5]|70|50\d)[- .)]\s?\d{3,4}[- .]\d{4}|\+[1-9]\d{0,2}[- ]\(?\d{1,4}\)?(?:[- ]\d{2,4}){2,4})`)

// maxPhone is how long the number of a phone may be as it is written.
const maxPhone = 32

// phones finds numbers of phones: mobile ones of Korea in any form, others with separators.
func phones(s string, found func(from, to int)) {
	for i := 0; i+8 < len(s); i++ {
		c := s[i]
		if c != '0' && c != '+' || c == '0' && (s[i+1] < '1' || s[i+1] > '7') || i > 0 && (digit(s[i-1]) || s[i-1] == '.') {
			continue
		}
		if m := phonePattern.FindStringIndex(s[i:min(len(s), i+maxPhone)]); m != nil {
			if to := i + m[1]; to == len(s) || !digit(s[to]) {
				found(i, to)
				i = to - 1
			}
		}
	}
}

func mailChar(c byte) bool {
	return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '.' || c == '_' || c == '%' || c == '+' || c == '-' || c >= 0x80
}

// emails finds addresses: what stands around an @.
func emails(s string, found func(from, to int)) {
	for at := 0; ; {
		i := strings.IndexByte(s[at:], '@')
		if i < 0 {
			return
		}
		i += at
		from, to := i, i+1
		for from > at && i-from < 64 && mailChar(s[from-1]) {
			from--
		}
		for to < len(s) && to-i < 255 && mailChar(s[to]) && s[to] != '%' && s[to] != '+' && s[to] != '_' {
			to++
		}
		host := strings.TrimRight(s[i+1:to], ".-")
		if dot := strings.LastIndexByte(host, '.'); from < i && dot > 0 && len(host)-dot > 2 {
			found(from, i+1+len(host))
		}
		at = i + 1
	}
}

var tokenPatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?i)\b(?:bearer|basic)\s+([A-Za-z0-9._~+/=-]{8,})`),
	regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`),
	regexp.MustCompile(`\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|kemi_[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9_-]{20,})`),
	regexp.MustCompile(`(?i)(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key)["']?\s*[:=]\s*["']?([^\s"',;&}]{4,})`),
}

func tokens(s string, found func(from, to int)) {
	for _, re := range tokenPatterns {
		groups(re, s, found)
	}
}
