package settled

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"unsafe"

	"github.com/klauspost/compress/huff0"
)

// A page whose high bytes have no repetitions that are worth a sequence is cut into segments: whole chunks that follow one another. All have one Huffman
// table, and each can be read alone: a series of many on a page is. Instead of high and low the page has
//
//	directory  count (uvarint), then of each segment: chunks (uvarint), bytes of its high in the page (uvarint; as many as it has unpacked: they are not coded),
//	           CRC-32C of its high and low; the Huffman table
//	segments   of each, high, then low as it is
//
// and its checksum covers what comes before the segments.

const (
	packedSegments = 1 << 3  // among the flags of packed sections
	minSegmented   = 1 << 10 // high bytes; of fewer the table is a good part
	segmentBytes   = 1 << 11 // high bytes from which on a segment is full
	frontGuess     = 1 << 11 // what most pages have before their segments
)

// segment is one of a page that is open or was read.
type segment struct {
	chunks    int // up to its last, of the page
	high, low int // where what comes after it begins, unpacked
	at        int // in the page
	packed    int // bytes of high in the page
	sum       uint32
	there     bool // unpacked
}

// segmenter writes segments; it keeps its scratch.
type segmenter struct {
	huffman huff0.Scratch
	front   []byte
	body    []byte
}

// pack makes the directory and the segments. It returns false if high is not fit for that.
func (s *segmenter) pack(high, low []byte, segments []segment) bool {
	if len(high) < minSegmented || len(segments) == 0 {
		return false
	}
	var counts [256]uint32
	for _, c := range high {
		counts[c]++
	}
	if slices.Max(counts[:]) == uint32(len(high)) || s.huffman.BuildCTable(&counts) != nil {
		return false
	}
	s.front, s.body = binary.AppendUvarint(s.front[:0], uint64(len(segments))), s.body[:0]
	s.huffman.Reuse = huff0.ReusePolicyMust
	fromHigh, fromLow, chunks := 0, 0, 0
	for _, g := range segments {
		raw, at := high[fromHigh:g.high], len(s.body)
		s.huffman.Out = s.huffman.Out[:0]
		if coded, _, err := huff0.Compress4X(raw, &s.huffman); err == nil && len(coded) < len(raw) {
			s.body = append(s.body, coded...)
		} else {
			s.body = append(s.body, raw...)
		}
		s.front = binary.AppendUvarint(s.front, uint64(g.chunks-chunks))
		s.front = binary.AppendUvarint(s.front, uint64(len(s.body)-at))
		s.body = append(s.body, low[fromLow:g.low]...)
		s.front = binary.LittleEndian.AppendUint32(s.front, crc32.Checksum(s.body[at:], castagnoli))
		fromHigh, fromLow, chunks = g.high, g.low, g.chunks
	}
	var err error
	s.front, err = s.huffman.AppendTable(s.front)
	return err == nil
}

// readFront reads what a page has before its segments. It returns false, with all of the page read, if there are none.
func (p *page) readFront(f io.ReaderAt) (bool, error) {
	n := min(int(p.entry.bytes), frontGuess)
	if err := p.readTo(f, n); err != nil {
		return false, err
	}
	le := binary.LittleEndian
	if le.Uint16(p.packed[14:])&packedSegments == 0 {
		return false, p.readTo(f, int(p.entry.bytes))
	}
	front := pageHeader + int(le.Uint32(p.packed[28:])) + int(le.Uint32(p.packed[32:]))
	if front > int(p.entry.bytes) {
		return false, p.corrupt("its directory ends after it")
	}
	p.front = front
	return true, p.readTo(f, front)
}

// readTo makes sure that the first n bytes of the page are there.
func (p *page) readTo(f io.ReaderAt, n int) error {
	if n <= p.have {
		return nil
	}
	if err := p.readAt(f, p.packed[p.have:n], p.have); err != nil {
		return err
	}
	p.have = n
	return nil
}

// unpackDirectory takes the directory. Where segments lie says readChunks, which knows what their chunks have.
func (p *page) unpackDirectory(b []byte) (err error) {
	r := headReader{b: b}
	count := r.uvarint()
	if count == 0 || count > uint64(p.chunks) {
		return p.corrupt("%d segments of %d chunks", count, p.chunks)
	}
	chunks := 0
	for range count {
		n, packed := r.uvarint(), r.uvarint()
		sum := r.skip(4)
		if r.bad || n == 0 || n > uint64(p.chunks-chunks) || packed > maxPageBytes {
			return p.corrupt("%v", errDirectory)
		}
		chunks += int(n)
		p.segments = append(p.segments, segment{chunks: chunks, packed: int(packed), sum: binary.LittleEndian.Uint32(sum)})
	}
	if chunks != p.chunks {
		return p.corrupt("%v", errDirectory)
	}
	var rest []byte
	if p.huffman, rest, err = huff0.ReadTable(r.b, p.huffman); err != nil || len(rest) > 0 {
		return p.corrupt("Huffman table: %d bytes too many (%v)", len(rest), err)
	}
	p.decoder = p.huffman.Decoder()
	return nil
}

var errDirectory = errors.New("the directory of segments is not well formed")

// bound says where the streams end after chunk i.
func (p *page) bound(i, high, low int) {
	if p.bounded < len(p.segments) && p.segments[p.bounded].chunks == i+1 {
		g := &p.segments[p.bounded]
		g.high, g.low = high, low
		p.bounded++
	}
}

// place says where the segments lie.
func (p *page) place() error {
	at, high, low := p.front, 0, 0
	for i := range p.segments {
		g := &p.segments[i]
		g.at = at
		at += g.packed + g.low - low
		if g.packed > g.high-high {
			return p.corrupt("segment %d has %d bytes, and %d unpacked", i, g.packed, g.high-high)
		}
		high, low = g.high, g.low
	}
	if p.segments != nil && (at != int(p.entry.bytes) || high != len(p.high) || low != len(p.low)) {
		return p.corrupt("%v", errDirectory)
	}
	return nil
}

// need makes sure that the high and low bytes of a chunk are there.
func (p *page) need(chunk int) error {
	if p.segments == nil {
		return nil
	}
	i := max(p.recent, 0)
	if i < len(p.segments) && p.segments[i].chunks <= chunk && p.segments[i].there {
		i++ // most often it is the next one
	}
	if i >= len(p.segments) || p.segments[i].chunks <= chunk || i > 0 && p.segments[i-1].chunks > chunk {
		i, _ = slices.BinarySearchFunc(p.segments, chunk+1, func(g segment, n int) int { return g.chunks - n })
	}
	g := &p.segments[i]
	follows := p.recent >= 0 && i == p.recent+1
	p.recent = i
	if g.there {
		return nil
	}
	high, low := 0, 0
	if i > 0 {
		high, low = p.segments[i-1].high, p.segments[i-1].low
	}
	end := g.at + g.packed + g.low - low
	switch {
	case end <= p.have:
	case follows && g.at == p.have: // it is read on: all of it at once
		if err := p.readTo(p.source, int(p.entry.bytes)); err != nil {
			return err
		}
	default:
		if err := p.readAt(p.source, p.packed[g.at:end], g.at); err != nil {
			return err
		}
		if g.at <= p.have {
			p.have = end
		}
	}
	b := p.packed[g.at:end]
	if got := crc32.Checksum(b, castagnoli); got != g.sum {
		return p.corrupt("checksum of segment %d is %08x, should be %08x", i, got, g.sum)
	}
	dst, n := p.high[high:g.high:g.high], g.high-high
	if g.packed == n {
		copy(dst, b)
	} else if out, err := p.decoder.Decompress4X(dst, b[:g.packed]); err != nil || len(out) != n {
		return p.corrupt("segment %d: %d bytes when unpacked, should be %d (%v)", i, len(out), n, err)
	}
	copy(p.low[low:g.low], b[g.packed:])
	g.there = true
	return nil
}

// front is what a page has before its segments, decoded. It does not change any more: cursors share it.
type front struct {
	entry     pageEntry
	chunks    []chunk
	heads     []byte // what lists in the chunks point to
	segments  []segment
	size      int // before the segments
	high, low int // unpacked
	decoder   *huff0.Decoder
}

const (
	// maxFrontChunks and minFrontSegments are of pages whose front is worth its room.
	maxFrontChunks   = 256
	minFrontSegments = 4
	// tableBytes is what a Huffman table takes in memory, with what it was made with.
	tableBytes = 10 << 10
)

func (f *front) bytes() int {
	return int(unsafe.Sizeof(*f)) + int(unsafe.Sizeof(chunk{}))*cap(f.chunks) + cap(f.heads) + int(unsafe.Sizeof(segment{}))*cap(f.segments) + tableBytes
}

// keep leaves the front of the page to those who come later, if this one needed few of its segments: whoever reads all of a page reads it once.
func (s *streamReader) keep(x *index) {
	p := &s.page
	if p.number < 0 || p.adopted || s.stream == streamTimes || len(p.segments) < minFrontSegments || len(s.chunks) > maxFrontChunks {
		return
	}
	needed := 0
	for i := range p.segments {
		if p.segments[i].there {
			needed++
		}
	}
	if 2*needed > len(p.segments) {
		return
	}
	f := &front{entry: p.entry, chunks: s.chunks, heads: p.headRoom, segments: slices.Clone(p.segments), size: p.front, high: len(p.high), low: len(p.low), decoder: p.decoder}
	for i := range f.segments {
		f.segments[i].there = false
	}
	key := pageKey{x, s.stream, uint32(p.number)}
	p.number, p.heads, p.headRoom, p.huffman, p.decoder, s.chunks, s.room = -1, nil, nil, nil, nil, nil, nil
	fronts.part(key).put(key, f)
}

// adopt makes the page the one that f is the front of.
func (p *page) adopt(source io.ReaderAt, file string, f *front) {
	p.entry, p.file, p.source, p.adopted = f.entry, file, source, true
	p.packed = grow(p.packed[:0], int(f.entry.bytes)+lowPadding)[:f.entry.bytes]
	p.have, p.front, p.recent, p.decoder = f.size, f.size, -1, f.decoder
	p.segments = append(p.segments[:0], f.segments...)
	p.makeRoom(f.high, f.low)
}
