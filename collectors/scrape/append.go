package scrape

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"

	"kemi"
)

// A scrape is one record on the log unless it is larger than this: then it is several.
const (
	maxRecordSeries = 100_000
	maxRecordBytes  = 16 << 20 // of label bytes and buckets, about
)

// appendable takes what the scrape loops of one project find.
type appendable struct {
	id     kemi.Identity
	write  func(ctx context.Context, id kemi.Identity, body []byte) error
	newest *newest
	labels labels.Labels // of series that have none of that name
}

var _ storage.AppendableV2 = (*appendable)(nil)

// AppenderV2 begins a transaction: what one scrape found.
func (a *appendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	t := appenders.Get().(*appender)
	t.to, t.ctx = a, ctx
	return t
}

var appenders = sync.Pool{New: func() any {
	t := &appender{builder: labels.NewBuilder(labels.EmptyLabels())}
	t.reset()
	return t
}}

// appender gathers a scrape as remote-write 2.0 bodies; Commit publishes them.
type appender struct {
	encoder
	to   *appendable
	ctx  context.Context //nolint:containedctx // upstream's transactions are begun with one
	seen []seenAt
	full [][]byte // bodies that are complete
	free [][]byte // memory of bodies that were published

	builder *labels.Builder
}

type seenAt struct {
	ref storage.SeriesRef
	at  int64
}

// Append takes one sample, with what is known of it. The reference is a hash of the labels: it tells series apart within a scrape, which
// is all that upstream asks of it; the log finds series by their labels itself.
func (t *appender) Append(ref storage.SeriesRef, ls labels.Labels, st, at int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	if ref == 0 {
		if ref = storage.SeriesRef(ls.Hash()); ref == 0 {
			ref = 1
		}
	}
	if o.RejectOutOfOrder && at <= t.to.newest.of(ref) {
		return ref, storage.ErrOutOfOrderSample
	}
	p := point{at: at, start: st, value: v}
	switch {
	case fh != nil:
		x := writev2.FromFloatHistogram(st, at, fh)
		p.histogram = &x
	case h != nil:
		x := writev2.FromIntHistogram(st, at, h)
		p.histogram = &x
	}
	if !t.to.labels.IsEmpty() {
		t.builder.Reset(ls)
		t.to.labels.Range(func(l labels.Label) {
			if !ls.Has(l.Name) {
				t.builder.Set(l.Name, l.Value)
			}
		})
		ls = t.builder.Labels()
	}
	if err := t.add(ls, p, o.Exemplars, o.Metadata); err != nil {
		return 0, fmt.Errorf("encode %s: %w", ls, err)
	}
	t.seen = append(t.seen, seenAt{ref, at})
	if t.count >= maxRecordSeries || t.size() >= maxRecordBytes {
		t.finish()
	}
	return ref, nil
}

// finish makes a body of what there is.
func (t *appender) finish() {
	if t.count == 0 {
		return
	}
	var memory []byte
	if n := len(t.free); n > 0 {
		memory, t.free = t.free[n-1], t.free[:n-1]
	}
	t.full = append(t.full, t.pack(memory))
	t.reset()
}

// Commit returns when everything is durable.
func (t *appender) Commit() error {
	defer t.release()
	t.finish()
	for _, body := range t.full {
		if err := t.to.write(t.ctx, t.to.id, body); err != nil {
			return err
		}
	}
	t.to.newest.add(t.seen)
	return nil
}

// Rollback forgets everything.
func (t *appender) Rollback() error {
	t.release()
	return nil
}

// release gives its memory to the next transaction; what no transaction needs for long, the pool lets go.
func (t *appender) release() {
	t.free = append(t.free, t.full...)
	t.reset()
	t.to, t.ctx, t.seen, t.full = nil, nil, t.seen[:0], t.full[:0]
	appenders.Put(t)
}

// newest remembers the time of the newest sample of each series, so that the marker which ends a vanished target's series is left out
// where the target came back meanwhile. The store cannot tell: it takes late samples gladly.
type newest struct {
	now    func() time.Time
	keep   time.Duration // at least so long
	mu     sync.Mutex
	turned time.Time
	at     map[storage.SeriesRef]int64
	before map[storage.SeriesRef]int64
}

func newNewest(now func() time.Time) *newest {
	return &newest{now: now, keep: minKeep, turned: now(), at: map[storage.SeriesRef]int64{}}
}

// minKeep is how long the time of a sample is remembered: a vanished target's markers come after little more than two intervals.
const minKeep = 10 * time.Minute

// keepFor remembers at least for three times the interval.
func (n *newest) keepFor(interval time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keep = max(minKeep, 3*interval)
}

func (n *newest) of(ref storage.SeriesRef) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.at[ref]; ok {
		return at
	}
	return n.before[ref]
}

func (n *newest) add(seen []seenAt) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := n.now(); now.Sub(n.turned) >= n.keep {
		n.before, n.at, n.turned = n.at, make(map[storage.SeriesRef]int64, len(n.at)), now
	}
	for _, s := range seen {
		if s.at > n.at[s.ref] {
			n.at[s.ref] = s.at
		}
	}
}
