package tail

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"kemi"
)

// Container runtimes write what containers print as lines of their own: Docker one JSON object a line, the others (CRI) time, stream, a tag and the text. What a container
// prints without a line break, or in lines longer than 16 KiB, comes in several of them, and those of its two streams may come in turns.

// printed is a line of a container runtime, or one that is none: then text is all of it.
type printed struct {
	at     kemi.Nanos
	stream string // stdout, stderr
	part   bool   // its line goes on
	text   []byte // without a line break
	ok     bool
}

// parsePrinted reads a line without its end.
func parsePrinted(line []byte) printed {
	if len(line) > 0 && line[0] == '{' {
		var d struct {
			Log    *string   `json:"log"`
			Stream string    `json:"stream"`
			Time   time.Time `json:"time"`
		}
		if json.Unmarshal(line, &d) == nil && d.Log != nil && !d.Time.IsZero() {
			text, whole := strings.CutSuffix(*d.Log, "\n")
			return printed{at: kemi.NanosOf(d.Time), stream: d.Stream, part: !whole, text: []byte(strings.TrimSuffix(text, "\r")), ok: true}
		}
		return printed{text: line}
	}
	when, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, _ := bytes.Cut(rest, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(when))
	tag, _, _ = bytes.Cut(tag, []byte(":")) // there may be more of them
	if !ok1 || !ok2 || err != nil || string(stream) != "stdout" && string(stream) != "stderr" || string(tag) != "P" && string(tag) != "F" {
		return printed{text: line}
	}
	return printed{at: kemi.NanosOf(at), stream: string(stream), part: string(tag) == "P", text: text, ok: true}
}

// nextPrinted is next for files of container runtimes: it goes on until no line is in parts, and then over the lines of the same stream that belong to
// the record.
func (in *input) nextPrinted(data []byte, flush bool) frame {
	n, lines := 0, 0
	open := map[string]bool{} // streams whose line goes on
	stream, only := "", true  // the stream of the record, while it is of one
	for {
		rest := data[n:]
		k := bytes.IndexByte(rest[:min(len(rest), MaxLine+1)], '\n') + 1
		if k == 0 {
			switch {
			case n > 0 && (len(data) > MaxLine || flush):
				return frame{n: n, ok: true}
			case len(data) > MaxLine:
				return frame{n: cutAt(data), cut: true, ok: true}
			case n == 0 && len(rest) > 0 || n > 0:
				return frame{n: len(data), ok: flush && n == 0, held: true}
			}
			return frame{}
		}
		p := parsePrinted(text(rest[:k]))
		if n > 0 && len(open) == 0 {
			if !only || p.stream != stream || !p.ok {
				return frame{n: n, ok: true}
			}
			whole, ok := joined(rest, p)
			if !ok && !flush && len(data) <= MaxLine {
				return frame{n: len(data), held: true}
			}
			if in.join.begins(whole) {
				return frame{n: n, ok: true}
			}
		}
		if n > 0 && n+k > MaxLine {
			return frame{n: n, ok: true}
		}
		if n == 0 {
			stream = p.stream
		}
		only = only && p.stream == stream && p.ok
		n += k
		if lines++; p.part {
			open[p.stream] = true
		} else {
			delete(open, p.stream)
		}
		if len(open) == 0 && (in.join == nil || !only || lines >= in.maxLines) {
			return frame{n: n, ok: true}
		}
	}
}

// joined is the text of the line that data begin with, which is first, with its other parts; ok is false if they are not all there.
func joined(data []byte, first printed) (whole []byte, ok bool) {
	whole = first.text
	if !first.part {
		return whole, true
	}
	whole = bytes.Clone(whole)
	for line := range bytes.Lines(data[bytes.IndexByte(data, '\n')+1:]) {
		if line[len(line)-1] != '\n' {
			break
		}
		if p := parsePrinted(text(line)); p.stream == first.stream {
			if whole = append(whole, p.text...); !p.part {
				return whole, true
			}
		}
	}
	return whole, false
}

// printedRecords are the records in raw, which is a frame of nextPrinted.
func (in *input) printedRecords(raw []byte) (out []kemi.LogRecord) {
	type piece struct {
		at   kemi.Nanos
		text []byte
		open bool
	}
	open := map[string]*piece{}
	var order []string // streams, in the order in which their records end
	done := func(stream string, p *piece) {
		attrs := kemi.LabelsOf("stream", stream)
		if p.open {
			attrs = attrs.With("line.partial", "true")
		}
		if stream == "" {
			attrs = kemi.LabelsOf("container.error", "not a line of Docker or of CRI")
		}
		out = append(out, kemi.LogRecord{At: p.at, Attrs: attrs, Body: string(p.text)})
		delete(open, stream)
	}
	for line := range bytes.Lines(raw) {
		p := parsePrinted(text(line))
		have := open[p.stream]
		switch {
		case have == nil:
			have = &piece{at: p.at, text: bytes.Clone(p.text), open: p.part}
			open[p.stream] = have
			order = append(order, p.stream)
		case have.open:
			have.text, have.open = append(have.text, p.text...), p.part
		default: // several lines of a record
			have.text, have.open = append(append(have.text, '\n'), p.text...), p.part
		}
		if !have.open && in.join == nil {
			done(p.stream, have)
		}
	}
	for _, stream := range order {
		if p := open[stream]; p != nil {
			done(stream, p)
		}
	}
	return out
}

var (
	podFile       = regexp.MustCompile(`/pods/([^/_]+)_([^/_]+)_[^/_]+/([^/]+)/[^/]+$`)
	containerFile = regexp.MustCompile(`/([^/_]+)_([^/_]+)_([^/_]+)-([0-9a-f]{12,64})\.log$`)
	dockerFile    = regexp.MustCompile(`/([0-9a-f]{64})/[0-9a-f]{64}-json\.log`)
)

// containerLabels are what the path of a container's log says: namespace, pod and container.
func containerLabels(path string) kemi.Labels {
	if m := podFile.FindStringSubmatch(path); m != nil {
		return kemi.LabelsOf("namespace", m[1], "pod", m[2], "container", m[3])
	}
	if m := containerFile.FindStringSubmatch(path); m != nil {
		return kemi.LabelsOf("namespace", m[2], "pod", m[1], "container", m[3])
	}
	if m := dockerFile.FindStringSubmatch(path); m != nil {
		return kemi.LabelsOf("container", orElse(dockerName(path), m[1][:12]))
	}
	return nil
}

// dockerName is the name that Docker notes beside the log, or "".
func dockerName(path string) string {
	b, err := readSmall(filepath.Join(filepath.Dir(path), "config.v2.json"))
	if err != nil {
		return ""
	}
	var c struct{ Name string }
	if json.Unmarshal(b, &c) != nil {
		return ""
	}
	return strings.TrimPrefix(c.Name, "/")
}
