package head

import (
	"time"

	"kemi"
)

// Config is what an operator may set.
type Config struct {
	// Dir is where checkpoints and chunk files lie.
	Dir string `yaml:"dir"`
	// Retention is how long samples are kept, and how late they may come.
	Retention time.Duration `yaml:"retention"`
	// MaxFuture is how far ahead of this machine's clock a sample may be. One that is years ahead would make all others of its series late.
	MaxFuture time.Duration `yaml:"maxFuture"`
	// MaxSeries is how many series may be in memory at once, all projects together; it bounds memory. MaxSeriesPerProject is how many a
	// project may have of them; 0 = all. What is over is refused before it is acknowledged.
	MaxSeries           uint64 `yaml:"maxSeries"`
	MaxSeriesPerProject uint64 `yaml:"maxSeriesPerProject"`
	// MaxExemplars is how many exemplars are kept, all projects together; the oldest give way.
	MaxExemplars int64 `yaml:"maxExemplars"`
	// Checkpoint is how long it takes at most from one checkpoint to the next. With many samples there are more of them, so that a start need
	// never replay for long.
	Checkpoint time.Duration `yaml:"checkpoint"`
	// CheckpointQuiet is after how long with next to no samples there is one out of turn, so that the log of record need not keep what came before: that is worth
	// it if there was a sample for each series since the last one, for fewer when it has been quiet for ten times as long, and at most one fiftieth of the time is spent with it. 0 = never.
	CheckpointQuiet time.Duration `yaml:"checkpointQuiet"`
	// BlockDuration is the span of what is settled at once; up to one and a half times that stays here.
	BlockDuration time.Duration `yaml:"blockDuration"`
	// AnswerWithin is how long after the start a question waits for what is in memory to be there again. After that it is answered from what is
	// settled, and says that it is not complete.
	AnswerWithin time.Duration `yaml:"answerWithin"`
	// DiskReserve is what stays free: with less, samples are refused until there is room. 0 = a twentieth of the file
	// system, at most 256 MiB.
	DiskReserve uint64 `yaml:"diskReserve"`
}

// DefaultConfig is what holds where an operator says nothing. Dir has no default.
func DefaultConfig() Config {
	return Config{
		Retention: 10 * 365 * 24 * time.Hour, MaxFuture: 10 * time.Minute, MaxSeries: 2_000_000, MaxExemplars: 100_000,
		Checkpoint: 5 * time.Minute, CheckpointQuiet: 5 * time.Second, BlockDuration: 2 * time.Hour, AnswerWithin: 8 * time.Second,
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
		return kemi.Errorf(kemi.ErrInvalid, "checkpoint: value %s: must be between 100ms and 1h, such as 5m", c.Checkpoint)
	case c.CheckpointQuiet < 0 || c.CheckpointQuiet > 0 && c.CheckpointQuiet < 100*time.Millisecond:
		return kemi.Errorf(kemi.ErrInvalid, "checkpointQuiet: value %s: must be at least 100ms, such as 5s, or 0 (never)", c.CheckpointQuiet)
	case c.AnswerWithin < 0:
		return kemi.Errorf(kemi.ErrInvalid, "answerWithin: value %s: must not be negative (0 answers at once)", c.AnswerWithin)
	case c.BlockDuration < time.Minute || c.BlockDuration > 24*time.Hour:
		return kemi.Errorf(kemi.ErrInvalid, "blockDuration: value %s: must be between 1m and 24h, such as 2h", c.BlockDuration)
	}
	return nil
}
