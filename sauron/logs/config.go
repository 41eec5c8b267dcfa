package logs

import (
	"time"

	"kemi"
)

// Config is what one question may cost, and how many may watch.
type Config struct {
	MaxRecords    int           `yaml:"maxRecords"`    // in one answer
	MaxStream     int           `yaml:"maxStream"`     // in one answer of JSON lines, which is not held in memory
	MaxBytes      int64         `yaml:"maxBytes"`      // of one answer: what is longer goes on on the next page
	MaxConcurrent int           `yaml:"maxConcurrent"` // questions answered at a time; others wait
	Timeout       time.Duration `yaml:"timeout"`       // to answer, waiting included

	MaxWatchers int   `yaml:"maxWatchers"` // who follow live
	WatchBytes  int64 `yaml:"watchBytes"`  // that wait for one of them; beyond it the oldest are dropped
}

// DefaultConfig is meant for a machine with a few gigabytes.
func DefaultConfig() Config {
	return Config{
		MaxRecords: 10_000, MaxStream: 1_000_000, MaxBytes: 64 << 20, MaxConcurrent: 16, Timeout: 50 * time.Second,
		MaxWatchers: 256, WatchBytes: 8 << 20,
	}
}

// Validate tells which value cannot be.
func (c Config) Validate() error {
	for _, v := range []struct {
		key   string
		value int64
	}{
		{"maxRecords", int64(c.MaxRecords)}, {"maxStream", int64(c.MaxStream)}, {"maxBytes", c.MaxBytes}, {"maxConcurrent", int64(c.MaxConcurrent)},
		{"timeout", int64(c.Timeout)}, {"maxWatchers", int64(c.MaxWatchers)}, {"watchBytes", c.WatchBytes},
	} {
		if v.value < 1 {
			return kemi.Errorf(kemi.ErrInvalid, "%s: %d: must be more than 0", v.key, v.value)
		}
	}
	return nil
}
