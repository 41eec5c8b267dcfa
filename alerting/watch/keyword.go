package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/alerting/eval"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

const (
	keywordGroup = "alerting"
	// tickEvery is how often windows move on when no record comes.
	tickEvery = time.Second
	// lateBy is how much older than the widest window the position is that a restart begins at, for records that come late.
	lateBy = time.Minute
)

// keywords counts the stream of logs for all keyword rules. Its own position on the bus trails by the widest window, so that a
// restart counts the whole window again.
type keywords struct {
	w       *Watcher
	matched prometheus.Counter
	folded  prometheus.Gauge

	mu    sync.Mutex
	rules map[string][]*counter // by project

	// Of run alone:
	reader  bus.Reader
	live    bool // what was on the bus at the start has been counted: from here on changes are told
	began   kemi.Millis
	applied bus.Positions
	trail   []checkpoint
	looked  kemi.Millis   // when the last time was that commit looked
	told    bus.Positions // what the bus has been told
}

type checkpoint struct {
	at        kemi.Millis
	positions bus.Positions
}

// counter is a rule and its state.
type counter struct {
	*compiled
	t      *tenant
	state  *eval.State
	firing map[string]*raised
}

type raised struct {
	change eval.Change
	said   time.Time
}

func newKeywords(w *Watcher) *keywords {
	k := &keywords{
		w: w, rules: map[string][]*counter{}, applied: bus.Positions{}, began: kemi.MillisOf(w.o.Now()),
		matched: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_alerting_keyword_matches_total", Help: "Log records that a keyword rule counted."}),
		folded:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_alerting_keyword_folded_records", Help: "Records counted without labels because a rule had too many groups."}),
	}
	w.o.Registry.MustRegister(k.matched, k.folded)
	return k
}

// set makes rs the keyword rules of a project. Those that did not change go on counting; alerts of those that are gone end.
func (k *keywords) set(t *tenant, rs []*compiled) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := map[string]*counter{}
	for _, c := range k.rules[t.project] {
		old[c.name] = c
	}
	var out []*counter
	for _, r := range rs {
		if c := old[r.name]; c != nil && reflect.DeepEqual(c.source, r.source) {
			out = append(out, c)
			delete(old, r.name)
			continue
		}
		out = append(out, &counter{compiled: r, t: t, state: eval.New(r.rule), firing: map[string]*raised{}})
	}
	for _, c := range old {
		for _, f := range c.firing {
			k.tell(c, f.change, false)
		}
	}
	k.rules[t.project] = out
}

// run counts until ctx ends.
func (k *keywords) run(ctx context.Context) error {
	var err error
	if k.reader, err = k.w.o.Bus.Subscribe(ctx, bus.Logs, keywordGroup, nil); err != nil {
		return fmt.Errorf("follow logs for keyword rules: %w", err)
	}
	defer k.reader.Close()
	for {
		next, cancel := context.WithTimeout(ctx, tickEvery)
		b, err := k.reader.Next(next)
		cancel()
		switch {
		case ctx.Err() != nil || errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			now := kemi.MillisOf(k.w.o.Now())
			k.tick(now, true)
			k.commit(ctx, now)
			continue
		case err != nil:
			return fmt.Errorf("follow logs for keyword rules: %w", err)
		}
		k.observe(b)
		k.applied[b.Partition] = b.Next()
		at := b.Records[len(b.Records)-1].At
		k.tick(at, at >= k.began)
		k.commit(ctx, at)
	}
}

// observe counts the records of a batch.
func (k *keywords) observe(b bus.Batch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range b.Records {
		r := &b.Records[i]
		rules := k.rules[r.Header(codec.HeaderProject)]
		if len(rules) == 0 {
			continue
		}
		records, err := codec.DecodeLogs(r)
		if err != nil {
			k.w.o.Log.Error("record not counted by keyword rules", "partition", r.Partition, "offset", r.Offset, "err", err)
			continue
		}
		for j := range records {
			k.count(rules, &records[j], r.At)
		}
	}
}

func (k *keywords) count(rules []*counter, l *kemi.LogRecord, published kemi.Millis) {
	// A sender whose clock is ahead must not move everybody's windows.
	at := min(l.At.Millis(), published)
	field := func(name string) string { return fieldOf(l, name) }
	for _, c := range rules {
		if !c.expr.Match(l) {
			continue
		}
		k.matched.Inc()
		for _, ch := range c.state.Observe(at, field) {
			k.change(c, ch)
		}
	}
}

// fieldOf is a record's field as the query language names them.
func fieldOf(l *kemi.LogRecord, name string) string {
	switch name {
	case "level":
		return l.Severity.String()
	case "trace_id":
		return l.TraceID
	case "span_id":
		return l.SpanID
	}
	if v := l.Stream.Get(name); v != "" {
		return v
	}
	return l.Attrs.Get(name)
}

// change remembers a change and, once live, tells it.
func (k *keywords) change(c *counter, ch eval.Change) {
	key := ch.Labels.String()
	if ch.Firing {
		c.firing[key] = &raised{change: ch}
	} else {
		delete(c.firing, key)
	}
	if k.live {
		k.tell(c, ch, ch.Firing)
	}
}

// tick moves all windows on to now, and says again what still fires. live says that now is the present: what came before the start has
// been counted.
func (k *keywords) tick(now kemi.Millis, live bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var folded int64
	k.live = k.live || live
	for _, rules := range k.rules {
		for _, c := range rules {
			for _, ch := range c.state.Tick(now) {
				k.change(c, ch)
			}
			folded += c.state.Folded()
			if !k.live {
				continue
			}
			for _, f := range c.firing {
				if k.w.o.Now().Sub(f.said) >= resendAfter {
					k.tell(c, f.change, true)
				}
			}
		}
	}
	k.folded.Set(float64(folded))
}

// tell raises or ends an alert; what fails is said again with the next tick.
func (k *keywords) tell(c *counter, ch eval.Change, firing bool) {
	labels, annotations := c.alertOf(ch)
	now := k.w.o.Now()
	err := c.t.raise(k.w.running, labels, annotations, ch.At.Time(), now, firing)
	if err != nil {
		k.w.o.Log.Error("alert not raised", "rule", c.name, "project", c.t.project, "err", err)
		return
	}
	if f := c.firing[ch.Labels.String()]; f != nil && firing {
		f.said = now
	}
}

// commitEvery is how often commit looks, at most: to tell the bus costs a sync.
const commitEvery = 1000 // milliseconds

// commit tells the bus the newest position from which every window could be counted again. It is called with each batch and, so that the bus need not keep
// the last ones for ever, with each tick.
func (k *keywords) commit(ctx context.Context, at kemi.Millis) {
	if d := at - k.looked; d >= 0 && d < commitEvery {
		return
	}
	k.looked = at
	newest := k.told
	if n := len(k.trail); n > 0 {
		newest = k.trail[n-1].positions
	}
	if !maps.Equal(newest, k.applied) {
		k.trail = append(k.trail, checkpoint{at: at, positions: maps.Clone(k.applied)})
	}
	oldest := at - kemi.Millis(k.widest().Milliseconds())
	last := -1
	for i, c := range k.trail {
		if c.at > oldest {
			break
		}
		last = i
	}
	if last < 0 {
		return
	}
	k.trail = append(k.trail[:0], k.trail[last:]...)
	if err := k.reader.Commit(ctx, k.trail[0].positions); err != nil {
		if ctx.Err() == nil {
			k.w.o.Log.Warn("position of keyword rules not committed; retention waits", "err", err)
		}
		return
	}
	k.told = k.trail[0].positions
	k.trail = append(k.trail[:0], k.trail[1:]...)
}

func (k *keywords) widest() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	var d time.Duration
	for _, rules := range k.rules {
		for _, c := range rules {
			d = max(d, c.rule.Window+lateBy)
		}
	}
	return d
}
