package head

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/store"
)

// ProjectLabel is a hidden label that holds the project where series of all projects are told apart by labels alone, as among exemplars. No label name
// sorts before it.
const ProjectLabel = "\x00"

type millis = kemi.Millis

// Options are what a DB works with. All have a default.
type Options struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// Retired are sources that had been settled before the start: what is left of them is not shown.
	Retired []string
	// Keep says how long a series is kept, where that is shorter than the Config's Retention may say; never for less than KeepLeast. Samples
	// that come when they are older are left out. nil = all are kept as long as Retention says.
	Keep      func(project string, ls kemi.Labels) kemi.Millis
	KeepLeast kemi.Millis
}

// DB is a store.SeriesStore in a folder.
type DB struct {
	cfg Config
	log *slog.Logger
	now func() time.Time
	m   *metrics

	keep      func(project string, ls kemi.Labels) kemi.Millis // nil: as the configuration says
	keepLeast kemi.Millis

	gen uint64 // in the upper bits of every codec.Series.Ref, so that one of an earlier DB is not taken for ours

	// appendMu makes appends one after another. What follows is the appender's.
	appendMu        sync.Mutex
	closed          bool
	broken          error // set when a chunk could not be written: records may be missing
	applied         bus.Positions
	since           int // samples appended since the last checkpoint began
	wanted          bool
	taken           int
	made            int64 // series
	takenLate       int
	scratch         kemi.Labels
	scratchPairs    []uint32
	scratchAt       []kemi.Millis
	scratchValues   []float64
	laneOrder       []int
	meta            *metadataStore
	exemplars       *tsdb.CircularExemplarStorage // nil: none are kept
	limits          limits
	checkpointWaker chan struct{}
	reclaimWaker    chan struct{}

	// mu guards what follows: all that readers look at. Appends hold it for some thousand samples at a time, readers while they copy some dozen series.
	mu          sync.RWMutex
	slabs       []*slab
	nextID      uint32
	alive       atomic.Int64 // series that are in the index; it may be read without mu
	labels      labelArena
	buffers     arena
	chunks      *chunkFiles
	open        map[uint32]*openHistograms
	lanes       map[uint32]*lane
	lateSamples int64 // in lanes, and not frozen
	spaces      []*space
	byName      map[string]*space
	floor       int64  // what is older is settled, or being settled: it goes to lanes
	cut         int64  // what is older of samples in order is settled, and shown to those alone who began before
	from, to    int64  // the oldest and the newest sample of all, about
	epoch       uint32 // goes on with each cut
	reclaimed   uint32 // of what was settled before this epoch nothing is left
	doomed      []doomedFile

	readersMu sync.Mutex
	readers   map[uint32]int // how many began in which epoch

	freezeMu sync.Mutex  // one at a time freezes, settles or retires
	frozen   *source     // what is being settled
	legacy   atomic.Bool // there are series of an earlier version, to be settled

	checkpointMu sync.Mutex // one checkpoint at a time
	sequence     uint64     // of the newest checkpoint
	ended        time.Time  // when that was there
	took         time.Duration
	loose        atomic.Bool // it is not packed
	durable      atomic.Pointer[bus.Positions]

	freshMu   sync.Mutex
	replaying string
	asOf      kemi.Millis

	stop chan struct{}
	done sync.WaitGroup

	opened  chan struct{}   // closed when all is loaded, or cannot be
	openErr error           // why it cannot; to be read after opened only
	live    <-chan struct{} // see SetLive; nil = at once
	began   struct {
		at        time.Time
		ended     Ended
		loadBytes int64
		took      atomic.Int64
	}
}

var _ store.SeriesStore = (*DB)(nil)

// keepLonger is for how long samples beyond the retention are still taken: a receiver took them as young enough some time ago.
const keepLonger = time.Hour

// begin does what is quick, and the rest in the background.
func begin(cfg Config, o Options) (*DB, error) {
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
		cfg: cfg, log: o.Log, now: o.Now, m: newMetrics(o.Registerer), keep: o.Keep, keepLeast: o.KeepLeast, gen: uint64(rand.Uint32()|1) << refBits,
		open: map[uint32]*openHistograms{}, lanes: map[uint32]*lane{}, byName: map[string]*space{}, readers: map[uint32]int{},
		floor: never, cut: never, from: math.MaxInt64, to: math.MinInt64, epoch: 1, applied: bus.Positions{}, checkpointWaker: make(chan struct{}, 1), reclaimWaker: make(chan struct{}, 1),
		stop: make(chan struct{}), opened: make(chan struct{}),
	}
	db.began.at = time.Now()
	if cfg.MaxExemplars > 0 {
		s, err := tsdb.NewCircularExemplarStorage(cfg.MaxExemplars, tsdb.NewExemplarMetrics(o.Registerer), 0)
		if err != nil {
			return nil, openError(cfg.Dir, err)
		}
		db.exemplars = s.(*tsdb.CircularExemplarStorage)
	}
	legacy, err := moveLegacy(cfg.Dir, o.Retired)
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	db.legacy.Store(legacy)
	if db.meta, err = openMetadata(cfg.Dir); err != nil {
		return nil, openError(cfg.Dir, err)
	}
	found, err := db.findCheckpoint()
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	positions := bus.Positions{}
	if found != nil {
		positions = found.head.Positions
	} else if positions, err = positionsOfLegacy(cfg.Dir); err != nil {
		return nil, openError(cfg.Dir, err)
	}
	db.durable.Store(&positions)
	if err := db.markRunning(found != nil); err != nil {
		return nil, errors.Join(openError(cfg.Dir, err), found.close())
	}
	db.m.watch(o.Registerer, db)
	go db.load(found, o.Retired)
	return db, nil
}

func openError(dir string, err error) error {
	if diskFull(err) {
		return kemi.Errorf(kemi.ErrUnavailable, "open series in %s: disk full: %w", dir, err)
	}
	return fmt.Errorf("open series in %s: %w", dir, err)
}

// SetReplaying says that what was acknowledged before the start is not all there yet, and why; with "" it is.
func (db *DB) SetReplaying(reason string) {
	db.freshMu.Lock()
	defer db.freshMu.Unlock()
	db.replaying = reason
}

// Freshness tells when the last batch was appended, and what SetReplaying said. It is not complete before all is loaded, nor while there are series of an
// earlier version that are not settled.
func (db *DB) Freshness() store.Freshness {
	if !db.isOpen() {
		return db.opening()
	}
	db.freshMu.Lock()
	defer db.freshMu.Unlock()
	reason := db.replaying
	if reason == "" && db.legacy.Load() {
		reason = "the series of an earlier version are being settled"
	}
	return store.Freshness{AsOf: db.asOf, Complete: reason == "", Reason: reason}
}

// Positions are where replay has to begin after a crash at this moment, be it of the process or of the machine.
func (db *DB) Positions() bus.Positions { return maps.Clone(*db.durable.Load()) }

// Sync makes all that was appended durable.
func (db *DB) Sync(ctx context.Context) error {
	if err := db.Ready(ctx); err != nil {
		return err
	}
	if err := db.checkpoint(); err != nil {
		return fmt.Errorf("sync series: %w", err)
	}
	return nil
}

// closeWithin is how long Close waits for a DB that is still being loaded. Left where it is, it is as if the process had been killed.
const closeWithin = 20 * time.Second

// Close makes all durable and closes. Reads that are under way must have ended.
func (db *DB) Close() error {
	wait, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	if err := db.Ready(wait); err != nil {
		if db.isDone() {
			return nil // it never was open
		}
		return fmt.Errorf("close series: %w", err)
	}
	db.appendMu.Lock()
	if db.closed {
		db.appendMu.Unlock()
		return nil
	}
	db.closed = true
	db.appendMu.Unlock()
	close(db.stop)
	db.done.Wait()
	var err error
	if db.broken == nil { // otherwise memory has not all, and it is as if the process had been killed
		if err = db.checkpoint(); err == nil {
			err = db.markStopped()
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	return errors.Join(err, db.chunks.close(), db.meta.close())
}

// wake has somebody go on who waits on c.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	// replaySamples is how many samples there may be between two checkpoints, at least; with more than replayOf of each series there may be more, as
	// a checkpoint has all series. It bounds how long a start replays.
	replaySamples = 4 << 20
	replayOf      = 12
)

// checkpointAfter is after how many samples a checkpoint is due.
func (db *DB) checkpointAfter() int { return max(replaySamples, replayOf*int(db.alive.Load())) }

const (
	// quietLooks is how often it is looked during CheckpointQuiet whether it is quiet.
	quietLooks = 4
	// quietSamples is how many samples since the last checkpoint make one out of turn worth it, at least; else as many as there are series.
	quietSamples = 64 << 10
	// quietShare: it is quiet while less than this part of that has come.
	quietShare = 16
	// quietLong is how many times as long it has to be quiet for a checkpoint that is for less.
	quietLong = 10
	// quietTime: such checkpoints take this part of the time at most.
	quietTime = 50
)

// quiet is what has been seen while it was quiet.
type quiet struct {
	since int // samples since the last checkpoint when it began
	looks int
}

// quiet tells whether a checkpoint is due because next to nothing comes, and there is much to be replayed, or the last one was not packed, or it has been so for long. It is
// called quietLooks times in CheckpointQuiet.
func (db *DB) quiet(q *quiet) bool {
	db.appendMu.Lock()
	since := db.since
	db.appendMu.Unlock()
	much := max(quietSamples, int(db.alive.Load()))
	loose := db.loose.Load()
	if since == 0 && !loose || since < q.since || (since-q.since)*quietShare > max(since, much) {
		*q = quiet{since: since}
		return false
	}
	looks := quietLooks
	if since < much && !loose {
		looks *= quietLong
	}
	if q.looks++; q.looks < looks || !db.checkpointMu.TryLock() {
		return false
	}
	rested := time.Since(db.ended)
	took := db.took
	db.checkpointMu.Unlock()
	return rested >= quietTime*took
}

// maintain makes a checkpoint when it is time.
func (db *DB) maintain() {
	defer db.done.Done()
	tick := time.NewTicker(db.cfg.Checkpoint)
	defer tick.Stop()
	var looks <-chan time.Time
	if every := db.cfg.CheckpointQuiet / quietLooks; every > 0 {
		look := time.NewTicker(every)
		defer look.Stop()
		looks = look.C
	}
	var q quiet
	for {
		plain := false
		select {
		case <-db.stop:
			return
		case <-looks:
			if !db.quiet(&q) {
				continue
			}
		case <-db.reclaimWaker:
			db.checkpointMu.Lock()
			if err := db.reclaim(); err != nil {
				db.log.Error("chunk files not deleted; trying again with the next checkpoint", "err", err)
			}
			db.checkpointMu.Unlock()
			continue
		case <-tick.C:
		case <-db.checkpointWaker:
			plain = true // more will follow soon
		}
		if err := db.makeCheckpoint(plain); err != nil {
			db.m.checkpointFailed.Inc()
			db.log.Error("series not made durable; a restart will replay more", "err", err)
		}
	}
}

var errClosed = kemi.Errorf(kemi.ErrUnavailable, "series: closed")

// diskFull tells whether err is for want of room.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// room is an error when less than the reserve is free.
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
