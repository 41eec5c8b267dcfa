package pattern

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"kemi"
)

// The data of columns lies in pages, which are packed each for itself: what is alike lies together, and a question unpacks only what it needs.
const (
	classRows    = iota // what each record has: time, template, severity
	classInts           // numbers
	classIndexes        // into dictionaries
	classStrings
	classLines // lines that are kept whole
	classHex   // digits of ids, of which only those pack that come back
	classes
)

// pageBytes is about how large a page grows, unpacked.
var pageBytes = [classes]int{64 << 10, 128 << 10, 128 << 10, 256 << 10, 256 << 10, 1 << 20}

// page is where a page lies in the block, and how large it is unpacked; equal sizes mean that it is not packed.
type page struct{ at, packed, raw uint32 }

var errDamaged = kemi.Errorf(kemi.ErrInvalid, "log block: damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errDamaged}, args...)...)
}

// notSound turns a panic of the reading of a damaged block, which a checksum has not told, into an error: reading trusts what the directory says of the sizes of
// things, as looking twice at each would cost more than all else.
func notSound(err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = damaged("%v", p)
	default:
		panic(p)
	}
}

// packers pack pages: the thorough one those in which things come back from afar, ids above all.
type packers struct{ quick, thorough *zstd.Encoder }

func newPackers() *packers {
	of := func(level zstd.EncoderLevel) *zstd.Encoder {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			panic(err) // the options are constants
		}
		return w
	}
	return &packers{of(zstd.SpeedDefault), of(zstd.SpeedBetterCompression)}
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		panic(err) // the options are constants
	}
	return r
})

// pager fills pages and appends them to the block as they are full.
type pager struct {
	out     []byte
	pages   []page
	open    [classes][]byte
	num     [classes]int // of the open page
	packers *packers
}

func (p *pager) reset(out []byte) {
	p.out, p.pages = out, p.pages[:0]
	for c := range p.open {
		p.open[c], p.num[c] = p.open[c][:0], -1
	}
}

// begin makes room for a column: the page it will lie in, and the bytes of that page so far, to which it has to be appended.
func (p *pager) begin(class int) (num int, b []byte) {
	if len(p.open[class]) >= pageBytes[class] {
		p.flush(class)
	}
	if p.num[class] < 0 {
		p.num[class] = len(p.pages)
		p.pages = append(p.pages, page{})
	}
	return p.num[class], p.open[class]
}

func (p *pager) end(class int, b []byte) { p.open[class] = b }

func (p *pager) flush(class int) {
	if p.num[class] < 0 {
		return
	}
	raw := p.open[class]
	at := len(p.out)
	enc := p.packers.quick
	if class == classHex {
		enc = p.packers.thorough
	}
	p.out = enc.EncodeAll(raw, p.out)
	if n := len(p.out) - at; n >= len(raw)-len(raw)/32 {
		p.out = append(p.out[:at], raw...)
	}
	p.pages[p.num[class]] = page{uint32(at), uint32(len(p.out) - at), uint32(len(raw))}
	p.open[class], p.num[class] = raw[:0], -1
}

// unpack appends a page of data to buf, or gives the bytes of data themselves.
func unpack(data []byte, p page, buf []byte) ([]byte, error) {
	if uint64(p.at)+uint64(p.packed) > uint64(len(data)) {
		return nil, damaged("a page ends behind the block")
	}
	b := data[p.at : p.at+p.packed]
	if p.packed == p.raw {
		return b, nil
	}
	out, err := decoder().DecodeAll(b, buf[:0])
	if err != nil {
		return nil, damaged("a page cannot be unpacked: %v", err)
	}
	if len(out) != int(p.raw) {
		return nil, damaged("a page has %d bytes and should have %d", len(out), p.raw)
	}
	return out, nil
}

// byteReader reads what the directory is made of; after a mistake it gives zeros.
type byteReader struct {
	b   []byte
	bad bool
}

func (r *byteReader) uvarint() uint64 {
	n, k := binary.Uvarint(r.b)
	if k <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *byteReader) varint() int64 {
	n := r.uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

// count reads a number that is at most limit.
func (r *byteReader) count(limit int) int {
	n := r.uvarint()
	if n > uint64(limit) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *byteReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *byteReader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendVarint(b []byte, n int64) []byte {
	return binary.AppendUvarint(b, uint64(n)<<1^uint64(n>>63))
}
