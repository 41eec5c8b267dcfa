package push

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"kemi"
)

// Record is the log record of fields, with names that mean what they mean in JSON lines: message, level, IDs, labels of the stream; all others are attributes. at is
// its time, whatever fields say of times. If none is the message, all of them are the body, as a JSON object.
func Record(fields []kemi.Label, at kemi.Nanos) kemi.LogRecord {
	r := kemi.LogRecord{At: at}
	best := [roles]int{}
	for i := range best {
		best[i] = -1
	}
	for i, f := range fields {
		switch m := usualMeanings[f.Name]; m.role {
		case roleAttr, roleTime, roleStream:
		default:
			if b := best[m.role]; b < 0 || m.rank < usualMeanings[fields[b].Name].rank {
				best[m.role] = i
			}
		}
	}
	attr := func(f kemi.Label) { r.Attrs = append(r.Attrs, f) }
	for i, f := range fields {
		m := usualMeanings[f.Name]
		if m.role == roleStream {
			r.Stream = append(r.Stream, f)
			continue
		}
		if best[m.role] != i {
			attr(f)
			continue
		}
		switch m.role {
		case roleMessage:
			r.Body = f.Value
		case roleLevel:
			if r.Severity = levelOf(f.Name, f.Value); !saidByLevel(f, r.Severity) {
				attr(f)
			}
		case roleTrace:
			if r.TraceID = hexID(f.Value, 32); r.TraceID == "" || f.Name != "trace_id" {
				attr(f)
			}
		case roleSpan:
			if r.SpanID = hexID(f.Value, 16); r.SpanID == "" || f.Name != "span_id" {
				attr(f)
			}
		}
	}
	if best[roleMessage] < 0 {
		r.Body = objectOf(fields)
	}
	r.Stream, r.Attrs = r.Stream.Normalize(), r.Attrs.Normalize()
	return r
}

// objectOf is fields as a JSON object of strings, in their order.
func objectOf(fields []kemi.Label) string {
	b := []byte{'{'}
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		for k, s := range [2]string{f.Name, f.Value} {
			if k > 0 {
				b = append(b, ':')
			}
			q, _ := json.Marshal(s) // a string can always be marshalled
			b = append(b, q...)
		}
	}
	return string(append(b, '}'))
}

// Fit appends r to out in a form that keeps the limits, for senders that cannot be told what is wrong, or that would send it again for ever. What is
// changed is said in attributes that begin with the protocol's name: <protocol>.time holds a time that is too far away (the record's is now then), <protocol>.part the number of a part of a
// body that is too long, <protocol>.error why fields are within the body and not attributes.
func (p *Push) Fit(out []kemi.LogRecord, r kemi.LogRecord, protocol string) []kemi.LogRecord {
	cfg, now := &p.cfg, kemi.NanosOf(p.now())
	if at := r.At; at <= 0 || int64(now)-int64(at) > int64(cfg.MaxPast) || int64(at)-int64(now) > int64(cfg.MaxFuture) {
		if at != 0 {
			r.Attrs = r.Attrs.With(protocol+".time", stamp(at))
		}
		r.At = now
	}
	r.Stream, r.Attrs = p.fitStream(r.Stream, r.Attrs)
	if problem := p.misfit(r.Attrs); problem != "" {
		r.Body = r.Body + "\n" + objectOf(r.Attrs)
		r.Attrs = kemi.Labels{{Name: protocol + ".error", Value: problem}}
	}
	if len(r.Body) <= cfg.MaxLineBytes {
		return append(out, r)
	}
	if r.Severity == 0 {
		r.Severity = severityOf(r.Body)
	}
	body, attrs := r.Body, r.Attrs
	for n := 1; len(body) > 0; n++ {
		k := min(len(body), cfg.MaxLineBytes)
		r.Body, body = body[:k], body[k:]
		r.Attrs = attrs.With(protocol+".part", strconv.Itoa(n))
		out = append(out, r)
	}
	return out
}

// misfit is why attributes cannot be kept as such, or "".
func (p *Push) misfit(attrs kemi.Labels) string {
	const spare = 2 // for what Fit adds
	sum := 0
	for _, l := range attrs {
		sum += len(l.Name) + len(l.Value)
		if len(l.Name) > p.cfg.MaxLabelNameBytes || l.Name == "" || !utf8.ValidString(l.Name) {
			return "the name of a field is empty, not UTF-8, or longer than " + strconv.Itoa(p.cfg.MaxLabelNameBytes) + " bytes (ingest.maxLabelNameBytes)"
		}
	}
	switch {
	case len(attrs) > p.cfg.MaxAttributes-spare:
		return strconv.Itoa(len(attrs)) + " fields are more than are kept (ingest.maxAttributes)"
	case sum > p.cfg.MaxLineBytes-256:
		return "fields of " + strconv.Itoa(sum) + " bytes are more than are kept (ingest.maxLineBytes)"
	}
	return ""
}

// fitStream makes attributes of labels that cannot be of a stream.
func (p *Push) fitStream(stream, attrs kemi.Labels) (kept, rest kemi.Labels) {
	for i, l := range stream {
		if i < p.cfg.MaxLabels && len(l.Value) <= p.cfg.MaxLabelValueBytes && utf8.ValidString(l.Value) && utf8.ValidString(l.Name) && len(l.Name) <= p.cfg.MaxLabelNameBytes {
			continue
		}
		// One of them: sort them out.
		for _, l := range stream {
			if len(kept) < p.cfg.MaxLabels && len(l.Value) <= p.cfg.MaxLabelValueBytes && utf8.ValidString(l.Name) && len(l.Name) <= p.cfg.MaxLabelNameBytes {
				kept = append(kept, kemi.Label{Name: l.Name, Value: strings.ToValidUTF8(l.Value, "\ufffd")})
				if utf8.ValidString(l.Value) {
					continue
				}
			}
			attrs = append(attrs[:len(attrs):len(attrs)], l).Normalize()
		}
		return kept, attrs
	}
	return stream, attrs
}
