package logql

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

	"kemi"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

var lineOps = []string{"|=", "|~", "!=", "!~", "|>", "!>"}

// stages reads what follows a selector.
func (p *parser) stages() ([]Stage, error) {
	var out []Stage
	for {
		t := p.peek()
		switch {
		case t.kind == tokOp && slices.Contains(lineOps, t.text) && (p.toks[p.i+1].kind == tokString || p.toks[p.i+1].kind == tokIdent && p.toks[p.i+1].text == "ip"):
			p.next()
			f, err := p.lineFilter(t.text)
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		case p.op("|"):
			s, err := p.stage()
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		default:
			return out, nil
		}
	}
}

func (p *parser) lineFilter(op string) (Stage, error) {
	f := &lineFilter{op: op}
	for {
		var m lineMatch
		if p.word("ip") {
			s, err := p.call()
			if err != nil {
				return nil, err
			}
			if m.ip, err = parseIP(s); err != nil {
				return nil, err
			}
		} else {
			s, err := p.str("a string")
			if err != nil {
				return nil, err
			}
			switch op {
			case "|~", "!~":
				if m.re, err = regexp.Compile(s); err != nil {
					return nil, kemi.Errorf(kemi.ErrInvalid, "regular expression %q: %w", s, err)
				}
			case "|>", "!>":
				if m.pattern, err = parsePattern(s, false); err != nil {
					return nil, err
				}
			}
			m.text = s
		}
		f.alts = append(f.alts, m)
		if t := p.peek(); t.kind != tokIdent || t.text != "or" || p.toks[p.i+1].kind != tokString && p.toks[p.i+1].text != "ip" {
			return f, nil
		}
		p.next()
	}
}

// call reads ("…").
func (p *parser) call() (string, error) {
	if err := p.need("("); err != nil {
		return "", err
	}
	s, err := p.str("a string")
	if err != nil {
		return "", err
	}
	return s, p.need(")")
}

func (p *parser) stage() (Stage, error) {
	t := p.peek()
	if t.kind == tokIdent && !p.comparison(p.i+1) {
		switch t.text {
		case "json":
			p.next()
			xs, err := p.extractions(parsePath)
			return &jsonStage{xs}, err
		case "logfmt":
			p.next()
			s := &logfmtStage{}
			for p.op("-") {
				if !p.op("-") {
					return nil, p.want("--strict or --keep-empty")
				}
				switch {
				case p.word("strict"):
					s.strict = true
				case p.word("keep"):
					if !p.op("-") || !p.word("empty") {
						return nil, p.want("--keep-empty")
					}
					s.keepEmpty = true
				default:
					return nil, p.want("--strict or --keep-empty")
				}
			}
			var err error
			s.paths, err = p.extractions(func(s string) ([]string, error) { return []string{s}, nil })
			return s, err
		case "regexp":
			p.next()
			s, err := p.str("a regular expression with named groups")
			if err != nil {
				return nil, err
			}
			re, err := regexp.Compile(s)
			if err != nil {
				return nil, kemi.Errorf(kemi.ErrInvalid, "regular expression %q: %w", s, err)
			}
			if !slices.ContainsFunc(re.SubexpNames(), func(n string) bool { return n != "" }) {
				return nil, kemi.Errorf(kemi.ErrInvalid, "regexp %q: at least one named group is needed, such as (?P<status>[0-9]+)", s)
			}
			return &regexpStage{re}, nil
		case "pattern":
			p.next()
			s, err := p.str("a pattern such as <ip> <_>")
			if err != nil {
				return nil, err
			}
			pt, err := parsePattern(s, true)
			return &patternStage{pt}, err
		case "unpack":
			p.next()
			return &unpackStage{}, nil
		case "decolorize":
			p.next()
			return &decolorizeStage{}, nil
		case "drop", "keep":
			p.next()
			return p.drop(t.text == "keep")
		case "line_format":
			p.next()
			s, err := p.str("a template")
			if err != nil {
				return nil, err
			}
			return newLineFormat(s)
		case "label_format":
			p.next()
			return p.labelFormat()
		case "unwrap":
			p.next()
			return p.unwrap()
		}
	}
	return p.labelFilters(0)
}

// comparison tells whether token i compares, so that the word before it is the name of a label.
func (p *parser) comparison(i int) bool {
	t := p.toks[i]
	return t.kind == tokOp && slices.Contains([]string{"=", "!=", "=~", "!~", "==", ">", ">=", "<", "<="}, t.text) && !(slices.Contains(lineOps, t.text) && p.toks[i-1].text != "level" && isStageWord(p.toks[i-1].text))
}

func isStageWord(s string) bool {
	return slices.Contains([]string{"json", "logfmt", "unpack", "decolorize"}, s)
}

func (p *parser) extractions(path func(string) ([]string, error)) ([]extraction, error) {
	var out []extraction
	for p.peek().kind == tokIdent && (len(out) == 0 || p.toks[p.i-1].text == ",") {
		name := p.next().text
		x := extraction{name: name, path: []string{name}}
		if p.op("=") {
			s, err := p.str("a path")
			if err != nil {
				return nil, err
			}
			if x.path, err = path(s); err != nil {
				return nil, err
			}
		}
		out = append(out, x)
		if !p.op(",") {
			break
		}
	}
	return out, nil
}

func (p *parser) drop(keep bool) (Stage, error) {
	s := &dropStage{keep: keep}
	for {
		name, err := p.ident("the name of a label")
		if err != nil {
			return nil, err
		}
		c := labelChoice{name: name}
		if p.comparison(p.i) {
			if c.m, err = p.matcher(name); err != nil {
				return nil, err
			}
		}
		s.of = append(s.of, c)
		if !p.op(",") {
			return s, nil
		}
	}
}

// matcher reads ="…" behind the name of a label.
func (p *parser) matcher(name string) (*Matcher, error) {
	m := &Matcher{Name: name}
	switch {
	case p.op("="), p.op("=="):
	case p.op("!="):
		m.Type = MatchNotEqual
	case p.op("=~"):
		m.Type = MatchRegexp
	case p.op("!~"):
		m.Type = MatchNotRegexp
	default:
		return nil, p.want("=, !=, =~ or !~")
	}
	var err error
	if m.Value, err = p.str("a string"); err != nil {
		return nil, err
	}
	if m.Type >= MatchRegexp {
		m.re, err = compile(m.Value)
	}
	return m, err
}

func (p *parser) unwrap() (Stage, error) {
	name, err := p.ident("the name of a label")
	if err != nil {
		return nil, err
	}
	if !p.is("(") {
		return &unwrapStage{label: name}, nil
	}
	if !slices.Contains([]string{"duration", "duration_seconds", "bytes"}, name) {
		return nil, p.want("duration(…), duration_seconds(…) or bytes(…)")
	}
	p.next()
	label, err := p.ident("the name of a label")
	if err != nil {
		return nil, err
	}
	return &unwrapStage{label: label, convert: name}, p.need(")")
}

// labelFilters reads conditions on labels: and and a comma bind closer than or.
func (p *parser) labelFilters(depth int) (*labelFilter, error) {
	if depth > maxDepth {
		return nil, p.want("at most " + strconv.Itoa(maxDepth) + " parentheses within each other")
	}
	left, err := p.labelAnd(depth)
	for err == nil && p.word("or") {
		var right *labelFilter
		right, err = p.labelAnd(depth)
		left = &labelFilter{op: "or", left: left, right: right}
	}
	return left, err
}

func (p *parser) labelAnd(depth int) (*labelFilter, error) {
	left, err := p.labelOne(depth)
	for err == nil {
		if !p.word("and") && !p.op(",") {
			// Conditions may stand beside each other.
			if t := p.peek(); !(t.kind == tokIdent && t.text != "or" && p.comparison(p.i+1)) {
				break
			}
		}
		var right *labelFilter
		right, err = p.labelOne(depth)
		left = &labelFilter{op: "and", left: left, right: right}
	}
	return left, err
}

func (p *parser) labelOne(depth int) (*labelFilter, error) {
	if p.op("(") {
		f, err := p.labelFilters(depth + 1)
		if err != nil {
			return nil, err
		}
		return f, p.need(")")
	}
	name, err := p.ident("a stage such as json or logfmt, or a condition on a label")
	if err != nil {
		return nil, err
	}
	if !p.comparison(p.i) {
		return nil, p.want("a comparison behind " + name)
	}
	op := p.peek().text
	v := p.toks[p.i+1]
	f := &labelFilter{name: name, op: op}
	switch {
	case v.kind == tokString:
		f.m, err = p.matcher(name)
		return f, err
	case v.kind == tokIdent && v.text == "ip":
		p.i += 2
		s, err := p.call()
		if err != nil {
			return nil, err
		}
		if op != "=" && op != "!=" {
			return nil, p.want("= or != before ip(…)")
		}
		f.ip, err = parseIP(s)
		return f, err
	}
	p.next()
	sign := 1.0
	if p.op("-") {
		sign = -1
	}
	v = p.peek()
	if v.kind != tokNumber {
		return nil, p.want("a string, a number, a duration or a size")
	}
	p.next()
	f.text = v.text
	if n, err := strconv.ParseFloat(v.text, 64); err == nil {
		f.number, f.kind = sign*n, 'n'
	} else if d, ok := parseDuration(v.text); ok {
		f.number, f.kind = sign*float64(d), 'd'
	} else if n, ok := parseBytes(v.text); ok {
		f.number, f.kind = sign*n, 'b'
	} else {
		return nil, syntaxError(p.s, v.at, "a number, a duration such as 5m or a size such as 10KB")
	}
	return f, nil
}

func (p *parser) labelFormat() (Stage, error) {
	s := &labelFormat{}
	for {
		name, err := p.ident("the name of a label")
		if err != nil {
			return nil, err
		}
		if err := p.need("="); err != nil {
			return nil, err
		}
		op := labelSet{name: name}
		if p.peek().kind == tokIdent {
			op.from = p.next().text
		} else {
			text, err := p.str("a label or a template")
			if err != nil {
				return nil, err
			}
			if op.t, err = newTemplate(text); err != nil {
				return nil, err
			}
		}
		s.of = append(s.of, op)
		if !p.op(",") {
			return s, nil
		}
	}
}
