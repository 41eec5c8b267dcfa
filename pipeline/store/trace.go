package store

import (
	"context"
	"slices"
	"strings"
	"sync"

	"kemi"
)

// Trace collects what a store has answered from. A reader that wants to know puts one into the context of its call.
type Trace struct {
	mu    sync.Mutex
	views []View
	few   [2]View // as many as most questions need
}

// View is a view of a store that has answered: its name, and up to when it has what was recorded (0 = not known).
type View struct {
	Name string
	AsOf kemi.Millis
}

type traceKey struct{}

// WithTrace is ctx with a new Trace in it.
func WithTrace(ctx context.Context) (context.Context, *Trace) {
	t := new(Trace)
	t.views = t.few[:0]
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
	for i := range t.views {
		if v := &t.views[i]; v.Name == view {
			v.AsOf = max(v.AsOf, asOf)
			return
		}
	}
	t.views = append(t.views, View{view, max(0, asOf)})
}

// Views are the views that have answered: speed first, the others in the reverse order of their names.
func (t *Trace) Views() []View {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	views := slices.Clone(t.views)
	slices.SortFunc(views, func(a, b View) int { return strings.Compare(b.Name, a.Name) })
	return views
}
