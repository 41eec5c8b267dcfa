package head

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"kemi/pipeline/bus"
)

// A checkpoint is the state of all series, taken while they grow: the positions are noted first, then one slab of series after another is copied. So some
// series have more than others, and replay from the positions repeats samples that they have; that changes nothing. When the last slab is copied the chunk
// files are made durable, and then the checkpoint is.
//
// docs/formats/head.md describes the file.

const (
	checkpointMagic   = "KEMIckp\x02" // the last byte is the version
	checkpointEnd     = "\x01pkcIMEK"
	checkpointPrefix  = "checkpoint-"
	checkpointVersion = 2
	// restsAfter is after how long without samples a series gives its buffer back.
	restsAfter = 15 * time.Minute
)

// checkpointHead is what a checkpoint says of itself, as JSON at its end.
type checkpointHead struct {
	Version   int           `json:"version"`
	Positions bus.Positions `json:"positions"`
	Files     []notedFile   `json:"files"`
	NextFile  uint32        `json:"nextFile"`
	Floor     int64         `json:"floor"`
	Cut       int64         `json:"cut"`
	From      int64         `json:"from"`
	To        int64         `json:"to"`
	Series    int           `json:"series"`
	Late      int64         `json:"late"`
	Spaces    int64         `json:"spaces"`    // where they begin
	Exemplars int64         `json:"exemplars"` // likewise
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// summed counts and sums what is written.
type summed struct {
	w   io.Writer
	sum hash.Hash32
	n   int64
}

func (s *summed) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	_, _ = s.sum.Write(b[:n])
	s.n += int64(n)
	return n, err
}

// checkpoint makes all that was appended before it durable, and deletes what it replaces.
func (db *DB) checkpoint() error { return db.makeCheckpoint(false) }

// makeCheckpoint makes one, packed unless it is to be plain.
func (db *DB) makeCheckpoint(plain bool) error {
	db.checkpointMu.Lock()
	defer db.checkpointMu.Unlock()
	began := time.Now()
	db.appendMu.Lock()
	if db.broken != nil {
		defer db.appendMu.Unlock()
		return fmt.Errorf("an earlier write failed: %w", db.broken)
	}
	positions := maps.Clone(db.applied)
	db.since = 0
	err := db.rest()
	db.appendMu.Unlock()
	if err != nil {
		return err
	}
	if err := db.meta.save(); err != nil {
		return err
	}
	path := filepath.Join(db.cfg.Dir, fmt.Sprintf("%s%016d", checkpointPrefix, db.sequence+1))
	if err := db.writeCheckpoint(path+tmpSuffix, positions, plain); err != nil {
		return errors.Join(err, removeIfThere(path+tmpSuffix))
	}
	if err := os.Rename(path+tmpSuffix, path); err != nil {
		return err
	}
	if err := syncPath(db.cfg.Dir); err != nil {
		return err
	}
	before := db.sequence
	db.sequence++
	db.durable.Store(&positions)
	db.loose.Store(plain)
	db.ended = time.Now()
	db.took = db.ended.Sub(began)
	if before > 0 {
		err = removeIfThere(filepath.Join(db.cfg.Dir, fmt.Sprintf("%s%016d", checkpointPrefix, before)))
	}
	db.mu.Lock()
	for i := range db.doomed {
		db.doomed[i].replaced = db.doomed[i].left // no checkpoint needs it any more
	}
	db.mu.Unlock()
	return errors.Join(err, db.reclaim())
}

const tmpSuffix = ".tmp"

// rest packs the late histograms, which are not written otherwise, and has series that rest give their buffers back.
func (db *DB) rest() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, l := range db.lanes {
		if len(l.hist) > 0 {
			if err := db.sealLateHistograms(l); err != nil {
				return db.writeError("pack late histograms", err)
			}
		}
	}
	resting := db.now().Add(-restsAfter).UnixMilli()
	for _, sl := range db.slabs {
		if sl == nil {
			continue
		}
		for i := range sl {
			if s := &sl[i]; s.is(live) && s.class != noBuffer && s.last < resting {
				if err := db.drop(s); err != nil {
					return db.writeError("pack what rests", err)
				}
			}
		}
		if err := db.chunks.flush(); err != nil {
			return db.writeError("pack what rests", err)
		}
		db.mu.Unlock()
		db.mu.Lock()
	}
	return nil
}

func (db *DB) writeCheckpoint(path string, positions bus.Positions, plain bool) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	bw := bufio.NewWriterSize(f, 1<<20)
	w := &summed{w: bw, sum: crc32.New(castagnoli)}
	if _, err := io.WriteString(w, checkpointMagic); err != nil {
		return err
	}
	head := checkpointHead{Version: checkpointVersion, Positions: positions}
	p := &pieces{w: w, plain: plain}
	var buf []byte
	for i := 0; ; i++ {
		db.mu.RLock()
		if i == len(db.slabs) {
			db.mu.RUnlock()
			break
		}
		var n int
		buf, n = db.appendSlab(buf[:0], i)
		db.mu.RUnlock()
		head.Series += n
		if _, err := p.Write(buf); err != nil {
			return err
		}
	}
	_, err = p.Write([]byte{0xff, 0xff, 0xff, 0xff}) // no space has that number
	if err = errors.Join(err, p.flush()); err != nil {
		return err
	}
	head.Spaces = w.n
	if err := errors.Join(db.writeSpaces(p), p.flush()); err != nil {
		return err
	}
	head.Exemplars = w.n
	if err := errors.Join(db.writeExemplars(p), p.flush()); err != nil {
		return err
	}
	if err := db.syncChunks(&head); err != nil {
		return err
	}
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	text = binary.LittleEndian.AppendUint32(text, uint32(len(text)))
	if _, err := w.Write(text); err != nil {
		return err
	}
	end := binary.LittleEndian.AppendUint32(nil, w.sum.Sum32())
	if _, err := w.Write(append(end, checkpointEnd...)); err != nil {
		return err
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

// appendSlab appends the series of a slab.
func (db *DB) appendSlab(b []byte, i int) ([]byte, int) {
	sl, n := db.slabs[i], 0
	if sl == nil {
		return b, 0
	}
	le := binary.LittleEndian
	for j := range sl {
		s := &sl[j]
		id := uint32(i*slabSeries + j)
		if id >= db.nextID {
			break
		}
		if !s.is(live) {
			continue
		}
		n++
		samples, base := db.unsettled(s)
		b = le.AppendUint32(b, s.space)
		b = le.AppendUint16(b, s.pairs)
		b = append(b, byte(len(samples)), s.flags&(laned|histograms))
		b = le.AppendUint64(b, uint64(s.last))
		b = le.AppendUint64(b, uint64(base))
		b = le.AppendUint64(b, s.chain)
		for _, p := range db.pairsOf(s) {
			b = le.AppendUint32(b, p)
		}
		for _, x := range samples {
			b = le.AppendUint32(b, x.after-uint32(base-s.base))
			b = le.AppendUint32(b, x.low)
			b = le.AppendUint32(b, x.high)
		}
		if s.is(laned) {
			b = db.lanes[id].append(b)
		}
		if s.is(histograms) {
			o := db.open[id]
			b = append(b, byte(o.chunk.Encoding()))
			b = le.AppendUint32(b, uint32(o.n))
			b = le.AppendUint64(b, uint64(o.first))
			b = le.AppendUint64(b, uint64(o.last))
			b = le.AppendUint32(b, uint32(len(o.chunk.Bytes())))
			b = append(b, o.chunk.Bytes()...)
		}
	}
	return b, n
}

// unsettled are the samples in the buffer of a series that are not settled, and the time of the first one.
func (db *DB) unsettled(s *series) ([]slot, int64) {
	if s.n == 0 {
		return nil, s.base
	}
	b := db.buffers.buffer(s.class, s.buffer)[:s.n]
	for len(b) > 0 && s.base+int64(b[0].after) < db.cut {
		b = b[1:]
	}
	if len(b) == 0 {
		return nil, s.base
	}
	return b, s.base + int64(b[0].after)
}

// append appends a lane.
func (l *lane) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(len(l.at)))
	for i, t := range l.at {
		b = le.AppendUint64(b, uint64(t))
		b = le.AppendUint64(b, math.Float64bits(l.values[i]))
	}
	b = le.AppendUint64(b, uint64(l.from))
	b = le.AppendUint64(b, uint64(l.to))
	b = le.AppendUint64(b, l.chain)
	at := len(b)
	b = le.AppendUint32(b, 0)
	for _, f := range l.frozen {
		if f.epoch == 0 {
			b = le.AppendUint64(b, f.chain)
			le.PutUint32(b[at:], le.Uint32(b[at:])+1)
		}
	}
	return b
}

// writeSpaces writes the names and values of all projects. Those of series that were copied before are among them.
func (db *DB) writeSpaces(w io.Writer) error {
	type text struct{ name, value string }
	le := binary.LittleEndian
	str := func(b []byte, s string) []byte { return append(le.AppendUint32(b, uint32(len(s))), s...) }
	var b []byte
	for i := 0; ; i++ {
		db.mu.RLock()
		if i == len(db.spaces) {
			db.mu.RUnlock()
			break
		}
		sp := db.spaces[i]
		pairs := make([]text, len(sp.pairs))
		for j := range sp.pairs {
			pairs[j] = text{sp.pairs[j].name, sp.pairs[j].value}
		}
		db.mu.RUnlock()
		numbers := map[string]uint32{}
		var names []string
		for _, p := range pairs {
			if _, ok := numbers[p.name]; !ok {
				numbers[p.name] = uint32(len(names))
				names = append(names, p.name)
			}
		}
		b = str(b[:0], sp.name)
		b = le.AppendUint32(b, uint32(len(names)))
		for _, n := range names {
			b = str(b, n)
		}
		b = le.AppendUint32(b, uint32(len(pairs)))
		for _, p := range pairs {
			b = str(le.AppendUint32(b, numbers[p.name]), p.value)
			if len(b) > 1<<20 {
				if _, err := w.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// savedExemplar is an exemplar in a checkpoint, as JSON.
type savedExemplar struct {
	Series labels.Labels `json:"series"`
	Labels labels.Labels `json:"labels"`
	Value  uint64        `json:"value"` // its bits: JSON has no NaN, and no infinity
	At     int64         `json:"at"`
	HasAt  bool          `json:"hasAt"`
}

func (db *DB) writeExemplars(w io.Writer) error {
	if db.exemplars == nil {
		return nil
	}
	enc := json.NewEncoder(w)
	return db.exemplars.IterateExemplars(func(ls labels.Labels, e exemplar.Exemplar) error {
		return enc.Encode(savedExemplar{ls, e.Labels, math.Float64bits(e.Value), e.Ts, e.HasTs})
	})
}

// syncChunks makes the chunk files durable as they are now, and notes them.
func (db *DB) syncChunks(head *checkpointHead) error {
	db.mu.Lock()
	err := db.chunks.flush()
	head.Files, head.NextFile, head.Floor, head.Cut, head.Late = db.chunks.noted(), db.chunks.next, db.floor, db.cut, db.lateSamples
	head.From, head.To = db.from, db.to
	files := slices.Collect(maps.Values(db.chunks.files))
	for i := range db.doomed {
		db.doomed[i].left = true
	}
	db.mu.Unlock()
	if err != nil {
		return err
	}
	for _, n := range head.Files {
		i := slices.IndexFunc(files, func(f *chunkFile) bool { return f.number == n.Number })
		if f := files[i]; f.synced < n.Size {
			if err := f.f.Sync(); err != nil {
				return err
			}
			f.synced = n.Size
		}
	}
	return syncPath(db.cfg.Dir)
}
