package search

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

// Config is what can be set about the log index.
type Config struct {
	// Dir is the folder of the index; one process at a time has it. app sets it below its data folder if it is empty.
	Dir string `yaml:"dir"`
	// Retention is how long records are kept after they came in; RetentionBytes how much disk the index may take. Whole slices are
	// dropped, the oldest first, never the newest.
	Retention      time.Duration `yaml:"retention"`
	RetentionBytes int64         `yaml:"retentionBytes"`
	// SliceBytes is about how large a slice grows before the next one is begun.
	SliceBytes int64 `yaml:"sliceBytes"`
	// BufferBytes is how much is held in memory before it is written, FlushInterval how long at most. Twice as much
	// may wait; then Index waits.
	BufferBytes   int64         `yaml:"bufferBytes"`
	FlushInterval time.Duration `yaml:"flushInterval"`
	// MinFreeBytes of the disk are left alone: with less, nothing is written until there is more again.
	MinFreeBytes int64 `yaml:"minFreeBytes"`
}

// DefaultConfig is the configuration of an index that nobody has configured, but for Dir.
func DefaultConfig() Config {
	return Config{
		Retention:      30 * 24 * time.Hour,
		RetentionBytes: 100 << 30,
		SliceBytes:     1 << 30,
		BufferBytes:    4 << 20,
		FlushInterval:  5 * time.Second,
		MinFreeBytes:   16 << 20,
	}
}

// Validate tells the first thing that is wrong with c.
func (c Config) Validate() error {
	for _, f := range []struct {
		key    string
		v, min int64
	}{
		{"retentionBytes", c.RetentionBytes, 1 << 20},
		{"sliceBytes", c.SliceBytes, 64 << 10},
		{"bufferBytes", c.BufferBytes, 16 << 10},
		{"minFreeBytes", c.MinFreeBytes, 0},
	} {
		if f.v < f.min {
			return kemi.Errorf(kemi.ErrInvalid, "%s: value %d: must be at least %d", f.key, f.v, f.min)
		}
	}
	switch {
	case c.Retention < time.Hour:
		return kemi.Errorf(kemi.ErrInvalid, "retention: value %s: must be at least 1h", c.Retention)
	case c.FlushInterval < 10*time.Millisecond || c.FlushInterval > time.Hour:
		return kemi.Errorf(kemi.ErrInvalid, "flushInterval: value %s: must be 10ms to 1h", c.FlushInterval)
	case c.BufferBytes > 1<<30:
		return kemi.Errorf(kemi.ErrInvalid, "bufferBytes: value %d: must be at most %d", c.BufferBytes, 1<<30)
	}
	return nil
}

// Options are what the index needs from its surroundings; each may be left out.
type Options struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

type metrics struct {
	records, replaced, repeated, refused prometheus.Counter
	flushErrors, flushes, droppedSlices  prometheus.Counter
	blocksRead, recordsRead              prometheus.Counter
	headBytes, slices, diskBytes         prometheus.Gauge
	damaged                              prometheus.Gauge
	flushSeconds                         prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_pipeline_search_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_pipeline_search_" + name, Help: help})
	}
	m := &metrics{
		records:       counter("records_total", "Log records taken."),
		replaced:      counter("replaced_records_total", "Log records that took the place of another with the same ID."),
		repeated:      counter("repeated_records_total", "Log records left out because the same is there already."),
		refused:       counter("refused_records_total", "Log records left out because they have no project or no ID."),
		flushes:       counter("flushes_total", "Times that the head was written."),
		flushErrors:   counter("flush_errors_total", "Times that the head could not be written."),
		droppedSlices: counter("dropped_slices_total", "Slices deleted by retention."),
		blocksRead:    counter("blocks_read_total", "Blocks opened to answer queries."),
		recordsRead:   counter("records_read_total", "Records looked at to answer queries."),
		headBytes:     gauge("head_bytes", "Bytes of records in memory that are not written yet."),
		slices:        gauge("slices", "Slices that serve."),
		diskBytes:     gauge("disk_bytes", "Bytes on disk."),
		damaged:       gauge("damaged_slices", "Slices that are damaged: answers lack what they held."),
		flushSeconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kemi_pipeline_search_flush_seconds", Help: "How long writing the head takes.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 12)}),
	}
	if r != nil {
		r.MustRegister(m.records, m.replaced, m.repeated, m.refused, m.flushes, m.flushErrors, m.droppedSlices, m.blocksRead,
			m.recordsRead, m.headBytes, m.slices, m.diskBytes, m.damaged, m.flushSeconds)
	}
	return m
}
