package head

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the store counts.
type metrics struct {
	appended         prometheus.Counter
	conflicts        prometheus.Counter
	duplicates       prometheus.Counter
	late             prometheus.Counter
	rejected         *prometheus.CounterVec
	tooOld, future   prometheus.Counter
	overLimit        prometheus.Counter // asked for a place for a series, and got none
	invalid          prometheus.Counter
	exemplarsLeftOut prometheus.Counter
	checkpointFailed prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		appended:         prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_tsdb_samples_appended_total", Help: "Samples taken, late ones included."}),
		conflicts:        prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_tsdb_conflicts_total", Help: "Samples left out because their series has another value at that time."}),
		duplicates:       prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_tsdb_duplicates_total", Help: "Late samples that were there already."}),
		late:             prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_tsdb_late_samples_total", Help: "Samples older than the newest of their series, merged in."}),
		rejected:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_tsdb_rejected_samples_total", Help: "Samples that cannot be taken, by reason."}, []string{"reason"}),
		exemplarsLeftOut: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_tsdb_exemplars_left_out_total", Help: "Exemplars that are older than what their series has, or malformed."}),
		checkpointFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kemi_tsdb_checkpoint_failures_total", Help: "Checkpoints that failed; a crash would replay more.",
		}),
	}
	m.tooOld = m.rejected.WithLabelValues("too_old")
	m.future = m.rejected.WithLabelValues("too_far_ahead")
	m.overLimit = prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_tsdb_series_refused_total", Help: "Times that there was no room for a new series; senders were told."})
	m.invalid = m.rejected.WithLabelValues("invalid")
	r.MustRegister(m.appended, m.conflicts, m.duplicates, m.late, m.rejected, m.exemplarsLeftOut, m.checkpointFailed, m.overLimit)
	return m
}

// watch registers what is read from the DB when it is asked for.
func (m *metrics) watch(r prometheus.Registerer, db *DB) {
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	open := func(f func() float64) func() float64 {
		return func() float64 {
			if !db.isOpen() {
				return 0
			}
			return f()
		}
	}
	gauge("kemi_tsdb_series", "Series in memory.", open(func() float64 { return float64(db.Stats().Series) }))
	gauge("kemi_tsdb_chunk_bytes", "Bytes of chunk files: what is in memory and not settled yet.", open(func() float64 { return float64(db.Stats().ChunkBytes) }))
	gauge("kemi_tsdb_late_samples", "Late samples that are not settled yet.", open(func() float64 { return float64(db.Stats().LateSamples) }))
	gauge("kemi_tsdb_replay_seconds", "How long this start took until the series in memory were there, or has taken so far.", func() float64 { return db.Start().Took.Seconds() })
	gauge("kemi_start_unclean", "1 if the program before this one did not end in order.", func() float64 {
		if db.Start().Unclean() {
			return 1
		}
		return 0
	})
}
