package kemi

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of error. Everything that crosses a package wraps one of them, or is internal. Test with errors.Is.
// Only ErrUnavailable and ErrLimited are worth a retry by the caller.
var (
	ErrInvalid      = errors.New("invalid")      // the request is wrong; the message says which field, its value, and what would do
	ErrUnauthorized = errors.New("unauthorized") // no identity, or one that is not valid
	ErrDenied       = errors.New("denied")       // the identity may not do this
	ErrNotFound     = errors.New("not found")
	ErrConflict     = errors.New("conflict")    // somebody else changed it meanwhile, or it exists already
	ErrLimited      = errors.New("limited")     // a limit or quota is reached; the message names it
	ErrUnavailable  = errors.New("unavailable") // not now: overloaded, starting, disk full, a back-end away
	ErrTooLarge     = errors.New("too large")   // the request is larger than the limit that the message names
)

// Errorf is fmt.Errorf with a kind: errors.Is(err, kind) holds, and so does it for what %w wraps. The kind's own text is
// not repeated in the message.
func Errorf(kind error, format string, args ...any) error {
	return &kinded{kind: kind, err: fmt.Errorf(format, args...)}
}

type kinded struct{ kind, err error }

func (e *kinded) Error() string   { return e.err.Error() }
func (e *kinded) Unwrap() []error { return []error{e.kind, e.err} }

// RetryAfter says that err may be tried again after d.
func RetryAfter(err error, d time.Duration) error { return &retryAfter{err, d} }

type retryAfter struct {
	error
	after time.Duration
}

func (e *retryAfter) Unwrap() error { return e.error }

// RetryDelay is what RetryAfter said of err, or one second.
func RetryDelay(err error) time.Duration {
	if r, ok := errors.AsType[*retryAfter](err); ok {
		return r.after
	}
	return time.Second
}
