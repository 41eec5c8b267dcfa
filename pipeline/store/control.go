package store

import (
	"context"
	"encoding/json"
	"io"

	"kemi"
)

// Resource is a piece of control state: a rule, a host, a group, a token, a decision, a notification to send. Spec is what
// somebody wants, Status what is. The key is Project, Kind, Name.
type Resource struct {
	Project  string          `json:"-"`
	Kind     string          `json:"kind"`
	Name     string          `json:"name"`
	Spec     json.RawMessage `json:"spec,omitempty"`
	Status   json.RawMessage `json:"status,omitempty"`
	Revision int64           `json:"revision"` // grows with each change in the store; 0 = not stored yet
	Updated  kemi.Millis     `json:"updated"`
}

// AnyRevision in Put and Delete means: whatever is there, or is not.
const AnyRevision = -1

// ListOptions narrows a List. Names are compared as bytes.
type ListOptions struct {
	Prefix  string // of the name
	After   string // only names after this one (before it, if Reverse): the next page
	Limit   int    // 0 = all
	Reverse bool   // descending
}

// Control keeps the control state. All methods may be called concurrently; each is atomic and durable when it returns.
type Control interface {
	// Get returns ErrNotFound if there is none.
	Get(ctx context.Context, project, kind, name string) (Resource, error)
	// Put stores r if the revision stored is still r.Revision (0: if there is none; AnyRevision: always), and returns it with its
	// new Revision and Updated. Otherwise ErrConflict.
	Put(ctx context.Context, r Resource) (Resource, error)
	// PutAll stores several, all or none.
	PutAll(ctx context.Context, rs []Resource) ([]Resource, error)
	// Delete removes it under the same condition; ErrNotFound if there is none.
	Delete(ctx context.Context, project, kind, name string, revision int64) error
	// List is ordered by name. An empty project means all projects: then by project and name.
	List(ctx context.Context, project, kind string, o ListOptions) ([]Resource, error)
	io.Closer
}
