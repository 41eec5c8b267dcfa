package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/golang/snappy"

	"kemi"
	"kemi/pipeline/bus"
)

// Limits are what a receiver takes. The log's own records are not measured by them again.
type Limits struct {
	MaxDecodedBytes    int64
	MaxLabels          int
	MaxLabelNameBytes  int
	MaxLabelValueBytes int
	Oldest, Newest     kemi.Millis
	// Series bounds how many series there may be; nil = as many as come.
	Series SeriesLimit
}

// SeriesLimit says whether there is room for another series. It is asked for series that the Table does not know.
type SeriesLimit interface {
	// Room takes a place for one more series of the project, with the labels ls, which are good for the call only. An error, of kind ErrLimited,
	// says which limit leaves none, and why.
	Room(project string, ls kemi.Labels) error
	// Has tells whether the store has the series; it is asked when there is no room.
	Has(project string, ls kemi.Labels) bool
}

// Refused is what a receiver does not take of a request, and why.
type Refused struct {
	Samples, Histograms, Exemplars int
	Series                         int     // whose labels are refused, or that have no sample; their samples count too
	Errors                         []error // the first ones

	// Fields is how many fields have numbers that this version does not know, Foreign which, the first ones. What they say is lost; all else of
	// their messages counts.
	Fields  int
	Foreign []string

	// Limited is why new series were refused, LimitedSeries how many; their samples count above. Nil if none was.
	Limited       error
	LimitedSeries int
}

// Any tells whether anything was refused.
func (r *Refused) Any() bool { return len(r.Errors) > 0 || r.Limited != nil || r.Fields > 0 }

// Incoming is a remote-write body that a receiver has looked through.
type Incoming struct {
	Record bus.Record // to be published, all set but its key and its batch header; the value is the body as it came if nothing was refused
	Batch  *SeriesBatch
	// What the batch holds.
	Samples, Histograms, Exemplars, Metadata int
	Refused                                  Refused

	marks []mark
}

// Empty tells that there is nothing to publish.
func (in *Incoming) Empty() bool { return in.Samples+in.Histograms+in.Exemplars+in.Metadata == 0 }

// Published says that the log has the record: what it says of metrics needs not be said again.
func (in *Incoming) Published() {
	for _, m := range in.marks {
		m.s.meta.Store(m.hash)
	}
}

const (
	// maxErrors is how many errors are told of one request.
	maxErrors = 10
	// maxRefused is how much may be wrong with a request before all of it is refused.
	maxRefused = 100_000
)

// Receive decodes and checks a remote-write body packed with snappy. Series and samples that break a limit are left out and told
// in Refused. An error means that nothing of the body is taken: ErrInvalid if it cannot be read, ErrTooLarge.
//
// The value of the record may share the bytes of body.
func (t *Table) Receive(project string, v2 bool, body []byte, l Limits) (*Incoming, error) {
	c := &check{Limits: l, oldest: int64(l.Oldest), newest: int64(l.Newest)}
	d := t.decoder(project, t.enricher, c)
	defer t.done(d)
	if err := d.body(v2, body, l.MaxDecodedBytes); err != nil {
		return nil, err
	}
	contentType := RemoteWrite1
	if v2 {
		contentType = RemoteWrite2
	}
	in := &Incoming{Batch: d.batch(), Refused: c.refused, marks: append([]mark(nil), d.marks...)}
	in.Samples, in.Histograms, in.Exemplars, in.Metadata = len(d.at), len(d.complex.Histograms), len(d.complex.Exemplars), len(d.complex.Metadata)
	in.Record = bus.Record{
		Value: body, Local: in.Batch,
		Headers: append(make([]bus.Header, 0, 5), bus.Header{Name: HeaderProject, Value: project}, bus.Header{Name: HeaderType, Value: contentType}, bus.Header{Name: HeaderEncoding, Value: EncodingSnappy}),
	}
	if v := d.enrich.value(); v != "" {
		in.Record.Headers = append(in.Record.Headers, bus.Header{Name: HeaderEnrich, Value: v})
	}
	if len(c.cuts) > 0 && !in.Empty() {
		in.Record.Value = snappy.Encode(nil, c.rewrite(d.buf, v2))
	}
	return in, nil
}

// check is what a receiver checks, and what it refuses.
type check struct {
	Limits
	oldest, newest int64
	refused        Refused
	cuts           []cut
	total          int
}

// cut is bytes to be left out of a body: a part of the top-level field that begins at parent, or, if from is parent, that field.
type cut struct{ parent, from, n int }

func (c *check) cut(parent, from, n int) { c.cuts = append(c.cuts, cut{parent, from, n}) }

// cutField cuts the whole top-level field that field begins with.
func (c *check) cutField(d *decoder, field []byte) {
	_, n := varint(field)
	_, k, _ := bytesAt(field[n:])
	c.cut(d.offset(field), d.offset(field), n+k)
}

// refuse counts one and keeps the error if it is among the first. What it returns ends the request.
func (c *check) refuse(count *int, format string, args ...any) error {
	*count++
	if len(c.refused.Errors) < maxErrors {
		c.refused.Errors = append(c.refused.Errors, kemi.Errorf(kemi.ErrInvalid, format, args...))
	}
	if c.total++; c.total > maxRefused {
		return kemi.Errorf(kemi.ErrInvalid, "more than %d errors, nothing was taken; the first: %w", maxRefused, c.refused.Errors[0])
	}
	return nil
}

// foreign notes a field of a message that this version does not know. A body is not answered as if all of it had been understood.
func (d *decoder) foreign(message string, number uint64) {
	if d.check == nil {
		return // the log has it; there is nobody to tell
	}
	r := &d.check.refused
	r.Fields++
	if len(r.Foreign) < maxErrors {
		if s := "field " + strconv.FormatUint(number, 10) + " of " + message; !slices.Contains(r.Foreign, s) {
			r.Foreign = append(r.Foreign, s)
		}
	}
}

func (d *decoder) refuseTime(count *int, what string, at int64, value float64) error {
	c := d.check
	if len(c.refused.Errors) >= maxErrors {
		return c.refuse(count, "")
	}
	return c.refuse(count, "series %s: %s %v at %s: time must be between %s and %s", describe(d.labelsNow()), what, value, describeTime(at),
		describeTime(c.oldest), describeTime(c.newest))
}

func describeTime(ms int64) string {
	if ms < -62135596800000 || ms > 253402300799999 { // what has four digits of a year
		return strconv.FormatInt(ms, 10) + " ms"
	}
	return kemi.Millis(ms).Time().Format("2006-01-02T15:04:05.000Z07:00") + " (" + strconv.FormatInt(ms, 10) + " ms)"
}

// refuseSeries refuses a series as a whole, unless it is broken: then the request is.
func (d *decoder) refuseSeries(m, field []byte, err error) error {
	if _, ok := errors.AsType[*brokenError](err); ok {
		return err
	}
	samples, histograms, exemplars := 0, 0, 0
	others, scattered := false, false
	if !fields(m, func(number int, wire uint64, _ []byte, _ uint64) bool {
		scattered = scattered || others && number == 1
		others = others || number != 1
		switch {
		case number == 2:
			samples++
		case len(d.symbols) == 0 && number == 4 || len(d.symbols) > 0 && number == 3:
			histograms++
		case number == 3 || number == 4:
			exemplars++
		}
		return true
	}) {
		return errBroken("series", d.offset(m))
	}
	if scattered {
		return errScattered
	}
	if d.check == nil {
		d.skipped++
		return nil // the log has it; there is nobody to tell
	}
	r := &d.check.refused
	r.Samples += samples
	r.Histograms += histograms
	r.Exemplars += exemplars
	d.check.cutField(d, field)
	if full, ok := errors.AsType[*fullError](err); ok {
		r.Limited = full.error
		r.LimitedSeries++
		return nil
	}
	return d.check.refuse(&r.Series, "%w", err)
}

// fullError says that a series is good, but one too many.
type fullError struct{ error }

// room is an error if there is no room for the series of d.labels; taken tells that a place was taken for it.
func (d *decoder) room(host string) (taken bool, err error) {
	limit := d.check.Series
	if limit == nil {
		return false, nil
	}
	full := limit.Room(d.space.project, d.labels)
	if full == nil {
		return true, nil
	}
	if ls := d.enrich.labels(d.labels, host); limit.Has(d.space.project, ls) {
		return false, nil
	}
	return false, &fullError{full}
}

// labels tells what is wrong with the labels of a series.
func (c *check) labels(ls kemi.Labels) error {
	bad := func(format string, args ...any) error {
		return kemi.Errorf(kemi.ErrInvalid, "series %s: %s", describe(ls), fmt.Sprintf(format, args...))
	}
	if len(ls) > c.MaxLabels {
		return bad("%d labels: at most %d are taken", len(ls), c.MaxLabels)
	}
	named := false
	for i, l := range ls {
		switch {
		case l.Name == "":
			return bad("a label with the value %s has an empty name", shorten(l.Value))
		case len(l.Name) > c.MaxLabelNameBytes:
			return bad("label %s: name of %d bytes: at most %d are taken", shorten(l.Name), len(l.Name), c.MaxLabelNameBytes)
		case len(l.Value) > c.MaxLabelValueBytes:
			return bad("label %s: value of %d bytes: at most %d are taken", shorten(l.Name), len(l.Value), c.MaxLabelValueBytes)
		case !utf8.ValidString(l.Name):
			return bad("label %s: the name is not valid UTF-8", shorten(l.Name))
		case !utf8.ValidString(l.Value):
			return bad("label %s: the value %s is not valid UTF-8", shorten(l.Name), shorten(l.Value))
		}
		for _, other := range ls[:i] {
			if other.Name == l.Name {
				return bad("label %s stands there twice, with %s and %s", shorten(l.Name), shorten(other.Value), shorten(l.Value))
			}
		}
		named = named || l.Name == kemi.MetricName && l.Value != ""
	}
	if !named {
		return bad("label %s, the name of the metric, is missing or empty", kemi.MetricName)
	}
	return nil
}

// exemplar tells what is wrong with the labels of an exemplar, which need no metric.
func (c *check) exemplar(ls kemi.Labels) error {
	if err := c.labels(append(kemi.Labels{{Name: kemi.MetricName, Value: "exemplar"}}, ls...)); err != nil {
		return err
	}
	return nil
}

// describe is labels for an error message, cut if they are long.
func describe(ls kemi.Labels) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, l := range ls {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.Len() > 400 {
			fmt.Fprintf(&b, "and %d more", len(ls)-i)
			break
		}
		name := l.Name
		if len(name) > 64 || !utf8.ValidString(name) || name == "" {
			name = shorten(name)
		}
		b.WriteString(name + "=" + shorten(l.Value))
	}
	b.WriteByte('}')
	return b.String()
}

// shorten quotes s, cut if it is long.
func shorten(s string) string {
	if len(s) > 64 {
		return strconv.Quote(s[:64]) + "…"
	}
	return strconv.Quote(s)
}

// rewrite is the body without what was refused. Symbols keep their numbers; those longer than any label may be, which only what was
// refused can have named, become empty.
func (c *check) rewrite(body []byte, v2 bool) []byte {
	out := make([]byte, 0, len(body))
	cuts := c.cuts
	for at := 0; at < len(body); {
		tag, n := varint(body[at:])
		k, _ := skip(tag&7, body[at+n:])
		end := at + n + k
		mine := 0
		for mine < len(cuts) && cuts[mine].parent == at {
			mine++
		}
		switch {
		case mine == 0 && v2 && tag>>3 == 4 && k > max(c.MaxLabelValueBytes, maxHelp)+binary.MaxVarintLen64:
			out = append(out, body[at:at+n]...)
			out = append(out, 0)
		case mine == 0:
			out = append(out, body[at:end]...)
		case cuts[0].from == at:
		default:
			size, head := 0, n
			if u, j := varint(body[at+n:]); j > 0 {
				size, head = int(u), n+j
			}
			for _, x := range cuts[:mine] {
				size -= x.n
			}
			out = append(out, body[at:at+n]...)
			out = binary.AppendUvarint(out, uint64(size))
			from := at + head
			for _, x := range cuts[:mine] {
				out = append(out, body[from:x.from]...)
				from = x.from + x.n
			}
			out = append(out, body[from:end]...)
		}
		cuts = cuts[mine:]
		at = end
	}
	return out
}
