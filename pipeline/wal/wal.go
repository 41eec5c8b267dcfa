package wal

import (
	"context"
	"errors"
	"fmt"
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
			cfg: &w.cfg, segmentBytes: w.cfg.segmentBytes(name), disk: w.disk, log: w.log, m: w.metrics.partition(name, i), now: w.now, pending: w.pending,
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
