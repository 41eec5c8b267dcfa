package query

import (
	"encoding/json"
	"net/http"
	"strconv"

	"kemi"
	"kemi/sauron/tsdhttp"
)

// Endpoints are OpenTSDB's paths that ask for data and names.
func (e *Engine) Endpoints() []tsdhttp.Endpoint {
	asks := func(path string, handle func(x *tsdhttp.Exchange) error) tsdhttp.Endpoint {
		m := tsdhttp.Method{Needs: kemi.MetricsRead, Handle: handle}
		return tsdhttp.Endpoint{Path: path, Methods: map[string]tsdhttp.Method{http.MethodGet: m, http.MethodPost: m}}
	}
	query := asks("query", e.serveQuery)
	query.Methods[http.MethodDelete] = tsdhttp.Method{Needs: kemi.MetricsRead | kemi.MetricsDelete, Handle: e.serveQuery}
	query.Override = true
	last := asks("query/last", e.serveLast)
	last.Methods[http.MethodDelete] = last.Methods[http.MethodGet] // it deletes nothing, but OpenTSDB answers it
	lookup := asks("search/lookup", e.serveLookup)
	lookup.Override = true
	lookup.Refuse = func(method string) error { return tsdhttp.Badf("Unsupported method: %s", method) }
	running := tsdhttp.Method{Needs: kemi.Admin, Handle: e.serveJournal}
	filters := func(x *tsdhttp.Exchange) error { return x.JSON(FilterTypes) }
	return []tsdhttp.Endpoint{
		{Path: "stats/query", Methods: map[string]tsdhttp.Method{http.MethodGet: running, http.MethodPost: running}},
		query, last, lookup, asks("suggest", e.serveSuggest), asks("config/filters", filters), asks("filters", filters),
		asks("aggregators", func(x *tsdhttp.Exchange) error { return x.JSON(Aggregators()) }),
	}
}

func (e *Engine) serveQuery(x *tsdhttp.Exchange) error {
	req, err := e.readQuery(x)
	if err != nil {
		return err
	}
	return e.Serve(x, &req)
}

func (e *Engine) readQuery(x *tsdhttp.Exchange) (req Request, err error) {
	if x.R.Method == http.MethodPost {
		var body []byte
		if body, err = x.Body(); err != nil {
			return req, err
		}
		if req, err = ParseJSON(body, e.o.Now()); err != nil {
			return req, err
		}
		req.Arrays = req.Arrays || isSet(x.Params, "arrays") // all else is said in the body
		req.Delete = req.Delete || isSet(x.Params, "delete")
	} else if req, err = ParseURL(x.Params, e.o.Now()); err != nil {
		return req, err
	}
	req.Delete = req.Delete || x.Method == http.MethodDelete
	req.Padding, err = x.Padding()
	return req, err
}

// Serve answers a request that was read.
func (e *Engine) Serve(x *tsdhttp.Exchange, req *Request) error {
	if req.Delete {
		if err := e.mayDelete(x.ID); err != nil {
			return err
		}
	}
	var (
		stats Stats
		err   error
	)
	entry := e.journal.begin(x, req, e.o.Now())
	defer func() { e.journal.done(entry, stats, err, e.o.Now()) }()
	err = e.serveRead(x, req, &stats)
	return err
}

func (e *Engine) serveRead(x *tsdhttp.Exchange, req *Request, stats *Stats) error {
	globals, err := e.Globals(x.R.Context(), x.ID, req)
	if err != nil {
		return err
	}
	var a arena
	defer a.release()
	results, cost, err := e.query(x.R.Context(), x.ID, *req, &a)
	*stats = cost
	if err != nil {
		return err
	}
	if req.ShowQuery {
		if err := e.numberKeys(x.R.Context(), x.ID, req); err != nil {
			return err
		}
	}
	if req.Delete {
		if err := e.delete(x.R.Context(), x.ID, req); err != nil {
			return err
		}
	}
	return e.WriteResults(x, req, results, globals, cost)
}

// WriteResults writes results and what they cost.
func (e *Engine) WriteResults(x *tsdhttp.Exchange, req *Request, results []Result, globals Globals, stats Stats) error {
	if s, err := json.Marshal(stats); err == nil {
		x.W.Header().Set("X-Kemi-Stats", string(s))
	}
	x.Head(http.StatusOK)
	if err := WriteJSON(x.W, req, results, globals, stats); err != nil {
		e.o.Log.Debug("write answer of a metric query", "err", err) // the client is gone: there is nobody to tell
	}
	return nil
}

// count reads a count of a parameter as Integer.parseInt does; empty is fallback.
func count(s string, fallback int) (int, bool) {
	if s == "" {
		return fallback, true
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil
}
