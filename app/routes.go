package app

import (
	"errors"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kemi"
	"kemi/web"
)

// ownRoutes are those of the process itself: health, its own metrics, profiles, and the page.
func (a *App) ownRoutes() []kemi.Route {
	plain := func(h http.Handler) func(http.ResponseWriter, *http.Request, kemi.Identity) {
		return func(w http.ResponseWriter, r *http.Request, _ kemi.Identity) { h.ServeHTTP(w, r) }
	}
	page := plain(web.Handler())
	scrape := plain(promhttp.InstrumentMetricHandler(prometheus.NewRegistry(), promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})))
	return []kemi.Route{
		{Pattern: "GET /healthz", Public: true, Handle: healthz},
		{Pattern: "GET /readyz", Public: true, Handle: a.readyz},
		{Pattern: "GET /metrics", Needs: kemi.Admin, Dialect: kemi.DialectText, Handle: scrape},
		{Pattern: "GET /api/v2/status", Handle: a.status},
		{Pattern: "GET /debug/pprof/", Needs: kemi.Admin, Dialect: kemi.DialectText, Stream: true, Handle: plain(http.HandlerFunc(pprof.Index))},
		{Pattern: "GET /debug/pprof/cmdline", Needs: kemi.Admin, Dialect: kemi.DialectText, Handle: plain(http.HandlerFunc(pprof.Cmdline))},
		{Pattern: "GET /debug/pprof/profile", Needs: kemi.Admin, Dialect: kemi.DialectText, Stream: true, Handle: plain(http.HandlerFunc(pprof.Profile))},
		{Pattern: "GET /debug/pprof/symbol", Needs: kemi.Admin, Dialect: kemi.DialectText, Handle: plain(http.HandlerFunc(pprof.Symbol))},
		{Pattern: "GET /debug/pprof/trace", Needs: kemi.Admin, Dialect: kemi.DialectText, Stream: true, Handle: plain(http.HandlerFunc(pprof.Trace))},
		{Pattern: "GET /{$}", Handle: page},
		{Pattern: "GET /assets/{file}", Handle: page},
		{Pattern: "GET /favicon.svg", Handle: page},
	}
}

func healthz(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
	_, _ = w.Write([]byte("ok\n"))
}

// readyz says whether records can be taken and questions answered in full.
func (a *App) readyz(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	var errs []error
	if f := a.metrics.Freshness(); !f.Complete {
		errs = append(errs, errors.New("metrics: "+f.Reason))
	}
	if f := a.logs.Freshness(); !f.Complete {
		errs = append(errs, errors.New("logs: "+f.Reason))
	}
	if err := errors.Join(errs...); err != nil {
		kemi.WriteError(w, kemi.DialectText, kemi.Errorf(kemi.ErrUnavailable, "not ready: %w", err))
		return
	}
	healthz(w, r, kemi.Identity{})
}

// status tells an identity what the server is and how fresh its answers are.
func (a *App) status(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
	view := func(complete bool, asOf kemi.Millis, reason string) map[string]any {
		m := map[string]any{"complete": complete, "asOf": asOf}
		if reason != "" {
			m["reason"] = reason
		}
		return m
	}
	m, l := a.metrics.Freshness(), a.logs.Freshness()
	kemi.WriteJSON(w, http.StatusOK, map[string]any{
		"version": Version, "metrics": view(m.Complete, m.AsOf, m.Reason), "logs": view(l.Complete, l.AsOf, l.Reason),
	})
}
