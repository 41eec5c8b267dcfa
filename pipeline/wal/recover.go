package wal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"kemi"
)

// CorruptError says that records which were durable can no longer be read.
type CorruptError struct {
	Path   string
	Pos    int64 // where in the file
	Offset int64 // of the first record that is lost
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("log file %s is damaged at byte %d (offset %d): %s; restore it from a backup, or see \"Damage\" in docs/formats/bus-log.md",
		e.Path, e.Pos, e.Offset, e.Reason)
}

// openSegment reads what there is in a segment. Whatever its index covers is taken as it is: the frames there are
// checked when they are read. Behind that, each frame is checked. In the last segment of a partition an unfinished end is left out
// (size is where it begins; the caller cuts it off); anywhere else, and wherever frames that had been durable follow,
// it is an error. errNoHeader means that the creation of the last segment did not finish.
func openSegment(path string, base int64, partition int32, last bool) (*segment, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	s := &segment{path: path, base: base, next: base, size: segmentHeaderLen, written: kemi.MillisOf(info.ModTime())}
	corrupt := func(reason string) error { return &CorruptError{path, s.size, s.next, reason} }
	header := make([]byte, segmentHeaderLen)
	n, err := f.ReadAt(header, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if s.salt, s.created, err = parseSegmentHeader(header[:n], base, partition); err != nil {
		// The header is durable before the first frame is written, so a file with nothing but a bad header holds nothing.
		if last && info.Size() <= segmentHeaderLen && !bytes.HasPrefix(header[:n], []byte(segmentMagic[:7])) || last && errors.Is(err, errNoHeader) {
			return nil, 0, errNoHeader
		}
		s.size = 0
		return nil, 0, corrupt("it " + err.Error())
	}
	if err := s.readIndex(); err == nil && s.size > info.Size() {
		return nil, 0, &CorruptError{path, info.Size(), s.base, fmt.Sprintf("it has %d bytes and had %d", info.Size(), s.size)}
	}
	bad, err := s.scan(f, info.Size())
	if err != nil {
		return nil, 0, err
	}
	if bad == "" {
		return s, info.Size(), nil
	}
	if !last {
		return nil, 0, corrupt(bad + ", and more segments follow")
	}
	durable, err := durableAfter(f, s.size, info.Size(), s.salt)
	if err != nil {
		return nil, 0, err
	}
	if durable {
		return nil, 0, corrupt(bad + ", and records that were written later follow")
	}
	return s, info.Size(), nil
}

// scan adds the frames that stand between s.size and end, up to the first one that is not as it should be, and tells
// what is wrong with that one.
func (s *segment) scan(r io.ReaderAt, end int64) (bad string, err error) {
	br := bufio.NewReaderSize(io.NewSectionReader(r, s.size, end-s.size), 1<<20)
	sum := crc32.New(castagnoli)
	header := make([]byte, frameHeaderLen)
	for s.size < end {
		if _, err := io.ReadFull(br, header); err != nil {
			return "a frame ends early", noEOF(err)
		}
		h, ok := parseFrameHeader(header, s.salt)
		if !ok {
			return "no frame begins there", nil
		}
		if h.first != s.next || h.durable > s.size {
			return fmt.Sprintf("a frame for offset %d stands there", h.first), nil
		}
		sum.Reset()
		if _, err := io.CopyN(sum, br, int64(h.length)); err != nil {
			return "a frame ends early", noEOF(err)
		}
		if sum.Sum32() != h.sum {
			return "the checksum of a frame is wrong", nil
		}
		s.add(h, frameHeaderLen+int64(h.length))
	}
	return "", nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// durableAfter tells whether anywhere behind pos a frame begins that was written when the bytes at pos were durable
// already. If so, what stands at pos was once acknowledged; if not, it is the rest of a write that was never finished:
// the pages of one write may reach the disk in any order.
func durableAfter(r io.ReaderAt, pos, end int64, salt uint32) (bool, error) {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], frameMagic)
	buf := make([]byte, 1<<20)
	for at := pos; end-at >= frameHeaderLen; {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n < frameHeaderLen {
			return false, nil
		}
		for i := 0; ; i++ {
			j := bytes.Index(buf[i:n], magic[:])
			if j < 0 || i+j+frameHeaderLen > n {
				break
			}
			i += j
			if h, ok := parseFrameHeader(buf[i:n], salt); ok && h.durable > pos {
				return true, nil
			}
		}
		at += int64(n - frameHeaderLen + 1)
	}
	return false, nil
}
