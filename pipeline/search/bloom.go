package search

import "math/bits"

// A bloom filter of the tokens that are too many for a dictionary: about 11 bits and 7 probes a token, so that one block in a
// hundred is opened in vain.
const (
	bloomBits   = 11
	bloomProbes = 7
)

// newBloom makes the filter of a set of hashes.
func newBloom(hashes map[uint64]struct{}) []byte {
	if len(hashes) == 0 {
		return nil
	}
	b := make([]byte, (len(hashes)*bloomBits+63)/64*8)
	for h := range hashes {
		step := h>>32 | h<<32 | 1
		for range bloomProbes {
			at, _ := bits.Mul64(h, uint64(len(b)*8))
			b[at>>3] |= 1 << (at & 7)
			h += step
		}
	}
	return b
}

// inBloom tells whether the token with hash h may be in the set.
func inBloom(b []byte, h uint64) bool {
	if len(b) == 0 {
		return false
	}
	step := h>>32 | h<<32 | 1
	for range bloomProbes {
		at, _ := bits.Mul64(h, uint64(len(b)*8))
		if b[at>>3]&(1<<(at&7)) == 0 {
			return false
		}
		h += step
	}
	return true
}

// groupOf names the run of record IDs that id belongs to: its text up to the number at its end, and that number in steps of
// 1024. Records of one batch so have one or a few groups, which is what makes looking for repeated records cheap.
func groupOf(id string) (prefix string, number uint64) {
	i := len(id)
	for i > 0 && len(id)-i < 18 && id[i-1] >= '0' && id[i-1] <= '9' {
		i--
	}
	for _, c := range []byte(id[i:]) {
		number = number*10 + uint64(c-'0')
	}
	return id[:i], number >> 10
}
