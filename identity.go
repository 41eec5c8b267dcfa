package kemi

import "strings"

// Identity is who asks, and for which project. It is an explicit argument down to the stores; the zero Identity may do
// nothing and reads no project.
type Identity struct {
	Subject     string // "token:ci", "user:kim", "rule:high-load"
	Project     string // the one project that this request reads and writes
	Permissions Permission
}

// Can tells whether the identity has all of p.
func (id Identity) Can(p Permission) bool { return id.Permissions&p == p && id.Project != "" }

// Permission is a set of things that an identity may do within its project.
type Permission uint64

// The permissions. A route names the ones that it needs.
const (
	MetricsRead Permission = 1 << iota
	MetricsWrite
	LogsRead
	LogsWrite
	EventsRead
	EventsWrite
	IMSRead
	IMSWrite
	IMSRegister // an agent may register its own host and nothing else
	RulesRead
	RulesWrite
	AlertsRead
	AlertsWrite // silence and acknowledge
	GroupsRead
	GroupsWrite
	GroupsScale // change desired by hand
	Admin       // tokens, configuration, profiles, other projects
	MetricsDelete
	LogsDelete
	permissionEnd
	AllPermissions = permissionEnd - 1
)

var permissionNames = [...]string{
	"metrics:read", "metrics:write", "logs:read", "logs:write", "events:read", "events:write", "ims:read", "ims:write",
	"ims:register", "rules:read", "rules:write", "alerts:read", "alerts:write", "groups:read", "groups:write",
	"groups:scale", "admin", "metrics:delete", "logs:delete",
}

// String is the names of the permissions in p, with a comma between them.
func (p Permission) String() string {
	var names []string
	for i, n := range permissionNames {
		if p&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}
