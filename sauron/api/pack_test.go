package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"kemi"
)

// TestPacked: large answers are packed for those who ask for it from elsewhere, and say the same.
func TestPacked(t *testing.T) {
	var text strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&text, `{"host":"web-%d"},`, i)
	}
	large := func(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text.String())
	}
	var log strings.Builder
	h := handler(t, &log,
		kemi.Route{Pattern: "GET /large", Public: true, Handle: large},
		kemi.Route{Pattern: "GET /small", Public: true, Handle: says("small")},
		kemi.Route{Pattern: "GET /stream", Public: true, Stream: true, Handle: large},
		kemi.Route{Pattern: "GET /bad", Public: true, Handle: fails(kemi.Errorf(kemi.ErrInvalid, "%s", text.String()))},
	)
	for _, c := range []struct {
		path, from, accept, encoding string
		code                         int
	}{
		{"/large", "192.0.2.1:1234", "gzip", "gzip", 200},
		{"/large", "[2001:db8::1]:1234", "gzip;q=0, zstd", "zstd", 200},
		{"/large", "192.0.2.1:1234", "gzip;q=0", "", 200},
		{"/large", "192.0.2.1:1234", "", "", 200},
		{"/large", "127.0.0.1:1234", "gzip", "", 200},
		{"/large", "[::ffff:127.0.0.1]:1234", "gzip", "", 200},
		{"/small", "192.0.2.1:1234", "gzip", "", 200},
		{"/stream", "192.0.2.1:1234", "gzip", "", 200},
		{"/bad", "192.0.2.1:1234", "gzip", "gzip", 400},
	} {
		r := httptest.NewRequest("GET", c.path, nil)
		r.RemoteAddr = c.from
		r.Header.Set("Accept-Encoding", c.accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || w.Header().Get("Content-Encoding") != c.encoding {
			t.Errorf("%s for %s from %s: %d %q", c.path, c.accept, c.from, w.Code, w.Header().Get("Content-Encoding"))
			continue
		}
		packed := w.Body.Len()
		var body io.Reader = w.Body
		var err error
		switch c.encoding {
		case "gzip":
			body, err = gzip.NewReader(w.Body)
		case "zstd":
			body, err = zstd.NewReader(w.Body)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		want := text.String()
		switch c.path {
		case "/small":
			want = "small"
		case "/bad":
			want = string(got) // of the error only a part is shown
			if !strings.Contains(want, "web-7") {
				t.Errorf("the error says %.200s", want)
			}
		}
		if string(got) != want || c.encoding != "" && packed*2 > len(got) {
			t.Errorf("%s for %s: %d bytes packed as %d, want %d", c.path, c.accept, len(got), packed, len(want))
		}
	}
}
