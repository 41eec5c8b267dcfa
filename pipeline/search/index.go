package search

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	index "github.com/blevesearch/bleve_index_api"
	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/store"
)

// Index is a log store in a folder.
type Index struct {
	c     Config
	o     Options
	m     *metrics
	lock  *os.File
	queue *index.AnalysisQueue

	writing sync.Mutex // held by Index; taken before mu

	mu      sync.RWMutex
	slices  []*slice // in order of their names; the last one takes new blocks if current
	current *slice   // nil: a new one has to be made
	active  *head
	frozen  *head // being written, or nil
	durable bus.Positions
	failing error // why the last write did not succeed, or nil
	damaged map[string]string
	asOf    kemi.Millis
	closed  bool
	room    chan struct{} // closed and replaced when frozen is written, or failing changes

	kick   chan struct{}     // the head is full
	sync   chan chan<- error // Sync
	stop   chan struct{}     // Close
	closer func() error
}

var _ store.LogStore = (*Index)(nil)

// Open opens the index in c.Dir, or makes one. Slices that are damaged are set aside, see Freshness.
func Open(c Config, o Options) (x *Index, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Dir == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "dir: value %q: must name a folder", c.Dir)
	}
	o = o.withDefaults()
	for _, sub := range []string{slicesFolder, damagedFolder} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open log index: %w", err)
		}
	}
	lock, err := lockFolder(c.Dir)
	if err != nil {
		return nil, err
	}
	x = &Index{
		c: c, o: o, lock: lock, queue: index.NewAnalysisQueue(1),
		active: newHead(), durable: bus.Positions{}, damaged: map[string]string{}, room: make(chan struct{}),
		kick: make(chan struct{}, 1), sync: make(chan chan<- error), stop: make(chan struct{}),
	}
	if err := x.openSlices(); err != nil {
		for _, s := range x.slices {
			_ = s.close()
		}
		x.queue.Close()
		_ = lock.Close()
		return nil, err
	}
	x.m = newMetrics(o.Registerer)
	x.m.slices.Set(float64(len(x.slices)))
	x.m.damaged.Set(float64(len(x.damaged)))
	for p, next := range x.durable {
		x.active.positions[p] = next
	}
	done := make(chan error)
	go func() { done <- x.run() }()
	x.closer = sync.OnceValue(func() error {
		x.mu.Lock()
		x.closed = true
		x.wake()
		x.mu.Unlock()
		x.writing.Lock()   // an Index under way ends first
		x.writing.Unlock() //nolint:staticcheck // there is nothing to do in between
		close(x.stop)
		return <-done
	})
	return x, nil
}

const (
	slicesFolder  = "slices"
	damagedFolder = "damaged"
)

// lockFolder makes sure that one process at a time has the folder.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log index: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, kemi.Errorf(kemi.ErrConflict, "open log index: folder %s is in use by another process: %w", dir, err)
	}
	return f, nil
}

func (x *Index) openSlices() error {
	root := filepath.Join(x.c.Dir, slicesFolder)
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("open log index: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if _, err := sliceDay(e.Name()); err != nil || !e.IsDir() {
			if e.IsDir() && filepath.Ext(e.Name()) == droppedExt {
				_ = os.RemoveAll(dir) // retention was interrupted
			}
			continue
		}
		s, err := openSlice(dir, x.queue)
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("open log index: slice %s: %w", e.Name(), err)
			}
			if err := x.setAside(dir, err); err != nil {
				return err
			}
			continue
		}
		x.slices = append(x.slices, s)
		for p, next := range s.state.Positions {
			x.durable[p] = max(x.durable[p], next)
		}
	}
	slices.SortFunc(x.slices, func(a, b *slice) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	if n := len(x.slices); n > 0 {
		x.current = x.slices[n-1]
	}
	aside, err := os.ReadDir(filepath.Join(x.c.Dir, damagedFolder))
	if err != nil {
		return fmt.Errorf("open log index: %w", err)
	}
	for _, e := range aside {
		x.damaged[e.Name()] = "slice " + e.Name() + " is damaged and set aside in " + filepath.Join(x.c.Dir, damagedFolder)
	}
	return nil
}

// setAside moves a damaged slice out of the way, its files as they are.
func (x *Index) setAside(dir string, reason error) error {
	to := filepath.Join(x.c.Dir, damagedFolder, filepath.Base(dir))
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			break
		}
		to = filepath.Join(x.c.Dir, damagedFolder, fmt.Sprintf("%s.%d", filepath.Base(dir), n))
	}
	if err := os.Rename(dir, to); err != nil {
		return fmt.Errorf("set damaged slice aside: %w", err)
	}
	x.o.Log.Error("slice of the log index is damaged and set aside; its records are missing from answers", "slice", filepath.Base(dir), "moved", to, "err", reason)
	return nil
}

// Close writes what is in memory and ends.
func (x *Index) Close() error { return x.closer() }

// Positions are where replay has to begin after a crash at this moment. They follow Index by the flush interval at most,
// and by BufferBytes.
func (x *Index) Positions() bus.Positions {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return maps.Clone(x.durable)
}

// Freshness tells when a batch was taken last, and whether something that was taken is missing from answers. That replay is
// under way only who replays can tell.
func (x *Index) Freshness() store.Freshness {
	x.mu.RLock()
	defer x.mu.RUnlock()
	f := store.Freshness{AsOf: x.asOf, Complete: true}
	if len(x.damaged) > 0 {
		f.Complete, f.Reason = false, x.damaged[slices.Min(slices.Collect(maps.Keys(x.damaged)))]
		if n := len(x.damaged); n > 1 {
			f.Reason = fmt.Sprintf("%s; and %d more", f.Reason, n-1)
		}
	}
	return f
}

// damage notes that a part of a slice cannot be read. The rest of it serves.
func (x *Index) damage(s *slice, err error) {
	x.mu.Lock()
	_, known := x.damaged[s.name]
	if !known {
		x.damaged[s.name] = fmt.Sprintf("slice %s is damaged in part: %v", s.name, err)
	}
	x.m.damaged.Set(float64(len(x.damaged)))
	x.mu.Unlock()
	if !known {
		x.o.Log.Error("a block of the log index cannot be read; its records are missing from answers", "slice", s.name, "err", err)
	}
}

// wake tells those who wait for room. mu is held.
func (x *Index) wake() {
	close(x.room)
	x.room = make(chan struct{})
}

// Index adds records; see store.LogStore. Records without project or ID are left out and counted. When memory is full it waits, and
// when what is in memory cannot be written it returns ErrUnavailable.
func (x *Index) Index(ctx context.Context, records []kemi.LogRecord, at store.Position) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	if err := x.waitRoom(ctx); err != nil {
		return err
	}
	now := x.o.Now()
	sifted := x.sift(records)
	x.mu.Lock()
	for x.active != sifted.head { // it was frozen meanwhile
		x.mu.Unlock()
		sifted = x.sift(records)
		x.mu.Lock()
	}
	defer x.mu.Unlock()
	h := x.active
	if h.since.IsZero() {
		h.since = now
	}
	for i := range sifted.fresh {
		h.add(sifted.fresh[i])
	}
	h.supersede(sifted.superseded)
	h.positions[at.Partition] = max(h.positions[at.Partition], at.Next)
	x.asOf = kemi.MillisOf(now)
	x.m.records.Add(float64(len(sifted.fresh)))
	x.m.refused.Add(float64(sifted.refused))
	x.m.repeated.Add(float64(sifted.repeated))
	x.m.replaced.Add(float64(sifted.replaced))
	x.m.headBytes.Set(float64(h.bytes))
	if h.bytes >= x.c.BufferBytes {
		x.kicked()
	}
	return nil
}

func (x *Index) kicked() {
	select {
	case x.kick <- struct{}{}:
	default:
	}
}

// waitRoom waits until there is room in memory.
func (x *Index) waitRoom(ctx context.Context) error {
	for {
		x.mu.RLock()
		closed, failing, room := x.closed, x.failing, x.room
		full := x.active.bytes >= x.c.BufferBytes && x.frozen != nil || x.active.bytes >= 2*x.c.BufferBytes
		x.mu.RUnlock()
		switch {
		case closed:
			return kemi.Errorf(kemi.ErrUnavailable, "log index is closed")
		case !full:
			return ctx.Err()
		case failing != nil:
			return kemi.Errorf(kemi.ErrUnavailable, "log index cannot write: %w", failing)
		}
		select {
		case <-ctx.Done():
			return kemi.Errorf(kemi.ErrUnavailable, "wait for the log index to write: %w", ctx.Err())
		case <-room:
		}
	}
}

// sifted is a batch against what is there already.
type sifted struct {
	head       *head            // the active one, when it was looked at
	fresh      []kemi.LogRecord // to be added to it
	superseded []string         // keys of those of which a slice or the frozen head holds one with other content

	refused, repeated, replaced int
}

func (x *Index) sift(records []kemi.LogRecord) sifted {
	snap := x.snapshot()
	defer snap.release()
	out := sifted{head: snap.active, fresh: make([]kemi.LogRecord, 0, len(records))}
	groups := map[uint64]map[string]kemi.LogRecord{} // what slices hold
	again := map[string]bool{}                       // superseded already
	for i := range records {
		r := &records[i]
		if r.Project == "" || r.ID == "" {
			out.refused++
			continue
		}
		g := groupHash(r.Project, r.ID)
		stored, known := groups[g]
		if !known {
			var err error
			if stored, err = snap.group(g); err != nil {
				x.o.Log.Error("cannot look for repeated records everywhere", "err", err)
			}
			groups[g] = stored
		}
		if old := snap.active.find(r.Project, r.ID); old != nil {
			if sameRecord(old, r) {
				out.repeated++
				continue
			}
			out.replaced++
		} else if old := snap.frozen.find(r.Project, r.ID); old != nil || len(stored) > 0 {
			key := keyOf(r.Project, r.ID)
			if old == nil {
				if v, ok := stored[key]; ok && !snap.superseded(key) {
					old = &v
				}
			}
			if old != nil && !again[key] {
				if sameRecord(old, r) {
					out.repeated++
					continue
				}
				out.replaced++
				out.superseded = append(out.superseded, key)
				again[key] = true
			}
		}
		out.fresh = append(out.fresh, *r)
	}
	return out
}
