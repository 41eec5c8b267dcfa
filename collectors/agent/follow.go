package agent

import "kemi/collectors/tail"

// Follow adds log files to c, as lines of its service.
func (c *Config) Follow(patterns ...string) {
	if len(patterns) > 0 {
		c.Logs = append(c.Logs, tail.Config{Paths: patterns, Service: c.Service})
	}
}
