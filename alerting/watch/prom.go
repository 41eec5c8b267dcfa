package watch

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"kemi"
)

const (
	outageTolerance = time.Hour // a "for" survives a restart if it took no longer than this
	forGracePeriod  = 10 * time.Minute
	concurrentEvals = 4
)

// ruleMetrics are upstream's, shared by all projects: groups are told apart by their key.
type ruleMetrics struct{ m *rules.Metrics }

func newRuleMetrics(r prometheus.Registerer) *ruleMetrics {
	return &ruleMetrics{rules.NewGroupMetrics(r)}
}

// promRules are the Prometheus rule groups of one project on upstream's manager.
type promRules struct {
	w       *Watcher
	t       *tenant
	manager *rules.Manager
	parser  parser.Parser
	once    sync.Once
	done    sync.WaitGroup

	mu    sync.Mutex
	files map[string][]byte // what the manager loads, by the name of the rule resource or file
}

func (w *Watcher) newPromRules(t *tenant) *promRules {
	p := &promRules{w: w, t: t, files: map[string][]byte{}, parser: parser.NewParser(parser.Options{})}
	id := identity(t.project)
	p.manager = rules.NewManager(&rules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		ExternalURL:          w.external,
		QueryFunc: func(ctx context.Context, q string, at time.Time) (promql.Vector, error) {
			return w.o.Metrics.Instant(ctx, id, q, at)
		},
		NotifyFunc:             p.notify,
		Context:                w.running,
		AppendableV2:           appendable{w.o.Writer, id},
		Queryable:              w.o.Metrics.Queryable(id),
		Logger:                 w.o.Log.With("project", t.project),
		Registerer:             nil,
		Metrics:                w.ruleMx.m,
		OutageTolerance:        outageTolerance,
		ForGracePeriod:         forGracePeriod,
		ResendDelay:            resendAfter,
		GroupLoader:            p,
		MaxConcurrentEvals:     concurrentEvals,
		ConcurrentEvalsEnabled: true,
		Parser:                 p.parser,
		RestoreNewRuleGroups:   true,
	})
	return p
}

// start evaluates from now on.
func (p *promRules) start() {
	p.once.Do(func() { p.done.Go(p.manager.Run) })
}

func (p *promRules) stop() {
	p.start() // groups that were never started would be waited for in vain
	p.manager.Stop()
	p.done.Wait()
}

// set replaces all groups. If one cannot be loaded nothing changes.
func (p *promRules) set(files map[string][]byte) error {
	for name, content := range files {
		if err := p.check(name, content); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.files = files
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	p.mu.Unlock()
	sort.Strings(names)
	if err := p.manager.Update(p.w.o.Config.Interval, names, labels.EmptyLabels(), p.w.o.Config.ExternalURL, nil); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "rules: %w", err)
	}
	return nil
}

func (p *promRules) check(name string, content []byte) error {
	_, errs := rulefmt.Parse(content, false, model.UTF8Validation, p.parser, slog.New(slog.DiscardHandler))
	if len(errs) == 0 {
		return nil
	}
	texts := make([]string, 0, len(errs))
	for _, e := range errs {
		texts = append(texts, e.Error())
	}
	return kemi.Errorf(kemi.ErrInvalid, "rules %s: %s", name, strings.Join(texts, "; "))
}

// Load implements rules.GroupLoader.
func (p *promRules) Load(name string, ignoreUnknown bool, scheme model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	p.mu.Lock()
	content, ok := p.files[name]
	p.mu.Unlock()
	if !ok {
		return nil, []error{fmt.Errorf("no rules %s", name)}
	}
	return rulefmt.Parse(content, ignoreUnknown, scheme, p.parser, p.w.o.Log)
}

// Parse implements rules.GroupLoader.
func (p *promRules) Parse(query string) (parser.Expr, error) { return p.parser.ParseExpr(query) }

// notify passes the alerts of a rule on, as Prometheus would send them to its Alertmanager.
func (p *promRules) notify(ctx context.Context, _ string, alerts ...*rules.Alert) {
	now := p.w.o.Now()
	out := make([]*alert.Alert, 0, len(alerts))
	for _, a := range alerts {
		x := &alert.Alert{UpdatedAt: now, Alert: model.Alert{StartsAt: a.FiredAt, EndsAt: a.ValidUntil, Labels: labelSet(a.Labels), Annotations: labelSet(a.Annotations)}}
		if !a.ResolvedAt.IsZero() {
			x.EndsAt = a.ResolvedAt
		} else if least := now.Add(4 * resendAfter); x.EndsAt.Before(least) {
			x.EndsAt = least // groups of a short interval are said again only every resendAfter
		}
		out = append(out, x)
	}
	if err := p.t.notify.Put(ctx, out...); err != nil && ctx.Err() == nil {
		p.w.o.Log.Error("alerts not passed on; the next evaluation does", "project", p.t.project, "alerts", len(out), "err", err)
	}
}

func labelSet(ls labels.Labels) model.LabelSet {
	out := make(model.LabelSet, ls.Len())
	ls.Range(func(l labels.Label) { out[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
	return out
}

// ruleFiles reads the files of the configuration.
func (w *Watcher) ruleFiles() (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, glob := range w.o.Config.RuleFiles {
		names, err := filepath.Glob(glob)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "alerting.ruleFiles: %q: %w", glob, err)
		}
		if len(names) == 0 && !strings.ContainsAny(glob, "*?[") {
			return nil, kemi.Errorf(kemi.ErrInvalid, "alerting.ruleFiles: %q: no such file", glob)
		}
		for _, n := range names {
			if out[n], err = os.ReadFile(n); err != nil {
				return nil, fmt.Errorf("read rules: %w", err)
			}
		}
	}
	return out, nil
}

// appendable writes what rules record as any other sender's samples are written: to the log of record.
type appendable struct {
	w  Writer
	id kemi.Identity
}

func (a appendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &appender{a: a, ctx: ctx}
}

type appender struct {
	a      appendable
	ctx    context.Context //nolint:containedctx // upstream's interface hands it over here
	points []kemi.Points
}

func (a *appender) Append(_ storage.SeriesRef, ls labels.Labels, _, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
	if h != nil || fh != nil {
		return 0, fmt.Errorf("record %s: native histograms cannot be recorded by rules yet: %w", ls.Get(kemi.MetricName), storage.ErrNativeHistogramsDisabled)
	}
	out := make(kemi.Labels, 0, ls.Len())
	ls.Range(func(l labels.Label) { out = append(out, kemi.Label{Name: l.Name, Value: l.Value}) })
	a.points = append(a.points, kemi.Points{Labels: out, At: []kemi.Millis{kemi.Millis(t)}, Values: []float64{v}})
	return 1, nil
}

func (a *appender) Commit() error {
	if len(a.points) == 0 {
		return nil
	}
	err := a.a.w.Write(a.ctx, a.a.id, a.points)
	a.points = nil
	return err
}

func (a *appender) Rollback() error {
	a.points = nil
	return nil
}
