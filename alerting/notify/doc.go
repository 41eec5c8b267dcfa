// Package notify decides who is told what, and sees to it that they are: Alertmanager's own packages group, inhibit, silence
// and repeat; what they decide to send goes to an outbox in the control store first and from there to the receiver.
//
// One Alertmanager a project. Alerts, silences, the notification log and the outbox live in the control store, so that a
// crash at any moment loses none, and a receiver sees a message twice only if its answer was lost: each message has an
// idempotency key, made of what is told and of what was told before.
package notify
