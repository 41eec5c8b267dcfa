package head

import (
	"encoding/binary"
	"io"

	"github.com/klauspost/compress/s2"
)

// Checkpoints are packed piece by piece: what a write brings is whole series, pairs or lines, and a piece is some writes. So a reader unpacks one after another into
// the same memory. s2 makes a third, for as much time again as the rest takes; while many samples come, when one checkpoint follows the other, pieces are left as they are.

// pieceFrom is how much is packed together, at least.
const pieceFrom = 256 << 10

// pieces packs what is written.
type pieces struct {
	w           io.Writer
	plain       bool // pieces are left as they are
	raw, packed []byte
}

func (p *pieces) Write(b []byte) (int, error) {
	p.raw = append(p.raw, b...)
	if len(p.raw) < pieceFrom {
		return len(b), nil
	}
	return len(b), p.flush()
}

// flush ends a piece.
func (p *pieces) flush() error {
	if len(p.raw) == 0 {
		return nil
	}
	if n := 8 + s2.MaxEncodedLen(len(p.raw)); cap(p.packed) < n {
		p.packed = make([]byte, n)
	}
	b := p.packed[:8]
	if p.plain {
		b = append(b, p.raw...)
	} else {
		b = b[:8+len(s2.Encode(p.packed[8:cap(p.packed)], p.raw))]
	}
	if len(b)-8 >= len(p.raw) {
		b = append(b[:8], p.raw...)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-8))
	binary.LittleEndian.PutUint32(b[4:], uint32(len(p.raw)))
	p.raw = p.raw[:0]
	_, err := p.w.Write(b)
	return err
}

// input is read from the front. What it gives after an end is zero, and the error is kept: the sum is right, so it does not happen. What take gives is there until the
// next piece begins, which is not within a series, a pair or a line.
type input struct {
	b      []byte // what is left of the piece
	pieces []byte // that follow
	room   []byte
	err    error
}

// inputOf reads a part of a checkpoint.
func inputOf(part []byte, packed bool) *input {
	if packed {
		return &input{pieces: part}
	}
	return &input{b: part}
}

// more tells whether anything is left.
func (in *input) more() bool {
	for len(in.b) == 0 && len(in.pieces) > 0 && in.err == nil {
		in.unpack()
	}
	return len(in.b) > 0 && in.err == nil
}

func (in *input) unpack() {
	le := binary.LittleEndian
	if len(in.pieces) < 8 || uint64(le.Uint32(in.pieces)) > uint64(len(in.pieces)-8) {
		in.fail()
		return
	}
	packed, n := in.pieces[8:8+le.Uint32(in.pieces)], int(le.Uint32(in.pieces[4:]))
	if n == len(packed) { // it is not
		in.b, in.pieces = packed, in.pieces[8+n:]
		return
	}
	if size, err := s2.DecodedLen(packed); err != nil || size != n {
		in.fail()
		return
	}
	if cap(in.room) < n {
		in.room = make([]byte, n)
	}
	out, err := s2.Decode(in.room[:cap(in.room)], packed)
	if err != nil {
		in.fail()
		return
	}
	in.b, in.pieces = out, in.pieces[8+len(packed):]
}

func (in *input) fail() { in.err, in.b, in.pieces = errTorn, nil, nil }

func (in *input) take(n int) []byte {
	if n > 0 && len(in.b) == 0 {
		in.more()
	}
	if n < 0 || n > len(in.b) {
		in.fail()
		return nil
	}
	b := in.b[:n:n]
	in.b = in.b[n:]
	return b
}

// Read implements io.Reader.
func (in *input) Read(b []byte) (int, error) {
	if !in.more() {
		if in.err != nil {
			return 0, in.err
		}
		return 0, io.EOF
	}
	n := copy(b, in.b)
	in.b = in.b[n:]
	return n, nil
}

func (in *input) u32() uint32 {
	if b := in.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (in *input) u64() uint64 {
	if b := in.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (in *input) i64() int64 { return int64(in.u64()) }

func (in *input) string() string { return string(in.take(int(in.u32()))) }
