package autoscale

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

const (
	consumerGroup = "autoscale"
	eventAlert    = "alert"
	maxAlerts     = 10_000 // of a project
	retryAfter    = time.Second
)

// alerts is which alerts fire, as the events on the log of record say. It is kept in the control store, so that a group sees an
// alert that began before it was made, or before the last restart.
type alerts struct {
	a  *Autoscaler
	mu sync.RWMutex
	by map[alertKey]map[string]kemi.Labels // name of the resource → labels
	n  map[string]int                      // by project
}

type alertKey struct{ project, name string }

type storedAlert struct {
	Alert  string      `json:"alert"`
	Labels kemi.Labels `json:"labels"`
	Since  kemi.Millis `json:"since"`
}

func newAlerts(a *Autoscaler) *alerts {
	return &alerts{a: a, by: map[alertKey]map[string]kemi.Labels{}, n: map[string]int{}}
}

func (s *alerts) load(ctx context.Context) error {
	rs, err := s.a.o.Control.List(ctx, "", kindAlert, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, r := range rs {
		var a storedAlert
		if err := json.Unmarshal(r.Spec, &a); err != nil {
			return fmt.Errorf("alert %s of project %s: %w", r.Name, r.Project, err)
		}
		s.set(alertKey{r.Project, a.Alert}, r.Name, a.Labels)
	}
	return nil
}

func (s *alerts) set(k alertKey, name string, labels kemi.Labels) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[k] == nil {
		s.by[k] = map[string]kemi.Labels{}
	}
	s.by[k][name] = labels
	s.n[k.project]++
}

func (s *alerts) remove(k alertKey, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by[k], name)
	if len(s.by[k]) == 0 {
		delete(s.by, k)
	}
	if s.n[k.project]--; s.n[k.project] == 0 {
		delete(s.n, k.project)
	}
}

func (s *alerts) count() float64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := 0
	for _, m := range s.n {
		n += m
	}
	return float64(n)
}

// firing tells whether an alert of that name fires whose labels include match.
func (s *alerts) firing(project, name string, match map[string]string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, labels := range s.by[alertKey{project, name}] {
		all := true
		for k, v := range match {
			all = all && labels.Get(k) == v
		}
		if all {
			return true
		}
	}
	return false
}

// follow reads the events until ctx ends. It commits what it has stored; read again after a crash, an event changes nothing.
func (s *alerts) follow(ctx context.Context) error {
	rd, err := s.a.o.Bus.Subscribe(ctx, bus.Events, consumerGroup, nil)
	if err != nil {
		return fmt.Errorf("follow alert events: %w", err)
	}
	defer rd.Close()
	for {
		b, err := rd.Next(ctx)
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("follow alert events: %w", err)
		}
		changed := map[alertKey]bool{}
		for i := range b.Records {
			for {
				err := s.apply(ctx, &b.Records[i], changed)
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					return nil
				}
				s.a.metrics.failures.WithLabelValues("store").Inc()
				s.a.o.Log.Error("alert event not stored; trying again", "offset", b.Records[i].Offset, "err", err)
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(retryAfter):
				}
			}
		}
		if len(changed) > 0 {
			s.a.wake(changed)
		}
		if err := rd.Commit(ctx, bus.Positions{b.Partition: b.Next()}); err != nil && ctx.Err() == nil {
			s.a.o.Log.Warn("position in the events not committed; they are read again after a restart", "err", err)
		}
	}
}

func (s *alerts) apply(ctx context.Context, r *bus.Record, changed map[alertKey]bool) error {
	e, err := codec.DecodeEvent(r)
	if err != nil {
		s.a.o.Log.Error("event passed over", "err", err)
		return nil
	}
	if e.Kind != eventAlert || e.Subject == "" || e.Project == "" {
		return nil
	}
	k, name := alertKey{e.Project, e.Subject}, digest(e.Subject, e.Tags.String())
	s.mu.RLock()
	_, known := s.by[k][name]
	n := s.n[k.project]
	s.mu.RUnlock()
	switch {
	case e.Firing == known:
		return nil
	case !e.Firing:
		if err := s.a.o.Control.Delete(ctx, e.Project, kindAlert, name, store.AnyRevision); err != nil && !errors.Is(err, kemi.ErrNotFound) {
			return err
		}
		s.remove(k, name)
	case n >= maxAlerts:
		s.a.metrics.dropped.Inc()
		return nil
	default:
		spec, err := json.Marshal(storedAlert{Alert: e.Subject, Labels: e.Tags, Since: e.At})
		if err != nil {
			return err
		}
		if _, err := s.a.o.Control.Put(ctx, store.Resource{Project: e.Project, Kind: kindAlert, Name: name, Spec: spec, Revision: store.AnyRevision}); err != nil {
			return err
		}
		s.set(k, name, e.Tags)
	}
	changed[k] = true
	return nil
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:20])
}
