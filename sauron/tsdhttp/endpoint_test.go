package tsdhttp_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"kemi"
	"kemi/sauron/tsdhttp"
)

func serve(t *testing.T, id kemi.Identity) http.Handler {
	t.Helper()
	echo := func(what string) func(x *tsdhttp.Exchange) error {
		return func(x *tsdhttp.Exchange) error {
			b, err := x.Body()
			if err != nil {
				return err
			}
			return x.JSON([]string{what, x.Method, string(b)})
		}
	}
	endpoints := []tsdhttp.Endpoint{
		{Path: "thing", Override: true, Methods: map[string]tsdhttp.Method{
			"GET": {Needs: kemi.MetricsRead, Handle: echo("read")}, "DELETE": {Needs: kemi.MetricsWrite, Handle: echo("delete")},
			"POST": {Needs: kemi.MetricsRead, Handle: echo("post")},
		}},
		{Path: "thing/part", Methods: map[string]tsdhttp.Method{"GET": {Needs: kemi.MetricsRead, Handle: echo("part")}}},
		{Path: "elsewhere"},
	}
	mux := http.NewServeMux()
	for _, r := range tsdhttp.Routes(endpoints) {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) {
			if !id.Can(r.Needs) {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			r.Handle(w, req, id)
		})
	}
	return mux
}

func TestRoutes(t *testing.T) {
	h := serve(t, kemi.Identity{Subject: "t", Project: "p", Permissions: kemi.MetricsRead})
	for _, c := range []struct {
		method, target string
		code           int
		says           string
	}{
		{"GET", "/api/thing", 200, `["read","GET",""]`}, {"GET", "/api/v2/thing", 200, `["read","GET",""]`}, {"GET", "/api/thing/other", 200, `["read"`}, {"GET", "/api/THING/", 200, `["read"`},
		{"GET", "/api/thing/part", 200, `["part"`}, {"GET", "/api/thing/PART/more", 200, `["part"`}, {"GET", "/api/v2/Thing", 200, `["read"`},
		{"PUT", "/api/thing", 405, `The HTTP method [PUT] is not permitted for this endpoint`}, {"PATCH", "/api/v2/thing", 405, "Method not allowed"}, {"GET", "/api/elsewhere", 405, "Method not allowed"},
		{"GET", "/api/none", 404, `{"error":{"code":404,"message":"Endpoint not found"}}`}, {"GET", "/api/", 404, "Endpoint not found"}, {"GET", "/api/v2/none", 404, "no such path"}, {"GET", "/api/v1/thing", 404, "no such path"},
		{"DELETE", "/api/thing", 403, ""}, {"GET", "/api/thing?method_override=delete", 403, "lacks the permission metrics:write"}, {"DELETE", "/api/thing/x", 403, "lacks the permission metrics:write"},
		{"GET", "/api/thing?method_override=post", 200, `["post","POST"`}, {"GET", "/api/thing?method_override=", 405, "Missing method override value"}, {"GET", "/api/thing?method_override=x", 405, "Unknown or unsupported"},
		{"GET", "/api/thing/part?method_override=delete", 200, `["part"`}, {"GET", "/api/thing?serializer=json", 200, ""}, {"GET", "/api/thing?serializer=x", 400, "Could not find a serializer with the name: x"},
		{"GET", "/api/thing?jsonp=a.b$1", 200, `a.b$1(["read","GET",""])`}, {"GET", "/api/thing?jsonp=alert(1)//", 400, "must be the name of a function"}, {"GET", "/api/thing?%zz", 400, "Bad query string"},
		{"HEAD", "/api/thing", 200, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.target, nil))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.target, w.Code, w.Body, c.code, c.says)
		}
		if w.Code < 400 && (w.Header().Get("Content-Type") != "application/json; charset=UTF-8" || w.Header().Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s %s: %v", c.method, c.target, w.Header())
		}
	}
}

func TestBodies(t *testing.T) {
	h := serve(t, kemi.Identity{Subject: "t", Project: "p", Permissions: kemi.AllPermissions})
	packed := func(s string) io.Reader {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(s))
		_ = z.Close()
		return &b
	}
	for _, c := range []struct {
		name, encoding string
		body           io.Reader
		code           int
		says           string
	}{
		{"plain", "", strings.NewReader("hello"), 200, `["post","POST","hello"]`}, {"gzip", "gzip", packed("hello"), 200, `["post","POST","hello"]`},
		{"no gzip", "gzip", strings.NewReader("hello"), 400, "body is not gzip"}, {"half a gzip", "gzip", io.LimitReader(packed(strings.Repeat("hello", 1000)), 30), 400, "broken gzip"},
		{"unknown packing", "br", strings.NewReader("hello"), 400, "must be gzip or none"}, {"too large", "", strings.NewReader(strings.Repeat(" ", 4<<20+1)), 413, "4194304 bytes"},
		{"a bomb", "gzip", packed(strings.Repeat(" ", 4<<20+1)), 413, "4194304 bytes"},
	} {
		r := httptest.NewRequest("POST", "/api/thing", c.body)
		if c.encoding != "" {
			r.Header.Set("Content-Encoding", c.encoding)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %.200s, want %d %s", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
}
