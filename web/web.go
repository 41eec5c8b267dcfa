// Package web holds the page that people look at: a Svelte application in src, built by `make web` into dist, which is
// embedded here. It talks to the server's API only. Go code and Go tests do not need the build: without it the handler says
// how to make it.
package web

import (
	"bytes"
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed all:dist
var dist embed.FS

// csp lets the page load nothing but what this server serves. The charts set sizes through the DOM, which needs no inline style.
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

const notBuilt = `<!doctype html><title>KEMI</title><p>This binary was built without its web page. Run <code>make build</code> (it needs Node.js and npm)
and start it again. The API works all the same.</p>
`

// Handler serves the page. Files under /assets have their content's hash in the name and may be kept for ever.
func Handler() http.Handler {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		files = dist // cannot happen: the folder is embedded
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		if name == "" {
			name = "index.html"
		}
		b, err := fs.ReadFile(files, name)
		switch {
		case err != nil && name == "index.html":
			h.Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(notBuilt))
			return
		case err != nil || strings.HasPrefix(path.Base(name), "."):
			http.NotFound(w, r)
			return
		}
		if strings.HasPrefix(name, "assets/") {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(b))
	})
}
