package promql

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/columns"
)

// A query whose series can be had in columns goes in three steps: the parts that package columns knows are evaluated there; in the expression each gives way to
// a selector of what it came to; and the engine does the rest. Where the whole expression is one part, there is no rest.

// request is a query as it was asked for.
type request struct {
	id         kemi.Identity
	expr       string
	lookback   time.Duration // 0: as configured
	start, end time.Time
	step       time.Duration // 0: an instant query
	perStep    bool          // the engine counts samples by step
	own        bool          // nobody asks but ourselves: it is not refused because others wait
	startTimes *bool         // whether rates look at when counters began; nil: they do not
	counted    bool          // the engine's own statistics are wanted, so it does all
}

// outcome is what a query came to. It holds until close is called.
type outcome struct {
	value    parser.Value
	warnings annotations.Annotations
	stats    queryStats
	engine   promql.Query // nil if the engine was not needed
	close    func()
}

// buildError is an error of the query, not of its execution.
type buildError struct{ error }

func (e buildError) Unwrap() error { return e.error }

// execute waits for a place and answers q.
func (a *API) execute(ctx context.Context, q request) (out outcome, err error) {
	b := &budget{maxSeries: a.cfg.MaxSeries}
	ctx, trace := store.WithTrace(ctx)
	from := b.over(a.o.Source.Queryable(q.id))
	defer func() {
		if b.ticket != nil {
			b.ticket.Rest() // to write the answer may take long
		}
		out.stats.trace = trace
	}()
	parts, expr := a.parts(q)
	if len(parts) == 0 {
		a.way.engine.Inc()
		return a.prepare(ctx, q, expr, from, b)
	}
	if b.ticket, err = a.enter(ctx, q.id, q.own); err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	results, err := a.evaluate(ctx, q, parts, b)
	switch {
	case errors.Is(err, columns.ErrLeft):
		a.way.left.Inc()
		return a.prepare(ctx, q, expr, from, b)
	case err != nil:
		b.ticket.Leave()
		return outcome{}, err
	}
	out = outcome{close: b.ticket.Leave}
	if len(parts) == 1 && bare(expr) == bare(parts[0]) {
		a.way.columns.Inc()
		out.value, out.warnings = finished(results[0].Matrix, q), results[0].Notes
	} else {
		a.way.both.Inc()
		if out, err = a.prepare(ctx, q, replaced(expr, parts), partsQueryable{from, results, q}, b); err != nil {
			return out, err
		}
	}
	for _, r := range results {
		out.stats.SamplesRead += r.Samples
		out.warnings.Merge(r.Notes)
	}
	out.stats.Series = int64(b.series)
	return out, nil
}

// prepare has the engine run an expression that is parsed already, or, with nil, what the query says.
func (a *API) prepare(ctx context.Context, q request, expr parser.Expr, from storage.Queryable, b *budget) (outcome, error) {
	if expr == nil {
		return a.onEngine(ctx, q, q.expr, from, b)
	}
	text := a.prepared.text(expr)
	defer a.prepared.exprs.Delete(text)
	return a.onEngine(ctx, q, text, from, b)
}

// parts are those of q's expression that are not the engine's, and the expression, if it was parsed.
func (a *API) parts(q request) ([]parser.Expr, parser.Expr) {
	if a.columns == nil || q.counted || q.startTimes != nil && *q.startTimes || q.step != 0 && q.step < time.Millisecond {
		return nil, nil
	}
	expr, err := a.parser.ParseExpr(q.expr)
	if err != nil || expr.Type() != parser.ValueTypeVector && expr.Type() != parser.ValueTypeScalar {
		return nil, nil
	}
	return columns.Find(expr), expr
}

func (a *API) evaluate(ctx context.Context, q request, parts []parser.Expr, b *budget) (results []columns.Result, err error) {
	defer func() { // as the engine does: a defect of ours ends the query, and its place is given back
		if p := recover(); p != nil {
			a.o.Log.Error("query failed in columns", "query", q.expr, "err", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("unexpected error: %v", p)
		}
	}()
	steps := columns.Steps{Start: timestamp.FromTime(q.start), End: timestamp.FromTime(q.end), Interval: 1, Lookback: a.cfg.Lookback.Milliseconds()}
	if q.step != 0 {
		steps.Interval = q.step.Milliseconds()
	}
	if q.lookback > 0 {
		steps.Lookback = q.lookback.Milliseconds()
	}
	limits := columns.Limits{
		MaxSamples: a.cfg.MaxSamples, MaxSamplesRead: a.cfg.MaxSamplesRead, Series: b.another,
		Hold: func(_ int, bytes int64) error { return b.ticket.Hold(bytes) },
		Work: func(samples int) error { return b.ticket.Work(ctx, int64(samples)) },
	}
	results = make([]columns.Result, 0, len(parts))
	for _, p := range parts {
		var r columns.Result
		if err = b.ticket.Work(ctx, 0); err == nil {
			r, err = columns.Evaluate(ctx, a.columns, q.id, p, steps, limits)
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return nil, promql.ErrQueryTimeout("expression evaluation")
		case errors.Is(err, context.Canceled):
			return nil, promql.ErrQueryCanceled("expression evaluation")
		case err != nil:
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// onEngine has the engine run what text says. With a ticket in the budget, the query has its place already.
func (a *API) onEngine(ctx context.Context, q request, text string, from storage.Queryable, b *budget) (out outcome, err error) {
	defer func() {
		if err != nil && b.ticket != nil {
			b.ticket.Leave()
		}
	}()
	opts := promql.NewPrometheusQueryOpts(q.perStep, q.lookback, q.startTimes)
	if q.step == 0 {
		out.engine, err = a.engine.NewInstantQuery(ctx, from, opts, text, q.start)
	} else {
		out.engine, err = a.engine.NewRangeQuery(ctx, from, opts, text, q.start, q.end, q.step)
	}
	if err != nil {
		return outcome{}, buildError{err}
	}
	if b.ticket == nil {
		if b.ticket, err = a.enter(ctx, q.id, q.own); err != nil {
			out.engine.Close()
			return outcome{}, err
		}
	}
	b.since = time.Now()
	b.work(ctx)
	res := out.engine.Exec(ctx)
	if res.Err != nil {
		err = a.explain(res.Err, out.engine)
		out.engine.Close()
		return outcome{warnings: res.Warnings}, err
	}
	out.value, out.warnings = res.Value, res.Warnings
	out.close = func() { out.engine.Close(); b.ticket.Leave() }
	if s := out.engine.Stats(); s != nil && s.Samples != nil {
		out.stats.SamplesRead, out.stats.PeakSamples = s.Samples.SamplesRead, s.Samples.PeakSamples
	}
	out.stats.Series = int64(b.series)
	return out, nil
}

// finished is an answer in the engine's form and order.
func finished(m promql.Matrix, q request) parser.Value {
	if q.step != 0 {
		if m == nil {
			m = promql.Matrix{}
		}
		sort.Sort(m)
		return m
	}
	v := make(promql.Vector, 0, len(m))
	for _, s := range m {
		v = append(v, promql.Sample{Metric: s.Metric, T: s.Floats[0].T, F: s.Floats[0].F})
	}
	return v
}

// prepared is expressions that the engine is to run instead of parsing them, by the text that stands for them.
type prepared struct {
	parser.Parser
	exprs sync.Map // string → parser.Expr
	count atomic.Uint64
}

// ParseExpr is the prepared expression, or the parsed text.
func (p *prepared) ParseExpr(text string) (parser.Expr, error) {
	if expr, ok := p.exprs.LoadAndDelete(text); ok {
		return expr.(parser.Expr), nil
	}
	return p.Parser.ParseExpr(text)
}

// text stands for expr, once. No request can say it: it is not in PromQL.
func (p *prepared) text(expr parser.Expr) string {
	text := "\x00" + strconv.FormatUint(p.count.Add(1), 10)
	p.exprs.Store(text, expr)
	return text
}

// replaced is expr with a selector in place of each part. It keeps its place in the text, for what warnings say of it.
func replaced(expr parser.Expr, parts []parser.Expr) parser.Expr {
	for i, p := range parts {
		if expr == p {
			m := labels.MustNewMatcher(labels.MatchEqual, partLabel, strconv.Itoa(i))
			return &parser.VectorSelector{LabelMatchers: []*labels.Matcher{m}, PosRange: expr.PositionRange()}
		}
	}
	switch e := expr.(type) {
	case *parser.AggregateExpr:
		e.Expr = replaced(e.Expr, parts)
	case *parser.BinaryExpr:
		e.LHS, e.RHS = replaced(e.LHS, parts), replaced(e.RHS, parts)
	case *parser.ParenExpr:
		e.Expr = replaced(e.Expr, parts)
	case *parser.UnaryExpr:
		e.Expr = replaced(e.Expr, parts)
	case *parser.Call:
		for i := range e.Args {
			e.Args[i] = replaced(e.Args[i], parts)
		}
	}
	return expr
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
