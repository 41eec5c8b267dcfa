package tsdhttp

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"kemi"
)

// Method is what an endpoint does for a method, and what it takes to be allowed to.
type Method struct {
	Needs  kemi.Permission
	Handle func(x *Exchange) error
}

// Endpoint is a path and its methods.
type Endpoint struct {
	Path    string // below /api/: "query", "query/last"
	Methods map[string]Method
	// Override says that a GET with the parameter method_override is as if it had that method.
	Override bool
	// Refuse is the error for a method that is not there; nil = NotAllowed.
	Refuse func(method string) error
}

// Routes are the routes of endpoints, and one for all else below /api/.
func Routes(endpoints []Endpoint) []kemi.Route {
	var routes []kemi.Route
	byPath := map[string]*Endpoint{}
	for i := range endpoints {
		e := &endpoints[i]
		byPath[e.Path] = e
		for _, method := range sortedMethods(e.Methods) {
			for _, prefix := range []string{"/api/", "/api/v2/"} {
				routes = append(routes, kemi.Route{
					Pattern: method + " " + prefix + e.Path, Needs: e.Methods[method].Needs, Dialect: kemi.DialectOpenTSDB,
					Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) { e.serve(w, r, id) },
				})
			}
		}
	}
	return append(routes, kemi.Route{Pattern: "/api/", Dialect: kemi.DialectOpenTSDB, Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
		e, ours := find(byPath, r.URL.Path)
		switch {
		case e != nil:
			e.serve(w, r, id)
		case ours:
			kemi.WriteError(w, kemi.DialectKEMI, kemi.Errorf(kemi.ErrNotFound, "no such path: %s %.200s", r.Method, r.URL.Path))
		default:
			WriteError(w, NotFound("Endpoint not found", ""))
		}
	}})
}

func sortedMethods(m map[string]Method) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// find finds the endpoint that OpenTSDB would: by the path's first two words or by its first one, in any case. A path with a version is another API's
// (ours) if it has no endpoint.
func find(endpoints map[string]*Endpoint, path string) (e *Endpoint, ours bool) {
	words := strings.Split(strings.Trim(strings.ToLower(path), "/"), "/")[1:]
	if len(words) > 0 && len(words[0]) > 1 && words[0][0] == 'v' && words[0][1] >= '0' && words[0][1] <= '9' {
		ours = true
		if words[0] != "v2" {
			return nil, true
		}
		words = words[1:]
	}
	for n := min(2, len(words)); n > 0; n-- {
		if e := endpoints[strings.Join(words[:n], "/")]; e != nil {
			return e, ours
		}
	}
	return nil, ours
}

// serve answers one request.
func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	x := &Exchange{W: w, R: r, ID: id, Method: r.Method}
	if err := e.answer(x); err != nil {
		WriteError(w, err)
	}
}

func (e *Endpoint) answer(x *Exchange) error {
	var err error
	if x.Params, err = url.ParseQuery(x.R.URL.RawQuery); err != nil {
		return Bad("Bad query string: "+err.Error(), "characters such as % and ; have to be escaped")
	}
	if s, ok := x.Last("serializer"); ok && s != "json" {
		return Bad("Requested serializer was not found", "Could not find a serializer with the name: "+Clip(s))
	}
	if x.Method == http.MethodHead {
		x.Method = http.MethodGet
	}
	if e.Override && x.Method == http.MethodGet && x.Params.Has("method_override") {
		switch m, _ := x.Last("method_override"); strings.ToLower(m) {
		case "get", "post", "put", "delete":
			x.Method = strings.ToUpper(m)
		case "":
			return &Error{Status: http.StatusMethodNotAllowed, Message: "Missing method override value", kind: kemi.ErrInvalid}
		default:
			return &Error{Status: http.StatusMethodNotAllowed, Message: "Unknown or unsupported method override value", Details: Clip(m) + ": must be get, post, put or delete", kind: kemi.ErrInvalid}
		}
	}
	m, ok := e.Methods[x.Method]
	if !ok {
		if e.Refuse != nil {
			return e.Refuse(x.Method)
		}
		return NotAllowed(x.Method)
	}
	if !x.ID.Can(m.Needs) { // the route asked for what the request's own method needs; here it may be another
		return kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", x.ID.Subject, m.Needs&^x.ID.Permissions)
	}
	return m.Handle(x)
}
