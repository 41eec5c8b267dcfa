package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/common/model"

	"kemi/pipeline/store"
)

// kept is an alert in the control store. EndsAt of one that is not over is only until when it was last said to fire.
type kept struct {
	Alert model.Alert `json:"alert"`
	Over  bool        `json:"over"`
}

// sweepEvery is how soon an alert that nobody raises any more is noticed to be over.
const sweepEvery = 5 * time.Second

// restoreAlerts brings back the alerts that fired before the restart. Whoever raised them raises them again or they end by themselves;
// either way their receivers hear of it.
func (m *Manager) restoreAlerts(ctx context.Context) error {
	rs, err := m.o.Control.List(ctx, m.o.Project, kindAlert, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("restore alerts: %w", err)
	}
	now := m.o.Now()
	for _, r := range rs {
		var k kept
		if err := json.Unmarshal(r.Spec, &k); err != nil {
			return fmt.Errorf("restore alert %s: %w", r.Name, err)
		}
		if k.Over && now.Sub(k.Alert.EndsAt) > retention {
			if err := m.o.Control.Delete(ctx, r.Project, r.Kind, r.Name, r.Revision); err != nil {
				return fmt.Errorf("forget alert %s: %w", r.Name, err)
			}
			continue
		}
		// One that is over is put back as well, in case its receivers were not told before the crash: the notification log knows.
		a := &alert.Alert{Alert: k.Alert, UpdatedAt: now}
		if !k.Over {
			a.EndsAt, a.Timeout = now.Add(restoreFor), true
		}
		if err := m.alerts.Put(ctx, a); err != nil {
			return fmt.Errorf("restore alert %s: %w", r.Name, err)
		}
	}
	return nil
}

// follow keeps each alert that begins or ends and tells Changed of it. What it cannot keep or tell it tries again with the next sweep.
func (m *Manager) follow(ctx context.Context) {
	firing := map[model.Fingerprint]*alert.Alert{}
	it := m.alerts.Subscribe("follow")
	defer it.Close()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	note := func(a *alert.Alert) {
		fp, over := a.Fingerprint(), a.Resolved()
		old, known := firing[fp]
		if over == !known && (over || old.StartsAt.Equal(a.StartsAt)) {
			return
		}
		if err := m.changed(ctx, a, !over); err != nil {
			if ctx.Err() == nil {
				m.o.Log.Error("alert's change not told; trying again", "alert", a.Name(), "err", err)
			}
			return
		}
		if over {
			delete(firing, fp)
		} else {
			firing[fp] = a
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case next, ok := <-it.Next():
			if !ok {
				return
			}
			note(next.Data)
		case <-sweep.C:
			for fp, last := range firing {
				a, err := m.alerts.Get(fp)
				if err != nil { // forgotten, so it was over
					over := *last
					over.EndsAt = m.o.Now()
					a = &over
				}
				note(a)
			}
			pending := m.alerts.GetPending()
			for next := range pending.Next() {
				note(next.Data)
			}
			pending.Close()
		}
	}
}

func (m *Manager) changed(ctx context.Context, a *alert.Alert, firing bool) error {
	spec, err := json.Marshal(kept{Alert: a.Alert, Over: !firing})
	if err != nil {
		return fmt.Errorf("keep alert %s: %w", a.Name(), err)
	}
	r := store.Resource{Project: m.o.Project, Kind: kindAlert, Name: a.Fingerprint().String(), Spec: spec, Revision: store.AnyRevision}
	if _, err := m.o.Control.Put(ctx, r); err != nil {
		return fmt.Errorf("keep alert %s: %w", a.Name(), err)
	}
	return m.o.Changed(ctx, a, firing)
}

// Active is an alert that fires now.
type Active struct {
	Labels      model.LabelSet `json:"labels"`
	Annotations model.LabelSet `json:"annotations,omitempty"`
	StartsAt    time.Time      `json:"startsAt"`
	Silenced    bool           `json:"silenced"`
	Inhibited   bool           `json:"inhibited"`
	Fingerprint string         `json:"fingerprint"`
}

// Active are the alerts that fire now, the longest first.
func (m *Manager) Active(ctx context.Context) []Active {
	out := []Active{}
	it := m.alerts.GetPending()
	defer it.Close()
	for next := range it.Next() {
		a := next.Data
		if a.Resolved() {
			continue
		}
		out = append(out, Active{
			Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.StartsAt, Fingerprint: a.Fingerprint().String(),
			Silenced: m.silencer.Mutes(ctx, a.Labels), Inhibited: m.inhibitor.Load().Mutes(ctx, a.Labels),
		})
	}
	slices.SortFunc(out, func(a, b Active) int {
		if c := a.StartsAt.Compare(b.StartsAt); c != 0 {
			return c
		}
		return strings.Compare(a.Fingerprint, b.Fingerprint)
	})
	return out
}
