package promql

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/stats"

	"kemi"
	"kemi/pipeline/store"
)

// maxPoints is how many steps a range query may have; enough for a week by the minute or a year by the hour.
const maxPoints = 11000

func (a *API) query(r *http.Request, id kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	limit, err := limitParam(r)
	if err != nil {
		return badParam("limit", err)
	}
	at, err := timeParam(r, "time", a.o.Now())
	if err != nil {
		return badParam("time", err)
	}
	return a.run(r, limit, request{id: id, start: at, end: at})
}

func (a *API) queryRange(r *http.Request, id kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	limit, err := limitParam(r)
	if err != nil {
		return badParam("limit", err)
	}
	start, err := parseTime(r.FormValue("start"))
	if err != nil {
		return badParam("start", err)
	}
	end, err := parseTime(r.FormValue("end"))
	if err != nil {
		return badParam("end", err)
	}
	if end.Before(start) {
		return badParam("end", errors.New("end timestamp must not be before start time"))
	}
	step, err := parseDuration(r.FormValue("step"))
	if err != nil {
		return badParam("step", err)
	}
	if step <= 0 {
		return badParam("step", errors.New("zero or negative query resolution step widths are not accepted. Try a positive integer"))
	}
	if end.Sub(start)/step > maxPoints {
		return badData(errors.New("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"))
	}
	return a.run(r, limit, request{id: id, start: start, end: end, step: step})
}

// run executes a query with what else the request says of it.
func (a *API) run(r *http.Request, limit int, q request) answer {
	ctx := r.Context()
	before := a.freshness() // the store may become complete while the query runs on what it was
	if v := r.FormValue("timeout"); v != "" {
		d, err := parseDuration(v)
		if err == nil && d <= 0 {
			err = fmt.Errorf("timeout must be positive, got %s", d)
		}
		if err != nil {
			return badParam("timeout", err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if v := r.FormValue("lookback_delta"); v != "" {
		var err error
		if q.lookback, err = parseDuration(v); err != nil {
			return badData(fmt.Errorf("error parsing lookback delta duration: %w", err))
		}
	}
	if v := r.Header.Get("X-Prometheus-Use-Start-Timestamps"); v != "" {
		use, err := strconv.ParseBool(v)
		if err != nil {
			return badData(fmt.Errorf("error parsing X-Prometheus-Use-Start-Timestamps header: %w", err))
		}
		q.startTimes = &use
	}
	asked := r.FormValue("stats")
	q.expr, q.perStep, q.counted = r.FormValue("query"), asked == "all", asked != ""
	got, err := a.execute(ctx, q)
	out := answer{warnings: got.warnings, done: got.close}
	var build buildError
	switch {
	case errors.As(err, &build):
		return queryError(build.error, "query")
	case err != nil:
		out.err = executionError(err)
		return out
	}
	if limit > 0 && truncate(&got.value, limit) {
		out.warnings.Add(errTruncated)
	}
	switch asked {
	case "", "true", "all":
	default:
		out.warnings.Add(fmt.Errorf("value %q for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"", asked))
	}
	d := &queryData{value: got.value}
	if asked != "" {
		d.stats = stats.NewQueryStats(got.engine.Stats())
	}
	out.data, out.stats = d, &got.stats
	out.stats.before = before
	return out
}

// truncate leaves limit series.
func truncate(value *parser.Value, limit int) bool {
	switch v := (*value).(type) {
	case promql.Matrix:
		if len(v) > limit {
			*value = v[:limit]
			return true
		}
	case promql.Vector:
		if len(v) > limit {
			*value = v[:limit]
			return true
		}
	}
	return false
}

// queryStats is what the header X-Kemi-Stats says.
type queryStats struct {
	SamplesRead int64       `json:"samplesRead"`
	Series      int64       `json:"series"`
	PeakSamples int         `json:"peakSamples"`
	Seconds     float64     `json:"seconds"`
	Views       []viewStats `json:"views"`
	Complete    bool        `json:"complete"`
	Reason      string      `json:"reason,omitempty"`

	before store.Freshness // as it was when the query began
	trace  *store.Trace    // of what the store answered from
}

type viewStats struct {
	Name string      `json:"name"`
	AsOf kemi.Millis `json:"asOf"`
}

// tell completes the stats of an answer, and warns if it is not complete.
func (a *API) tell(ans *answer, took time.Duration) {
	if ans.err != nil {
		return
	}
	if ans.stats == nil {
		ans.stats = &queryStats{}
	}
	s := ans.stats
	f := a.freshness()
	s.Seconds, s.Complete, s.Reason = took.Seconds(), f.Complete, f.Reason
	for _, v := range s.trace.Views() {
		s.Views = append(s.Views, viewStats(v))
	}
	if len(s.Views) == 0 { // it read nothing, or does not tell
		s.Views = []viewStats{{Name: a.o.View, AsOf: f.AsOf}}
	}
	if b := s.before; s.Complete && !b.Complete && b.Reason != "" {
		s.Complete, s.Reason = false, b.Reason
	}
	if !s.Complete {
		ans.warnings.Add(fmt.Errorf("the answer is not complete: %s", s.Reason))
	}
}

func (a *API) freshness() store.Freshness {
	if a.o.Freshness == nil {
		return store.Freshness{Complete: true}
	}
	return a.o.Freshness()
}

func (a *API) formatQuery(r *http.Request, _ kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	expr, err := a.parser.ParseExpr(r.FormValue("query"))
	if err != nil {
		return badParam("query", err)
	}
	return answer{data: expr.Pretty(0)}
}

func (a *API) queryExemplars(r *http.Request, id kemi.Identity) answer {
	if err := form(r); err != nil {
		return badData(err)
	}
	start, err := timeParam(r, "start", minTime)
	if err != nil {
		return badParam("start", err)
	}
	end, err := timeParam(r, "end", maxTime)
	if err != nil {
		return badParam("end", err)
	}
	if end.Before(start) {
		return badData(errors.New("end timestamp must not be before start timestamp"))
	}
	expr, err := a.parser.ParseExpr(r.FormValue("query"))
	if err != nil {
		return badData(err)
	}
	selectors := parser.ExtractSelectors(expr)
	if len(selectors) == 0 {
		return answer{} // as Prometheus: 204
	}
	if a.o.Exemplars == nil {
		return answer{data: exemplars(nil)}
	}
	q, err := a.o.Exemplars.ExemplarQueryable(id).ExemplarQuerier(r.Context())
	if err != nil {
		return answer{err: executionError(err)}
	}
	res, err := q.Select(timestamp.FromTime(start), timestamp.FromTime(end), selectors...)
	if err != nil {
		return answer{err: executionError(err)}
	}
	return answer{data: exemplars(res)}
}
