package backfill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"kemi"
	"kemi/pipeline/codec"
)

// Options are how a file is sent. Send is needed.
type Options struct {
	Format Format
	// Send makes a body of remote write 1.0, packed with snappy, durable. Errors: ErrInvalid, if something of it was refused; ErrUnavailable and
	// ErrLimited are tried again.
	Send func(ctx context.Context, body []byte) error
	// Senders is how many bodies are under way at a time; 0 = 4.
	Senders int
	// Offset is where to begin, in bytes: what the Durable of an earlier run says. It must be the beginning of a line.
	Offset int64
	// RetryFor is how long a body is tried again; 0 = 5 minutes.
	RetryFor time.Duration

	window int // how many samples are gathered before they are sent, by all senders together; 0 = windowSamples
}

// Progress is how far it has come. All of it may be read while it goes on.
type Progress struct {
	Read    atomic.Int64 // bytes of the file that were read
	Durable atomic.Int64 // bytes of the file of which all is durable, or refused
	Lines   atomic.Int64
	Samples atomic.Int64 // that are durable
	Refused atomic.Int64 // lines, and parts of bodies
	Retries atomic.Int64
}

const (
	lineBytes     = 1 << 20
	windowSamples = 200_000
	maxSeries     = 1 << 20 // that are remembered
	maxErrors     = 10
)

// Run sends what in holds, and follows it in p. It returns when all is durable, or when it had to end: then p.Durable says how far it is.
//
// Errors: ErrInvalid, if lines or samples were refused: all others are durable; of Send, if a body could not be brought; of in.
func Run(ctx context.Context, in io.Reader, o Options, p *Progress) error {
	if o.Senders <= 0 {
		o.Senders = 4
	}
	if o.RetryFor <= 0 {
		o.RetryFor = 5 * time.Minute
	}
	if o.window <= 0 {
		o.window = windowSamples
	}
	if o.Offset > 0 {
		if err := skip(in, o.Offset); err != nil {
			return err
		}
	}
	p.Read.Store(o.Offset)
	p.Durable.Store(o.Offset)
	r := &run{o: o, p: p, known: map[xxh3.Uint128]*series{}}
	g, ctx := errgroup.WithContext(ctx)
	r.queues = make([]chan parcel, o.Senders)
	for i := range r.queues {
		r.queues[i] = make(chan parcel, 1)
		g.Go(func() error { return r.sender(ctx, r.queues[i]) })
	}
	g.Go(func() error {
		defer func() {
			for _, q := range r.queues {
				close(q)
			}
		}()
		return r.read(ctx, in)
	})
	if err := g.Wait(); err != nil {
		if n, why := r.refusals(); n > 0 { // of whatever kind err is: that is what ended it
			return fmt.Errorf("%w\n%d were refused before that:\n%s", err, n, why)
		}
		return err
	}
	if n, why := r.refusals(); n > 0 {
		return bad("%d refused, all else is stored:\n%s", n, why)
	}
	return nil
}

func skip(in io.Reader, n int64) error {
	if s, ok := in.(io.Seeker); ok {
		if _, err := s.Seek(n, io.SeekStart); err == nil {
			return nil
		}
	}
	if _, err := io.CopyN(io.Discard, in, n); err != nil {
		return bad("offset %d: %w", n, err)
	}
	return nil
}

// run is one Run.
type run struct {
	o      Options
	p      *Progress
	queues []chan parcel
	known  map[xxh3.Uint128]*series

	format  Format
	window  *window
	order   []*series // of the window
	line    int64
	begun   int64 // offset after the last line that was read
	mu      sync.Mutex
	errs    []string
	windows []*window // that are not durable yet, in the order of the file
}

// series is a series of the file.
type series struct {
	labels kemi.Labels
	sender int
	at     []kemi.Millis
	values []float64
}

// window is a stretch of the file whose samples are sent together.
type window struct {
	end     int64 // offset after its last line
	parcels atomic.Int32
	samples int
}

// parcel is what one sender gets of a window.
type parcel struct {
	w      *window
	points []kemi.Points
	n      int
}

func (r *run) refuse(n int64, what string) {
	r.p.Refused.Add(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, what)
	}
}

// refusals are how many there were, and why the first ones were.
func (r *run) refusals() (n int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, why = r.p.Refused.Load(), strings.Join(r.errs, "\n"); n > int64(len(r.errs)) {
		why += "\n…"
	}
	return n, why
}

// read reads the lines.
func (r *run) read(ctx context.Context, in io.Reader) error {
	r.format, r.begun = r.o.Format, r.o.Offset
	r.window = &window{}
	buf := make([]byte, 0, 2*lineBytes)
	skipping := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest := buf
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			r.begun += int64(i + 1)
			if err := r.take(ctx, rest[:i], skipping); err != nil {
				return err
			}
			skipping = false
			rest = rest[i+1:]
		}
		buf = buf[:copy(buf, rest)]
		r.p.Read.Store(r.begun)
		if err != nil {
			r.begun += int64(len(buf))
			if len(buf) > 0 {
				if err := r.take(ctx, buf, skipping); err != nil {
					return err
				}
			}
			r.p.Read.Store(r.begun)
			if !errors.Is(err, io.EOF) {
				return fmt.Errorf("read line %d: %w", r.line+1, err)
			}
			return r.send(ctx)
		}
		if len(buf) == cap(buf) {
			if !skipping {
				r.refuse(1, fmt.Sprintf("line %d: longer than %d bytes", r.line+1, cap(buf)))
			}
			r.begun += int64(len(buf))
			buf, skipping = buf[:0], true
		}
	}
}

// take takes a line.
func (r *run) take(ctx context.Context, line []byte, skipped bool) error {
	r.line++
	r.p.Lines.Add(1)
	if line = bytes.TrimSpace(line); skipped || len(line) == 0 || line[0] == '#' {
		return nil
	}
	if r.format == Auto || r.format == "" {
		r.format = guess(line)
	}
	x, err := r.format.parse(line)
	var s *series
	if err == nil {
		s, err = r.series(x.series)
	}
	if err != nil {
		r.refuse(1, fmt.Sprintf("line %d: %v", r.line, err))
		return nil
	}
	if len(s.at) == 0 {
		r.order = append(r.order, s)
	}
	s.at, s.values = append(s.at, x.at), append(s.values, x.value)
	if r.window.samples++; r.window.samples >= r.o.window {
		return r.send(ctx)
	}
	return nil
}

func (r *run) series(name []byte) (*series, error) {
	k := xxh3.Hash128(name)
	if s := r.known[k]; s != nil {
		return s, nil
	}
	ls, err := r.format.labels(name)
	if err != nil {
		return nil, err
	}
	// By the labels, not by the name: a series that is written in two ways is one.
	s := &series{labels: ls, sender: int(xxh3.HashString(ls.String()) % uint64(len(r.queues)))}
	if len(r.known) >= maxSeries && len(r.order) == 0 {
		clear(r.known)
	}
	r.known[k] = s
	return s, nil
}

// send hands the window to the senders, and begins the next one.
func (r *run) send(ctx context.Context) error {
	w := r.window
	w.end = r.begun
	r.window = &window{}
	parcels := make([]parcel, len(r.queues))
	for _, s := range r.order {
		p := &parcels[s.sender]
		p.points = append(p.points, kemi.Points{Labels: s.labels, At: s.at, Values: s.values})
		p.n += len(s.at)
		// The senders have these now. A file in the order of time needs as much again; one in the order of series is done with this one.
		n := min(len(s.at), r.o.window/64)
		s.at, s.values = make([]kemi.Millis, 0, n), make([]float64, 0, n)
	}
	r.order = r.order[:0]
	used := int32(0)
	for i := range parcels {
		if parcels[i].n > 0 {
			used++
		}
	}
	w.parcels.Store(used)
	r.mu.Lock()
	r.windows = append(r.windows, w)
	r.mu.Unlock()
	if used == 0 {
		r.done()
	}
	for i := range parcels {
		if parcels[i].n == 0 {
			continue
		}
		parcels[i].w = w
		select {
		case r.queues[i] <- parcels[i]:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// done moves the place up to which all is durable.
func (r *run) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.windows) > 0 && r.windows[0].parcels.Load() == 0 {
		r.p.Durable.Store(r.windows[0].end)
		r.windows = r.windows[1:]
	}
}

func (r *run) sender(ctx context.Context, queue chan parcel) error {
	e := &codec.Encoder{V1: true}
	for p := range queue {
		for _, x := range p.points {
			e.AddPoints(x)
		}
		err := r.bring(ctx, e.Encode())
		switch {
		case err == nil:
			r.p.Samples.Add(int64(p.n))
		case errors.Is(err, kemi.ErrInvalid):
			r.refuse(1, err.Error())
		default:
			return err
		}
		p.w.parcels.Add(-1)
		r.done()
	}
	return nil
}

// bring sends a body until it is taken or refused.
func (r *run) bring(ctx context.Context, body []byte) error {
	end := time.Now().Add(r.o.RetryFor)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := r.o.Send(ctx, body)
		if err == nil || !errors.Is(err, kemi.ErrUnavailable) && !errors.Is(err, kemi.ErrLimited) || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		r.p.Retries.Add(1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(wait, min(kemi.RetryDelay(err), 30*time.Second))):
		}
	}
}
