package query

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sort"
	"strings"

	"kemi"
	"kemi/pipeline/store"
)

// The most names and series that a look-up answers.
const (
	maxSuggest = 100_000
	maxLookup  = 100_000
)

// Suggest is the names of a type (metrics, tagk, tagv) that begin with prefix, sorted, at most limit of them.
func (e *Engine) Suggest(ctx context.Context, id kemi.Identity, typ, prefix string, limit int) ([]string, error) {
	ctx, done, err := e.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	labels := []string{kemi.MetricName}
	if typ == "tagk" || typ == "tagv" {
		names, err := e.o.Store.LabelNames(ctx, id, nil, allTime, 0)
		if err != nil {
			return nil, err
		}
		labels = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == kemi.MetricName })
	}
	switch typ {
	case "tagk":
		return firstWith(labels, prefix, limit), nil
	case "metrics", "tagv":
	case "":
		return nil, kemi.Errorf(kemi.ErrInvalid, "Missing 'type' parameter: must be metrics, tagk or tagv")
	default:
		return nil, kemi.Errorf(kemi.ErrInvalid, "Invalid 'type' parameter:%s: must be metrics, tagk or tagv", clip(typ))
	}
	found := []string{}
	for _, l := range labels {
		values, err := e.o.Store.LabelValues(ctx, id, l, nil, allTime, 0)
		if err != nil {
			return nil, err
		}
		found = append(found, firstWith(values, prefix, limit)...)
	}
	sort.Strings(found)
	return firstWith(slices.Compact(found), prefix, limit), nil
}

// firstWith is the part of sorted names that begins with prefix, at most limit.
func firstWith(names []string, prefix string, limit int) []string {
	i, _ := slices.BinarySearch(names, prefix)
	j := i
	for j < len(names) && j-i < limit && strings.HasPrefix(names[j], prefix) {
		j++
	}
	return append([]string{}, names[i:j]...)
}

func (e *Engine) serveSuggest(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	v, err := params(r)
	if err != nil {
		return err
	}
	typ, q, most := v.Get("type"), v.Get("q"), v.Get("max")
	if r.Method == http.MethodPost {
		var in struct {
			Type, Q string
			Max     scalar
		}
		if err := object(w, r, &in); err != nil {
			return err
		}
		typ, q, most = in.Type, in.Q, string(in.Max)
	}
	limit, err := positive("max", most, 25, maxSuggest)
	if err != nil {
		return err
	}
	names, err := e.Suggest(r.Context(), id, typ, q, limit)
	if err != nil {
		return err
	}
	return write(w, names)
}

// tagsSelector selects the series of a metric with these tags; "*" as a value wants the tag with any value, as a name any tag with the value.
func tagsSelector(metric string, tags []kemi.Label) (sel store.Selector, anyTag []string) {
	if metric != "" && metric != "*" {
		sel = append(sel, store.Matcher{Op: store.Equal, Name: kemi.MetricName, Value: metric})
	}
	for _, t := range tags {
		switch {
		case (t.Name == "" || t.Name == "*") && t.Value != "":
			anyTag = append(anyTag, t.Value)
		case t.Value == "" || t.Value == "*":
			sel = append(sel, store.Matcher{Op: store.NotEqual, Name: t.Name})
		default:
			sel = append(sel, store.Matcher{Op: store.Equal, Name: t.Name, Value: t.Value})
		}
	}
	return sel, anyTag
}

func hasValues(ls kemi.Labels, values []string) bool {
	for _, v := range values {
		if !slices.ContainsFunc(ls, func(l kemi.Label) bool { return l.Name != kemi.MetricName && l.Value == v }) {
			return false
		}
	}
	return true
}

func withoutName(ls kemi.Labels) kemi.Labels {
	return slices.DeleteFunc(slices.Clone(ls), func(l kemi.Label) bool { return l.Name == kemi.MetricName })
}

func cloneLabels(ls kemi.Labels) kemi.Labels {
	out := make(kemi.Labels, len(ls))
	for i, l := range ls {
		out[i] = kemi.Label{Name: strings.Clone(l.Name), Value: strings.Clone(l.Value)}
	}
	return out
}

func (e *Engine) serveLookup(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	type pair struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	v, err := params(r)
	if err != nil {
		return err
	}
	var in struct {
		Metric string
		Tags   []pair
		Limit  scalar
	}
	if r.Method == http.MethodPost && v.Get("m") == "" {
		if err := object(w, r, &in); err != nil {
			return err
		}
	} else {
		if in.Metric, in.Tags, err = func() (string, []pair, error) {
			metric, rest, _ := strings.Cut(v.Get("m"), "{")
			var tags []pair
			for _, t := range strings.Split(strings.TrimSuffix(rest, "}"), ",") {
				if t == "" {
					continue
				}
				k, value, ok := strings.Cut(t, "=")
				if !ok || k == "" && value == "" {
					return "", nil, kemi.Errorf(kemi.ErrInvalid, "Unable to parse query m=%s: tag %q must be <tagk>=<value>", clip(v.Get("m")), clip(t))
				}
				tags = append(tags, pair{k, value})
			}
			return metric, tags, nil
		}(); err != nil {
			return err
		}
		in.Limit = scalar(v.Get("limit"))
	}
	if in.Metric == "" && len(in.Tags) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "Missing metric and tags. Please supply at least one value.")
	}
	limit, err := positive("limit", string(in.Limit), 25, maxLookup)
	if err != nil {
		return err
	}
	labels := make([]kemi.Label, len(in.Tags))
	for i, t := range in.Tags {
		labels[i] = kemi.Label{Name: t.Key, Value: t.Value}
	}
	ctx, done, err := e.admit(r.Context())
	if err != nil {
		return err
	}
	defer done()
	begin := e.o.Now()
	sel, anyTag := tagsSelector(in.Metric, labels)
	results := []map[string]any{}
	total := 0
	for ls, err := range e.o.Store.Series(ctx, id, sel, allTime) {
		if err != nil {
			return err
		}
		if !hasValues(ls, anyTag) {
			continue
		}
		if total++; len(results) < limit {
			ls = cloneLabels(ls)
			results = append(results, map[string]any{"tsuid": seriesID(ls), "metric": ls.Get(kemi.MetricName), "tags": withoutName(ls)})
		}
	}
	if in.Tags == nil {
		in.Tags = []pair{}
	}
	answer := map[string]any{
		"type": "LOOKUP", "tags": in.Tags, "limit": limit, "startIndex": 0, "totalResults": total,
		"time": e.o.Now().Sub(begin).Milliseconds(), "results": results,
	}
	if in.Metric != "" {
		answer["metric"] = in.Metric
	}
	if total == 0 && in.Metric != "" && in.Metric != "*" {
		known, err := e.o.Store.LabelValues(ctx, id, kemi.MetricName, store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: in.Metric}}, allTime, 1)
		if err != nil {
			return err
		}
		if len(known) == 0 {
			return kemi.Errorf(kemi.ErrNotFound, "Unable to resolve one or more UIDs: No such name for 'metrics': '%s'", clip(in.Metric))
		}
	}
	return write(w, answer)
}

// LastPoint is the newest value of a series.
type LastPoint struct {
	Labels kemi.Labels
	At     kemi.Millis
	Value  float64
}

// lastWindows are how far back the newest values are looked for, in steps: most series have one in the last hour.
var lastWindows = []int64{rowMillis, 24 * rowMillis, 30 * 24 * rowMillis, int64(maxTime)}

// Last is the newest value within back of each series of a metric with these tags (and perhaps more), ordered by labels.
func (e *Engine) Last(ctx context.Context, id kemi.Identity, metric string, tags []kemi.Label, back int64) ([]LastPoint, error) {
	ctx, done, err := e.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	b := &budget{limits: e.o.Config}
	sel, anyTag := tagsSelector(metric, tags)
	now := int64(kemi.MillisOf(e.o.Now()))
	open := map[string]bool{} // series without a value so far
	for ls, err := range e.o.Store.Series(ctx, id, sel, kemi.Range{From: kemi.Millis(max(0, now-back)), To: maxTime}) {
		if err != nil {
			return nil, err
		}
		if !hasValues(ls, anyTag) {
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
			b.samples += int64(len(pts.At))
			if err := b.read(); err != nil {
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

func (e *Engine) serveLast(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	v, err := params(r)
	if err != nil {
		return err
	}
	type sub struct {
		Metric string
		Tags   pairs
		Tsuids []string
	}
	var in struct {
		Queries      []sub
		ResolveNames boolean
		BackScan     scalar
	}
	if r.Method == http.MethodPost {
		if err := object(w, r, &in); err != nil {
			return err
		}
	} else {
		in.ResolveNames = boolean(isSet(v, "resolve"))
		in.BackScan = scalar(v.Get("back_scan"))
		for _, t := range v["timeseries"] {
			metric, filters, err := parseMetric(t)
			if err != nil {
				return err
			}
			s := sub{Metric: metric}
			for _, f := range filters {
				s.Tags = append(s.Tags, kemi.Label{Name: f.Tagk, Value: f.Filter})
			}
			in.Queries = append(in.Queries, s)
		}
		if isSet(v, "tsuids") {
			return errTsuids()
		}
	}
	if len(in.Queries) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "Missing sub queries")
	}
	hours, err := positive("back_scan", string(in.BackScan), 0, int(maxTime/rowMillis))
	if err != nil {
		return err
	}
	back := int64(hours) * rowMillis
	if hours == 0 {
		back = int64(maxTime)
	}
	out := []map[string]any{}
	for _, q := range in.Queries {
		if len(q.Tsuids) > 0 {
			return errTsuids()
		}
		if q.Metric == "" {
			return kemi.Errorf(kemi.ErrInvalid, "Missing the metric or tsuids, provide at least one")
		}
		known, err := e.o.Store.LabelValues(r.Context(), id, kemi.MetricName, store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: q.Metric}}, allTime, 1)
		if err != nil || len(known) == 0 {
			return noSuchName(err, "metrics", q.Metric)
		}
		points, err := e.Last(r.Context(), id, q.Metric, q.Tags, back)
		if err != nil {
			return err
		}
		for _, p := range points {
			one := map[string]any{"timestamp": int64(p.At), "value": strings.Trim(string(appendValue(nil, p.Value, false)), `"`), "tsuid": seriesID(p.Labels)}
			if in.ResolveNames {
				one["metric"], one["tags"] = p.Labels.Get(kemi.MetricName), withoutName(p.Labels)
			}
			out = append(out, one)
		}
	}
	return write(w, out)
}
