package tsdb

import (
	"time"

	"kemi"
)

// Config is what an operator may set.
type Config struct {
	// Dir is where the blocks, the head and the positions lie.
	Dir string `yaml:"dir"`
	// Retention is how long samples are kept, and how late they may come.
	Retention time.Duration `yaml:"retention"`
	// MaxFuture is how far ahead of this machine's clock a sample may be. The head takes its idea of "now" from the newest
	// sample, so one that is years ahead would make all others late.
	MaxFuture time.Duration `yaml:"maxFuture"`
	// MaxSeries is how many series the head may hold at once, all projects together; it bounds memory.
	MaxSeries uint64 `yaml:"maxSeries"`
	// MaxExemplars is how many exemplars are kept, all projects together; the oldest give way.
	MaxExemplars int64 `yaml:"maxExemplars"`
	// Checkpoint is how often the positions are brought up to date.
	Checkpoint time.Duration `yaml:"checkpoint"`
	// BlockDuration is the span of the smallest block, and of what stays in memory (up to one and a half times that).
	BlockDuration time.Duration `yaml:"blockDuration"`
	// DiskReserve is what stays free: with less, samples are refused until there is room. 0 = a twentieth of the file
	// system, at most 256 MiB.
	DiskReserve uint64 `yaml:"diskReserve"`
}

// DefaultConfig is what holds where an operator says nothing. Dir has no default.
func DefaultConfig() Config {
	return Config{
		Retention: 10 * 365 * 24 * time.Hour, MaxFuture: 10 * time.Minute, MaxSeries: 2_000_000, MaxExemplars: 100_000,
		Checkpoint: 5 * time.Second, BlockDuration: 2 * time.Hour,
	}
}

// Validate says what is wrong with c.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return kemi.Errorf(kemi.ErrInvalid, "dir: is empty; name a folder")
	case c.Retention < 3*c.BlockDuration:
		return kemi.Errorf(kemi.ErrInvalid, "retention: value %s: must be at least three times blockDuration (%s)", c.Retention, c.BlockDuration)
	case c.MaxFuture <= 0 || c.MaxFuture >= c.BlockDuration/2:
		return kemi.Errorf(kemi.ErrInvalid, "maxFuture: value %s: must be positive and less than half of blockDuration (%s), such as 10m", c.MaxFuture, c.BlockDuration)
	case c.MaxSeries == 0:
		return kemi.Errorf(kemi.ErrInvalid, "maxSeries: value 0: must be positive, such as 2000000")
	case c.MaxExemplars < 0:
		return kemi.Errorf(kemi.ErrInvalid, "maxExemplars: value %d: must not be negative (0 keeps none)", c.MaxExemplars)
	case c.Checkpoint < 100*time.Millisecond || c.Checkpoint > time.Hour:
		return kemi.Errorf(kemi.ErrInvalid, "checkpoint: value %s: must be between 100ms and 1h, such as 5s", c.Checkpoint)
	case c.BlockDuration < time.Minute || c.BlockDuration > 24*time.Hour:
		return kemi.Errorf(kemi.ErrInvalid, "blockDuration: value %s: must be between 1m and 24h, such as 2h", c.BlockDuration)
	}
	return nil
}
