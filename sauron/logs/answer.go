package logs

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"kemi"
	"kemi/pipeline/store"
)

// appendRecord writes a record as JSON:
//
//	{"id": "…", "at": 1700000000123, "ns": "1700000000123456789", "time": "2023-11-14T22:13:20.123456789Z", "level": "error", "severity": 17,
//	 "stream": {…}, "attrs": {…}, "body": "…", "traceId": "…", "spanId": "…"}
//
// ns is text since JavaScript's numbers do not hold it. Bytes of the body that are not UTF-8 stand as U+FFFD in body, and then
// bodyBase64 has the body as it is.
func appendRecord(b []byte, r *kemi.LogRecord) []byte {
	b = appendString(append(b, `{"id":`...), r.ID)
	b = strconv.AppendInt(append(b, `,"at":`...), int64(r.At.Millis()), 10)
	b = strconv.AppendInt(append(b, `,"ns":"`...), int64(r.At), 10)
	b = r.At.Time().AppendFormat(append(b, `","time":"`...), time.RFC3339Nano)
	b = appendString(append(b, `","level":`...), r.Severity.String())
	if r.Severity != 0 {
		b = strconv.AppendUint(append(b, `,"severity":`...), uint64(r.Severity), 10)
	}
	b = appendLabels(append(b, `,"stream":`...), r.Stream)
	b = appendLabels(append(b, `,"attrs":`...), r.Attrs)
	b = appendString(append(b, `,"body":`...), r.Body)
	if !utf8.ValidString(r.Body) {
		b = base64.StdEncoding.AppendEncode(append(b, `,"bodyBase64":"`...), []byte(r.Body))
		b = append(b, '"')
	}
	if r.TraceID != "" {
		b = appendString(append(b, `,"traceId":`...), r.TraceID)
	}
	if r.SpanID != "" {
		b = appendString(append(b, `,"spanId":`...), r.SpanID)
	}
	return append(b, '}')
}

func appendLabels(b []byte, ls kemi.Labels) []byte {
	b = append(b, '{')
	for i, l := range ls {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, l.Name), ':')
		b = appendString(b, l.Value)
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string; what is not UTF-8 becomes U+FFFD. Separators that end lines in JavaScript are escaped, as nothing
// is lost by it.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\t':
				b = append(b, '\\', 't')
			case '\r':
				b = append(b, '\\', 'r')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || r == '\u2028' || r == '\u2029' {
			b = append(b, s[from:i]...)
			switch r {
			case '\u2028':
				b = append(b, `\u2028`...)
			case '\u2029':
				b = append(b, `\u2029`...)
			default:
				b = append(b, "\ufffd"...)
			}
			from = i + n
		}
		i += n
	}
	return append(append(b, s[from:]...), '"')
}

// stats is what an answer says of itself.
type stats struct {
	Records int    `json:"records"`         // in the answer
	Bytes   int64  `json:"bytes,omitempty"` // of their bodies
	TookMS  int64  `json:"tookMs"`
	Views   []view `json:"views"`
}

// view is a store that answered, and how fresh it is.
type view struct {
	Name     string      `json:"name"`
	AsOf     kemi.Millis `json:"asOf"`
	Complete bool        `json:"complete"`
	Reason   string      `json:"reason,omitempty"`
}

// summary is the end of every answer.
type summary struct {
	Stats    stats       `json:"stats"`
	AsOf     kemi.Millis `json:"asOf"`
	Complete bool        `json:"complete"`
	Reason   string      `json:"reason,omitempty"`
	Next     string      `json:"next,omitempty"` // the cursor of the next page
	Warnings []string    `json:"warnings,omitempty"`
}

// summarize takes the freshness that was read before the store was asked: what the answer holds is at least as new.
func summarize(f store.Freshness, warnings []string, began, now time.Time) summary {
	return summary{
		Stats: stats{TookMS: now.Sub(began).Milliseconds(), Views: []view{{Name: "speed", AsOf: f.AsOf, Complete: f.Complete, Reason: f.Reason}}},
		AsOf:  f.AsOf, Complete: f.Complete, Reason: f.Reason, Warnings: warnings,
	}
}

// cut says that the answer lacks something that was asked for.
func (s *summary) cut(reason string) {
	s.Complete = false
	if s.Reason != "" {
		reason = s.Reason + "; " + reason
	}
	s.Reason = reason
}

// appendSummary writes the members of s behind those of an object that is open.
func appendSummary(b []byte, s summary) []byte {
	j, err := json.Marshal(s)
	if err != nil {
		return append(b, '}') // cannot be: it is made of numbers and strings
	}
	return append(append(b, ','), j[1:]...)
}
