package settled

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"kemi"
)

// The files of a block.
const (
	metaFile  = "meta.json"
	dataFile  = "data"
	indexFile = "index"
	tmpSuffix = ".tmp"
)

const (
	dataMagic  = "KSBD"
	indexMagic = "KSBI"
	fileHeader = 8 // magic and version
)

// maxSharedTimes is how many columns of times a writer remembers to share them.
const maxSharedTimes = 1 << 19

// Writer makes a block. Its methods must not be called concurrently. It keeps in memory what the index needs, some tens of bytes a series,
// and the pages that are open.
type Writer struct {
	dir, tmp string
	options  Options
	file     *os.File
	out      *bufio.Writer
	offset   int64
	zstd     *zstd.Encoder
	buf      []byte

	encoder encoder
	roller  roller
	ints    []int64
	pages   []*openPage // by stream; nil if it has none
	times   map[xxh3.Uint128]uint32

	index  indexWriter
	meta   Meta
	err    error
	closed bool
}

// Create begins a block that will be the folder dir. It is written beside it and put there by Close; what a crash left there before is taken away.
func Create(dir string, o Options) (*Writer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(dir); err == nil {
		return nil, kemi.Errorf(kemi.ErrConflict, "create block %s: it exists", dir)
	}
	tmp := dir + tmpSuffix
	if err := os.RemoveAll(tmp); err != nil {
		return nil, fmt.Errorf("create block: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o750); err != nil {
		return nil, fmt.Errorf("create block: %w", err)
	}
	z, err := newZstd(zstd.SpeedDefault)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(tmp, dataFile), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o640)
	if err != nil {
		return nil, fmt.Errorf("create block: %w", err)
	}
	w := &Writer{
		dir: dir, tmp: tmp, options: o, file: f, out: bufio.NewWriterSize(f, 1<<18), zstd: z,
		pages: make([]*openPage, streamRollups+len(o.Levels)*rollupColumns),
		times: map[xxh3.Uint128]uint32{},
		meta:  Meta{Version: Version, From: math.MaxInt64, To: math.MinInt64, Levels: o.Levels},
	}
	w.index.init(len(o.Levels))
	w.write(header(dataMagic))
	return w, nil
}

func header(magic string) []byte { return binary.LittleEndian.AppendUint32([]byte(magic), Version) }

func (w *Writer) write(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.out.Write(b)
	w.offset += int64(n)
	if err != nil {
		w.err = fmt.Errorf("write block %s: %w", w.dir, err)
	}
}

func (w *Writer) page(stream int) *openPage {
	p := w.pages[stream]
	if p == nil {
		p = &openPage{stream: uint32(stream)}
		p.reset()
		w.pages[stream] = p
	}
	return p
}

// flush writes an open page.
func (w *Writer) flush(p *openPage) {
	if p.chunks == 0 {
		return
	}
	w.buf = p.appendPage(w.buf[:0], w.zstd)
	p.pages = append(p.pages, pageEntry{first: p.written, bytes: uint32(len(w.buf)), offset: w.offset, from: p.from, to: p.to})
	p.written += p.chunks
	p.bytes += int64(len(w.buf))
	w.write(w.buf)
	p.reset()
}

const maxPageChunks = 1 << 12

// room makes place in the stream's page for n samples more.
func (w *Writer) room(p *openPage, n int) {
	if p.samples > 0 && p.samples+n > w.options.PageSamples || p.chunks >= maxPageChunks {
		w.flush(p)
	}
}

// Add adds a series. Series come in ascending order of project and labels, each once; s is not kept. After an error the block cannot be closed.
func (w *Writer) Add(s *Series) error {
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return w.fail(errors.New("it is closed"))
	}
	if len(s.At) != len(s.Values) {
		return w.fail(fmt.Errorf("series %s: %d times and %d values", s.Labels, len(s.At), len(s.Values)))
	}
	if len(s.At) == 0 && len(s.Histograms) == 0 {
		return nil
	}
	for i := 1; i < len(s.At); i++ {
		if s.At[i] <= s.At[i-1] {
			return w.fail(fmt.Errorf("series %s: sample at %d after one at %d: times must ascend", s.Labels, s.At[i], s.At[i-1]))
		}
	}
	if len(s.At) > 0 && (s.At[0] < -maxMillis || s.At[len(s.At)-1] > maxMillis) {
		return w.fail(fmt.Errorf("series %s: samples from %d to %d: times must be within %d of the epoch", s.Labels, s.At[0], s.At[len(s.At)-1], maxMillis))
	}
	var from, to kemi.Millis = math.MaxInt64, math.MinInt64
	if n := len(s.At); n > 0 {
		from, to = s.At[0], s.At[n-1]
	}
	for i, h := range s.Histograms {
		if h.To < h.From || i > 0 && h.From <= s.Histograms[i-1].To || h.From < -maxMillis || h.To > maxMillis {
			return w.fail(fmt.Errorf("series %s: histograms from %d to %d: chunks must ascend and not overlap", s.Labels, h.From, h.To))
		}
		if len(h.Chunk) > maxHistogramChunk || h.Samples < 0 {
			return w.fail(fmt.Errorf("series %s: a histogram chunk of %d samples and %d bytes", s.Labels, h.Samples, len(h.Chunk)))
		}
		from, to = min(from, h.From), max(to, h.To)
		w.meta.HistogramSamples += int64(h.Samples)
	}
	entry := seriesEntry{from: from, to: to}
	w.addValues(s, &entry)
	w.addHistograms(s, &entry)
	if err := w.index.add(s.Project, s.Labels, entry); err != nil {
		return w.fail(err)
	}
	w.meta.Series++
	w.meta.Samples += int64(len(s.At))
	w.meta.From, w.meta.To = min(w.meta.From, from), max(w.meta.To, to+1)
	return w.err
}

const (
	maxMillis         = 1 << 60 // so that no difference overflows
	maxHistogramChunk = 1 << 24
)

func (w *Writer) fail(err error) error {
	w.err = fmt.Errorf("write block %s: %w", w.dir, err)
	return w.err
}

func (w *Writer) addValues(s *Series, entry *seriesEntry) {
	if len(s.At) == 0 {
		return
	}
	entry.chunks = w.column(streamValues, s.At, s.Values, nil)
	if len(w.options.Levels) == 0 {
		return
	}
	w.roller.reset(w.options.Levels)
	w.roller.roll(s.At, s.Values)
	worthy := w.roller.worthy(&w.options)
	for l := range w.options.Levels {
		if !worthy[l] {
			continue
		}
		r := &w.roller.rollups[l]
		has := r.columnsAt(l == len(w.options.Levels)-1, r.filled(2*w.options.MinPerBucket))
		if has[rollSum] {
			entry.sums |= 1 << l
		}
		if has[rollResets] {
			entry.resets |= 1 << l
		}
		if has[rollFirst] {
			entry.edges |= 1 << l
		}
		for c := range r.columns {
			if !has[c] {
				continue
			}
			entry.rollups[l] = w.rollup(streamRollups+l*rollupColumns, c, r)
		}
	}
}

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

// likely are the columns of a rollup that may have the same values as others: those of a counter that was not reset.
var likely = [rollupColumns][]byte{rollFirst: {rollMin, rollMax}, rollLast: {rollMax, rollMin}}

// rollup adds a column of a rollup.
func (w *Writer) rollup(stream, column int, r *rollup) uint32 {
	return w.column(stream+column, r.at, r.columns[column], func(s *streams, from, to int) bool {
		values := r.columns[column][from:to]
		for _, c := range likely[column] {
			if !slices.EqualFunc(values, r.columns[c][from:to], sameBits) {
				continue
			}
			if slices.EqualFunc(values[1:], values[:len(values)-1], sameBits) {
				return false // a constant: nothing else need be read for it
			}
			s.same(c)
			return true
		}
		return false
	})
}

// column adds a column of a series to a stream and returns how many chunks it has. special may code a chunk in another way; then it returns true.
func (w *Writer) column(stream int, at []kemi.Millis, values []float64, special func(s *streams, from, to int) bool) (chunks uint32) {
	done := 0
	for len(at) > 0 {
		n := min(len(at), w.options.ChunkSamples)
		// The times first: they may begin a page of their own.
		step, regular := stepOf(at[:n])
		var times uint32
		if !regular {
			times = w.sharedTimes(at[:n])
		}
		p := w.page(stream)
		w.room(p, n)
		v := uint64(n) << 1
		if !regular {
			v |= 1
		}
		first, last := int64(at[0]), int64(at[n-1])
		h := binary.AppendUvarint(p.heads, v)
		h = binary.AppendVarint(h, first-p.lastFirst)
		p.lastFirst = first
		switch {
		case !regular:
			h = binary.AppendVarint(h, int64(times)-int64(p.lastTimes))
			h = binary.AppendUvarint(h, uint64(last-first))
			p.lastTimes = times
		case n > 1:
			h = binary.AppendUvarint(h, uint64(step))
		}
		p.heads = h
		if special == nil || !special(&p.streams, done, done+n) {
			w.encoder.floats(&p.streams, values[:n])
		}
		p.count(first, last, n)
		chunks++
		done += n
		at, values = at[n:], values[n:]
	}
	return chunks
}

func stepOf(at []kemi.Millis) (int64, bool) {
	if len(at) < 2 {
		return 0, true
	}
	step := at[1] - at[0]
	for i := 2; i < len(at); i++ {
		if at[i]-at[i-1] != step {
			return 0, false
		}
	}
	return int64(step), true
}

// sharedTimes is the chunk of the times' stream that has these times.
func (w *Writer) sharedTimes(at []kemi.Millis) uint32 {
	ints := unsafe.Slice((*int64)(&at[0]), len(at))
	key := xxh3.Hash128(unsafe.Slice((*byte)(unsafe.Pointer(&at[0])), 8*len(at)))
	if n, ok := w.times[key]; ok {
		return n
	}
	p := w.page(streamTimes)
	w.room(p, len(at))
	p.heads = binary.AppendUvarint(p.heads, uint64(len(at)))
	w.encoder.integersColumn(&p.streams, ints)
	n := p.written + p.chunks
	p.count(ints[0], ints[len(ints)-1], len(at))
	if len(w.times) >= maxSharedTimes {
		clear(w.times)
	}
	w.times[key] = n
	return n
}

func (w *Writer) addHistograms(s *Series, entry *seriesEntry) {
	for _, c := range s.Histograms {
		p := w.page(streamHistograms)
		w.room(p, len(c.Chunk)/16+1)
		h := binary.AppendVarint(p.heads, int64(c.From)-p.lastFirst)
		h = binary.AppendUvarint(h, uint64(c.To-c.From))
		h = binary.AppendUvarint(h, uint64(c.Samples))
		h = append(h, c.Encoding)
		p.heads = binary.AppendUvarint(h, uint64(len(c.Chunk)))
		p.high = append(p.high, c.Chunk...)
		p.lastFirst = int64(c.From)
		p.count(int64(c.From), int64(c.To), len(c.Chunk)/16+1)
		entry.histograms++
	}
}

// Close writes what is open and the index, and puts the block into its place. All is on disk when it returns nil.
func (w *Writer) Close(info json.RawMessage) (Meta, error) {
	if w.err != nil || w.closed {
		return Meta{}, errors.Join(w.err, w.Abort())
	}
	if info != nil && !json.Valid(info) {
		return Meta{}, errors.Join(w.fail(errors.New("info is no JSON")), w.Abort())
	}
	for _, p := range w.pages {
		if p != nil {
			w.flush(p)
			if p.stream >= streamRollups {
				w.meta.RollupBytes += p.bytes
			}
		}
	}
	meta, err := w.finish(info)
	if err != nil {
		return Meta{}, errors.Join(fmt.Errorf("write block %s: %w", w.dir, err), w.Abort())
	}
	w.closed = true
	w.zstd.Close()
	return meta, nil
}

func (w *Writer) finish(info json.RawMessage) (Meta, error) {
	if w.err != nil {
		return Meta{}, w.err
	}
	if err := w.out.Flush(); err != nil {
		return Meta{}, err
	}
	if err := w.file.Sync(); err != nil {
		return Meta{}, err
	}
	if err := w.file.Close(); err != nil {
		return Meta{}, err
	}
	index, err := w.index.write(filepath.Join(w.tmp, indexFile), w)
	if err != nil {
		return Meta{}, err
	}
	m := w.meta
	if m.Series == 0 {
		m.From, m.To = 0, 0
	}
	m.IndexBytes, m.Bytes, m.Info = index, w.offset+index, info
	b, err := json.Marshal(m)
	if err != nil {
		return Meta{}, err
	}
	if err := writeSynced(filepath.Join(w.tmp, metaFile), append(b, '\n')); err != nil {
		return Meta{}, err
	}
	if err := syncDir(w.tmp); err != nil {
		return Meta{}, err
	}
	if err := os.Rename(w.tmp, w.dir); err != nil {
		return Meta{}, err
	}
	return m, syncDir(filepath.Dir(w.dir))
}

// Abort takes away what was written. After Close it does nothing.
func (w *Writer) Abort() error {
	if w.closed {
		return nil
	}
	w.closed = true
	if w.err == nil {
		w.err = fmt.Errorf("write block %s: it was given up", w.dir)
	}
	w.file.Close()
	w.zstd.Close()
	return os.RemoveAll(w.tmp)
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
