package kubesd

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

// apiServer speaks the part of the Kubernetes API that discovery uses: list and watch with resource versions, in JSON, narrowed by
// namespace and label selector. The real one is too large for this package's tests; what was watched against it stands in
// docs/decisions/0011.
type apiServer struct {
	*httptest.Server
	token string

	mu       sync.Mutex
	revision int
	objects  map[string]map[string]object // by plural, by namespace/name
	history  []event
	changed  chan struct{} // closed and made anew with each event
	gone     int           // watches from before this revision are refused
	denied   string        // plural that nobody may list
}

type object map[string]any

type event struct {
	plural   string
	revision int
	kind     string
	object   object
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{token: "t0ken", objects: map[string]map[string]object{}, changed: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Server.Close()
	})
	return s
}

func meta(o object, field string) string {
	m, _ := o["metadata"].(map[string]any)
	v, _ := m[field].(string)
	return v
}

func (s *apiServer) put(plural, text string) {
	var o object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(fmt.Sprintf("%v in %s", err, text))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[plural] == nil {
		s.objects[plural] = map[string]object{}
	}
	key := meta(o, "namespace") + "/" + meta(o, "name")
	kind := "ADDED"
	if s.objects[plural][key] != nil {
		kind = "MODIFIED"
	}
	s.objects[plural][key] = o
	s.tell(plural, kind, o)
}

func (s *apiServer) delete(plural, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[plural][key]
	if o == nil {
		panic("there is no " + plural + " " + key)
	}
	delete(s.objects[plural], key)
	s.tell(plural, "DELETED", o)
}

func (s *apiServer) tell(plural, kind string, o object) {
	s.revision++
	o["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(s.revision)
	copied := maps.Clone(o)
	copied["metadata"] = maps.Clone(o["metadata"].(map[string]any))
	s.history = append(s.history, event{plural, s.revision, kind, copied})
	close(s.changed)
	s.changed = make(chan struct{})
}

// lose makes all watches end and refuses to go on where they were, as a server does that has been away for long.
func (s *apiServer) lose() {
	s.mu.Lock()
	s.revision++
	s.gone = s.revision
	s.mu.Unlock()
	s.CloseClientConnections()
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code})
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.token {
		refuse(w, http.StatusUnauthorized, "Unauthorized", "who are you")
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	version := "v1"
	if parts[0] == "apis" {
		version = parts[1] + "/" + parts[2]
		parts = parts[1:]
	}
	parts = parts[2:]
	namespace := ""
	if len(parts) == 3 {
		namespace, parts = parts[1], parts[2:]
	}
	plural := parts[0]
	q := r.URL.Query()
	selector, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	mine := func(o object) bool {
		ls := labels.Set{}
		if m, ok := o["metadata"].(map[string]any)["labels"].(map[string]any); ok {
			for k, v := range m {
				ls[k] = v.(string)
			}
		}
		return (namespace == "" || meta(o, "namespace") == namespace) && selector.Matches(ls)
	}
	s.mu.Lock()
	denied := s.denied == plural
	s.mu.Unlock()
	switch {
	case denied:
		refuse(w, http.StatusForbidden, "Forbidden", plural+" is forbidden")
	case q.Get("sendInitialEvents") == "true":
		refuse(w, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is forbidden for watch")
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		s.watch(w, r, plural, version, mine)
	default:
		s.list(w, plural, version, mine)
	}
}

// kindNames are the kinds of the plurals.
var kindNames = map[string]string{
	"nodes": "Node", "namespaces": "Namespace", "pods": "Pod", "services": "Service", "endpoints": "Endpoints", "endpointslices": "EndpointSlice",
	"ingresses": "Ingress", "replicasets": "ReplicaSet", "jobs": "Job",
}

func typed(o object, plural, version string) object {
	o = maps.Clone(o)
	o["apiVersion"], o["kind"] = version, kindNames[plural]
	return o
}

func (s *apiServer) list(w http.ResponseWriter, plural, version string, mine func(object) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []object{}
	for _, key := range slices.Sorted(maps.Keys(s.objects[plural])) {
		if o := s.objects[plural][key]; mine(o) {
			items = append(items, typed(o, plural, version))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": kindNames[plural] + "List", "apiVersion": version, "metadata": map[string]any{"resourceVersion": strconv.Itoa(s.revision)}, "items": items,
	})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, plural, version string, mine func(object) bool) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	enc := json.NewEncoder(w)
	for {
		s.mu.Lock()
		if from < s.gone {
			s.mu.Unlock()
			_ = enc.Encode(map[string]any{"type": "ERROR", "object": map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"}})
			return
		}
		var events []event
		for _, e := range s.history {
			if e.plural == plural && e.revision > from && mine(e.object) {
				events = append(events, e)
			}
		}
		from = s.revision
		changed := s.changed
		s.mu.Unlock()
		for _, e := range events {
			if err := enc.Encode(map[string]any{"type": e.kind, "object": typed(e.object, plural, version)}); err != nil {
				return
			}
		}
		_ = flush.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}
