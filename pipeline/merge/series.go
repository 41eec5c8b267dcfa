package merge

import (
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/head"
	"kemi/pipeline/settled"
)

// series is a settled series as PromQL reads it. It is valid until its querier is closed; what it holds is read when it is iterated.
type series struct {
	q       *querier
	r       kemi.Range
	settled batch.Series
	labels  labels.Labels
}

func (s *series) Labels() labels.Labels { return s.labels }

// Iterator reads all of the series in the range, and iterates over it.
func (s *series) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	c, ok := it.(*head.Iterator)
	if !ok {
		c = new(head.Iterator)
	}
	c.Reset()
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	its, err := s.read(c)
	if err != nil {
		c.Reset()
		c.Failed = err
		return c
	}
	if len(its) == 0 {
		return c
	}
	return storage.ChainSampleIteratorFromIterators(nil, append(its, c))
}

// read fills the columns; histograms, which may overlap, are iterators of their own.
func (s *series) read(c *head.Iterator) (its []chunkenc.Iterator, err error) {
	rd := s.q.reader
	if rd == nil {
		return nil, errClosed
	}
	cols := settled.Columns{At: c.Times, Values: c.Values}
	err = rd.Read(&s.settled, s.r, &cols)
	c.Times, c.Values = cols.At, cols.Values
	if err != nil {
		return nil, err
	}
	hs, err := rd.Histograms(&s.settled, s.r)
	if err != nil {
		return nil, err
	}
	for _, h := range hs {
		chunk, err := chunkenc.FromData(chunkenc.Encoding(h.Encoding), h.Chunk)
		if err != nil {
			return nil, err
		}
		its = append(its, &trimmed[int64]{Iterator: chunk.Iterator(nil), r: s.r, drops: h.Drops})
	}
	return its, nil
}

// trimmed is an iterator without what lies out of a range or in one of the drops. T is int64: the type parameter is there because vet takes a method
// Seek(int64) for a malformed io.Seeker.
type trimmed[T ~int64] struct {
	chunkenc.Iterator
	r     kemi.Range
	drops []kemi.Range // ascending, not overlapping
}

func (t *trimmed[T]) Next() chunkenc.ValueType { return t.next(t.Iterator.Next()) }

func (t *trimmed[T]) Seek(at T) chunkenc.ValueType { return t.next(t.Iterator.Seek(int64(at))) }

func (t *trimmed[T]) next(k chunkenc.ValueType) chunkenc.ValueType {
	for ; k != chunkenc.ValNone; k = t.Iterator.Next() {
		at := kemi.Millis(t.AtT())
		if at >= t.r.To {
			return chunkenc.ValNone
		}
		for len(t.drops) > 0 && t.drops[0].To <= at {
			t.drops = t.drops[1:]
		}
		if at >= t.r.From && (len(t.drops) == 0 || at < t.drops[0].From) {
			return k
		}
	}
	return chunkenc.ValNone
}
