package statsd

import (
	"errors"
	"fmt"
	"time"

	"kemi"
	"kemi/collectors/listen"
)

// Config is what can be set about the receiver.
type Config struct {
	listen.Config `yaml:",inline"`

	// FlushInterval is how often the sums are written.
	FlushInterval time.Duration `yaml:"flushInterval"`
	// Expire is how long a metric is written after nobody has mentioned it.
	Expire time.Duration `yaml:"expire"`
	// MaxSeries is how many different metrics (name and tags) there may be at a time.
	MaxSeries int `yaml:"maxSeries"`
	// Timers is what timers, histograms and distributions become: summary or histogram (native).
	Timers string `yaml:"timers"`
	// Quantiles are those of a summary.
	Quantiles []float64 `yaml:"quantiles,flow"`
}

// DefaultConfig is off; were it on, it would flush each 10 s.
func DefaultConfig() Config {
	return Config{
		Config: listen.DefaultConfig(), FlushInterval: 10 * time.Second, Expire: 10 * time.Minute, MaxSeries: 100_000,
		Timers: "summary", Quantiles: []float64{0.5, 0.9, 0.95, 0.99},
	}
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	errs := []error{c.Config.Validate()}
	bad := func(format string, args ...any) { errs = append(errs, kemi.Errorf(kemi.ErrInvalid, format, args...)) }
	if c.FlushInterval < 100*time.Millisecond || c.FlushInterval > time.Hour {
		bad("flushInterval: %s: must be between 100ms and 1h", c.FlushInterval)
	}
	if c.Expire < c.FlushInterval {
		bad("expire: %s: must not be less than flushInterval (%s)", c.Expire, c.FlushInterval)
	}
	if c.MaxSeries <= 0 {
		bad("maxSeries: %d: must be more than 0", c.MaxSeries)
	}
	if c.Timers != "summary" && c.Timers != "histogram" {
		bad("timers: %q: must be summary or histogram", c.Timers)
	}
	for _, q := range c.Quantiles {
		if !(q >= 0 && q <= 1) {
			bad("quantiles: %v: must be between 0 and 1", q)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("statsd: %w", err)
	}
	return nil
}
