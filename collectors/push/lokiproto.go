package push

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
)

// parseLokiProto reads a logproto.PushRequest.
func parseLokiProto(in *intake, data string) error {
	n, err := countLokiEntries(data)
	if err != nil {
		return err
	}
	in.roomFor(min(n, len(data)/32)) // what is smaller is hardly a record
	s := &lokiStream{in: in}
	f := protoFields{s: data}
	for f.next() {
		if f.number == 1 && f.kind == protowire.BytesType {
			if err := s.proto(f.v); err != nil {
				return err
			}
		}
	}
	return f.err
}

// countLokiEntries is how many entries all streams have together.
func countLokiEntries(data string) (n int, err error) {
	f := protoFields{s: data}
	for f.next() {
		if f.number != 1 || f.kind != protowire.BytesType {
			continue
		}
		g := protoFields{s: f.v}
		for g.next() {
			if g.number == 2 && g.kind == protowire.BytesType {
				n++
			}
		}
		if g.err != nil {
			return 0, g.err
		}
	}
	return n, f.err
}

// proto takes one stream.
func (s *lokiStream) proto(text string) error {
	written := ""
	f := protoFields{s: text}
	for f.next() {
		if f.number == 1 && f.kind == protowire.BytesType {
			written = f.v // most often they stand first, but they need not
		}
	}
	s.known(written)
	f = protoFields{s: text}
	for f.next() {
		if f.number == 2 && f.kind == protowire.BytesType {
			if err := s.protoEntry(f.v); err != nil {
				return err
			}
		}
	}
	return f.err
}

// known begins the stream whose labels are written so.
func (s *lokiStream) known(written string) {
	k := &s.in.p.lokiStreams
	s.in.key = append(s.in.key[:0], written...)
	if st := k.get(s.in.key); st != nil {
		s.stream, s.labels, s.err = st, st.labels, nil
		return
	}
	s.begin(parseLokiLabels(written))
	if s.err == nil && len(s.stream.labels) > 0 {
		k.put(strings.Clone(written), s.stream)
	}
}

func (s *lokiStream) protoEntry(text string) error {
	begin := s.room()
	var seconds, nanos int64
	var line string
	f := protoFields{s: text}
	for f.next() {
		if f.kind != protowire.BytesType {
			continue
		}
		switch f.number {
		case 1:
			g := protoFields{s: f.v}
			for g.next() {
				switch {
				case g.kind != protowire.VarintType:
				case g.number == 1:
					seconds = int64(g.n)
				case g.number == 2:
					nanos = int64(g.n)
				}
			}
			if g.err != nil {
				return g.err
			}
		case 2:
			line = f.v
		case 3:
			var l kemi.Label
			g := protoFields{s: f.v}
			for g.next() {
				switch {
				case g.kind != protowire.BytesType:
				case g.number == 1:
					l.Name = g.v
				case g.number == 2:
					l.Value = g.v
				}
			}
			if g.err != nil {
				return g.err
			}
			s.slab = append(s.slab, l)
		}
	}
	if f.err != nil {
		return f.err
	}
	var bad error
	if seconds < 0 || seconds > 9_000_000_000 || nanos < 0 || nanos >= 1e9 {
		bad = kemi.Errorf(kemi.ErrInvalid, "timestamp of %d seconds and %d nanoseconds: is not within 1970 to 2255", seconds, nanos)
	}
	s.entry(kemi.Nanos(seconds*1e9+nanos), line, begin, bad)
	return nil
}

// protoFields reads the fields of a protobuf message one after another.
type protoFields struct {
	s   string
	err error

	// Of the field read last:
	number protowire.Number
	kind   protowire.Type
	v      string // of strings and messages: a part of s
	n      uint64 // of numbers
}

// next reads a field; it is false at the end, and when err says what is wrong.
func (f *protoFields) next() bool {
	s := f.s
	if len(s) == 0 {
		return false
	}
	tag, n := uint64(s[0]), 1
	if tag >= 0x80 {
		tag, n = uvarint(s)
	}
	if n == 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return f.broken()
	}
	f.number, f.kind = protowire.Number(tag>>3), protowire.Type(tag&7)
	switch f.kind {
	case protowire.VarintType:
		v, k := uvarint(s[n:])
		if k == 0 {
			return f.broken()
		}
		f.n = v
		n += k
	case protowire.BytesType:
		length, k := uvarint(s[n:])
		if n += k; k == 0 || length > uint64(len(s)-n) {
			return f.broken()
		}
		f.v = s[n : n+int(length)]
		n += int(length)
	case protowire.Fixed64Type:
		n += 8
	case protowire.Fixed32Type:
		n += 4
	default:
		return f.broken()
	}
	if n > len(s) {
		return f.broken()
	}
	f.s = s[n:]
	return true
}

func (f *protoFields) broken() bool {
	f.err = kemi.Errorf(kemi.ErrInvalid, "body: broken protobuf %d bytes before the end of a message; it must be a Loki push request", len(f.s))
	return false
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
