package batch

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	jobs      *prometheus.CounterVec
	written   prometheus.Counter
	bytes     prometheus.Counter
	seconds   prometheus.Counter
	failed    prometheus.Counter
	deletions prometheus.Counter
	repeated  prometheus.Counter
	conflicts prometheus.Counter
}

func newMetrics(r prometheus.Registerer, l *Layer) *metrics {
	m := &metrics{
		jobs:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_batch_jobs_total", Help: "Jobs done: settle takes over what the live store has, merge makes few blocks of many, rewrite gives room back."}, []string{"job"}),
		written:   prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_samples_written_total", Help: "Samples written to settled blocks; one that is merged counts again."}),
		bytes:     prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_bytes_written_total", Help: "Bytes of settled blocks written."}),
		seconds:   prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_seconds_total", Help: "Time that settling took."}),
		failed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_failures_total", Help: "Runs that ended with an error; the next one tries again."}),
		deletions: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_deletions_total", Help: "Deletions asked for."}),
		repeated:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_duplicates_total", Help: "Late samples that turned out to be settled already."}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_batch_conflicts_total", Help: "Late samples left out because another value for their time is settled."}),
	}
	gauge := func(name, help string, f func(Stats) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return f(l.Stats()) })
	}
	r.MustRegister(m.jobs, m.written, m.bytes, m.seconds, m.failed, m.deletions, m.repeated, m.conflicts,
		gauge("kemi_batch_blocks", "Settled blocks.", func(s Stats) float64 { return float64(s.Blocks) }),
		gauge("kemi_batch_samples", "Samples in settled blocks.", func(s Stats) float64 { return float64(s.Samples) }),
		gauge("kemi_batch_bytes", "Bytes of the settled blocks.", func(s Stats) float64 { return float64(s.Bytes) }),
		gauge("kemi_batch_deletions_pending", "Deletions whose room has not been given back everywhere.", func(s Stats) float64 { return float64(s.Deletions) }),
	)
	return m
}
