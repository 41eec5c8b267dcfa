// Package autoscale keeps pools at the size that the load asks for. A group names a pool (its driver), the bounds of its size, and policies: one
// follows a metric towards a target, another takes steps when an alert fires and when it ends.
//
// The core is Decide: from the spec, what was measured, and the state, it says what size the pool should have and why. It knows no clock, no
// socket and no goroutine. Around it a runner evaluates each group at its interval, and at once when an alert that it listens to changes.
//
// The semantics are those of the field. Target tracking is the Kubernetes HorizontalPodAutoscaler's: desired = ceil(ready × value ÷ target),
// tolerance, stabilization windows, what is missing counts against the direction. Steps, cooldowns and warm-up are those of AWS Auto Scaling.
// Data that are missing never make a pool smaller.
//
// Each change, and each time that something else stands in the way of one, is a decision: a record with its inputs and its reason, and for
// those that were carried out an event. State and decision are stored before the driver is called: a crash repeats the call, not the decision.
//
// A driver may run commands on this machine; who may configure one is the driver's to say (see Privileged).
package autoscale
