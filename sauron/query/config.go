package query

import (
	"context"
	"time"

	"kemi"
	"kemi/sauron/limit"
)

// Config is what one query may cost. A query that would cost more ends with an error that names the limit.
type Config struct {
	MaxSeries   int           `yaml:"maxSeries"`   // series read
	MaxSamples  int64         `yaml:"maxSamples"`  // samples read
	MaxPoints   int           `yaml:"maxPoints"`   // points in the answer
	MaxMemory   int64         `yaml:"maxMemory"`   // bytes held while answering
	MaxQueries  int           `yaml:"maxQueries"`  // queries in one request
	Timeout     time.Duration `yaml:"timeout"`     // time to answer, waiting included
	AllowDelete bool          `yaml:"allowDelete"` // a query may delete what it selects, for whom may metrics:delete
}

// DefaultConfig is meant for a machine with a few gigabytes.
func DefaultConfig() Config {
	return Config{
		MaxSeries: 200_000, MaxSamples: 1_000_000_000, MaxPoints: 2_000_000, MaxMemory: 512 << 20,
		MaxQueries: 64, Timeout: 50 * time.Second,
	}
}

// Validate tells which value cannot be.
func (c Config) Validate() error {
	for _, v := range []struct {
		key   string
		value int64
	}{
		{"maxSeries", int64(c.MaxSeries)}, {"maxSamples", c.MaxSamples}, {"maxPoints", int64(c.MaxPoints)}, {"maxMemory", c.MaxMemory},
		{"maxQueries", int64(c.MaxQueries)},
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

// budget is what a request has used of its limits. Series, samples and points count per query, memory for the whole request.
type budget struct {
	limits  Config
	ctx     context.Context //nolint:containedctx // of the request that it belongs to
	ticket  *limit.Ticket
	cancel  context.CancelFunc
	series  int
	samples int64
	spared  int64 // samples that were reduced beforehand, so that they were not read
	points  int
	total   int // points of all queries
	held    int64
	booked  int64 // of held, what the gate knows of
}

// done ends the request.
func (b *budget) done() {
	b.ticket.Leave()
	b.cancel()
}

// work counts samples that were read, and waits where others are to go on first.
func (b *budget) work(samples int64) error {
	b.samples += samples
	if err := b.read(); err != nil {
		return err
	}
	return b.ticket.Work(b.ctx, samples)
}

func (b *budget) read() error {
	switch {
	case b.series > b.limits.MaxSeries:
		return kemi.Errorf(kemi.ErrTooLarge, "the query reads more than maxSeries = %d series (%d samples so far): filter by more tags", b.limits.MaxSeries, b.samples)
	case b.samples > b.limits.MaxSamples:
		return kemi.Errorf(kemi.ErrTooLarge, "the query reads more than maxSamples = %d samples (%d of %d series so far): filter by more tags or shorten the range", b.limits.MaxSamples, b.samples, b.series)
	}
	return nil
}

// answer counts points of the answer.
func (b *budget) answer(n int) error {
	b.points += n
	b.total += n
	if b.total > b.limits.MaxPoints {
		return kemi.Errorf(kemi.ErrTooLarge, "the answer has more than maxPoints = %d points (%d so far): choose a longer downsample interval, fewer groups or a shorter range", b.limits.MaxPoints, b.total)
	}
	return b.hold(16 * n)
}

// room is an error if n bytes more than are held would be too many.
func (b *budget) room(n int) error {
	if b.held+int64(n) > b.limits.MaxMemory {
		return kemi.Errorf(kemi.ErrTooLarge, "the query holds more than maxMemory = %d bytes (%d for %d series, %d samples so far): choose a longer downsample interval, filter by more tags or shorten the range", b.limits.MaxMemory, b.held+int64(n), b.series, b.samples)
	}
	if b.held+int64(n) > b.booked {
		more := b.held + int64(n) - b.booked
		more = (more + bookedAtOnce - 1) / bookedAtOnce * bookedAtOnce
		if err := b.ticket.Hold(more); err != nil {
			return err
		}
		b.booked += more
	}
	return nil
}

// bookedAtOnce is how many bytes the gate is told of at a time.
const bookedAtOnce = 256 << 10

func (b *budget) hold(n int) error {
	b.held += int64(n)
	return b.room(0)
}

func (b *budget) release(n int) { b.held -= int64(n) }
