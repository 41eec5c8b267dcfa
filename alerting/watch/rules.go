package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/alerting/eval"
	"kemi/pipeline/store"
)

const (
	kindRule     = "rule"
	kindReceiver = "receiver"
)

// ruleSpec is what a rule says: either Prometheus rule groups as they stand in a rule file, or a keyword rule.
type ruleSpec struct {
	Groups  any          `yaml:"groups,omitempty" json:"groups,omitempty"`
	Keyword *KeywordRule `yaml:"keyword,omitempty" json:"keyword,omitempty"`
}

// KeywordRule fires while at least Threshold log records that match Query lie within the last Window, for each
// combination of the values of the fields in By.
type KeywordRule struct {
	Alert       string            `yaml:"alert,omitempty" json:"alert,omitempty"` // by default the rule's name
	Query       string            `yaml:"query" json:"query"`
	Window      string            `yaml:"window" json:"window"` // for example 5m
	Threshold   int64             `yaml:"threshold" json:"threshold"`
	By          []string          `yaml:"by,omitempty" json:"by,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty" json:"annotations,omitempty"`
}

// compiled is a keyword rule that can be run.
type compiled struct {
	name, alert string
	source      KeywordRule
	rule        eval.Keyword
	expr        store.LogExpr
	labels      kemi.Labels
	annotations map[string]*template.Template
}

const (
	minWindow = time.Second
	maxWindow = 24 * time.Hour
	maxBy     = 10
)

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$`)

// compile checks a keyword rule.
func (w *Watcher) compile(name string, k KeywordRule) (*compiled, error) {
	c := &compiled{name: name, alert: k.Alert, source: k, annotations: map[string]*template.Template{}}
	if c.alert == "" {
		c.alert = name
	}
	window, err := model.ParseDuration(k.Window)
	if err != nil || time.Duration(window) < minWindow || time.Duration(window) > maxWindow {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.window: %q is not a duration between %s and %s, such as 5m", k.Window, minWindow, maxWindow)
	}
	if k.Threshold < 1 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.threshold: %d is not at least 1", k.Threshold)
	}
	if len(k.By) > maxBy {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.by: %d fields, at most %d", len(k.By), maxBy)
	}
	if strings.TrimSpace(k.Query) == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.query: empty; write * to count every record")
	}
	if c.expr, err = w.o.ParseLog(k.Query); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.query: %w", err)
	}
	c.rule = eval.Keyword{Window: time.Duration(window), Threshold: k.Threshold, By: k.By}
	ls := map[string]string{model.AlertNameLabel: c.alert}
	for n, v := range k.Labels {
		if n == "" || n == model.AlertNameLabel {
			return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.labels: %q cannot be a label of an alert", n)
		}
		ls[n] = v
	}
	c.labels = kemi.LabelsFromMap(ls)
	for n, text := range k.Annotations {
		t, err := template.New(n).Option("missingkey=zero").Parse("{{$labels := .Labels}}{{$value := .Value}}" + text)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "keyword.annotations.%s: %w", n, err)
		}
		c.annotations[n] = t
	}
	return c, nil
}

// alertOf is the labels and annotations of a group's alert.
func (c *compiled) alertOf(ch eval.Change) (labels, annotations kemi.Labels) {
	ls := ch.Labels.Map()
	for _, l := range c.labels {
		ls[l.Name] = l.Value
	}
	as := map[string]string{}
	for n, t := range c.annotations {
		var b bytes.Buffer
		if err := t.Execute(&b, map[string]any{"Labels": ls, "Value": ch.Count}); err != nil {
			b.Reset()
			fmt.Fprintf(&b, "annotation %s: %v", n, err)
		}
		as[n] = b.String()
	}
	return kemi.LabelsFromMap(ls), kemi.LabelsFromMap(as)
}

// parseRule reads a rule's spec, YAML or JSON; unknown fields are errors.
func (w *Watcher) parseRule(name string, spec []byte) (groups []byte, keyword *compiled, err error) {
	var s ruleSpec
	d := yaml.NewDecoder(bytes.NewReader(spec))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return nil, nil, kemi.Errorf(kemi.ErrInvalid, "spec: %w; expected groups (as in a Prometheus rule file) or keyword {query, window, threshold, by, labels, annotations}", err)
	}
	switch {
	case (s.Groups == nil) == (s.Keyword == nil):
		return nil, nil, kemi.Errorf(kemi.ErrInvalid, "spec: needs either groups (as in a Prometheus rule file) or keyword")
	case s.Keyword != nil:
		keyword, err = w.compile(name, *s.Keyword)
		return nil, keyword, err
	}
	groups, err = yaml.Marshal(map[string]any{"groups": s.Groups})
	if err != nil {
		return nil, nil, kemi.Errorf(kemi.ErrInvalid, "spec.groups: %w", err)
	}
	return groups, nil, nil
}

// putRule checks and stores a rule, and runs it from now on.
func (w *Watcher) putRule(ctx context.Context, project, name string, spec []byte, revision int64) (store.Resource, error) {
	if !validName.MatchString(name) {
		return store.Resource{}, kemi.Errorf(kemi.ErrInvalid, "name: %.80q must match %s", name, validName)
	}
	groups, _, err := w.parseRule(name, spec)
	if err != nil {
		return store.Resource{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.tenantLocked(ctx, project)
	if err != nil {
		return store.Resource{}, err
	}
	if groups != nil {
		if err := t.rules.check(name, groups); err != nil {
			return store.Resource{}, err
		}
	}
	asJSON, err := toJSON(spec)
	if err != nil {
		return store.Resource{}, err
	}
	r, err := w.o.Control.Put(ctx, store.Resource{Project: project, Kind: kindRule, Name: name, Spec: asJSON, Revision: revision})
	if err != nil {
		return store.Resource{}, fmt.Errorf("store rule %s: %w", name, err)
	}
	return r, w.loadRules(ctx, t)
}

func (w *Watcher) deleteRule(ctx context.Context, project, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.tenantLocked(ctx, project)
	if err != nil {
		return err
	}
	if err := w.o.Control.Delete(ctx, project, kindRule, name, store.AnyRevision); err != nil {
		return err
	}
	return w.loadRules(ctx, t)
}

// loadRules makes the project's rules what the store and the files say.
func (w *Watcher) loadRules(ctx context.Context, t *tenant) error {
	rs, err := w.o.Control.List(ctx, t.project, kindRule, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("read rules of %s: %w", t.project, err)
	}
	files := map[string][]byte{}
	if t.project == w.o.DefaultProject {
		if files, err = w.ruleFiles(); err != nil {
			return err
		}
	}
	var kws []*compiled
	for _, r := range rs {
		groups, keyword, err := w.parseRule(r.Name, r.Spec)
		if err != nil {
			return fmt.Errorf("rule %s of %s: %w", r.Name, t.project, err)
		}
		if keyword != nil {
			kws = append(kws, keyword)
		} else {
			files[r.Name] = groups
		}
	}
	if err := t.rules.set(files); err != nil {
		return err
	}
	w.keywords.set(t, kws)
	return nil
}

// toJSON turns YAML into JSON; JSON is YAML.
func toJSON(b []byte) (json.RawMessage, error) {
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
	}
	return out, nil
}
