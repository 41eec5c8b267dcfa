package push

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"kemi"
)

const protocolLoki = "loki"

// serveLoki takes what Loki's clients push, as JSON or as protobuf in a snappy block. As with Loki, a request of which parts are refused is
// answered with 400, and the other parts are kept.
func (p *Push) serveLoki(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	encoding := r.Header.Get("Content-Encoding")
	var parse func(in *intake, data string) error
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
	in     *intake
	stream *stream
	labels kemi.Labels // as they were sent, for errors
	err    error       // why none of its entries can be taken
	slab   kemi.Labels // metadata of many records are cut from one allocation
}

// begin begins a stream whose labels, sorted, could be read unless there is an error.
func (s *lokiStream) begin(labels kemi.Labels, err error) {
	s.stream, s.labels, s.err = nil, labels, err
	if err == nil {
		s.stream, s.err = s.in.shared(labels)
	}
}

func (s *lokiStream) refuse(err error) {
	s.in.refuse("stream "+clip(s.labels.String(), 200), err)
}

// entry takes one line with its structured metadata, which is at the end of s.slab, from begin on.
func (s *lokiStream) entry(at kemi.Nanos, line string, begin int, err error) {
	if err = cmpErr(s.err, err); err != nil {
		s.refuse(err)
		return
	}
	r := kemi.LogRecord{At: at, Stream: s.stream.labels, Body: line}
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
		r.Severity = s.stream.severity
	}
	if err := s.in.take(&r); err != nil {
		s.refuse(err)
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
func parseLokiJSON(in *intake, data string) error {
	j := &jsonReader{s: data}
	s := &lokiStream{in: in}
	err := j.object(func(name string) error {
		if name != "streams" {
			_, err := j.skip(0)
			return err
		}
		return j.array(func() error { return s.json(j) })
	})
	if err == nil && j.more() {
		err = j.errorf("expected the end")
	}
	return err
}

// json takes one stream.
func (s *lokiStream) json(j *jsonReader) error {
	var labels kemi.Labels
	var bad error
	values := -1 // where they begin, if they come before the labels
	take := func() error {
		s.begin(labels, bad)
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
