package app

import (
	"context"
	"encoding/json"
	"time"

	"kemi"
	"kemi/collectors/push"
	"kemi/collectors/snmp"
	"kemi/pipeline/bus"
	"kemi/provisioning/cmdb"
)

// openSNMP makes the part that asks hosts by SNMP; it rests where no credential is configured.
func (a *App) openSNMP(b bus.Bus, in *push.Push, ims *cmdb.CMDB) error {
	s, err := snmp.New(snmp.Options{
		Config: a.cfg.SNMP, Inventory: inventory{ims}, Bus: b, Write: bodies{in}.write, Log: a.log.With("part", "snmp"), Registerer: a.registry, Now: a.now,
	})
	if err != nil {
		return err
	}
	a.loop("snmp", s.Run)
	return nil
}

// inventory is what SNMP reads of the CMDB.
type inventory struct{ *cmdb.CMDB }

func (i inventory) Hosts() []snmp.Host {
	list := i.SNMPHosts()
	out := make([]snmp.Host, len(list))
	for n, h := range list {
		interval, _ := time.ParseDuration(h.Interval) // checked when it was put; empty is the poller's own
		out[n] = snmp.Host{
			Project: h.Project, Name: h.Host, Address: h.Address, Credential: h.Credential, Interval: interval, Profiles: h.Profiles, Service: h.Service,
		}
	}
	return out
}

func (i inventory) Profile(project, name string) (json.RawMessage, bool) {
	return i.SNMPProfile(project, name)
}

func (i inventory) Discovered(ctx context.Context, id kemi.Identity, name string, facts json.RawMessage) error {
	return i.CMDB.Discovered(ctx, id, name, facts)
}
