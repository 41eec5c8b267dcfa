package watch

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
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

func (w *Watcher) promRulesView(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
	kind := strings.ToLower(r.URL.Query().Get("type"))
	if kind != "" && kind != "alert" && kind != "record" {
		kemi.WriteError(rw, kemi.DialectPrometheus, kemi.Errorf(kemi.ErrInvalid, "type: %.40q is neither alert nor record", kind))
		return
	}
	t, err := w.tenant(r.Context(), id.Project)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectPrometheus, err)
		return
	}
	q := r.URL.Query()
	wanted := func(name string, v string) bool {
		set := q[name]
		for _, s := range set {
			if s == v {
				return true
			}
		}
		return len(set) == 0
	}
	groups := []ruleGroup{}
	for _, g := range t.rules.manager.RuleGroups() {
		if !wanted("rule_group[]", g.Name()) || !wanted("file[]", g.File()) {
			continue
		}
		v := ruleGroup{
			Name: g.Name(), File: g.File(), Rules: []any{}, Interval: g.Interval().Seconds(), Limit: g.Limit(),
			EvaluationTime: g.GetEvaluationTime().Seconds(), LastEvaluation: g.GetLastEvaluation(),
		}
		for _, rule := range g.Rules() {
			rv := viewRule(rule)
			if wanted("rule_name[]", rv.Name) && (kind == "" || strings.HasPrefix(rv.Type, kind)) {
				v.Rules = append(v.Rules, rv)
			}
		}
		if len(v.Rules) > 0 {
			groups = append(groups, v)
		}
	}
	kemi.WriteJSON(rw, http.StatusOK, map[string]any{"status": "success", "data": map[string]any{"groups": groups}})
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
