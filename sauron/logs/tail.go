package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

const (
	tailGroup    = "tail"
	heartbeat    = 15 * time.Second
	writeTimeout = 30 * time.Second // for one write to someone who watches
)

// hub is one subscription to the log of record for all who watch. It decodes a record once, if anybody of its project watches, and hands it to
// each of them; they match it themselves, so that a slow condition slows only its owner.
type hub struct {
	feed Feed
	cfg  Config
	log  *slog.Logger

	ready   chan struct{} // closed when Run has subscribed
	ended   chan struct{} // closed when Run has returned
	mu      sync.Mutex
	watches map[*watch]struct{}

	count   prometheus.Gauge
	dropped prometheus.Counter
	skipped prometheus.Counter
}

func newHub(o Options) *hub {
	h := &hub{
		feed: o.Bus, cfg: o.Config, log: o.Log, ready: make(chan struct{}), ended: make(chan struct{}), watches: map[*watch]struct{}{},
		count:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "kemi_sauron_logs_tail_watchers", Help: "How many follow logs live."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_sauron_logs_tail_dropped_records_total", Help: "Records that were not looked at for someone who reads too slowly."}),
		skipped: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_sauron_logs_tail_undecodable_total", Help: "Records of the log that could not be read."}),
	}
	o.Registerer.MustRegister(h.count, h.dropped, h.skipped)
	return h
}

func (h *hub) run(ctx context.Context) error {
	defer close(h.ended)
	from, err := latest(ctx, h.feed)
	if err != nil {
		return fmt.Errorf("follow logs for live tail: %w", err)
	}
	r, err := h.feed.Subscribe(ctx, bus.Logs, tailGroup, from)
	if err != nil {
		return fmt.Errorf("follow logs for live tail: %w", err)
	}
	defer r.Close()
	close(h.ready)
	for {
		b, err := r.Next(ctx)
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow logs for live tail: %w", err)
		}
		for i := range b.Records {
			h.hand(&b.Records[i])
		}
	}
}

// latest is bus.Latest for the half of a bus that is known here.
func latest(ctx context.Context, f Feed) (bus.Positions, error) {
	spans, err := f.Spans(ctx, bus.Logs)
	if err != nil {
		return nil, err
	}
	p := make(bus.Positions, len(spans))
	for part, s := range spans {
		p[part] = s.Next
	}
	return p, nil
}

// hand gives the records to those who watch their project.
func (h *hub) hand(r *bus.Record) {
	project := r.Header(codec.HeaderProject)
	h.mu.Lock()
	var to []*watch
	for w := range h.watches {
		if w.project == project {
			to = append(to, w)
		}
	}
	h.mu.Unlock()
	if len(to) == 0 {
		return
	}
	records, err := codec.DecodeLogs(r)
	if err != nil {
		h.skipped.Inc()
		h.log.Error("record not shown live", "partition", r.Partition, "offset", r.Offset, "err", err)
		return
	}
	var size int64
	for i := range records {
		size += int64(len(records[i].Body)) + 200
	}
	for _, w := range to {
		h.dropped.Add(float64(w.push(piece{records: records, size: size, partition: r.Partition, offset: r.Offset})))
	}
}

// piece is the records of one record of the bus. They are shared: nobody may change them.
type piece struct {
	records   []kemi.LogRecord
	size      int64
	partition int32
	offset    int64
}

// watch is what waits for one who watches. When it is full the oldest pieces are dropped and counted.
type watch struct {
	project string
	most    int64

	mu      sync.Mutex
	queue   []piece
	size    int64
	dropped int
	from    bus.Positions // what lies before is older than the watch
	wake    chan struct{} // holds one token if there is something to take
}

// push adds p and tells how many records were dropped for it.
func (w *watch) push(p piece) (dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.offset < w.from[p.partition] { // nothing is, as long as from is not known: then join looks
		return 0
	}
	w.queue = append(w.queue, p)
	w.size += p.size
	for w.size > w.most && len(w.queue) > 1 {
		dropped += len(w.queue[0].records)
		w.size -= w.queue[0].size
		w.queue[0] = piece{}
		w.queue = w.queue[1:]
	}
	w.dropped += dropped
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return dropped
}

// take empties the queue.
func (w *watch) take() (pieces []piece, dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pieces, dropped = w.queue, w.dropped
	w.queue, w.size, w.dropped = nil, 0, 0
	return pieces, dropped
}

// join begins a watch: it gets what is published from now on.
func (h *hub) join(ctx context.Context, project string) (*watch, error) {
	select {
	case <-h.ready:
	case <-h.ended:
		return nil, errEnding()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-h.ended:
		return nil, errEnding()
	default:
	}
	w := &watch{project: project, most: h.cfg.WatchBytes, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	if len(h.watches) >= h.cfg.MaxWatchers {
		h.mu.Unlock()
		return nil, kemi.Errorf(kemi.ErrLimited, "%d follow logs live, more cannot (maxWatchers)", h.cfg.MaxWatchers)
	}
	h.watches[w] = struct{}{}
	h.count.Set(float64(len(h.watches)))
	h.mu.Unlock()
	// The place is read after the watch was registered: what is published later reaches it, and what was published before is left out.
	from, err := latest(ctx, h.feed)
	if err != nil {
		h.leave(w)
		return nil, err
	}
	w.mu.Lock()
	w.from = from
	kept := w.queue[:0]
	w.size = 0
	for _, p := range w.queue {
		if p.offset >= from[p.partition] {
			kept = append(kept, p)
			w.size += p.size
		}
	}
	w.queue = kept
	w.mu.Unlock()
	return w, nil
}

func errEnding() error {
	return kemi.Errorf(kemi.ErrUnavailable, "live tail has ended: the server stops")
}

func (h *hub) leave(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watches, w)
	h.count.Set(float64(len(h.watches)))
}

// serveTail sends what matches as server-sent events, from now on until the client goes:
//
//	id: <id>
//	data: {record}
//
// with a comment now and then, so that both sides know the other is there. When the client reads too slowly the oldest records that wait are not
// looked at any more, and an event "dropped" says how many: {"records": 123}.
func (l *Logs) serveTail(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	v, err := params(w, r)
	if err != nil {
		return err
	}
	expr, _, err := ParseWarn(first(v, "query", "q"))
	if err != nil {
		return err
	}
	watch, err := l.tail.join(r.Context(), id.Project)
	if err != nil {
		return err
	}
	defer l.tail.leave(watch)

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	send := func(b []byte) error {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer has one
		if _, err := w.Write(b); err != nil {
			return err
		}
		return rc.Flush()
	}
	// From here on an error means that nobody is there to be told.
	if send([]byte(": following\n\n")) != nil {
		return nil
	}
	match := store.CompileLog(expr)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var b []byte
	for {
		b = b[:0]
		select {
		case <-r.Context().Done():
			return nil
		case <-l.tail.ended:
			return nil
		case <-beat.C:
			b = append(b, ": still here\n\n"...)
		case <-watch.wake:
			pieces, dropped := watch.take()
			if dropped > 0 {
				b = append(b, "event: dropped\ndata: {\"records\":"...)
				b = append(strconv.AppendInt(b, int64(dropped), 10), "}\n\n"...)
			}
			for _, p := range pieces {
				if b = appendEvents(b, p.records, match); len(b) > 256<<10 {
					if send(b) != nil {
						return nil
					}
					b = b[:0]
				}
			}
		}
		if len(b) > 0 && send(b) != nil {
			return nil
		}
	}
}

// appendEvents writes the records that match, in the order of time: on the bus those of one stream stand together.
func appendEvents(b []byte, records []kemi.LogRecord, match func(*kemi.LogRecord) bool) []byte {
	var found []*kemi.LogRecord
	for i := range records {
		if match(&records[i]) {
			found = append(found, &records[i])
		}
	}
	slices.SortStableFunc(found, func(x, y *kemi.LogRecord) int {
		switch {
		case x.At < y.At:
			return -1
		case x.At > y.At:
			return 1
		}
		return 0
	})
	for _, r := range found {
		b = append(append(b, "id: "...), r.ID...)
		b = appendRecord(append(b, "\ndata: "...), r)
		b = append(b, "\n\n"...)
	}
	return b
}
