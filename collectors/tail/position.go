package tail

import (
	"strconv"

	"github.com/zeebo/xxh3"

	"kemi"
)

// Position says which file it is and how far it was read.
type Position struct {
	Path   string      `json:"path"` // where it was found first: what the label file says
	Dev    uint64      `json:"dev"`
	Ino    uint64      `json:"ino"`
	Offset int64       `json:"offset"` // of the next byte to read
	At     kemi.Millis `json:"at"`

	// Head is the hash of the first HeadLen bytes of the file, Last that of the LastLen bytes before Offset.
	HeadLen int    `json:"headLen"`
	Head    uint64 `json:"head"`
	LastLen int    `json:"lastLen"`
	Last    uint64 `json:"last"`

	// Start and Part are set within a line that is so long that it is handed out in parts: where it began, and how many parts were.
	Start int64 `json:"start,omitempty"`
	Part  int   `json:"part,omitempty"`
}

const (
	maxHead = 1024
	maxLast = 64
	// minHead is how many bytes two files must share at least for one to be taken for a copy of the other.
	minHead = 16
)

// Key names the file among others.
func (p Position) Key() string { return key(p.Dev, p.Ino) }

func key(dev, ino uint64) string {
	return strconv.FormatUint(dev, 16) + ":" + strconv.FormatUint(ino, 10)
}

func hash(b []byte) uint64 { return xxh3.Hash(b) }

// readerAt is what of a file is needed to recognise it.
type readerAt interface {
	ReadAt(b []byte, off int64) (int, error)
}

// fits tells whether a file holds what p says that was read from it.
func (p Position) fits(f readerAt, size int64) bool {
	return size >= p.Offset && p.HeadLen <= maxHead && p.LastLen <= maxLast && p.HeadLen >= 0 && p.LastLen >= 0 && int64(p.LastLen) <= p.Offset &&
		holds(f, 0, p.HeadLen, p.Head) && holds(f, p.Offset-int64(p.LastLen), p.LastLen, p.Last)
}

func holds(f readerAt, at int64, n int, want uint64) bool {
	if n == 0 {
		return true
	}
	b := make([]byte, n)
	m, _ := f.ReadAt(b, at)
	return m == n && hash(b) == want
}
