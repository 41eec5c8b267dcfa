package autoscale

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"kemi"
	"kemi/provisioning/resource"
)

// The limits of a group.
const (
	maxSize     = 1000
	maxPolicies = 16
	maxSteps    = 32
	maxQuery    = 8 << 10
	maxWindow   = 24 * time.Hour
	minInterval = time.Second
)

// Duration is a duration in JSON as text: "15s", "5m".
type Duration time.Duration

// MarshalJSON writes it as text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads what time.ParseDuration reads.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %.40s must be a string such as \"30s\" or \"5m\"", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %.40q must be a number with a unit, such as \"30s\" or \"5m\"", s)
	}
	*d = Duration(v)
	return nil
}

// Spec is what somebody wants of a group.
type Spec struct {
	Driver DriverSpec `json:"driver"`
	Min    int        `json:"min"`
	Max    int        `json:"max"`
	// Desired is the size that the group begins with, by default Min; changed later, the group goes there at once, and the policies
	// go on from it.
	Desired       *int      `json:"desired,omitempty"`
	Interval      Duration  `json:"interval"`
	Policies      []Policy  `json:"policies"`
	Cooldown      Durations `json:"cooldown"`
	Stabilization Durations `json:"stabilization"`
	// Warmup is how long after its start an instance counts as not yet ready.
	Warmup  Duration `json:"warmup"`
	MaxStep MaxStep  `json:"maxStep"`
	// Frozen holds the size: policies are evaluated but nothing follows.
	Frozen bool `json:"frozen,omitempty"`
}

// Durations are one for growing and one for shrinking.
type Durations struct {
	Out Duration `json:"out"`
	In  Duration `json:"in"`
}

// MaxStep is by how many instances one evaluation may change the size. Out 0: by four, or to twice the size if that is more.
// In 0: no limit.
type MaxStep struct {
	Out int `json:"out"`
	In  int `json:"in"`
}

// DriverSpec names a driver and holds its own configuration under that name: {"type": "local", "local": {…}}.
type DriverSpec struct {
	Type   string
	Config json.RawMessage
}

// MarshalJSON writes it as people do.
func (d DriverSpec) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"type": d.Type, d.Type: d.Config})
}

// UnmarshalJSON reads it, and nothing else beside the type and its configuration.
func (d *DriverSpec) UnmarshalJSON(b []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("driver: must be an object such as {\"type\": \"local\", \"local\": {…}}")
	}
	if err := json.Unmarshal(m["type"], &d.Type); err != nil || d.Type == "" || d.Type == "type" {
		return fmt.Errorf("driver.type: must be the name of a driver, such as \"local\"")
	}
	d.Config = m[d.Type]
	for k := range m {
		if k != "type" && k != d.Type {
			return fmt.Errorf("driver.%s: there is no such field for a driver of type %q", k, d.Type)
		}
	}
	return nil
}

// The types of policy.
const (
	TargetTracking = "targetTracking"
	StepOnAlert    = "step"
)

// The modes of target tracking, and the units of a step.
const (
	ModeAverage   = "average"
	ModeTotal     = "total"
	UnitInstances = "instances"
	UnitPercent   = "percent"
)

// Policy says what size a pool should have. A group follows the largest that its policies ask for.
type Policy struct {
	Name string `json:"name"`
	Type string `json:"type"`

	// Query is PromQL with one value as its answer: what target tracking follows, or what chooses a step.
	Query string `json:"query,omitempty"`

	// Target tracking. In mode average, Query is the load of one instance, and size = ceil(ready × value ÷ Target); in mode total it is the
	// load of all, and size = ceil(value ÷ Target).
	Target float64 `json:"target,omitempty"`
	Mode   string  `json:"mode,omitempty"`
	// Tolerance is how far value ÷ target may be from 1 before anything is done; default 0.1.
	Tolerance *float64 `json:"tolerance,omitempty"`
	// ScaleInFactor is the share of a decrease that one evaluation takes; default 1. 0: this policy never makes the pool smaller.
	ScaleInFactor *float64 `json:"scaleInFactor,omitempty"`

	// Step on an alert: that of the name Alert whose labels include Labels.
	Alert      string            `json:"alert,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Adjustment *Adjustment       `json:"adjustment,omitempty"`
	// Steps choose the adjustment by the value of Query, instead of Adjustment.Up.
	Steps []Step `json:"steps,omitempty"`
	// Repeat takes the step again each time that the alert has fired on for so long; default never.
	Repeat Duration `json:"repeat,omitempty"`
}

// Adjustment is how much to add when the alert begins to fire and how much to take away when it ends. Without Down, what this
// policy added is taken away. The end of an alert takes nothing away from a group with target tracking: that knows better.
type Adjustment struct {
	Up   int    `json:"up"`
	Down *int   `json:"down,omitempty"`
	Unit string `json:"unit,omitempty"` // instances, or percent of the size
}

// Step is an adjustment for values of at least From (default: any) and less than To (default: any).
type Step struct {
	From       *float64 `json:"from,omitempty"`
	To         *float64 `json:"to,omitempty"`
	Adjustment int      `json:"adjustment"`
}

// ParseSpec reads a spec with its defaults and checks it; the configuration of the driver is the driver's to check.
func ParseSpec(b []byte) (Spec, error) {
	s := Spec{
		Interval: Duration(15 * time.Second), Cooldown: Durations{Out: Duration(30 * time.Second), In: Duration(time.Minute)},
		Stabilization: Durations{In: Duration(5 * time.Minute)}, Policies: []Policy{},
	}
	if err := resource.Decode(b, &s, "spec"); err != nil {
		return s, err
	}
	for i := range s.Policies {
		s.Policies[i].complete(i)
	}
	return s, s.validate()
}

func (p *Policy) complete(i int) {
	if p.Name == "" {
		p.Name = fmt.Sprintf("%s-%d", p.Type, i+1)
	}
	if p.Type == TargetTracking && p.Mode == "" {
		p.Mode = ModeAverage
	}
	if p.Adjustment != nil && p.Adjustment.Unit == "" {
		p.Adjustment.Unit = UnitInstances
	}
}

func (s Spec) validate() error {
	bad := func(field, format string, args ...any) error {
		return kemi.Errorf(kemi.ErrInvalid, "spec.%s: %s", field, fmt.Sprintf(format, args...))
	}
	switch {
	case s.Driver.Type == "":
		return bad("driver", "missing; must be an object such as {\"type\": \"local\", \"local\": {…}}")
	case s.Min < 0:
		return bad("min", "%d is negative", s.Min)
	case s.Max < 1 || s.Max > maxSize:
		return bad("max", "%d must be from 1 to %d", s.Max, maxSize)
	case s.Min > s.Max:
		return bad("min", "%d is more than max, %d", s.Min, s.Max)
	case s.Desired != nil && (*s.Desired < s.Min || *s.Desired > s.Max):
		return bad("desired", "%d is not from min, %d, to max, %d", *s.Desired, s.Min, s.Max)
	case time.Duration(s.Interval) < minInterval || time.Duration(s.Interval) > time.Hour:
		return bad("interval", "%s must be from %s to 1h", time.Duration(s.Interval), minInterval)
	case s.MaxStep.Out < 0 || s.MaxStep.In < 0:
		return bad("maxStep", "must not be negative")
	case len(s.Policies) > maxPolicies:
		return bad("policies", "%d, at most %d", len(s.Policies), maxPolicies)
	}
	for _, d := range []struct {
		field string
		d     Duration
	}{{"cooldown.out", s.Cooldown.Out}, {"cooldown.in", s.Cooldown.In}, {"stabilization.out", s.Stabilization.Out}, {"stabilization.in", s.Stabilization.In}, {"warmup", s.Warmup}} {
		if d.d < 0 || time.Duration(d.d) > maxWindow {
			return bad(d.field, "%s must be from 0s to %s", time.Duration(d.d), maxWindow)
		}
	}
	seen := map[string]bool{}
	for i, p := range s.Policies {
		field := fmt.Sprintf("policies[%d]", i)
		if err := p.validate(func(f, format string, args ...any) error { return bad(field+"."+f, format, args...) }); err != nil {
			return err
		}
		if seen[p.Name] {
			return bad(field+".name", "%q stands twice", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

func (p Policy) validate(bad func(field, format string, args ...any) error) error {
	if err := resource.CheckName("name", p.Name); err != nil {
		return bad("name", "%.80q is no name", p.Name)
	}
	if len(p.Query) > maxQuery {
		return bad("query", "%d bytes, at most %d", len(p.Query), maxQuery)
	}
	// What the other type has must not stand here: it would be passed over silently.
	given := map[string]bool{
		"target": p.Target != 0, "mode": p.Mode != "", "tolerance": p.Tolerance != nil, "scaleInFactor": p.ScaleInFactor != nil,
		"alert": p.Alert != "", "labels": p.Labels != nil, "adjustment": p.Adjustment != nil, "steps": p.Steps != nil, "repeat": p.Repeat != 0,
	}
	ofTracking := []string{"target", "mode", "tolerance", "scaleInFactor"}
	for _, f := range slices.Sorted(maps.Keys(given)) {
		if given[f] && (p.Type == TargetTracking) != slices.Contains(ofTracking, f) && (p.Type == TargetTracking || p.Type == StepOnAlert) {
			return bad(f, "does not belong to a policy of type %s", p.Type)
		}
	}
	switch p.Type {
	case TargetTracking:
		return p.validateTracking(bad)
	case StepOnAlert:
		return p.validateStep(bad)
	}
	return bad("type", "%.80q must be %s or %s", p.Type, TargetTracking, StepOnAlert)
}

func (p Policy) validateTracking(bad func(field, format string, args ...any) error) error {
	switch {
	case strings.TrimSpace(p.Query) == "":
		return bad("query", "missing; it is the PromQL whose value is held at target")
	case !(p.Target > 0) || math.IsInf(p.Target, 0):
		return bad("target", "%v must be a number over 0", p.Target)
	case p.Mode != ModeAverage && p.Mode != ModeTotal:
		return bad("mode", "%.80q must be %s or %s", p.Mode, ModeAverage, ModeTotal)
	case p.Tolerance != nil && !(*p.Tolerance >= 0 && *p.Tolerance < 1):
		return bad("tolerance", "%v must be at least 0 and less than 1", *p.Tolerance)
	case p.ScaleInFactor != nil && !(*p.ScaleInFactor >= 0 && *p.ScaleInFactor <= 1):
		return bad("scaleInFactor", "%v must be from 0 to 1", *p.ScaleInFactor)
	}
	return nil
}

func (p Policy) validateStep(bad func(field, format string, args ...any) error) error {
	switch {
	case p.Alert == "":
		return bad("alert", "missing; it is the name of the alert to follow")
	case p.Adjustment == nil && len(p.Steps) == 0:
		return bad("adjustment", "missing; for example {\"up\": 2}, or give steps")
	case p.Adjustment != nil && len(p.Steps) == 0 && p.Adjustment.Up < 1:
		return bad("adjustment.up", "%d must be at least 1", p.Adjustment.Up)
	case p.Adjustment != nil && len(p.Steps) > 0 && p.Adjustment.Up != 0:
		return bad("adjustment.up", "stands beside steps; only one of them can be")
	case p.Adjustment != nil && p.Adjustment.Down != nil && *p.Adjustment.Down < 0:
		return bad("adjustment.down", "%d must not be negative: it says how many to take away", *p.Adjustment.Down)
	case p.Adjustment != nil && p.Adjustment.Unit != UnitInstances && p.Adjustment.Unit != UnitPercent:
		return bad("adjustment.unit", "%.80q must be %s or %s", p.Adjustment.Unit, UnitInstances, UnitPercent)
	case len(p.Steps) == 0 && p.Query != "":
		return bad("query", "stands without steps, which it would choose from")
	case len(p.Steps) > 0 && strings.TrimSpace(p.Query) == "":
		return bad("query", "missing; its value chooses the step")
	case len(p.Steps) > maxSteps:
		return bad("steps", "%d, at most %d", len(p.Steps), maxSteps)
	case len(p.Labels) > 32:
		return bad("labels", "%d, at most 32", len(p.Labels))
	case p.Repeat < 0 || time.Duration(p.Repeat) > maxWindow:
		return bad("repeat", "%s must be from 0s to %s", time.Duration(p.Repeat), maxWindow)
	}
	for i, s := range p.Steps {
		switch {
		case s.Adjustment < 1:
			return bad(fmt.Sprintf("steps[%d].adjustment", i), "%d must be at least 1", s.Adjustment)
		case s.From != nil && s.To != nil && *s.From >= *s.To:
			return bad(fmt.Sprintf("steps[%d].to", i), "%v must be more than from, %v", *s.To, *s.From)
		case i > 0 && (p.Steps[i-1].To == nil || s.From == nil || *s.From < *p.Steps[i-1].To):
			return bad(fmt.Sprintf("steps[%d].from", i), "steps must ascend and not overlap: from must be at least the to of the step before")
		}
	}
	return nil
}
