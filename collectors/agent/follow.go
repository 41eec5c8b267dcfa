package agent

import (
	"path/filepath"

	"kemi/collectors/tail"
)

// Follow adds log files to c, as lines of its service. A relative pattern begins at the working folder.
func (c *Config) Follow(patterns ...string) {
	paths := make([]string, len(patterns))
	for i, p := range patterns {
		paths[i] = p
		if abs, err := filepath.Abs(p); err == nil {
			paths[i] = abs
		}
	}
	if len(paths) > 0 {
		c.Logs = append(c.Logs, tail.Config{Paths: paths, Service: c.Service})
	}
}
