package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/bus"
)

// WAL is an open log. It implements bus.Bus.
type WAL struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	disk    *disk
	lock    *os.File
	metrics *metrics
	topics  map[string]*topic
	pending *semaphore.Weighted
	frames  sync.Pool

	retain  chan struct{} // a segment is full: see whether one must go
	closing chan struct{}
	close   func() error
	workers sync.WaitGroup
}

var _ bus.Bus = (*WAL)(nil)

type topic struct {
	name       string
	dir        string
	retention  Retention
	partitions []*partition
	groups     *groups
	turn       atomic.Uint32 // the partition for the next records without a key

	mu      sync.Mutex
	readers map[*reader]struct{}
	closed  bool
}

var errClosed = kemi.Errorf(kemi.ErrUnavailable, "the log is closed")

// Open opens the log in cfg.Dir, makes it if it is not there, and brings it in order if it was not closed.
// It fails with ErrConflict while another process has it, and with *CorruptError if acknowledged records are damaged.
func Open(cfg Config, o Options) (*WAL, error) { return open(cfg, o, realDisk()) }

func open(cfg Config, o Options, d *disk) (_ *WAL, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "dir: the folder of the log must be named")
	}
	w := &WAL{
		cfg: cfg, log: o.Log, now: o.Now, disk: d,
		topics:  map[string]*topic{},
		pending: semaphore.NewWeighted(cfg.PendingBytes + frameHeaderLen),
		retain:  make(chan struct{}, 1),
		closing: make(chan struct{}),
	}
	w.cfg.Topics = maps.Clone(cfg.Topics)
	w.close = sync.OnceValue(w.shut)
	w.frames.New = func() any { return &frame{done: make(chan error, 1)} }
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.now == nil {
		w.now = time.Now
	}
	w.metrics = newMetrics(w)
	if err := makeDir(d, cfg.Dir); err != nil {
		return nil, dirError(cfg.Dir, err)
	}
	if w.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.abandon()
		}
	}()
	w.warnUnknown()
	for name, n := range cfg.Topics {
		if w.topics[name], err = w.openTopic(name, n); err != nil {
			return nil, dirError(cfg.Dir, err)
		}
	}
	if o.Registerer != nil {
		if err := o.Registerer.Register(w.metrics); err != nil {
			return nil, fmt.Errorf("register the metrics of the log: %w", err)
		}
		w.metrics.registerer = o.Registerer
	}
	for _, t := range w.topics {
		for _, p := range t.partitions {
			w.workers.Go(p.write)
		}
	}
	w.workers.Go(w.retention)
	return w, nil
}

// warnUnknown tells of topics on disk that nobody asked for: their records stay, and nobody reads or deletes them.
func (w *WAL) warnUnknown() {
	entries, _ := os.ReadDir(w.cfg.Dir)
	for _, e := range entries {
		if _, ok := w.cfg.Topics[e.Name()]; !ok && e.IsDir() && exists(filepath.Join(w.cfg.Dir, e.Name(), "groups")) {
			w.log.Warn("the log has a topic that the configuration does not name: it is left as it is", "topic", e.Name(), "dir", w.cfg.Dir)
		}
	}
}

// abandon lets go of what a failed open holds.
func (w *WAL) abandon() {
	for _, t := range w.topics {
		if t == nil {
			continue
		}
		for _, p := range t.partitions {
			if p.file != nil {
				_ = p.file.Close()
			}
		}
	}
	_ = w.lock.Close()
}

// dirError says of errors that are about the folder, not about what is in it, what would help.
func dirError(dir string, err error) error {
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return kemi.Errorf(kemi.ErrInvalid, "dir: the folder %s of the log cannot be written: %w: give a folder that this user may write to", dir, err)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, fs.ErrExist):
		return kemi.Errorf(kemi.ErrInvalid, "dir: %s is not a folder: %w", dir, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return kemi.Errorf(kemi.ErrUnavailable, "open the log in %s: the disk is full: %w", dir, err)
	}
	return fmt.Errorf("open the log in %s: %w", dir, err)
}

// makeDir makes dir and the folders above it, all of them durable.
func makeDir(d *disk, dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return unix.ENOTDIR
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(d, parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return d.syncDir(parent)
}

// lockDir makes sure that nobody else writes to the folder. The kernel lets go of the lock when the process ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, dirError(dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		var pid [16]byte
		n, _ := f.Read(pid[:])
		return nil, kemi.Errorf(kemi.ErrConflict, "the log in %s is in use by process %s: stop it, or use another folder",
			dir, strings.TrimSpace(string(pid[:n])))
	}
	// The number is for people only; a full disk must not keep the log from opening.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func (w *WAL) openTopic(name string, n int) (*topic, error) {
	t := &topic{name: name, dir: filepath.Join(w.cfg.Dir, name), retention: w.cfg.retention(name), readers: map[*reader]struct{}{}}
	groupDir := filepath.Join(t.dir, "groups")
	if err := makeDir(w.disk, groupDir); err != nil {
		return nil, err
	}
	var err error
	if t.groups, err = openGroups(groupDir, w.disk); err != nil {
		return nil, err
	}
	// More partitions on disk than asked for would be records that nobody reads.
	if extra := filepath.Join(t.dir, strconv.Itoa(n)); exists(extra) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "topics.%s: %d partitions: the log has more already, as %s is there; partitions cannot be taken away", name, n, extra)
	}
	for i := range n {
		p := &partition{
			topic: name, id: int32(i), dir: filepath.Join(t.dir, strconv.Itoa(i)),
			cfg: &w.cfg, disk: w.disk, log: w.log, m: w.metrics.partition(name, i), now: w.now, pending: w.pending,
			kick: make(chan struct{}, 1), ended: make(chan struct{}), cursors: map[*cursor]struct{}{},
			rolled: w.kickRetention,
		}
		t.partitions = append(t.partitions, p)
		err := makeDir(w.disk, p.dir)
		if err == nil {
			err = openPartition(p, t.groups.highest(p.id))
		}
		if err != nil {
			for _, p := range t.partitions {
				if p.file != nil {
					_ = p.file.Close()
				}
			}
			return nil, err
		}
	}
	return t, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (w *WAL) topic(name string) (*topic, error) {
	if t, ok := w.topics[name]; ok {
		return t, nil
	}
	return nil, kemi.Errorf(kemi.ErrInvalid, "topic %q: the log has no such topic", name)
}

// Publish implements bus.Bus. What of records goes to one partition is durable as a whole or not at all; a topic with
// one partition therefore keeps all records of a call together. Records without a key go to one partition, another one with each call.
func (w *WAL) Publish(ctx context.Context, topic string, records []bus.Record) error {
	t, err := w.topic(topic)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var total int64
	for i := range records {
		n := recordSize(&records[i])
		if n > w.cfg.MaxRecordBytes {
			return kemi.Errorf(kemi.ErrTooLarge, "record %d of %d for topic %s has %d bytes: the limit (maxRecordBytes) is %d", i, len(records), topic, n, w.cfg.MaxRecordBytes)
		}
		total += n
	}
	if total > w.cfg.MaxBatchBytes {
		return kemi.Errorf(kemi.ErrTooLarge, "%d records for topic %s have %d bytes together: the limit (maxBatchBytes) is %d", len(records), topic, total, w.cfg.MaxBatchBytes)
	}
	now := kemi.MillisOf(w.now())
	for i := range records {
		if records[i].At == 0 {
			records[i].At = now
		}
	}
	switch {
	case len(records) == 0:
		return nil
	case len(t.partitions) == 1:
		return w.publish(ctx, t, t.partitions[:1], [][]bus.Record{records})
	}
	return w.publishSplit(ctx, t, records)
}

// publishSplit sends each record to the partition of its key.
func (w *WAL) publishSplit(ctx context.Context, t *topic, records []bus.Record) error {
	n := uint64(len(t.partitions))
	keyless := int32(uint64(t.turn.Add(1)) % n)
	places := make([]int32, len(records))
	parts := make([][]bus.Record, n)
	for i := range records {
		places[i] = keyless
		if key := records[i].Key; len(key) > 0 {
			places[i] = int32(xxh3.Hash(key) % n)
		}
		parts[places[i]] = append(parts[places[i]], records[i])
	}
	var to []*partition
	var have [][]bus.Record
	for i, part := range parts {
		if len(part) > 0 {
			to = append(to, t.partitions[i])
			have = append(have, part)
		}
	}
	if err := w.publish(ctx, t, to, have); err != nil {
		return err
	}
	for i := range records {
		part := parts[places[i]]
		records[i].Partition, records[i].Offset = part[0].Partition, part[0].Offset
		parts[places[i]] = part[1:]
	}
	return nil
}

// publish writes parts[i] to the partition to[i] and waits until all are durable.
func (w *WAL) publish(ctx context.Context, t *topic, to []*partition, parts [][]bus.Record) error {
	sizes := make([]frameSize, len(to))
	for i := range parts {
		sizes[i] = measure(parts[i])
		if limit := w.cfg.MaxBatchBytes + frameHeaderLen; sizes[i].bytes > limit {
			return kemi.Errorf(kemi.ErrTooLarge, "%d records for topic %s take %d bytes together: the limit (maxBatchBytes) is %d", len(parts[i]), t.name, sizes[i].bytes, limit)
		}
	}
	frames := make([]*frame, len(to))
	for i, p := range to {
		if err := w.pending.Acquire(ctx, sizes[i].bytes); err != nil {
			return w.gaveUp(t, i > 0, err)
		}
		f := w.frames.Get().(*frame)
		f.encode(parts[i], sizes[i])
		if err := p.enqueue(f); err != nil {
			w.pending.Release(sizes[i].bytes)
			if i > 0 {
				return w.gaveUp(t, true, err)
			}
			return err
		}
		frames[i] = f
	}
	var failed error
	for i, f := range frames {
		select {
		case err := <-f.done:
			if err != nil {
				failed = err
				continue
			}
			for j := range parts[i] {
				parts[i][j].Partition, parts[i][j].Offset = to[i].id, f.h.first+int64(j)
			}
			if !f.kept && cap(f.buf) <= 1<<20 {
				f.locals = nil
				w.frames.Put(f)
			}
		case <-ctx.Done():
			return w.gaveUp(t, true, ctx.Err())
		}
	}
	return failed
}

func (w *WAL) gaveUp(t *topic, unknown bool, err error) error {
	if !unknown {
		return kemi.Errorf(kemi.ErrUnavailable, "publish to topic %s: nothing was written: %w", t.name, err)
	}
	return kemi.Errorf(kemi.ErrUnavailable, "publish to topic %s: whether it was written is not known: %w", t.name, err)
}

// sized is what a Local may say of itself: how much memory it holds.
type sized interface{ MemoryBytes() int64 }

// frameSize is what must be known of records before they are encoded.
type frameSize struct {
	bytes  int64 // header included
	newest kemi.Millis
}

func measure(records []bus.Record) frameSize {
	s := frameSize{frameHeaderLen, records[0].At}
	for i := range records {
		s.newest = max(s.newest, records[i].At)
	}
	for i := range records {
		n := encodedLen(&records[i], s.newest)
		s.bytes += int64(uvarintLen(uint64(n)) + n)
	}
	return s
}

// encode puts records into f, all but what the writer fills in.
func (f *frame) encode(records []bus.Record, size frameSize) {
	if int64(cap(f.buf)) < size.bytes {
		f.buf = make([]byte, size.bytes)
	}
	f.h = frameHeader{count: uint32(len(records)), newest: size.newest}
	f.kept, f.locals, f.charge = false, nil, size.bytes
	b := f.buf[:frameHeaderLen]
	for i := range records {
		r := &records[i]
		b = appendRecord(b, r, f.h.newest)
		if r.Local == nil {
			continue
		}
		if f.locals == nil {
			f.locals = make([]any, len(records))
		}
		f.locals[i] = r.Local
		if s, ok := r.Local.(sized); ok {
			f.charge += s.MemoryBytes()
		} else {
			f.charge += 4 * int64(len(r.Value)) // decoded columns against a compressed body
		}
	}
	f.buf = b
	f.h.length = uint32(len(b) - frameHeaderLen)
	f.h.sum = crc32.Checksum(b[frameHeaderLen:], castagnoli)
}

// Spans implements bus.Bus.
func (w *WAL) Spans(_ context.Context, topic string) (map[int32]bus.Span, error) {
	t, err := w.topic(topic)
	if err != nil {
		return nil, err
	}
	spans := make(map[int32]bus.Span, len(t.partitions))
	for _, p := range t.partitions {
		spans[p.id] = p.span()
	}
	return spans, nil
}

// Close implements bus.Bus: publishes that wait are written, then the log is left in order.
func (w *WAL) Close() error { return w.close() }

func (w *WAL) shut() error {
	close(w.closing)
	for _, t := range w.topics {
		for _, p := range t.partitions {
			p.stop()
		}
	}
	for _, t := range w.topics {
		t.closeReaders()
		t.groups.close()
	}
	w.workers.Wait()
	if w.metrics.registerer != nil {
		w.metrics.registerer.Unregister(w.metrics)
	}
	var failed []error
	for _, t := range w.topics {
		for _, p := range t.partitions {
			failed = append(failed, p.failed)
		}
	}
	return errors.Join(append(failed, w.lock.Close())...)
}
