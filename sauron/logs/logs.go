package logs

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/store"
)

// Searcher is what answers: the reading half of a store.LogStore.
type Searcher interface {
	Search(ctx context.Context, id kemi.Identity, q store.LogQuery) iter.Seq2[kemi.LogRecord, error]
	Histogram(ctx context.Context, id kemi.Identity, q store.LogQuery, step kemi.Millis) ([]store.LogBucket, error)
	Fields(ctx context.Context, id kemi.Identity, q store.LogQuery, top int) ([]store.LogField, error)
	Count(ctx context.Context, id kemi.Identity, q store.LogQuery, by []string) ([]store.GroupCount, error)
}

// Feed is where live records come from: the reading half of a bus.Bus.
type Feed interface {
	Subscribe(ctx context.Context, topic, group string, from bus.Positions) (bus.Reader, error)
	Spans(ctx context.Context, topic string) (map[int32]bus.Span, error)
}

// Deleter takes the records of the identity's project that a query selects away, so that neither an answer nor a file has them, and tells how many they were.
type Deleter interface {
	Delete(ctx context.Context, id kemi.Identity, q store.LogQuery) (int64, error)
}

// Options are what the API works with. All but Config and Deleter are needed.
type Options struct {
	Config     Config // the zero value stands for DefaultConfig
	Store      Searcher
	Deleter    Deleter // nil: nothing can be deleted
	Bus        Feed
	Freshness  func() store.Freshness // of the store
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Logs is the API.
type Logs struct {
	o        Options
	slots    chan struct{}
	deleting chan struct{} // has room for the one who deletes
	tail     *hub

	asked *prometheus.CounterVec
	took  *prometheus.HistogramVec
}

// New makes the API. Live tail works while Run runs.
func New(o Options) (*Logs, error) {
	if o.Config == (Config{}) {
		o.Config = DefaultConfig()
	}
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	l := &Logs{
		o: o, slots: make(chan struct{}, o.Config.MaxConcurrent), deleting: make(chan struct{}, 1), tail: newHub(o),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_sauron_logs_questions_total", Help: "Questions about logs, by kind and how they were answered."}, []string{"kind", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kemi_sauron_logs_seconds", Help: "Time to answer questions about logs.", Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 50},
		}, []string{"kind"}),
	}
	o.Registerer.MustRegister(l.asked, l.took)
	return l, nil
}

// Run feeds those who watch live until ctx ends.
func (l *Logs) Run(ctx context.Context) error { return l.tail.run(ctx) }

// Routes are what the API serves.
func (l *Logs) Routes() []kemi.Route {
	var routes []kemi.Route
	route := func(method, name string, needs kemi.Permission, stream bool, handle func(w http.ResponseWriter, r *http.Request, id kemi.Identity) error) {
		routes = append(routes, kemi.Route{
			Pattern: method + " /api/v2/logs/" + name, Needs: needs, Stream: stream,
			Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
				began, code := time.Now(), http.StatusOK
				if err := handle(w, r, id); err != nil {
					code = kemi.HTTPStatus(err)
					kemi.WriteError(w, kemi.DialectKEMI, err)
				}
				l.asked.WithLabelValues(name, strconv.Itoa(code)).Inc()
				if name != "tail" {
					l.took.WithLabelValues(name).Observe(time.Since(began).Seconds())
				}
			},
		})
	}
	add := func(name string, stream bool, handle func(w http.ResponseWriter, r *http.Request, id kemi.Identity) error) {
		for _, method := range []string{"GET", "POST"} {
			route(method, name, kemi.LogsRead, stream, handle)
		}
	}
	add("query", false, l.serveQuery)
	add("histogram", false, l.serveHistogram)
	add("fields", false, l.serveFields)
	add("count", false, l.serveCount)
	add("context", false, l.serveContext)
	add("tail", true, l.serveTail)
	if l.o.Deleter != nil {
		route("POST", "delete", kemi.LogsRead|kemi.LogsDelete, true, l.serveDelete) // a stream has as much time as it takes
	}
	return routes
}

// admit waits for a free slot. The context that it gives ends with the time for the answer; done gives the slot back.
func (l *Logs) admit(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, l.o.Config.Timeout)
	select {
	case l.slots <- struct{}{}:
		return ctx, func() { <-l.slots; cancel() }, nil
	case <-ctx.Done():
		cancel()
		return nil, nil, kemi.Errorf(kemi.ErrUnavailable, "%d questions about logs are being answered; this one waited in vain for its turn", l.o.Config.MaxConcurrent)
	}
}

// timedOut makes plain what an end of time means.
func (l *Logs) timedOut(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return kemi.Errorf(kemi.ErrUnavailable, "no answer within %s: ask for a shorter time or less: %w", l.o.Config.Timeout, err)
	}
	return err
}

// Count counts the records that match a query, by the values of the given fields; by none gives one count.
func (l *Logs) Count(ctx context.Context, id kemi.Identity, query string, from, to kemi.Nanos, by []string) ([]store.GroupCount, error) {
	if !id.Can(kemi.LogsRead) {
		return nil, kemi.Errorf(kemi.ErrDenied, "count logs: %s may not read them", id.Subject)
	}
	e, err := Parse(query)
	if err != nil {
		return nil, err
	}
	return l.o.Store.Count(ctx, id, store.LogQuery{Expr: e, Range: store.NanoRange{From: from, To: to}}, by)
}
