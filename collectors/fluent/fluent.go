package fluent

import (
	"context"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"kemi"
	"kemi/collectors/listen"
	"kemi/collectors/push"
)

const protocol = "fluent"

// Config is what can be set about the receiver.
type Config struct {
	listen.Config `yaml:",inline"`
	// SharedKeyFile holds the key that senders must know; "" = senders need none.
	SharedKeyFile string `yaml:"sharedKeyFile,omitempty"`
	// Hostname is what the receiver calls itself in the handshake; "" = this machine's name.
	Hostname string `yaml:"hostname,omitempty"`
	// MaxMessageBytes is how large a message, a chunk of events, may be as it is sent.
	MaxMessageBytes int `yaml:"maxMessageBytes"`
}

// DefaultConfig is off.
func DefaultConfig() Config {
	return Config{Config: listen.DefaultConfig(), MaxMessageBytes: 16 << 20}
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	var errs []error
	if err := c.Config.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("fluent: %w", err))
	}
	for _, a := range c.Listen {
		if strings.HasPrefix(a, "udp://") || strings.HasPrefix(a, "unixgram:") {
			errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "fluent: listen: %q: the protocol has no datagrams; use tcp://, tls:// or unix:", a))
		}
	}
	if c.MaxMessageBytes < 1<<10 || c.MaxMessageBytes > 256<<20 {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "fluent: maxMessageBytes: %d: must be between %d and %d", c.MaxMessageBytes, 1<<10, 256<<20))
	}
	return errors.Join(errs...)
}

func (c Config) key() (string, error) {
	if c.SharedKeyFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.SharedKeyFile)
	if err != nil {
		return "", kemi.Errorf(kemi.ErrInvalid, "fluent: sharedKeyFile: %w", err)
	}
	key := strings.TrimSpace(string(b))
	if key == "" {
		return "", kemi.Errorf(kemi.ErrInvalid, "fluent: sharedKeyFile: %s is empty", c.SharedKeyFile)
	}
	return key, nil
}

// Options are what the receiver works with. All are needed.
type Options struct {
	In      *push.Push
	Auth    listen.Authenticator
	Metrics *listen.Metrics
	Log     *slog.Logger
}

// New binds the addresses.
func New(ctx context.Context, cfg Config, o Options) (*listen.Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if _, err := cfg.key(); err != nil {
		return nil, err
	}
	if cfg.Hostname == "" {
		cfg.Hostname, _ = os.Hostname()
	}
	return listen.Open(ctx, cfg.Config, listen.Options{
		Name: protocol, Auth: o.Auth, Log: o.Log, Metrics: o.Metrics, Needs: kemi.LogsWrite,
		Serve: func(ctx context.Context, l *listen.Listener, c net.Conn) {
			s := &session{cfg: cfg, o: o, l: l, conn: c, Logs: listen.NewLogs(o.In, l, protocol, c.RemoteAddr().String(), o.Log)}
			s.serve(ctx)
		},
	})
}

// session is a connection.
type session struct {
	*listen.Logs
	cfg  Config
	o    Options
	l    *listen.Listener
	conn net.Conn

	buf  []byte // what has come and is not done with
	held *push.Body
	size int // of the memory that is held for buf
}

const (
	// linger is how long events that nobody waits for may wait for more: one write for many.
	linger = 50 * time.Millisecond
	// replyTimeout is how long a sender may take to read what is said to it, and to answer in the handshake.
	replyTimeout = 10 * time.Second
	// lastFlush is how long the end of the process waits for what was read to become durable.
	lastFlush = 5 * time.Second
	bufStep   = 64 << 10
)

func (s *session) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Now()) })
	defer stop()
	defer func() {
		if s.held != nil {
			s.held.Release()
		}
	}()
	err := s.handshake(ctx)
	if err == nil {
		err = s.messages(ctx)
	}
	last := ctx
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		last, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
		defer cancel()
	}
	s.Flush(last)
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.o.In.Refused(protocol, "connections", 1)
		s.o.Log.Warn("connection ended", "protocol", protocol, "from", s.conn.RemoteAddr().String(), "err", err)
	}
}

// messages reads messages until the connection or ctx ends.
func (s *session) messages(ctx context.Context) error {
	for {
		b, err := s.next(ctx)
		if err != nil {
			return err
		}
		if err := s.take(ctx, b); err != nil {
			return err
		}
	}
}

// next is the next message. The bytes hold until it is called again.
func (s *session) next(ctx context.Context) ([]byte, error) {
	e := newExtent()
	idle := time.Now().Add(s.cfg.IdleTimeout)
	for {
		ok, err := e.look(s.buf, s.cfg.MaxMessageBytes)
		if err != nil {
			return nil, err
		}
		if ok {
			b := s.buf[:e.at]
			s.buf = s.buf[e.at:]
			return b, nil
		}
		if err := s.read(ctx, idle); err != nil {
			return nil, err
		}
	}
}

// read reads more. Events that are pending are written when nothing more comes for a moment.
func (s *session) read(ctx context.Context, idle time.Time) error {
	if cap(s.buf)-len(s.buf) < 4<<10 {
		if err := s.grow(ctx); err != nil {
			return err
		}
	}
	for {
		deadline := idle
		if s.Pending() {
			deadline = time.Now().Add(linger)
		}
		_ = s.conn.SetReadDeadline(deadline)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := s.conn.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		switch {
		case n > 0:
			s.Received(n)
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && s.Pending() && ctx.Err() == nil:
			if err := s.Write(ctx, ""); err != nil {
				return err
			}
		case err != nil:
			if len(s.buf) > 0 && errors.Is(err, io.EOF) {
				return wrong("the connection ended within it, after %d bytes", len(s.buf))
			}
			return err
		}
	}
}

// grow makes room for more of a message, in new memory: texts of the old one are not kept, but it may be large.
func (s *session) grow(ctx context.Context) error {
	need := bufStep
	for need < len(s.buf)+bufStep/2 {
		need *= 2
	}
	if s.size > 2*need { // of a message that was larger
		s.held.Release()
		s.held, s.size = nil, 0
	}
	for s.size < need {
		if err := s.hold(ctx, &s.held); err != nil {
			return err
		}
		s.size += bufStep
	}
	s.buf = append(make([]byte, 0, need), s.buf...)
	return nil
}

// holdTimeout is how long a connection waits for memory. It may hold some that others wait for, so it ends then, and gives it back.
const holdTimeout = 30 * time.Second

// hold takes bufStep more of the memory for requests, which it waits for.
func (s *session) hold(ctx context.Context, held **push.Body) error {
	for until := time.Now().Add(holdTimeout); ; {
		var err error
		if *held == nil {
			*held, err = s.o.In.Reserve(ctx, bufStep)
		} else {
			err = (*held).Hold(bufStep)
		}
		if err == nil || time.Now().After(until) {
			return err
		}
		// What is pending gives some back, and others do, too.
		if err := s.Write(ctx, ""); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(linger):
		}
	}
}

// take takes a message, and acknowledges it if that is asked for.
func (s *session) take(ctx context.Context, b []byte) error {
	if o, ok := read(b); ok && o.kind == kindNil { // a heartbeat
		return nil
	}
	m, err := parse(b)
	if err != nil {
		return err
	}
	if m.chunk != "" { // has a write of its own, behind what came before
		if err := s.Write(ctx, ""); err != nil {
			return err
		}
	}
	var unpacked *push.Body
	defer func() {
		if unpacked != nil {
			unpacked.Release()
		}
	}()
	if err := m.unpack(s.o.In.Config().MaxDecodedBytes, func() error { return s.hold(ctx, &unpacked) }); err != nil {
		return err
	}
	var fit []kemi.LogRecord
	err = m.each(func(at kemi.Nanos, record, metadata []byte, problem error) {
		var r kemi.LogRecord
		var n int
		if problem != nil {
			r = kemi.LogRecord{At: at, Body: value(record), Stream: kemi.LabelsOf("tag", m.tag), Attrs: kemi.LabelsOf("fluent.error", problem.Error())}
			n = len(r.Body)
		} else {
			r, n = recordOf(m.tag, at, record, metadata, s.o.In.Config().MaxAttributes)
		}
		fit = s.o.In.Fit(fit[:0], r, protocol)
		for i := range fit {
			s.Add(fit[i], n)
		}
	})
	if err != nil {
		return err
	}
	switch {
	case m.chunk != "":
		batch := ""
		if len(m.chunk) <= 128 {
			batch = "fluent:" + m.chunk
		}
		if err := s.Write(ctx, batch); err != nil {
			return err
		}
		return s.reply(appendText(appendText([]byte{0x81}, "ack"), m.chunk))
	case s.Full():
		return s.Write(ctx, "")
	}
	return nil
}

func (s *session) reply(b []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(replyTimeout))
	_, err := s.conn.Write(b)
	return err
}

// handshake lets senders in that know the shared key: HELO with a nonce, PING with a digest of it and the key, PONG with one of our own.
func (s *session) handshake(ctx context.Context) error {
	key, err := s.cfg.key()
	if err != nil || key == "" {
		return err
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	nonce := base64.StdEncoding.EncodeToString(random)
	helo := appendText([]byte{0x92}, "HELO")
	helo = appendText(appendText(append(helo, 0x83), "nonce"), nonce)
	helo = appendText(appendText(helo, "auth"), "")
	helo = appendBool(appendText(helo, "keepalive"), true)
	if err := s.reply(helo); err != nil {
		return err
	}
	b, err := s.ping(ctx)
	if err != nil {
		return err
	}
	salt, reason := s.check(b, nonce, key)
	pong := appendText(appendBool(appendText([]byte{0x95}, "PONG"), reason == ""), reason)
	if reason != "" {
		_ = s.reply(appendText(appendText(pong, ""), ""))
		return kemi.Errorf(kemi.ErrUnauthorized, "handshake: %s", reason)
	}
	return s.reply(appendText(appendText(pong, s.cfg.Hostname), digest(salt, s.cfg.Hostname, nonce, key)))
}

// maxPing is how large the answer to HELO may be: nobody has shown yet who it is.
const maxPing = 4 << 10

func (s *session) ping(ctx context.Context) ([]byte, error) {
	e := newExtent()
	until := time.Now().Add(replyTimeout)
	for {
		ok, err := e.look(s.buf, maxPing)
		if err != nil {
			return nil, err
		}
		if ok {
			b := s.buf[:e.at]
			s.buf = s.buf[e.at:]
			return b, nil
		}
		if err := s.read(ctx, until); err != nil {
			return nil, err
		}
	}
}

func digest(salt, host, nonce, key string) string {
	sum := sha512.Sum512([]byte(salt + host + nonce + key))
	return hex.EncodeToString(sum[:])
}

// check looks at PING: ["PING", host, salt, digest, user, digest of a password].
func (s *session) check(b []byte, nonce, key string) (salt, reason string) {
	n, rest, ok := elements(b)
	if !ok || n != 6 {
		return "", "PING: must be an array of 6 elements"
	}
	var part [4]string
	for i := range part {
		text, after, ok := textOf(rest)
		if !ok {
			return "", "PING: must be texts"
		}
		part[i], rest = string(text), after
	}
	if part[0] != "PING" {
		return "", "PING: is missing"
	}
	if subtle.ConstantTimeCompare([]byte(part[3]), []byte(digest(part[2], part[1], nonce, key))) != 1 {
		return "", "shared key mismatch"
	}
	return part[2], ""
}
