package fluent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"

	"kemi"
	"kemi/collectors/push"
)

// message is a message taken apart.
type message struct {
	tag     string
	entries [][]byte // each a time and a record; of several, one behind the other
	count   int      // of an array of entries; -1: until the bytes end
	pair    bool     // the entry is of the message itself: a time and a record without an array around them
	chunk   string   // what an acknowledgement is to name
	gzip    bool
}

func wrong(format string, args ...any) error {
	return kemi.Errorf(kemi.ErrInvalid, "message: "+format, args...)
}

// parse takes a whole message apart: [tag, time, record, option], [tag, [entry, …], option] or [tag, packed entries, option].
func parse(b []byte) (m message, err error) {
	n, rest, ok := elements(b)
	if !ok || n < 2 || n > 4 {
		return m, wrong("must be an array of 2 to 4 elements")
	}
	tag, rest, ok := textOf(rest)
	if !ok {
		return m, wrong("the tag must be a text")
	}
	m.tag = string(tag)
	second, after, err := whole(rest)
	if err != nil {
		return m, err
	}
	used := 2
	switch o, _ := read(second); o.kind {
	case kindArray:
		m.count, m.entries = o.n, [][]byte{second[o.head:]}
	case kindText:
		m.count, m.entries = -1, [][]byte{second[o.head:]}
	default:
		if n < 3 {
			return m, wrong("must have a time and a record, or entries")
		}
		_, end, err := whole(after)
		if err != nil {
			return m, err
		}
		m.pair, m.entries = true, [][]byte{rest[:len(rest)-len(end)]}
		after, used = end, 3
	}
	if used < n {
		if err := m.options(after); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *message) options(b []byte) error {
	o, ok := read(b)
	if !ok || o.kind != kindMap && o.kind != kindNil {
		return wrong("the option must be a map")
	}
	for b = b[o.head:]; o.n > 0; o.n-- {
		key, rest, err := whole(b)
		if err != nil {
			return err
		}
		v, after, err := whole(rest)
		if err != nil {
			return err
		}
		b = after
		name, _, _ := textOf(key)
		text, _, isText := textOf(v)
		switch string(name) {
		case "chunk":
			if m.chunk = string(text); !isText {
				return wrong("option chunk: must be a text")
			}
		case "compressed":
			switch string(text) {
			case "gzip":
				m.gzip = true
			case "text", "":
			default:
				return wrong("option compressed: %.40q: must be gzip or text", text)
			}
		}
	}
	return nil
}

// unpack replaces gzipped entries by what they are: at most most bytes, of which hold takes memory for the next bufStep. There may be several gzip members
// one behind the other.
func (m *message) unpack(most int64, hold func() error) error {
	if !m.gzip || m.count >= 0 {
		return nil
	}
	z, err := gzip.NewReader(bytes.NewReader(m.entries[0]))
	if err != nil {
		return wrong("broken gzip: %w", err)
	}
	defer z.Close()
	var out bytes.Buffer
	for {
		if err := hold(); err != nil {
			return err
		}
		switch _, err := io.CopyN(&out, z, bufStep); {
		case int64(out.Len()) > most:
			return kemi.Errorf(kemi.ErrTooLarge, "message: unpacks to more than %d bytes (ingest.maxDecodedBytes)", most)
		case errors.Is(err, io.EOF):
			m.entries[0] = out.Bytes()
			return nil
		case err != nil:
			return wrong("broken gzip: %w", err)
		}
	}
}

var errEntry = errors.New("an entry must be a time and a record")

// each gives the entries one after another. An entry that is none is given as an error, and the others follow.
func (m *message) each(take func(at kemi.Nanos, record, metadata []byte, err error)) error {
	b := m.entries[0]
	if m.pair {
		m.entry(b, take)
		return nil
	}
	for i := 0; m.count < 0 && len(b) > 0 || i < m.count; i++ {
		one, rest, err := whole(b)
		if err != nil {
			return wrong("entry %d: %w", i+1, err)
		}
		if n, inner, ok := elements(one); !ok || n != 2 {
			take(0, one, nil, errEntry)
		} else {
			m.entry(inner, take)
		}
		b = rest
	}
	return nil
}

// entry gives one: a time, or in newer senders an array of time and metadata, and the record.
func (m *message) entry(b []byte, take func(at kemi.Nanos, record, metadata []byte, err error)) {
	when, record, err := whole(b)
	if err != nil {
		take(0, b, nil, err)
		return
	}
	var metadata []byte
	if n, inner, ok := elements(when); ok && n == 2 {
		if when, metadata, err = whole(inner); err != nil {
			take(0, b, nil, err)
			return
		}
	}
	at, ok := timeOf(when)
	if o, isThere := read(record); !isThere || o.kind != kindMap {
		take(at, record, nil, errEntry)
		return
	}
	if !ok {
		at = 0
	}
	take(at, record, metadata, nil)
}

// kubernetes is what the fields of the filters for Kubernetes are called in streams.
var kubernetes = map[string]string{
	"kubernetes.namespace_name": "namespace", "kubernetes.pod_name": "pod", "kubernetes.container_name": "container", "kubernetes.host": "host",
}

// recordOf is the log record of an event. If it has more than most fields, the event is the body, as JSON.
func recordOf(tag string, at kemi.Nanos, record, metadata []byte, most int) (r kemi.LogRecord, bytes int) {
	fields := make([]kemi.Label, 0, 16)
	add := func(name, value string) bool {
		if label, ok := kubernetes[name]; ok {
			name = label
		}
		fields = append(fields, kemi.Label{Name: name, Value: value})
		bytes += len(name) + len(value) + 32
		return len(fields) <= most
	}
	more := true
	if o, ok := read(metadata); ok && o.kind == kindMap {
		_, more = flatten(metadata, "", 0, add)
	}
	if more {
		_, more = flatten(record, "", 0, add)
	}
	if more {
		r = push.Record(fields, at)
		r.Body = strings.TrimSuffix(r.Body, "\n")
	} else {
		r = kemi.LogRecord{At: at, Body: value(record), Attrs: kemi.LabelsOf("fluent.error", fmt.Sprintf("more than %d fields (ingest.maxAttributes)", most))}
		bytes = len(r.Body)
	}
	if tag != "" {
		r.Stream = r.Stream.With("tag", tag)
	}
	return r, bytes
}
