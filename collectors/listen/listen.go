package listen

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

// Authenticator finds who sent a request, and so who has a token.
type Authenticator interface {
	Authenticate(r *http.Request) (kemi.Identity, error)
}

// Session takes the lines of a connection, or of all datagrams of a socket, in order; it is called by one goroutine. One that is a Framing, too, says
// itself what the frames of a connection are that Line takes.
type Session interface {
	// Line takes a line without its end; the bytes are used again. What it returns is sent to the sender, unless it comes in datagrams. end ends
	// the connection.
	Line(line []byte) (reply string, end bool)
	// Pending tells that there is something to flush, and Full that it must not wait for more.
	Pending() bool
	Full() bool
	// Flush makes what is pending durable. It waits until that is possible, or until ctx ends.
	Flush(ctx context.Context)
}

// Packets is a Session that takes datagrams as they are, and not line by line.
type Packets interface {
	Session
	// Packet takes a datagram; the bytes are used again. from is nil for senders without an address.
	Packet(from net.Addr, b []byte)
}

// Options are what listeners work with. All but those that say otherwise are needed.
type Options struct {
	Name string // of the protocol, in messages and metrics
	Auth Authenticator
	// Open begins a session of the listener; peer is the address of the sender, or "" for datagrams.
	Open func(l *Listener, peer string) Session
	// Serve, if it is given, serves connections in place of sessions, until ctx or the connection ends. The listener closes c.
	Serve func(ctx context.Context, l *Listener, c net.Conn)
	// Needs is what the token must be allowed; 0 = MetricsWrite.
	Needs kemi.Permission
	Log   *slog.Logger
	// Metrics are shared by the listeners of all protocols.
	Metrics *Metrics
}

// Metrics count what listeners do.
type Metrics struct {
	open    *prometheus.GaugeVec   // protocol
	refused *prometheus.CounterVec // protocol, reason
	dropped *prometheus.CounterVec // protocol
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		open:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kemi_collectors_listen_connections", Help: "Connections of protocols without requests."}, []string{"protocol"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_collectors_listen_refused_total", Help: "Connections, datagrams and lines that were refused: address, limit, identity, long."}, []string{"protocol", "reason"}),
	}
	m.dropped = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kemi_collectors_listen_dropped_datagrams_total", Help: "Datagrams that the system dropped because they were not read in time; counted with the next one that is read.",
	}, []string{"protocol"})
	reg.MustRegister(m.open, m.refused, m.dropped)
	return m
}

// Listener listens on the addresses of one protocol.
type Listener struct {
	cfg   Config
	o     Options
	allow []netip.Prefix
	tls   *tls.Config
	nets  []net.Listener
	grams []net.PacketConn

	slots chan struct{}

	mu      sync.Mutex
	id      kemi.Identity
	idErr   error
	checked time.Time
}

// Open binds the addresses. Errors: ErrInvalid, ErrUnavailable (an address is taken).
func Open(ctx context.Context, cfg Config, o Options) (_ *Listener, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Name, err)
	}
	l := &Listener{cfg: cfg, o: o, allow: cfg.prefixes(), slots: make(chan struct{}, cfg.MaxConnections)}
	if l.tls, err = cfg.TLS.Server(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Name, err)
	}
	if cfg.On() {
		if _, err := cfg.token(); err != nil {
			return nil, fmt.Errorf("%s: %w", o.Name, err)
		}
	}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	for _, s := range cfg.Listen {
		a, err := parseAddress(s)
		if err != nil {
			return nil, err
		}
		if err := l.bind(ctx, a); err != nil {
			return nil, kemi.Errorf(kemi.ErrUnavailable, "%s: listen on %s: %w", o.Name, s, err)
		}
	}
	return l, nil
}

func (l *Listener) bind(ctx context.Context, a address) error {
	var lc net.ListenConfig
	if a.unix() {
		if err := freeSocket(a); err != nil {
			return err
		}
	}
	if a.datagrams() {
		c, err := lc.ListenPacket(ctx, a.network, a.at)
		if err != nil {
			return err
		}
		l.grams = append(l.grams, c)
		if u, ok := c.(*net.UDPConn); ok {
			_ = u.SetReadBuffer(8 << 20) // as much of it as the system allows
			tellDrops(u)
		}
	} else {
		n, err := lc.Listen(ctx, a.network, a.at)
		if err != nil {
			return err
		}
		if l.tls != nil && l.cfg.secure(a) {
			n = tls.NewListener(n, l.tls)
		}
		l.nets = append(l.nets, n)
	}
	if a.unix() {
		return os.Chmod(a.at, 0o660)
	}
	return nil
}

// freeSocket takes away what a process left behind that is gone; a socket that somebody answers on stays.
func freeSocket(a address) error {
	st, err := os.Lstat(a.at)
	if err != nil || st.Mode()&os.ModeSocket == 0 {
		return nil //nolint:nilerr // to listen there tells what is wrong
	}
	if c, err := net.DialTimeout(a.network, a.at, time.Second); err == nil {
		_ = c.Close()
		return errors.New("somebody listens there already")
	}
	return os.Remove(a.at)
}

// Addrs are the addresses that it is bound to.
func (l *Listener) Addrs() []net.Addr {
	var out []net.Addr
	for _, n := range l.nets {
		out = append(out, n.Addr())
	}
	for _, c := range l.grams {
		out = append(out, c.LocalAddr())
	}
	return out
}

// Close unbinds the addresses.
func (l *Listener) Close() error {
	var errs []error
	for _, n := range l.nets {
		errs = append(errs, ignoreClosed(n.Close()))
	}
	for _, c := range l.grams {
		errs = append(errs, ignoreClosed(c.Close()))
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// checkEvery is how long an identity holds before the token is looked at again: then one that was revoked is revoked here, too.
const checkEvery = 5 * time.Second

// Identity is whose everything is that comes in. It asks as a request with the token would.
//
// Errors: of Authenticate; ErrInvalid (the file cannot be read).
func (l *Listener) Identity() (kemi.Identity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.checked) < checkEvery && (l.idErr == nil || time.Since(l.checked) < checkEvery/5) {
		return l.id, l.idErr
	}
	before := l.idErr
	l.id, l.idErr = l.ask()
	l.checked = time.Now()
	if l.idErr != nil && before == nil {
		l.o.Log.Error("nothing is taken: the listener has no identity", "protocol", l.o.Name, "err", l.idErr)
	}
	return l.id, l.idErr
}

func (l *Listener) ask() (kemi.Identity, error) {
	token, err := l.cfg.token()
	if err != nil {
		return kemi.Identity{}, err
	}
	r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/"}, Header: http.Header{"Authorization": {"Bearer " + token}}}
	if l.cfg.Project != "" {
		r.Header.Set("X-Kemi-Project", l.cfg.Project)
	}
	id, err := l.o.Auth.Authenticate(r)
	if needs := cmp.Or(l.o.Needs, kemi.MetricsWrite); err == nil && !id.Can(needs) {
		err = kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", id.Subject, needs)
	}
	return id, err
}

// allowed tells whether a sender may come from there.
func (l *Listener) allowed(a net.Addr) bool {
	if len(l.allow) == 0 {
		return true
	}
	var ip netip.Addr
	switch a := a.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	default:
		return true // a Unix socket: the file's mode says who
	}
	ip = ip.Unmap().WithZone("")
	for _, p := range l.allow {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func (l *Listener) refuse(reason string) {
	l.o.Metrics.refused.WithLabelValues(l.o.Name, reason).Inc()
}

// Run serves until ctx ends; then it makes durable what was read.
func (l *Listener) Run(ctx context.Context) error {
	if _, err := l.Identity(); err != nil && l.cfg.On() {
		l.o.Log.Warn("the listener takes nothing until its token is known", "protocol", l.o.Name, "file", l.cfg.TokenFile, "err", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	failed := make(chan error, len(l.nets)+len(l.grams))
	for _, n := range l.nets {
		wg.Go(func() { failed <- l.accept(ctx, n, &wg) })
	}
	for _, c := range l.grams {
		wg.Go(func() { failed <- l.receive(ctx, c) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		_ = l.Close()
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (l *Listener) accept(ctx context.Context, n net.Listener, wg *sync.WaitGroup) error {
	for {
		c, err := n.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil //nolint:nilerr // it was asked to end
			}
			// Out of files, most likely: it passes.
			l.o.Log.Warn("accept", "protocol", l.o.Name, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		reason := ""
		if !l.allowed(c.RemoteAddr()) {
			reason = "address"
		} else if _, err := l.Identity(); err != nil {
			reason = "identity"
		} else {
			select {
			case l.slots <- struct{}{}:
			default:
				reason = "limit"
			}
		}
		if reason != "" {
			l.refuse(reason)
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-l.slots }()
			open := l.o.Metrics.open.WithLabelValues(l.o.Name)
			open.Inc()
			defer open.Dec()
			defer c.Close()
			defer l.recovered()
			if l.o.Serve != nil {
				l.o.Serve(ctx, l, c)
			} else {
				l.serve(ctx, c)
			}
		})
	}
}
