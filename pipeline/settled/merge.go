package settled

import (
	"container/heap"
	"slices"
	"sort"

	"kemi"
)

// Source is series in ascending order of project and labels, each once. What At returns is valid until Next.
type Source interface {
	Next() bool
	At() *Series
	Err() error // why Next returned false, or nil at the end
}

// Filter says what is kept of a series: the samples within keep, but those in any of drop. A series of which nothing is left goes.
type Filter func(project string, labels kemi.Labels) (keep kemi.Range, drop []kemi.Range)

// Always is the range of all samples.
var Always = kemi.Range{From: -maxMillis, To: maxMillis + 1}

// Source is all series of the block that have samples in r, with those.
func (b *Block) Source(r kemi.Range) Source { return &blockSource{block: b, r: r} }

type blockSource struct {
	block   *Block
	r       kemi.Range
	cursor  *Cursor
	next    Ref
	series  Series
	columns Columns
	project int
	err     error
}

func (s *blockSource) Next() bool {
	if s.err != nil {
		return false
	}
	if s.cursor == nil {
		s.cursor, s.project = s.block.Cursor(), -1
	}
	x := s.block.index
	for uint32(s.next) < x.series {
		ref := s.next
		s.next++
		e, _, err := s.cursor.entry(ref)
		if err != nil {
			s.err = err
			break
		}
		if e.from >= s.r.To || e.to < s.r.From {
			continue
		}
		s.columns.Reset()
		if s.err = s.cursor.Read(ref, s.r, &s.columns); s.err != nil {
			break
		}
		if s.series.Histograms, s.err = s.cursor.ReadHistograms(ref, s.r, s.series.Histograms[:0]); s.err != nil {
			break
		}
		if len(s.series.Histograms) > 0 {
			if s.series.Histograms, s.err = cutHistograms(s.series.Histograms, s.r, nil); s.err != nil {
				break
			}
		}
		s.series.At, s.series.Values = s.columns.At, s.columns.Values
		if len(s.series.At) == 0 && len(s.series.Histograms) == 0 {
			continue
		}
		if s.series.Labels, s.err = s.cursor.Labels(ref, s.series.Labels[:0]); s.err != nil {
			break
		}
		if p := x.projectOf(ref); p != s.project {
			s.project, s.series.Project = p, x.string(x.u32(secProjects, 3*p))
		}
		return true
	}
	s.cursor.Close()
	s.cursor, s.next = nil, Ref(x.series)
	return false
}

func (s *blockSource) At() *Series { return &s.series }
func (s *blockSource) Err() error  { return s.err }

// Merge adds what the sources have to a block. See MergeIter.
func Merge(w *Writer, f Filter, sources ...Source) error {
	it := MergeIter(f, sources...)
	for it.Next() {
		if err := w.Add(it.At()); err != nil {
			return err
		}
	}
	return it.Err()
}

// MergeIter is the series of all sources, those that several have in one. Of samples of one series and time that of the earliest source in
// the list stays. It holds one series of each source at a time. A nil filter keeps all.
func MergeIter(f Filter, sources ...Source) Source {
	return &merger{filter: f, sources: sources}
}

type merger struct {
	filter  Filter
	sources []Source
	heap    sourceHeap
	started bool
	current []int // sources whose series was given out
	parts   []*Series
	out     Series
	at      []kemi.Millis
	values  []float64
	err     error
}

type sourceHeap struct {
	sources []Source
	order   []int
}

func (h *sourceHeap) Len() int      { return len(h.order) }
func (h *sourceHeap) Swap(i, j int) { h.order[i], h.order[j] = h.order[j], h.order[i] }
func (h *sourceHeap) Push(x any)    { h.order = append(h.order, x.(int)) }
func (h *sourceHeap) Pop() any {
	x := h.order[len(h.order)-1]
	h.order = h.order[:len(h.order)-1]
	return x
}

func (h *sourceHeap) Less(i, j int) bool {
	a, b := h.sources[h.order[i]].At(), h.sources[h.order[j]].At()
	if c := compare(a.Project, a.Labels, b.Project, b.Labels); c != 0 {
		return c < 0
	}
	return h.order[i] < h.order[j]
}

func (m *merger) advance(i int) {
	if m.sources[i].Next() {
		heap.Push(&m.heap, i)
	} else if err := m.sources[i].Err(); err != nil && m.err == nil {
		m.err = err
	}
}

func (m *merger) Next() bool {
	for {
		if !m.started {
			m.started = true
			m.heap.sources = m.sources
			for i := range m.sources {
				m.advance(i)
			}
		}
		for _, i := range m.current {
			m.advance(i)
		}
		m.current, m.parts = m.current[:0], m.parts[:0]
		if m.err != nil || m.heap.Len() == 0 {
			return false
		}
		for m.heap.Len() > 0 {
			i := m.heap.order[0]
			s := m.sources[i].At()
			if len(m.parts) > 0 && compare(s.Project, s.Labels, m.parts[0].Project, m.parts[0].Labels) != 0 {
				break
			}
			m.parts = append(m.parts, s)
			m.current = append(m.current, heap.Pop(&m.heap).(int))
		}
		if m.err = m.merge(); m.err != nil {
			return false
		}
		if len(m.out.At) > 0 || len(m.out.Histograms) > 0 {
			return true
		}
	}
}

func (m *merger) At() *Series { return &m.out }
func (m *merger) Err() error  { return m.err }

// merge makes one series of m.parts, which are in the order of the sources.
func (m *merger) merge() (err error) {
	first := m.parts[0]
	m.out.Project, m.out.Labels = first.Project, first.Labels
	keep, drop := Always, []kemi.Range(nil)
	if m.filter != nil {
		keep, drop = m.filter(first.Project, first.Labels)
	}
	m.at, m.values = m.at[:0], m.values[:0]
	m.out.Histograms = m.out.Histograms[:0]
	if keep.To <= keep.From {
		m.out.At, m.out.Values = nil, nil
		return nil
	}
	histograms := 0
	for _, p := range m.parts {
		if len(p.Histograms) > 0 {
			histograms++
			m.out.Histograms = append(m.out.Histograms, p.Histograms...)
		}
	}
	if histograms > 1 {
		if m.out.Histograms, err = mergeHistograms(m.out.Histograms); err != nil {
			return err
		}
	}
	if histograms > 0 && (keep != Always || len(drop) > 0) {
		if m.out.Histograms, err = cutHistograms(m.out.Histograms, keep, drop); err != nil {
			return err
		}
	}
	m.mergeSamples()
	m.out.At, m.out.Values = cutSamples(m.at, m.values, keep, drop)
	return nil
}

// mergeSamples appends the samples of all parts in order of time.
func (m *merger) mergeSamples() {
	type part struct {
		at     []kemi.Millis
		values []float64
	}
	parts := make([]part, 0, len(m.parts))
	for _, p := range m.parts {
		if len(p.At) > 0 {
			parts = append(parts, part{p.At, p.Values})
		}
	}
	for {
		// The part with the earliest sample; of several the first, and the others lose theirs.
		best := -1
		for i := range parts {
			if len(parts[i].at) > 0 && (best < 0 || parts[i].at[0] < parts[best].at[0]) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		p := &parts[best]
		now := p.at[0]
		until := kemi.Millis(maxMillis + 1) // up to where p is alone
		for i := range parts {
			q := &parts[i]
			if i == best {
				continue
			}
			if len(q.at) > 0 && q.at[0] == now {
				q.at, q.values = q.at[1:], q.values[1:]
			}
			if len(q.at) > 0 {
				until = min(until, q.at[0])
			}
		}
		n := sort.Search(len(p.at), func(i int) bool { return p.at[i] >= until })
		n = max(n, 1)
		m.at, m.values = append(m.at, p.at[:n]...), append(m.values, p.values[:n]...)
		p.at, p.values = p.at[n:], p.values[n:]
	}
}

// cutSamples keeps what the filter keeps, in place.
func cutSamples(at []kemi.Millis, values []float64, keep kemi.Range, drop []kemi.Range) ([]kemi.Millis, []float64) {
	remove := func(from, to kemi.Millis) {
		i, _ := slices.BinarySearch(at, from)
		j, _ := slices.BinarySearch(at, to)
		if i < j {
			at, values = append(at[:i], at[j:]...), append(values[:i], values[j:]...)
		}
	}
	remove(keep.To, maxMillis+1)
	remove(-maxMillis-1, keep.From)
	for _, d := range drop {
		remove(d.From, d.To)
	}
	return at, values
}
