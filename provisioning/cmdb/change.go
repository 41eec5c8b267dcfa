package cmdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
	"kemi/provisioning/resource"
)

// seenEvery is how far behind the store may be with when an agent was last seen: a registration that changes nothing else is written
// only this often.
const seenEvery = 5 * time.Minute

// The kinds of event.
const (
	EventHost    = "ims.host"
	EventService = "ims.service"
	EventProfile = "ims.profile"
)

type pendingEvent struct {
	name  string // of its resource
	event kemi.Event
}

// eventData is the data of an event.
type eventData struct {
	Action string          `json:"action"` // created, updated, registered, deleted
	By     string          `json:"by"`
	Object resource.Object `json:"object"` // after the change; before it, if deleted
}

func (c *CMDB) newEvent(id kemi.Identity, kind, action string, o resource.Object, tags kemi.Labels) (pendingEvent, store.Resource, error) {
	now := c.o.Now()
	data, err := json.Marshal(eventData{Action: action, By: id.Subject, Object: o})
	if err != nil {
		return pendingEvent{}, store.Resource{}, fmt.Errorf("event of %s %s: %w", kind, o.Metadata.Name, err)
	}
	name := ulid.Make().String()
	e := pendingEvent{name: name, event: kemi.Event{
		ID: "ims-" + name, Project: id.Project, Kind: kind, Subject: o.Metadata.Name, At: kemi.MillisOf(now), Tags: tags.With("action", action), Data: data,
	}}
	spec, err := json.Marshal(e.event)
	if err != nil {
		return pendingEvent{}, store.Resource{}, fmt.Errorf("event of %s %s: %w", kind, o.Metadata.Name, err)
	}
	return e, store.Resource{Project: id.Project, Kind: kindEvent, Name: name, Spec: spec}, nil
}

// publish says e to everybody, after those that still wait. The change itself has happened: what cannot be published now is
// kept and published with the next change, or at the next start.
func (c *CMDB) publish(ctx context.Context, e pendingEvent, action string) {
	c.metrics.changes.WithLabelValues(e.event.Kind, action).Inc()
	c.pending = append(c.pending, e)
	c.flush(context.WithoutCancel(ctx))
}

func (c *CMDB) flush(ctx context.Context) {
	for len(c.pending) > 0 {
		e := c.pending[0]
		r, err := codec.EncodeEvent(e.event)
		if err == nil {
			err = c.o.Bus.Publish(ctx, bus.Events, []bus.Record{r})
		}
		if err == nil {
			err = c.o.Control.Delete(ctx, e.event.Project, kindEvent, e.name, store.AnyRevision)
		}
		if err != nil && !errors.Is(err, kemi.ErrNotFound) {
			c.o.Log.Warn("event waits; it is published with the next change", "kind", e.event.Kind, "subject", e.event.Subject, "waiting", len(c.pending), "err", err)
			return
		}
		c.pending = c.pending[1:]
	}
}

// happened leaves out, and forgets, events of deletions that a crash prevented: the event is kept first.
func (c *CMDB) happened(ctx context.Context, es []pendingEvent) ([]pendingEvent, error) {
	var out []pendingEvent
	for _, e := range es {
		p := c.project(e.event.Project)
		if e.event.Tags.Get("action") == "deleted" && (e.event.Kind == EventHost && p.hosts[e.event.Subject] != nil || e.event.Kind == EventService && p.services[e.event.Subject] != nil || e.event.Kind == EventProfile && p.profiles[e.event.Subject] != nil) {
			if err := c.o.Control.Delete(ctx, e.event.Project, kindEvent, e.name, store.AnyRevision); err != nil {
				return nil, err
			}
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

func (c *CMDB) lookup(projectName string) (hosts map[string]*host, services map[string]*service) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p := c.projects[projectName]; p != nil {
		return p.hosts, p.services
	}
	return nil, nil
}

// install makes a change visible: f changes copies of nothing, under the lock, and then the labels of the hosts that f names follow.
func (c *CMDB) install(projectName string, f func(p *project) (touched []*host)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.project(projectName)
	for _, h := range f(p) {
		var labels kemi.Labels
		if p.hosts[h.name] != nil {
			labels = p.resolve(h).labels()
		}
		c.labels.set(projectName, h.name, labels)
	}
}

func conflict(kind, name string, revision int64) error {
	return kemi.Errorf(kemi.ErrConflict, "%s %q is not at revision %d", kind, name, revision)
}

// PutHost sets what people say of a host, if its spec is still at revision (0: there is none; store.AnyRevision: always).
func (c *CMDB) PutHost(ctx context.Context, id kemi.Identity, name string, spec HostSpec, revision int64) (resource.Object, error) {
	if !id.Can(kemi.IMSWrite) {
		return resource.Object{}, denied(id, kemi.IMSWrite)
	}
	if err := errors.Join(resource.CheckName("metadata.name", name), spec.validate()); err != nil {
		return resource.Object{}, err
	}
	c.change.Lock()
	defer c.change.Unlock()
	hosts, _ := c.lookup(id.Project)
	old := hosts[name]
	next := &host{name: name, seen: &seen{}}
	action := "created"
	if old != nil {
		copied := *old
		next, action = &copied, "updated"
	} else if len(hosts) >= maxHosts {
		return resource.Object{}, kemi.Errorf(kemi.ErrLimited, "project %s has %d hosts already, which is the limit", id.Project, maxHosts)
	}
	if revision != store.AnyRevision && revision != next.revision {
		return resource.Object{}, conflict("host", name, revision)
	}
	if old != nil && old.revision > 0 && sameJSON(old.spec, spec) {
		return c.hostObject(id.Project, old), nil
	}
	next.spec = spec
	body, err := json.Marshal(spec)
	if err != nil {
		return resource.Object{}, fmt.Errorf("host %s: %w", name, err)
	}
	e, er, err := c.newEvent(id, EventHost, action, c.hostObject(id.Project, next), c.hostTags(id.Project, next))
	if err != nil {
		return resource.Object{}, err
	}
	rs, err := c.o.Control.PutAll(ctx, []store.Resource{{Project: id.Project, Kind: kindHost, Name: name, Spec: body, Revision: next.revision}, er})
	if err != nil {
		return resource.Object{}, fmt.Errorf("store host %s: %w", name, err)
	}
	next.revision, next.updated = rs[0].Revision, rs[0].Updated
	c.install(id.Project, func(p *project) []*host {
		p.hosts[name] = next
		return []*host{next}
	})
	c.publish(ctx, e, action)
	return c.hostObject(id.Project, next), nil
}

// Register takes what an agent says of its host: a JSON object in which service, owner and zone have a meaning, and the rest is shown as it
// is. It never changes what people said. Said again without a change it costs no write, but when it was said is remembered.
func (c *CMDB) Register(ctx context.Context, id kemi.Identity, name string, facts json.RawMessage) (resource.Object, error) {
	o, result, err := c.register(ctx, id, name, facts)
	if err != nil {
		result = "refused"
	}
	c.metrics.registrations.WithLabelValues(result).Inc()
	return o, err
}

func (c *CMDB) register(ctx context.Context, id kemi.Identity, name string, facts json.RawMessage) (resource.Object, string, error) {
	if !id.Can(kemi.IMSRegister) {
		return resource.Object{}, "", denied(id, kemi.IMSRegister)
	}
	if err := resource.CheckName("metadata.name", name); err != nil {
		return resource.Object{}, "", err
	}
	rep, canonical, err := parseReport(facts)
	if err != nil {
		return resource.Object{}, "", err
	}
	now := kemi.MillisOf(c.o.Now())
	c.mu.RLock()
	var old *host
	if p := c.projects[id.Project]; p != nil {
		old = p.hosts[name]
	}
	c.mu.RUnlock()
	if old != nil && bytes.Equal(old.reportJSON, canonical) && now-kemi.Millis(old.seen.stored.Load()) < kemi.Millis(seenEvery.Milliseconds()) {
		old.seen.last.Store(int64(now))
		return c.hostObject(id.Project, old), "unchanged", nil
	}
	c.change.Lock()
	defer c.change.Unlock()
	hosts, _ := c.lookup(id.Project)
	next, result := &host{name: name, seen: &seen{}}, "new"
	if old = hosts[name]; old != nil {
		copied := *old
		next, result = &copied, "changed"
	} else if len(hosts) >= maxHosts {
		return resource.Object{}, "", kemi.Errorf(kemi.ErrLimited, "project %s has %d hosts already, which is the limit", id.Project, maxHosts)
	}
	same := next.reportJSON != nil && bytes.Equal(next.reportJSON, canonical)
	if same {
		result = "unchanged"
	}
	if next.reportJSON == nil {
		next.registered = now
	}
	next.report, next.reportJSON = rep, canonical
	status, err := json.Marshal(reportStatus{Registered: next.registered, LastSeen: now})
	if err != nil {
		return resource.Object{}, "", fmt.Errorf("register host %s: %w", name, err)
	}
	changes := []store.Resource{{Project: id.Project, Kind: kindReport, Name: name, Spec: canonical, Status: status, Revision: store.AnyRevision}}
	var e pendingEvent
	if !same {
		var er store.Resource
		if e, er, err = c.newEvent(id, EventHost, "registered", c.hostObject(id.Project, next), c.hostTags(id.Project, next)); err != nil {
			return resource.Object{}, "", err
		}
		changes = append(changes, er)
	}
	if _, err := c.o.Control.PutAll(ctx, changes); err != nil {
		return resource.Object{}, "", fmt.Errorf("register host %s: %w", name, err)
	}
	next.seen.last.Store(int64(now))
	next.seen.stored.Store(int64(now))
	if !same {
		c.install(id.Project, func(p *project) []*host {
			p.hosts[name] = next
			return []*host{next}
		})
		c.publish(ctx, e, "registered")
	}
	return c.hostObject(id.Project, next), result, nil
}

// DeleteHost forgets a host, also what its agent said. An agent that still runs registers it anew.
func (c *CMDB) DeleteHost(ctx context.Context, id kemi.Identity, name string, revision int64) error {
	if !id.Can(kemi.IMSWrite) {
		return denied(id, kemi.IMSWrite)
	}
	c.change.Lock()
	defer c.change.Unlock()
	hosts, _ := c.lookup(id.Project)
	old := hosts[name]
	if old == nil {
		return kemi.Errorf(kemi.ErrNotFound, "there is no host %q", name)
	}
	return c.remove(ctx, id, EventHost, name, revision, []string{kindFound, kindReport, kindHost}, c.hostObject(id.Project, old), c.hostTags(id.Project, old), func(p *project) []*host {
		delete(p.hosts, name)
		return []*host{old}
	})
}

// remove forgets what is stored under the kinds, the last of which is the resource's own. The change is held by the caller.
func (c *CMDB) remove(ctx context.Context, id kemi.Identity, event, name string, revision int64, kinds []string, o resource.Object, tags kemi.Labels, forget func(p *project) []*host) error {
	what := strings.TrimPrefix(event, "ims.")
	if revision != store.AnyRevision && revision != o.Metadata.Revision {
		return conflict(what, name, revision)
	}
	e, er, err := c.newEvent(id, event, "deleted", o, tags)
	if err != nil {
		return err
	}
	if _, err := c.o.Control.Put(ctx, er); err != nil {
		return fmt.Errorf("delete %s %s: %w", what, name, err)
	}
	for _, kind := range kinds {
		if err := c.o.Control.Delete(context.WithoutCancel(ctx), id.Project, kind, name, store.AnyRevision); err != nil && !errors.Is(err, kemi.ErrNotFound) {
			return fmt.Errorf("delete %s %s: %w", what, name, err)
		}
	}
	c.install(id.Project, forget)
	c.publish(ctx, e, "deleted")
	return nil
}

// PutService sets what people say of a service, under the same condition as PutHost.
func (c *CMDB) PutService(ctx context.Context, id kemi.Identity, name string, spec ServiceSpec, revision int64) (resource.Object, error) {
	if !id.Can(kemi.IMSWrite) {
		return resource.Object{}, denied(id, kemi.IMSWrite)
	}
	if err := errors.Join(resource.CheckName("metadata.name", name), checkValue("metadata.name", name), spec.validate()); err != nil {
		return resource.Object{}, err
	}
	c.change.Lock()
	defer c.change.Unlock()
	_, services := c.lookup(id.Project)
	old := services[name]
	next, action := &service{name: name}, "created"
	if old != nil {
		copied := *old
		next, action = &copied, "updated"
	} else if len(services) >= maxServices {
		return resource.Object{}, kemi.Errorf(kemi.ErrLimited, "project %s has %d services already, which is the limit", id.Project, maxServices)
	}
	if revision != store.AnyRevision && revision != next.revision {
		return resource.Object{}, conflict("service", name, revision)
	}
	if old != nil && sameJSON(old.spec, spec) {
		return c.serviceObject(id.Project, old), nil
	}
	next.spec = spec
	body, err := json.Marshal(spec)
	if err != nil {
		return resource.Object{}, fmt.Errorf("service %s: %w", name, err)
	}
	e, er, err := c.newEvent(id, EventService, action, c.serviceObject(id.Project, next), kemi.LabelsOf("service", name, "owner", spec.Owner))
	if err != nil {
		return resource.Object{}, err
	}
	rs, err := c.o.Control.PutAll(ctx, []store.Resource{{Project: id.Project, Kind: kindService, Name: name, Spec: body, Revision: next.revision}, er})
	if err != nil {
		return resource.Object{}, fmt.Errorf("store service %s: %w", name, err)
	}
	next.revision, next.updated = rs[0].Revision, rs[0].Updated
	c.install(id.Project, func(p *project) []*host {
		p.services[name] = next
		return p.hostsOf(name)
	})
	c.publish(ctx, e, action)
	return c.serviceObject(id.Project, next), nil
}

// DeleteService forgets a service. Hosts go on naming it; their owner by way of it is gone.
func (c *CMDB) DeleteService(ctx context.Context, id kemi.Identity, name string, revision int64) error {
	if !id.Can(kemi.IMSWrite) {
		return denied(id, kemi.IMSWrite)
	}
	c.change.Lock()
	defer c.change.Unlock()
	_, services := c.lookup(id.Project)
	old := services[name]
	if old == nil {
		return kemi.Errorf(kemi.ErrNotFound, "there is no service %q", name)
	}
	return c.remove(ctx, id, EventService, name, revision, []string{kindService}, c.serviceObject(id.Project, old), kemi.LabelsOf("service", name, "owner", old.spec.Owner), func(p *project) []*host {
		delete(p.services, name)
		return p.hostsOf(name)
	})
}

func (p *project) hostsOf(service string) []*host {
	var out []*host
	for h := range maps.Values(p.hosts) {
		if first(h.spec.Service, h.report.Service) == service {
			out = append(out, h)
		}
	}
	return out
}

func denied(id kemi.Identity, p kemi.Permission) error {
	return kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", id.Subject, p)
}

func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
