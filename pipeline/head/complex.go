package head

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/prometheus/common/model"

	"kemi/pipeline/codec"
)

// openHistograms is the histograms of a series that are not in a record yet, as a chunk of the library.
type openHistograms struct {
	chunk       chunkenc.Chunk
	app, prev   chunkenc.Appender // prev is of the chunk before, if it may go on where that has ended
	first, last int64
	n           int
}

const (
	// chunkHistograms is how many histograms go into one chunk, and chunkBytes how large it may become before it is full.
	chunkHistograms = 120
	chunkBytes      = 1 << 14
)

// appendComplex adds what a batch holds beside plain samples, after those are in.
func (db *DB) appendComplex(batch *codec.SeriesBatch) error {
	c := batch.Complex
	for _, m := range c.Metadata {
		db.meta.set(batch.Project, m.Metric, metadata.Metadata{Type: model.MetricType(m.Type), Unit: m.Unit, Help: m.Help})
	}
	if len(c.Histograms) > 0 {
		if err := db.appendHistograms(batch); err != nil {
			return err
		}
	}
	if len(c.Exemplars) > 0 && db.exemplars != nil {
		db.appendExemplars(batch)
	}
	return nil
}

func (db *DB) appendHistograms(batch *codec.SeriesBatch) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	newest, oldest := db.bounds()
	age := db.newAged(batch.Project)
	for i := range batch.Complex.Histograms {
		src := &batch.Complex.Histograms[i]
		t := int64(src.At)
		switch {
		case t > newest:
			db.m.future.Inc()
			continue
		case t < oldest:
			db.m.tooOld.Inc()
			continue
		}
		id, s, ok := db.series(batch, int(src.Series))
		if !ok {
			continue
		}
		if t < age.young && age.out(s, t) {
			db.m.tooOld.Inc()
			continue
		}
		db.from, db.to = min(db.from, t), max(db.to, t)
		h, fh := histogramsOf(src)
		if err := validate(h, fh); err != nil {
			db.m.invalid.Inc()
			db.log.Debug("histogram left out", "err", err)
			continue
		}
		if t <= s.last || t < db.floor {
			if err := db.pushLateHistogram(id, s, t, h, fh); err != nil {
				return err
			}
			continue
		}
		if start := int64(src.Start); start != 0 && start < t && start > s.last && start >= max(db.floor, oldest) && (start >= age.young || !age.out(s, start)) {
			// As for plain samples, see startOf.
			zero, zeroFloat := zeroOf(h, fh)
			if err := db.pushHistogram(id, s, start, zero, zeroFloat); err != nil {
				return err
			}
		}
		if err := db.pushHistogram(id, s, t, h, fh); err != nil {
			return err
		}
		db.taken++
	}
	return nil
}

func validate(h *histogram.Histogram, fh *histogram.FloatHistogram) error {
	if fh != nil {
		return fh.Validate()
	}
	return h.Validate()
}

// pushHistogram adds a histogram that is newer than all of its series.
func (db *DB) pushHistogram(id uint32, s *series, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) error {
	if err := db.seal(s); err != nil {
		return err
	}
	o := db.open[id]
	if o == nil {
		o = &openHistograms{}
		db.open[id] = o
		s.flags |= histograms
	}
	enc := chunkenc.EncHistogram
	if fh != nil {
		enc = chunkenc.EncFloatHistogram
	}
	if o.n > 0 && (o.chunk.Encoding() != enc || o.n >= chunkHistograms || len(o.chunk.Bytes()) >= chunkBytes || t-o.first > math.MaxUint32) {
		if err := db.sealOpen(s, o); err != nil {
			return err
		}
	}
	if o.n == 0 {
		if err := o.begin(enc); err != nil {
			return err
		}
	}
	next, fresh, app, err := appendHistogram(o.app, o.prev, t, h, fh)
	if err != nil {
		db.m.invalid.Inc()
		db.log.Debug("histogram left out", "err", err)
		return nil //nolint:nilerr // counted
	}
	if fresh { // the layout of the buckets has changed, or the counter began anew
		if o.n > 0 {
			if err := db.sealOpen(s, o); err != nil {
				return err
			}
		}
		o.chunk, o.first = next, t
	} else if next != nil {
		o.chunk = next // coded anew, with more buckets
	}
	if o.n == 0 {
		o.first = t
	}
	o.app, o.prev, o.last = app, nil, t
	o.n++
	s.last = t
	return nil
}

func (o *openHistograms) begin(enc chunkenc.Encoding) (err error) {
	o.prev = nil
	if o.chunk != nil && o.chunk.Encoding() == enc {
		o.prev = o.app
	}
	if enc == chunkenc.EncFloatHistogram {
		o.chunk = chunkenc.NewFloatHistogramChunk()
	} else {
		o.chunk = chunkenc.NewHistogramChunk()
	}
	o.app, err = o.chunk.Appender()
	return err
}

// appendHistogram appends to a chunk. next is another chunk if it had to be: one that begins with this histogram (fresh), or the same coded anew.
func appendHistogram(app, prev chunkenc.Appender, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) (next chunkenc.Chunk, fresh bool, _ chunkenc.Appender, err error) {
	var recoded bool
	if fh != nil {
		next, recoded, app, err = app.AppendFloatHistogram(prev, 0, t, fh, false)
	} else {
		next, recoded, app, err = app.AppendHistogram(prev, 0, t, h, false)
	}
	return next, next != nil && !recoded, app, err
}

// sealOpen makes a record of an open chunk.
func (db *DB) sealOpen(s *series, o *openHistograms) error {
	ref, err := db.chunks.add(false, s.chain, o.first, o.last, uint8(o.chunk.Encoding()), o.chunk.Bytes())
	if err != nil {
		return err
	}
	s.chain, o.n = ref, 0
	return nil
}

// sealHistograms makes a record of the histograms that are open: plain samples follow.
func (db *DB) sealHistograms(id uint32, s *series) error {
	s.flags &^= histograms
	o := db.open[id]
	delete(db.open, id)
	if o == nil || o.n == 0 {
		return nil
	}
	return db.sealOpen(s, o)
}

// pushLateHistogram adds a histogram that is not newer than all of its series, unless there is something at that time.
func (db *DB) pushLateHistogram(id uint32, s *series, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) error {
	old, has, err := db.histogramAt(id, s, t)
	if err != nil {
		return err
	}
	if has {
		if mine := floatHistogram(h, fh).Compact(0); old != nil && old.Compact(0).Equals(mine) {
			db.m.duplicates.Inc()
		} else {
			db.m.conflicts.Inc()
		}
		return nil
	}
	l := db.laneOf(id, s)
	l.hist = append(l.hist, lateHistogram{t, h, fh})
	l.from, l.to = min(l.from, t), max(l.to, t)
	db.lateSamples++
	db.taken++
	db.takenLate++
	if len(l.hist) >= chunkHistograms {
		return db.sealLane(l)
	}
	return nil
}

// histogramAt tells whether the series has something at t, and which histogram, if that is what it is.
func (db *DB) histogramAt(id uint32, s *series, t int64) (*histogram.FloatHistogram, bool, error) {
	if s.n > 0 && t >= db.cut {
		for _, x := range db.buffers.buffer(s.class, s.buffer)[:s.n] {
			if s.base+int64(x.after) == t {
				return nil, true, nil
			}
		}
	}
	if l := db.lanes[id]; l != nil {
		if slices.Contains(l.at, t) {
			return nil, true, nil
		}
		for _, x := range l.hist {
			if x.at == t {
				return floatHistogram(x.h, x.fh), true, nil
			}
		}
	}
	if t < db.cut { // that is settled, and may be deleted since
		return nil, false, nil
	}
	if o := db.open[id]; o != nil && o.n > 0 && t >= o.first && t <= o.last {
		return histogramIn(o.chunk, t)
	}
	for ref := s.chain; ref != 0; {
		r, ok := db.chunks.read(ref)
		if !ok || t > r.last {
			break
		}
		if t < r.first {
			ref = r.prev
			continue
		}
		if r.kind == kindFloats {
			f, _, _, err := db.inOrder(id, s, t, 0)
			return nil, f != absent, err
		}
		c, err := chunkenc.FromData(chunkenc.Encoding(r.kind), r.content)
		if err != nil {
			return nil, false, err
		}
		return histogramIn(c, t)
	}
	return nil, false, nil
}

func histogramIn(c chunkenc.Chunk, t int64) (*histogram.FloatHistogram, bool, error) {
	it := c.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		if it.AtT() == t {
			_, h := it.AtFloatHistogram(nil)
			return h, true, nil
		}
	}
	return nil, false, it.Err()
}

// inHistograms is inOrder for a chunk of histograms.
func (db *DB) inHistograms(content []byte, kind uint8, t int64, _ float64, to int64) (found, int64, int64, error) {
	c, err := chunkenc.FromData(chunkenc.Encoding(kind), content)
	if err != nil {
		return absent, 0, 0, err
	}
	from := int64(math.MinInt64)
	it := c.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		switch at := it.AtT(); {
		case at == t:
			return other, 0, 0, nil
		case at < t:
			from = at
		default:
			return absent, from, at, nil
		}
	}
	return absent, from, to, it.Err()
}

// sealLateHistograms makes records of the late histograms of a lane.
func (db *DB) sealLateHistograms(l *lane) error {
	if len(l.hist) == 0 {
		return nil
	}
	err := packHistograms(l.hist, func(o *openHistograms) (err error) {
		l.chain, err = db.chunks.add(true, l.chain, o.first, o.last, uint8(o.chunk.Encoding()), o.chunk.Bytes())
		return err
	}, func(err error) {
		db.m.invalid.Inc()
		db.log.Debug("histogram left out", "err", err)
	})
	clear(l.hist)
	l.hist = l.hist[:0]
	return err
}

// zeroOf is the histogram from which this one began: with nothing in it, and what else makes it fit the same chunk.
func zeroOf(h *histogram.Histogram, fh *histogram.FloatHistogram) (*histogram.Histogram, *histogram.FloatHistogram) {
	if fh != nil {
		return nil, &histogram.FloatHistogram{CounterResetHint: histogram.CounterReset, Schema: fh.Schema, ZeroThreshold: fh.ZeroThreshold, CustomValues: fh.CustomValues}
	}
	return &histogram.Histogram{CounterResetHint: histogram.CounterReset, Schema: h.Schema, ZeroThreshold: h.ZeroThreshold, CustomValues: h.CustomValues}, nil
}

// floatHistogram is whichever there is, in float counts.
func floatHistogram(h *histogram.Histogram, fh *histogram.FloatHistogram) *histogram.FloatHistogram {
	if fh != nil {
		return fh.Copy()
	}
	return h.ToFloat(nil)
}

// histogramsOf is the histogram as the library has it: of whole counts or of float counts.
func histogramsOf(s *codec.Histogram) (*histogram.Histogram, *histogram.FloatHistogram) {
	hint := histogram.CounterResetHint(s.Hint)
	if s.Float {
		return nil, &histogram.FloatHistogram{
			CounterResetHint: hint, Schema: s.Schema, ZeroThreshold: s.ZeroThreshold, ZeroCount: s.FloatZeroCount, Count: s.FloatCount, Sum: s.Sum,
			PositiveSpans: spansOf(s.PositiveSpans), NegativeSpans: spansOf(s.NegativeSpans),
			PositiveBuckets: slices.Clone(s.PositiveCounts), NegativeBuckets: slices.Clone(s.NegativeCounts), CustomValues: slices.Clone(s.CustomValues),
		}
	}
	return &histogram.Histogram{
		CounterResetHint: hint, Schema: s.Schema, ZeroThreshold: s.ZeroThreshold, ZeroCount: s.ZeroCount, Count: s.Count, Sum: s.Sum,
		PositiveSpans: spansOf(s.PositiveSpans), NegativeSpans: spansOf(s.NegativeSpans),
		PositiveBuckets: slices.Clone(s.PositiveDeltas), NegativeBuckets: slices.Clone(s.NegativeDeltas), CustomValues: slices.Clone(s.CustomValues),
	}, nil
}

func spansOf(in []codec.Span) []histogram.Span {
	out := make([]histogram.Span, len(in))
	for i, s := range in {
		out[i] = histogram.Span{Offset: s.Offset, Length: s.Length}
	}
	return out
}

// appendExemplars adds the exemplars of series that are there. Of one series they come in order of time; one that is older than what
// the series has is left out, as the library keeps them in a ring.
func (db *DB) appendExemplars(batch *codec.SeriesBatch) {
	bySeries := slices.Clone(batch.Complex.Exemplars)
	slices.SortStableFunc(bySeries, func(a, b codec.Exemplar) int { return cmp.Or(cmp.Compare(a.Series, b.Series), cmp.Compare(a.At, b.At)) })
	for _, e := range bySeries {
		x := exemplar.Exemplar{Value: e.Value, Ts: int64(e.At), HasTs: true}
		if e.At == 0 {
			x.Ts, x.HasTs = db.timeOf(batch, e.Series), false
		}
		b := labels.NewScratchBuilder(len(e.Labels))
		for _, l := range e.Labels {
			b.Add(l.Name, l.Value)
		}
		x.Labels = b.Labels()
		ls, ok := db.exemplarLabels(batch, int(e.Series))
		if !ok {
			continue
		}
		if err := db.exemplars.AddExemplar(ls, x); err != nil {
			db.m.exemplarsLeftOut.Inc()
		}
	}
}

// exemplarLabels are the labels of a series of the batch with the project before them.
func (db *DB) exemplarLabels(batch *codec.SeriesBatch, i int) (labels.Labels, bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	_, s, ok := db.series(batch, i)
	if !ok {
		return labels.EmptyLabels(), false
	}
	b := labels.NewScratchBuilder(int(s.pairs) + 1)
	b.Add(ProjectLabel, batch.Project)
	for _, l := range db.labelsOf(nil, s) {
		b.Add(l.Name, l.Value)
	}
	return b.Labels(), true
}

// timeOf is the time of the last sample of Series[i] in the batch, or now.
func (db *DB) timeOf(batch *codec.SeriesBatch, i int32) int64 {
	if from, to := batch.Span(int(i)); to > from {
		return int64(batch.At[to-1])
	}
	for _, h := range slices.Backward(batch.Complex.Histograms) {
		if h.Series == i {
			return int64(h.At)
		}
	}
	return db.now().UnixMilli()
}
