package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

// door lets in who names the permissions that he has.
type door struct{}

func (door) Authenticate(r *http.Request) (kemi.Identity, error) {
	switch r.Header.Get("Authorization") {
	case "reader":
		return kemi.Identity{Subject: "reader", Project: "p", Permissions: kemi.MetricsRead}, nil
	case "admin":
		return kemi.Identity{Subject: "admin", Project: "p", Permissions: kemi.AllPermissions}, nil
	}
	return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "who are you?")
}

func handler(t *testing.T, log *strings.Builder, routes ...kemi.Route) http.Handler {
	t.Helper()
	h, err := New(Options{
		Auth: door{}, Routes: routes, Log: slog.New(slog.NewTextHandler(log, nil)), Registry: prometheus.NewRegistry(), Now: time.Now, WriteTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(h http.Handler, method, path, who string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Authorization", who)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func says(text string) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(w http.ResponseWriter, _ *http.Request, id kemi.Identity) { fmt.Fprint(w, text, id.Subject) }
}

func fails(err error) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
		kemi.WriteError(w, kemi.DialectKEMI, err)
	}
}

func TestWhoMayWhat(t *testing.T) {
	var log strings.Builder
	h := handler(t, &log,
		kemi.Route{Pattern: "GET /open", Public: true, Handle: says("open")},
		kemi.Route{Pattern: "GET /any", Handle: says("any ")},
		kemi.Route{Pattern: "GET /metrics-only", Needs: kemi.MetricsRead, Dialect: kemi.DialectPrometheus, Handle: says("m ")},
		kemi.Route{Pattern: "PUT /admin", Needs: kemi.Admin, Dialect: kemi.DialectOpenTSDB, Handle: says("a ")},
	)
	for _, c := range []struct {
		method, path, who string
		code              int
		text              string
	}{
		{"GET", "/open", "", 200, "open"},
		{"GET", "/any", "", 401, `"status":401`},
		{"GET", "/any", "reader", 200, "any reader"},
		{"GET", "/metrics-only", "reader", 200, "m reader"},
		{"GET", "/metrics-only", "", 401, `"errorType":"unauthorized"`},
		{"PUT", "/admin", "reader", 403, `"message":"reader lacks the permission admin"`},
		{"PUT", "/admin", "admin", 200, "a admin"},
		{"POST", "/admin", "admin", 404, "no such path"},
		{"GET", "/nowhere", "", 401, "who are you"},
		{"GET", "/nowhere", "reader", 404, "no such path"},
	} {
		w := ask(h, c.method, c.path, c.who)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s %s as %q: %d %s; want %d with %q", c.method, c.path, c.who, w.Code, w.Body, c.code, c.text)
		}
	}
	if w := ask(h, "GET", "/any", "", "Accept", "text/html"); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/login?next=/any" {
		t.Errorf("a page without identity: %d %v", w.Code, w.Header())
	}
}

func TestInternalErrorsStayInside(t *testing.T) {
	var log strings.Builder
	h := handler(t, &log,
		kemi.Route{Pattern: "GET /panic", Public: true, Handle: func(http.ResponseWriter, *http.Request, kemi.Identity) { panic("the secret plan") }},
		kemi.Route{Pattern: "GET /broken", Public: true, Handle: fails(errors.New("secret path /etc/x"))},
		kemi.Route{Pattern: "GET /busy", Public: true, Handle: fails(kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "disk full"), 7*time.Second))},
	)
	for _, path := range []string{"/panic", "/broken"} {
		w := ask(h, "GET", path, "")
		id := w.Header().Get("X-Request-Id")
		if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") || id == "" || !strings.Contains(w.Body.String(), id) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if !strings.Contains(log.String(), id) || !strings.Contains(log.String(), "secret") {
			t.Errorf("%s: the log does not tell: %s", path, log.String())
		}
	}
	if w := ask(h, "GET", "/busy", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "7" || !strings.Contains(w.Body.String(), "disk full") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestRoutesThatMeetAreRefused(t *testing.T) {
	_, err := New(Options{
		Auth: door{}, Routes: []kemi.Route{{Pattern: "GET /a", Handle: says("1")}, {Pattern: "GET /a", Handle: says("2")}},
		Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Now: time.Now,
	})
	if err == nil || !strings.Contains(err.Error(), "/a") {
		t.Fatalf("%v", err)
	}
}
