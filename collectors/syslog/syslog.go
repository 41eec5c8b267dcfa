package syslog

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/collectors/listen"
	"kemi/collectors/push"
)

const protocol = "syslog"

// Options are what the receiver works with. All are needed.
type Options struct {
	In         *push.Push
	Auth       listen.Authenticator
	Metrics    *listen.Metrics
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Now        func() time.Time
}

// receiver is what its sessions share.
type receiver struct {
	cfg    Config
	limits push.Config
	o      Options
	zone   *time.Location

	broken, parts, partial prometheus.Counter
}

// New binds the addresses.
func New(ctx context.Context, cfg Config, o Options) (*listen.Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &receiver{cfg: cfg, limits: o.In.Config(), o: o}
	r.zone, _ = cfg.zone() // Validate has looked at it
	kept := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kemi_collectors_syslog_odd_total", Help: "Messages that were kept though something is wrong with them: broken (no syslog), part (of one that is longer than the limit), partial (their connection ended).",
	}, []string{"reason"})
	o.Registerer.MustRegister(kept)
	r.broken, r.parts, r.partial = kept.WithLabelValues("broken"), kept.WithLabelValues("part"), kept.WithLabelValues("partial")
	return listen.Open(ctx, cfg.Config, listen.Options{
		Name: protocol, Auth: o.Auth, Log: o.Log, Metrics: o.Metrics, Needs: kemi.LogsWrite,
		Open: func(l *listen.Listener, peer string) listen.Session { return r.session(l, peer) },
	})
}

// session is a connection, or the datagrams of a socket.
type session struct {
	*listen.Logs
	framing
	r    *receiver
	peer string

	// What messages say again and again is worked out once: labels by facility, host and application, attributes by their bytes.
	streams map[string]kemi.Labels
	details map[string]details
	key     []byte
	last    kemi.LogRecord // the first part of what comes in parts
}

type details struct {
	attrs   kemi.Labels
	problem string
}

func (r *receiver) session(l *listen.Listener, peer string) *session {
	return &session{
		Logs: listen.NewLogs(r.o.In, l, protocol, peer, r.o.Log), framing: framing{max: min(r.cfg.MaxLineBytes, r.limits.MaxLineBytes)}, r: r, peer: hostOf(peer),
		streams: map[string]kemi.Labels{}, details: map[string]details{},
	}
}

// hostOf is the address without its port, or "".
func hostOf(peer string) string {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		return ""
	}
	return host
}

// Line takes a frame of a connection.
func (s *session) Line(frame []byte) (string, bool) {
	s.Received(len(frame) + 1)
	s.take(frame, s.peer)
	return "", false
}

// Packet takes a datagram, which is one message.
func (s *session) Packet(from net.Addr, b []byte) {
	s.Received(len(b))
	peer := ""
	if u, ok := from.(*net.UDPAddr); ok {
		peer = u.AddrPort().Addr().Unmap().WithZone("").String()
	}
	for s.part = 0; len(b) > s.max; b = b[s.max:] {
		s.part++
		s.take(b[:s.max], peer)
	}
	if s.part > 0 {
		s.part++
	}
	s.take(b, peer)
}

// severities are those of the eight levels.
var severities = [8]kemi.Severity{kemi.SeverityFatal, kemi.SeverityError + 2, kemi.SeverityError + 1, kemi.SeverityError,
	kemi.SeverityWarn, kemi.SeverityInfo + 1, kemi.SeverityInfo, kemi.SeverityDebug}

var facilities = [24]string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"ntp", "security", "console", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// take makes a record of a frame. peer is the host that sent it, for messages that name none.
func (s *session) take(frame []byte, peer string) {
	if s.part == 0 {
		// What ends a message beside what frames it: line breaks, and the NUL of some devices.
		frame = bytes.TrimSuffix(bytes.TrimSuffix(bytes.TrimSuffix(frame, []byte("\x00")), []byte("\n")), []byte("\r"))
	}
	if len(frame) == 0 {
		return
	}
	var r kemi.LogRecord
	if s.part > 1 {
		r = s.last
		r.Body = s.Text(frame)
	} else {
		r = s.record(frame, peer)
	}
	if s.part > 0 {
		s.r.parts.Inc()
		r.Attrs = r.Attrs.With("syslog.part", strconv.Itoa(s.part))
		s.last = r
		s.last.Body = ""
	}
	if s.partial {
		s.r.partial.Inc()
		r.Attrs = r.Attrs.With("syslog.error", "the connection ended within the message")
	}
	s.Add(r, len(r.Body))
}

// record is the record of a message.
func (s *session) record(frame []byte, peer string) kemi.LogRecord {
	now := s.r.o.Now()
	m := parse(frame, now, s.r.zone)
	var d details
	if m.problem == "" && len(m.details) > 0 {
		if d = s.detailsOf(&m); d.problem != "" {
			m = message{facility: m.facility, level: m.level, text: frame, problem: d.problem}
		}
	}
	r := kemi.LogRecord{At: m.at, Body: s.Text(m.text), Stream: s.stream(&m, peer), Attrs: d.attrs}
	if m.level >= 0 {
		r.Severity = severities[m.level]
	}
	if m.problem != "" {
		s.r.broken.Inc()
		r.Attrs = r.Attrs.With("syslog.error", m.problem)
	}
	switch age := now.Sub(r.At.Time()); {
	case m.when != nil: // not a time
		r.Attrs = r.Attrs.With("syslog.time", s.Text(m.when))
		r.At = 0
	case r.At != 0 && (r.At < 0 || age > s.r.limits.MaxPast || -age > s.r.limits.MaxFuture): // a clock that is wrong
		r.Attrs = r.Attrs.With("syslog.time", r.At.Time().Format(time.RFC3339Nano))
		r.At = 0
	}
	if r.At == 0 {
		r.At = kemi.NanosOf(now)
	}
	return r
}

// maxKnown is how many streams and details a session remembers.
const maxKnown = 4096

func (s *session) detailsOf(m *message) details {
	if d, ok := s.details[string(m.details)]; ok {
		return d
	}
	var d details
	// Some may come on top that say what is wrong.
	d.attrs, d.problem = m.attributes(s.r.limits.MaxAttributes - 4)
	size := 0
	for _, l := range d.attrs {
		size += len(l.Name) + len(l.Value)
		if len(l.Name) > s.r.limits.MaxLabelNameBytes || size > s.r.limits.MaxLineBytes {
			d = details{problem: "structured data are larger than is kept (ingest.maxLabelNameBytes, ingest.maxLineBytes)"}
			break
		}
	}
	if len(m.details) <= 1024 {
		if len(s.details) >= maxKnown {
			clear(s.details)
		}
		s.details[string(m.details)] = d
	}
	return d
}

// stream is the labels of a message: facility, host and app.
func (s *session) stream(m *message, peer string) kemi.Labels {
	host := m.host
	s.key = append(append(append(s.key[:0], byte(m.facility+1)), m.source...), 0)
	if host == nil {
		s.key = append(s.key, peer...)
		host = []byte(peer)
	}
	if ls, ok := s.streams[string(s.key)]; ok {
		return ls
	}
	var facility string
	if m.facility >= 0 {
		facility = facilities[m.facility]
	}
	ls := kemi.LabelsOf("app", string(m.app), "facility", facility, "host", string(host))
	if len(s.streams) >= maxKnown {
		clear(s.streams)
	}
	s.streams[string(s.key)] = ls
	return ls
}
