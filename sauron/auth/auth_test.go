package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/sqlite"
)

type fixture struct {
	*Authenticator
	t       *testing.T
	dir     string
	control *sqlite.DB
	now     time.Time
	dev     bool
	admin   string
}

func newFixture(t *testing.T, dev bool) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), dev: dev}
	var err error
	if f.control, err = sqlite.Open(filepath.Join(f.dir, "control.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.control.Close() })
	f.open()
	if f.admin, err = f.EnsureFile(t.Context(), AdminToken, "admin", f.file()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) file() string { return filepath.Join(f.dir, AdminTokenFile) }

// open reads the tokens anew, as after a restart.
func (f *fixture) open() {
	f.t.Helper()
	var err error
	f.Authenticator, err = New(context.Background(), Options{Control: f.control, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return f.now }, Dev: f.dev})
	if err != nil {
		f.t.Fatal(err)
	}
}

func request(method, target string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "http://127.0.0.1:7070"+target, nil)
	r.RemoteAddr = "127.0.0.1:5000"
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// do sends a request through the route that serves it, as sauron/api does.
func (f *fixture) do(r *http.Request) *httptest.ResponseRecorder {
	f.t.Helper()
	mux := http.NewServeMux()
	for _, route := range f.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			var id kemi.Identity
			if !route.Public {
				var err error
				if id, err = f.Authenticate(r); err == nil && !id.Can(route.Needs) {
					err = kemi.ErrDenied
				}
				if err != nil {
					kemi.WriteError(w, route.Dialect, err)
					return
				}
			}
			route.Handle(w, r, id)
		})
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

func (f *fixture) make(body string) (string, int) {
	f.t.Helper()
	r := request("POST", "/api/v2/tokens", "Authorization", "Bearer "+f.admin)
	r.Body = http.NoBody
	if body != "" {
		r = httptest.NewRequest("POST", "http://127.0.0.1:7070/api/v2/tokens", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+f.admin)
	}
	w := f.do(r)
	var v tokenView
	_ = json.Unmarshal(w.Body.Bytes(), &v)
	return v.Token, w.Code
}

func TestFirstStart(t *testing.T) {
	f := newFixture(t, false)
	if !strings.HasPrefix(f.admin, tokenPrefix) || len(f.admin) < 40 {
		t.Fatalf("token %q", f.admin)
	}
	info, err := os.Stat(f.file())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	f.open()
	again, err := f.EnsureFile(t.Context(), AdminToken, "admin", f.file())
	if err != nil || again != "" {
		t.Fatalf("the second start made a token: %v", err)
	}
	id, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+f.admin))
	if err != nil || id.Subject != "token:admin" || id.Project != DefaultProject || !id.Can(kemi.AllPermissions) {
		t.Fatalf("%+v %v", id, err)
	}
	// The file was lost: a new token, and the old one is void.
	if err := os.Remove(f.file()); err != nil {
		t.Fatal(err)
	}
	fresh, err := f.EnsureFile(t.Context(), AdminToken, "admin", f.file())
	if err != nil || fresh == "" {
		t.Fatal(err)
	}
	if _, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+f.admin)); !errors.Is(err, kemi.ErrUnauthorized) {
		t.Fatalf("the lost token still works: %v", err)
	}
	// The secret is nowhere in the data folder but in its file.
	for _, name := range []string{"control.db", "control.db-wal"} {
		b, err := os.ReadFile(filepath.Join(f.dir, name))
		if err == nil && strings.Contains(string(b), fresh) {
			t.Fatalf("%s holds the secret", name)
		}
	}
}

func TestCredentials(t *testing.T) {
	f := newFixture(t, false)
	basic := request("GET", "/")
	basic.SetBasicAuth("anybody", f.admin)
	for name, c := range map[string]struct {
		r    *http.Request
		want error
	}{
		"bearer":        {request("GET", "/", "Authorization", "Bearer "+f.admin), nil},
		"lower case":    {request("GET", "/", "Authorization", "bearer "+f.admin), nil},
		"basic":         {basic, nil},
		"influx 2":      {request("POST", "/api/v2/write", "Authorization", "Token "+f.admin), nil},
		"influx 1.8":    {request("POST", "/write", "Authorization", "Token kim:"+f.admin), nil},
		"influx 1":      {request("POST", "/write?u=kim&p="+f.admin), nil},
		"influx wrong":  {request("POST", "/write?u=kim&p=x"), kemi.ErrUnauthorized},
		"in the query":  {request("POST", "/api/put?u=kim&p="+f.admin), kemi.ErrUnauthorized},
		"keystone":      {request("GET", "/", "X-Auth-Token", f.admin), nil},
		"none":          {request("GET", "/"), kemi.ErrUnauthorized},
		"wrong":         {request("GET", "/", "Authorization", "Bearer kemi_x"), kemi.ErrUnauthorized},
		"empty":         {request("GET", "/", "Authorization", "Bearer "), kemi.ErrUnauthorized},
		"scheme":        {request("GET", "/", "Authorization", "Digest "+f.admin), kemi.ErrUnauthorized},
		"as cookie":     {request("GET", "/", "Cookie", cookieName+"="+f.admin), kemi.ErrUnauthorized},
		"other project": {request("GET", "/", "Authorization", "Bearer "+f.admin, "X-Kemi-Project", "blue"), nil},
		"bad project":   {request("GET", "/", "Authorization", "Bearer "+f.admin, "X-Kemi-Project", "../etc"), kemi.ErrInvalid},
		"the server's":  {request("GET", "/", "Authorization", "Bearer "+f.admin, "X-Kemi-Project", SystemProject), kemi.ErrInvalid},
	} {
		id, err := f.Authenticate(c.r)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err != nil && (id.Project != "" || id.Permissions != 0) {
			t.Errorf("%s: an identity with an error: %+v", name, id)
		}
	}
}

func TestDev(t *testing.T) {
	f := newFixture(t, true)
	if id, err := f.Authenticate(request("GET", "/")); err != nil || !id.Can(kemi.Admin) {
		t.Fatalf("%+v %v", id, err)
	}
	outside := request("GET", "/")
	outside.RemoteAddr = "10.0.0.7:1234"
	rebound := request("GET", "/")
	rebound.Host = "evil.example:7070"
	for name, r := range map[string]*http.Request{
		"from outside":   outside,
		"DNS rebinding":  rebound,
		"wrong token":    request("GET", "/", "Authorization", "Bearer kemi_x"),
		"another site":   request("POST", "/api/v2/tokens", "Origin", "http://evil.example"),
		"another site 2": request("POST", "/api/v2/tokens", "Sec-Fetch-Site", "cross-site"),
	} {
		if _, err := f.Authenticate(r); !errors.Is(err, kemi.ErrUnauthorized) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokens(t *testing.T) {
	f := newFixture(t, false)
	viewer, code := f.make(`{"name":"grafana","role":"viewer","project":"blue","expiresIn":"1h"}`)
	if code != http.StatusCreated || viewer == "" {
		t.Fatalf("%d", code)
	}
	id, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+viewer))
	if err != nil || id.Project != "blue" || !id.Can(kemi.MetricsRead) || id.Can(kemi.MetricsWrite) || id.Can(kemi.Admin) {
		t.Fatalf("%+v %v", id, err)
	}
	if _, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+viewer, "X-Kemi-Project", "default")); !errors.Is(err, kemi.ErrDenied) {
		t.Fatalf("a viewer of blue reads default: %v", err)
	}
	if w := f.do(request("GET", "/api/v2/tokens", "Authorization", "Bearer "+viewer)); w.Code != http.StatusForbidden {
		t.Fatalf("a viewer lists tokens: %d", w.Code)
	}
	w := f.do(request("GET", "/api/v2/tokens", "Authorization", "Bearer "+f.admin))
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), viewer) || strings.Contains(w.Body.String(), hashOf(viewer)) || !strings.Contains(w.Body.String(), "grafana") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	f.now = f.now.Add(61 * time.Minute)
	if _, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+viewer)); !errors.Is(err, kemi.ErrUnauthorized) {
		t.Fatalf("expired: %v", err)
	}
	agent, _ := f.make(`{"name":"a1","role":"agent"}`)
	if w := f.do(request("DELETE", "/api/v2/tokens/a1", "Authorization", "Bearer "+f.admin)); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	f.open()
	if _, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+agent)); !errors.Is(err, kemi.ErrUnauthorized) {
		t.Fatalf("deleted: %v", err)
	}
	for _, bad := range []string{
		``, `{`, `[]`, `{"name":"x"}`, `{"name":"x","role":"god"}`, `{"name":"","role":"viewer"}`, `{"name":"a b","role":"viewer"}`, `{"name":"admin","role":"viewer"}`,
		`{"name":"x","role":"viewer","project":"_system"}`, `{"name":"x","role":"viewer","expiresIn":"soon"}`, `{"name":"x","role":"viewer","expiresIn":"-1h"}`,
		`{"name":"x","role":"viewer","more":1}`, `{"name":"x","role":"viewer"}{}`,
	} {
		if token, code := f.make(bad); code != http.StatusBadRequest || token != "" {
			t.Errorf("%s: %d", bad, code)
		}
	}
}

func TestLogin(t *testing.T) {
	f := newFixture(t, false)
	login := func(token, next string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "http://127.0.0.1:7070/login", strings.NewReader(url.Values{"token": {token}, "next": {next}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		return f.do(r)
	}
	if w := f.do(request("GET", "/login?next=/x\"><script>")); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "<script>") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := login(f.admin, "/", "Origin", "http://evil.example"); w.Code != http.StatusForbidden {
		t.Fatalf("from another site: %d", w.Code)
	}
	w := login(f.admin, "//evil.example")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	set := w.Header().Get("Set-Cookie")
	for _, part := range []string{"HttpOnly", "SameSite=Strict", cookieName + "=" + tokenPrefix} {
		if !strings.Contains(set, part) {
			t.Errorf("cookie %q lacks %s", set, part)
		}
	}
	cookie, _, _ := strings.Cut(set, ";")
	f.open() // sessions survive a restart
	if id, err := f.Authenticate(request("GET", "/", "Cookie", cookie)); err != nil || id.Subject != "token:admin" {
		t.Fatalf("%+v %v", id, err)
	}
	if _, err := f.Authenticate(request("POST", "/api/v2/tokens", "Cookie", cookie, "Origin", "http://evil.example")); !errors.Is(err, kemi.ErrDenied) {
		t.Fatalf("cross-site with the cookie: %v", err)
	}
	_, secret, _ := strings.Cut(cookie, "=")
	if _, err := f.Authenticate(request("GET", "/", "Authorization", "Bearer "+secret)); !errors.Is(err, kemi.ErrUnauthorized) {
		t.Fatalf("a session as a bearer token: %v", err)
	}
	if w := f.do(request("POST", "/logout", "Cookie", cookie)); w.Code != http.StatusSeeOther {
		t.Fatalf("%d", w.Code)
	}
	if _, err := f.Authenticate(request("GET", "/", "Cookie", cookie)); !errors.Is(err, kemi.ErrUnauthorized) {
		t.Fatalf("after logout: %v", err)
	}
	var last int
	for range freeTries + 1 {
		last = login("kemi_wrong", "/").Code
	}
	if last != http.StatusTooManyRequests {
		t.Fatalf("after many failures: %d", last)
	}
	f.now = f.now.Add(blockFor + time.Second)
	if w := login(f.admin, "/x"); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/x" {
		t.Fatalf("later: %d", w.Code)
	}
}

func TestRolesNameEveryPermission(t *testing.T) {
	var all kemi.Permission
	for _, name := range RoleNames() {
		p, err := permissionsOf(name)
		if err != nil {
			t.Fatal(err)
		}
		all |= p
		if name != "admin" && p&(kemi.Admin|kemi.MetricsDelete|kemi.LogsDelete) != 0 {
			t.Errorf("%s may what only an admin may", name)
		}
	}
	if all != kemi.AllPermissions || len(strings.Split(kemi.AllPermissions.String(), ",")) != 19 {
		t.Errorf("permissions %s, %s", all, fmt.Sprint(kemi.AllPermissions))
	}
}
