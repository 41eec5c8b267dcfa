package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/model/labels"
	upstream "github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/logging"
	"go.yaml.in/yaml/v2"
	"golang.org/x/sync/errgroup"

	"kemi"
)

// Options are what a Scraper works with. All but File and Reread are needed.
type Options struct {
	Config Config
	// Write makes a remote-write 2.0 body of the identity's project, packed with snappy, durable.
	Write      func(ctx context.Context, id kemi.Identity, body []byte) error
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// File is where the configuration stands, if in a file; Reread reads it anew. Without Reread only what ConfigFile names can change.
	File   string
	Reread func() (Config, error)

	// Labels are given to each series that has none of that name.
	Labels labels.Labels

	// settle is how long changes of targets are gathered before they are acted on; for tests.
	settle time.Duration
}

// Scraper scrapes. New, Run once.
type Scraper struct {
	o     Options
	sd    *discovery.SDMetrics
	m     metrics
	again chan struct{}

	// Of Run's goroutine.
	cfg   Config
	print string // of the configuration that was read last, good or not
	text  []byte // of File, the same
	// What the last look saw of both: a change counts when the next look sees the same, as a file that is being written looks changed, too.
	sawPrint string
	sawText  []byte

	mu      sync.RWMutex
	runners map[string]*runner
}

type metrics struct {
	good    prometheus.Gauge
	at      prometheus.Gauge
	reloads *prometheus.CounterVec
	commits *prometheus.CounterVec
}

// runner scrapes the jobs of one project: upstream's two managers.
type runner struct {
	project string
	targets *upstream.Manager
	finder  *discovery.Manager
	base    *config.Config // a loaded one without jobs
	newest  *newest
	stop    context.CancelFunc
	done    *errgroup.Group
}

// New reads the configuration; a bad one is an error.
func New(o Options) (*Scraper, error) {
	if o.settle == 0 {
		o.settle = 5 * time.Second
	}
	s := &Scraper{o: o, cfg: o.Config, again: make(chan struct{}, 1), runners: map[string]*runner{}}
	if _, err := o.Config.load(dirOf(o.File), slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	if o.Reread != nil {
		s.text, _ = os.ReadFile(o.File)
	}
	var err error
	if s.sd, err = discovery.CreateAndRegisterSDMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("metrics of service discovery: %w", err)
	}
	s.m = metrics{
		good:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_scrape_config_last_reload_successful", Help: "Whether the configuration that was read last is in force."}),
		at:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_scrape_config_last_reload_success_timestamp_seconds", Help: "When a configuration came into force last."}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_scrape_config_reloads_total", Help: "Configurations that were read: applied or refused."}, []string{"result"}),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_scrape_commits_total", Help: "Bodies of scraped samples: durable, in part (some samples were refused), or failed."}, []string{"project", "result"}),
	}
	o.Registerer.MustRegister(s.m.good, s.m.at, s.m.reloads, s.m.commits)
	return s, nil
}

// Reload reads the configuration again soon, whether or not it looks changed.
func (s *Scraper) Reload() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// Run scrapes until ctx ends. A configuration that cannot be applied is logged, and the one before it stays in force.
func (s *Scraper) Run(ctx context.Context) error {
	defer s.stop()
	s.apply(ctx)
	var tick <-chan time.Time
	if s.o.Config.WatchInterval > 0 {
		t := time.NewTicker(s.o.Config.WatchInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.again:
			if s.o.Reread == nil || s.read(true) {
				s.apply(ctx)
			}
		case <-tick:
			if s.read(false) {
				s.apply(ctx)
			}
		}
	}
}

// read reads File again and tells whether anything of the configuration has changed since the last time.
func (s *Scraper) read(force bool) (changed bool) {
	if s.o.Reread != nil {
		text, err := os.ReadFile(s.o.File)
		settled := err == nil && bytes.Equal(text, s.sawText)
		s.sawText = text
		if force || settled && !bytes.Equal(text, s.text) {
			s.text = text
			cfg, err := s.o.Reread()
			if err == nil {
				err = cfg.Validate()
			}
			if err != nil {
				s.refuse(err)
				return false
			}
			s.cfg = cfg
			return true
		}
	}
	print := s.fingerprint()
	settled := print == s.sawPrint
	s.sawPrint = print
	return settled && print != s.print
}

// fingerprint is that of the configuration; one that cannot be read has its error for one, so that it is told once.
func (s *Scraper) fingerprint() string {
	print, err := s.cfg.fingerprint()
	if err != nil {
		return err.Error()
	}
	return print
}

func (s *Scraper) refuse(err error) {
	s.m.good.Set(0)
	s.m.reloads.WithLabelValues("refused").Inc()
	s.o.Log.Error("the scrape configuration is not good; the one before it stays in force", "err", err)
}

// apply brings the configuration into force.
func (s *Scraper) apply(ctx context.Context) {
	s.print = s.fingerprint()
	if err := s.tryApply(ctx); err != nil {
		s.refuse(err)
		return
	}
	s.m.good.Set(1)
	s.m.at.Set(float64(s.o.Now().Unix()))
	s.m.reloads.WithLabelValues("applied").Inc()
}

func (s *Scraper) tryApply(ctx context.Context) error {
	all, err := s.cfg.load(dirOf(s.o.File), s.o.Log)
	if err != nil {
		return err
	}
	byProject := map[string][]*config.ScrapeConfig{}
	for _, j := range all.scrape {
		p := s.cfg.projectOf(j.JobName)
		byProject[p] = append(byProject[p], j)
	}
	s.mu.RLock()
	for p := range s.runners {
		if byProject[p] == nil {
			byProject[p] = []*config.ScrapeConfig{} // what it scraped so far ends
		}
	}
	s.mu.RUnlock()
	var errs []error
	for p, jobs := range byProject {
		r, err := s.runner(ctx, p)
		if err == nil {
			err = r.apply(all.global, jobs)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("project %s: %w", p, err))
		}
	}
	if len(all.scrape) > 0 {
		s.o.Log.Info("scraping", "jobs", len(all.scrape), "projects", len(byProject))
	}
	return errors.Join(errs...)
}

// runner is that of the project, made and started at its first use.
func (s *Scraper) runner(ctx context.Context, project string) (*runner, error) {
	s.mu.RLock()
	r := s.runners[project]
	s.mu.RUnlock()
	if r != nil {
		return r, nil
	}
	log := s.o.Log.With("project", project)
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"project": project}, s.o.Registerer)
	base, err := config.Load("", log)
	if err != nil {
		return nil, fmt.Errorf("an empty configuration: %w", err)
	}
	r = &runner{project: project, base: base, newest: newNewest(s.o.Now)}
	app := &appendable{
		id:    kemi.Identity{Subject: "scrape", Project: project, Permissions: kemi.MetricsWrite},
		write: s.counted, newest: r.newest, labels: s.o.Labels,
	}
	r.targets, err = upstream.NewManager(&upstream.Options{AppendMetadata: true, ParseST: true, DiscoveryReloadOnStartup: true, DiscoveryReloadInterval: model.Duration(s.o.settle)}, log, logging.NewJSONFileLogger, nil, app, reg)
	if err != nil {
		return nil, err
	}
	ctx, r.stop = context.WithCancel(ctx)
	if r.finder = discovery.NewManager(ctx, log, reg, s.sd, discovery.Name("scrape"), discovery.Updatert(s.o.settle)); r.finder == nil {
		r.stop()
		return nil, errors.New("service discovery did not start")
	}
	r.done = &errgroup.Group{}
	r.done.Go(r.finder.Run)
	r.done.Go(func() error { return r.targets.Run(r.finder.SyncCh()) })
	s.mu.Lock()
	s.runners[project] = r
	s.mu.Unlock()
	return r, nil
}

// counted is Write, counted.
func (s *Scraper) counted(ctx context.Context, id kemi.Identity, body []byte) error {
	err := s.o.Write(ctx, id, body)
	result := "durable"
	switch {
	case errors.Is(err, kemi.ErrInvalid):
		result = "in part"
	case err != nil:
		result = "failed"
	}
	s.m.commits.WithLabelValues(id.Project, result).Inc()
	return err
}

func (r *runner) apply(global config.GlobalConfig, jobs []*config.ScrapeConfig) error {
	c := *r.base
	c.GlobalConfig, c.ScrapeConfigs = global, jobs
	// The targets first, as Prometheus does: what is found must meet the job that it is found for.
	if err := r.targets.ApplyConfig(&c); err != nil {
		return err
	}
	finders := map[string]discovery.Configs{}
	longest := time.Duration(0)
	for _, j := range jobs {
		finders[j.JobName] = j.ServiceDiscoveryConfigs
		longest = max(longest, time.Duration(j.ScrapeInterval))
	}
	r.newest.keepFor(longest)
	return r.finder.ApplyConfig(finders)
}

// stop ends all scraping. The targets are taken to be there still: no markers are written.
func (s *Scraper) stop() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.runners {
		r.stop()
		r.targets.Stop()
		_ = r.done.Wait()
		r.targets.UnregisterMetrics()
		r.finder.UnregisterMetrics()
	}
}

// marshalUpstream is v as upstream writes it, with its secrets hidden.
func marshalUpstream(v any) ([]byte, error) {
	b, err := yaml.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("print the scrape configuration: %w", err)
	}
	return b, nil
}
