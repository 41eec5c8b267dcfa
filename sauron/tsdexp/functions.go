package tsdexp

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"kemi"
	"kemi/sauron/query"
	"kemi/sauron/tsdhttp"
)

// Range is the time that an answer is for, both ends included.
type Range struct{ Start, End kemi.Millis }

// function makes results of those of its arguments, one list each, and its literals.
type function func(rg Range, inputs [][]query.Result, literals []string, room func(points int) error) ([]query.Result, error)

var functions map[string]function

func init() { //nolint:gochecknoinits // calls refer to functions, which evaluate calls
	functions = map[string]function{
		"scale": scale, "absolute": each(math.Abs), "alias": alias, "movingAverage": movingAverage, "timeShift": timeShift, "shift": timeShift,
		"highestMax": highest(func(v []float64) float64 { return slices.Max(v) }), "highestCurrent": highest(func(v []float64) float64 { return v[len(v)-1] }),
		"sumSeries": combine("+"), "sum": combine("+"), "diffSeries": combine("-"), "difference": combine("-"),
		"multiplySeries": combine("*"), "multiply": combine("*"), "divideSeries": combine("/"), "divide": combine("/"),
	}
}

func functionNames() []string { return slices.Sorted(maps.Keys(functions)) }

// Eval computes the call, results being those of its queries by their number. room is asked before so many numbers are made.
func (c *Call) Eval(rg Range, results func(i int) []query.Result, room func(points int) error) ([]query.Result, error) {
	inputs := make([][]query.Result, len(c.inputs))
	for i, in := range c.inputs {
		if in.call == nil {
			inputs[i] = results(in.query)
			continue
		}
		var err error
		if inputs[i], err = in.call.Eval(rg, results, room); err != nil {
			return nil, err
		}
	}
	if len(inputs) == 0 {
		return nil, nil
	}
	return c.fn(rg, inputs, c.literal, room)
}

// with is r with other values.
func with(r query.Result, values []float64) query.Result {
	r.Values = values
	return r
}

func flat(inputs [][]query.Result) []query.Result { return slices.Concat(inputs...) }

// each applies f to each value.
func each(f func(float64) float64) function {
	return func(_ Range, inputs [][]query.Result, _ []string, room func(int) error) ([]query.Result, error) {
		out := flat(inputs)
		for i, r := range out {
			if err := room(len(r.Values)); err != nil {
				return nil, err
			}
			values := make([]float64, len(r.Values))
			for k, v := range r.Values {
				values[k] = f(v)
			}
			out[i] = with(r, values)
		}
		return out, nil
	}
}

var (
	scaleFactor = regexp.MustCompile(`^[-0-9.]+$`)
	digits      = regexp.MustCompile(`^[0-9]+$`)
)

func scale(rg Range, inputs [][]query.Result, literals []string, room func(int) error) ([]query.Result, error) {
	if len(literals) == 0 {
		return nil, tsdhttp.Bad("Missing scaling factor", "scale(<series>,<factor>)")
	}
	f, err := strconv.ParseFloat(literals[0], 64)
	switch {
	case !scaleFactor.MatchString(literals[0]):
		return nil, tsdhttp.Bad("Unparseable scale factor value: 0.0", "scale: "+tsdhttp.Clip(literals[0])+": must be a number")
	case err != nil:
		return nil, tsdhttp.Bad("Invalid parameter, must be an integer or floating point", "scale: "+tsdhttp.Clip(literals[0]))
	}
	return each(func(v float64) float64 { return f * v })(rg, inputs, nil, room)
}

// alias gives results another name, in which @<tagk> is the value of the tag, and takes their tags away.
func alias(_ Range, inputs [][]query.Result, literals []string, _ func(int) error) ([]query.Result, error) {
	if len(literals) == 0 {
		return nil, tsdhttp.Bad("Missing the alias", "alias(<series>,<name>)")
	}
	name := strings.Join(literals, ",")
	out := flat(inputs)
	for i, r := range out {
		r.Metric = name
		for _, t := range r.Tags {
			r.Metric = strings.ReplaceAll(r.Metric, "@"+t.Name, t.Value)
		}
		r.Tags, r.AggregateTags = kemi.Labels{}, []string{}
		out[i] = r
	}
	return out, nil
}

// window reads a time in quotes: '5min', '1hr'.
func window(s string) (kemi.Millis, error) {
	inner, ok := strings.CutPrefix(s, "'")
	inner, closed := strings.CutSuffix(inner, "'")
	i := 0
	for i < len(inner) && isDigit(inner[i]) {
		i++
	}
	n, err := strconv.ParseInt(inner[:i], 10, 32)
	if !ok || !closed || err != nil {
		return 0, tsdhttp.Bad("Invalid moving window parameter: "+tsdhttp.Clip(s), "must be a time in quotes as '5min'")
	}
	units := map[string]int64{
		"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600, "hour": 3600, "d": 86400, "day": 86400, "days": 86400, "week": 7 * 86400, "weeks": 7 * 86400,
	}
	unit := strings.TrimSpace(inner[i:])
	u, ok := units[unit]
	if !ok {
		return 0, tsdhttp.Bad(fmt.Sprintf("Unknown time unit=%s in window=%s", tsdhttp.Clip(unit), tsdhttp.Clip(s)), "must be s, m, h, d, sec, min, hr, day or week")
	}
	return kemi.Millis(n * u * 1000), nil
}

// movingAverage averages so many values ending with each, or those of so much time; before there are as many it is 0.
func movingAverage(rg Range, inputs [][]query.Result, literals []string, room func(int) error) ([]query.Result, error) {
	if len(literals) == 0 {
		return nil, tsdhttp.Bad("Missing moving average window size", "movingAverage(<series>,<number of points or 'time'>)")
	}
	arg := literals[0]
	var span kemi.Millis
	n := 0
	switch {
	case digits.MatchString(arg):
		var err error
		if n, err = strconv.Atoi(arg); err != nil || n > math.MaxInt32 {
			return nil, tsdhttp.Bad("Invalid parameter, must be an integer", tsdhttp.Clip(arg))
		}
	case strings.HasPrefix(arg, "'") && strings.HasSuffix(arg, "'"):
		var err error
		if span, err = window(arg); err != nil {
			return nil, err
		}
	default:
		return nil, tsdhttp.Bad("Unparseable window size: "+tsdhttp.Clip(arg), "must be a number of points, or a time in quotes as '5min'")
	}
	if n == 0 && span == 0 {
		return nil, tsdhttp.Bad("Moving average window must be an integer greater than zero", tsdhttp.Clip(arg))
	}
	out := flat(inputs)
	for i, r := range out {
		if err := room(len(r.Values)); err != nil {
			return nil, err
		}
		out[i] = with(r, averages(r.At, r.Values, n, span))
	}
	return out, nil
}

// averages of the last n values that are numbers, or (n = 0) of those that are less than span older than the newest.
func averages(at []kemi.Millis, v []float64, n int, span kemi.Millis) []float64 {
	out := make([]float64, len(v))
	first, count := 0, 0 // the window begins at first and has count numbers
	sum, lost := 0.0, 0.0
	add := func(x float64) { // what is lost to rounding is kept, as numbers come and go many times
		s := sum + x
		if math.Abs(sum) >= math.Abs(x) {
			lost += sum - s + x
		} else {
			lost += x - s + sum
		}
		sum = s
	}
	drop := func() {
		if v[first] == v[first] {
			add(-v[first])
			count--
		}
		first++
	}
	for i := range v {
		if v[i] == v[i] {
			add(v[i])
			count++
		}
		full := false
		if n > 0 {
			for count > n {
				drop()
			}
			full = count == n
		} else {
			for at[i]-at[first] >= span {
				drop()
				full = true
			}
			full = full || first > 0 && at[i]-at[first-1] >= span
		}
		if full && count > 0 {
			out[i] = (sum + lost) / float64(count)
		}
	}
	return out
}

// timeShift moves results to later times.
func timeShift(_ Range, inputs [][]query.Result, literals []string, room func(int) error) ([]query.Result, error) {
	if len(literals) == 0 {
		return nil, tsdhttp.Bad("Need amount of timeshift to perform timeshift", "timeShift(<series>,'1hr')")
	}
	by, err := window(literals[0])
	if err != nil {
		return nil, err
	}
	if by <= 0 {
		return nil, tsdhttp.Bad("timeshift <= 0", tsdhttp.Clip(literals[0]))
	}
	out := slices.Clone(inputs[0])
	for i, r := range out {
		if err := room(len(r.At)); err != nil {
			return nil, err
		}
		at := make([]kemi.Millis, len(r.At))
		for k, t := range r.At {
			at[k] = t + by
		}
		r.At = at
		out[i] = r
	}
	return out, nil
}

// highest keeps the n results whose value by f is largest, the largest first.
func highest(f func(values []float64) float64) function {
	return func(rg Range, inputs [][]query.Result, literals []string, _ func(int) error) ([]query.Result, error) {
		if len(literals) == 0 {
			return nil, tsdhttp.Bad("Need aggregation window for moving average", "a function that keeps the highest needs to know how many: highestMax(<series>,5)")
		}
		if !digits.MatchString(literals[0]) {
			return nil, tsdhttp.Bad("Unparseable top n value: "+tsdhttp.Clip(literals[0]), "must be a number of series")
		}
		n, err := strconv.Atoi(literals[0])
		if err != nil {
			return nil, tsdhttp.Bad("Invalid parameter, must be an integer", tsdhttp.Clip(literals[0]))
		}
		if n < 1 {
			return nil, tsdhttp.Bad(fmt.Sprintf("Top n value must be greater than zero: %d", n), "must be a number of series")
		}
		type ranked struct {
			r   query.Result
			top float64
		}
		var all []ranked
		for _, r := range flat(inputs) {
			top := math.Inf(-1)
			v := slices.DeleteFunc(slices.Clone(r.Values[:len(within(r.At, rg.Start, rg.End))]), math.IsNaN)
			if len(v) > 0 {
				top = f(v)
			}
			all = append(all, ranked{r, top})
		}
		sort.SliceStable(all, func(i, j int) bool { return all[i].top > all[j].top })
		var out []query.Result
		for _, x := range all[:min(n, len(all))] {
			out = append(out, x.r)
		}
		return out, nil
	}
}

// combine computes a op b op c … of series with the same tags; one that has no partner, and a time at which it has no point, count as 0.
func combine(op string) function {
	return func(rg Range, inputs [][]query.Result, _ []string, room func(int) error) ([]query.Result, error) {
		if n := len(inputs); n < 2 || n > 26 {
			return nil, tsdhttp.Badf("Must have 2 to 26 series, got %d instead", n)
		}
		names := make([]string, len(inputs))
		sets := make([]Set, len(inputs))
		for i := range inputs {
			names[i] = string(rune('a' + i))
			sets[i].Results = inputs[i]
		}
		e, err := Parse(strings.Join(names, " "+op+" "))
		if err != nil {
			return nil, err
		}
		t, err := Evaluate(e, names, sets, Join{}, rg.Start, rg.End, room)
		if err != nil {
			return nil, err
		}
		out := t.Results()
		for i := range out { // it has the name of the first of them, and a time only where one of its own series has
			out[i].Metric, _, _ = strings.Cut(out[i].Metric, metricSeparator)
			row := &t.Rows[i]
			out[i].Noted = true // OpenTSDB shows that it has looked for annotations, and has none
			out[i].At, out[i].Values = nil, nil
			for k, own := range row.Own {
				if own {
					out[i].At, out[i].Values = append(out[i].At, t.At[k]), append(out[i].Values, row.Values[k])
				}
			}
		}
		return out, nil
	}
}
