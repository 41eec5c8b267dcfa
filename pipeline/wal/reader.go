package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sort"
	"sync"

	"kemi"
	"kemi/pipeline/bus"
)

// readBytes is how much is read from disk at once, and about how much a batch holds.
const readBytes = 1 << 20

// reader reads a topic for one subscriber.
type reader struct {
	w     *WAL
	topic *topic
	group string
	awake chan struct{} // a partition has something new
	done  chan struct{}
	once  sync.Once

	mu      sync.Mutex // held while reading and while closing
	cursors []*cursor
	turn    int // the cursor to ask first
}

// Subscribe implements bus.Bus. A reader without a group ("") cannot commit.
func (w *WAL) Subscribe(_ context.Context, topic, group string, from bus.Positions) (bus.Reader, error) {
	t, err := w.topic(topic)
	if err != nil {
		return nil, err
	}
	if group != "" && !validName.MatchString(group) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "group %q: must be 1 to 128 letters, digits, '_', '-' or '.', not beginning with '-' or '.'", group)
	}
	for part := range from {
		if part < 0 || int(part) >= len(t.partitions) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "position of partition %d: topic %s has %d partitions", part, topic, len(t.partitions))
		}
	}
	committed := t.groups.get(group)
	r := &reader{w: w, topic: t, group: group, awake: make(chan struct{}, 1), done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	for _, p := range t.partitions {
		offset, ok := from[p.id]
		if !ok {
			offset, ok = committed[p.id]
		}
		c := &cursor{p: p, wake: r.wake}
		p.mu.Lock()
		span := bus.Span{First: p.segments[0].base, Next: p.active().next}
		if !ok {
			offset = span.First
		}
		if ok = offset >= 0 && offset <= span.Next; ok {
			c.offset = offset
			p.cursors[c] = struct{}{}
		}
		p.mu.Unlock()
		if !ok {
			r.forget()
			return nil, kemi.Errorf(kemi.ErrInvalid, "position %d of partition %d: topic %s has offsets %d to %d there: the position belongs to another log", offset, p.id, topic, span.First, span.Next)
		}
		r.cursors = append(r.cursors, c)
	}
	t.readers[r] = struct{}{}
	return r, nil
}

func (r *reader) wake() {
	select {
	case r.awake <- struct{}{}:
	default:
	}
}

// Next implements bus.Reader.
func (r *reader) Next(ctx context.Context) (bus.Batch, error) {
	for {
		if err := ctx.Err(); err != nil {
			return bus.Batch{}, err
		}
		if b, ok, err := r.poll(); ok || err != nil {
			return b, err
		}
		select {
		case <-ctx.Done():
		case <-r.awake:
		case <-r.done:
		}
	}
}

// poll returns what the next partition in turn has.
func (r *reader) poll() (bus.Batch, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.done:
		return bus.Batch{}, false, io.EOF
	default:
	}
	for i := range r.cursors {
		at := (r.turn + i) % len(r.cursors)
		b, err := r.cursors[at].read()
		if err != nil {
			return bus.Batch{}, false, fmt.Errorf("read topic %s: %w", r.topic.name, err)
		}
		if len(b.Records) > 0 {
			r.turn = at + 1
			return b, true, nil
		}
	}
	return bus.Batch{}, false, nil
}

// Commit implements bus.Reader. The positions are durable when it returns, which takes a sync or two: commit every
// second or every few batches, not after each record.
func (r *reader) Commit(_ context.Context, p bus.Positions) error {
	if r.group == "" {
		return kemi.Errorf(kemi.ErrInvalid, "commit: the reader has no group")
	}
	for part, offset := range p {
		if part < 0 || int(part) >= len(r.topic.partitions) {
			return kemi.Errorf(kemi.ErrInvalid, "commit of partition %d: topic %s has %d partitions", part, r.topic.name, len(r.topic.partitions))
		}
		if span := r.topic.partitions[part].span(); offset < 0 || offset > span.Next {
			return kemi.Errorf(kemi.ErrInvalid, "commit of position %d of partition %d: topic %s ends at %d there", offset, part, r.topic.name, span.Next)
		}
	}
	if err := r.topic.groups.commit(r.group, p); err != nil {
		if errors.Is(err, errClosed) {
			return err
		}
		return kemi.Errorf(kemi.ErrUnavailable, "commit positions of group %s in topic %s: %w", r.group, r.topic.name, err)
	}
	return nil
}

// Close implements bus.Reader.
func (r *reader) Close() error {
	r.once.Do(func() { close(r.done) })
	r.topic.mu.Lock()
	delete(r.topic.readers, r)
	r.topic.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget()
	return nil
}

func (r *reader) forget() {
	for _, c := range r.cursors {
		c.p.mu.Lock()
		delete(c.p.cursors, c)
		c.p.trimTail(c.p.slowest())
		c.p.mu.Unlock()
		c.closeFile()
	}
}

func (t *topic) closeReaders() {
	t.mu.Lock()
	t.closed = true
	readers := make([]*reader, 0, len(t.readers))
	for r := range t.readers {
		readers = append(readers, r)
	}
	t.mu.Unlock()
	for _, r := range readers {
		_ = r.Close()
	}
}

// cursor is where a reader is in a partition.
type cursor struct {
	p    *partition
	wake func()

	offset int64 // of the next record to read; guarded by p.mu, written by the reader alone

	skipped int64
	rest    []bus.Record // of a frame that was too large for one batch
	dec     decoder

	// The file that was read last and where in it offset is to be found, or nil.
	seg  *segment
	file *os.File
	pos  int64
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
	return b, nil
}

// readTail takes frames from memory. It is called with p.mu held and releases it.
func (c *cursor) readTail() error {
	tail := c.p.tail
	i := sort.Search(len(tail), func(i int) bool { return tail[i].h.next() > c.offset })
	var frames []*frame
	var bytes, count int
	for ; i < len(tail) && (bytes == 0 || bytes+len(tail[i].buf) <= readBytes); i++ {
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
	c.rest = records
	return nil
}

// readDisk reads the next part of a segment. It is called with p.mu held and releases it.
func (c *cursor) readDisk() error {
	offset := c.offset
	segs := c.p.segments
	i := sort.Search(len(segs), func(i int) bool { return segs[i].next > offset })
	seg := segs[i]
	end := seg.size
	pos := c.pos
	if c.seg != seg {
		pos = seg.find(offset)
	}
	c.p.mu.Unlock()

	if c.seg != seg {
		c.closeFile()
		f, err := os.Open(seg.path)
		if errors.Is(err, fs.ErrNotExist) {
			if c.p.span().First > seg.base {
				return nil // deleted by retention meanwhile: the next try skips it
			}
			return &CorruptError{seg.path, 0, offset, "it is gone"}
		}
		if err != nil {
			return err
		}
		c.seg, c.file, c.pos = seg, f, pos
	}
	records, next, pos, err := c.readFrames(pos, end, offset)
	if err != nil {
		return err
	}
	c.pos = pos
	c.rest = records
	c.p.mu.Lock()
	c.offset = max(c.offset, next)
	c.p.mu.Unlock()
	return nil
}

// readFrames reads what lies between pos and end, up to readBytes or one frame, and returns the records from offset
// on, the offset after them, and the position after them.
func (c *cursor) readFrames(pos, end, offset int64) ([]bus.Record, int64, int64, error) {
	buf := make([]byte, min(readBytes, end-pos))
	if err := c.readFull(buf, pos, offset); err != nil {
		return nil, 0, 0, err
	}
	// First see how many whole frames there are, so that their records fit into one slice.
	count, whole := 0, 0
	for len(buf)-whole >= frameHeaderLen {
		h, ok := parseFrameHeader(buf[whole:], c.seg.salt)
		if !ok || h.first > offset && whole == 0 {
			return nil, 0, 0, c.corrupt(pos+int64(whole), offset, "no frame begins there")
		}
		size := frameHeaderLen + int(h.length)
		if pos+int64(whole+size) > end {
			return nil, 0, 0, c.corrupt(pos+int64(whole), offset, "a frame goes beyond the end")
		}
		if whole == 0 && size > len(buf) {
			if h.next() <= offset {
				return nil, offset, pos + int64(size), nil
			}
			buf = make([]byte, size)
			if err := c.readFull(buf, pos, offset); err != nil {
				return nil, 0, 0, err
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
		return nil, 0, 0, c.corrupt(pos, offset, "a frame ends early")
	}
	records := make([]bus.Record, 0, count)
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
			return nil, 0, 0, c.corrupt(pos+int64(at)-frameHeaderLen-int64(h.length), next, err.Error())
		}
		next = h.next()
	}
	return records, next, pos + int64(whole), nil
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

// OffsetAt is the offset of the first record of a partition that was published at or after at, or the offset that the
// next record will get if there is none.
func (w *WAL) OffsetAt(_ context.Context, topic string, partition int32, at kemi.Millis) (int64, error) {
	t, err := w.topic(topic)
	if err != nil {
		return 0, err
	}
	if partition < 0 || int(partition) >= len(t.partitions) {
		return 0, kemi.Errorf(kemi.ErrInvalid, "partition %d: topic %s has %d partitions", partition, topic, len(t.partitions))
	}
	for {
		offset, err := t.partitions[partition].offsetAt(at)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted by retention meanwhile
		}
		return offset, err
	}
}

func (p *partition) offsetAt(at kemi.Millis) (int64, error) {
	p.mu.Lock()
	next := p.active().next
	var seg *segment
	var pos, end int64
	for _, s := range p.segments {
		if !s.empty() && s.newest >= at {
			seg, pos, end = s, s.findTime(at), s.size
			break
		}
	}
	p.mu.Unlock()
	if seg == nil {
		return next, nil
	}
	f, err := os.Open(seg.path)
	if errors.Is(err, fs.ErrNotExist) && p.span().First <= seg.base {
		return 0, &CorruptError{seg.path, 0, seg.base, "it is gone"}
	}
	if err != nil {
		return 0, err
	}
	c := &cursor{p: p, seg: seg, file: f}
	defer c.closeFile()
	header := make([]byte, frameHeaderLen)
	for pos < end {
		if err := c.readFull(header, pos, seg.base); err != nil {
			return 0, err
		}
		h, ok := parseFrameHeader(header, seg.salt)
		size := frameHeaderLen + int64(h.length)
		if !ok || pos+size > end {
			return 0, c.corrupt(pos, seg.base, "no frame begins there")
		}
		if h.newest >= at {
			records, _, _, err := c.readFrames(pos, pos+size, h.first)
			if err != nil {
				return 0, err
			}
			for _, r := range records {
				if r.At >= at {
					return r.Offset, nil
				}
			}
		}
		pos += size
	}
	return next, nil
}
