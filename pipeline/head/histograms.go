package head

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

// HistogramChunk is a stretch of native histograms as the library packs them.
type HistogramChunk struct {
	From, To kemi.Millis // the first and the last; both are in it
	Samples  int
	Encoding chunkenc.Encoding
	Chunk    []byte // it may lie in a file: it is valid as long as the view

	shown kemi.Range // what is out of it is not to be seen
}

// histograms are those of the i-th series: stretches in the order of their beginning, which may overlap where some came late, and may reach out of what is shown.
func (d *decoder) histograms(l *lot, i int) (out []HistogramChunk, err error) {
	it := &l.items[i]
	inOrder := kemi.Range{From: kemi.Millis(it.from), To: kemi.Millis(it.to)}
	always := kemi.Range{From: math.MinInt64, To: math.MaxInt64}
	for _, p := range slices.Concat(l.pieces[it.pieces.from:it.pieces.to], l.pieces[it.latePieces.from:it.latePieces.to]) {
		if p.kind == kindFloats {
			continue
		}
		shown := inOrder
		if p.late {
			shown = always
		}
		if out, err = appendChunk(out, p.first, p.last, chunkenc.Encoding(p.kind), p.content, shown); err != nil {
			return nil, err
		}
	}
	if late := l.hist[it.hist.from:it.hist.to]; len(late) > 0 {
		err := packHistograms(slices.Clone(late), func(o *openHistograms) (err error) {
			out, err = appendChunk(out, o.first, o.last, o.chunk.Encoding(), o.chunk.Bytes(), always)
			return err
		}, func(error) {})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b HistogramChunk) int { return cmp.Compare(a.From, b.From) })
	return out, nil
}

func appendChunk(out []HistogramChunk, first, last int64, enc chunkenc.Encoding, content []byte, shown kemi.Range) ([]HistogramChunk, error) {
	c, err := chunkenc.FromData(enc, content)
	if err != nil {
		return nil, err
	}
	return append(out, HistogramChunk{From: kemi.Millis(first), To: kemi.Millis(last), Samples: c.NumSamples(), Encoding: enc, Chunk: content, shown: shown}), nil
}

// apart makes stretches that do not overlap, and have nothing that is not shown: as they are if they are so, or else packed anew.
func apart(in []HistogramChunk) ([]HistogramChunk, error) {
	fine := true
	for i, h := range in {
		fine = fine && h.From >= h.shown.From && h.To < h.shown.To && (i == 0 || in[i-1].To < h.From)
	}
	if fine {
		return in, nil
	}
	var all []lateHistogram
	for _, h := range in {
		c, err := chunkenc.FromData(h.Encoding, h.Chunk)
		if err != nil {
			return nil, err
		}
		it := c.Iterator(nil)
		for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
			at := kemi.Millis(it.AtT())
			if at < h.shown.From || at >= h.shown.To {
				continue
			}
			x := lateHistogram{at: int64(at)}
			if k == chunkenc.ValHistogram {
				_, x.h = it.AtHistogram(nil)
			} else {
				_, x.fh = it.AtFloatHistogram(nil)
			}
			all = append(all, x)
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b lateHistogram) int { return cmp.Compare(a.at, b.at) })
	all = slices.CompactFunc(all, func(a, b lateHistogram) bool { return a.at == b.at })
	var out []HistogramChunk
	var failed error
	err := packHistograms(all, func(o *openHistograms) (err error) {
		out, err = appendChunk(out, o.first, o.last, o.chunk.Encoding(), o.chunk.Bytes(), kemi.Range{From: math.MinInt64, To: math.MaxInt64})
		return err
	}, func(err error) { failed = err })
	return out, cmp.Or(err, failed)
}

// packHistograms packs histograms into chunks, in the order of time. One that cannot be packed is told to bad and left out.
func packHistograms(in []lateHistogram, write func(o *openHistograms) error, bad func(error)) error {
	slices.SortFunc(in, func(a, b lateHistogram) int { return cmp.Compare(a.at, b.at) })
	var o openHistograms
	flush := func() error {
		if o.n == 0 {
			return nil
		}
		err := write(&o)
		o.n = 0
		return err
	}
	for _, x := range in {
		enc := chunkenc.EncHistogram
		if x.fh != nil {
			enc = chunkenc.EncFloatHistogram
		}
		if o.n > 0 && (o.chunk.Encoding() != enc || o.n >= chunkHistograms || x.at-o.first > math.MaxUint32 || len(o.chunk.Bytes()) >= chunkBytes) {
			if err := flush(); err != nil {
				return err
			}
		}
		if o.n == 0 {
			if err := o.begin(enc); err != nil {
				return err
			}
		}
		h, fh := x.h, x.fh // the library may change them, and others read them at the same time
		if h != nil {
			h = h.Copy()
		} else {
			fh = fh.Copy()
		}
		next, fresh, app, err := appendHistogram(o.app, o.prev, x.at, h, fh)
		if err != nil {
			bad(err)
			continue
		}
		if fresh {
			if err := flush(); err != nil {
				return err
			}
		}
		if next != nil {
			o.chunk = next
		}
		if o.n == 0 {
			o.first = x.at
		}
		o.app, o.prev, o.last = app, nil, x.at
		o.n++
	}
	return flush()
}
