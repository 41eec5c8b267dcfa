package autoscale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/store"
)

// The kinds of resource in the control store.
const (
	kindGroup    = "group"
	kindState    = "group-state"
	kindDecision = "decision"
	kindAlert    = "firing-alert" // that fires now, as the events said
)

const maxGroups = 1000 // of a project

// Options are what an Autoscaler works with. All are needed.
type Options struct {
	Control    store.Control
	Bus        bus.Bus
	Querier    Querier
	Drivers    map[string]Driver // by the type that a spec names
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Autoscaler runs the groups of all projects.
type Autoscaler struct {
	o         Options
	metrics   *metrics
	alerts    *alerts
	decisions *history

	mu      sync.Mutex // guards what follows, and makes changes of groups one after another
	groups  map[groupKey]*group
	running context.Context //nolint:containedctx // that of Run, for groups that are made later; nil before and after it
}

type groupKey struct{ project, name string }

type metrics struct {
	evaluations *prometheus.CounterVec
	decisions   *prometheus.CounterVec
	failures    *prometheus.CounterVec
	desired     *prometheus.GaugeVec
	instances   *prometheus.GaugeVec
	alerts      prometheus.GaugeFunc
	dropped     prometheus.Counter
}

// New reads the groups. Nothing is evaluated before Run.
func New(ctx context.Context, o Options) (*Autoscaler, error) {
	a := &Autoscaler{o: o, groups: map[groupKey]*group{}}
	ofGroup := []string{"project", "group"}
	a.metrics = &metrics{
		evaluations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_autoscale_evaluations_total", Help: "Evaluations of groups, by what they came to."}, []string{"code"}),
		decisions:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_autoscale_decisions_total", Help: "Recorded decisions."}, []string{"action"}),
		failures:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_autoscale_failures_total", Help: "What failed: query, driver, store, event."}, []string{"what"}),
		desired:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kemi_autoscale_desired_instances", Help: "Size that a group should have."}, ofGroup),
		instances:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kemi_autoscale_instances", Help: "Instances that a group has, without those that stop."}, ofGroup),
		dropped:     prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_autoscale_alerts_dropped_total", Help: "Alerts not followed because a project had too many."}),
	}
	a.alerts = newAlerts(a)
	a.metrics.alerts = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kemi_autoscale_firing_alerts", Help: "Alerts that fire, as groups see them."}, a.alerts.count)
	a.decisions = newHistory(a)
	if err := errors.Join(a.alerts.load(ctx), a.decisions.load(ctx), a.load(ctx)); err != nil {
		return nil, fmt.Errorf("read the autoscale groups: %w", err)
	}
	for _, c := range []prometheus.Collector{a.metrics.evaluations, a.metrics.decisions, a.metrics.failures, a.metrics.desired, a.metrics.instances, a.metrics.alerts, a.metrics.dropped} {
		if err := o.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of autoscale: %w", err)
		}
	}
	return a, nil
}

func (a *Autoscaler) load(ctx context.Context) error {
	rs, err := a.o.Control.List(ctx, "", kindGroup, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, r := range rs {
		g := newGroup(a, r.Project, r.Name)
		if g.spec, err = ParseSpec(r.Spec); err != nil {
			return fmt.Errorf("group %s of project %s: %w", r.Name, r.Project, err)
		}
		if g.driver() == nil {
			return kemi.Errorf(kemi.ErrInvalid, "group %s of project %s: there is no driver of type %q", r.Name, r.Project, g.spec.Driver.Type)
		}
		g.revision, g.updated = r.Revision, r.Updated
		switch s, err := a.o.Control.Get(ctx, r.Project, kindState, r.Name); {
		case err == nil:
			if err := json.Unmarshal(s.Status, &g.state); err != nil {
				return fmt.Errorf("state of group %s of project %s: %w", r.Name, r.Project, err)
			}
		case !errors.Is(err, kemi.ErrNotFound):
			return err
		}
		g.last = a.decisions.last[groupKey{r.Project, r.Name}]
		a.groups[groupKey{r.Project, r.Name}] = g
	}
	a.decisions.last = nil
	return nil
}

// Run evaluates the groups until ctx ends. The pools stay as they are then; what becomes of them is their driver's to say.
func (a *Autoscaler) Run(ctx context.Context) error {
	a.keep(ctx)
	a.decisions.finishInterrupted(ctx)
	a.mu.Lock()
	a.running = ctx
	for _, g := range a.groups {
		g.start(ctx)
	}
	a.mu.Unlock()
	err := a.alerts.follow(ctx)
	a.mu.Lock()
	a.running = nil
	groups := make([]*group, 0, len(a.groups))
	for _, g := range a.groups {
		groups = append(groups, g)
	}
	a.mu.Unlock()
	for _, g := range groups {
		g.stop()
		g.save(context.WithoutCancel(ctx))
	}
	return err
}

// keep tells the drivers what is theirs, so that they can end what was left over.
func (a *Autoscaler) keep(ctx context.Context) {
	for name, d := range a.o.Drivers {
		k, ok := d.(Keeper)
		if !ok {
			continue
		}
		var groups []Group
		a.mu.Lock()
		for _, g := range a.groups {
			if g.spec.Driver.Type == name {
				groups = append(groups, g.forDriver())
			}
		}
		a.mu.Unlock()
		if err := k.Keep(ctx, groups); err != nil {
			a.o.Log.Error("instances that belong to no group may be left running", "driver", name, "err", err)
		}
	}
}

func (a *Autoscaler) find(project, name string) (*group, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g := a.groups[groupKey{project, name}]; g != nil {
		return g, nil
	}
	return nil, kemi.Errorf(kemi.ErrNotFound, "there is no group %.80q", name)
}

// wake makes the groups of a project that listen to one of these alerts look again now.
func (a *Autoscaler) wake(changed map[alertKey]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, g := range a.groups {
		for _, name := range g.listensTo() {
			if changed[alertKey{k.project, name}] {
				g.wakeUp()
			}
		}
	}
}

// identity is who a group's queries run as.
func identity(k groupKey) kemi.Identity {
	return kemi.Identity{Subject: "group:" + k.name, Project: k.project, Permissions: kemi.MetricsRead}
}
