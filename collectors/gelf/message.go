package gelf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"kemi"
	"kemi/collectors/push"
)

// severities are those of syslog's levels.
var severities = [8]kemi.Severity{kemi.SeverityFatal, kemi.SeverityError + 2, kemi.SeverityError + 1, kemi.SeverityError,
	kemi.SeverityWarn, kemi.SeverityInfo + 1, kemi.SeverityInfo, kemi.SeverityDebug}

// parse makes a record of a message; At is 0 if it has no time. It has at most most fields. peer is the host of messages that name none.
func parse(b []byte, peer string, most int) (kemi.LogRecord, error) {
	var none kemi.LogRecord
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return none, kemi.Errorf(kemi.ErrInvalid, "must be a JSON object")
	}
	var (
		fields      []kemi.Label
		short, full string
		at          kemi.Nanos
		severity    kemi.Severity
		host        = peer
	)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return none, kemi.Errorf(kemi.ErrInvalid, "broken JSON: %w", err)
		}
		name, _ := key.(string) // of an object it is one
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return none, kemi.Errorf(kemi.ErrInvalid, "field %.64q: broken JSON: %w", name, err)
		}
		v := text(raw)
		switch name {
		case "version":
		case "host":
			if v != "" {
				host = v
			}
		case "short_message":
			short = v
		case "full_message":
			full = v
		case "timestamp":
			if at, err = timeOf(v); err != nil {
				return none, err
			}
		case "level":
			if len(v) != 1 || v[0] < '0' || v[0] > '7' {
				return none, kemi.Errorf(kemi.ErrInvalid, "level: %.32q: must be 0 (emergency) to 7 (debug)", v)
			}
			severity = severities[v[0]-'0']
		default:
			if name = strings.TrimPrefix(name, "_"); v != "" && name != "" {
				fields = append(fields, kemi.Label{Name: name, Value: v})
			}
		}
		if len(fields) > most {
			return none, kemi.Errorf(kemi.ErrInvalid, "more than %d fields (ingest.maxAttributes)", most)
		}
	}
	if _, err := d.Token(); err != nil {
		return none, kemi.Errorf(kemi.ErrInvalid, "broken JSON: it ends too early")
	}
	if d.More() {
		return none, kemi.Errorf(kemi.ErrInvalid, "something follows the object")
	}
	if short == "" && full == "" {
		return none, kemi.Errorf(kemi.ErrInvalid, "short_message: is missing")
	}
	body := full
	if !strings.HasPrefix(full, short) {
		body = short + "\n" + full
	}
	if full == "" {
		body = short
	}
	// This name comes before all others that mean the message.
	r := push.Record(append(fields, kemi.Label{Name: "_msg", Value: body}), at)
	if severity != 0 {
		r.Severity = severity
	}
	if host != "" {
		r.Stream = r.Stream.With("host", host)
	}
	return r, nil
}

// text is a value as text: strings without quotes, all else as it is written; null is "".
func text(raw json.RawMessage) string {
	if len(raw) > 1 && raw[0] == '"' {
		return unquote(raw[1 : len(raw)-1])
	}
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}

// unquote is what stands in a string. Bytes that are not UTF-8 stay as they are, which encoding/json would replace.
func unquote(b []byte) string {
	var out []byte
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return string(append(out, b...))
		}
		out, b = append(out, b[:i]...), b[i:]
		n := 0 // escapes in a row: two may make one character
		for n < len(b) && b[n] == '\\' {
			if n += 2; n-1 < len(b) && b[n-1] == 'u' {
				n += 4
			}
		}
		n = min(n, len(b))
		var s string
		_ = json.Unmarshal(append(append([]byte{'"'}, b[:n]...), '"'), &s) // it was read as a string before
		out, b = append(out, s...), b[n:]
	}
}

// timeOf reads seconds since 1970, mostly with a fraction.
func timeOf(s string) (kemi.Nanos, error) {
	wrong := kemi.Errorf(kemi.ErrInvalid, "timestamp: %.40q: must be seconds since 1970", s)
	whole, fraction, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.Trim(fraction, "0123456789") != "" {
		f, err := strconv.ParseFloat(s, 64) // 1.7e9
		if err != nil || math.IsNaN(f) || f < 0 || f > 1<<33 {
			return 0, wrong
		}
		return kemi.Nanos(f * 1e9), nil
	}
	if n < 0 || n > 1<<33 {
		return 0, wrong
	}
	nanos, _ := strconv.Atoi((fraction + "000000000")[:9])
	return kemi.Nanos(n*1e9 + int64(nanos)), nil
}

// odd is the record of what is no message.
func odd(b []byte, peer string, problem error) kemi.LogRecord {
	return kemi.LogRecord{Body: string(b), Stream: kemi.LabelsOf("host", peer), Attrs: kemi.LabelsOf("gelf.error", fmt.Sprint(problem))}
}
