package query

import (
	"context"
	"regexp"
	"slices"
	"sort"
	"strings"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsdnote"
	"kemi/sauron/tsduid"
)

// IDs give series and names the ids that OpenTSDB's clients know them by.
type IDs interface {
	// TSUIDs are those of the series, in their order.
	TSUIDs(ctx context.Context, project string, series []kemi.Labels) ([]string, error)
	// Series are the labels that TSUIDs stand for, in their order; nil where nobody was given one.
	Series(ctx context.Context, project string, tsuids []string) ([]kemi.Labels, error)
	// Known are the numbers of those names that have one: they exist, even if no series has them.
	Known(ctx context.Context, project string, kind tsduid.Kind, names ...string) (map[string]tsduid.UID, error)
	// Number are the numbers of names, in their order.
	Number(ctx context.Context, project string, kind tsduid.Kind, names []string) ([]tsduid.UID, error)
	// WithPrefix are such names that begin with prefix, sorted.
	WithPrefix(ctx context.Context, project string, kind tsduid.Kind, prefix string, limit int) ([]string, error)
}

// Notes are annotations.
type Notes interface {
	// Range is those that begin in the range, both ends included, in order of time.
	Range(ctx context.Context, project string, from, to kemi.Millis) ([]tsdnote.Note, error)
}

// ShowQueries makes ready what an answer that shows its queries tells of them.
func (e *Engine) ShowQueries(ctx context.Context, id kemi.Identity, r *Request) error {
	return e.numberKeys(ctx, id, r)
}

// numberKeys finds the UIDs of the tag keys that the queries filter by, for an answer that shows them.
func (e *Engine) numberKeys(ctx context.Context, id kemi.Identity, r *Request) error {
	if e.o.IDs == nil {
		return nil
	}
	for i := range r.Queries {
		q := &r.Queries[i]
		var keys []string
		for _, f := range q.Filters {
			keys = append(keys, f.Tagk)
		}
		ids, err := e.o.IDs.Number(ctx, id.Project, tsduid.TagKey, keys)
		if err != nil {
			return err
		}
		slices.Sort(ids)
		q.keyUIDs = slices.Compact(ids)
	}
	return nil
}

// maxTSUIDs is how many TSUIDs a query may name.
const maxTSUIDs = 10_000

// tsuids are those of the series, sorted.
func (e *Engine) tsuids(ctx context.Context, id kemi.Identity, series []kemi.Labels) ([]string, error) {
	ids, err := e.TSUIDs(ctx, id, series)
	sort.Strings(ids)
	return ids, err
}

// TSUIDs are those of the series, in their order.
func (e *Engine) TSUIDs(ctx context.Context, id kemi.Identity, series []kemi.Labels) ([]string, error) {
	if e.o.IDs != nil {
		return e.o.IDs.TSUIDs(ctx, id.Project, series)
	}
	ids := make([]string, len(series))
	for i, ls := range series {
		ids[i] = seriesID(ls)
	}
	return ids, nil
}

// seriesOf are the labels that TSUIDs stand for; nil where there are none.
func (e *Engine) seriesOf(ctx context.Context, id kemi.Identity, tsuids []string) ([]kemi.Labels, error) {
	if e.o.IDs == nil {
		return make([]kemi.Labels, len(tsuids)), nil
	}
	canonical := make([]string, len(tsuids))
	for i, s := range tsuids {
		c, err := tsduid.Canonical(strings.TrimSpace(s))
		if err != nil {
			return nil, tsdhttp.Bad(err.Error(), "a TSUID is pairs of hexadecimal digits, as showTSUIDs and search/lookup tell them")
		}
		canonical[i] = c
	}
	return e.o.IDs.Series(ctx, id.Project, canonical)
}

// resolve makes a plan read the series that its TSUIDs name, which have to be of one metric.
func (e *Engine) resolve(ctx context.Context, id kemi.Identity, p *plan) error {
	if n := len(p.TSUIDs); n > maxTSUIDs {
		return kemi.Errorf(kemi.ErrTooLarge, "tsuids: %d are more than the %d that a query may name: send several queries", n, maxTSUIDs)
	}
	for _, s := range p.TSUIDs {
		c, err := tsduid.Canonical(strings.TrimSpace(s))
		switch {
		case err != nil:
			return tsdhttp.Bad(err.Error(), "a TSUID is pairs of hexadecimal digits, as showTSUIDs and search/lookup tell them")
		case len(c)%12 != 6:
			return tsdhttp.Bad("UID was empty", "TSUID "+clip(s)+": must be 6 digits for the metric and 12 for each tag")
		case c[:6] != strings.ToUpper(strings.TrimSpace(p.TSUIDs[0]))[:6]:
			return tsdhttp.Bad("One or more TSUIDs did not share the same metric ["+strings.ToUpper(p.TSUIDs[0])[:6]+"] ["+c[:6]+"]", "ask for each metric in a query of its own")
		case len(c) == 6:
			return tsdhttp.Bad("UID was empty", "TSUID "+clip(s)+": names a metric and no tags")
		}
	}
	series, err := e.seriesOf(ctx, id, p.TSUIDs)
	if err != nil {
		return err
	}
	p.any, p.filters, p.groupBy, p.groupName, p.only = false, nil, nil, false, map[string]bool{}
	values := map[string][]string{}
	n := 0
	for _, ls := range series {
		if ls == nil {
			continue
		}
		key := seriesID(ls)
		if p.only[key] {
			continue
		}
		p.only[key] = true
		n++
		for _, l := range ls {
			values[l.Name] = append(values[l.Name], l.Value)
		}
	}
	p.nothing = n == 0
	p.selector = p.selector[:0]
	for _, name := range sortedKeys(values) {
		vs := values[name]
		if len(vs) < n { // some series do not have the tag
			continue
		}
		slices.Sort(vs)
		vs = slices.Compact(vs)
		if len(vs) == 1 {
			p.selector = append(p.selector, store.Matcher{Op: store.Equal, Name: name, Value: vs[0]})
			continue
		}
		for i, v := range vs {
			vs[i] = regexp.QuoteMeta(v)
		}
		p.selector = append(p.selector, store.Matcher{Op: store.Regexp, Name: name, Value: strings.Join(vs, "|")})
	}
	return nil
}

func sortedKeys(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// notesOf are the annotations of single series in what the plan reads, by series; nil if there are none.
func (e *Engine) notesOf(ctx context.Context, id kemi.Identity, p *plan, r *Request) (map[string][]tsdnote.Note, error) {
	if e.o.Notes == nil || r.NoAnnotations {
		return nil, nil
	}
	notes, err := e.o.Notes.Range(ctx, id.Project, p.scan.From, p.scan.To-1)
	if err != nil {
		return nil, err
	}
	var tsuids []string
	own := notes[:0:0]
	for _, n := range notes {
		if n.TSUID != "" {
			own, tsuids = append(own, n), append(tsuids, n.TSUID)
		}
	}
	if len(own) == 0 {
		return nil, nil
	}
	series, err := e.seriesOf(ctx, id, tsuids)
	if err != nil {
		return nil, err
	}
	by := map[string][]tsdnote.Note{}
	for i, ls := range series {
		if ls != nil {
			key := seriesID(ls)
			by[key] = append(by[key], own[i])
		}
	}
	return by, nil
}

// annotate gives the group of the series that is being read its annotations.
func (x *execution) annotate() {
	notes := x.noted[seriesID(x.labels)]
	if len(notes) == 0 {
		return
	}
	g := x.current
	g.noted = true
	for _, n := range notes {
		if at := int64(n.At()); at >= x.p.start && at <= x.p.end {
			g.notes = append(g.notes, n)
		}
	}
	slices.SortStableFunc(g.notes, byStart)
}

// byStart orders as OpenTSDB does: by the time as it was given, so that those in milliseconds come last.
func byStart(a, b tsdnote.Note) int { return int(min(max(a.StartTime-b.StartTime, -1), 1)) }

// Globals are annotations of no series, in the order in which they are shown.
type Globals []tsdnote.Note

// in is those that begin within the range to the millisecond.
func (g Globals) in(r *Request) Globals {
	return slices.DeleteFunc(slices.Clone(g), func(n tsdnote.Note) bool { return n.At() < r.Start || n.At() > r.End })
}

// Globals are the annotations of no series that belong to an answer: they begin and (in the unit they are given in) end within the range.
func (e *Engine) Globals(ctx context.Context, id kemi.Identity, r *Request) (Globals, error) {
	if e.o.Notes == nil || r.NoAnnotations || !r.GlobalAnnotations {
		return nil, nil
	}
	notes, err := e.o.Notes.Range(ctx, id.Project, r.Start/1000*1000, r.End)
	if err != nil {
		return nil, err
	}
	notes = slices.DeleteFunc(notes, func(n tsdnote.Note) bool {
		return n.TSUID != "" || n.EndTime > int64(r.End/1000)
	})
	slices.SortStableFunc(notes, byStart)
	return notes, nil
}
