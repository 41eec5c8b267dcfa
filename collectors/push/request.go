package push

import (
	"context"
	"errors"
	"fmt"

	"kemi"
	"kemi/pipeline/codec"
)

// Request is the points of one request, or of a stream, on their way to the log: receivers of all protocols but remote write put what they
// read into its builder. What does not fit into one record is published on the way. It is for one goroutine.
type Request struct {
	p                       *Push
	id                      kemi.Identity
	protocol, batch, source string

	b       *codec.Builder
	records int
	done    Written

	limited error // the first that was refused because there is no room for more series
	wrong   bool  // something else was refused, too
}

// Begin begins a request of the identity's project. batch is the sender's name of it or "", source who sends: what one source sends keeps its
// order. End must be called.
//
// Errors: ErrDenied.
func (p *Push) Begin(id kemi.Identity, protocol, batch, source string) (*Request, error) {
	if !id.Can(kemi.MetricsWrite) {
		return nil, kemi.Errorf(kemi.ErrDenied, "write metrics: %s may not", id.Subject)
	}
	return &Request{p: p, id: id, protocol: protocol, batch: batch, source: source}, nil
}

// Points is where the next series and its samples go. It publishes what is there already if that is enough for a record; an error is that of
// Flush. What the builder gave before, a series, stays good.
func (r *Request) Points(ctx context.Context) (*codec.Builder, error) {
	if r.b != nil && r.b.Full() {
		if err := r.Flush(ctx); err != nil {
			return nil, err
		}
	}
	if r.b == nil {
		r.b = r.p.table.Build(r.id.Project, r.p.limits())
	}
	return r.b, nil
}

// Pending is how many samples are not published yet.
func (r *Request) Pending() int {
	if r.b == nil {
		return 0
	}
	return r.b.Samples()
}

// Flush publishes what is there. It returns when it is durable. An error means that nothing of that record was taken, as far as the bus knows;
// it is lost then, unless the sender sends it again.
func (r *Request) Flush(ctx context.Context) error {
	if r.b == nil {
		return nil
	}
	in := r.b.Incoming()
	r.b.Release()
	r.b = nil
	return r.publish(ctx, in)
}

// Take is what Flush would publish: for streams, which publish it until it succeeds. It is nil if there is nothing.
func (r *Request) Take() *codec.Incoming {
	if r.b == nil {
		return nil
	}
	in := r.b.Incoming()
	r.b.Release()
	r.b = nil
	if in.Empty() {
		return nil
	}
	return in
}

// Publish makes what Take gave durable.
func (r *Request) Publish(ctx context.Context, in *codec.Incoming) error { return r.publish(ctx, in) }

func (r *Request) publish(ctx context.Context, in *codec.Incoming) error {
	if in.Empty() {
		return nil
	}
	batch := r.batch
	if batch != "" && r.records > 0 {
		batch = fmt.Sprintf("%s/%d", batch, r.records)
	}
	r.records++
	var done Written
	if err := r.p.publishMetrics(ctx, r.id, in, r.protocol, batch, r.source, &done); err != nil {
		return err
	}
	r.done.Samples += done.Samples
	r.done.Histograms += done.Histograms
	r.done.Exemplars += done.Exemplars
	r.done.Metadata += done.Metadata
	r.done.Published, r.done.Partition, r.done.Offset = done.Published, done.Partition, done.Offset
	return nil
}

// Refuse notes why something of the request is not taken, for Limited.
func (r *Request) Refuse(err error) {
	switch {
	case !errors.Is(err, kemi.ErrLimited):
		r.wrong = true
	case r.limited == nil:
		r.limited = err
	}
}

// Limited is err as the sender shall be told it: if all that is wrong is that there is no room for more series, it may come again, though not
// at once. Otherwise err is what it was.
func (r *Request) Limited(err error) error {
	if err == nil || r.limited == nil || r.wrong {
		return err
	}
	return kemi.RetryAfter(kemi.Errorf(kemi.ErrLimited, "%s", err.Error()), limitedFor)
}

// Written is what became durable so far.
func (r *Request) Written() Written { return r.done }

// End gives back what the request holds; what was not flushed is gone.
func (r *Request) End() {
	if r.b != nil {
		r.b.Release()
		r.b = nil
	}
}

// Size is how many bytes of a record are not published yet.
func (r *Request) Size() int {
	if r.b == nil {
		return 0
	}
	return r.b.Size()
}
