package listen

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/collectors/push"
)

// Logs are the log records that a session has read and that are not durable yet. It does what Session asks but for Line.
type Logs struct {
	in       *push.Push
	l        *Listener
	log      *slog.Logger
	protocol string
	peer     string
	received prometheus.Counter // of bytes

	records []kemi.LogRecord
	size    int
	text    strings.Builder // where the texts of the records lie; a full one is left to them
	memory  *push.Body      // the share of the memory for requests
	held    int
	full    bool // there is no memory for more
}

// NewLogs begins with nothing. protocol is its name in the receivers' metrics.
func NewLogs(in *push.Push, l *Listener, protocol, peer string, log *slog.Logger) *Logs {
	return &Logs{in: in, l: l, log: log, protocol: protocol, peer: peer, received: in.ReceivedOf(protocol)}
}

const (
	fullLogs     = 10_000
	fullLogBytes = 1 << 20
	// recordBytes is what a record takes beside its text.
	recordBytes = 200
	// logStep is how much memory is asked for at a time.
	logStep = 128 << 10
	// textStep is how large the pieces of memory are that texts lie in.
	textStep = 128 << 10
)

// Received counts bytes that came in.
func (g *Logs) Received(n int) { g.received.Add(float64(n)) }

// Text is a copy of b that lasts.
func (g *Logs) Text(b []byte) string {
	if len(b) > textStep/4 {
		return string(b)
	}
	if g.text.Cap()-g.text.Len() < len(b) {
		g.text = strings.Builder{}
		g.text.Grow(textStep)
	}
	from := g.text.Len()
	g.text.Write(b)
	return g.text.String()[from:]
}

// Add takes a record whose texts have n bytes.
func (g *Logs) Add(r kemi.LogRecord, n int) {
	g.records = append(g.records, r)
	g.size += n + recordBytes
	for g.size > g.held && !g.full {
		var err error
		if g.memory == nil {
			g.memory, err = g.in.Reserve(context.Background(), logStep)
		} else {
			err = g.memory.Hold(logStep)
		}
		if g.full = err != nil; !g.full {
			g.held += logStep
		}
	}
}

// Pending tells whether there is something to flush.
func (g *Logs) Pending() bool { return len(g.records) > 0 }

// Full tells whether a flush must not wait any longer.
func (g *Logs) Full() bool {
	return g.Pending() && (g.full || len(g.records) >= fullLogs || g.size >= fullLogBytes)
}

// Flush is Write for sessions, which cannot tell their senders anything.
func (g *Logs) Flush(ctx context.Context) { _ = g.Write(ctx, "") }

// Write makes what is pending durable; batch is as of push.WriteLogs. What the log cannot take now is tried again until ctx ends, and the sender is not read meanwhile: connections make
// it wait, and of datagrams the system drops those that it has no room for. What the log will not take is counted and left out. An error means that nothing
// of it is durable, as far as is known.
func (g *Logs) Write(ctx context.Context, batch string) error {
	if !g.Pending() {
		return nil
	}
	records := g.records
	g.size, g.full = 0, false
	wait := 100 * time.Millisecond
	var failed error
	for told := false; ; {
		id, err := g.l.Identity()
		known := err == nil
		if known {
			err = g.in.WriteLogs(ctx, id, g.protocol, records, batch)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, kemi.ErrUnavailable) || ctx.Err() != nil {
			g.log.Warn("log records were not taken, or not all", "protocol", g.protocol, "from", g.peer, "records", len(records), "err", err)
			if known && errors.Is(err, kemi.ErrInvalid) {
				break // what is wrong with some of them was counted, and the others are durable
			}
			g.in.Refused(g.protocol, "log records", len(records))
			failed = err
			break
		}
		if !told {
			told = true
			g.log.Warn("the log cannot take records now; their sender waits", "protocol", g.protocol, "from", g.peer, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
	clear(records)
	g.records = records[:0]
	if g.memory != nil {
		g.memory.Release()
		g.memory, g.held = nil, 0
	}
	return failed
}
