package push

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/wal"
)

// house is the receivers over a real log, served on a real port.
type house struct {
	*testing.T
	push *Push
	log  *wal.WAL
	url  string
	id   kemi.Identity
}

func openHouse(t *testing.T, change func(*Options)) *house {
	t.Helper()
	cfg := wal.DefaultConfig()
	cfg.Dir = t.TempDir()
	l, err := wal.Open(cfg, wal.Options{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	o := Options{
		Config: DefaultConfig(), Bus: l, Table: codec.NewTable(nil, time.Now), Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now,
	}
	if change != nil {
		change(&o)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{T: t, push: p, log: l, id: kemi.Identity{Subject: "token:test", Project: "shop", Permissions: kemi.MetricsWrite}}
	mux := http.NewServeMux()
	for _, r := range p.metricRoutes() {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) { r.Handle(w, req, h.id) })
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	h.url = s.URL
	return h
}

// post sends a request and gives the answer's status, text and headers.
func (h *house) post(path string, body []byte, headers ...string) (int, string, http.Header) {
	h.Helper()
	req, err := http.NewRequestWithContext(h.Context(), http.MethodPost, h.url+path, bytes.NewReader(body))
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

// records are what the log has, as one reads it that did not see it being written.
func (h *house) records() []bus.Record {
	h.Helper()
	spans, err := h.log.Spans(h.Context(), bus.Metrics)
	if err != nil {
		h.Fatal(err)
	}
	left := int64(0)
	from := bus.Positions{}
	for p, s := range spans {
		left += s.Next
		from[p] = 0
	}
	r, err := h.log.Subscribe(h.Context(), bus.Metrics, "test", from)
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

// stored is the samples of the log by series.
func (h *house) stored() map[string][]kemi.Points {
	h.Helper()
	table := codec.NewTable(nil, time.Now)
	out := map[string][]kemi.Points{}
	for _, r := range h.records() {
		b, err := table.Decode(&r)
		if err != nil {
			h.Fatal(err)
		}
		for i := range b.Series {
			from, to := b.Span(i)
			ls := b.Labels(i)
			if from < to {
				out[ls.String()] = append(out[ls.String()], kemi.Points{Labels: ls, At: b.At[from:to], Values: b.Values[from:to]})
			}
		}
	}
	return out
}

// batches are the decoded records of the log.
func (h *house) batches() []*codec.SeriesBatch {
	h.Helper()
	table := codec.NewTable(nil, time.Now)
	var out []*codec.SeriesBatch
	for _, r := range h.records() {
		b, err := table.Decode(&r)
		if err != nil {
			h.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func (h *house) expectNothing() {
	h.Helper()
	if r := h.records(); len(r) != 0 {
		h.Fatalf("%d records were published", len(r))
	}
}

// names are the series that are stored, without what is equal in all of them.
func (h *house) names() []string {
	var out []string
	for name := range h.stored() {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func packed(v1 bool, add func(e *codec.Encoder)) []byte {
	e := &codec.Encoder{V1: v1}
	add(e)
	return e.Encode()
}

func one(e *codec.Encoder, at time.Time, v float64, labels ...string) {
	var ls kemi.Labels
	for i := 0; i < len(labels); i += 2 {
		ls = append(ls, kemi.Label{Name: labels[i], Value: labels[i+1]}) // as they are: also what is wrong
	}
	e.Add(ls, []kemi.Millis{kemi.MillisOf(at)}, []float64{v})
}

// failingBus refuses to publish.
type failingBus struct {
	bus.Bus
	mu  sync.Mutex
	err error
}

func (f *failingBus) Publish(ctx context.Context, topic string, r []bus.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return f.Bus.Publish(ctx, topic, r)
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in %q", p, text)
		}
	}
}

func snappyOf(b []byte) []byte { return snappy.Encode(nil, b) }
