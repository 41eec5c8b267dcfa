package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/pipeline/store"
)

const maxBody = 1 << 20

// Routes are the API of rules, receivers, alerts, silences and notifications.
func (w *Watcher) Routes() []kemi.Route {
	return []kemi.Route{
		{Pattern: "GET /api/v2/rules", Needs: kemi.RulesRead, Handle: w.list(kindRule)},
		{Pattern: "GET /api/v2/rules/{name}", Needs: kemi.RulesRead, Handle: w.get(kindRule)},
		{Pattern: "PUT /api/v2/rules/{name}", Needs: kemi.RulesWrite, Handle: w.put(w.putRule)},
		{Pattern: "DELETE /api/v2/rules/{name}", Needs: kemi.RulesWrite, Handle: w.remove(w.deleteRule)},
		{Pattern: "GET /api/v2/receivers", Needs: kemi.RulesRead, Handle: w.list(kindReceiver)},
		{Pattern: "GET /api/v2/receivers/{name}", Needs: kemi.RulesRead, Handle: w.get(kindReceiver)},
		{Pattern: "PUT /api/v2/receivers/{name}", Needs: kemi.RulesWrite, Handle: w.put(w.putReceiver)},
		{Pattern: "DELETE /api/v2/receivers/{name}", Needs: kemi.RulesWrite, Handle: w.remove(w.deleteReceiver)},
		{Pattern: "GET /api/v2/alerts", Needs: kemi.AlertsRead, Handle: w.active},
		{Pattern: "GET /api/v2/notifications", Needs: kemi.AlertsRead, Handle: w.notifications},
		{Pattern: "GET /api/v2/silences", Needs: kemi.AlertsRead, Handle: w.alertmanager},
		{Pattern: "POST /api/v2/silences", Needs: kemi.AlertsWrite, Handle: w.alertmanager},
		{Pattern: "GET /api/v2/silences/{id}", Needs: kemi.AlertsRead, Handle: w.alertmanager},
		{Pattern: "DELETE /api/v2/silences/{id}", Needs: kemi.AlertsWrite, Handle: w.alertmanager},
		{Pattern: "GET /alertmanager/api/v2/", Needs: kemi.AlertsRead, Handle: w.alertmanager},
		{Pattern: "POST /alertmanager/api/v2/", Needs: kemi.AlertsWrite, Handle: w.alertmanager},
		{Pattern: "DELETE /alertmanager/api/v2/", Needs: kemi.AlertsWrite, Handle: w.alertmanager},
		{Pattern: "GET /api/v1/rules", Needs: kemi.RulesRead, Dialect: kemi.DialectPrometheus, Handle: w.promRulesView},
		{Pattern: "GET /api/v1/alerts", Needs: kemi.AlertsRead, Dialect: kemi.DialectPrometheus, Handle: w.promAlertsView},
	}
}

// resource is a stored rule or receiver as the API shows it.
type resource struct {
	Kind     string          `json:"kind"`
	Metadata metadata        `json:"metadata"`
	Spec     json.RawMessage `json:"spec"`
}

type metadata struct {
	Name     string      `json:"name"`
	Revision int64       `json:"revision"`
	Updated  kemi.Millis `json:"updated"`
}

var kindNames = map[string]string{kindRule: "AlertRule", kindReceiver: "Receiver"}

func view(r store.Resource) (resource, error) {
	v := resource{Kind: kindNames[r.Kind], Metadata: metadata{Name: r.Name, Revision: r.Revision, Updated: r.Updated}, Spec: r.Spec}
	if r.Kind != kindReceiver {
		return v, nil
	}
	var s receiverSpec
	if err := json.Unmarshal(r.Spec, &s); err != nil {
		return v, fmt.Errorf("receiver %s: %w", r.Name, err)
	}
	if s.Webhook != nil && s.Webhook.Secret != "" {
		s.Webhook.Secret = hidden
	}
	var err error
	v.Spec, err = json.Marshal(s)
	return v, err
}

func etag(revision int64) string { return strconv.Quote(strconv.FormatInt(revision, 10)) }

func (w *Watcher) answer(rw http.ResponseWriter, status int, r store.Resource, err error) {
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	v, err := view(r)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	rw.Header().Set("ETag", etag(r.Revision))
	kemi.WriteJSON(rw, status, v)
}

func (w *Watcher) list(kind string) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
		limit, err := limitOf(r, 100, 1000)
		if err != nil {
			kemi.WriteError(rw, kemi.DialectKEMI, err)
			return
		}
		rs, err := w.o.Control.List(r.Context(), id.Project, kind, store.ListOptions{After: r.URL.Query().Get("after"), Limit: limit})
		if err != nil {
			kemi.WriteError(rw, kemi.DialectKEMI, err)
			return
		}
		page := struct {
			Items []resource `json:"items"`
			Next  string     `json:"next,omitempty"`
		}{Items: []resource{}}
		for _, x := range rs {
			v, err := view(x)
			if err != nil {
				kemi.WriteError(rw, kemi.DialectKEMI, err)
				return
			}
			page.Items = append(page.Items, v)
		}
		if len(rs) == limit {
			page.Next = rs[len(rs)-1].Name
		}
		kemi.WriteJSON(rw, http.StatusOK, page)
	}
}

func limitOf(r *http.Request, standard, most int) (int, error) {
	s := r.URL.Query().Get("limit")
	if s == "" {
		return standard, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, kemi.Errorf(kemi.ErrInvalid, "limit: %.20q is not a number from 1 to %d", s, most)
	}
	return n, nil
}

func (w *Watcher) get(kind string) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
		x, err := w.o.Control.Get(r.Context(), id.Project, kind, r.PathValue("name"))
		w.answer(rw, http.StatusOK, x, err)
	}
}

// put takes a resource {kind, metadata, spec} or the bare spec, in JSON or YAML. If-Match makes the change conditional.
func (w *Watcher) put(store func(ctx context.Context, project, name string, spec []byte, revision int64) (store.Resource, error)) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
		name := r.PathValue("name")
		spec, err := specOf(http.MaxBytesReader(rw, r.Body, maxBody), name)
		if err != nil {
			kemi.WriteError(rw, kemi.DialectKEMI, err)
			return
		}
		revision, err := ifMatch(r)
		if err != nil {
			kemi.WriteError(rw, kemi.DialectKEMI, err)
			return
		}
		x, err := store(r.Context(), id.Project, name, spec, revision)
		if err == nil {
			w.o.Log.Info("stored", "kind", x.Kind, "name", name, "project", id.Project, "by", id.Subject)
		}
		w.answer(rw, http.StatusOK, x, err)
	}
}

func ifMatch(r *http.Request) (int64, error) {
	s := r.Header.Get("If-Match")
	if s == "" || s == "*" {
		return store.AnyRevision, nil
	}
	n, err := strconv.ParseInt(strings.Trim(s, `"`), 10, 64)
	if err != nil || n < 0 {
		return 0, kemi.Errorf(kemi.ErrInvalid, "header If-Match: %.40q is not an ETag of ours", s)
	}
	return n, nil
}

// specOf is the spec of a body that is a whole resource, or the body itself.
func specOf(body io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
	}
	var whole map[string]yaml.Node
	if err := yaml.Unmarshal(b, &whole); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
	}
	spec, ok := whole["spec"]
	if !ok {
		return b, nil
	}
	var m struct {
		Name string `yaml:"name"`
	}
	if n, ok := whole["metadata"]; ok {
		if err := n.Decode(&m); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "metadata: %w", err)
		}
	}
	if m.Name != "" && m.Name != name {
		return nil, kemi.Errorf(kemi.ErrInvalid, "metadata.name: %.80q is not the name in the path, %q", m.Name, name)
	}
	return yaml.Marshal(&spec)
}

func (w *Watcher) remove(f func(ctx context.Context, project, name string) error) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
		if err := f(r.Context(), id.Project, r.PathValue("name")); err != nil {
			kemi.WriteError(rw, kemi.DialectKEMI, err)
			return
		}
		w.o.Log.Info("deleted", "path", r.URL.Path, "project", id.Project, "by", id.Subject)
		rw.WriteHeader(http.StatusNoContent)
	}
}

func (w *Watcher) active(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
	t, err := w.tenant(r.Context(), id.Project)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	kemi.WriteJSON(rw, http.StatusOK, map[string]any{"items": t.notify.Active(r.Context())})
}

func (w *Watcher) notifications(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
	limit, err := limitOf(r, 100, 1000)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	t, err := w.tenant(r.Context(), id.Project)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	ms, err := t.notify.Messages(r.Context(), limit)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	for i := range ms {
		ms[i].URL = "" // it may hold a secret
	}
	kemi.WriteJSON(rw, http.StatusOK, map[string]any{"items": ms})
}

// alertmanager answers by the project's Alertmanager, also on our own spelling of its paths.
func (w *Watcher) alertmanager(rw http.ResponseWriter, r *http.Request, id kemi.Identity) {
	t, err := w.tenant(r.Context(), id.Project)
	if err != nil {
		kemi.WriteError(rw, kemi.DialectKEMI, err)
		return
	}
	r = r.Clone(r.Context())
	r.Body = http.MaxBytesReader(rw, r.Body, maxBody)
	if rest, ok := strings.CutPrefix(r.URL.Path, "/api/v2/silences"); ok {
		r.URL.Path = "/alertmanager/api/v2/silences"
		if rest != "" {
			r.URL.Path = "/alertmanager/api/v2/silence" + rest
		}
		r.URL.RawPath = ""
	}
	t.notify.ServeHTTP(rw, r)
}
