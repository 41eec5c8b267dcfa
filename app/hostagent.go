package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/collectors/agent"
	"kemi/collectors/scrape"
	"kemi/pipeline/codec"
)

// HostAgentConfig is the file of `kemi agent`: the agent's own keys, and what it scrapes, as a server's file says it.
type HostAgentConfig struct {
	agent.Config `yaml:",inline"`
	Scrape       scrape.Config `yaml:"scrape"`

	file string // that it was read from
}

// LoadHostAgentConfig reads a file over the defaults. An empty name means no file.
func LoadHostAgentConfig(name string) (HostAgentConfig, error) {
	c := HostAgentConfig{Config: agent.DefaultConfig(), Scrape: scrape.DefaultConfig(), file: name}
	return c, agent.LoadConfig(name, &c)
}

// Validate tells what is wrong, all of it.
func (c HostAgentConfig) Validate() error {
	errs := []error{c.Config.Validate(true), c.Scrape.Validate()}
	if d := scrape.DefaultConfig(); c.Scrape.Project != d.Project || len(c.Scrape.Projects) > 0 {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "scrape.project: what an agent sends is of one project: set project, beside server"))
	}
	return errors.Join(errs...)
}

// NewHostAgent makes the agent of a host that is a process of its own. What it scrapes waits in the spool with what it measures, and has the labels of
// everything that it sends.
func NewHostAgent(c HostAgentConfig, log *slog.Logger) (*agent.Agent, error) {
	if c.Hostname == "" {
		var err error
		if c.Hostname, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("hostname: %w", err)
		}
	}
	o := agent.Options{Config: c.Config, Log: log, Now: time.Now, Version: Version}
	if c.Scrapes() {
		var spool func([]byte)
		so := scrape.Options{
			Config: c.Scrape, Log: log.With("part", "scrape"), Registerer: prometheus.NewRegistry(), Now: time.Now, File: c.file,
			Labels: labels.FromMap(kemi.LabelsFromMap(c.Labels).With(codec.HostLabel, c.Hostname).Map()),
			Write:  func(_ context.Context, _ kemi.Identity, body []byte) error { spool(body); return nil },
		}
		if c.file != "" {
			so.Reread = func() (scrape.Config, error) {
				next, err := LoadHostAgentConfig(c.file)
				if err == nil {
					err = next.Validate()
				}
				return next.Scrape, err
			}
		}
		s, err := scrape.New(so)
		if err != nil {
			return nil, err
		}
		o.Collect = func(ctx context.Context, to func([]byte)) error {
			spool = to
			return s.Run(ctx)
		}
	}
	return agent.New(o)
}

// Scrapes tells whether anything is scraped.
func (c HostAgentConfig) Scrapes() bool {
	return c.Scrape.ConfigFile != "" || !c.Scrape.ScrapeConfigs.IsZero()
}
