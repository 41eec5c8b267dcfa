package fluent

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"

	"kemi"
)

// The protocol is MessagePack. Here it is read without building a tree, with bounds on what is announced: a message says how large it is before it comes.

// kind is what an object is.
type kind uint8

const (
	kindNil kind = iota
	kindBool
	kindInt
	kindUint
	kindFloat
	kindText // of characters or bytes
	kindArray
	kindMap
	kindExt
	kindBad
)

// object is the head of an object: a number, or how many bytes or elements follow.
type object struct {
	kind kind
	bits uint64 // of a number
	n    int    // bytes of a text or an extension, elements of an array, pairs of a map
	ext  int8   // the type of an extension
	head int    // how many bytes the head takes
}

// read reads the head that b begins with; ok is false if it is not all there.
func read(b []byte) (o object, ok bool) {
	if len(b) == 0 {
		return o, false
	}
	c := b[0]
	o.head = 1
	switch {
	case c < 0x80:
		o.kind, o.bits = kindUint, uint64(c)
		return o, true
	case c < 0x90:
		o.kind, o.n = kindMap, int(c&0x0f)
		return o, true
	case c < 0xa0:
		o.kind, o.n = kindArray, int(c&0x0f)
		return o, true
	case c < 0xc0:
		o.kind, o.n = kindText, int(c&0x1f)
		return o, true
	case c >= 0xe0:
		o.kind, o.bits = kindInt, uint64(int64(int8(c)))
		return o, true
	case c == 0xc0:
		return o, true
	case c == 0xc1:
		o.kind = kindBad
		return o, true
	case c == 0xc2 || c == 0xc3:
		o.kind, o.bits = kindBool, uint64(c&1)
		return o, true
	}
	h := heads[c-0xc4]
	if o.kind, o.head = h.kind, 1+h.size; h.kind == kindExt {
		o.head++
	}
	if len(b) < o.head {
		return o, false
	}
	var v uint64
	for _, d := range b[1 : 1+h.size] {
		v = v<<8 | uint64(d)
	}
	switch h.kind {
	case kindExt:
		if o.n = h.fixed; h.size > 0 {
			o.n = int(v)
		}
		o.ext = int8(b[o.head-1])
	case kindInt:
		shift := 64 - 8*h.size
		o.bits = uint64(int64(v<<shift) >> shift)
	case kindFloat:
		if o.bits = v; h.size == 4 {
			o.bits = math.Float64bits(float64(math.Float32frombits(uint32(v))))
		}
	case kindUint:
		o.bits = v
	default:
		o.n = int(v)
	}
	return o, true
}

// heads are those of the bytes 0xc4 to 0xdf: how many bytes of a number follow, and how many bytes an extension of fixed size has.
var heads = [...]struct {
	kind        kind
	size, fixed int
}{
	{kindText, 1, 0}, {kindText, 2, 0}, {kindText, 4, 0}, // bin
	{kindExt, 1, 0}, {kindExt, 2, 0}, {kindExt, 4, 0},
	{kindFloat, 4, 0}, {kindFloat, 8, 0},
	{kindUint, 1, 0}, {kindUint, 2, 0}, {kindUint, 4, 0}, {kindUint, 8, 0},
	{kindInt, 1, 0}, {kindInt, 2, 0}, {kindInt, 4, 0}, {kindInt, 8, 0},
	{kindExt, 0, 1}, {kindExt, 0, 2}, {kindExt, 0, 4}, {kindExt, 0, 8}, {kindExt, 0, 16},
	{kindText, 1, 0}, {kindText, 2, 0}, {kindText, 4, 0}, // str
	{kindArray, 2, 0}, {kindArray, 4, 0}, {kindMap, 2, 0}, {kindMap, 4, 0},
}

// extent finds out how long an object is, as its bytes come.
type extent struct{ at, left int }

func newExtent() extent { return extent{left: 1} }

// look goes on with b, which begins with the object. It tells whether all of it is there, and then at is its length. most is how long it may be.
func (e *extent) look(b []byte, most int) (whole bool, err error) {
	for e.left > 0 {
		if e.at > len(b) {
			break
		}
		o, ok := read(b[e.at:])
		if !ok {
			break
		}
		if o.kind == kindBad {
			return false, kemi.Errorf(kemi.ErrInvalid, "byte %d of a message: 0xc1 is not of MessagePack", e.at)
		}
		e.at += o.head
		e.left--
		switch o.kind {
		case kindText, kindExt:
			e.at += o.n
		case kindArray:
			e.left += o.n
		case kindMap:
			e.left += 2 * o.n
		default:
		}
		if e.at+e.left > most { // an element takes a byte at least
			return false, kemi.Errorf(kemi.ErrTooLarge, "a message of %d bytes or more: at most %d are taken (ingest.fluent.maxMessageBytes)", e.at+e.left, most)
		}
	}
	return e.left == 0 && e.at <= len(b), nil
}

// whole is the bytes of the object that b begins with, and what follows it.
func whole(b []byte) (o, rest []byte, err error) {
	e := newExtent()
	ok, err := e.look(b, math.MaxInt32)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, kemi.Errorf(kemi.ErrInvalid, "an object is cut short")
	}
	return b[:e.at], b[e.at:], nil
}

// elements reads the head of an array.
func elements(b []byte) (n int, rest []byte, ok bool) {
	o, ok := read(b)
	if !ok || o.kind != kindArray {
		return 0, b, false
	}
	return o.n, b[o.head:], true
}

// textOf reads a text.
func textOf(b []byte) (text, rest []byte, ok bool) {
	o, ok := read(b)
	if !ok || o.kind != kindText || len(b)-o.head < o.n {
		return nil, b, false
	}
	return b[o.head : o.head+o.n], b[o.head+o.n:], true
}

// maxDepth is how deep objects may lie within each other to be read; what lies deeper is kept as base64 of its MessagePack.
const maxDepth = 64

// value is an object as text: texts as they are, numbers in decimal, all else as JSON. nil is "".
func value(b []byte) string {
	o, _ := read(b)
	switch o.kind {
	case kindNil:
		return ""
	case kindText:
		return string(b[o.head:])
	default:
		out, _ := appendJSON(nil, b, 0)
		return string(out)
	}
}

// appendJSON writes the object that b begins with, which is whole, and gives what follows it.
func appendJSON(out, b []byte, depth int) (_, rest []byte) {
	o, ok := read(b)
	if !ok {
		return append(out, "null"...), nil
	}
	if depth > maxDepth {
		all, rest, err := whole(b)
		if err != nil {
			return append(out, "null"...), nil
		}
		return quoteTo(out, base64.StdEncoding.EncodeToString(all)), rest
	}
	rest = b[o.head:]
	switch o.kind {
	case kindBool:
		return strconv.AppendBool(out, o.bits != 0), rest
	case kindInt:
		return strconv.AppendInt(out, int64(o.bits), 10), rest
	case kindUint:
		return strconv.AppendUint(out, o.bits, 10), rest
	case kindFloat:
		v := math.Float64frombits(o.bits)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return quoteTo(out, strconv.FormatFloat(v, 'g', -1, 64)), rest
		}
		return strconv.AppendFloat(out, v, 'g', -1, 64), rest
	case kindText:
		return quoteTo(out, string(rest[:o.n])), rest[o.n:]
	case kindExt:
		return quoteTo(out, base64.StdEncoding.EncodeToString(rest[:o.n])), rest[o.n:]
	case kindArray:
		out = append(out, '[')
		for i := range o.n {
			if i > 0 {
				out = append(out, ',')
			}
			out, rest = appendJSON(out, rest, depth+1)
		}
		return append(out, ']'), rest
	case kindMap:
		out = append(out, '{')
		for i := range o.n {
			if i > 0 {
				out = append(out, ',')
			}
			var key []byte
			if k, after, ok := textOf(rest); ok {
				out, rest = quoteTo(out, string(k)), after
			} else {
				key, rest = appendJSON(nil, rest, depth+1)
				out = quoteTo(out, string(key))
			}
			out, rest = appendJSON(append(out, ':'), rest, depth+1)
		}
		return append(out, '}'), rest
	default:
		return append(out, "null"...), rest
	}
}

func quoteTo(out []byte, s string) []byte {
	q, _ := json.Marshal(s) // a string can always be marshalled
	return append(out, q...)
}

// maxPath is how long the joined names of maps may be: what lies deeper is JSON.
const maxPath = 512

// flatten gives the fields of a map, those of maps in it with their names joined by points, until add has enough. b is whole.
func flatten(b []byte, path string, depth int, add func(name, value string) bool) (rest []byte, more bool) {
	o, _ := read(b)
	rest = b[o.head:]
	for range o.n {
		var name string
		if k, after, ok := textOf(rest); ok {
			name, rest = string(k), after
		} else {
			var key []byte
			key, rest = appendJSON(nil, rest, 0)
			name = string(key)
		}
		if path != "" {
			name = path + "." + name
		}
		v, ok := read(rest)
		if !ok {
			return nil, false
		}
		if v.kind == kindMap && depth < maxDepth && len(name) <= maxPath {
			if rest, more = flatten(rest, name, depth+1, add); !more {
				return nil, false
			}
			continue
		}
		one, after, err := whole(rest)
		if err != nil {
			return nil, false
		}
		if text := value(one); text != "" && !add(name, text) {
			return nil, false
		}
		rest = after
	}
	return rest, true
}

// timeOf reads a time: EventTime (an extension of type 0 with seconds and nanoseconds), or seconds.
func timeOf(b []byte) (at kemi.Nanos, ok bool) {
	o, ok := read(b)
	switch {
	case !ok:
	case o.kind == kindExt && o.ext == 0 && o.n == 8 && len(b) == o.head+8:
		return kemi.Nanos(int64(binary.BigEndian.Uint32(b[o.head:]))*1e9 + int64(binary.BigEndian.Uint32(b[o.head+4:]))), true
	case o.kind == kindUint && o.bits < 1<<33, o.kind == kindInt && int64(o.bits) < 1<<33 && int64(o.bits) >= 0:
		return kemi.Nanos(int64(o.bits) * 1e9), true
	case o.kind == kindFloat:
		if v := math.Float64frombits(o.bits); v >= 0 && v < 1<<33 {
			return kemi.Nanos(v * 1e9), true
		}
	}
	return 0, false
}

// The heads of what is written.

func appendText(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n < 256:
		b = append(b, 0xd9, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0xc3)
	}
	return append(b, 0xc2)
}
