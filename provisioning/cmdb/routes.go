package cmdb

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sort"

	"kemi"
	"kemi/provisioning/resource"
)

// Routes are the API of the inventory.
func (c *CMDB) Routes() []kemi.Route {
	return []kemi.Route{
		{Pattern: "GET /api/v2/ims/hosts", Needs: kemi.IMSRead, Handle: c.listHosts},
		{Pattern: "GET /api/v2/ims/hosts/{name}", Needs: kemi.IMSRead, Handle: c.getHost},
		// People need IMSWrite, agents IMSRegister; the handler tells one from the other.
		{Pattern: "PUT /api/v2/ims/hosts/{name}", Handle: c.putHost},
		{Pattern: "POST /api/v2/ims/hosts/{name}/register", Needs: kemi.IMSRegister, Handle: c.registerHost},
		{Pattern: "DELETE /api/v2/ims/hosts/{name}", Needs: kemi.IMSWrite, Handle: c.deleteHost},
		{Pattern: "GET /api/v2/ims/services", Needs: kemi.IMSRead, Handle: c.listServices},
		{Pattern: "GET /api/v2/ims/services/{name}", Needs: kemi.IMSRead, Handle: c.getService},
		{Pattern: "PUT /api/v2/ims/services/{name}", Needs: kemi.IMSWrite, Handle: c.putService},
		{Pattern: "DELETE /api/v2/ims/services/{name}", Needs: kemi.IMSWrite, Handle: c.deleteService},
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
			Registered: h.registered, LastSeen: kemi.Millis(h.seen.last.Load()),
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

func (c *CMDB) getHost(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	c.mu.RLock()
	var h *host
	if p := c.projects[id.Project]; p != nil {
		h = p.hosts[r.PathValue("name")]
	}
	c.mu.RUnlock()
	if h == nil {
		fail(w, kemi.Errorf(kemi.ErrNotFound, "there is no host %.80q", r.PathValue("name")))
		return
	}
	answer(w, c.hostObject(id.Project, h), nil)
}

func (c *CMDB) getService(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	c.mu.RLock()
	var s *service
	if p := c.projects[id.Project]; p != nil {
		s = p.services[r.PathValue("name")]
	}
	c.mu.RUnlock()
	if s == nil {
		fail(w, kemi.Errorf(kemi.ErrNotFound, "there is no service %.80q", r.PathValue("name")))
		return
	}
	answer(w, c.serviceObject(id.Project, s), nil)
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
	spec, err := resource.ReadSpec(w, r, "Host", r.PathValue("name"))
	var s HostSpec
	if err == nil {
		err = resource.Decode(spec, &s, "spec")
	}
	var revision int64
	if err == nil {
		revision, err = resource.Condition(r)
	}
	if err != nil {
		fail(w, err)
		return
	}
	o, err := c.PutHost(r.Context(), id, r.PathValue("name"), s, revision)
	answer(w, o, err)
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

func (c *CMDB) deleteHost(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	revision, err := resource.Condition(r)
	if err == nil {
		err = c.DeleteHost(r.Context(), id, r.PathValue("name"), revision)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *CMDB) putService(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	spec, err := resource.ReadSpec(w, r, "Service", r.PathValue("name"))
	var s ServiceSpec
	if err == nil {
		err = resource.Decode(spec, &s, "spec")
	}
	var revision int64
	if err == nil {
		revision, err = resource.Condition(r)
	}
	if err != nil {
		fail(w, err)
		return
	}
	o, err := c.PutService(r.Context(), id, r.PathValue("name"), s, revision)
	answer(w, o, err)
}

func (c *CMDB) deleteService(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	revision, err := resource.Condition(r)
	if err == nil {
		err = c.DeleteService(r.Context(), id, r.PathValue("name"), revision)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
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
	page := resource.Page[resource.Object]{Items: []resource.Object{}}
	names, page.Next = pageOf(names, limit)
	for _, n := range names {
		page.Items = append(page.Items, c.hostObject(id.Project, found[n]))
	}
	kemi.WriteJSON(w, http.StatusOK, page)
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
	page := resource.Page[resource.Object]{Items: []resource.Object{}}
	names, page.Next = pageOf(names, limit)
	for _, n := range names {
		page.Items = append(page.Items, serviceView(found[n], hosts[n]))
	}
	kemi.WriteJSON(w, http.StatusOK, page)
}

func wanted(q url.Values, name, have string) bool {
	return !q.Has(name) || slices.Contains(q[name], have)
}

// pageOf is the first names in order, and where the next page begins.
func pageOf(names []string, limit int) ([]string, string) {
	sort.Strings(names)
	if len(names) <= limit {
		return names, ""
	}
	return names[:limit], names[limit-1]
}
