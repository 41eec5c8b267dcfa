package settled

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"kemi"
)

// Block is a block that is open. Its methods may be called concurrently, while the caller has a reference.
type Block struct {
	dir     string
	meta    Meta
	index   *index
	data    *os.File
	refs    atomic.Int64
	cursors sync.Pool
}

// Open opens the block in the folder dir, with one reference. Its index is mapped, nothing is read ahead; all of the index but its pages is verified.
func Open(dir string) (_ *Block, err error) {
	b := &Block{dir: dir}
	defer func() {
		if err != nil {
			b.release()
			err = fmt.Errorf("open block %s: %w", dir, err)
		}
	}()
	raw, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &b.meta); err != nil {
		return nil, &CorruptError{File: filepath.Join(dir, metaFile), Reason: err.Error()}
	}
	if b.meta.Version < 1 || b.meta.Version > Version {
		return nil, kemi.Errorf(kemi.ErrInvalid, "version %d: this program reads versions up to %d", b.meta.Version, Version)
	}
	if err := (Options{Levels: b.meta.Levels, MinPerBucket: 1, MinNarrow: 1, ChunkSamples: 16, PageSamples: 16}).Validate(); err != nil {
		return nil, &CorruptError{File: filepath.Join(dir, metaFile), Reason: err.Error()}
	}
	if b.index, err = openIndex(filepath.Join(dir, indexFile), len(b.meta.Levels)); err != nil {
		return nil, err
	}
	if b.data, err = os.Open(filepath.Join(dir, dataFile)); err != nil {
		return nil, err
	}
	var h [fileHeader]byte
	if _, err := io.ReadFull(b.data, h[:]); err != nil {
		return nil, &CorruptError{File: b.data.Name(), Reason: "it is too short"}
	}
	if err := checkHeader(h[:], dataMagic, b.data.Name()); err != nil {
		return nil, err
	}
	b.refs.Store(1)
	return b, nil
}

// Meta is what the block says of itself.
func (b *Block) Meta() Meta { return b.meta }

// Dir is its folder.
func (b *Block) Dir() string { return b.dir }

// Acquire takes one more reference. It returns false if the last was given back.
func (b *Block) Acquire() bool {
	for {
		n := b.refs.Load()
		if n <= 0 {
			return false
		}
		if b.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Close gives a reference back. With the last one the files are closed; the folder may be deleted at any time.
func (b *Block) Close() error {
	switch n := b.refs.Add(-1); {
	case n > 0:
		return nil
	case n < 0:
		b.refs.Add(1)
		return errors.New("block " + b.dir + ": closed more often than opened")
	}
	return b.release()
}

func (b *Block) release() error {
	if b.index != nil {
		seriesPages.forget(b.index)
		fronts.forget(b.index)
		b.index.close()
	}
	if b.data != nil {
		return b.data.Close()
	}
	return nil
}

// Projects are sorted.
func (b *Block) Projects() []string {
	out := make([]string, b.index.projects())
	for i := range out {
		out[i] = b.index.string(b.index.u32(secProjects, 3*i))
	}
	return out
}

// All is the refs of a project: from, and up to but without to.
func (b *Block) All(project string) (from, to Ref) {
	from, to, _, _, _ = b.index.project(project)
	return from, to
}

// page makes the page of a series the current one, and gives its place there.
func (c *Cursor) page(ref Ref) (int, error) {
	b := c.block
	if uint32(ref) >= b.index.series {
		return 0, kemi.Errorf(kemi.ErrNotFound, "block %s: series %d of %d", b.dir, ref, b.index.series)
	}
	if n := int(ref / seriesPerPage); c.series == nil || c.series.number != n {
		p, err := b.index.seriesPage(n)
		if err != nil {
			return 0, err
		}
		c.series = p
	}
	return int(ref % seriesPerPage), nil
}

// Labels are the project and the labels of a series. They outlive the block. A Cursor has the same and is quicker for many.
func (b *Block) Labels(ref Ref) (project string, ls kemi.Labels, err error) {
	c := b.Cursor()
	defer c.Close()
	ls, err = c.Labels(ref, nil)
	if err != nil {
		return "", nil, err
	}
	return b.index.string(b.index.u32(secProjects, 3*b.index.projectOf(ref))), ls, nil
}
