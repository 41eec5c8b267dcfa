package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"kemi"
)

// The views of /api/v1/rules and /api/v1/alerts, after Prometheus' HTTP API.
type (
	ruleGroup struct {
		Name           string    `json:"name"`
		File           string    `json:"file"`
		Rules          []any     `json:"rules"`
		Interval       float64   `json:"interval"`
		Limit          int       `json:"limit"`
		EvaluationTime float64   `json:"evaluationTime"`
		LastEvaluation time.Time `json:"lastEvaluation"`
	}
	ruleView struct {
		State          string           `json:"state,omitempty"`
		Name           string           `json:"name"`
		Query          string           `json:"query"`
		Duration       *float64         `json:"duration,omitempty"`
		KeepFiringFor  *float64         `json:"keepFiringFor,omitempty"`
		Labels         labels.Labels    `json:"labels"`
		Annotations    *labels.Labels   `json:"annotations,omitempty"`
		Alerts         *[]alertView     `json:"alerts,omitempty"`
		Health         rules.RuleHealth `json:"health"`
		LastError      string           `json:"lastError,omitempty"`
		EvaluationTime float64          `json:"evaluationTime"`
		LastEvaluation time.Time        `json:"lastEvaluation"`
		Type           string           `json:"type"`
	}
	alertView struct {
		Labels          labels.Labels `json:"labels"`
		Annotations     labels.Labels `json:"annotations"`
		State           string        `json:"state"`
		ActiveAt        *time.Time    `json:"activeAt,omitempty"`
		KeepFiringSince *time.Time    `json:"keepFiringSince,omitempty"`
		Value           string        `json:"value"`
	}
)

func alertViews(as []*rules.Alert) []alertView {
	out := make([]alertView, 0, len(as))
	for _, a := range as {
		v := alertView{Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(), ActiveAt: &a.ActiveAt, Value: strconv.FormatFloat(a.Value, 'e', -1, 64)}
		if !a.KeepFiringSince.IsZero() {
			v.KeepFiringSince = &a.KeepFiringSince
		}
		out = append(out, v)
	}
	return out
}

func viewRule(r rules.Rule) ruleView {
	v := ruleView{
		Name: r.Name(), Query: r.Query().String(), Labels: r.Labels(), Health: r.Health(), Type: "recording",
		EvaluationTime: r.GetEvaluationDuration().Seconds(), LastEvaluation: r.GetEvaluationTimestamp(),
	}
	if err := r.LastError(); err != nil {
		v.LastError = err.Error()
	}
	if a, ok := r.(*rules.AlertingRule); ok {
		hold, keep, notes, alerts := a.HoldDuration().Seconds(), a.KeepFiringFor().Seconds(), a.Annotations(), alertViews(a.ActiveAlerts())
		v.Type, v.State, v.Duration, v.KeepFiringFor, v.Annotations, v.Alerts = "alerting", a.State().String(), &hold, &keep, &notes, &alerts
	}
	return v
}

// rulesQuestion is what a request for rules asks for.
type rulesQuestion struct {
	kind     string // "alert", "record", or "" for both
	names    []string
	groups   []string
	files    []string
	matchers [][]*labels.Matcher // of the rules' own labels
	bare     bool                // without the alerts of each rule
	most     int                 // groups; 0 = all
	from     string              // the group to begin at, by its token
}

func (w *Watcher) askedRules(r *http.Request, parse parser.Parser) (q rulesQuestion, err error) {
	bad := func(name string, err error) (rulesQuestion, error) {
		return q, kemi.Errorf(kemi.ErrInvalid, "invalid parameter %q: %w", name, err)
	}
	if err := r.ParseForm(); err != nil {
		return q, kemi.Errorf(kemi.ErrInvalid, "error parsing form values: %w", err)
	}
	q.names, q.groups, q.files = r.Form["rule_name[]"], r.Form["rule_group[]"], r.Form["file[]"]
	if q.matchers, err = parse.ParseMetricSelectors(r.Form["match[]"]); err != nil {
		return q, kemi.Errorf(kemi.ErrInvalid, "%w", err)
	}
	for _, set := range q.matchers {
		if !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches("") }) {
			return q, kemi.Errorf(kemi.ErrInvalid, "match[] must contain at least one non-empty matcher")
		}
	}
	v := r.URL.Query()
	if q.kind = strings.ToLower(v.Get("type")); q.kind != "" && q.kind != "alert" && q.kind != "record" {
		return bad("type", fmt.Errorf("not supported value %q", q.kind))
	}
	if s := strings.ToLower(v.Get("exclude_alerts")); s != "" {
		if q.bare, err = strconv.ParseBool(s); err != nil {
			return bad("exclude_alerts", fmt.Errorf("error converting exclude_alerts: %w", err))
		}
	}
	limit := v.Get("group_limit")
	if q.from = v.Get("group_next_token"); q.from != "" && limit == "" {
		return bad("group_next_token", errors.New("group_limit needs to be present in order to paginate over the groups"))
	}
	if limit != "" {
		n, err := strconv.ParseInt(limit, 10, 32)
		if err != nil {
			return bad("group_limit", fmt.Errorf("group_limit needs to be a valid number: %w", err))
		}
		if n <= 0 {
			return bad("group_limit", errors.New("group_limit needs to be greater than 0"))
		}
		q.most = int(n)
	}
	return q, nil
}

// groupToken says which group a page of groups begins with.
func groupToken(g *rules.Group) string {
	sum := sha256.Sum256([]byte(g.File() + ";" + g.Name()))
	return hex.EncodeToString(sum[:])
}

func among(set []string, s string) bool { return len(set) == 0 || slices.Contains(set, s) }

// view is a group as it is asked for; nil if nothing of it is.
func (q *rulesQuestion) view(g *rules.Group) *ruleGroup {
	if !among(q.groups, g.Name()) || !among(q.files, g.File()) {
		return nil
	}
	v := &ruleGroup{
		Name: g.Name(), File: g.File(), Rules: []any{}, Interval: g.Interval().Seconds(), Limit: g.Limit(),
		EvaluationTime: g.GetEvaluationTime().Seconds(), LastEvaluation: g.GetLastEvaluation(),
	}
	for _, rule := range g.Rules(q.matchers...) {
		rv := viewRule(rule)
		if q.bare && rv.Alerts != nil {
			rv.Alerts = new([]alertView) // null, as Prometheus has it
		}
		if among(q.names, rv.Name) && (q.kind == "" || strings.HasPrefix(rv.Type, q.kind)) {
			v.Rules = append(v.Rules, rv)
		}
	}
	if len(v.Rules) == 0 {
		return nil
	}
	return v
}

func (w *Watcher) promRulesView(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
	t, err := w.tenant(r.Context(), id.Project)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectPrometheus, err)
		return
	}
	q, err := w.askedRules(r, t.rules.parser)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectPrometheus, err)
		return
	}
	data := struct {
		Groups []*ruleGroup `json:"groups"`
		Next   string       `json:"groupNextToken,omitempty"`
	}{Groups: []*ruleGroup{}}
	begun := q.from == ""
	for _, g := range t.rules.manager.RuleGroups() {
		if begun = begun || groupToken(g) == q.from; !begun {
			continue
		}
		v := q.view(g)
		if v == nil {
			continue
		}
		if q.most > 0 && len(data.Groups) == q.most {
			data.Next = groupToken(g)
			break
		}
		data.Groups = append(data.Groups, v)
	}
	if !begun {
		err := kemi.Errorf(kemi.ErrInvalid, "invalid parameter \"group_next_token\": invalid group_next_token '%v'. were rule groups changed?", q.from)
		kemi.WriteError(rw, kemi.DialectPrometheus, err)
		return
	}
	kemi.WriteJSON(rw, http.StatusOK, map[string]any{"status": "success", "data": data})
}

func (w *Watcher) promAlertsView(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
	t, err := w.tenant(r.Context(), id.Project)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectPrometheus, err)
		return
	}
	alerts := []alertView{}
	for _, rule := range t.rules.manager.AlertingRules() {
		alerts = append(alerts, alertViews(rule.ActiveAlerts())...)
	}
	kemi.WriteJSON(rw, http.StatusOK, map[string]any{"status": "success", "data": map[string]any{"alerts": alerts}})
}
