package head

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// Loading takes a second or two at a million series. It is done behind the back of the receivers, which need the log of record alone:
// Append waits for it, questions are answered from what is settled after a while, and Freshness says so.

// Ended is how the series were left by the program that had them before.
type Ended string

// The ways to end.
const (
	EndedNever    Ended = "never"    // there was none
	EndedClean    Ended = "clean"    // Close
	EndedKilled   Ended = "killed"   // the process died, the machine lived on
	EndedPowerCut Ended = "powercut" // the machine went down, or the folder came from another one
)

// Start tells of a start.
type Start struct {
	Ended    Ended         // how the one before ended
	Done     bool          // all is loaded
	LogBytes int64         // size of the checkpoint
	Took     time.Duration // so far
}

// Unclean tells whether the program before did not end in order.
func (s Start) Unclean() bool { return s.Ended == EndedKilled || s.Ended == EndedPowerCut }

// Open opens the series in cfg.Dir, or begins there: as they were at the newest checkpoint.
func Open(cfg Config, o Options) (*DB, error) {
	db, err := Begin(cfg, o)
	if err != nil {
		return nil, err
	}
	if err := db.Ready(context.Background()); err != nil {
		return nil, err
	}
	return db, nil
}

// Begin is Open that does not wait until all is loaded: Ready does. What can be known before is an error at once.
func Begin(cfg Config, o Options) (*DB, error) { return begin(cfg, o) }

// load is the part of Open that may take long.
func (db *DB) load(found *foundCheckpoint, retired []string) {
	defer close(db.opened)
	if err := db.loadCheckpoint(found, retired); err != nil {
		db.openErr = openError(db.cfg.Dir, err)
		return
	}
	s := db.Start()
	level, text := slog.LevelDebug, "series are there"
	if s.Unclean() {
		level, text = slog.LevelWarn, "unclean shutdown: series are loaded from the newest checkpoint, and what came after it is replayed from the log of record"
	}
	db.log.Log(context.Background(), level, text, "ended", s.Ended, "checkpoint_bytes", s.LogBytes,
		"series", db.alive.Load(), "positions", db.Positions(), "took", s.Took.Round(time.Millisecond))
	db.began.took.Store(int64(s.Took))
	db.done.Add(1)
	go db.maintain()
}

// isOpen tells whether all is loaded.
func (db *DB) isOpen() bool {
	select {
	case <-db.opened:
		return db.openErr == nil
	default:
		return false
	}
}

// Ready waits until all is loaded. An error says why it will not be, or that ctx ended.
func (db *DB) Ready(ctx context.Context) error {
	select {
	case <-db.opened:
		return db.openErr
	default:
	}
	select {
	case <-db.opened:
		return db.openErr
	case <-ctx.Done():
		return kemi.Errorf(kemi.ErrUnavailable, "series are being opened: %w", ctx.Err())
	}
}

// settle holds a question back until all is loaded, and until what the log of record has beyond it is here, but not for long. true means that all is loaded.
func (db *DB) settle(ctx context.Context) bool {
	if db.isOpen() && db.isLive() {
		return true
	}
	if left := db.cfg.AnswerWithin - time.Since(db.began.at); left > 0 {
		wait, cancel := context.WithTimeout(ctx, left)
		defer cancel()
		if db.Ready(wait) == nil && db.live != nil {
			select {
			case <-db.live:
			case <-wait.Done():
			}
		}
	}
	return db.isOpen()
}

// SetLive says when all is there that had been acknowledged before the start; it is called before the first question. Questions are held back for
// that as they are for loading.
func (db *DB) SetLive(live <-chan struct{}) { db.live = live }

func (db *DB) isLive() bool {
	if db.live == nil {
		return true
	}
	select {
	case <-db.live:
		return true
	default:
		return false
	}
}

// Start tells of the start of this DB.
func (db *DB) Start() Start {
	s := Start{Ended: db.began.ended, Done: db.isOpen(), LogBytes: db.began.loadBytes, Took: time.Duration(db.began.took.Load())}
	if s.Took == 0 {
		s.Took = time.Since(db.began.at)
	}
	return s
}

// opening is the Freshness of a DB that is being loaded.
func (db *DB) opening() (f store.Freshness) {
	if db.isDone() && db.openErr != nil {
		f.Reason = db.openErr.Error()
		return f
	}
	s := db.Start()
	f.Reason = fmt.Sprintf("series are being loaded since %s, %d MiB", s.Took.Round(100*time.Millisecond), s.LogBytes>>20)
	return f
}

func (db *DB) isDone() bool {
	select {
	case <-db.opened:
		return true
	default:
		return false
	}
}
