package autoscale

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"kemi"
	"kemi/pipeline/store"
	"kemi/provisioning/resource"
)

// Routes are the API of groups and decisions.
func (a *Autoscaler) Routes() []kemi.Route {
	return []kemi.Route{
		{Pattern: "GET /api/v2/groups", Needs: kemi.GroupsRead, Handle: a.listGroups},
		{Pattern: "GET /api/v2/groups/{name}", Needs: kemi.GroupsRead, Handle: a.getGroup},
		{Pattern: "PUT /api/v2/groups/{name}", Needs: kemi.GroupsWrite, Handle: a.putGroup},
		{Pattern: "DELETE /api/v2/groups/{name}", Needs: kemi.GroupsWrite, Handle: a.deleteGroup},
		{Pattern: "PUT /api/v2/groups/{name}/scale", Needs: kemi.GroupsScale, Handle: a.scaleGroup},
		{Pattern: "GET /api/v2/decisions", Needs: kemi.GroupsRead, Handle: a.listDecisions},
	}
}

// Status is what is, of a group.
type Status struct {
	Current        int         `json:"current"` // instances, without those that stop
	Desired        int         `json:"desired"`
	Instances      []Instance  `json:"instances"`
	LastDecision   *Record     `json:"lastDecision,omitempty"`
	LastEvaluation *evaluated  `json:"lastEvaluation,omitempty"`
	LastChange     kemi.Millis `json:"lastChange,omitempty"`
	Problem        string      `json:"problem,omitempty"`
}

// object shows the group to id.
func (g *group) object(ctx context.Context, id kemi.Identity) resource.Object {
	g.mu.Lock()
	defer g.mu.Unlock()
	spec := g.spec
	if r, ok := g.driver().(Redactor); ok {
		if p, ok := g.driver().(Privileged); ok && !id.Can(p.Needs()) {
			spec.Driver.Config = r.Redact(spec.Driver.Config)
		}
	}
	s := Status{Desired: g.state.Desired, LastDecision: g.last, LastEvaluation: g.evaluation, LastChange: max(g.state.LastIn, g.state.LastOut), Problem: g.problem, Instances: []Instance{}}
	if is, err := g.driver().Instances(ctx, g.forDriver()); err != nil {
		s.Problem = err.Error()
	} else if len(is) > 0 {
		s.Instances = is
		s.Current, _, _ = count(is, 0, kemi.MillisOf(g.a.o.Now()))
	}
	return resource.Object{
		Kind: "Group", Metadata: resource.Metadata{Name: g.key.name, Revision: g.revision, Updated: g.updated}, Spec: spec, Status: s,
	}
}

func fail(w http.ResponseWriter, err error) { kemi.WriteError(w, kemi.DialectKEMI, err) }

func (a *Autoscaler) listGroups(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	limit, after, _, err := resource.Query(r)
	if err != nil {
		fail(w, err)
		return
	}
	var found []*group
	a.mu.Lock()
	for k, g := range a.groups {
		if k.project == id.Project && k.name > after {
			found = append(found, g)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(found, func(x, y *group) int { return strings.Compare(x.key.name, y.key.name) })
	page := resource.Page[resource.Object]{Items: []resource.Object{}}
	for _, g := range found[:min(len(found), limit)] {
		page.Items = append(page.Items, g.object(r.Context(), id))
	}
	if len(found) > limit {
		page.Next = found[limit-1].key.name
	}
	kemi.WriteJSON(w, http.StatusOK, page)
}

func (a *Autoscaler) getGroup(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	g, err := a.find(id.Project, r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	resource.Write(w, http.StatusOK, g.object(r.Context(), id))
}

func (a *Autoscaler) putGroup(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	name := r.PathValue("name")
	body, err := resource.ReadSpec(w, r, "Group", name)
	var revision int64
	if err == nil {
		revision, err = resource.Condition(r)
	}
	if err != nil {
		fail(w, err)
		return
	}
	g, err := a.Put(r.Context(), id, name, body, revision)
	if err != nil {
		fail(w, err)
		return
	}
	resource.Write(w, http.StatusOK, g.object(r.Context(), id))
}

// Put sets the spec of a group, if it is still at revision (0: there is none; store.AnyRevision: always). What its driver may do on this machine
// decides who may: a driver that is Privileged needs its own permission besides.
func (a *Autoscaler) Put(ctx context.Context, id kemi.Identity, name string, body json.RawMessage, revision int64) (*group, error) {
	if !id.Can(kemi.GroupsWrite) {
		return nil, denied(id, kemi.GroupsWrite, "")
	}
	if err := resource.CheckName("metadata.name", name); err != nil {
		return nil, err
	}
	spec, err := ParseSpec(body)
	if err != nil {
		return nil, err
	}
	if err := a.check(ctx, id, name, &spec); err != nil {
		return nil, err
	}
	stored, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	k := groupKey{id.Project, name}
	g := a.groups[k]
	if g == nil || g.isGone() {
		n := 0
		for other := range a.groups {
			if other.project == id.Project {
				n++
			}
		}
		if n >= maxGroups {
			return nil, kemi.Errorf(kemi.ErrLimited, "project %s has %d groups already, which is the limit", id.Project, maxGroups)
		}
		g = newGroup(a, id.Project, name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	have, err := json.Marshal(g.spec)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", name, err)
	}
	if g.revision > 0 && bytes.Equal(have, stored) && (revision == store.AnyRevision || revision == g.revision) {
		return g, nil
	}
	if g.revision > 0 && g.spec.Driver.Type != spec.Driver.Type {
		return nil, kemi.Errorf(kemi.ErrInvalid, "spec.driver.type: is %q and cannot become %q; delete the group and make it anew", g.spec.Driver.Type, spec.Driver.Type)
	}
	r, err := a.o.Control.Put(ctx, store.Resource{Project: id.Project, Kind: kindGroup, Name: name, Spec: stored, Revision: revision})
	if err != nil {
		return nil, fmt.Errorf("store group %s: %w", name, err)
	}
	g.spec, g.revision, g.updated, g.tell = spec, r.Revision, r.Updated, true
	a.groups[k] = g
	if g.loopStop == nil && a.running != nil {
		g.start(a.running)
	}
	g.wakeUp()
	a.o.Log.Info("group stored", "project", id.Project, "group", name, "by", id.Subject)
	return g, nil
}

func denied(id kemi.Identity, p kemi.Permission, why string) error {
	return kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s%s", id.Subject, p, why)
}

// check asks the driver and the query engine what they think of a spec.
func (a *Autoscaler) check(ctx context.Context, id kemi.Identity, name string, spec *Spec) error {
	d, ok := a.o.Drivers[spec.Driver.Type]
	if !ok {
		return kemi.Errorf(kemi.ErrInvalid, "spec.driver.type: %.80q is not one of %s", spec.Driver.Type, strings.Join(slices.Sorted(maps.Keys(a.o.Drivers)), ", "))
	}
	if p, ok := d.(Privileged); ok && !id.Can(p.Needs()) {
		return denied(id, p.Needs(), fmt.Sprintf(": a driver of type %s runs what its group says", spec.Driver.Type))
	}
	if c, ok := d.(Checker); ok {
		config, err := c.Check(spec.Driver.Config)
		if err != nil {
			return err
		}
		spec.Driver.Config = config
	}
	for i, p := range spec.Policies {
		if p.Query == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		_, _, err := a.o.Querier.Instant(ctx, identity(groupKey{id.Project, name}), p.Query, a.o.Now())
		cancel()
		if errors.Is(err, kemi.ErrInvalid) { // others may pass
			return kemi.Errorf(kemi.ErrInvalid, "spec.policies[%d].query: %w", i, err)
		}
	}
	return nil
}

func (a *Autoscaler) deleteGroup(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	revision, err := resource.Condition(r)
	if err == nil {
		err = a.Delete(r.Context(), id, r.PathValue("name"), revision)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Delete ends a group: its instances stop, and it is forgotten; its decisions are kept.
func (a *Autoscaler) Delete(ctx context.Context, id kemi.Identity, name string, revision int64) error {
	if !id.Can(kemi.GroupsWrite) {
		return denied(id, kemi.GroupsWrite, "")
	}
	g, err := a.find(id.Project, name)
	if err != nil {
		return err
	}
	g.stop()
	if err := g.delete(context.WithoutCancel(ctx), id.Subject, revision); err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.running != nil && a.groups[g.key] == g && g.loopStop == nil {
			g.start(a.running)
		}
		return err
	}
	a.mu.Lock()
	if a.groups[g.key] == g {
		delete(a.groups, g.key)
	}
	a.mu.Unlock()
	g.stop() // a PUT meanwhile may have begun to evaluate it again
	a.metrics.desired.DeleteLabelValues(g.key.project, g.key.name)
	a.metrics.instances.DeleteLabelValues(g.key.project, g.key.name)
	a.o.Log.Info("group deleted", "project", id.Project, "group", name, "by", id.Subject)
	return nil
}

func (g *group) isGone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

func (g *group) delete(ctx context.Context, by string, revision int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return kemi.Errorf(kemi.ErrNotFound, "there is no group %q", g.key.name)
	}
	if revision != store.AnyRevision && revision != g.revision {
		return kemi.Errorf(kemi.ErrConflict, "group %q is not at revision %d", g.key.name, revision)
	}
	in := Input{Spec: g.spec}
	if err := g.look(ctx, &in); err != nil {
		return fmt.Errorf("list instances of group %s: %w", g.key.name, err)
	}
	now := g.a.o.Now()
	d, state := SetSize(in, 0, codeDeleted, by+" deletes the group", now)
	if err := g.execute(ctx, d, state, now, by); err != nil {
		return err
	}
	if g.problem != "" {
		return kemi.Errorf(kemi.ErrUnavailable, "delete group %s: its instances do not stop: %s", g.key.name, g.problem)
	}
	for _, kind := range []string{kindGroup, kindState} {
		if err := g.a.o.Control.Delete(ctx, g.key.project, kind, g.key.name, store.AnyRevision); err != nil && !errors.Is(err, kemi.ErrNotFound) {
			return fmt.Errorf("delete group %s: %w", g.key.name, err)
		}
	}
	g.gone = true
	return nil
}

func (a *Autoscaler) scaleGroup(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	body, err := resource.ReadJSON(w, r)
	var want struct {
		Desired *int `json:"desired"`
	}
	if err == nil {
		err = resource.Decode(body, &want, "")
	}
	if err == nil && want.Desired == nil {
		err = kemi.Errorf(kemi.ErrInvalid, "desired: missing; send {\"desired\": 3}")
	}
	var g *group
	if err == nil {
		g, err = a.find(id.Project, r.PathValue("name"))
	}
	if err == nil {
		err = g.setSize(r.Context(), *want.Desired, id.Subject)
	}
	if err != nil {
		fail(w, err)
		return
	}
	resource.Write(w, http.StatusOK, g.object(r.Context(), id))
}

func (a *Autoscaler) listDecisions(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	limit, after, q, err := resource.Query(r, "group")
	if err != nil {
		fail(w, err)
		return
	}
	var page resource.Page[*Record]
	if page.Items, page.Next, err = a.decisions.list(r.Context(), id.Project, q.Get("group"), after, limit); err != nil {
		fail(w, err)
		return
	}
	kemi.WriteJSON(w, http.StatusOK, page)
}
