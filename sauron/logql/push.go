package logql

import (
	"regexp"
	"slices"

	"kemi"
	"kemi/pipeline/store"
)

// plan is what of a LogQuery the store answers, and what has to be done line by line.
type plan struct {
	expr store.LogExpr
	rest []Stage
}

// planOf divides a query: selectors, and the line and label filters that can be asked of what was stored, go to the store.
func planOf(q *LogQuery) plan {
	var and store.LogAnd
	for _, m := range q.Matchers {
		and = append(and, labelExpr(m))
	}
	var p plan
	lineChanged, labelsChanged := false, false
	for _, s := range q.Stages {
		switch s := s.(type) {
		case *lineFilter:
			if !lineChanged {
				if e, ok := lineExpr(s); ok {
					and = append(and, e)
					continue
				}
			}
		case *labelFilter:
			if !labelsChanged {
				if e, ok := filterExpr(s); ok {
					and = append(and, e)
					continue
				}
			}
			labelsChanged = labelsChanged || s.mayFail() // then __error__ is a label
		case *lineFormat, *unpackStage, *decolorizeStage:
			lineChanged, labelsChanged = true, true
		default:
			labelsChanged = true
		}
		p.rest = append(p.rest, s)
	}
	p.expr = and
	return p
}

func (f *labelFilter) mayFail() bool {
	if f.op == "and" || f.op == "or" {
		return f.left.mayFail() || f.right.mayFail()
	}
	return f.m == nil
}

// labelExpr is a matcher as a condition of the store. A label that is not there is an empty one.
func labelExpr(m *Matcher) store.LogExpr {
	if m.Name == "level" && (m.Type == MatchEqual || m.Type == MatchNotEqual) && kemi.ParseSeverity(m.Value) != 0 {
		var e store.LogExpr = store.LogPhrase{Field: "level", Text: m.Value} // a severity is kept as such, whatever case it was sent in
		if m.Type == MatchNotEqual {
			e = store.LogNot{X: e}
		}
		return e
	}
	if m.Type <= MatchNotEqual && m.Value == "" {
		var e store.LogExpr = store.LogExists{Field: m.Name}
		if m.Type == MatchEqual {
			e = store.LogNot{X: e}
		}
		return e
	}
	var e store.LogExpr
	if m.Type <= MatchNotEqual {
		e = exact(m.Name, m.Value)
	} else {
		e = store.LogRegexp{Field: m.Name, Source: m.re.String(), Re: m.re}
		if m.re.MatchString("") {
			e = store.LogOr{e, store.LogNot{X: store.LogExists{Field: m.Name}}}
		}
	}
	if m.Type == MatchNotEqual || m.Type == MatchNotRegexp {
		e = store.LogNot{X: e}
	}
	return e
}

func exact(field, value string) store.LogExpr {
	re := regexp.MustCompile("^(?s:" + regexp.QuoteMeta(value) + ")$")
	return store.LogRegexp{Field: field, Source: re.String(), Re: re}
}

func lineExpr(f *lineFilter) (store.LogExpr, bool) {
	var or store.LogOr
	for _, m := range f.alts {
		re := m.re
		switch {
		case m.ip != nil || m.pattern != nil:
			return nil, false
		case re == nil && m.text == "":
			or = append(or, store.LogAnd{})
			continue
		case re == nil:
			re = regexp.MustCompile(regexp.QuoteMeta(m.text))
		}
		or = append(or, store.LogRegexp{Source: re.String(), Re: re})
	}
	var e store.LogExpr = or
	if len(or) == 1 {
		e = or[0]
	}
	if f.op[0] == '!' {
		e = store.LogNot{X: e}
	}
	return e, true
}

func filterExpr(f *labelFilter) (store.LogExpr, bool) {
	switch {
	case f.op == "and" || f.op == "or":
		l, ok := filterExpr(f.left)
		r, ok2 := filterExpr(f.right)
		if !ok || !ok2 {
			return nil, false
		}
		if f.op == "and" {
			return store.LogAnd{l, r}, true
		}
		return store.LogOr{l, r}, true
	case f.m == nil || f.name == "__error__" || f.name == "__error_details__":
		return nil, false
	}
	return labelExpr(f.m), true
}

// labelsOf are the labels of a record, with room for more.
func labelsOf(r *kemi.LogRecord) []kemi.Label {
	out := make([]kemi.Label, 0, len(r.Stream)+len(r.Attrs)+6)
	out = append(out, r.Stream...)
	for _, l := range r.Attrs {
		if name := sanitize(l.Name); name != "" && !r.Stream.Has(name) {
			out = append(out, kemi.Label{Name: name, Value: l.Value})
		}
	}
	add := func(name, value string) {
		if value != "" && !slices.ContainsFunc(out, func(l kemi.Label) bool { return l.Name == name }) {
			out = append(out, kemi.Label{Name: name, Value: value})
		}
	}
	add("level", r.Severity.String())
	add("trace_id", r.TraceID)
	add("span_id", r.SpanID)
	return out
}

// SelectorExpr is a selector as a condition of the store.
func SelectorExpr(ms []*Matcher) store.LogExpr {
	and := store.LogAnd{}
	for _, m := range ms {
		and = append(and, labelExpr(m))
	}
	return and
}
