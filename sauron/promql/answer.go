package promql

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/annotations"

	"kemi"
)

// answer is what a request gets: data or an error, and in any case the warnings.
type answer struct {
	data     any // nil without an error: 204
	err      *apiError
	warnings annotations.Annotations
	stats    *queryStats
	done     func() // when it is written
}

// apiError is an error as Prometheus tells it.
type apiError struct {
	code int
	kind string
	err  error
}

func badData(err error) answer {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return answer{err: &apiError{http.StatusRequestEntityTooLarge, "bad_data", err}}
	}
	return answer{err: &apiError{http.StatusBadRequest, "bad_data", err}}
}

func badParam(name string, err error) answer {
	return badData(fmt.Errorf("invalid parameter %q: %w", name, err))
}

// queryError is for what fails before a query runs.
func queryError(err error, param string) answer {
	var timeout promql.ErrQueryTimeout
	var canceled promql.ErrQueryCanceled
	if errors.As(err, &timeout) || errors.As(err, &canceled) {
		return answer{err: executionError(err)}
	}
	if e := kindError(err); e != nil && e.code != http.StatusBadRequest {
		return answer{err: e}
	}
	return badParam(param, err)
}

// executionError is for what fails while a query runs.
func executionError(err error) *apiError {
	var (
		canceled promql.ErrQueryCanceled
		timeout  promql.ErrQueryTimeout
		storage  promql.ErrStorage
		series   promql.ErrTooManySeries
		read     promql.ErrTooManySamplesRead
	)
	switch {
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		return &apiError{499, "canceled", err}
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return &apiError{http.StatusServiceUnavailable, "timeout", err}
	case errors.As(err, &series), errors.As(err, &read):
		return &apiError{http.StatusUnprocessableEntity, "cost_limit", err}
	case errors.As(err, &storage):
		if e := kindError(storage.Err); e != nil {
			return e
		}
		return &apiError{http.StatusInternalServerError, "internal", err}
	}
	if e := kindError(err); e != nil {
		return e
	}
	return &apiError{http.StatusUnprocessableEntity, "execution", err}
}

// kindError is for our own kinds of error, where they say more than Prometheus' types do.
func kindError(err error) *apiError {
	switch code := kemi.HTTPStatus(err); code {
	case http.StatusInternalServerError, http.StatusRequestEntityTooLarge, http.StatusNotFound, http.StatusConflict:
		return nil
	case http.StatusBadRequest:
		return &apiError{code, "bad_data", err}
	case http.StatusUnauthorized:
		return &apiError{code, "unauthorized", err}
	case http.StatusForbidden:
		return &apiError{code, "forbidden", err}
	default:
		return &apiError{code, "unavailable", err}
	}
}

// respond writes an answer.
func (a *API) respond(w http.ResponseWriter, r *http.Request, ans answer) {
	if ans.done != nil {
		defer ans.done()
	}
	h := w.Header()
	if ans.stats != nil {
		h.Set("X-Kemi-Stats", string(appendStats(make([]byte, 0, 192), ans.stats)))
	}
	if ans.err != nil {
		a.respondError(w, ans.err)
		return
	}
	if ans.data == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.Set("Content-Type", "application/json")
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// Large answers go out in pieces as they are written: their length is not known before, but no more than a piece is held.
	sent := false
	b := append((*buf)[:0], `{"status":"success","data":`...)
	b, err := appendData(b, ans.data, func(b []byte) []byte {
		sent = true
		_, _ = w.Write(b)
		return b[:0]
	})
	if err != nil && !sent {
		a.respondError(w, &apiError{http.StatusInternalServerError, "internal", err})
		return
	}
	warnings, infos := ans.warnings.AsStrings(r.FormValue("query"), 10, 10)
	b = appendStrings(b, `,"warnings":`, warnings)
	b = appendStrings(b, `,"infos":`, infos)
	b = append(b, '}')
	if !sent {
		h.Set("Content-Length", strconv.Itoa(len(b)))
	}
	_, _ = w.Write(b)
	*buf = b
}

// buffers hold a piece of an answer each.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, drain+4096); return &b }}

func (a *API) respondError(w http.ResponseWriter, e *apiError) {
	h := w.Header()
	err := e.err
	if e.code == http.StatusInternalServerError {
		if i, ok := w.(kemi.InternalErrors); ok {
			err = i.InternalError(err)
		}
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if e.code == http.StatusTooManyRequests || e.code == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(kemi.RetryDelay(err).Seconds()))))
	}
	w.WriteHeader(e.code)
	b := append([]byte(nil), `{"status":"error","errorType":`...)
	b = appendString(b, e.kind)
	b = append(b, `,"error":`...)
	b = appendString(b, err.Error())
	_, _ = w.Write(append(b, '}'))
}
