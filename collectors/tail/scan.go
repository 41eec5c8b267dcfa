package tail

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"
)

// maxLooks is how often scan looks again because names changed while it looked.
const maxLooks = 5

// scan looks which files there are. It opens new ones and notes which have changed; it reads and hands out nothing.
func (t *Tail) scan(now time.Time) {
	changed := !t.scanned
	dirs := map[string]bool{}
	for i := range maxLooks {
		seen, found, added := t.look(now, dirs)
		changed = changed || added
		// A rotation at the same time may have hidden a file: it had its new name before its old one was looked at. Then files would be
		// read in the wrong order.
		if !(added || t.loses(found)) || slices.Equal(seen, t.names()) || i == maxLooks-1 {
			t.lose(found, now)
			break
		}
	}
	if changed {
		t.link()
	}
	if !t.scanned {
		t.forgetOld(now)
	}
	t.scanned = true
	t.watch(dirs)
}

// names are all paths that the patterns lead to.
func (t *Tail) names() (paths []string) {
	for _, in := range t.inputs {
		for _, pattern := range in.Paths {
			paths = append(paths, glob(pattern)...)
		}
	}
	return paths
}

// look goes over the files once. It gives the paths that it saw, the keys of the files, and whether there are new ones.
func (t *Tail) look(now time.Time, dirs map[string]bool) (seen []string, found map[string]bool, added bool) {
	found = map[string]bool{}
	clear(t.links)
	for _, in := range t.inputs {
		for _, pattern := range in.Paths {
			for _, dir := range glob(filepath.Dir(pattern)) {
				dirs[dir] = true
			}
			paths := glob(pattern)
			seen = append(seen, paths...)
			for _, path := range paths {
				if in.excluded(path) {
					continue
				}
				info, err := t.stat(path, dirs)
				if err != nil || !info.Mode().IsRegular() {
					continue
				}
				dev, ino, _ := identity(info)
				k := key(dev, ino)
				if found[k] {
					continue // another path of the same file
				}
				found[k] = true
				if f := t.files[k]; f != nil {
					f.lost = time.Time{}
					t.rename(f, path)
					f.see(info, now)
					continue
				}
				added = t.add(in, path, now) || added
			}
		}
	}
	return seen, found, added
}

// loses tells whether a file that had a path is not among those found.
func (t *Tail) loses(found map[string]bool) bool {
	for k, f := range t.files {
		if !found[k] && f.lost.IsZero() {
			return true
		}
	}
	return false
}

// lose notes which files have no path any more.
func (t *Tail) lose(found map[string]bool, now time.Time) {
	for k, f := range t.files {
		if found[k] {
			continue
		}
		if f.lost.IsZero() {
			f.lost, f.dirty = now, true
		}
		if f.fd != nil { // who writes may not know yet that it has another name, or none
			if info, err := f.fd.Stat(); err == nil {
				f.see(info, now)
			}
		}
	}
}

// stat looks where a path leads, and has the folder watched that a symbolic link leads to.
func (t *Tail) stat(path string, dirs map[string]bool) (os.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		return info, err
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	dirs[filepath.Dir(target)] = true
	t.links[target] = path
	return os.Stat(target)
}

func glob(pattern string) []string {
	paths, _ := filepath.Glob(pattern) // the pattern was checked
	return paths
}

func (t *Tail) rename(f *file, path string) {
	if f.path == path {
		return
	}
	if t.byPath[f.path] == f {
		delete(t.byPath, f.path)
	}
	f.path = path
	t.byPath[path] = f
}

// add begins to follow a file, from where its position says or else as a fresh one.
func (t *Tail) add(in *input, path string, now time.Time) bool {
	if len(t.files) >= maxFiles {
		t.complain("files", errTooMany)
		return false
	}
	fd, info, err := open(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.complain(path, err)
		}
		return false
	}
	delete(t.complaints, path)
	dev, ino, _ := identity(info)
	k := key(dev, ino)
	if t.files[k] != nil { // the path leads elsewhere than a moment ago
		fd.Close()
		return false
	}
	f := &file{in: in, key: k, path: path, fd: fd, dirty: true, atStart: true, fresh: true}
	f.see(info, now)
	f.pos = Position{Path: path, Dev: dev, Ino: ino}

	saved, known := t.saved[k]
	if !known {
		saved, known = t.sameInode(ino, fd, info.Size())
	}
	switch {
	case known && saved.fits(fd, info.Size()):
		if old := saved.Key(); old != k {
			t.pending = append(t.pending, Entry{Only: true, Key: old, Gone: true}) // the device has another number since the last boot
			delete(t.saved, old)
		}
		saved.Dev, saved.Ino = dev, ino
		f.pos, f.fresh, f.atStart = saved, false, saved.Offset == 0
	case known:
		// Its content is another: it was truncated while nobody looked, or the inode was used again. Either way what it held may be
		// in a copy.
		t.remember(saved, now)
	}
	delete(t.saved, k)
	f.stream = in.stream(f.pos.Path)
	if f.fresh && in.endFirst && t.firstStart && !t.scanned {
		if err := f.seekEnd(); err == nil {
			f.fresh = false
			f.learnHead(f.readHead())
			t.pending = append(t.pending, t.only(f))
		}
	}
	t.files[k], t.byPath[path] = f, f
	t.order = append(t.order, f)
	t.Stats.Files.Store(int64(len(t.files)))
	return true
}

// sameInode finds the position of a file whose device has another number than before.
func (t *Tail) sameInode(ino uint64, fd *os.File, size int64) (Position, bool) {
	for _, p := range t.saved {
		if p.Ino == ino && p.HeadLen >= minHead && p.fits(fd, size) {
			return p, true
		}
	}
	return Position{}, false
}

// remember keeps the position of a file that was truncated, so that a copy of what it held is recognised.
func (t *Tail) remember(p Position, now time.Time) {
	if p.Offset > 0 && p.HeadLen >= minHead {
		t.former = append(t.former, former{p, now})
	}
	t.former = slices.DeleteFunc(t.former, func(f former) bool { return now.Sub(f.since) > formerAge })
	if n := len(t.former) - maxFormer; n > 0 {
		t.former = t.former[n:]
	}
}

// link makes files of one stem wait for the older ones that are not read to their end.
func (t *Tail) link() {
	stems := map[string][]*file{}
	for _, f := range t.order {
		stems[f.stem()] = append(stems[f.stem()], f)
	}
	for _, fs := range stems {
		sort.SliceStable(fs, func(i, j int) bool { return fs[i].older(fs[j]) })
		var before *file
		for _, f := range fs {
			f.after = before
			if f.dirty {
				before = f
			}
		}
	}
}

// forgetOld drops positions of files that are not there and were not for long.
func (t *Tail) forgetOld(now time.Time) {
	for k, p := range t.saved {
		if now.Sub(p.At.Time()) > keepUnseen {
			delete(t.saved, k)
			t.pending = append(t.pending, Entry{Only: true, Key: k, Gone: true})
		}
	}
}

// reap closes files to which no path leads any more, once they are read to the end and nothing was added for a while, and
// lets those rest to which nothing was added for long.
func (t *Tail) reap(now time.Time) {
	gone := false
	for _, f := range t.order {
		if f.fd == nil {
			if !f.lost.IsZero() {
				t.close(f)
				gone = true
			}
			continue
		}
		idle := now.Sub(f.changed)
		if f.lost.IsZero() {
			if idle > restAfter && !f.dirty && !f.held && !f.fresh {
				f.fd.Close()
				f.fd = nil
			}
			continue
		}
		if f.dirty || now.Sub(f.lost) < t.o.DeletedGrace || idle < t.o.DeletedGrace {
			continue
		}
		info, err := f.fd.Stat()
		deleted := false
		if err == nil {
			if f.see(info, now); f.dirty {
				continue
			}
			_, _, links := identity(info)
			deleted = links == 0
		}
		if !deleted && min(idle, now.Sub(f.lost)) < t.o.RenamedGrace {
			continue
		}
		t.close(f)
		gone = true
		if deleted {
			t.pending = append(t.pending, Entry{Only: true, Key: f.key, Gone: true})
		} else {
			t.saved[f.key] = f.pos // it may come back under a name that is followed
		}
	}
	if gone {
		t.order = slices.DeleteFunc(t.order, func(f *file) bool { return t.files[f.key] != f })
		t.Stats.Files.Store(int64(len(t.files)))
	}
}

func (t *Tail) close(f *file) {
	if f.fd != nil {
		f.fd.Close()
	} else {
		t.saved[f.key] = f.pos
	}
	f.dirty = false
	delete(t.files, f.key)
	if t.byPath[f.path] == f {
		delete(t.byPath, f.path)
	}
}
