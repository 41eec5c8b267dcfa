package statsd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"kemi"
	"kemi/collectors/listen"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

const protocol = "statsd"

// Options are what the receiver works with. All are needed.
type Options struct {
	In      *push.Push
	Auth    listen.Authenticator
	Metrics *listen.Metrics
	Log     *slog.Logger
	Now     func() time.Time
}

// Receiver is listeners and the sums behind them.
type Receiver struct {
	cfg Config
	o   Options
	l   *listen.Listener
	sum *aggregate

	events events
}

// New binds the addresses.
func New(ctx context.Context, cfg Config, o Options) (*Receiver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Receiver{cfg: cfg, o: o, sum: newAggregate(cfg, o.Now)}
	var err error
	r.l, err = listen.Open(ctx, cfg.Config, listen.Options{
		Name: protocol, Auth: o.Auth, Log: o.Log, Metrics: o.Metrics,
		Open: func(_ *listen.Listener, peer string) listen.Session { return &session{r: r, peer: peer} },
	})
	return r, err
}

// Addrs are the addresses that it is bound to.
func (r *Receiver) Addrs() []net.Addr { return r.l.Addrs() }

// Close unbinds the addresses; Run does it, too.
func (r *Receiver) Close() error { return r.l.Close() }

// Run serves and flushes until ctx ends, and then once more.
func (r *Receiver) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- r.l.Run(ctx) }()
	t := time.NewTicker(r.cfg.FlushInterval)
	defer t.Stop()
	second := time.NewTicker(min(time.Second, r.cfg.FlushInterval))
	defer second.Stop()
	for {
		select {
		case <-second.C:
			r.writeEvents(ctx)
		case <-t.C:
			r.flush(ctx)
		case err := <-done:
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			r.writeEvents(last)
			r.flush(last)
			return err
		}
	}
}

// session is a connection, or the datagrams of a socket. Nothing is ever pending in it: the sums are.
type session struct {
	r    *Receiver
	peer string
	told bool
}

func (s *session) Line(line []byte) (string, bool) {
	o := &s.r.o
	o.In.Received(protocol, len(line)+1)
	err := s.r.take(line)
	if err == nil {
		return "", false
	}
	o.In.Refused(protocol, "lines", 1)
	if !s.told {
		s.told = true
		o.Log.Warn("line refused; further ones of this sender are counted only", "protocol", protocol, "from", s.peer, "err", err)
	}
	return "", false
}

// take takes a line: a metric into the sums, an event to those that wait.
func (r *Receiver) take(line []byte) error {
	if !isEvent(line) {
		return r.sum.add(line)
	}
	e, err := parseEvent(line, r.o.Now())
	if err == nil && !r.events.add(e) {
		return kemi.Errorf(kemi.ErrUnavailable, "%d events wait already for the log to take them", maxEvents)
	}
	return err
}

func (s *session) Pending() bool           { return false }
func (s *session) Full() bool              { return false }
func (s *session) Flush(_ context.Context) {}

// flush writes the sums. What cannot be written now is tried again with the next flush: counters hold it, and of gauges the last value
// counts, and those with times wait; the quantiles of one interval are lost.
func (r *Receiver) flush(ctx context.Context) {
	at := kemi.MillisOf(r.o.Now())
	points := r.sum.flush(at)
	if len(points) == 0 {
		return
	}
	if err := r.write(ctx, points, at); err != nil {
		r.sum.again(points)
		r.o.In.Refused(protocol, "samples", len(points))
		r.o.Log.Warn("a flush was not taken", "protocol", protocol, "samples", len(points), "err", err)
	}
}

// seed keeps what this protocol calls series apart from what others do.
const seed = 0x3c6e_f372_fe94_f82b

func (r *Receiver) write(ctx context.Context, points []point, at kemi.Millis) error {
	id, err := r.l.Identity()
	if err != nil {
		return err
	}
	req, err := r.o.In.Begin(id, protocol, "", protocol)
	if err != nil {
		return err
	}
	defer req.End()
	var errs []error
	var name []byte
	for i := range points {
		p := &points[i]
		b, err := req.Points(ctx)
		if err != nil {
			return err
		}
		name = name[:0]
		for _, l := range p.labels {
			name = codec.AppendName(codec.AppendName(name, l.Name), l.Value)
		}
		key := codec.KeyOf(name, seed)
		s := b.Known(key)
		if s == nil {
			if s, err = b.Define(key, append(kemi.Labels(nil), p.labels...)); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		b.Describe(s, p.meta)
		if p.h != nil {
			err = b.AddHistogram(s, *p.h)
		} else {
			when := at
			if p.at != 0 {
				when = p.at
			}
			err = b.Add(s, when, p.value, p.start)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := req.Flush(ctx); err != nil {
		return err
	}
	if len(errs) > 0 {
		r.o.In.Refused(protocol, "series", len(errs))
		r.o.Log.Warn("metrics refused", "protocol", protocol, "metrics", len(errs), "first", fmt.Sprint(errs[0]))
	}
	return nil
}
