package lines

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/pattern"
	"kemi/pipeline/store"
)

// Store is a log store in a folder.
type Store struct {
	c         Config
	o         Options
	m         *metrics
	lock      *os.File
	dir       string // of the parts
	templates *pattern.Templates
	clock     atomic.Int64 // counts uses of blocks
	opened    atomic.Int64 // counts blocks that had to be opened
	trimming  sync.Mutex   // held by trimCache

	indexing sync.Mutex // held by Index; taken before mu
	changing sync.Mutex // held by what replaces parts: merge, retention, deletion; taken before mu

	mu      sync.RWMutex
	head    *head
	frozen  *head   // being written, or nil
	parts   []*part // in the order in which their records came
	next    uint64  // number of the next part
	durable bus.Positions
	taken   bus.Positions // by head and frozen, too
	failing error         // why the last write did not succeed, or nil
	damaged map[string]string
	asOf    kemi.Millis
	closed  bool
	room    chan struct{} // closed and replaced when frozen is written, or failing changes

	kick   chan struct{}     // the head is full
	sync   chan chan<- error // Sync
	stop   chan struct{}     // Close
	closer func() error
}

var _ store.LogStore = (*Store)(nil)

const (
	partsFolder   = "parts"
	damagedFolder = "damaged"
	oldFolder     = "slices" // of the store before this one
)

// Open opens the store in c.Dir, or makes one. Parts that are damaged are set aside, see Freshness.
func Open(c Config, o Options) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Dir == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "dir: value %q: must name a folder", c.Dir)
	}
	o = o.withDefaults()
	for _, sub := range []string{partsFolder, damagedFolder} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open log store: %w", err)
		}
	}
	lock, err := lockFolder(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		c: c, o: o, lock: lock, dir: filepath.Join(c.Dir, partsFolder), templates: pattern.NewTemplates(),
		durable: bus.Positions{}, damaged: map[string]string{}, room: make(chan struct{}),
		kick: make(chan struct{}, 1), sync: make(chan chan<- error), stop: make(chan struct{}),
	}
	if err := s.openParts(); err != nil {
		for _, p := range s.parts {
			p.release()
		}
		_ = lock.Close()
		return nil, err
	}
	s.m = newMetrics(o.Registerer)
	s.taken = maps.Clone(s.durable)
	s.head = newHead(s.taken)
	s.measure()
	done := make(chan error)
	go func() { done <- s.run() }()
	s.closer = sync.OnceValue(func() error {
		s.mu.Lock()
		s.closed = true
		s.wake()
		s.mu.Unlock()
		s.indexing.Lock()   // an Index under way ends first
		s.indexing.Unlock() //nolint:staticcheck // there is nothing to do in between
		close(s.stop)
		return <-done
	})
	return s, nil
}

// lockFolder makes sure that one process at a time has the folder.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, kemi.Errorf(kemi.ErrConflict, "open log store: folder %s is in use by another process: %w", dir, err)
	}
	return f, nil
}

func (s *Store) openParts() error {
	if _, err := os.Lstat(filepath.Join(s.c.Dir, oldFolder)); err == nil {
		to := filepath.Join(s.c.Dir, oldFolder+".old")
		if err := os.Rename(filepath.Join(s.c.Dir, oldFolder), to); err != nil {
			return fmt.Errorf("open log store: %w", err)
		}
		s.o.Log.Warn("logs of an earlier version were set aside: this one cannot read them", "moved", to)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("open log store: %w", err)
	}
	replaced := map[uint64]bool{}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if strings.HasSuffix(e.Name(), tempExt) { // a write was interrupted
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("open log store: %w", err)
			}
			continue
		}
		seq, ok := partSeq(e.Name())
		if !ok {
			continue
		}
		s.next = max(s.next, seq+1)
		p, err := openPart(path, seq)
		switch {
		case errors.Is(err, errDamaged):
			if err := s.setAside(path, err); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("open log store: %w", err)
		}
		s.parts = append(s.parts, p)
		for _, n := range p.footer.Replaces {
			replaced[n] = true
			s.next = max(s.next, n+1)
		}
		for k, n := range p.footer.Positions {
			s.durable[k] = max(s.durable[k], n)
		}
	}
	s.parts = slices.DeleteFunc(s.parts, func(p *part) bool {
		if replaced[p.seq] {
			_ = os.Remove(p.path)
			p.release()
		}
		return replaced[p.seq]
	})
	// A part that was merged has a later number than newer ones; the log of record knows which came first.
	slices.SortFunc(s.parts, func(a, b *part) int {
		return cmp.Or(cmp.Compare(a.position(), b.position()), cmp.Compare(a.seq, b.seq))
	})
	aside, err := os.ReadDir(filepath.Join(s.c.Dir, damagedFolder))
	if err != nil {
		return fmt.Errorf("open log store: %w", err)
	}
	for _, e := range aside {
		s.damaged[e.Name()] = "part " + e.Name() + " of the logs is damaged and set aside in " + filepath.Join(s.c.Dir, damagedFolder)
	}
	return nil
}

// setAside moves a damaged part out of the way.
func (s *Store) setAside(path string, reason error) error {
	to := filepath.Join(s.c.Dir, damagedFolder, filepath.Base(path))
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			break
		}
		to = filepath.Join(s.c.Dir, damagedFolder, fmt.Sprintf("%s.%d", filepath.Base(path), n))
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("set damaged part aside: %w", err)
	}
	s.o.Log.Error("part of the logs is damaged and set aside; its records are missing from answers", "part", filepath.Base(path), "moved", to, "err", reason)
	return nil
}

// Close writes what is in memory and ends.
func (s *Store) Close() error { return s.closer() }

// Positions are where replay has to begin after a crash at this moment. They follow Index by the flush interval at most, and by BufferBytes.
func (s *Store) Positions() bus.Positions {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.durable)
}

// Freshness tells when a batch was taken last, and whether something that was taken is missing from answers. That replay is under way only who replays can tell.
func (s *Store) Freshness() store.Freshness {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f := store.Freshness{AsOf: s.asOf, Complete: true}
	if len(s.damaged) > 0 {
		f.Complete, f.Reason = false, s.damaged[slices.Min(slices.Collect(maps.Keys(s.damaged)))]
		if n := len(s.damaged); n > 1 {
			f.Reason = fmt.Sprintf("%s; and %d more", f.Reason, n-1)
		}
	}
	return f
}

// damage notes that a block cannot be read. The others serve.
func (s *Store) damage(b *block, err error) {
	if b.bad.Swap(true) {
		return
	}
	name := filepath.Base(b.part.path)
	s.mu.Lock()
	s.damaged[name] = fmt.Sprintf("part %s of the logs is damaged: %v", name, err)
	s.m.damaged.Set(float64(len(s.damaged)))
	s.mu.Unlock()
	s.o.Log.Error("a block of the logs cannot be read; its records are missing from answers", "part", name, "records", b.Records, "err", err)
}

// wake tells those who wait for room. mu is held.
func (s *Store) wake() {
	close(s.room)
	s.room = make(chan struct{})
}

// measure sets what the metrics say of the parts. mu is held, or nobody else has s.
func (s *Store) measure() {
	var disk, raw, blocks int64
	for _, p := range s.parts {
		disk += int64(len(p.data))
		raw += p.raw
		blocks += int64(len(p.blocks))
	}
	s.m.parts.Set(float64(len(s.parts)))
	s.m.blocks.Set(float64(blocks))
	s.m.diskBytes.Set(float64(disk))
	s.m.rawBytes.Set(float64(raw))
	s.m.damaged.Set(float64(len(s.damaged)))
}

// head is records in memory, by project, in the order in which they came. Readers see a prefix of what it has, which does not change any more.
type head struct {
	projects  map[string]*projectHead
	bytes     int64
	positions bus.Positions
	since     time.Time // when the first record came, or the position moved
	failed    []uint64  // parts that may have been written of it, although that failed
}

// projectHead is the records of one project, as they were given to Index.
type projectHead struct {
	runs  [][]kemi.LogRecord
	count int
	named map[string]map[string]bool // IDs, by the sender's batch
}

func newHead(at bus.Positions) *head {
	return &head{projects: map[string]*projectHead{}, positions: maps.Clone(at)}
}

func (h *head) add(rs []kemi.LogRecord) {
	p := h.projects[rs[0].Project]
	if p == nil {
		p = &projectHead{named: map[string]map[string]bool{}}
		h.projects[rs[0].Project] = p
	}
	p.runs = append(p.runs, rs)
	p.count += len(rs)
	for i := range rs {
		h.bytes += recordBytes(&rs[i])
		if name, ok := batchOf(rs[i].ID); ok {
			if p.named[name] == nil {
				p.named[name] = map[string]bool{}
			}
			p.named[name][rs[i].ID] = true
		}
	}
}

// recordBytes is about how much text a record has.
func recordBytes(r *kemi.LogRecord) int64 {
	n := len(r.Body) + 16
	for _, l := range r.Attrs {
		n += len(l.Name) + len(l.Value)
	}
	return int64(n)
}

// batchOf is the name of the batch that an ID is of, if it is not one that the log has given, partition-offset-index: such come twice only if they are read
// twice, which Index tells by the position.
func batchOf(id string) (string, bool) {
	if _, _, ok := logID(id); ok {
		return "", false
	}
	if i := strings.LastIndexByte(id, '~'); i >= 0 {
		return id[:i], true
	}
	return id, true
}

// logID cuts an ID that the log has given (codec.DecodeLogs): partition, offset in hexadecimal.
func logID(id string) (partition int32, offset int64, ok bool) {
	i := strings.IndexByte(id, '-')
	if i <= 0 || i > 10 {
		return 0, 0, false
	}
	for _, c := range []byte(id[:i]) {
		if c-'0' > 9 {
			return 0, 0, false
		}
		partition = partition*10 + int32(c-'0')
	}
	rest := id[i+1:]
	j := strings.IndexByte(rest, '-')
	if j < 11 || len(rest)-j-1 < 5 {
		return 0, 0, false
	}
	for k, c := range []byte(rest) {
		d := int64(0)
		switch {
		case k == j:
			continue
		case c-'0' <= 9:
			d = int64(c - '0')
		case c >= 'a' && c <= 'f':
			d = int64(c-'a') + 10
		default:
			return 0, 0, false
		}
		if k < j {
			offset = offset<<4 | d
		}
	}
	return partition, offset, true
}

func batchHash(name string) uint64 { return xxhash.Sum64String(name) }

// Index adds records; see store.LogStore. They may not be changed afterwards. Records without project or ID are left out and counted. When memory is full it waits, and
// when what is in memory cannot be written it returns ErrUnavailable.
func (s *Store) Index(ctx context.Context, records []kemi.LogRecord, at store.Position) error {
	s.indexing.Lock()
	defer s.indexing.Unlock()
	if err := s.waitRoom(ctx); err != nil {
		return err
	}
	now := s.o.Now()
	fresh := s.sift(records)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.head
	if h.since.IsZero() {
		h.since = now
	}
	for from := 0; from < len(fresh); {
		to := from + 1
		for to < len(fresh) && fresh[to].Project == fresh[from].Project {
			to++
		}
		h.add(fresh[from:to:to])
		from = to
	}
	s.taken[at.Partition] = max(s.taken[at.Partition], at.Next)
	h.positions[at.Partition] = s.taken[at.Partition]
	s.asOf = kemi.MillisOf(now)
	s.m.records.Add(float64(len(fresh)))
	s.m.headBytes.Set(float64(h.bytes))
	if h.bytes >= s.c.BufferBytes {
		s.kicked()
	}
	return nil
}

func (s *Store) kicked() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// waitRoom waits until there is room in memory.
func (s *Store) waitRoom(ctx context.Context) error {
	for {
		s.mu.RLock()
		closed, failing, room := s.closed, s.failing, s.room
		full := s.head.bytes >= 2*s.c.BufferBytes || s.head.bytes >= s.c.BufferBytes && s.frozen != nil
		s.mu.RUnlock()
		switch {
		case closed:
			return kemi.Errorf(kemi.ErrUnavailable, "log store is closed")
		case !full:
			return ctx.Err()
		case failing != nil:
			return kemi.Errorf(kemi.ErrUnavailable, "log store cannot write: %w", failing)
		}
		select {
		case <-ctx.Done():
			return kemi.Errorf(kemi.ErrUnavailable, "wait for the log store to write: %w", ctx.Err())
		case <-room:
		}
	}
}

// sift leaves out what is there already, and what has no project or no ID.
func (s *Store) sift(records []kemi.LogRecord) []kemi.LogRecord {
	s.mu.RLock()
	taken := maps.Clone(s.taken)
	s.mu.RUnlock()
	type batch struct{ project, name string }
	known := map[batch]map[string]bool{}
	drop := func(r *kemi.LogRecord) bool {
		if r.Project == "" || r.ID == "" {
			s.m.refused.Inc()
			return true
		}
		if p, offset, ok := logID(r.ID); ok {
			return offset < taken[p]
		}
		name, _ := batchOf(r.ID)
		k := batch{r.Project, name}
		ids, ok := known[k]
		if !ok {
			ids = s.idsOf(r.Project, name)
			known[k] = ids
		}
		if ids[r.ID] {
			return true
		}
		if ids == nil {
			ids = map[string]bool{}
			known[k] = ids
		}
		ids[r.ID] = true
		return false
	}
	for i := range records {
		if !drop(&records[i]) {
			continue
		}
		out := slices.Clone(records[:i])
		for k := i + 1; k < len(records); k++ {
			if !drop(&records[k]) {
				out = append(out, records[k])
			}
		}
		s.m.repeated.Add(float64(len(records) - len(out)))
		return out
	}
	return records
}

// idsOf are the IDs of a sender's batch that are there already.
func (s *Store) idsOf(project, name string) map[string]bool {
	v := s.view()
	defer v.release()
	var out map[string]bool
	for _, h := range v.heads {
		if p := h.projects[project]; p != nil {
			for id := range p.named[name] {
				if out == nil {
					out = map[string]bool{}
				}
				out[id] = true
			}
		}
	}
	hash := batchHash(name)
	for _, p := range v.parts {
		for _, b := range p.blocks {
			if b.Project != project {
				continue
			}
			if _, ok := slices.BinarySearch(b.Batches, hash); !ok {
				continue
			}
			pb, err := s.open(b)
			var ids []string
			if err == nil {
				ids, err = pb.IDs()
			}
			if err != nil {
				s.damage(b, err)
				continue
			}
			for _, id := range ids {
				if n, ok := batchOf(id); ok && n == name {
					if out == nil {
						out = map[string]bool{}
					}
					out[id] = true
				}
			}
		}
	}
	return out
}

// view is all that the store holds at one moment. It has to be released.
type view struct {
	heads []headView
	parts []*part
}

// headView is a head as a reader sees it. Named is for Index only, which alone changes it.
type headView struct{ projects map[string]*projectHead }

func (s *Store) view() *view {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v := &view{parts: slices.Clone(s.parts)}
	for _, p := range v.parts {
		p.acquire()
	}
	for _, h := range []*head{s.frozen, s.head} {
		if h == nil {
			continue
		}
		hv := headView{projects: make(map[string]*projectHead, len(h.projects))}
		for name, p := range h.projects {
			hv.projects[name] = &projectHead{runs: p.runs[:len(p.runs):len(p.runs)], count: p.count, named: p.named}
		}
		v.heads = append(v.heads, hv)
	}
	return v
}

func (v *view) release() {
	for _, p := range v.parts {
		p.release()
	}
}

// open is the block, opened.
func (s *Store) open(b *block) (*pattern.Block, error) {
	b.used.Store(s.clock.Add(1))
	if pb := b.open.Load(); pb != nil {
		return pb, nil
	}
	if b.bad.Load() {
		return nil, errDamaged
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	pb, err := pattern.Open(b.bytes(), b.meta(), s.templates)
	if err != nil {
		return nil, err
	}
	b.open.CompareAndSwap(nil, pb)
	if s.opened.Add(1)%trimEvery == 0 {
		s.trimCache()
	}
	return pb, nil
}

// trimEvery is after how many blocks that had to be opened it is seen how much memory they take.
const trimEvery = 32

// trimCache lets go of the blocks that were not used for longest, while all together take more than CacheBytes.
func (s *Store) trimCache() {
	if !s.trimming.TryLock() {
		return
	}
	defer s.trimming.Unlock()
	s.mu.RLock()
	parts := s.parts
	s.mu.RUnlock()
	type open struct {
		b     *block
		used  int64
		bytes int64
	}
	var all []open
	var sum int64
	for _, p := range parts {
		for _, b := range p.blocks {
			if pb := b.open.Load(); pb != nil {
				n := pb.MemoryBytes()
				sum += n
				all = append(all, open{b, b.used.Load(), n})
			}
		}
	}
	if sum <= s.c.CacheBytes {
		return
	}
	slices.SortFunc(all, func(a, b open) int { return int(a.used - b.used) })
	for _, o := range all {
		if sum <= s.c.CacheBytes*3/4 {
			break
		}
		o.b.open.Store(nil)
		sum -= o.bytes
	}
}
