package columns

import (
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/kahansum"
)

// fold is an aggregation under way: series are added one after another, each with the steps at which it has a value.
type fold struct {
	op       parser.ItemType
	quantile float64
	grouping []string // sorted
	without  bool
	n        int
	groups   []*group
	byHash   map[uint64]*group
	buf      []byte
	builder  *labels.Builder
}

// group is one series of the answer: what its series came to at each step.
type group struct {
	labels labels.Labels
	count  []float64 // series that had a value
	value  []float64 // the sum, the least, …
	extra  []float64 // what the sum lost by rounding; or the mean
	mean   []float64 // of averages whose sum would overflow; nil while none does
	atMean []bool    // where it is in use
	rows   []row     // for a quantile: the series themselves
}

type row struct {
	at  []int32
	val []float64
}

func newFold(p *part, n int) *fold {
	f := &fold{
		op: p.aggregate.Op, quantile: p.quantile, grouping: slices.Clone(p.aggregate.Grouping), without: p.aggregate.Without, n: n,
		byHash: map[uint64]*group{}, builder: labels.NewBuilder(labels.EmptyLabels()),
	}
	if f.without { // what a metric is called, and what it is, never tells groups apart then
		f.grouping = append(f.grouping, model.MetricNameLabel, model.MetricTypeLabel, model.MetricUnitLabel)
	}
	slices.Sort(f.grouping)
	return f
}

// group finds the group of a series, or begins one.
func (f *fold) group(ls labels.Labels, hold func(series, points int) error) (*group, error) {
	var h uint64
	switch {
	case f.without:
		h, f.buf = ls.HashWithoutLabels(f.buf, f.grouping...)
	case len(f.grouping) > 0:
		h, f.buf = ls.HashForLabels(f.buf, f.grouping...)
	}
	if g := f.byHash[h]; g != nil {
		return g, nil
	}
	columns := 2
	if f.op == parser.SUM || f.op == parser.AVG || f.op == parser.STDDEV || f.op == parser.STDVAR {
		columns = 3
	}
	if err := hold(1, f.n*columns/2); err != nil {
		return nil, err
	}
	g := &group{}
	f.builder.Reset(ls)
	switch {
	case f.without:
		f.builder.Del(f.grouping...)
		g.labels = f.builder.Labels()
	case len(f.grouping) > 0:
		f.builder.Keep(f.grouping...)
		g.labels = f.builder.Labels()
	}
	if f.op != parser.QUANTILE {
		all := make([]float64, f.n*columns)
		g.count, g.value = all[:f.n:f.n], all[f.n:2*f.n:2*f.n]
		if columns == 3 {
			g.extra = all[2*f.n:]
		}
	}
	f.byHash[h] = g
	f.groups = append(f.groups, g)
	return g, nil
}

// add folds a series in.
func (f *fold) add(ls labels.Labels, at []int32, val []float64, hold func(series, points int) error) error {
	g, err := f.group(ls, hold)
	if err != nil {
		return err
	}
	count, value, extra := g.count, g.value, g.extra
	switch f.op {
	case parser.SUM:
		for i, s := range at {
			if count[s] == 0 {
				count[s], value[s] = 1, val[i]
				continue
			}
			value[s], extra[s] = kahansum.Inc(val[i], value[s], extra[s])
		}
	case parser.AVG:
		for i, s := range at {
			if count[s] == 0 {
				count[s], value[s] = 1, val[i]
				continue
			}
			count[s]++
			g.average(int(s), val[i])
		}
	case parser.MIN:
		for i, s := range at {
			if count[s] == 0 || value[s] > val[i] || math.IsNaN(value[s]) {
				count[s], value[s] = 1, val[i]
			}
		}
	case parser.MAX:
		for i, s := range at {
			if count[s] == 0 || value[s] < val[i] || math.IsNaN(value[s]) {
				count[s], value[s] = 1, val[i]
			}
		}
	case parser.COUNT:
		for _, s := range at {
			count[s]++
			value[s]++
		}
	case parser.GROUP:
		for _, s := range at {
			count[s], value[s] = 1, 1
		}
	case parser.STDDEV, parser.STDVAR:
		for i, s := range at {
			v := val[i]
			if count[s]++; count[s] == 1 {
				extra[s] = v
				if math.IsNaN(v) || math.IsInf(v, 0) {
					value[s] = math.NaN()
				}
				continue
			}
			delta := v - extra[s]
			extra[s] += delta / count[s]
			value[s] += delta * (v - extra[s])
		}
	case parser.QUANTILE:
		if err := hold(0, len(at)); err != nil {
			return err
		}
		g.rows = append(g.rows, row{slices.Clone(at), slices.Clone(val)})
	}
	return nil
}

// average goes on with the sum as long as that does not overflow, and from there with the mean.
func (g *group) average(s int, v float64) {
	n := g.count[s]
	if g.mean == nil || !g.atMean[s] {
		sum, lost := kahansum.Inc(v, g.value[s], g.extra[s])
		if !math.IsInf(sum, 0) {
			g.value[s], g.extra[s] = sum, lost
			return
		}
		if g.mean == nil {
			g.mean, g.atMean = make([]float64, len(g.value)), make([]bool, len(g.value))
		}
		g.atMean[s] = true
		g.mean[s] = g.value[s] / (n - 1)
		g.extra[s] /= n - 1
	}
	q := (n - 1) / n
	g.mean[s], g.extra[s] = kahansum.Inc(v/n, q*g.mean[s], q*g.extra[s])
}

// matrix is the answer.
func (f *fold) matrix(steps Steps) promql.Matrix {
	out := make(promql.Matrix, 0, len(f.groups))
	for _, g := range f.groups {
		s := promql.Series{Metric: g.labels}
		if f.op == parser.QUANTILE {
			s.Floats = g.quantiles(f.quantile, steps, f.n)
		} else {
			s.Floats = make([]promql.FPoint, 0, f.n)
			for i, n := range g.count {
				if n > 0 {
					s.Floats = append(s.Floats, promql.FPoint{T: steps.Start + int64(i)*steps.Interval, F: f.final(g, i)})
				}
			}
		}
		out = append(out, s)
	}
	return out
}

// final is a group's value at step i.
func (f *fold) final(g *group, i int) float64 {
	switch f.op {
	case parser.SUM:
		return g.value[i] + g.extra[i]
	case parser.AVG:
		if g.mean != nil && g.atMean[i] {
			return g.mean[i] + g.extra[i]
		}
		return g.value[i]/g.count[i] + g.extra[i]/g.count[i]
	case parser.STDVAR:
		return g.value[i] / g.count[i]
	case parser.STDDEV:
		return math.Sqrt(g.value[i] / g.count[i])
	}
	return g.value[i]
}

// quantiles interpolates between the two series next to the rank, at each step.
func (g *group) quantiles(q float64, steps Steps, n int) []promql.FPoint {
	out := make([]promql.FPoint, 0, n)
	values := make([]float64, 0, len(g.rows))
	next := make([]int, len(g.rows))
	for i := range n {
		values = values[:0]
		for r, row := range g.rows {
			if k := next[r]; k < len(row.at) && row.at[k] == int32(i) {
				values = append(values, row.val[k])
				next[r]++
			}
		}
		if len(values) == 0 {
			continue
		}
		slices.Sort(values) // NaN is the least, as in the engine
		rank := q * (float64(len(values)) - 1)
		lower := math.Max(0, math.Floor(rank))
		upper := math.Min(float64(len(values))-1, lower+1)
		v := values[int(lower)]
		if weight := rank - math.Floor(rank); weight != 0 {
			v = values[int(lower)]*(1-weight) + values[int(upper)]*weight
		}
		out = append(out, promql.FPoint{T: steps.Start + int64(i)*steps.Interval, F: v})
	}
	return out
}
