package push

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/codec"
)

// Body is a request's bytes, unpacked, with the share of the memory for requests that they take.
type Body struct{ b *body }

// ReadBody reads a request and unpacks it as its Content-Encoding says, for the receivers of other protocols. The caller must release it, and
// not before it has done with its bytes. The memory that it takes counts as that of all requests does; more of it can be taken with Hold.
//
// Errors: ErrTooLarge, ErrUnavailable (all memory for requests is taken), ErrInvalid (broken), or an encoding that nobody knows, which
// Fail answers with 415.
func (p *Push) ReadBody(w http.ResponseWriter, r *http.Request, protocol string) (*Body, error) {
	b, err := p.readBody(w, r)
	if err != nil {
		return nil, err
	}
	p.m.bytes.WithLabelValues(protocol).Add(float64(len(b.bytes())))
	if err := b.unpack(r.Header.Get("Content-Encoding")); err != nil {
		b.release()
		return nil, err
	}
	return &Body{b}, nil
}

// Bytes are the bytes.
func (b *Body) Bytes() []byte { return b.b.bytes() }

// Hold takes n more bytes of the memory until Release.
func (b *Body) Hold(n int) error { return b.b.take(int64(n)) }

// Release gives the memory back.
func (b *Body) Release() { b.b.release() }

// Reserve takes n bytes of the memory for requests, for receivers that read by themselves; it waits a moment for them. The Body has no bytes.
func (p *Push) Reserve(ctx context.Context, n int) (*Body, error) {
	b := &body{p: p}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.QueueWait)
	defer cancel()
	if err := b.hold(ctx, int64(n)); err != nil {
		return nil, err
	}
	return &Body{b}, nil
}

// IllegalInTSD is the first character of a name or a tag that OpenTSDB does not allow, or "".
func (p *Push) IllegalInTSD(s string) string { return illegal(s, p.cfg.AllowSpecialChars) }

// Limits are what holds of samples at this moment.
func (p *Push) Limits() codec.Limits { return p.limits() }

// Config is the configuration of what all receivers share.
func (p *Push) Config() Config { return p.cfg }

// Batch is the name that the sender gives the request, or "": sending it again under that name does not make it another one.
func Batch(r *http.Request) (string, error) { return batchOf(r) }

// Source is who sends r.
func Source(r *http.Request, id kemi.Identity) string { return sourceOf(r, id) }

// Answered counts a request of a protocol by the status that it was answered with.
func (p *Push) Answered(protocol string, code int) { p.answered(protocol, code) }

// Refused counts what was refused of a protocol because something is wrong with it; kind is samples, histograms, exemplars, series, lines, fields.
func (p *Push) Refused(protocol, kind string, n int) {
	if n > 0 {
		p.m.refused.WithLabelValues(protocol, kind).Add(float64(n))
	}
}

// Received counts bytes of a protocol that came in otherwise than through ReadBody.
func (p *Push) Received(protocol string, n int) { p.ReceivedOf(protocol).Add(float64(n)) }

// ReceivedOf is the counter of Received, for those who count each line.
func (p *Push) ReceivedOf(protocol string) prometheus.Counter {
	return p.m.bytes.WithLabelValues(protocol)
}

// Fail tells err to the sender and counts the request.
func (p *Push) Fail(w http.ResponseWriter, d kemi.Dialect, protocol string, err error) {
	p.fail(w, d, protocol, err)
}

// Status is the status that Fail answers err with.
func Status(err error) int { return statusOf(err) }

// UnsupportedMedia is an error that Fail answers with 415; format says what is there and what would do.
func UnsupportedMedia(format string, args ...any) error { return unsupportedMedia(format, args...) }
