package head

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Chunk files hold what is full: records of one series each, one after another as they came to be. A record begins with where the one before
// of its series lies. There are two kinds of files: of samples in order, and of late ones, which go away all together once they are settled.
//
// A file is a magic, then records: the reference of the one before (8 bytes), the time of the first sample (8), how much later the last one is (4),
// size and kind (3+1), and the content.

const (
	chunkMagic    = "KEMIchk\x01"
	recordHeader  = 24
	maxChunkFile  = 256 << 20
	maxRecord     = 1<<24 - 1
	kindFloats    = 0 // others are chunkenc.Encoding: histograms
	inOrderPrefix = "chunks-"
	latePrefix    = "late-"
	refOffsetBits = 32
	refOffsetMask = 1<<refOffsetBits - 1
)

// chunkFile is a file that is being written, or that is full.
type chunkFile struct {
	number uint32
	late   bool
	path   string
	f      *os.File
	data   []byte // mapped: the whole of what it may become
	size   int64  // what was written and may be read
	first  int64  // the oldest and the newest sample in it
	last   int64
	synced int64 // up to where it is durable; the checkpoint's alone
	doomed bool  // all that it has is settled: no further checkpoint needs it
}

// record is one of a chunk file.
type record struct {
	prev        uint64
	first, last int64
	kind        uint8
	content     []byte
}

func parseRecord(b []byte) (r record, size int, ok bool) {
	if len(b) < recordHeader {
		return r, 0, false
	}
	word := binary.LittleEndian.Uint32(b[20:])
	size = recordHeader + int(word>>8)
	if len(b) < size {
		return r, 0, false
	}
	r.prev = binary.LittleEndian.Uint64(b)
	r.first = int64(binary.LittleEndian.Uint64(b[8:]))
	r.last = r.first + int64(binary.LittleEndian.Uint32(b[16:]))
	r.kind = uint8(word)
	r.content = b[recordHeader:size:size]
	return r, size, true
}

// chunkFiles are all files, and those that are being written. They are guarded by DB.mu: to be changed under its lock, looked into under its read lock.
type chunkFiles struct {
	dir   string
	max   int64                 // bytes of a file
	next  uint32                // number
	files map[uint32]*chunkFile // those that may be read
	open  [2]struct {           // in order, late
		f       *chunkFile
		pending []byte // of f, from f.size on
	}
}

func kindOf(late bool) int {
	if late {
		return 1
	}
	return 0
}

// begin makes room for a record and gives its reference. The content is to be appended to the slice, and end called.
func (c *chunkFiles) begin(late bool, prev uint64, first, last int64) (ref uint64, buf []byte, err error) {
	o := &c.open[kindOf(late)]
	if o.f == nil || o.f.size+int64(len(o.pending))+maxRecord > c.max {
		if err := c.rotate(late); err != nil {
			return 0, nil, err
		}
	}
	ref = uint64(o.f.number)<<refOffsetBits | uint64(o.f.size+int64(len(o.pending)))
	buf = binary.LittleEndian.AppendUint64(o.pending, prev)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(first))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(last-first))
	buf = append(buf, 0, 0, 0, 0)
	o.f.first, o.f.last = min(o.f.first, first), max(o.f.last, last)
	return ref, buf, nil
}

// end takes the record whose content was appended to what begin gave.
func (c *chunkFiles) end(late bool, kind uint8, buf []byte) {
	o := &c.open[kindOf(late)]
	at := len(o.pending)
	size := len(buf) - at - recordHeader
	binary.LittleEndian.PutUint32(buf[at+20:], uint32(size)<<8|uint32(kind))
	o.pending = buf
}

// add is begin and end at once.
func (c *chunkFiles) add(late bool, prev uint64, first, last int64, kind uint8, content []byte) (uint64, error) {
	if len(content) > maxRecord {
		return 0, fmt.Errorf("chunk of %d bytes: at most %d", len(content), maxRecord)
	}
	ref, buf, err := c.begin(late, prev, first, last)
	if err != nil {
		return 0, err
	}
	c.end(late, kind, append(buf, content...))
	return ref, nil
}

// flush writes what is pending, so that readers find it.
func (c *chunkFiles) flush() error {
	for i := range c.open {
		o := &c.open[i]
		if len(o.pending) == 0 {
			continue
		}
		if _, err := o.f.f.WriteAt(o.pending, o.f.size); err != nil {
			return err
		}
		o.f.size += int64(len(o.pending))
		o.pending = o.pending[:0]
		if cap(o.pending) > 4<<20 {
			o.pending = nil
		}
	}
	return nil
}

// rotate begins a new file.
func (c *chunkFiles) rotate(late bool) error {
	if err := c.flush(); err != nil {
		return err
	}
	prefix := inOrderPrefix
	if late {
		prefix = latePrefix
	}
	path := filepath.Join(c.dir, fmt.Sprintf("%s%08d", prefix, c.next))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(chunkMagic), 0); err != nil {
		return errors.Join(err, f.Close())
	}
	cf, err := mapChunkFile(f, c.next, late, int64(len(chunkMagic)))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	c.next++
	c.files[cf.number] = cf
	o := &c.open[kindOf(late)]
	o.f, o.pending = cf, o.pending[:0]
	return nil
}

func mapChunkFile(f *os.File, number uint32, late bool, size int64) (*chunkFile, error) {
	data, err := syscall.Mmap(int(f.Fd()), 0, maxChunkFile, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return &chunkFile{number: number, late: late, path: f.Name(), f: f, data: data, size: size, first: math.MaxInt64, last: math.MinInt64}, nil
}

// read is the record at ref. ok is false if its file is gone: what it had is settled.
func (c *chunkFiles) read(ref uint64) (r record, ok bool) {
	f := c.files[uint32(ref>>refOffsetBits)]
	if f == nil {
		return r, false
	}
	at := int64(ref & refOffsetMask)
	if at >= f.size {
		o := &c.open[kindOf(f.late)]
		if o.f != f || at-f.size >= int64(len(o.pending)) {
			return r, false
		}
		r, _, ok = parseRecord(o.pending[at-f.size:])
		return r, ok
	}
	r, _, ok = parseRecord(f.data[at:f.size])
	return r, ok
}

// close writes what is pending and closes all.
func (c *chunkFiles) close() error {
	err := c.flush()
	for _, f := range c.files {
		err = errors.Join(err, f.close())
	}
	c.files = nil
	return err
}

func (f *chunkFile) close() error { return errors.Join(syscall.Munmap(f.data), f.f.Close()) }

// noted is what a checkpoint says of a file.
type notedFile struct {
	Number uint32 `json:"number"`
	Late   bool   `json:"late,omitempty"`
	Size   int64  `json:"size"`
	First  int64  `json:"first"`
	Last   int64  `json:"last"`
}

// noted are the files as they are now. What is pending has been flushed.
func (c *chunkFiles) noted() []notedFile {
	out := make([]notedFile, 0, len(c.files))
	for _, f := range c.files {
		if !f.doomed {
			out = append(out, notedFile{f.number, f.late, f.size, f.first, f.last})
		}
	}
	return out
}

// openChunkFiles opens the files that a checkpoint has noted, cuts off what came after it, and deletes all others.
func openChunkFiles(dir string, noted []notedFile, next uint32) (*chunkFiles, error) {
	c := &chunkFiles{dir: dir, max: maxChunkFile, next: next, files: map[uint32]*chunkFile{}}
	fail := func(err error) (*chunkFiles, error) { return nil, errors.Join(err, c.close()) }
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fail(err)
	}
	byNumber := map[uint32]notedFile{}
	for _, n := range noted {
		byNumber[n.Number] = n
	}
	for _, e := range entries {
		late := strings.HasPrefix(e.Name(), latePrefix)
		digits, ok := strings.CutPrefix(strings.TrimPrefix(e.Name(), latePrefix), inOrderPrefix)
		if !late && !ok {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			continue
		}
		path := filepath.Join(dir, e.Name())
		n, ok := byNumber[uint32(number)]
		if !ok || n.Late != late {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fail(err)
			}
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return fail(err)
		}
		st, err := f.Stat()
		switch {
		case err != nil:
		case st.Size() < n.Size:
			err = fmt.Errorf("%s: has %d bytes, the checkpoint knows %d", path, st.Size(), n.Size)
		default:
			err = f.Truncate(n.Size)
		}
		if err != nil {
			return fail(errors.Join(err, f.Close()))
		}
		cf, err := mapChunkFile(f, n.Number, n.Late, n.Size)
		if err != nil {
			return fail(errors.Join(err, f.Close()))
		}
		cf.first, cf.last, cf.synced = n.First, n.Last, n.Size
		c.files[n.Number] = cf
		delete(byNumber, n.Number)
		if o := &c.open[kindOf(late)]; o.f == nil || o.f.number < cf.number {
			o.f = cf // it is written on
		}
	}
	for _, n := range byNumber {
		return fail(fmt.Errorf("chunk file %d is missing in %s", n.Number, dir))
	}
	return c, nil
}
