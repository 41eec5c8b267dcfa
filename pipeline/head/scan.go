package head

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"kemi"
	"kemi/pipeline/store"
)

// scan reads the samples of a selection, series by series in the order of their labels. What there is to read is split into batches of some
// series; workers copy, decode and reduce batches side by side, and the batches are handed on in their order. So what is held is a few batches, however
// large the selection is.
type scan struct {
	v          *view
	ids        []uint32
	mint, maxt int64
	reduce     *reduction // nil: the samples as they are
	raw        bool       // with stale markers, and no histograms
	keep       bool       // labels that are yielded stay
	perBatch   int        // series
}

// batch is some series and what was read of them. Its memory is used again.
type batch struct {
	ids    []uint32
	lot    lot
	labels []kemi.Label
	col    columns
	read   []read
	err    error
	done   chan struct{}
}

// read is a series that was read: where its labels and points end in the batch.
type read struct {
	labels, points int
	samples        int64
}

// worker decodes.
type worker struct {
	*scan
	decoder
	red store.Reducer
	run columns
}

// batches and workers are used again: what a selection needs grows with its width, and would be garbage for the collector each time.
var (
	batches = sync.Pool{New: func() any { return &batch{done: make(chan struct{}, 1)} }}
	workers = sync.Pool{New: func() any { return new(worker) }}
)

const (
	batchSeries = 64
	batchPoints = 64 << 10 // about a megabyte
	briefSpan   = 600_000  // milliseconds; of so short a time no series has many samples
	smallScan   = 8        // series that are read without further goroutines
)

// running counts scans, so that many at once do not start more goroutines than help.
var running atomic.Int32

// run calls yield for each series, until it returns false. What it is called with is valid during the call only.
func (s *scan) run(ctx context.Context, ms []*labels.Matcher, yield func(b *batch, i int) bool) (err error) {
	if s.v.sp == nil || !s.v.touches(s.mint, s.maxt) {
		return ctx.Err()
	}
	s.perBatch = batchSeries
	if s.reduce != nil {
		s.perBatch = int(min(batchSeries, max(1, batchPoints/((s.maxt+1-s.mint)/int64(s.reduce.interval)+1))))
	} else if s.maxt-s.mint > briefSpan {
		s.perBatch = 8 // how many samples it will be is not known yet
	}
	if s.ids, err = s.v.find(ctx, ms); err != nil {
		return err
	}
	n := int(running.Add(1))
	defer running.Add(-1)
	if side := max(1, runtime.GOMAXPROCS(0)/n); len(s.ids) > smallScan && side > 1 {
		return s.together(ctx, side, yield)
	}
	return s.alone(ctx, yield)
}

func (s *scan) worker() *worker {
	w := workers.Get().(*worker)
	w.scan = s
	return w
}

func (w *worker) close() {
	w.scan = nil
	workers.Put(w)
}

// release gives a batch back. Nobody may use it any more.
func (b *batch) release(keepLabels bool) {
	if keepLabels {
		b.labels = nil
	}
	clear(b.labels[:cap(b.labels)])
	b.lot.reset()
	if cap(b.col.at) > 4*batchPoints { // one very long series; such memory is better given back
		b.col = columns{}
	}
	b.ids = nil
	batches.Put(b)
}

// next gives a batch its series; false if there are none left.
func (s *scan) next(b *batch) bool {
	n := min(s.perBatch, len(s.ids))
	b.ids, s.ids = s.ids[:n], s.ids[n:]
	b.err = nil
	return n > 0
}

// alone does all in the caller's goroutine.
func (s *scan) alone(ctx context.Context, yield func(*batch, int) bool) error {
	w := s.worker()
	defer w.close()
	b := batches.Get().(*batch)
	defer b.release(s.keep)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !s.next(b) {
			return nil
		}
		if w.do(ctx, b); b.err != nil {
			return b.err
		}
		if !b.each(yield) {
			return nil
		}
	}
}

func (b *batch) each(yield func(*batch, int) bool) bool {
	for i := range b.read {
		if !yield(b, i) {
			return false
		}
	}
	return true
}

// together has some goroutines that read, and the caller's that hands on.
func (s *scan) together(ctx context.Context, n int, yield func(*batch, int) bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	held := 2*n + 1
	todo := make(chan *batch, held)
	all := make([]*batch, held)
	free := make([]*batch, held)
	for i := range all {
		all[i] = batches.Get().(*batch)
		free[i] = all[i]
	}
	defer func() {
		close(todo)
		cancel()
		wg.Wait()
		for _, b := range all {
			select {
			case <-b.done: // nobody waited for it any more
			default:
			}
			b.release(s.keep)
		}
	}()
	for range n {
		wg.Go(func() {
			w := s.worker()
			defer w.close()
			for b := range todo {
				w.do(ctx, b)
				b.done <- struct{}{}
			}
		})
	}
	var under []*batch
	for {
		for len(free) > 0 && s.next(free[len(free)-1]) {
			b := free[len(free)-1]
			free = free[:len(free)-1]
			under = append(under, b)
			todo <- b
		}
		if len(under) == 0 {
			return ctx.Err()
		}
		b := under[0]
		under = under[1:]
		<-b.done
		if b.err != nil {
			return b.err
		}
		if !b.each(yield) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		free = append(free, b)
	}
}

// do reads a batch.
func (w *worker) do(ctx context.Context, b *batch) {
	b.labels, b.read = b.labels[:0], b.read[:0]
	b.col.reset()
	if b.err = ctx.Err(); b.err != nil {
		return
	}
	b.lot.reset()
	w.v.fill(&b.lot, b.ids, w.mint, w.maxt)
	if w.keep {
		b.labels = make([]kemi.Label, 0, len(b.lot.labels))
	}
	for i := range b.lot.items {
		if b.err = ctx.Err(); b.err != nil {
			return
		}
		if b.err = w.series(b, i); b.err != nil {
			b.err = fmt.Errorf("%s: %w", b.lot.labelsOf(i), b.err)
			return
		}
	}
}

// series reads one series and appends it to the batch, if it has samples.
func (w *worker) series(b *batch, i int) error {
	n := len(b.col.at)
	samples := int64(0)
	if w.raw && b.lot.hasHistograms(i) {
		return errHistograms
	}
	if w.reduce == nil {
		if err := w.floats(&b.lot, i, w.mint, w.maxt, &b.col); err != nil {
			return err
		}
		if !w.raw {
			b.col.dropStale(n)
		}
		samples = int64(len(b.col.at) - n)
	} else {
		read, err := w.down(b, i)
		if err != nil {
			return err
		}
		samples = read
	}
	if len(b.col.at) == n {
		return nil
	}
	b.labels = append(b.labels, b.lot.labelsOf(i)...)
	b.read = append(b.read, read{len(b.labels), len(b.col.at), samples})
	return nil
}

// down reduces a series: only its core if that is enough.
func (w *worker) down(b *batch, i int) (int64, error) {
	core, interval := w.reduce.core, w.reduce.interval
	if n := int((core.To - core.From) / interval); n > 0 {
		if first, last := b.lot.span(i); first < int64(core.From+interval) && last >= int64(core.To-interval) {
			if err := w.stretch(b, i, int64(core.From), int64(core.To)-1); err != nil {
				return 0, err
			}
			if d := w.red.Down(); len(d.At) == n {
				b.col.at, b.col.values = append(b.col.at, d.At...), append(b.col.values, d.Values...)
				return d.Read, nil
			}
		}
	}
	if err := w.stretch(b, i, w.mint, w.maxt); err != nil {
		return 0, err
	}
	d := w.red.Down()
	b.col.at, b.col.values = append(b.col.at, d.At...), append(b.col.values, d.Values...)
	return d.Read, nil
}

func (w *worker) stretch(b *batch, i int, mint, maxt int64) error {
	w.red.Reset(w.reduce.interval, w.reduce.fn)
	w.run.reset()
	if err := w.floats(&b.lot, i, mint, maxt, &w.run); err != nil {
		return err
	}
	w.run.dropStale(0)
	w.red.Samples(w.run.at, w.run.values)
	return nil
}

// dropStale takes stale markers out of what was appended from n on.
func (c *columns) dropStale(n int) {
	for i := n; i < len(c.at); i++ {
		if value.IsStaleNaN(c.values[i]) {
			k := i
			for ; i < len(c.at); i++ {
				if !value.IsStaleNaN(c.values[i]) {
					c.at[k], c.values[k] = c.at[i], c.values[i]
					k++
				}
			}
			c.at, c.values = c.at[:k], c.values[:k]
			return
		}
	}
}

// pointsOf is the i-th series of the batch.
func (b *batch) pointsOf(i int) kemi.Points {
	var from read
	if i > 0 {
		from = b.read[i-1]
	}
	to := b.read[i]
	return kemi.Points{
		Labels: b.labels[from.labels:to.labels:to.labels], At: b.col.at[from.points:to.points:to.points], Values: b.col.values[from.points:to.points:to.points],
	}
}
