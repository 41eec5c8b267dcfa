package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sort"

	"kemi/pipeline/bus"
)

// cursor is where a reader is in a partition.
type cursor struct {
	p    *partition
	wake func()

	offset int64 // of the next record to read; guarded by p.mu, written by the reader alone

	skipped int64
	rest    []bus.Record // read, and not yet handed out
	dec     decoder

	// The file that was read last and where in it offset is to be found, or nil.
	seg  *segment
	file *os.File
	pos  int64

	frames []*frame    // what the last batch was made of, if all of it was in memory and handed out
	first  *bus.Record // of that batch

	lent  part // what the last batch was made of, if all of it was read from disk and handed out
	spare part // memory that the caller has given back
}

// part is a stretch of a segment.
type part struct {
	buf     []byte
	records []bus.Record
	next    int64 // offset after it
	pos     int64 // position after it
	err     error
}

// read returns the next batch, without records if there are none yet.
func (c *cursor) read() (bus.Batch, error) {
	for len(c.rest) == 0 {
		var err error
		c.p.mu.Lock()
		if first := c.p.segments[0].base; c.offset < first {
			c.skipped += first - c.offset
			c.offset = first
			c.closeFile()
		}
		switch {
		case c.offset == c.p.active().next:
			c.p.mu.Unlock()
			return bus.Batch{}, nil
		case len(c.p.tail) > 0 && c.p.tail[0].h.first <= c.offset:
			err = c.readTail()
		default:
			err = c.readDisk()
		}
		if err != nil {
			return bus.Batch{}, err
		}
	}
	n, bytes := 0, int64(0)
	for n < len(c.rest) && (n == 0 || bytes+recordSize(&c.rest[n]) <= readBytes) {
		bytes += recordSize(&c.rest[n])
		n++
	}
	b := bus.Batch{Partition: c.p.id, Records: c.rest[:n:n], Skipped: c.skipped}
	c.rest, c.skipped = c.rest[n:], 0
	if len(c.lent.records) != n {
		c.lent = part{}
	}
	if c.first != &b.Records[0] || len(c.rest) > 0 {
		c.frames, c.first = nil, nil
	}
	return b, nil
}

// recycle takes back the memory of the last batch.
func (c *cursor) recycle(b bus.Batch) {
	if len(b.Records) > 0 && c.first == &b.Records[0] {
		for _, f := range c.frames {
			f.drop()
		}
		c.frames, c.first = c.frames[:0], nil
		return
	}
	if len(b.Records) > 0 && len(b.Records) == len(c.lent.records) && &b.Records[0] == &c.lent.records[0] && cap(c.lent.buf) <= readBytes {
		c.spare, c.lent = c.lent, part{}
	}
}

// readTail takes frames from memory. It is called with p.mu held and releases it.
func (c *cursor) readTail() error {
	tail := c.p.tail
	i := sort.Search(len(tail), func(i int) bool { return tail[i].h.next() > c.offset })
	frames := c.frames[:0]
	if c.first != nil {
		frames = nil // not given back
	}
	var bytes, count int
	for ; i < len(tail) && (bytes == 0 || bytes+len(tail[i].buf) <= readBytes); i++ {
		tail[i].users.Add(1)
		frames = append(frames, tail[i])
		bytes += len(tail[i].buf)
		count += int(tail[i].h.count)
	}
	keep := c.offset
	c.offset = frames[len(frames)-1].h.next()
	c.p.trimTail(c.p.slowest())
	c.p.mu.Unlock()
	c.closeFile()

	records := make([]bus.Record, 0, count)
	for _, f := range frames {
		from := len(records)
		var err error
		if records, err = c.dec.decode(records, f.h, f.buf[frameHeaderLen:], c.p.id, keep); err != nil {
			return err
		}
		if f.locals != nil {
			locals := f.locals[len(f.locals)-(len(records)-from):]
			for j := range locals {
				records[from+j].Local = locals[j]
			}
		}
	}
	c.rest, c.lent, c.spare = records, part{}, part{}
	c.frames, c.first = frames, nil
	if len(records) > 0 {
		c.first = &records[0]
	}
	return nil
}

// readDisk reads the next part of a segment. It is called with p.mu held and releases it.
func (c *cursor) readDisk() error {
	offset := c.offset
	segs := c.p.segments
	seg := segs[sort.Search(len(segs), func(i int) bool { return segs[i].next > offset })]
	start, end := seg.find(offset), seg.size
	c.p.mu.Unlock()

	if c.seg != seg {
		c.closeFile()
		f, err := openAt(c.p, seg, offset)
		if f == nil {
			return err
		}
		c.seg, c.file, c.pos = seg, f, start
	}
	got := c.readFrames(c.pos, end, offset)
	if got.err != nil {
		return got.err
	}
	c.pos = got.pos
	c.rest, c.lent = got.records, got
	c.p.mu.Lock()
	c.offset = got.next
	c.p.mu.Unlock()
	return nil
}

// openAt opens a segment to read offset from it. It returns neither file nor error if retention has deleted the segment
// meanwhile: the next look at the partition will tell where to go on.
func openAt(p *partition, seg *segment, offset int64) (*os.File, error) {
	f, err := os.Open(seg.path)
	if errors.Is(err, fs.ErrNotExist) {
		if p.span().First > seg.base {
			return nil, nil
		}
		return nil, &CorruptError{seg.path, 0, offset, "it is gone"}
	}
	return f, err
}

// readFrames reads what lies between pos and end, up to readBytes or one frame, without the records before offset.
func (c *cursor) readFrames(pos, end, offset int64) part {
	n := min(readBytes, end-pos)
	buf := c.spare.buf
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if err := c.readFull(buf, pos, offset); err != nil {
		return part{err: err}
	}
	// First see how many whole frames there are, so that their records fit into one slice.
	count, whole := 0, 0
	for len(buf)-whole >= frameHeaderLen {
		h, ok := parseFrameHeader(buf[whole:], c.seg.salt)
		if !ok || h.first > offset && whole == 0 {
			return part{err: c.corrupt(pos+int64(whole), offset, "no frame begins there")}
		}
		size := frameHeaderLen + int(h.length)
		if pos+int64(whole+size) > end {
			return part{err: c.corrupt(pos+int64(whole), offset, "a frame goes beyond the end")}
		}
		if whole == 0 && size > len(buf) {
			if h.next() <= offset {
				return part{next: offset, pos: pos + int64(size)}
			}
			buf = make([]byte, size)
			if err := c.readFull(buf, pos, offset); err != nil {
				return part{err: err}
			}
		}
		if whole+size > len(buf) {
			break
		}
		whole += size
		if h.next() > offset {
			count += int(h.count)
		}
	}
	if whole == 0 {
		return part{err: c.corrupt(pos, offset, "a frame ends early")}
	}
	records := c.spare.records[:0]
	if cap(records) < count {
		records = make([]bus.Record, 0, count)
	}
	c.spare = part{}
	next := offset
	for at := 0; at < whole; {
		h, _ := parseFrameHeader(buf[at:], c.seg.salt)
		body := buf[at+frameHeaderLen : at+frameHeaderLen+int(h.length)]
		at += frameHeaderLen + int(h.length)
		if h.next() <= offset {
			continue
		}
		var err error
		switch {
		case h.first > next:
			err = fmt.Errorf("offsets %d to %d are missing", next, h.first-1)
		case crc32.Checksum(body, castagnoli) != h.sum:
			err = errors.New("the checksum of a frame is wrong")
		default:
			records, err = c.dec.decode(records, h, body, c.p.id, offset)
		}
		if err != nil {
			return part{err: c.corrupt(pos+int64(at)-frameHeaderLen-int64(h.length), next, err.Error())}
		}
		next = h.next()
	}
	return part{buf: buf, records: records, next: next, pos: pos + int64(whole)}
}

func (c *cursor) readFull(buf []byte, pos, offset int64) error {
	n, err := c.file.ReadAt(buf, pos)
	if n < len(buf) && err == io.EOF {
		return c.corrupt(pos+int64(n), offset, "the file ends early")
	}
	return err
}

func (c *cursor) corrupt(pos, offset int64, reason string) error {
	return &CorruptError{c.seg.path, pos, offset, reason}
}

func (c *cursor) closeFile() {
	if c.file != nil {
		_ = c.file.Close()
	}
	c.seg, c.file, c.pos = nil, nil, 0
}
