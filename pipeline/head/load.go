package head

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/prometheus/model/exemplar"
)

// foundCheckpoint is a checkpoint that is whole.
type foundCheckpoint struct {
	sequence uint64
	head     checkpointHead
	data     []byte // mapped
	end      int    // of what is before the head
}

func (f *foundCheckpoint) close() error {
	if f == nil {
		return nil
	}
	return syscall.Munmap(f.data)
}

// findCheckpoint opens the newest checkpoint, or gives nil if there is none. What is left of one that did not come to be is deleted.
func (db *DB) findCheckpoint() (*foundCheckpoint, error) {
	entries, err := os.ReadDir(db.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var sequences []uint64
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), checkpointPrefix)
		if !ok {
			continue
		}
		if strings.HasSuffix(digits, tmpSuffix) {
			if err := removeIfThere(filepath.Join(db.cfg.Dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
			sequences = append(sequences, n)
		}
	}
	if len(sequences) == 0 {
		return nil, nil
	}
	slices.Sort(sequences)
	newest := sequences[len(sequences)-1]
	name := fmt.Sprintf("%s%016d", checkpointPrefix, newest)
	f, err := openCheckpoint(filepath.Join(db.cfg.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f.sequence = newest
	for _, n := range sequences[:len(sequences)-1] { // the one before was about to be deleted
		if err := removeIfThere(filepath.Join(db.cfg.Dir, fmt.Sprintf("%s%016d", checkpointPrefix, n))); err != nil {
			return nil, errors.Join(err, f.close())
		}
	}
	return f, nil
}

var errTorn = errors.New("is damaged: delete the folder and let the log of record bring back what it still has")

func openCheckpoint(path string) (_ *foundCheckpoint, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const tail = 4 + 4 + len(checkpointEnd) // length of the head, sum, end
	if st.Size() < int64(len(checkpointMagic)+tail) {
		return nil, errTorn
	}
	c := &foundCheckpoint{}
	if c.data, err = syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	b := c.data
	if n := len(checkpointMagic) - 1; string(b[:n]) != checkpointMagic[:n] || string(b[len(b)-len(checkpointEnd):]) != checkpointEnd {
		return nil, errTorn
	}
	b = b[:len(b)-len(checkpointEnd)]
	sum := binary.LittleEndian.Uint32(b[len(b)-4:])
	b = b[:len(b)-4]
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, errTorn
	}
	size := int(binary.LittleEndian.Uint32(b[len(b)-4:]))
	b = b[:len(b)-4]
	if size > len(b) {
		return nil, errTorn
	}
	if err := json.Unmarshal(b[len(b)-size:], &c.head); err != nil {
		return nil, err
	}
	if v := c.head.Version; v < 1 || v > checkpointVersion || b[len(checkpointMagic)-1] != byte(v) {
		return nil, fmt.Errorf("version %d: this program knows versions 1 to %d", v, checkpointVersion)
	}
	c.end = len(b) - size
	return c, nil
}

// loadCheckpoint makes the state what it was, or empty. Sources that are settled meanwhile are not shown.
func (db *DB) loadCheckpoint(found *foundCheckpoint, retired []string) (err error) {
	defer func() { err = errors.Join(err, found.close()) }()
	var head checkpointHead
	if found != nil {
		head = found.head
		db.sequence = found.sequence
		db.floor, db.cut, db.lateSamples = head.Floor, head.Cut, head.Late
		db.from, db.to = head.From, head.To
		db.began.loadBytes = int64(len(found.data))
	}
	if db.chunks, err = openChunkFiles(db.cfg.Dir, head.Files, max(1, head.NextFile)); err != nil {
		return err
	}
	if found != nil {
		err = db.loadState(found)
	}
	if err != nil {
		return errors.Join(err, db.chunks.close())
	}
	for p, next := range *db.durable.Load() {
		db.applied[p] = next
	}
	for _, id := range retired {
		if cut, ok := cutOf(id); ok {
			db.floor, db.cut = max(db.floor, cut), max(db.cut, cut)
		}
	}
	for _, l := range db.lanes {
		if len(l.frozen) > 0 {
			db.lateSamples++ // there is something to settle
		}
	}
	db.dropSettled(db.epoch, nil)
	return nil
}

func (db *DB) loadState(found *foundCheckpoint) error {
	packed := found.head.Version > 1
	if err := db.loadSpaces(inputOf(found.data[found.head.Spaces:found.head.Exemplars], packed)); err != nil {
		return err
	}
	in := inputOf(found.data[len(checkpointMagic):found.head.Spaces], packed)
	var pairs []uint32
	for in.err == nil {
		number := in.u32()
		if number == math.MaxUint32 {
			break
		}
		if int(number) >= len(db.spaces) {
			return errTorn
		}
		b := in.take(4)
		if b == nil {
			break
		}
		n, count, flags := int(binary.LittleEndian.Uint16(b)), b[2], b[3]
		last, base, chain := in.i64(), in.i64(), in.u64()
		raw := in.take(4 * n)
		pairs = pairs[:0]
		sp := db.spaces[number]
		for i := 0; i+4 <= len(raw); i += 4 {
			p := binary.LittleEndian.Uint32(raw[i:])
			if int(p) >= len(sp.pairs) {
				return errTorn
			}
			pairs = append(pairs, p)
		}
		if in.err != nil {
			break
		}
		id := db.create(sp, pairs, hashOf(pairs))
		s := db.at(id)
		s.last, s.base, s.chain = last, base, chain
		if count > 0 {
			for s.class = 0; roomOf(s.class) < int(count); s.class++ {
			}
			s.buffer, s.n = db.buffers.alloc(s.class), count
			buf := db.buffers.buffer(s.class, s.buffer)
			raw := in.take(12 * int(count))
			for i := range int(count) {
				if raw == nil {
					break
				}
				x := raw[12*i:]
				buf[i] = slot{binary.LittleEndian.Uint32(x), binary.LittleEndian.Uint32(x[4:]), binary.LittleEndian.Uint32(x[8:])}
			}
		}
		if flags&laned != 0 {
			db.loadLane(in, id, s)
		}
		if flags&histograms != 0 {
			if err := db.loadOpen(in, s); err != nil {
				return err
			}
		}
	}
	if in.err != nil {
		return in.err
	}
	for _, sp := range db.spaces {
		for i := range sp.pairs {
			if !sp.pairs[i].any { // of series that are gone
				p := sp.pairs[i]
				if n := sp.names[p.name]; n != nil && p.value != "" {
					delete(n.values, p.value)
					if len(n.values) == 0 {
						delete(sp.names, p.name)
					}
				}
				sp.pairs[i] = pair{}
				sp.free = append(sp.free, uint32(i))
			}
		}
	}
	if err := db.chunks.flush(); err != nil {
		return err
	}
	return db.loadExemplars(inputOf(found.data[found.head.Exemplars:found.end], packed))
}

func (db *DB) loadLane(in *input, id uint32, s *series) {
	l := db.laneOf(id, s)
	for n := in.u32(); n > 0 && in.err == nil; n-- {
		l.at, l.values = append(l.at, in.i64()), append(l.values, math.Float64frombits(in.u64()))
		l.newest = max(l.newest, l.at[len(l.at)-1])
	}
	l.from, l.to, l.chain = in.i64(), in.i64(), in.u64()
	for n := in.u32(); n > 0 && in.err == nil; n-- {
		l.frozen = append(l.frozen, frozenChain{chain: in.u64()})
	}
}

// loadOpen makes a record of a chunk of histograms that was open: the library cannot append to the bytes of one.
func (db *DB) loadOpen(in *input, s *series) (err error) {
	enc := in.take(1)
	n := in.u32()
	first, last := in.i64(), in.i64()
	content := in.take(int(in.u32()))
	if in.err == nil && n > 0 {
		s.chain, in.err = db.chunks.add(false, s.chain, first, last, enc[0], content)
	}
	return in.err
}

func (db *DB) loadSpaces(in *input) error {
	for in.more() {
		sp := newSpace(in.string(), uint32(len(db.spaces)))
		db.spaces = append(db.spaces, sp)
		db.byName[sp.name] = sp
		names := make([]*labelName, in.u32())
		for i := range names {
			name := in.string()
			names[i] = &labelName{name: name, values: map[string]uint32{}}
			if name != "" {
				sp.names[name] = names[i]
			}
		}
		n := int(in.u32())
		if in.err != nil {
			break
		}
		sp.pairs = make([]pair, 0, n)
		for i := range n {
			number := in.u32()
			value := in.string()
			if in.err != nil || int(number) >= len(names) {
				return errTorn
			}
			name := names[number]
			sp.pairs = append(sp.pairs, pair{name: name.name, value: value})
			if value != "" {
				name.values[value] = uint32(i)
			}
		}
	}
	return in.err
}

func (db *DB) loadExemplars(in *input) error {
	if db.exemplars == nil {
		return nil
	}
	dec := json.NewDecoder(in)
	for {
		var e savedExemplar
		switch err := dec.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		x := exemplar.Exemplar{Labels: e.Labels, Value: math.Float64frombits(e.Value), Ts: e.At, HasTs: e.HasAt}
		if err := db.exemplars.AddExemplar(e.Series, x); err != nil {
			db.m.exemplarsLeftOut.Inc()
		}
	}
}

// runningFile says that a DB is at work on the folder, and since which boot of the machine.
const runningFile = "running"

func (db *DB) markRunning(found bool) error {
	name := filepath.Join(db.cfg.Dir, runningFile)
	b, err := os.ReadFile(name)
	switch {
	case err == nil && string(b) == bootID() && len(b) > 0:
		db.began.ended = EndedKilled
	case err == nil:
		db.began.ended = EndedPowerCut
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case found:
		db.began.ended = EndedClean
	default:
		db.began.ended = EndedNever
	}
	return writeDurably(name, []byte(bootID()))
}

func (db *DB) markStopped() error {
	if err := os.Remove(filepath.Join(db.cfg.Dir, runningFile)); err != nil {
		return err
	}
	return syncPath(db.cfg.Dir)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func writeDurably(name string, b []byte) error {
	tmp := name + tmpSuffix
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return syncPath(filepath.Dir(name))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
