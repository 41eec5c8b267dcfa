package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// benchIngest sends so many series to one target: once as new ones, then again and again.
func benchIngest(ctx context.Context, o options, ti, series int, r *report) error {
	dir, err := os.MkdirTemp("", "kemi-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, &o.targets[ti], dir)
	if err != nil {
		return err
	}
	defer s.stop()
	// Close together, so that what is sent within the time does not reach into the future.
	const back, step = 2 * time.Hour, time.Second
	const rounds = int(back / step)
	var sent atomic.Int64
	fleets := make([]*fleet, o.connections)
	for c := range fleets {
		f := newFleet(c, rounds, step.Milliseconds(), time.Now().UnixMilli(), &sent)
		for i := range series / o.connections {
			f.add(fmt.Sprintf("node_metric_%02d_total", i%100), c+i/100*o.connections, i, walk, 0)
		}
		fleets[c] = f
	}
	label := fmt.Sprintf("ingest, %d series", series)
	phase := func(name string, rounds int) error {
		before, err := s.usage()
		if err != nil {
			return err
		}
		sent.Store(0)
		deadline := time.Now().Add(o.phase)
		for _, f := range fleets {
			f.rounds = rounds
		}
		took, err := s.post(s.target.write, o.connections, func(c int) (body, bool) { return fleets[c].until(deadline)() })
		if err != nil {
			return err
		}
		after, err := s.settle()
		if err != nil {
			return err
		}
		rate := float64(sent.Load()) / (after.cpu - before.cpu).Seconds()
		r.set(ti, label+", "+name+", samples per CPU-second", fmt.Sprintf("%.0f", rate), rate, true)
		r.set(ti, label+", "+name+", acknowledgement of 2 000 samples p50 / p99 / max", fmt.Sprintf("%.1f / %.1f / %.0f ms", ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(quantile(took, 1))), 0, false)
		made := 0
		for _, f := range fleets {
			made += f.made()
		}
		text := fmt.Sprintf("%d MiB", after.resident>>20)
		if made < series/o.connections*o.connections { // there was not time for all
			text += fmt.Sprintf(" with %d series", made)
		}
		r.set(ti, label+", "+name+", highest resident memory", text, float64(after.resident)/float64(made), false)
		return nil
	}
	if err := phase("new", 1); err != nil {
		return err
	}
	for _, f := range fleets { // where the time was not enough for all, the others are never sent
		f.series = f.series[:f.made()]
	}
	return phase("steady", rounds)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
