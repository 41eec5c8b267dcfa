// Package api serves the routes of all rooms on one port: it authenticates, checks permissions, counts, logs, and keeps a
// request's panic or internal error from the client and from the process. It knows no route's meaning.
package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

// Authenticator finds who sent a request.
type Authenticator interface {
	Authenticate(r *http.Request) (kemi.Identity, error)
}

// Options are what the handler works with. All are needed.
type Options struct {
	Auth     Authenticator
	Routes   []kemi.Route
	Log      *slog.Logger
	Registry prometheus.Registerer
	Now      func() time.Time
	// WriteTimeout is the longest that a route may take to answer, those that stream excepted.
	WriteTimeout time.Duration
}

// New makes the handler of all routes. A path that no route has answers 404, but only to an identity.
func New(o Options) (http.Handler, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_http_requests_total", Help: "HTTP requests by route and status."}, []string{"route", "code"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kemi_http_request_seconds", Help: "Time to answer, streams excepted.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_http_in_flight", Help: "HTTP requests being answered."}),
	}
	o.Registry.MustRegister(m.requests, m.seconds, m.inFlight)
	mux := http.NewServeMux()
	packed, err := packer()
	if err != nil {
		return nil, err
	}
	for _, r := range o.Routes {
		var h http.Handler = &server{o: o, m: m, route: r}
		if !r.Stream {
			h = packed(h)
		}
		if err := handle(mux, r, h); err != nil {
			return nil, err
		}
	}
	missing := kemi.Route{Pattern: "/", Handle: func(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
		kemi.WriteError(w, kemi.DialectKEMI, kemi.Errorf(kemi.ErrNotFound, "no such path: %s %.200s", r.Method, r.URL.Path))
	}}
	if err := handle(mux, missing, &server{o: o, m: m, route: missing}); err != nil {
		return nil, err
	}
	return mux, nil
}

// handle registers a route; ServeMux panics for a bad or doubled pattern, which is a defect of ours told as an error.
func handle(mux *http.ServeMux, r kemi.Route, h http.Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("route %q: %v", r.Pattern, p)
		}
	}()
	mux.Handle(r.Pattern, h)
	return nil
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

// server answers one route.
type server struct {
	o     Options
	m     *metrics
	route kemi.Route
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.o.Now()
	s.m.inFlight.Inc()
	rw := &response{ResponseWriter: w, log: s.o.Log, method: r.Method, path: r.URL.Path}
	defer func() {
		s.m.inFlight.Dec()
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a value of any type, as it was thrown
			err := rw.InternalError(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			if rw.status == 0 {
				kemi.WriteError(rw, s.route.Dialect, err)
			}
		}
		if rw.status == 0 {
			rw.status = http.StatusOK
		}
		s.m.requests.WithLabelValues(s.route.Pattern, strconv.Itoa(rw.status)).Inc()
		if !s.route.Stream {
			s.m.seconds.WithLabelValues(s.route.Pattern).Observe(s.o.Now().Sub(start).Seconds())
		}
	}()
	if !s.route.Stream {
		// The deadline holds for reading the body, too: a sender that stalls does not keep a connection for ever.
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(start.Add(s.o.WriteTimeout))
		_ = c.SetWriteDeadline(start.Add(s.o.WriteTimeout))
	}
	var id kemi.Identity
	if !s.route.Public {
		var err error
		if id, err = s.o.Auth.Authenticate(r); err != nil {
			s.refuse(rw, r, err)
			return
		}
		if !id.Can(s.route.Needs) {
			s.refuse(rw, r, kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", id.Subject, s.route.Needs&^id.Permissions))
			return
		}
	}
	s.route.Handle(rw, r, id)
}

// refuse tells why there is no answer; a person who opens a page is sent to the login instead.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	page := r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") && !strings.HasPrefix(r.URL.Path, "/api/")
	if page && errors.Is(err, kemi.ErrUnauthorized) {
		http.Redirect(w, r, "/login?next="+strings.ReplaceAll(r.URL.EscapedPath(), "&", "%26"), http.StatusSeeOther)
		return
	}
	kemi.WriteError(w, s.route.Dialect, err)
}

// response remembers the status and hides internal errors.
type response struct {
	http.ResponseWriter
	log          *slog.Logger
	method, path string
	status       int
}

func (w *response) WriteHeader(code int) {
	if w.status == 0 && code >= 200 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find Flush and deadlines.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush is for handlers that ask for http.Flusher.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// InternalError implements kemi.InternalErrors.
func (w *response) InternalError(err error) error {
	id := ulid.Make().String()
	w.Header().Set("X-Request-Id", id)
	w.log.Error("request failed", "request", id, "method", w.method, "path", w.path, "err", err)
	return fmt.Errorf("internal error; the server's log tells more under request %s", id)
}
