//go:build !upstream

package kubesd

import "github.com/prometheus/prometheus/discovery"

// Upstream's configuration learns of a kind of discovery when it is linked; its types are put together at the first use. (Beside
// upstream's own package of the same name, which the build tag is for, it would be the second.)
func init() { discovery.RegisterConfig(&Config{}) }
