package settled

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"kemi"
)

// seriesEntry is what the index says of a series beside its labels.
type seriesEntry struct {
	from, to   kemi.Millis // of its samples; both are in it
	chunks     uint32
	histograms uint32
	rollups    [maxLevels]uint32 // chunks of each column
	sums       uint8             // bit: the level has sums
	resets     uint8             // bit: the level has resets
	edges      uint8             // bit: the level has first and last
}

// pair is a label of a project's series.
type pair struct {
	name, value string
	series      uint32 // how many have it
}

// indexWriter gathers labels and writes the index file.
type indexWriter struct {
	levels   int
	projects []projectWriter
	pairs    []pair
	refs     []uint32 // of all series, the numbers of their pairs
	ends     []uint64 // where the refs of each series end
	entries  []byte   // seriesEntry of each
	lastFrom kemi.Millis
	last     kemi.Labels
	lastRefs []uint32
}

type projectWriter struct {
	name  string
	first uint32 // series
	pairs int    // the first of its pairs
	names map[string]map[string]uint32
}

func (x *indexWriter) init(levels int) { x.levels = levels }

func (x *indexWriter) add(project string, ls kemi.Labels, e seriesEntry) error {
	if len(x.ends) >= math.MaxUint32-1 {
		return errors.New("too many series for one block")
	}
	n := len(x.projects)
	if n == 0 || x.projects[n-1].name != project {
		if n > 0 && x.projects[n-1].name > project {
			return fmt.Errorf("project %q comes after %q: series must ascend by project and labels", project, x.projects[n-1].name)
		}
		x.projects = append(x.projects, projectWriter{name: strings.Clone(project), first: uint32(len(x.ends)), pairs: len(x.pairs), names: map[string]map[string]uint32{}})
		x.last, x.lastRefs = nil, x.lastRefs[:0]
	} else if c := x.last.Compare(ls); c >= 0 {
		return fmt.Errorf("series %s comes after %s: series must ascend by project and labels, each once", ls, x.last)
	}
	p := &x.projects[len(x.projects)-1]
	refs := x.lastRefs
	for i, l := range ls {
		if i > 0 && l.Name <= ls[i-1].Name || l.Value == "" || l.Name == "" {
			return fmt.Errorf("series %s: label %q: labels must be sorted by name, each name once, none empty", ls, l.Name)
		}
		if i < len(x.last) && i < len(refs) && x.last[i] == l {
			continue
		}
		values := p.names[l.Name]
		if values == nil {
			values = map[string]uint32{}
			p.names[strings.Clone(l.Name)] = values
		}
		ref, ok := values[l.Value]
		if !ok {
			ref = uint32(len(x.pairs))
			l = kemi.Label{Name: strings.Clone(l.Name), Value: strings.Clone(l.Value)}
			x.pairs = append(x.pairs, pair{name: l.Name, value: l.Value})
			values[l.Value] = ref
		}
		if i < len(refs) {
			refs[i] = ref
		} else {
			refs = append(refs, ref)
		}
	}
	refs = refs[:len(ls)]
	x.lastRefs = refs
	x.last = x.last[:0]
	for _, ref := range refs {
		x.last = append(x.last, kemi.Label{Name: x.pairs[ref].name, Value: x.pairs[ref].value})
		x.pairs[ref].series++
	}
	x.refs = append(x.refs, refs...)
	x.ends = append(x.ends, uint64(len(x.refs)))
	x.entries = e.append(x.entries, x.levels, &x.lastFrom)
	return nil
}

// append codes e; from is that of the series before.
func (e *seriesEntry) append(b []byte, levels int, from *kemi.Millis) []byte {
	b = binary.AppendVarint(b, int64(e.from-*from))
	b = binary.AppendUvarint(b, uint64(e.to-e.from))
	*from = e.from
	b = binary.AppendUvarint(b, uint64(e.chunks))
	b = binary.AppendUvarint(b, uint64(e.histograms))
	for _, n := range e.rollups[:levels] {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return append(b, e.sums, e.resets, e.edges)
}

func (e *seriesEntry) read(r *headReader, levels int, from *kemi.Millis) {
	*from += kemi.Millis(r.varint())
	e.from = *from
	e.to = e.from + kemi.Millis(r.uvarint())
	e.chunks, e.histograms = uint32(r.uvarint()), uint32(r.uvarint())
	for i := range levels {
		e.rollups[i] = uint32(r.uvarint())
	}
	e.sums, e.resets, e.edges = r.byte(), r.byte(), r.byte()
}

// ordinals count the chunks before a series: of values, of histograms, and for each level
// of count, min and max, of its sums, its resets, its first and last.
type ordinals [2 + ordinalsPerLevel*maxLevels]uint32

const ordinalsPerLevel = 4

// of is the ordinal of a column of a level.
func (o *ordinals) of(l, column int) uint32 {
	i := 2 + ordinalsPerLevel*l
	switch column {
	case rollSum, rollError:
		i++
	case rollResets:
		i += 2
	case rollFirst, rollLast:
		i += 3
	}
	return o[i]
}

func (o *ordinals) add(e *seriesEntry, levels int) {
	o[0] += e.chunks
	o[1] += e.histograms
	for i := range levels {
		at := 2 + ordinalsPerLevel*i
		o[at] += e.rollups[i]
		for j, has := range [...]uint8{e.sums, e.resets, e.edges} {
			if has&(1<<i) != 0 {
				o[at+1+j] += e.rollups[i]
			}
		}
	}
}

// The sections of the index file, in this order.
const (
	secSymbolEnds    = iota // uint32: where each symbol ends
	secSymbols              // their bytes; sorted
	secPairs                // pairEntryBytes each, sorted by project, name, value
	secNames                // uint32 symbol, uint32 first pair; sorted by project, name; and one more
	secProjects             // uint32 symbol, uint32 first series, uint32 first name; and one more
	secSeriesPages          // blobEntryBytes each
	secPostingsPages        // blobEntryBytes each
	secStreams              // uint32 first page; and one more
	secPages                // pageEntryBytes each
	sections
)

const (
	pairEntryBytes = 20 // uint32: symbol of the value, series, page, offset, bytes of the postings
	blobEntryBytes = 16 // uint64 offset, uint32 bytes, uint32 unpacked bytes
	seriesPerPage  = 128
	postingsPage   = 1 << 15
)

// indexFileWriter writes sections and blobs one after another.
type indexFileWriter struct {
	out    *bufio.Writer
	err    error
	offset uint64
	zstd   *zstd.Encoder
	buf    []byte
	toc    []byte
}

func (f *indexFileWriter) write(b []byte) {
	if f.err == nil {
		_, f.err = f.out.Write(b)
	}
	f.offset += uint64(len(b))
}

func (f *indexFileWriter) section(b []byte) {
	f.toc = binary.LittleEndian.AppendUint64(f.toc, f.offset)
	f.toc = binary.LittleEndian.AppendUint64(f.toc, uint64(len(b)))
	f.toc = binary.LittleEndian.AppendUint32(f.toc, crc32.Checksum(b, castagnoli))
	f.write(b)
}

// blob writes a page of the index: CRC-32C of what follows, then raw packed by zstd. It returns its entry.
func (f *indexFileWriter) blob(raw []byte, dir []byte) []byte {
	f.buf = f.zstd.EncodeAll(raw, append(f.buf[:0], 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(f.buf, crc32.Checksum(f.buf[4:], castagnoli))
	dir = binary.LittleEndian.AppendUint64(dir, f.offset)
	dir = binary.LittleEndian.AppendUint32(dir, uint32(len(f.buf)))
	dir = binary.LittleEndian.AppendUint32(dir, uint32(len(raw)))
	f.write(f.buf)
	return dir
}

func (x *indexWriter) write(name string, w *Writer) (size int64, err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o640)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	z, err := newZstd(zstd.SpeedBetterCompression)
	if err != nil {
		return 0, err
	}
	defer z.Close()
	f := &indexFileWriter{out: bufio.NewWriterSize(file, 1<<17), zstd: z}
	f.write(header(indexMagic))

	order, number := x.sortPairs()
	symbols, symbol := x.symbols()
	seriesPages := x.writeSeries(f, number)
	postings, postingsPages := x.writePostings(f, order)

	var ends, bytes []byte
	for _, s := range symbols {
		bytes = append(bytes, s...)
		ends = binary.LittleEndian.AppendUint32(ends, uint32(len(bytes)))
	}
	if len(bytes) > math.MaxUint32 {
		return 0, errors.New("labels of more than 4 GiB")
	}
	le := binary.LittleEndian
	var pairs, names, projects []byte
	project := 0
	last := ""
	for i, p := range order {
		for project < len(x.projects) && x.projects[project].pairs <= i {
			projects = le.AppendUint32(projects, symbol[x.projects[project].name])
			projects = le.AppendUint32(projects, x.projects[project].first)
			projects = le.AppendUint32(projects, uint32(len(names)/8))
			project++
			last = ""
		}
		if e := x.pairs[p]; e.name != last {
			last = e.name
			names = le.AppendUint32(names, symbol[e.name])
			names = le.AppendUint32(names, uint32(i))
		}
		pairs = le.AppendUint32(pairs, symbol[x.pairs[p].value])
		pairs = le.AppendUint32(pairs, x.pairs[p].series)
		pairs = append(pairs, postings[12*i:12*i+12]...)
	}
	for ; project < len(x.projects); project++ { // projects without any label
		projects = le.AppendUint32(projects, symbol[x.projects[project].name])
		projects = le.AppendUint32(projects, x.projects[project].first)
		projects = le.AppendUint32(projects, uint32(len(names)/8))
	}
	projects = le.AppendUint32(projects, 0)
	projects = le.AppendUint32(projects, uint32(len(x.ends)))
	projects = le.AppendUint32(projects, uint32(len(names)/8))
	names = le.AppendUint32(names, 0)
	names = le.AppendUint32(names, uint32(len(order)))

	var streams, pages []byte
	for _, p := range w.pages {
		streams = le.AppendUint32(streams, uint32(len(pages)/pageEntryBytes))
		if p == nil {
			continue
		}
		for _, e := range p.pages {
			pages = e.append(pages)
		}
	}
	streams = le.AppendUint32(streams, uint32(len(pages)/pageEntryBytes))

	for _, b := range [sections][]byte{ends, bytes, pairs, names, projects, seriesPages, postingsPages, streams, pages} {
		f.section(b)
	}
	f.toc = le.AppendUint32(f.toc, crc32.Checksum(f.toc, castagnoli))
	f.toc = append(f.toc, indexMagic...)
	f.write(f.toc)
	if f.err == nil {
		f.err = f.out.Flush()
	}
	if f.err == nil {
		f.err = file.Sync()
	}
	return int64(f.offset), f.err
}

// sortPairs is the pairs in the order of project, name and value, and the place of each in it.
func (x *indexWriter) sortPairs() (order, number []uint32) {
	order = make([]uint32, len(x.pairs))
	for i := range order {
		order[i] = uint32(i)
	}
	for i, p := range x.projects {
		end := len(x.pairs)
		if i+1 < len(x.projects) {
			end = x.projects[i+1].pairs
		}
		slices.SortFunc(order[p.pairs:end], func(a, b uint32) int {
			return cmp.Or(strings.Compare(x.pairs[a].name, x.pairs[b].name), strings.Compare(x.pairs[a].value, x.pairs[b].value))
		})
	}
	number = make([]uint32, len(order))
	for i, p := range order {
		number[p] = uint32(i)
	}
	return order, number
}

// symbols are all strings, sorted.
func (x *indexWriter) symbols() ([]string, map[string]uint32) {
	number := make(map[string]uint32, len(x.pairs)+len(x.projects))
	for _, p := range x.pairs {
		number[p.name], number[p.value] = 0, 0
	}
	for _, p := range x.projects {
		number[p.name] = 0
	}
	all := make([]string, 0, len(number))
	for s := range number {
		all = append(all, s)
	}
	slices.Sort(all)
	for i, s := range all {
		number[s] = uint32(i)
	}
	return all, number
}

// writeSeries writes the pages of series: the ordinals before the first, then each series' labels and entry. Labels that are as many as those of the
// series before are coded as differences to them: sorted series go up in the last labels and stay in the others.
func (x *indexWriter) writeSeries(f *indexFileWriter, number []uint32) (dir []byte) {
	var before ordinals
	var raw []byte
	var last, refs []uint32
	var from, pageFrom kemi.Millis
	entries := headReader{b: x.entries}
	start := uint64(0)
	for i, end := range x.ends {
		if i%seriesPerPage == 0 {
			if i > 0 {
				dir = f.blob(raw, dir)
			}
			raw, last, pageFrom = raw[:0], last[:0], 0
			for _, o := range before[:2+ordinalsPerLevel*x.levels] {
				raw = binary.AppendUvarint(raw, uint64(o))
			}
		}
		refs = refs[:0]
		for _, r := range x.refs[start:end] {
			refs = append(refs, number[r])
		}
		start = end
		if i%seriesPerPage != 0 && len(refs) == len(last) {
			raw = binary.AppendUvarint(raw, uint64(len(refs))<<1|1)
			for j, r := range refs {
				raw = binary.AppendVarint(raw, int64(r)-int64(last[j]))
			}
		} else {
			raw = binary.AppendUvarint(raw, uint64(len(refs))<<1)
			prev := uint32(0)
			for _, r := range refs {
				raw = binary.AppendUvarint(raw, uint64(r-prev))
				prev = r
			}
		}
		last = append(last[:0], refs...)
		var e seriesEntry
		e.read(&entries, x.levels, &from)
		raw = e.append(raw, x.levels, &pageFrom)
		before.add(&e, x.levels)
	}
	if len(x.ends) > 0 {
		dir = f.blob(raw, dir)
	}
	return dir
}

// writePostings writes the series of each pair. Entries are page, offset, bytes; pairs of the same series share them.
func (x *indexWriter) writePostings(f *indexFileWriter, order []uint32) (entries, dir []byte) {
	starts := make([]uint64, len(x.pairs)+1)
	for i, p := range x.pairs {
		starts[i+1] = starts[i] + uint64(p.series)
	}
	all := make([]uint32, len(x.refs))
	at := slices.Clone(starts)
	begin := uint64(0)
	for i, end := range x.ends {
		for _, r := range x.refs[begin:end] {
			all[at[r]] = uint32(i)
			at[r]++
		}
		begin = end
	}
	type place struct{ page, offset, bytes uint32 }
	seen := map[xxh3.Uint128]place{}
	var raw, one []byte
	page := uint32(0)
	for _, p := range order {
		one = appendPostings(one[:0], all[starts[p]:starts[p+1]])
		key := xxh3.Hash128(one)
		where, ok := seen[key]
		if !ok {
			if len(raw) > 0 && len(raw)+len(one) > postingsPage {
				dir = f.blob(raw, dir)
				raw, page = raw[:0], page+1
			}
			where = place{page, uint32(len(raw)), uint32(len(one))}
			raw = append(raw, one...)
			seen[key] = where
		}
		entries = binary.LittleEndian.AppendUint32(entries, where.page)
		entries = binary.LittleEndian.AppendUint32(entries, where.offset)
		entries = binary.LittleEndian.AppendUint32(entries, where.bytes)
	}
	if len(raw) > 0 {
		dir = f.blob(raw, dir)
	}
	return entries, dir
}

// appendPostings codes ascending numbers as runs, if there are few of them, or as differences. The first byte says which.
func appendPostings(b []byte, list []uint32) []byte {
	runs := 0
	for i := range list {
		if i == 0 || list[i] != list[i-1]+1 {
			runs++
		}
	}
	last := uint32(0)
	if runs*2 > len(list) {
		b = append(b, 0)
		for _, n := range list {
			b = binary.AppendUvarint(b, uint64(n-last))
			last = n
		}
		return b
	}
	b = append(b, 1)
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && list[j] == list[j-1]+1 {
			j++
		}
		b = binary.AppendUvarint(b, uint64(list[i]-last))
		b = binary.AppendUvarint(b, uint64(j-i-1))
		last = list[j-1]
		i = j
	}
	return b
}
