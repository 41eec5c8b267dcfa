package otlp

import (
	"context"
	"encoding/json"
	"errors"

	"log/slog"
	"strconv"
	"sync"
	"time"

	translator "github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

// The names in the receivers' metrics.
const (
	protocol     = "otlp-metrics"
	protocolGRPC = "otlp-grpc"
)

// Options are what the receiver works with. All are needed.
type Options struct {
	In  *push.Push
	Log *slog.Logger
	Now func() time.Time
}

// Receiver is the receiver.
type Receiver struct {
	cfg      Config
	in       *push.Push
	log      *slog.Logger
	settings translator.Settings

	converters sync.Pool
	plain      keySet // resources that have no target_info
	streams    *streams
}

// New makes the receiver.
func New(cfg Config, o Options) (*Receiver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Receiver{cfg: cfg, in: o.In, log: o.Log, settings: settingsOf(cfg), streams: newStreams(cfg.MaxDeltaStreams, o.Now)}, nil
}

// result is what became of a request that was understood.
type result struct {
	rejected int
	message  string
}

// export makes a request in protobuf durable. An error means that it is not known to be, or that it could not be read at all.
func (r *Receiver) export(ctx context.Context, id kemi.Identity, protocol string, body []byte, batch, source string) (result, error) {
	out, err := r.in.Begin(id, protocol, batch, source)
	if err != nil {
		return result{}, err
	}
	defer out.End()
	w := &walker{r: r, ctx: ctx, project: id.Project, out: out}
	if err := w.request(body); err != nil {
		return result{}, err
	}
	if err := w.rest(); err != nil {
		return result{}, err
	}
	if err := out.Flush(ctx); err != nil {
		return result{}, err
	}
	r.in.Refused(protocol, "data points", w.rejected)
	if w.rejected > 0 {
		if err := out.Limited(errors.New(w.message())); errors.Is(err, kemi.ErrLimited) {
			return result{}, err
		}
	}
	return result{w.rejected, w.message()}, nil
}

// fromJSON is the protobuf of a request in JSON.
func fromJSON(body []byte) ([]byte, error) {
	req := pmetricotlp.NewExportRequest()
	if err := req.UnmarshalJSON(body); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: not an OTLP metrics request in JSON: %w", err)
	}
	b, err := req.MarshalProto()
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: not an OTLP metrics request in JSON: %w", err)
	}
	return b, nil
}

// protobuf is the response to a request that was understood. partial_success is there only if something was rejected.
func (a result) protobuf() []byte {
	if a.rejected == 0 {
		return []byte{}
	}
	const partialSuccess, rejectedDataPoints, errorMessage = 1, 1, 2
	b := protowire.AppendVarint(protowire.AppendTag(nil, rejectedDataPoints, protowire.VarintType), uint64(a.rejected))
	return appendField(nil, partialSuccess, appendField(b, errorMessage, []byte(a.message)))
}

// json is the same in JSON.
func (a result) json() ([]byte, error) {
	answer := map[string]any{}
	if a.rejected > 0 {
		answer["partialSuccess"] = map[string]string{"rejectedDataPoints": strconv.Itoa(a.rejected), "errorMessage": a.message}
	}
	return json.Marshal(answer)
}

func errTooManyStreams(most int) error {
	return kemi.Errorf(kemi.ErrInvalid, "delta temporality: %d series are added up already (ingest.otlp.maxDeltaStreams)", most)
}

func errLateDelta(at, last int64, why string) error {
	return kemi.Errorf(kemi.ErrInvalid, "delta temporality: a point of %s came after one of %s, and %s", kemi.Millis(at).Time().Format(time.RFC3339Nano), kemi.Millis(last).Time().Format(time.RFC3339Nano), why)
}

// keySet is a set of bounded size: when it is full it begins anew.
type keySet struct {
	mu sync.RWMutex
	m  map[codec.Key]struct{}
}

const maxKeySet = 100_000

func (s *keySet) has(k codec.Key) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.m[k]
	return ok
}

func (s *keySet) add(k codec.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || len(s.m) >= maxKeySet {
		s.m = map[codec.Key]struct{}{}
	}
	s.m[k] = struct{}{}
}
