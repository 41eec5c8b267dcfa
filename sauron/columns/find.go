package columns

import (
	"math"

	"github.com/prometheus/prometheus/promql/parser"
)

// functions are those of one range selector that are evaluated here, each series by itself.
var functions = map[string]bool{
	"avg_over_time": true, "changes": true, "count_over_time": true, "delta": true, "deriv": true, "idelta": true, "increase": true, "irate": true,
	"last_over_time": true, "max_over_time": true, "min_over_time": true, "present_over_time": true, "rate": true, "resets": true, "stddev_over_time": true,
	"stdvar_over_time": true, "sum_over_time": true,
}

// Find is the parts of a parsed expression that Evaluate takes, the largest of each. Parts within subqueries are not among them, as those have other steps.
// A selector alone is one if it is all of the expression: the engine would add up what it is given of such a part in another order, for nothing.
func Find(expr parser.Expr) []parser.Expr {
	if partOf(expr) != nil {
		return []parser.Expr{expr}
	}
	var parts []parser.Expr
	find(expr, &parts)
	return parts
}

func find(expr parser.Expr, parts *[]parser.Expr) {
	if p := partOf(expr); p != nil && (p.aggregate != nil || p.call != nil) {
		*parts = append(*parts, expr)
		return
	}
	switch e := expr.(type) {
	case *parser.AggregateExpr:
		find(e.Expr, parts)
	case *parser.BinaryExpr:
		find(e.LHS, parts)
		find(e.RHS, parts)
	case *parser.ParenExpr:
		find(e.Expr, parts)
	case *parser.UnaryExpr:
		find(e.Expr, parts)
	case *parser.Call:
		switch e.Func.Name {
		case "absent", "info", "timestamp": // these look at the selector itself
			return
		}
		for _, a := range e.Args {
			find(a, parts)
		}
	}
}

// part is an expression taken apart: aggregation(function(selector)), either of them optional.
type part struct {
	aggregate *parser.AggregateExpr
	quantile  float64
	call      *parser.Call
	window    *parser.MatrixSelector
	selector  *parser.VectorSelector
}

// partOf takes expr apart, or returns nil.
func partOf(expr parser.Expr) *part {
	p := &part{}
	inner := bare(expr)
	if a, ok := inner.(*parser.AggregateExpr); ok {
		switch a.Op {
		case parser.SUM, parser.AVG, parser.MIN, parser.MAX, parser.COUNT, parser.GROUP, parser.STDDEV, parser.STDVAR:
		case parser.QUANTILE:
			n, ok := bare(a.Param).(*parser.NumberLiteral)
			if !ok || math.IsNaN(n.Val) || n.Val < 0 || n.Val > 1 { // the engine warns of those
				return nil
			}
			p.quantile = n.Val
		default:
			return nil
		}
		p.aggregate, inner = a, bare(a.Expr)
	}
	if c, ok := inner.(*parser.Call); ok {
		if !functions[c.Func.Name] || len(c.Args) != 1 {
			return nil
		}
		m, ok := bare(c.Args[0]).(*parser.MatrixSelector)
		if !ok || m.RangeExpr != nil || m.Range <= 0 {
			return nil
		}
		p.call, p.window, inner = c, m, m.VectorSelector
	}
	v, ok := inner.(*parser.VectorSelector)
	if !ok {
		return nil
	}
	if v.Timestamp != nil || v.StartOrEnd != 0 || v.OriginalOffsetExpr != nil || v.Anchored || v.Smoothed || v.BypassEmptyMatcherCheck {
		return nil
	}
	p.selector = v
	return p
}

func bare(e parser.Expr) parser.Expr {
	for {
		p, ok := e.(*parser.ParenExpr)
		if !ok {
			return e
		}
		e = p.Expr
	}
}
