package query

import (
	"time"

	"kemi"
)

// Config is what one query may cost. A query that would cost more ends with an error that names the limit.
type Config struct {
	MaxSeries     int           `yaml:"maxSeries"`     // series read
	MaxSamples    int64         `yaml:"maxSamples"`    // samples read
	MaxPoints     int           `yaml:"maxPoints"`     // points in the answer
	MaxMemory     int64         `yaml:"maxMemory"`     // bytes held while answering
	MaxQueries    int           `yaml:"maxQueries"`    // queries in one request
	MaxConcurrent int           `yaml:"maxConcurrent"` // requests answered at a time; others wait
	Timeout       time.Duration `yaml:"timeout"`       // time to answer, waiting included
}

// DefaultConfig is meant for a machine with a few gigabytes.
func DefaultConfig() Config {
	return Config{
		MaxSeries: 200_000, MaxSamples: 1_000_000_000, MaxPoints: 2_000_000, MaxMemory: 512 << 20,
		MaxQueries: 64, MaxConcurrent: 16, Timeout: 50 * time.Second,
	}
}

// Validate tells which value cannot be.
func (c Config) Validate() error {
	for _, v := range []struct {
		key   string
		value int64
	}{
		{"maxSeries", int64(c.MaxSeries)}, {"maxSamples", c.MaxSamples}, {"maxPoints", int64(c.MaxPoints)}, {"maxMemory", c.MaxMemory},
		{"maxQueries", int64(c.MaxQueries)}, {"maxConcurrent", int64(c.MaxConcurrent)},
	} {
		if v.value < 1 {
			return kemi.Errorf(kemi.ErrInvalid, "%s: %d: must be at least 1", v.key, v.value)
		}
	}
	if c.Timeout <= 0 {
		return kemi.Errorf(kemi.ErrInvalid, "timeout: %s: must be a positive duration such as 50s", c.Timeout)
	}
	return nil
}
