package logql

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// Limits of a query's text.
const (
	maxQueryBytes = 64 << 10
	maxDepth      = 100
)

// Parse reads a query.
func Parse(s string) (Expr, error) {
	if len(s) > maxQueryBytes {
		return nil, kemi.Errorf(kemi.ErrTooLarge, "query: %d bytes, at most %d are taken", len(s), maxQueryBytes)
	}
	toks, err := lex(s)
	if err != nil {
		return nil, err
	}
	p := &parser{s: s, toks: toks}
	e, err := p.binary(0)
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != tokEnd {
		return nil, p.want("the end of the query")
	}
	return e, nil
}

// ParseSelector reads a selector, {app="x"}, alone.
func ParseSelector(s string) ([]*Matcher, error) {
	e, err := Parse(s)
	if err != nil {
		return nil, err
	}
	q, ok := e.(*LogQuery)
	if !ok || len(q.Stages) > 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "match: %q: must be a selector such as {app=\"x\"}", s)
	}
	return q.Matchers, nil
}

type parser struct {
	s     string
	toks  []token
	i     int
	depth int
}

func (p *parser) peek() token { return p.toks[p.i] }

func (p *parser) next() token {
	t := p.toks[p.i]
	if t.kind != tokEnd {
		p.i++
	}
	return t
}

func (p *parser) want(what string) error { return syntaxError(p.s, p.peek().at, what) }

func (p *parser) is(op string) bool {
	t := p.peek()
	return t.kind == tokOp && t.text == op
}

func (p *parser) op(op string) bool {
	if p.is(op) {
		p.i++
		return true
	}
	return false
}

func (p *parser) need(op string) error {
	if !p.op(op) {
		return p.want(strconv.Quote(op))
	}
	return nil
}

func (p *parser) word(w string) bool {
	if t := p.peek(); t.kind == tokIdent && t.text == w {
		p.i++
		return true
	}
	return false
}

func (p *parser) str(what string) (string, error) {
	if p.peek().kind != tokString {
		return "", p.want(what)
	}
	return p.next().text, nil
}

func (p *parser) ident(what string) (string, error) {
	if p.peek().kind != tokIdent {
		return "", p.want(what)
	}
	return p.next().text, nil
}

var precedence = map[string]int{"or": 1, "and": 2, "unless": 2, "==": 3, "!=": 3, ">": 3, ">=": 3, "<": 3, "<=": 3, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5, "^": 6}

// binary reads an expression of operators that bind closer than above.
func (p *parser) binary(above int) (Expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.want("at most " + strconv.Itoa(maxDepth) + " expressions within each other")
	}
	defer func() { p.depth-- }()
	left, err := p.primary()
	if err != nil {
		return nil, err
	}
	for {
		t := p.peek()
		level, ok := precedence[t.text]
		if !ok || t.kind != tokOp && t.kind != tokIdent || level <= above {
			return left, nil
		}
		p.next()
		b := &Binary{Op: t.text, Left: left}
		if err := p.modifiers(b); err != nil {
			return nil, err
		}
		bind := level
		if t.text == "^" {
			bind-- // from the right
		}
		if b.Right, err = p.binary(bind); err != nil {
			return nil, err
		}
		for _, side := range []Expr{b.Left, b.Right} {
			if _, log := side.(*LogQuery); log {
				return nil, syntaxError(p.s, t.at, "numbers on both sides of "+t.text+", such as count_over_time({…} [5m])")
			}
		}
		left = fold(b)
	}
}

// fold computes what has constants on both sides.
func fold(b *Binary) Expr {
	l, ok := b.Left.(*Number)
	r, ok2 := b.Right.(*Number)
	if !ok || !ok2 || precedence[b.Op] < 3 {
		return b
	}
	v, keep := arithmetic(b.Op, l.Value, r.Value)
	if precedence[b.Op] == 3 {
		v = 0
		if keep {
			v = 1
		}
	}
	return &Number{v}
}

func (p *parser) modifiers(b *Binary) error {
	b.Bool = p.word("bool")
	switch {
	case p.word("on"):
		ls, err := p.labels()
		if err != nil {
			return err
		}
		b.On = &Grouping{Labels: ls}
	case p.word("ignoring"):
		ls, err := p.labels()
		if err != nil {
			return err
		}
		b.On = &Grouping{Labels: ls, Without: true}
	}
	for _, side := range []string{"left", "right"} {
		if p.word("group_" + side) {
			b.Group = side
			if p.is("(") {
				ls, err := p.labels()
				if err != nil {
					return err
				}
				b.Include = ls
			}
		}
	}
	return nil
}

// labels reads (a, b, …).
func (p *parser) labels() ([]string, error) {
	if err := p.need("("); err != nil {
		return nil, err
	}
	var out []string
	for !p.op(")") {
		if len(out) > 0 {
			if err := p.need(","); err != nil {
				return nil, err
			}
		}
		l, err := p.ident("the name of a label")
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

var (
	rangeOps  = []string{"count_over_time", "rate", "rate_counter", "bytes_over_time", "bytes_rate", "sum_over_time", "avg_over_time", "max_over_time", "min_over_time", "stdvar_over_time", "stddev_over_time", "quantile_over_time", "first_over_time", "last_over_time", "absent_over_time"}
	vectorOps = []string{"sum", "avg", "count", "min", "max", "stddev", "stdvar", "topk", "bottomk", "sort", "sort_desc"}
)

func (p *parser) primary() (Expr, error) {
	t := p.peek()
	switch {
	case p.is("{"):
		return p.logQuery()
	case p.op("("):
		e, err := p.binary(0)
		if err != nil {
			return nil, err
		}
		return e, p.need(")")
	case p.op("-"), p.op("+"):
		n := p.peek()
		v, err := strconv.ParseFloat(n.text, 64)
		if n.kind != tokNumber || err != nil {
			return nil, p.want("a number")
		}
		p.next()
		if t.text == "-" {
			v = -v
		}
		return &Number{v}, nil
	case t.kind == tokNumber:
		v, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, p.want("a number")
		}
		p.next()
		return &Number{v}, nil
	case t.kind != tokIdent:
		return nil, p.want("a selector such as {app=\"x\"}, or an aggregation")
	case slices.Contains(rangeOps, t.text):
		p.next()
		return p.rangeAgg(t.text)
	case slices.Contains(vectorOps, t.text):
		p.next()
		return p.vectorAgg(t.text)
	case t.text == "vector":
		p.next()
		if err := p.need("("); err != nil {
			return nil, err
		}
		n := p.next()
		v, err := strconv.ParseFloat(n.text, 64)
		if n.kind != tokNumber || err != nil {
			return nil, syntaxError(p.s, n.at, "a number")
		}
		return &Vector{v}, p.need(")")
	case t.text == "label_replace":
		p.next()
		return p.labelReplace()
	case strings.EqualFold(t.text, "inf"), strings.EqualFold(t.text, "nan"):
		p.next()
		if strings.EqualFold(t.text, "nan") {
			return &Number{math.NaN()}, nil
		}
		return &Number{math.Inf(1)}, nil
	}
	return nil, p.want("an aggregation such as rate, count_over_time or sum; " + strconv.Quote(t.text) + " is none")
}

func (p *parser) labelReplace() (Expr, error) {
	if err := p.need("("); err != nil {
		return nil, err
	}
	of, err := p.binary(0)
	if err != nil {
		return nil, err
	}
	var args [4]string
	for i := range args {
		if err := p.need(","); err != nil {
			return nil, err
		}
		if args[i], err = p.str("a string"); err != nil {
			return nil, err
		}
	}
	re, err := compile(args[3])
	if err != nil {
		return nil, err
	}
	return &LabelReplace{Of: of, Dst: args[0], Replacement: args[1], Src: args[2], re: re}, p.need(")")
}

// compile compiles a regular expression that matches the whole of a value.
func compile(s string) (*regexp.Regexp, error) {
	re, err := regexp.Compile("^(?s:" + s + ")$")
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "regular expression %q: %w", s, err)
	}
	return re, nil
}

func (p *parser) logQuery() (*LogQuery, error) {
	if err := p.need("{"); err != nil {
		return nil, err
	}
	q := &LogQuery{}
	for !p.op("}") {
		if len(q.Matchers) > 0 {
			if err := p.need(","); err != nil {
				return nil, err
			}
			if p.op("}") {
				break
			}
		}
		m := &Matcher{}
		var err error
		if m.Name, err = p.ident("the name of a label"); err != nil {
			return nil, err
		}
		switch {
		case p.op("="):
			m.Type = MatchEqual
		case p.op("!="):
			m.Type = MatchNotEqual
		case p.op("=~"):
			m.Type = MatchRegexp
		case p.op("!~"):
			m.Type = MatchNotRegexp
		default:
			return nil, p.want("=, !=, =~ or !~")
		}
		if m.Value, err = p.str("a string"); err != nil {
			return nil, err
		}
		if m.Type >= MatchRegexp {
			if m.re, err = compile(m.Value); err != nil {
				return nil, err
			}
		}
		q.Matchers = append(q.Matchers, m)
	}
	var err error
	q.Stages, err = p.stages()
	return q, err
}

// duration reads [5m].
func (p *parser) rangeOf() (time.Duration, error) {
	if err := p.need("["); err != nil {
		return 0, err
	}
	d, err := p.duration()
	if err != nil {
		return 0, err
	}
	if d <= 0 {
		return 0, p.want("a range longer than 0")
	}
	return d, p.need("]")
}

func (p *parser) duration() (time.Duration, error) {
	t := p.peek()
	if t.kind != tokNumber {
		return 0, p.want("a duration such as 5m")
	}
	d, ok := parseDuration(t.text)
	if !ok {
		return 0, p.want("a duration such as 5m")
	}
	p.next()
	return d, nil
}

var durationUnits = []struct {
	name string
	unit time.Duration
}{{"ns", 1}, {"us", time.Microsecond}, {"µs", time.Microsecond}, {"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}, {"y", 365 * 24 * time.Hour}}

// parseDuration reads 1h30m, 1.5s, 2d.
func parseDuration(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	var sum float64
	for s != "" {
		i := 0
		for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
			i++
		}
		n, err := strconv.ParseFloat(s[:i], 64)
		if err != nil {
			return 0, false
		}
		s = s[i:]
		best := -1
		for k, u := range durationUnits {
			if strings.HasPrefix(s, u.name) && (best < 0 || len(u.name) > len(durationUnits[best].name)) {
				best = k
			}
		}
		if best < 0 {
			return 0, false
		}
		sum += n * float64(durationUnits[best].unit)
		s = s[len(durationUnits[best].name):]
	}
	if sum > math.MaxInt64/2 {
		return 0, false
	}
	return time.Duration(sum), true
}

func (p *parser) rangeAgg(op string) (Expr, error) {
	a := &RangeAgg{Op: op}
	var err error
	before := func() error { // grouping may stand before or behind
		for a.Grouping == nil {
			g, err := p.grouping()
			if g == nil || err != nil {
				return err
			}
			a.Grouping = g
		}
		return nil
	}
	if err := before(); err != nil {
		return nil, err
	}
	if err := p.need("("); err != nil {
		return nil, err
	}
	if op == "quantile_over_time" {
		t := p.next()
		if a.Param, err = strconv.ParseFloat(t.text, 64); t.kind != tokNumber || err != nil {
			return nil, syntaxError(p.s, t.at, "a quantile such as 0.99")
		}
		if err := p.need(","); err != nil {
			return nil, err
		}
	}
	parens := 0
	for p.op("(") {
		parens++
	}
	if a.Query, err = p.logQuery(); err != nil {
		return nil, err
	}
	ranged := false
	takeRange := func() error {
		if p.is("[") && !ranged {
			ranged = true
			a.Range, err = p.rangeOf()
			return err
		}
		return nil
	}
	if err := takeRange(); err != nil {
		return nil, err
	}
	if more, err := p.stages(); err != nil { // the range may stand before the stages
		return nil, err
	} else {
		a.Query.Stages = append(a.Query.Stages, more...)
	}
	if err := p.splitUnwrap(a); err != nil {
		return nil, err
	}
	for ; parens > 0; parens-- {
		if err := p.need(")"); err != nil {
			return nil, err
		}
		if err := takeRange(); err != nil {
			return nil, err
		}
	}
	if err := takeRange(); err != nil {
		return nil, err
	}
	if !ranged {
		return nil, p.want("a range such as [5m]")
	}
	if p.word("offset") {
		negative := p.op("-")
		if a.Offset, err = p.duration(); err != nil {
			return nil, err
		}
		if negative {
			a.Offset = -a.Offset
		}
	}
	if err := p.need(")"); err != nil {
		return nil, err
	}
	if err := before(); err != nil {
		return nil, err
	}
	return a, a.check()
}

// splitUnwrap takes unwrap, and the label filters behind it, out of the stages.
func (p *parser) splitUnwrap(a *RangeAgg) error {
	for i, s := range a.Query.Stages {
		u, ok := s.(*unwrapStage)
		if !ok {
			continue
		}
		a.Unwrap = &Unwrap{Label: u.label, Convert: u.convert, Filters: a.Query.Stages[i+1:]}
		for _, f := range a.Unwrap.Filters {
			if _, ok := f.(*labelFilter); !ok {
				return p.want("label filters only behind unwrap")
			}
		}
		a.Query.Stages = a.Query.Stages[:i:i]
		return nil
	}
	return nil
}

// check tells what does not go together.
func (a *RangeAgg) check() error {
	wantsValue := slices.Contains([]string{"sum_over_time", "avg_over_time", "max_over_time", "min_over_time", "stdvar_over_time", "stddev_over_time", "quantile_over_time", "first_over_time", "last_over_time", "rate_counter"}, a.Op)
	switch {
	case wantsValue && a.Unwrap == nil:
		return kemi.Errorf(kemi.ErrInvalid, "parse error: invalid aggregation %s without unwrap: it needs a value of each line, such as | unwrap latency", a.Op)
	case a.Unwrap != nil && slices.Contains([]string{"count_over_time", "bytes_over_time", "bytes_rate"}, a.Op):
		return kemi.Errorf(kemi.ErrInvalid, "parse error: invalid aggregation %s with unwrap: it does not look at values", a.Op)
	case a.Grouping != nil && (!wantsValue || a.Op == "sum_over_time" || a.Op == "rate_counter"):
		return kemi.Errorf(kemi.ErrInvalid, "parse error: grouping not allowed for %s aggregation: put sum by (…) around it", a.Op)
	}
	return nil
}

func (p *parser) grouping() (*Grouping, error) {
	g := &Grouping{}
	switch {
	case p.word("by"):
	case p.word("without"):
		g.Without = true
	default:
		return nil, nil
	}
	var err error
	g.Labels, err = p.labels()
	return g, err
}

func (p *parser) vectorAgg(op string) (Expr, error) {
	a := &VectorAgg{Op: op}
	var err error
	if a.Grouping, err = p.grouping(); err != nil {
		return nil, err
	}
	if err := p.need("("); err != nil {
		return nil, err
	}
	if op == "topk" || op == "bottomk" {
		t := p.next()
		if a.Param, err = strconv.Atoi(t.text); t.kind != tokNumber || err != nil || a.Param <= 0 {
			return nil, syntaxError(p.s, t.at, "how many, such as 10")
		}
		if err := p.need(","); err != nil {
			return nil, err
		}
	}
	if a.Of, err = p.binary(0); err != nil {
		return nil, err
	}
	if _, log := a.Of.(*LogQuery); log {
		return nil, p.want("numbers in " + op + ", such as count_over_time({…} [5m])")
	}
	if err := p.need(")"); err != nil {
		return nil, err
	}
	if a.Grouping == nil {
		if a.Grouping, err = p.grouping(); err != nil {
			return nil, err
		}
	}
	if (op == "sort" || op == "sort_desc") && a.Grouping != nil {
		return nil, p.want(op + " without grouping")
	}
	return a, nil
}
