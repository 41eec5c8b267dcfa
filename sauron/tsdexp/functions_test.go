package tsdexp

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"kemi"
	"kemi/sauron/query"
)

func result(metric, host string, at kemi.Millis, values ...float64) query.Result {
	r := query.Result{Metric: metric, Tags: kemi.LabelsOf("host", host), AggregateTags: []string{}}
	for i, v := range values {
		if v == v {
			r.At, r.Values = append(r.At, at+kemi.Millis(i)*60_000), append(r.Values, v)
		}
	}
	return r
}

func free(int) error { return nil }

// show is a result as metric{host} time:value …, times in minutes.
func show(rs []query.Result) string {
	var out []string
	for _, r := range rs {
		s := r.Metric + "{" + r.Tags.Get("host") + "}"
		for i, t := range r.At {
			s += fmt.Sprintf(" %d:%.6g", t/60_000, r.Values[i])
		}
		out = append(out, s)
	}
	return strings.Join(out, " | ")
}

func TestCalls(t *testing.T) {
	gap := math.NaN()
	data := map[string][]query.Result{
		"sum:a": {result("a", "w1", 0, 1, 2, 3, 4), result("a", "w2", 0, 10, 20, 30, 5)},
		"sum:b": {result("b", "w1", 0, 2, gap, 6, 8), result("b", "w3", 60_000, 7, 7)},
		"sum:n": {result("n", "w1", 0, -1.5, 2, -3)},
	}
	for expr, want := range map[string]string{
		"scale(sum:a,2)":                   "a{w1} 0:2 1:4 2:6 3:8 | a{w2} 0:20 1:40 2:60 3:10",
		"scale( scale(sum:n,-2) , 10 )":    "n{w1} 0:30 1:-40 2:60",
		"absolute(sum:n)":                  "n{w1} 0:1.5 1:2 2:3",
		"alias(sum:n,cpu.@host.@no)":       "cpu.w1.@no{} 0:-1.5 1:2 2:-3",
		"movingAverage(sum:a,2)":           "a{w1} 0:0 1:1.5 2:2.5 3:3.5 | a{w2} 0:0 1:15 2:25 3:17.5",
		"movingAverage(sum:a,'2min')":      "a{w1} 0:0 1:0 2:2.5 3:3.5 | a{w2} 0:0 1:0 2:25 3:17.5",
		"highestMax(sum:a,1)":              "a{w2} 0:10 1:20 2:30 3:5",
		"highestCurrent(sum:a,5)":          "a{w2} 0:10 1:20 2:30 3:5 | a{w1} 0:1 1:2 2:3 3:4",
		"timeShift(sum:n,'1min')":          "n{w1} 1:-1.5 2:2 3:-3",
		"sumSeries(sum:a,sum:b)":           "a{w1} 0:3 1:2 2:9 3:12 | a{w2} 0:10 1:20 2:30 3:5 | b{w3} 1:7 2:7",
		"diffSeries(sum:b,sum:a)":          "a{w1} 0:1 1:-2 2:3 3:4 | a{w2} 0:-10 1:-20 2:-30 3:-5 | b{w3} 1:7 2:7",
		"divide(sum:a,sum:b)":              "a{w1} 0:0.5 1:0 2:0.5 3:0.5 | a{w2} 0:0 1:0 2:0 3:0 | b{w3} 1:0 2:0",
		"multiply(sum:b,scale(sum:a,0.5))": "a{w1} 0:1 1:0 2:9 3:16 | a{w2} 0:0 1:0 2:0 3:0 | b{w3} 1:0 2:0",
	} {
		var queries []string
		c, err := ParseCall(expr, &queries)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		before := fmt.Sprint(data)
		got, err := c.Eval(Range{0, 600_000}, func(i int) []query.Result { return data[queries[i]] }, free)
		if err != nil || show(got) != want {
			t.Errorf("%s\ngot  %s %v\nwant %s", expr, show(got), err, want)
		}
		if fmt.Sprint(data) != before {
			t.Fatalf("%s changed its input", expr)
		}
	}
}

func TestCallRefusals(t *testing.T) {
	for expr, want := range map[string]string{
		"scale(sum:a)": "Missing scaling factor", "scale(sum:a,x)": "Unparseable scale factor value: 0.0", "alias(sum:a)": "Missing the alias", "nope(sum:a)": "Function nope has not been implemented",
		"movingAverage(sum:a,0)": "Moving average window must be an integer greater than zero", "movingAverage(sum:a,'5x')": "Unknown time unit=x in window='5x'", "highestMax(sum:a,0)": "Top n value must be greater than zero: 0",
		"diffSeries(sum:a)": "Must have 2 to 26 series, got 1 instead", "scale(sum:a,2": "Failed to parse scale(sum:a,2", "sum:a": "Failed to parse sum:a", "": "Failed to parse ", "timeShift(sum:a,1m)": "Invalid moving window parameter: 1m",
		strings.Repeat("absolute(", 200) + "sum:a" + strings.Repeat(")", 200): "Failed to parse ",
	} {
		var queries []string
		c, err := ParseCall(expr, &queries)
		if err == nil {
			_, err = c.Eval(Range{0, 1}, func(int) []query.Result { return []query.Result{result("a", "w", 0, 1)} }, free)
		}
		if !errors.Is(err, kemi.ErrInvalid) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60s: %v, want %s", expr, err, want)
		}
	}
}

// TestRoom: what would be too much is asked before it is made.
func TestRoom(t *testing.T) {
	full := kemi.Errorf(kemi.ErrTooLarge, "full")
	var queries []string
	c, err := ParseCall("sumSeries(sum:a,sum:b)", &queries)
	if err != nil {
		t.Fatal(err)
	}
	in := []query.Result{result("a", "w1", 0, 1, 2), result("a", "w2", 0, 1, 2)}
	asked := 0
	_, err = c.Eval(Range{0, 600_000}, func(int) []query.Result { return in }, func(n int) error { asked += n; return full })
	if !errors.Is(err, full) || asked != 4 {
		t.Fatalf("%v, %d asked for", err, asked)
	}
}

func TestJoin(t *testing.T) {
	a := Set{Results: []query.Result{result("a", "w1", 0, 1, 2), result("a", "w2", 0, 3)}, Fill: math.NaN()}
	b := Set{Results: []query.Result{result("b", "w1", 0, 10), result("b", "w3", 60_000, 5)}, Fill: 100}
	e, err := Parse("a + b")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		join Join
		want string
	}{
		{Join{AggregateTags: true}, "[0 60000] w1 a,b [11 102] | w2 a [3 NaN] |  b [100 5]"},
		{Join{Intersection: true}, "[0 60000] w1 a,b [11 102]"},
		{Join{QueryTags: true}, "[0 60000] w2 a,b [103 NaN]"}, // no tag key is of the query: all are the same, and the last of each counts
	} {
		tab, err := Evaluate(e, []string{"a", "b"}, []Set{a, b}, c.join, 0, 600_000, free)
		if err != nil {
			t.Fatal(err)
		}
		var rows []string
		for _, r := range tab.Rows {
			rows = append(rows, fmt.Sprintf("%s %s %v", r.Tags.Get("host"), strings.Join(r.Metrics, ","), r.Values))
		}
		if got := fmt.Sprint(tab.At, " ", strings.Join(rows, " | ")); got != c.want {
			t.Errorf("%+v\ngot  %s\nwant %s", c.join, got, c.want)
		}
	}
}

func TestHashOrder(t *testing.T) {
	if got := hashOrder([]string{"e2", "b"}); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("%v", got)
	}
	if got := hashOrder([]string{"b", "a"}); !slices.Equal(got, []int{1, 0}) {
		t.Errorf("%v", got)
	}
}
