package snmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/gosnmp/gosnmp"

	"kemi"
)

// probeTimeout is how long discovery waits for an answer; it asks each address once with each credential.
const probeTimeout = time.Second

// maxProbes is how many addresses are asked at once.
const maxProbes = 64

// maxInterfaces is how many interfaces of a host are entered in the inventory.
const maxInterfaces = 512

// facts are what a host answers to discovery. They hold nothing that changes by itself, so that the inventory changes only if the host does.
type facts struct {
	SNMP struct {
		Address    string   `json:"address"`
		Credential string   `json:"credential"`
		Profiles   []string `json:"profiles,omitempty"`
	} `json:"snmp"`
	SysName     string          `json:"sysName,omitempty"`
	SysDescr    string          `json:"sysDescr,omitempty"`
	SysObjectID string          `json:"sysObjectID,omitempty"`
	Interfaces  []interfaceFact `json:"interfaces,omitempty"`
	More        int             `json:"moreInterfaces,omitempty"` // that are left out
}

type interfaceFact struct {
	Index       int    `json:"index"`
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
	Alias       string `json:"alias,omitempty"`
	Type        int    `json:"type,omitempty"`
	Speed       int64  `json:"speedBits,omitempty"`
	Address     string `json:"physicalAddress,omitempty"`
}

// sweep looks for hosts now and then.
func (s *SNMP) sweep(ctx context.Context, w Sweep) error {
	for {
		began := s.o.Now()
		asked, found := s.sweepOnce(ctx, w)
		if ctx.Err() != nil {
			return nil
		}
		s.o.Log.Info("looked for hosts", "project", w.Project, "networks", w.Networks, "asked", asked, "found", found, "took", s.o.Now().Sub(began).Round(time.Millisecond))
		t := time.NewTimer(max(w.Interval-s.o.Now().Sub(began), time.Second))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// addresses are those of the networks, without the first and the last of an IPv4 network of more than two.
func addresses(networks []string) []netip.Addr {
	nets, _ := prefixes(networks)
	seen := map[netip.Addr]bool{}
	var out []netip.Addr
	for _, p := range nets {
		bits := p.Addr().BitLen() - p.Bits()
		n := 1 << bits
		a := p.Addr()
		for i := range n {
			edge := p.Addr().Is4() && bits > 1 && (i == 0 || i == n-1)
			if !edge && !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
			a = a.Next()
		}
	}
	return out
}

// sweepOnce asks all addresses, so many a second. Hosts are entered in order of their addresses: of two with one name the first has it.
func (s *SNMP) sweepOnce(ctx context.Context, w Sweep) (asked, found int) {
	list := addresses(w.Networks)
	answers := make([]*facts, len(list))
	pace := time.NewTicker(time.Second / time.Duration(w.Rate))
	defer pace.Stop()
	slots := make(chan struct{}, maxProbes)
	var wg sync.WaitGroup
	for i, a := range list {
		select {
		case <-ctx.Done():
			wg.Wait()
			return i, 0
		case <-pace.C:
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answers[i] = s.probe(ctx, w, a)
		})
	}
	wg.Wait()
	id := kemi.Identity{Subject: "snmp-discovery", Project: w.Project, Permissions: kemi.IMSWrite}
	taken := map[string]bool{}
	for i, f := range answers {
		if f == nil {
			continue
		}
		name := f.SysName
		if name == "" || taken[name] {
			name = list[i].String()
		}
		err := s.enter(ctx, id, name, f)
		if errors.Is(err, kemi.ErrInvalid) && name != list[i].String() { // no name for a resource
			name = list[i].String()
			err = s.enter(ctx, id, name, f)
		}
		if err != nil {
			s.o.Log.Warn("a host that answers could not be entered in the inventory", "address", list[i], "name", name, "err", err)
			continue
		}
		taken[name] = true
		found++
	}
	return len(list), found
}

func (s *SNMP) enter(ctx context.Context, id kemi.Identity, name string, f *facts) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("facts of %s: %w", name, err)
	}
	return s.o.Inventory.Discovered(ctx, id, name, b)
}

// probe asks one address, and gives nil if it does not answer.
func (s *SNMP) probe(ctx context.Context, w Sweep, a netip.Addr) *facts {
	c := s.o.Config
	c.Timeout, c.Retries = min(c.Timeout, probeTimeout), 0
	address := a.String()
	if w.Port != standardPort {
		address = net.JoinHostPort(a.String(), strconv.Itoa(w.Port))
	}
	result := "silent"
	defer func() { s.m.probes.WithLabelValues(result).Inc() }()
	for _, name := range w.Credentials {
		ctx, cancel := context.WithTimeout(ctx, c.PollTimeout)
		f, err := s.interrogate(ctx, c, w, name, address)
		cancel()
		if err == nil {
			result = "answered"
			return f
		}
		if !errors.Is(err, kemi.ErrUnavailable) {
			result = "refused"
			s.o.Log.Debug("probe", "address", address, "credential", name, "err", err)
		}
	}
	return nil
}

func (s *SNMP) interrogate(ctx context.Context, c Config, w Sweep, credential, address string) (*facts, error) {
	in, err := dial(ctx, c, credential, w.Project, address)
	if err != nil {
		return nil, err
	}
	defer in.close()
	got, err := in.get([]string{oidDescr, oidObjectID, oidName})
	if err != nil {
		return nil, err
	}
	f := &facts{}
	f.SNMP.Address, f.SNMP.Credential, f.SNMP.Profiles = address, credential, w.Profiles
	for oid, to := range map[string]*string{oidDescr: &f.SysDescr, oidObjectID: &f.SysObjectID, oidName: &f.SysName} {
		if v, ok := got[oid]; ok {
			*to = words(v)
		}
	}
	// It is there. From now on a lost packet is asked for again; a host that has no interfaces to tell of is entered all the same.
	in.g.Retries = s.o.Config.Retries
	if err := f.interfaces(in); err != nil {
		s.o.Log.Debug("the interface table could not be read", "address", address, "err", err)
	}
	return f, nil
}

// interfaces reads the table of interfaces.
func (f *facts) interfaces(in *session) error {
	var failed error
	column := func(oid string) map[string]gosnmp.SnmpPDU {
		c, err := in.column(oid)
		if err != nil && failed == nil {
			failed = err
		}
		return c
	}
	names, descr, alias, kinds := column(oidIfX+"1"), column(oidIf+"2"), column(oidIfX+"18"), column(oidIf+"3")
	speed, high, phys := column(oidIf+"5"), column(oidIfX+"15"), column(oidIf+"6")
	for index := range descr {
		i, err := strconv.Atoi(index)
		if err != nil {
			continue
		}
		x := interfaceFact{Index: i}
		for from, to := range map[*map[string]gosnmp.SnmpPDU]*string{&names: &x.Name, &descr: &x.Description, &alias: &x.Alias} {
			if v, ok := (*from)[index]; ok {
				*to = words(v)
			}
		}
		if v, ok := phys[index]; ok {
			if b, ok := v.Value.([]byte); ok && len(b) > 0 {
				x.Address = macLike(b)
			}
		}
		if n, ok := number(kinds[index]); ok {
			x.Type = int(n)
		}
		if n, ok := number(high[index]); ok && n > 0 {
			x.Speed = int64(n) * 1e6
		} else if n, ok := number(speed[index]); ok {
			x.Speed = int64(n)
		}
		f.Interfaces = append(f.Interfaces, x)
	}
	sort.Slice(f.Interfaces, func(i, j int) bool { return f.Interfaces[i].Index < f.Interfaces[j].Index })
	if n := len(f.Interfaces); n > maxInterfaces {
		f.Interfaces, f.More = f.Interfaces[:maxInterfaces], n-maxInterfaces
	}
	return failed
}
