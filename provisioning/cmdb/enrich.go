package cmdb

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"

	"kemi"
)

// index gives the labels of a host without a lock. It is split so that a change copies a small map only: ten thousand hosts that register one
// after another must not copy ten thousand entries each.
type index struct {
	parts [256]atomic.Pointer[map[hostKey]kemi.Labels]
	epoch atomic.Uint64
}

type hostKey struct{ project, host string }

var indexSeed = maphash.MakeSeed()

func (x *index) part(k hostKey) *atomic.Pointer[map[hostKey]kemi.Labels] {
	return &x.parts[maphash.Comparable(indexSeed, k)%256]
}

func (x *index) get(k hostKey) kemi.Labels {
	if m := x.part(k).Load(); m != nil {
		return (*m)[k]
	}
	return nil
}

// set changes the labels of a host; none takes it out. For one caller at a time.
func (x *index) set(project, host string, labels kemi.Labels) {
	k := hostKey{project, host}
	if slices.Equal(x.get(k), labels) {
		return
	}
	part := x.part(k)
	next := map[hostKey]kemi.Labels{}
	if old := part.Load(); old != nil {
		next = maps.Clone(*old)
	}
	if len(labels) == 0 {
		delete(next, k)
	} else {
		next[k] = labels
	}
	part.Store(&next)
	x.epoch.Add(1) // after the map: who sees the new epoch sees the new labels
}

// Enrich is as codec.Enricher has it. The labels must not be changed.
func (c *CMDB) Enrich(project, host string) kemi.Labels { return c.labels.get(hostKey{project, host}) }

// Epoch is as codec.Enricher has it.
func (c *CMDB) Epoch() uint64 { return c.labels.epoch.Load() }
