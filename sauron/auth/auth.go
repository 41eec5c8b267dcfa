package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// DefaultProject is where records belong when nobody says otherwise.
const DefaultProject = "default"

const (
	tokenKind   = "token"
	sessionKind = "session"
	tokenPrefix = "kemi_"
	// SystemProject is where the server keeps its own state, which belongs to no tenant. Its name cannot be asked for.
	SystemProject = "_system"
)

// Options are what an Authenticator works with. All but Dev are needed.
type Options struct {
	Control store.Control
	Log     *slog.Logger
	Now     func() time.Time
	// Dev makes every request from a loopback address an admin's. The server must listen on loopback only.
	Dev bool
	// Secure marks cookies for TLS only.
	Secure bool
}

// Authenticator finds identities. Its methods may be called concurrently.
type Authenticator struct {
	o      Options
	mu     sync.RWMutex
	byHash map[string]token // all tokens and sessions that are not expired; the store behind it is the truth
	login  *throttle
}

// token is a stored token or session.
type token struct {
	Name    string      `json:"name"`
	Hash    string      `json:"hash"`
	Role    string      `json:"role"`
	Project string      `json:"project"`
	Created kemi.Millis `json:"created"`
	Expires kemi.Millis `json:"expires,omitempty"` // 0: never
	Session bool        `json:"session,omitempty"`
	Parent  string      `json:"parent,omitempty"` // of a session: the token that opened it, and with which it ends
}

// New reads the tokens.
func New(ctx context.Context, o Options) (*Authenticator, error) {
	a := &Authenticator{o: o, byHash: map[string]token{}, login: newThrottle(o.Now)}
	for _, kind := range []string{tokenKind, sessionKind} {
		rs, err := o.Control.List(ctx, SystemProject, kind, store.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("read tokens: %w", err)
		}
		for _, r := range rs {
			var t token
			if err := json.Unmarshal(r.Spec, &t); err != nil {
				return nil, fmt.Errorf("read %s %s: %w", kind, r.Name, err)
			}
			if kind == sessionKind && t.Expires <= kemi.MillisOf(o.Now()) {
				if err := o.Control.Delete(ctx, SystemProject, kind, r.Name, r.Revision); err != nil {
					return nil, fmt.Errorf("delete the expired session %s: %w", r.Name, err)
				}
				continue
			}
			a.byHash[t.Hash] = t
		}
	}
	return a, nil
}

// EnsureFile makes sure that a token of that name and role exists and that the file holds it, mode 0600. It returns the secret if
// it was made now, else "". If the file was lost, the token is made anew and the old one is void.
func (a *Authenticator) EnsureFile(ctx context.Context, name, role, path string) (secret string, err error) {
	if b, err := os.ReadFile(path); err == nil {
		if t, ok := a.find(strings.TrimSpace(string(b))); ok && t.Name == name {
			return "", nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the token of %s: %w", name, err)
	}
	secret, err = a.create(ctx, token{Name: name, Role: role, Project: DefaultProject}, tokenKind)
	if err != nil {
		return "", err
	}
	if err := writeSecret(path, secret); err != nil {
		return "", fmt.Errorf("write the token of %s: %w", name, err)
	}
	return secret, nil
}

func writeSecret(path, secret string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func hashOf(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

func (a *Authenticator) find(secret string) (token, bool) {
	a.mu.RLock()
	t, ok := a.byHash[hashOf(secret)]
	a.mu.RUnlock()
	if !ok || t.Expires != 0 && t.Expires <= kemi.MillisOf(a.o.Now()) {
		return token{}, false
	}
	return t, true
}

// create stores t under a new secret. A token of the same name is replaced.
func (a *Authenticator) create(ctx context.Context, t token, kind string) (string, error) {
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	t.Hash, t.Created, t.Session = hashOf(secret), kemi.MillisOf(a.o.Now()), kind == sessionKind
	spec, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	r := store.Resource{Project: SystemProject, Kind: kind, Name: t.Name, Spec: spec, Revision: store.AnyRevision}
	if _, err := a.o.Control.Put(ctx, r); err != nil {
		return "", fmt.Errorf("store the token %s: %w", t.Name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for h, old := range a.byHash {
		if old.Name == t.Name && old.Session == t.Session {
			delete(a.byHash, h)
		}
	}
	a.byHash[t.Hash] = t
	return secret, nil
}

// remove deletes a token and the sessions that it opened.
func (a *Authenticator) remove(ctx context.Context, name string) error {
	if err := a.o.Control.Delete(ctx, SystemProject, tokenKind, name, store.AnyRevision); err != nil {
		return fmt.Errorf("delete the token %s: %w", name, err)
	}
	a.mu.Lock()
	var sessions []string
	for h, t := range a.byHash {
		if t.Name == name && !t.Session || t.Session && t.Parent == name {
			delete(a.byHash, h)
			if t.Session {
				sessions = append(sessions, t.Name)
			}
		}
	}
	a.mu.Unlock()
	for _, s := range sessions {
		if err := a.o.Control.Delete(ctx, SystemProject, sessionKind, s, store.AnyRevision); err != nil {
			return fmt.Errorf("delete the session %s: %w", s, err)
		}
	}
	return nil
}

// validProject is what a project may be called.
var validProject = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Authenticate finds who sent r, and for which project.
func (a *Authenticator) Authenticate(r *http.Request) (kemi.Identity, error) {
	id, err := a.subject(r)
	if err != nil {
		return kemi.Identity{}, err
	}
	want := r.Header.Get("X-Kemi-Project")
	if want == "" {
		want = r.Header.Get("X-Scope-OrgID")
	}
	if want == "" || want == id.Project {
		return id, nil
	}
	if !validProject.MatchString(want) {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrInvalid, "header X-Kemi-Project: %.80q is not a project's name (%s)", want, validProject)
	}
	if !id.Can(kemi.Admin) {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrDenied, "%s belongs to project %s and may not act in %s", id.Subject, id.Project, want)
	}
	id.Project = want
	return id, nil
}

func (a *Authenticator) subject(r *http.Request) (kemi.Identity, error) {
	secret, viaCookie := credential(r)
	if secret == "" {
		if a.o.Dev && fromLoopback(r) && sameOrigin(r) {
			return kemi.Identity{Subject: "dev", Project: DefaultProject, Permissions: kemi.AllPermissions}, nil
		}
		return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "no identity: send Authorization: Bearer <token>")
	}
	t, ok := a.find(secret)
	if !ok {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "the token is not known or has expired")
	}
	if t.Session != viaCookie {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "a session's secret is not a token")
	}
	if viaCookie && !sameOrigin(r) {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrDenied, "a request from another site may not use this session")
	}
	perms, err := permissionsOf(t.Role)
	if err != nil {
		return kemi.Identity{}, err
	}
	subject := "token:" + t.Name
	if t.Session {
		subject = "token:" + t.Parent
	}
	return kemi.Identity{Subject: subject, Project: t.Project, Permissions: perms}, nil
}

// credential is the secret that r carries: as a bearer token, as InfluxDB's "Token" (alone, or after a user's name and a colon), as the password of
// Basic, as X-Auth-Token, as the parameter p of InfluxDB 1, or in the session cookie.
func credential(r *http.Request) (secret string, viaCookie bool) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, rest, _ := strings.Cut(h, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(rest), false
		}
		if strings.EqualFold(scheme, "Token") {
			rest = strings.TrimSpace(rest)
			return rest[strings.LastIndexByte(rest, ':')+1:], false
		}
		if _, password, ok := r.BasicAuth(); ok {
			return password, false
		}
		return "-", false // a scheme that is not known is not "no identity"
	}
	if t := r.Header.Get("X-Auth-Token"); t != "" {
		return t, false
	}
	if path := strings.TrimPrefix(r.URL.Path, "/influx"); path == "/write" || path == "/query" {
		if p := r.URL.Query().Get("p"); p != "" {
			return p, false
		}
	}
	if c, err := r.Cookie(cookieName); err == nil && c.Value != "" {
		return c.Value, true
	}
	return "", false
}

// sameOrigin refuses what a browser sends on behalf of another site. Programs other than browsers send neither header. Reads are
// refused too, because a live stream or an answer must not be steered by others.
func sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "":
	default:
		return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate"
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	_, host, ok := strings.Cut(origin, "://")
	return ok && host == r.Host
}

// fromLoopback holds if the peer is this host and the name that it used is too: a name of somebody else that resolves to loopback (DNS
// rebinding) does not count.
func fromLoopback(r *http.Request) bool {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !isLoopback(peer) {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return isLoopback(strings.Trim(host, "[]"))
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
