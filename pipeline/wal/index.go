package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"

	"kemi"
)

// The index of a segment is kept beside it when the segment is full and when the log is closed. It is a help, not a
// truth: without it, or if its checksum is wrong, the segment is read through. What it covers was durable before it was
// written; so a segment that is shorter than its index says has lost records.
const (
	indexMagic     = "KEMIIDX\x01"
	indexHeaderLen = 48
	indexEntryLen  = 24
	tmpSuffix      = ".tmp"
)

func (s *segment) marshalIndex() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, indexHeaderLen+len(s.index)*indexEntryLen+4)
	b = append(b, indexMagic...)
	b = le.AppendUint64(b, uint64(s.base))
	b = le.AppendUint64(b, uint64(s.size))
	b = le.AppendUint64(b, uint64(s.next))
	b = le.AppendUint64(b, uint64(s.newest))
	b = le.AppendUint32(b, s.salt)
	b = le.AppendUint32(b, uint32(len(s.index)))
	for _, e := range s.index {
		b = le.AppendUint64(b, uint64(e.offset))
		b = le.AppendUint64(b, uint64(e.pos))
		b = le.AppendUint64(b, uint64(e.before))
	}
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errIndex = errors.New("index is damaged")

// unmarshalIndex takes base and salt from s and fills the rest of it from b, or leaves it as it was.
func (s *segment) unmarshalIndex(b []byte) error {
	le := binary.LittleEndian
	if len(b) < indexHeaderLen+4 || string(b[:8]) != indexMagic {
		return errIndex
	}
	n := len(b) - 4
	if le.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) || uint64(le.Uint32(b[44:]))*indexEntryLen != uint64(n-indexHeaderLen) ||
		int64(le.Uint64(b[8:])) != s.base || le.Uint32(b[40:]) != s.salt {
		return errIndex
	}
	t := segment{
		size:   int64(le.Uint64(b[16:])),
		next:   int64(le.Uint64(b[24:])),
		newest: kemi.Millis(le.Uint64(b[32:])),
	}
	for e := b[indexHeaderLen:n]; len(e) > 0; e = e[indexEntryLen:] {
		t.index = append(t.index, indexEntry{int64(le.Uint64(e)), int64(le.Uint64(e[8:])), kemi.Millis(le.Uint64(e[16:]))})
	}
	if t.size < segmentHeaderLen || t.next < s.base || (len(t.index) == 0) != (t.size == segmentHeaderLen) {
		return errIndex
	}
	s.size, s.next, s.newest, s.index, s.indexed = t.size, t.next, t.newest, t.index, t.size
	return nil
}

// writeIndex keeps the index beside the segment. It need not be durable: see above.
func (s *segment) writeIndex() error {
	tmp := s.indexPath() + tmpSuffix
	if err := os.WriteFile(tmp, s.marshalIndex(), 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, s.indexPath()); err != nil {
		return err
	}
	s.indexed = s.size
	return nil
}

func (s *segment) readIndex() error {
	b, err := os.ReadFile(s.indexPath())
	if err != nil {
		return err
	}
	return s.unmarshalIndex(b)
}
