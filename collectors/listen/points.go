package listen

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

// Points are the samples that a session has read and that are not durable yet. It does what Session asks but for Line.
type Points struct {
	in       *push.Push
	l        *Listener
	log      *slog.Logger
	protocol string
	source   string
	received prometheus.Counter // of bytes

	req *push.Request
}

// NewPoints begins with nothing. protocol is its name in the receivers' metrics.
func NewPoints(in *push.Push, l *Listener, protocol, peer string, log *slog.Logger) *Points {
	return &Points{in: in, l: l, log: log, protocol: protocol, source: protocol + "\x00" + peer, received: in.ReceivedOf(protocol)}
}

// Received counts a line.
func (p *Points) Received(line []byte) { p.received.Add(float64(len(line) + 1)) }

// Builder is where the next sample goes.
//
// Errors: ErrUnauthorized, ErrDenied (the listener has no identity any more).
func (p *Points) Builder() (*codec.Builder, error) {
	if p.req == nil {
		id, err := p.l.Identity()
		if err != nil {
			return nil, err
		}
		if p.req, err = p.in.Begin(id, p.protocol, "", p.source); err != nil {
			return nil, err
		}
	}
	// There is always room: Full asks for a flush long before the builder is full.
	return p.req.Points(context.Background())
}

// Pending tells whether there is something to flush.
func (p *Points) Pending() bool { return p.req != nil && p.req.Pending() > 0 }

const (
	fullSamples = 2000
	fullBytes   = 512 << 10
)

// Full tells whether a flush must not wait any longer.
func (p *Points) Full() bool {
	return p.Pending() && (p.req.Pending() >= fullSamples || p.req.Size() >= fullBytes)
}

// giveUp is how long a flush is tried again while the log cannot take it. The sender is not read meanwhile: TCP makes it wait.
const giveUp = 5 * time.Minute

// Flush makes what is pending durable. What the log cannot take now is tried again; what it will not take is counted and left out.
func (p *Points) Flush(ctx context.Context) {
	if p.req == nil {
		return
	}
	req, in := p.req, p.req.Take()
	p.req = nil // the next one asks for the identity anew
	if in == nil {
		return
	}
	end := time.Now().Add(giveUp)
	wait := 100 * time.Millisecond
	for {
		err := req.Publish(ctx, in)
		if err == nil {
			return
		}
		if !errors.Is(err, kemi.ErrUnavailable) || time.Now().After(end) || ctx.Err() != nil {
			p.in.Refused(p.protocol, "samples", in.Samples)
			p.log.Warn("samples were not taken", "protocol", p.protocol, "from", p.source, "samples", in.Samples, "err", err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}
