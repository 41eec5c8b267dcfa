package agent

import (
	"context"
	"runtime/metrics"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
	"kemi/collectors/host"
	"kemi/pipeline/codec"
)

// describeEvery is in how many batches the types of the metrics are sent along.
const describeEvery = 360

// measure collects the host's metrics and the agent's own, and spools them.
func (a *Agent) measure(ctx context.Context) error {
	own := a.newOwn()
	var enc codec.Encoder
	var samples []host.Sample
	once := func(n int) {
		began := a.now()
		samples = a.host.Collect(ctx, began, samples[:0])
		samples = own.append(samples)
		if n%describeEvery == 0 {
			describe(&enc, samples)
		}
		at, value := [1]kemi.Millis{kemi.MillisOf(began)}, [1]float64{}
		for _, s := range samples {
			value[0] = s.Value
			enc.Add(s.Labels, at[:], value[:])
		}
		a.stats.samples.Add(int64(len(samples)))
		a.stats.series.Store(int64(len(samples)))
		a.spoolMetrics(enc.Encode())
		a.stats.collectNanos.Store(int64(a.now().Sub(began)))
	}
	once(0)
	// Shares of time need two looks: the second follows soon, so that nobody waits for a whole interval to see them.
	wait := time.NewTimer(min(time.Second, a.cfg.Interval))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		once(n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// spoolMetrics spools a request. The bytes are the queue's from then on.
func (a *Agent) spoolMetrics(body []byte) {
	if err := a.metrics.append(body, nil); err != nil {
		a.stats.complain(a.log, a.now(), "cannot spool metrics: they are held in memory", err)
		a.metrics.hold(body)
	}
}

// describe says of each metric whether it is a counter, which its name tells.
func describe(enc *codec.Encoder, samples []host.Sample) {
	for _, s := range samples {
		name := s.Labels.Get(kemi.MetricName)
		m := codec.Metadata{Metric: name, Type: "gauge"}
		if strings.HasSuffix(name, "_total") {
			m.Type = "counter"
		}
		enc.Describe(m)
	}
}

// own is the agent's metrics of itself.
type own struct {
	a       *Agent
	labels  []kemi.Labels
	runtime []metrics.Sample
}

var ownNames = []string{
	"data.agent.cpu_seconds_total", "data.agent.memory_bytes", "data.agent.heap_bytes", "data.agent.goroutines", "data.agent.collect_seconds",
	"data.agent.samples_total", "data.agent.log_lines_total", "data.agent.log_bytes_total", "data.agent.log_files", "data.agent.log_truncations_total",
	"data.agent.journal_lines_total", "data.agent.sent_batches_total", "data.agent.send_errors_total", "data.agent.dropped_batches_total",
	"data.agent.spool_batches", "data.agent.spool_bytes",
}

func (a *Agent) newOwn() *own {
	o := &own{a: a, runtime: []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/sched/goroutines:goroutines"}}}
	for _, n := range ownNames {
		o.labels = append(o.labels, a.labels.With(codec.HostLabel, a.name).With(kemi.MetricName, n))
	}
	return o
}

func (o *own) append(out []host.Sample) []host.Sample {
	a := o.a
	metrics.Read(o.runtime)
	var u unix.Rusage
	cpu := 0.0
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err == nil {
		cpu = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	batches, bytes := a.waiting()
	values := []float64{
		cpu, float64(residentBytes()), float64(o.runtime[0].Value.Uint64()), float64(o.runtime[1].Value.Uint64()), float64(a.stats.collectNanos.Load()) / 1e9,
		float64(a.stats.samples.Load()), float64(a.tail.Stats.Lines.Load()), float64(a.tail.Stats.Bytes.Load()), float64(a.tail.Stats.Files.Load()),
		float64(a.tail.Stats.Truncations.Load()), float64(a.journalLines()), float64(a.stats.sent.Load()), float64(a.stats.sendErrors.Load()),
		float64(a.dropped()), float64(batches), float64(bytes),
	}
	for i, v := range values {
		out = append(out, host.Sample{Labels: o.labels[i], Value: v})
	}
	return out
}
