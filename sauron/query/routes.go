package query

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"kemi"
)

// maxBody is the largest request that is read, unpacked.
const maxBody = 4 << 20

// Routes are OpenTSDB's paths under /api and /api/v2.
func (e *Engine) Routes() []kemi.Route {
	var routes []kemi.Route
	add := func(methods, path string, handle func(http.ResponseWriter, *http.Request, kemi.Identity) error) {
		for _, m := range strings.Fields(methods) {
			for _, prefix := range []string{"/api/", "/api/v2/"} {
				routes = append(routes, kemi.Route{
					Pattern: m + " " + prefix + path, Needs: kemi.MetricsRead, Dialect: kemi.DialectOpenTSDB,
					Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
						if err := handle(w, r, id); err != nil {
							kemi.WriteError(w, kemi.DialectOpenTSDB, err)
						}
					},
				})
			}
		}
	}
	add("GET POST", "query", e.serveQuery)
	add("DELETE", "query", func(http.ResponseWriter, *http.Request, kemi.Identity) error { return errDelete() })
	add("GET POST", "query/last", e.serveLast)
	add("GET POST", "suggest", e.serveSuggest)
	add("GET POST", "search/lookup", e.serveLookup)
	add("GET POST", "aggregators", func(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) error {
		return write(w, Aggregators())
	})
	filters := func(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) error { return write(w, FilterTypes) }
	add("GET POST", "config/filters", filters)
	add("GET POST", "filters", filters)
	add("GET POST", "version", func(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) error {
		return write(w, map[string]string{ // the version is that of the protocol, the revision is ours
			"version": "2.4.1", "short_revision": e.o.Version, "full_revision": e.o.Version, "repo": "KEMI", "repo_status": "MINT",
			"branch": "", "host": "", "user": "", "timestamp": "",
		})
	})
	return routes
}

func write(w http.ResponseWriter, v any) error {
	kemi.WriteJSON(w, http.StatusOK, v)
	return nil
}

func (e *Engine) serveQuery(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	params, err := params(r)
	if err != nil {
		return err
	}
	var req Request
	if r.Method == http.MethodPost {
		var body []byte
		if body, err = readBody(w, r); err != nil {
			return err
		}
		if isSet(params, "delete") {
			return errDelete()
		}
		req, err = ParseJSON(body, e.o.Now())
		req.setFlags(params)
	} else {
		req, err = ParseURL(params, e.o.Now())
	}
	if err != nil {
		return err
	}
	results, stats, err := e.Query(r.Context(), id, req)
	if err != nil {
		return err
	}
	h := w.Header()
	if s, err := json.Marshal(stats); err == nil {
		h.Set("X-Kemi-Stats", string(s))
	}
	h.Set("Content-Type", "application/json; charset=UTF-8")
	if err := WriteJSON(w, &req, results, stats); err != nil {
		e.o.Log.Debug("write answer of a metric query", "err", err) // the client is gone: there is nobody to tell
	}
	return nil
}

// params are the URL's, which may hold what a browser would escape.
func params(r *http.Request) (url.Values, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "Bad request: query string %s: %w", clip(r.URL.RawQuery), err)
	}
	return v, nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := func() error {
		return kemi.Errorf(kemi.ErrTooLarge, "the request is larger than %d bytes: send several smaller ones", maxBody)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if len(raw) >= maxBody {
			return nil, tooLarge()
		}
		return nil, kemi.Errorf(kemi.ErrInvalid, "read the request's body: %w", err)
	}
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
		return raw, nil
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "body is not gzip, as Content-Encoding says: %w", err)
		}
		raw, err = io.ReadAll(io.LimitReader(z, maxBody+1))
		switch {
		case err != nil:
			return nil, kemi.Errorf(kemi.ErrInvalid, "body is broken gzip: %w", err)
		case len(raw) > maxBody:
			return nil, tooLarge()
		}
		return raw, nil
	default:
		return nil, kemi.Errorf(kemi.ErrInvalid, "Content-Encoding %q: must be gzip or none", clip(enc))
	}
}

// object reads the JSON body of a POST, or nothing of a GET.
func object(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	return decodeJSON(body, into)
}

// positive reads a count; empty is fallback.
func positive(field, s string, fallback, most int) (int, error) {
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, kemi.Errorf(kemi.ErrInvalid, "Unable to parse '%s' as a number: %q: must be from 0 to %d", field, clip(s), most)
	}
	if n == 0 {
		return fallback, nil
	}
	return n, nil
}
