package head

import (
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

// Iterator goes over the samples of one series as PromQL wants them: plain ones from columns, and native histograms from stretches between them. It is
// filled with what it is to go over after Reset.
type Iterator = iterator[int64]

// Stretch is native histograms as the library packs them.
type Stretch struct {
	To       kemi.Millis // the last one
	Encoding chunkenc.Encoding
	Chunk    []byte
	Shown    kemi.Range   // what is out of it is passed over
	Drops    []kemi.Range // so is what lies in one of these; they ascend
}

// iterator is Iterator. T is int64: the type parameter is there because vet takes a method Seek(int64) for a malformed io.Seeker.
type iterator[T ~int64] struct {
	Times     []kemi.Millis // ascending
	Values    []float64
	Stretches []Stretch // ascending, not overlapping
	Failed    error     // why there are no more

	i int // the plain sample that is next, or at which it is; -1 before the first

	// With stretches.
	k       int                // the one that is read
	open    chunkenc.Iterator  // of it, or nil
	spare   chunkenc.Iterator  // to be used again
	kind    chunkenc.ValueType // of the histogram that is next, or at which it is; none if there are no more
	time    int64              // its
	current chunkenc.ValueType // at what it is
}

// Reset empties it. The memory of the columns is used again.
func (it *iterator[T]) Reset() {
	it.Times, it.Values, it.Failed = it.Times[:0], it.Values[:0], nil
	clear(it.Stretches)
	it.Stretches = it.Stretches[:0]
	it.Rewind()
}

// Rewind goes back before the first sample.
func (it *iterator[T]) Rewind() {
	if it.open != nil {
		it.spare = it.open
	}
	it.i, it.k, it.open = -1, 0, nil
	it.kind, it.current = chunkenc.ValNone, chunkenc.ValNone
}

func (it *iterator[T]) Next() chunkenc.ValueType {
	if len(it.Stretches) == 0 {
		if it.i++; it.i >= len(it.Times) {
			return chunkenc.ValNone
		}
		return chunkenc.ValFloat
	}
	switch {
	case it.i < 0:
		it.i = 0
		it.histogram(math.MinInt64)
	case it.current == chunkenc.ValFloat:
		it.i++
	case it.current != chunkenc.ValNone:
		it.histogram(math.MinInt64)
	}
	return it.choose()
}

// Seek goes to the first sample at t or after, never back.
func (it *iterator[T]) Seek(t T) chunkenc.ValueType {
	if len(it.Stretches) == 0 {
		if it.i = it.after(kemi.Millis(t)); it.i >= len(it.Times) {
			return chunkenc.ValNone
		}
		return chunkenc.ValFloat
	}
	begin := it.i < 0
	if !begin && (it.current == chunkenc.ValNone || it.AtT() >= int64(t)) {
		return it.current
	}
	it.i = it.after(kemi.Millis(t))
	if begin || it.kind != chunkenc.ValNone && it.time < int64(t) {
		it.histogram(int64(t))
	}
	return it.choose()
}

// after is the first plain sample from it.i on that is not before t.
func (it *iterator[T]) after(t kemi.Millis) int {
	i, n := max(it.i, 0), len(it.Times)
	if i >= n || it.Times[i] >= t {
		return i
	}
	// Near by first: the engine seeks from step to step.
	step := 1
	for i+step < n && it.Times[i+step] < t {
		i += step
		step *= 2
	}
	i++
	k, _ := slices.BinarySearch(it.Times[i:min(i+step, n)], t)
	return i + k
}

// choose makes the sooner of what is next what it is at. At one time there is one sample: a plain one stands before a histogram.
func (it *iterator[T]) choose() chunkenc.ValueType {
	plain := it.i < len(it.Times)
	if plain && it.kind != chunkenc.ValNone && it.time == int64(it.Times[it.i]) {
		it.histogram(math.MinInt64)
	}
	switch {
	case it.Failed != nil:
		it.current = chunkenc.ValNone
	case plain && (it.kind == chunkenc.ValNone || int64(it.Times[it.i]) < it.time):
		it.current = chunkenc.ValFloat
	default:
		it.current = it.kind
	}
	return it.current
}

// histogram goes to the next histogram that is shown and not before t.
func (it *iterator[T]) histogram(t int64) {
	it.kind = chunkenc.ValNone
	for ; it.k < len(it.Stretches); it.k++ {
		s := &it.Stretches[it.k]
		if int64(s.To) < t || s.To < s.Shown.From {
			it.done()
			continue
		}
		if it.open == nil {
			c, err := chunkenc.FromData(s.Encoding, s.Chunk)
			if err != nil {
				it.Failed = err
				return
			}
			it.open = c.Iterator(it.spare)
			it.spare = nil
		}
		for kind := it.open.Next(); kind != chunkenc.ValNone; kind = it.open.Next() {
			at := it.open.AtT()
			if at >= int64(s.Shown.To) {
				break
			}
			if at >= t && s.shows(kemi.Millis(at)) {
				it.kind, it.time = kind, at
				return
			}
		}
		if err := it.open.Err(); err != nil {
			it.Failed = err
			return
		}
		it.done()
	}
}

// done leaves a stretch.
func (it *iterator[T]) done() {
	if it.open != nil {
		it.spare, it.open = it.open, nil
	}
}

// shows tells whether a histogram at t, which is before the end of what is shown, is to be seen.
func (s *Stretch) shows(t kemi.Millis) bool {
	if t < s.Shown.From {
		return false
	}
	for _, d := range s.Drops {
		if t < d.To {
			return t < d.From
		}
	}
	return true
}

func (it *iterator[T]) At() (int64, float64) { return int64(it.Times[it.i]), it.Values[it.i] }

func (it *iterator[T]) AtT() int64 {
	if it.current == chunkenc.ValNone || it.current == chunkenc.ValFloat { // none: without stretches it is not said
		return int64(it.Times[it.i])
	}
	return it.time
}

func (it *iterator[T]) AtST() int64 { return 0 }

func (it *iterator[T]) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	return it.open.AtHistogram(h)
}

func (it *iterator[T]) AtFloatHistogram(h *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return it.open.AtFloatHistogram(h)
}

func (it *iterator[T]) Err() error { return it.Failed }
