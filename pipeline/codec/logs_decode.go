package codec

import (
	"encoding/hex"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"kemi"
	"kemi/pipeline/bus"
)

// DecodeLogs reads a record of topic logs. IDs are <batch>~<index> if the record has the header batch, else
// <partition>-<offset>-<index>; as text they sort in the order of the log (of the batch). The result may be shared with other readers in this
// process: nobody may change it.
func DecodeLogs(r *bus.Record) ([]kemi.LogRecord, error) {
	first := 0
	if s := r.Header(HeaderFirst); s != "" {
		var err error
		if first, err = strconv.Atoi(s); err != nil || first < 0 {
			return nil, kemi.Errorf(kemi.ErrInvalid, "logs at %d/%d: header first %q: must be the number of a record", r.Partition, r.Offset, s)
		}
	}
	l, ok := r.Local.(*LogBatch)
	if ok && l.ours {
		l.named.Do(func() { nameLogs(l.records, r, first) })
		return l.records, nil
	}
	var records []kemi.LogRecord
	if ok {
		records = slices.Clone(l.records)
	} else {
		s, err := logsText(r)
		if err == nil {
			records, err = DecodeOTLPLogsText(s)
		}
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "logs at %d/%d: %w", r.Partition, r.Offset, err)
		}
	}
	nameLogs(records, r, first)
	return records, nil
}

// nameLogs sets the project and IDs of the log records of r.
func nameLogs(records []kemi.LogRecord, r *bus.Record, first int) {
	project, batch := r.Header(HeaderProject), r.Header(HeaderBatch)
	prefix := []byte(batch + "~")
	if batch == "" {
		prefix = append(appendHex(strconv.AppendInt(nil, int64(r.Partition), 10), '-', r.Offset, 11), '-')
	}
	// All IDs are cut from one string. Only the last ones may be longer than the rest.
	all := make([]byte, 0, len(records)*(len(prefix)+5)+16)
	for i := range records {
		all = appendHex(append(all, prefix...), 0, int64(first+i), 5)
	}
	ids := text(all) // nobody writes to it any more
	for i := range records {
		n := len(prefix) + max(5, (bits.Len64(uint64(first+i))+3)/4)
		records[i].ID, records[i].Project = ids[:n], project
		ids = ids[n:]
	}
}

// logsText is the value of a record, unpacked: a string that is its own.
func logsText(r *bus.Record) (string, error) {
	switch enc := r.Header(HeaderEncoding); enc {
	case "":
		return string(r.Value), nil
	case EncodingSnappy:
		b, err := unpackLogs(r.Value)
		return text(b), err
	default:
		return "", kemi.Errorf(kemi.ErrInvalid, "%s %q: must be %s or none", HeaderEncoding, enc, EncodingSnappy)
	}
}

// appendHex appends sep, if it is not 0, and n in hexadecimal with at least width digits, so that text sorts as numbers do.
func appendHex(b []byte, sep byte, n int64, width int) []byte {
	if sep != 0 {
		b = append(b, sep)
	}
	const digits = "0123456789abcdef"
	for w := max(width, (bits.Len64(uint64(n))+3)/4) - 1; w >= 0; w-- {
		b = append(b, digits[n>>(4*w)&15])
	}
	return b
}

// DecodeOTLPLogs reads an OTLP ExportLogsServiceRequest in protobuf, whoever wrote it. Attributes of the resource become the stream, those of the
// record and of its scope (with scope.name and scope.version) the attributes; what is not text becomes text: numbers in decimal, arrays
// and maps as JSON. A record without a time has the time at which it was observed, or 0. ID and Project are empty.
func DecodeOTLPLogs(body []byte) ([]kemi.LogRecord, error) { return DecodeOTLPLogsText(string(body)) }

// DecodeOTLPLogsText is DecodeOTLPLogs of a text of which the records' texts are parts.
func DecodeOTLPLogsText(body string) ([]kemi.LogRecord, error) {
	n, err := countRecords(body)
	if err != nil {
		return nil, err
	}
	d := logsDecoder{records: make([]kemi.LogRecord, 0, n)}
	err = eachField(body, func(f wireField) error {
		if f.number == requestResourceLogs && f.kind == wireBytes {
			return d.resourceLogs(f.bytes)
		}
		return nil
	})
	return d.records, err
}

// countRecords is how many records the request has.
func countRecords(s string) (n int, err error) {
	err = eachField(s, func(f wireField) error {
		if f.number != requestResourceLogs || f.kind != wireBytes {
			return nil
		}
		return eachField(f.bytes, func(f wireField) error {
			if f.number != resourceLogsScope || f.kind != wireBytes {
				return nil
			}
			return eachField(f.bytes, func(f wireField) error {
				if f.number == scopeLogsRecords && f.kind == wireBytes {
					n++
				}
				return nil
			})
		})
	})
	return n, err
}

type logsDecoder struct {
	records []kemi.LogRecord
	slab    kemi.Labels // attributes of many records are cut from one allocation
}

func (d *logsDecoder) resourceLogs(s string) error {
	var stream kemi.Labels
	err := eachField(s, func(f wireField) error {
		if f.number == resourceLogsRes && f.kind == wireBytes {
			return eachField(f.bytes, func(f wireField) (err error) {
				if f.number == resourceAttributes && f.kind == wireBytes {
					stream, err = appendKeyValue(stream, f.bytes)
				}
				return err
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !sorted(stream) {
		stream = stream.Normalize()
	}
	// The scopes come in a second pass: a resource need not stand before them.
	return eachField(s, func(f wireField) error {
		if f.number == resourceLogsScope && f.kind == wireBytes {
			return d.scopeLogs(f.bytes, stream)
		}
		return nil
	})
}

func (d *logsDecoder) scopeLogs(s string, stream kemi.Labels) error {
	var scope kemi.Labels
	err := eachField(s, func(f wireField) error {
		if f.number == scopeLogsScope && f.kind == wireBytes {
			return eachField(f.bytes, func(f wireField) (err error) {
				switch {
				case f.kind != wireBytes:
				case f.number == scopeName:
					scope = append(scope, kemi.Label{Name: "scope.name", Value: f.bytes})
				case f.number == scopeVersion:
					scope = append(scope, kemi.Label{Name: "scope.version", Value: f.bytes})
				case f.number == scopeAttributes:
					scope, err = appendKeyValue(scope, f.bytes)
				}
				return err
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return eachField(s, func(f wireField) error {
		if f.number == scopeLogsRecords && f.kind == wireBytes {
			return d.record(f.bytes, stream, scope)
		}
		return nil
	})
}

func (d *logsDecoder) record(s string, stream, scope kemi.Labels) error {
	r := kemi.LogRecord{Stream: stream}
	var observed kemi.Nanos
	var level, event string
	begin := len(d.slab)
	d.slab = append(d.slab, scope...)
	for len(s) > 0 {
		f, rest, err := nextField(s)
		if err != nil {
			return err
		}
		s = rest
		switch {
		case f.kind == wireFixed64 && f.number == recordTime:
			r.At = kemi.Nanos(f.value)
		case f.kind == wireFixed64 && f.number == recordObserved:
			observed = kemi.Nanos(f.value)
		case f.kind == wireVarint && f.number == recordSeverity:
			if r.Severity = 0; f.value <= maxSeverity {
				r.Severity = kemi.Severity(f.value)
			}
		case f.kind != wireBytes:
		case f.number == recordSeverityText:
			level = f.bytes
		case f.number == recordBody:
			if r.Body, err = anyText(f.bytes, 0); err != nil {
				return err
			}
		case f.number == recordAttributes:
			if d.slab, err = appendKeyValue(d.slab, f.bytes); err != nil {
				return err
			}
		case f.number == recordTraceID:
			r.TraceID = hexID(f.bytes, 16)
		case f.number == recordSpanID:
			r.SpanID = hexID(f.bytes, 8)
		case f.number == recordEventName:
			event = f.bytes
		}
	}
	if r.At == 0 {
		r.At = observed
	}
	if r.Severity == 0 && level != "" {
		if r.Severity = kemi.ParseSeverity(level); r.Severity == 0 {
			d.slab = append(d.slab, kemi.Label{Name: "level", Value: level})
		}
	}
	if event != "" {
		d.slab = append(d.slab, kemi.Label{Name: "event.name", Value: event})
	}
	if attrs := d.slab[begin:]; len(attrs) > 0 {
		if !sorted(attrs) {
			attrs = attrs.Normalize()
		}
		if len(attrs) > 0 {
			r.Attrs = attrs[:len(attrs):len(attrs)]
		}
	}
	d.records = append(d.records, r)
	if cap(d.slab)-len(d.slab) < 16 {
		d.slab = make(kemi.Labels, 0, min(512, 8*(cap(d.records)-len(d.records))))
	}
	return nil
}

// sorted tells whether ls need no Normalize.
func sorted(ls kemi.Labels) bool {
	for i, l := range ls {
		if l.Value == "" || i > 0 && ls[i-1].Name >= l.Name {
			return false
		}
	}
	return true
}

// hexID is the ID in hexadecimal, or "" if it has not n bytes or all are zero, which means that there is none.
func hexID(id string, n int) string {
	if len(id) != n || strings.Trim(id, "\x00") == "" {
		return ""
	}
	var buf [32]byte
	return string(hex.AppendEncode(buf[:0], []byte(id)))
}

func appendKeyValue(ls kemi.Labels, s string) (kemi.Labels, error) {
	var l kemi.Label
	for len(s) > 0 {
		f, rest, err := nextField(s)
		if err != nil {
			return ls, err
		}
		s = rest
		switch {
		case f.kind != wireBytes:
		case f.number == keyValueKey:
			l.Name = f.bytes
		case f.number == keyValueValue:
			if l.Value, err = anyText(f.bytes, 0); err != nil {
				return ls, err
			}
		}
	}
	return append(ls, l), nil
}
