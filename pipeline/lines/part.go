package lines

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/pattern"
)

// A part is a file: magic, blocks, footer in JSON, its length and CRC-32C, magic. docs/formats/lines.md says what the footer has.
const (
	partMagic   = "KEMILINE"
	partVersion = 1
	trailerSize = 4 + 4 + len(partMagic)
	partExt     = ".part"
	tempExt     = ".tmp"
	maxFooter   = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// footer is what a part says of itself.
type footer struct {
	Version   int           `json:"version"`
	Positions bus.Positions `json:"positions"`          // up to which all records are in this part or older ones
	Replaces  []uint64      `json:"replaces,omitempty"` // parts that do not count any more
	Blocks    []blockMeta   `json:"blocks"`
}

// blockMeta is what is known of a block without reading it.
type blockMeta struct {
	Project string     `json:"project"`
	At      int64      `json:"at"` // in the file
	Len     int64      `json:"len"`
	CRC     uint32     `json:"crc"`
	Records int        `json:"records"`
	Raw     int64      `json:"raw"`
	From    kemi.Nanos `json:"from"`
	To      kemi.Nanos `json:"to"`
	Batches []uint64   `json:"batches,omitempty"` // hashes of the names of the senders' batches that records are of, ascending
}

func (m *blockMeta) meta() pattern.Meta {
	return pattern.Meta{Project: m.Project, Records: m.Records, Raw: m.Raw, From: m.From, To: m.To}
}

func (m *blockMeta) full() bool { return m.Raw >= fullRaw || m.Records >= fullRecords }

// part is an open part. It is unmapped when the last who holds it lets it go.
type part struct {
	seq    uint64
	path   string
	data   []byte
	footer footer
	blocks []*block
	raw    int64
	refs   atomic.Int32
}

// block is a block of a part.
type block struct {
	blockMeta
	part  *part
	open  atomic.Pointer[pattern.Block]
	used  atomic.Int64
	bad   atomic.Bool  // it is damaged
	swept atomic.Int64 // for how many services it has been found to have no records that are over
}

func partPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", seq, partExt))
}

// partSeq is the number in the name of a part.
func partSeq(name string) (uint64, bool) {
	base, ok := strings.CutSuffix(name, partExt)
	if !ok || len(base) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(base, 16, 64)
	return n, err == nil
}

var errDamaged = errors.New("damaged")

// openPart opens a part; an error that wraps errDamaged says that it is none.
func openPart(path string, seq uint64) (*part, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := st.Size()
	if size < int64(len(partMagic)+trailerSize) {
		return nil, fmt.Errorf("%w: %d bytes", errDamaged, size)
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	p := &part{seq: seq, path: path, data: data}
	p.refs.Store(1)
	if err := p.readFooter(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (p *part) readFooter() error {
	size := int64(len(p.data))
	t := p.data[size-int64(trailerSize):]
	n := int64(binary.LittleEndian.Uint32(t))
	if string(p.data[:len(partMagic)]) != partMagic || string(t[8:]) != partMagic || n > maxFooter || n > size-int64(len(partMagic)+trailerSize) {
		return fmt.Errorf("%w: it does not end as a part does", errDamaged)
	}
	end := size - int64(trailerSize) - n
	raw := p.data[end : end+n]
	if crc32.Checksum(raw, castagnoli) != binary.LittleEndian.Uint32(t[4:]) {
		return fmt.Errorf("%w: its footer has another checksum", errDamaged)
	}
	if err := json.Unmarshal(raw, &p.footer); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if p.footer.Version != partVersion {
		return fmt.Errorf("%w: version %d, only %d is known", errDamaged, p.footer.Version, partVersion)
	}
	for _, m := range p.footer.Blocks {
		if m.At < int64(len(partMagic)) || m.Len < 0 || m.At > end || m.Len > end-m.At {
			return fmt.Errorf("%w: a block lies behind its end", errDamaged)
		}
		p.blocks = append(p.blocks, &block{blockMeta: m, part: p})
		p.raw += m.Raw
	}
	return nil
}

// position grows with the log of record: of two parts the one with the newer records has the greater.
func (p *part) position() (n int64) {
	for _, next := range p.footer.Positions {
		n += next
	}
	return n
}

func (p *part) acquire() { p.refs.Add(1) }

func (p *part) release() {
	if p.refs.Add(-1) == 0 {
		_ = syscall.Munmap(p.data)
		p.data = nil
	}
}

// bytes are the block as it lies in the file.
func (b *block) bytes() []byte { return b.part.data[b.At : b.At+b.Len] }

// check compares the block with its checksum.
func (b *block) check() error {
	if crc32.Checksum(b.bytes(), castagnoli) != b.CRC {
		return fmt.Errorf("%w: a block has another checksum", errDamaged)
	}
	return nil
}

// partWriter writes a part: blocks one after another, then finish.
type partWriter struct {
	dir    string
	seq    uint64
	f      *os.File
	at     int64
	footer footer
	step   func(string)
}

func newPartWriter(dir string, seq uint64, step func(string)) (*partWriter, error) {
	f, err := os.OpenFile(partPath(dir, seq)+tempExt, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w := &partWriter{dir: dir, seq: seq, f: f, footer: footer{Version: partVersion, Positions: bus.Positions{}, Blocks: []blockMeta{}}, step: step}
	return w, w.write([]byte(partMagic))
}

func (w *partWriter) write(b []byte) error {
	n, err := w.f.Write(b)
	w.at += int64(n)
	return err
}

// block appends a block that has been coded.
func (w *partWriter) block(data []byte, m pattern.Meta, batches []uint64) error {
	w.footer.Blocks = append(w.footer.Blocks, blockMeta{
		Project: m.Project, At: w.at, Len: int64(len(data)), CRC: crc32.Checksum(data, castagnoli), Records: m.Records, Raw: m.Raw, From: m.From, To: m.To, Batches: batches,
	})
	return w.write(data)
}

// copy appends a block as it is.
func (w *partWriter) copy(b *block) error {
	if err := b.check(); err != nil {
		return err
	}
	m := b.blockMeta
	m.At = w.at
	w.footer.Blocks = append(w.footer.Blocks, m)
	return w.write(b.bytes())
}

// finish makes the part durable under its name and opens it.
func (w *partWriter) finish() (*part, error) {
	raw, err := json.Marshal(w.footer)
	if err != nil {
		return nil, err
	}
	t := binary.LittleEndian.AppendUint32(nil, uint32(len(raw)))
	t = binary.LittleEndian.AppendUint32(t, crc32.Checksum(raw, castagnoli))
	if err := w.write(append(append(raw, t...), partMagic...)); err != nil {
		return nil, err
	}
	w.step("written")
	if err := w.f.Sync(); err != nil {
		return nil, err
	}
	if err := w.f.Close(); err != nil {
		return nil, err
	}
	w.f = nil
	w.step("synced")
	path := partPath(w.dir, w.seq)
	if err := os.Rename(path+tempExt, path); err != nil {
		return nil, err
	}
	w.step("renamed")
	if err := syncFolder(w.dir); err != nil {
		return nil, err
	}
	return openPart(path, w.seq)
}

// abandon removes what was written, if it was not finished.
func (w *partWriter) abandon() {
	if w.f != nil {
		_ = w.f.Close()
		w.f = nil
	}
	_ = os.Remove(partPath(w.dir, w.seq) + tempExt)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
