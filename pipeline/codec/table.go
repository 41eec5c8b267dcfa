package codec

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/zeebo/xxh3"

	"kemi"
)

const (
	// shardCount is such that a shard that grows stops nobody for long. Sweeps look through a step of them at a time.
	shardCount = 256
	sweepSteps = 16
	// restFor is how long an entry is kept that no batch mentions.
	restFor = 2 * time.Hour
	// sweepEvery is how often each shard is looked through for such entries, unless there are very many projects.
	sweepEvery = 10 * time.Minute
	// touchEvery is how exact Series.LastUsed is: an entry is not written to with every sample.
	touchEvery = 60
	// maxTableBytes bounds what entries take. Series beyond it are not remembered: they work, at the price of parsing.
	maxTableBytes = 1 << 30
	// entryBytes is about what an entry takes beside its raw labels.
	entryBytes = 160
)

// Table finds the Series of raw label bytes. Projects are apart in it: an entry of one is never found by another. It may be used
// concurrently; to find a known series takes no lock.
type Table struct {
	enricher Enricher
	now      func() time.Time
	maxBytes int64

	bytes  atomic.Int64
	series atomic.Int64

	mu     sync.RWMutex
	spaces map[string]*space

	sweepMu   sync.Mutex
	sweepAt   atomic.Int64 // Unix seconds of the next step
	sweepAll  []*space     // what is left of this round
	sweepNext int          // the next step of sweepAll[0]

	scratch sync.Pool // *decoder
}

// space is the series of a project.
type space struct {
	table    *Table
	project  string
	enriched atomic.Bool // enrichment has been at work: entries may have variants
	shards   [shardCount]shard

	hostsMu sync.Mutex
	hosts   map[string]*host
}

// shard is a hash table with open addressing. Readers take no lock: a slot is written once, its low last; a table that grows
// or forgets is made anew.
type shard struct {
	slots atomic.Pointer[[]slot]
	mu    sync.Mutex // for writers
	used  int
}

type slot struct {
	low  atomic.Uint64 // 0 = free
	high uint64
	s    *Series
}

// NewTable makes an empty table; enrich may be nil.
func NewTable(enrich Enricher, now func() time.Time) *Table {
	return &Table{enricher: enrich, now: now, maxBytes: maxTableBytes, spaces: map[string]*space{}}
}

// Len is how many series it knows, and about how many bytes they take.
func (t *Table) Len() (series, bytes int64) { return t.series.Load(), t.bytes.Load() }

func (t *Table) space(project string) *space {
	t.mu.RLock()
	sp := t.spaces[project]
	t.mu.RUnlock()
	if sp != nil {
		return sp
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if sp = t.spaces[project]; sp == nil {
		sp = &space{table: t, project: project, hosts: map[string]*host{}}
		t.spaces[project] = sp
	}
	return sp
}

func (sp *space) shard(k xxh3.Uint128) *shard { return &sp.shards[k.Hi>>56] }

// find is the entry of a key, or nil.
func (sp *space) find(k xxh3.Uint128) *Series {
	p := sp.shard(k).slots.Load()
	if p == nil {
		return nil
	}
	slots, low := *p, k.Lo|1
	for i := low >> 1; ; i++ {
		e := &slots[i&uint64(len(slots)-1)]
		switch e.low.Load() {
		case low:
			if e.high == k.Hi {
				return e.s
			}
		case 0:
			return nil
		}
	}
}

// add puts s under the key, unless there is an entry meanwhile: then that one is returned. A full table remembers nothing new.
func (sp *space) add(k xxh3.Uint128, s *Series) *Series {
	sh := sp.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if old := sp.find(k); old != nil {
		return old
	}
	t := sp.table
	if s.refs.Load() == 0 {
		size := int64(s.size + entryBytes)
		if t.bytes.Add(size) > t.maxBytes {
			t.bytes.Add(-size)
			return s
		}
		t.series.Add(1)
	}
	s.refs.Add(1)
	p := sh.slots.Load()
	if p == nil || 4*(sh.used+1) > 3*len(*p) {
		bigger := make([]slot, max(16, 2*capOf(p)))
		if p != nil {
			for i := range *p {
				if e := &(*p)[i]; e.low.Load() != 0 {
					put(bigger, e.low.Load(), e.high, e.s)
				}
			}
		}
		put(bigger, k.Lo|1, k.Hi, s)
		sh.slots.Store(&bigger)
	} else {
		put(*p, k.Lo|1, k.Hi, s)
	}
	sh.used++
	return s
}

func capOf(p *[]slot) int {
	if p == nil {
		return 0
	}
	return len(*p)
}

func put(slots []slot, low, high uint64, s *Series) {
	for i := low >> 1; ; i++ {
		e := &slots[i&uint64(len(slots)-1)]
		if e.low.Load() == 0 {
			e.high, e.s = high, s
			e.low.Store(low)
			return
		}
	}
}

// with is the entry with the raw labels of root and a as what is added, if there is one.
func (root *Series) with(a *addition) *Series {
	for v := root; v != nil; v = v.other.Load() {
		if v.added == a {
			return v
		}
	}
	return nil
}

// variant is the entry with the raw labels of root and a as what is added. raw is the raw labels, if the caller has them.
func (sp *space) variant(root *Series, a *addition, raw []byte) *Series {
	if v := root.with(a); v != nil {
		return v
	}
	sh := &sp.shards[0]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for v := root; v != nil; v = v.other.Load() {
		if v.added == a {
			return v
		}
	}
	root.give(raw)
	v := &Series{key: root.key, size: root.size, host: root.host, added: a}
	v.raw.Store(root.raw.Load())
	if root.Admitted() { // it is the variant that the store will make
		v.flags.Or(admitted)
	}
	v.give(raw) // the store may have let go of the root's at this moment
	v.LastUsed.Store(uint32(sp.table.now().Unix()))
	v.other.Store(root.other.Load())
	root.other.Store(v)
	return v
}

// remember makes an entry for raw, which it keeps, and gives back the one that another has made meanwhile if there is one.
func (sp *space) remember(k xxh3.Uint128, raw []byte, host string, now int64) *Series {
	s := &Series{key: xxh3.Hash128(raw), size: int32(len(raw))}
	s.raw.Store(unsafe.SliceData(raw))
	if host != "" {
		s.host = sp.hostOf(host)
	}
	s.LastUsed.Store(uint32(now))
	got := sp.add(k, s)
	if s.host != nil && s.refs.Load() == 0 {
		sp.dropHost(s.host)
	}
	return got
}

// touch says that a batch mentions s.
func (s *Series) touch(now int64) {
	if now-int64(s.LastUsed.Load()) >= touchEvery {
		s.LastUsed.Store(uint32(now))
	}
}

// sweep looks through some shards, if it is time. Every batch calls it, so that no goroutine needs to.
func (t *Table) sweep(now int64) {
	due := t.sweepAt.Load()
	if now < due || !t.sweepMu.TryLock() {
		return
	}
	defer t.sweepMu.Unlock()
	if len(t.sweepAll) == 0 {
		t.mu.RLock()
		for _, sp := range t.spaces {
			t.sweepAll = append(t.sweepAll, sp)
		}
		t.mu.RUnlock()
		t.sweepNext = 0
	}
	if len(t.sweepAll) == 0 {
		return
	}
	steps := int64(len(t.sweepAll)*sweepSteps - t.sweepNext)
	sp := t.sweepAll[0]
	for i := range shardCount / sweepSteps {
		sp.sweepShard(&sp.shards[t.sweepNext*shardCount/sweepSteps+i], now)
	}
	if t.sweepNext++; t.sweepNext == sweepSteps {
		t.sweepAll, t.sweepNext = slices.Delete(t.sweepAll, 0, 1), 0
	}
	t.sweepAt.Store(now + max(1, int64(sweepEvery/time.Second)/max(steps, sweepSteps)))
}

// sweepShard forgets the entries of a shard that rest.
func (sp *space) sweepShard(sh *shard, now int64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.slots.Load()
	if p == nil {
		return
	}
	old := now - int64(restFor/time.Second)
	keep := make([]*slot, 0, sh.used)
	for i := range *p {
		if e := &(*p)[i]; e.low.Load() != 0 {
			if e.s.rests(old) {
				sp.forget(e.s)
				continue
			}
			keep = append(keep, e)
			e.s.dropResting(old)
		}
	}
	if len(keep) == sh.used {
		return
	}
	size := 16
	for size < 2*(len(keep)+1) {
		size *= 2
	}
	slots := make([]slot, size)
	for _, e := range keep {
		put(slots, e.low.Load(), e.high, e.s)
	}
	sh.used = len(keep)
	sh.slots.Store(&slots)
}

// rests tells whether neither s nor a variant of it was used since then.
func (s *Series) rests(since int64) bool {
	for v := s; v != nil; v = v.other.Load() {
		if int64(v.LastUsed.Load()) > since {
			return false
		}
	}
	return true
}

// dropResting lets go of variants, and of a prediction, that rest.
func (s *Series) dropResting(since int64) {
	if n := s.next.Load(); n != nil && n.rests(since) {
		s.next.CompareAndSwap(n, nil)
	}
	for v := s; v != nil; {
		o := v.other.Load()
		if o != nil && int64(o.LastUsed.Load()) <= since {
			// A variant that is added at this moment may be lost: it is made again when it is next asked for.
			v.other.CompareAndSwap(o, o.other.Load())
			continue
		}
		v = o
	}
}

// forget takes a slot of s away.
func (sp *space) forget(s *Series) {
	s.next.Store(nil)
	if s.refs.Add(-1) > 0 {
		return
	}
	sp.table.series.Add(-1)
	sp.table.bytes.Add(-int64(s.size + entryBytes))
	if s.host != nil {
		sp.dropHost(s.host)
	}
}

// BatchOf makes a batch of points (with kemi.MetricName among the labels) through the table: for tests and for
// small writers. It does not enrich.
func (t *Table) BatchOf(project string, points []kemi.Points) *SeriesBatch {
	sp, now := t.space(project), t.now().Unix()
	t.sweep(now)
	b := &SeriesBatch{Project: project}
	var raw []byte
	var e enrichment
	e.reset(sp, nil)
	for _, p := range points {
		raw = appendRawLabels(raw[:0], p.Labels)
		k := xxh3.Hash128(raw)
		s := sp.find(k)
		if s == nil {
			s = sp.remember(k, slices.Clone(raw), p.Labels.Get(HostLabel), now)
		}
		s.give(raw)
		if e.active {
			s = e.apply(s, raw)
		}
		s.touch(now)
		b.Series = append(b.Series, s)
		b.At = append(b.At, p.At...)
		b.Values = append(b.Values, p.Values...)
		b.Ends = append(b.Ends, int32(len(b.At)))
	}
	return b
}
