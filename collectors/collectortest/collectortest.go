// Package collectortest is what tests of receivers share: the receivers' door over a real log in a temporary folder, routes on a real
// port, and a look at what the log has afterwards, decoded as a reader decodes it that did not see it being written.
package collectortest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/wal"
)

// House is receivers over a real log.
type House struct {
	testing.TB
	Push  *push.Push
	Log   *wal.WAL
	Dir   string // of the log
	ID    kemi.Identity
	URL   string // after Serve
	Fault *Fault // makes the log refuse
	Reg   *prometheus.Registry
}

// Open opens the log and the door. change may change what the door works with.
func Open(t testing.TB, change func(*push.Options)) *House {
	t.Helper()
	cfg := wal.DefaultConfig()
	cfg.Dir = t.TempDir()
	l, err := wal.Open(cfg, wal.Options{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h := &House{TB: t, Log: l, Dir: cfg.Dir, Fault: &Fault{Bus: l}, Reg: prometheus.NewRegistry()}
	h.ID = kemi.Identity{Subject: "token:test", Project: "shop", Permissions: kemi.MetricsWrite | kemi.LogsWrite}
	o := push.Options{
		Config: push.DefaultConfig(), Bus: h.Fault, Table: codec.NewTable(nil, time.Now), Log: slog.New(slog.DiscardHandler), Registerer: h.Reg, Now: time.Now,
	}
	if change != nil {
		change(&o)
	}
	if h.Push, err = push.New(o); err != nil {
		t.Fatal(err)
	}
	return h
}

// Serve serves routes as the house's identity.
func (h *House) Serve(routes []kemi.Route) {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) {
			if !h.ID.Can(r.Needs) {
				kemi.WriteError(w, r.Dialect, kemi.Errorf(kemi.ErrDenied, "lacks %s", r.Needs))
				return
			}
			r.Handle(w, req, h.ID)
		})
	}
	s := httptest.NewServer(mux)
	h.Cleanup(s.Close)
	h.URL = s.URL
}

// Post sends a request and gives the answer's status, text and headers.
func (h *House) Post(path string, body []byte, headers ...string) (int, string, http.Header) {
	return h.Do(http.MethodPost, path, bytes.NewReader(body), headers...)
}

// Do is Post with any method.
func (h *House) Do(method, path string, body io.Reader, headers ...string) (int, string, http.Header) {
	h.Helper()
	req, err := http.NewRequestWithContext(h.Context(), method, h.URL+path, body)
	if err != nil {
		h.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// Batches are the decoded records of topic metrics.
func (h *House) Batches() []*codec.SeriesBatch {
	h.Helper()
	table := codec.NewTable(nil, time.Now)
	var out []*codec.SeriesBatch
	for _, r := range h.Records(bus.Metrics) {
		b, err := table.Decode(&r)
		if err != nil {
			h.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// Records are what the log has of a topic.
func (h *House) Records(topic string) []bus.Record {
	h.Helper()
	spans, err := h.Log.Spans(h.Context(), topic)
	if err != nil {
		h.Fatal(err)
	}
	left := int64(0)
	from := bus.Positions{}
	for p, s := range spans {
		left += s.Next
		from[p] = 0
	}
	r, err := h.Log.Subscribe(h.Context(), topic, "test", from)
	if err != nil {
		h.Fatal(err)
	}
	defer r.Close()
	var out []bus.Record
	for left > 0 {
		ctx, cancel := context.WithTimeout(h.Context(), 10*time.Second)
		b, err := r.Next(ctx)
		cancel()
		if err != nil {
			h.Fatal(err)
		}
		for _, rec := range b.Records {
			rec.Local = nil
			out = append(out, rec)
		}
		left -= int64(len(b.Records))
	}
	return out
}

// Logs are the log records that the log has.
func (h *House) Logs() []kemi.LogRecord {
	h.Helper()
	var out []kemi.LogRecord
	for _, r := range h.Records(bus.Logs) {
		records, err := codec.DecodeLogs(&r)
		if err != nil {
			h.Fatal(err)
		}
		out = append(out, records...)
	}
	return out
}

// Samples are all samples that the log has, as text, sorted: `name{label="value"} value @ms`, and ` start=ms` where one is known.
func (h *House) Samples() []string {
	h.Helper()
	var out []string
	for _, b := range h.Batches() {
		for i := range b.Series {
			from, to := b.Span(i)
			for j := from; j < to; j++ {
				s := fmt.Sprintf("%s %v @%d", Name(b.Labels(i)), b.Values[j], b.At[j])
				if b.Complex != nil && b.Complex.Starts != nil && b.Complex.Starts[j] != 0 {
					s += fmt.Sprintf(" start=%d", b.Complex.Starts[j])
				}
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Name is labels as Prometheus writes them.
func Name(ls kemi.Labels) string {
	rest := ls.With(kemi.MetricName, "")
	if len(rest) == 0 {
		return ls.Get(kemi.MetricName)
	}
	return ls.Get(kemi.MetricName) + strings.ReplaceAll(rest.String(), ", ", ",")
}

// Expect compares the samples of the log with those wanted, in any order.
func (h *House) Expect(want ...string) {
	h.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := h.Samples(); !slices.Equal(got, want) {
		h.Errorf("stored\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// Full is a store that has room for so many series more.
type Full struct{ Left int }

// Room takes a place.
func (f *Full) Room(project string, _ kemi.Labels) error {
	if f.Left--; f.Left < 0 {
		return kemi.Errorf(kemi.ErrLimited, "the limit of series of project %s is reached", project)
	}
	return nil
}

// Has knows none.
func (*Full) Has(string, kemi.Labels) bool { return false }

// Eventually waits for what a receiver does that does not answer.
func (h *House) Eventually(what string, ok func() bool) {
	h.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			h.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Fault is a bus that can be told to refuse.
type Fault struct {
	bus.Bus
	mu  sync.Mutex
	err error
}

// Set makes Publish return err until it is set to nil.
func (f *Fault) Set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// Publish publishes or refuses.
func (f *Fault) Publish(ctx context.Context, topic string, r []bus.Record) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.Bus.Publish(ctx, topic, r)
}
