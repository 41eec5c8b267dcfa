package pattern

import (
	"slices"
	"strings"
	"sync"

	"kemi/pipeline/store"
)

// Query is a condition and a range, made ready to be asked of many blocks. It may be used concurrently.
type Query struct {
	root node // nil: all
	r    store.NanoRange
}

// NewQuery prepares a query; a nil expr matches all. The block's project is not looked at.
func NewQuery(expr store.LogExpr, r store.NanoRange) *Query {
	q := &Query{r: r}
	if and, ok := expr.(store.LogAnd); expr != nil && !(ok && len(and) == 0) {
		q.root = newNode(expr)
	}
	return q
}

// node is a condition.
type node interface {
	// possible is false if no record of a block with that filter can meet the condition.
	possible(f *filters) bool
	// rows are those of within that meet it.
	rows(x *reading, within rowSet) (rowSet, error)
	// cells are those of the block's cells whose records meet it; false if that cannot be told of all.
	cells(x *reading) ([]bool, bool)
	// cost says what is looked at first.
	cost() int
	// judge says of each template of the block whether all its records meet the condition, or none; false if that cannot be told of all.
	judge(x *reading) ([]bool, bool)
}

type (
	andNode []node
	orNode  []node
	notNode struct{ node }
)

func newNode(e store.LogExpr) node {
	switch e := e.(type) {
	case store.LogAnd:
		var n andNode
		for _, x := range e {
			n = append(n, newNode(x))
		}
		sortByCost(n)
		return n
	case store.LogOr:
		var n orNode
		for _, x := range e {
			n = append(n, newNode(x))
		}
		sortByCost(n)
		return n
	case store.LogNot:
		return notNode{newNode(e.X)}
	}
	return newLeaf(e)
}

func sortByCost(ns []node) {
	for i := range ns {
		for k := i; k > 0 && ns[k].cost() < ns[k-1].cost(); k-- {
			ns[k], ns[k-1] = ns[k-1], ns[k]
		}
	}
}

func (n andNode) possible(f *filters) bool {
	for _, c := range n {
		if !c.possible(f) {
			return false
		}
	}
	return true
}

func (n andNode) rows(x *reading, within rowSet) (rowSet, error) {
	var known []bool // what can be told by cells goes first
	var rest []node
	for _, c := range n {
		is, ok := c.cells(x)
		switch {
		case !ok:
			rest = append(rest, c)
		case known == nil:
			known = is
		default:
			for i := range known {
				known[i] = known[i] && is[i]
			}
		}
	}
	var err error
	if known != nil {
		if !slices.Contains(known, true) {
			return newRowSet(x.directory.rows), nil
		}
		if within, err = x.cellRows(known, within); err != nil || within.empty() {
			return within, err
		}
	}
	for _, c := range rest {
		if within, err = c.rows(x, within); err != nil || within.empty() {
			return within, err
		}
	}
	return within, nil
}

func (n andNode) cost() (sum int) {
	for _, c := range n {
		sum += c.cost()
	}
	return sum
}

func (n andNode) judge(x *reading) ([]bool, bool) {
	all := make([]bool, len(x.templates))
	for i := range all {
		all[i] = true
	}
	for _, c := range n {
		is, ok := c.judge(x)
		if !ok {
			return nil, false
		}
		for i := range all {
			all[i] = all[i] && is[i]
		}
	}
	return all, true
}

func (n orNode) possible(f *filters) bool {
	for _, c := range n {
		if c.possible(f) {
			return true
		}
	}
	return false
}

func (n orNode) rows(x *reading, within rowSet) (rowSet, error) {
	out := newRowSet(x.directory.rows)
	left := append(rowSet(nil), within...)
	for _, c := range n {
		is, err := evaluate(c, x, left)
		if err != nil {
			return nil, err
		}
		out.or(is)
		left.without(is)
	}
	return out, nil
}

func (n orNode) cost() (sum int) { return andNode(n).cost() }

func (n orNode) judge(x *reading) ([]bool, bool) {
	any := make([]bool, len(x.templates))
	for _, c := range n {
		is, ok := c.judge(x)
		if !ok {
			return nil, false
		}
		for i := range any {
			any[i] = any[i] || is[i]
		}
	}
	return any, true
}

func (n notNode) possible(*filters) bool { return true }

func (n notNode) rows(x *reading, within rowSet) (rowSet, error) {
	is, err := evaluate(n.node, x, within)
	if err != nil {
		return nil, err
	}
	out := append(rowSet(nil), within...)
	out.without(is)
	return out, nil
}

func (n notNode) judge(x *reading) ([]bool, bool) {
	is, ok := n.node.judge(x)
	if !ok {
		return nil, false
	}
	for i := range is {
		is[i] = !is[i]
	}
	return is, true
}

// leaf is a condition on one field.
type leaf struct {
	e      store.LogExpr
	field  string
	match  func(text string) bool
	needs  []string // terms without which no record meets it; of the body or, if the field has no value among the stream labels, of any value
	phrase *store.PhraseIn
	raw    string // of a phrase without words
	lit    literal
	isRaw  bool

	once sync.Once
	sevs [256]bool

	mu    sync.RWMutex
	known map[*Template]*judgement
}

func newLeaf(e store.LogExpr) *leaf {
	l := &leaf{e: e, match: store.CompileText(e), known: map[*Template]*judgement{}}
	l.field, _ = store.LogFieldOf(e)
	if l.match == nil {
		l.match = func(string) bool { return false }
	}
	switch e := e.(type) {
	case store.LogPhrase:
		l.words(e.Text, false)
	case store.LogPrefix:
		l.words(e.Prefix, true)
	case store.LogRegexp:
		expr := e.Source
		if e.Re != nil {
			expr = e.Re.String()
		}
		l.lit = literalOf(expr)
		l.needs = l.lit.words()
	}
	if l.field == "level" || l.field == "id" { // of which the filter knows nothing
		l.needs = nil
	}
	return l
}

func (l *leaf) words(text string, prefix bool) {
	l.needs, _ = store.PhraseNeeds(text, prefix)
	if p, ok := store.NewPhraseIn(text, prefix); ok {
		l.phrase = p
	} else {
		l.isRaw, l.raw = true, text
	}
}

func (l *leaf) possible(f *filters) bool {
	for _, w := range l.needs {
		if !f.mayHave(w) {
			return false
		}
	}
	return true
}

func (l *leaf) cost() int {
	_, regexp := l.e.(store.LogRegexp)
	switch {
	case l.field == "level":
		return 2
	case l.field != "":
		return 1
	case regexp:
		return 100
	}
	return 10
}

func (l *leaf) rows(x *reading, within rowSet) (rowSet, error) {
	if !l.possible(&x.b.filters) {
		return newRowSet(x.directory.rows), nil
	}
	if l.field == "" {
		return l.inBodies(x, within)
	}
	return l.inField(x, within)
}

// inField looks at the values of a field, in the order of store.FieldOf.
func (l *leaf) inField(x *reading, within rowSet) (rowSet, error) {
	out := newRowSet(x.directory.rows)
	left := append(rowSet(nil), within...)
	switch l.field {
	case "id":
		ids, err := x.allIDs()
		if err != nil {
			return nil, err
		}
		within.each(func(r uint32) bool {
			if l.match(ids[r]) {
				out.add(r)
			}
			return true
		})
		return out, nil
	case "trace_id":
		if err := l.inExtra(x, extra{kind: extraTrace}, left, out); err != nil {
			return nil, err
		}
	case "span_id":
		if err := l.inExtra(x, extra{kind: extraSpan}, left, out); err != nil {
			return nil, err
		}
	case "level":
		if err := l.inSeverity(x, left, out); err != nil {
			return nil, err
		}
	}
	from := 0
	for s, end := range x.ends {
		if v := x.streams[s].Get(l.field); v != "" {
			is := l.match(v)
			left.eachIn(from, end, func(r uint32) {
				left[r>>6] &^= 1 << (r & 63)
				if is {
					out.add(r)
				}
			})
		}
		from = end
	}
	if left.empty() {
		return out, nil
	}
	return out, l.inExtra(x, extra{name: l.field}, left, out)
}

func (l *leaf) inSeverity(x *reading, left, out rowSet) error {
	sev, err := x.severities()
	if err != nil {
		return err
	}
	is := l.severities()
	left.each(func(r uint32) bool {
		s := sev[r]
		if is[s] {
			out.add(r)
		}
		if sevNames[s] {
			left[r>>6] &^= 1 << (r & 63)
		}
		return true
	})
	return nil
}

// inExtra decides the rows of left that have the extra, and takes them out of it.
func (l *leaf) inExtra(x *reading, e extra, left, out rowSet) error {
	for n := range x.extras {
		if x.extras[n].extra != e {
			continue
		}
		rows, err := x.rowsWith(n)
		if err != nil {
			return err
		}
		d, err := x.column(&x.extras[n].column, x.extras[n].rows)
		if err != nil {
			return err
		}
		return l.values(x, d, func(i int) bool { return left.has(rows[i]) }, func(i int, is bool) {
			r := rows[i]
			left[r>>6] &^= 1 << (r & 63)
			if is {
				out.add(r)
			}
		})
	}
	return nil
}

// values calls yield with each value of the column that is wanted, and whether it matches.
func (l *leaf) values(x *reading, d *columnData, want func(i int) bool, yield func(i int, is bool)) error {
	switch d.typ {
	case columnConst:
		is := l.match(d.before)
		for i := range d.n {
			if want(i) {
				yield(i, is)
			}
		}
	case columnDict:
		is := make([]bool, len(d.words))
		for k, w := range d.words {
			is[k] = l.match(w)
		}
		for i, k := range d.nums {
			if want(i) {
				yield(i, is[k])
			}
		}
	default:
		if w, ok := l.oneWord(); ok && (d.typ == columnInt || d.typ == columnDelta || d.typ == columnHex) {
			hit, err := x.findWord(d.column, d.n, w)
			if err != nil {
				return err
			}
			for i := range d.n {
				if want(i) {
					yield(i, hit != nil && hit.has(uint32(i)))
				}
			}
			return nil
		}
		var buf []byte
		for i := range d.n {
			if want(i) {
				buf = d.append(buf[:0], i)
				yield(i, l.match(view(buf)))
			}
		}
	}
	return nil
}

// oneWord is the word of a phrase that has only one, which is then all of a value without other characters that matches.
func (l *leaf) oneWord() (string, bool) {
	e, ok := l.e.(store.LogPhrase)
	if !ok || len(l.needs) != 1 || !strings.EqualFold(e.Text, l.needs[0]) {
		return "", false
	}
	for i := range len(e.Text) {
		if charKind[e.Text[i]] == 0 {
			return "", false
		}
	}
	return l.needs[0], true
}

func (l *leaf) judge(x *reading) ([]bool, bool) {
	if l.field != "" {
		return nil, false
	}
	out := make([]bool, len(x.templates))
	if !l.possible(&x.b.filters) {
		return out, true
	}
	for i := range x.templates {
		switch j := l.of(x.templates[i].Template); j.state {
		case judgedYes:
			out[i] = true
		case judgedNo:
		case judgedWays:
			for _, way := range j.ways {
				if x.mayBe(i, way) {
					return nil, false
				}
			}
		default:
			switch t := &x.templates[i]; {
			case t.line && !l.inSlots(x):
			case t.whole && !t.line && !l.besideSlots(x):
			default:
				return nil, false
			}
		}
	}
	return out, true
}
