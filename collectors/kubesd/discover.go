package kubesd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// finder finds the targets of one configuration.
type finder struct {
	conf       *Config
	client     dynamic.Interface
	namespaces []string
	log        *slog.Logger
	metrics    *metrics

	caches map[kind][]cache.SharedIndexInformer // one for each namespace, or one
	wake   chan struct{}

	mu    sync.Mutex
	dirty map[string]bool         // keys of objects of the role whose groups are to be made anew
	asked map[ask]map[string]bool // who has looked something up, by what
	asks  map[string]map[ask]bool // the same the other way round
	sent  map[string]bool         // keys whose groups have targets; Run's own
}

// ask is what one group looked up.
type ask struct {
	kind kind
	key  string
}

// NewDiscoverer makes the discoverer that upstream's manager runs.
func (c *Config) NewDiscoverer(o discovery.DiscovererOptions) (discovery.Discoverer, error) {
	m, ok := o.Metrics.(*metrics)
	if !ok {
		return nil, errors.New("kubernetes_sd_configs: metrics of another kind")
	}
	rc, namespaces, err := c.connect()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("kubernetes_sd_configs: %w", err)
	}
	return newFinder(c, client, namespaces, o.Logger, m), nil
}

func newFinder(c *Config, client dynamic.Interface, namespaces []string, log *slog.Logger, m *metrics) *finder {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &finder{
		conf: c, client: client, namespaces: namespaces, log: log.With("role", string(c.Role)), metrics: m,
		caches: map[kind][]cache.SharedIndexInformer{}, wake: make(chan struct{}, 1),
		dirty: map[string]bool{}, asked: map[ask]map[string]bool{}, asks: map[string]map[ask]bool{}, sent: map[string]bool{},
	}
}

// needs are the kinds of object to watch.
func (c *Config) needs() []kind {
	list := []kind{kindOf[c.Role]}
	add := func(is bool, k kind) {
		if is && !slices.Contains(list, k) {
			list = append(list, k)
		}
	}
	ofPods := c.Role == Pod || c.Role == Endpoints || c.Role == EndpointSlice
	add(c.Role == Endpoints || c.Role == EndpointSlice, services)
	add(ofPods, pods)
	add(ofPods && c.AttachMetadata.Node, nodes)
	add(ofPods && c.AttachMetadata.Deployment, replicaSets)
	add(ofPods && c.AttachMetadata.CronJob, jobs)
	add(c.Role != Node && c.AttachMetadata.Namespace, namespaces)
	return list
}

// Run watches until ctx ends, and sends groups whenever they change.
func (f *finder) Run(ctx context.Context, ch chan<- []*targetgroup.Group) {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	var synced []cache.InformerSynced
	for _, k := range f.conf.needs() {
		in := f.namespaces
		if kinds[k].global {
			in = []string{""}
		}
		for _, ns := range in {
			inf, err := f.watch(k, ns)
			if err != nil {
				f.log.Error("cannot watch", "kind", string(k), "err", err)
				return
			}
			f.caches[k] = append(f.caches[k], inf)
			synced = append(synced, inf.HasSynced)
		}
	}
	for _, list := range f.caches {
		for _, inf := range list {
			watchers.Go(func() { inf.RunWithContext(ctx) })
		}
	}
	// Groups that lack what others will tell a moment later are not sent.
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if !slices.ContainsFunc(synced, func(done cache.InformerSynced) bool { return !done() }) {
			tick.Stop()
			break
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
	for {
		if groups := f.changed(); len(groups) > 0 {
			select {
			case ch <- groups:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
	}
}

// watch makes the cache of a kind in a namespace, or in all.
func (f *finder) watch(k kind, namespace string) (cache.SharedIndexInformer, error) {
	var client dynamic.ResourceInterface = f.client.Resource(k.resource())
	if namespace != "" {
		client = f.client.Resource(k.resource()).Namespace(namespace)
	}
	narrow := func(o metav1.ListOptions) metav1.ListOptions {
		for _, s := range f.conf.Selectors {
			if kindOf[s.Role] == k {
				o.LabelSelector, o.FieldSelector = s.Label, s.Field
			}
		}
		return o
	}
	inf := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := client.List(ctx, narrow(o))
			return list, f.failed(k, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := client.Watch(ctx, narrow(o))
			return w, f.failed(k, err)
		},
	}, &unstructured.Unstructured{}, 0, cache.Indexers{})
	if err := inf.SetTransform(k.keep); err != nil {
		return nil, err
	}
	if err := inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		if ctx.Err() == nil {
			f.log.Warn("cannot list or watch; it is tried again", "kind", string(k), "namespace", namespace, "err", err)
		}
	}); err != nil {
		return nil, err
	}
	own := k == kindOf[f.conf.Role]
	note := func(event string, o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if m, ok := o.(metav1.Object); ok {
			f.note(k, keyOf(m), own)
			if own {
				f.metrics.events.WithLabelValues(string(f.conf.Role), event).Inc()
			}
		}
	}
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { note("add", o) },
		UpdateFunc: func(_, o any) { note("update", o) },
		DeleteFunc: func(o any) { note("delete", o) },
	})
	return inf, err
}

func (f *finder) failed(k kind, err error) error {
	if err != nil {
		f.metrics.failures.Inc()
		return fmt.Errorf("%s: %w", k, err)
	}
	return nil
}

// note marks the groups that a change concerns.
func (f *finder) note(k kind, key string, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if own {
		f.dirty[key] = true
	}
	for who := range f.asked[ask{k, key}] {
		f.dirty[who] = true
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// changed makes the groups that are marked, in order of their keys.
func (f *finder) changed() []*targetgroup.Group {
	f.mu.Lock()
	keys := slices.Sorted(maps.Keys(f.dirty))
	clear(f.dirty)
	f.mu.Unlock()
	var groups []*targetgroup.Group
	for _, key := range keys {
		f.forget(key)
		g := &targetgroup.Group{Source: sources[f.conf.Role] + key}
		if o := f.find(kindOf[f.conf.Role], key); o != nil {
			g = build{attach: f.conf.AttachMetadata, get: func(k kind, other string) metav1.Object {
				// Remembered before it is looked up: a change meanwhile marks the group again.
				f.remember(key, ask{k, other})
				return f.find(k, other)
			}}.group(o, g.Source)
		}
		if len(g.Targets) == 0 && !f.sent[key] {
			continue // nobody has heard of it
		}
		if f.sent[key] = true; len(g.Targets) == 0 {
			delete(f.sent, key)
		}
		groups = append(groups, g)
	}
	return groups
}

// sources begin the names of groups.
var sources = map[Role]string{Node: "node/", Pod: "pod/", Service: "svc/", Endpoints: "endpoints/", EndpointSlice: "endpointslice/", Ingress: "ingress/"}

// find is the object of that key, or nil.
func (f *finder) find(k kind, key string) metav1.Object {
	for _, inf := range f.caches[k] {
		if o, ok, err := inf.GetStore().GetByKey(key); err == nil && ok {
			if m, ok := o.(metav1.Object); ok {
				return m
			}
		}
	}
	return nil
}

func (f *finder) remember(who string, a ask) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked[a] == nil {
		f.asked[a] = map[string]bool{}
	}
	if f.asks[who] == nil {
		f.asks[who] = map[ask]bool{}
	}
	f.asked[a][who], f.asks[who][a] = true, true
}

func (f *finder) forget(who string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for a := range f.asks[who] {
		if delete(f.asked[a], who); len(f.asked[a]) == 0 {
			delete(f.asked, a)
		}
	}
	delete(f.asks, who)
}
