package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"kemi"
	"kemi/pipeline/settled"
)

// Extent is how much a Settle does.
type Extent int

// The extents.
const (
	Due Extent = iota // what is due: what the live store has written to blocks, and merges that are worth it
	All               // whatever can be merged is, however little it gives
)

// Report is what a Settle did.
type Report struct {
	Jobs    int     `json:"jobs"`
	Read    int64   `json:"samplesRead"` // of blocks that were settled, merged or written anew
	Written int64   `json:"samplesWritten"`
	Bytes   int64   `json:"bytesWritten"`
	Millis  float64 `json:"milliseconds"`
	Deleted int     `json:"blocksDroppedByRetention"`
	Blocks  int     `json:"blocks"` // there are now
	Samples int64   `json:"samples"`
	OnDisk  int64   `json:"bytes"`
}

// Settle does one job after another until nothing is left to do. Only one runs at a time; a second call waits.
func (l *Layer) Settle(ctx context.Context, how Extent) (Report, error) {
	if err := l.live.Ready(ctx); err != nil {
		return Report{}, err
	}
	l.runMu.Lock()
	defer l.runMu.Unlock()
	begin := l.o.Now()
	var r Report
	err := l.settle(ctx, how, &r)
	s := l.Stats()
	r.Blocks, r.Samples, r.OnDisk, r.Millis = s.Blocks, s.Samples, s.Bytes, float64(l.o.Now().Sub(begin).Microseconds())/1000
	l.m.seconds.Add(r.Millis / 1000)
	return r, err
}

func (l *Layer) settle(ctx context.Context, how Extent, r *Report) error {
	if err := l.retireReplaced(); err != nil {
		return err
	}
	n, err := l.dropOld()
	r.Deleted += n
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		state, err := l.state(how)
		if err != nil {
			return err
		}
		job := Plan(state)
		if job == nil {
			return nil
		}
		r.Jobs++
		if err := l.do(ctx, job, r); err != nil {
			return fmt.Errorf("%s %d settled and %d live blocks: %w", job.Why, len(job.Settled), len(job.Sources), err)
		}
	}
}

// state is what the next plan is made from. Blocks that a deletion has nothing of are noted as such.
func (l *Layer) state(how Extent) (State, error) {
	v := l.Acquire()
	defer v.Release()
	s := State{All: how == All, MaxBytes: l.cfg.MaxBlockBytes}
	s.Sources, s.Closed = l.live.Sources()
	if s.Closed == 0 { // nothing live: all is over that began before
		for _, b := range v.blocks {
			s.Closed = max(s.Closed, slotAt(0, b.To).To())
		}
	}
	var clean []string
	var upto uint64
	for _, b := range v.blocks {
		s.Blocks = append(s.Blocks, b.Block)
		if len(v.deletes) == 0 || v.deletes[len(v.deletes)-1].Sequence <= b.Applied {
			continue
		}
		touched, err := v.touched(b)
		if err != nil {
			return s, err
		}
		if touched {
			s.Rewrite = append(s.Rewrite, b.ID)
			continue
		}
		clean, upto = append(clean, b.ID), v.deletes[len(v.deletes)-1].Sequence
	}
	var kept []string
	for _, b := range v.blocks {
		if slices.Contains(s.Rewrite, b.ID) || !expired(&b.Block, v.rules, v.now) {
			continue
		}
		affected, err := v.affected(b)
		if err != nil {
			return s, err
		}
		if affected {
			s.Rewrite = append(s.Rewrite, b.ID)
		} else {
			kept = append(kept, b.ID)
		}
	}
	if len(clean) == 0 && len(kept) == 0 {
		return s, nil
	}
	return s, l.commit(func(m *manifest) {
		for i := range m.Blocks {
			if b := &m.Blocks[i]; slices.Contains(clean, b.ID) {
				b.Applied = max(b.Applied, upto)
			}
			if b := &m.Blocks[i]; slices.Contains(kept, b.ID) {
				b.At = v.now
			}
		}
	}, nil)
}

// retireReplaced has the live store delete what is settled. It is noted in the manifest until it is done.
func (l *Layer) retireReplaced() error {
	l.mu.Lock()
	ids := slices.Clone(l.manifest.Replaced)
	l.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	if err := l.live.Retire(ids); err != nil {
		return err
	}
	l.o.Step("sources retired")
	return l.commit(func(m *manifest) {
		m.Replaced = slices.DeleteFunc(m.Replaced, func(id string) bool { return slices.Contains(ids, id) })
	}, nil)
}

// do does a job: reads, writes, and puts the result in force.
func (l *Layer) do(ctx context.Context, j *Job, r *Report) (err error) {
	v := l.Acquire()
	defer v.Release()
	var inputs []*ViewBlock
	for _, b := range v.blocks {
		if slices.Contains(j.Settled, b.ID) {
			inputs = append(inputs, b)
		}
	}
	// What was settled first comes first: of two samples for one time it stays, as in the live store.
	slices.SortFunc(inputs, func(a, b *ViewBlock) int { return cmp.Compare(a.Sequence, b.Sequence) })
	var sources []settled.Source
	for _, b := range inputs {
		r.Read += b.Samples
		everything := kemi.Range{From: -1 << 62, To: 1 << 62}
		sources = append(sources, settled.MergeIter(v.filter(b), b.block.Source(everything)))
	}
	if len(j.Sources) > 0 {
		src := newPulled(l.live.Read(ctx, j.Sources))
		defer src.stop()
		news := &fresh{Source: src, l: l}
		defer news.close()
		sources = append(sources, settled.MergeIter(v.retention(), news))
	}
	w := &slotWriter{ctx: ctx, l: l, closed: j.Closed, level: j.Level, slots: map[Slot]*slotBlock{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.abort())
		}
	}()
	if err := w.write(settled.MergeIter(nil, sources...)); err != nil {
		return err
	}
	added, opened, err := w.finish(v)
	if err != nil {
		return err
	}
	l.o.Step("blocks written")
	err = l.commit(func(m *manifest) {
		m.Blocks = slices.DeleteFunc(m.Blocks, func(b Block) bool { return slices.Contains(j.Settled, b.ID) })
		for i := range added {
			added[i].Sequence = m.Sequence
		}
		m.Blocks = append(m.Blocks, added...)
		slices.SortFunc(m.Blocks, func(a, b Block) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.ID, b.ID)) })
		m.Replaced = append(m.Replaced, j.Sources...)
	}, opened)
	w.keep() // the manifest may name them, even if there was an error
	if err != nil {
		return err
	}
	for _, b := range added {
		r.Written += b.Samples
		r.Bytes += b.Bytes
	}
	l.m.jobs.WithLabelValues(j.Why).Inc()
	l.m.written.Add(float64(sum(added, func(b Block) int64 { return b.Samples })))
	l.m.bytes.Add(float64(sum(added, func(b Block) int64 { return b.Bytes })))
	l.o.Log.Debug("series settled", "job", j.Why, "settledBlocks", len(j.Settled), "liveBlocks", len(j.Sources), "written", len(added))
	return l.retireReplaced()
}

func sum(bs []Block, f func(Block) int64) (n int64) {
	for _, b := range bs {
		n += f(b)
	}
	return n
}

// slotWriter writes series into one block for each slot that they have samples in.
type slotWriter struct {
	ctx    context.Context //nolint:containedctx // of one call
	l      *Layer
	closed kemi.Millis
	level  int
	slots  map[Slot]*slotBlock
	part   settled.Series
	n      int
	kept   bool
}

type slotBlock struct {
	id    string
	w     *settled.Writer
	block *settled.Block
}

func (w *slotWriter) slotOf(t kemi.Millis) Slot {
	if w.level != ofAge {
		return slotAt(w.level, t)
	}
	return slotOf(t, w.closed)
}

func (w *slotWriter) write(src settled.Source) error {
	for src.Next() {
		if w.n++; w.n%1024 == 0 {
			if err := w.ctx.Err(); err != nil {
				return err
			}
		}
		if err := w.series(src.At()); err != nil {
			return err
		}
	}
	return src.Err()
}

// series cuts one series into slots.
func (w *slotWriter) series(s *settled.Series) error {
	at, values, hs := s.At, s.Values, s.Histograms
	for len(at) > 0 || len(hs) > 0 {
		var t kemi.Millis
		switch {
		case len(at) == 0:
			t = hs[0].From
		case len(hs) == 0:
			t = at[0]
		default:
			t = min(at[0], hs[0].From)
		}
		slot := w.slotOf(t)
		n, _ := slices.BinarySearch(at, slot.To())
		m := 0
		for m < len(hs) && hs[m].From < slot.To() {
			m++
		}
		w.part = settled.Series{Project: s.Project, Labels: s.Labels, At: at[:n], Values: values[:n], Histograms: hs[:m]}
		at, values, hs = at[n:], values[n:], hs[m:]
		b := w.slots[slot]
		if b == nil {
			id := blockPrefix + ulid.Make().String()
			o := blockOptions(slot, w.closed)
			w.l.o.Rollups(&o)
			sw, err := settled.Create(filepath.Join(w.l.cfg.Dir, id), o)
			if err != nil {
				return err
			}
			b = &slotBlock{id: id, w: sw}
			w.slots[slot] = b
		}
		if err := b.w.Add(&w.part); err != nil {
			return err
		}
	}
	return nil
}

// blockOptions are how a block of a slot is written. Blocks of many days answer questions over months and years: there the largest and smallest of each quarter of an hour
// are worth their room sooner; not before the month is over, as the block will be written anew then.
func blockOptions(slot Slot, closed kemi.Millis) settled.Options {
	o := settled.DefaultOptions()
	if slot.Level == len(Levels)-1 && slot.To() <= closed {
		o.MinNarrow = 12
	}
	return o
}

// finish closes the blocks and opens them for reading.
func (w *slotWriter) finish(v *View) ([]Block, map[string]*settled.Block, error) {
	var out []Block
	opened := map[string]*settled.Block{}
	for slot, b := range w.slots {
		m, err := b.w.Close(nil)
		if err != nil {
			return nil, nil, err
		}
		w.l.o.Step("block closed")
		if b.block, err = settled.Open(filepath.Join(w.l.cfg.Dir, b.id)); err != nil {
			return nil, nil, err
		}
		opened[b.id] = b.block
		out = append(out, Block{
			ID: b.id, Level: slot.Level, From: m.From, To: m.To, Series: m.Series, Samples: m.Samples + m.HistogramSamples, Bytes: m.Bytes, Applied: v.sequence, At: v.now,
		})
	}
	return out, opened, syncDir(w.l.cfg.Dir)
}

func (w *slotWriter) keep() { w.kept = true }

// abort takes away what was written.
func (w *slotWriter) abort() error {
	if w.kept {
		return nil
	}
	var errs []error
	for _, b := range w.slots {
		if b.block != nil {
			errs = append(errs, b.block.Close())
		}
		errs = append(errs, b.w.Abort(), removeBlock(filepath.Join(w.l.cfg.Dir, b.id)))
	}
	return errors.Join(errs...)
}

// SettledUntil is a moment before now from which on nothing is settled even when it is asked for: samples of now are still coming.
const SettledUntil = 2 * time.Minute
