package auth

import (
	_ "embed"
	"encoding/json"
	"html/template"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"kemi"
)

const (
	cookieName     = "kemi_session"
	sessionLength  = 12 * time.Hour
	maxRequestBody = 64 << 10
)

//go:embed login.html
var loginHTML string

var loginPage = template.Must(template.New("login").Parse(loginHTML))

// Routes are login, logout, who one is, and the tokens.
func (a *Authenticator) Routes() []kemi.Route {
	return []kemi.Route{
		{Pattern: "GET /login", Public: true, Handle: a.showLogin},
		{Pattern: "POST /login", Public: true, Handle: a.doLogin},
		{Pattern: "POST /logout", Handle: a.logout},
		{Pattern: "GET /api/v2/whoami", Handle: whoami},
		{Pattern: "GET /api/v2/tokens", Needs: kemi.Admin, Handle: a.listTokens},
		{Pattern: "POST /api/v2/tokens", Needs: kemi.Admin, Handle: a.createToken},
		{Pattern: "DELETE /api/v2/tokens/{name}", Needs: kemi.Admin, Handle: a.deleteToken},
	}
}

type loginView struct{ Error, Next string }

func (a *Authenticator) showLogin(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	a.renderLogin(w, http.StatusOK, loginView{Next: localPath(r.URL.Query().Get("next"))})
}

func (a *Authenticator) renderLogin(w http.ResponseWriter, status int, v loginView) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = loginPage.Execute(w, v)
}

// localPath keeps a redirect after login on this site.
func localPath(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, "\\") {
		return "/"
	}
	return next
}

func (a *Authenticator) doLogin(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
	peer, _, _ := net.SplitHostPort(r.RemoteAddr)
	view := loginView{Next: localPath(r.PostFormValue("next"))}
	if !sameOrigin(r) {
		view.Error = "This form was sent from another site."
		a.renderLogin(w, http.StatusForbidden, view)
		return
	}
	if wait := a.login.wait(peer); wait > 0 {
		w.Header().Set("Retry-After", "30")
		view.Error = "Too many failed attempts. Try again in half a minute."
		a.renderLogin(w, http.StatusTooManyRequests, view)
		return
	}
	t, ok := a.find(strings.TrimSpace(r.PostFormValue("token")))
	if !ok || t.Session {
		a.login.failed(peer)
		a.o.Log.Warn("login refused", "peer", peer)
		view.Error = "This token is not known or has expired."
		a.renderLogin(w, http.StatusUnauthorized, view)
		return
	}
	a.login.succeeded(peer)
	now := a.o.Now()
	s := token{
		Name: t.Name + "-" + now.UTC().Format("20060102T150405.000000000"), Role: t.Role, Project: t.Project, Parent: t.Name,
		Expires: kemi.MillisOf(now.Add(sessionLength)),
	}
	if t.Expires != 0 {
		s.Expires = min(s.Expires, t.Expires)
	}
	secret, err := a.create(r.Context(), s, sessionKind)
	if err != nil {
		kemi.WriteError(w, kemi.DialectKEMI, err)
		return
	}
	http.SetCookie(w, a.cookie(secret, int(sessionLength.Seconds())))
	http.Redirect(w, r, view.Next, http.StatusSeeOther)
}

func (a *Authenticator) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: a.o.Secure, SameSite: http.SameSiteStrictMode,
	}
}

func (a *Authenticator) logout(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	if secret, viaCookie := credential(r); viaCookie {
		if t, ok := a.find(secret); ok {
			a.mu.Lock()
			delete(a.byHash, t.Hash)
			a.mu.Unlock()
			if err := a.o.Control.Delete(r.Context(), SystemProject, sessionKind, t.Name, -1); err != nil {
				kemi.WriteError(w, kemi.DialectKEMI, err)
				return
			}
		}
	}
	http.SetCookie(w, a.cookie("", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func whoami(w http.ResponseWriter, _ *http.Request, id kemi.Identity) {
	kemi.WriteJSON(w, http.StatusOK, map[string]any{
		"subject": id.Subject, "project": id.Project, "permissions": strings.Split(id.Permissions.String(), ","),
	})
}

// tokenView is a token as the API shows it: without anything of its secret.
type tokenView struct {
	Name    string      `json:"name"`
	Role    string      `json:"role"`
	Project string      `json:"project"`
	Created kemi.Millis `json:"created"`
	Expires kemi.Millis `json:"expires,omitempty"`
	Token   string      `json:"token,omitempty"` // once, in the answer that made it
}

func (a *Authenticator) listTokens(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
	items := []tokenView{}
	a.mu.RLock()
	for _, t := range a.byHash {
		if !t.Session {
			items = append(items, tokenView{Name: t.Name, Role: t.Role, Project: t.Project, Created: t.Created, Expires: t.Expires})
		}
	}
	a.mu.RUnlock()
	slices.SortFunc(items, func(x, y tokenView) int { return strings.Compare(x.Name, y.Name) })
	kemi.WriteJSON(w, http.StatusOK, map[string]any{"items": items})
}

// tokenRequest asks for a token. ExpiresIn is a duration such as "720h"; without it the token does not expire.
type tokenRequest struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	Project   string `json:"project"`
	ExpiresIn string `json:"expiresIn"`
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (a *Authenticator) createToken(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	t, err := a.parseToken(w, r, id)
	if err == nil {
		var secret string
		if secret, err = a.create(r.Context(), t, tokenKind); err == nil {
			a.o.Log.Info("token made", "by", id.Subject, "name", t.Name, "role", t.Role, "project", t.Project)
			kemi.WriteJSON(w, http.StatusCreated, tokenView{Name: t.Name, Role: t.Role, Project: t.Project, Created: kemi.MillisOf(a.o.Now()), Expires: t.Expires, Token: secret})
			return
		}
	}
	kemi.WriteError(w, kemi.DialectKEMI, err)
}

func (a *Authenticator) parseToken(w http.ResponseWriter, r *http.Request, id kemi.Identity) (token, error) {
	var q tokenRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return token{}, kemi.Errorf(kemi.ErrInvalid, "body: %w; expected {\"name\", \"role\", \"project\", \"expiresIn\"}", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return token{}, kemi.Errorf(kemi.ErrInvalid, "body: more than one JSON value")
	}
	if q.Project == "" {
		q.Project = id.Project
	}
	t := token{Name: q.Name, Role: q.Role, Project: q.Project}
	switch {
	case !validName.MatchString(q.Name):
		return token{}, kemi.Errorf(kemi.ErrInvalid, "name: %.80q must match %s", q.Name, validName)
	case q.Name == AdminToken:
		return token{}, kemi.Errorf(kemi.ErrInvalid, "name: %q is the server's own", q.Name)
	case !validProject.MatchString(q.Project):
		return token{}, kemi.Errorf(kemi.ErrInvalid, "project: %.80q must match %s", q.Project, validProject)
	}
	if _, err := permissionsOf(q.Role); err != nil {
		return token{}, err
	}
	if q.ExpiresIn != "" {
		d, err := time.ParseDuration(q.ExpiresIn)
		if err != nil || d <= 0 {
			return token{}, kemi.Errorf(kemi.ErrInvalid, "expiresIn: %q is not a positive duration such as 720h", q.ExpiresIn)
		}
		t.Expires = kemi.MillisOf(a.o.Now().Add(d))
	}
	return t, nil
}

// The tokens that the server makes for itself at its first start, and their files in the data folder.
const (
	AdminToken     = "admin"
	AdminTokenFile = "admin.token"
	AgentToken     = "agent"
	AgentTokenFile = "agent.token"
)

func (a *Authenticator) deleteToken(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	name := r.PathValue("name")
	if err := a.remove(r.Context(), name); err != nil {
		kemi.WriteError(w, kemi.DialectKEMI, err)
		return
	}
	a.o.Log.Info("token deleted", "by", id.Subject, "name", name)
	w.WriteHeader(http.StatusNoContent)
}
