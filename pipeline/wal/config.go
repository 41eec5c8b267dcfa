package wal

import (
	"log/slog"
	"math"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
)

// Config is what can be set about the log.
type Config struct {
	// Dir is the folder of the log; one process at a time has it. app sets it below its data folder if it is empty.
	Dir string `yaml:"dir"`
	// Topics are the topics and how many partitions each has. Partitions can be added later, which moves keys to other
	// partitions; they cannot be taken away.
	Topics map[string]int `yaml:"topics"`

	// SegmentBytes is about how large a file grows before the next one is begun.
	SegmentBytes int64 `yaml:"segmentBytes"`

	// Retention applies to each topic by itself; TopicRetention changes parts of it for some.
	Retention      `yaml:",inline"`
	TopicRetention map[string]TopicRetention `yaml:"topicRetention"`

	// MaxRecordBytes limits key, headers and value of one record; MaxBatchBytes all records of one Publish.
	MaxRecordBytes int64 `yaml:"maxRecordBytes"`
	MaxBatchBytes  int64 `yaml:"maxBatchBytes"`
	// PendingBytes limits what waits in memory to be written. When it is reached Publish waits.
	PendingBytes int64 `yaml:"pendingBytes"`
	// TailBytes limits, per partition, what is kept in memory for readers that are close behind.
	TailBytes int64 `yaml:"tailBytes"`
	// FlushWindow is the longest that a publish waits for others to share its sync. It waits only while fewer wait
	// than shared the sync before, so one publisher alone never does. 0 = never wait.
	FlushWindow time.Duration `yaml:"flushWindow"`
}

// Retention says how much of a topic is kept. Whole segments are deleted, the oldest first, when the topic is larger
// than RetentionBytes or when they were last written to longer than RetentionAge ago; but not while a group that has committed
// positions has yet to read them, unless the topic is larger than RetentionHardBytes.
type Retention struct {
	RetentionBytes     int64         `yaml:"retentionBytes"`
	RetentionAge       time.Duration `yaml:"retentionAge"`
	RetentionHardBytes int64         `yaml:"retentionHardBytes"`

	// ConsumedBytes and ConsumedAge are how much is kept of what every group has committed, and every open reader has read: segments of that go before the
	// limits above, when there is more than ConsumedBytes of it or when they were last written to longer than ConsumedAge ago. So the log is no larger than what is
	// still needed, and a little. A topic in which no group has committed has nothing of it. 0 = these limits do not count.
	ConsumedBytes int64         `yaml:"consumedBytes"`
	ConsumedAge   time.Duration `yaml:"consumedAge"`
}

// TopicRetention is what holds for one topic. 0 stands for the general value.
type TopicRetention struct {
	Retention `yaml:",inline"`
	// SegmentBytes is about how large its files grow.
	SegmentBytes int64 `yaml:"segmentBytes"`
}

// DefaultConfig is the configuration of a log that nobody has configured, but for Dir.
func DefaultConfig() Config {
	return Config{
		Topics:       map[string]int{bus.Metrics: 1, bus.Logs: 1, bus.Events: 1, bus.Jobs: 1},
		SegmentBytes: 128 << 20,
		Retention: Retention{
			RetentionBytes:     10 << 30,
			RetentionAge:       24 * time.Hour,
			RetentionHardBytes: 20 << 30,
		},
		MaxRecordBytes: 64 << 20,
		MaxBatchBytes:  128 << 20,
		PendingBytes:   256 << 20,
		TailBytes:      8 << 20,
		FlushWindow:    5 * time.Millisecond,
	}
}

const (
	minSegmentBytes = 4 << 10
	maxSegmentBytes = 4 << 30
	maxBatchBytes   = 1 << 30 // a frame's length has 32 bits
	maxPartitions   = 1024
)

// validName is what topics and groups may be called: their names are names of files.
var validName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// Validate tells the first thing that is wrong with c.
func (c Config) Validate() error {
	if len(c.Topics) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "topics: none given: at least one is needed, as in {metrics: 1, logs: 1, events: 1}")
	}
	for name, n := range c.Topics {
		if !validName.MatchString(name) {
			return kemi.Errorf(kemi.ErrInvalid, "topics: name %q: must be 1 to 128 letters, digits, '_', '-' or '.', not beginning with '-' or '.'", name)
		}
		if n < 1 || n > maxPartitions {
			return kemi.Errorf(kemi.ErrInvalid, "topics.%s: %d partitions: must be 1 to %d", name, n, maxPartitions)
		}
	}
	for _, f := range []struct {
		key         string
		v, min, max int64
	}{
		{"segmentBytes", c.SegmentBytes, minSegmentBytes, maxSegmentBytes},
		{"maxRecordBytes", c.MaxRecordBytes, 1, maxBatchBytes},
		{"maxBatchBytes", c.MaxBatchBytes, c.MaxRecordBytes, maxBatchBytes},
		{"pendingBytes", c.PendingBytes, c.MaxBatchBytes, math.MaxInt64},
		{"tailBytes", c.TailBytes, 0, math.MaxInt64},
		{"flushWindow (ns)", int64(c.FlushWindow), 0, int64(time.Second)},
	} {
		if f.v < f.min || f.v > f.max {
			return kemi.Errorf(kemi.ErrInvalid, "%s: value %d: must be %d to %d", f.key, f.v, f.min, f.max)
		}
	}
	if err := c.Retention.validate(""); err != nil {
		return err
	}
	for name, own := range c.TopicRetention {
		if _, ok := c.Topics[name]; !ok {
			return kemi.Errorf(kemi.ErrInvalid, "topicRetention: topic %q: is not among the topics", name)
		}
		if n := own.SegmentBytes; n != 0 && (n < minSegmentBytes || n > maxSegmentBytes) {
			return kemi.Errorf(kemi.ErrInvalid, "topicRetention.%s.segmentBytes: value %d: must be %d to %d, or 0 for the general one", name, n, minSegmentBytes, int64(maxSegmentBytes))
		}
		if err := c.retention(name).validate("topicRetention." + name + "."); err != nil {
			return err
		}
	}
	return nil
}

func (r Retention) validate(prefix string) error {
	switch {
	case r.RetentionBytes <= 0:
		return kemi.Errorf(kemi.ErrInvalid, "%sretentionBytes: value %d: must be more than 0", prefix, r.RetentionBytes)
	case r.RetentionAge < time.Second:
		return kemi.Errorf(kemi.ErrInvalid, "%sretentionAge: value %s: must be at least 1s", prefix, r.RetentionAge)
	case r.RetentionHardBytes < r.RetentionBytes:
		return kemi.Errorf(kemi.ErrInvalid, "%sretentionHardBytes: value %d: must be at least retentionBytes, which is %d",
			prefix, r.RetentionHardBytes, r.RetentionBytes)
	case r.ConsumedBytes < 0:
		return kemi.Errorf(kemi.ErrInvalid, "%sconsumedBytes: value %d: must not be negative (0 keeps what is consumed as long as the rest)", prefix, r.ConsumedBytes)
	case r.ConsumedAge < 0 || r.ConsumedAge > 0 && r.ConsumedAge < time.Second:
		return kemi.Errorf(kemi.ErrInvalid, "%sconsumedAge: value %s: must be at least 1s, or 0 (what is consumed is kept as long as the rest)", prefix, r.ConsumedAge)
	}
	return nil
}

// retention is what holds for a topic. A topic that keeps more than the general hard limit without naming one of its own
// gets a hard limit as large as what it keeps.
func (c Config) retention(topic string) Retention {
	r, own := c.Retention, c.TopicRetention[topic]
	if own.RetentionBytes != 0 {
		r.RetentionBytes = own.RetentionBytes
	}
	if own.RetentionAge != 0 {
		r.RetentionAge = own.RetentionAge
	}
	if own.RetentionHardBytes != 0 {
		r.RetentionHardBytes = own.RetentionHardBytes
	} else {
		r.RetentionHardBytes = max(r.RetentionHardBytes, r.RetentionBytes)
	}
	if own.ConsumedBytes != 0 {
		r.ConsumedBytes = own.ConsumedBytes
	}
	if own.ConsumedAge != 0 {
		r.ConsumedAge = own.ConsumedAge
	}
	return r
}

// segmentBytes is about how large the segments of a topic grow.
func (c Config) segmentBytes(topic string) int64 {
	if n := c.TopicRetention[topic].SegmentBytes; n != 0 {
		return n
	}
	return c.SegmentBytes
}

// Options are what the log needs from its surroundings; each may be left out.
type Options struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}
