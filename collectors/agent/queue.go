package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kemi"
)

const (
	segmentSuffix = ".spool"
	stateFile     = "state.json"
	// saveEvery is how often progress is written down. What was acknowledged since is sent again after a crash, under its old name.
	saveEvery = 10 * time.Second
	// maxMemory bounds the batches that are held when the disk takes none.
	maxMemory = 4 << 20
)

// errFull says that there is no room and that nothing may be dropped.
var errFull = errors.New("the spool is full")

// queueOptions say how a queue behaves.
type queueOptions struct {
	dir        string
	id         string // the names of the batches are <id>-<number>
	run        string // names this run of the agent, among others of the same id
	maxBytes   int64
	dropOldest bool // when full; otherwise append refuses
	pack       bool
	log        *slog.Logger
	now        func() time.Time
	sync       func(*os.File) error // for tests that let the disk fail
}

// queue is batches on disk in order, from append until done. append and hold may be called concurrently; next and done are for one goroutine.
type queue struct {
	o      queueOptions
	segMax int64

	dropped, corrupt, failed atomic.Int64

	mu        sync.Mutex
	segments  []*segment // the last one is written to
	file      *os.File   // of the last segment
	size      int64
	nextSeq   uint64
	acked     uint64 // all records up to it are done
	positions map[string]json.RawMessage
	saved     time.Time
	dirty     bool
	memory    []held
	memoryLen int
	memorySeq uint64

	reading *os.File // of the segment read last
	readSeg *segment
	readOff int64
	filled  chan struct{} // there may be something to read
	emptied chan struct{} // there may be room
	buf     []byte
}

// segment is a file of the queue.
type segment struct {
	path        string
	first, last uint64 // last is first-1 while it is empty
	size        int64
}

// held is a batch that is in memory only, to be sent after the record numbered after.
type held struct {
	batch
	after uint64
}

// batch is what next hands out.
type batch struct {
	name string
	seq  uint64 // 0: in memory only
	at   kemi.Millis
	body []byte
}

// state is what the queue writes down of its progress.
type state struct {
	Acked     uint64                     `json:"acked"`
	Through   uint64                     `json:"through"` // the last record whose positions are in Positions
	Positions map[string]json.RawMessage `json:"positions,omitempty"`
}

// openQueue finds what a run before has left. A record that was not written to its end is cut off: it was never sent.
func openQueue(o queueOptions) (*queue, error) {
	if o.sync == nil {
		o.sync = (*os.File).Sync
	}
	q := &queue{
		o: o, segMax: min(max(o.maxBytes/16, 32<<10), 4<<20), positions: map[string]json.RawMessage{},
		filled: make(chan struct{}, 1), emptied: make(chan struct{}, 1), saved: o.now(),
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var st state
	b, err := os.ReadFile(filepath.Join(o.dir, stateFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("spool: %w", err)
	default:
		if err := json.Unmarshal(b, &st); err != nil {
			return nil, fmt.Errorf("spool: %s: %w; move it away to begin without positions", filepath.Join(o.dir, stateFile), err)
		}
		for k, v := range st.Positions {
			q.positions[k] = v
		}
	}
	q.acked, q.nextSeq = st.Acked, max(st.Acked, st.Through)+1
	paths, err := filepath.Glob(filepath.Join(o.dir, "*"+segmentSuffix))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	slices.Sort(paths) // their names are numbers of one length
	for i, path := range paths {
		if err := q.load(path, i == len(paths)-1, st.Through); err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
	}
	if err := q.roll(); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if q.pendingLocked() > 0 {
		signal(q.filled)
	}
	return q, nil
}

// load reads a segment: where its records end, and their positions if they are newer than the state's.
func (q *queue) load(path string, newest bool, through uint64) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	first, ok := readSegmentHeader(b)
	if !ok {
		if newest && len(b) < segmentHeader { // it had just been made
			return os.Remove(path)
		}
		q.corrupt.Add(1)
		q.o.log.Warn("a spool file is damaged and left out", "path", path)
		return os.Rename(path, path+".damaged")
	}
	s := &segment{path: path, first: first, last: first - 1, size: int64(segmentHeader)}
	for {
		r, n, err := readRecord(b[s.size:])
		if err != nil || r.seq != s.last+1 {
			break
		}
		s.size += int64(n)
		s.last = r.seq
		if r.seq > through {
			q.merge(r.positions)
		}
	}
	if rest := int64(len(b)) - s.size; rest > 0 {
		if !newest {
			q.corrupt.Add(1)
			q.o.log.Warn("a spool file is damaged: the rest of it is left out", "path", path, "bytes", rest)
		}
		if err := os.Truncate(path, s.size); err != nil {
			return err
		}
	}
	q.nextSeq = max(q.nextSeq, s.last+1)
	if s.last <= q.acked {
		return os.Remove(path) // done; its positions are in what roll saves before anything else happens
	}
	q.segments = append(q.segments, s)
	q.size += s.size
	return nil
}

// merge takes the positions of a record.
func (q *queue) merge(positions []byte) {
	if len(positions) == 0 {
		return
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(positions, &m); err != nil {
		return // the checksum was right; a later version may write more
	}
	for k, v := range m {
		if string(v) == "null" {
			delete(q.positions, k)
		} else {
			q.positions[k] = v
		}
	}
}

// roll begins a new segment. Progress is saved first, so that a number is never given out again.
func (q *queue) roll() error {
	if err := q.save(); err != nil {
		return err
	}
	s := &segment{path: filepath.Join(q.o.dir, fmt.Sprintf("%020d%s", q.nextSeq, segmentSuffix)), first: q.nextSeq, last: q.nextSeq - 1, size: int64(segmentHeader)}
	// An empty one of the same number may be there from a run that appended nothing.
	q.segments = slices.DeleteFunc(q.segments, func(o *segment) bool {
		if o.path != s.path {
			return false
		}
		q.size -= o.size
		return true
	})
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(appendSegmentHeader(nil, s.first)); err == nil {
		if err = q.o.sync(f); err == nil {
			err = q.syncDir()
		}
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(s.path))
	}
	if q.file != nil {
		q.file.Close()
	}
	q.file = f
	q.segments = append(q.segments, s)
	q.size += s.size
	return nil
}

// append makes a batch durable: when it returns nil, body and positions survive kill -9 and a power cut, both or neither.
func (q *queue) append(body, positions []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := record{seq: q.nextSeq, at: kemi.MillisOf(q.o.now()), positions: positions, body: body}
	q.buf = appendRecord(q.buf[:0], r, q.o.pack)
	n := int64(len(q.buf))
	if cap(q.buf) > 1<<20 {
		defer func() { q.buf = nil }()
	}
	if q.file == nil || q.active().size+n > q.segMax && q.active().last >= q.active().first {
		if err := q.roll(); err != nil {
			q.failed.Add(1)
			return fmt.Errorf("spool: %w", err)
		}
	}
	if err := q.makeRoom(n); err != nil {
		return err
	}
	s := q.active()
	if _, err := q.file.WriteAt(q.buf, s.size); err != nil {
		return q.unwrite(err)
	}
	if err := q.o.sync(q.file); err != nil {
		return q.unwrite(err)
	}
	s.size += n
	s.last = r.seq
	q.size += n
	q.nextSeq++
	q.merge(positions)
	q.dirty = true
	signal(q.filled)
	return nil
}

func (q *queue) active() *segment { return q.segments[len(q.segments)-1] }

// unwrite takes back what could not be written. What is in the file after its last whole record must not look like one at
// the next start; so the file is cut, or if that fails too, left for good.
func (q *queue) unwrite(err error) error {
	q.failed.Add(1)
	if cut := q.file.Truncate(q.active().size); cut != nil {
		q.nextSeq++ // whatever stands there has a number that is used no more
	}
	q.file.Close()
	q.file = nil // the next append begins a new segment
	return fmt.Errorf("spool: %w", err)
}

// makeRoom makes n bytes fit: by removing segments that are done, and then, if it may, by dropping the oldest.
func (q *queue) makeRoom(n int64) error {
	for q.size+n > q.o.maxBytes {
		s := q.segments[0]
		waiting := int64(0)
		if s.last > q.acked && s.last >= s.first {
			waiting = int64(s.last - max(s.first-1, q.acked))
		}
		switch {
		case waiting > 0 && !q.o.dropOldest:
			return errFull
		case s == q.active() && s.last < s.first:
			return nil // one batch is larger than the whole spool
		case s == q.active():
			if err := q.roll(); err != nil {
				q.failed.Add(1)
				return fmt.Errorf("spool: %w", err)
			}
		default:
			q.acked = max(q.acked, s.last)
			if err := q.save(); err != nil {
				q.failed.Add(1)
				return fmt.Errorf("spool: %w", err)
			}
			q.dropped.Add(waiting)
			q.removeFirst()
		}
	}
	return nil
}

func (q *queue) removeFirst() {
	s := q.segments[0]
	if q.readSeg == s {
		q.closeReader()
	}
	q.segments = q.segments[1:]
	q.size -= s.size
	if err := os.Remove(s.path); err != nil {
		q.o.log.Warn("cannot remove a spool file", "err", err)
	}
}

// hold keeps a batch in memory: the disk takes none, and this one is better sent than lost. The oldest are dropped when there are
// too many.
func (q *queue) hold(body []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.memory) > 0 && q.memoryLen+len(body) > maxMemory {
		q.memoryLen -= len(q.memory[0].body)
		q.memory = q.memory[1:]
		q.dropped.Add(1)
	}
	q.memorySeq++
	// Its name cannot be one that a later run gives out.
	q.memory = append(q.memory, held{batch{name: fmt.Sprintf("%s.%s-%d", q.o.id, q.o.run, q.memorySeq), at: kemi.MillisOf(q.o.now()), body: body}, q.nextSeq - 1})
	q.memoryLen += len(body)
	signal(q.filled)
}

// next waits for the oldest batch that is not done. It gives the same one until done is called.
func (q *queue) next(ctx context.Context) (batch, error) {
	for {
		b, ok, err := q.first()
		if ok || err != nil {
			return b, err
		}
		select {
		case <-q.filled:
		case <-ctx.Done():
			return batch{}, ctx.Err()
		}
	}
}

func (q *queue) first() (b batch, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if len(q.memory) > 0 && q.acked >= q.memory[0].after {
			return q.memory[0].batch, true, nil
		}
		i := slices.IndexFunc(q.segments, func(s *segment) bool { return s.last > q.acked && s.last >= s.first })
		if i < 0 {
			if len(q.memory) > 0 { // what stood before was dropped or damaged
				return q.memory[0].batch, true, nil
			}
			return batch{}, false, nil
		}
		s := q.segments[i]
		r, err := q.read(s)
		if err == nil {
			return batch{name: fmt.Sprintf("%s-%d", q.o.id, r.seq), seq: r.seq, at: r.at, body: r.body}, true, nil
		}
		if !errors.Is(err, errCorrupt) && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
			return batch{}, false, fmt.Errorf("spool: %w", err)
		}
		// The disk does not give back what was written. What can be read behind it should not wait for it.
		q.corrupt.Add(1)
		q.o.log.Error("spooled batches cannot be read and are left out", "path", s.path, "batches", s.last-max(s.first-1, q.acked), "err", err)
		q.acked = s.last
		q.dirty = true
	}
}

// read gives the first record of s that is not done.
func (q *queue) read(s *segment) (record, error) {
	if q.readSeg != s {
		q.closeReader()
		f, err := os.Open(s.path)
		if err != nil {
			return record{}, err
		}
		q.reading, q.readSeg, q.readOff = f, s, int64(segmentHeader)
	}
	for {
		var head [recordHeader]byte
		if _, err := q.reading.ReadAt(head[:], q.readOff); err != nil {
			return record{}, err
		}
		n, err := recordLength(head[:])
		if err != nil || q.readOff+int64(n) > s.size {
			return record{}, errCorrupt
		}
		b := make([]byte, n)
		if _, err := q.reading.ReadAt(b, q.readOff); err != nil {
			return record{}, err
		}
		r, _, err := readRecord(b)
		if err != nil {
			return record{}, err
		}
		if r.seq > q.acked {
			return r, nil
		}
		q.readOff += int64(n)
	}
}

func (q *queue) closeReader() {
	if q.reading != nil {
		q.reading.Close()
	}
	q.reading, q.readSeg = nil, nil
}

// done says that b need not be sent again.
func (q *queue) done(b batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer signal(q.emptied)
	if b.seq == 0 {
		if len(q.memory) > 0 && q.memory[0].name == b.name {
			q.memoryLen -= len(q.memory[0].body)
			q.memory = q.memory[1:]
		}
		return
	}
	q.acked, q.dirty = max(q.acked, b.seq), true
	finished := len(q.segments) > 1 && q.segments[0].last <= q.acked
	if finished || q.o.now().Sub(q.saved) >= saveEvery {
		if err := q.save(); err != nil {
			q.failed.Add(1)
			q.o.log.Warn("cannot write down the spool's progress", "err", err)
			return
		}
	}
	for len(q.segments) > 1 && q.segments[0].last <= q.acked {
		q.removeFirst()
	}
}

// isDropped tells whether b was dropped while somebody tried to send it.
func (q *queue) isDropped(b batch) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return b.seq != 0 && b.seq <= q.acked
}

// save writes the progress down, whole or not at all.
func (q *queue) save() error {
	b, err := json.Marshal(state{Acked: q.acked, Through: q.nextSeq - 1, Positions: q.positions})
	if err != nil {
		return err
	}
	path := filepath.Join(q.o.dir, stateFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = q.o.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := q.syncDir(); err != nil {
		return err
	}
	q.saved, q.dirty = q.o.now(), false
	return nil
}

// savedPositions are the positions whose keys begin so, without that.
func (q *queue) savedPositions(prefix string) map[string]json.RawMessage {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := map[string]json.RawMessage{}
	for k, v := range q.positions {
		if name, ok := strings.CutPrefix(k, prefix); ok {
			out[name] = v
		}
	}
	return out
}

// waitRoom waits until something was done since the last time.
func (q *queue) waitRoom(ctx context.Context) error {
	select {
	case <-q.emptied:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pending is how many batches wait, and how many bytes the queue has on disk.
func (q *queue) pending() (batches, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pendingLocked(), q.size
}

func (q *queue) pendingLocked() int64 {
	n := int64(len(q.memory))
	for _, s := range q.segments {
		if s.last > q.acked {
			n += int64(s.last - max(s.first-1, q.acked))
		}
	}
	return n
}

// close writes the progress down.
func (q *queue) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closeReader()
	var err error
	if q.dirty {
		err = q.save()
	}
	if q.file != nil {
		err = errors.Join(err, q.file.Close())
		q.file = nil
	}
	return err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *queue) syncDir() error { return syncDir(q.o.dir, q.o.sync) }

func syncDir(dir string, sync func(*os.File) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(sync(d), d.Close())
}
