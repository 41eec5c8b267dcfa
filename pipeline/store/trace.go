package store

import (
	"context"
	"slices"
	"sync"

	"kemi"
)

// Trace collects what a store has answered from. A reader that wants to know puts one into the context of its call.
type Trace struct {
	mu    sync.Mutex
	views map[string]kemi.Millis
}

type traceKey struct{}

// WithTrace is ctx with a new Trace in it.
func WithTrace(ctx context.Context) (context.Context, *Trace) {
	t := &Trace{views: map[string]kemi.Millis{}}
	return context.WithValue(ctx, traceKey{}, t), t
}

// TraceOf is the Trace in ctx, or nil, which can be used, too.
func TraceOf(ctx context.Context) *Trace {
	t, _ := ctx.Value(traceKey{}).(*Trace)
	return t
}

// Note says that a view has answered: speed (the live store), batch (raw samples that are settled), batch:5m (a rollup). asOf is up to when the view
// has what was recorded; 0 = not known.
func (t *Trace) Note(view string, asOf kemi.Millis) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.views[view] = max(t.views[view], asOf)
}

// Views are the names of the views that have answered, sorted, each with its asOf.
func (t *Trace) Views() (names []string, asOf map[string]kemi.Millis) {
	if t == nil {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	asOf = make(map[string]kemi.Millis, len(t.views))
	for v, at := range t.views {
		names = append(names, v)
		asOf[v] = at
	}
	slices.Sort(names)
	slices.Reverse(names) // speed first
	return names, asOf
}
