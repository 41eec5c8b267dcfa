package promql

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"kemi"
)

// node is a part of an expression as /parse_query shows it: what Prometheus' page draws its tree from.
type node map[string]any

func (a *API) parseQuery(r *http.Request, _ kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	expr, err := a.parser.ParseExpr(r.FormValue("query"))
	if err != nil {
		return badParam("query", err)
	}
	return answer{data: tree(expr)}
}

// tree is an expression as nodes, nil for none.
func tree(expr parser.Expr) any {
	switch e := expr.(type) {
	case nil:
		return nil
	case *parser.NumberLiteral:
		return node{"type": "numberLiteral", "val": decimal(e.Val)}
	case *parser.StringLiteral:
		return node{"type": "stringLiteral", "val": e.Val}
	case *parser.ParenExpr:
		return node{"type": "parenExpr", "expr": tree(e.Expr)}
	case *parser.UnaryExpr:
		return node{"type": "unaryExpr", "op": e.Op.String(), "expr": tree(e.Expr)}
	case *parser.VectorSelector:
		return selectorNode(node{"type": "vectorSelector"}, e)
	case *parser.MatrixSelector:
		n := node{"type": "matrixSelector", "range": e.Range.Milliseconds(), "rangeExpr": durationTree(e.RangeExpr)}
		return selectorNode(n, e.VectorSelector.(*parser.VectorSelector))
	case *parser.SubqueryExpr:
		return node{
			"type": "subquery", "expr": tree(e.Expr), "range": e.Range.Milliseconds(), "rangeExpr": durationTree(e.RangeExpr), "step": e.Step.Milliseconds(),
			"stepExpr": durationTree(e.StepExpr), "offset": e.OriginalOffset.Milliseconds(), "offsetExpr": durationTree(e.OriginalOffsetExpr),
			"timestamp": e.Timestamp, "startOrEnd": bound(e.StartOrEnd),
		}
	case *parser.Call:
		args := make([]any, 0, len(e.Args))
		for _, a := range e.Args {
			args = append(args, tree(a))
		}
		f := e.Func
		return node{"type": "call", "args": args, "func": node{"name": f.Name, "argTypes": f.ArgTypes, "variadic": f.Variadic, "returnType": f.ReturnType}}
	case *parser.AggregateExpr:
		return node{"type": "aggregation", "op": e.Op.String(), "expr": tree(e.Expr), "param": tree(e.Param), "grouping": list(e.Grouping), "without": e.Without}
	case *parser.BinaryExpr:
		return node{"type": "binaryExpr", "op": e.Op.String(), "lhs": tree(e.LHS), "rhs": tree(e.RHS), "bool": e.ReturnBool, "matching": matching(e.VectorMatching)}
	case *parser.DurationExpr:
		return durationTree(e)
	}
	return node{"type": "unknown", "text": expr.String()}
}

func selectorNode(n node, v *parser.VectorSelector) node {
	matchers := make([]node, 0, len(v.LabelMatchers))
	for _, m := range v.LabelMatchers {
		matchers = append(matchers, matcherNode(m))
	}
	n["name"], n["matchers"], n["anchored"], n["smoothed"] = v.Name, matchers, v.Anchored, v.Smoothed
	n["offset"], n["offsetExpr"] = int64(v.OriginalOffset/time.Millisecond), durationTree(v.OriginalOffsetExpr)
	n["timestamp"], n["startOrEnd"] = v.Timestamp, bound(v.StartOrEnd)
	return n
}

func matcherNode(m *labels.Matcher) node {
	return node{"name": m.Name, "type": m.Type.String(), "value": m.Value}
}

// matching is null between scalars.
func matching(m *parser.VectorMatching) any {
	if m == nil {
		return nil
	}
	return node{
		"card": m.Card.String(), "labels": list(m.MatchingLabels), "on": m.On, "include": list(m.Include),
		"fillValues": map[string]*float64{"lhs": m.FillValues.LHS, "rhs": m.FillValues.RHS},
	}
}

// durationTree is an expression of durations; there, numbers may stand for durations.
func durationTree(expr parser.Expr) any {
	switch e := expr.(type) {
	case nil:
		return nil
	case *parser.DurationExpr:
		if e == nil {
			return nil
		}
		return node{"type": "durationExpr", "op": e.Op.String(), "lhs": durationTree(e.LHS), "rhs": durationTree(e.RHS), "wrapped": e.Wrapped}
	case *parser.NumberLiteral:
		if e == nil {
			return nil
		}
		return node{"type": "numberLiteral", "val": decimal(e.Val), "duration": e.Duration}
	}
	return tree(expr)
}

func bound(item parser.ItemType) any {
	if item == 0 {
		return nil
	}
	return item.String()
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func list(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}
