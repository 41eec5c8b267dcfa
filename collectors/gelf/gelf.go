package gelf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"

	"kemi"
	"kemi/collectors/listen"
	"kemi/collectors/push"
)

const protocol = "gelf"

// Config is what can be set about the listeners. MaxLineBytes is how large a message may be, unpacked.
type Config struct {
	listen.Config `yaml:",inline"`
}

// DefaultConfig is off.
func DefaultConfig() Config {
	c := Config{Config: listen.DefaultConfig()}
	c.MaxLineBytes = 1 << 20
	return c
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return fmt.Errorf("gelf: %w", err)
	}
	return nil
}

// Options are what the receiver works with. All but Auth and Metrics, which are of the listeners, are needed.
type Options struct {
	In      *push.Push
	Auth    listen.Authenticator
	Metrics *listen.Metrics
	Log     *slog.Logger
	Now     func() time.Time
}

// New binds the addresses.
func New(ctx context.Context, cfg Config, o Options) (*listen.Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return listen.Open(ctx, cfg.Config, listen.Options{
		Name: protocol, Auth: o.Auth, Log: o.Log, Metrics: o.Metrics, Needs: kemi.LogsWrite,
		Open: func(l *listen.Listener, peer string) listen.Session {
			s := &session{Logs: listen.NewLogs(o.In, l, protocol, peer, o.Log), o: o, max: cfg.MaxLineBytes}
			s.peer, _, _ = net.SplitHostPort(peer)
			s.chunks = chunks{waiting: map[chunkKey]*partial{}, lost: func(n int) { o.In.Refused(protocol, "incomplete messages", n) }}
			return s
		},
	})
}

// session is a connection, or the datagrams of a socket.
type session struct {
	*listen.Logs
	o      Options
	max    int
	peer   string
	chunks chunks
	fit    []kemi.LogRecord
}

// Next cuts at NULs. What is too long comes in parts.
func (s *session) Next(data []byte, full bool) listen.Frame {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return listen.Frame{Bytes: data[:i], Taken: i + 1, Whole: true}
	}
	if full {
		return listen.Frame{Bytes: data, Taken: len(data), Whole: true, Long: true}
	}
	return listen.Frame{}
}

// Last is a message without its NUL.
func (s *session) Last(data []byte) []byte { return data }

// Line takes a message of a connection.
func (s *session) Line(b []byte) (string, bool) {
	s.Received(len(b) + 1)
	s.take(b, s.peer)
	return "", false
}

// Packet takes a datagram: a message or a chunk of one.
func (s *session) Packet(from net.Addr, b []byte) {
	s.Received(len(b))
	peer := ""
	if u, ok := from.(*net.UDPAddr); ok {
		peer = u.AddrPort().Addr().Unmap().WithZone("").String()
	}
	if isChunk(b) {
		sender := ""
		if from != nil {
			sender = from.String()
		}
		whole, ok := s.chunks.add(sender, b, s.o.Now())
		if !ok {
			s.keep(odd(b, peer, errors.New("a chunk without a message's ID, its number and the number of chunks, 128 at most")), len(b))
		}
		if whole == nil {
			return
		}
		b = whole
	}
	plain, err := unpack(b, s.max)
	if err != nil {
		s.keep(odd(b, peer, err), len(b))
		return
	}
	s.take(plain, peer)
}

func (s *session) take(b []byte, peer string) {
	if len(bytes.TrimSpace(b)) == 0 {
		return
	}
	r, err := parse(b, peer, s.o.In.Config().MaxAttributes)
	if err != nil {
		r = odd(b, peer, err)
	}
	s.keep(r, len(b))
}

func (s *session) keep(r kemi.LogRecord, n int) {
	s.fit = s.o.In.Fit(s.fit[:0], r, protocol)
	for i := range s.fit {
		s.Add(s.fit[i], n)
	}
}

// unpack is what b packs with zlib or gzip, or b if it does not.
func unpack(b []byte, most int) ([]byte, error) {
	var in io.ReadCloser
	var err error
	switch {
	case len(b) > 2 && b[0] == 0x1f && b[1] == 0x8b:
		in, err = gzip.NewReader(bytes.NewReader(b))
	case len(b) > 2 && b[0]&0x0f == 8 && (int(b[0])<<8|int(b[1]))%31 == 0:
		in, err = zlib.NewReader(bytes.NewReader(b))
	default:
		return b, nil
	}
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "broken packing: %w", err)
	}
	defer in.Close()
	out, err := io.ReadAll(io.LimitReader(in, int64(most)+1))
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "broken packing: %w", err)
	}
	if len(out) > most {
		return nil, kemi.Errorf(kemi.ErrTooLarge, "unpacks to more than %d bytes (ingest.gelf.maxLineBytes)", most)
	}
	return out, nil
}

// Routes are what is served over HTTP, whether or not there are listeners.
func Routes(o Options) []kemi.Route {
	return []kemi.Route{{Pattern: "POST /gelf", Needs: kemi.LogsWrite, Dialect: kemi.DialectKEMI, Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
		if err := servePost(w, r, id, o); err != nil {
			o.In.Fail(w, kemi.DialectKEMI, protocol, err)
			return
		}
		o.In.Answered(protocol, http.StatusAccepted)
		w.WriteHeader(http.StatusAccepted)
	}}}
}

// servePost takes a message, or several, one a line. What is wrong with one is told, and the others are durable.
func servePost(w http.ResponseWriter, r *http.Request, id kemi.Identity, o Options) error {
	batch, err := push.Batch(r)
	if err != nil {
		return err
	}
	body, err := o.In.ReadBody(w, r, protocol)
	if err != nil {
		return err
	}
	defer body.Release()
	peer, _, _ := net.SplitHostPort(r.RemoteAddr)
	most := o.In.Config().MaxAttributes
	var records []kemi.LogRecord
	var errs []error
	take := func(n int, b []byte) {
		record, err := parse(b, peer, most)
		switch {
		case err != nil && n > 0:
			err = fmt.Errorf("line %d: %w", n, err)
			fallthrough
		case err != nil:
			errs = append(errs, err)
			return
		case record.At == 0:
			record.At = kemi.NanosOf(o.Now())
		}
		records = append(records, record)
	}
	if all := bytes.TrimSpace(body.Bytes()); !bytes.Contains(all, []byte("}\n")) {
		take(0, all)
	} else {
		n := 0
		for line := range bytes.Lines(all) {
			if n++; len(bytes.TrimSpace(line)) > 0 {
				take(n, line)
			}
		}
	}
	if len(records) > 0 {
		if err := o.In.WriteLogs(r.Context(), id, protocol, records, batch); err != nil {
			return err
		}
	}
	o.In.Refused(protocol, "log records", len(errs))
	if len(errs) > 10 {
		errs = append(errs[:10], fmt.Errorf("and more, %d in all", len(errs)))
	}
	if len(errs) > 0 {
		return kemi.Errorf(kemi.ErrInvalid, "%w", errors.Join(errs...))
	}
	return nil
}
