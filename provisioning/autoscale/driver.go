package autoscale

import (
	"context"
	"encoding/json"
	"time"

	"kemi"
)

// Driver keeps pools of instances. All methods may be called concurrently, also for one group.
type Driver interface {
	// Instances are those of the group, oldest first; also those that are still stopping.
	Instances(ctx context.Context, g Group) ([]Instance, error)
	// Scale makes the group have n instances, configured as g says, and returns when that is under way. It is idempotent: it is
	// called again whenever the number differs, after a restart, and when the configuration has changed.
	Scale(ctx context.Context, g Group, n int) error
}

// What a driver may have besides.
type (
	// Checker refuses a configuration that cannot work, with ErrInvalid and the field, and returns it in full (with defaults).
	Checker interface {
		Check(config json.RawMessage) (json.RawMessage, error)
	}
	// Privileged is a driver whose configuration only some may write.
	Privileged interface{ Needs() kemi.Permission }
	// Redactor hides secrets in a configuration that is shown.
	Redactor interface {
		Redact(config json.RawMessage) json.RawMessage
	}
	// Keeper stops what it finds running that belongs to none of the groups; called once at the start.
	Keeper interface {
		Keep(ctx context.Context, groups []Group) error
	}
)

// Group is what a driver knows of a group.
type Group struct {
	Project, Name string
	Config        json.RawMessage
}

// The states of an instance.
const (
	Running  = "running"
	Starting = "starting"
	Waiting  = "waiting" // it ended by itself and is started again after a while
	Stopping = "stopping"
)

// Instance is a member of a pool.
type Instance struct {
	ID       string      `json:"id"`
	PID      int         `json:"pid,omitempty"`
	Started  kemi.Millis `json:"started,omitempty"`
	State    string      `json:"state"`
	Restarts int         `json:"restarts,omitempty"`
	Note     string      `json:"note,omitempty"` // how it last ended
}

// Querier answers PromQL: one value of an expression, false if there is none.
type Querier interface {
	Instant(ctx context.Context, id kemi.Identity, expr string, at time.Time) (float64, bool, error)
}
