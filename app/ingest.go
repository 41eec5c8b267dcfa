package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/collectors/fluent"
	"kemi/collectors/gelf"
	"kemi/collectors/graphite"
	"kemi/collectors/influx"
	"kemi/collectors/listen"
	"kemi/collectors/opentsdb"
	"kemi/collectors/otlp"
	"kemi/collectors/promtext"
	"kemi/collectors/push"
	"kemi/collectors/statsd"
	"kemi/collectors/syslog"
	"kemi/pipeline/transform"
)

// IngestConfig is what comes in: the limits that hold for all of it, and a block for each protocol that has more to say.
type IngestConfig struct {
	push.Config `yaml:",inline"`

	Influx influx.Config `yaml:"influx"`
	OTLP   otlp.Config   `yaml:"otlp"`
	// These have listeners of their own, which are off unless they are given an address.
	Telnet   listen.Config `yaml:"telnet"`
	Graphite listen.Config `yaml:"graphite"`
	StatsD   statsd.Config `yaml:"statsd"`
	Syslog   syslog.Config `yaml:"syslog"`
	Fluent   fluent.Config `yaml:"fluent"`
	GELF     gelf.Config   `yaml:"gelf"`

	// Pipelines change log records before they are on the log of record, whatever they came by.
	Pipelines []transform.Pipeline `yaml:"pipelines,omitempty"`
}

func defaultIngestConfig() IngestConfig {
	return IngestConfig{
		Config: push.DefaultConfig(), Influx: influx.DefaultConfig(), OTLP: otlp.DefaultConfig(), Telnet: listen.DefaultConfig(), Graphite: listen.DefaultConfig(), StatsD: statsd.DefaultConfig(),
		Syslog: syslog.DefaultConfig(), Fluent: fluent.DefaultConfig(), GELF: gelf.DefaultConfig(),
	}
}

// Validate tells what is wrong, all of it.
func (c IngestConfig) Validate() error {
	var errs []error
	for _, part := range []struct {
		name string
		err  error
	}{
		{"", c.Config.Validate()}, {"influx: ", c.Influx.Validate()}, {"", c.OTLP.Validate()}, {"telnet: ", c.Telnet.Validate()}, {"graphite: ", c.Graphite.Validate()}, {"", c.StatsD.Validate()},
		{"", c.Syslog.Validate()}, {"", c.Fluent.Validate()}, {"", c.GELF.Validate()}, {"pipelines: ", transform.Validate(c.Pipelines)},
	} {
		if part.err != nil {
			errs = append(errs, fmt.Errorf("%s%w", part.name, part.err))
		}
	}
	return errors.Join(errs...)
}

// pipelines are those of log records, or nil if there are none.
func (c IngestConfig) pipelines(reg prometheus.Registerer, now func() time.Time) (*transform.Transform, error) {
	if len(c.Pipelines) == 0 {
		return nil, nil //nolint:nilnil // nil is "as they come"
	}
	t, err := transform.New(c.Pipelines, transform.Options{Now: now, MaxPast: c.MaxPast, MaxFuture: c.MaxFuture})
	if err != nil {
		return nil, fmt.Errorf("ingest: pipelines: %w", err)
	}
	reg.MustRegister(t)
	return t, nil
}

// receivers opens the receivers of the protocols beside those of package push, and gives what they serve over HTTP.
func (a *App) receivers(ctx context.Context, in *push.Push, auth listen.Authenticator, part func(string) *slog.Logger, reg prometheus.Registerer) ([]kemi.Route, error) {
	cfg := a.cfg.Ingest
	lines, err := influx.New(cfg.Influx, in, a.now)
	if err != nil {
		return nil, err
	}
	points, err := otlp.New(cfg.OTLP, otlp.Options{In: in, Log: part("otlp"), Now: a.now})
	if err != nil {
		return nil, err
	}
	routes := append(lines.Routes(), points.Routes()...)
	routes = append(routes, promtext.New(in, a.now).Routes()...)
	if cfg.OTLP.GRPC.Listen != "" {
		s, err := points.NewServer(ctx, auth, part("otlp"))
		if err != nil {
			return nil, err
		}
		a.onStop("otlp", s.Close)
		a.loop("otlp", s.Run)
		a.listening("otlp", []net.Addr{s.Addr()})
	}

	metrics := listen.NewMetrics(reg)
	for _, p := range []struct {
		name string
		cfg  listen.Config
		open func(*listen.Listener, string) listen.Session
	}{
		{"telnet", cfg.Telnet, opentsdb.Open(opentsdb.Options{In: in, Log: part("telnet"), Version: Version})},
		{"graphite", cfg.Graphite, graphite.Open(graphite.Options{In: in, Log: part("graphite"), Now: a.now})},
	} {
		if !p.cfg.On() {
			continue
		}
		l, err := listen.Open(ctx, p.cfg, listen.Options{Name: p.name, Auth: auth, Open: p.open, Log: part(p.name), Metrics: metrics})
		if err != nil {
			return nil, err
		}
		a.onStop(p.name, l.Close)
		a.loop(p.name, l.Run)
		a.listening(p.name, l.Addrs())
	}
	if cfg.StatsD.On() {
		s, err := statsd.New(ctx, cfg.StatsD, statsd.Options{In: in, Auth: auth, Metrics: metrics, Log: part("statsd"), Now: a.now})
		if err != nil {
			return nil, err
		}
		a.onStop("statsd", s.Close)
		a.loop("statsd", s.Run)
		a.listening("statsd", s.Addrs())
	}
	if cfg.Syslog.On() {
		l, err := syslog.New(ctx, cfg.Syslog, syslog.Options{In: in, Auth: auth, Metrics: metrics, Registerer: reg, Log: part("syslog"), Now: a.now})
		if err != nil {
			return nil, err
		}
		a.onStop("syslog", l.Close)
		a.loop("syslog", l.Run)
		a.listening("syslog", l.Addrs())
	}
	if cfg.Fluent.On() {
		l, err := fluent.New(ctx, cfg.Fluent, fluent.Options{In: in, Auth: auth, Metrics: metrics, Log: part("fluent")})
		if err != nil {
			return nil, err
		}
		a.onStop("fluent", l.Close)
		a.loop("fluent", l.Run)
		a.listening("fluent", l.Addrs())
	}
	messages := gelf.Options{In: in, Auth: auth, Metrics: metrics, Log: part("gelf"), Now: a.now}
	routes = append(routes, gelf.Routes(messages)...)
	if cfg.GELF.On() {
		l, err := gelf.New(ctx, cfg.GELF, messages)
		if err != nil {
			return nil, err
		}
		a.onStop("gelf", l.Close)
		a.loop("gelf", l.Run)
		a.listening("gelf", l.Addrs())
	}
	return routes, nil
}
