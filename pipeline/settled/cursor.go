package settled

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"kemi"
	"kemi/pipeline/store"
)

// Cursor reads series of a block. It keeps the pages that it unpacked last: read refs in ascending order. A cursor is not for
// concurrent use; several of one block may be used at once.
type Cursor struct {
	block    *Block
	series   *seriesPage // nil: none yet
	streams  []*streamReader
	times    timesReader
	at       seriesEntry // of the series that is read
	ordinals ordinals    // of the same
	pairs    []uint32    // of the labels that were asked for last
	labels   kemi.Labels // and those
	scratch  []int64
	counts   []int64
	columns  Columns
	buckets  store.Buckets
	wide     []float64
}

// streamReader has one page of a stream.
type streamReader struct {
	stream uint32
	dir    streamDir
	page   page
	chunks []chunk
	room   []chunk // where chunks are read to; others belong to a front
}

// Cursor is a new cursor, or one that was closed.
func (b *Block) Cursor() *Cursor {
	if c, _ := b.cursors.Get().(*Cursor); c != nil {
		return c
	}
	c := &Cursor{block: b, streams: make([]*streamReader, streamRollups+len(b.meta.Levels)*rollupColumns), scratch: make([]int64, defaultChunkSamples)}
	c.times.number = -1
	return c
}

// Close gives the cursor back to its block. Columns that it filled stay the caller's.
func (c *Cursor) Close() { c.block.cursors.Put(c) }

func (c *Cursor) stream(n int) *streamReader {
	if c.streams[n] == nil {
		s := &streamReader{stream: uint32(n), dir: c.block.index.streamPages(n)}
		s.page.number = -1
		c.streams[n] = s
	}
	return c.streams[n]
}

// load makes the page the current one.
func (s *streamReader) load(c *Cursor, number int) error {
	if s.page.number == number {
		return nil
	}
	key := pageKey{c.block.index, s.stream, uint32(number)}
	s.keep(c.block.index)
	if f, ok := fronts.part(key).get(key); ok {
		s.chunks = f.chunks
		s.page.adopt(c.block.data, c.block.data.Name(), f)
		s.page.number = number
		return nil
	}
	if err := s.page.load(c.block.data, c.block.data.Name(), s.stream, s.dir.page(number)); err != nil {
		s.page.number = -1
		return err
	}
	var err error
	if s.stream != streamTimes && s.stream != streamHistograms {
		if s.room, err = s.page.readChunks(s.room); err != nil {
			return err
		}
		s.chunks = s.room
	}
	s.page.number = number
	return nil
}

// find is the page of a chunk: most often the one that is loaded, or the next.
func (s *streamReader) find(chunk uint32) int {
	if n := s.page.number; n >= 0 && n < s.dir.len() && s.dir.first(n) <= chunk {
		for ; n < s.dir.len() && n < s.page.number+3; n++ {
			if n+1 == s.dir.len() || s.dir.first(n+1) > chunk {
				return n
			}
		}
	}
	return s.dir.find(chunk)
}

var errNoChunk = errors.New("the index names a chunk that is not there")

// entry is what the index says of a series, until the next one is asked for.
func (c *Cursor) entry(ref Ref) (*seriesEntry, *ordinals, error) {
	i, err := c.page(ref)
	if err != nil {
		return nil, nil, err
	}
	c.series.entry(i, &c.at, &c.ordinals)
	return &c.at, &c.ordinals, nil
}

// Labels appends the labels of a series to buf. Their strings outlive the block.
func (c *Cursor) Labels(ref Ref, buf kemi.Labels) (kemi.Labels, error) {
	ls, err := c.LabelsOf(ref)
	return append(buf, ls...), err
}

// LabelsOf are the labels of a series, valid until the labels of the next one are asked for. Their strings outlive the block.
func (c *Cursor) LabelsOf(ref Ref) (kemi.Labels, error) {
	i, err := c.page(ref)
	if err != nil {
		return nil, err
	}
	x := c.block.index
	pairs := c.series.pairsOf(i)
	for j, p := range pairs { // most labels are those of the series before
		switch {
		case j == len(c.pairs):
			c.pairs = append(c.pairs, p)
			c.labels = append(c.labels, kemi.Label{Name: x.string(x.nameOf(p)), Value: x.string(x.pair(int(p)).symbol)})
		case c.pairs[j] != p:
			c.pairs[j] = p
			if name := x.nameOf(p); c.labels[j].Name != string(x.symbol(name)) {
				c.labels[j].Name = x.string(name)
			}
			c.labels[j].Value = x.string(x.pair(int(p)).symbol)
		}
	}
	return c.labels[:len(pairs)], nil
}

// Span is the time of a series' samples, half open.
func (c *Cursor) Span(ref Ref) (kemi.Range, error) {
	i, err := c.page(ref)
	if err != nil {
		return kemi.Range{}, err
	}
	s := c.series.spanOf(i)
	return kemi.Range{From: s.from, To: s.to + 1}, nil
}

// each calls f for the chunks of a column of a series that reach into r, in order.
func (c *Cursor) each(stream int, first, count uint32, r kemi.Range, f func(s *streamReader, ch *chunk, number uint32) error) (err error) {
	if count == 0 {
		return nil
	}
	s := c.stream(stream)
	number := s.find(first)
	for chunk := first; chunk < first+count; number++ {
		if number < 0 || number >= s.dir.len() {
			return &CorruptError{File: c.block.index.file, Offset: c.block.index.offset[secStreams], Reason: errNoChunk.Error()}
		}
		e := s.dir.page(number)
		end := first + count
		if number+1 < s.dir.len() {
			end = min(end, s.dir.first(number+1))
		}
		if e.from >= int64(r.To) || e.to < int64(r.From) {
			if end <= chunk {
				return &CorruptError{File: c.block.index.file, Offset: c.block.index.offset[secPages], Reason: errNoChunk.Error()}
			}
			chunk = end
			continue
		}
		if err := s.load(c, number); err != nil {
			return err
		}
		if end <= chunk || int(end-e.first) > len(s.chunks) {
			return s.page.corrupt("%v", errNoChunk)
		}
		for ; chunk < end; chunk++ {
			ch := &s.chunks[chunk-e.first]
			if ch.first >= r.To {
				return nil
			}
			if ch.last < r.From {
				continue
			}
			from := s
			if ch.column.same {
				if from, ch, err = c.same(s, ch, chunk-first); err != nil {
					return err
				}
			} else if err := s.need(int(chunk - e.first)); err != nil {
				return err
			}
			if err := f(from, ch, chunk); err != nil {
				return err
			}
		}
	}
	return nil
}

// same is the chunk of another column of the level that has the same values: the n-th of the series there.
func (c *Cursor) same(s *streamReader, ch *chunk, n uint32) (*streamReader, *chunk, error) {
	if s.stream < streamRollups {
		return nil, nil, s.page.corrupt("a chunk of samples names a column of a rollup")
	}
	level := int(s.stream-streamRollups) / rollupColumns
	o, other, err := c.beside(s, ch, streamRollups+level*rollupColumns+int(ch.column.parameter), n+c.ordinals.of(level, int(ch.column.parameter)))
	if err == nil && other.column.same {
		err = s.page.corrupt("a chunk that is the same as chunk %d, which is the same as another", n)
	}
	return o, other, err
}

// beside is a chunk of another stream for the same times.
func (c *Cursor) beside(s *streamReader, ch *chunk, stream int, number uint32) (*streamReader, *chunk, error) {
	o := c.stream(stream)
	page := o.find(number)
	if page < 0 {
		return nil, nil, s.page.corrupt("chunk %d: %v", number, errNoChunk)
	}
	if err := o.load(c, page); err != nil {
		return nil, nil, err
	}
	i := int(number - o.dir.first(page))
	if i >= len(o.chunks) || o.chunks[i].n != ch.n || o.chunks[i].first != ch.first || o.chunks[i].last != ch.last {
		return nil, nil, s.page.corrupt("chunk %d: %v", number, errNoChunk)
	}
	return o, &o.chunks[i], o.need(i)
}

// need makes sure that what a chunk has in the streams is there.
func (s *streamReader) need(chunk int) error {
	if !s.chunks[chunk].column.packing.high {
		return nil
	}
	return s.page.need(chunk)
}

// Read appends the samples of a series that lie in r to the columns, stale markers too.
func (c *Cursor) Read(ref Ref, r kemi.Range, to *Columns) error {
	e, o, err := c.entry(ref)
	if err != nil {
		return err
	}
	if e.from >= r.To || e.to < r.From {
		return nil
	}
	return c.each(streamValues, o[0], e.chunks, r, func(s *streamReader, ch *chunk, _ uint32) error { return c.readChunk(s, ch, r, to) })
}

// readChunk appends what of a chunk lies in r. What lies outside is not decoded, as far as that can be.
func (c *Cursor) readChunk(s *streamReader, ch *chunk, r kemi.Range, to *Columns) (err error) {
	i, j := 0, ch.n
	if ch.shared {
		times, err := c.sharedTimes(ch)
		if err != nil {
			return err
		}
		if ch.first < r.From || ch.last >= r.To {
			i, _ = slices.BinarySearch(times, r.From)
			j, _ = slices.BinarySearch(times, r.To)
		}
		to.At = append(to.At, times[i:j]...)
	} else {
		if ch.step > 0 {
			i, j = ch.index(r.From), ch.index(r.To)
		} else if ch.first < r.From || ch.first >= r.To {
			return nil
		}
		to.At = ch.appendTimes(to.At, i, j)
	}
	high, low := s.page.columnStreams(&ch.column, ch.high, ch.low)
	to.Values = ch.column.floats(to.Values, i, j, c.room(ch.n), high, low)
	return nil
}

// index is the first sample of regular ones that is not before at.
func (ch *chunk) index(at kemi.Millis) int {
	if at <= ch.first {
		return 0
	}
	if at > ch.last {
		return ch.n
	}
	return int((int64(at-ch.first) + ch.step - 1) / ch.step)
}

// room is scratch for n integers.
func (c *Cursor) room(n int) []int64 {
	if n > len(c.scratch) {
		c.scratch = make([]int64, n)
	}
	return c.scratch
}

// sharedTimes are the times of a chunk, valid until those of the next.
func (c *Cursor) sharedTimes(ch *chunk) ([]kemi.Millis, error) {
	times, err := c.times.chunk(c, ch.times)
	if err == nil && (len(times) != ch.n || times[0] != ch.first || times[len(times)-1] != ch.last) {
		err = c.stream(streamTimes).page.corrupt("times %d are not those of the chunk that names them", ch.times)
	}
	return times, err
}

// appendTimes appends regular times, from the i-th to before the j-th.
func (ch *chunk) appendTimes(at []kemi.Millis, i, j int) []kemi.Millis {
	n := len(at)
	at = grow(at, j-i)
	t, step := ch.first+kemi.Millis(int64(i)*ch.step), kemi.Millis(ch.step)
	rest := at[n:]
	for k := range rest {
		rest[k] = t
		t += step
	}
	return at
}

// timesReader reads the stream of shared times. Series that were scraped together follow one another: it keeps the times that it decoded last.
type timesReader struct {
	number int // of the page that heads are of
	heads  []timesHead
	last   []kemi.Millis // empty: none
	of     uint32        // the chunk that they are
}

type timesHead struct {
	column    column
	high, low int
}

func (t *timesReader) load(c *Cursor, s *streamReader, number int) error {
	if t.number == number && s.page.number == number {
		return nil
	}
	t.number = -1
	if err := s.load(c, number); err != nil {
		return err
	}
	t.heads = t.heads[:0]
	r := headReader{b: s.page.heads}
	high, low := 0, 0
	for i := range s.page.chunks {
		n := r.uvarint()
		if n == 0 || n > maxChunkSamples {
			return s.page.corrupt("chunk %d has %d times", i, n)
		}
		h := timesHead{high: high, low: low}
		h.column.read(&r, int(n))
		high += h.column.highBytes()
		low += h.column.lowBytes()
		if r.bad || high > len(s.page.high) || low > len(s.page.low) || h.column.domain != domainInteger {
			return s.page.corrupt("chunk %d of times: %v", i, errColumn)
		}
		t.heads = append(t.heads, h)
		s.page.bound(i, high, low)
	}
	if err := s.page.place(); err != nil {
		return err
	}
	t.number = number
	return nil
}

// chunk is the times of a chunk, valid until the next.
func (t *timesReader) chunk(c *Cursor, chunk uint32) ([]kemi.Millis, error) {
	if t.of == chunk && len(t.last) > 0 {
		return t.last, nil
	}
	t.last = t.last[:0]
	s := c.stream(streamTimes)
	number := s.find(chunk)
	if number < 0 {
		return nil, &CorruptError{File: c.block.data.Name(), Reason: fmt.Sprintf("times %d: %v", chunk, errNoChunk)}
	}
	if err := t.load(c, s, number); err != nil {
		return nil, err
	}
	i := chunk - s.dir.first(number)
	if int(i) >= len(t.heads) {
		return nil, s.page.corrupt("times %d: %v", chunk, errNoChunk)
	}
	if err := s.page.need(int(i)); err != nil {
		return nil, err
	}
	h := &t.heads[i]
	high, low := s.page.columnStreams(&h.column, h.high, h.low)
	t.last, t.of = grow(t.last, h.column.n), chunk
	h.column.mantissas(unsafe.Slice((*int64)(&t.last[0]), h.column.n), high, low)
	return t.last, nil
}

// ReadHistograms appends the chunks of native histograms that reach into r, whole. Their bytes are copies.
func (c *Cursor) ReadHistograms(ref Ref, r kemi.Range, out []Histograms) ([]Histograms, error) {
	e, o, err := c.entry(ref)
	if err != nil || e.histograms == 0 {
		return out, err
	}
	s := c.stream(streamHistograms)
	number := s.find(o[1])
	for chunk := o[1]; chunk < o[1]+e.histograms; number++ {
		if number < 0 || number >= s.dir.len() {
			return out, &CorruptError{File: c.block.index.file, Offset: c.block.index.offset[secStreams], Reason: errNoChunk.Error()}
		}
		if err := s.load(c, number); err != nil {
			return out, err
		}
		first := s.dir.first(number)
		h := headReader{b: s.page.heads}
		from, at := int64(0), 0
		for i := range s.page.chunks {
			from += h.varint()
			to := from + int64(h.uvarint())
			samples, encoding, n := h.uvarint(), h.byte(), h.uvarint()
			if h.bad || n > uint64(len(s.page.high)-at) {
				return out, s.page.corrupt("chunk %d of histograms", i)
			}
			b := s.page.high[at : at+int(n)]
			at += int(n)
			if first+uint32(i) < chunk || first+uint32(i) >= o[1]+e.histograms {
				continue
			}
			chunk++
			if from < int64(r.To) && to >= int64(r.From) {
				out = append(out, Histograms{From: kemi.Millis(from), To: kemi.Millis(to), Samples: int(samples), Encoding: encoding, Chunk: slices.Clone(b)})
			}
		}
		if chunk < first+uint32(s.page.chunks) && chunk < o[1]+e.histograms || s.page.chunks == 0 {
			return out, s.page.corrupt("%v", errNoChunk)
		}
	}
	return out, nil
}
