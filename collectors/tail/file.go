package tail

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
)

// file is one that is followed. Until it has been decided where to begin, it is fresh.
type file struct {
	in     *input
	key    string
	path   string   // where it is now
	fd     *os.File // nil while it rests
	stream kemi.Labels

	pos     Position // after what was handed out
	size    int64    // when it was looked at last
	mtime   time.Time
	changed time.Time // when size or mtime were seen to change
	lost    time.Time // since when no path leads to it; zero while one does

	fresh   bool
	suspect time.Time // since when it looks like a copy that is being made
	dirty   bool      // there may be something to read
	held    bool      // it ends with what is not a whole record
	after   *file     // is read to its end before this one
	zeros   bool      // it was truncated under a writer that goes on where it was: zeros come first
	atStart bool      // nothing was handed out yet from its beginning

	wide          wide
	encodingKnown bool
}

// open gives a file that is not a pipe, device or folder.
func open(path string) (*os.File, os.FileInfo, error) {
	// Without O_NONBLOCK opening a pipe would wait for a writer.
	fd, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := fd.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: os.ErrInvalid}
	}
	if err != nil {
		fd.Close()
		return nil, nil, err
	}
	return fd, info, nil
}

// readSmall reads a file of not more than 1 MiB.
func readSmall(path string) ([]byte, error) {
	fd, info, err := open(path)
	if err != nil {
		return nil, err
	}
	defer fd.Close()
	b := make([]byte, min(info.Size(), 1<<20))
	n, err := fd.ReadAt(b, 0)
	return b[:n], err
}

func identity(info os.FileInfo) (dev, ino uint64, links uint64) {
	s, ok := info.Sys().(*unixStat)
	if !ok {
		return 0, 0, 1
	}
	return uint64(s.Dev), s.Ino, uint64(s.Nlink) //nolint:unconvert // the types differ between platforms
}

// see notes what a look at the file showed.
func (f *file) see(info os.FileInfo, now time.Time) {
	if info.Size() != f.size || !info.ModTime().Equal(f.mtime) {
		f.size, f.mtime, f.changed, f.dirty = info.Size(), info.ModTime(), now, true
	}
}

// readHead reads the first bytes, if their hash could cover more of them than it does.
func (f *file) readHead() []byte {
	if f.pos.HeadLen >= maxHead || f.size <= int64(f.pos.HeadLen) {
		return nil
	}
	b := make([]byte, maxHead)
	n, _ := f.fd.ReadAt(b, 0)
	return b[:n]
}

// learnHead takes b for the first bytes. The caller has made sure, after they were read, that the file is still the same.
func (f *file) learnHead(b []byte) {
	if len(b) > f.pos.HeadLen {
		f.pos.HeadLen, f.pos.Head = len(b), hash(b)
	}
}

// moved notes that what ends with b, before offset, was handed out.
func (f *file) moved(b []byte, offset int64) {
	b = b[max(0, len(b)-maxLast):]
	f.pos.Offset, f.pos.LastLen, f.pos.Last = offset, len(b), hash(b)
}

// restart makes the file begin anew.
func (f *file) restart() {
	f.pos.Offset, f.pos.HeadLen, f.pos.Head, f.pos.LastLen, f.pos.Last, f.pos.Start, f.pos.Part = 0, 0, 0, 0, 0, 0, 0
	f.dirty, f.held, f.atStart, f.encodingKnown = true, false, true, false
}

// seekEnd makes the file begin after its last whole line.
func (f *file) seekEnd() error {
	b := make([]byte, min(f.size, 64<<10))
	n, err := f.fd.ReadAt(b, f.size-int64(len(b)))
	if n < len(b) {
		return err
	}
	f.learnEncoding()
	// Without an end of line in reach the middle of a line has to do.
	if f.wide != notWide {
		from := (f.size - int64(n)) & 1 // where a character begins
		end := 0
		for k := f.wide.lineEnd(b[from:]); k > 0; k = f.wide.lineEnd(b[int(from)+end:]) {
			end += k
		}
		if end == 0 {
			end = (n - int(from)) &^ 1
		}
		f.moved(b[:int(from)+end], f.size-int64(n)+from+int64(end))
	} else if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		b = b[:i+1]
		f.moved(b, f.size-int64(n)+int64(len(b)))
	} else {
		f.moved(b, f.size)
	}
	f.atStart = f.pos.Offset == 0
	return nil
}

// isPrefixOf tells whether f, as far as it goes, holds what other holds: as a copy that is being made would. Large files are
// compared at their beginning and their end.
func (f *file) isPrefixOf(other *file) bool {
	if f.size < minHead || f.size > other.size || other.fd == nil {
		return false
	}
	const ends = 16 << 10
	same := func(at int64, n int64) bool {
		a, b := make([]byte, n), make([]byte, n)
		na, _ := f.fd.ReadAt(a, at)
		nb, _ := other.fd.ReadAt(b, at)
		return na == nb && int64(na) == n && bytes.Equal(a, b)
	}
	return same(0, min(ends, f.size)) && same(max(0, f.size-ends), min(ends, f.size))
}

// rotation finds what log rotation adds to a name.
var rotation = regexp.MustCompile(`(?:[._-]\d+(?:-\d+)*)+$`)

// stem is what the names of a file and of its rotated ones share.
func (f *file) stem() string { return rotation.ReplaceAllString(f.path, "") }

// older tells whether f holds older lines than g, of files with one stem.
func (f *file) older(g *file) bool {
	if !f.mtime.Equal(g.mtime) {
		return f.mtime.Before(g.mtime)
	}
	a, b := f.generation(), g.generation()
	if a != b {
		return a > b
	}
	return f.path > g.path
}

// generation is n of app.log.n, and 0 of app.log. A date counts as older than none and as newer than another that is smaller.
func (f *file) generation() int {
	s := rotation.FindString(filepath.Base(f.path))
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s[1:])
	if err != nil || n >= 10_000 {
		return 1
	}
	return n
}
