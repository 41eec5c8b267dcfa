package cmdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"kemi"
	"kemi/pipeline/store"
	"kemi/provisioning/resource"
)

// SNMPSpec is how a host is asked by SNMP. Secrets are not in the inventory: Credential names one that the server's configuration has.
type SNMPSpec struct {
	Address    string   `json:"address,omitempty"`    // host or host:port; by default the host's name, and port 161
	Credential string   `json:"credential,omitempty"` // by default "default"
	Profiles   []string `json:"profiles,omitempty"`   // what it is asked for; by default what the poller asks every host for
	Interval   string   `json:"interval,omitempty"`   // as in "30s"; by default the poller's
	Disabled   bool     `json:"disabled,omitempty"`   // it is not asked, whatever discovery found
}

const (
	maxProfiles    = 1000 // of a project
	maxHostProfile = 32   // profiles of one host or service
	maxFound       = 256 << 10
)

func (s SNMPSpec) validate() error {
	if s.Address != "" {
		host, port := s.Address, ""
		if h, p, err := net.SplitHostPort(s.Address); err == nil {
			host, port = h, p
		}
		n, err := strconv.Atoi(port)
		if host == "" || len(host) > 253 || port != "" && (err != nil || n < 1 || n > 65535) || bytes.ContainsAny([]byte(host), " /@\x00") {
			return kemi.Errorf(kemi.ErrInvalid, "spec.snmp.address: %.80q is not a host or host:port", s.Address)
		}
	}
	if s.Credential != "" {
		if err := resource.CheckName("spec.snmp.credential", s.Credential); err != nil {
			return err
		}
	}
	if s.Interval != "" {
		if d, err := time.ParseDuration(s.Interval); err != nil || d < time.Second || d > time.Hour {
			return kemi.Errorf(kemi.ErrInvalid, "spec.snmp.interval: %.40q must be a time from 1s to 1h, such as 30s", s.Interval)
		}
	}
	return checkProfiles("spec.snmp.profiles", s.Profiles)
}

func checkProfiles(field string, names []string) error {
	if len(names) > maxHostProfile {
		return kemi.Errorf(kemi.ErrInvalid, "%s: %d profiles, at most %d", field, len(names), maxHostProfile)
	}
	for i, n := range names {
		if err := resource.CheckName(fmt.Sprintf("%s[%d]", field, i), n); err != nil {
			return err
		}
	}
	return nil
}

// foundSNMP is the part of what discovery says that IMS itself reads.
type foundSNMP struct {
	SNMP *SNMPSpec `json:"snmp,omitempty"`
}

type profile struct {
	name     string
	spec     json.RawMessage
	revision int64
	updated  kemi.Millis
}

func (p *profile) object() resource.Object {
	return resource.Object{Kind: "SNMPProfile", Metadata: resource.Metadata{Name: p.name, Revision: p.revision, Updated: p.updated}, Spec: p.spec}
}

func (c *CMDB) loadSNMP(each func(kind string, f func(r store.Resource) error) error) error {
	if err := each(kindFound, func(r store.Resource) error {
		p := c.project(r.Project)
		h := p.hosts[r.Name]
		if h == nil {
			h = &host{name: r.Name, seen: &seen{}}
			p.hosts[r.Name] = h
		}
		h.foundJSON = r.Spec
		return json.Unmarshal(r.Spec, &h.found)
	}); err != nil {
		return err
	}
	return each(kindProfile, func(r store.Resource) error {
		c.project(r.Project).profiles[r.Name] = &profile{name: r.Name, spec: r.Spec, revision: r.Revision, updated: r.Updated}
		return nil
	})
}

// SNMPHost is a host that is to be asked.
type SNMPHost struct {
	Project, Host string
	SNMPSpec               // of the host, or of discovery
	Service       []string // profiles of its service
}

// SNMPHosts are the hosts of all projects that are to be asked, in order of project and name.
func (c *CMDB) SNMPHosts() []SNMPHost {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []SNMPHost
	for _, name := range slices.Sorted(maps.Keys(c.projects)) {
		p := c.projects[name]
		for _, hostName := range slices.Sorted(maps.Keys(p.hosts)) {
			h := p.hosts[hostName]
			spec := h.spec.SNMP
			if spec == nil {
				spec = h.found.SNMP
			}
			if spec == nil || spec.Disabled {
				continue
			}
			x := SNMPHost{Project: name, Host: hostName, SNMPSpec: *spec}
			if s := p.services[p.resolve(h).service]; s != nil {
				x.Service = s.spec.SNMPProfiles
			}
			out = append(out, x)
		}
	}
	return out
}

// SNMPProfile is the spec of a project's profile.
func (c *CMDB) SNMPProfile(project, name string) (json.RawMessage, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p := c.projects[project]; p != nil {
		if x := p.profiles[name]; x != nil {
			return x.spec, true
		}
	}
	return nil, false
}

// Discovered takes what a host answered to discovery: an object whose snmp, an SNMPSpec, says how to ask it from now on. It changes neither what people said
// nor what an agent did; what people say of snmp counts more.
func (c *CMDB) Discovered(ctx context.Context, id kemi.Identity, name string, facts json.RawMessage) error {
	if !id.Can(kemi.IMSWrite) {
		return denied(id, kemi.IMSWrite)
	}
	if err := resource.CheckName("metadata.name", name); err != nil {
		return err
	}
	if len(facts) > maxFound {
		return kemi.Errorf(kemi.ErrTooLarge, "discovered: %d bytes, at most %d", len(facts), maxFound)
	}
	var f foundSNMP
	if err := json.Unmarshal(facts, &f); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "discovered: %w", err)
	}
	if f.SNMP != nil {
		if err := f.SNMP.validate(); err != nil {
			return err
		}
	}
	c.change.Lock()
	defer c.change.Unlock()
	hosts, _ := c.lookup(id.Project)
	next := &host{name: name, seen: &seen{}}
	if old := hosts[name]; old != nil {
		if bytes.Equal(old.foundJSON, facts) {
			return nil
		}
		copied := *old
		next = &copied
	} else if len(hosts) >= maxHosts {
		return kemi.Errorf(kemi.ErrLimited, "project %s has %d hosts already, which is the limit", id.Project, maxHosts)
	}
	next.found, next.foundJSON = f, facts
	e, er, err := c.newEvent(id, EventHost, "discovered", c.hostObject(id.Project, next), c.hostTags(id.Project, next))
	if err != nil {
		return err
	}
	changes := []store.Resource{{Project: id.Project, Kind: kindFound, Name: name, Spec: facts, Revision: store.AnyRevision}, er}
	if _, err := c.o.Control.PutAll(ctx, changes); err != nil {
		return fmt.Errorf("store discovered host %s: %w", name, err)
	}
	c.install(id.Project, func(p *project) []*host {
		p.hosts[name] = next
		return []*host{next}
	})
	c.publish(ctx, e, "discovered")
	return nil
}

// PutProfile sets an SNMP profile, under the same condition as PutHost.
func (c *CMDB) PutProfile(ctx context.Context, id kemi.Identity, name string, spec json.RawMessage, revision int64) (resource.Object, error) {
	if !id.Can(kemi.IMSWrite) {
		return resource.Object{}, denied(id, kemi.IMSWrite)
	}
	if c.o.CheckProfile == nil {
		return resource.Object{}, kemi.Errorf(errors.ErrUnsupported, "this server asks nobody by SNMP")
	}
	err := resource.CheckName("metadata.name", name)
	if err == nil {
		spec, err = c.o.CheckProfile(spec)
	}
	if err != nil {
		return resource.Object{}, err
	}
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.RLock()
	var old *profile
	count := 0
	if p := c.projects[id.Project]; p != nil {
		old, count = p.profiles[name], len(p.profiles)
	}
	c.mu.RUnlock()
	next, action := &profile{name: name, spec: spec}, "created"
	if old != nil {
		next.revision, action = old.revision, "updated"
	} else if count >= maxProfiles {
		return resource.Object{}, kemi.Errorf(kemi.ErrLimited, "project %s has %d profiles already, which is the limit", id.Project, maxProfiles)
	}
	if revision != store.AnyRevision && revision != next.revision {
		return resource.Object{}, conflict("profile", name, revision)
	}
	if old != nil && bytes.Equal(old.spec, spec) {
		return old.object(), nil
	}
	e, er, err := c.newEvent(id, EventProfile, action, next.object(), kemi.LabelsOf("profile", name))
	if err != nil {
		return resource.Object{}, err
	}
	rs, err := c.o.Control.PutAll(ctx, []store.Resource{{Project: id.Project, Kind: kindProfile, Name: name, Spec: spec, Revision: next.revision}, er})
	if err != nil {
		return resource.Object{}, fmt.Errorf("store profile %s: %w", name, err)
	}
	next.revision, next.updated = rs[0].Revision, rs[0].Updated
	c.install(id.Project, func(p *project) []*host {
		p.profiles[name] = next
		return nil
	})
	c.publish(ctx, e, action)
	return next.object(), nil
}

// DeleteProfile forgets a profile. Hosts and services go on naming it; they are not asked for it any more.
func (c *CMDB) DeleteProfile(ctx context.Context, id kemi.Identity, name string, revision int64) error {
	if !id.Can(kemi.IMSWrite) {
		return denied(id, kemi.IMSWrite)
	}
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.RLock()
	var old *profile
	if p := c.projects[id.Project]; p != nil {
		old = p.profiles[name]
	}
	c.mu.RUnlock()
	if old == nil {
		return kemi.Errorf(kemi.ErrNotFound, "there is no profile %q", name)
	}
	return c.remove(ctx, id, EventProfile, name, revision, []string{kindProfile}, old.object(), kemi.LabelsOf("profile", name), func(p *project) []*host {
		delete(p.profiles, name)
		return nil
	})
}
