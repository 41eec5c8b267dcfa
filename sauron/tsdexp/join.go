package tsdexp

import (
	"math"
	"slices"
	"sort"
	"strings"

	"kemi"
	"kemi/sauron/query"
	"kemi/sauron/tsdhttp"
)

// Set is what a name stands for: the results of a query, or of another expression.
type Set struct {
	Results []query.Result
	Fill    float64         // what a series counts as where it has no point
	Keys    map[string]bool // tag keys that the query filters by
}

// Join is how the series of several sets find each other: by all their tags, or (QueryTags) by those that the queries filter by, and (AggregateTags) by
// the keys of their aggregate tags. Intersection leaves out what is not in all sets.
type Join struct {
	Intersection, QueryTags, AggregateTags bool
}

// Row is one joined series.
type Row struct {
	Metrics       []string    // sorted
	Tags          kemi.Labels // of the first variable's series; none if it has none here
	Present       kemi.Labels // of the first series that there is
	AggregateTags []string    // sorted
	TSUIDs        []string
	Values        []float64 // at the times of the table
	Own           []bool    // whether a series of the row has a point then
}

// Table is joined series over the times at which any of them has a point.
type Table struct {
	At   []kemi.Millis
	Rows []Row
}

// key is what series are joined by; keys order as the tags do.
func (j Join) key(r *query.Result, keys map[string]bool) string {
	if len(r.Tags) == 0 {
		return ""
	}
	var b strings.Builder
	for _, t := range r.Tags {
		if !j.QueryTags || keys[t.Name] {
			b.WriteString(t.Name + "\x00" + t.Value + "\x00")
		}
	}
	if j.AggregateTags {
		for _, k := range sorted(r.AggregateTags) {
			b.WriteString("\x01" + k + "\x00")
		}
	}
	return b.String()
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	sort.Strings(s)
	return s
}

// Evaluate joins the sets of the expression's variables (in their order) and computes it at each time from start to end. room is asked before so many
// numbers are made.
func Evaluate(e *Expr, names []string, sets []Set, j Join, start, end kemi.Millis, room func(points int) error) (*Table, error) {
	byKey := map[string][]int{} // the index in each set, -1 = none
	for v := range sets {
		for i := range sets[v].Results {
			k := j.key(&sets[v].Results[i], sets[v].Keys)
			at := byKey[k]
			if at == nil {
				at = slices.Repeat([]int{-1}, len(sets))
				byKey[k] = at
			}
			at[v] = i
		}
	}
	keys := make([]string, 0, len(byKey))
	for k, at := range byKey {
		if !j.Intersection || !slices.Contains(at, -1) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 && len(byKey) > 0 {
		return nil, tsdhttp.Bad("No intersections found", "the variables have no series with the same tags: join them by union, or by useQueryTags")
	}
	sort.Strings(keys)
	var times []kemi.Millis
	for _, k := range keys {
		for v, i := range byKey[k] {
			if i >= 0 {
				times = append(times, within(sets[v].Results[i].At, start, end)...)
			}
		}
	}
	slices.Sort(times)
	t := &Table{At: slices.Compact(times)}
	if err := room(len(t.At) * len(keys)); err != nil {
		return nil, err
	}
	order := hashOrder(names)
	values := make([]float64, len(sets))
	next := make([]int, len(sets))
	for _, k := range keys {
		at := byKey[k]
		row := Row{Tags: kemi.Labels{}, Values: make([]float64, len(t.At)), Own: make([]bool, len(t.At))}
		for n, v := range order {
			if at[v] < 0 {
				continue
			}
			r := &sets[v].Results[at[v]]
			if n == 0 {
				row.Tags = r.Tags
			}
			if row.Present == nil {
				row.Present = r.Tags
			}
			row.Metrics = append(row.Metrics, strings.Split(r.Metric, metricSeparator)...)
			row.AggregateTags = append(row.AggregateTags, r.AggregateTags...)
			row.TSUIDs = append(row.TSUIDs, r.TSUIDs...)
		}
		for _, s := range []*[]string{&row.Metrics, &row.AggregateTags, &row.TSUIDs} {
			sort.Strings(*s)
			*s = slices.Compact(*s)
		}
		for v := range next {
			next[v] = 0
		}
		for i, x := range t.At {
			for v := range sets {
				values[v] = 0
				if at[v] < 0 {
					continue
				}
				r := &sets[v].Results[at[v]]
				for next[v] < len(r.At) && r.At[next[v]] < x {
					next[v]++
				}
				values[v] = sets[v].Fill
				if n := next[v]; n < len(r.At) && r.At[n] == x {
					row.Own[i] = true
					if !math.IsNaN(r.Values[n]) {
						values[v] = r.Values[n]
					}
				}
			}
			row.Values[i] = e.Eval(values)
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

// metricSeparator stands between the metrics of a result that is made of several.
const metricSeparator = "\x00"

// Results are the rows as results of a query, for expressions over this one.
func (t *Table) Results() []query.Result {
	out := make([]query.Result, len(t.Rows))
	for i, r := range t.Rows {
		out[i] = query.Result{
			Metric: strings.Join(r.Metrics, metricSeparator), Tags: r.Present, AggregateTags: r.AggregateTags, TSUIDs: r.TSUIDs, At: t.At, Values: r.Values,
		}
	}
	return out
}

func within(at []kemi.Millis, start, end kemi.Millis) []kemi.Millis {
	i, _ := slices.BinarySearch(at, start)
	j, found := slices.BinarySearch(at, end)
	if found {
		j++
	}
	return at[i:j]
}

// hashOrder is the order in which OpenTSDB looks at the variables, which shows where it takes the tags of the first: that of a Java HashMap of their names.
func hashOrder(names []string) []int {
	size := uint32(1) // of the table: made for so many, and doubled when it is more than three quarters full
	for int(size) < len(names) {
		size *= 2
	}
	if len(names) > int(size)*3/4 {
		size *= 2
	}
	bucket := func(s string) uint32 {
		var h uint32
		for _, c := range s {
			h = 31*h + uint32(c)
		}
		return (h ^ h>>16) & (size - 1)
	}
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool { return bucket(names[order[i]]) < bucket(names[order[j]]) })
	return order
}
