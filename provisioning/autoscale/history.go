package autoscale

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// How many decisions are kept; the oldest go first.
const (
	keepOfGroup   = 500
	keepOfProject = 10_000
)

// EventScale is the kind of the events that tell of decisions that were carried out.
const EventScale = "scale"

// The results of a decision.
const (
	resultPending = "pending" // stored, not yet known to have been carried out
	resultOK      = "ok"
	resultLate    = "ok, after a restart in between"
	resultHeld    = "held"
)

// Record is a decision as it is kept.
type Record struct {
	ID    string      `json:"id"` // a ULID: in order of time
	At    kemi.Millis `json:"at"`
	Group string      `json:"group"`
	By    string      `json:"by"`
	Decision
	Result string `json:"result"`
}

type recordStatus struct {
	Result string `json:"result"`
}

// history keeps decisions in the control store.
type history struct {
	a       *Autoscaler
	entropy io.Reader

	mu    sync.Mutex
	names map[string][]recordRef // by project, oldest first

	// From load to Run:
	last        map[groupKey]*Record
	interrupted map[string][]*Record // by project
}

type recordRef struct{ name, group string }

func newHistory(a *Autoscaler) *history {
	return &history{
		a: a, entropy: &ulid.LockedMonotonicReader{MonotonicReader: ulid.Monotonic(rand.Reader, 0)}, names: map[string][]recordRef{},
		last: map[groupKey]*Record{}, interrupted: map[string][]*Record{},
	}
}

func readRecord(r store.Resource) (*Record, error) {
	rec := &Record{}
	var s recordStatus
	if err := errors.Join(json.Unmarshal(r.Spec, rec), json.Unmarshal(r.Status, &s)); err != nil {
		return nil, fmt.Errorf("decision %s of project %s: %w", r.Name, r.Project, err)
	}
	rec.Result = s.Result
	return rec, nil
}

func (h *history) load(ctx context.Context) error {
	rs, err := h.a.o.Control.List(ctx, "", kindDecision, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, r := range rs {
		rec, err := readRecord(r)
		if err != nil {
			return err
		}
		h.names[r.Project] = append(h.names[r.Project], recordRef{r.Name, rec.Group})
		if rec.Result == resultPending {
			rec.Result = resultLate
			h.interrupted[r.Project] = append(h.interrupted[r.Project], rec)
		}
		h.last[groupKey{r.Project, rec.Group}] = rec
	}
	return nil
}

// finishInterrupted tells of decisions that a crash cut short after they were stored. Their groups have the state that they led to, so
// the pools come to that size now.
func (h *history) finishInterrupted(ctx context.Context) {
	for project, rs := range h.interrupted {
		for _, rec := range rs {
			if err := h.finish(ctx, project, rec); err != nil {
				h.a.metrics.failures.WithLabelValues("event").Inc()
				h.a.o.Log.Error("interrupted decision not told; tried again at the next start", "id", rec.ID, "err", err)
			}
		}
	}
	h.interrupted = nil
}

func (h *history) record(k groupKey, d Decision, now time.Time, by string) *Record {
	rec := &Record{At: kemi.MillisOf(now), Group: k.name, By: by, Decision: d, Result: resultPending}
	if d.Action == Hold {
		rec.Result = resultHeld
	}
	ms := ulid.Timestamp(now)
	id, err := ulid.New(ms, h.entropy)
	if err != nil { // more in one millisecond than there are numbers
		id = ulid.MustNew(ms, rand.Reader)
	}
	rec.ID = id.String()
	return rec
}

func (h *history) resource(project string, rec *Record) (store.Resource, error) {
	spec, err1 := json.Marshal(rec)
	status, err2 := json.Marshal(recordStatus{Result: rec.Result})
	if err := errors.Join(err1, err2); err != nil {
		return store.Resource{}, fmt.Errorf("decision of group %s: %w", rec.Group, err)
	}
	return store.Resource{Project: project, Kind: kindDecision, Name: rec.ID, Spec: spec, Status: status, Revision: store.AnyRevision}, nil
}

// put stores a decision and the state that it leads to, and forgets the oldest if there are too many.
func (h *history) put(ctx context.Context, rec *Record, state store.Resource) error {
	r, err := h.resource(state.Project, rec)
	if err != nil {
		return err
	}
	if _, err := h.a.o.Control.PutAll(ctx, []store.Resource{state, r}); err != nil {
		return fmt.Errorf("store the decision: %w", err)
	}
	h.mu.Lock()
	refs := append(h.names[state.Project], recordRef{rec.ID, rec.Group})
	ofGroup := 0
	for _, ref := range refs {
		if ref.group == rec.Group {
			ofGroup++
		}
	}
	var forget []string
	refs = slices.DeleteFunc(refs, func(ref recordRef) bool {
		if ref.group == rec.Group && ofGroup > keepOfGroup {
			ofGroup--
			forget = append(forget, ref.name)
			return true
		}
		return false
	})
	if over := len(refs) - keepOfProject; over > 0 {
		for _, ref := range refs[:over] {
			forget = append(forget, ref.name)
		}
		refs = slices.Clone(refs[over:])
	}
	h.names[state.Project] = refs
	h.mu.Unlock()
	for _, name := range forget {
		if err := h.a.o.Control.Delete(ctx, state.Project, kindDecision, name, store.AnyRevision); err != nil && !errors.Is(err, kemi.ErrNotFound) {
			h.a.o.Log.Warn("old decision not deleted", "id", name, "err", err)
		}
	}
	return nil
}

// finish publishes the event of a decision that was carried out, and then stores its result. The event of a decision always has the
// same ID: published twice it is one.
func (h *history) finish(ctx context.Context, project string, rec *Record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("event of decision %s: %w", rec.ID, err)
	}
	e, err := codec.EncodeEvent(kemi.Event{
		ID: "scale-" + rec.ID, Project: project, Kind: EventScale, Subject: rec.Group, At: rec.At, Data: data,
		Tags: kemi.LabelsOf("group", rec.Group, "action", rec.Action, "from", strconv.Itoa(rec.From), "to", strconv.Itoa(rec.To)),
	})
	if err != nil {
		return fmt.Errorf("event of decision %s: %w", rec.ID, err)
	}
	if err := h.a.o.Bus.Publish(ctx, bus.Events, []bus.Record{e}); err != nil {
		return fmt.Errorf("publish decision %s: %w", rec.ID, err)
	}
	r, err := h.resource(project, rec)
	if err != nil {
		return err
	}
	if _, err := h.a.o.Control.Put(ctx, r); err != nil {
		return fmt.Errorf("store the result of decision %s: %w", rec.ID, err)
	}
	return nil
}

// list is the decisions of a project or one of its groups, newest first, after the one named after.
func (h *history) list(ctx context.Context, project, group, after string, limit int) (records []*Record, next string, err error) {
	records = []*Record{}
	for {
		const page = 500
		rs, err := h.a.o.Control.List(ctx, project, kindDecision, store.ListOptions{After: after, Limit: page, Reverse: true})
		if err != nil {
			return nil, "", err
		}
		for _, r := range rs {
			rec, err := readRecord(r)
			if err != nil {
				return nil, "", err
			}
			if group != "" && rec.Group != group {
				continue
			}
			if len(records) == limit {
				return records, records[limit-1].ID, nil
			}
			records = append(records, rec)
		}
		if len(rs) < page {
			return records, "", nil
		}
		after = rs[len(rs)-1].Name
	}
}
