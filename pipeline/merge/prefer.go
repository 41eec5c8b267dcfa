package merge

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// joined is a series of which some is settled and some is live. Of two samples for one time the settled one stays: it came first.
func joined(all ...storage.Series) storage.Series {
	var first, second storage.Series
	for _, s := range all {
		if _, ok := s.(*series); ok {
			first = s
		} else {
			second = s
		}
	}
	if first == nil || second == nil || len(all) != 2 {
		return storage.ChainedSeriesMerge(all...)
	}
	return &storage.SeriesEntry{Lset: all[0].Labels(), SampleIteratorFn: func(it chunkenc.Iterator) chunkenc.Iterator {
		p, ok := it.(*preferring[int64])
		if !ok {
			p = &preferring[int64]{}
		}
		p.its = [2]chunkenc.Iterator{first.Iterator(p.its[0]), second.Iterator(p.its[1])}
		p.at, p.begun = 0, false
		return p
	}}
}

// preferring goes over two iterators as one; what both have comes from the first. T is int64: see trimmed.
type preferring[T ~int64] struct {
	its    [2]chunkenc.Iterator
	kinds  [2]chunkenc.ValueType // at what they are
	at     int                   // which is the current one
	begun  bool
	joined bool // the sample before came from the other
}

func (p *preferring[T]) Next() chunkenc.ValueType {
	switch {
	case !p.begun:
		p.begun = true
		p.kinds = [2]chunkenc.ValueType{p.its[0].Next(), p.its[1].Next()}
	default:
		p.kinds[p.at] = p.its[p.at].Next()
	}
	return p.choose()
}

func (p *preferring[T]) Seek(t T) chunkenc.ValueType {
	if p.begun && p.kinds[p.at] != chunkenc.ValNone && p.AtT() >= int64(t) {
		return p.kinds[p.at]
	}
	for i, it := range p.its {
		if !p.begun || p.kinds[i] != chunkenc.ValNone && it.AtT() < int64(t) {
			p.kinds[i] = it.Seek(int64(t))
		}
	}
	p.begun = true
	return p.choose()
}

// choose makes that the current one which is earlier.
func (p *preferring[T]) choose() chunkenc.ValueType {
	before := p.at
	switch none := chunkenc.ValNone; {
	case p.kinds[0] == none:
		p.at = 1
	case p.kinds[1] == none:
		p.at = 0
	default:
		for p.kinds[1] != none && p.its[1].AtT() == p.its[0].AtT() {
			p.kinds[1] = p.its[1].Next()
		}
		p.at = 0
		if p.kinds[1] != none && p.its[1].AtT() < p.its[0].AtT() {
			p.at = 1
		}
	}
	p.joined = p.at != before
	return p.kinds[p.at]
}

func (p *preferring[T]) At() (int64, float64) { return p.its[p.at].At() }
func (p *preferring[T]) AtT() int64           { return p.its[p.at].AtT() }
func (p *preferring[T]) AtST() int64          { return p.its[p.at].AtST() }

// AtHistogram says of the first from another iterator that it is not known whether the counter began anew.
func (p *preferring[T]) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := p.its[p.at].AtHistogram(h)
	if p.joined && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

// AtFloatHistogram does likewise.
func (p *preferring[T]) AtFloatHistogram(h *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, h := p.its[p.at].AtFloatHistogram(h)
	if p.joined && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

func (p *preferring[T]) Err() error {
	for _, it := range p.its {
		if err := it.Err(); err != nil {
			return err
		}
	}
	return nil
}
