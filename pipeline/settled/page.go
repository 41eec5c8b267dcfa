package settled

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"

	"kemi"
)

// A page is chunks of one stream, of one series after another:
//
//	 0  uint32  CRC-32C of all that follows
//	 4  uint32  bytes of the page
//	 8  uint32  stream
//	12  uint16  chunks
//	14  uint16  packed by zstd: bit 0 heads, bit 1 high, bit 2 low; bit 3: segments
//	16  uint32 × 3  bytes of heads, high, low when unpacked
//	28  uint32 × 2  bytes of heads, high in the page; low has the rest
//	36  heads, high, low; or see segments.go
const pageHeader = 36

// maxPageBytes is more than any page has: a chunk of histograms may be large, but nothing else is.
const maxPageBytes = 1 << 26

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The streams. Those of rollups follow: streamRollups + level·rollupColumns + column.
const (
	streamValues = iota
	streamTimes
	streamHistograms
	streamRollups
)

// pageEntry is a page in a stream's directory.
type pageEntry struct {
	first    uint32 // chunks of the stream before it
	bytes    uint32
	offset   int64
	from, to int64 // of its chunks; both are in it
}

const pageEntryBytes = 32

func (p pageEntry) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, p.first)
	b = binary.LittleEndian.AppendUint32(b, p.bytes)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.from))
	return binary.LittleEndian.AppendUint64(b, uint64(p.to))
}

func (p *pageEntry) read(b []byte) {
	_ = b[pageEntryBytes-1]
	p.first, p.bytes = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	p.offset = int64(binary.LittleEndian.Uint64(b[8:]))
	p.from, p.to = int64(binary.LittleEndian.Uint64(b[16:])), int64(binary.LittleEndian.Uint64(b[24:]))
}

// openPage gathers chunks of one stream until it is written.
type openPage struct {
	streams
	stream   uint32
	samples  int
	chunks   uint32
	from, to int64
	// what the heads of the next chunk are relative to
	lastFirst int64
	lastTimes uint32

	segments  []segment // of the page
	segmenter segmenter
	pages     []pageEntry
	written   uint32 // chunks in pages
	bytes     int64
}

func (p *openPage) reset() {
	p.heads, p.high, p.low, p.segments = p.heads[:0], p.high[:0], p.low[:0], p.segments[:0]
	p.samples, p.chunks, p.from, p.to, p.lastFirst, p.lastTimes = 0, 0, math.MaxInt64, math.MinInt64, 0, 0
}

func (p *openPage) count(from, to int64, samples int) {
	p.from, p.to = min(p.from, from), max(p.to, to)
	p.chunks++
	p.samples += samples
	last := segment{}
	if n := len(p.segments); n > 0 {
		last = p.segments[n-1]
		if before := n - 2; before < 0 && last.high < segmentBytes || before >= 0 && last.high-p.segments[before].high < segmentBytes {
			p.segments = p.segments[:n-1] // it has room
		}
	}
	p.segments = append(p.segments, segment{chunks: int(p.chunks), high: len(p.high), low: len(p.low)})
}

// packs returns one encoder for one writer. Pages are small: the window need not be larger.
func newZstd(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(1<<20), zstd.WithAllLitEntropyCompression(true))
}

var unzstd = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPageBytes), zstd.IgnoreChecksum(true))
})

// appendPage packs the page.
func (p *openPage) appendPage(buf []byte, z *zstd.Encoder) []byte {
	at := len(buf)
	buf = grow(buf, pageHeader)
	var packed uint16
	section := func(i int, raw []byte) int {
		start := len(buf)
		if len(raw) >= 16 {
			if buf = z.EncodeAll(raw, buf); len(buf)-start < len(raw)-len(raw)/64 {
				packed |= 1 << i
				return len(buf) - start
			}
		}
		buf = append(buf[:start], raw...)
		return len(raw)
	}
	heads := section(0, p.heads)
	front := len(buf)
	high := section(1, p.high)
	section(2, p.low)
	if s := &p.segmenter; p.stream != streamHistograms && s.pack(p.high, p.low, p.segments) {
		if n := len(buf) - front; len(s.front)+len(s.body) < n+high/50 { // which is worth that it is read in parts
			packed = packed&1 | packedSegments
			high = len(s.front)
			buf = append(append(buf[:front], s.front...), s.body...)
			front += high
		}
	}
	if packed&packedSegments == 0 {
		front = len(buf)
	}
	h := buf[at:]
	le := binary.LittleEndian
	le.PutUint32(h[4:], uint32(len(h)))
	le.PutUint32(h[8:], p.stream)
	le.PutUint16(h[12:], uint16(p.chunks))
	le.PutUint16(h[14:], packed)
	le.PutUint32(h[16:], uint32(len(p.heads)))
	le.PutUint32(h[20:], uint32(len(p.high)))
	le.PutUint32(h[24:], uint32(len(p.low)))
	le.PutUint32(h[28:], uint32(heads))
	le.PutUint32(h[32:], uint32(high))
	le.PutUint32(h, crc32.Checksum(h[4:front-at], castagnoli))
	return buf
}

// page is a page that was read, unpacked.
type page struct {
	entry            pageEntry
	number           int
	file             string
	heads, high, low []byte
	chunks           int
	packed           []byte // as in the file
	have             int    // bytes of it that were read, from the beginning
	headRoom         []byte // what unpacked heads lie in
	room             []byte // what other unpacked sections lie in

	source   io.ReaderAt
	segments []segment // nil: it has none
	front    int       // bytes before them
	bounded  int       // of which it is known where they end
	recent   int       // the one that was needed last
	adopted  bool      // what comes before them is a front's
	huffman  *huff0.Scratch
	decoder  *huff0.Decoder
}

func (p *page) corrupt(format string, args ...any) error {
	return &CorruptError{File: p.file, Offset: p.entry.offset, Reason: fmt.Sprintf(format, args...)}
}

// load reads and unpacks a page of the stream; segments when they are needed.
func (p *page) load(f io.ReaderAt, file string, stream uint32, e pageEntry) error {
	p.entry, p.file, p.source, p.number, p.have, p.adopted = e, file, f, -1, 0, false
	if e.bytes < pageHeader || e.bytes > maxPageBytes {
		return p.corrupt("page of %d bytes", e.bytes)
	}
	p.packed = grow(p.packed[:0], int(e.bytes)+lowPadding)[:e.bytes]
	segmented, err := p.readFront(f)
	if err != nil {
		return err
	}
	checked := p.packed[4:]
	if segmented {
		checked = p.packed[4:p.front]
	}
	if want, got := binary.LittleEndian.Uint32(p.packed), crc32.Checksum(checked, castagnoli); want != got {
		return p.corrupt("checksum is %08x, should be %08x", got, want)
	}
	if got := binary.LittleEndian.Uint32(p.packed[8:]); got != stream {
		return p.corrupt("page of stream %d, should be of %d", got, stream)
	}
	return p.unpack()
}

// readAt reads a part of the page.
func (p *page) readAt(f io.ReaderAt, b []byte, at int) error {
	if _, err := f.ReadAt(b, p.entry.offset+int64(at)); err != nil {
		if err == io.EOF {
			return p.corrupt("the file ends before the page does")
		}
		return fmt.Errorf("read page of %s at %d: %w", p.file, p.entry.offset, err)
	}
	return nil
}

// unpack checks and unpacks what the checksum has passed.
func (p *page) unpack() error {
	b, le := p.packed, binary.LittleEndian
	if n := le.Uint32(b[4:]); int(n) != len(b) {
		return p.corrupt("page says it has %d bytes and has %d", n, len(b))
	}
	p.chunks = int(le.Uint16(b[12:]))
	packed := le.Uint16(b[14:])
	var raw, in [3]int
	total := 0
	for i := range raw {
		raw[i] = int(le.Uint32(b[16+4*i:]))
		total += raw[i]
	}
	in[0], in[1] = int(le.Uint32(b[28:])), int(le.Uint32(b[32:]))
	p.segments, p.bounded, p.recent = p.segments[:0], 0, -1
	in[2] = len(b) - pageHeader - in[0] - in[1]
	if in[2] < 0 || total > maxPageBytes {
		return p.corrupt("sections are longer than the page")
	}
	b = b[pageHeader:]
	heads, err := p.section(0, b[:in[0]], p.headRoom[:0], packed, raw[0])
	if err != nil {
		return err
	}
	p.heads, p.headRoom = heads, heads
	b = b[in[0]:]
	p.makeRoom(raw[1], raw[2])
	if packed&packedSegments != 0 {
		p.front = pageHeader + in[0] + in[1]
		return p.unpackDirectory(b[:in[1]])
	}
	p.segments = nil
	if p.high, err = p.section(1, b[:in[1]], p.high[:0], packed, raw[1]); err != nil {
		return err
	}
	if b = b[in[1]:]; packed&(1<<2) == 0 && len(b) == raw[2] {
		p.low = b // it is the last of the page, and there is room after it for what a load may touch
		return nil
	}
	p.low, err = p.section(2, b, p.low[:0], packed, raw[2])
	return err
}

// makeRoom has high and low lie in the page's memory.
func (p *page) makeRoom(high, low int) {
	p.room = grow(p.room[:0], high+low+2*lowPadding)
	p.high = p.room[: high : high+lowPadding]
	p.low = p.room[high+lowPadding:][: low : low+lowPadding]
}

// section unpacks a section into the room of out.
func (p *page) section(i int, src, out []byte, packed uint16, raw int) ([]byte, error) {
	if packed&(1<<i) == 0 {
		if len(src) != raw {
			return nil, p.corrupt("section %d: %d bytes, should be %d", i, len(src), raw)
		}
		return append(out, src...), nil
	}
	z, err := unzstd()
	if err != nil {
		return nil, err
	}
	if out, err = z.DecodeAll(src, out); err != nil || len(out) != raw {
		return nil, p.corrupt("section %d: %d bytes when unpacked, should be %d (%v)", i, len(out), raw, err)
	}
	return slices.Grow(out, lowPadding), nil
}

// chunk is a head in a page of values or of a rollup.
type chunk struct {
	n           int
	first, last kemi.Millis
	step        int64  // if the times are regular
	times       uint32 // else the chunk of the times' stream
	shared      bool
	column      column
	high, low   int // where its parts of the streams begin
}

// readChunks parses all heads of a page of values.
func (p *page) readChunks(out []chunk) ([]chunk, error) {
	r := headReader{b: p.heads}
	var first int64
	var times uint32
	high, low := 0, 0
	out = out[:0]
	for i := range p.chunks {
		out = grow(out, 1)
		c := &out[i]
		v := r.uvarint()
		*c = chunk{n: int(v >> 1), shared: v&1 != 0, high: high, low: low}
		if v>>1 == 0 || v>>1 > maxChunkSamples {
			return out, p.corrupt("chunk %d has %d samples", i, v>>1)
		}
		first += r.varint()
		c.first = kemi.Millis(first)
		if c.shared {
			times += uint32(r.varint())
			c.times = times
			c.last = kemi.Millis(first + int64(r.uvarint()))
		} else {
			if c.n > 1 {
				c.step = int64(r.uvarint())
			}
			c.last = kemi.Millis(first + int64(c.n-1)*c.step)
		}
		c.column.read(&r, c.n)
		high += c.column.highBytes()
		low += c.column.lowBytes()
		if r.bad || high > len(p.high) || low > len(p.low) || c.column.domain == domainInteger || c.last < c.first {
			return out, p.corrupt("chunk %d: %v", i, errColumn)
		}
		p.bound(i, high, low)
	}
	return out, p.place()
}

// columnStreams are the streams of a chunk.
func (p *page) columnStreams(c *column, high, low int) ([]byte, []byte) {
	l := p.low[low:cap(p.low):cap(p.low)]
	return p.high[high : high+c.highBytes()], l
}
