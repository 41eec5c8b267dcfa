package promtext

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

const protocol = "prometheus-text"

// Receiver is the receiver.
type Receiver struct {
	in  *push.Push
	now func() time.Time
}

// New makes the receiver over the door that all share.
func New(in *push.Push, now func() time.Time) *Receiver { return &Receiver{in, now} }

// Routes are what it serves. The path is VictoriaMetrics'.
func (r *Receiver) Routes() []kemi.Route {
	return []kemi.Route{{Pattern: "POST /api/v1/import/prometheus", Needs: kemi.MetricsWrite, Dialect: kemi.DialectPrometheus, Stream: true, Handle: r.serve}}
}

const (
	// windowBytes is how much of a body lies in memory; a line must fit into it.
	windowBytes = 1 << 20
	// recordSamples and recordBytes are when a record is published: what a request of remote write has about.
	recordSamples = 20_000
	recordBytes   = 4 << 20
	// held is the memory that a request takes, however large it is: the window, the decoder, and a record with its batch.
	held = windowBytes + 8<<20 + 3*recordBytes
	// readTimeout is how long a sender may be silent.
	readTimeout = time.Minute
)

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request, id kemi.Identity) {
	p, err := r.take(w, req, id)
	if err == nil && p.bad > 0 {
		err = p.out.Limited(p.complaint())
	}
	r.in.Refused(protocol, "lines", p.bad)
	if err != nil {
		r.in.Fail(w, kemi.DialectPrometheus, protocol, err)
		return
	}
	r.in.Answered(protocol, http.StatusNoContent)
	w.WriteHeader(http.StatusNoContent)
}

// take reads the body to its end and makes durable what is good, part by part. An error means that not all of it is.
func (r *Receiver) take(w http.ResponseWriter, req *http.Request, id kemi.Identity) (*importer, error) {
	p := &importer{now: kemi.MillisOf(r.now()), families: map[string]*family{}}
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	switch kind {
	case "application/openmetrics-text":
		p.format = OpenMetrics
	case "", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded": // the last is what curl says
	default:
		return p, push.UnsupportedMedia("Content-Type %q: must be text/plain or application/openmetrics-text", kind)
	}
	if err := p.parameters(req); err != nil {
		return p, err
	}
	batch, err := push.Batch(req)
	if err != nil {
		return p, err
	}
	memory, err := r.in.Reserve(req.Context(), held)
	if err != nil {
		return p, err
	}
	defer memory.Release()
	if p.out, err = r.in.Begin(id, protocol, batch, push.Source(req, id)); err != nil {
		return p, err
	}
	defer p.out.End()
	in, err := unpacked(req.Header.Get("Content-Encoding"), &counted{in: req.Body, c: http.NewResponseController(w), count: func(n int) { r.in.Received(protocol, n) }})
	if err != nil {
		return p, err
	}
	defer in.Close()
	if err := p.read(req.Context(), in); err != nil {
		return p, err
	}
	if p.format == OpenMetrics && !p.ended {
		p.refuse(nil, bad("the body ends without # EOF, so it may have been cut short"))
	}
	return p, p.out.Flush(req.Context())
}

// counted is a body whose sender may take its time, but not be silent for long.
type counted struct {
	in    io.Reader
	c     *http.ResponseController
	count func(int)
}

func (c *counted) Read(b []byte) (int, error) {
	now := time.Now()
	_ = c.c.SetReadDeadline(now.Add(readTimeout))
	_ = c.c.SetWriteDeadline(now.Add(2 * readTimeout))
	n, err := c.in.Read(b)
	c.count(n)
	return n, err
}

func unpacked(encoding string, in io.Reader) (io.ReadCloser, error) {
	var out io.ReadCloser
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return io.NopCloser(in), nil
	case "gzip", "x-gzip":
		out, err = gzip.NewReader(in)
	case "deflate":
		out, err = zlib.NewReader(in)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20)); err == nil {
			out = d.IOReadCloser()
		}
	default:
		return nil, push.UnsupportedMedia("Content-Encoding %q: must be gzip, deflate, zstd or identity", encoding)
	}
	if err != nil {
		return nil, bad("body: broken %s: %w", encoding, err)
	}
	return out, nil
}

// importer reads the lines of a body.
type importer struct {
	out    *push.Request
	format Format
	now    kemi.Millis // of samples without a time
	extra  kemi.Labels
	seed   uint64

	families map[string]*family
	last     *family // of the line before
	ended    bool    // there was a line # EOF

	line int
	good int
	bad  int
	errs []string
	ls   kemi.Labels
}

// family is what comments say of a metric.
type family struct {
	codec.Metadata
	told bool // since it was last changed
}

const (
	maxErrors   = 10
	maxFamilies = 10_000
	// seed keeps what this protocol calls series apart from what others do.
	seed = 0x1f83_d9ab_fb41_bd6b
)

// parameters reads those of VictoriaMetrics: timestamp (ms) of samples that have none, extra_label=name=value.
func (p *importer) parameters(req *http.Request) error {
	q := req.URL.Query()
	if v := q.Get("timestamp"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return bad("parameter timestamp: %q: must be milliseconds since 1970", clip([]byte(v)))
		}
		p.now = kemi.Millis(n)
	}
	p.seed = seed
	for _, v := range q["extra_label"] {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" || name == kemi.MetricName {
			return bad("parameter extra_label: %q: must be name=value", clip([]byte(v)))
		}
		p.extra = append(p.extra, kemi.Label{Name: name, Value: value})
		p.seed = codec.KeyOf([]byte(v), p.seed).Hi
	}
	return nil
}

// read takes all lines that are good. Its error is one of the body or of the log.
func (p *importer) read(ctx context.Context, in io.Reader) error {
	buf := make([]byte, 0, windowBytes)
	skipping := false
	for {
		n, err := in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest := buf
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			p.line++
			if skipping {
				skipping = false
			} else if down := p.take(ctx, rest[:i]); down != nil {
				return down
			}
			rest = rest[i+1:]
		}
		buf = buf[:copy(buf, rest)]
		if err != nil {
			if len(buf) > 0 && !skipping {
				p.line++
				if down := p.take(ctx, buf); down != nil {
					return down
				}
			}
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return bad("body: ended in line %d: %w; %d samples before are stored", p.line, err, p.out.Written().Samples)
		}
		if len(buf) == cap(buf) {
			if !skipping {
				p.refuse(buf[:100], bad("longer than %d bytes", windowBytes))
				skipping = true
			}
			buf = buf[:0]
		}
	}
}

func (p *importer) refuse(line []byte, err error) {
	p.out.Refuse(err)
	p.bad++
	if len(p.errs) < maxErrors {
		p.errs = append(p.errs, fmt.Sprintf("line %d: %v: %q", p.line, err, clip(line)))
	}
}

func (p *importer) complaint() error {
	text := strings.Join(p.errs, "; ")
	if p.bad > len(p.errs) {
		text += "; …"
	}
	return bad("%d lines refused, %d samples stored: %s", p.bad, p.good, text)
}

// take takes a line.
func (p *importer) take(ctx context.Context, line []byte) (down error) {
	line = bytes.TrimRight(trim(line), " \t\r")
	if len(line) == 0 {
		return nil
	}
	if line[0] == '#' {
		p.comment(line)
		return nil
	}
	s, err := Parse(line, p.format)
	if err != nil {
		p.refuse(line, err)
		return nil
	}
	if !s.HasTime {
		s.At = p.now
	}
	if p.out.Pending() >= recordSamples || p.out.Size() >= recordBytes {
		if err := p.out.Flush(ctx); err != nil {
			return err
		}
	}
	b, err := p.out.Points(ctx)
	if err != nil {
		return err
	}
	if err := p.sample(b, &s); err != nil {
		p.refuse(line, err)
		return nil
	}
	p.good++
	return nil
}

func (p *importer) sample(b *codec.Builder, s *Sample) error {
	key := codec.KeyOf(s.Series, p.seed)
	series := b.Known(key)
	if series == nil {
		ls, err := ParseSeries(p.ls[:0], s.Series)
		if err != nil {
			return err
		}
		p.ls = ls
		for _, x := range p.extra { // as VictoriaMetrics has it, the parameter wins
			found := false
			for i := range ls {
				if ls[i].Name == x.Name {
					ls[i].Value, found = x.Value, true
				}
			}
			if !found {
				ls = append(ls, x)
			}
		}
		name := ls[0].Value
		if series, err = b.Define(key, ls); err != nil {
			return err
		}
		if f := p.familyOf(name); f != nil {
			b.Describe(series, f.Metadata)
		}
	} else if f := p.last; f != nil && !f.told && bytes.HasPrefix(s.Series, []byte(f.Metric)) {
		f.told = true
		b.Describe(series, f.Metadata)
	}
	if err := b.Add(series, s.At, s.Value, 0); err != nil {
		return err
	}
	if s.Exemplar != nil {
		return p.exemplar(b, series, s)
	}
	return nil
}

// exemplar adds the exemplar of a sample that is in already.
func (p *importer) exemplar(b *codec.Builder, series *codec.Series, s *Sample) error {
	end := seriesEnd(s.Exemplar)
	if end < 0 {
		return bad("exemplar %q: the labels do not end", clip(s.Exemplar))
	}
	x := codec.Exemplar{At: s.At}
	ls, err := ParseSeries(nil, append([]byte("x"), s.Exemplar[:end]...))
	if err != nil {
		return bad("exemplar: %w", err)
	}
	x.Labels = ls[1:]
	value, rest := word(trim(s.Exemplar[end:]))
	if x.Value, err = parseValue(value); err != nil || math.IsNaN(x.Value) {
		return bad("exemplar: value %q: must be a number", clip(value))
	}
	if len(rest) > 0 {
		if x.At, err = parseTime(rest, OpenMetrics); err != nil {
			return bad("exemplar: %w", err)
		}
	}
	return b.AddExemplar(series, x)
}

// comment reads # HELP, # TYPE, # UNIT and # EOF.
func (p *importer) comment(line []byte) {
	what, rest := word(trim(line[1:]))
	switch string(what) {
	case "HELP", "TYPE", "UNIT":
	case "EOF":
		p.ended = true
		return
	default:
		return
	}
	name, rest := word(rest)
	if len(name) == 0 || !utf8Name(name) {
		return
	}
	metric := string(name)
	if metric[0] == '"' {
		var err error
		if metric, _, err = unquote(name); err != nil {
			return
		}
	}
	f := p.families[metric]
	if f == nil {
		if len(p.families) >= maxFamilies {
			return
		}
		f = &family{Metadata: codec.Metadata{Metric: metric, Type: "unknown"}}
		p.families[metric] = f
	}
	p.last, f.told = f, false
	switch string(what) {
	case "HELP":
		f.Help = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\"`, `"`).Replace(string(rest))
	case "UNIT":
		f.Unit = string(rest)
	case "TYPE":
		if f.Type = string(rest); f.Type == "untyped" {
			f.Type = "unknown"
		}
	}
}

func utf8Name(b []byte) bool { return bytes.IndexByte(b, 0) < 0 }

// familyOf is what is known of the metric that a series belongs to: its own name, or that without the ending of a part.
func (p *importer) familyOf(name string) *family {
	if len(p.families) == 0 {
		return nil
	}
	if f := p.families[name]; f != nil {
		return f
	}
	for _, suffix := range []string{"_total", "_bucket", "_count", "_sum", "_created", "_info", "_gcount", "_gsum"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return p.families[base]
		}
	}
	return nil
}
