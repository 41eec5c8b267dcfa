package push

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/transform"
)

// Options are what the receivers work with. All but Enricher, Series, Pipelines and WaitApplied are needed.
type Options struct {
	Config     Config
	Bus        bus.Bus
	Table      *codec.Table      // finds series; it enriches metrics by itself
	Enricher   codec.Enricher    // of logs
	Series     codec.SeriesLimit // nil = as many series as come
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// Pipelines change log records before they are on the log; nil: as they come.
	Pipelines *transform.Transform
	// WaitApplied waits until a record can be queried; without it a sender that asks for that is refused.
	WaitApplied func(ctx context.Context, topic string, partition int32, offset int64) error
}

// Push is the receivers.
type Push struct {
	cfg         Config
	bus         bus.Bus
	table       *codec.Table
	enricher    codec.Enricher
	series      codec.SeriesLimit
	log         *slog.Logger
	now         func() time.Time
	transform   *transform.Transform
	waitApplied func(ctx context.Context, topic string, partition int32, offset int64) error

	memory *semaphore.Weighted // bytes
	// The streams of logs that came lately: as sorted labels, and as Loki's senders write them in protobuf.
	streams, lokiStreams streams
	m                    *metrics
}

// New makes the receivers.
func New(o Options) (*Push, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	p := &Push{
		cfg: o.Config, bus: o.Bus, table: o.Table, enricher: o.Enricher, series: o.Series, log: o.Log, now: o.Now, waitApplied: o.WaitApplied, transform: o.Pipelines,
		memory: semaphore.NewWeighted(o.Config.MemoryBytes),
	}
	p.m = newMetrics(o.Registerer, p)
	return p, nil
}

// Routes are what the receivers serve.
func (p *Push) Routes() []kemi.Route {
	return append(p.metricRoutes(), p.logRoutes()...)
}

func (p *Push) metricRoutes() []kemi.Route {
	return []kemi.Route{
		{Pattern: "POST /api/v1/write", Needs: kemi.MetricsWrite, Dialect: kemi.DialectText, Handle: p.serveRemoteWrite},
		{Pattern: "POST /api/put", Needs: kemi.MetricsWrite, Dialect: kemi.DialectOpenTSDB, Handle: p.servePut},
		{Pattern: "POST /api/v2/put", Needs: kemi.MetricsWrite, Dialect: kemi.DialectOpenTSDB, Handle: p.servePut},
	}
}

// batchOf is the name that the sender gives the request, so that sending it again does not make it another one.
func batchOf(r *http.Request) (string, error) {
	for _, name := range []string{"Idempotency-Key", "X-Kemi-Batch"} {
		if v := r.Header.Get(name); v != "" {
			if len(v) > maxBatchName {
				return "", kemi.Errorf(kemi.ErrInvalid, "header %s: %d bytes: must be at most %d", name, len(v), maxBatchName)
			}
			return v, nil
		}
	}
	return "", nil
}

const maxBatchName = 256
