package auth

import (
	"maps"
	"slices"
	"strings"

	"kemi"
)

// roles are the permissions of each role within the project of the token.
var roles = map[string]kemi.Permission{
	"admin":  kemi.AllPermissions,
	"editor": kemi.AllPermissions &^ (kemi.Admin | kemi.MetricsDelete | kemi.LogsDelete),
	"viewer": kemi.MetricsRead | kemi.LogsRead | kemi.EventsRead | kemi.IMSRead | kemi.RulesRead | kemi.AlertsRead | kemi.GroupsRead,
	"agent":  kemi.MetricsWrite | kemi.LogsWrite | kemi.IMSRegister,
}

// RoleNames are the roles that there are.
func RoleNames() []string { return slices.Sorted(maps.Keys(roles)) }

func permissionsOf(role string) (kemi.Permission, error) {
	p, ok := roles[role]
	if !ok {
		return 0, kemi.Errorf(kemi.ErrInvalid, "role: %q is not one of %s", role, strings.Join(RoleNames(), ", "))
	}
	return p, nil
}
