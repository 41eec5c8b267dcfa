package codec

import (
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"

	"kemi"
)

// Records of logs are packed as one snappy block, like those of metrics: any consumer of the bus can unpack it, a megabyte takes 1.4 ms of CPU, of which half comes
// back where the bytes need not be summed, copied, written and synced. zstd at its fastest packs half again as much, for more than twice the time.
const (
	// packFrom: what is smaller is not packed.
	packFrom = 512
	// maxUnpackedLogs is how large a record may be, unpacked: more than the bus takes is not what we wrote.
	maxUnpackedLogs = 128 << 20
	// maxSnappy is how much a snappy block may unpack to, at most: 64 bytes for three.
	maxSnappy = 22
)

// packer is memory that encoding uses again.
type packer struct{ raw, packed []byte }

var packers = sync.Pool{New: func() any { return new(packer) }}

// maxPacker is how large the memory may be that is kept for the next one.
const maxPacker = 8 << 20

// room is a slice of n bytes that has whatever content.
func (p *packer) room(n int) []byte {
	if cap(p.raw) < n {
		p.raw = make([]byte, n+n/8)
	}
	return p.raw[:n]
}

// pack is b packed, or a copy of b if that is not worth it.
func (p *packer) pack(b []byte) (out []byte, packed bool) {
	if n := s2.MaxEncodedLen(len(b)); len(b) >= packFrom && n > 0 {
		if cap(p.packed) < n {
			p.packed = make([]byte, n+n/8)
		}
		if out := s2.EncodeSnappy(p.packed[:cap(p.packed)], b); len(out) < len(b)-len(b)/8 {
			return slices.Clone(out), true
		}
	}
	return slices.Clone(b), false
}

func (p *packer) release() {
	if cap(p.raw)+cap(p.packed) <= maxPacker {
		packers.Put(p)
	}
}

// unpackLogs unpacks the value of a record. What it says of its size is checked before memory is taken for it.
func unpackLogs(value []byte) ([]byte, error) {
	n, err := s2.DecodedLen(value)
	switch {
	case err != nil:
		return nil, kemi.Errorf(kemi.ErrInvalid, "not a snappy block: %w", err)
	case n > maxUnpackedLogs || n > maxSnappy*len(value):
		return nil, kemi.Errorf(kemi.ErrInvalid, "a snappy block of %d bytes that says it unpacks to %d", len(value), n)
	}
	out, err := s2.Decode(make([]byte, n), value)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "broken snappy block: %w", err)
	}
	return out, nil
}
