package listen

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"time"
)

const (
	// linger is how long what was read waits for more before it is published: one write for many lines.
	linger = 50 * time.Millisecond
	// replyTimeout is how long a sender may take to read what is said to it.
	replyTimeout = 10 * time.Second
	// lastFlush is how long the end of the process waits for what was read to become durable.
	lastFlush = 5 * time.Second
)

// since is when something began to be pending.
type since struct{ time.Time }

// deadline is how long a read may wait: what is pending is not made to wait for more for ever.
func (p *since) deadline(s Session, idle time.Time) time.Time {
	if !s.Pending() {
		p.Time = time.Time{}
		return idle
	}
	if p.IsZero() {
		p.Time = time.Now()
	}
	return p.Add(linger)
}

// serve reads a connection to its end.
func (l *Listener) serve(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	defer stop()
	s := l.o.Open(l, c.RemoteAddr().String())
	defer l.last(ctx, s)
	cut, ok := s.(Framing)
	if !ok {
		cut = &lines{}
	}
	buf := make([]byte, 0, 16<<10)
	var replies []byte
	var pending since
	for heard := time.Now(); ; {
		_ = c.SetReadDeadline(pending.deadline(s, heard.Add(l.cfg.IdleTimeout)))
		if ctx.Err() != nil {
			return
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := c.Read(buf[len(buf):min(cap(buf), l.cfg.MaxLineBytes+1)])
		if n > 0 {
			heard = time.Now()
		}
		buf = buf[:len(buf)+n]
		rest, end := buf, false
		for !end {
			f := cut.Next(rest, len(rest) > l.cfg.MaxLineBytes)
			rest = rest[f.Taken:]
			if f.Long {
				l.refuse("long")
			}
			if !f.Whole {
				if f.Taken == 0 {
					break
				}
				continue
			}
			var reply string
			reply, end = s.Line(f.Bytes)
			replies = append(replies, reply...)
			if s.Full() {
				s.Flush(ctx)
			}
		}
		buf = buf[:copy(buf, rest)]
		if len(replies) > 0 {
			_ = c.SetWriteDeadline(time.Now().Add(replyTimeout))
			if _, err := c.Write(replies); err != nil {
				return
			}
			replies = replies[:0]
		}
		if end {
			return
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil && s.Pending():
			if _, err := l.Identity(); err != nil {
				return // revoked
			}
			s.Flush(ctx)
		default:
			// The end: a last frame may lack its end.
			if b := cut.Last(buf); len(b) > 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
				s.Line(b)
			}
			return
		}
	}
}

// last makes durable what a session still has when it ends.
func (l *Listener) last(ctx context.Context, s Session) {
	if !s.Pending() {
		return
	}
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
		defer cancel()
	}
	s.Flush(ctx)
}

// recovered keeps a defect in one session from the process.
func (l *Listener) recovered() {
	if p := recover(); p != nil {
		l.o.Log.Error("session ended by a panic", "protocol", l.o.Name, "panic", p, "stack", string(debug.Stack()))
	}
}

// receive reads the datagrams of a socket. A datagram has whole lines, or is one message for sessions that take it so.
func (l *Listener) receive(ctx context.Context, c net.PacketConn) error {
	s := l.o.Open(l, "")
	defer l.last(ctx, s)
	read := l.reader(c)
	var pending since
	for {
		if s.Full() {
			s.Flush(ctx)
		}
		_ = c.SetReadDeadline(pending.deadline(s, time.Time{}))
		b, from, err := read()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.Flush(ctx)
			continue
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			continue // of one datagram
		case !l.allowed(from):
			l.refuse("address")
			continue
		}
		if _, err := l.Identity(); err != nil {
			l.refuse("identity")
			continue
		}
		l.datagram(ctx, s, from, b)
	}
}

func (l *Listener) datagram(ctx context.Context, s Session, from net.Addr, b []byte) {
	defer l.recovered()
	if p, ok := s.(Packets); ok {
		p.Packet(from, b)
		return
	}
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		if len(line) > l.cfg.MaxLineBytes {
			l.refuse("long")
		} else if line = bytes.TrimSuffix(line, []byte("\r")); len(line) > 0 {
			s.Line(line)
		}
		if s.Full() {
			s.Flush(ctx)
		}
	}
}
