package otlp

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
)

// errBroken says that a body is no protobuf. Nothing of it is taken then.
var errBroken = kemi.Errorf(kemi.ErrInvalid, "body: broken protobuf: not an OTLP metrics request; is the content type right?")

// field is one field of a message: v is the content of one with a length, u the value of others.
type field struct {
	number protowire.Number
	wire   protowire.Type
	v      []byte
	u      uint64
	raw    []byte // all of it, with its tag
}

// next takes the first field off b.
func next(b []byte) (f field, rest []byte, ok bool) {
	var tag uint64
	n := 1
	if len(b) > 0 && b[0] < 0x80 {
		tag = uint64(b[0])
	} else if tag, n = binary.Uvarint(b); n <= 0 {
		return f, nil, false
	}
	if tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return f, nil, false
	}
	f.number, f.wire = protowire.Number(tag>>3), protowire.Type(tag&7)
	body := b[n:]
	switch f.wire {
	case protowire.BytesType:
		var l uint64
		k := 1
		if len(body) > 0 && body[0] < 0x80 {
			l = uint64(body[0])
		} else if l, k = binary.Uvarint(body); k <= 0 {
			return f, nil, false
		}
		if l > uint64(len(body)-k) {
			return f, nil, false
		}
		f.v = body[k : k+int(l)]
		n += k + int(l)
	case protowire.VarintType:
		u, k := binary.Uvarint(body)
		if k <= 0 {
			return f, nil, false
		}
		f.u = u
		n += k
	case protowire.Fixed64Type:
		if len(body) < 8 {
			return f, nil, false
		}
		f.u = binary.LittleEndian.Uint64(body)
		n += 8
	case protowire.Fixed32Type:
		if len(body) < 4 {
			return f, nil, false
		}
		f.u = uint64(binary.LittleEndian.Uint32(body))
		n += 4
	default:
		return f, nil, false
	}
	f.raw = b[:n]
	return f, b[n:], true
}

// appendField appends a field with a length.
func appendField(dst []byte, number protowire.Number, content ...[]byte) []byte {
	n := 0
	for _, c := range content {
		n += len(c)
	}
	dst = protowire.AppendTag(dst, number, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(n))
	for _, c := range content {
		dst = append(dst, c...)
	}
	return dst
}
