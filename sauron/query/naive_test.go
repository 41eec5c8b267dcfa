package query

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"kemi"
)

// naive answers one query the long way: it looks at every series and every time by itself and shares no code with the executor.
type naive struct {
	world      *world
	start, end int64
	agg        string
	interval   int64 // 0 = no down-sampling, -1 = all
	down, fill string
	rate       bool
	filters    []Filter
	name       string // of the metric, or "-"
}

func nums(vs []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(vs), math.IsNaN)
}

func naiveAgg(name string, vs []float64) float64 {
	all := vs
	vs = nums(vs)
	if name == "count" {
		return float64(len(vs))
	}
	if name == "first" || name == "none" {
		return all[0]
	}
	if name == "last" {
		return all[len(all)-1]
	}
	if len(vs) == 0 {
		return math.NaN()
	}
	sum, squares, product := 0.0, 0.0, 1.0
	for _, v := range vs {
		sum, squares = sum+v, squares+v*v
	}
	for _, v := range all {
		product *= v
	}
	sorted := slices.Sorted(slices.Values(vs))
	mean := sum / float64(len(vs))
	switch name {
	case "sum", "zimsum", "pfsum":
		return sum
	case "min", "mimmin":
		return sorted[0]
	case "max", "mimmax":
		return sorted[len(sorted)-1]
	case "avg":
		return mean
	case "dev":
		d := 0.0
		for _, v := range vs {
			d += (v - mean) * (v - mean)
		}
		return math.Sqrt(d / float64(len(vs)))
	case "median":
		return sorted[len(sorted)/2]
	case "mult":
		return product
	case "squareSum":
		return squares
	case "diff":
		if math.IsNaN(all[len(all)-1]) {
			return math.NaN()
		}
		return all[len(all)-1] - vs[0]
	}
	p := map[string]float64{"50": .5, "75": .75, "90": .9, "95": .95, "99": .99, "999": .999}[regexp.MustCompile("[0-9]+").FindString(name)]
	pos := p * float64(len(sorted)+1)
	if pos < 1 {
		return sorted[0]
	}
	if pos >= float64(len(sorted)) {
		return sorted[len(sorted)-1]
	}
	whole, part := math.Modf(pos)
	return sorted[int(whole)-1] + part*(sorted[int(whole)]-sorted[int(whole)-1])
}

func (n naive) wants(ls kemi.Labels) bool {
	if n.name != "-" && ls.Get(kemi.MetricName) != n.name {
		return false
	}
	for _, f := range n.filters {
		v := ls.Get(f.Tagk)
		if n.name == "-" && f.Tagk == "metric" {
			v = ls.Get(kemi.MetricName)
		}
		in := slices.Contains(strings.Split(f.Filter, "|"), v)
		switch f.Type {
		case "literal_or":
			if !in {
				return false
			}
		case "not_literal_or":
			if in || v == "" {
				return false
			}
		case "wildcard":
			if v == "" {
				return false
			}
		case "not_key":
			if v != "" {
				return false
			}
		}
	}
	return true
}

// points are a series' points by time after down-sampling and rate, and what it counts as before them if that is anything.
func (n naive) points(s worldSeries) (map[int64]float64, float64) {
	hour := int64(3_600_000)
	from, to := n.start-n.start%1000, n.end/1000*1000+1000
	if n.interval > 0 {
		from -= from % n.interval
		if to%n.interval != 0 {
			to += n.interval - to%n.interval
		} else {
			to += n.interval
		}
	}
	from -= from % hour
	if n.interval <= 0 || to%hour != 0 {
		to += hour - to%hour
	}
	buckets := map[int64][]float64{}
	for i, at := range s.at {
		t := int64(at)
		key := t
		switch {
		case n.interval > 0:
			key -= t % n.interval
			if key < from {
				continue
			}
		case n.interval < 0:
			key = n.start
			if t < n.start || t >= n.end {
				continue
			}
		}
		if t >= from && t < to {
			buckets[key] = append(buckets[key], s.v[i])
		}
	}
	out := map[int64]float64{}
	for t, vs := range buckets {
		out[t] = vs[0]
		if n.interval != 0 {
			out[t] = naiveAgg(n.down, vs)
		}
	}
	if n.fill != "" && n.interval > 0 && len(n.inScan(s, from, to)) > 0 {
		for t := from - from%n.interval; t < to-to%n.interval; t += n.interval {
			if _, ok := out[t]; !ok {
				out[t] = map[string]float64{"nan": math.NaN(), "null": math.NaN(), "zero": 0, "scalar(2.5)": 2.5}[n.fill]
			}
		}
	}
	if !n.rate {
		return out, 0
	}
	times := slices.Sorted(maps.Keys(out))
	rates := map[int64]float64{}
	seed, seeded := 0.0, false
	for i, t := range times {
		var t0 int64
		var v0 float64
		if i > 0 {
			t0, v0 = times[i-1], out[times[i-1]]
		}
		r := (out[t] - v0) / (float64(t-t0) / 1000)
		switch {
		case t < from:
		case !seeded:
			seed, seeded = r, true
		default:
			rates[t] = r
		}
	}
	return rates, seed
}

func (n naive) inScan(s worldSeries, from, to int64) (in []int) {
	for i, at := range s.at {
		if int64(at) >= from && int64(at) < to {
			in = append(in, i)
		}
	}
	return in
}

// valueAt is what a series counts as at x.
func (n naive) valueAt(pts map[int64]float64, seed float64, x int64) (float64, bool) {
	if v, ok := pts[x]; ok {
		return v, true
	}
	before, after := int64(-1), int64(-1)
	for t := range pts {
		if t < x && t > before {
			before = t
		}
		if t > x && (after < 0 || t < after) {
			after = t
		}
	}
	switch {
	case after < 0:
		return 0, false
	case n.rate && before < 0:
		return seed, true
	case n.rate:
		return pts[before], true
	case before < 0:
		return 0, false
	}
	switch n.agg {
	case "zimsum", "count", "first", "last", "squareSum", "none":
		return 0, true
	case "mimmin":
		return math.MaxFloat64, true
	case "mimmax":
		return -math.MaxFloat64, true
	case "pfsum":
		return pts[before], true
	}
	return pts[before] + (pts[after]-pts[before])*float64(x-before)/float64(after-before), true
}

func (n naive) answer() map[string]map[int64]float64 {
	type member struct {
		pts  map[int64]float64
		seed float64
	}
	groups := map[string][]member{}
	series := slices.Clone(n.world.series)
	slices.SortFunc(series, func(a, b worldSeries) int { return a.labels.Compare(b.labels) })
	for _, s := range series {
		if !n.wants(s.labels) {
			continue
		}
		key := ""
		for _, f := range n.filters {
			if f.GroupBy && f.Type != "not_key" {
				v := s.labels.Get(f.Tagk)
				if n.name == "-" && f.Tagk == "metric" {
					v = s.labels.Get(kemi.MetricName)
				}
				key += f.Tagk + "=" + v + ";"
			}
		}
		if n.agg == "none" {
			key = s.labels.String()
		}
		pts, seed := n.points(s)
		groups[key] = append(groups[key], member{pts, seed})
	}
	out := map[string]map[int64]float64{}
	for key, ms := range groups {
		dps := map[int64]float64{}
		for _, m := range ms {
			for x := range m.pts {
				if x < n.start || x > n.end || dps[x] != 0 {
					continue
				}
				var vs []float64
				for _, o := range ms {
					if v, ok := n.valueAt(o.pts, o.seed, x); ok {
						vs = append(vs, v)
					}
				}
				dps[x] = naiveAgg(n.agg, vs)
			}
		}
		if len(dps) > 0 {
			out[key] = dps
		}
	}
	return out
}

// TestAgainstNaive compares the executor with the naive answers to random questions, over stores that yield series whole, in pieces, and
// reduced.
func TestAgainstNaive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	answered := 0
	for range 12 {
		w := newWorld(rnd, "n.")
		for i := range w.series { // integers are the peer's affair
			for k := range w.series[i].v {
				w.series[i].v[k] += 0.125
			}
		}
		m := newMemory()
		w.each(func(ls kemi.Labels, at kemi.Millis, v float64, _ bool) { m.add(testID.Project, ls, at, v) })
		engines := []*Engine{newEngine(t, m), newEngine(t, reducing{m})}
		for range 150 {
			e := engines[rnd.IntN(2)]
			m.stretch = rnd.IntN(4)
			n := naive{
				world: w, name: oneOf(rnd, "n.a", "n.b", "-"), agg: oneOf(rnd, Aggregators()...), rate: rnd.IntN(3) == 0,
				interval: oneOf(rnd, int64(0), 0, -1, 10_000, 60_000, 420_000, 900_000, 3_600_000),
			}
			n.start = int64(worldStart) - 3_600_000 + rnd.Int64N(7_200_000)
			n.end = n.start + 1 + rnd.Int64N(7_200_000)
			q := SubQuery{Metric: n.name, Aggregator: n.agg, Rate: n.rate}
			if n.interval != 0 {
				for n.down = "none"; n.down == "none"; n.down = oneOf(rnd, Aggregators()...) {
				}
				q.Downsample = fmt.Sprintf("%dms-%s", n.interval, n.down)
				if n.interval < 0 {
					q.Downsample = "0all-" + n.down
				} else if n.fill = oneOf(rnd, "", "", "nan", "null", "zero", "scalar(2.5)"); n.fill != "" {
					q.Downsample += "-" + n.fill
				}
			}
			for _, tagk := range []string{"node", "area", "metric"} {
				if tagk == "metric" && n.name != "-" || rnd.IntN(2) == 0 {
					continue
				}
				value := map[string]string{"node": "srv00|srv01", "area": "Jeju", "metric": "n.a|n.b"}[tagk]
				f := Filter{Type: oneOf(rnd, "literal_or", "wildcard", "not_literal_or", "not_key"), Tagk: tagk, Filter: value, GroupBy: rnd.IntN(2) == 0}
				switch f.Type {
				case "wildcard":
					f.Filter = "*"
				case "not_key":
					f.Filter = ""
				}
				n.filters = append(n.filters, f)
			}
			q.Filters = n.filters
			r := Request{Start: kemi.Millis(n.start), End: kemi.Millis(n.end), Queries: []SubQuery{q}}
			results, _, err := e.Query(t.Context(), testID, r)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			compareNaive(t, n, q, results)
			for _, r := range results {
				answered += len(r.At)
			}
		}
	}
	if answered < 10_000 {
		t.Fatalf("the questions had only %d points as answers: they try nothing", answered)
	}
}

func compareNaive(t *testing.T, n naive, q SubQuery, results []Result) {
	t.Helper()
	got := map[string]map[int64]float64{}
	for _, r := range results {
		key := ""
		for _, f := range n.filters {
			if f.GroupBy && f.Type != "not_key" {
				key += f.Tagk + "=" + r.Tags.Get(f.Tagk) + ";"
			}
		}
		if n.agg == "none" {
			ls := r.Tags.With(kemi.MetricName, r.Metric)
			if n.name == "-" {
				ls = ls.With("metric", "")
			}
			key = ls.String()
		}
		if len(r.At) > 0 {
			if got[key] != nil {
				t.Fatalf("%+v: two results for %s", q, key)
			}
			got[key] = map[int64]float64{}
		}
		for i, at := range r.At {
			got[key][int64(at)] = r.Values[i]
		}
	}
	want := n.answer()
	same := len(got) == len(want)
	for key, dps := range want {
		same = same && len(dps) == len(got[key])
		for x, v := range dps {
			g, ok := got[key][x]
			same = same && ok && (g == v || g != g && v != v || math.Abs(g-v) <= 1e-9*max(1, math.Abs(g), math.Abs(v)))
		}
	}
	if !same {
		show := func(m map[string]map[int64]float64) string {
			out := ""
			for _, k := range slices.Sorted(maps.Keys(m)) {
				out += "\n  " + k
				for _, x := range slices.SortedFunc(maps.Keys(m[k]), cmp.Compare[int64]) {
					out += fmt.Sprintf(" %d:%g", x, m[k][x])
				}
			}
			return out
		}
		b, _ := json.Marshal(q)
		t.Fatalf("%d … %d %s\ngot %s\nwant%s", n.start, n.end, b, show(got), show(want))
	}
}
