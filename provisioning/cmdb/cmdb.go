package cmdb

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// The kinds of resource in the control store.
const (
	kindHost    = "host"
	kindReport  = "host-report" // what an agent said of its host
	kindService = "service"
	kindEvent   = "ims-event"  // a change that is stored but not yet published
	kindFound   = "host-found" // what discovery says of a host
	kindProfile = "snmp-profile"
)

// Options are what a CMDB works with. All but CheckProfile are needed.
type Options struct {
	Control    store.Control
	Bus        bus.Bus
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// CheckProfile tells what is wrong with an SNMP profile, and gives it in its one form. Without it profiles are refused.
	CheckProfile func(spec json.RawMessage) (json.RawMessage, error)
}

// CMDB is the inventory of all projects. Its methods may be called concurrently.
type CMDB struct {
	o       Options
	labels  index
	metrics metrics

	change sync.Mutex // makes changes one after another, so that events are published in their order

	mu       sync.RWMutex // guards what follows
	projects map[string]*project

	pending []pendingEvent // guarded by change
}

type project struct {
	hosts    map[string]*host
	services map[string]*service
	profiles map[string]*profile
}

// host is replaced as a whole when something changes, except for lastSeen.
type host struct {
	name     string
	spec     HostSpec
	revision int64 // of the spec; 0: only an agent spoke of it
	updated  kemi.Millis

	report     report
	reportJSON json.RawMessage // nil: no agent registered it
	registered kemi.Millis

	found     foundSNMP
	foundJSON json.RawMessage // nil: discovery has not found it

	seen *seen
}

// seen is when an agent last registered, and up to when the store knows of it.
type seen struct{ last, stored atomic.Int64 }

type service struct {
	name     string
	spec     ServiceSpec
	revision int64
	updated  kemi.Millis
}

type metrics struct {
	changes       *prometheus.CounterVec
	registrations *prometheus.CounterVec
}

var _ codec.Enricher = (*CMDB)(nil)

// New reads the inventory, and publishes the events that a crash held back.
func New(ctx context.Context, o Options) (*CMDB, error) {
	c := &CMDB{o: o, projects: map[string]*project{}}
	c.labels.epoch.Store(1)
	c.metrics = metrics{
		changes:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_ims_changes_total", Help: "Changes of the inventory."}, []string{"kind", "action"}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_ims_registrations_total", Help: "Registrations of agents: new, changed, unchanged or refused."}, []string{"result"}),
	}
	if err := c.load(ctx); err != nil {
		return nil, fmt.Errorf("read the inventory: %w", err)
	}
	for _, m := range []prometheus.Collector{
		c.metrics.changes, c.metrics.registrations,
		c.gauge("kemi_ims_hosts", "Hosts in the inventory.", func(p *project) int { return len(p.hosts) }),
		c.gauge("kemi_ims_services", "Services in the inventory.", func(p *project) int { return len(p.services) }),
	} {
		if err := o.Registerer.Register(m); err != nil {
			return nil, fmt.Errorf("metrics of the inventory: %w", err)
		}
	}
	return c, nil
}

func (c *CMDB) gauge(name, help string, count func(*project) int) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		c.mu.RLock()
		defer c.mu.RUnlock()
		n := 0
		for _, p := range c.projects {
			n += count(p)
		}
		return float64(n)
	})
}

func (c *CMDB) load(ctx context.Context) error {
	each := func(kind string, f func(r store.Resource) error) error {
		rs, err := c.o.Control.List(ctx, "", kind, store.ListOptions{})
		if err != nil {
			return err
		}
		for _, r := range rs {
			if err := f(r); err != nil {
				return fmt.Errorf("%s %s of project %s: %w", kind, r.Name, r.Project, err)
			}
		}
		return nil
	}
	if err := each(kindService, func(r store.Resource) error {
		s := &service{name: r.Name, revision: r.Revision, updated: r.Updated}
		c.project(r.Project).services[r.Name] = s
		return json.Unmarshal(r.Spec, &s.spec)
	}); err != nil {
		return err
	}
	if err := each(kindHost, func(r store.Resource) error {
		h := &host{name: r.Name, revision: r.Revision, updated: r.Updated, seen: &seen{}}
		c.project(r.Project).hosts[r.Name] = h
		return json.Unmarshal(r.Spec, &h.spec)
	}); err != nil {
		return err
	}
	if err := each(kindReport, func(r store.Resource) error {
		p := c.project(r.Project)
		h := p.hosts[r.Name]
		if h == nil {
			h = &host{name: r.Name, seen: &seen{}}
			p.hosts[r.Name] = h
		}
		var s reportStatus
		if err := json.Unmarshal(r.Status, &s); err != nil {
			return err
		}
		h.reportJSON, h.registered = r.Spec, s.Registered
		h.seen.last.Store(int64(s.LastSeen))
		h.seen.stored.Store(int64(s.LastSeen))
		return json.Unmarshal(r.Spec, &h.report)
	}); err != nil {
		return err
	}
	if err := c.loadSNMP(each); err != nil {
		return err
	}
	for name, p := range c.projects {
		for _, h := range p.hosts {
			c.labels.set(name, h.name, p.resolve(h).labels())
		}
	}
	if err := each(kindEvent, func(r store.Resource) error {
		e := pendingEvent{name: r.Name}
		if err := json.Unmarshal(r.Spec, &e.event); err != nil {
			return err
		}
		c.pending = append(c.pending, e)
		return nil
	}); err != nil {
		return err
	}
	var err error
	if c.pending, err = c.happened(ctx, c.pending); err != nil {
		return err
	}
	c.flush(ctx)
	return nil
}

// project is that of the name, made at its first use. The caller holds mu for writing, or nobody else knows c yet.
func (c *CMDB) project(name string) *project {
	p := c.projects[name]
	if p == nil {
		p = &project{hosts: map[string]*host{}, services: map[string]*service{}, profiles: map[string]*profile{}}
		c.projects[name] = p
	}
	return p
}

// resolved is what is known of a host when everybody has been heard.
type resolved struct {
	service, owner, zone string
	ownerFrom            string // host, service or agent
}

func (p *project) resolve(h *host) resolved {
	r := resolved{service: first(h.spec.Service, h.report.Service), zone: first(h.spec.Zone, h.report.Zone)}
	var ofService string
	if s := p.services[r.service]; s != nil {
		ofService = s.spec.Owner
	}
	switch {
	case h.spec.Owner != "":
		r.owner, r.ownerFrom = h.spec.Owner, "host"
	case ofService != "":
		r.owner, r.ownerFrom = ofService, "service"
	case h.report.Owner != "":
		r.owner, r.ownerFrom = h.report.Owner, "agent"
	}
	return r
}

func (r resolved) labels() kemi.Labels {
	return kemi.LabelsOf("service", r.service, "owner", r.owner, "zone", r.zone)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Owner is who owns a service, or "" if nobody is known to.
func (c *CMDB) Owner(projectName, serviceName string) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p := c.projects[projectName]; p != nil {
		if s := p.services[serviceName]; s != nil {
			return s.spec.Owner
		}
	}
	return ""
}
