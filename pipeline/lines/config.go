package lines

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/pattern"
)

// Config is what can be set about the log store.
type Config struct {
	// Dir is the folder of the store; one process at a time has it. app sets it below its data folder if it is empty.
	Dir string `yaml:"dir"`
	// Retention is how long records are kept, by their own time; RetentionBytes how much disk the store may take: the oldest blocks go first.
	Retention      time.Duration `yaml:"retention"`
	RetentionBytes int64         `yaml:"retentionBytes"`
	// Retentions are shorter ones for some records; the first that fits counts.
	Retentions []Retention `yaml:"retentions"`
	// BufferBytes is how much is held in memory before it is written, FlushInterval how long at most. Three times as much may wait; then Index waits.
	BufferBytes   int64         `yaml:"bufferBytes"`
	FlushInterval time.Duration `yaml:"flushInterval"`
	// PartBytes is how much text a part holds at the most, after merging.
	PartBytes int64 `yaml:"partBytes"`
	// CacheBytes is how much memory the directories of blocks may take that questions have opened.
	CacheBytes int64 `yaml:"cacheBytes"`
	// MinFreeBytes of the disk are left alone: with less, nothing is written until there is more again.
	MinFreeBytes int64 `yaml:"minFreeBytes"`
}

// Retention is how long the records of a project, of a service, or of a service of a project are kept, and how much disk those of a project may take.
type Retention struct {
	Project string        `yaml:"project"`
	Service string        `yaml:"service"` // the stream label
	Age     time.Duration `yaml:"age"`
	Bytes   int64         `yaml:"bytes"` // of a project only
}

// DefaultConfig is the configuration of a store that nobody has configured, but for Dir.
func DefaultConfig() Config {
	return Config{
		Retention:      30 * 24 * time.Hour,
		RetentionBytes: 100 << 30,
		BufferBytes:    8 << 20,
		FlushInterval:  5 * time.Second,
		PartBytes:      1 << 30,
		CacheBytes:     96 << 20,
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
		{"bufferBytes", c.BufferBytes, 16 << 10},
		{"partBytes", c.PartBytes, 64 << 10},
		{"cacheBytes", c.CacheBytes, 1 << 20},
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
	for i, r := range c.Retentions {
		at := fmt.Sprintf("retentions[%d]", i)
		switch {
		case r.Project == "" && r.Service == "":
			return kemi.Errorf(kemi.ErrInvalid, "%s: names neither a project nor a service: general values are retention and retentionBytes", at)
		case r.Age == 0 && r.Bytes == 0:
			return kemi.Errorf(kemi.ErrInvalid, "%s: has neither an age nor bytes", at)
		case r.Age != 0 && r.Age < time.Minute:
			return kemi.Errorf(kemi.ErrInvalid, "%s.age: value %s: must be at least 1m", at, r.Age)
		case r.Bytes != 0 && (r.Service != "" || r.Project == ""):
			return kemi.Errorf(kemi.ErrInvalid, "%s.bytes: value %d: can be set for a project only", at, r.Bytes)
		case r.Bytes < 0:
			return kemi.Errorf(kemi.ErrInvalid, "%s.bytes: value %d: must not be negative", at, r.Bytes)
		}
	}
	return nil
}

// Options are what the store needs from its surroundings; each may be left out.
type Options struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time

	step func(name string) // for tests: called between what is done to files
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	return o
}

const (
	// blockRaw is how much text goes into a block.
	blockRaw = 8 << 20
	// fullRaw and fullRecords make a block full: it is not coded again to be larger.
	fullRaw     = blockRaw / 2
	fullRecords = pattern.MaxRecords / 2
)

type metrics struct {
	records, repeated, refused          prometheus.Counter
	flushErrors, flushes, merges        prometheus.Counter
	blocksRead, deleted                 prometheus.Counter
	headBytes, parts, blocks, diskBytes prometheus.Gauge
	rawBytes, damaged                   prometheus.Gauge
	flushSeconds                        prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_pipeline_lines_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_pipeline_lines_" + name, Help: help})
	}
	m := &metrics{
		records:      counter("records_total", "Log records taken."),
		repeated:     counter("repeated_records_total", "Log records left out because they are there already."),
		refused:      counter("refused_records_total", "Log records left out because they have no project or no ID."),
		flushes:      counter("flushes_total", "Times that the head was written."),
		flushErrors:  counter("flush_errors_total", "Times that the head could not be written."),
		merges:       counter("merges_total", "Times that parts were written anew: merged, or without what retention or a deletion took."),
		blocksRead:   counter("blocks_read_total", "Blocks asked to answer queries."),
		deleted:      counter("deleted_records_total", "Log records deleted by retention or on request."),
		headBytes:    gauge("head_bytes", "Bytes of records in memory that are not written yet."),
		parts:        gauge("parts", "Parts that serve."),
		blocks:       gauge("blocks", "Blocks in them."),
		diskBytes:    gauge("disk_bytes", "Bytes on disk."),
		rawBytes:     gauge("raw_bytes", "Bytes of text in the blocks."),
		damaged:      gauge("damaged_parts", "Parts that are damaged: answers lack what they held."),
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kemi_pipeline_lines_flush_seconds", Help: "How long writing the head takes.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 12)}),
	}
	if r != nil {
		r.MustRegister(m.records, m.repeated, m.refused, m.flushes, m.flushErrors, m.merges, m.blocksRead, m.deleted, m.headBytes, m.parts, m.blocks, m.diskBytes,
			m.rawBytes, m.damaged, m.flushSeconds)
	}
	return m
}
