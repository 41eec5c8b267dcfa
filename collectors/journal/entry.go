package journal

import (
	"encoding/json"
	"strconv"
	"strings"

	"kemi"
)

// fields are those that are asked for; what begins with two underscores comes always.
const fields = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,_SYSTEMD_USER_UNIT,_TRANSPORT,_PID,_COMM,CONTAINER_NAME,CODE_FILE,CODE_LINE,ERRNO"

// printed is an entry as journalctl prints it. A value is a string, an array of numbers if it is not text, or an array of values
// if the field stands in the entry several times.
type printed struct {
	Cursor    string          `json:"__CURSOR"`
	Realtime  string          `json:"__REALTIME_TIMESTAMP"`
	Message   json.RawMessage `json:"MESSAGE"`
	Priority  json.RawMessage `json:"PRIORITY"`
	Ident     json.RawMessage `json:"SYSLOG_IDENTIFIER"`
	Unit      json.RawMessage `json:"_SYSTEMD_UNIT"`
	UserUnit  json.RawMessage `json:"_SYSTEMD_USER_UNIT"`
	Transport json.RawMessage `json:"_TRANSPORT"`
	PID       json.RawMessage `json:"_PID"`
	Comm      json.RawMessage `json:"_COMM"`
	Container json.RawMessage `json:"CONTAINER_NAME"`
	CodeFile  json.RawMessage `json:"CODE_FILE"`
	CodeLine  json.RawMessage `json:"CODE_LINE"`
	Errno     json.RawMessage `json:"ERRNO"`
}

// parsed is what an entry says.
type parsed struct {
	record   kemi.LogRecord
	service  string
	unit     string
	position Position
}

// parse reads a line of journalctl -o json.
func parse(line []byte) (parsed, error) {
	var p printed
	if err := json.Unmarshal(line, &p); err != nil {
		return parsed{}, kemi.Errorf(kemi.ErrInvalid, "entry of the journal: %w", err)
	}
	micros, err := strconv.ParseInt(p.Realtime, 10, 64)
	if err != nil || micros <= 0 || micros > 1<<53 || p.Cursor == "" {
		return parsed{}, kemi.Errorf(kemi.ErrInvalid, "entry of the journal: cursor %.80q, time %.40q", p.Cursor, p.Realtime)
	}
	out := parsed{position: Position{Cursor: p.Cursor, At: micros}}
	out.record.At = kemi.Nanos(micros * 1000)
	out.record.Body = text(p.Message)
	if n := text(p.Priority); len(n) == 1 && n[0] >= '0' && n[0] <= '7' {
		out.record.Severity = priorities[n[0]-'0']
	}
	ident := text(p.Ident)
	for _, u := range []json.RawMessage{p.UserUnit, p.Unit} {
		if out.unit == "" {
			out.unit = text(u)
		}
	}
	// A session or a user's manager is no service: who wrote says more.
	name, isService := strings.CutSuffix(out.unit, ".service")
	if !isService || strings.HasPrefix(name, "user@") {
		name = ""
	}
	for _, s := range []string{name, ident, text(p.Comm), text(p.Transport)} {
		if out.service == "" {
			out.service = s
		}
	}
	out.record.Attrs = kemi.LabelsOf("transport", text(p.Transport), "pid", text(p.PID), "comm", text(p.Comm), "identifier", ident,
		"container", text(p.Container), "code.file", text(p.CodeFile), "code.line", text(p.CodeLine), "errno", text(p.Errno))
	return out, nil
}

// priorities are syslog's, 0 emergency … 7 debug.
var priorities = [8]kemi.Severity{kemi.SeverityFatal, kemi.SeverityError + 2, kemi.SeverityError + 1, kemi.SeverityError,
	kemi.SeverityWarn, kemi.SeverityInfo + 1, kemi.SeverityInfo, kemi.SeverityDebug}

// text is the value of a field as bytes. Of a field that stands several times it is all values, one on a line.
func text(v json.RawMessage) string {
	if len(v) == 0 {
		return ""
	}
	var s string
	if v[0] == '"' && json.Unmarshal(v, &s) == nil {
		return s
	}
	var numbers []uint8
	if b, ok := bytesOf(v); ok {
		numbers = b
		return string(numbers)
	}
	var several []json.RawMessage
	if json.Unmarshal(v, &several) != nil {
		return ""
	}
	all := make([]string, 0, len(several))
	for _, one := range several {
		if len(one) > 0 && (one[0] == '"' || one[0] == '[') {
			if b, ok := bytesOf(one); ok {
				all = append(all, string(b))
			} else if json.Unmarshal(one, &s) == nil {
				all = append(all, s)
			}
		}
	}
	return strings.Join(all, "\n")
}

// bytesOf reads an array of numbers from 0 to 255.
func bytesOf(v json.RawMessage) ([]byte, bool) {
	var numbers []uint16
	if v[0] != '[' || json.Unmarshal(v, &numbers) != nil {
		return nil, false
	}
	b := make([]byte, len(numbers))
	for i, n := range numbers {
		if n > 255 {
			return nil, false
		}
		b[i] = byte(n)
	}
	return b, true
}
