// Package resource is how the resources of this room are spoken of over HTTP: declarative objects with kind, metadata, spec and
// status; conditional changes by ETag; lists in pages. What a spec means is its owner's.
package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/pipeline/store"
)

// Object is a resource as people see it. Spec is what somebody wants, Status what is.
type Object struct {
	Kind     string   `json:"kind"`
	Metadata Metadata `json:"metadata"`
	Spec     any      `json:"spec"`
	Status   any      `json:"status,omitempty"`
}

// Metadata names an object. Revision is that of the spec; it is also the ETag.
type Metadata struct {
	Name     string      `json:"name"`
	Revision int64       `json:"revision"`
	Updated  kemi.Millis `json:"updated,omitempty"`
}

// Page is a part of a list; Next, if it is not empty, is the "after" of the next page.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Write answers with o and its ETag.
func Write(w http.ResponseWriter, status int, o Object) {
	w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(o.Metadata.Revision, 10)))
	kemi.WriteJSON(w, status, o)
}

// maxBody is the largest body of a request.
const maxBody = 1 << 20

// ReadSpec reads the spec from the body of a PUT: a whole object {kind, metadata, spec, status}, of which status is passed over, or just
// the spec; in JSON, or in YAML if Content-Type says so.
func ReadSpec(w http.ResponseWriter, r *http.Request, kind, name string) (json.RawMessage, error) {
	b, err := ReadJSON(w, r)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil || fields == nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: must be an object: {\"spec\": {…}} or the spec itself")
	}
	spec, whole := fields["spec"]
	_, hasKind := fields["kind"]
	_, hasMeta := fields["metadata"]
	switch {
	case !whole && (hasKind || hasMeta):
		return nil, kemi.Errorf(kemi.ErrInvalid, "spec: missing beside kind and metadata")
	case !whole:
		return b, nil
	}
	var head struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Metadata   json.RawMessage `json:"metadata"`
		Spec       json.RawMessage `json:"spec"`
		Status     json.RawMessage `json:"status"`
	}
	if err := Decode(b, &head, ""); err != nil {
		return nil, err
	}
	var meta struct {
		Name string `json:"name"`
	}
	if head.Metadata != nil {
		if err := json.Unmarshal(head.Metadata, &meta); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "metadata: must be an object with the string name")
		}
	}
	if head.Kind != "" && head.Kind != kind {
		return nil, kemi.Errorf(kemi.ErrInvalid, "kind: %.80q; here it must be %q", head.Kind, kind)
	}
	if meta.Name != "" && meta.Name != name {
		return nil, kemi.Errorf(kemi.ErrInvalid, "metadata.name: %.80q is not the name in the path, %q", meta.Name, name)
	}
	return spec, nil
}

// ReadJSON reads a body of one JSON value, or of YAML if Content-Type says so, which it gives as JSON.
func ReadJSON(w http.ResponseWriter, r *http.Request) (json.RawMessage, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, kemi.Errorf(kemi.ErrTooLarge, "body: more than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: empty")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && strings.HasSuffix(t, "yaml") {
		var v any
		if err := yaml.Unmarshal(b, &v); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
		}
		if b, err = json.Marshal(v); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
		}
		return b, nil
	}
	var v json.RawMessage
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: not JSON: %w (for YAML send Content-Type: application/yaml)", err)
	}
	return v, nil
}

// Decode reads b into v, strictly: unknown fields and wrong types are errors that name the field, with prefix before it.
func Decode(b []byte, v any, prefix string) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	at := func(field string) string { return strings.Trim(prefix+"."+field, ".") }
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return kemi.Errorf(kemi.ErrInvalid, "%s: is a JSON %s, must be %s", at(wrong.Field), wrong.Value, plainType(wrong.Type.Kind().String()))
	}
	if err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			if unquoted, err := strconv.Unquote(name); err == nil {
				name = unquoted
			}
			return kemi.Errorf(kemi.ErrInvalid, "%s: there is no such field", at(name))
		}
		return kemi.Errorf(kemi.ErrInvalid, "%s: %w", at(""), err)
	}
	return nil
}

func plainType(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return "a whole number"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	case kind == "struct", kind == "map":
		return "an object"
	case kind == "slice", kind == "array":
		return "a list"
	case kind == "bool":
		return "true or false"
	}
	return "a " + kind
}

// Condition is the revision that the headers If-Match and If-None-Match ask for, as store.Control takes it.
func Condition(r *http.Request) (int64, error) {
	if r.Header.Get("If-None-Match") == "*" {
		return 0, nil
	}
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

// Query reads the parameters of a list: limit and after, and the others that are named. An unknown one is an error: passed over, it would
// answer more than was asked for.
func Query(r *http.Request, others ...string) (limit int, after string, q url.Values, err error) {
	const standard, most = 100, 1000
	q, err = url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return 0, "", nil, kemi.Errorf(kemi.ErrInvalid, "query string: %w", err)
	}
	known := append([]string{"limit", "after"}, others...)
	for name := range q {
		if !slices.Contains(known, name) {
			return 0, "", nil, kemi.Errorf(kemi.ErrInvalid, "parameter %.80q: not known here; there are %s", name, strings.Join(known, ", "))
		}
	}
	limit = standard
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > most {
			return 0, "", nil, kemi.Errorf(kemi.ErrInvalid, "limit: %.20q is not a number from 1 to %d", s, most)
		}
	}
	return limit, q.Get("after"), q, nil
}

var name = regexp.MustCompile(`^[\p{L}\p{N}_]([\p{L}\p{N}_.:-]{0,251}[\p{L}\p{N}_])?$`)

// CheckName refuses what is no name of a resource: it goes into paths, labels and environment variables.
func CheckName(field, s string) error {
	if len(s) > 253 || !name.MatchString(s) {
		return kemi.Errorf(kemi.ErrInvalid, "%s: %.80q must be at most 253 bytes of letters, digits, '_', '.', ':' and '-', beginning and ending with a letter, a digit or '_'", field, s)
	}
	return nil
}
