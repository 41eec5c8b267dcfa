package tsdhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"kemi"
)

// Error is an error as OpenTSDB tells it.
type Error struct {
	Status  int    // of HTTP
	Message string // OpenTSDB's words
	Details string // ours; may be empty
	kind    error
}

// Error is both texts.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Message
	}
	return e.Message + ": " + e.Details
}

// Unwrap is the kind.
func (e *Error) Unwrap() error { return e.kind }

// Bad is the client's mistake.
func Bad(message, details string) error {
	return &Error{Status: http.StatusBadRequest, Message: message, Details: details, kind: kemi.ErrInvalid}
}

// Badf is Bad with a message that is put together, and no details.
func Badf(format string, args ...any) error { return Bad(fmt.Sprintf(format, args...), "") }

// NotFound is about something that is not there.
func NotFound(message, details string) error {
	return &Error{Status: http.StatusNotFound, Message: message, Details: details, kind: kemi.ErrNotFound}
}

// NotAllowed is what an endpoint answers to a method that it does not have.
func NotAllowed(method string) error {
	return &Error{Status: http.StatusMethodNotAllowed, Message: "Method not allowed", Details: "The HTTP method [" + method + "] is not permitted for this endpoint", kind: kemi.ErrInvalid}
}

// NotImplemented is about what OpenTSDB has not either.
func NotImplemented(message, details string) error {
	return &Error{Status: http.StatusNotImplemented, Message: message, Details: details, kind: errors.ErrUnsupported}
}

// Missing is about a parameter that has to be there.
func Missing(parameter string) error {
	return Bad("Missing parameter <code>"+parameter+"</code>", "")
}

// WriteError tells err.
func WriteError(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		kemi.WriteError(w, kemi.DialectOpenTSDB, err)
		return
	}
	told := map[string]any{"code": e.Status, "message": e.Message}
	if e.Details != "" {
		told["details"] = e.Details
	}
	h := w.Header()
	h.Del("Content-Encoding")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", contentType)
	w.WriteHeader(e.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]any{"error": told})
}

// Status is the status with which WriteError tells err.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return kemi.HTTPStatus(err)
}

// Unavailable is about something that is switched off.
func Unavailable(message, details string) error {
	return &Error{Status: http.StatusServiceUnavailable, Message: message, Details: details, kind: kemi.ErrUnavailable}
}
