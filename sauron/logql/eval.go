package logql

import (
	"context"
	"iter"
	"math"
	"slices"
	"sort"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// Store is what is asked: the reading half of a store.LogStore.
type Store interface {
	Search(ctx context.Context, id kemi.Identity, q store.LogQuery) iter.Seq2[kemi.LogRecord, error]
	Series(ctx context.Context, id kemi.Identity, q store.LogQuery, by []string, step kemi.Nanos) ([]store.GroupSeries, error)
	Fields(ctx context.Context, id kemi.Identity, q store.LogQuery, top int) ([]store.LogField, error)
}

// Limits bound what a query may take.
type Limits struct {
	Series  int // of an answer or a step to it
	Samples int // values of lines that are held at once, and points of an answer
	Lines   int // that are looked at one by one
}

// DefaultLimits are limits that fit a machine of some gigabytes.
func DefaultLimits() Limits { return Limits{Series: 10_000, Samples: 4_000_000, Lines: 20_000_000} }

// Engine evaluates queries.
type Engine struct {
	store  Store
	limits Limits
}

// NewEngine makes an engine.
func NewEngine(s Store, l Limits) *Engine { return &Engine{store: s, limits: l} }

// Line is a line of an answer, with the labels that it has at the end of its way.
type Line struct {
	At     kemi.Nanos
	Labels kemi.Labels
	Line   string
}

// Stats is what a query has cost.
type Stats struct {
	Lines int64 // looked at one by one
	Bytes int64
}

// Lines yields the lines of a log query in the range, at most limit (0: all), the newest first unless ascending.
func (e *Engine) Lines(ctx context.Context, id kemi.Identity, q *LogQuery, r store.NanoRange, limit int, ascending bool, st *Stats) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		p := planOf(q)
		lq := store.LogQuery{Expr: p.expr, Range: r, Ascending: ascending}
		if len(p.rest) == 0 {
			lq.Limit = limit
		}
		n := 0
		for rec, err := range e.store.Search(ctx, id, lq) {
			if err != nil {
				yield(Line{}, err)
				return
			}
			st.Lines++
			st.Bytes += int64(len(rec.Body))
			if st.Lines > int64(e.limits.Lines) {
				yield(Line{}, kemi.Errorf(kemi.ErrLimited, "the query has looked at %d lines, the limit is %d: ask for a shorter time, or put line filters before parsers", st.Lines, e.limits.Lines))
				return
			}
			en := &entry{at: rec.At, line: rec.Body, labels: labelsOf(&rec)}
			en.stream = len(en.labels)
			if !run(en, p.rest) {
				continue
			}
			if !yield(Line{At: rec.At, Labels: en.sorted(), Line: en.line}, nil) {
				return
			}
			if n++; limit > 0 && n == limit {
				return
			}
		}
	}
}

func run(e *entry, stages []Stage) bool {
	for _, s := range stages {
		if !s.apply(e) {
			return false
		}
	}
	return true
}

// sorted are the labels, sorted, with __error__, without empty ones.
func (e *entry) sorted() kemi.Labels {
	out := slices.Clone(kemi.Labels(e.labels))
	if e.failed != "" {
		out = append(out, kemi.Label{Name: "__error__", Value: e.failed}, kemi.Label{Name: "__error_details__", Value: e.detail})
	}
	return out.Normalize()
}

// Series is a series of an answer: a value for each step, of which those that are absent are marked.
type Series struct {
	Labels  kemi.Labels
	Values  []float64
	Present []bool
}

// grid is the steps of a query.
type grid struct {
	start kemi.Nanos
	step  kemi.Nanos
	n     int
}

func (g grid) at(i int) kemi.Nanos { return g.start + kemi.Nanos(i)*g.step }

// Range evaluates what gives numbers at start, start+step, … up to end; Instant at one time. A number alone comes back as one series without labels.
func (e *Engine) Range(ctx context.Context, id kemi.Identity, x Expr, start, end kemi.Nanos, step time.Duration, st *Stats) ([]Series, error) {
	if step <= 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "step: %s: must be more than 0", step)
	}
	if end < start {
		return nil, kemi.Errorf(kemi.ErrInvalid, "end: must not be before start")
	}
	n := int64(end-start)/int64(step) + 1
	if n > 11_000 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "exceeded maximum resolution of 11,000 points per timeseries: %d points; take a longer step", n)
	}
	v := &evaluation{Engine: e, ctx: ctx, id: id, grid: grid{start, kemi.Nanos(step), int(n)}, stats: st}
	return v.eval(x)
}

// Instant evaluates at one time.
func (e *Engine) Instant(ctx context.Context, id kemi.Identity, x Expr, at kemi.Nanos, st *Stats) ([]Series, error) {
	v := &evaluation{Engine: e, ctx: ctx, id: id, grid: grid{at, 1, 1}, stats: st}
	return v.eval(x)
}

type evaluation struct {
	*Engine
	ctx   context.Context
	id    kemi.Identity
	grid  grid
	stats *Stats
}

func (v *evaluation) constant(n float64) []Series {
	s := Series{Values: make([]float64, v.grid.n), Present: make([]bool, v.grid.n)}
	for i := range s.Values {
		s.Values[i], s.Present[i] = n, true
	}
	return []Series{s}
}

func (v *evaluation) eval(x Expr) ([]Series, error) {
	if err := v.ctx.Err(); err != nil {
		return nil, err
	}
	switch x := x.(type) {
	case *Number:
		return v.constant(x.Value), nil
	case *Vector:
		return v.constant(x.Value), nil
	case *RangeAgg:
		return v.rangeAgg(x, nil)
	case *VectorAgg:
		// A sum by labels needs no more than them of what it sums.
		if r, ok := x.Of.(*RangeAgg); ok && x.Op == "sum" && (x.Grouping == nil || !x.Grouping.Without) {
			by := []string{}
			if x.Grouping != nil {
				by = x.Grouping.Labels
			}
			in, err := v.rangeAgg(r, &by)
			if err != nil {
				return nil, err
			}
			return v.vectorAgg(x, in)
		}
		in, err := v.eval(x.Of)
		if err != nil {
			return nil, err
		}
		return v.vectorAgg(x, in)
	case *Binary:
		return v.binary(x)
	case *LabelReplace:
		in, err := v.eval(x.Of)
		if err != nil {
			return nil, err
		}
		for i := range in {
			if m := x.re.FindStringSubmatchIndex(in[i].Labels.Get(x.Src)); m != nil {
				value := string(x.re.ExpandString(nil, x.Replacement, in[i].Labels.Get(x.Src), m))
				ls := slices.DeleteFunc(slices.Clone(in[i].Labels), func(l kemi.Label) bool { return l.Name == x.Dst })
				in[i].Labels = append(ls, kemi.Label{Name: x.Dst, Value: value}).Normalize()
			}
		}
		return in, nil
	}
	return nil, kemi.Errorf(kemi.ErrInvalid, "a log query has lines, not numbers: put it into an aggregation such as count_over_time({…} [5m])")
}

// rangeAgg evaluates an aggregation over ranges. by, if it is not nil, are the labels that the caller looks at.
func (v *evaluation) rangeAgg(a *RangeAgg, by *[]string) ([]Series, error) {
	p := planOf(a.Query)
	if len(p.rest) == 0 && a.Unwrap == nil && (a.Op == "count_over_time" || a.Op == "rate") {
		return v.counted(a, p.expr, by)
	}
	return v.byLines(a, p)
}

// maxBuckets is how many buckets the store is asked for at once.
const maxBuckets = 10_000

// counted lets the store count.
func (v *evaluation) counted(a *RangeAgg, expr store.LogExpr, by *[]string) ([]Series, error) {
	g := v.grid
	span := kemi.Nanos(a.Range)
	first := g.start - kemi.Nanos(a.Offset) - span + 1 // ranges are open at their beginning
	last := g.at(g.n-1) - kemi.Nanos(a.Offset) + 1
	bucket := span
	if g.n > 1 {
		bucket = gcd(span, g.step)
	}
	names := []string{}
	if by != nil {
		names = *by
	} else {
		fields, err := v.store.Fields(v.ctx, v.id, store.LogQuery{Expr: expr, Range: store.NanoRange{From: first, To: last}}, 0)
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			names = append(names, f.Name)
		}
	}
	if int64(last-first)/int64(bucket) > 50*maxBuckets {
		return nil, kemi.Errorf(kemi.ErrLimited, "range %s and step %s have only %s in common: %d pieces of time to count: take a step that the range is a multiple of", a.Range, time.Duration(g.step), time.Duration(bucket), int64(last-first)/int64(bucket))
	}
	type sums struct {
		labels kemi.Labels
		counts []int64
	}
	total := int((last - first + bucket - 1) / bucket)
	groups := map[string]*sums{}
	for from := 0; from < total; from += maxBuckets {
		n := min(maxBuckets, total-from)
		lo := first + kemi.Nanos(from)*bucket
		part, err := v.store.Series(v.ctx, v.id, store.LogQuery{Expr: expr, Range: store.NanoRange{From: lo, To: min(last, lo+kemi.Nanos(n)*bucket)}}, names, bucket)
		if err != nil {
			return nil, err
		}
		for _, gs := range part {
			k := gs.Labels.String()
			s := groups[k]
			if s == nil {
				if len(groups) >= v.limits.Series || (len(groups)+1)*total > 4*v.limits.Samples {
					return nil, v.tooMany(len(groups) + 1)
				}
				s = &sums{labels: cleanLabels(gs.Labels), counts: make([]int64, total+1)}
				groups[k] = s
			}
			for i, c := range gs.Counts {
				s.counts[from+i+1] = c
			}
		}
	}
	out := make([]Series, 0, len(groups))
	for _, s := range groups {
		for i := 1; i < len(s.counts); i++ { // sums up to here
			s.counts[i] += s.counts[i-1]
		}
		r := Series{Labels: s.labels, Values: make([]float64, g.n), Present: make([]bool, g.n)}
		some := false
		for i := range g.n {
			lo := int((g.at(i) - kemi.Nanos(a.Offset) - span + 1 - first) / bucket)
			hi := lo + int(span/bucket)
			if n := s.counts[min(hi, total)] - s.counts[lo]; n > 0 {
				r.Values[i], r.Present[i], some = float64(n), true, true
				if a.Op == "rate" {
					r.Values[i] /= a.Range.Seconds()
				}
			}
		}
		if some {
			out = append(out, r)
		}
	}
	return sortSeries(out), nil
}

// cleanLabels are labels as they are called here.
func cleanLabels(ls kemi.Labels) kemi.Labels {
	out := make(kemi.Labels, 0, len(ls))
	for _, l := range ls {
		if n := sanitize(l.Name); n != "" {
			out = append(out, kemi.Label{Name: n, Value: l.Value})
		}
	}
	return out.Normalize()
}

func gcd(a, b kemi.Nanos) kemi.Nanos {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func sortSeries(s []Series) []Series {
	slices.SortFunc(s, func(a, b Series) int { return a.Labels.Compare(b.Labels) })
	return s
}

func (v *evaluation) tooMany(n int) error {
	return kemi.Errorf(kemi.ErrLimited, "maximum of series (%d) reached for a single query: %d; aggregate by fewer labels, or narrow the selector", v.limits.Series, n)
}

// sample is the value of a line.
type sample struct {
	at kemi.Nanos
	v  float64
}

// byLines looks at each line.
func (v *evaluation) byLines(a *RangeAgg, p plan) ([]Series, error) {
	g := v.grid
	r := store.NanoRange{From: g.start - kemi.Nanos(a.Offset) - kemi.Nanos(a.Range) + 1, To: g.at(g.n-1) - kemi.Nanos(a.Offset) + 1}
	type lines struct {
		labels  kemi.Labels
		samples []sample
	}
	series := map[string]*lines{}
	held := 0
	for rec, err := range v.store.Search(v.ctx, v.id, store.LogQuery{Expr: p.expr, Range: r, Ascending: true}) {
		if err != nil {
			return nil, err
		}
		v.stats.Lines++
		v.stats.Bytes += int64(len(rec.Body))
		if v.stats.Lines > int64(v.limits.Lines) {
			return nil, kemi.Errorf(kemi.ErrLimited, "the query has looked at %d lines, the limit is %d: ask for a shorter time, or put line filters before parsers", v.stats.Lines, v.limits.Lines)
		}
		e := &entry{at: rec.At, line: rec.Body, labels: labelsOf(&rec)}
		e.stream = len(e.labels)
		if !run(e, p.rest) {
			continue
		}
		value := 1.0
		switch {
		case a.Unwrap != nil:
			text, ok := e.get(a.Unwrap.Label)
			if !ok {
				continue
			}
			kind := map[string]byte{"": 'n', "duration": 'd', "duration_seconds": 'd', "bytes": 'b'}[a.Unwrap.Convert]
			n, err := convert(text, kind)
			if err != nil {
				e.fail("SampleExtractionErr", err)
			}
			if kind == 'd' {
				n /= 1e9
			}
			value = n
			e.remove(a.Unwrap.Label)
			if !run(e, a.Unwrap.Filters) {
				continue
			}
		case a.Op == "bytes_over_time" || a.Op == "bytes_rate":
			value = float64(len(e.line))
		}
		if e.failed != "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "pipeline error: %s (%s): use a label filter to leave such lines out: | __error__=\"\"; the line: %.100q", e.failed, e.detail, rec.Body)
		}
		ls := e.sorted()
		if a.Grouping != nil {
			ls = group(ls, a.Grouping)
		}
		k := ls.String()
		s := series[k]
		if s == nil {
			if len(series) >= v.limits.Series {
				return nil, v.tooMany(len(series) + 1)
			}
			s = &lines{labels: ls}
			series[k] = s
		}
		s.samples = append(s.samples, sample{rec.At, value})
		if held++; held > v.limits.Samples {
			return nil, kemi.Errorf(kemi.ErrLimited, "the query holds %d values of lines, the limit is %d: ask for a shorter time, or narrow the selector", held, v.limits.Samples)
		}
	}
	if a.Op == "absent_over_time" {
		var all []sample
		for _, s := range series {
			all = append(all, s.samples...)
		}
		slices.SortFunc(all, func(a, b sample) int { return int(max(-1, min(1, a.at-b.at))) })
		return v.absent(a, all), nil
	}
	var out []Series
	for _, s := range series {
		r := Series{Labels: s.labels, Values: make([]float64, g.n), Present: make([]bool, g.n)}
		some := false
		from, to := 0, 0
		for i := range g.n {
			end := g.at(i) - kemi.Nanos(a.Offset)
			for to < len(s.samples) && s.samples[to].at <= end {
				to++
			}
			for from < to && s.samples[from].at <= end-kemi.Nanos(a.Range) {
				from++
			}
			if from < to {
				r.Values[i], r.Present[i], some = aggregate(a, s.samples[from:to], end), true, true
			}
		}
		if some {
			out = append(out, r)
		}
	}
	return sortSeries(out), nil
}

// absent is 1 where there is no line.
func (v *evaluation) absent(a *RangeAgg, all []sample) []Series {
	var ls kemi.Labels
	for _, m := range a.Query.Matchers {
		if m.Type == MatchEqual {
			ls = append(ls, kemi.Label{Name: m.Name, Value: m.Value})
		}
	}
	r := Series{Labels: ls.Normalize(), Values: make([]float64, v.grid.n), Present: make([]bool, v.grid.n)}
	some := false
	for i := range v.grid.n {
		end := v.grid.at(i) - kemi.Nanos(a.Offset)
		n := sort.Search(len(all), func(k int) bool { return all[k].at > end-kemi.Nanos(a.Range) })
		if n == len(all) || all[n].at > end {
			r.Values[i], r.Present[i], some = 1, true, true
		}
	}
	if !some {
		return nil
	}
	return []Series{r}
}

func aggregate(a *RangeAgg, s []sample, end kemi.Nanos) float64 {
	sum := func() (t float64) {
		for _, x := range s {
			t += x.v
		}
		return t
	}
	switch a.Op {
	case "count_over_time":
		return float64(len(s))
	case "rate":
		if a.Unwrap != nil {
			return sum() / a.Range.Seconds()
		}
		return float64(len(s)) / a.Range.Seconds()
	case "bytes_over_time", "sum_over_time":
		return sum()
	case "bytes_rate":
		return sum() / a.Range.Seconds()
	case "avg_over_time":
		return sum() / float64(len(s))
	case "min_over_time", "max_over_time":
		best := s[0].v
		for _, x := range s[1:] {
			if (x.v < best) == (a.Op == "min_over_time") {
				best = x.v
			}
		}
		return best
	case "first_over_time":
		return s[0].v
	case "last_over_time":
		return s[len(s)-1].v
	case "stdvar_over_time", "stddev_over_time":
		var mean, m2 float64
		for i, x := range s {
			d := x.v - mean
			mean += d / float64(i+1)
			m2 += d * (x.v - mean)
		}
		if m2 /= float64(len(s)); a.Op == "stddev_over_time" {
			return math.Sqrt(m2)
		}
		return m2
	case "quantile_over_time":
		vs := make([]float64, len(s))
		for i, x := range s {
			vs[i] = x.v
		}
		return quantile(a.Param, vs)
	case "rate_counter":
		return counterRate(s, a.Range, end)
	}
	return math.NaN()
}

func quantile(q float64, vs []float64) float64 {
	switch {
	case q < 0:
		return math.Inf(-1)
	case q > 1:
		return math.Inf(1)
	}
	slices.Sort(vs)
	rank := q * float64(len(vs)-1)
	lo := int(rank)
	hi := min(lo+1, len(vs)-1)
	w := rank - float64(lo)
	return vs[lo]*(1-w) + vs[hi]*w
}

// counterRate is the rate of a counter: what it rose, resets taken into account, extrapolated to the ends of the range as Prometheus does.
func counterRate(s []sample, span time.Duration, end kemi.Nanos) float64 {
	if len(s) < 2 {
		return 0
	}
	rise := s[len(s)-1].v - s[0].v
	for i := 1; i < len(s); i++ {
		if s[i].v < s[i-1].v {
			rise += s[i-1].v
		}
	}
	first, last := s[0].at, s[len(s)-1].at
	covered := float64(last-first) / 1e9
	toStart, toEnd := float64(first-(end-kemi.Nanos(span)))/1e9, float64(end-last)/1e9
	gap := covered / float64(len(s)-1)
	if rise > 0 && s[0].v >= 0 {
		toStart = min(toStart, covered*(s[0].v/rise))
	}
	extrapolated := covered
	for _, d := range []float64{toStart, toEnd} {
		if d < gap*1.1 {
			extrapolated += d
		} else {
			extrapolated += gap / 2
		}
	}
	if covered == 0 {
		return 0
	}
	return rise * (extrapolated / covered) / span.Seconds()
}

// group are the labels that a grouping keeps.
func group(ls kemi.Labels, g *Grouping) kemi.Labels {
	var out kemi.Labels
	for _, l := range ls {
		if g != nil && slices.Contains(g.Labels, l.Name) != g.Without {
			out = append(out, l)
		}
	}
	return out
}

func (v *evaluation) vectorAgg(a *VectorAgg, in []Series) ([]Series, error) {
	n := v.grid.n
	switch a.Op {
	case "sort", "sort_desc":
		slices.SortStableFunc(in, func(x, y Series) int {
			d := 0
			if x.Values[n-1] < y.Values[n-1] {
				d = -1
			} else if x.Values[n-1] > y.Values[n-1] {
				d = 1
			}
			if a.Op == "sort_desc" {
				d = -d
			}
			return d
		})
		return in, nil
	case "topk", "bottomk":
		return v.top(a, in), nil
	}
	type acc struct {
		Series
		counts []float64
		mean   []float64
	}
	groups := map[string]*acc{}
	var order []string
	for _, s := range in {
		ls := group(s.Labels, a.Grouping)
		k := ls.String()
		g := groups[k]
		if g == nil {
			g = &acc{Series: Series{Labels: ls, Values: make([]float64, n), Present: make([]bool, n)}, counts: make([]float64, n), mean: make([]float64, n)}
			groups[k] = g
			order = append(order, k)
		}
		for i, x := range s.Values {
			if !s.Present[i] {
				continue
			}
			g.counts[i]++
			switch {
			case a.Op == "stddev" || a.Op == "stdvar":
				d := x - g.mean[i]
				g.mean[i] += d / g.counts[i]
				g.Values[i] += d * (x - g.mean[i])
			case !g.Present[i]:
				g.Values[i] = x
			case a.Op == "min":
				g.Values[i] = min(g.Values[i], x)
			case a.Op == "max":
				g.Values[i] = max(g.Values[i], x)
			default:
				g.Values[i] += x
			}
			g.Present[i] = true
		}
	}
	out := make([]Series, 0, len(groups))
	for _, k := range order {
		g := groups[k]
		for i := range g.Values {
			if !g.Present[i] {
				continue
			}
			switch a.Op {
			case "avg":
				g.Values[i] /= g.counts[i]
			case "count":
				g.Values[i] = g.counts[i]
			case "stdvar":
				g.Values[i] /= g.counts[i]
			case "stddev":
				g.Values[i] = math.Sqrt(g.Values[i] / g.counts[i])
			}
		}
		out = append(out, g.Series)
	}
	return sortSeries(out), nil
}

// top keeps the largest or smallest of each group at each step.
func (v *evaluation) top(a *VectorAgg, in []Series) []Series {
	groups := map[string][]int{}
	for i, s := range in {
		k := ""
		if a.Grouping != nil {
			k = group(s.Labels, a.Grouping).String()
		}
		groups[k] = append(groups[k], i)
	}
	keep := make([][]bool, len(in))
	for i := range keep {
		keep[i] = make([]bool, v.grid.n)
	}
	for _, members := range groups {
		for step := range v.grid.n {
			var present []int
			for _, m := range members {
				if in[m].Present[step] {
					present = append(present, m)
				}
			}
			slices.SortStableFunc(present, func(x, y int) int {
				d := 0
				if in[x].Values[step] > in[y].Values[step] {
					d = -1
				} else if in[x].Values[step] < in[y].Values[step] {
					d = 1
				}
				if a.Op == "bottomk" {
					d = -d
				}
				return d
			})
			for _, m := range present[:min(a.Param, len(present))] {
				keep[m][step] = true
			}
		}
	}
	var out []Series
	for i, s := range in {
		if slices.Contains(keep[i], true) {
			s.Present = keep[i]
			out = append(out, s)
		}
	}
	if v.grid.n == 1 {
		slices.SortStableFunc(out, func(x, y Series) int {
			d := 0
			if x.Values[0] > y.Values[0] {
				d = -1
			} else if x.Values[0] < y.Values[0] {
				d = 1
			}
			if a.Op == "bottomk" {
				d = -d
			}
			return d
		})
	}
	return out
}

func scalar(x Expr) bool {
	_, ok := x.(*Number)
	return ok
}

func (v *evaluation) binary(b *Binary) ([]Series, error) {
	left, err := v.eval(b.Left)
	if err != nil {
		return nil, err
	}
	right, err := v.eval(b.Right)
	if err != nil {
		return nil, err
	}
	switch {
	case b.Op == "and" || b.Op == "or" || b.Op == "unless":
		return v.set(b, left, right)
	case scalar(b.Left):
		for i := range right {
			combine(b, &right[i], left[0].Values, right[i].Values, left[0].Present, right[i].Present, right[i].Values)
		}
		return present(right), nil
	case scalar(b.Right):
		for i := range left {
			combine(b, &left[i], left[i].Values, right[0].Values, left[i].Present, right[0].Present, left[i].Values)
		}
		return present(left), nil
	}
	many, one := left, right
	if b.Group == "right" {
		many, one = right, left
	}
	index := map[string]int{}
	for i, s := range one {
		k := matchKey(s.Labels, b.On)
		if _, twice := index[k]; twice {
			return nil, kemi.Errorf(kemi.ErrInvalid, "found duplicate series for the match group %s on one side of %s: many-to-many matching not allowed: matching labels must be unique on one side", k, b.Op)
		}
		index[k] = i
	}
	seen := map[string]bool{}
	var out []Series
	for _, s := range many {
		k := matchKey(s.Labels, b.On)
		i, ok := index[k]
		if !ok {
			continue
		}
		if b.Group == "" {
			if seen[k] {
				return nil, kemi.Errorf(kemi.ErrInvalid, "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)")
			}
			seen[k] = true
		}
		o := one[i]
		r := Series{Labels: s.Labels, Values: make([]float64, len(s.Values)), Present: make([]bool, len(s.Values))}
		switch {
		case b.Group != "":
			ls := slices.Clone(s.Labels)
			for _, name := range b.Include {
				ls = slices.DeleteFunc(ls, func(l kemi.Label) bool { return l.Name == name })
				if value := o.Labels.Get(name); value != "" {
					ls = append(ls, kemi.Label{Name: name, Value: value})
				}
			}
			r.Labels = ls.Normalize()
		case b.On != nil:
			r.Labels = group(s.Labels, b.On)
		}
		l, rr := s, o
		if b.Group == "right" {
			l, rr = o, s
		}
		combine(b, &r, l.Values, rr.Values, l.Present, rr.Present, l.Values)
		out = append(out, r)
	}
	return present(out), nil
}

// combine sets the values of r to left op right. A comparison keeps the values of kept where it holds, or with bool says 1 and 0.
func combine(b *Binary, r *Series, left, right []float64, leftOK, rightOK []bool, kept []float64) {
	values, ok := make([]float64, len(left)), make([]bool, len(left))
	for i := range left {
		if !leftOK[i] || !rightOK[i] {
			continue
		}
		x, holds := arithmetic(b.Op, left[i], right[i])
		switch {
		case precedence[b.Op] != 3:
			values[i], ok[i] = x, true
		case b.Bool:
			ok[i] = true
			if holds {
				values[i] = 1
			}
		case holds:
			values[i], ok[i] = kept[i], true
		}
	}
	r.Values, r.Present = values, ok
}

func present(in []Series) []Series {
	return slices.DeleteFunc(in, func(s Series) bool { return !slices.Contains(s.Present, true) })
}

func matchKey(ls kemi.Labels, on *Grouping) string {
	if on == nil {
		return ls.String()
	}
	return group(ls, on).String()
}

func (v *evaluation) set(b *Binary, left, right []Series) ([]Series, error) {
	other := map[string][]bool{}
	merge := func(in []Series) {
		for _, s := range in {
			k := matchKey(s.Labels, b.On)
			if other[k] == nil {
				other[k] = make([]bool, v.grid.n)
			}
			for i, p := range s.Present {
				other[k][i] = other[k][i] || p
			}
		}
	}
	keep := func(s *Series, want bool) {
		has := other[matchKey(s.Labels, b.On)]
		p := slices.Clone(s.Present)
		for i := range p {
			p[i] = p[i] && (has != nil && has[i]) == want
		}
		s.Present = p
	}
	if b.Op == "or" {
		merge(left)
		for i := range right {
			keep(&right[i], false)
		}
		return sortSeries(present(append(left, right...))), nil
	}
	merge(right)
	for i := range left {
		keep(&left[i], b.Op == "and")
	}
	return present(left), nil
}
