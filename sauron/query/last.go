package query

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
)

// LastPoint is the newest value of a series.
type LastPoint struct {
	Labels kemi.Labels
	At     kemi.Millis
	Value  float64
}

// lastWindows are how far back the newest values are looked for, in steps: most series have one in the last hour.
var lastWindows = []int64{rowMillis, 24 * rowMillis, 30 * 24 * rowMillis, int64(maxTime)}

// Last is the newest value within back (milliseconds) of each series that the selector finds and that is wanted (nil = all are), ordered by labels.
func (e *Engine) Last(ctx context.Context, id kemi.Identity, sel store.Selector, wanted func(kemi.Labels) bool, back int64) ([]LastPoint, error) {
	ctx, b, err := e.admit(ctx, id)
	if err != nil {
		return nil, err
	}
	defer b.done()
	now := int64(kemi.MillisOf(e.o.Now()))
	open := map[string]bool{} // series without a value so far
	for ls, err := range e.o.Store.Series(ctx, id, sel, kemi.Range{From: kemi.Millis(max(0, now-back)), To: maxTime}) {
		if err != nil {
			return nil, err
		}
		if wanted != nil && !wanted(ls) {
			continue
		}
		if b.series++; b.read() != nil {
			return nil, b.read()
		}
		open[seriesID(ls)] = true
	}
	var points []LastPoint
	to := maxTime
	for _, window := range lastWindows {
		from := kemi.Millis(max(0, now-min(window, back)))
		if len(open) == 0 || from >= to {
			break
		}
		newest := map[string]LastPoint{}
		for pts, err := range e.o.Store.Select(ctx, id, sel, kemi.Range{From: from, To: to}) {
			if err != nil {
				return nil, err
			}
			if err := b.work(int64(len(pts.At))); err != nil {
				return nil, err
			}
			n := len(pts.At)
			key := seriesID(pts.Labels)
			if n == 0 || !open[key] {
				continue
			}
			if had, ok := newest[key]; !ok {
				newest[key] = LastPoint{cloneLabels(pts.Labels), pts.At[n-1], pts.Values[n-1]}
			} else if pts.At[n-1] > had.At {
				newest[key] = LastPoint{had.Labels, pts.At[n-1], pts.Values[n-1]}
			}
		}
		for key, p := range newest {
			delete(open, key)
			points = append(points, p)
		}
		to = from
	}
	slices.SortFunc(points, func(x, y LastPoint) int { return cmp.Or(x.Labels.Compare(y.Labels), cmp.Compare(x.At, y.At)) })
	return points, nil
}

// lastQuery is one query of query/last: a series by its metric and tags, or series by TSUID.
type lastQuery struct {
	Metric string
	Tags   pairs
	Tsuids []string
}

type lastRequest struct {
	Queries      []lastQuery
	ResolveNames boolean
	BackScan     scalar
}

func (e *Engine) serveLast(x *tsdhttp.Exchange) error {
	var in lastRequest
	if x.R.Method == http.MethodPost {
		if err := x.Object(&in); err != nil {
			return err
		}
	} else {
		in.ResolveNames, in.BackScan = boolean(x.Params.Has("resolve")), scalar(x.Get("back_scan"))
		for _, t := range x.Params["timeseries"] {
			q, err := parseSeries(t)
			if err != nil {
				return err
			}
			in.Queries = append(in.Queries, q)
		}
		for _, t := range x.Params["tsuids"] {
			in.Queries = append(in.Queries, lastQuery{Tsuids: strings.Split(t, ",")})
		}
	}
	hours, ok := count(string(in.BackScan), 0)
	if !ok {
		return tsdhttp.Bad("Unable to parse back_scan parameter", "it is a number of hours")
	}
	if len(in.Queries) == 0 {
		return tsdhttp.Bad("Missing sub queries", "at least one timeseries or tsuids is needed")
	}
	if hours < 0 {
		return tsdhttp.Bad("Backscan must be zero or a positive number", "it is a number of hours")
	}
	if n := len(in.Queries); n > e.o.Config.MaxQueries {
		return kemi.Errorf(kemi.ErrTooLarge, "%d queries in a request are more than maxQueries = %d: send several requests", n, e.o.Config.MaxQueries)
	}
	var points []LastPoint
	for _, q := range in.Queries {
		more, err := e.lastOf(x, q, hours)
		if err != nil {
			return err
		}
		points = append(points, more...)
	}
	series := make([]kemi.Labels, len(points))
	for i, p := range points {
		series[i] = p.Labels
	}
	ids, err := e.TSUIDs(x.R.Context(), x.ID, series)
	if err != nil {
		return err
	}
	out := make([]map[string]any, len(points))
	for i, p := range points {
		out[i] = map[string]any{"timestamp": int64(p.At), "value": strings.Trim(string(appendValue(nil, p.Value, false)), `"`), "tsuid": ids[i]}
		if in.ResolveNames {
			out[i]["metric"], out[i]["tags"] = p.Labels.Get(kemi.MetricName), withoutName(p.Labels)
		}
	}
	return x.JSON(out)
}

// parseSeries reads metric{tagk=tagv,…}.
func parseSeries(s string) (q lastQuery, err error) {
	metric, rest, ok := strings.Cut(s, "{")
	q.Metric = metric
	if !ok {
		return q, nil
	}
	if rest, ok = strings.CutSuffix(rest, "}"); !ok {
		return q, tsdhttp.Badf("Missing '}' at the end of: %s", clip(s))
	}
	for _, t := range strings.Split(rest, ",") {
		if rest == "" {
			break
		}
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" || v == "" || strings.Contains(v, "=") {
			return q, tsdhttp.Badf("When parsing tag '%s': invalid tag: %s", clip(t), clip(t))
		}
		q.Tags = append(q.Tags, kemi.Label{Name: k, Value: v})
	}
	return q, nil
}

// lastOf answers one query. With a number of hours it is about the one series that has these tags and no others, otherwise about all that have them.
func (e *Engine) lastOf(x *tsdhttp.Exchange, q lastQuery, hours int) ([]LastPoint, error) {
	ctx := x.R.Context()
	back := int64(maxTime)
	if hours > 0 {
		back = min(int64(hours)*rowMillis, back)
	}
	if len(q.Tsuids) > 0 {
		series, err := e.seriesOf(ctx, x.ID, q.Tsuids)
		if err != nil {
			return nil, err
		}
		var points []LastPoint
		for _, ls := range series {
			if ls == nil {
				continue
			}
			more, err := e.Last(ctx, x.ID, selectorOf(ls), func(o kemi.Labels) bool { return len(o) == len(ls) }, back)
			if err != nil {
				return nil, err
			}
			points = append(points, more...)
		}
		return points, nil
	}
	switch {
	case q.Metric == "":
		return nil, tsdhttp.Bad("Metric cannot be null or empty", "name a metric and tags, or tsuids")
	case hours > 0 && len(q.Tags) == 0:
		return nil, tsdhttp.Bad("Tags cannot be null or empty when getting a TSUID", "with back_scan all tags of the series are needed")
	}
	if err := e.checkTags(ctx, x.ID, q.Metric, q.Tags, func(string) bool { return false }); err != nil {
		return nil, err
	}
	sel := store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: q.Metric}}
	for _, t := range q.Tags {
		sel = append(sel, store.Matcher{Op: store.Equal, Name: t.Name, Value: t.Value})
	}
	var wanted func(kemi.Labels) bool
	if hours > 0 {
		wanted = func(o kemi.Labels) bool { return len(o) == len(q.Tags)+1 }
	}
	return e.Last(ctx, x.ID, sel, wanted, back)
}

// LastOf is when the newest value of one series is; 0 if it has none.
func (e *Engine) LastOf(ctx context.Context, id kemi.Identity, ls kemi.Labels) (kemi.Millis, error) {
	points, err := e.Last(ctx, id, selectorOf(ls), func(o kemi.Labels) bool { return len(o) == len(ls) }, int64(maxTime))
	if err != nil || len(points) == 0 {
		return 0, err
	}
	return points[0].At, nil
}

// maxSeriesOf is how many series SeriesOf finds.
const maxSeriesOf = 1000

// SeriesOf are the series of metric{tagk=tagv,…}, at most a thousand.
func (e *Engine) SeriesOf(ctx context.Context, id kemi.Identity, m string) ([]kemi.Labels, error) {
	q, err := parseSeries(m)
	if err != nil {
		return nil, err
	}
	err = e.checkTags(ctx, id, q.Metric, nil, nil)
	if told := new(tsdhttp.Error); errors.As(err, &told) {
		return nil, tsdhttp.NotFound("Unable to find one of the UIDs", told.Message)
	}
	if err == nil {
		err = e.checkTags(ctx, id, "", q.Tags, func(string) bool { return false })
	}
	if err != nil {
		return nil, err
	}
	return e.lookup(ctx, id, q.Metric, q.Tags, maxSeriesOf)
}
