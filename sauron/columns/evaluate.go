package columns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
)

// Source gives series in columns.
type Source interface {
	// Columns calls each for every series of the identity's project that matches and may have samples from mint to maxt (Unix milliseconds, both included), with
	// those samples: at ascends, and stale markers are among the values. Series come in the order of their labels. What each is given is used again after it
	// returns, but for the labels. It ends with errors.ErrUnsupported if a series has histograms, and with each's error.
	Columns(ctx context.Context, id kemi.Identity, mint, maxt int64, ms []*labels.Matcher, each func(ls labels.Labels, at []kemi.Millis, values []float64) error) error
}

// Steps are the times at which a query is evaluated, in Unix milliseconds: Start, Start+Interval, … up to End. An instant query has one, with any Interval.
type Steps struct {
	Start, End, Interval int64
	Lookback             int64 // how old a sample may be to be the value of a selector; positive
}

func (s Steps) count() int { return int((s.End-s.Start)/s.Interval) + 1 }

// Limits are what an evaluation may use.
type Limits struct {
	MaxSamples     int                                 // held at once: points of the answer and samples of a series
	MaxSamplesRead uint64                              // in all; 0 = no limit
	Series         func() error                        // is told of each series that is read; an error ends the evaluation
	Hold           func(series int, bytes int64) error // is told of what is held, before it is; likewise
	Work           func(samples int) error             // is told of samples that were read, and may wait so that others can go on; likewise
}

// Result is what a part comes to.
type Result struct {
	Matrix  promql.Matrix // in the order in which the engine has it where it selects series in the order of their labels
	Notes   annotations.Annotations
	Series  int // read
	Samples int64
}

// ErrLeft says that a part has to be left to the engine after all: its series have histograms, or some are the same but for their names.
var ErrLeft = fmt.Errorf("not in columns: %w", errors.ErrUnsupported)

const env = "query execution"

// Evaluate evaluates a part that Find found. The expression's selectors get their offsets set.
func Evaluate(ctx context.Context, src Source, id kemi.Identity, expr parser.Expr, steps Steps, l Limits) (Result, error) {
	p := partOf(expr)
	if p == nil || steps.Interval <= 0 || steps.End < steps.Start || steps.Lookback <= 0 {
		return Result{}, ErrLeft
	}
	p.selector.Offset = p.selector.OriginalOffset
	offset := p.selector.Offset.Milliseconds()
	e := &evaluation{part: p, steps: steps, n: steps.count(), offset: offset, limits: l, reach: steps.Lookback}
	if p.call != nil {
		e.reach = p.window.Range.Milliseconds()
		e.prepareCall()
	}
	if p.aggregate != nil {
		e.fold = newFold(p, e.n)
	}
	e.unique = uniqueNames(p.selector.LabelMatchers)
	err := src.Columns(ctx, id, steps.Start-offset-e.reach+1, steps.End-offset, p.selector.LabelMatchers, e.series)
	if errors.Is(err, errors.ErrUnsupported) {
		err = ErrLeft
	}
	if err != nil {
		return Result{}, err
	}
	if e.fold != nil {
		e.result.Matrix = e.fold.matrix(steps)
	}
	return e.result, nil
}

// uniqueNames tells whether the matchers let in one name only, so that series without their names are still different.
func uniqueNames(ms []*labels.Matcher) bool {
	for _, m := range ms {
		if m.Name == labels.MetricName && m.Type == labels.MatchEqual {
			return true
		}
	}
	return false
}

// evaluation is the state while series come.
type evaluation struct {
	*part
	steps  Steps
	n      int // steps
	offset int64
	reach  int64 // how far back of a step samples count, exclusive
	limits Limits
	fold   *fold
	result Result
	held   int // points

	unique   bool // no two series have the same labels without their names
	seen     map[uint64]struct{}
	function promql.FunctionCall
	args     parser.Expressions // the range selector, without parentheses, as the engine hands it over
	enh      promql.EvalNodeHelper
	in       promql.Matrix
	points   []promql.FPoint
	spare    []promql.FPoint // for the series of the answer
	native   window          // nil: function is asked
	samples  samples
	liveAt   []kemi.Millis
	live     []float64
	counters map[string]bool // names of counters, by looks

	// The series that is being read, at the steps where it has a value.
	at  []int32
	val []float64
}

func (e *evaluation) prepareCall() {
	e.function, e.native = promql.FunctionCalls[e.call.Func.Name], e.windowOf(e.call.Func.Name)
	e.args = parser.Expressions{e.window}
	e.in = make(promql.Matrix, 1)
	e.enh = promql.EvalNodeHelper{Out: make(promql.Vector, 0, 1)}
}

func (e *evaluation) series(ls labels.Labels, at []kemi.Millis, values []float64) error {
	e.result.Series++
	e.result.Samples += int64(len(at))
	if e.limits.Series != nil {
		if err := e.limits.Series(); err != nil {
			return err
		}
	}
	if e.limits.Work != nil {
		if err := e.limits.Work(len(at)); err != nil {
			return err
		}
	}
	if most := e.limits.MaxSamplesRead; most > 0 && uint64(e.result.Samples) > most {
		return promql.ErrTooManySamplesRead(env)
	}
	if e.held+len(at) > e.limits.MaxSamples {
		return promql.ErrTooManySamples(env)
	}
	e.at, e.val = e.at[:0], e.val[:0]
	if e.call == nil {
		e.instant(at, values)
	} else {
		e.windows(ls, at, values)
	}
	if len(e.at) == 0 {
		return nil
	}
	if e.call != nil {
		if err := e.notCounter(ls); err != nil {
			return err
		}
	}
	if e.call != nil && e.call.Func.Name != "last_over_time" {
		bare, err := e.withoutName(ls)
		if err != nil {
			return err
		}
		ls = bare
	}
	if e.fold != nil {
		return e.fold.add(ls, e.at, e.val, e.hold)
	}
	if err := e.hold(1, len(e.at)); err != nil {
		return err
	}
	s := promql.Series{Metric: ls, Floats: e.room(len(e.at))}
	for i, step := range e.at {
		s.Floats[i] = promql.FPoint{T: e.steps.Start + int64(step)*e.steps.Interval, F: e.val[i]}
	}
	e.result.Matrix = append(e.result.Matrix, s)
	return nil
}

// fewPoints is up to how many points a series has that shares its memory with others.
const fewPoints = 16

// room is for the n points of a series that is kept.
func (e *evaluation) room(n int) []promql.FPoint {
	if n > fewPoints {
		return make([]promql.FPoint, n)
	}
	if cap(e.spare)-len(e.spare) < n {
		e.spare = make([]promql.FPoint, 0, min(max(fewPoints, 2*cap(e.spare)), 64*fewPoints))
	}
	from := len(e.spare)
	e.spare = e.spare[:from+n]
	return e.spare[from : from+n : from+n]
}

// hold notes series and points that are kept.
func (e *evaluation) hold(series, points int) error {
	if e.held += points; e.held > e.limits.MaxSamples {
		return promql.ErrTooManySamples(env)
	}
	if e.limits.Hold == nil {
		return nil
	}
	return e.limits.Hold(series, int64(series)*512+int64(points)*16)
}

// withoutName is ls without the name. It is an error if another series has the same labels then, which the engine joins if it can.
func (e *evaluation) withoutName(ls labels.Labels) (labels.Labels, error) {
	bare := ls.DropReserved(schema.IsMetadataLabel)
	if e.unique {
		if ls.Has(model.MetricTypeLabel) || ls.Has(model.MetricUnitLabel) {
			return bare, ErrLeft
		}
		return bare, nil
	}
	if e.seen == nil {
		e.seen = map[uint64]struct{}{}
	}
	h := bare.Hash()
	if _, ok := e.seen[h]; ok {
		return bare, ErrLeft
	}
	e.seen[h] = struct{}{}
	return bare, nil
}

// instant finds the value at each step: of the newest sample that is not older than the lookback.
func (e *evaluation) instant(at []kemi.Millis, values []float64) {
	next := 0
	for i := range e.n {
		ref := kemi.Millis(e.steps.Start + int64(i)*e.steps.Interval - e.offset)
		for next < len(at) && at[next] <= ref {
			next++
		}
		if next == 0 || int64(ref-at[next-1]) >= e.reach {
			continue
		}
		if v := values[next-1]; math.Float64bits(v) != staleBits {
			e.at, e.val = append(e.at, int32(i)), append(e.val, v)
		}
	}
}

// staleBits is the NaN that says that a series ends.
const staleBits = 0x7ff0000000000002

// notCounter adds what the engine says of rates of what has not the name of a counter.
func (e *evaluation) notCounter(ls labels.Labels) error {
	if f := e.call.Func.Name; f != "rate" && f != "increase" {
		return nil
	}
	name := ls.Get(labels.MetricName)
	if known := e.counters[name]; known || name == "" {
		return nil
	}
	if e.counters == nil {
		e.counters = map[string]bool{}
	}
	e.counters[name] = true
	for _, suffix := range []string{"_total", "_sum", "_count", "_bucket"} {
		if strings.HasSuffix(name, suffix) {
			return nil
		}
	}
	e.result.Notes.Add(annotations.NewPossibleNonCounterInfo(name, e.window.PositionRange()))
	return nil
}
