package speed

import (
	"context"
	"time"

	"kemi/pipeline/bus"
)

// paceWait is the longest that a publisher waits for the live layer: what is durable is acknowledged then, behind or not.
const paceWait = 2 * time.Second

// Paced is a bus whose Publish returns when the records are durable and, as a rule, can be queried too. So senders never outrun the live
// layer: a query sees all that was acknowledged before it, and records reach the stores while they are still in memory. While
// a follower replays, or is stuck, publishers wait for durability alone, at most paceWait longer.
func Paced(b bus.Bus, followers map[string]*Follower) bus.Bus { return &paced{b, followers} }

type paced struct {
	bus.Bus
	followers map[string]*Follower
}

func (p *paced) Publish(ctx context.Context, topic string, records []bus.Record) error {
	if err := p.Bus.Publish(ctx, topic, records); err != nil {
		return err
	}
	f := p.followers[topic]
	if f == nil || !f.caughtUp() {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, paceWait)
	defer cancel()
	last := bus.Positions{}
	for i := range records {
		last[records[i].Partition] = records[i].Offset
	}
	for part, offset := range last {
		if err := f.WaitApplied(wait, part, offset); err != nil {
			f.outrun.Inc()
			return nil // it is durable all the same
		}
	}
	return nil
}
