package promql

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"

	"kemi"
	"kemi/pipeline/store"
)

// Cleaner gives back the room of what was deleted, at once.
type Cleaner interface {
	CleanTombstones(ctx context.Context) error
}

// deleteSeries forgets what its selectors match in a span of time.
func (a *API) deleteSeries(r *http.Request, id kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	if len(r.Form["match[]"]) == 0 {
		return badData(errors.New("no match[] parameter provided"))
	}
	start, err := timeParam(r, "start", minTime)
	if err != nil {
		return badParam("start", err)
	}
	end, err := timeParam(r, "end", maxTime)
	if err != nil {
		return badParam("end", err)
	}
	span := kemi.Range{From: kemi.Millis(timestamp.FromTime(start)), To: kemi.Millis(timestamp.FromTime(end))}
	if span.To < math.MaxInt64 {
		span.To++ // the end counts
	}
	if span.To <= span.From {
		return badParam("end", errors.New("end timestamp must not be before start timestamp"))
	}
	var sels []store.Selector
	for _, m := range r.Form["match[]"] {
		ms, err := a.parser.ParseMetricSelector(m)
		if err != nil {
			return badParam("match[]", err)
		}
		sels = append(sels, selector(ms))
	}
	if a.o.Deleter == nil {
		return answer{err: &apiError{http.StatusNotImplemented, "unavailable", errors.New("this store cannot delete")}}
	}
	for i, sel := range sels {
		if err := a.o.Deleter.Delete(r.Context(), id, sel, span); err != nil {
			return answer{err: adminError(fmt.Errorf("delete %s: %w", r.Form["match[]"][i], err))}
		}
	}
	return answer{}
}

func selector(ms []*labels.Matcher) store.Selector {
	ops := map[labels.MatchType]store.MatchOp{
		labels.MatchEqual: store.Equal, labels.MatchNotEqual: store.NotEqual, labels.MatchRegexp: store.Regexp, labels.MatchNotRegexp: store.NotRegexp,
	}
	out := make(store.Selector, 0, len(ms))
	for _, m := range ms {
		out = append(out, store.Matcher{Op: ops[m.Type], Name: m.Name, Value: m.Value})
	}
	return out
}

func (a *API) cleanTombstones(r *http.Request, _ kemi.Identity) answer {
	if a.o.Cleaner == nil {
		return answer{err: &apiError{http.StatusNotImplemented, "unavailable", errors.New("this store gives back the room of what was deleted by itself")}}
	}
	if err := a.o.Cleaner.CleanTombstones(r.Context()); err != nil {
		return answer{err: adminError(err)}
	}
	return answer{}
}

// snapshot is refused: a copy of the blocks alone would lack what is in the log of record.
func (*API) snapshot(*http.Request, kemi.Identity) answer {
	return answer{err: &apiError{
		http.StatusNotImplemented, "unavailable",
		errors.New("snapshots of the series alone are not made: what is acknowledged lies in the log of record, too. Copy the data folder of a stopped server"),
	}}
}

// adminError is of an action, so what Prometheus calls an internal error.
func adminError(err error) *apiError {
	if e := kindError(err); e != nil {
		return e
	}
	return &apiError{http.StatusInternalServerError, "internal", err}
}
