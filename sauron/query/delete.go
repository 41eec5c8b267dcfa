package query

import (
	"context"
	"errors"
	"strings"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
)

// mayDelete is an error unless the identity and the configuration allow deleting.
func (e *Engine) mayDelete(id kemi.Identity) error {
	switch {
	case !e.o.Config.AllowDelete:
		return tsdhttp.Bad("Bad request", "Deleting data is not enabled (tsd.http.query.allow_delete=false); here the key is query.allowDelete")
	case e.o.Deleter == nil:
		return kemi.Errorf(errors.ErrUnsupported, "Deleting data: the store cannot forget")
	case !id.Can(kemi.MetricsDelete):
		return kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", id.Subject, kemi.MetricsDelete&^id.Permissions)
	}
	return nil
}

// delete forgets the samples that the queries select: those of their series between start and end, both included. What lies in the same hour but outside of it
// stays (OpenTSDB deletes whole rows).
func (e *Engine) delete(ctx context.Context, id kemi.Identity, r *Request) error {
	plans, err := e.plan(ctx, id, r)
	if err != nil {
		return err
	}
	for _, p := range plans {
		if p.nothing || len(p.selector) == 0 {
			continue
		}
		span := kemi.Range{From: r.Start, To: r.End + 1}
		if !p.exact() { // the selector finds more than the query does: each series by itself
			if err := e.deleteEach(ctx, id, p, span); err != nil {
				return err
			}
			continue
		}
		if err := e.o.Deleter.Delete(ctx, id, p.selector, span); err != nil {
			return err
		}
	}
	return nil
}

// deleteEach deletes the series that the plan wants of those that its selector finds.
func (e *Engine) deleteEach(ctx context.Context, id kemi.Identity, p *plan, span kemi.Range) error {
	var series []kemi.Labels
	names := map[string]bool{}
	for ls, err := range e.o.Store.Series(ctx, id, p.selector, span) {
		if err != nil {
			return err
		}
		for _, l := range ls {
			if !names[l.Name] {
				names[strings.Clone(l.Name)] = true
			}
		}
		if p.match(ls) {
			series = append(series, cloneLabels(ls))
		}
		if len(series) > e.o.Config.MaxSeries {
			return kemi.Errorf(kemi.ErrTooLarge, "the query deletes more than maxSeries = %d series: filter by more tags", e.o.Config.MaxSeries)
		}
	}
	for _, ls := range series {
		sel := selectorOf(ls)
		for n := range names { // a series that has this one's labels and more is another
			if !ls.Has(n) {
				sel = append(sel, store.Matcher{Op: store.Equal, Name: n})
			}
		}
		if err := e.o.Deleter.Delete(ctx, id, sel, span); err != nil {
			return err
		}
	}
	return nil
}
