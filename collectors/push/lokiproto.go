package push

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
)

// parseLokiProto reads a logproto.PushRequest.
func parseLokiProto(in *intake, data []byte) error {
	return fields(string(data), func(number protowire.Number, v string, _ uint64) error {
		if number != 1 {
			return nil
		}
		var labels kemi.Labels
		var bad error
		err := fields(v, func(number protowire.Number, v string, _ uint64) error {
			if number == 1 {
				labels, bad = parseLokiLabels(v)
			}
			return nil
		})
		if err != nil {
			return err
		}
		s := in.lokiStream(labels, bad)
		return fields(v, func(number protowire.Number, v string, _ uint64) error {
			if number == 2 {
				return s.protoEntry(v)
			}
			return nil
		})
	})
}

func (s *lokiStream) protoEntry(text string) error {
	begin := s.room()
	var seconds, nanos int64
	var line string
	var bad error
	err := fields(text, func(number protowire.Number, v string, _ uint64) error {
		switch number {
		case 1:
			return fields(v, func(number protowire.Number, _ string, n uint64) error {
				switch number {
				case 1:
					seconds = int64(n)
				case 2:
					nanos = int64(n)
				}
				return nil
			})
		case 2:
			line = v
		case 3:
			var l kemi.Label
			err := fields(v, func(number protowire.Number, v string, _ uint64) error {
				switch number {
				case 1:
					l.Name = v
				case 2:
					l.Value = v
				}
				return nil
			})
			s.slab = append(s.slab, l)
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if seconds < 0 || seconds > 9_000_000_000 || nanos < 0 || nanos >= 1e9 {
		bad = kemi.Errorf(kemi.ErrInvalid, "timestamp of %d seconds and %d nanoseconds: is not within 1970 to 2255", seconds, nanos)
	}
	s.entry(kemi.Nanos(seconds*1e9+nanos), line, begin, bad)
	return nil
}

// fields calls each with every field of a protobuf message: with the bytes of strings and messages, or with the number.
func fields(s string, each func(number protowire.Number, v string, n uint64) error) error {
	for len(s) > 0 {
		tag, n := uvarint(s)
		if n == 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return errProto(s)
		}
		var v string
		var value uint64
		switch protowire.Type(tag & 7) {
		case protowire.VarintType:
			k := 0
			if value, k = uvarint(s[n:]); k == 0 {
				return errProto(s)
			}
			n += k
		case protowire.BytesType:
			length, k := uvarint(s[n:])
			if n += k; k == 0 || length > uint64(len(s)-n) {
				return errProto(s)
			}
			v = s[n : n+int(length)]
			n += int(length)
		case protowire.Fixed64Type:
			n += 8
		case protowire.Fixed32Type:
			n += 4
		default:
			return errProto(s)
		}
		if n > len(s) {
			return errProto(s)
		}
		if err := each(protowire.Number(tag>>3), v, value); err != nil {
			return err
		}
		s = s[n:]
	}
	return nil
}

// uvarint is the number that s begins with and how many bytes it takes; 0 bytes if there is none.
func uvarint(s string) (v uint64, n int) {
	for n < len(s) && n < 10 {
		c := s[n]
		v |= uint64(c&0x7f) << (7 * n)
		if n++; c < 0x80 {
			return v, n
		}
	}
	return 0, 0
}

func errProto(s string) error {
	return kemi.Errorf(kemi.ErrInvalid, "body: broken protobuf %d bytes before the end of a message; it must be a Loki push request", len(s))
}

// parseLokiLabels reads labels as Loki writes them: {app="pay", host="web01"}.
func parseLokiLabels(s string) (kemi.Labels, error) {
	bad := func(rest, want string) (kemi.Labels, error) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "labels %s: expected %s at byte %d; they must be as {app=\"pay\", host=\"web01\"}", quote(s), want, len(s)-len(rest))
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), "{")
	if !ok {
		return bad(s, "'{'")
	}
	var ls kemi.Labels
	for {
		rest = strings.TrimLeft(rest, " \t\n,")
		if strings.HasPrefix(rest, "}") {
			if rest != "}" {
				return bad(rest[1:], "the end")
			}
			return ls.Normalize(), nil
		}
		eq := strings.IndexByte(rest, '=')
		if eq < 0 {
			return bad(rest, "name=\"value\"")
		}
		name := strings.TrimSpace(rest[:eq])
		if n, err := strconv.Unquote(name); err == nil {
			name = n
		}
		if name == "" || strings.ContainsAny(name, "{}\"',= ") {
			return bad(rest, "a name")
		}
		rest = strings.TrimLeft(rest[eq+1:], " \t")
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil || strings.HasPrefix(quoted, "'") {
			return bad(rest, "a value in quotes")
		}
		v, err := strconv.Unquote(quoted)
		if err != nil {
			return bad(rest, "a value in quotes")
		}
		ls = append(ls, kemi.Label{Name: name, Value: v})
		rest = strings.TrimLeft(rest[len(quoted):], " \t\n")
		if rest == "" || rest[0] != ',' && rest[0] != '}' {
			return bad(rest, "',' or '}'")
		}
	}
}

// clip is s, not too long for a message.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
