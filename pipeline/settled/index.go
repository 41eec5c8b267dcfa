package settled

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"sort"
	"sync"
	"syscall"

	"kemi"
)

// index is the index file, mapped.
type index struct {
	file   string
	data   []byte
	sec    [sections][]byte
	offset [sections]int64
	levels int
	series uint32

	blobs  *recent[uint64, []byte]      // pages that were unpacked lately
	values *recent[valuesKey, []uint32] // labels that fit expressions that were asked for lately

	mu      sync.RWMutex
	strings map[uint32]string // symbols that were asked for
}

func newBlobs() *recent[uint64, []byte] {
	return newRecent[uint64](1<<19, func(b []byte) int { return len(b) })
}

// maxStrings is how many symbols are kept as strings.
const maxStrings = 1 << 13

func openIndex(name string, levels int) (_ *index, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	x := &index{file: name, levels: levels, blobs: newBlobs(), values: newValues(), strings: map[uint32]string{}}
	size := st.Size()
	if size < fileHeader+sections*20+8 || int64(int(size)) != size {
		return nil, x.corrupt(0, "it has %d bytes", size)
	}
	if x.data, err = syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	return x, x.check()
}

func (x *index) close() {
	if x.data != nil {
		_ = syscall.Munmap(x.data)
		x.data = nil
	}
}

func (x *index) corrupt(offset int64, format string, args ...any) error {
	return &CorruptError{File: x.file, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// checkHeader tells what a file is.
func checkHeader(b []byte, magic, file string) error {
	if len(b) < fileHeader || string(b[:4]) != magic {
		return &CorruptError{File: file, Reason: "it does not begin with " + magic}
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v < 1 || v > Version {
		return kemi.Errorf(kemi.ErrInvalid, "block file %s: version %d: this program reads versions up to %d", file, v, Version)
	}
	return nil
}

// check verifies everything but the blobs, which have checksums of their own.
func (x *index) check() error {
	le := binary.LittleEndian
	b := x.data
	if err := checkHeader(b, indexMagic, x.file); err != nil {
		return err
	}
	const tocBytes = sections * 20
	at := len(b) - tocBytes - 8
	toc := b[at : at+tocBytes]
	if string(b[len(b)-4:]) != indexMagic {
		return x.corrupt(int64(len(b)-4), "it does not end with %s", indexMagic)
	}
	if le.Uint32(b[at+tocBytes:]) != crc32.Checksum(toc, castagnoli) {
		return x.corrupt(int64(at), "checksum of the list of sections")
	}
	for i := range x.sec {
		e := toc[20*i:]
		off, n := le.Uint64(e), le.Uint64(e[8:])
		if off > uint64(at) || n > uint64(at)-off {
			return x.corrupt(int64(at+20*i), "section %d lies outside of the file", i)
		}
		x.sec[i], x.offset[i] = b[off:off+n], int64(off)
		if crc32.Checksum(x.sec[i], castagnoli) != le.Uint32(e[16:]) {
			return x.corrupt(int64(off), "checksum of section %d", i)
		}
	}
	for i, width := range [sections]int{secSymbolEnds: 4, secSymbols: 1, secPairs: pairEntryBytes, secNames: 8, secProjects: 12, secSeriesPages: blobEntryBytes, secPostingsPages: blobEntryBytes, secStreams: 4, secPages: pageEntryBytes} {
		if len(x.sec[i])%width != 0 {
			return x.corrupt(x.offset[i], "section %d has %d bytes", i, len(x.sec[i]))
		}
	}
	if len(x.sec[secProjects]) < 12 || len(x.sec[secNames]) < 8 {
		return x.corrupt(x.offset[secProjects], "no end of the projects or the names")
	}
	return x.checkTables()
}

// checkTables makes sure that no reference leads out of its table.
func (x *index) checkTables() error {
	symbols, pairs, names := x.symbols(), x.pairs(), x.names()
	last := uint32(0)
	for i := range symbols {
		end := x.u32(secSymbolEnds, i)
		if end < last || int(end) > len(x.sec[secSymbols]) {
			return x.corrupt(x.offset[secSymbolEnds]+int64(4*i), "symbol %d ends at %d", i, end)
		}
		last = end
	}
	for i := range pairs {
		if p := x.pair(i); int(p.symbol) >= symbols || int(p.page) >= len(x.sec[secPostingsPages])/blobEntryBytes {
			return x.corrupt(x.offset[secPairs]+int64(i*pairEntryBytes), "label %d", i)
		}
	}
	first := uint32(0)
	for i := range names + 1 {
		s, p := x.u32(secNames, 2*i), x.u32(secNames, 2*i+1)
		if i < names && int(s) >= symbols || p < first || int(p) > pairs || i == names && int(p) != pairs {
			return x.corrupt(x.offset[secNames]+int64(8*i), "name %d", i)
		}
		first = p
	}
	projects := x.projects()
	x.series = x.u32(secProjects, 3*projects+1)
	var series, name uint32
	for i := range projects + 1 {
		s, f, n := x.u32(secProjects, 3*i), x.u32(secProjects, 3*i+1), x.u32(secProjects, 3*i+2)
		if i < projects && int(s) >= symbols || f < series || n < name || f > x.series || int(n) > names || i == projects && int(n) != names {
			return x.corrupt(x.offset[secProjects]+int64(12*i), "project %d", i)
		}
		series, name = f, n
	}
	if want := (int(x.series) + seriesPerPage - 1) / seriesPerPage; len(x.sec[secSeriesPages]) != want*blobEntryBytes {
		return x.corrupt(x.offset[secSeriesPages], "%d pages for %d series", len(x.sec[secSeriesPages])/blobEntryBytes, x.series)
	}
	streams, pages := len(x.sec[secStreams])/4, len(x.sec[secPages])/pageEntryBytes
	if streams != streamRollups+x.levels*rollupColumns+1 {
		return x.corrupt(x.offset[secStreams], "%d streams for %d levels", streams, x.levels)
	}
	first = 0
	for i := range streams {
		n := x.u32(secStreams, i)
		if n < first || int(n) > pages || i == streams-1 && int(n) != pages {
			return x.corrupt(x.offset[secStreams]+int64(4*i), "stream %d", i)
		}
		first = n
	}
	return nil
}

func (x *index) u32(section, i int) uint32 { return binary.LittleEndian.Uint32(x.sec[section][4*i:]) }

func (x *index) symbols() int  { return len(x.sec[secSymbolEnds]) / 4 }
func (x *index) pairs() int    { return len(x.sec[secPairs]) / pairEntryBytes }
func (x *index) names() int    { return len(x.sec[secNames])/8 - 1 }
func (x *index) projects() int { return len(x.sec[secProjects])/12 - 1 }

// symbol is the bytes of a string, in the mapped file.
func (x *index) symbol(i uint32) []byte {
	from := uint32(0)
	if i > 0 {
		from = x.u32(secSymbolEnds, int(i)-1)
	}
	return x.sec[secSymbols][from:x.u32(secSymbolEnds, int(i))]
}

// string is a symbol that outlives the block.
func (x *index) string(i uint32) string {
	x.mu.RLock()
	s, ok := x.strings[i]
	x.mu.RUnlock()
	if ok {
		return s
	}
	s = string(x.symbol(i))
	x.mu.Lock()
	if len(x.strings) >= maxStrings {
		clear(x.strings)
	}
	x.strings[i] = s
	x.mu.Unlock()
	return s
}

type pairEntry struct{ symbol, series, page, offset, bytes uint32 }

func (x *index) pair(i int) pairEntry {
	b := x.sec[secPairs][i*pairEntryBytes:]
	le := binary.LittleEndian
	return pairEntry{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])}
}

// project finds a project: its series and its names.
func (x *index) project(project string) (from, to Ref, firstName, lastName int, ok bool) {
	n := x.projects()
	i := sort.Search(n, func(i int) bool { return string(x.symbol(x.u32(secProjects, 3*i))) >= project })
	if i == n || string(x.symbol(x.u32(secProjects, 3*i))) != project {
		return 0, 0, 0, 0, false
	}
	return Ref(x.u32(secProjects, 3*i+1)), Ref(x.u32(secProjects, 3*i+4)), int(x.u32(secProjects, 3*i+2)), int(x.u32(secProjects, 3*i+5)), true
}

// projectOf is the number of the project that has a series.
func (x *index) projectOf(ref Ref) int {
	return sort.Search(x.projects(), func(i int) bool { return x.u32(secProjects, 3*i+4) > uint32(ref) })
}

// nameOf is the symbol of the name that a pair has.
func (x *index) nameOf(pair uint32) uint32 {
	i := sort.Search(x.names(), func(i int) bool { return x.u32(secNames, 2*i+3) > pair })
	return x.u32(secNames, 2*i)
}

// name finds a name among a project's: the range of its pairs.
func (x *index) name(firstName, lastName int, name string) (from, to int, ok bool) {
	i := firstName + sort.Search(lastName-firstName, func(i int) bool { return string(x.symbol(x.u32(secNames, 2*(firstName+i)))) >= name })
	if i == lastName || string(x.symbol(x.u32(secNames, 2*i))) != name {
		return 0, 0, false
	}
	return int(x.u32(secNames, 2*i+1)), int(x.u32(secNames, 2*i+3)), true
}

// value finds a value among the pairs of a name.
func (x *index) value(from, to int, value string) (int, bool) {
	i := from + sort.Search(to-from, func(i int) bool { return string(x.symbol(x.pair(from+i).symbol)) >= value })
	return i, i < to && string(x.symbol(x.pair(i).symbol)) == value
}

// streamPages is the directory of a stream.
func (x *index) streamPages(stream int) streamDir {
	from, to := x.u32(secStreams, stream), x.u32(secStreams, stream+1)
	return streamDir(x.sec[secPages][int(from)*pageEntryBytes : int(to)*pageEntryBytes])
}

// streamDir is the pages of a stream, in the mapped file.
type streamDir []byte

func (d streamDir) len() int { return len(d) / pageEntryBytes }

func (d streamDir) page(i int) (e pageEntry) {
	e.read(d[i*pageEntryBytes:])
	return e
}

func (d streamDir) first(i int) uint32 { return binary.LittleEndian.Uint32(d[i*pageEntryBytes:]) }

// find is the page that has a chunk, beginning the search at hint.
func (d streamDir) find(chunk uint32) int {
	return sort.Search(d.len(), func(i int) bool { return d.first(i) > chunk }) - 1
}

// blob reads a page of the index.
func (x *index) blob(section int, number uint32) ([]byte, error) {
	key := uint64(section)<<32 | uint64(number)
	if b, ok := x.blobs.get(key); ok {
		return b, nil
	}
	e := x.sec[section][int(number)*blobEntryBytes:]
	le := binary.LittleEndian
	off, n, raw := le.Uint64(e), le.Uint32(e[8:]), le.Uint32(e[12:])
	if n < 4 || off > uint64(len(x.data)) || uint64(n) > uint64(len(x.data))-off || raw > maxPageBytes {
		return nil, x.corrupt(x.offset[section]+int64(number)*blobEntryBytes, "page %d lies outside of the file", number)
	}
	b := x.data[off : off+uint64(n)]
	if le.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return nil, x.corrupt(int64(off), "checksum of page %d", number)
	}
	z, err := unzstd()
	if err != nil {
		return nil, err
	}
	out, err := z.DecodeAll(b[4:], make([]byte, 0, raw))
	if err != nil || len(out) != int(raw) {
		return nil, x.corrupt(int64(off), "page %d: %d bytes when unpacked, should be %d (%v)", number, len(out), raw, err)
	}
	if section != secSeriesPages { // those are kept decoded
		x.blobs.put(key, out)
	}
	return out, nil
}
