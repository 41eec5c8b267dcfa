package tail

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"kemi"
)

const (
	maxFiles   = 20_000
	maxFormer  = 1000
	formerAge  = 10 * time.Minute
	keepUnseen = 30 * 24 * time.Hour
	restAfter  = 10 * time.Minute

	// maxEntries and maxEntryBytes bound what is handed out at once.
	maxEntries    = 256
	maxEntryBytes = 256 << 10
	// turn is how much is read of one file before others get theirs.
	turn = 1 << 20
)

var errTooMany = errors.New("too many files are followed; narrow the patterns")

// Options are what a Tail takes from its surroundings. Durations that are 0 have defaults.
type Options struct {
	Inputs []Config
	Labels kemi.Labels // of every record
	// Positions are how far files were read, by key, as they came with the entries that the caller has kept.
	Positions map[string]Position
	Out       chan<- []Entry // who reads it owns what it gets
	Log       *slog.Logger
	Now       func() time.Time

	Settle       time.Duration // from a change until it is read, so that many changes cost one look: 200 ms
	Rescan       time.Duration // between looks at all files, also where the kernel tells of no changes: 2 s
	PartialAfter time.Duration // a line without an end is handed out when nothing was added for so long: 5 s
	CopyGrace    time.Duration // how long a file that holds what another holds is taken for a copy that is being made: 10 s
	DeletedGrace time.Duration // a deleted file is closed when it was read to its end and nothing was added for so long: 5 s
	RenamedGrace time.Duration // the same for one that now has a name that is not followed: 1 min
}

// Entry is a record and the position after it. The caller keeps both or neither.
type Entry struct {
	Record   kemi.LogRecord
	Only     bool // there is no record, only a position
	Gone     bool // the file is no more: the position of that key can be forgotten
	Key      string
	Position Position
}

// Stats are counters that may be read at any time.
type Stats struct {
	Lines, Bytes, Parts, Partial atomic.Int64
	Truncations, Copies          atomic.Int64
	Files                        atomic.Int64
}

// Tail follows files.
type Tail struct {
	Stats Stats

	o          Options
	inputs     []*input
	watcher    *fsnotify.Watcher // nil where the kernel offers none
	watched    map[string]bool
	files      map[string]*file // by key
	byPath     map[string]*file
	links      map[string]string // from where a symbolic link leads to its path
	order      []*file
	saved      map[string]Position
	former     []former
	scanned    bool
	firstStart bool
	complaints map[string]string

	pending      []Entry
	pendingBytes int
	lastAt       kemi.Nanos
	buf          []byte
	tick         *time.Ticker
}

type former struct {
	Position
	since time.Time
}

// New checks the options; it opens nothing yet.
func New(o Options) (*Tail, error) {
	for d, v := range map[*time.Duration]time.Duration{
		&o.Settle: 200 * time.Millisecond, &o.Rescan: 2 * time.Second, &o.PartialAfter: 5 * time.Second, &o.CopyGrace: 10 * time.Second,
		&o.DeletedGrace: 5 * time.Second, &o.RenamedGrace: time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
	}
	t := &Tail{
		o: o, watched: map[string]bool{}, files: map[string]*file{}, byPath: map[string]*file{}, links: map[string]string{}, saved: maps.Clone(o.Positions),
		firstStart: len(o.Positions) == 0, complaints: map[string]string{}, buf: make([]byte, 64<<10),
	}
	if t.saved == nil {
		t.saved = map[string]Position{}
	}
	for _, c := range o.Inputs {
		in, err := newInput(c, o.Labels)
		if err != nil {
			return nil, err
		}
		t.inputs = append(t.inputs, in)
	}
	return t, nil
}

// Run follows files until ctx ends. What was not taken from Out by then is read again the next time.
func (t *Tail) Run(ctx context.Context) error {
	var events chan fsnotify.Event
	var failures chan error
	if w, err := fsnotify.NewWatcher(); err == nil {
		t.watcher, events, failures = w, w.Events, w.Errors
		defer w.Close()
	} else {
		t.complain("watch", err)
	}
	defer func() {
		for _, f := range t.files {
			if f.fd != nil {
				f.fd.Close()
			}
		}
	}()
	t.tick = time.NewTicker(t.o.Rescan)
	defer t.tick.Stop()
	first := make(chan struct{}, 1)
	first <- struct{}{}
	rescan := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			rescan = t.note(e) || rescan
			// Events are left to gather: the kernel makes one of many alike.
			wait := time.NewTimer(t.o.Settle)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return nil
			}
			for more := true; more; {
				select {
				case e := <-events:
					rescan = t.note(e) || rescan
				default:
					more = false
				}
			}
		case err := <-failures:
			t.complain("watch", err)
			rescan = true
		case <-t.tick.C:
			rescan = true
		case <-first:
		}
		if rescan {
			t.scan(t.o.Now())
			rescan = false
		}
		for {
			again, err := t.pump(ctx)
			if err != nil {
				return nil //nolint:nilerr // ctx ended
			}
			if !again {
				break
			}
		}
		t.reap(t.o.Now())
		if err := t.flush(ctx); err != nil {
			return nil //nolint:nilerr // ctx ended
		}
	}
}

// note marks the file that an event is about and tells whether to look at all of them.
func (t *Tail) note(e fsnotify.Event) (rescan bool) {
	f := t.byPath[e.Name]
	if f == nil {
		f = t.byPath[t.links[e.Name]]
	}
	if f != nil {
		f.dirty = true
	}
	return e.Has(fsnotify.Create) || e.Has(fsnotify.Rename) || e.Has(fsnotify.Remove) || f != nil && f.fd == nil
}

// watch makes the kernel tell of changes in exactly these folders.
func (t *Tail) watch(dirs map[string]bool) {
	if t.watcher == nil {
		return
	}
	for dir := range dirs {
		if t.watched[dir] {
			continue
		}
		if err := t.watcher.Add(dir); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				t.complain("watch "+dir, err)
			}
			continue
		}
		t.watched[dir] = true
	}
	for dir := range t.watched {
		if !dirs[dir] {
			_ = t.watcher.Remove(dir) // it may be gone already
			delete(t.watched, dir)
		}
	}
}

// complain logs what is wrong with something, once.
func (t *Tail) complain(about string, err error) {
	if t.complaints[about] == err.Error() {
		return
	}
	t.complaints[about] = err.Error()
	t.o.Log.Warn("cannot follow logs as asked", "what", about, "err", err)
}

// pump gives each file that may have something to read its turn. It tells whether there is more.
func (t *Tail) pump(ctx context.Context) (again bool, err error) {
	order := append([]*file(nil), t.order...) // looking for new files adds to it
	for _, f := range order {
		now := t.o.Now()
		if f.held && !f.dirty && now.Sub(f.changed) >= t.holdFor(f) {
			f.dirty = true
		}
		if !f.dirty || t.files[f.key] != f {
			continue
		}
		if f.after != nil {
			if f.after.dirty {
				continue
			}
			f.after = nil
		}
		if f.fd == nil && !t.wake(f) {
			continue
		}
		if f.fresh && !t.resolve(f, now) {
			continue
		}
		more, err := t.read(ctx, f)
		if err != nil {
			return false, err
		}
		again = again || more
	}
	if err := t.flush(ctx); err != nil {
		return false, err
	}
	// A file that waited for one that has just been read to its end has its turn now.
	for _, f := range t.order {
		again = again || f.dirty && f.after != nil && !f.after.dirty
	}
	return again, nil
}

// holdFor is how long f may end with something that is not whole.
func (t *Tail) holdFor(f *file) time.Duration {
	if f.in.join != nil {
		return f.in.timeout
	}
	return t.o.PartialAfter
}

// wake opens a file that rested.
func (t *Tail) wake(f *file) bool {
	fd, info, err := open(f.path)
	if err != nil {
		f.dirty = false // the next look finds it, or that it is lost
		return false
	}
	if dev, ino, _ := identity(info); key(dev, ino) != f.key {
		fd.Close()
		f.dirty = false
		return false
	}
	f.fd = fd
	f.see(info, t.o.Now())
	return true
}
