package autoscale

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

const (
	// queryTimeout bounds the queries of one evaluation.
	queryTimeout = 10 * time.Second
	// saveEvery is how far behind the stored state may be in what changes all the time: the wishes of the stabilization windows.
	saveEvery = 30 * time.Second
)

// group is one group and its runner.
type group struct {
	a        *Autoscaler
	key      groupKey
	wakes    chan struct{}
	loopStop context.CancelFunc // nil: not running; with loopDone guarded by a.mu
	loopDone chan struct{}

	mu         sync.Mutex // guards what follows, and calls of the driver
	spec       Spec
	revision   int64
	updated    kemi.Millis
	state      State
	saved      time.Time // when the state was last stored
	tell       bool      // the driver must be told, even if the number is right
	last       *Record
	evaluation *evaluated
	problem    string // of the driver, at the last evaluation
	unfinished []*Record
	gone       bool
}

// evaluated is what the last evaluation saw.
type evaluated struct {
	At       kemi.Millis `json:"at"`
	Code     string      `json:"code"`
	Reason   string      `json:"reason"`
	Policies []Advice    `json:"policies,omitempty"`
}

func newGroup(a *Autoscaler, project, name string) *group {
	return &group{a: a, key: groupKey{project, name}, wakes: make(chan struct{}, 1), tell: true}
}

func (g *group) forDriver() Group {
	return Group{Project: g.key.project, Name: g.key.name, Config: g.spec.Driver.Config}
}

func (g *group) driver() Driver { return g.a.o.Drivers[g.spec.Driver.Type] }

func (g *group) listensTo() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, p := range g.spec.Policies {
		if p.Alert != "" {
			names = append(names, p.Alert)
		}
	}
	return names
}

func (g *group) wakeUp() {
	select {
	case g.wakes <- struct{}{}:
	default:
	}
}

// start begins to evaluate. The caller holds a.mu.
func (g *group) start(ctx context.Context) {
	ctx, g.loopStop = context.WithCancel(ctx)
	done := make(chan struct{})
	g.loopDone = done
	go func() {
		defer close(done)
		g.run(ctx)
	}()
}

// stop ends the evaluations and waits for one under way.
func (g *group) stop() {
	g.a.mu.Lock()
	cancel, done := g.loopStop, g.loopDone
	g.loopStop = nil
	g.a.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

func (g *group) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-g.wakes:
		}
		timer.Reset(g.evaluate(ctx))
	}
}

// evaluate looks once, does what follows, and says when to look again.
func (g *group) evaluate(ctx context.Context) (next time.Duration) {
	g.mu.Lock()
	spec, revision := g.spec, g.revision
	g.mu.Unlock()
	next = time.Duration(spec.Interval)
	in := Input{Spec: spec, Readings: g.read(ctx, spec), Firing: map[string]bool{}}
	for _, p := range spec.Policies {
		if p.Type == StepOnAlert {
			in.Firing[p.Name] = g.a.alerts.firing(g.key.project, p.Alert, p.Labels)
		}
	}
	if ctx.Err() != nil {
		return next
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return next
	}
	if g.revision != revision {
		return 0 // the spec changed meanwhile: these readings may not be the right ones
	}
	g.finish(ctx)
	if err := g.look(ctx, &in); err != nil {
		g.trouble("driver", fmt.Errorf("list instances: %w", err))
		return next
	}
	now := g.a.o.Now()
	d, state := Decide(in, now)
	g.a.metrics.evaluations.WithLabelValues(d.Code).Inc()
	g.evaluation = &evaluated{At: kemi.MillisOf(now), Code: d.Code, Reason: d.Reason, Policies: d.Policies}
	if d.Record {
		if err := g.execute(ctx, d, state, now, "autoscale"); err != nil {
			g.trouble("store", err)
		}
		return next
	}
	g.state = state
	if now.Sub(g.saved) >= saveEvery {
		g.saveLocked(ctx)
	}
	if g.tell || in.Current != state.Desired {
		_ = g.scale(ctx) // what went wrong is told in the status
	} else {
		g.problem = ""
	}
	return next
}

// read asks the queries of the policies.
func (g *group) read(ctx context.Context, spec Spec) map[string]Reading {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	out := map[string]Reading{}
	for _, p := range spec.Policies {
		if p.Query == "" {
			continue
		}
		v, ok, err := g.a.o.Querier.Instant(ctx, identity(g.key), p.Query, g.a.o.Now())
		switch {
		case err != nil:
			g.a.metrics.failures.WithLabelValues("query").Inc()
			out[p.Name] = Reading{Problem: fmt.Sprintf("the query failed: %.300s", err.Error())}
		case !ok:
			out[p.Name] = Reading{Problem: "the query has no answer"}
		default:
			out[p.Name] = Reading{Value: v, Known: true}
		}
	}
	return out
}

// look counts the instances and adds the state.
func (g *group) look(ctx context.Context, in *Input) error {
	is, err := g.driver().Instances(ctx, g.forDriver())
	if err != nil {
		return err
	}
	in.State = g.state
	in.Current, in.Ready, in.Warming = count(is, g.spec.Warmup, kemi.MillisOf(g.a.o.Now()))
	g.a.metrics.instances.WithLabelValues(g.key.project, g.key.name).Set(float64(in.Current))
	g.a.metrics.desired.WithLabelValues(g.key.project, g.key.name).Set(float64(g.state.Desired))
	return nil
}

// execute stores a decision with the state that it leads to, carries it out, tells of it, and stores how it went. If it cannot be stored
// it is not carried out.
func (g *group) execute(ctx context.Context, d Decision, state State, now time.Time, by string) error {
	rec := g.a.decisions.record(g.key, d, now, by)
	status, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("state of group %s: %w", g.key.name, err)
	}
	if err := g.a.decisions.put(ctx, rec, store.Resource{Project: g.key.project, Kind: kindState, Name: g.key.name, Status: status, Revision: store.AnyRevision}); err != nil {
		return err
	}
	g.state, g.saved, g.last = state, now, rec
	g.a.metrics.decisions.WithLabelValues(d.Action).Inc()
	g.a.metrics.desired.WithLabelValues(g.key.project, g.key.name).Set(float64(state.Desired))
	if d.Action == Hold {
		g.a.o.Log.Info("group held", "project", g.key.project, "group", g.key.name, "size", d.To, "reason", d.Reason)
		if g.tell {
			_ = g.scale(ctx) // what went wrong is told in the status
		}
		return nil
	}
	g.a.o.Log.Info("group changes its size", "project", g.key.project, "group", g.key.name, "from", d.From, "to", d.To, "reason", d.Reason, "by", by)
	rec.Result = resultOK
	if err := g.scale(ctx); err != nil {
		rec.Result = fmt.Sprintf("failed, tried again with each evaluation: %.500s", err.Error())
	}
	g.unfinished = append(g.unfinished, rec)
	g.finish(context.WithoutCancel(ctx))
	return nil
}

// scale brings the pool to the size that it should have.
func (g *group) scale(ctx context.Context) error {
	err := g.driver().Scale(ctx, g.forDriver(), g.state.Desired)
	if err != nil {
		g.trouble("driver", fmt.Errorf("scale to %d: %w", g.state.Desired, err))
		return err
	}
	g.tell, g.problem = false, ""
	return nil
}

// trouble logs what failed, once until it changes.
func (g *group) trouble(what string, err error) {
	g.a.metrics.failures.WithLabelValues(what).Inc()
	if g.problem != err.Error() {
		g.problem = err.Error()
		g.a.o.Log.Error("group in trouble; tried again with each evaluation", "project", g.key.project, "group", g.key.name, "err", err)
	}
}

// finish tells of the decisions that have been carried out. What fails is tried again with the next evaluation.
func (g *group) finish(ctx context.Context) {
	for len(g.unfinished) > 0 {
		if err := g.a.decisions.finish(ctx, g.key.project, g.unfinished[0]); err != nil {
			g.trouble("event", err)
			return
		}
		g.unfinished = g.unfinished[1:]
	}
}

// save stores the state, if it may have changed since it was stored.
func (g *group) save(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone && g.state.Begun {
		g.saveLocked(ctx)
	}
}

func (g *group) saveLocked(ctx context.Context) {
	status, err := json.Marshal(g.state)
	if err == nil {
		_, err = g.a.o.Control.Put(ctx, store.Resource{Project: g.key.project, Kind: kindState, Name: g.key.name, Status: status, Revision: store.AnyRevision})
	}
	if err != nil && ctx.Err() == nil {
		g.trouble("store", fmt.Errorf("store the state: %w", err))
		return
	}
	g.saved = g.a.o.Now()
}

// setSize carries out what somebody asks for by hand.
func (g *group) setSize(ctx context.Context, n int, by string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return kemi.Errorf(kemi.ErrNotFound, "there is no group %q", g.key.name)
	}
	if n < g.spec.Min || n > g.spec.Max {
		return kemi.Errorf(kemi.ErrInvalid, "desired: %d is not from min, %d, to max, %d; change the group first", n, g.spec.Min, g.spec.Max)
	}
	in := Input{Spec: g.spec}
	if err := g.look(ctx, &in); err != nil {
		return fmt.Errorf("list instances of group %s: %w", g.key.name, err)
	}
	now := g.a.o.Now()
	d, state := SetSize(in, n, codeManual, fmt.Sprintf("%s asks for %d", by, n), now)
	return g.execute(ctx, d, state, now, by)
}
