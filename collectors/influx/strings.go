package influx

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"kemi"
	"kemi/collectors/push"
)

// What becomes of string fields.
const (
	stringsToLogs  = "logs"
	stringsIgnored = "ignore"
)

const (
	// measurementLabel is the label of a log record that holds the measurement.
	measurementLabel = "measurement"
	// messageField is the field that is a record's body, where a line has it: so senders of log lines name it.
	messageField = "message"
)

// takeStrings makes a log record of the fields of a line that are texts, which were read: measurement and tags are its stream, the
// fields its attributes. Its body is the field message, or all of them as key="value".
func (p *parser) takeStrings(l line, at kemi.Millis) error {
	if p.keep == nil {
		p.ignored += len(p.strings)
		return nil
	}
	if err := p.keep(2 * (len(l.series) + len(l.fields))); err != nil {
		return err
	}
	measurement, stream, err := parseSeries(l.series)
	if err != nil {
		return err
	}
	r := kemi.LogRecord{At: kemi.Nanos(at) * 1e6, Stream: stream.Normalize()}
	for _, add := range []kemi.Label{{Name: measurementLabel, Value: measurement}, p.extra} {
		if add.Name != "" && !r.Stream.Has(add.Name) {
			r.Stream = r.Stream.With(add.Name, add.Value)
		}
	}
	said := false
	for _, f := range p.strings {
		f := kemi.Label{Name: unescape(f.name), Value: unquote(f.value)}
		if f.Name == messageField && !said {
			r.Body, said = f.Value, true
			continue
		}
		r.Attrs = append(r.Attrs, f)
	}
	if !said {
		var b strings.Builder
		for i, a := range r.Attrs {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(a.Name + "=" + strconv.Quote(a.Value))
		}
		r.Body = b.String()
	}
	r.Attrs = r.Attrs.Normalize()
	p.texts = append(p.texts, r)
	return nil
}

// unquote is a string field's value: between the quotes, a backslash stands before a quote or another one.
func unquote(b []byte) string {
	b = b[1 : len(b)-1]
	if !slices.Contains(b, '\\') {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\') {
			i++
		}
		out = append(out, b[i])
	}
	return string(out)
}

// writeTexts makes the log records durable. What of them breaks a limit is told as a bad line is; an error is the log's.
func (p *parser) writeTexts(ctx context.Context, in *push.Push, id kemi.Identity, batch string) error {
	if len(p.texts) == 0 {
		return nil
	}
	err := in.WriteLogs(ctx, id, protocol, p.texts, batch)
	if err == nil || !errors.Is(err, kemi.ErrInvalid) {
		return err
	}
	p.out.Refuse(err)
	p.bad++
	p.errs = append(p.errs, err.Error())
	return nil
}
