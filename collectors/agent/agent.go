package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kemi"
	"kemi/collectors/host"
	"kemi/collectors/journal"
	"kemi/collectors/tail"
	"kemi/pipeline/codec"
	"kemi/pipeline/transform"
)

// Sink is a server. What it returns nil for is durable there. A batch that is sent again has the same name and must count once.
//
// The kind of an error says what follows: ErrUnavailable, ErrLimited and ErrUnauthorized are tried again, when kemi.RetryDelay says or with
// growing waits; ErrInvalid, ErrTooLarge, ErrDenied, ErrNotFound and ErrConflict drop the batch; one without a kind is tried again for some time. Partial says that the batch is done.
type Sink interface {
	// Metrics takes a remote write 2.0 request, packed with snappy.
	Metrics(ctx context.Context, body []byte, batch string) error
	// Logs takes an OTLP ExportLogsServiceRequest in protobuf.
	Logs(ctx context.Context, body []byte, batch string) error
	// Register tells what the agent knows of its host.
	Register(ctx context.Context, h Host) error
}

// Options are what an Agent takes from its surroundings.
type Options struct {
	Config     Config
	Sink       Sink // nil: the server that Config names, over HTTP
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: none
	Now        func() time.Time
	Version    string
	// Collect, if set, collects more, until ctx ends. It hands over remote write 2.0 requests, which are spooled before spool returns; it may do
	// so concurrently, and use the bytes again.
	Collect func(ctx context.Context, spool func(body []byte)) error
}

// Agent collects and ships. New, Run, once each.
type Agent struct {
	cfg     Config
	sink    Sink
	log     *slog.Logger
	now     func() time.Time
	version string
	name    string
	labels  kemi.Labels

	lock          *os.File
	metrics, logs *queue
	host          *host.Collector // nil: not measured
	tail          *tail.Tail
	transform     *transform.Transform // nil: none
	journal       *journal.Journal     // nil: not followed
	tailOut       chan []tail.Entry
	journalOut    chan []journal.Entry
	registered    chan struct{} // closed when batches may be sent
	allowed       sync.Once
	stats         stats
	registerer    prometheus.Registerer
	collect       func(ctx context.Context, spool func(body []byte)) error
}

// linger is how long a log line waits for others to share its batch.
const linger = 400 * time.Millisecond

// New opens the spool and makes the collectors. Nothing runs before Run, which also closes what New has opened.
func New(o Options) (_ *Agent, err error) {
	if err := o.Config.Validate(o.Sink == nil); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: o.Config, sink: o.Sink, log: o.Log, now: o.Now, version: o.Version, name: o.Config.Hostname, registerer: o.Registerer, collect: o.Collect,
		tailOut: make(chan []tail.Entry), journalOut: make(chan []journal.Entry), registered: make(chan struct{}),
	}
	if a.name == "" {
		if a.name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("hostname: %w", err)
		}
	}
	a.labels = kemi.LabelsFromMap(o.Config.Labels)
	if a.sink == nil {
		if a.sink, err = NewHTTPSink(o.Config); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := a.openSpool(); err != nil {
		return nil, err
	}
	if o.Config.Host.Enabled {
		h := o.Config.Host
		if a.host, err = host.New(host.Options{Host: a.name, Labels: a.labels, Proc: h.Proc, Sys: h.Sys, Root: h.Root, Log: a.log}); err != nil {
			return nil, err
		}
	}
	if err := a.openLogs(); err != nil {
		return nil, err
	}
	if len(a.cfg.Pipelines) > 0 {
		if a.transform, err = transform.New(a.cfg.Pipelines, transform.Options{Namespace: "kemi_collectors_agent_pipeline", Now: a.now}); err != nil {
			return nil, fmt.Errorf("pipelines: %w", err)
		}
	}
	if a.registerer != nil {
		if err := a.registerer.Register(a); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return a, nil
}

const idFile = "agent.id"

var validID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// openSpool takes the folder for this agent alone and opens what is in it.
func (a *Agent) openSpool() error {
	dir := a.cfg.Spool.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "spool.dir: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "spool.dir: %w", err)
	}
	a.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "spool.dir: %s: another agent uses it; give each its own", dir)
	}
	id, err := a.identify(filepath.Join(dir, idFile))
	if err != nil {
		return fmt.Errorf("spool.dir: %w", err)
	}
	open := func(name string, keepOldest bool) (*queue, error) {
		return openQueue(queueOptions{
			dir: filepath.Join(dir, name), id: id + "-" + name, run: random(4), maxBytes: a.cfg.Spool.MaxBytes / 2, dropOldest: !keepOldest,
			pack: keepOldest, log: a.log, now: a.now,
		})
	}
	if a.metrics, err = open("metrics", false); err != nil {
		return err
	}
	a.logs, err = open("logs", true)
	return err
}

// identify gives the agent the name that its batches begin with: made once, as long as there is the spool.
func (a *Agent) identify(path string) (string, error) {
	b, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(b)); err == nil && validID.MatchString(id) {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := random(8)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(id + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", err
	}
	return id, syncDir(filepath.Dir(path), (*os.File).Sync)
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// The positions in the spool are kept under these names.
const (
	filePrefix = "file:"
	journalKey = "journal"
)

func (a *Agent) openLogs() error {
	base := a.labels.With(codec.HostLabel, a.name)
	positions := map[string]tail.Position{}
	for k, v := range a.logs.savedPositions(filePrefix) {
		var p tail.Position
		if err := json.Unmarshal(v, &p); err != nil {
			return fmt.Errorf("spool: position of file %s: %w", k, err)
		}
		positions[k] = p
	}
	var err error
	if a.tail, err = tail.New(tail.Options{Inputs: a.cfg.Logs, Labels: base, Positions: positions, Out: a.tailOut, Log: a.log, Now: a.now}); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	if !a.cfg.Journal {
		return nil
	}
	var p journal.Position
	if v, ok := a.logs.savedPositions(journalKey)[""]; ok {
		if err := json.Unmarshal(v, &p); err != nil {
			return fmt.Errorf("spool: position of the journal: %w", err)
		}
	}
	a.journal = journal.New(journal.Options{Labels: base, Position: p, Since: a.cfg.JournalSince, Out: a.journalOut, Log: a.log, Now: a.now})
	return nil
}

// Run collects and ships until ctx ends. What is not sent by then is in the spool, or is read again at the next start.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.register(ctx) })
	g.Go(func() error { return a.ship(ctx, a.metrics, "metrics", a.sink.Metrics) })
	g.Go(func() error { return a.ship(ctx, a.logs, "logs", a.sink.Logs) })
	if a.host != nil {
		g.Go(func() error { return a.measure(ctx) })
	}
	if a.collect != nil {
		g.Go(func() error { return a.collect(ctx, func(body []byte) { a.spoolMetrics(bytes.Clone(body)) }) })
	}
	g.Go(func() error { return a.gather(ctx) })
	if len(a.cfg.Logs) > 0 {
		g.Go(func() error { return a.tail.Run(ctx) })
	}
	if a.journal != nil {
		g.Go(func() error { return a.journal.Run(ctx) })
	}
	return g.Wait()
}

// Close gives back what New has opened, for an Agent that is not run.
func (a *Agent) Close() { a.close() }

func (a *Agent) close() {
	if a.registerer != nil {
		a.registerer.Unregister(a)
	}
	for _, q := range []*queue{a.metrics, a.logs} {
		if q == nil {
			continue
		}
		if err := q.close(); err != nil {
			a.log.Warn("cannot write down the spool's progress: what was sent last is sent again at the next start", "err", err)
		}
	}
	if a.lock != nil {
		a.lock.Close()
		a.lock = nil
	}
}
