package promql

import (
	"time"

	"kemi"
)

// Config is what an operator may set.
type Config struct {
	// Timeout is how long a query may run, its wait for a free place included.
	Timeout time.Duration `yaml:"timeout"`
	// MaxSamples is how many samples one query may hold in memory.
	MaxSamples int `yaml:"maxSamples"`
	// Concurrency is how many queries run at once.
	Concurrency int `yaml:"concurrency"`
	// Queue is how many more may wait; further ones are refused.
	Queue int `yaml:"queue"`
	// Lookback is how old the last sample of a series may be to count as its present value.
	Lookback time.Duration `yaml:"lookback"`
	// SubqueryStep is the step of a subquery that names none.
	SubqueryStep time.Duration `yaml:"subqueryStep"`
	// MaxReadSamples is how many samples one remote read may take when it asks for samples (chunks are streamed, without limit).
	MaxReadSamples int `yaml:"maxReadSamples"`
}

// DefaultConfig is what holds where an operator says nothing: the values of Prometheus.
func DefaultConfig() Config {
	return Config{
		Timeout: 2 * time.Minute, MaxSamples: 50_000_000, Concurrency: 20, Queue: 200, Lookback: 5 * time.Minute,
		SubqueryStep: time.Minute, MaxReadSamples: 50_000_000,
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
		{"concurrency", c.Concurrency > 0, c.Concurrency, "must be positive, such as 20"},
		{"queue", c.Queue >= 0, c.Queue, "must not be negative (0 refuses at once)"},
		{"lookback", c.Lookback >= time.Millisecond, c.Lookback, "must be at least 1ms, such as 5m"},
		{"subqueryStep", c.SubqueryStep >= time.Millisecond, c.SubqueryStep, "must be at least 1ms, such as 1m"},
		{"maxReadSamples", c.MaxReadSamples > 0, c.MaxReadSamples, "must be positive, such as 50000000"},
	} {
		if !f.ok {
			return kemi.Errorf(kemi.ErrInvalid, "%s: value %v: %s", f.key, f.val, f.say)
		}
	}
	return nil
}
