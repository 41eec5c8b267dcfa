package push

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

func (p *Push) logRoutes() []kemi.Route {
	var routes []kemi.Route
	add := func(path string, d kemi.Dialect, handle func(http.ResponseWriter, *http.Request, kemi.Identity)) {
		routes = append(routes, kemi.Route{Pattern: "POST " + path, Needs: kemi.LogsWrite, Dialect: d, Handle: handle})
	}
	for _, path := range []string{"/loki/api/v1/push", "/api/prom/push", "/insert/loki/api/v1/push"} {
		add(path, kemi.DialectText, p.serveLoki)
	}
	for _, path := range []string{"/api/v2/logs", "/api/v2/logs/push", "/insert/jsonline"} {
		add(path, kemi.DialectKEMI, p.serveJSONLines)
	}
	add("/v1/logs", kemi.DialectKEMI, p.serveOTLPLogs)
	return routes
}

// WriteLogs checks, enriches and publishes log records of the identity's project; protocol is what they are counted under. It returns when they are durable. batch is the sender's name
// for them, or "": records written again under it are the same ones. Records that break a limit are left out: then the
// error is ErrInvalid and says which, and the others are durable. Any other error is as of bus.Publish. The slice may be used again
// afterwards; labels and attributes may not be changed.
func (p *Push) WriteLogs(ctx context.Context, id kemi.Identity, protocol string, records []kemi.LogRecord, batch string) error {
	if !id.Can(kemi.LogsWrite) {
		return kemi.Errorf(kemi.ErrDenied, "write logs: %s may not", id.Subject)
	}
	in := p.newIntake(protocol)
	in.roomFor(len(records))
	for i := range records {
		if err := in.add(records[i]); err != nil {
			in.refuse(fmt.Sprintf("record %d", i), err)
		}
	}
	if _, err := in.publish(ctx, id, batch); err != nil {
		return err
	}
	return in.complaint()
}

// intake collects the records of one request: it checks each, and remembers what was wrong with those that it did not take.
type intake struct {
	p        *Push
	protocol string
	now      kemi.Nanos
	records  []kemi.LogRecord
	streams  map[string]*stream  // checked ones, by their canonical bytes: one value for all records of a stream
	checked  map[*kemi.Label]int // streams that came from there, with their length
	key      []byte

	taken   int
	refused int
	errs    []string // of the first few
}

const maxErrors = 10

func (p *Push) newIntake(protocol string) *intake {
	return &intake{
		p: p, protocol: protocol, now: kemi.NanosOf(p.now()),
		streams: map[string]*stream{}, checked: map[*kemi.Label]int{},
	}
}

// refuse remembers that what stands at where was not taken.
func (in *intake) refuse(where string, err error) { in.refuseMany(1, where, err) }

func (in *intake) refuseMany(n int, where string, err error) {
	in.refused += n
	if len(in.errs) < maxErrors {
		in.errs = append(in.errs, where+": "+err.Error())
	}
}

// complaint says what was not taken, or nil.
func (in *intake) complaint() error {
	if in.refused == 0 {
		return nil
	}
	more := ""
	if n := in.refused - len(in.errs); n > 0 {
		more = fmt.Sprintf("; and more, %d in all", in.refused)
	}
	return kemi.Errorf(kemi.ErrInvalid, "%d of %d log records were refused: %s%s", in.refused, in.refused+in.taken, strings.Join(in.errs, "; "), more)
}

// add takes a record if it keeps the limits.
func (in *intake) add(r kemi.LogRecord) error {
	if n := len(r.Stream); n > 0 && in.checked[&r.Stream[0]] != n {
		s, err := in.shared(r.Stream)
		if err != nil {
			return err
		}
		r.Stream = s.labels
		in.checked[&s.labels[0]] = n
	}
	return in.take(&r)
}

// take is add for a record whose stream has been checked.
func (in *intake) take(r *kemi.LogRecord) error {
	cfg := &in.p.cfg
	if err := in.checkTime(r.At); err != nil {
		return err
	}
	if len(r.Body) > cfg.MaxLineBytes {
		return kemi.Errorf(kemi.ErrTooLarge, "a body of %d bytes: at most %d are kept (ingest.maxLineBytes)", len(r.Body), cfg.MaxLineBytes)
	}
	if err := in.checkAttrs(r.Attrs); err != nil {
		return err
	}
	if r.Severity == 0 {
		r.Severity = severityOf(r.Body)
	}
	in.records = append(in.records, *r)
	in.taken++
	return nil
}

func (in *intake) checkTime(at kemi.Nanos) error {
	cfg := &in.p.cfg
	switch {
	case at <= 0:
		return kemi.Errorf(kemi.ErrInvalid, "time %d ns: must be after 1970", at)
	case int64(at)-int64(in.now) > int64(cfg.MaxFuture):
		return kemi.Errorf(kemi.ErrInvalid, "time %s: is more than %s in the future (ingest.maxFuture)", stamp(at), cfg.MaxFuture)
	case int64(in.now)-int64(at) > int64(cfg.MaxPast):
		return kemi.Errorf(kemi.ErrInvalid, "time %s: is more than %s ago (ingest.maxPast)", stamp(at), cfg.MaxPast)
	}
	return nil
}

func stamp(at kemi.Nanos) string { return at.Time().Format("2006-01-02T15:04:05.999999999Z07:00") }

func (in *intake) checkAttrs(attrs kemi.Labels) error {
	cfg := &in.p.cfg
	if len(attrs) > cfg.MaxAttributes {
		return kemi.Errorf(kemi.ErrInvalid, "%d attributes: at most %d are kept (ingest.maxAttributes)", len(attrs), cfg.MaxAttributes)
	}
	sum := 0
	for _, a := range attrs {
		if err := in.checkName(a.Name); err != nil {
			return err
		}
		sum += len(a.Name) + len(a.Value)
	}
	if sum > cfg.MaxLineBytes {
		return kemi.Errorf(kemi.ErrTooLarge, "attributes of %d bytes: at most %d are kept (ingest.maxLineBytes)", sum, cfg.MaxLineBytes)
	}
	return nil
}

func (in *intake) checkName(name string) error {
	cfg := &in.p.cfg
	switch {
	case name == "":
		return kemi.Errorf(kemi.ErrInvalid, "a label without a name")
	case len(name) > cfg.MaxLabelNameBytes:
		return kemi.Errorf(kemi.ErrInvalid, "label name %s: %d bytes, at most %d are taken (ingest.maxLabelNameBytes)", quote(name), len(name), cfg.MaxLabelNameBytes)
	case !utf8.ValidString(name):
		return kemi.Errorf(kemi.ErrInvalid, "label name %s: must be UTF-8", quote(name))
	}
	return nil
}

// shared gives the one value that records of this stream share. ls may be used again for another stream: what is kept is a copy. It need not be sorted, but is afterwards.
func (in *intake) shared(ls kemi.Labels) (*stream, error) {
	in.key = appendKey(in.key[:0], ls)
	if s, ok := in.streams[string(in.key)]; ok {
		return s, nil
	}
	if !ordered(ls) {
		written := string(in.key)
		s, err := in.shared(ls.Normalize())
		if err == nil {
			in.streams[written] = s
		}
		return s, err
	}
	s := in.p.streams.get(in.key)
	if s == nil {
		if err := in.checkStream(ls); err != nil {
			return nil, err
		}
		s = newStream(ls)
		in.p.streams.put(string(in.key), s)
	}
	in.streams[string(in.key)] = s
	return s, nil
}

// appendKey appends the labels, such that no others are the same: a name and a value may have any byte in them.
func appendKey(b []byte, ls kemi.Labels) []byte {
	for _, l := range ls {
		b = append(binary.AppendUvarint(b, uint64(len(l.Name))), l.Name...)
		b = append(binary.AppendUvarint(b, uint64(len(l.Value))), l.Value...)
	}
	return b
}

func (in *intake) checkStream(ls kemi.Labels) error {
	cfg := &in.p.cfg
	if len(ls) > cfg.MaxLabels {
		return kemi.Errorf(kemi.ErrInvalid, "%d stream labels: at most %d are taken (ingest.maxLabels)", len(ls), cfg.MaxLabels)
	}
	for _, l := range ls {
		if err := in.checkName(l.Name); err != nil {
			return err
		}
		if len(l.Value) > cfg.MaxLabelValueBytes {
			return kemi.Errorf(kemi.ErrInvalid, "stream label %s: a value of %d bytes, at most %d are taken (ingest.maxLabelValueBytes)", quote(l.Name), len(l.Value), cfg.MaxLabelValueBytes)
		}
		if !utf8.ValidString(l.Value) {
			return kemi.Errorf(kemi.ErrInvalid, "stream label %s: value %s: must be UTF-8", quote(l.Name), quote(l.Value))
		}
	}
	return nil
}

// publish enriches what was taken and puts it on the log, stream by stream. It returns when that is durable.
func (in *intake) publish(ctx context.Context, id kemi.Identity, batch string) ([]bus.Record, error) {
	in.p.m.refused.WithLabelValues(in.protocol, "log records").Add(float64(in.refused))
	if len(in.records) == 0 {
		return nil, nil
	}
	recs := in.encode(id.Project, batch)
	if len(recs) > 0 { // the pipelines have left some
		if err := in.p.bus.Publish(ctx, bus.Logs, recs); err != nil {
			return nil, err
		}
	}
	in.p.m.accepted.WithLabelValues(in.protocol, "log records").Add(float64(in.taken))
	return recs, nil
}

// encode makes the records of the log, after the pipelines have changed what was taken.
func (in *intake) encode(project, batch string) []bus.Record {
	if in.p.transform == nil {
		return codec.EncodeLogBatch(project, batch, in.byStream(project))
	}
	var projects []string
	of := map[string][]kemi.LogRecord{}
	for _, r := range in.p.transform.Apply(in.records) {
		if n := len(r.Stream); n > 0 && in.checked[&r.Stream[0]] != n {
			s, err := in.shared(r.Stream)
			if err != nil { // a pipeline has made what cannot be: it is told as what a sender does wrong
				in.refuse("pipelines", err)
				in.taken--
				in.p.m.refused.WithLabelValues(in.protocol, "log records").Inc()
				continue
			}
			r.Stream = s.labels
		}
		to := cmp.Or(r.Project, project)
		if _, ok := of[to]; !ok {
			projects = append(projects, to)
		}
		of[to] = append(of[to], r)
	}
	var recs []bus.Record
	for _, to := range projects {
		in.records = of[to]
		recs = append(recs, codec.EncodeLogBatch(to, batch, in.byStream(to))...)
	}
	return recs
}

// byStream is the records with those of one stream one after another, in the order in which they came, with what the inventory adds.
// Their labels are then written, and read again, once.
func (in *intake) byStream(project string) []kemi.LogRecord {
	type group struct {
		stream kemi.Labels
		count  int
	}
	var groups []group
	index := make(map[*kemi.Label]int)
	of := make([]int32, len(in.records))
	var last *kemi.Label
	g, together := -1, true
	for i := range in.records {
		var first *kemi.Label
		if s := in.records[i].Stream; len(s) > 0 {
			first = &s[0]
		}
		if g < 0 || first != last {
			var ok bool
			if g, ok = index[first]; !ok {
				g = len(groups)
				index[first] = g
				groups = append(groups, group{stream: in.enriched(project, in.records[i].Stream)})
			} else {
				together = false
			}
			last = first
		}
		groups[g].count++
		of[i] = int32(g)
	}
	if together { // as Loki's senders have them
		for i := range in.records {
			in.records[i].Stream = groups[of[i]].stream
		}
		return in.records
	}
	next, at := make([]int, len(groups)), 0
	for i, g := range groups {
		next[i] = at
		at += g.count
	}
	out := make([]kemi.LogRecord, len(in.records))
	for i := range in.records {
		g := of[i]
		r := &out[next[g]]
		*r = in.records[i]
		r.Stream = groups[g].stream
		next[g]++
	}
	in.giveBack()
	return out
}

// spare are slices of records that nobody has any more. Those that are published are not among them: readers have them.
var spare = sync.Pool{New: func() any { return new([]kemi.LogRecord) }}

// maxSpare is how many records a slice may have that is used again.
const maxSpare = 16 << 10

// roomFor makes room for n records.
func (in *intake) roomFor(n int) {
	if n <= maxSpare {
		if s := *spare.Get().(*[]kemi.LogRecord); cap(s) >= n {
			in.records = s
			return
		}
	}
	in.records = make([]kemi.LogRecord, 0, n)
}

// giveBack leaves the records to the next request: there is a copy of them.
func (in *intake) giveBack() {
	if cap(in.records) > maxSpare {
		return
	}
	clear(in.records)
	s := in.records[:0]
	spare.Put(&s)
	in.records = nil
}

// enriched is the stream with what the inventory knows of its host; what the record says itself stands.
func (in *intake) enriched(project string, stream kemi.Labels) kemi.Labels {
	host := stream.Get(codec.HostLabel)
	if host == "" || in.p.enricher == nil {
		return stream
	}
	add := in.p.enricher.Enrich(project, host)
	if len(add) == 0 {
		return stream
	}
	out := append(make(kemi.Labels, 0, len(stream)+len(add)), stream...)
	for _, l := range add {
		if !stream.Has(l.Name) {
			out = append(out, l)
		}
	}
	return out.Normalize()
}

// quote is s as it is told in an error: in quotes and not too long.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%.*q…", most, s)
	}
	return fmt.Sprintf("%q", s)
}

// receive is what the receivers of logs have in common: it reads and unpacks the body, lets parse take the records from it, and
// publishes them. The texts of records are parts of data. It returns the intake, and the error that kept all of it from being taken.
func (p *Push) receive(w http.ResponseWriter, r *http.Request, id kemi.Identity, protocol, encoding string, parse func(in *intake, data string) error) (*intake, error) {
	batch, err := batchOf(r)
	if err != nil {
		return nil, err
	}
	b, err := p.readBody(w, r)
	if err != nil {
		return nil, err
	}
	defer b.release()
	p.m.bytes.WithLabelValues(protocol).Add(float64(len(b.bytes())))
	if err := b.unpack(encoding); err != nil {
		return nil, err
	}
	in := p.newIntake(protocol)
	if err := parse(in, b.text()); err != nil {
		return nil, err
	}
	if err := p.published(r, in, id, batch); err != nil {
		return nil, err
	}
	return in, nil
}

func (p *Push) published(r *http.Request, in *intake, id kemi.Identity, batch string) error {
	recs, err := in.publish(r.Context(), id, batch)
	if err != nil {
		return err
	}
	if r.URL.RawQuery == "" || r.URL.Query().Get("wait") != "applied" {
		return nil
	}
	if p.waitApplied == nil {
		return kemi.Errorf(kemi.ErrInvalid, "parameter wait: this server does not search logs itself")
	}
	for i := range recs {
		if err := p.waitApplied(r.Context(), bus.Logs, recs[i].Partition, recs[i].Offset); err != nil {
			return err
		}
	}
	return nil
}

// answered counts how a request was answered.
func (p *Push) answered(protocol string, code int) {
	p.m.requests.WithLabelValues(protocol, fmt.Sprint(code)).Inc()
}

// fail tells err to the sender.
func (p *Push) fail(w http.ResponseWriter, d kemi.Dialect, protocol string, err error) {
	p.answered(protocol, statusOf(err))
	writeError(w, d, err)
}
