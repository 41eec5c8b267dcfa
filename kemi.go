package kemi

import "time"

// Millis is a point in time in milliseconds since the Unix epoch, the resolution of metrics and of the query API.
type Millis int64

// MillisOf is t in milliseconds since the Unix epoch.
func MillisOf(t time.Time) Millis { return Millis(t.UnixMilli()) }

// Time is m as a time in UTC.
func (m Millis) Time() time.Time { return time.UnixMilli(int64(m)).UTC() }

// Nanos is a point in time in nanoseconds since the Unix epoch, the resolution of logs.
type Nanos int64

// NanosOf is t in nanoseconds since the Unix epoch.
func NanosOf(t time.Time) Nanos { return Nanos(t.UnixNano()) }

// Millis is n rounded down to milliseconds.
func (n Nanos) Millis() Millis {
	m := n / 1e6
	if n%1e6 < 0 {
		m--
	}
	return Millis(m)
}

// Nanos is m in nanoseconds.
func (m Millis) Nanos() Nanos { return Nanos(m) * 1e6 }

// Time is n as a time in UTC.
func (n Nanos) Time() time.Time { return time.Unix(0, int64(n)).UTC() }

// Range is a half-open span of time: From is in it, To is not.
type Range struct{ From, To Millis }

// Contains tells whether at lies in r.
func (r Range) Contains(at Millis) bool { return at >= r.From && at < r.To }

// MetricName is the label that holds the name of a metric, as in Prometheus.
const MetricName = "__name__"

// Points is a stretch of one series in columns: At is ascending and Values is as long.
type Points struct {
	Labels Labels // with MetricName
	At     []Millis
	Values []float64
}

// LogRecord is one log line, after OpenTelemetry's log data model. Body holds the bytes as they were sent,
// which need not be valid UTF-8.
type LogRecord struct {
	ID       string // unique in its project; the same record delivered twice has the same ID
	Project  string
	At       Nanos
	Severity Severity
	Stream   Labels // says which source wrote it: host, service, app, … few values
	Attrs    Labels // what else is known of this one record; any number of values
	Body     string
	TraceID  string // lower-case hex, 32 digits, or empty
	SpanID   string // lower-case hex, 16 digits, or empty
}

// Event is something that happened and that others may act on: an alert that fires or ends, a host that
// registers, a pool that grows. On the log of record it is a CloudEvent 1.0 in JSON.
type Event struct {
	ID      string // unique; the same event delivered twice has the same ID
	Project string
	Kind    string // for example "alert", "ims.host", "scale"
	Subject string // what it is about: the alert's name, the host, the group
	At      Millis
	Firing  bool   // for alerts: whether it fires (or, if not, is over)
	Tags    Labels // of the alert, host, …
	Data    []byte // JSON with what Kind adds, or nil
}
