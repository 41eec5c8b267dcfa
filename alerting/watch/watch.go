package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/alerting/notify"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// Metrics answers PromQL for an identity.
type Metrics interface {
	Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (promql.Vector, error)
	Queryable(id kemi.Identity) storage.Queryable
}

// Writer puts samples onto the log of record. Values may be Prometheus' stale marker.
type Writer interface {
	Write(ctx context.Context, id kemi.Identity, points []kemi.Points) error
}

// Options are what a Watcher works with. All are needed.
type Options struct {
	Config   Config
	Bus      bus.Bus
	Control  store.Control
	Metrics  Metrics
	Writer   Writer
	ParseLog func(query string) (store.LogExpr, error)
	// DefaultProject owns the rules and the routing that come from files.
	DefaultProject string
	Log            *slog.Logger
	Registry       prometheus.Registerer
	Now            func() time.Time
}

// Watcher runs rules.
type Watcher struct {
	o        Options
	external *url.URL
	keywords *keywords
	ruleMx   *ruleMetrics

	mu      sync.Mutex // guards tenants, and makes changes of rules and receivers one after another
	tenants map[string]*tenant
	running context.Context
	started bool
	closed  bool
}

// tenant is the rules and alerts of one project.
type tenant struct {
	project string
	notify  *notify.Manager
	rules   *promRules
}

// New reads the rules and starts each project's notifications. Rules are evaluated once Run is called.
func New(ctx context.Context, o Options) (*Watcher, error) {
	external, err := url.Parse(o.Config.ExternalURL)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "alerting.externalURL: %w", err)
	}
	w := &Watcher{o: o, external: external, tenants: map[string]*tenant{}, running: context.WithoutCancel(ctx), ruleMx: newRuleMetrics(o.Registry)}
	w.keywords = newKeywords(w)
	projects := map[string]bool{o.DefaultProject: true}
	for _, kind := range []string{kindRule, kindReceiver} {
		rs, err := o.Control.List(ctx, "", kind, store.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("read %ss: %w", kind, err)
		}
		for _, r := range rs {
			projects[r.Project] = true
		}
	}
	for p := range projects {
		if _, err := w.tenant(ctx, p); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// tenant is that of a project, made at its first use.
func (w *Watcher) tenant(ctx context.Context, project string) (*tenant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tenantLocked(ctx, project)
}

func (w *Watcher) tenantLocked(ctx context.Context, project string) (*tenant, error) {
	if t := w.tenants[project]; t != nil {
		return t, nil
	}
	if w.closed {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "the server is stopping")
	}
	conf, secrets, err := w.routing(ctx, project, nil)
	if err != nil {
		return nil, err
	}
	t := &tenant{project: project}
	t.notify, err = notify.New(w.running, notify.Options{
		Project: project, Control: w.o.Control, Log: w.o.Log, Registry: w.o.Registry, Now: w.o.Now, ExternalURL: w.external,
		Changed: func(ctx context.Context, a *alert.Alert, firing bool) error {
			return w.publish(ctx, project, a, firing)
		},
	}, conf, secrets)
	if err != nil {
		return nil, err
	}
	t.rules = w.newPromRules(t)
	if err := w.loadRules(ctx, t); err != nil {
		t.close()
		return nil, err
	}
	w.tenants[project] = t
	if w.started {
		t.rules.start()
	}
	return t, nil
}

func (t *tenant) close() {
	t.rules.stop()
	t.notify.Close()
}

// Run evaluates rules until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	w.mu.Lock()
	w.started = true
	for _, t := range w.tenants {
		t.rules.start()
	}
	w.mu.Unlock()
	return w.keywords.run(ctx)
}

// Close stops all projects' rules and notifications.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.closed = true
	tenants := w.tenants
	w.tenants = map[string]*tenant{}
	w.mu.Unlock()
	for _, t := range tenants {
		t.close()
	}
}

// alertData is the data of an alert's event.
type alertData struct {
	Annotations map[string]string `json:"annotations,omitempty"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      *time.Time        `json:"endsAt,omitempty"`
}

// publish makes an event of an alert that begins or ends. The same beginning always has the same ID.
func (w *Watcher) publish(ctx context.Context, project string, a *alert.Alert, firing bool) error {
	state := "firing"
	d := alertData{Annotations: map[string]string{}, StartsAt: a.StartsAt}
	if !firing {
		state, d.EndsAt = "resolved", &a.EndsAt
	}
	for k, v := range a.Annotations {
		d.Annotations[string(k)] = string(v)
	}
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("event of alert %s: %w", a.Name(), err)
	}
	tags := make(map[string]string, len(a.Labels))
	for k, v := range a.Labels {
		tags[string(k)] = string(v)
	}
	r, err := codec.EncodeEvent(kemi.Event{
		ID:   fmt.Sprintf("alert-%s-%d-%s", a.Fingerprint(), a.StartsAt.UnixMilli(), state),
		Kind: "alert", Project: project, Subject: a.Name(), At: kemi.MillisOf(w.o.Now()), Firing: firing, Tags: kemi.LabelsFromMap(tags), Data: data,
	})
	if err != nil {
		return err
	}
	return w.o.Bus.Publish(ctx, bus.Events, []bus.Record{r})
}

// identity is who a project's rules run as.
func identity(project string) kemi.Identity {
	return kemi.Identity{Subject: "rules", Project: project, Permissions: kemi.MetricsRead | kemi.MetricsWrite | kemi.LogsRead}
}

// resendAfter is how often an alert that still fires is said again; it ends by itself when that has not happened for four times as long.
const resendAfter = time.Minute

// raise tells the project's Alertmanager of a keyword rule's alert.
func (t *tenant) raise(ctx context.Context, labels, annotations kemi.Labels, startsAt, now time.Time, firing bool) error {
	a := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{}, Annotations: model.LabelSet{}, StartsAt: startsAt, EndsAt: now}, UpdatedAt: now}
	if firing {
		a.EndsAt = now.Add(4 * resendAfter)
	}
	for _, l := range labels {
		a.Labels[model.LabelName(l.Name)] = model.LabelValue(l.Value)
	}
	for _, l := range annotations {
		a.Annotations[model.LabelName(l.Name)] = model.LabelValue(l.Value)
	}
	return t.notify.Put(ctx, a)
}
