package push

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// put is a request of OpenTSDB's /api/put, as it is looked through.
type put struct {
	p              *Push
	oldest, newest int64
	details        bool
	text           string // the body, which datapoint refers to
	out            *Request
	ctx            context.Context //nolint:containedctx // of the request

	good, failed int
	limited      int        // of the failed: there was no room for their series
	first        string     // what is wrong with the first that failed
	errors       []putError // with details only
	point        datapoint
	labels       kemi.Labels
	key          []byte
}

// datapoint is a point as it was sent.
type datapoint struct {
	metric, timestamp, value     string
	tags                         kemi.Labels
	hasMetric, hasValue, hasTags bool   // it was there, and not null
	nullTag                      string // a tag whose value is null
	hasNull                      bool
	null                         bool   // there is no point at all
	wrong                        string // what is wrong already
}

// putError is an entry of errors in the answer to ?details.
type putError struct {
	Datapoint *toldPoint `json:"datapoint"`
	Error     string     `json:"error"`
}

// toldPoint repeats a point; what was null or not there is left out, but for the time.
type toldPoint struct {
	Metric    *string             `json:"metric,omitempty"`
	Timestamp any                 `json:"timestamp"`
	Value     *string             `json:"value,omitempty"`
	Tags      *map[string]*string `json:"tags,omitempty"`
}

// maxDetails is how many errors ?details tells.
const maxDetails = 10_000

// putSeed keeps what this protocol calls series apart from what others do.
const putSeed = 0x5be0_cd19_137e_2179

// putOptions are the parameters of a put. They have no value, or any: that they are there is enough, as with OpenTSDB.
type putOptions struct {
	details, summary, sync bool
	timeout                time.Duration
}

func putOptionsOf(r *http.Request) (putOptions, error) {
	var o putOptions
	if r.URL.RawQuery == "" {
		return o, nil
	}
	q := r.URL.Query()
	if v := q.Get("serializer"); v != "" && v != "json" {
		return o, &putRefusal{message: "Requested serializer was not found", details: "Could not find a serializer with the name: " + clip(v, maxTold)}
	}
	o.details, o.summary, o.sync = q.Has("details"), q.Has("summary"), q.Has("sync")
	if v := q.Get("sync_timeout"); v != "" {
		ms, err := strconv.Atoi(v)
		if err != nil || ms < 0 {
			return o, kemi.Errorf(kemi.ErrInvalid, "parameter sync_timeout: %s: must be milliseconds", quote(v))
		}
		o.timeout = time.Duration(ms) * time.Millisecond
	}
	return o, nil
}

func (p *Push) servePut(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	o, err := putOptionsOf(r)
	if err == nil && o.sync && p.waitApplied == nil {
		err = kemi.Errorf(kemi.ErrInvalid, "parameter sync: this server does not answer queries of metrics itself")
	}
	var t *put
	if err == nil {
		t, err = p.put(w, r, id, o)
	}
	if told := new(putRefusal); errors.As(err, &told) {
		p.answered(protocolPut, http.StatusBadRequest)
		refusal := map[string]any{"code": http.StatusBadRequest, "message": told.message}
		if told.details != "" {
			refusal["details"] = told.details
		}
		kemi.WriteJSON(w, http.StatusBadRequest, map[string]any{"error": refusal})
		return
	}
	if err != nil {
		p.fail(w, kemi.DialectOpenTSDB, protocolPut, err)
		return
	}
	code := http.StatusNoContent
	switch {
	case t.failed > 0 && t.failed == t.limited:
		// Nothing is wrong with what was sent: a sender may come again with it, though not at once.
		code = http.StatusTooManyRequests
		w.Header().Set("Retry-After", strconv.Itoa(int(limitedFor.Seconds())))
	case t.failed > 0:
		code = http.StatusBadRequest
	case o.details || o.summary:
		code = http.StatusOK
	}
	p.answered(protocolPut, code)
	switch {
	case o.details || o.summary:
		summary := map[string]any{"success": t.good, "failed": t.failed}
		if o.timeout > 0 {
			summary["timeouts"] = 0
		}
		if o.details {
			summary["errors"] = append([]putError{}, t.errors...)
		}
		kemi.WriteJSON(w, code, summary)
	case t.failed > 0:
		kemi.WriteJSON(w, code, map[string]any{"error": map[string]any{
			"code": code, "message": "One or more data points had errors",
			"details": fmt.Sprintf("%d of %d failed, the others are stored. Append \"details\" to the put request to see what is wrong. The first: %s", t.failed, t.failed+t.good, t.first),
		}})
	default:
		w.WriteHeader(code)
	}
}

// put takes what is good. An error means that nothing was taken, or that it is not known.
func (p *Push) put(w http.ResponseWriter, r *http.Request, id kemi.Identity, o putOptions) (*put, error) {
	batch, err := batchOf(r)
	if err != nil {
		return nil, err
	}
	b, err := p.readBody(w, r)
	if err != nil {
		return nil, err
	}
	defer b.release()
	p.m.bytes.WithLabelValues(protocolPut).Add(float64(len(b.bytes())))
	if err := b.unpack(r.Header.Get("Content-Encoding")); err != nil {
		return nil, err
	}
	// Points become a remote-write body, about as large as this one.
	if err := b.take(int64(len(b.bytes()))); err != nil {
		return nil, err
	}
	out, err := p.Begin(id, protocolPut, batch, sourceOf(r, id))
	if err != nil {
		return nil, err
	}
	defer out.End()
	l := p.limits()
	t := &put{p: p, details: o.details, text: string(b.bytes()), out: out, ctx: r.Context(), oldest: int64(l.Oldest), newest: int64(l.Newest)}
	if err := t.parse(); err != nil {
		return nil, err
	}
	if t.failed > 0 {
		p.m.refused.WithLabelValues(protocolPut, "samples").Add(float64(t.failed))
	}
	if err := out.Flush(r.Context()); err != nil {
		return nil, err
	}
	done := out.Written()
	if !o.sync || !done.Published {
		return t, nil
	}
	ctx := r.Context()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	if err := p.waitApplied(ctx, bus.Metrics, done.Partition, done.Offset); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "The put call has timed out: %d points are stored but cannot be queried yet, %d failed", t.good, t.failed)
		}
		return nil, err
	}
	return t, nil
}

// parse reads one point or an array of them.
func (t *put) parse() error {
	j := &jsonReader{s: t.text}
	var err error
	switch j.peek() {
	case '[':
		err = j.array(func() error { return t.read(j) })
	case '{':
		err = t.read(j)
	default:
		if len(strings.TrimSpace(t.text)) == 0 {
			return &putRefusal{message: "Missing request content", details: "expected a point or an array of them"}
		}
		return &putRefusal{message: "The JSON must start as an object or an array", details: j.errorf("expected a point or an array of them").Error()}
	}
	if err == nil && j.more() {
		err = j.errorf("expected nothing more")
	}
	if down, ok := errors.AsType[*downError](err); ok {
		return down.error
	}
	if err != nil {
		return &putRefusal{message: "Unable to parse the given JSON", details: err.Error()}
	}
	if t.good+t.failed == 0 {
		return &putRefusal{message: "No datapoints found in content"}
	}
	return nil
}

// putRefusal is why a whole put is refused: OpenTSDB's words, and ours.
type putRefusal struct{ message, details string }

func (e *putRefusal) Error() string {
	if e.details == "" {
		return e.message
	}
	return e.message + ": " + e.details
}

func (e *putRefusal) Unwrap() error { return kemi.ErrInvalid }

// read reads one point and takes it if it is good.
func (t *put) read(j *jsonReader) error {
	t.point = datapoint{tags: t.point.tags[:0]}
	d := &t.point
	if j.peek() != '{' {
		v, err := j.skip(0)
		if err != nil {
			return err
		}
		d.null = true
		if v == "null" {
			t.fail("Unexpected null datapoint encountered in set.", 1)
		} else {
			t.fail("A point must be an object, not "+quote(v), 1)
		}
		return nil
	}
	err := j.object(func(name string) (err error) {
		switch name {
		case "metric":
			d.hasMetric = !j.isNull()
			d.metric, err = t.scalar(j, "Metric")
		case "timestamp":
			d.timestamp, err = t.scalar(j, "Timestamp")
		case "value":
			d.hasValue = !j.isNull()
			d.value, err = t.readValue(j)
		case "tags":
			err = t.readTags(j)
		default:
			_, err = j.skip(0)
		}
		return err
	})
	if err != nil {
		return err
	}
	if d.wrong == "" {
		if d.wrong, err = t.take(); err != nil {
			return &downError{err}
		}
	}
	if d.wrong != "" {
		t.fail(d.wrong, 1)
	} else {
		t.good++
	}
	return nil
}

// readValue reads a value as text: a number, a string, or what JSON has no word for.
func (t *put) readValue(j *jsonReader) (string, error) {
	j.peek()
	for _, word := range [...]string{"NaN", "Infinity", "-Infinity", "+Infinity"} {
		if strings.HasPrefix(j.s[j.i:], word) {
			j.i += len(word)
			return word, nil
		}
	}
	return t.scalar(j, "Value")
}

// scalar reads a string, or a number as it is written.
func (t *put) scalar(j *jsonReader, what string) (string, error) {
	if c := j.peek(); c == '{' || c == '[' {
		v, err := j.skip(0)
		t.point.wrong = what + " must be a string or a number, not " + quote(v)
		return "", err
	}
	return j.text(0)
}

func (t *put) readTags(j *jsonReader) error {
	if j.peek() != '{' {
		v, err := j.skip(0)
		if err == nil && v != "null" {
			t.point.wrong = "Tags must be an object of names and values, not " + quote(v)
		}
		return err
	}
	t.point.hasTags = true
	return j.object(func(name string) error {
		if j.isNull() {
			t.point.nullTag, t.point.hasNull = name, true
		}
		v, err := j.text(0)
		t.point.tags = append(t.point.tags, kemi.Label{Name: name, Value: v})
		return err
	})
}

// fail counts n failed points, and keeps what is told of the one at hand.
func (t *put) fail(what string, n int) {
	t.failed += n
	if t.first == "" {
		t.first = what
	}
	if !t.details || len(t.errors) >= maxDetails {
		return
	}
	t.errors = append(t.errors, putError{Datapoint: t.point.told(), Error: what})
}

// told is the point as an error repeats it; nil if there was none.
func (d *datapoint) told() *toldPoint {
	if d.null {
		return nil
	}
	p := &toldPoint{Timestamp: 0}
	text := func(s string) *string {
		s = clip(s, maxTold)
		return &s
	}
	if d.hasMetric {
		p.Metric = text(d.metric)
	}
	if d.hasValue {
		p.Value = text(d.value)
	}
	if n, err := strconv.ParseInt(d.timestamp, 10, 64); err == nil {
		p.Timestamp = n
	} else if d.timestamp != "" {
		p.Timestamp = clip(d.timestamp, maxTold)
	}
	if d.hasTags {
		tags := map[string]*string{}
		for _, l := range d.tags {
			tags[clip(l.Name, maxTold)] = text(l.Value)
		}
		if d.hasNull {
			tags[clip(d.nullTag, maxTold)] = nil
		}
		p.Tags = &tags
	}
	return p
}

// maxTold is how much of a text an error repeats.
const maxTold = 256

// downError is what the log says, not what is wrong with the request.
type downError struct{ error }

// take adds the point to the record, or says what is wrong with it in OpenTSDB's words where it has some. An error is the log's.
func (t *put) take() (wrong string, down error) {
	d := &t.point
	if d.metric == "" {
		return "Metric name was empty", nil
	}
	at, wrong := t.time(d.timestamp)
	if wrong != "" {
		return wrong, nil
	}
	if d.value == "" {
		return "Empty value", nil
	}
	v, ok := putNumber(d.value)
	if !ok {
		return "Unable to parse value to a number", nil
	}
	if len(d.tags) == 0 {
		return "Missing tags", nil
	}
	b, down := t.out.Points(t.ctx)
	if down != nil {
		return "", down
	}
	t.key = codec.AppendName(t.key[:0], d.metric)
	for _, l := range d.tags {
		t.key = codec.AppendName(codec.AppendName(t.key, l.Name), l.Value)
	}
	k := codec.KeyOf(t.key, putSeed)
	s := b.Known(k)
	if s == nil {
		t.labels = append(append(t.labels[:0], kemi.Label{Name: kemi.MetricName, Value: d.metric}), d.tags...)
		slices.SortFunc(t.labels, func(a, b kemi.Label) int { return strings.Compare(a.Name, b.Name) })
		if wrong := t.checkLabels(); wrong != "" {
			return wrong, nil
		}
		var err error
		if s, err = b.Define(k, t.labels); err != nil {
			if errors.Is(err, kemi.ErrLimited) {
				t.limited++
			}
			return err.Error(), nil
		}
	}
	if err := b.Add(s, kemi.Millis(at), v, 0); err != nil {
		return err.Error(), nil
	}
	return "", nil
}

// time reads a time in seconds, also with a fraction, or in milliseconds.
func (t *put) time(s string) (int64, string) {
	if s == "" {
		return 0, "Invalid timestamp"
	}
	at, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err == nil && at > 0 && at <= math.MaxUint32:
		at *= 1000
	case err == nil && at <= 0:
		return 0, "Invalid timestamp"
	case err != nil:
		f, ok := putNumber(s)
		if !ok || f <= 0 || f > math.MaxUint32 {
			return 0, "Invalid timestamp " + quote(s) + ": must be seconds or milliseconds since 1970"
		}
		at = int64(math.Round(f * 1000))
	}
	if at < t.oldest || at > t.newest {
		return 0, fmt.Sprintf("Invalid timestamp %s: must be between %s and %s", s, kemi.Millis(t.oldest).Time().Format(time.RFC3339), kemi.Millis(t.newest).Time().Format(time.RFC3339))
	}
	return at, ""
}

// putNumber reads a finite decimal number.
func putNumber(s string) (float64, bool) {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

// checkLabels says what is wrong with the metric's name and the tags.
func (t *put) checkLabels() string {
	c := &t.p.cfg
	if len(t.labels) > c.MaxLabels {
		return fmt.Sprintf("Too many tags: %d, at most %d are taken", len(t.labels)-1, c.MaxLabels-1)
	}
	for i, l := range t.labels {
		switch {
		case l.Name == "":
			return "Invalid tag name with value [" + clip(l.Value, maxTold) + "]: empty string"
		case l.Value == "" && t.point.hasNull && l.Name == t.point.nullTag:
			return "Invalid tag value with key [" + clip(l.Name, maxTold) + "]: null"
		case l.Value == "":
			return "Invalid tag value with key [" + clip(l.Name, maxTold) + "]: empty string"
		case len(l.Name) > c.MaxLabelNameBytes:
			return fmt.Sprintf("Tag %s: name of %d bytes, at most %d are taken", quote(l.Name), len(l.Name), c.MaxLabelNameBytes)
		case len(l.Value) > c.MaxLabelValueBytes:
			return fmt.Sprintf("Tag %s: value of %d bytes, at most %d are taken", quote(l.Name), len(l.Value), c.MaxLabelValueBytes)
		case !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value):
			return "Tag " + quote(l.Name) + ": not valid UTF-8"
		case i > 0 && t.labels[i-1].Name == l.Name:
			return "Tag " + quote(l.Name) + " stands there twice"
		}
		if l.Name == kemi.MetricName {
			if bad := illegal(l.Value, c.AllowSpecialChars); bad != "" {
				return "Invalid metric name (\"" + clip(l.Value, maxTold) + "\"): illegal character: " + bad
			}
			continue
		}
		if bad := illegal(l.Name, c.AllowSpecialChars); bad != "" {
			return "Invalid tag name with value [" + clip(l.Value, maxTold) + "] (\"" + clip(l.Name, maxTold) + "\"): illegal character: " + bad
		}
		if bad := illegal(l.Value, c.AllowSpecialChars); bad != "" {
			return "Invalid tag value with key [" + clip(l.Name, maxTold) + "] (\"" + clip(l.Value, maxTold) + "\"): illegal character: " + bad
		}
	}
	return ""
}

// illegal is the first character that OpenTSDB does not allow in a name: letters of any script, digits, -_./ and special ones are allowed.
func illegal(s, special string) string {
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '/':
		case (c < utf8.RuneSelf || !unicode.IsLetter(c)) && !strings.ContainsRune(special, c):
			return s[i : i+utf8.RuneLen(c)]
		}
	}
	return ""
}
