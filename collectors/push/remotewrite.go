package push

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// The protocols of metrics, as its own metrics name them.
const (
	protocolWrite1 = "remote-write-1"
	protocolWrite2 = "remote-write-2"
	protocolPut    = "opentsdb-put"
)

// Written is what became durable of a request.
type Written struct {
	Samples, Histograms, Exemplars, Metadata int
	Refused                                  codec.Refused

	// Where the record lies, if there is one: Published says so.
	Published bool
	Partition int32
	Offset    int64
}

// WriteMetrics checks, enriches and publishes a remote-write body of the identity's project, for senders in this process. It returns when the
// samples are durable. batch is the sender's name of the request, or "". What breaks a limit is left out: then the error is
// ErrInvalid and says what (ErrLimited if all that is wrong is that there is no room for more series), and the rest is durable as Written says. Any other error means that nothing of it was taken, as
// far as the bus knows.
func (p *Push) WriteMetrics(ctx context.Context, id kemi.Identity, contentType, encoding string, body []byte, batch string) (Written, error) {
	v2, err := writeVersion(contentType, encoding)
	if err != nil {
		return Written{}, err
	}
	return p.writeMetrics(ctx, id, protocolOf(v2), v2, body, batch, "local")
}

// WritePoints is WriteMetrics of points.
func (p *Push) WritePoints(ctx context.Context, id kemi.Identity, points []kemi.Points) (Written, error) {
	body, err := codec.EncodeRemoteWrite(points)
	if err != nil {
		return Written{}, err
	}
	return p.writeMetrics(ctx, id, protocolWrite2, true, body, "", "local")
}

// writeVersion is which remote write the headers of a request mean.
func writeVersion(contentType, encoding string) (v2 bool, err error) {
	v2, ok := codec.IsWriteV2(contentType)
	if !ok {
		return false, fmt.Errorf("%w: Content-Type %s: must be %s or %s", errUnsupportedMedia, quote(contentType), codec.RemoteWrite1, codec.RemoteWrite2)
	}
	if encoding != "" && !strings.EqualFold(encoding, codec.EncodingSnappy) {
		return false, fmt.Errorf("%w: Content-Encoding %s: must be %s", errUnsupportedMedia, quote(encoding), codec.EncodingSnappy)
	}
	return v2, nil
}

func protocolOf(v2 bool) string {
	if v2 {
		return protocolWrite2
	}
	return protocolWrite1
}

func (p *Push) serveRemoteWrite(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	v2, err := writeVersion(r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"))
	protocol := protocolOf(v2)
	var done Written
	if err == nil {
		done, err = p.remoteWrite(w, r, id, protocol, v2)
	}
	if v2 {
		// Version 2.0 wants to know what was written whatever the answer is.
		h := w.Header()
		h.Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(done.Samples))
		h.Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(done.Histograms))
		h.Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(done.Exemplars))
	}
	if n := done.Refused.LimitedSeries; n > 0 {
		w.Header().Set("X-Kemi-Series-Over-Limit", strconv.Itoa(n)) // the rest was taken: a sender need not hold back what comes next
	}
	if err != nil {
		p.fail(w, kemi.DialectText, protocol, err)
		return
	}
	p.answered(protocol, http.StatusNoContent)
	w.WriteHeader(http.StatusNoContent)
}

func (p *Push) remoteWrite(w http.ResponseWriter, r *http.Request, id kemi.Identity, protocol string, v2 bool) (Written, error) {
	batch, err := batchOf(r)
	if err != nil {
		return Written{}, err
	}
	b, err := p.readBody(w, r)
	if err != nil {
		return Written{}, err
	}
	defer b.release()
	p.m.bytes.WithLabelValues(protocol).Add(float64(len(b.bytes())))
	return p.writeMetrics(r.Context(), id, protocol, v2, b.bytes(), batch, sourceOf(r, id))
}

// sourceOf is who sends: the requests of one source keep their order.
func sourceOf(r *http.Request, id kemi.Identity) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return id.Subject + "\x00" + host
}

// writeMetrics is the one way on which metrics reach the log.
func (p *Push) writeMetrics(ctx context.Context, id kemi.Identity, protocol string, v2 bool, packed []byte, batch, source string) (Written, error) {
	if !id.Can(kemi.MetricsWrite) {
		return Written{}, kemi.Errorf(kemi.ErrDenied, "write metrics: %s may not", id.Subject)
	}
	n, err := snappySize(packed, p.cfg.MaxDecodedBytes)
	if err != nil {
		return Written{}, err
	}
	unpacked := &body{p: p}
	if err := unpacked.take(n); err != nil {
		return Written{}, err
	}
	defer unpacked.release()
	in, err := p.table.Receive(id.Project, v2, packed, p.limits())
	if err != nil {
		return Written{}, err
	}
	for kind, n := range map[string]int{"samples": in.Refused.Samples, "histograms": in.Refused.Histograms, "exemplars": in.Refused.Exemplars, "series": in.Refused.Series, "series over the limit": in.Refused.LimitedSeries, "fields": in.Refused.Fields} {
		if n > 0 {
			p.m.refused.WithLabelValues(protocol, kind).Add(float64(n))
		}
	}
	done := Written{Refused: in.Refused}
	if !in.Empty() {
		if err := p.publishMetrics(ctx, id, in, protocol, batch, source, &done); err != nil {
			return Written{}, err
		}
	}
	return done, complaint(&done)
}

func (p *Push) publishMetrics(ctx context.Context, id kemi.Identity, in *codec.Incoming, protocol, batch, source string, done *Written) error {
	records := []bus.Record{in.Record}
	r := &records[0]
	r.Key = []byte(id.Project + "\x00" + source)
	if batch != "" {
		r.Headers = append(r.Headers, bus.Header{Name: codec.HeaderBatch, Value: batch})
	}
	if err := p.bus.Publish(ctx, bus.Metrics, records); err != nil {
		return fmt.Errorf("publish %d samples: %w", in.Samples, err)
	}
	in.Published()
	done.Samples, done.Histograms, done.Exemplars, done.Metadata = in.Samples, in.Histograms, in.Exemplars, in.Metadata
	done.Published, done.Partition, done.Offset = true, r.Partition, r.Offset
	for kind, n := range map[string]int{"samples": in.Samples, "histograms": in.Histograms, "exemplars": in.Exemplars, "metadata": in.Metadata} {
		if n > 0 {
			p.m.accepted.WithLabelValues(protocol, kind).Add(float64(n))
		}
	}
	return nil
}

// limits are what holds at this moment.
func (p *Push) limits() codec.Limits {
	now := p.now()
	return codec.Limits{
		MaxDecodedBytes: p.cfg.MaxDecodedBytes, MaxLabels: p.cfg.MaxLabels, MaxLabelNameBytes: p.cfg.MaxLabelNameBytes, MaxLabelValueBytes: p.cfg.MaxLabelValueBytes,
		Oldest: kemi.MillisOf(now.Add(-p.cfg.MaxPast)), Newest: kemi.MillisOf(now.Add(p.cfg.MaxFuture)), Series: p.series,
	}
}

// limitedFor is when a sender may come again whose new series had no room: series end within minutes, not seconds.
const limitedFor = time.Minute

// complaint says what was refused and what was kept, or is nil.
func complaint(done *Written) error {
	r := &done.Refused
	if !r.Any() {
		return nil
	}
	var b strings.Builder
	count := func(n int, what string) {
		if n > 0 {
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%d %s", n, what)
		}
	}
	count(r.Samples, "samples")
	count(r.Histograms, "histograms")
	count(r.Exemplars, "exemplars")
	count(r.Series, "series")
	count(r.LimitedSeries, "new series")
	count(r.Fields, "fields of a kind that is not known here")
	fmt.Fprintf(&b, " refused; %d samples, %d histograms, %d exemplars stored", done.Samples, done.Histograms, done.Exemplars)
	sep := ": "
	if r.Limited != nil {
		b.WriteString(sep + r.Limited.Error())
		sep = "; "
	}
	for _, err := range r.Errors {
		b.WriteString(sep + err.Error())
		sep = "; "
	}
	for _, f := range r.Foreign {
		b.WriteString(sep + f)
		sep = "; "
	}
	if len(r.Errors) == 0 && r.Fields == 0 {
		// Nothing is wrong with what was sent: a sender may come again with it, though not at once.
		return kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "%s", b.String()), limitedFor)
	}
	if total := r.Samples + r.Histograms + r.Exemplars; total > len(r.Errors) {
		b.WriteString("; …")
	}
	return kemi.Errorf(kemi.ErrInvalid, "%s", b.String())
}
