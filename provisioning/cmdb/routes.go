package cmdb

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"kemi"
	"kemi/provisioning/resource"
)

// Routes are the API of the inventory.
func (c *CMDB) Routes() []kemi.Route {
	return []kemi.Route{
		{Pattern: "GET /api/v2/ims/hosts", Needs: kemi.IMSRead, Handle: c.listHosts},
		{Pattern: "GET /api/v2/ims/hosts/{name}", Needs: kemi.IMSRead, Handle: one(c, "host", func(p *project) map[string]*host { return p.hosts }, c.hostObject)},
		// People need IMSWrite, agents IMSRegister; the handler tells one from the other.
		{Pattern: "PUT /api/v2/ims/hosts/{name}", Handle: c.putHost},
		{Pattern: "POST /api/v2/ims/hosts/{name}/register", Needs: kemi.IMSRegister, Handle: c.registerHost},
		{Pattern: "DELETE /api/v2/ims/hosts/{name}", Needs: kemi.IMSWrite, Handle: deletes(c.DeleteHost)},
		{Pattern: "GET /api/v2/ims/services", Needs: kemi.IMSRead, Handle: c.listServices},
		{Pattern: "GET /api/v2/ims/services/{name}", Needs: kemi.IMSRead, Handle: one(c, "service", func(p *project) map[string]*service { return p.services }, c.serviceObject)},
		{Pattern: "PUT /api/v2/ims/services/{name}", Needs: kemi.IMSWrite, Handle: puts("Service", decoded(c.PutService))},
		{Pattern: "DELETE /api/v2/ims/services/{name}", Needs: kemi.IMSWrite, Handle: deletes(c.DeleteService)},
		{Pattern: "GET /api/v2/ims/profiles", Needs: kemi.IMSRead, Handle: c.listProfiles},
		{Pattern: "GET /api/v2/ims/profiles/{name}", Needs: kemi.IMSRead, Handle: one(c, "profile", func(p *project) map[string]*profile { return p.profiles }, func(_ string, x *profile) resource.Object { return x.object() })},
		{Pattern: "PUT /api/v2/ims/profiles/{name}", Needs: kemi.IMSWrite, Handle: puts("SNMPProfile", c.PutProfile)},
		{Pattern: "DELETE /api/v2/ims/profiles/{name}", Needs: kemi.IMSWrite, Handle: deletes(c.DeleteProfile)},
	}
}

// hostStatus is what is known of a host when everybody has been heard.
type hostStatus struct {
	Service    string          `json:"service,omitempty"`
	Owner      string          `json:"owner,omitempty"`
	OwnerFrom  string          `json:"ownerFrom,omitempty"` // host, service or agent
	Zone       string          `json:"zone,omitempty"`
	Reported   json.RawMessage `json:"reported,omitempty"` // what the agent said
	Registered kemi.Millis     `json:"registered,omitempty"`
	LastSeen   kemi.Millis     `json:"lastSeen,omitempty"`
	Discovered json.RawMessage `json:"discovered,omitempty"` // what it answered to SNMP discovery
}

type serviceStatus struct {
	Hosts int `json:"hosts"`
}

// hostObject shows h, which need not be installed.
func (c *CMDB) hostObject(projectName string, h *host) resource.Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.resolveLocked(projectName, h)
	return resource.Object{
		Kind: "Host", Metadata: resource.Metadata{Name: h.name, Revision: h.revision, Updated: h.updated}, Spec: h.spec,
		Status: hostStatus{
			Service: r.service, Owner: r.owner, OwnerFrom: r.ownerFrom, Zone: r.zone, Reported: h.reportJSON,
			Registered: h.registered, LastSeen: kemi.Millis(h.seen.last.Load()), Discovered: h.foundJSON,
		},
	}
}

func (c *CMDB) resolveLocked(projectName string, h *host) resolved {
	p := c.projects[projectName]
	if p == nil {
		p = &project{}
	}
	return p.resolve(h)
}

func (c *CMDB) hostTags(projectName string, h *host) kemi.Labels {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.resolveLocked(projectName, h).labels().With("host", h.name)
}

func (c *CMDB) serviceObject(projectName string, s *service) resource.Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := 0
	if p := c.projects[projectName]; p != nil {
		n = len(p.hostsOf(s.name))
	}
	return serviceView(s, n)
}

func serviceView(s *service, hosts int) resource.Object {
	return resource.Object{
		Kind: "Service", Metadata: resource.Metadata{Name: s.name, Revision: s.revision, Updated: s.updated}, Spec: s.spec,
		Status: serviceStatus{Hosts: hosts},
	}
}

func fail(w http.ResponseWriter, err error) { kemi.WriteError(w, kemi.DialectKEMI, err) }

func answer(w http.ResponseWriter, o resource.Object, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	resource.Write(w, http.StatusOK, o)
}

func (c *CMDB) putHost(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	switch {
	case id.Can(kemi.IMSWrite):
	case id.Can(kemi.IMSRegister):
		c.registerHost(w, r, id)
		return
	default:
		fail(w, denied(id, kemi.IMSWrite))
		return
	}
	puts("Host", decoded(c.PutHost))(w, r, id)
}

func (c *CMDB) registerHost(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	facts, err := resource.ReadSpec(w, r, "Host", r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	o, err := c.Register(r.Context(), id, r.PathValue("name"), facts)
	answer(w, o, err)
}

// handler is what serves a route.
type handler = func(w http.ResponseWriter, r *http.Request, id kemi.Identity)

// one answers the resource that the path names.
func one[T any](c *CMDB, what string, of func(p *project) map[string]*T, object func(projectName string, x *T) resource.Object) handler {
	return func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
		c.mu.RLock()
		var x *T
		if p := c.projects[id.Project]; p != nil {
			x = of(p)[r.PathValue("name")]
		}
		c.mu.RUnlock()
		if x == nil {
			fail(w, kemi.Errorf(kemi.ErrNotFound, "there is no %s %.80q", what, r.PathValue("name")))
			return
		}
		answer(w, object(id.Project, x), nil)
	}
}

// puts sets the resource that the path names, under the condition that the request makes.
func puts(kind string, put func(ctx context.Context, id kemi.Identity, name string, spec json.RawMessage, revision int64) (resource.Object, error)) handler {
	return func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
		spec, err := resource.ReadSpec(w, r, kind, r.PathValue("name"))
		var revision int64
		if err == nil {
			revision, err = resource.Condition(r)
		}
		if err != nil {
			fail(w, err)
			return
		}
		o, err := put(r.Context(), id, r.PathValue("name"), spec, revision)
		answer(w, o, err)
	}
}

// decoded makes put, which wants a specification of a type, one for puts.
func decoded[S any](put func(context.Context, kemi.Identity, string, S, int64) (resource.Object, error)) func(context.Context, kemi.Identity, string, json.RawMessage, int64) (resource.Object, error) {
	return func(ctx context.Context, id kemi.Identity, name string, spec json.RawMessage, revision int64) (resource.Object, error) {
		var s S
		if err := resource.Decode(spec, &s, "spec"); err != nil {
			return resource.Object{}, err
		}
		return put(ctx, id, name, s, revision)
	}
}

// deletes is puts for a deletion.
func deletes(remove func(ctx context.Context, id kemi.Identity, name string, revision int64) error) handler {
	return func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
		revision, err := resource.Condition(r)
		if err == nil {
			err = remove(r.Context(), id, r.PathValue("name"), revision)
		}
		if err != nil {
			fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// listHosts answers a page of hosts, narrowed by the service, owner and zone that hold for them after everybody has been heard.
func (c *CMDB) listHosts(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	limit, after, q, err := resource.Query(r, "service", "owner", "zone")
	if err != nil {
		fail(w, err)
		return
	}
	var names []string
	found := map[string]*host{}
	c.mu.RLock()
	if p := c.projects[id.Project]; p != nil {
		for name, h := range p.hosts {
			if x := p.resolve(h); name > after && wanted(q, "service", x.service) && wanted(q, "owner", x.owner) && wanted(q, "zone", x.zone) {
				names = append(names, name)
				found[name] = h
			}
		}
	}
	c.mu.RUnlock()
	writePage(w, names, limit, func(n string) resource.Object { return c.hostObject(id.Project, found[n]) })
}

func (c *CMDB) listServices(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	limit, after, q, err := resource.Query(r, "owner")
	if err != nil {
		fail(w, err)
		return
	}
	var names []string
	found, hosts := map[string]*service{}, map[string]int{}
	c.mu.RLock()
	if p := c.projects[id.Project]; p != nil {
		for name, s := range p.services {
			if name > after && wanted(q, "owner", s.spec.Owner) {
				names = append(names, name)
				found[name] = s
			}
		}
		for _, h := range p.hosts {
			hosts[first(h.spec.Service, h.report.Service)]++
		}
	}
	c.mu.RUnlock()
	writePage(w, names, limit, func(n string) resource.Object { return serviceView(found[n], hosts[n]) })
}

func (c *CMDB) listProfiles(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	limit, after, _, err := resource.Query(r)
	if err != nil {
		fail(w, err)
		return
	}
	var names []string
	found := map[string]*profile{}
	c.mu.RLock()
	if p := c.projects[id.Project]; p != nil {
		for name, x := range p.profiles {
			if name > after {
				names = append(names, name)
				found[name] = x
			}
		}
	}
	c.mu.RUnlock()
	writePage(w, names, limit, func(n string) resource.Object { return found[n].object() })
}

func wanted(q url.Values, name, have string) bool {
	return !q.Has(name) || slices.Contains(q[name], have)
}

// writePage answers the first names in order, and where the next page begins.
func writePage(w http.ResponseWriter, names []string, limit int, object func(name string) resource.Object) {
	page := resource.Page[resource.Object]{Items: []resource.Object{}}
	slices.Sort(names)
	if len(names) > limit {
		names, page.Next = names[:limit], names[limit-1]
	}
	for _, n := range names {
		page.Items = append(page.Items, object(n))
	}
	kemi.WriteJSON(w, http.StatusOK, page)
}
