package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kemi"
)

const (
	segmentMagic     = "KEMIBUS\x01" // the last byte is the version
	segmentHeaderLen = 64
	logSuffix        = ".log"
	indexSuffix      = ".idx"
	// indexEvery is how many bytes of a segment stand behind one entry of its index.
	indexEvery = 256 << 10
)

// segment is one file of a partition. All fields but the first three are guarded by the partition's mutex once the
// segment belongs to one.
type segment struct {
	path string
	base int64 // offset of its first record
	salt uint32

	size   int64       // durable bytes, header included
	next   int64       // offset after its last record
	newest kemi.Millis // latest At in it

	// When it was created and last written, by this machine's clock: the age of a segment does not depend on what
	// publishers say in At.
	created kemi.Millis
	written kemi.Millis

	index []indexEntry

	indexed int64 // bytes that the index on disk covers; of the writer alone
}

// indexEntry is a place in a segment from which reading can begin.
type indexEntry struct {
	offset int64
	pos    int64
	before kemi.Millis // latest At of the records before it in the segment
}

func segmentPath(dir string, base int64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, logSuffix))
}

func (s *segment) indexPath() string { return strings.TrimSuffix(s.path, logSuffix) + indexSuffix }

func (s *segment) empty() bool { return s.size == segmentHeaderLen }

// add takes note of a frame that stands at s.size and has total bytes.
func (s *segment) add(h frameHeader, total int64) {
	if s.empty() {
		s.newest = h.newest
		s.index = append(s.index, indexEntry{h.first, s.size, minMillis})
	} else if s.size-s.index[len(s.index)-1].pos >= indexEvery {
		s.index = append(s.index, indexEntry{h.first, s.size, s.newest})
	}
	s.newest = max(s.newest, h.newest)
	s.size += total
	s.next = h.next()
}

const minMillis = kemi.Millis(-1 << 63)

// find is a place at or before the frame that holds offset.
func (s *segment) find(offset int64) int64 {
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].offset > offset })
	if i == 0 {
		return segmentHeaderLen
	}
	return s.index[i-1].pos
}

// findTime is a place at or before the first frame with a record at or after at.
func (s *segment) findTime(at kemi.Millis) int64 {
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].before >= at })
	if i == 0 {
		return segmentHeaderLen
	}
	return s.index[i-1].pos
}

func putSegmentHeader(b []byte, base int64, partition int32, salt uint32, created kemi.Millis) {
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint64(b[8:], uint64(base))
	le.PutUint64(b[16:], uint64(created))
	le.PutUint32(b[24:], salt)
	le.PutUint32(b[28:], uint32(partition))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
}

// errNoHeader says that a file is too short to have a header: its creation did not finish.
var errNoHeader = errors.New("no header")

func parseSegmentHeader(b []byte, base int64, partition int32) (salt uint32, created kemi.Millis, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < segmentHeaderLen:
		return 0, 0, errNoHeader
	case string(b[:7]) != segmentMagic[:7]:
		return 0, 0, errors.New("is not a segment of the log")
	case b[7] != segmentMagic[7]:
		return 0, 0, fmt.Errorf("has format version %d, this program knows %d", b[7], segmentMagic[7])
	case le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli):
		return 0, 0, errors.New("has a damaged header")
	case int64(le.Uint64(b[8:])) != base || int32(le.Uint32(b[28:])) != partition:
		return 0, 0, fmt.Errorf("belongs to offset %d of partition %d, not to where it lies", int64(le.Uint64(b[8:])), int32(le.Uint32(b[28:])))
	}
	return le.Uint32(b[24:]), kemi.Millis(le.Uint64(b[16:])), nil
}

// createSegment makes a new file that is durable, name and all, before anything is written to it. After an error
// nothing is left.
func createSegment(d *disk, dir string, base int64, partition int32, created kemi.Millis) (*segment, *os.File, error) {
	var salt [4]byte
	_, _ = rand.Read(salt[:])
	s := &segment{path: segmentPath(dir, base), base: base, next: base, size: segmentHeaderLen,
		salt: binary.LittleEndian.Uint32(salt[:]), created: created, written: created}
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	var header [segmentHeaderLen]byte
	putSegmentHeader(header[:], base, partition, s.salt, created)
	if _, err = f.WriteAt(header[:], 0); err == nil {
		if err = d.sync(f); err == nil {
			err = d.syncDir(dir)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close(), os.Remove(s.path))
	}
	return s, f, nil
}

// listSegments are the bases of the segments in dir in ascending order. It removes index files without a segment and
// unfinished files.
func listSegments(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var bases []int64
	have := map[string]bool{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), logSuffix)
		if !ok {
			continue
		}
		base, err := strconv.ParseInt(name, 10, 64)
		if err != nil || base < 0 || filepath.Base(segmentPath(dir, base)) != e.Name() {
			return nil, fmt.Errorf("%s: is not the name of a segment; move it away", filepath.Join(dir, e.Name()))
		}
		have[name] = true
		bases = append(bases, base)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), indexSuffix)
		if ok && !have[name] || strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	sort.Slice(bases, func(i, j int) bool { return bases[i] < bases[j] })
	return bases, nil
}

// disk is how things are made durable. Tests put faults in its place.
type disk struct {
	sync    func(*os.File) error
	syncDir func(string) error
	writeAt func(f *os.File, b []byte, pos int64) (int, error)
}

func realDisk() *disk {
	return &disk{sync: syncFile, syncDir: syncDir, writeAt: (*os.File).WriteAt}
}

// syncFile makes data and length of f durable, which is all of a file that appending changes and reading needs.
func syncFile(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
