package app

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"kemi"
	"kemi/collectors/agent"
	"kemi/collectors/push"
	"kemi/collectors/tail"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/provisioning/cmdb"
	"kemi/sauron/auth"
)

// AgentConfig is the agent that the server runs for its own host, so that a fresh install has something to show. What it says about a
// server, tokens and TLS is not used: it hands over in the process.
type AgentConfig struct {
	Enabled      bool `yaml:"enabled"`
	agent.Config `yaml:",inline"`
}

func defaultAgentConfig() AgentConfig {
	c := agent.DefaultConfig()
	c.Spool.Dir = "" // below the data folder
	c.Logs = []tail.Config{{Paths: []string{"/var/log/syslog", "/var/log/messages"}, Service: "syslog", From: "end"}}
	return AgentConfig{Enabled: true, Config: c}
}

// openAgent makes the server's own agent. Without it the server does its work all the same, so what hinders it is logged only.
func (a *App) openAgent(in *push.Push, ims *cmdb.CMDB) error {
	if !a.cfg.Agent.Enabled {
		return nil
	}
	log := a.log.With("part", "agent")
	sink := &ownSink{in: in, ims: ims, now: a.now, id: kemi.Identity{
		Subject: "server", Project: auth.DefaultProject, Permissions: kemi.MetricsWrite | kemi.LogsWrite | kemi.IMSRegister,
	}}
	g, err := agent.New(agent.Options{Config: a.cfg.Agent.Config, Sink: sink, Log: log, Registerer: a.registry, Now: a.now, Version: Version})
	if err != nil {
		return fmt.Errorf("start the agent of this host: %w", err)
	}
	a.onStop("agent", func() error { g.Close(); return nil })
	a.loop("agent", g.Run)
	return nil
}

// ownSink takes what an agent in this process sends through the same door as what comes over HTTP.
type ownSink struct {
	in  *push.Push
	ims *cmdb.CMDB
	now func() time.Time
	id  kemi.Identity
}

func (s *ownSink) Metrics(ctx context.Context, body []byte, batch string) error {
	done, err := s.in.WriteMetrics(ctx, s.id, codec.RemoteWrite2, codec.EncodingSnappy, body, batch)
	if n := done.Refused.LimitedSeries; err != nil && n > 0 {
		return agent.Partial(int64(n), err.Error())
	}
	return err
}

func (s *ownSink) Logs(ctx context.Context, body []byte, batch string) error {
	records, err := codec.DecodeLogs(&bus.Record{Value: body, At: kemi.MillisOf(s.now())})
	if err != nil {
		return err
	}
	return s.in.WriteLogs(ctx, s.id, "local", records, batch)
}

func (s *ownSink) Register(ctx context.Context, h agent.Host) error {
	facts, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("register %s: %w", h.Name, err)
	}
	_, err = s.ims.Register(ctx, s.id, h.Name, facts)
	return err
}
