package influx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zeebo/xxh3"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

// Config is what can be set about the receiver.
type Config struct {
	// DatabaseLabel is the label that holds the database (bucket) that a sender names; "" = none.
	DatabaseLabel string `yaml:"databaseLabel"`
	// Strings is what becomes of string fields: logs (they are kept as log records) or ignore.
	Strings string `yaml:"strings"`
}

// DefaultConfig is the configuration that nobody has changed.
func DefaultConfig() Config { return Config{DatabaseLabel: "db", Strings: stringsToLogs} }

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	if !utf8.ValidString(c.DatabaseLabel) || c.DatabaseLabel == kemi.MetricName {
		return kemi.Errorf(kemi.ErrInvalid, "databaseLabel: %q: must be a label's name", c.DatabaseLabel)
	}
	if c.Strings != stringsToLogs && c.Strings != stringsIgnored {
		return kemi.Errorf(kemi.ErrInvalid, "strings: %q: must be %s or %s", c.Strings, stringsToLogs, stringsIgnored)
	}
	return nil
}

// protocol is its name in the receivers' metrics.
const protocol = "influx"

// version is what clients are told that look for features: the last InfluxDB 1 whose HTTP this is.
const version = "1.8.10"

// Receiver is the receiver.
type Receiver struct {
	cfg Config
	in  *push.Push
	now func() time.Time
}

// New makes the receiver over the door that all share.
func New(cfg Config, in *push.Push, now func() time.Time) (*Receiver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("influx: %w", err)
	}
	return &Receiver{cfg: cfg, in: in, now: now}, nil
}

// Routes are what it serves.
func (r *Receiver) Routes() []kemi.Route {
	routes := []kemi.Route{
		{Pattern: "GET /ping", Public: true, Dialect: kemi.DialectInflux, Handle: ping}, // clients ask before they have a token
		{Pattern: "GET /health", Public: true, Dialect: kemi.DialectInflux, Handle: health},
		{Pattern: "POST /query", Needs: kemi.MetricsWrite, Dialect: kemi.DialectInflux, Handle: r.query},
		{Pattern: "GET /query", Needs: kemi.MetricsWrite, Dialect: kemi.DialectInflux, Handle: r.query},
	}
	for _, prefix := range []string{"", "/influx"} {
		routes = append(routes,
			kemi.Route{Pattern: "POST " + prefix + "/write", Needs: kemi.MetricsWrite, Dialect: kemi.DialectInflux, Handle: r.write("db")},
			kemi.Route{Pattern: "POST " + prefix + "/api/v2/write", Needs: kemi.MetricsWrite, Dialect: kemi.DialectInflux, Handle: r.write("bucket")})
	}
	return routes
}

func ping(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	w.Header().Set("X-Influxdb-Version", version)
	w.Header().Set("X-Influxdb-Build", "OSS")
	if v := r.URL.Query().Get("verbose"); v != "" && v != "0" && v != "false" {
		kemi.WriteJSON(w, http.StatusOK, map[string]string{"version": version})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// health is what clients of InfluxDB 2 ask for in the place of ping.
func health(w http.ResponseWriter, _ *http.Request, _ kemi.Identity) {
	kemi.WriteJSON(w, http.StatusOK, map[string]any{
		"name": "influxdb", "message": "ready for queries and writes", "status": "pass", "checks": []any{}, "version": version, "commit": "",
	})
}

// query answers what senders of InfluxDB 1 ask before they write: that the database shall be there. It is there.
func (r *Receiver) query(w http.ResponseWriter, req *http.Request, _ kemi.Identity) {
	w.Header().Set("X-Influxdb-Version", version)
	q := strings.TrimSpace(req.FormValue("q"))
	upper := strings.ToUpper(q)
	switch {
	case strings.HasPrefix(upper, "CREATE DATABASE "), strings.HasPrefix(upper, "CREATE RETENTION POLICY "):
		kemi.WriteJSON(w, http.StatusOK, map[string]any{"results": []any{map[string]any{"statement_id": 0}}})
	default:
		r.in.Fail(w, kemi.DialectInflux, protocol, kemi.Errorf(kemi.ErrInvalid, "query %q: InfluxQL is not spoken here but for CREATE DATABASE; ask /api/v1/query (PromQL) or /api/query", clip(q)))
	}
}

// precisions are the units of time that a sender may name, in nanoseconds.
var precisions = map[string]int64{
	"": 1, "ns": 1, "n": 1, "us": 1e3, "u": 1e3, "µ": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9,
}

func (r *Receiver) write(database string) func(http.ResponseWriter, *http.Request, kemi.Identity) {
	return func(w http.ResponseWriter, req *http.Request, id kemi.Identity) {
		w.Header().Set("X-Influxdb-Version", version)
		p, err := r.take(w, req, id, database)
		if err != nil {
			r.in.Fail(w, kemi.DialectInflux, protocol, err)
			return
		}
		r.in.Refused(protocol, "lines", p.bad)
		r.in.Refused(protocol, "strings", p.ignored)
		if p.ignored > 0 {
			w.Header().Set("X-Kemi-Ignored", fmt.Sprintf("%d string fields (ingest.influx.strings: %s)", p.ignored, stringsIgnored))
		}
		if p.bad == 0 {
			r.in.Answered(protocol, http.StatusNoContent)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if err := p.out.Limited(errors.New(p.text())); errors.Is(err, kemi.ErrLimited) {
			r.in.Fail(w, kemi.DialectInflux, protocol, err)
			return
		}
		p.answer(w)
		r.in.Answered(protocol, http.StatusBadRequest)
	}
}

// take reads, and makes durable what is good. An error means that it is not known to be durable.
func (r *Receiver) take(w http.ResponseWriter, req *http.Request, id kemi.Identity, database string) (*parser, error) {
	q := req.URL.Query()
	unit, ok := precisions[q.Get("precision")]
	if !ok {
		return nil, kemi.Errorf(kemi.ErrInvalid, "parameter precision: %q: must be ns, us, ms, s, m or h", clip(q.Get("precision")))
	}
	batch, err := push.Batch(req)
	if err != nil {
		return nil, err
	}
	body, err := r.in.ReadBody(w, req, protocol)
	if err != nil {
		return nil, err
	}
	defer body.Release()
	// Lines become a remote-write body, about as large as this one.
	if err := body.Hold(len(body.Bytes())); err != nil {
		return nil, err
	}
	out, err := r.in.Begin(id, protocol, batch, push.Source(req, id))
	if err != nil {
		return nil, err
	}
	defer out.End()
	p := &parser{out: out, unit: unit, now: kemi.MillisOf(r.now()), seed: seed}
	switch {
	case r.cfg.Strings == stringsIgnored:
	case id.Can(kemi.LogsWrite):
		p.keep = body.Hold
	default:
		p.keep = func(int) error {
			return kemi.Errorf(kemi.ErrDenied, "string fields are kept as log records, for which %s lacks the permission %s; the numbers are stored (see ingest.influx.strings)", id.Subject, kemi.LogsWrite)
		}
	}
	if db := q.Get(database); db != "" && r.cfg.DatabaseLabel != "" {
		p.extra = kemi.Label{Name: r.cfg.DatabaseLabel, Value: db}
		p.seed ^= xxh3.HashString(p.extra.Name + "\x00" + db)
	}
	if err := p.parse(req.Context(), body.Bytes()); err != nil {
		return nil, err
	}
	if err := out.Flush(req.Context()); err != nil {
		return nil, err
	}
	return p, p.writeTexts(req.Context(), r.in, id, batch)
}

// seed keeps what this protocol calls series apart from what others do.
const seed = 0x1f1b_51c4_5e71_e5e1

// parser reads the lines of a body.
type parser struct {
	out   *push.Request
	unit  int64
	now   kemi.Millis
	extra kemi.Label // the database
	seed  uint64
	key   []byte

	numbers []numberField // of the line at hand
	strings []stringField // likewise

	line    int // number of the line at hand, from 1
	good    int // samples
	bad     int // lines
	ignored int // string fields
	first   int // number of the first bad line
	errs    []string

	keep  func(bytes int) error // makes room for a text, or says why there is none; nil = texts are ignored
	texts []kemi.LogRecord
}

// numberField is a field that is a number. name is escaped still.
type numberField struct {
	name  []byte
	value float64
}

// stringField is a field that is a text. Both are as they stand in the line, the value with its quotes.
type stringField struct{ name, value []byte }

// maxErrors is how many bad lines are told.
const maxErrors = 10

// parse takes all lines that are good. Its error is one of the log's.
func (p *parser) parse(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		p.line++
		if b[0] == '\n' {
			b = b[1:]
			continue
		}
		whole := b
		l, rest, lines, err := cut(b)
		b = rest
		switch {
		case err == nil && (len(l.series) > 0 && l.series[0] == '#' || blank(l)):
		case err == nil:
			var down error
			if err, down = p.take(ctx, l); down != nil {
				return down
			}
		}
		if err != nil {
			p.refuse(whole[:len(whole)-len(rest)], err)
		}
		p.line += lines - 1
	}
	return nil
}

func blank(l line) bool {
	return len(l.fields) == 0 && len(bytes.TrimSpace(l.series)) == 0
}

func (p *parser) refuse(text []byte, err error) {
	p.out.Refuse(err)
	if p.bad++; p.first == 0 {
		p.first = p.line
	}
	if len(p.errs) < maxErrors {
		p.errs = append(p.errs, fmt.Sprintf("line %d: unable to parse '%s': %v", p.line, clip(strings.TrimSpace(string(text))), err))
	}
}

// clip cuts a text that an error repeats, and makes it readable.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// take takes a line: all of it or nothing. err says what is wrong with it, down what is wrong with the log.
func (p *parser) take(ctx context.Context, l line) (err, down error) {
	if len(l.fields) == 0 {
		return errNoFields, nil
	}
	if l.series = trimCR(l.series); len(l.series) == 0 || l.series[0] == ',' {
		return errNoMeasurement, nil
	}
	at := p.now
	if len(l.time) > 0 {
		if at, err = parseTime(l.time, p.unit); err != nil {
			return err, nil
		}
	}
	// First all are read: a line with a field that cannot be is not taken by halves.
	p.numbers, p.strings = p.numbers[:0], p.strings[:0]
	for rest := l.fields; len(rest) > 0; {
		field := rest
		var f numberField
		var k kind
		if f.name, f.value, k, rest, err = nextField(rest); err != nil {
			return err, nil
		}
		if k == number {
			p.numbers = append(p.numbers, f)
			continue
		}
		value := field[len(f.name)+1 : len(field)-len(rest)]
		p.strings = append(p.strings, stringField{f.name, bytes.TrimSuffix(value, []byte(","))})
	}
	if len(p.numbers) > 0 {
		if err, down = p.takeNumbers(ctx, l, at); err != nil || down != nil {
			return err, down
		}
	}
	if len(p.strings) > 0 {
		if err = p.takeStrings(l, at); errors.Is(err, kemi.ErrUnavailable) {
			return nil, err
		}
	}
	return err, nil
}

// takeNumbers takes the fields of a line that are numbers, which were read.
func (p *parser) takeNumbers(ctx context.Context, l line, at kemi.Millis) (err, down error) {
	b, down := p.out.Points(ctx)
	if down != nil {
		return nil, down
	}
	prefix := xxh3.Hash128(l.series)
	var measurement string
	var tags kemi.Labels
	for _, f := range p.numbers {
		key := p.keyOf(prefix, f.name)
		s := b.Known(key)
		if s == nil {
			if measurement == "" {
				if measurement, tags, err = parseSeries(l.series); err != nil {
					return err, nil
				}
			}
			if s, err = p.define(b, key, measurement, tags, f.name); err != nil {
				return err, nil
			}
		}
		if err := b.Add(s, at, f.value, 0); err != nil {
			return err, nil
		}
		p.good++
	}
	return nil, nil
}

func trimCR(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\r' {
		return b[:n-1]
	}
	return b
}

func (p *parser) keyOf(prefix xxh3.Uint128, field []byte) codec.Key {
	sum := prefix.Bytes()
	p.key = append(append(p.key[:0], sum[:]...), field...)
	return codec.KeyOf(p.key, p.seed)
}

// define names a new series: measurement_field.
func (p *parser) define(b *codec.Builder, key codec.Key, measurement string, tags kemi.Labels, field []byte) (*codec.Series, error) {
	if !utf8.Valid(field) {
		return nil, errUTF8
	}
	ls := make(kemi.Labels, 0, len(tags)+2)
	hasExtra := false
	for _, t := range tags {
		if t.Name == kemi.MetricName {
			return nil, parseError("tag " + strconv.Quote(t.Name) + " is reserved for the metric's name")
		}
		hasExtra = hasExtra || t.Name == p.extra.Name
	}
	ls = append(append(ls, kemi.Label{Name: kemi.MetricName, Value: measurement + "_" + unescape(field)}), tags...)
	if p.extra.Name != "" && !hasExtra {
		ls = append(ls, p.extra)
	}
	return b.Define(key, ls)
}

// text tells of the lines that were not taken.
func (p *parser) text() string {
	text := strings.Join(p.errs, "\n")
	if p.bad > len(p.errs) {
		text += fmt.Sprintf("\nand %d more", p.bad-len(p.errs))
	}
	if p.good > 0 {
		text = fmt.Sprintf("partial write: %s dropped=%d", text, p.bad)
	}
	return text
}

// answer tells it as both versions of InfluxDB do: version 1 reads error, version 2 code, message and line.
func (p *parser) answer(w http.ResponseWriter) {
	text := p.text()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Influxdb-Error", strings.ReplaceAll(p.errs[0], "\n", " "))
	w.WriteHeader(http.StatusBadRequest)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]any{"error": text, "code": "invalid", "message": text, "line": p.first})
}
