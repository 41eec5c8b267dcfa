package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/store"
)

// projectLabel is the hidden label that holds the project. No label name sorts before it, so that taking it away is
// cutting off the front of a label set, and the order of label sets is the same with and without it.
const projectLabel = "\x00"

// Options are what a DB works with. All have a default.
type Options struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// DB is a store.SeriesStore in a folder.
type DB struct {
	cfg Config
	log *slog.Logger
	now func() time.Time
	m   *metrics

	db   *tsdb.DB
	comp *compactor
	gen  uint64 // in the upper bits of every codec.Series.Ref, so that one of an earlier DB is not taken for ours

	// appendMu makes appends one after another: what is already there can be looked up without it changing meanwhile.
	appendMu sync.Mutex
	closed   bool
	broken   error // set when the WAL could not be written: the head's memory and its log may differ from then on
	applied  bus.Positions
	quick    *appliedFile
	seen     seenSet
	late     []lateSample
	claimed  refSet // those that an entry of the codec's table has
	shared   refSet // those whose newest sample no single entry knows: several have it, or it has histograms
	meta     *metadataStore

	noteMu  sync.Mutex // one checkpoint at a time
	durable atomic.Pointer[bus.Positions]
	synced  walSpot // up to where the WAL was fsynced

	freshMu   sync.Mutex
	replaying string
	asOf      kemi.Millis

	stop chan struct{}
	done sync.WaitGroup
}

var _ store.SeriesStore = (*DB)(nil)

// Open opens the series in cfg.Dir, or begins there. It replays the head's WAL, and takes back what a power cut may have torn.
func Open(cfg Config, o Options) (*DB, error) { return open(cfg, o, nil) }

func open(cfg Config, o Options, tweak func(*tsdb.Options)) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o777); err != nil {
		return nil, openError(cfg.Dir, err)
	}
	db := &DB{
		cfg: cfg, log: o.Log, now: o.Now, m: newMetrics(o.Registerer), gen: rand.Uint64() << refBits,
		comp: newCompactor(cfg.BlockDuration), stop: make(chan struct{}),
	}
	if db.gen == 0 {
		db.gen = 1 << refBits
	}
	positions, err := db.recover()
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	if db.meta, err = openMetadata(cfg.Dir); err != nil {
		return nil, openError(cfg.Dir, err)
	}
	options := db.options()
	if tweak != nil {
		tweak(options)
	}
	db.db, err = tsdb.Open(cfg.Dir, slog.New(quietHandler{o.Log.Handler()}), o.Registerer, options, nil)
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	db.db.DisableCompactions() // maintain does it
	db.comp.head = func() (int64, int64) { return db.db.Head().MinTime(), db.db.Head().MaxTime() }
	db.applied = positions
	if db.quick, err = createAppliedFile(cfg.Dir, positions); err == nil {
		err = db.checkpoint(false)
	}
	if err != nil {
		return nil, errors.Join(openError(cfg.Dir, err), db.db.Close())
	}
	db.m.watch(o.Registerer, db)
	db.done.Add(1)
	go db.maintain()
	return db, nil
}

func openError(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return kemi.Errorf(kemi.ErrUnavailable, "open series in %s: disk full: %w", dir, err)
	}
	return fmt.Errorf("open series in %s: %w", dir, err)
}

func (db *DB) options() *tsdb.Options {
	o := tsdb.DefaultOptions()
	o.RetentionDuration = db.cfg.Retention.Milliseconds()
	// Counted from the newest sample, not from now: what a receiver takes as young enough must not be too old here.
	o.OutOfOrderTimeWindow = (db.cfg.Retention + db.cfg.MaxFuture + time.Hour).Milliseconds()
	o.MinBlockDuration = db.cfg.BlockDuration.Milliseconds()
	o.MaxBlockDuration = largestBlock(db.cfg.BlockDuration).Milliseconds()
	o.WALCompression = compression.Snappy
	o.EnableExemplarStorage = db.cfg.MaxExemplars > 0
	o.MaxExemplars = db.cfg.MaxExemplars
	o.NewCompactorFunc = db.comp.open
	// The library's own loop writes chunks to disk and ends the process when there is no room. Ours looks first.
	o.BlockReloadInterval = 1 << 62
	return o
}

// SetReplaying says that what was acknowledged before the start is not all there yet, and why; with "" it is.
func (db *DB) SetReplaying(reason string) {
	db.freshMu.Lock()
	defer db.freshMu.Unlock()
	db.replaying = reason
}

// Freshness tells when the last batch was appended, and what SetReplaying said.
func (db *DB) Freshness() store.Freshness {
	db.freshMu.Lock()
	defer db.freshMu.Unlock()
	return store.Freshness{AsOf: db.asOf, Complete: db.replaying == "", Reason: db.replaying}
}

// Positions are where replay has to begin after a crash at this moment, be it of the process or of the machine.
func (db *DB) Positions() bus.Positions {
	p := *db.durable.Load()
	out := make(bus.Positions, len(p))
	for part, next := range p {
		out[part] = next
	}
	return out
}

// Sync makes all that was appended durable.
func (db *DB) Sync(context.Context) error {
	if err := db.checkpoint(false); err != nil {
		return fmt.Errorf("sync series: %w", err)
	}
	return nil
}

// Close makes all durable and closes. Reads that are under way must have ended.
func (db *DB) Close() error {
	db.appendMu.Lock()
	if db.closed {
		db.appendMu.Unlock()
		return nil
	}
	db.closed = true
	db.appendMu.Unlock()
	close(db.stop)
	db.done.Wait()
	err := db.closeLibrary()
	if err == nil {
		err = db.checkpoint(true)
	}
	return errors.Join(err, db.quick.close())
}

// closeLibrary closes the library, which panics where it cannot write its last chunks. They are in its WAL, so that is as if the
// process had been killed: the next Open finds all.
func (db *DB) closeLibrary() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("close series: %v", p)
		}
	}()
	return db.db.Close()
}

// maintain checkpoints every few seconds, and every minute writes full chunks to disk and compacts what is due.
func (db *DB) maintain() {
	defer db.done.Done()
	checkpoint := time.NewTicker(db.cfg.Checkpoint)
	defer checkpoint.Stop()
	compact := time.NewTicker(time.Minute)
	defer compact.Stop()
	for {
		select {
		case <-db.stop:
			return
		case <-checkpoint.C:
			if err := db.checkpoint(false); err != nil {
				db.m.checkpointFailed.Inc()
				db.log.Error("series not made durable; a restart will replay more", "err", err)
			}
		case <-compact.C:
			if err := db.Compact(context.Background()); err != nil {
				db.log.Error("series not compacted; trying again in a minute", "err", err)
			}
		}
	}
}

// quietHandler lowers the library's talk: what it does every few minutes as a matter of course is for debugging, and overlapping
// blocks are how late samples are kept.
type quietHandler struct{ slog.Handler }

func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo || r.Message == "Overlapping blocks found during reloadBlocks" {
		r.Level = slog.LevelDebug
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h quietHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(as)}
}
func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}

var errClosed = kemi.Errorf(kemi.ErrUnavailable, "series: closed")

// diskFull tells whether err is for want of room.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// room is an error when less than the reserve is free. The library panics when it cannot write a chunk, so it is asked before.
func (db *DB) room() error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(db.cfg.Dir, &fs); err != nil {
		return nil //nolint:nilerr // not known is not full
	}
	unit := uint64(fs.Bsize)
	free, reserve := fs.Bavail*unit, db.cfg.DiskReserve
	if reserve == 0 {
		reserve = min(256<<20, fs.Blocks*unit/20)
	}
	if free >= reserve {
		return nil
	}
	return kemi.Errorf(kemi.ErrUnavailable, "series: disk of %s is full: %d MiB are free, %d MiB have to stay so (metrics.diskReserve)",
		db.cfg.Dir, free>>20, reserve>>20)
}

var _ storage.Queryable = queryable{}
