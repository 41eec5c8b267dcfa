package agent

import (
	"bytes"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stats are counters that may be read at any time: they are shipped as data.agent.*, and shown at /metrics of a server that runs
// the agent itself.
type stats struct {
	samples, series, collectNanos atomic.Int64
	sent, sendErrors              atomic.Int64
	refused, refusedRecords       atomic.Int64
	refusedSeries                 atomic.Int64

	mu         sync.Mutex
	complained map[string]time.Time
}

// complainEvery is how often the same trouble is logged.
const complainEvery = time.Minute

// complain logs err unless the same message was logged a short while ago.
func (s *stats) complain(log *slog.Logger, now time.Time, message string, err error) {
	s.mu.Lock()
	last, ok := s.complained[message]
	again := ok && now.Sub(last) < complainEvery
	if !again {
		if s.complained == nil {
			s.complained = map[string]time.Time{}
		}
		s.complained[message] = now
	}
	s.mu.Unlock()
	if !again {
		log.Warn(message, "err", err)
	}
}

// relieved forgets that message was logged, and tells whether it was.
func (s *stats) relieved(message string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.complained[message]
	delete(s.complained, message)
	return ok
}

// dropped is how many batches were not delivered and never will be.
func (a *Agent) dropped() int64 {
	return a.stats.refused.Load() + a.metrics.dropped.Load() + a.logs.dropped.Load()
}

func (a *Agent) waiting() (batches, bytes int64) {
	for _, q := range []*queue{a.metrics, a.logs} {
		n, b := q.pending()
		batches, bytes = batches+n, bytes+b
	}
	return batches, bytes
}

func (a *Agent) journalLines() int64 {
	if a.journal == nil {
		return 0
	}
	return a.journal.Stats.Lines.Load()
}

// residentBytes is how much memory the process has.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[1]), 10, 64)
	return n * int64(os.Getpagesize())
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("kemi", "collectors_agent", name), help, labels, nil)
}

var (
	descSamples    = desc("samples_total", "Samples collected from the host.")
	descLines      = desc("log_lines_total", "Log records read, by source: file, journal.", "source")
	descBytes      = desc("log_bytes_total", "Bytes of log records read, by source.", "source")
	descFiles      = desc("log_files", "Log files followed.")
	descTruncated  = desc("log_truncations_total", "Log files that were truncated or written anew.")
	descSent       = desc("sent_batches_total", "Batches that the server acknowledged.")
	descErrors     = desc("send_errors_total", "Attempts to send a batch that failed.")
	descRefused    = desc("refused_batches_total", "Batches that the server refused for good: they were dropped.")
	descRefusedLog = desc("refused_log_records_total", "Log records that the server left out of batches it took.")
	descRefusedNew = desc("refused_series_total", "New series that the server had no room for in batches it took, each time.")
	descDropped    = desc("spool_dropped_batches_total", "Batches dropped because the spool was full.", "kind")
	descCorrupt    = desc("spool_damaged_total", "Places in the spool that could not be read back.", "kind")
	descFailed     = desc("spool_write_errors_total", "Failed writes to the spool.", "kind")
	descWaiting    = desc("spool_batches", "Batches waiting to be sent.", "kind")
	descSize       = desc("spool_bytes", "Bytes of the spool on disk.", "kind")
)

// Describe is prometheus.Collector's.
func (a *Agent) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSamples, descLines, descBytes, descFiles, descTruncated, descSent, descErrors, descRefused, descRefusedLog, descRefusedNew,
		descDropped, descCorrupt, descFailed, descWaiting, descSize} {
		ch <- d
	}
	if a.transform != nil {
		a.transform.Describe(ch)
	}
}

// Collect is prometheus.Collector's.
func (a *Agent) Collect(ch chan<- prometheus.Metric) {
	if a.transform != nil {
		a.transform.Collect(ch)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter(descSamples, a.stats.samples.Load())
	counter(descLines, a.tail.Stats.Lines.Load(), "file")
	counter(descBytes, a.tail.Stats.Bytes.Load(), "file")
	counter(descLines, a.journalLines(), "journal")
	if a.journal != nil {
		counter(descBytes, a.journal.Stats.Bytes.Load(), "journal")
	}
	gauge(descFiles, a.tail.Stats.Files.Load())
	counter(descTruncated, a.tail.Stats.Truncations.Load())
	counter(descSent, a.stats.sent.Load())
	counter(descErrors, a.stats.sendErrors.Load())
	counter(descRefused, a.stats.refused.Load())
	counter(descRefusedLog, a.stats.refusedRecords.Load())
	counter(descRefusedNew, a.stats.refusedSeries.Load())
	for kind, q := range map[string]*queue{"metrics": a.metrics, "logs": a.logs} {
		counter(descDropped, q.dropped.Load(), kind)
		counter(descCorrupt, q.corrupt.Load(), kind)
		counter(descFailed, q.failed.Load(), kind)
		n, b := q.pending()
		gauge(descWaiting, n, kind)
		gauge(descSize, b, kind)
	}
}
