package push

import (
	"fmt"
	"net/http"
	"strings"

	"kemi"
)

// role is what a member of a JSON line is taken for.
type role uint8

const (
	roleAttr role = iota
	roleMessage
	roleTime
	roleLevel
	roleStream
	roleTrace
	roleSpan
	roles
)

// meaning is the role of a name, and its rank: of several members with one role the lowest counts and the others are attributes.
type meaning struct {
	role role
	rank int
}

var (
	messageNames = []string{"_msg", "msg", "message", "body", "log"}
	timeNames    = []string{"_time", "time", "ts", "timestamp", "@timestamp"}
	streamNames  = []string{"host", "service", "app", "container", "namespace", "pod", "unit", "env", "zone"}
	traceNames   = []string{"trace_id", "traceId", "traceID", "trace.id"}
	spanNames    = []string{"span_id", "spanId", "spanID", "span.id"}
)

// meanings is what the names mean; what the sender says comes before what is usual.
func meanings(messages, times, streams []string) map[string]meaning {
	m := make(map[string]meaning, 40)
	add := func(r role, lists ...[]string) {
		rank := 0
		for _, list := range lists {
			for _, name := range list {
				if _, ok := m[name]; !ok && name != "" {
					m[name] = meaning{r, rank}
				}
				rank++
			}
		}
	}
	add(roleMessage, messages)
	add(roleTime, times)
	add(roleStream, streams)
	add(roleMessage, messages, messageNames)
	add(roleTime, times, timeNames)
	if streams == nil {
		add(roleStream, streamNames)
	}
	add(roleLevel, levelNames)
	add(roleTrace, traceNames)
	add(roleSpan, spanNames)
	return m
}

var usualMeanings = meanings(nil, nil, nil)

// meaningsOf is what the names mean in this request. The parameters are ours and those that shippers send to VictoriaLogs; each may be a
// header as well.
func meaningsOf(r *http.Request) map[string]meaning {
	query := r.URL.Query()
	list := func(param, header string) []string {
		v := query.Get(param)
		for _, other := range []string{query.Get("_" + param), r.Header.Get("X-Kemi-" + header), r.Header.Get("VL-" + header)} {
			if v == "" {
				v = other
			}
		}
		if v == "" {
			return nil
		}
		names := strings.Split(v, ",")
		for i := range names {
			names[i] = strings.TrimSpace(names[i])
		}
		return names
	}
	messages, times, streams := list("msg_field", "Msg-Field"), list("time_field", "Time-Field"), list("stream_fields", "Stream-Fields")
	if messages == nil && times == nil && streams == nil {
		return usualMeanings
	}
	return meanings(messages, times, streams)
}

const protocolJSON = "jsonlines"

// serveJSONLines takes one JSON object a line, or one array of objects.
func (p *Push) serveJSONLines(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	in, err := p.receive(w, r, id, protocolJSON, r.Header.Get("Content-Encoding"), func(in *intake, data string) error {
		l := lineReader{in: in, names: meaningsOf(r)}
		l.all(data)
		return nil
	})
	if err != nil {
		p.fail(w, kemi.DialectKEMI, protocolJSON, err)
		return
	}
	if in.refused == 0 {
		p.answered(protocolJSON, http.StatusNoContent)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	p.answered(protocolJSON, http.StatusBadRequest)
	kemi.WriteJSON(w, http.StatusBadRequest, map[string]any{
		"type": "about:blank", "title": http.StatusText(http.StatusBadRequest), "status": http.StatusBadRequest, "detail": in.complaint().Error(),
		"accepted": in.taken, "rejected": in.refused, "errors": in.errs,
	})
}

// lineReader makes records of JSON lines.
type lineReader struct {
	in    *intake
	names map[string]meaning
	j     jsonReader

	// Of the line being read:
	found  [roles]kemi.Label
	rank   [roles]int
	has    [roles]bool
	silent bool // there is a message, and it is empty
	turn   int  // the member that comes
	stream kemi.Labels
	path   []byte // of names, in nested objects

	slab  kemi.Labels // attributes of many records are cut from one allocation
	begin int         // where those of the line begin

	usual []named // the members of the line before
}

// all reads the whole text.
func (l *lineReader) all(text string) {
	if trimmed := strings.TrimLeft(text, " \t\r\n"); strings.HasPrefix(trimmed, "[") {
		l.elements(trimmed)
		return
	}
	l.in.roomFor(min(strings.Count(text, "\n"), len(text)/64) + 1)
	for n := 1; len(text) > 0; n++ {
		line := text
		if end := strings.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = ""
		}
		l.j.s, l.j.i = line, 0
		for l.j.more() {
			if err := l.record(); err != nil {
				l.in.refuse(fmt.Sprintf("line %d", n), err)
				break
			}
		}
	}
}

// elements reads an array of objects. What follows a broken one cannot be read.
func (l *lineReader) elements(text string) {
	l.j.s = text
	n := 0
	err := l.j.array(func() error {
		n++
		from := l.j.i
		err := l.record()
		if err == nil {
			return nil
		}
		// Wrong or broken? If it can be skipped, it was only wrong.
		l.j.i = from
		if _, broken := l.j.skip(0); broken != nil {
			return broken
		}
		l.in.refuse(fmt.Sprintf("element %d", n), err)
		return nil
	})
	if err == nil && l.j.more() {
		err = l.j.errorf("expected the end")
	}
	if err != nil {
		l.in.refuse(fmt.Sprintf("element %d and what follows", n), err)
	}
}

// record reads one object and takes it.
func (l *lineReader) record() error {
	if l.j.peek() != '{' {
		return l.j.errorf("expected an object {…}")
	}
	from := l.j.i
	l.found, l.has = [roles]kemi.Label{}, [roles]bool{}
	l.stream, l.path, l.silent, l.turn = l.stream[:0], l.path[:0], false, 0
	if cap(l.slab)-len(l.slab) < 32 {
		l.slab = make(kemi.Labels, 0, 1024)
	}
	l.begin = len(l.slab)
	if err := l.members(0); err != nil {
		return err
	}
	r := kemi.LogRecord{At: l.in.now, Body: l.found[roleMessage].Value}
	if !l.has[roleMessage] && !l.silent {
		// No message: the object itself is the text.
		if len(l.slab) == l.begin && len(l.stream) == 0 {
			return kemi.Errorf(kemi.ErrInvalid, "an object with nothing in it: one of %s holds the message", strings.Join(messageNames, ", "))
		}
		r.Body = strings.TrimRight(l.j.s[from:l.j.i], "\r")
	}
	if t := l.found[roleTime]; l.has[roleTime] {
		at, err := parseLogTime(t.Value)
		if err != nil {
			return fmt.Errorf("field %s: %w", t.Name, err)
		}
		r.At = at
	}
	if lv := l.found[roleLevel]; l.has[roleLevel] {
		r.Severity = levelOf(lv.Name, lv.Value)
		if !saidByLevel(lv, r.Severity) {
			l.attr(lv.Name, lv.Value)
		}
	}
	r.TraceID, r.SpanID = l.id(roleTrace, 32), l.id(roleSpan, 16)
	if attrs := l.slab[l.begin:]; len(attrs) > 0 {
		if !ordered(attrs) {
			attrs = attrs.Normalize()
		}
		l.slab = l.slab[:l.begin+len(attrs)]
		r.Attrs = attrs[:len(attrs):len(attrs)]
	}
	if len(l.stream) > 0 {
		known, err := l.in.shared(l.stream)
		if err != nil {
			return err
		}
		r.Stream = known.labels
		if r.Severity == 0 {
			r.Severity = known.severity
		}
	}
	return l.in.take(&r)
}

// id is a trace or span ID of n hexadecimal digits; one that is something else becomes an attribute.
func (l *lineReader) id(r role, n int) string {
	f := l.found[r]
	if !l.has[r] {
		return ""
	}
	if id := hexID(f.Value, n); id != "" {
		if (r == roleTrace && f.Name != "trace_id") || (r == roleSpan && f.Name != "span_id") {
			l.attr(f.Name, f.Value) // also found under the sender's name
		}
		return id
	}
	l.attr(f.Name, f.Value)
	return ""
}

// hexID is an ID of n hexadecimal digits in lower case, or "" if it is none.
func hexID(s string, n int) string {
	if len(s) != n || strings.Trim(s, "0") == "" {
		return ""
	}
	for i := range len(s) {
		if c := s[i] | 0x20; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return strings.ToLower(s)
}

func (l *lineReader) attr(name, value string) {
	if value != "" {
		l.slab = append(l.slab, kemi.Label{Name: name, Value: value})
	}
}

// members reads the members of an object, those of objects in it with their names joined by points.
func (l *lineReader) members(depth int) error {
	if depth > maxJSONDepth {
		return kemi.Errorf(kemi.ErrInvalid, "JSON more than %d levels deep", maxJSONDepth)
	}
	j := &l.j
	if err := j.expect('{'); err != nil {
		return err
	}
	if j.peek() == '}' {
		j.i++
		return nil
	}
	prefix := len(l.path)
	for {
		j.peek()
		name, err := j.str()
		if err != nil {
			return err
		}
		if err := j.expect(':'); err != nil {
			return err
		}
		l.path = append(l.path[:prefix], name...)
		if depth > 0 {
			name = string(l.path)
		} else if name == "" {
			name = "_"
		}
		if err := l.member(name, depth); err != nil {
			return err
		}
		if j.peek() != ',' {
			return j.expect('}')
		}
		j.i++
	}
}

// member reads the value of a member.
func (l *lineReader) member(name string, depth int) error {
	m := l.meaning(name)
	if l.j.peek() == '{' && m.role != roleMessage {
		l.path = append(l.path, '.')
		return l.members(depth + 1)
	}
	value, err := l.j.text(depth)
	if err != nil || value == "" {
		l.silent = l.silent || m.role == roleMessage
		return err
	}
	switch m.role {
	case roleAttr:
		l.attr(name, value)
	case roleStream:
		l.stream = append(l.stream, kemi.Label{Name: name, Value: value})
	default:
		if !l.has[m.role] {
			l.has[m.role], l.rank[m.role], l.found[m.role] = true, m.rank, kemi.Label{Name: name, Value: value}
			return nil
		}
		if m.rank > l.rank[m.role] {
			l.attr(name, value)
			return nil
		}
		if m.rank < l.rank[m.role] {
			l.attr(l.found[m.role].Name, l.found[m.role].Value)
		}
		l.rank[m.role], l.found[m.role] = m.rank, kemi.Label{Name: name, Value: value}
	}
	return nil
}

// meaning is what the name means. Lines mostly have the same members in the same order: the one that followed the last time is looked at first.
func (l *lineReader) meaning(name string) meaning {
	if l.turn < len(l.usual) && l.usual[l.turn].name == name {
		l.turn++
		return l.usual[l.turn-1].meaning
	}
	m := l.names[name]
	if l.turn < mostUsual {
		l.usual = append(l.usual[:l.turn], named{name, m})
		l.turn++
	}
	return m
}

// mostUsual is how many members of a line are remembered.
const mostUsual = 32

// named is a name and what it means.
type named struct {
	name string
	meaning
}

// ordered tells whether ls need no Normalize; none of them is empty.
func ordered(ls kemi.Labels) bool {
	for i := 1; i < len(ls); i++ {
		if ls[i-1].Name >= ls[i].Name {
			return false
		}
	}
	return true
}
