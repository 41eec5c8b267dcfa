package search

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blevesearch/bleve/v2/index/scorch"
	"github.com/blevesearch/bleve/v2/index/scorch/mergeplan"
	index "github.com/blevesearch/bleve_index_api"

	"kemi"
	"kemi/pipeline/bus"
)

// sliceState is kept in the slice's index with every batch.
type sliceState struct {
	Version   int           `json:"version"`
	Seq       uint64        `json:"seq"` // number of the last batch
	From      kemi.Nanos    `json:"from"`
	To        kemi.Nanos    `json:"to"`
	Records   int64         `json:"records"`
	Bytes     int64         `json:"bytes"` // of the blocks
	Positions bus.Positions `json:"positions"`
}

const stateVersion = 1

var stateKey = []byte("kemi")

// seqFile holds the number of the last batch beside the index. bleve opens an index as empty, or as it was earlier, when its files
// are damaged; a smaller number in the index than here tells.
const seqFile = "kemi.seq"

// slice is one bleve index. Its state and view belong to the flusher; readers take the view under Index.mu.
type slice struct {
	name  string // <day>-<number>
	dir   string
	index *scorch.Scorch
	state sliceState
	view  *view

	broken  chan struct{} // closed when a task of bleve's died: no batch will return any more
	breakMu sync.Once
	lastErr atomic.Pointer[string]
}

// bleve tells errors of its background tasks to a function that is registered by name for the whole process; it finds the slice by
// its folder.
var (
	asyncErrors     = "kemi/pipeline/search"
	registerErrors  sync.Once
	slicesByFolder  sync.Map
	persistErrPause = 200 * time.Millisecond
)

func onAsyncError(err error, path string) {
	v, ok := slicesByFolder.Load(path)
	if !ok {
		return
	}
	s := v.(*slice)
	text := err.Error()
	s.lastErr.Store(&text)
	if strings.Contains(text, string(scorch.ErrAsyncPanic)) {
		s.breakMu.Do(func() { close(s.broken) })
		return
	}
	time.Sleep(persistErrPause) // bleve tries again at once, and on a full disk again and again
}

func scorchConfig(dir string, readOnly bool) map[string]any {
	merge := mergeplan.DefaultMergePlanOptions
	merge.MaxSegmentSize = 4096 // documents, each a block: half a gigabyte of text
	merge.FloorSegmentSize = 16
	merge.MaxSegmentsPerTier = 8
	merge.SegmentsPerMergeTask = 8
	c := map[string]any{
		"path":                   dir,
		"bolt_timeout":           "2s",
		"asyncErrorCallbackName": asyncErrors,
		"scorchMergePlanOptions": map[string]any{
			"MaxSegmentsPerTier": merge.MaxSegmentsPerTier, "MaxSegmentSize": merge.MaxSegmentSize, "MaxSegmentFileSize": merge.MaxSegmentFileSize,
			"TierGrowth": merge.TierGrowth, "SegmentsPerMergeTask": merge.SegmentsPerMergeTask, "FloorSegmentSize": merge.FloorSegmentSize,
			"ReclaimDeletesWeight": merge.ReclaimDeletesWeight,
		},
	}
	if readOnly {
		c["read_only"] = true
	}
	return c
}

// openScorch opens the index in dir. What is damaged may make bleve panic.
func openScorch(dir string, queue *index.AnalysisQueue, readOnly bool) (s *scorch.Scorch, err error) {
	defer func() {
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("damaged: %v", p)
		}
	}()
	registerErrors.Do(func() { scorch.RegistryAsyncErrorCallbacks[asyncErrors] = onAsyncError })
	i, err := scorch.NewScorch(scorch.Name, scorchConfig(dir, readOnly), queue)
	if err != nil {
		return nil, err
	}
	if err := i.Open(); err != nil {
		return nil, err
	}
	return i.(*scorch.Scorch), nil
}

// openSlice opens a slice that is there, or makes it. An error means that it is damaged; its files are then as they were.
func openSlice(dir string, queue *index.AnalysisQueue) (*slice, error) {
	wanted, known := uint64(0), false
	if b, err := os.ReadFile(filepath.Join(dir, seqFile)); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			wanted, known = n, true
		}
	}
	_, err := os.Stat(filepath.Join(dir, "root.bolt"))
	if err == nil {
		// Opened to write, bleve would delete what it cannot read. So look first.
		ro, err := openScorch(dir, queue, true)
		if err != nil {
			return nil, err
		}
		state, err := readState(ro)
		if e := ro.Close(); err == nil {
			err = e
		}
		if err != nil {
			return nil, err
		}
		if known && state.Seq < wanted {
			return nil, fmt.Errorf("damaged: holds batch %d and should hold %d", state.Seq, wanted)
		}
	} else if known && wanted > 0 {
		return nil, fmt.Errorf("damaged: root.bolt is missing")
	}
	s := &slice{name: filepath.Base(dir), dir: dir, broken: make(chan struct{})}
	if s.index, err = openScorch(dir, queue, false); err != nil {
		return nil, err
	}
	if s.state, err = readState(s.index); err == nil {
		err = s.refresh()
	}
	if err != nil {
		_ = s.index.Close()
		return nil, err
	}
	slicesByFolder.Store(dir, s)
	return s, nil
}

func readState(i *scorch.Scorch) (st sliceState, err error) {
	r, err := i.Reader()
	if err != nil {
		return st, err
	}
	defer r.Close()
	b, err := r.GetInternal(stateKey)
	if err != nil || b == nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("damaged: state: %w", err)
	}
	if st.Version > stateVersion {
		return st, fmt.Errorf("written by a newer version (format %d, this is %d)", st.Version, stateVersion)
	}
	return st, nil
}

// sliceDay is when the slice of that name was begun.
func sliceDay(name string) (time.Time, error) {
	if len(name) < len(time.DateOnly) {
		return time.Time{}, fmt.Errorf("slice %q: name is not <day>-<number>", name)
	}
	return time.Parse(time.DateOnly, name[:len(time.DateOnly)])
}

// apply puts a batch into the index and returns when it is durable, or when it is known that it is not yet: then settled tells when
// it is (nil: it did not get into the index at all and has to be applied again).
func (s *slice) apply(b *index.Batch) (settled <-chan struct{}, err error) {
	persisted := make(chan struct{})
	var once sync.Once
	b.SetPersistedCallback(func(error) { once.Do(func() { close(persisted) }) })
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("damaged: %v", p)
			}
		}()
		done <- s.index.Batch(b)
	}()
	select {
	case err = <-done:
	case <-s.broken:
		return nil, fmt.Errorf("slice %s: %s", s.name, *s.lastErr.Load())
	}
	if err == nil {
		return nil, nil
	}
	err = fmt.Errorf("slice %s: %w", s.name, err)
	if now, e := readState(s.index); e == nil && string(b.InternalOps[string(stateKey)]) == mustJSON(now) {
		return persisted, err
	}
	return nil, err
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) //nolint:forbidigo // of plain structs only
	}
	return string(b)
}

// noteSeq writes down which batch the index holds. It is not synced: an older number says less, but nothing wrong.
func (s *slice) noteSeq() error {
	return os.WriteFile(filepath.Join(s.dir, seqFile), strconv.AppendUint(nil, s.state.Seq, 10), 0o600)
}

// refresh makes a view of the index as it is now.
func (s *slice) refresh() error {
	r, err := s.index.Reader()
	if err != nil {
		return err
	}
	snap, ok := r.(*scorch.IndexSnapshot)
	if !ok || snap == nil {
		return fmt.Errorf("slice %s: is closed", s.name)
	}
	if s.view != nil && s.view.reader == snap {
		return snap.Close()
	}
	v := newView(s, snap, s.view)
	old := s.view
	s.view = v
	if old != nil {
		return old.reader.Close()
	}
	return nil
}

func (s *slice) close() error {
	slicesByFolder.Delete(s.dir)
	err := s.index.Close()
	if s.view != nil {
		if e := s.view.reader.Close(); err == nil {
			err = e
		}
	}
	return err
}

// diskBytes is what the files of the slice take.
func (s *slice) diskBytes() int64 { return folderBytes(s.dir) }

func folderBytes(dir string) (n int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}
