// Package kemi is the vocabulary that every room of KEMI speaks: what a sample, a log record, an event and
// an identity are, the kinds of error, and the shape of an HTTP route.
//
// It imports only the standard library and nothing of ours, so that any package may import it. It holds no
// behaviour beyond what a type needs to be itself: no storage, no transport, no clock.
package kemi
