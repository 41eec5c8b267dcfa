package logs

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"kemi"
	"kemi/pipeline/store"
)

// Limits of a query's text.
const (
	maxQueryBytes = 64 << 10
	maxQueryDepth = 100
	maxQueryTerms = 4096
)

// Parse reads a query. The empty one, and *, match all. For what it returns, Parse(e.String()) gives the same again.
//
//	error                    a word of the body
//	"connection reset"       words one after another
//	level:error  level:warn  a field; level knows the names of severities
//	user:"김 철수"           a phrase in a field
//	conn*  p?y*              the beginning of a word; any characters, one character
//	/time.*out/  path:/^\/v1/   regular expression (RE2), case counts
//	status:>=500  size:<10   comparison, as numbers if both are; level:>=warn
//	status:[500 TO 599]  {1 TO *]   range, with and without its ends
//	user:*  _exists_:user    the field is there
//	a b   a AND b   a OR b   NOT a   -a   (a OR b) c   status:(500 OR 503)
//
// Between conditions without a word, AND is meant; it binds closer than OR. \ takes the next character as it is. _msg and body are the body.
func Parse(query string) (store.LogExpr, error) {
	e, _, err := ParseWarn(query)
	return e, err
}

// ParseWarn is Parse, and tells what it has ignored.
func ParseWarn(query string) (store.LogExpr, []string, error) {
	if len(query) > maxQueryBytes {
		return nil, nil, kemi.Errorf(kemi.ErrTooLarge, "query: %d bytes, at most %d are taken", len(query), maxQueryBytes)
	}
	p := parser{text: text{s: query}}
	p.space()
	if p.end() {
		return store.LogAnd{}, nil, nil
	}
	e, err := p.or("", 0)
	if err == nil && !p.end() {
		err = p.errorf(p.i, "the end: no '(' is open here")
	}
	if err != nil {
		return nil, nil, err
	}
	return e, p.warnings, nil
}

type parser struct {
	text
	terms int
}

// or reads conditions up to the end or to ')'. field is what conditions without a name of a field are about.
func (p *parser) or(field string, depth int) (store.LogExpr, error) {
	if depth > maxQueryDepth {
		return nil, p.errorf(p.i, "at most "+itoa(maxQueryDepth)+" parentheses within each other")
	}
	var alternatives store.LogOr
	for {
		e, err := p.and(field, depth)
		if err != nil {
			return nil, err
		}
		alternatives = append(alternatives, e)
		at := p.i
		word, ok := p.keyword("OR", "||")
		if !ok {
			break
		}
		p.space()
		if p.end() || p.at(")") {
			return nil, p.errorf(p.i, "a condition after the "+word+" at position "+itoa(p.column(at)))
		}
	}
	if len(alternatives) == 1 {
		return alternatives[0], nil
	}
	return alternatives, nil
}

func (p *parser) and(field string, depth int) (store.LogExpr, error) {
	var all store.LogAnd
	after := -1 // where the AND stands that waits for a condition
	for {
		p.space()
		at := p.i
		if p.end() || p.at(")") {
			break
		}
		if _, ok := p.keyword("OR", "||"); ok {
			p.i = at
			if len(all) == 0 || after >= 0 {
				return nil, p.errorf(at, "a condition")
			}
			break
		}
		if _, ok := p.keyword("AND", "&&"); ok {
			if len(all) == 0 || after >= 0 {
				return nil, p.errorf(at, "a condition")
			}
			after = at
			continue
		}
		e, err := p.not(field, depth)
		if err != nil {
			return nil, err
		}
		all, after = append(all, e), -1
	}
	switch {
	case after >= 0:
		return nil, p.errorf(p.i, "a condition after the AND at position "+itoa(p.column(after)))
	case len(all) == 0:
		return nil, p.errorf(p.i, "a condition")
	case len(all) == 1:
		return all[0], nil
	}
	return all, nil
}

func (p *parser) not(field string, depth int) (store.LogExpr, error) {
	if depth > maxQueryDepth {
		return nil, p.errorf(p.i, "at most "+itoa(maxQueryDepth)+" of NOT and parentheses within each other")
	}
	at := p.i
	sign := ""
	if w, ok := p.keyword("NOT"); ok {
		sign = w
		p.space()
	} else {
		for _, s := range []string{"-", "!", "+"} {
			if p.take(s) {
				sign = s
				break
			}
		}
	}
	if sign == "" {
		return p.condition(field, depth)
	}
	if p.end() || p.at(")") || sign != "NOT" && p.delimiter(p.i) && !p.at("(") && !p.at(`"`) {
		return nil, p.errorf(p.i, "a condition after the "+sign+" at position "+itoa(p.column(at)))
	}
	if k, ok := p.keyword("AND", "OR", "&&", "||"); ok {
		p.i -= len(k)
		return nil, p.errorf(p.i, "a condition after the "+sign+" at position "+itoa(p.column(at)))
	}
	e, err := p.not(field, depth+1)
	if err != nil || sign == "+" {
		return e, err
	}
	return store.LogNot{X: e}, nil
}

func (p *parser) condition(field string, depth int) (store.LogExpr, error) {
	if p.terms++; p.terms > maxQueryTerms {
		return nil, p.errorf(p.i, "at most "+itoa(maxQueryTerms)+" conditions")
	}
	if !p.at("(") && !p.at(`"`) && !p.at("/") {
		at := p.i
		name, ok := p.field()
		if ok {
			p.space()
			switch {
			case name == "_exists_":
				return p.exists()
			case name == "_msg" || name == "body":
				field = ""
			default:
				field = name
			}
			if p.end() || p.at(")") {
				return nil, p.errorf(p.i, "a value for the field at position "+itoa(p.column(at)))
			}
			return p.value(field, name, depth)
		}
	}
	return p.value(field, "", depth)
}

func (p *parser) exists() (store.LogExpr, error) {
	at := p.i
	var name string
	if p.at(`"`) {
		var err error
		if name, err = p.quoted(); err != nil {
			return nil, err
		}
	} else {
		name = p.word("").plain
	}
	if name == "" {
		return nil, p.errorf(at, "the name of a field after _exists_:")
	}
	if name == "_msg" || name == "body" {
		return store.LogAnd{}, nil
	}
	return store.LogExists{Field: name}, nil
}

// value reads what a field, or the body, is compared with. named is the field's name if it stands just before.
func (p *parser) value(field, named string, depth int) (store.LogExpr, error) {
	at := p.i
	switch {
	case p.take("("):
		p.space()
		if p.at(")") {
			return nil, p.errorf(p.i, "a condition")
		}
		e, err := p.or(field, depth+1)
		if err != nil {
			return nil, err
		}
		if !p.take(")") {
			return nil, p.errorf(p.i, "')' to close the '(' at position "+itoa(p.column(at)))
		}
		if p.at("^") || p.at("~") {
			return e, p.suffix()
		}
		return e, nil
	case p.at(`"`):
		s, err := p.quoted()
		if err != nil {
			return nil, err
		}
		return store.LogPhrase{Field: field, Text: s}, p.suffix()
	case p.at("/"):
		if src, ok := p.regexp(); ok {
			re, err := regexp.Compile(src)
			if err != nil {
				return nil, kemi.Errorf(kemi.ErrInvalid, "query: position %d: expected a regular expression: %s", p.column(at), reason(err))
			}
			return store.LogRegexp{Field: field, Source: src, Re: re}, p.suffix()
		}
	case field != "" && p.at("["), field != "" && p.at("{"):
		return p.interval(field)
	case field != "" && named != "" && (p.at(">") || p.at("<")):
		return p.compare(field)
	}
	return p.term(field, named)
}

// reason is what regexp says of an expression, without its own introduction.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}

// term reads a word, which may have wildcards in it.
func (p *parser) term(field, named string) (store.LogExpr, error) {
	w := p.word("^~")
	for p.at("^") || p.at("~") { // only at the end do they mean something
		begin := p.i
		p.i++
		rest := p.word("^~")
		if p.delimiter(p.i) && strings.Trim(rest.raw, "0123456789.") == "" && (rest.raw != "" || p.s[begin] == '~') && w.raw != "" {
			p.i = begin
			break
		}
		w = word{at: w.at, raw: w.raw + p.s[begin:begin+1] + rest.raw, plain: w.plain + p.s[begin:begin+1] + rest.plain, stars: w.stars + rest.stars, marks: w.marks + rest.marks, lastRaw: rest.lastRaw}
	}
	if w.raw == "" {
		return nil, p.errorf(p.i, "a condition")
	}
	if err := p.suffix(); err != nil {
		return nil, err
	}
	switch {
	case w.stars == 0 && w.marks == 0:
		return store.LogPhrase{Field: field, Text: w.plain}, nil
	case w.plain == "*" && w.marks == 0:
		if field == "" {
			return store.LogAnd{}, nil
		}
		return store.LogExists{Field: field}, nil
	case w.stars == 1 && w.marks == 0 && w.lastRaw == '*':
		return store.LogPrefix{Field: field, Prefix: w.plain[:len(w.plain)-1]}, nil
	}
	pattern := w.raw
	if i := strings.IndexByte("/+-!<>[{", pattern[0]); i >= 0 {
		pattern = `\` + pattern
	}
	e, err := store.Wildcard(field, pattern)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "query: position %d: %s", p.column(w.at), errors.Unwrap(err))
	}
	return e, nil
}

// compare reads >=500 and the like.
func (p *parser) compare(field string) (store.LogExpr, error) {
	r := store.LogRange{Field: field}
	op := p.s[p.i]
	p.i++
	open := !p.take("=")
	p.space()
	bound, err := p.bound("", "a value to compare with")
	if err != nil {
		return nil, err
	}
	if op == '>' {
		r.Min, r.MinOpen = &bound, open
	} else {
		r.Max, r.MaxOpen = &bound, open
	}
	return r, p.suffix()
}

func (p *parser) bound(stop, want string) (string, error) {
	if p.at(`"`) {
		return p.quoted()
	}
	at := p.i
	w := p.word(stop)
	if w.raw == "" {
		return "", p.errorf(at, want)
	}
	return w.plain, nil
}

// interval reads [a TO b], {a TO b} and their mixtures.
func (p *parser) interval(field string) (store.LogExpr, error) {
	begin := p.i
	r := store.LogRange{Field: field, MinOpen: p.at("{")}
	p.i++
	ends := [2]*string{}
	for i := range ends {
		p.space()
		at, quoted := p.i, p.at(`"`)
		v, err := p.bound("]}", "an end of the range that begins at position "+itoa(p.column(begin)))
		if err != nil {
			return nil, err
		}
		if quoted || p.s[at:p.i] != "*" {
			ends[i] = &v
		}
		p.space()
		if i == 0 {
			if _, ok := p.keyword("TO"); !ok {
				return nil, p.errorf(p.i, "TO, as in [1 TO 5]")
			}
		}
	}
	r.Min, r.Max = ends[0], ends[1]
	r.MinOpen = r.MinOpen && r.Min != nil
	switch {
	case p.take("]"):
	case p.take("}"):
		r.MaxOpen = r.Max != nil
	default:
		return nil, p.errorf(p.i, "']' or '}' to end the range that begins at position "+itoa(p.column(begin)))
	}
	return r, p.suffix()
}

func itoa(n int) string { return strconv.Itoa(n) }
