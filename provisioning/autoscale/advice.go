package autoscale

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"kemi"
)

const defaultTolerance = 0.1

// figure is a number as people read it.
func figure(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

// track is the advice of a target-tracking policy.
func (e *evaluation) track(p Policy) Advice {
	a := Advice{Policy: p.Name, Query: p.Query, Target: p.Target}
	r := e.in.Readings[p.Name]
	switch {
	case !r.Known:
		a.missing, a.Note = true, "no value"
		if r.Problem != "" {
			a.Note = r.Problem
		}
		return a
	case math.IsNaN(r.Value) || math.IsInf(r.Value, 0):
		a.missing, a.Note = true, fmt.Sprintf("the value is %v", r.Value)
		return a
	}
	a.Value = &r.Value
	size := e.s.Desired
	wants, note := size, ""
	if p.Mode == ModeTotal {
		wants, note = total(p, size, r.Value)
	} else {
		ready := min(e.in.Ready, size)
		if ready == 0 && size > 0 {
			a.missing, a.Note = true, "no instance is ready, so the value says nothing of the load that one takes"
			return a
		}
		wants, note = average(p, size, ready, r.Value)
	}
	if wants < size && p.ScaleInFactor != nil {
		wants = size - ceil(float64(size-wants)**p.ScaleInFactor)
		note += fmt.Sprintf(", of which this policy takes %s", figure(*p.ScaleInFactor))
	}
	a.Wants, a.Note = &wants, note
	return a
}

func tolerance(p Policy) float64 {
	if p.Tolerance != nil {
		return *p.Tolerance
	}
	return defaultTolerance
}

func total(p Policy, size int, value float64) (int, string) {
	if size > 0 && math.Abs(value/(p.Target*float64(size))-1) <= tolerance(p) {
		return size, fmt.Sprintf("%s in all is within tolerance of %d × %s", figure(value), size, figure(p.Target))
	}
	n := ceil(value / p.Target)
	return n, fmt.Sprintf("%s in all at %s for each needs %s", figure(value), figure(p.Target), sizeText(n))
}

// average is Kubernetes' calculation. Instances that are not ready count as without load when the pool would grow, and as fully loaded when it
// would shrink; if that turns the direction round, nothing is done.
func average(p Policy, size, ready int, value float64) (int, string) {
	if size == 0 {
		if value > 0 {
			return 1, fmt.Sprintf("%s while there is no instance", figure(value))
		}
		return 0, "no load"
	}
	ratio, tol := value/p.Target, tolerance(p)
	if math.Abs(ratio-1) <= tol {
		return size, fmt.Sprintf("%s is within tolerance of the target %s", figure(value), figure(p.Target))
	}
	missing := size - ready
	usage := float64(ready) * ratio
	note := fmt.Sprintf("%s is %s × the target %s", figure(value), figure(ratio), figure(p.Target))
	if missing > 0 {
		note += fmt.Sprintf(", %d of %d instances are ready", ready, size)
	}
	if ratio > 1 {
		if usage/float64(size) <= 1+tol {
			return size, note + ", which the others will take"
		}
	} else {
		usage += float64(missing)
		if usage/float64(size) >= 1-tol {
			return size, note + ", and the others will be loaded"
		}
	}
	n := ceil(usage)
	return n, fmt.Sprintf("%s, so %s should do", note, sizeText(n))
}

// sizeText is a size as ceil gives it, which counts no further than the largest pool.
func sizeText(n int) string {
	if n > maxSize {
		return fmt.Sprintf("over %d", maxSize)
	}
	return strconv.Itoa(n)
}

// step is the advice of a step policy, and moves its state on. tracking tells that the group has target tracking too.
func (e *evaluation) step(p Policy, tracking bool) Advice {
	firing := e.in.Firing[p.Name]
	a := Advice{Policy: p.Name, Query: p.Query, Alert: p.Alert, Firing: &firing}
	st := e.s.Steps[p.Name]
	size := e.s.Desired
	defer func() { e.s.Steps[p.Name] = st }()
	if !firing {
		if st.Firing {
			st.Due, st.Added = e.takeBack(p, st), 0
		}
		if tracking {
			st.Due = 0 // target tracking sees for itself when less is enough
		}
		st.Firing, st.Base, st.Goal, st.At = false, 0, 0, 0
		a.Note = "alert " + p.Alert + " does not fire"
		if st.Due > 0 {
			a.Note = fmt.Sprintf("alert %s is over, %d less", p.Alert, st.Due)
		}
		return a
	}
	switch {
	case !st.Firing && st.Due > 0:
		// It fires again before what it added was taken away: that is still there.
		st.Base, st.Goal, st.Added, st.Due, st.At = size-st.Due, size, st.Due, 0, e.now
	case !st.Firing:
		st.Base, st.Goal, st.At = size, size, e.now
	case p.Repeat > 0 && size >= st.Goal && time.Duration(e.now-st.At)*time.Millisecond >= time.Duration(p.Repeat):
		st.Base, st.At = size, e.now
	}
	st.Firing = true
	up, problem, ok := e.up(p, st.Base)
	if !ok {
		a.missing, a.Note = true, problem
		return a
	}
	if len(p.Steps) > 0 {
		a.Value = ptr(e.in.Readings[p.Name].Value)
	}
	// A value that rises into another step while the alert fires leads further; one that falls leads back only when the alert ends.
	st.Goal = max(st.Goal, st.Base+up)
	wants := max(size, st.Goal)
	a.Wants = &wants
	a.Note = fmt.Sprintf("alert %s fires", p.Alert)
	if wants > size {
		a.Note += fmt.Sprintf(", %d more", wants-size)
	}
	return a
}

// takeBack is how many instances the end of an alert takes away.
func (e *evaluation) takeBack(p Policy, st StepState) int {
	switch {
	case p.Adjustment == nil || p.Adjustment.Down == nil:
		return st.Added
	case p.Adjustment.Unit == UnitPercent:
		return ceil(float64(e.s.Desired) * float64(*p.Adjustment.Down) / 100)
	}
	return *p.Adjustment.Down
}

// up is how many instances a step adds to base; not ok if that cannot be told for want of a value.
func (e *evaluation) up(p Policy, base int) (n int, problem string, ok bool) {
	unit := UnitInstances
	if p.Adjustment != nil {
		n, unit = p.Adjustment.Up, p.Adjustment.Unit
	}
	if len(p.Steps) > 0 {
		r := e.in.Readings[p.Name]
		if !r.Known || math.IsNaN(r.Value) {
			return 0, "alert " + p.Alert + " fires, but there is no value to choose the step by: " + first(r.Problem, "no value"), false
		}
		n = 0
		for _, s := range p.Steps {
			if (s.From == nil || r.Value >= *s.From) && (s.To == nil || r.Value < *s.To) {
				n = s.Adjustment
			}
		}
	}
	if unit == UnitPercent {
		n = ceil(float64(base) * float64(n) / 100)
	}
	return n, "", true
}

func ptr[T any](v T) *T { return &v }

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// count tells the instances that a decision counts.
func count(instances []Instance, warmup Duration, now kemi.Millis) (current, ready, warming int) {
	for _, i := range instances {
		if i.State == Stopping {
			continue
		}
		current++
		if i.State != Running {
			continue
		}
		if time.Duration(now-i.Started)*time.Millisecond >= time.Duration(warmup) {
			ready++
		} else {
			warming++
		}
	}
	return current, ready, warming
}
