package tsdb

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kemi/pipeline/bus"
)

// What can be trusted after a crash, and from where the log has to be replayed:
//
// The process died, the machine lived on: the page cache has all that was written, so the head's WAL is whole, and the
// positions are those of the last append, which lie in a file that is written with each (no fsync). Next to nothing is
// replayed.
//
// The machine went down: of what was not fsynced, any part may be missing, also in the middle. Then the WAL is cut back to where
// the last checkpoint fsynced it, the chunk files (which repeat what the WAL holds) are thrown away, and replay begins at the
// positions of that checkpoint. So the head is exactly as it was then: no record refers to a series whose own record was lost.
//
// Which of the two it was, the kernel's boot id tells. Where it cannot be read, the second is assumed; it is right in both cases.

const (
	positionsFile = "positions.json"
	appliedName   = "applied"
	walDir        = "wal"
	wblDir        = "wbl"
	chunksDir     = "chunks_head"
)

// walSpot is a place in a WAL: so many bytes of that segment, and all of those before it.
type walSpot struct {
	Segment int   `json:"segment"`
	Size    int64 `json:"size"`
}

// note is what a checkpoint writes.
type note struct {
	Version   int           `json:"version"`
	Boot      string        `json:"boot"`
	Clean     bool          `json:"clean"` // written by Close: nothing came after it
	Positions bus.Positions `json:"positions"`
	WAL       walSpot       `json:"wal"`
	WBL       walSpot       `json:"wbl"` // the log of late samples
}

const noteVersion = 1

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// recover makes the folder fit to be opened and says where replay begins.
func (db *DB) recover() (bus.Positions, error) {
	n, err := readNote(db.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return bus.Positions{}, db.cutBack(note{WAL: walSpot{Segment: -1}, WBL: walSpot{Segment: -1}})
	}
	if err != nil {
		return nil, err
	}
	if n.Clean {
		return n.Positions, nil
	}
	if boot := bootID(); boot != "" && boot == n.Boot {
		if p, ok := readApplied(db.cfg.Dir, boot); ok {
			for part, next := range n.Positions {
				p[part] = max(p[part], next)
			}
			return p, nil
		}
	}
	db.log.Warn("the machine went down, or the folder comes from another one: series go back to the last checkpoint and replay from the log")
	return n.Positions, db.cutBack(n)
}

func readNote(dir string) (note, error) {
	var n note
	b, err := os.ReadFile(filepath.Join(dir, positionsFile))
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("%s: %w", positionsFile, err)
	}
	if n.Version != noteVersion {
		return n, fmt.Errorf("%s: version %d: this program knows version %d", positionsFile, n.Version, noteVersion)
	}
	if n.Positions == nil {
		n.Positions = bus.Positions{}
	}
	return n, nil
}

// cutBack makes the head's logs end where the note says.
func (db *DB) cutBack(n note) error {
	if err := os.RemoveAll(filepath.Join(db.cfg.Dir, chunksDir)); err != nil {
		return err
	}
	if err := cutLog(filepath.Join(db.cfg.Dir, walDir), n.WAL); err != nil {
		return err
	}
	return cutLog(filepath.Join(db.cfg.Dir, wblDir), n.WBL)
}

// cutLog empties the segments after the spot, but keeps the files: the library numbers new segments after the last that it finds,
// and they must come after its newest checkpoint.
func cutLog(dir string, at walSpot) error {
	segments, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, s := range segments {
		keep := int64(0)
		switch {
		case s < at.Segment:
			continue
		case s == at.Segment:
			keep = at.Size
		}
		name := segmentPath(dir, s)
		st, err := os.Stat(name)
		if err != nil {
			return err
		}
		if st.Size() > keep {
			if err := os.Truncate(name, keep); err != nil {
				return err
			}
		}
	}
	return nil
}

func segmentPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%08d", n)) }

func listSegments(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && !e.IsDir() {
			out = append(out, n)
		}
	}
	return out, nil // ReadDir sorts by name, and the names are padded
}

// endOf is where the log in dir ends now.
func endOf(dir string) (walSpot, error) {
	segments, err := listSegments(dir)
	if err != nil || len(segments) == 0 {
		return walSpot{Segment: -1}, err
	}
	last := segments[len(segments)-1]
	st, err := os.Stat(segmentPath(dir, last))
	if err != nil {
		return walSpot{}, err
	}
	return walSpot{last, st.Size()}, nil
}

// syncLog fsyncs the segments from first on.
func syncLog(dir string, first int) error {
	segments, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if s < first {
			continue
		}
		if err := syncPath(segmentPath(dir, s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // one that is gone was replaced by a block or by the library's own checkpoint, both fsynced
		}
	}
	return syncPath(dir)
}

func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// checkpoint makes durable what has been appended and notes how far that is. Appends go on meanwhile.
func (db *DB) checkpoint(clean bool) error {
	db.noteMu.Lock()
	defer db.noteMu.Unlock()
	n, broken, err := db.spot()
	if err != nil {
		return err
	}
	if broken != nil {
		return fmt.Errorf("the WAL is not whole: %w", broken)
	}
	n.Clean = clean
	if err := syncLog(filepath.Join(db.cfg.Dir, walDir), db.synced.Segment); err != nil {
		return err
	}
	if err := syncLog(filepath.Join(db.cfg.Dir, wblDir), 0); err != nil {
		return err
	}
	if clean {
		if err := syncLog(filepath.Join(db.cfg.Dir, chunksDir), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := db.meta.save(); err != nil {
		return err
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := writeDurably(filepath.Join(db.cfg.Dir, positionsFile), b); err != nil {
		return err
	}
	db.synced = n.WAL
	db.durable.Store(&n.Positions)
	return nil
}

// spot is the note of this moment. No append is under way while it looks, and the library flushes at the end of each, so the
// logs end with a whole record.
func (db *DB) spot() (n note, broken, err error) {
	db.appendMu.Lock()
	defer db.appendMu.Unlock()
	n = note{Version: noteVersion, Boot: bootID(), Positions: make(bus.Positions, len(db.applied))}
	for part, next := range db.applied {
		n.Positions[part] = next
	}
	if n.WAL, err = endOf(filepath.Join(db.cfg.Dir, walDir)); err == nil {
		n.WBL, err = endOf(filepath.Join(db.cfg.Dir, wblDir))
	}
	return n, db.broken, err
}

// writeDurably replaces name by a file with b in it, or leaves what was there.
func writeDurably(name string, b []byte) error {
	tmp := name + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return syncPath(filepath.Dir(name))
}

// appliedFile holds the positions of the last append, of this boot of the machine: a head of 64 bytes with the boot id, then a slot
// of 16 bytes (partition, next, CRC) for each partition. It is never fsynced.
type appliedFile struct {
	f     *os.File
	slots map[int32]int64
	buf   [appliedSlot]byte
}

const (
	appliedMagic = "KEMIAPP1"
	appliedHead  = 64
	appliedSlot  = 16
)

func createAppliedFile(dir string, p bus.Positions) (*appliedFile, error) {
	name := filepath.Join(dir, appliedName)
	f, err := os.Create(name + ".tmp")
	if err != nil {
		return nil, err
	}
	a := &appliedFile{f: f, slots: map[int32]int64{}}
	head := make([]byte, appliedHead)
	copy(head, appliedMagic)
	copy(head[len(appliedMagic):], bootID())
	_, err = f.Write(head)
	for part, next := range p {
		err = errors.Join(err, a.set(part, next))
	}
	if err == nil {
		err = os.Rename(name+".tmp", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

func (a *appliedFile) set(part int32, next int64) error {
	at, ok := a.slots[part]
	if !ok {
		at = appliedHead + int64(len(a.slots))*appliedSlot
		a.slots[part] = at
	}
	b := a.buf[:]
	binary.LittleEndian.PutUint32(b, uint32(part))
	binary.LittleEndian.PutUint64(b[4:], uint64(next))
	binary.LittleEndian.PutUint32(b[12:], crc32.ChecksumIEEE(b[:12]))
	_, err := a.f.WriteAt(b, at)
	return err
}

func (a *appliedFile) close() error { return a.f.Close() }

// readApplied is what an appliedFile of this boot holds.
func readApplied(dir, boot string) (bus.Positions, bool) {
	b, err := os.ReadFile(filepath.Join(dir, appliedName))
	if err != nil || len(b) < appliedHead || !strings.HasPrefix(string(b), appliedMagic+boot) {
		return nil, false
	}
	p := bus.Positions{}
	for b = b[appliedHead:]; len(b) >= appliedSlot; b = b[appliedSlot:] {
		if crc32.ChecksumIEEE(b[:12]) != binary.LittleEndian.Uint32(b[12:]) {
			return nil, false
		}
		p[int32(binary.LittleEndian.Uint32(b))] = int64(binary.LittleEndian.Uint64(b[4:]))
	}
	return p, true
}
