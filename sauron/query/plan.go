package query

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
)

// aggregatorsAre says where to look for them.
const aggregatorsAre = "an aggregator must be one of those that /api/aggregators lists"

// anyMetric is the metric of a query that selects by filters alone, nameKey the tag key that is the metric's name there.
const (
	anyMetric = "-"
	nameKey   = "metric"
)

// rowMillis is the width of a row of OpenTSDB: rows are read whole.
const rowMillis = 3_600_000

// plan is a query with everything decided that does not need data.
type plan struct {
	SubQuery
	index      int
	start, end int64      // both in
	scan       kemi.Range // what is read
	last       int64      // series that begin later have no part, though they are read
	any        bool       // metric "-"
	selector   store.Selector
	filters    []compiled
	groupBy    []compiled // one per tag key, by key
	groupName  bool       // grouped by the metric's name
	agg        aggregator
	down       downsample
	seek       int64           // samples before it take no part
	until      int64           // nor do samples from here on
	only       map[string]bool // with TSUIDs: the series that are wanted, by seriesID
	nothing    bool            // it is known beforehand that there is no answer
}

type downKind uint8

const (
	downNone downKind = iota
	downFixed
	downCalendar
	downAll
)

type fillPolicy uint8

const (
	fillNone fillPolicy = iota
	fillValue
	fillNull
)

// downsample is a parsed down-sampling specification.
type downsample struct {
	kind     downKind
	count    int64 // of units
	unit     unit
	interval int64 // milliseconds
	agg      aggregator
	fill     fillPolicy
	value    float64 // what fills, NaN for null
	loc      *time.Location
}

// parseDownsample reads <interval>-<aggregator>[-<fill>]. The interval is a duration, one with c behind it for a calendar interval, or 0all for the
// whole range as one. The fill is none, nan, null, zero, or scalar(x).
func parseDownsample(s string) (downsample, error) {
	var d downsample
	if s == "" {
		return d, nil
	}
	const example = "a downsample is an interval, a function and perhaps a fill policy, as in 15m-max or 1h-avg-nan"
	fail := func(format string, args ...any) (downsample, error) {
		return d, tsdhttp.Bad(fmt.Sprintf(format, args...), example)
	}
	switch parts := strings.Split(s, "-"); {
	case len(parts) < 2:
		return fail("Invalid downsampling specifier '%s': must provide at least interval and function", clip(s))
	case len(parts) > 3 && !strings.HasPrefix(parts[2], "scalar("):
		return fail("Invalid downsampling specifier '%s': must consist of interval, function, and optional fill policy", clip(s))
	}
	parts := strings.SplitN(s, "-", 3)
	d.kind = downFixed
	interval := parts[0]
	if digits, ok := strings.CutSuffix(interval, "all"); ok {
		if digits != "" && !allDigits(digits) {
			return fail("Invalid downsampling specifier '%s': an interval over the whole range is written 0all", clip(s))
		}
		d.kind = downAll
	} else {
		if short, ok := strings.CutSuffix(interval, "c"); ok {
			d.kind, interval = downCalendar, short
		}
		var err error
		if d.count, d.unit, err = splitDuration(interval); err != nil {
			return d, err
		}
		if d.interval, err = ParseDuration(interval); err != nil {
			return d, err
		}
	}
	var ok bool
	if d.agg, ok = aggregatorOf(parts[1]); !ok {
		return fail("No such downsampling function: %s", clip(parts[1]))
	}
	if d.agg.fn == fnNone {
		return fail("cannot use the NONE aggregator for downsampling")
	}
	if len(parts) == 3 {
		switch fill := strings.ToLower(parts[2]); {
		case fill == "none":
		case fill == "nan":
			d.fill, d.value = fillValue, math.NaN()
		case fill == "null":
			d.fill, d.value = fillNull, math.NaN()
		case fill == "zero":
			d.fill = fillValue
		case strings.HasPrefix(fill, "scalar(") && strings.HasSuffix(fill, ")"):
			v, err := strconv.ParseFloat(fill[len("scalar("):len(fill)-1], 64)
			if err != nil || math.IsInf(v, 0) {
				return fail("Unrecognized fill policy: %s: scalar needs a number as in scalar(1.5)", clip(parts[2]))
			}
			d.fill, d.value = fillValue, v
		case fill == "scalar":
			return fail("Unrecognized fill policy: scalar needs its number as in scalar(1.5)")
		default:
			return d, tsdhttp.Bad("Unrecognized fill policy: "+clip(parts[2]), "must be none, nan, null, zero or scalar(x)")
		}
	}
	return d, nil
}

// newPlan checks the query and decides how it is answered.
func newPlan(r *Request, i int) (*plan, error) {
	q := r.Queries[i]
	p := &plan{SubQuery: q, index: i, start: int64(r.Start), end: int64(r.End), any: q.Metric == anyMetric}
	if p.start < 0 || p.end <= p.start {
		return nil, tsdhttp.Badf("End time [%d] must be greater than the start time [%d]", p.end, p.start)
	}
	if p.start >= int64(maxTime) {
		return nil, tsdhttp.Bad(fmt.Sprintf("Invalid time: %d", p.start), "must lie between 1970 and 2286")
	}
	p.end = min(p.end, int64(maxTime))
	if q.Aggregator == "" {
		return nil, tsdhttp.Bad("Missing the aggregation function", aggregatorsAre)
	}
	var ok bool
	if p.agg, ok = aggregatorOf(q.Aggregator); !ok {
		return nil, tsdhttp.Bad("No such aggregation function: "+clip(q.Aggregator), aggregatorsAre)
	}
	if q.Metric == "" && len(q.TSUIDs) == 0 {
		return nil, tsdhttp.Badf("Missing the metric or tsuids, provide at least one")
	}
	if err := q.histograms(); err != nil {
		return nil, err
	}
	if !p.RateOptions.HasMax {
		p.RateOptions.CounterMax = math.MaxInt64
	}
	var err error
	if p.down, err = parseDownsample(q.Downsample); err != nil {
		return nil, err
	}
	if p.down.loc, err = location(r.Timezone); err != nil {
		return nil, err
	}
	if r.UseCalendar && p.down.kind == downFixed {
		p.down.kind = downCalendar
	}
	p.setScan()
	return p, p.setFilters()
}

// setScan decides what is read: whole rows, and whole intervals at the end.
func (p *plan) setScan() {
	from, to := p.start/1000, p.end/1000+1
	row := int64(rowMillis / 1000)
	if iv := p.down.interval; iv > 0 {
		from -= from * 1000 % iv / 1000
		to += (iv - to*1000%iv) / 1000
		to = (to + row - 1) / row * row
	} else {
		to += row - to%row
	}
	from -= from % row
	p.scan = kemi.Range{From: kemi.Millis(from * 1000), To: kemi.Millis(to * 1000)}
	p.seek, p.until, p.last = from*1000, math.MaxInt64, to*1000
	if p.ExplicitTags && len(p.Filters) > 0 { // OpenTSDB scans in another way then, one row further
		p.scan.To += rowMillis
	}
	switch p.down.kind {
	case downFixed: // an interval that begins before the rows is not whole
		p.seek = (p.seek + p.down.interval - 1) / p.down.interval * p.down.interval
	case downCalendar:
		if at := previousInterval(p.seek, p.down.count, p.down.unit, p.down.loc); at < p.seek {
			p.seek = addCalendar(at, p.down.count, p.down.unit, p.down.loc)
		}
	case downAll: // the end is not in, here
		p.seek, p.until = p.start, p.end
	}
}

// reduction is what the store can make of each interval itself: where intervals are fixed and what is read begins and ends with one.
func (p *plan) reduction() (store.Reduce, bool) {
	iv := kemi.Millis(p.down.interval)
	if p.down.kind != downFixed || p.scan.From%iv != 0 || p.scan.To%iv != 0 || int64(p.scan.From) != p.seek || p.until != math.MaxInt64 ||
		int64(p.scan.To) != p.last {
		return 0, false
	}
	return p.down.agg.reduction()
}

func (p *plan) setFilters() error {
	if !p.any {
		p.selector = store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: p.Metric}}
	}
	for _, f := range p.Filters {
		label := f.Tagk
		if p.any && label == nameKey {
			label = kemi.MetricName
		} else if label == kemi.MetricName {
			return tsdhttp.Bad("No such name for 'tagk': '"+label+"'", "the name of the metric is filtered with metric \"-\" and tagk \"metric\"")
		}
		if label == kemi.MetricName && f.Type == "literal_or" && f.Filter == "*" {
			f.Type = "wildcard" // no metric is called so: who writes it means all of them
		}
		c, err := f.compile(label)
		if err != nil {
			return err
		}
		p.filters = append(p.filters, c)
		if c.GroupBy && !slices.ContainsFunc(p.groupBy, func(o compiled) bool { return o.name == label }) {
			p.groupBy = append(p.groupBy, c)
			p.groupName = p.groupName || label == kemi.MetricName
		}
	}
	sort.SliceStable(p.groupBy, func(i, j int) bool { return p.groupBy[i].Tagk < p.groupBy[j].Tagk })
	p.selectFilters()
	return nil
}

// selectFilters makes the selector of the filters: all of them have to hold, but of several literal_or on one tag key it is enough that one does, as with
// OpenTSDB.
func (p *plan) selectFilters() {
	done := map[string]bool{}
	for _, c := range p.filters {
		if c.Type != "literal_or" {
			p.selector = append(p.selector, c.matchers...)
			continue
		}
		if done[c.name] {
			continue
		}
		done[c.name] = true
		f := c.Filter
		for _, o := range p.filters {
			if o.Type == "literal_or" && o.name == c.name && o.Filter.Filter != c.Filter.Filter {
				f.Filter += "|" + o.Filter.Filter
			}
		}
		if both, err := f.compile(c.name); err == nil { // as each of them did
			p.selector = append(p.selector, both.matchers...)
		}
	}
}

// keeps tells whether a result of a query by filters alone has that tag: if it was grouped by it, or if the result is one series.
func (p *plan) keeps(tagk string) bool {
	return p.agg.fn == fnNone || slices.ContainsFunc(p.groupBy, func(c compiled) bool { return c.name == tagk })
}

// match tells whether a series that the selector found is wanted.
func (p *plan) match(ls kemi.Labels) bool {
	if p.only != nil {
		return p.only[seriesID(ls)]
	}
	for i := range p.filters {
		if f := &p.filters[i]; f.match != nil && !f.match(ls.Get(f.name)) {
			return false
		}
	}
	if !p.ExplicitTags || len(p.filters) == 0 {
		return true
	}
	for _, l := range ls {
		if l.Name != kemi.MetricName && !slices.ContainsFunc(p.filters, func(c compiled) bool { return c.name == l.Name }) {
			return false
		}
	}
	return true
}

// exact tells whether the selector finds no other series than the query.
func (p *plan) exact() bool {
	if p.only != nil || p.ExplicitTags && len(p.filters) > 0 {
		return false
	}
	return !slices.ContainsFunc(p.filters, func(c compiled) bool { return c.match != nil })
}

// selectorOf is the selector of one series and (as a label that is not there cannot be asked for) of those that have more labels.
func selectorOf(ls kemi.Labels) store.Selector {
	sel := make(store.Selector, len(ls))
	for i, l := range ls {
		sel[i] = store.Matcher{Op: store.Equal, Name: l.Name, Value: l.Value}
	}
	return sel
}

// folds tells whether the series of a group can be added up in cells of a grid: one cell per interval.
func (p *plan) folds() bool {
	return (p.down.kind == downFixed || p.down.kind == downAll) && p.agg.folds()
}

// grid is where the intervals lie; a slot is the number of an interval.
type grid struct{ base, step int64 }

func (g grid) time(slot int64) int64 { return g.base + slot*g.step }

func (p *plan) grid() grid {
	if p.down.kind == downAll {
		return grid{base: p.start, step: 1}
	}
	return grid{step: p.down.interval}
}

// window is the first and the last slot that the answer has.
func (p *plan) window() (lo, hi int64) {
	if p.down.kind == downAll {
		return 0, 0
	}
	return (p.start + p.down.interval - 1) / p.down.interval, p.end / p.down.interval
}

// core is the intervals that the answer has, if a series that has all of them needs no others: what lies before and after is there to be
// interpolated from. Rates begin with what was before.
func (p *plan) core() kemi.Range {
	lo, hi := p.window()
	iv := p.down.interval
	from, to := max(lo*iv, int64(p.scan.From)), min((hi+1)*iv, int64(p.scan.To))
	if p.Rate || p.down.fill != fillNone || from >= to {
		return p.scan
	}
	return kemi.Range{From: kemi.Millis(from), To: kemi.Millis(to)}
}

// fillTimes are the times of all intervals, for fills; at most limit of them.
func (p *plan) fillTimes(limit int) ([]int64, error) {
	tooMany := func() error {
		return kemi.Errorf(kemi.ErrTooLarge, "query %d: downsample %q fills more intervals than maxPoints = %d: choose a longer interval, a shorter range, or the fill policy none", p.index, p.Downsample, limit)
	}
	var times []int64
	d := &p.down
	from, to := int64(p.scan.From), p.last
	switch {
	case d.fill == fillNone || d.kind == downNone || d.kind == downAll:
	case d.kind == downFixed:
		first, last := from/d.interval, to/d.interval
		if last-first > int64(limit) {
			return nil, tooMany()
		}
		for s := first; s < last; s++ {
			times = append(times, s*d.interval)
		}
	default:
		at := previousInterval(from, d.count, d.unit, d.loc)
		end := previousInterval(to, d.count, d.unit, d.loc)
		if end == at {
			end = addCalendar(end, d.count, d.unit, d.loc)
		}
		if (end-at)/d.interval > int64(limit)+int64(limit)/8 {
			return nil, tooMany()
		}
		for ; at < end; at = addCalendar(at, d.count, d.unit, d.loc) {
			times = append(times, at)
		}
	}
	return times, nil
}
