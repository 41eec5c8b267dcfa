package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsduid"
)

// The most names and series that a look-up answers.
const (
	maxSuggest = 100_000
	maxLookup  = 100_000

	defaultLimit = 25 // where a request names none
)

// Suggest is the names of a type (metrics, tagk, tagv) that begin with prefix, sorted, at most limit of them.
func (e *Engine) Suggest(ctx context.Context, id kemi.Identity, typ, prefix string, limit int) ([]string, error) {
	ctx, b, err := e.admit(ctx, id)
	if err != nil {
		return nil, err
	}
	defer b.done()
	labels, kind := []string{kemi.MetricName}, tsduid.Metric
	if typ == "tagk" || typ == "tagv" {
		names, err := e.o.Store.LabelNames(ctx, id, nil, allTime, 0)
		if err != nil {
			return nil, err
		}
		labels, kind = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == kemi.MetricName }), tsduid.TagValue
	}
	var found []string
	switch typ {
	case "tagk":
		found, kind = firstWith(labels, prefix, limit), tsduid.TagKey
	case "metrics", "tagv":
		for _, l := range labels {
			values, err := e.o.Store.LabelValues(ctx, id, l, nil, allTime, 0)
			if err != nil {
				return nil, err
			}
			found = append(found, firstWith(values, prefix, limit)...)
		}
	case "":
		return nil, tsdhttp.Bad("Missing 'type' parameter", "must be metrics, tagk or tagv")
	default:
		return nil, tsdhttp.Bad("Invalid 'type' parameter:"+clip(typ), "must be metrics, tagk or tagv")
	}
	if e.o.IDs != nil { // names that were given numbers exist, too
		numbered, err := e.o.IDs.WithPrefix(ctx, id.Project, kind, prefix, limit)
		if err != nil {
			return nil, err
		}
		found = append(found, numbered...)
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

func (e *Engine) serveSuggest(x *tsdhttp.Exchange) error {
	var in struct {
		Type, Q string
		Max     scalar
	}
	if x.R.Method == http.MethodPost {
		if err := x.Object(&in); err != nil {
			return err
		}
	} else {
		var err error
		if in.Type, err = x.Required("type"); err != nil {
			return err
		}
		in.Q, in.Max = x.Get("q"), scalar(x.Get("max"))
	}
	limit, ok := count(string(in.Max), defaultLimit)
	if !ok {
		return tsdhttp.Bad("Unable to parse 'max' as a number", "max: "+clip(string(in.Max)))
	}
	if limit <= 0 {
		limit = defaultLimit
	}
	names, err := e.Suggest(x.R.Context(), x.ID, in.Type, in.Q, min(limit, maxSuggest))
	if err != nil {
		return err
	}
	return x.JSON(names)
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

// pair is a tag of a look-up; null stands for any.
type pair struct {
	Key   *string `json:"key"`
	Value *string `json:"value"`
}

// lookup is a request of search/lookup.
type lookup struct {
	Metric     *string
	Tags       []pair
	Limit      scalar
	StartIndex int // repeated in the answer, which begins with the first series whatever it is
}

// readLookup reads a body, or the parameter m=<metric>{<tagk>=<tagv>,…}.
func readLookup(x *tsdhttp.Exchange) (in lookup, err error) {
	body, err := x.Body()
	if err != nil {
		return in, err
	}
	if len(body) > 0 {
		if err = tsdhttp.Decode(body, &in); err != nil {
			return in, err
		}
		if in.Metric == nil {
			all := "*"
			in.Metric = &all
		}
		return in, nil
	}
	m, err := x.Required("m")
	if err != nil {
		return in, err
	}
	fail := func(format string, args ...any) (lookup, error) {
		return in, tsdhttp.Bad("Unable to parse query", fmt.Sprintf(format, args...))
	}
	in.Tags, in.Limit = []pair{}, scalar(x.Get("limit"))
	metric, rest, ok := strings.Cut(m, "{")
	if metric != "" {
		in.Metric = &metric
	}
	if !ok {
		return in, nil
	}
	if rest, ok = strings.CutSuffix(rest, "}"); !ok {
		return fail("Missing '}' at the end of: %s", clip(m))
	}
	if rest == "" && metric == "" {
		return fail("Missing metric and tags: %s", clip(m))
	}
	for _, t := range strings.Split(rest, ",") {
		if rest == "" {
			break
		}
		k, v, ok := strings.Cut(t, "=")
		if !ok || len(t) < 2 || strings.Contains(v, "=") {
			return fail("When parsing tag '%s': invalid tag: %s", clip(t), clip(t))
		}
		var p pair
		if k != "" {
			p.Key = &k
		}
		if v != "" {
			p.Value = &v
		}
		in.Tags = append(in.Tags, p)
	}
	return in, nil
}

func (e *Engine) serveLookup(x *tsdhttp.Exchange) error {
	in, err := readLookup(x)
	if err != nil {
		return err
	}
	limit, ok := count(string(in.Limit), defaultLimit)
	if !ok {
		return tsdhttp.Bad("Unable to convert 'limit' to a valid number", "limit: "+clip(string(in.Limit)))
	}
	most := limit
	if most <= 0 || most > maxLookup {
		most = maxLookup
	}
	metric := ""
	if in.Metric != nil && *in.Metric != "*" {
		metric = *in.Metric
	}
	var tags []kemi.Label
	for _, t := range in.Tags {
		l := kemi.Label{}
		if t.Key != nil {
			l.Name = *t.Key
		}
		if t.Value != nil {
			l.Value = *t.Value
		}
		if l.Value == "" && (l.Name == "" || l.Name == "*") {
			return tsdhttp.Bad("Unable to parse query", "tags: a tag needs a key or a value")
		}
		tags = append(tags, l)
	}
	ctx, b, err := e.admit(x.R.Context(), x.ID)
	if err != nil {
		return err
	}
	defer b.done()
	begin := e.o.Now()
	found, err := e.lookup(ctx, x.ID, metric, tags, most)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		if err := e.checkLookup(ctx, x.ID, metric, tags); err != nil {
			return err
		}
	}
	ids, err := e.TSUIDs(ctx, x.ID, found)
	if err != nil {
		return err
	}
	results := make([]map[string]any, len(found))
	for i, ls := range found {
		results[i] = map[string]any{"tsuid": ids[i], "metric": ls.Get(kemi.MetricName), "tags": withoutName(ls)}
	}
	answer := map[string]any{
		"type": "LOOKUP", "limit": limit, "startIndex": in.StartIndex, "totalResults": len(results),
		"time": float64(e.o.Now().Sub(begin).Milliseconds()), "results": results,
	}
	if in.Tags != nil {
		answer["tags"] = in.Tags
	}
	if in.Metric != nil {
		answer["metric"] = *in.Metric
	}
	return x.JSON(answer)
}

// lookup is the series of a metric (or of all, in the order of their metrics) with these tags, at most limit.
func (e *Engine) lookup(ctx context.Context, id kemi.Identity, metric string, tags []kemi.Label, limit int) ([]kemi.Labels, error) {
	metrics := []string{metric}
	if metric == "" {
		sel, _ := tagsSelector("", tags)
		var err error
		if metrics, err = e.o.Store.LabelValues(ctx, id, kemi.MetricName, sel, allTime, 0); err != nil {
			return nil, err
		}
	}
	var found []kemi.Labels
	for _, m := range metrics {
		sel, anyTag := tagsSelector(m, tags)
		for ls, err := range e.o.Store.Series(ctx, id, sel, allTime) {
			if err != nil {
				return nil, err
			}
			if !hasValues(ls, anyTag) {
				continue
			}
			if found = append(found, cloneLabels(ls)); len(found) >= limit {
				return found, nil
			}
		}
	}
	return found, nil
}

// checkLookup is an error for a name that the project has never had.
func (e *Engine) checkLookup(ctx context.Context, id kemi.Identity, metric string, tags []kemi.Label) error {
	err := e.checkTags(ctx, id, metric, tags, func(v string) bool { return v == "" || v == "*" })
	if told := new(tsdhttp.Error); errors.As(err, &told) {
		return tsdhttp.NotFound("Unable to resolve one or more UIDs", told.Message)
	}
	return err
}

// checkTags is an error for a metric, a tag key or value that the project has never had; those for which skip says so are not looked for.
func (e *Engine) checkTags(ctx context.Context, id kemi.Identity, metric string, tags []kemi.Label, skip func(string) bool) error {
	exists := func(label string, sel store.Selector) (bool, error) {
		values, err := e.o.Store.LabelValues(ctx, id, label, sel, allTime, 1)
		return len(values) > 0, err
	}
	if metric != "" {
		ok, err := exists(kemi.MetricName, store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: metric}})
		if err == nil && !ok {
			err = e.unknown(ctx, id, tsduid.Metric, metric)
		}
		if err != nil {
			return err
		}
	}
	for _, t := range tags {
		if !skip(t.Name) {
			ok, err := exists(t.Name, nil)
			if err == nil && (!ok || t.Name == kemi.MetricName) {
				err = e.unknown(ctx, id, tsduid.TagKey, t.Name)
			}
			if err != nil {
				return err
			}
		}
		if !skip(t.Value) {
			if err := e.checkValue(ctx, id, t.Name, t.Value, exists); err != nil {
				return err
			}
		}
	}
	return nil
}
