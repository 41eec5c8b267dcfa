package tsd

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/query"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsdnote"
	"kemi/sauron/tsduid"
)

// Options are what the API works with. All are needed.
type Options struct {
	Engine   *query.Engine
	Store    store.SeriesStore
	Control  store.Control
	IDs      *tsduid.Table
	Notes    *tsdnote.Notes
	Metrics  prometheus.Gatherer // of this process
	Settings map[string]string   // what /api/config tells, by OpenTSDB's keys
	Version  string              // of this program
	Log      *slog.Logger
	Now      func() time.Time
}

// API answers. Its methods may be called concurrently.
type API struct {
	o     Options
	start time.Time
}

// New makes an API.
func New(o Options) *API { return &API{o: o, start: o.Now()} }

// Routes are all of OpenTSDB's paths but /api/put.
func (a *API) Routes() []kemi.Route {
	one := func(path string, needs kemi.Permission, handle func(x *tsdhttp.Exchange) error, methods ...string) tsdhttp.Endpoint {
		e := tsdhttp.Endpoint{Path: path, Methods: map[string]tsdhttp.Method{}}
		for _, m := range methods {
			e.Methods[m] = tsdhttp.Method{Needs: needs, Handle: handle}
		}
		return e
	}
	const get, post, put, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	// edited is a thing that whoever may read reads, and whoever may write metrics changes.
	edited := func(path string, read, write func(x *tsdhttp.Exchange) error) tsdhttp.Endpoint {
		e := one(path, kemi.MetricsWrite, write, post, put, del)
		if read != nil {
			e.Methods[get] = tsdhttp.Method{Needs: kemi.MetricsRead, Handle: read}
		}
		e.Override = true
		return e
	}
	endpoints := append(a.o.Engine.Endpoints(),
		edited("annotation", a.getNote, a.changeNote), edited("annotations", a.listNotes, a.changeNote),
		edited("annotation/bulk", nil, a.bulk), edited("annotations/bulk", nil, a.bulk),
		one("uid/assign", kemi.MetricsWrite, a.assign, get, post), one("uid/rename", kemi.MetricsWrite, a.rename, get, post),
		edited("uid/uidmeta", a.getUIDMeta, a.changeUIDMeta), edited("uid/tsmeta", a.getTSMeta, a.changeTSMeta),
		edited("uid", otherUID, otherUID),
		a.search(),
		one("query/exp", kemi.MetricsRead, a.exp, get, post, del), one("query/gexp", kemi.MetricsRead, a.gexp, get, post, del),
		one("version", kemi.MetricsRead, a.version, get, post), one("config", kemi.MetricsRead, a.config, get, post),
		one("stats", kemi.Admin, a.stats, get, post), one("dropcaches", kemi.Admin, a.dropCaches, get, del),
		tsdhttp.Endpoint{Path: "put"}, // POST is collectors/push's: here are the methods that it does not have
		one("rollup", kemi.MetricsWrite, rollup, post), one("histogram", kemi.MetricsWrite, histogram, post),
	)
	return tsdhttp.Routes(endpoints)
}

// search is all of /api/search but lookup: what OpenTSDB has a plugin for.
func (a *API) search() tsdhttp.Endpoint {
	handle := func(x *tsdhttp.Exchange) error {
		words := pathWords(x)
		kind := ""
		if len(words) > 1 {
			kind = words[1]
		}
		switch kind {
		case "tsmeta", "tsmeta_summary", "tsuids", "uidmeta", "annotation":
			if b, err := x.Body(); err != nil || len(b) == 0 {
				if _, err := x.Required("query"); err != nil {
					return err
				}
			}
			return tsdhttp.Bad("Searching is not enabled", "use /api/search/lookup for series, /api/suggest for names, /api/annotations for annotations")
		}
		return tsdhttp.Bad("Invalid search query type supplied", "must be lookup")
	}
	m := tsdhttp.Method{Needs: kemi.MetricsRead, Handle: handle}
	return tsdhttp.Endpoint{Path: "search", Override: true, Methods: map[string]tsdhttp.Method{http.MethodGet: m, http.MethodPost: m}}
}

func otherUID(*tsdhttp.Exchange) error {
	return tsdhttp.NotImplemented("Other UID endpoints have not been implemented yet", "there are assign, rename, uidmeta and tsmeta")
}

func rollup(*tsdhttp.Exchange) error {
	return tsdhttp.Bad("One or more data points had errors", "rollups are made here from the points themselves: send those to /api/put")
}

func histogram(*tsdhttp.Exchange) error {
	return tsdhttp.Unavailable("Histogram storage has not been enabled. Check the 'tsd.core.histograms.config' configuration.",
		"histograms are taken as OTLP at /v1/metrics or by remote write at /api/v1/write")
}
