package batch

import (
	"fmt"
	"slices"

	"kemi"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
)

// Reader reads series of a View. It is for one goroutine, and quickest if series come in the order of their labels.
type Reader struct {
	v       *View
	cursors []*settled.Cursor // by the index of the block
	// Of the Reduce that is under way: fed is the end of the last interval that the reducer has something of.
	red      *store.Reducer
	interval kemi.Millis
	fed      kemi.Millis

	parts  []partSpan
	tmp    settled.Columns
	merged settled.Columns
	extra  settled.Columns
	raw    settled.Columns
	dirty  []kemi.Range
	drops  []kemi.Range

	// Levels counts for each width of rollup how often it answered, and with 0 how often raw samples did.
	Levels map[kemi.Millis]int64
}

// NewReader makes a Reader. The view must outlive it.
func (v *View) NewReader() *Reader {
	return &Reader{v: v, cursors: make([]*settled.Cursor, len(v.blocks)), Levels: map[kemi.Millis]int64{}}
}

// Close gives the cursors back.
func (r *Reader) Close() {
	for _, c := range r.cursors {
		if c != nil {
			c.Close()
		}
	}
	r.cursors = nil
}

func (r *Reader) cursor(p *Part) *settled.Cursor {
	if r.cursors[p.index] == nil {
		r.cursors[p.index] = p.Block.block.Cursor()
	}
	return r.cursors[p.index]
}

// partSpan is a part with what the index says of it, and what of it is gone.
type partSpan struct {
	*Part
	span  kemi.Range
	drops []kemi.Range // ascending, not overlapping
}

// spans are the parts of s that have something in rg, by their beginning.
func (r *Reader) spans(s *Series, rg kemi.Range) ([]partSpan, error) {
	r.parts = r.parts[:0]
	for i := range s.Parts {
		p := &s.Parts[i]
		span, err := r.cursor(p).Span(p.Ref)
		if err != nil {
			return nil, fmt.Errorf("read settled block %s: %w", p.Block.ID, err)
		}
		if span.From = max(span.From, rg.From); span.From >= min(span.To, rg.To) {
			continue
		}
		span.To = min(span.To, rg.To)
		ps := partSpan{Part: p, span: span}
		if !r.v.Untouched(p.Block) {
			ps.drops = joinRanges(r.v.Drops(p.Block, s.Project, s.Labels, nil))
			if len(ps.drops) > 0 && ps.drops[0].From <= span.From && ps.drops[0].To >= span.To {
				continue
			}
		}
		r.parts = append(r.parts, ps)
	}
	slices.SortFunc(r.parts, func(a, b partSpan) int {
		switch {
		case a.span.From < b.span.From:
			return -1
		case a.span.From > b.span.From:
			return 1
		}
		return a.index - b.index
	})
	return r.parts, nil
}

// joinRanges sorts ranges and joins those that touch.
func joinRanges(rs []kemi.Range) []kemi.Range {
	if len(rs) < 2 {
		return rs
	}
	slices.SortFunc(rs, func(a, b kemi.Range) int {
		switch {
		case a.From < b.From:
			return -1
		case a.From > b.From:
			return 1
		}
		return 0
	})
	out := rs[:1]
	for _, x := range rs[1:] {
		if last := &out[len(out)-1]; x.From <= last.To {
			last.To = max(last.To, x.To)
		} else {
			out = append(out, x)
		}
	}
	return out
}

// read appends the part's samples in rg, without those that are gone.
func (r *Reader) read(p *partSpan, rg kemi.Range, to *settled.Columns) error {
	n := len(to.At)
	if err := r.cursor(p.Part).Read(p.Ref, rg, to); err != nil {
		return fmt.Errorf("read settled block %s: %w", p.Block.ID, err)
	}
	dropRanges(to, n, p.drops)
	return nil
}

// dropRanges takes the samples from n on away that lie in one of the ranges.
func dropRanges(c *settled.Columns, n int, drops []kemi.Range) {
	for _, d := range drops {
		from, _ := slices.BinarySearch(c.At[n:], d.From)
		to, _ := slices.BinarySearch(c.At[n:], d.To)
		if from < to {
			c.At = slices.Delete(c.At, n+from, n+to)
			c.Values = slices.Delete(c.Values, n+from, n+to)
		}
	}
}

// Read appends the samples of s in rg to the columns, in order, stale markers included. What lies in several blocks comes once.
func (r *Reader) Read(s *Series, rg kemi.Range, to *settled.Columns) error {
	parts, err := r.spans(s, rg)
	if err != nil {
		return err
	}
	start := len(to.At)
	for i := range parts {
		p := &parts[i]
		if n := len(to.At); n == start || to.At[n-1] < p.span.From {
			if err := r.read(p, rg, to); err != nil {
				return err
			}
			continue
		}
		r.tmp.Reset()
		if err := r.read(p, rg, &r.tmp); err != nil {
			return err
		}
		r.mergeInto(to, start, &r.tmp)
	}
	return nil
}

// mergeInto merges the samples of b into those of a from start on. Of the same time a's stays.
func (r *Reader) mergeInto(a *settled.Columns, start int, b *settled.Columns) {
	if len(b.At) == 0 {
		return
	}
	if n := len(a.At); n == start || a.At[n-1] < b.At[0] {
		a.At, a.Values = append(a.At, b.At...), append(a.Values, b.Values...)
		return
	}
	m := &r.merged
	m.Reset()
	MergeColumns(m, a.At[start:], a.Values[start:], b.At, b.Values)
	a.At, a.Values = append(a.At[:start], m.At...), append(a.Values[:start], m.Values...)
}

// MergeColumns appends two ascending columns to out as one. Of the same time the first's sample comes.
func MergeColumns(out *settled.Columns, at []kemi.Millis, values []float64, at2 []kemi.Millis, values2 []float64) {
	i, j := 0, 0
	for i < len(at) && j < len(at2) {
		switch {
		case at[i] < at2[j]:
			out.At, out.Values = append(out.At, at[i]), append(out.Values, values[i])
			i++
		case at[i] > at2[j]:
			out.At, out.Values = append(out.At, at2[j]), append(out.Values, values2[j])
			j++
		default:
			out.At, out.Values = append(out.At, at[i]), append(out.Values, values[i])
			i++
			j++
		}
	}
	out.At, out.Values = append(append(out.At, at[i:]...), at2[j:]...), append(append(out.Values, values[i:]...), values2[j:]...)
}

// Has tells whether s may have samples in rg.
func (r *Reader) Has(s *Series, rg kemi.Range) (bool, error) {
	parts, err := r.spans(s, rg)
	return len(parts) > 0, err
}

// Histograms are the stretches of histograms of s that touch rg, of all blocks, in the order of their beginning. They may overlap, and hold
// samples out of rg and deleted ones: Drops are what is gone.
func (r *Reader) Histograms(s *Series, rg kemi.Range) (out []HistogramPart, err error) {
	parts, err := r.spans(s, rg)
	if err != nil {
		return nil, err
	}
	for i := range parts {
		p := &parts[i]
		hs, err := r.cursor(p.Part).ReadHistograms(p.Ref, rg, nil)
		if err != nil {
			return nil, fmt.Errorf("read histograms of settled block %s: %w", p.Block.ID, err)
		}
		for _, h := range hs {
			out = append(out, HistogramPart{h, p.drops})
		}
	}
	slices.SortStableFunc(out, func(a, b HistogramPart) int { return int(min(1, max(-1, a.From-b.From))) })
	return out, nil
}

// HistogramPart is a stretch of histograms and what of it is gone.
type HistogramPart struct {
	settled.Histograms
	Drops []kemi.Range
}

// Reduce makes intervals of s in rg, together with samples that are not settled yet: live, ascending, without stale markers. rg begins and
// ends at multiples of the interval. Where nothing else comes in between, rollups answer, if the function has one that is exact. red holds
// the answer.
func (r *Reader) Reduce(s *Series, rg kemi.Range, interval kemi.Millis, fn store.Reduce, live settled.Columns, red *store.Reducer) (store.Down, error) {
	r.red, r.interval = red, interval
	red.Reset(interval, fn)
	parts, err := r.spans(s, rg)
	if err != nil {
		return store.Down{}, err
	}
	r.fed = rg.From
	for i := 0; i < len(parts); {
		j, end := i+1, parts[i].span.To
		for j < len(parts) && parts[j].span.From < end {
			end = max(end, parts[j].span.To)
			j++
		}
		n, _ := slices.BinarySearch(live.At, parts[i].span.From)
		r.samples(live.At[:n], live.Values[:n])
		live.At, live.Values = live.At[n:], live.Values[n:]
		n, _ = slices.BinarySearch(live.At, end)
		inside := settled.Columns{At: live.At[:n], Values: live.Values[:n]}
		live.At, live.Values = live.At[n:], live.Values[n:]
		// What comes next may share an interval with this: nothing that is reduced as a whole may have samples of another source in it.
		next := rg.To
		if j < len(parts) {
			next = parts[j].span.From
		}
		if len(live.At) > 0 {
			next = min(next, live.At[0])
		}
		if j-i == 1 && n == 0 && len(parts[i].drops) == 0 {
			err = r.alone(&parts[i], rg, next)
		} else {
			err = r.cluster(parts[i:j], rg, next, inside)
		}
		if err != nil {
			return store.Down{}, err
		}
		i = j
	}
	r.samples(live.At, live.Values)
	return r.red.Down(), nil
}

func (r *Reader) samples(at []kemi.Millis, values []float64) {
	if n := len(at); n > 0 {
		r.red.Samples(at, values)
		r.fed = floor(at[n-1], r.interval) + r.interval
	}
}

// alone reduces a part that nothing overlaps, but which may share its first interval with what was before and its last with what comes next.
func (r *Reader) alone(p *partSpan, rg kemi.Range, next kemi.Millis) error {
	r.extra.Reset()
	from, to := max(rg.From, floor(p.span.From, r.interval)), min(rg.To, floor(p.span.To-1, r.interval)+r.interval)
	if from < r.fed {
		if err := r.mixed(p, kemi.Range{From: from, To: from + r.interval}); err != nil {
			return err
		}
		from += r.interval
	}
	inner := to
	if next < to {
		inner = max(from, to-r.interval)
	}
	if from < inner {
		if err := r.reduce(p, kemi.Range{From: from, To: inner}); err != nil {
			return err
		}
	}
	if inner < to {
		if err := r.mixed(p, kemi.Range{From: inner, To: to}); err != nil {
			return err
		}
	}
	r.fed = max(r.fed, to)
	return nil
}

// reduce feeds the reducer from one block.
func (r *Reader) reduce(p *partSpan, rg kemi.Range) error {
	used, err := r.cursor(p.Part).Reduce(p.Ref, rg, r.red)
	if err != nil {
		return fmt.Errorf("reduce settled block %s: %w", p.Block.ID, err)
	}
	r.Levels[used.Level]++
	return nil
}

// cluster reduces blocks that overlap in time, live samples among them, and blocks that have lost something. Intervals that only the largest
// block has a part in are reduced from that; the others from raw samples.
func (r *Reader) cluster(parts []partSpan, rg kemi.Range, next kemi.Millis, live settled.Columns) error {
	interval := r.interval
	base := 0
	for i := range parts {
		if parts[i].Block.Bytes > parts[base].Block.Bytes {
			base = i
		}
	}
	r.extra.Reset()
	span := parts[base].span
	for i := range parts {
		if i == base {
			continue
		}
		span.From, span.To = min(span.From, parts[i].span.From), max(span.To, parts[i].span.To)
		r.tmp.Reset()
		if err := r.read(&parts[i], rg, &r.tmp); err != nil {
			return err
		}
		r.mergeInto(&r.extra, 0, &r.tmp)
	}
	r.mergeInto(&r.extra, 0, &live) // what is settled came first
	from, to := max(rg.From, floor(span.From, interval)), min(rg.To, floor(span.To-1, interval)+interval)
	r.dirty = r.dirty[:0]
	if from < r.fed {
		r.dirty = append(r.dirty, kemi.Range{From: from, To: from + interval})
	}
	if next < to {
		r.dirty = append(r.dirty, kemi.Range{From: to - interval, To: to})
	}
	r.findDirty(&parts[base], interval)
	r.fed = max(r.fed, to)
	if n := kemi.Millis(len(r.dirty)); n*2*interval > to-from {
		r.dirty = append(r.dirty[:0], kemi.Range{From: from, To: to})
	}
	for _, d := range r.dirty {
		if err := r.clean(&parts[base], kemi.Range{From: from, To: d.From}); err != nil {
			return err
		}
		if err := r.mixed(&parts[base], kemi.Range{From: max(d.From, rg.From), To: min(d.To, rg.To)}); err != nil {
			return err
		}
		from = d.To
	}
	return r.clean(&parts[base], kemi.Range{From: from, To: to})
}

// findDirty adds to r.dirty the intervals that hold extra samples or the edge of a deletion, joined where they touch.
func (r *Reader) findDirty(base *partSpan, interval kemi.Millis) {
	for _, t := range r.extra.At {
		if n := len(r.dirty); n == 0 || t < r.dirty[n-1].From || r.dirty[n-1].To <= t {
			start := floor(t, interval)
			r.dirty = append(r.dirty, kemi.Range{From: start, To: start + interval})
		}
	}
	for _, d := range base.drops {
		for _, t := range []kemi.Millis{d.From, d.To} {
			if t > base.span.From && t < base.span.To && t != floor(t, interval) {
				start := floor(t, interval)
				r.dirty = append(r.dirty, kemi.Range{From: start, To: start + interval})
			}
		}
	}
	r.dirty = joinRanges(r.dirty)
}

// clean reduces what only the base has a part in; rg begins and ends at multiples of the interval, as what is gone of it does.
func (r *Reader) clean(base *partSpan, rg kemi.Range) error {
	for _, d := range base.drops {
		if d.From >= rg.To {
			break
		}
		if d.From > rg.From {
			if err := r.cleanPart(base, kemi.Range{From: rg.From, To: d.From}); err != nil {
				return err
			}
		}
		rg.From = max(rg.From, d.To)
	}
	return r.cleanPart(base, rg)
}

func (r *Reader) cleanPart(base *partSpan, rg kemi.Range) error {
	if rg.From >= rg.To || rg.From >= base.span.To || rg.To <= base.span.From {
		return nil
	}
	return r.reduce(base, rg)
}

// mixed reduces raw samples of the base and the extra ones.
func (r *Reader) mixed(base *partSpan, rg kemi.Range) error {
	if rg.From >= rg.To {
		return nil
	}
	r.raw.Reset()
	if err := r.read(base, rg, &r.raw); err != nil {
		return err
	}
	from, _ := slices.BinarySearch(r.extra.At, rg.From)
	to, _ := slices.BinarySearch(r.extra.At, rg.To)
	r.tmp.Reset()
	MergeColumns(&r.tmp, r.raw.At, r.raw.Values, r.extra.At[from:to], r.extra.Values[from:to])
	r.tmp.DropStale()
	r.Levels[0]++
	if len(r.tmp.At) > 0 {
		r.red.Samples(r.tmp.At, r.tmp.Values)
	}
	return nil
}
