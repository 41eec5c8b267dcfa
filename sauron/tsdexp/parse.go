package tsdexp

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"kemi/sauron/tsdhttp"
)

// The longest expression that is read, and how deep it may nest.
const (
	maxLength = 4096
	maxDepth  = 100
)

// Expr is a parsed expression. It may be evaluated concurrently.
type Expr struct {
	root node
	vars []string // in the order in which they first stand there
}

// Variables are the names that the expression reads, in the order in which they first stand there.
func (e *Expr) Variables() []string { return slices.Clone(e.vars) }

// Eval is the expression's value, values being those of Variables. A truth is 1 or 0.
func (e *Expr) Eval(values []float64) float64 { return e.root(values).v }

// value is a number as JEXL tells them apart.
type value struct {
	v    float64
	kind kind
}

type kind uint8

const (
	float kind = iota
	whole      // made of numbers written without a fraction
	truth
)

func boolean(b bool) value {
	if b {
		return value{1, truth}
	}
	return value{0, truth}
}

func (x value) true() bool { return x.v == x.v && x.v != 0 }

// compare orders NaN before all numbers.
func compare(x, y value) int {
	switch {
	case x.v != x.v && y.v != y.v:
		return 0
	case x.v != x.v:
		return -1
	case y.v != y.v:
		return 1
	case x.v < y.v:
		return -1
	case x.v > y.v:
		return 1
	}
	return 0
}

// node computes a part of an expression.
type node func(values []float64) value

// Parse reads an expression: numbers, names, ( ), + - * / % (also div, mod), comparisons (also eq ne lt le gt ge), && || ! (also and, or, not), and x ? y : z.
func Parse(s string) (*Expr, error) {
	if len(s) > maxLength {
		return nil, tsdhttp.Bad("parsing error: the expression is too long", fmt.Sprintf("%d bytes, at most %d are read", len(s), maxLength))
	}
	p := &parser{s: s, index: map[string]int{}}
	p.next()
	root := p.ternary()
	if p.err == nil && p.tok != "" {
		p.fail("an operator")
	}
	if p.err != nil {
		return nil, p.err
	}
	return &Expr{root: root, vars: p.vars}, nil
}

type parser struct {
	s     string
	pos   int    // behind tok
	tok   string // "" at the end
	at    int    // where tok begins
	depth int
	vars  []string
	index map[string]int
	err   error
}

func (p *parser) fail(want string) {
	if p.err == nil {
		found := strconv.Quote(p.tok)
		if p.tok == "" {
			found = "the end"
		}
		p.err = tsdhttp.Bad(fmt.Sprintf("parsing error in '%s'", tsdhttp.Clip(p.s)), fmt.Sprintf("at character %d: expected %s, not %s", p.at+1, want, found))
	}
	p.tok, p.pos = "", len(p.s)
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c == '@' || c >= 0x80
}
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

var words = map[string]string{
	"and": "&&", "or": "||", "not": "!", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "div": "/", "mod": "%",
}

// next reads the next token.
func (p *parser) next() {
	for p.pos < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.pos]) >= 0 {
		p.pos++
	}
	p.at = p.pos
	if p.pos >= len(p.s) {
		p.tok = ""
		return
	}
	end := p.pos + 1
	switch c := p.s[p.pos]; {
	case isDigit(c) || c == '.' && end < len(p.s) && isDigit(p.s[end]):
		for end < len(p.s) && (isDigit(p.s[end]) || p.s[end] == '.' || (p.s[end] == 'e' || p.s[end] == 'E') && p.exponent(end)) {
			if p.s[end] == 'e' || p.s[end] == 'E' {
				end++
			}
			end++
		}
	case isLetter(c):
		for end < len(p.s) && (isLetter(p.s[end]) || isDigit(p.s[end])) {
			end++
		}
	default:
		if end < len(p.s) {
			switch p.s[p.pos : end+1] {
			case "==", "!=", "<=", ">=", "&&", "||":
				end++
			}
		}
	}
	p.tok, p.pos = p.s[p.pos:end], end
	if op, ok := words[p.tok]; ok {
		p.tok = op
	}
}

// exponent tells whether digits follow the e at i.
func (p *parser) exponent(i int) bool {
	return i+1 < len(p.s) && isDigit(p.s[i+1]) || i+2 < len(p.s) && (p.s[i+1] == '-' || p.s[i+1] == '+') && isDigit(p.s[i+2])
}

// ternary is x ? y : z, or less.
func (p *parser) ternary() node {
	if p.depth++; p.depth > maxDepth {
		p.fail("less depth")
		return nil
	}
	defer func() { p.depth-- }()
	x := p.binary(0)
	if p.tok != "?" {
		return x
	}
	p.next()
	y := p.ternary()
	if p.tok != ":" {
		p.fail(`":"`)
		return nil
	}
	p.next()
	z := p.ternary()
	return func(v []float64) value {
		if x(v).true() {
			return y(v)
		}
		return z(v)
	}
}

// levels are the binary operators, weakest first.
var levels = [][]string{{"||"}, {"&&"}, {"==", "!="}, {"<", "<=", ">", ">="}, {"+", "-"}, {"*", "/", "%"}}

func (p *parser) binary(level int) node {
	if level == len(levels) {
		return p.unary()
	}
	x := p.binary(level + 1)
	for p.err == nil && slices.Contains(levels[level], p.tok) {
		op := p.tok
		p.next()
		x = operation(op, x, p.binary(level+1))
	}
	return x
}

func (p *parser) unary() node {
	if p.depth++; p.depth > maxDepth {
		p.fail("less depth")
		return nil
	}
	defer func() { p.depth-- }()
	switch p.tok {
	case "-":
		p.next()
		x := p.unary()
		return func(v []float64) value {
			y := x(v)
			if y.kind == truth {
				y.kind = float
			}
			return value{-y.v, y.kind}
		}
	case "!":
		p.next()
		x := p.unary()
		return func(v []float64) value { return boolean(!x(v).true()) }
	case "(":
		p.next()
		x := p.ternary()
		if p.tok != ")" {
			p.fail(`")"`)
			return nil
		}
		p.next()
		return x
	}
	tok := p.tok
	switch {
	case tok == "" || p.err != nil:
		p.fail("a number or a name")
		return nil
	case isDigit(tok[0]) || tok[0] == '.' && len(tok) > 1:
		n, err := strconv.ParseFloat(tok, 64)
		if err != nil {
			p.fail("a number")
			return nil
		}
		p.next()
		c := value{v: n}
		if !strings.ContainsAny(tok, ".eE") {
			c.kind = whole
		}
		return func([]float64) value { return c }
	case tok == "true" || tok == "false":
		p.next()
		c := boolean(tok == "true")
		return func([]float64) value { return c }
	case isLetter(tok[0]):
		p.next()
		if p.tok == "(" {
			p.fail("an operator: functions such as " + tsdhttp.Clip(tok) + "() are not there")
			return nil
		}
		i, ok := p.index[tok]
		if !ok {
			i = len(p.vars)
			p.index[tok] = i
			p.vars = append(p.vars, tok)
		}
		return func(v []float64) value { return value{v: v[i]} }
	}
	p.fail("a number or a name")
	return nil
}

func operation(op string, x, y node) node {
	switch op {
	case "||":
		return func(v []float64) value { return boolean(x(v).true() || y(v).true()) }
	case "&&":
		return func(v []float64) value { return boolean(x(v).true() && y(v).true()) }
	}
	test := map[string]func(c int) bool{
		"==": func(c int) bool { return c == 0 }, "!=": func(c int) bool { return c != 0 }, "<": func(c int) bool { return c < 0 },
		"<=": func(c int) bool { return c <= 0 }, ">": func(c int) bool { return c > 0 }, ">=": func(c int) bool { return c >= 0 },
	}[op]
	if test != nil {
		return func(v []float64) value { return boolean(test(compare(x(v), y(v)))) }
	}
	return func(v []float64) value {
		l, r := x(v), y(v)
		k := float
		if l.kind == whole && r.kind == whole {
			k = whole
		}
		var z float64
		switch op {
		case "+":
			z = l.v + r.v
		case "-":
			z = l.v - r.v
		case "*":
			z = l.v * r.v
		case "/":
			if r.v == 0 {
				return value{}
			}
			if z = l.v / r.v; k == whole {
				z = math.Trunc(z)
			}
		case "%":
			if r.v == 0 {
				return value{}
			}
			z = math.Mod(l.v, r.v)
		}
		return value{z, k}
	}
}
