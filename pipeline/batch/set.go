package batch

import (
	"container/heap"
	"fmt"

	"kemi"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
)

// Series is a series in the blocks of a View.
type Series struct {
	Project string
	Labels  kemi.Labels
	Parts   []Part // by the beginning of their blocks
}

// Clone is s on its own: Set.At is another one after the next step.
func (s *Series) Clone() *Series {
	c := new(Series)
	s.CopyTo(c)
	return c
}

// CopyTo makes to the same series, in the memory that it has.
func (s *Series) CopyTo(to *Series) {
	to.Project, to.Labels, to.Parts = s.Project, append(to.Labels[:0], s.Labels...), append(to.Parts[:0], s.Parts...)
}

// Part is a series in one block.
type Part struct {
	Block *ViewBlock
	Ref   settled.Ref
	index int // of the block in the view
}

// Set is the series that a selection gives, in the order of their labels.
type Set struct {
	heap setHeap
	at   Series
	err  error
}

// setBlock is where a Set is in one block.
type setBlock struct {
	part   Part
	refs   []settled.Ref
	labels kemi.Labels // in the cursor's memory
	cursor *settled.Cursor
}

func (b *setBlock) next() (bool, error) {
	if len(b.refs) == 0 {
		if b.cursor != nil {
			b.cursor.Close()
			b.cursor = nil
		}
		return false, nil
	}
	if b.cursor == nil {
		b.cursor = b.part.Block.block.Cursor()
	}
	b.part.Ref = b.refs[0]
	b.refs = b.refs[1:]
	var err error
	b.labels, err = b.cursor.LabelsOf(b.part.Ref)
	return true, err
}

type setHeap []*setBlock

func (h setHeap) Len() int { return len(h) }
func (h setHeap) Less(i, j int) bool {
	if c := h[i].labels.Compare(h[j].labels); c != 0 {
		return c < 0
	}
	return h[i].part.index < h[j].part.index
}
func (h setHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *setHeap) Push(x any)   { *h = append(*h, x.(*setBlock)) }
func (h *setHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// Select are the series of a project that match and may have samples in r.
func (v *View) Select(project string, sel store.Selector, r kemi.Range) (*Set, error) {
	ms, err := settled.Compile(sel) // once for all blocks
	if err != nil {
		return nil, err
	}
	s := &Set{at: Series{Project: project}}
	for i, b := range v.blocks {
		if b.From >= r.To || b.To <= r.From {
			continue
		}
		refs, err := b.block.SelectMatchers(project, ms)
		if err != nil {
			return nil, fmt.Errorf("select in settled block %s: %w", b.ID, err)
		}
		sb := &setBlock{part: Part{Block: b, index: i}, refs: refs}
		ok, err := sb.next()
		if err != nil {
			return nil, fmt.Errorf("read labels of settled block %s: %w", b.ID, err)
		}
		if ok {
			s.heap = append(s.heap, sb)
		}
	}
	heap.Init(&s.heap)
	return s, nil
}

// Next goes to the next series.
func (s *Set) Next() bool {
	if s.err != nil || len(s.heap) == 0 {
		return false
	}
	s.at.Labels = append(s.at.Labels[:0], s.heap[0].labels...)
	s.at.Parts = s.at.Parts[:0]
	for len(s.heap) > 0 && (len(s.at.Parts) == 0 || s.heap[0].labels.Compare(s.at.Labels) == 0) {
		b := s.heap[0]
		s.at.Parts = append(s.at.Parts, b.part)
		ok, err := b.next()
		if err != nil {
			s.err = fmt.Errorf("read labels of settled block %s: %w", b.part.Block.ID, err)
			return false
		}
		if ok {
			heap.Fix(&s.heap, 0)
		} else {
			heap.Pop(&s.heap)
		}
	}
	return true
}

// Len is about how many series are left.
func (s *Set) Len() (n int) {
	for _, b := range s.heap {
		n = max(n, len(b.refs)+1)
	}
	return n
}

// At is the series, valid until the next step. The strings of its labels stay.
func (s *Set) At() *Series { return &s.at }

// Err is why Next said no, or nil.
func (s *Set) Err() error { return s.err }
