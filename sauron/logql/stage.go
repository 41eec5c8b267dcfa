package logql

import (
	"encoding/json"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// entry is a line on its way through stages.
type entry struct {
	at     kemi.Nanos
	line   string
	labels []kemi.Label // in no order
	stream int          // how many of labels the record had itself
	failed string       // __error__
	detail string
}

func (e *entry) get(name string) (string, bool) {
	switch name {
	case "__error__":
		return e.failed, e.failed != ""
	case "__error_details__":
		return e.detail, e.detail != ""
	}
	for i := range e.labels {
		if e.labels[i].Name == name {
			return e.labels[i].Value, true
		}
	}
	return "", false
}

func (e *entry) set(name, value string) {
	for i := range e.labels {
		if e.labels[i].Name == name {
			e.labels[i].Value = value
			return
		}
	}
	e.labels = append(e.labels, kemi.Label{Name: name, Value: value})
}

func (e *entry) remove(name string) {
	if name == "__error__" || name == "__error_details__" {
		e.failed, e.detail = "", ""
		return
	}
	for i := range e.labels {
		if e.labels[i].Name == name {
			e.labels = append(e.labels[:i], e.labels[i+1:]...)
			if i < e.stream {
				e.stream--
			}
			return
		}
	}
}

// extract sets a label that a parser has found: one that the record has itself keeps its value.
func (e *entry) extract(name, value string) {
	if name = sanitize(name); name == "" {
		return
	}
	for i := range e.labels[:e.stream] {
		if e.labels[i].Name == name {
			name += "_extracted"
			break
		}
	}
	for i := e.stream; i < len(e.labels); i++ {
		if e.labels[i].Name == name { // the first counts
			return
		}
	}
	e.labels = append(e.labels, kemi.Label{Name: name, Value: value})
}

func (e *entry) fail(kind string, err error) {
	e.failed = kind
	if err != nil {
		e.detail = err.Error()
	}
}

// sanitize makes a label's name of any text.
func sanitize(s string) string {
	ok := s != ""
	for i := range len(s) {
		c := s[i]
		ok = ok && (c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9')
	}
	if ok {
		return s
	}
	b := []byte(strings.TrimSpace(s))
	if len(b) == 0 {
		return ""
	}
	for i, c := range b {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			b[i] = '_'
		}
	}
	if b[0] >= '0' && b[0] <= '9' {
		return "_" + string(b)
	}
	return string(b)
}

// Stage is a step that a line goes through; false ends its way.
type Stage interface{ apply(e *entry) bool }

// lineFilter is |= "a" or "b".
type lineFilter struct {
	op   string
	alts []lineMatch
}

type lineMatch struct {
	text    string
	re      *regexp.Regexp
	pattern *linePattern
	ip      *ipMatch
}

func (f *lineFilter) apply(e *entry) bool {
	any := false
	for i := range f.alts {
		if any = f.alts[i].in(f.op, e.line); any {
			break
		}
	}
	return any != (f.op[0] == '!')
}

func (m *lineMatch) in(op, line string) bool {
	switch {
	case m.ip != nil:
		return m.ip.inLine(line)
	case m.re != nil:
		return m.re.MatchString(line)
	case m.pattern != nil:
		return m.pattern.matches(line)
	}
	return strings.Contains(line, m.text)
}

// ipMatch is ip("…"): an address, a range a-b or a network.
type ipMatch struct {
	from, to netip.Addr
	prefix   netip.Prefix
}

func parseIP(s string) (*ipMatch, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return &ipMatch{prefix: p.Masked()}, nil
	}
	if a, b, ok := strings.Cut(s, "-"); ok {
		from, err := netip.ParseAddr(strings.TrimSpace(a))
		to, err2 := netip.ParseAddr(strings.TrimSpace(b))
		if err == nil && err2 == nil {
			return &ipMatch{from: from, to: to}, nil
		}
	} else if a, err := netip.ParseAddr(s); err == nil {
		return &ipMatch{from: a, to: a}, nil
	}
	return nil, kemi.Errorf(kemi.ErrInvalid, "ip(%q): must be an address, a range of two with a hyphen, or a network such as 10.0.0.0/8", s)
}

func (m *ipMatch) has(a netip.Addr) bool {
	if m.prefix.IsValid() {
		return m.prefix.Contains(a)
	}
	return a.BitLen() == m.from.BitLen() && a.Compare(m.from) >= 0 && a.Compare(m.to) <= 0
}

func (m *ipMatch) inLine(s string) bool {
	part := func(c byte) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == '.' || c == ':'
	}
	for i := 0; i < len(s); {
		if !part(s[i]) {
			i++
			continue
		}
		from := i
		for i < len(s) && part(s[i]) {
			i++
		}
		word := strings.TrimRight(s[from:i], ".:")
		if a, err := netip.ParseAddr(word); err == nil && m.has(a) {
			return true
		}
		if host, _, ok := strings.Cut(word, ":"); ok {
			if a, err := netip.ParseAddr(host); err == nil && m.has(a) {
				return true
			}
		}
	}
	return false
}

// linePattern is a pattern such as <ip> - <_> [<time>]: texts with captures between.
type linePattern struct {
	texts []string // one more than names
	names []string // "_" or "": nothing is kept
}

func parsePattern(s string, named bool) (*linePattern, error) {
	p := &linePattern{}
	text := ""
	for s != "" {
		if s[0] == '<' {
			if end := strings.IndexByte(s, '>'); end > 1 && isName(s[1:end]) {
				if len(p.names) > 0 && text == "" {
					return nil, kemi.Errorf(kemi.ErrInvalid, "pattern: two captures beside each other: put text between")
				}
				p.texts, p.names = append(p.texts, text), append(p.names, s[1:end])
				text, s = "", s[end+1:]
				continue
			}
		}
		text += s[:1]
		s = s[1:]
	}
	p.texts = append(p.texts, text)
	if named {
		some := false
		for _, n := range p.names {
			some = some || n != "_"
		}
		if !some {
			return nil, kemi.Errorf(kemi.ErrInvalid, "pattern: at least one capture with a name is needed, such as <ip>")
		}
	}
	return p, nil
}

func isName(s string) bool {
	for i := range len(s) {
		if !isIdent(s[i], i == 0) {
			return false
		}
	}
	return s != ""
}

// capture calls f with what each name captures; false if the line does not begin as the pattern does.
func (p *linePattern) capture(line string, f func(name, value string)) bool {
	if !strings.HasPrefix(line, p.texts[0]) {
		return false
	}
	line = line[len(p.texts[0]):]
	for i, name := range p.names {
		next := p.texts[i+1]
		end := len(line)
		if next != "" {
			if end = strings.Index(line, next); end < 0 {
				if name != "_" {
					f(name, line)
				}
				return true
			}
		}
		if name != "_" {
			f(name, line[:end])
		}
		line = line[min(len(line), end+len(next)):]
	}
	return true
}

// matches tells whether the whole line is as the pattern says.
func (p *linePattern) matches(line string) bool {
	if len(p.names) == 0 {
		return line == p.texts[0]
	}
	last := p.texts[len(p.texts)-1]
	if !strings.HasPrefix(line, p.texts[0]) || len(line) < len(p.texts[0])+len(last) || !strings.HasSuffix(line, last) {
		return false
	}
	line = line[len(p.texts[0]) : len(line)-len(last)]
	for _, t := range p.texts[1 : len(p.texts)-1] {
		i := strings.Index(line, t)
		if i < 0 {
			return false
		}
		line = line[i+len(t):]
	}
	return true
}

type (
	// jsonStage is | json or | json a="b.c[0]".
	jsonStage struct{ paths []extraction }
	// logfmtStage is | logfmt or | logfmt a="b".
	logfmtStage struct {
		strict, keepEmpty bool
		paths             []extraction
	}
	regexpStage  struct{ re *regexp.Regexp }
	patternStage struct{ p *linePattern }
	unpackStage  struct{}
	// decolorizeStage takes ANSI colours away.
	decolorizeStage struct{}
	// dropStage drops labels, keepStage all others; with a matcher only where it fits.
	dropStage struct {
		keep bool
		of   []labelChoice
	}
	unwrapStage struct{ label, convert string }
)

// extraction is name="path".
type extraction struct {
	name string
	path []string
}

type labelChoice struct {
	name string
	m    *Matcher
}

func (*unwrapStage) apply(*entry) bool { return true }

func (s *jsonStage) apply(e *entry) bool {
	d := json.NewDecoder(strings.NewReader(e.line))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		e.fail("JSONParserErr", err)
		return true
	}
	if len(s.paths) > 0 {
		for _, x := range s.paths {
			if text, ok := jsonText(jsonAt(v, x.path)); ok {
				e.extract(x.name, text)
			} else {
				e.extract(x.name, "")
			}
		}
		return true
	}
	m, ok := v.(map[string]any)
	if !ok {
		e.fail("JSONParserErr", errNoObject)
		return true
	}
	flatten(e, "", m, 0)
	return true
}

var errNoObject = kemi.Errorf(kemi.ErrInvalid, "the line is no JSON object")

func flatten(e *entry, prefix string, m map[string]any, depth int) {
	if depth > 32 {
		return
	}
	for _, k := range sortedKeys(m) {
		name := k
		if prefix != "" {
			name = prefix + "_" + k
		}
		switch v := m[k].(type) {
		case map[string]any:
			flatten(e, name, v, depth+1)
		case []any, nil: // left out, as Loki does
		default:
			text, _ := jsonText(v)
			e.extract(name, text)
		}
	}
}

func jsonText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	b, err := json.Marshal(v)
	return string(b), err == nil
}

func jsonAt(v any, path []string) any {
	for _, k := range path {
		switch x := v.(type) {
		case map[string]any:
			v = x[k]
		case []any:
			i, err := strconv.Atoi(k)
			if err != nil || i < 0 || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// parsePath reads a.b[0]["c d"].
func parsePath(s string) ([]string, error) {
	var out []string
	for rest := s; rest != ""; {
		switch {
		case rest[0] == '.':
			rest = rest[1:]
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, kemi.Errorf(kemi.ErrInvalid, "json: path %q: a ] is missing", s)
			}
			out = append(out, strings.Trim(rest[1:end], `"'`))
			rest = rest[end+1:]
		default:
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			out = append(out, rest[:end])
			rest = rest[end:]
		}
	}
	if len(out) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "json: an empty path")
	}
	return out, nil
}

func (s *logfmtStage) apply(e *entry) bool {
	found := map[string]string{}
	err := eachLogfmt(e.line, s.strict, func(k, v string) {
		if len(s.paths) > 0 {
			if _, ok := found[k]; !ok {
				found[k] = v
			}
			return
		}
		if v != "" || s.keepEmpty {
			e.extract(k, v)
		}
	})
	if err != nil {
		e.fail("LogfmtParserErr", err)
	}
	for _, x := range s.paths {
		e.extract(x.name, found[x.path[0]])
	}
	return true
}

// eachLogfmt calls f with each key=value of a line.
func eachLogfmt(s string, strict bool, f func(k, v string)) error {
	for i := 0; i < len(s); {
		if s[i] <= ' ' {
			i++
			continue
		}
		from := i
		for i < len(s) && s[i] > ' ' && s[i] != '=' && s[i] != '"' {
			i++
		}
		key := s[from:i]
		if i < len(s) && s[i] == '"' || key == "" {
			if strict {
				return kemi.Errorf(kemi.ErrInvalid, "logfmt: unexpected %q at %d", s[i], i)
			}
			for i < len(s) && s[i] > ' ' {
				i++
			}
			continue
		}
		if i == len(s) || s[i] != '=' {
			f(key, "")
			continue
		}
		i++
		if i < len(s) && s[i] == '"' {
			from = i
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if i >= len(s) {
				if strict {
					return kemi.Errorf(kemi.ErrInvalid, "logfmt: the string at %d has no end", from)
				}
				f(key, s[from+1:])
				return nil
			}
			i++
			v, err := strconv.Unquote(s[from:i])
			if err != nil {
				v = s[from+1 : i-1]
			}
			f(key, v)
			continue
		}
		from = i
		for i < len(s) && s[i] > ' ' {
			i++
		}
		f(key, s[from:i])
	}
	return nil
}

func (s *regexpStage) apply(e *entry) bool {
	m := s.re.FindStringSubmatch(e.line)
	for i, name := range s.re.SubexpNames() {
		if name != "" && i < len(m) {
			e.extract(name, m[i])
		}
	}
	return true
}

func (s *patternStage) apply(e *entry) bool {
	s.p.capture(e.line, e.extract)
	return true
}

func (*unpackStage) apply(e *entry) bool {
	var m map[string]any
	if err := json.Unmarshal([]byte(e.line), &m); err != nil {
		e.fail("JSONParserErr", err)
		return true
	}
	for _, k := range sortedKeys(m) {
		text, ok := m[k].(string)
		switch {
		case !ok:
		case k == "_entry":
			e.line = text
		default:
			e.extract(k, text)
		}
	}
	return true
}

var ansi = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

func (*decolorizeStage) apply(e *entry) bool {
	e.line = ansi.ReplaceAllString(e.line, "")
	return true
}

func (s *dropStage) apply(e *entry) bool {
	chosen := func(l kemi.Label) bool {
		for _, c := range s.of {
			if c.name == l.Name && (c.m == nil || c.m.Matches(l.Value)) {
				return true
			}
		}
		return false
	}
	kept := e.labels[:0]
	stream := e.stream
	for i, l := range e.labels {
		if chosen(l) == s.keep {
			kept = append(kept, l)
		} else if i < e.stream {
			stream--
		}
	}
	e.labels, e.stream = kept, stream
	if !s.keep {
		for _, c := range s.of {
			if v, ok := e.get(c.name); ok && strings.HasPrefix(c.name, "__error") && (c.m == nil || c.m.Matches(v)) {
				e.remove(c.name)
			}
		}
	}
	return true
}

// labelFilter is a condition on labels: one, or several joined.
type labelFilter struct {
	op          string // and, or; else a comparison
	left, right *labelFilter
	name        string
	m           *Matcher // of text
	ip          *ipMatch
	number      float64
	kind        byte // n, d (duration), b (bytes); 0: text
	text        string
}

func (f *labelFilter) apply(e *entry) bool {
	switch f.op {
	case "and":
		return f.left.apply(e) && f.right.apply(e)
	case "or":
		return f.left.apply(e) || f.right.apply(e)
	}
	v, ok := e.get(f.name)
	switch {
	case f.m != nil:
		if f.name == "level" && f.m.Type == MatchEqual {
			return strings.EqualFold(v, f.m.Value)
		}
		return f.m.Matches(v)
	case f.ip != nil:
		a, err := netip.ParseAddr(v)
		if err != nil {
			e.fail("LabelFilterErr", err)
			return f.op == "!="
		}
		return f.ip.has(a) == (f.op == "=")
	case !ok:
		return false
	case e.failed != "":
		return true
	}
	n, err := convert(v, f.kind)
	if err != nil {
		e.fail("LabelFilterErr", err)
		return true
	}
	return compareNumbers(f.op, n, f.number)
}

func convert(v string, kind byte) (float64, error) {
	switch kind {
	case 'd':
		if d, err := time.ParseDuration(v); err == nil {
			return float64(d), nil
		}
		if d, ok := parseDuration(v); ok {
			return float64(d), nil
		}
		return 0, kemi.Errorf(kemi.ErrInvalid, "%q is no duration", v)
	case 'b':
		if n, ok := parseBytes(v); ok {
			return n, nil
		}
		return 0, kemi.Errorf(kemi.ErrInvalid, "%q is no size in bytes", v)
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return 0, kemi.Errorf(kemi.ErrInvalid, "%q is no number", v)
	}
	return n, nil
}

var byteUnits = map[string]float64{"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "": 1}

// parseBytes reads 10KB, 1.5 MiB.
func parseBytes(s string) (float64, bool) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.' || s[i] == ',') {
		i++
	}
	n, err := strconv.ParseFloat(strings.ReplaceAll(s[:i], ",", ""), 64)
	u, ok := byteUnits[strings.ToLower(strings.TrimSpace(s[i:]))]
	return n * u, ok && err == nil
}

func compareNumbers(op string, a, b float64) bool {
	switch op {
	case "==", "=":
		return a == b
	case "!=":
		return a != b
	case ">":
		return a > b
	case ">=":
		return a >= b
	case "<":
		return a < b
	case "<=":
		return a <= b
	}
	return false
}

// arithmetic computes a op b; for comparisons a, and whether it holds.
func arithmetic(op string, a, b float64) (float64, bool) {
	switch op {
	case "+":
		return a + b, true
	case "-":
		return a - b, true
	case "*":
		return a * b, true
	case "/":
		return a / b, true
	case "%":
		return math.Mod(a, b), true
	case "^":
		return math.Pow(a, b), true
	}
	return a, compareNumbers(op, a, b)
}
