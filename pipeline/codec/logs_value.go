package codec

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"

	"kemi"
)

// The wire types of protobuf that OTLP uses.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// wireField is one field of a protobuf message.
type wireField struct {
	number uint64
	kind   uint8
	value  uint64 // of numbers
	bytes  string // of strings, bytes and messages: a part of the message, not a copy
}

// nextField reads the field that s begins with.
func nextField(s string) (f wireField, rest string, err error) {
	tag, n := uvarint(s)
	if n == 0 || tag>>3 == 0 || tag>>3 > math.MaxInt32 {
		return f, "", errWire(s)
	}
	f.number, f.kind, s = tag>>3, uint8(tag&7), s[n:]
	switch f.kind {
	case wireVarint:
		if f.value, n = uvarint(s); n == 0 {
			return f, "", errWire(s)
		}
		return f, s[n:], nil
	case wireFixed64:
		if len(s) < 8 {
			return f, "", errWire(s)
		}
		f.value = binary.LittleEndian.Uint64([]byte(s[:8]))
		return f, s[8:], nil
	case wireBytes:
		l, n := uvarint(s)
		if n == 0 || l > uint64(len(s)-n) {
			return f, "", errWire(s)
		}
		f.bytes = s[n : n+int(l)]
		return f, s[n+int(l):], nil
	case wireFixed32:
		if len(s) < 4 {
			return f, "", errWire(s)
		}
		return f, s[4:], nil
	}
	return f, "", errWire(s)
}

func errWire(s string) error {
	return kemi.Errorf(kemi.ErrInvalid, "not an OTLP logs message: broken protobuf %d bytes before the end of a message", len(s))
}

// uvarint is the number that s begins with and how many bytes it takes; 0 bytes if there is none.
func uvarint(s string) (v uint64, n int) {
	for shift := 0; n < len(s) && n < 10; shift += 7 {
		c := s[n]
		n++
		if c < 0x80 {
			if n == 10 && c > 1 {
				return 0, 0
			}
			return v | uint64(c)<<shift, n
		}
		v |= uint64(c&0x7f) << shift
	}
	return 0, 0
}

func eachField(s string, each func(wireField) error) error {
	for len(s) > 0 {
		f, rest, err := nextField(s)
		if err != nil {
			return err
		}
		if err := each(f); err != nil {
			return err
		}
		s = rest
	}
	return nil
}

// maxDepth is how deep arrays and maps may lie within each other.
const maxDepth = 32

// anyText is an AnyValue as text: strings and bytes as they are, numbers in decimal, arrays and maps as JSON.
func anyText(s string, depth int) (text string, err error) {
	for len(s) > 0 {
		f, rest, err := nextField(s)
		if err != nil {
			return "", err
		}
		s = rest
		switch {
		case f.kind == wireBytes && (f.number == anyString || f.number == anyBytes):
			text = f.bytes
		case f.kind == wireBytes && (f.number == anyArray || f.number == anyMap):
			b, err := appendJSONValue(nil, f, depth)
			if err != nil {
				return "", err
			}
			text = string(b)
		case f.kind == wireVarint && f.number == anyBool:
			text = strconv.FormatBool(f.value != 0)
		case f.kind == wireVarint && f.number == anyInt:
			text = strconv.FormatInt(int64(f.value), 10)
		case f.kind == wireFixed64 && f.number == anyDouble:
			text = strconv.FormatFloat(math.Float64frombits(f.value), 'g', -1, 64)
		}
	}
	return text, nil
}

// appendJSON writes an AnyValue as JSON: bytes in base64, and numbers that JSON does not have as strings.
func appendJSON(b []byte, s string, depth int) ([]byte, error) {
	value := wireField{}
	for len(s) > 0 {
		f, rest, err := nextField(s)
		if err != nil {
			return b, err
		}
		s = rest
		value = f
	}
	return appendJSONValue(b, value, depth)
}

func appendJSONValue(b []byte, f wireField, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return b, kemi.Errorf(kemi.ErrInvalid, "a value has arrays or maps more than %d deep", maxDepth)
	}
	switch {
	case f.kind == wireBytes && f.number == anyString:
		return appendJSONString(b, f.bytes), nil
	case f.kind == wireBytes && f.number == anyBytes:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, []byte(f.bytes))
		return append(b, '"'), nil
	case f.kind == wireVarint && f.number == anyBool:
		return strconv.AppendBool(b, f.value != 0), nil
	case f.kind == wireVarint && f.number == anyInt:
		return strconv.AppendInt(b, int64(f.value), 10), nil
	case f.kind == wireFixed64 && f.number == anyDouble:
		v := math.Float64frombits(f.value)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.AppendQuote(b, strconv.FormatFloat(v, 'g', -1, 64)), nil
		}
		return strconv.AppendFloat(b, v, 'g', -1, 64), nil
	case f.kind == wireBytes && f.number == anyArray:
		b = append(b, '[')
		n := 0
		err := eachField(f.bytes, func(e wireField) (err error) {
			if e.number != 1 || e.kind != wireBytes {
				return nil
			}
			if n++; n > 1 {
				b = append(b, ',')
			}
			b, err = appendJSON(b, e.bytes, depth+1)
			return err
		})
		return append(b, ']'), err
	case f.kind == wireBytes && f.number == anyMap:
		b = append(b, '{')
		n := 0
		err := eachField(f.bytes, func(e wireField) error {
			if e.number != 1 || e.kind != wireBytes {
				return nil
			}
			var key, value string
			err := eachField(e.bytes, func(kv wireField) error {
				switch {
				case kv.kind != wireBytes:
				case kv.number == keyValueKey:
					key = kv.bytes
				case kv.number == keyValueValue:
					value = kv.bytes
				}
				return nil
			})
			if err != nil {
				return err
			}
			if n++; n > 1 {
				b = append(b, ',')
			}
			b = append(appendJSONString(b, key), ':')
			b, err = appendJSON(b, value, depth+1)
			return err
		})
		return append(b, '}'), err
	}
	return append(b, "null"...), nil
}

func appendJSONString(b []byte, s string) []byte {
	q, _ := json.Marshal(s) // a string can always be marshalled
	return append(b, q...)
}
