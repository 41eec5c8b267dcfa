package snmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"kemi"
	"kemi/pipeline/bus"
)

// Host is a host of the inventory that is to be asked.
type Host struct {
	Project, Name string
	Address       string // host or host:port; "" = its name
	Credential    string // "" = default
	Interval      time.Duration
	Profiles      []string // "" = those of the configuration
	Service       []string // those of its service, which come to them
}

// Inventory is what is read of the inventory, anew with every run.
type Inventory interface {
	Hosts() []Host
	// Profile is the spec of a project's profile.
	Profile(project, name string) (json.RawMessage, bool)
	// Discovered enters a host that answered, or says anew what it answers.
	Discovered(ctx context.Context, id kemi.Identity, name string, facts json.RawMessage) error
}

// Options are what SNMP works with. All are needed.
type Options struct {
	Config    Config
	Inventory Inventory
	Bus       bus.Bus
	// Write makes a remote-write 2.0 body of the identity's project, packed with snappy, durable.
	Write      func(ctx context.Context, id kemi.Identity, body []byte) error
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time

	tick time.Duration // between two looks at the inventory; for tests
}

// SNMP makes jobs and does them.
type SNMP struct {
	o Options
	m *metrics
}

type metrics struct {
	jobs    *prometheus.CounterVec // result
	samples prometheus.Counter
	doubles prometheus.Counter
	hosts   prometheus.Gauge
	seconds prometheus.Histogram
	probes  *prometheus.CounterVec // result
}

func newMetrics() *metrics {
	return &metrics{
		jobs:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_snmp_jobs_total", Help: "Polls: published, done (the host answered), failed, late (too old after a halt), replaced (by a newer one of the same host), foreign."}, []string{"result"}),
		samples: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_snmp_samples_total", Help: "Samples written."}),
		doubles: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_snmp_double_series_total", Help: "Samples left out because two rows of a table have the same labels."}),
		hosts:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_snmp_hosts", Help: "Hosts of the inventory that are asked."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kemi_snmp_poll_seconds", Help: "Time that one poll takes.", Buckets: prometheus.ExponentialBuckets(0.01, 3, 8)}),
		probes:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_snmp_probes_total", Help: "Addresses that discovery asked: answered, silent or refused."}, []string{"result"}),
	}
}

// New makes it; Run works.
func New(o Options) (*SNMP, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	if o.tick == 0 {
		o.tick = time.Second
	}
	s := &SNMP{o: o, m: newMetrics()}
	o.Registerer.MustRegister(s.m.jobs, s.m.samples, s.m.doubles, s.m.hosts, s.m.seconds, s.m.probes)
	return s, nil
}

// Run makes jobs, polls and sweeps until ctx ends. Without a credential it returns at once.
func (s *SNMP) Run(ctx context.Context) error {
	if !s.o.Config.Enabled() {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.schedule(ctx) })
	g.Go(func() error { return s.work(ctx) })
	for _, sweep := range s.o.Config.Discovery {
		g.Go(func() error { return s.sweep(ctx, sweep.withDefaults()) })
	}
	return g.Wait()
}

// schedule makes a job for each host whenever it is due.
func (s *SNMP) schedule(ctx context.Context) error {
	last := map[string]int64{} // by key of a job: the slot of time that was made a job of last
	t := time.NewTicker(s.o.tick)
	defer t.Stop()
	for {
		jobs, seen := s.due(last)
		if len(jobs) > 0 {
			if err := s.publish(ctx, jobs); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				s.o.Log.Warn("polls wait: the log of record does not take them", "jobs", len(jobs), "err", err)
				for _, j := range jobs {
					delete(last, j.key()) // they are due still
				}
			}
		}
		for key := range last {
			if !seen[key] {
				delete(last, key)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// due reads the inventory, and makes jobs of what is due. The hosts' turns are spread over their interval; one that is new is due at once.
func (s *SNMP) due(last map[string]int64) ([]*job, map[string]bool) {
	now := s.o.Now()
	hosts := s.o.Inventory.Hosts()
	s.m.hosts.Set(float64(len(hosts)))
	var jobs []*job
	seen := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		j := &job{
			Kind: jobKind, Project: h.Project, Host: h.Name, Address: first(h.Address, h.Name), Credential: first(h.Credential, "default"),
			Due: kemi.MillisOf(now), Interval: kemi.Millis(h.Interval.Milliseconds()),
		}
		if j.Interval <= 0 {
			j.Interval = kemi.Millis(s.o.Config.Interval.Milliseconds())
		}
		key := j.key()
		seen[key] = true
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(key))
		slot := (int64(j.Due) + int64(hash.Sum32())%int64(j.Interval)) / int64(j.Interval)
		if was, ok := last[key]; ok && was == slot {
			continue
		}
		last[key] = slot
		s.profiles(j, h)
		jobs = append(jobs, j)
	}
	return jobs, seen
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// profiles puts what the host is asked for into the job.
func (s *SNMP) profiles(j *job, h Host) {
	own := h.Profiles
	if len(own) == 0 {
		own = s.o.Config.Profiles
	}
	taken := map[string]bool{}
	for _, name := range append(own[:len(own):len(own)], h.Service...) {
		if taken[name] {
			continue
		}
		taken[name] = true
		p := profileOfJob{Name: name}
		// What the inventory has of that name counts more than what is built in.
		if spec, ok := s.o.Inventory.Profile(j.Project, name); ok {
			p.Spec = spec
		} else if builtin[name] == nil {
			s.o.Log.Warn("there is no such profile, neither in the inventory nor built in", "project", j.Project, "host", j.Host, "profile", name, "builtIn", strings.Join(Builtin(), ", "))
			continue
		}
		j.Profiles = append(j.Profiles, p)
	}
}

func (s *SNMP) publish(ctx context.Context, jobs []*job) error {
	records := make([]bus.Record, 0, len(jobs))
	for _, j := range jobs {
		r, err := j.record()
		if err != nil {
			return fmt.Errorf("job of %s: %w", j.Host, err)
		}
		records = append(records, r)
	}
	const most = 1000
	for len(records) > 0 {
		n := min(len(records), most)
		if err := s.o.Bus.Publish(ctx, bus.Jobs, records[:n]); err != nil {
			return err
		}
		s.m.jobs.WithLabelValues("published").Add(float64(n))
		records = records[n:]
	}
	return nil
}

// do polls a host and writes what it says. It returns when that is durable, or when there is nothing more to be done about it.
func (s *SNMP) do(ctx context.Context, j *job) {
	profiles, bad := j.profiles()
	began := s.o.Now()
	r, err := poll(ctx, s.o.Config, j, profiles, s.o.Now)
	if ctx.Err() != nil {
		return // it is done again after the restart
	}
	s.m.seconds.Observe(s.o.Now().Sub(began).Seconds())
	log := s.o.Log.With("project", j.Project, "host", j.Host, "address", j.Address)
	if len(bad) > 0 {
		log.Warn("profiles cannot be read", "profiles", strings.Join(bad, ", "))
	}
	outcome := "done"
	if err != nil {
		outcome = "failed"
		log.Debug("poll failed", "err", err)
		if !errors.Is(err, kemi.ErrUnavailable) {
			log.Warn("the host cannot be asked", "err", err)
		}
	}
	s.m.doubles.Add(float64(r.doubles))
	id := kemi.Identity{Subject: "snmp", Project: j.Project, Permissions: kemi.MetricsWrite}
	if err := s.o.Write(ctx, id, r.body()); err != nil {
		if ctx.Err() != nil {
			return
		}
		outcome = "failed"
		log.Warn("samples could not be written", "samples", len(r.series), "err", err)
	} else {
		s.m.samples.Add(float64(len(r.series)))
	}
	s.m.jobs.WithLabelValues(outcome).Inc()
}
