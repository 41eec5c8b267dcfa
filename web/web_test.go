package web

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestHandler(t *testing.T) {
	w := get(t, "/")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "KEMI") {
		t.Fatalf("/: %d %s", w.Code, w.Body)
	}
	if c := w.Header().Get("Content-Security-Policy"); !strings.Contains(c, "default-src 'none'") || strings.Contains(c, "unsafe") {
		t.Errorf("policy %q", c)
	}
	for _, p := range []string{"/.gitkeep", "/../web.go", "/nothing", "/assets/"} {
		if w := get(t, p); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
}

// TestAssets holds where the page has been built: what the page names is there.
func TestAssets(t *testing.T) {
	b, err := fs.ReadFile(dist, "dist/index.html")
	if err != nil {
		t.Log("the page is not built; the handler says so instead")
		if w := get(t, "/"); !strings.Contains(w.Body.String(), "make build") {
			t.Fatalf("without a build: %s", w.Body)
		}
		return
	}
	n := 0
	for part := range strings.SplitSeq(string(b), `"`) {
		if strings.HasPrefix(part, "/assets/") {
			n++
			if w := get(t, part); w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
				t.Errorf("%s: %d, %v", part, w.Code, w.Header())
			}
		}
	}
	if n < 2 {
		t.Errorf("the page names %d assets, expected a script and a style", n)
	}
}
