package promql

import (
	"time"

	"kemi"
)

// Config is what an operator may set.
type Config struct {
	// Timeout is how long a query may wait for a place, and how long it may then run.
	Timeout time.Duration `yaml:"timeout"`
	// MaxSamples is how many samples one query may hold in memory.
	MaxSamples int `yaml:"maxSamples"`
	// MaxSamplesRead is how many samples one query may read; 0 is no limit but the timeout.
	MaxSamplesRead uint64 `yaml:"maxSamplesRead"`
	// MaxSeries is how many series one query may select, all its selectors together.
	MaxSeries int `yaml:"maxSeries"`
	// Lookback is how old the last sample of a series may be to count as its present value.
	Lookback time.Duration `yaml:"lookback"`
	// SubqueryStep is the step of a subquery that names none.
	SubqueryStep time.Duration `yaml:"subqueryStep"`
	// MaxReadSamples is how many samples one remote read may take when it asks for samples (chunks are streamed, without limit).
	MaxReadSamples int `yaml:"maxReadSamples"`
	// CORSOrigin is a regular expression of the origins whose pages may read answers that they ask for with credentials of their own; "" is none.
	CORSOrigin string `yaml:"corsOrigin"`
}

// DefaultConfig is what holds where an operator says nothing: the values of Prometheus where it has them.
func DefaultConfig() Config {
	return Config{
		Timeout: 2 * time.Minute, MaxSamples: 50_000_000, MaxSeries: 2_000_000, Lookback: 5 * time.Minute,
		SubqueryStep: time.Minute, MaxReadSamples: 50_000_000, CORSOrigin: ".*",
	}
}

// Validate says what is wrong with c.
func (c Config) Validate() error {
	for _, f := range []struct {
		key string
		ok  bool
		val any
		say string
	}{
		{"timeout", c.Timeout > 0, c.Timeout, "must be positive, such as 2m"},
		{"maxSamples", c.MaxSamples > 0, c.MaxSamples, "must be positive, such as 50000000"},
		{"maxSeries", c.MaxSeries > 0, c.MaxSeries, "must be positive, such as 2000000"},
		{"lookback", c.Lookback >= time.Millisecond, c.Lookback, "must be at least 1ms, such as 5m"},
		{"subqueryStep", c.SubqueryStep >= time.Millisecond, c.SubqueryStep, "must be at least 1ms, such as 1m"},
		{"maxReadSamples", c.MaxReadSamples > 0, c.MaxReadSamples, "must be positive, such as 50000000"},
	} {
		if !f.ok {
			return kemi.Errorf(kemi.ErrInvalid, "%s: value %v: %s", f.key, f.val, f.say)
		}
	}
	if _, err := originPattern(c.CORSOrigin); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "corsOrigin: value %q: must be a regular expression such as https://grafana\\.example, or empty: %w", c.CORSOrigin, err)
	}
	return nil
}
