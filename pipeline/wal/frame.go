package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"kemi"
	"kemi/pipeline/bus"
)

// A frame is what one Publish put into one partition: a header and the records. It is whole on disk or it is not there.
const (
	frameMagic     = 0x314d524b // "KRM1"
	frameHeaderLen = 48
	// minRecordLen is the shortest encoding of a record: length, time, key length, number of headers.
	minRecordLen = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameHeader is the fixed part of a frame. Its checksum is seeded with the salt of the segment, so that bytes which
// somebody put into a record, or which an older file left in the blocks, are never taken for a header.
type frameHeader struct {
	length  uint32 // of the records
	sum     uint32 // CRC32C of the records
	count   uint32
	first   int64       // offset of the first record
	newest  kemi.Millis // latest At of the records
	durable int64       // how many bytes of the file were durable when the frame was written; at most its own position
}

func (h frameHeader) next() int64 { return h.first + int64(h.count) }

func (h frameHeader) put(b []byte, salt uint32) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], frameMagic)
	le.PutUint32(b[4:], h.length)
	le.PutUint32(b[8:], h.sum)
	le.PutUint32(b[12:], h.count)
	le.PutUint64(b[16:], uint64(h.first))
	le.PutUint64(b[24:], uint64(h.newest))
	le.PutUint64(b[32:], uint64(h.durable))
	le.PutUint32(b[40:], 0)
	le.PutUint32(b[44:], crc32.Update(salt, castagnoli, b[:44]))
}

// parseFrameHeader reads the header at the beginning of b, which must be at least frameHeaderLen long.
func parseFrameHeader(b []byte, salt uint32) (frameHeader, bool) {
	le := binary.LittleEndian
	if le.Uint32(b) != frameMagic || le.Uint32(b[44:]) != crc32.Update(salt, castagnoli, b[:44]) {
		return frameHeader{}, false
	}
	h := frameHeader{
		length:  le.Uint32(b[4:]),
		sum:     le.Uint32(b[8:]),
		count:   le.Uint32(b[12:]),
		first:   int64(le.Uint64(b[16:])),
		newest:  kemi.Millis(le.Uint64(b[24:])),
		durable: int64(le.Uint64(b[32:])),
	}
	ok := h.count > 0 && uint64(h.count)*minRecordLen <= uint64(h.length) && h.length <= math.MaxInt32 &&
		h.first >= 0 && h.first <= math.MaxInt64-int64(h.count) && le.Uint32(b[40:]) == 0
	return h, ok
}

// recordSize is how much of MaxRecordBytes a record takes.
func recordSize(r *bus.Record) int64 {
	n := int64(len(r.Key)) + int64(len(r.Value))
	for _, h := range r.Headers {
		n += int64(len(h.Name)) + int64(len(h.Value))
	}
	return n
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// encodedLen is the length of a record without the length that stands before it.
func encodedLen(r *bus.Record, newest kemi.Millis) int {
	n := uvarintLen(zigzag(int64(newest-r.At))) + uvarintLen(uint64(len(r.Key))) + len(r.Key) + uvarintLen(uint64(len(r.Headers))) + len(r.Value)
	for _, h := range r.Headers {
		n += uvarintLen(uint64(len(h.Name))) + len(h.Name) + uvarintLen(uint64(len(h.Value))) + len(h.Value)
	}
	return n
}

func appendRecord(b []byte, r *bus.Record, newest kemi.Millis) []byte {
	b = binary.AppendUvarint(b, uint64(encodedLen(r, newest)))
	b = binary.AppendUvarint(b, zigzag(int64(newest-r.At)))
	b = binary.AppendUvarint(b, uint64(len(r.Key)))
	b = append(b, r.Key...)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		b = binary.AppendUvarint(b, uint64(len(h.Name)))
		b = append(b, h.Name...)
		b = binary.AppendUvarint(b, uint64(len(h.Value)))
		b = append(b, h.Value...)
	}
	return append(b, r.Value...)
}

var errRecord = errors.New("records do not decode although their checksum is right")

// decoder turns the records of frames into bus.Records that share the bytes they come from. Strings of headers are
// copied, because somebody who keeps the name of a project should not keep a megabyte with it; but a header that says
// what the one before it said shares its string.
type decoder struct {
	last  []bus.Header
	slab  []bus.Header
	chunk int
}

// decode appends the records of one frame to dst. keep is the first offset that is wanted.
func (d *decoder) decode(dst []bus.Record, h frameHeader, p []byte, partition int32, keep int64) ([]bus.Record, error) {
	offset, end := h.first, h.next()
	for len(p) > 0 {
		n, w := binary.Uvarint(p)
		if w <= 0 || n > uint64(len(p)-w) || n < minRecordLen-1 || offset == end {
			return dst, errRecord
		}
		body := p[w : w+int(n) : w+int(n)]
		p = p[w+int(n):]
		if offset++; offset <= keep {
			continue
		}
		dst = append(dst, bus.Record{Partition: partition, Offset: offset - 1})
		if !d.record(&dst[len(dst)-1], h.newest, body) {
			return dst, errRecord
		}
	}
	if offset != end {
		return dst, errRecord
	}
	return dst, nil
}

func (d *decoder) record(r *bus.Record, newest kemi.Millis, b []byte) bool {
	at, w := binary.Uvarint(b)
	if w <= 0 {
		return false
	}
	r.At = newest - kemi.Millis(unzigzag(at))
	b = b[w:]
	key, b, ok := cut(b)
	if !ok {
		return false
	}
	if len(key) > 0 {
		r.Key = key
	}
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w)/2 {
		return false
	}
	b = b[w:]
	if n > 0 {
		hs := d.headers(int(n))
		for i := range hs {
			var name, value []byte
			if name, b, ok = cut(b); !ok {
				return false
			}
			if value, b, ok = cut(b); !ok {
				return false
			}
			if i < len(d.last) && d.last[i].Name == string(name) {
				hs[i].Name = d.last[i].Name
			} else {
				hs[i].Name = string(name)
			}
			if i < len(d.last) && d.last[i].Value == string(value) {
				hs[i].Value = d.last[i].Value
			} else {
				hs[i].Value = string(value)
			}
		}
		d.last, r.Headers = hs, hs
	}
	r.Value = b
	return true
}

// headers is room for n headers, cut from a slab so that a thousand small records cost a few allocations.
func (d *decoder) headers(n int) []bus.Header {
	if len(d.slab) < n {
		d.slab = make([]bus.Header, max(n, d.chunk))
		d.chunk = min(max(2*d.chunk, 8), 512)
	}
	hs := d.slab[:n:n]
	d.slab = d.slab[n:]
	return hs
}

// cut splits b after the bytes whose length stands at its beginning.
func cut(b []byte) (head, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	end := w + int(n)
	return b[w:end:end], b[end:], true
}
