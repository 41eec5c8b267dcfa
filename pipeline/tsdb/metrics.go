package tsdb

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the library does not count itself; its own are registered beside them as prometheus_tsdb_….
type metrics struct {
	appended         prometheus.Counter
	conflicts        prometheus.Counter
	duplicates       prometheus.Counter
	late             prometheus.Counter
	rejected         *prometheus.CounterVec
	tooOld, future   prometheus.Counter
	overLimit        prometheus.Counter
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
	m.overLimit = m.rejected.WithLabelValues("series_limit")
	m.invalid = m.rejected.WithLabelValues("invalid")
	r.MustRegister(m.appended, m.conflicts, m.duplicates, m.late, m.rejected, m.exemplarsLeftOut, m.checkpointFailed)
	return m
}

// watch registers what is read from the DB when it is asked for.
func (m *metrics) watch(r prometheus.Registerer, db *DB) {
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kemi_tsdb_series", Help: "Series in memory."}, func() float64 { return float64(db.db.Head().NumSeries()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kemi_tsdb_blocks", Help: "Blocks on disk."}, func() float64 { return float64(len(db.db.Blocks())) }),
	)
}
