package promql

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
	"kemi/sauron/limit"
)

var errTruncated = errors.New("results truncated due to limit")

// selection is the parameters that the questions about labels share.
type selection struct {
	limit int
	sets  [][]*labels.Matcher
	start int64
	end   int64
	q     storage.Querier

	ticket *limit.Ticket
	close  func() // gives back the querier and the place
}

// selectionOf reads them, waits for a place and opens the querier; the caller closes. With an answer, nothing is open.
func (a *API) selectionOf(r *http.Request, id kemi.Identity) (s selection, bad *answer) {
	fail := func(ans answer) (selection, *answer) { return s, &ans }
	if err := form(r); err != nil {
		return fail(badData(err))
	}
	var err error
	if s.limit, err = limitParam(r); err != nil {
		return fail(badParam("limit", err))
	}
	start, err := timeParam(r, "start", minTime)
	if err != nil {
		return fail(badParam("start", err))
	}
	end, err := timeParam(r, "end", maxTime)
	if err != nil {
		return fail(badParam("end", err))
	}
	if s.sets, err = a.matcherSets(r); err != nil {
		return fail(badData(err))
	}
	s.start, s.end = timestamp.FromTime(start), timestamp.FromTime(end)
	ticket, err := a.enter(r.Context(), id, false)
	if err != nil {
		return fail(answer{err: executionError(err)})
	}
	if s.q, err = a.o.Source.Queryable(id).Querier(s.start, s.end); err != nil {
		ticket.Leave()
		return fail(answer{err: executionError(err)})
	}
	s.ticket = ticket
	s.close = func() { _ = s.q.Close(); ticket.Leave() }
	return s, nil
}

// each asks once for every set of matchers, or once without, and joins what comes.
func (s *selection) each(ask func(ms []*labels.Matcher) ([]string, annotations.Annotations, error)) answer {
	sets := s.sets
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	out := answer{done: s.close}
	var all []string
	for _, ms := range sets {
		names, notes, err := ask(ms)
		out.warnings.Merge(notes)
		if err != nil {
			out.err = executionError(err)
			return out
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if s.limit > 0 && len(all) > s.limit {
		all = all[:s.limit]
		out.warnings.Add(errTruncated)
	}
	out.data = stringList(all)
	return out
}

func (a *API) labelNames(r *http.Request, id kemi.Identity) answer {
	s, bad := a.selectionOf(r, id)
	if bad != nil {
		return *bad
	}
	return s.each(func(ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return s.q.LabelNames(r.Context(), &storage.LabelHints{Limit: hintLimit(s.limit)}, ms...)
	})
}

func (a *API) labelValues(r *http.Request, id kemi.Identity) answer {
	name := r.PathValue("name")
	if strings.HasPrefix(name, "U__") {
		name = model.UnescapeName(name, model.ValueEncodingEscaping)
	}
	if !model.UTF8Validation.IsValidLabelName(name) {
		return badData(fmt.Errorf("invalid label name: %q", name))
	}
	s, bad := a.selectionOf(r, id)
	if bad != nil {
		return *bad
	}
	return s.each(func(ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return s.q.LabelValues(r.Context(), name, &storage.LabelHints{Limit: hintLimit(s.limit), LimitSmallest: s.limit > 0}, ms...)
	})
}

const (
	listedBytes = 64       // of a series in a list beside its labels, while the list grows
	perListed   = 64 << 10 // so many bytes are reckoned at once
)

func (a *API) series(r *http.Request, id kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	if len(r.Form["match[]"]) == 0 {
		return badData(errors.New("no match[] parameter provided"))
	}
	if _, err := a.matcherSets(r); err != nil {
		return badParam("match[]", err)
	}
	s, bad := a.selectionOf(r, id)
	if bad != nil {
		return *bad
	}
	out := answer{done: s.close}
	hints := &storage.SelectHints{Start: s.start, End: s.end, Func: "series", Limit: hintLimit(s.limit)}
	var sets []storage.SeriesSet
	for _, ms := range s.sets {
		sets = append(sets, s.q.Select(r.Context(), len(s.sets) > 1, hints, ms...))
	}
	set := sets[0]
	if len(sets) > 1 {
		set = storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	}
	list, more := labelSets{}, int64(0)
	for set.Next() {
		if s.limit > 0 && len(list) == s.limit {
			out.warnings.Add(errTruncated)
			break
		}
		ls := set.At().Labels()
		if more += listedBytes + int64(ls.ByteSize()); more > perListed {
			if err := s.ticket.Hold(more); err != nil {
				out.err = executionError(err)
				return out
			}
			more = 0
		}
		list = append(list, ls)
		if len(list)%128 == 0 && r.Context().Err() != nil {
			out.err = executionError(r.Context().Err())
			return out
		}
	}
	out.warnings.Merge(set.Warnings())
	if err := set.Err(); err != nil {
		out.err = executionError(err)
		return out
	}
	out.data = list
	return out
}

func (a *API) metadata(r *http.Request, id kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	limit := -1
	for _, p := range []string{"limit", "limit_per_metric"} {
		if v := r.FormValue(p); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil {
				return badData(fmt.Errorf("%s must be a number", p))
			}
			if p == "limit" {
				limit = n
			}
		}
	}
	out := map[string][]metadata.Metadata{}
	if a.o.Metadata != nil {
		all := a.o.Metadata.Metadata(id, r.FormValue("metric"))
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if limit >= 0 && len(out) >= limit {
				break
			}
			out[name] = []metadata.Metadata{all[name]}
		}
	}
	return answer{data: out}
}
