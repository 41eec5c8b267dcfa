package watch

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/prometheus/alertmanager/config"
	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/pipeline/store"
)

// receiverSpec is a receiver as a resource, and which alerts it is sent.
type receiverSpec struct {
	Webhook *webhookSpec `yaml:"webhook" json:"webhook"`
	Route   routeSpec    `yaml:"route,omitempty" json:"route"`
}

// webhookSpec posts Alertmanager's JSON to URL. With a secret, each request has X-Kemi-Signature: sha256=HMAC(secret, body).
type webhookSpec struct {
	URL          string `yaml:"url" json:"url"`
	SendResolved *bool  `yaml:"sendResolved,omitempty" json:"sendResolved,omitempty"` // default true
	MaxAlerts    uint64 `yaml:"maxAlerts,omitempty" json:"maxAlerts,omitempty"`
	Secret       string `yaml:"secret,omitempty" json:"secret,omitempty"` // never shown again
}

// routeSpec narrows and paces. No matchers: all alerts of the project.
type routeSpec struct {
	Matchers       []string `yaml:"matchers,omitempty" json:"matchers,omitempty"` // for example service="pay"
	GroupBy        []string `yaml:"groupBy,omitempty" json:"groupBy,omitempty"`
	GroupWait      string   `yaml:"groupWait,omitempty" json:"groupWait,omitempty"`
	GroupInterval  string   `yaml:"groupInterval,omitempty" json:"groupInterval,omitempty"`
	RepeatInterval string   `yaml:"repeatInterval,omitempty" json:"repeatInterval,omitempty"`
}

// hidden is what a secret is shown as.
const hidden = "<hidden>"

func parseReceiver(spec []byte) (receiverSpec, error) {
	var s receiverSpec
	d := yaml.NewDecoder(bytes.NewReader(spec))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return s, kemi.Errorf(kemi.ErrInvalid, "spec: %w; expected webhook {url, sendResolved, maxAlerts, secret} and route {matchers, groupBy, groupWait, groupInterval, repeatInterval}", err)
	}
	if s.Webhook == nil {
		return s, kemi.Errorf(kemi.ErrInvalid, "spec.webhook: missing; it is the kind of receiver that resources can be, others come from the Alertmanager configuration file")
	}
	u, err := url.Parse(s.Webhook.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return s, kemi.Errorf(kemi.ErrInvalid, "spec.webhook.url: not an http or https URL")
	}
	return s, nil
}

// routing is the project's Alertmanager configuration: that of the file or the built-in one, and the receivers that are resources. With
// replace, that receiver stands for the stored one of its name (a nil spec: it is gone).
func (w *Watcher) routing(ctx context.Context, project string, replace map[string]*receiverSpec) (*config.Config, map[string]string, error) {
	base := map[string]any{
		"route": map[string]any{
			"receiver": "none", "group_by": []string{"alertname", "service"}, "group_wait": w.o.Config.GroupWait.String(),
			"group_interval": w.o.Config.GroupInterval.String(), "repeat_interval": w.o.Config.RepeatInterval.String(),
		},
		"receivers": []any{map[string]any{"name": "none"}},
	}
	if w.o.Config.Alertmanager != "" && project == w.o.DefaultProject {
		b, err := os.ReadFile(w.o.Config.Alertmanager)
		if err != nil {
			return nil, nil, fmt.Errorf("read alerting.alertmanager: %w", err)
		}
		if _, err := config.Load(string(b)); err != nil {
			return nil, nil, kemi.Errorf(kemi.ErrInvalid, "alerting.alertmanager: %s: %w", w.o.Config.Alertmanager, err)
		}
		base = map[string]any{}
		if err := yaml.Unmarshal(b, &base); err != nil {
			return nil, nil, kemi.Errorf(kemi.ErrInvalid, "alerting.alertmanager: %s: %w", w.o.Config.Alertmanager, err)
		}
	}
	specs, err := w.receivers(ctx, project)
	if err != nil {
		return nil, nil, err
	}
	for name, s := range replace {
		if s == nil {
			delete(specs, name)
		} else {
			specs[name] = *s
		}
	}
	secrets := map[string]string{}
	root, _ := base["route"].(map[string]any)
	own, _ := root["routes"].([]any)
	receivers, _ := base["receivers"].([]any)
	var routes []any
	for name, s := range specs {
		// Names of resources have a prefix, so that they never meet those of the file.
		id := "resource/" + name
		hook := map[string]any{"url": s.Webhook.URL, "send_resolved": s.Webhook.SendResolved == nil || *s.Webhook.SendResolved, "max_alerts": s.Webhook.MaxAlerts}
		receivers = append(receivers, map[string]any{"name": id, "webhook_configs": []any{hook}})
		secrets[id] = s.Webhook.Secret
		route := map[string]any{"receiver": id, "continue": true}
		for key, v := range map[string]string{"group_wait": s.Route.GroupWait, "group_interval": s.Route.GroupInterval, "repeat_interval": s.Route.RepeatInterval} {
			if v != "" {
				route[key] = v
			}
		}
		if len(s.Route.Matchers) > 0 {
			route["matchers"] = s.Route.Matchers
		}
		if len(s.Route.GroupBy) > 0 {
			route["group_by"] = s.Route.GroupBy
		}
		routes = append(routes, route)
	}
	if root != nil && len(routes) > 0 {
		// Routes of resources all continue. Where none of the file's own follows, alerts would no longer reach its root receiver.
		if len(own) == 0 && root["receiver"] != "none" {
			own = []any{map[string]any{"receiver": root["receiver"]}}
		}
		root["routes"] = append(routes, own...)
	}
	base["receivers"] = receivers
	text, err := yaml.Marshal(base)
	if err != nil {
		return nil, nil, fmt.Errorf("routing of %s: %w", project, err)
	}
	conf, err := config.Load(string(text))
	if err != nil {
		return nil, nil, kemi.Errorf(kemi.ErrInvalid, "receivers of project %s: %w", project, err)
	}
	return conf, secrets, nil
}

// receivers are the stored ones of a project.
func (w *Watcher) receivers(ctx context.Context, project string) (map[string]receiverSpec, error) {
	rs, err := w.o.Control.List(ctx, project, kindReceiver, store.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("read receivers of %s: %w", project, err)
	}
	out := make(map[string]receiverSpec, len(rs))
	for _, r := range rs {
		if out[r.Name], err = parseReceiver(r.Spec); err != nil {
			return nil, fmt.Errorf("receiver %s of %s: %w", r.Name, project, err)
		}
	}
	return out, nil
}

// putReceiver checks, stores and uses a receiver.
func (w *Watcher) putReceiver(ctx context.Context, project, name string, spec []byte, revision int64) (store.Resource, error) {
	if !validName.MatchString(name) {
		return store.Resource{}, kemi.Errorf(kemi.ErrInvalid, "name: %.80q must match %s", name, validName)
	}
	s, err := parseReceiver(spec)
	if err != nil {
		return store.Resource{}, err
	}
	for field, v := range map[string]string{"groupWait": s.Route.GroupWait, "groupInterval": s.Route.GroupInterval, "repeatInterval": s.Route.RepeatInterval} {
		if d, err := time.ParseDuration(v); v != "" && (err != nil || d < 0) {
			return store.Resource{}, kemi.Errorf(kemi.ErrInvalid, "spec.route.%s: %q is not a duration such as 30s", field, v)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.tenantLocked(ctx, project)
	if err != nil {
		return store.Resource{}, err
	}
	if s.Webhook.Secret == hidden { // written back as it was read
		old, err := w.receivers(ctx, project)
		if err != nil {
			return store.Resource{}, err
		}
		if o, ok := old[name]; ok {
			s.Webhook.Secret = o.Webhook.Secret
		}
	}
	conf, secrets, err := w.routing(ctx, project, map[string]*receiverSpec{name: &s})
	if err != nil {
		return store.Resource{}, err
	}
	text, err := yaml.Marshal(s)
	if err != nil {
		return store.Resource{}, err
	}
	asJSON, err := toJSON(text)
	if err != nil {
		return store.Resource{}, err
	}
	r, err := w.o.Control.Put(ctx, store.Resource{Project: project, Kind: kindReceiver, Name: name, Spec: asJSON, Revision: revision})
	if err != nil {
		return store.Resource{}, fmt.Errorf("store receiver %s: %w", name, err)
	}
	return r, t.notify.Apply(conf, secrets)
}

func (w *Watcher) deleteReceiver(ctx context.Context, project, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.tenantLocked(ctx, project)
	if err != nil {
		return err
	}
	if err := w.o.Control.Delete(ctx, project, kindReceiver, name, store.AnyRevision); err != nil {
		return err
	}
	conf, secrets, err := w.routing(ctx, project, nil)
	if err != nil {
		return err
	}
	return t.notify.Apply(conf, secrets)
}
