package promql

import (
	"net/http"
	"regexp"

	"kemi"
)

// allow lets pages of other origins read an answer, as Prometheus does (Fetch standard, CORS protocol). Only requests that bring their own credentials have
// it: a page cannot make a browser show it what a cookie, or a server that asks for none, would answer.
func (a *API) allow(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || a.cors == nil || r.Method != http.MethodOptions && r.Header.Get("Authorization") == "" && r.Header.Get("X-Auth-Token") == "" {
		return
	}
	h.Set("Access-Control-Allow-Headers", "Accept, Authorization, Content-Type, Origin, X-Auth-Token, X-Kemi-Project, X-Scope-OrgID")
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Expose-Headers", "Date, X-Kemi-Stats")
	switch {
	case a.cfg.CORSOrigin == ".*":
		h.Set("Access-Control-Allow-Origin", "*")
	case a.cors.MatchString(origin):
		h.Set("Access-Control-Allow-Origin", origin)
	}
}

// preflight answers what a browser asks before it asks.
func (a *API) preflight(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	a.allow(w, r)
	w.WriteHeader(http.StatusNoContent)
}

func originPattern(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, nil
	}
	return regexp.Compile("^(?:" + s + ")$")
}
