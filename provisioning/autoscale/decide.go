package autoscale

import (
	"fmt"
	"math"
	"strings"
	"time"

	"kemi"
)

// Input is all that a decision depends on, beside the time.
type Input struct {
	Spec  Spec
	State State
	// Current are the instances that there are, without those that stop. Ready are those of them that run for at least the
	// warm-up, Warming those that run for less.
	Current, Ready, Warming int
	Readings                map[string]Reading // of policies with a query, by their name
	Firing                  map[string]bool    // of policies with an alert, by their name
}

// Reading is the answer of a policy's query. Without Known it is missing, and Problem says why.
type Reading struct {
	Value   float64
	Known   bool
	Problem string
}

// State is what a group remembers from one evaluation to the next.
type State struct {
	// Begun is false until the first decision.
	Begun   bool `json:"begun"`
	Desired int  `json:"desired"`
	// LastOut and LastIn are when the size last grew and shrank.
	LastOut kemi.Millis `json:"lastOut,omitempty"`
	LastIn  kemi.Millis `json:"lastIn,omitempty"`
	// Out and In are the sizes that policies asked for within the stabilization windows, oldest first.
	Out []Wish `json:"out,omitempty"`
	In  []Wish `json:"in,omitempty"`
	// Steps are by the name of the policy.
	Steps map[string]StepState `json:"steps,omitempty"`
	// Held says what stood in the way at the last evaluation; a record is made when it changes.
	Held string `json:"held,omitempty"`
	// SpecDesired is the size in the spec that has been followed, so that a new one is noticed.
	SpecDesired *int `json:"specDesired,omitempty"`
}

// Wish is the size that was asked for in a stretch of time: the least of those for growing, the largest of those for shrinking.
type Wish struct {
	From kemi.Millis `json:"from"`
	To   kemi.Millis `json:"to"`
	Size int         `json:"size"`
}

// StepState is a step policy's.
type StepState struct {
	Firing bool        `json:"firing"`
	Base   int         `json:"base"`            // while it fires: the size that it began with
	Goal   int         `json:"goal"`            // and the size that the step leads to
	At     kemi.Millis `json:"at,omitempty"`    // when Goal was set
	Added  int         `json:"added,omitempty"` // what the steps of this firing added
	Due    int         `json:"due,omitempty"`   // after it: what is to be taken away
}

// The actions of a decision.
const (
	ScaleOut = "scaleOut"
	ScaleIn  = "scaleIn"
	Hold     = "hold"
)

// What can stand in the way (Decision.Code of a Hold), and what a change was for.
const (
	codeSteady        = "steady"
	codePolicy        = "policy"
	codeBounds        = "bounds"
	codeBegin         = "begin"
	codeSpec          = "spec"
	codeManual        = "manual"
	codeDeleted       = "deleted"
	codeFrozen        = "frozen"
	codeNoData        = "noData"
	codeMax           = "max"
	codeCooldown      = "cooldown"
	codeStabilization = "stabilization"
	codeWarmup        = "warmup"
)

// Decision is what an evaluation came to.
type Decision struct {
	Action   string   `json:"action"` // scaleOut, scaleIn, hold
	Code     string   `json:"code"`   // what for, or what stood in the way
	From     int      `json:"from"`
	To       int      `json:"to"`
	Wanted   int      `json:"wanted"` // what the policies ask for, before limits of time and step
	Reason   string   `json:"reason"`
	Current  int      `json:"current"`
	Ready    int      `json:"ready"`
	Policies []Advice `json:"policies,omitempty"`
	// Record: it changes something, or something else than before stands in the way.
	Record bool `json:"-"`
}

// Advice is what one policy said.
type Advice struct {
	Policy string   `json:"policy"`
	Query  string   `json:"query,omitempty"`
	Value  *float64 `json:"value,omitempty"`
	Target float64  `json:"target,omitempty"`
	Alert  string   `json:"alert,omitempty"`
	Firing *bool    `json:"firing,omitempty"`
	Wants  *int     `json:"wants,omitempty"` // nil: no advice, or none for want of data
	Note   string   `json:"note"`

	missing bool // it cannot tell: the pool must not shrink
}

// Decide says what size the group should have now, why, and what to remember. It is a pure function of its arguments.
func Decide(in Input, now time.Time) (Decision, State) {
	e := evaluation{in: in, spec: in.Spec, now: kemi.MillisOf(now), s: in.State.copy()}
	d := e.decide()
	d.From, d.Current, d.Ready, d.Policies = in.State.Desired, in.Current, in.Ready, e.advice
	if !in.State.Begun {
		d.From = in.Current
	}
	switch {
	case d.To > d.From:
		d.Action = ScaleOut
	case d.To < d.From:
		d.Action = ScaleIn
	default:
		d.Action = Hold
	}
	d.Record = d.Action != Hold
	held := ""
	if d.Action == Hold && d.Code != codeSteady {
		held = e.held(d)
		d.Record = held != in.State.Held
	}
	e.s.Held = held
	e.moved(d)
	return d, e.s
}

// SetSize is the decision to have a size because somebody said so. It starts the cooldowns, and what policies asked for before counts no more.
func SetSize(in Input, size int, code, reason string, now time.Time) (Decision, State) {
	e := evaluation{in: in, spec: in.Spec, now: kemi.MillisOf(now), s: in.State.copy()}
	d := Decision{Action: Hold, Code: code, From: in.State.Desired, To: size, Wanted: size, Reason: reason, Current: in.Current, Ready: in.Ready, Record: true}
	if !in.State.Begun {
		d.From = in.Current
	}
	switch {
	case d.To > d.From:
		d.Action = ScaleOut
	case d.To < d.From:
		d.Action = ScaleIn
	}
	e.s.Begun, e.s.Out, e.s.In, e.s.Held, e.s.LastOut, e.s.LastIn = true, nil, nil, "", e.now, e.now
	e.s.Desired, e.s.SpecDesired = size, in.Spec.Desired
	for name, st := range e.s.Steps {
		st.Base, st.Goal, st.Added, st.Due = size, size, 0, 0
		e.s.Steps[name] = st
	}
	return d, e.s
}

func (s State) copy() State {
	s.Out, s.In = append([]Wish(nil), s.Out...), append([]Wish(nil), s.In...)
	steps := make(map[string]StepState, len(s.Steps))
	for k, v := range s.Steps {
		steps[k] = v
	}
	s.Steps = steps
	return s
}

// evaluation is one run of Decide.
type evaluation struct {
	in     Input
	spec   Spec
	now    kemi.Millis
	s      State
	advice []Advice
}

func (e *evaluation) decide() Decision {
	if !e.s.Begun {
		to := clamp(max(e.in.Current, e.spec.Min), e.spec)
		reason := fmt.Sprintf("the group begins with its least size, %d", to)
		if e.spec.Desired != nil {
			to = *e.spec.Desired
			reason = fmt.Sprintf("the group begins with the size in its spec, %d", to)
		} else if e.in.Current > e.spec.Min {
			reason = fmt.Sprintf("the group begins with the %d instances that there are", e.in.Current)
		}
		e.s.Begun, e.s.SpecDesired = true, e.spec.Desired
		return Decision{Code: codeBegin, To: to, Wanted: to, Reason: reason}
	}
	if e.spec.Desired != nil && (e.s.SpecDesired == nil || *e.s.SpecDesired != *e.spec.Desired) {
		e.s.SpecDesired = e.spec.Desired
		return Decision{Code: codeSpec, To: *e.spec.Desired, Wanted: *e.spec.Desired, Reason: fmt.Sprintf("the spec asks for %d", *e.spec.Desired)}
	}
	e.s.SpecDesired = e.spec.Desired
	if to := clamp(e.s.Desired, e.spec); to != e.s.Desired {
		bound := "at least"
		if to < e.s.Desired {
			bound = "at most"
		}
		return Decision{Code: codeBounds, To: to, Wanted: to, Reason: fmt.Sprintf("the size must be %s %d", bound, to)}
	}
	return e.follow()
}

// follow asks the policies and then goes through all that may stand in the way.
func (e *evaluation) follow() Decision {
	size := e.s.Desired
	wish, why, missing := e.wish()
	wanted := clamp(wish, e.spec)
	stay := func(code, format string, args ...any) Decision {
		return Decision{Code: code, To: size, Wanted: wanted, Reason: fmt.Sprintf(format, args...)}
	}
	if missing != "" && wanted <= size {
		// Nor does a size count as asked for that was asked for without all data.
		return stay(codeNoData, "held: %s; without data the pool does not shrink", missing)
	}
	least, most := e.remember(wanted)
	switch {
	case wanted == size && wish > size:
		return stay(codeMax, "held at the largest size, %d: %s", size, why)
	case wanted == size:
		return stay(codeSteady, "%s", why)
	case e.spec.Frozen:
		return stay(codeFrozen, "held, the group is frozen: %s", why)
	}
	var to int
	if wanted > size {
		if least <= size {
			return stay(codeStabilization, "held for the stabilization window of %s: %s", time.Duration(e.spec.Stabilization.Out), why)
		}
		to = least
		if left := e.left(e.s.LastOut, e.spec.Cooldown.Out); left > 0 {
			return stay(codeCooldown, "held, %s of the cooldown after the last growth are left: %s", left, why)
		}
		step := e.spec.MaxStep.Out
		if step == 0 {
			step = max(4, size)
		}
		if to-size > step {
			to = size + step
			why += fmt.Sprintf("; at most %d at a time", step)
		}
		return Decision{Code: codePolicy, To: to, Wanted: wanted, Reason: why}
	}
	if e.in.Warming > 0 {
		return stay(codeWarmup, "held, %d of %d instances are warming up: %s", e.in.Warming, e.in.Current, why)
	}
	if most >= size {
		return stay(codeStabilization, "held for the stabilization window of %s: %s", time.Duration(e.spec.Stabilization.In), why)
	}
	to = most
	if left := e.left(max(e.s.LastOut, e.s.LastIn), e.spec.Cooldown.In); left > 0 {
		return stay(codeCooldown, "held, %s of the cooldown after the last change are left: %s", left, why)
	}
	if step := e.spec.MaxStep.In; step > 0 && size-to > step {
		to = size - step
		why += fmt.Sprintf("; at most %d at a time", step)
	}
	return Decision{Code: codePolicy, To: to, Wanted: wanted, Reason: why}
}

// wish is the size that the policies ask for together, the sentence that says why, and whose data are missing.
func (e *evaluation) wish() (wish int, why, missing string) {
	size := e.s.Desired
	tracking := false
	for _, p := range e.spec.Policies {
		tracking = tracking || p.Type == TargetTracking
	}
	wish = -1
	var down, lacking []string
	due := 0
	for _, p := range e.spec.Policies {
		var a Advice
		if p.Type == TargetTracking {
			a = e.track(p)
		} else {
			a = e.step(p, tracking)
			if n := e.s.Steps[p.Name].Due; n > 0 {
				due += n
				down = append(down, a.Note)
			}
		}
		e.advice = append(e.advice, a)
		if a.missing {
			lacking = append(lacking, a.Policy+": "+a.Note)
		}
		if a.Wants != nil && *a.Wants > wish {
			wish, why = *a.Wants, a.Policy+": "+a.Note
		}
	}
	switch {
	case wish < 0 && due > 0:
		wish, why = max(size-due, 0), strings.Join(down, "; ")
	case wish < 0:
		wish, why = size, "no policy asks for another size"
	}
	e.forgetSteps()
	return wish, why, strings.Join(lacking, "; ")
}

// forgetSteps drops the state of policies that are gone.
func (e *evaluation) forgetSteps() {
	for name := range e.s.Steps {
		known := false
		for _, p := range e.spec.Policies {
			known = known || p.Name == name && p.Type == StepOnAlert
		}
		if !known {
			delete(e.s.Steps, name)
		}
	}
}

// remember adds a wish to those of the stabilization windows and returns the least within that for growing and the largest within that for
// shrinking.
func (e *evaluation) remember(wish int) (least, most int) {
	e.s.Out, least = e.within(e.s.Out, e.spec.Stabilization.Out, wish, func(a, b int) int { return min(a, b) })
	e.s.In, most = e.within(e.s.In, e.spec.Stabilization.In, wish, func(a, b int) int { return max(a, b) })
	return least, most
}

// within adds wish to those of a window and returns what pick leaves of them all. A window begins with the size that there is, so that it
// has to pass before anything happens, also after a restart.
func (e *evaluation) within(wishes []Wish, window Duration, wish int, pick func(a, b int) int) ([]Wish, int) {
	span := kemi.Millis(time.Duration(window).Milliseconds())
	if span == 0 {
		return nil, wish
	}
	if len(wishes) == 0 {
		wishes = []Wish{{From: e.now, To: e.now, Size: e.s.Desired}}
	}
	kept := wishes[:0]
	result := wish
	for _, w := range wishes {
		if w.To <= e.now-span || w.From > e.now {
			continue // past, or of a clock that has since been set back
		}
		kept = append(kept, w)
		result = pick(result, w.Size)
	}
	// Wishes close together are kept as one: a window has about a hundred at most.
	if n := len(kept); n > 0 && e.now-kept[n-1].From < span/100 {
		kept[n-1].To, kept[n-1].Size = e.now, pick(kept[n-1].Size, wish)
	} else {
		kept = append(kept, Wish{From: e.now, To: e.now, Size: wish})
	}
	return kept, result
}

func (e *evaluation) left(since kemi.Millis, cooldown Duration) time.Duration {
	if since == 0 || since > e.now {
		return 0
	}
	return time.Duration(cooldown) - time.Duration(e.now-since)*time.Millisecond
}

// held names what stands in the way, without the figures that change all the time.
func (e *evaluation) held(d Decision) string {
	h := d.Code
	for _, a := range e.advice {
		if a.missing {
			h += " " + a.Policy
		}
	}
	if d.Wanted > d.To {
		h += " out"
	} else if d.Wanted < d.To {
		h += " in"
	}
	return h
}

// moved writes down a change of the size.
func (e *evaluation) moved(d Decision) {
	from, to := d.From, d.To
	e.s.Desired = to
	switch {
	case to > from:
		e.s.LastOut = e.now
	case to < from:
		e.s.LastIn = e.now
	}
	if d.Code == codeBegin {
		e.s.LastOut, e.s.LastIn = 0, 0 // the first size is no change to cool down from
	}
	left := to - from
	for _, p := range e.spec.Policies { // in order, so that the same input gives the same state
		st, ok := e.s.Steps[p.Name]
		if !ok {
			continue
		}
		if left > 0 && st.Firing {
			added := min(left, max(st.Goal-from-(to-from-left), 0))
			st.Added += added
			left -= added
		}
		if left < 0 && st.Due > 0 {
			taken := min(st.Due, -left)
			st.Due -= taken
			left += taken
		}
		if to <= e.spec.Min {
			st.Due = 0 // nothing more can be taken away
		}
		e.s.Steps[p.Name] = st
	}
}

func clamp(n int, s Spec) int { return min(max(n, s.Min), s.Max) }

// ceil is n rounded up, apart from what floating point added to it.
func ceil(n float64) int {
	if n >= maxSize {
		return maxSize + 1
	}
	return int(math.Ceil(max(n, 0) - 1e-9))
}
