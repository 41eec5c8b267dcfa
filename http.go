package kemi

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// Route is one thing that the server answers. Rooms hand their routes to app, which puts them behind authentication
// and limits; so one table holds all that is served and what it takes to be served.
type Route struct {
	Pattern string     // as net/http.ServeMux has it: "POST /api/v1/write"
	Needs   Permission // all of it; 0 = any identity
	Public  bool       // no identity at all: health and login only
	Dialect Dialect    // how errors are told, also those of authentication
	Stream  bool       // answers as long as the client listens: no write timeout
	Handle  func(w http.ResponseWriter, r *http.Request, id Identity)
}

// Dialect is a protocol's own way to tell an error.
type Dialect uint8

// The dialects.
const (
	DialectKEMI       Dialect = iota // application/problem+json (RFC 9457)
	DialectPrometheus                // {"status":"error","errorType":…,"error":…}
	DialectOpenTSDB                  // {"error":{"code":…,"message":…}}
	DialectText                      // text/plain: remote write, Loki
	DialectInflux                    // {"error":…} of InfluxDB 1 and {"code":…,"message":…} of 2 in one
)

// HTTPStatus is the status that says the kind of err.
func HTTPStatus(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, ErrTooLarge), errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, ErrUnauthorized):
		return http.StatusUnauthorized
	case errors.Is(err, ErrDenied):
		return http.StatusForbidden
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrConflict):
		return http.StatusConflict
	case errors.Is(err, ErrLimited):
		return http.StatusTooManyRequests
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	case errors.Is(err, errors.ErrUnsupported):
		return http.StatusNotImplemented
	case errors.Is(err, context.Canceled):
		return 499 // the client went away; nobody reads this
	}
	return http.StatusInternalServerError
}

// InternalErrors is what a ResponseWriter implements that keeps internal errors from the client: it logs err and returns what the
// client is told instead, with a request id.
type InternalErrors interface{ InternalError(err error) error }

// WriteError tells err in the dialect d, with Retry-After where it may be tried again.
func WriteError(w http.ResponseWriter, d Dialect, err error) {
	code := HTTPStatus(err)
	h := w.Header()
	if i, ok := w.(InternalErrors); ok && code == http.StatusInternalServerError {
		err = i.InternalError(err)
	}
	h.Del("Content-Encoding")
	h.Set("X-Content-Type-Options", "nosniff")
	switch code {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(RetryDelay(err).Seconds()))))
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="kemi"`)
	}
	var body any
	h.Set("Content-Type", "application/json")
	switch d {
	case DialectText:
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(err.Error() + "\n"))
		return
	case DialectPrometheus:
		body = map[string]string{"status": "error", "errorType": prometheusErrorType(code), "error": err.Error()}
	case DialectOpenTSDB:
		body = map[string]any{"error": map[string]any{"code": code, "message": err.Error()}}
	case DialectInflux:
		h.Set("X-Influxdb-Error", strings.Join(strings.Fields(err.Error()), " "))
		body = map[string]string{"error": err.Error(), "code": influxCode(code), "message": err.Error()}
	default:
		h.Set("Content-Type", "application/problem+json")
		body = map[string]any{"type": "about:blank", "title": http.StatusText(code), "status": code, "detail": err.Error()}
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func influxCode(code int) string {
	switch code {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType:
		return "invalid"
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "not found"
	case http.StatusRequestEntityTooLarge:
		return "request too large"
	case http.StatusTooManyRequests:
		return "too many requests"
	case http.StatusServiceUnavailable:
		return "unavailable"
	}
	return "internal error"
}

func prometheusErrorType(code int) string {
	switch code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return "bad_data"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return "unavailable"
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	case 499:
		return "canceled"
	}
	return "internal"
}

// WriteJSON answers status with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
