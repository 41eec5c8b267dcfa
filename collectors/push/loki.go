package push

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
)

const protocolLoki = "loki"

// serveLoki takes what Loki's clients push, as JSON or as protobuf in a snappy block. As with Loki, a request of which parts are refused is
// answered with 400, and the other parts are kept.
func (p *Push) serveLoki(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	encoding := r.Header.Get("Content-Encoding")
	var parse func(in *intake, data []byte) error
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/json":
		parse = parseLokiJSON
	case "application/x-protobuf", "":
		parse = parseLokiProto
		if encoding == "" {
			encoding = "snappy"
		}
	default:
		p.fail(w, kemi.DialectText, protocolLoki, fmt.Errorf("%w: Content-Type %s: must be application/json or application/x-protobuf", errUnsupportedMedia, quote(kind)))
		return
	}
	in, err := p.receive(w, r, id, protocolLoki, encoding, parse)
	if err == nil {
		err = in.complaint()
	}
	if err != nil {
		p.fail(w, kemi.DialectText, protocolLoki, err)
		return
	}
	p.answered(protocolLoki, http.StatusNoContent)
	w.WriteHeader(http.StatusNoContent)
}

// lokiStream is the records of one stream on their way into an intake.
type lokiStream struct {
	in       *intake
	labels   kemi.Labels
	severity kemi.Severity
	name     string
	err      error // why none of its entries can be taken
	slab     kemi.Labels
}

func (in *intake) lokiStream(labels kemi.Labels, err error) *lokiStream {
	s := &lokiStream{in: in, err: err}
	if err == nil {
		s.labels, s.err = in.shared(labels)
	}
	s.severity = labelSeverity(s.labels)
	s.name = "stream " + clip(labels.String(), 200)
	return s
}

// entry takes one line with its structured metadata, which is at the end of s.slab, from begin on.
func (s *lokiStream) entry(at kemi.Nanos, line string, begin int, err error) {
	if err = cmpErr(s.err, err); err != nil {
		s.in.refuse(s.name, err)
		return
	}
	r := kemi.LogRecord{At: at, Stream: s.labels, Body: line}
	meta := s.slab[begin:]
	if len(meta) > 0 {
		if !ordered(meta) {
			meta = meta.Normalize()
			s.slab = s.slab[:begin+len(meta)]
		}
		r.Severity = labelSeverity(meta)
		kept := meta[:0]
		for _, l := range meta {
			switch {
			case l.Name == "trace_id" && hexID(l.Value, 32) != "":
				r.TraceID = hexID(l.Value, 32)
			case l.Name == "span_id" && hexID(l.Value, 16) != "":
				r.SpanID = hexID(l.Value, 16)
			case l.Value == "", saidByLevel(l, r.Severity):
			default:
				kept = append(kept, l)
			}
		}
		s.slab = s.slab[:begin+len(kept)]
		if len(kept) > 0 {
			r.Attrs = kept[:len(kept):len(kept)]
		}
	}
	if r.Severity == 0 {
		r.Severity = s.severity
	}
	if err := s.in.add(r); err != nil {
		s.in.refuse(s.name, err)
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// room makes room for the metadata of an entry and tells where it begins.
func (s *lokiStream) room() int {
	if cap(s.slab)-len(s.slab) < 16 {
		s.slab = make(kemi.Labels, 0, 256)
	}
	return len(s.slab)
}

// parseLokiJSON reads {"streams": [{"stream": {…}, "values": [["<ns>", "line", {…}], …]}]}, and the older
// {"streams": [{"labels": "{…}", "entries": [{"ts": "…", "line": "…"}, …]}]}.
func parseLokiJSON(in *intake, data []byte) error {
	j := &jsonReader{s: string(data)}
	err := j.object(func(name string) error {
		if name != "streams" {
			_, err := j.skip(0)
			return err
		}
		return j.array(func() error { return lokiJSONStream(in, j) })
	})
	if err == nil && j.more() {
		err = j.errorf("expected the end")
	}
	return err
}

func lokiJSONStream(in *intake, j *jsonReader) error {
	var labels kemi.Labels
	var bad error
	values := -1 // where they begin, if they come before the labels
	var s *lokiStream
	take := func() error {
		s = in.lokiStream(labels, bad)
		return j.array(func() error { return s.jsonEntry(j) })
	}
	err := j.object(func(name string) error {
		switch name {
		case "stream":
			return j.object(func(name string) error {
				v, err := j.text(0)
				if v != "" {
					labels = append(labels, kemi.Label{Name: name, Value: v})
				}
				return err
			})
		case "labels":
			v, err := j.str()
			if err == nil {
				labels, bad = parseLokiLabels(v)
			}
			return err
		case "values", "entries":
			if labels == nil && bad == nil && values < 0 {
				j.peek()
				values = j.i
				_, err := j.skip(0)
				return err
			}
			labels = labels.Normalize()
			return take()
		}
		_, err := j.skip(0)
		return err
	})
	if err != nil || values < 0 {
		return err
	}
	end := j.i
	j.i, labels = values, labels.Normalize()
	err = take()
	j.i = end
	return err
}

func (s *lokiStream) jsonEntry(j *jsonReader) error {
	begin := s.room()
	var at kemi.Nanos
	var line, stamp string
	var bad error
	meta := func(name string) error {
		v, err := j.text(0)
		s.slab = append(s.slab, kemi.Label{Name: name, Value: v})
		return err
	}
	if j.peek() == '{' { // the older form
		err := j.object(func(name string) (err error) {
			switch name {
			case "ts", "timestamp":
				stamp, err = j.text(0)
			case "line":
				line, err = j.text(0)
			case "structuredMetadata":
				return j.object(meta)
			default:
				_, err = j.skip(0)
			}
			return err
		})
		if err != nil {
			return err
		}
		at, bad = parseLogTime(stamp)
		s.entry(at, line, begin, bad)
		return nil
	}
	n := 0
	err := j.array(func() (err error) {
		n++
		switch n {
		case 1:
			if stamp, err = j.text(0); err == nil {
				at, bad = parseLokiNanos(stamp)
			}
		case 2:
			if j.peek() != '"' {
				return j.errorf("expected a line as a string")
			}
			line, err = j.str()
		case 3:
			return j.object(meta)
		default:
			_, err = j.skip(0)
		}
		return err
	})
	if err != nil {
		return err
	}
	if n < 2 {
		bad = kemi.Errorf(kemi.ErrInvalid, "an entry of %d elements: must be [\"<nanoseconds>\", \"<line>\"]", n)
	}
	s.entry(at, line, begin, bad)
	return nil
}

func parseLokiNanos(s string) (kemi.Nanos, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, kemi.Errorf(kemi.ErrInvalid, "timestamp %s: must be a number of nanoseconds since 1970", quote(s))
	}
	return kemi.Nanos(n), nil
}

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
