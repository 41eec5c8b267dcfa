package logs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

const defaultLimit = 100

func (l *Logs) serveQuery(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	v, err := params(w, r)
	if err != nil {
		return err
	}
	began := l.o.Now()
	q, err := parseQuestion(v, began)
	if err != nil {
		return err
	}
	lines := strings.Contains(r.Header.Get("Accept"), "application/x-ndjson")
	switch f := v.Get("format"); f {
	case "":
	case "json":
		lines = false
	case "ndjson":
		lines = true
	default:
		return kemi.Errorf(kemi.ErrInvalid, "format: %s: must be json or ndjson", quote(f))
	}
	most := l.o.Config.MaxRecords
	if lines {
		most = l.o.Config.MaxStream
	}
	limit, err := number(v, "limit", min(defaultLimit, most), 1, most)
	if err != nil {
		return err
	}
	lq := store.LogQuery{Expr: q.expr, Range: q.span, Limit: limit + 1} // one more tells whether there is a next page
	switch o := v.Get("order"); o {
	case "", "desc":
	case "asc":
		lq.Ascending = true
	default:
		return kemi.Errorf(kemi.ErrInvalid, "order: %s: must be asc or desc", quote(o))
	}
	after, err := parseCursor(first(v, "cursor", "next"))
	if err != nil {
		return err
	}
	after.narrow(&lq)

	ctx, done, err := l.admit(r.Context())
	if err != nil {
		return err
	}
	defer done()
	fresh := l.o.Freshness()
	page := page{limit: limit, maxBytes: l.o.Config.MaxBytes}
	if lines {
		return l.streamQuery(ctx, w, id, lq, after, &page, func() summary { return summarize(fresh, q.warnings, began, l.o.Now()) })
	}
	b := []byte(`{"records":[`)
	err = page.read(l.o.Store.Search(ctx, id, lq), after, func(r *kemi.LogRecord) (int, error) {
		if page.records > 0 {
			b = append(b, ',')
		}
		b = appendRecord(b, r)
		return len(b), nil
	})
	if err != nil {
		return l.timedOut(err)
	}
	s := page.finish(summarize(fresh, q.warnings, began, l.o.Now()))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(appendSummary(append(b, ']'), s), '\n'))
	return nil
}

// streamQuery writes one record a line while they are found. The summary comes as the trailer X-Kemi-Stats, since it is no record; an error
// that comes late is the last line.
func (l *Logs) streamQuery(ctx context.Context, w http.ResponseWriter, id kemi.Identity, lq store.LogQuery, after cursor, page *page, sum func() summary) error {
	const trailer = "X-Kemi-Stats"
	page.maxBytes = 1 << 62
	var b []byte
	begun, written := false, 0
	flush := func() error {
		if !begun {
			begun = true
			w.Header().Set("Trailer", trailer)
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		_, err := w.Write(b)
		written += len(b)
		b = b[:0]
		return err
	}
	err := page.read(l.o.Store.Search(ctx, id, lq), after, func(r *kemi.LogRecord) (int, error) {
		b = append(appendRecord(b, r), '\n')
		if len(b) < 64<<10 {
			return written + len(b), nil
		}
		return written, flush()
	})
	switch {
	case err != nil && !begun:
		return l.timedOut(err)
	case err != nil:
		b = append(appendString(append(b, `{"error":`...), l.timedOut(err).Error()), "}\n"...)
	}
	if flush() == nil {
		if j, err := json.Marshal(page.finish(sum())); err == nil {
			w.Header().Set(trailer, string(j))
		}
	}
	return nil
}

// page takes records up to its limits.
type page struct {
	limit    int
	maxBytes int64

	records int
	bytes   int64
	last    cursor
	more    bool
	full    bool // more was left out because of the bytes
}

// read gives each record after the cursor to write, which says how large the answer has become.
func (p *page) read(found func(func(kemi.LogRecord, error) bool), after cursor, write func(r *kemi.LogRecord) (int, error)) error {
	size := 0
	for r, err := range found {
		if err != nil {
			return err
		}
		if after.before(&r) {
			continue
		}
		if p.records == p.limit || int64(size) >= p.maxBytes {
			p.more, p.full = true, p.records < p.limit
			return nil
		}
		if size, err = write(&r); err != nil {
			return err
		}
		p.records++
		p.bytes += int64(len(r.Body))
		p.last = cursor{at: r.At, id: r.ID}
	}
	return nil
}

func (p *page) finish(s summary) summary {
	s.Stats.Records, s.Stats.Bytes = p.records, p.bytes
	if p.more {
		s.Next = p.last.String()
	}
	if p.full {
		s.cut(fmt.Sprintf("the answer was cut at %d bytes; next has the cursor of the rest", p.maxBytes))
	}
	return s
}

// cursor is the last record of the page before: the next one begins behind it. Whatever comes in meanwhile, nothing comes twice and nothing
// that was there is left out.
type cursor struct {
	at kemi.Nanos
	id string
	on *bool // whether the record itself has gone by
}

func (c cursor) String() string { return strconv.FormatInt(int64(c.at), 10) + "_" + c.id }

func parseCursor(s string) (cursor, error) {
	if s == "" {
		return cursor{}, nil
	}
	ns, id, ok := strings.Cut(s, "_")
	at, err := strconv.ParseInt(ns, 10, 64)
	if !ok || err != nil || id == "" {
		return cursor{}, kemi.Errorf(kemi.ErrInvalid, "cursor: %s: must be what next was in the answer before", quote(s))
	}
	return cursor{at: kemi.Nanos(at), id: id, on: new(bool)}, nil
}

// narrow leaves out what lies before the cursor. Records of its very time are read again, and before leaves them out.
func (c cursor) narrow(q *store.LogQuery) {
	if c.id == "" {
		return
	}
	if q.Ascending {
		q.Range.From = max(q.Range.From, c.at)
	} else {
		q.Range.To = min(q.Range.To, c.at+1)
	}
	q.Limit = 0
}

// before tells whether r, of records in order, was on the page before.
func (c cursor) before(r *kemi.LogRecord) bool {
	if c.id == "" || *c.on || r.At != c.at {
		return false
	}
	*c.on = r.ID == c.id
	return true
}

func (l *Logs) serveHistogram(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	return l.ask(w, r, id, func(ctx context.Context, v url.Values, q store.LogQuery) (map[string]any, int, error) {
		step, err := histogramStep(v.Get("step"), q.Range)
		if err != nil {
			return nil, 0, err
		}
		buckets, err := l.o.Store.Histogram(ctx, id, q, step)
		if buckets == nil {
			buckets = []store.LogBucket{}
		}
		return map[string]any{"buckets": buckets, "step": step}, len(buckets), err
	})
}

const maxBuckets = 10_000

// niceSteps are what a step is chosen from when none is given, so that there are about sixty buckets.
var niceSteps = []time.Duration{
	time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute,
	5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour,
}

func histogramStep(s string, span store.NanoRange) (kemi.Millis, error) {
	length := time.Duration(span.To - span.From)
	if s == "" {
		for _, d := range niceSteps {
			if length/d <= 60 {
				return kemi.Millis(d.Milliseconds()), nil
			}
		}
		s = "365d"
	}
	ms, err := parseStep(s)
	if err != nil {
		return 0, named("step", err)
	}
	if n := length.Milliseconds() / ms; n >= maxBuckets {
		return 0, kemi.Errorf(kemi.ErrInvalid, "step: %s: makes %d buckets of %s, at most %d are counted; take a longer step", quote(s), n+1, length, maxBuckets)
	}
	return kemi.Millis(ms), nil
}

func (l *Logs) serveFields(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	return l.ask(w, r, id, func(ctx context.Context, v url.Values, q store.LogQuery) (map[string]any, int, error) {
		top, err := number(v, "top", 10, 1, 1000)
		if err != nil {
			return nil, 0, err
		}
		fields, err := l.o.Store.Fields(ctx, id, q, top)
		if fields == nil {
			fields = []store.LogField{}
		}
		return map[string]any{"fields": fields}, len(fields), err
	})
}

func (l *Logs) serveCount(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	return l.ask(w, r, id, func(ctx context.Context, v url.Values, q store.LogQuery) (map[string]any, int, error) {
		var by []string
		for name := range strings.SplitSeq(v.Get("by"), ",") {
			if name = strings.TrimSpace(name); name != "" && !slices.Contains(by, name) {
				by = append(by, name)
			}
		}
		counts, err := l.o.Store.Count(ctx, id, q, by)
		type group struct {
			Labels kemi.Labels `json:"labels"`
			Count  int64       `json:"count"`
		}
		total, groups := int64(0), make([]group, 0, len(counts))
		for _, c := range counts {
			total += c.Count
			groups = append(groups, group(c))
		}
		slices.SortStableFunc(groups, func(a, b group) int { return int(max(-1, min(1, b.Count-a.Count))) })
		return map[string]any{"count": total, "groups": groups}, len(groups), err
	})
}

// ask answers a question whose answer is small.
func (l *Logs) ask(w http.ResponseWriter, r *http.Request, id kemi.Identity, answer func(ctx context.Context, v url.Values, q store.LogQuery) (map[string]any, int, error)) error {
	v, err := params(w, r)
	if err != nil {
		return err
	}
	began := l.o.Now()
	q, err := parseQuestion(v, began)
	if err != nil {
		return err
	}
	ctx, done, err := l.admit(r.Context())
	if err != nil {
		return err
	}
	defer done()
	fresh := l.o.Freshness()
	out, n, err := answer(ctx, v, store.LogQuery{Expr: q.expr, Range: q.span})
	if err != nil {
		return l.timedOut(err)
	}
	s := summarize(fresh, q.warnings, began, l.o.Now())
	s.Stats.Records = n
	out["stats"], out["asOf"], out["complete"] = s.Stats, s.AsOf, s.Complete
	if s.Reason != "" {
		out["reason"] = s.Reason
	}
	if len(s.Warnings) > 0 {
		out["warnings"] = s.Warnings
	}
	kemi.WriteJSON(w, http.StatusOK, out)
	return nil
}
