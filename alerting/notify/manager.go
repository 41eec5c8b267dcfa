package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/api"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/config/receiver"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/nflog"
	amnotify "github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"

	"kemi"
	"kemi/pipeline/store"
)

const (
	// retention is how long silences and the notification log are kept after they are over; no repeat interval may be longer.
	retention     = 5 * 24 * time.Hour
	gcInterval    = 10 * time.Minute
	perAlertLimit = 0 // alerts of one name: no limit of its own
	// restoreFor is how long an alert that fired before a restart stays without being raised again.
	restoreFor = 5 * time.Minute
)

// Options are what a Manager works with. All are needed.
type Options struct {
	Project     string
	Control     store.Control
	Log         *slog.Logger
	Registry    prometheus.Registerer
	Now         func() time.Time
	ExternalURL *url.URL // in links of notifications
	// Changed is told of each alert that begins or ends, whoever raised it, one after another. After a restart it is told again of those
	// that still fire.
	Changed func(ctx context.Context, a *alert.Alert, firing bool) error
}

// Manager is the Alertmanager of one project.
type Manager struct {
	o          Options
	alerts     *mem.Alerts
	silences   *silence.Silences
	silencer   *silence.Silencer
	nflog      *nflog.Log
	marker     marker.GroupMarker
	pipelines  *amnotify.PipelineBuilder
	dispatched *dispatch.DispatcherMetrics
	recorder   eventrecorder.Recorder
	api        *api.API
	handler    http.Handler
	outbox     *outbox
	deliveries *prometheus.CounterVec
	started    time.Time

	dispatcher atomic.Pointer[dispatch.Dispatcher]
	inhibitor  atomic.Pointer[inhibit.Inhibitor]
	secrets    atomic.Pointer[map[string]string]
	applying   sync.Mutex
	stop       context.CancelFunc
	wg         sync.WaitGroup
}

// New restores a project's alerts, silences and messages, and starts to notify by conf. Close ends it.
func New(ctx context.Context, o Options, conf *config.Config, secrets map[string]string) (*Manager, error) {
	o.Log = o.Log.With("project", o.Project)
	o.Registry = prometheus.WrapRegistererWith(prometheus.Labels{"project": o.Project}, o.Registry)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	m := &Manager{
		o: o, marker: marker.NewGroupMarker(), stop: stop, started: o.Now(),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_notify_attempts_total", Help: "Attempts to deliver a notification, by the state it has afterwards."}, []string{"state"}),
	}
	o.Registry.MustRegister(m.deliveries)
	if err := m.setup(run); err != nil {
		m.Close()
		return nil, fmt.Errorf("start alerting of project %s: %w", o.Project, err)
	}
	if err := m.Apply(conf, secrets); err != nil {
		m.Close()
		return nil, fmt.Errorf("start alerting of project %s: %w", o.Project, err)
	}
	m.wg.Go(func() { m.outbox.run(run) })
	m.wg.Go(func() { m.follow(run) })
	return m, nil
}

// setup makes what lives as long as the Manager, in the order in which the parts need each other.
func (m *Manager) setup(ctx context.Context) (err error) {
	o := m.o
	flags := featurecontrol.NoopFlags{}
	if m.nflog, err = nflog.New(nflog.Options{Retention: retention, Logger: o.Log, Metrics: o.Registry}); err != nil {
		return err
	}
	if err := persist(ctx, m, kindNflog, m.nflog, identifyNflog); err != nil {
		return err
	}
	m.silences, err = silence.New(silence.Options{
		Retention: retention, Logger: o.Log, Metrics: o.Registry,
		Limits: silence.Limits{MaxSilences: func() int { return 10_000 }, MaxSilenceSizeBytes: func() int { return 64 << 10 }},
	})
	if err != nil {
		return err
	}
	if err := persist(ctx, m, kindSilence, m.silences, identifySilence); err != nil {
		return err
	}
	// Without a file their maintenance only forgets what is over.
	m.wg.Go(func() { m.nflog.Maintenance(gcInterval, "", ctx.Done(), nil) })
	m.wg.Go(func() { m.silences.Maintenance(gcInterval, "", ctx.Done(), nil) })
	m.silencer = silence.NewSilencer(m.silences, o.Log, m.recorder)
	if m.alerts, err = mem.NewAlerts(ctx, gcInterval, perAlertLimit, m.silencer, o.Log, m.recorder, o.Registry, flags); err != nil {
		return err
	}
	if err := m.restoreAlerts(ctx); err != nil {
		return err
	}
	if m.outbox, err = newOutbox(ctx, m); err != nil {
		return err
	}
	m.pipelines = amnotify.NewPipelineBuilder(o.Registry, flags, m.recorder)
	m.dispatched = dispatch.NewDispatcherMetrics(false, o.Registry, flags)
	m.api, err = api.New(api.Options{
		Alerts: m.alerts, Silences: m.silences, GroupMutedFunc: m.marker.Muted, Logger: o.Log, Registry: o.Registry,
		RequestDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kemi_alertmanager_request_seconds", Help: "Time to answer by Alertmanager's API."}, []string{"handler", "method", "code"}),
		GroupFunc: func(ctx context.Context, byRoute func(*dispatch.Route) bool, byAlert func(*alert.Alert, time.Time) bool) (dispatch.AlertGroups, map[model.Fingerprint][]string, error) {
			return m.dispatcher.Load().Groups(ctx, byRoute, byAlert)
		},
	})
	if err != nil {
		return err
	}
	const prefix = "/alertmanager"
	m.handler = m.api.Register(route.New().WithPrefix(prefix), prefix)
	return nil
}

// Apply replaces routes and receivers. What cannot be used is refused and changes nothing.
func (m *Manager) Apply(conf *config.Config, secrets map[string]string) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	tmpl, err := template.FromGlobs(conf.Templates)
	if err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "templates: %w", err)
	}
	tmpl.ExternalURL = m.o.ExternalURL
	routes := dispatch.NewRoute(conf.Route, nil)
	receivers := map[string][]amnotify.Integration{}
	for _, rcv := range conf.Receivers {
		others := rcv
		others.WebhookConfigs = nil
		integrations, err := receiver.BuildReceiverIntegrations(others, tmpl, m.o.Log)
		if err != nil {
			return kemi.Errorf(kemi.ErrInvalid, "receiver %s: %w", rcv.Name, err)
		}
		receivers[rcv.Name] = append(m.hooks(rcv, tmpl), integrations...)
	}
	intervals := map[string][]timeinterval.TimeInterval{}
	for _, ti := range conf.MuteTimeIntervals {
		intervals[ti.Name] = ti.TimeIntervals
	}
	for _, ti := range conf.TimeIntervals {
		intervals[ti.Name] = ti.TimeIntervals
	}
	m.secrets.Store(&secrets)
	m.stopRouting()
	inhibitor := inhibit.NewInhibitor(m.alerts, conf.InhibitRules, m.o.Log, m.recorder)
	pipeline := m.pipelines.New(receivers, func() time.Duration { return 0 }, inhibitor, m.silencer,
		timeinterval.NewIntervener(intervals), m.marker, m.nflog, nil)
	m.api.Update(conf, func(ctx context.Context, ls model.LabelSet) {
		m.inhibitor.Load().Mutes(ctx, ls)
		m.silencer.Mutes(ctx, ls)
	})
	dispatcher := dispatch.NewDispatcher(m.alerts, routes, pipeline, m.marker, func(d time.Duration) time.Duration { return max(d, amnotify.MinTimeout) },
		30*time.Second, nil, m.o.Log, m.recorder, m.dispatched, tmpl)
	// The inhibitor knows the alerts before the dispatcher sends any, and both know them before they can be asked.
	m.wg.Go(inhibitor.Run)
	inhibitor.WaitForLoading()
	m.inhibitor.Store(inhibitor)
	m.wg.Go(func() { dispatcher.Run(m.started) })
	dispatcher.WaitForLoading()
	m.dispatcher.Store(dispatcher)
	return nil
}

func (m *Manager) stopRouting() {
	if i := m.inhibitor.Load(); i != nil {
		i.Stop()
	}
	if d := m.dispatcher.Load(); d != nil {
		d.Stop()
	}
}

func (m *Manager) secretOf(receiver string) string {
	if s := m.secrets.Load(); s != nil {
		return (*s)[receiver]
	}
	return ""
}

// Close stops. Messages that are not delivered stay in the outbox.
func (m *Manager) Close() {
	m.stopRouting()
	m.stop()
	if m.alerts != nil {
		m.alerts.Close()
	}
	m.wg.Wait()
}

// ServeHTTP is Alertmanager's API v2 under /alertmanager/api/v2, as amtool and Grafana speak it.
func (m *Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Put raises, refreshes or ends alerts. It is also how restored ones are confirmed.
func (m *Manager) Put(ctx context.Context, alerts ...*alert.Alert) error {
	return m.alerts.Put(ctx, alerts...)
}
