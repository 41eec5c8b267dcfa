// Package app puts KEMI together: it is the only place that knows every part. New opens what the configuration names, in one
// straight line; Start begins to serve; Stop ends everything in the reverse order.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"kemi"
	"kemi/alerting/watch"
	"kemi/collectors/push"
	"kemi/collectors/scrape"
	"kemi/collectors/snmp"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/lines"
	"kemi/pipeline/merge"
	"kemi/pipeline/speed"
	"kemi/pipeline/sqlite"
	"kemi/pipeline/store"
	"kemi/pipeline/wal"
	"kemi/provisioning/autoscale"
	"kemi/provisioning/cmdb"
	"kemi/provisioning/local"
	"kemi/sauron/api"
	"kemi/sauron/auth"
	"kemi/sauron/limit"
	"kemi/sauron/logs"
	"kemi/sauron/loki"
	"kemi/sauron/promql"
	"kemi/sauron/query"
	"kemi/sauron/tsd"
	"kemi/sauron/tsdnote"
	"kemi/sauron/tsduid"
)

// Version is set by the build.
var Version = "unknown"

// Deps are what an App takes from its surroundings.
type Deps struct {
	Log *slog.Logger
	Now func() time.Time
}

// App is a server: New, Start, Addr, Stop, each once.
type App struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	registry *prometheus.Registry
	listener net.Listener
	server   *http.Server
	loops    []loop
	stops    []stop // run in reverse
	began    time.Time
	series   *merge.Store
	metrics  *speed.Follower
	logs     *speed.Follower
	scraper  *scrape.Scraper
	gate     *limit.Gate // of all questions

	metricsFresh  func() store.Freshness // of what answers about metrics
	metricsRecent func() store.Freshness // the same of what asks about the last minutes: it does not mind that older records are missing

	// Listening are the addresses of the listeners beside the one of HTTP, by what is spoken there.
	Listening map[string][]net.Addr
	// Routes are all that it serves.
	Routes []kemi.Route
	// AdminToken is the admin's secret if this start made it; it is not kept anywhere else in readable form but in the token file.
	AdminToken string

	runCtx context.Context //nolint:containedctx // the life of the loops
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error
}

// loop is a part that runs until its context ends.
type loop struct {
	name string
	run  func(ctx context.Context) error
}

type stop struct {
	name string
	f    func() error
}

func (a *App) onStop(name string, f func() error) { a.stops = append(a.stops, stop{name, f}) }

// New opens everything and listens, but answers nothing yet. What it opened is closed again if it fails.
func New(ctx context.Context, cfg Config, d Deps) (_ *App, err error) {
	cfg.complete()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &App{began: time.Now(), cfg: cfg, log: d.Log, now: d.Now, registry: prometheus.NewRegistry(), failed: make(chan error, 16)}
	a.runCtx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, a.closeAll())
		}
	}()
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// open is the plan of the house, in the order in which the parts need each other.
func (a *App) open(ctx context.Context) error {
	cfg, reg := a.cfg, prometheus.Registerer(a.registry)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}

	// The port comes first: a second server on the same address must not touch anything.
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "listen: %w", err)
	}
	a.listener = l
	a.onStop("listener", func() error { return ignoreClosed(l.Close()) })

	// The log of record, and its lock on the data folder.
	part := func(name string) *slog.Logger { return a.log.With("part", name) }
	w, err := wal.Open(cfg.Bus, wal.Options{Log: part("bus"), Registerer: reg, Now: a.now})
	if err != nil {
		return fmt.Errorf("open the log of record: %w", err)
	}
	a.onStop("bus", w.Close)

	control, err := sqlite.Open(filepath.Join(cfg.Data, "control.db"))
	if err != nil {
		return fmt.Errorf("open the control state: %w", err)
	}
	a.onStop("control state", control.Close)

	// Who asks.
	authn, err := auth.New(ctx, auth.Options{Control: control, Log: part("auth"), Now: a.now, Dev: cfg.Dev, Secure: cfg.TLS.Cert != ""})
	if err != nil {
		return err
	}
	if a.AdminToken, err = authn.EnsureFile(ctx, auth.AdminToken, "admin", filepath.Join(cfg.Data, auth.AdminTokenFile)); err != nil {
		return err
	}
	if _, err = authn.EnsureFile(ctx, auth.AgentToken, "agent", filepath.Join(cfg.Data, auth.AgentTokenFile)); err != nil {
		return err
	}

	// The inventory, and with it what is added to records as they come in.
	ims, err := cmdb.New(ctx, cmdb.Options{Control: control, Bus: w, Log: part("ims"), Registerer: reg, Now: a.now, CheckProfile: snmp.CheckProfile})
	if err != nil {
		return err
	}
	table := codec.NewTable(ims, a.now)

	// The stores, and the live layer that fills them.
	caughtUp := func(ctx context.Context) error { return a.metrics.WaitCaughtUp(ctx) }
	series, err := merge.Begin(ctx, cfg.Metrics, cfg.Batch, merge.Options{Log: part("metrics"), Registerer: reg, Now: a.now, CaughtUp: caughtUp})
	if err != nil {
		return fmt.Errorf("open the series: %w", err)
	}
	a.onStop("series", series.Close)
	a.series = series
	index, err := lines.Open(cfg.Logs, lines.Options{Log: part("logs"), Registerer: reg, Now: a.now})
	if err != nil {
		return fmt.Errorf("open the log index: %w", err)
	}
	a.onStop("log index", index.Close)
	unclean := func() bool { return series.Start().Unclean() }
	a.metrics = speed.New(speed.Options{
		Bus: w, Topic: bus.Metrics, Group: "series", Positions: series.Positions, Ready: series.Ready, Recycle: true, Apply: speed.Series(table, series, part("speed")), Log: part("speed"), Registry: reg, Unclean: unclean,
	})
	series.SetLive(a.metrics.Live())
	a.metricsFresh = func() store.Freshness { return both(series.Freshness(), a.metrics.Freshness()) }
	a.metricsRecent = func() store.Freshness { return both(series.Freshness(), a.metrics.Replayed()) }
	a.logs = speed.New(speed.Options{
		Bus: w, Topic: bus.Logs, Group: "index", Positions: index.Positions, Apply: speed.Logs(index, part("speed")), Log: part("speed"), Registry: reg, Unclean: unclean,
	})
	a.loop("metrics into series", a.metrics.Run)
	a.loop("metrics settled", series.Run)
	a.loop("logs into index", a.logs.Run)

	// What comes in.
	paced := speed.Paced(w, map[string]*speed.Follower{bus.Metrics: a.metrics, bus.Logs: a.logs})
	pipelines, err := cfg.Ingest.pipelines(reg, a.now)
	if err != nil {
		return err
	}
	in, err := push.New(push.Options{
		Config: cfg.Ingest.Config, Bus: paced, Table: table, Enricher: ims, Series: series, Log: part("push"), Registerer: reg, Now: a.now, WaitApplied: a.waitApplied, Pipelines: pipelines,
	})
	if err != nil {
		return err
	}

	received, err := a.receivers(ctx, in, authn, part, reg)
	if err != nil {
		return err
	}

	if err := a.openScrape(in); err != nil {
		return err
	}
	if err := a.openSNMP(w, in, ims); err != nil {
		return err
	}

	// What is asked. One gate for all, so that it does not matter in which language a heavy user asks.
	gate, err := limit.New(cfg.Limits, reg)
	if err != nil {
		return err
	}
	a.gate = gate
	ids, notes := tsduid.New(control, cfg.OpenTSDB.UIDs, a.now), tsdnote.New(control, cfg.OpenTSDB.Annotations, a.now)
	engine, err := query.New(query.Options{
		Config: cfg.Query, Store: series, Gate: gate, IDs: ids, Notes: notes, Deleter: deleterOf(series), Freshness: a.metricsFresh,
		Log: part("query"), Registerer: reg, Now: a.now,
	})
	if err != nil {
		return err
	}
	opentsdb := tsd.New(tsd.Options{
		Engine: engine, Store: series, Control: control, IDs: ids, Notes: notes, Metrics: a.registry, Settings: cfg.opentsdb(), Version: Version,
		Log: part("opentsdb"), Now: a.now,
	})
	prom, err := promql.New(cfg.PromQL, promql.Options{
		Source: series, Chunks: series, Exemplars: series, Metadata: series, Status: series, Gate: gate, Freshness: a.metricsFresh, Version: Version,
		Log: part("promql"), Registerer: reg, Now: a.now, Gatherer: a.registry, Deleter: deleterOf(series), Cleaner: series, Process: promql.Process{
			Started: a.began, Retention: cfg.Metrics.Retention, Config: cfg.text, Blocks: series.BlockMetas,
		},
	})
	if err != nil {
		return err
	}
	logFreshness := func() store.Freshness { return both(index.Freshness(), a.logs.Freshness()) }
	logAPI, err := logs.New(logs.Options{Config: cfg.Search, Store: index, Deleter: index, Bus: w, Freshness: logFreshness, Log: part("log search"), Registerer: reg, Now: a.now})
	if err != nil {
		return err
	}
	a.loop("live tail", logAPI.Run)
	lokiAPI := loki.New(loki.Options{Store: index, Enter: entering(gate), Timeout: cfg.Search.Timeout, Version: Version, Now: a.now, Registerer: reg})

	// What is watched, and what follows from it.
	alerts, err := watch.New(ctx, watch.Options{
		Config: cfg.Alerting, Bus: w, Control: control, Metrics: metricsOf{prom, series, a.metricsRecent}, Writer: writer{in}, ParseLog: logs.Parse,
		DefaultProject: auth.DefaultProject, Log: part("alerting"), Registry: reg, Now: a.now,
	})
	if err != nil {
		return err
	}
	a.onStop("alerting", func() error { alerts.Close(); return nil })
	a.loop("alerting", alerts.Run)
	pools, err := local.New(local.Options{Dir: filepath.Join(cfg.Data, "pools"), Log: part("pools"), Now: a.now})
	if err != nil {
		return err
	}
	a.onStop("pools", pools.Close)
	scale, err := autoscale.New(ctx, autoscale.Options{
		Control: control, Bus: w, Querier: scalar{prom, a.metricsRecent}, Drivers: map[string]autoscale.Driver{"local": pools}, Log: part("autoscale"), Registerer: reg, Now: a.now,
	})
	if err != nil {
		return err
	}
	a.loop("autoscale", scale.Run)

	a.Routes = append(a.ownRoutes(), received...)
	for _, room := range []interface{ Routes() []kemi.Route }{authn, in, a.scraper, opentsdb, prom, logAPI, lokiAPI, ims, alerts, scale} {
		a.Routes = append(a.Routes, room.Routes()...)
	}
	handler, err := api.New(api.Options{Auth: authn, Routes: a.Routes, Log: part("http"), Registry: reg, Now: a.now, WriteTimeout: cfg.WriteTimeout})
	if err != nil {
		return err
	}
	a.server = &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(part("http").Handler(), slog.LevelDebug),
	}
	return a.openAgent(in, ims)
}

// both is the freshness of a store that is complete only if it itself and its feed are.
func both(self, feed store.Freshness) store.Freshness {
	if !self.Complete {
		return store.Freshness{AsOf: feed.AsOf, Reason: self.Reason}
	}
	return feed
}

func (a *App) loop(name string, run func(ctx context.Context) error) {
	a.loops = append(a.loops, loop{name, run})
}

// listening notes the addresses of a listener that has one of its own.
func (a *App) listening(name string, at []net.Addr) {
	if a.Listening == nil {
		a.Listening = map[string][]net.Addr{}
	}
	a.Listening[name] = at
	for _, addr := range at {
		a.log.Info("listening", "protocol", name, "network", addr.Network(), "address", addr.String())
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// waitApplied waits until a record of topic metrics or logs can be queried.
func (a *App) waitApplied(ctx context.Context, topic string, partition int32, offset int64) error {
	f := a.metrics
	if topic == bus.Logs {
		f = a.logs
	}
	return f.WaitApplied(ctx, partition, offset)
}

// Start runs the loops and serves.
func (a *App) Start() error {
	for _, l := range a.loops {
		a.wg.Go(func() {
			if err := l.run(a.runCtx); err != nil && a.runCtx.Err() == nil {
				a.failed <- fmt.Errorf("%s: %w", l.name, err)
			}
		})
	}
	a.wg.Go(func() {
		var err error
		if t := a.cfg.TLS; t.Cert != "" {
			err = a.server.ServeTLS(a.listener, t.Cert, t.Key)
		} else {
			err = a.server.Serve(a.listener)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			a.failed <- fmt.Errorf("serve: %w", err)
		}
	})
	return nil
}

// Reload reads again what can change while the server runs: what is scraped.
func (a *App) Reload() { a.scraper.Reload() }

// Addr is the address that it listens on.
func (a *App) Addr() string { return a.listener.Addr().String() }

// Failed tells of a part that ended on its own: then the server cannot keep its promises and should be stopped.
func (a *App) Failed() <-chan error { return a.failed }

// stopTimeout is how long requests under way may take to end.
const stopTimeout = 10 * time.Second

// Stop ends everything in order: no new requests, the loops, then the stores.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.runCtx), stopTimeout)
	defer cancel()
	// The loops end first: streams that wait for them would otherwise hold up the end of the requests.
	a.cancel()
	err := a.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = a.server.Close()
	}
	a.wg.Wait()
	return errors.Join(err, a.closeAll())
}

func (a *App) closeAll() error {
	a.cancel()
	var errs []error
	for i := len(a.stops) - 1; i >= 0; i-- {
		if err := a.stops[i].f(); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", a.stops[i].name, err))
		}
	}
	a.stops = nil
	return errors.Join(errs...)
}

// Run is a server from start to end: it prints the address, and the admin's token if it was made now, and returns when ctx ends.
func Run(ctx context.Context, cfg Config, stdout, stderr io.Writer) error {
	log, err := NewLogger(cfg.Log, stderr)
	if err != nil {
		return err
	}
	limit, err := memoryLimit(cfg.Memory)
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(limit)
	gc, endGC := context.WithCancel(ctx)
	defer endGC()
	var running atomic.Pointer[App]
	go tuneGC(gc, func() uint64 {
		if a := running.Load(); a != nil {
			return a.gate.Entered()
		}
		return 0
	})
	began := time.Now()
	a, err := New(ctx, cfg, Deps{Log: log, Now: time.Now})
	if err != nil {
		return err
	}
	running.Store(a)
	// Before it answers: whoever sees it answer has been told how to ask. The port is open already.
	a.greet(stdout)
	if err := a.Start(); err != nil {
		return errors.Join(err, a.Stop())
	}
	log.Info("serving", "address", a.Addr(), "version", Version, "data", cfg.Data, "memory", limit, "startup", time.Since(began).Round(time.Millisecond))
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			log.Info("reading the configuration again")
			a.Reload()
			continue
		case <-ctx.Done():
			log.Info("stopping")
		case err = <-a.Failed():
			log.Error("stopping", "err", err)
		}
		return errors.Join(err, a.Stop())
	}
}

// greet tells the person at the terminal where to go.
func (a *App) greet(w io.Writer) {
	scheme := "http"
	if a.cfg.TLS.Cert != "" {
		scheme = "https"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "KEMI %s\n  address  %s://%s\n", Version, scheme, a.Addr())
	file := filepath.Join(a.cfg.Data, auth.AdminTokenFile)
	switch {
	case a.AdminToken != "":
		fmt.Fprintf(&b, "  token    %s\n           shown this once; also in %s\n", a.AdminToken, file)
	default:
		fmt.Fprintf(&b, "  token    in %s\n", file)
	}
	if a.cfg.Dev {
		b.WriteString("  dev      requests from this machine are an admin's\n")
	}
	_, _ = io.WriteString(w, b.String())
}
