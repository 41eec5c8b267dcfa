package agent

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/golang/snappy"

	"kemi"
)

// A segment file is a header, segmentMagic, the number of its first record (8 bytes, little endian like all numbers here) and the CRC32C
// of both, and then records, each:
//
//	length of what follows the checksum, 4 bytes
//	CRC32C of what follows, 4 bytes
//	number 8, time in milliseconds 8, flags 4, length of the positions 4
//	the positions (JSON), the body
//
// docs/formats/spool.md says the same to readers of the files.
const (
	segmentMagic  = "KEMISPL1"
	segmentHeader = len(segmentMagic) + 8 + 4
	recordHeader  = 8
	recordFixed   = 24
	// maxRecord is more than any batch has.
	maxRecord = 64 << 20

	flagSnappy = 1
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errShort   = errors.New("the record is not whole")
	errCorrupt = errors.New("the record is damaged")
)

// record is a batch in the spool.
type record struct {
	seq       uint64
	at        kemi.Millis
	positions []byte // JSON, or none
	body      []byte
}

// appendRecord appends r to b, its body packed if that is asked.
func appendRecord(b []byte, r record, pack bool) []byte {
	flags := uint32(0)
	if pack {
		flags, r.body = flagSnappy, snappy.Encode(nil, r.body)
	}
	le := binary.LittleEndian
	begin := len(b)
	b = le.AppendUint32(b, uint32(recordFixed+len(r.positions)+len(r.body)))
	b = append(b, 0, 0, 0, 0)
	b = le.AppendUint64(b, r.seq)
	b = le.AppendUint64(b, uint64(r.at))
	b = le.AppendUint32(b, flags)
	b = le.AppendUint32(b, uint32(len(r.positions)))
	b = append(append(b, r.positions...), r.body...)
	le.PutUint32(b[begin+4:], crc32.Checksum(b[begin+recordHeader:], castagnoli))
	return b
}

// recordLength is how long the record at the beginning of b is, header included.
func recordLength(b []byte) (int, error) {
	if len(b) < recordHeader {
		return 0, errShort
	}
	n := binary.LittleEndian.Uint32(b)
	if n < recordFixed || n > maxRecord {
		return 0, errCorrupt
	}
	return recordHeader + int(n), nil
}

// readRecord reads the record at the beginning of b. Its parts share bytes with b unless it was packed.
func readRecord(b []byte) (r record, n int, err error) {
	if n, err = recordLength(b); err != nil {
		return r, 0, err
	}
	if len(b) < n {
		return r, 0, errShort
	}
	le := binary.LittleEndian
	in := b[recordHeader:n]
	if crc32.Checksum(in, castagnoli) != le.Uint32(b[4:]) {
		return r, 0, errCorrupt
	}
	r.seq, r.at = le.Uint64(in), kemi.Millis(le.Uint64(in[8:]))
	flags, m := le.Uint32(in[16:]), le.Uint32(in[20:])
	if int64(m) > int64(len(in)-recordFixed) || flags&^flagSnappy != 0 {
		return r, 0, errCorrupt
	}
	r.positions, r.body = in[recordFixed:recordFixed+m], in[recordFixed+m:]
	if flags&flagSnappy != 0 {
		if size, err := snappy.DecodedLen(r.body); err != nil || size > maxRecord {
			return r, 0, errCorrupt
		}
		if r.body, err = snappy.Decode(nil, r.body); err != nil {
			return r, 0, errCorrupt
		}
	}
	return r, n, nil
}

func appendSegmentHeader(b []byte, first uint64) []byte {
	begin := len(b)
	b = binary.LittleEndian.AppendUint64(append(b, segmentMagic...), first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
}

func readSegmentHeader(b []byte) (first uint64, ok bool) {
	const sum = segmentHeader - 4
	if len(b) < segmentHeader || string(b[:len(segmentMagic)]) != segmentMagic || crc32.Checksum(b[:sum], castagnoli) != binary.LittleEndian.Uint32(b[sum:]) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b[len(segmentMagic):]), true
}
