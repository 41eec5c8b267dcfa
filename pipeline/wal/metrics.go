package wal

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace, subsystem = "kemi", "pipeline_wal"

// metrics collects the counters, and reads the gauges off the partitions when it is asked.
type metrics struct {
	w          *WAL
	registerer prometheus.Registerer

	records, bytes, publishes *prometheus.CounterVec
	errors                    *prometheus.CounterVec
	deleted, unread           *prometheus.CounterVec
	truncated                 *prometheus.CounterVec
	failed                    *prometheus.GaugeVec
	sync                      *prometheus.HistogramVec

	size, segments, first, next, lag, tail *prometheus.Desc
}

// partitionMetrics are those of one partition.
type partitionMetrics struct {
	records, bytes, publishes, deleted, truncated prometheus.Counter
	errors                                        *prometheus.CounterVec
	failed                                        prometheus.Gauge
	sync                                          prometheus.Observer
}

func newMetrics(w *WAL) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
	}
	return &metrics{
		w:         w,
		records:   counter("published_records_total", "Records made durable.", "topic", "partition"),
		bytes:     counter("published_bytes_total", "Bytes made durable, framing included.", "topic", "partition"),
		publishes: counter("publishes_total", "Publishes made durable; compare with the number of syncs.", "topic", "partition"),
		errors:    counter("write_errors_total", "Groups of publishes that were refused, by reason: full, write, sync.", "topic", "partition", "reason"),
		deleted:   counter("deleted_bytes_total", "Bytes deleted by retention.", "topic", "partition"),
		unread:    counter("deleted_unread_records_total", "Records deleted by the hard limit before the group had read them.", "topic", "group"),
		truncated: counter("truncated_bytes_total", "Bytes of unfinished writes cut off when the log was opened.", "topic", "partition"),
		failed: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "failed",
			Help: "1 if the partition takes no more records because the disk failed."}, []string{"topic", "partition"}),
		sync: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "sync_seconds",
			Help: "How long a sync to disk took.", Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12)}, []string{"topic", "partition"}),
		size:     desc("size_bytes", "Bytes on disk.", "topic", "partition"),
		segments: desc("segments", "Segment files.", "topic", "partition"),
		first:    desc("first_offset", "Offset of the oldest record.", "topic", "partition"),
		next:     desc("next_offset", "Offset that the next record will get.", "topic", "partition"),
		lag:      desc("group_lag_records", "Records that a group has not committed.", "topic", "partition", "group"),
		tail:     desc("tail_bytes", "Bytes kept in memory for readers that are close behind.", "topic", "partition"),
	}
}

func (m *metrics) partition(topic string, partition int) partitionMetrics {
	l := []string{topic, strconv.Itoa(partition)}
	return partitionMetrics{
		records: m.records.WithLabelValues(l...), bytes: m.bytes.WithLabelValues(l...), publishes: m.publishes.WithLabelValues(l...),
		deleted: m.deleted.WithLabelValues(l...), truncated: m.truncated.WithLabelValues(l...),
		errors: m.errors.MustCurryWith(prometheus.Labels{"topic": l[0], "partition": l[1]}),
		failed: m.failed.WithLabelValues(l...), sync: m.sync.WithLabelValues(l...),
	}
}

func (m *metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.records, m.bytes, m.publishes, m.errors, m.deleted, m.unread, m.truncated, m.failed, m.sync}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range m.vectors() {
		v.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.size, m.segments, m.first, m.next, m.lag, m.tail} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, v := range m.vectors() {
		v.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for _, t := range m.w.topics {
		committed := t.groups.all()
		for _, p := range t.partitions {
			l := strconv.Itoa(int(p.id))
			var size int64
			p.mu.Lock()
			for _, s := range p.segments {
				size += s.size
			}
			segments, first, next, tail := len(p.segments), p.segments[0].base, p.active().next, p.tailBytes
			p.mu.Unlock()
			gauge(m.size, size, t.name, l)
			gauge(m.segments, int64(segments), t.name, l)
			gauge(m.first, first, t.name, l)
			gauge(m.next, next, t.name, l)
			gauge(m.tail, tail, t.name, l)
			for group, pos := range committed {
				gauge(m.lag, next-pos[p.id], t.name, l, group)
			}
		}
	}
}
