package codec

import (
	"encoding/binary"
	"unsafe"

	"kemi"
)

// The tags of protobuf fields that the hot paths look for: number<<3 | wire type.
const (
	pbVarint  = 0
	pbFixed64 = 1
	pbBytes   = 2
	pbFixed32 = 5
)

// varint is binary.Uvarint with a way around for one byte. n <= 0 means that b is broken.
func varint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// bytesAt is the length-prefixed field that begins at b, after its tag, and how many bytes it takes with its length.
func bytesAt(b []byte) (field []byte, n int, ok bool) {
	l, k := varint(b)
	if k <= 0 || l > uint64(len(b)-k) {
		return nil, 0, false
	}
	return b[k : k+int(l) : k+int(l)], k + int(l), true
}

// skip is how many bytes the value of a field takes that nobody knows.
func skip(wire uint64, b []byte) (n int, ok bool) {
	switch wire {
	case pbVarint:
		_, n = binary.Uvarint(b)
	case pbFixed64:
		n = 8
	case pbFixed32:
		n = 4
	case pbBytes:
		_, n, ok = bytesAt(b)
		return n, ok
	}
	return n, n > 0 && n <= len(b)
}

// fields walks the fields of a message. For those of wire type bytes v is the content, for varints and fixed ones u is the
// value. It ends early when f returns false, and returns false then and if the message is broken.
func fields(b []byte, f func(number int, wire uint64, v []byte, u uint64) bool) bool {
	for len(b) > 0 {
		tag, n := varint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return false
		}
		b = b[n:]
		var v []byte
		var u uint64
		switch wire := tag & 7; wire {
		case pbBytes:
			var ok bool
			if v, n, ok = bytesAt(b); !ok {
				return false
			}
		case pbVarint:
			if u, n = varint(b); n <= 0 {
				return false
			}
		case pbFixed64:
			if n = 8; len(b) < 8 {
				return false
			}
			u = binary.LittleEndian.Uint64(b)
		case pbFixed32:
			if n = 4; len(b) < 4 {
				return false
			}
			u = uint64(binary.LittleEndian.Uint32(b))
		default:
			return false
		}
		b = b[n:]
		if !f(int(tag>>3), tag&7, v, u) {
			return false
		}
	}
	return true
}

// text is b as a string that shares its bytes: b must not change any more.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// appendRawLabels appends the label fields of a remote-write 1.0 series.
func appendRawLabels(dst []byte, ls kemi.Labels) []byte {
	for _, l := range ls {
		dst = appendRawLabel(dst, l.Name, l.Value)
	}
	return dst
}

func appendRawLabel(dst []byte, name, value string) []byte {
	dst = append(dst, 1<<3|pbBytes)
	dst = binary.AppendUvarint(dst, uint64(2+varintLen(len(name))+len(name)+varintLen(len(value))+len(value)))
	dst = append(dst, 1<<3|pbBytes)
	dst = binary.AppendUvarint(dst, uint64(len(name)))
	dst = append(dst, name...)
	dst = append(dst, 2<<3|pbBytes)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

func varintLen(n int) int {
	l := 1
	for u := uint64(n); u >= 0x80; u >>= 7 {
		l++
	}
	return l
}

// appendLabels appends the labels of raw label fields as they stand there, sharing their bytes.
func appendLabels(ls kemi.Labels, raw []byte) (kemi.Labels, bool) {
	for len(raw) > 0 {
		name, value, n := plainLabel(raw)
		if n == 0 {
			return appendAnyLabels(ls, raw)
		}
		ls = append(ls, kemi.Label{Name: text(name), Value: text(value)})
		raw = raw[n:]
	}
	return ls, true
}

// plainLabel reads a label as every sender writes it: less than 128 bytes, its name and then its value. n is 0 if it is not like that.
func plainLabel(b []byte) (name, value []byte, n int) {
	if len(b) < 4 || b[0] != 1<<3|pbBytes || b[1] >= 0x80 || b[2] != 1<<3|pbBytes {
		return nil, nil, 0
	}
	n = 2 + int(b[1])
	if n > len(b) || n < 6 {
		return nil, nil, 0
	}
	b = b[:n]
	v := 4 + int(b[3]) // where the value's tag is; a length of two bytes points beyond the end
	if v+2 > n || b[v] != 2<<3|pbBytes || v+2+int(b[v+1]) != n {
		return nil, nil, 0
	}
	return b[4:v:v], b[v+2 : n : n], n
}

// appendAnyLabels is appendLabels of what is well-formed in any way.
func appendAnyLabels(ls kemi.Labels, raw []byte) (kemi.Labels, bool) {
	ok := fields(raw, func(number int, wire uint64, v []byte, _ uint64) bool {
		if number != 1 {
			return true
		}
		var l kemi.Label
		good := wire == pbBytes && fields(v, func(number int, wire uint64, v []byte, _ uint64) bool {
			switch {
			case number == 1 && wire == pbBytes:
				l.Name = text(v)
			case number == 2 && wire == pbBytes:
				l.Value = text(v)
			case number <= 2:
				return false
			}
			return true
		})
		ls = append(ls, l)
		return good
	})
	return ls, ok
}
