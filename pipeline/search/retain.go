package search

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// slice is the slice that takes new blocks.
func (x *Index) slice() (*slice, error) {
	day := x.o.Now().UTC().Format(time.DateOnly)
	x.mu.RLock()
	cur := x.current
	x.mu.RUnlock()
	if cur != nil && cur.name[:len(day)] >= day && cur.state.Bytes < x.c.SliceBytes {
		return cur, nil
	}
	root := filepath.Join(x.c.Dir, slicesFolder)
	last := ""
	if n := len(x.slices); n > 0 {
		last = x.slices[n-1].name
		day = max(day, last[:len(day)]) // the clock may have been set back
	}
	name := ""
	for n := 1; ; n++ {
		name = fmt.Sprintf("%s-%06d", day, n)
		if _, err := os.Lstat(filepath.Join(root, name)); errors.Is(err, os.ErrNotExist) && name > last {
			break
		}
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make slice: %w", err)
	}
	s, err := openSlice(dir, x.queue)
	if err == nil {
		err = syncFolder(root)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("make slice %s: %w", name, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.slices = append(x.slices, s)
	x.current = s
	x.m.slices.Set(float64(len(x.slices)))
	return s, nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// checkFree refuses to write when the disk is nearly full: bleve's own files, which are merged all the time, need room, too.
func (x *Index) checkFree(h *head) error {
	var st unix.Statfs_t
	if err := unix.Statfs(x.c.Dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", x.c.Dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if need := x.c.MinFreeBytes + h.bytes; free < need {
		return fmt.Errorf("%s has %d bytes free, less than the %d that are needed (minFreeBytes): %w", x.c.Dir, free, need, unix.ENOSPC)
	}
	return nil
}

// refreshViews brings in what bleve has merged, so that files that are not needed any more can go.
func (x *Index) refreshViews() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.frozen != nil {
		return // a batch may be in the index that the head still answers for
	}
	for _, s := range x.slices {
		if err := s.refresh(); err != nil {
			x.o.Log.Warn("slice not refreshed", "slice", s.name, "err", err)
		}
	}
}

// retain drops slices that are too old, and the oldest while all together are too large.
func (x *Index) retain() {
	oldest := x.o.Now().Add(-x.c.Retention)
	var total int64
	sizes := make([]int64, len(x.slices))
	for i, s := range x.slices {
		sizes[i] = s.diskBytes()
		total += sizes[i]
	}
	for i := 0; len(x.slices) > 1; i++ {
		s := x.slices[0]
		day, _ := sliceDay(s.name)
		if day.Add(24*time.Hour).After(oldest) && total <= x.c.RetentionBytes {
			break
		}
		total -= sizes[i]
		x.mu.Lock()
		x.slices = slices.Clone(x.slices[1:])
		delete(x.damaged, s.name)
		x.m.slices.Set(float64(len(x.slices)))
		x.mu.Unlock()
		if err := x.drop(s); err != nil {
			x.o.Log.Error("slice not deleted", "slice", s.name, "err", err)
			continue
		}
		x.m.droppedSlices.Inc()
		x.o.Log.Info("slice deleted by retention", "slice", s.name, "bytes", sizes[i])
	}
	x.m.diskBytes.Set(float64(total))
	x.dropDamaged(oldest)
}

func (x *Index) drop(s *slice) error {
	err := s.close()
	gone := s.dir + droppedExt
	if e := os.Rename(s.dir, gone); e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, os.RemoveAll(gone))
}

// dropDamaged forgets damaged slices that retention would have dropped by now.
func (x *Index) dropDamaged(oldest time.Time) {
	root := filepath.Join(x.c.Dir, damagedFolder)
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		if day, err := sliceDay(name); err != nil || day.Add(24*time.Hour).After(oldest) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
			x.o.Log.Error("damaged slice not deleted", "slice", e.Name(), "err", err)
			continue
		}
		x.mu.Lock()
		delete(x.damaged, e.Name())
		x.m.damaged.Set(float64(len(x.damaged)))
		x.mu.Unlock()
	}
}
