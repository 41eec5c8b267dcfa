package limit

import (
	"math"
	"runtime/debug"
	"time"

	"kemi"
)

// Config is what an operator may set.
type Config struct {
	// Concurrent is how many queries run at once, all identities together.
	Concurrent int `yaml:"concurrent"`
	// PerIdentity is how many of them may be one identity's.
	PerIdentity int `yaml:"perIdentity"`
	// Waiting is how many more of one identity may wait for a place; further ones are refused. All together it is five times as many.
	Waiting int `yaml:"waiting"`
	// Memory is how many bytes the queries under way may hold, all together. 0 = a third of the process's memory limit.
	Memory int64 `yaml:"memory"`
	// MemoryPerIdentity is how much of it may be one identity's, so also the most that one query may hold. 0 = half of Memory.
	MemoryPerIdentity int64 `yaml:"memoryPerIdentity"`
	// RetryAfter is when a refused sender is told to come again.
	RetryAfter time.Duration `yaml:"retryAfter"`
}

// DefaultConfig is what holds where an operator says nothing: as many places as Prometheus has, half of them for one identity at most.
func DefaultConfig() Config {
	return Config{Concurrent: 20, PerIdentity: 10, Waiting: 100, RetryAfter: time.Second}
}

// Validate says what is wrong with c.
func (c Config) Validate() error {
	switch {
	case c.Concurrent < 1:
		return kemi.Errorf(kemi.ErrInvalid, "concurrent: value %d: must be positive, such as 20", c.Concurrent)
	case c.PerIdentity < 1 || c.PerIdentity > c.Concurrent:
		return kemi.Errorf(kemi.ErrInvalid, "perIdentity: value %d: must be between 1 and concurrent (%d)", c.PerIdentity, c.Concurrent)
	case c.Waiting < 0 || c.Waiting > 1<<20:
		return kemi.Errorf(kemi.ErrInvalid, "waiting: value %d: must be between 0 (refuse at once) and %d", c.Waiting, 1<<20)
	case c.Memory < 0 || c.Memory > 0 && c.Memory < 1<<20:
		return kemi.Errorf(kemi.ErrInvalid, "memory: value %d: must be at least %d bytes, or 0 for a third of the process's limit", c.Memory, 1<<20)
	case c.MemoryPerIdentity < 0 || c.Memory > 0 && c.MemoryPerIdentity > c.Memory:
		return kemi.Errorf(kemi.ErrInvalid, "memoryPerIdentity: value %d: must be between 0 (half of memory) and memory (%d)", c.MemoryPerIdentity, c.Memory)
	case c.RetryAfter <= 0:
		return kemi.Errorf(kemi.ErrInvalid, "retryAfter: value %s: must be positive, such as 1s", c.RetryAfter)
	}
	return nil
}

// unlimitedMemory stands for a third of the limit of a process that has none.
const unlimitedMemory = 2 << 30

// complete puts figures where c leaves them to the process.
func (c Config) complete() Config {
	if c.Memory == 0 {
		if of := debug.SetMemoryLimit(-1); of != math.MaxInt64 {
			c.Memory = max(of/3, 1<<20)
		} else {
			c.Memory = unlimitedMemory
		}
	}
	if c.MemoryPerIdentity == 0 {
		c.MemoryPerIdentity = c.Memory / 2
	}
	c.MemoryPerIdentity = min(c.MemoryPerIdentity, c.Memory)
	return c
}
