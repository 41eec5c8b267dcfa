package app

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

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
		{Pattern: "GET /-/healthy", Public: true, Handle: healthz}, // where promtool and Prometheus' other clients look
		{Pattern: "GET /-/ready", Public: true, Handle: a.readyz},
		{Pattern: "GET /metrics", Needs: kemi.Admin, Dialect: kemi.DialectText, Handle: scrape},
		{Pattern: "GET /api/v2/status", Handle: a.status},
		{Pattern: "POST /api/v2/admin/settle", Needs: kemi.Admin, Stream: true, Handle: a.settle},
		{Pattern: "GET /api/v2/admin/settled", Needs: kemi.Admin, Handle: a.settled},
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

// readyAfter is how long a start may go on before it counts as ready though it still replays: records are taken all the while, and a sender
// should not wait for answers that it does not ask for.
const readyAfter = 1500 * time.Millisecond

// readyz says whether records are taken. A start that replays little is ready when questions are answered in full; a longer one before that, unless
// the request asks for it: /readyz?complete.
func (a *App) readyz(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	var errs []error
	if f := a.metricsRecent(); !f.Complete {
		errs = append(errs, errors.New("metrics: "+f.Reason))
	}
	if f := a.logs.Replayed(); !f.Complete {
		errs = append(errs, errors.New("logs: "+f.Reason))
	}
	err := errors.Join(errs...)
	switch _, full := r.URL.Query()["complete"]; {
	case err == nil:
		healthz(w, r, kemi.Identity{})
	case !full && time.Since(a.began) >= readyAfter:
		fmt.Fprintf(w, "ok: records are taken; answers are not complete: %s\n", err)
	default:
		kemi.WriteError(w, kemi.DialectText, kemi.Errorf(kemi.ErrUnavailable, "not ready: %w", err))
	}
}

// settle does at once what the batch layer does every few minutes; with extent=all also what lies in memory and is older than a few minutes is
// settled, and all merges that are possible are done. The answer says what was done.
func (a *App) settle(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	extent := r.URL.Query().Get("extent")
	if extent != "" && extent != "due" && extent != "all" {
		kemi.WriteError(w, kemi.DialectKEMI, kemi.Errorf(kemi.ErrInvalid, "extent: %q is neither due nor all", extent))
		return
	}
	report, err := a.series.Settle(r.Context(), extent == "all")
	if err != nil {
		kemi.WriteError(w, kemi.DialectKEMI, err)
		return
	}
	kemi.WriteJSON(w, http.StatusOK, report)
}

// settled tells what the batch layer holds.
func (a *App) settled(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
	kemi.WriteJSON(w, http.StatusOK, a.series.SettledStats())
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
	m, l := a.metricsFresh(), a.logs.Freshness()
	kemi.WriteJSON(w, http.StatusOK, map[string]any{
		"version": Version, "metrics": view(m.Complete, m.AsOf, m.Reason), "logs": view(l.Complete, l.AsOf, l.Reason),
	})
}
