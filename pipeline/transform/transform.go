package transform

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
)

// Options are what a Transform works with.
type Options struct {
	// Namespace begins the names of the metrics: kemi_transform if it is empty.
	Namespace string
	Now       func() time.Time
	// MaxPast and MaxFuture are how far from now a time may be that a record's text says; 0: any.
	MaxPast, MaxFuture time.Duration
}

// Transform is pipelines made ready. It may be used by many goroutines.
type Transform struct {
	pipelines []compiled
	o         Options

	records, dropped, failed *prometheus.CounterVec
}

// New makes pipelines ready.
//
// Errors: ErrInvalid.
func New(pipelines []Pipeline, o Options) (*Transform, error) {
	ready, err := compileAll(pipelines, true)
	if err != nil {
		return nil, err
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: cmp.Or(o.Namespace, "kemi_transform"), Name: name, Help: help}, labels)
	}
	t := &Transform{
		pipelines: ready, o: o,
		records: counter("records_total", "Log records that a pipeline matched.", "pipeline"),
		dropped: counter("dropped_total", "Log records that a pipeline dropped.", "pipeline", "reason"),
		failed:  counter("failed_total", "Steps that left a log record as it was because they could not be done.", "pipeline", "step"),
	}
	return t, nil
}

// Describe and Collect make it a collector of what it has done, for those who want to register it.
func (t *Transform) Describe(out chan<- *prometheus.Desc) {
	for _, c := range []*prometheus.CounterVec{t.records, t.dropped, t.failed} {
		c.Describe(out)
	}
}

// Collect is as Describe.
func (t *Transform) Collect(out chan<- prometheus.Metric) {
	for _, c := range []*prometheus.CounterVec{t.records, t.dropped, t.failed} {
		c.Collect(out)
	}
}

// Done is what was done with a record, for people to look at.
type Done struct {
	Pipeline string `json:"pipeline"`
	Step     string `json:"step"`
	Problem  string `json:"problem,omitempty"` // why it could not be done
	Dropped  string `json:"dropped,omitempty"` // the reason
}

// Apply gives the records that are left of records, in their place and changed. Labels and attributes of a record are not changed in
// place, as records share them. A record that is routed has its Project set.
func (t *Transform) Apply(records []kemi.LogRecord) []kemi.LogRecord {
	kept := records[:0]
	for i := range records {
		if t.record(&records[i], nil) {
			kept = append(kept, records[i])
		}
	}
	clear(records[len(kept):])
	return kept
}

// Keep changes one record as Apply does, and tells whether it is left.
func (t *Transform) Keep(r *kemi.LogRecord) bool { return t.record(r, nil) }

// Try is Keep that tells what was done.
func (t *Transform) Try(r *kemi.LogRecord) (done []Done, kept bool) {
	kept = t.record(r, func(d Done) { done = append(done, d) })
	return done, kept
}

func (t *Transform) record(r *kemi.LogRecord, tell func(Done)) (kept bool) {
	for i := range t.pipelines {
		p := &t.pipelines[i]
		if !matches(p.match, r, true) {
			continue
		}
		t.records.WithLabelValues(p.name).Inc()
		for k := range p.steps {
			s := &p.steps[k]
			if !matches(s.when, r, false) {
				continue
			}
			problem, drop := s.do.apply(t, r)
			if problem != "" {
				t.failed.WithLabelValues(p.name, strconv.Itoa(k+1)+" "+s.name).Inc()
			}
			if tell != nil {
				tell(Done{Pipeline: p.name, Step: s.name, Problem: problem, Dropped: drop})
			}
			if drop != "" {
				t.dropped.WithLabelValues(p.name, drop).Inc()
				return false
			}
		}
	}
	return true
}

// The fields of a record that are no label and no attribute.
const (
	fieldBody    = "body"
	fieldLevel   = "level"
	fieldTraceID = "trace_id"
	fieldSpanID  = "span_id"
)

// get is a field: body, level, trace_id, span_id, or else an attribute or a label of the stream.
func get(r *kemi.LogRecord, name string) string {
	switch name {
	case fieldBody:
		return r.Body
	case fieldTraceID:
		if r.TraceID != "" {
			return r.TraceID
		}
	case fieldSpanID:
		if r.SpanID != "" {
			return r.SpanID
		}
	}
	if v := r.Attrs.Get(name); v != "" {
		return v
	}
	if v := r.Stream.Get(name); v != "" {
		return v
	}
	if name == fieldLevel {
		return r.Severity.String()
	}
	return ""
}

func matches(ms []matcher, r *kemi.LogRecord, stream bool) bool {
	for i := range ms {
		m := &ms[i]
		var v string
		if stream {
			v = r.Stream.Get(m.field)
		} else {
			v = get(r, m.field)
		}
		ok := v == m.text
		if m.re != nil {
			ok = m.re.MatchString(v)
		}
		if ok == m.not {
			return false
		}
	}
	return true
}

// set is r with a field set: in attrs, unless there is a label of the stream of that name. An empty value takes it away.
func set(r *kemi.LogRecord, name, value string) {
	switch {
	case name == fieldBody:
		r.Body = value
	case !r.Attrs.Has(name) && r.Stream.Has(name):
		r.Stream = r.Stream.With(name, value)
	default:
		r.Attrs = r.Attrs.With(name, value)
	}
}

// checkName tells whether fields may have that name.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return kemi.Errorf(kemi.ErrInvalid, "%.64q: must be a name of 1 to %d bytes", name, maxName)
	}
	return nil
}

func (d Drop) apply(*Transform, *kemi.LogRecord) (problem, drop string) { return "", d.Reason }

// apply keeps the part of all hashes that lies below the rate.
func (s Sample) apply(_ *Transform, r *kemi.LogRecord) (problem, drop string) {
	name := s.By
	if name == "" {
		name = fieldBody
	}
	// The upper 53 bits of the hash are a number from 0 to 1 that a float64 holds exactly.
	if float64(hash(get(r, name))>>11)/(1<<53) < s.Rate {
		return "", ""
	}
	return "", "sampled"
}

type route struct {
	project string
	labels  []kemi.Label
}

func (c *Route) compile() (action, error) {
	r := route{project: c.Project}
	if c.Project == "" && len(c.Labels) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "must name a project or labels")
	}
	for name, value := range c.Labels {
		if err := checkName(name); err != nil {
			return nil, err
		}
		if len(value) > maxName {
			return nil, kemi.Errorf(kemi.ErrInvalid, "labels: %s: a value of %d bytes: at most %d", name, len(value), maxName)
		}
		r.labels = append(r.labels, kemi.Label{Name: name, Value: value})
	}
	return r, nil
}

func (c route) apply(_ *Transform, r *kemi.LogRecord) (problem, drop string) {
	if c.project != "" {
		r.Project = c.project
	}
	for _, l := range c.labels {
		r.Stream = r.Stream.With(l.Name, l.Value)
	}
	return "", ""
}

type add []kemi.Label

func compileAdd(fields map[string]string) (action, error) {
	var a add
	for name, value := range fields {
		if err := checkName(name); err != nil {
			return nil, err
		}
		if name == fieldBody || value == "" || len(value) > maxPattern {
			return nil, kemi.Errorf(kemi.ErrInvalid, "%s: %.64q: an attribute has another name than body, and a value of 1 to %d bytes", name, value, maxPattern)
		}
		a = append(a, kemi.Label{Name: name, Value: value})
	}
	if len(a) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "must name at least one attribute")
	}
	return a, nil
}

func (a add) apply(_ *Transform, r *kemi.LogRecord) (problem, drop string) {
	for _, l := range a {
		if !r.Attrs.Has(l.Name) && !r.Stream.Has(l.Name) {
			r.Attrs = r.Attrs.With(l.Name, l.Value)
		}
	}
	return "", ""
}

type rename []struct{ from, to string }

func compileRename(names map[string]string) (action, error) {
	var out rename
	for from, to := range names {
		for _, n := range []string{from, to} {
			if err := checkName(n); err != nil {
				return nil, err
			}
		}
		if from == to {
			return nil, kemi.Errorf(kemi.ErrInvalid, "%s: has that name already", from)
		}
		if _, ok := names[to]; ok {
			return nil, kemi.Errorf(kemi.ErrInvalid, "%s: is renamed itself in the same step: make two steps of it", to)
		}
		out = append(out, struct{ from, to string }{from, to})
	}
	if len(out) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "must name at least one field")
	}
	return out, nil
}

func (c rename) apply(_ *Transform, r *kemi.LogRecord) (problem, drop string) {
	var missing []string
	for _, n := range c {
		v := r.Attrs.Get(n.from)
		switch {
		case n.from == fieldBody:
			v = r.Body
			r.Body = ""
			set(r, n.to, v)
		case v != "":
			r.Attrs = r.Attrs.With(n.from, "")
			set(r, n.to, v)
		case r.Stream.Has(n.from):
			v = r.Stream.Get(n.from)
			if r.Stream = r.Stream.With(n.from, ""); n.to == fieldBody {
				r.Body = v
			} else {
				r.Stream = r.Stream.With(n.to, v)
			}
		default:
			missing = append(missing, n.from)
		}
	}
	if len(missing) > 0 {
		return "no field " + strings.Join(missing, ", "), ""
	}
	return "", ""
}
