package search

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// head is records in memory. Readers see a prefix of records, which is not changed any more; dead and superseded are replaced when they
// change, never changed.
type head struct {
	records   []kemi.LogRecord
	dead      map[int32]struct{} // replaced by a later one
	byID      map[uint64]int32
	bytes     int64
	positions bus.Positions
	since     time.Time // when the first record came, or the position moved

	// superseded are the keys of records that lie in a slice, or in the head before this one, and have been replaced by one here.
	superseded map[string]struct{}

	docs []*document // what it becomes, once it is being written
}

func newHead() *head {
	return &head{byID: map[uint64]int32{}, positions: bus.Positions{}}
}

func recordBytes(r *kemi.LogRecord) int64 {
	n := len(r.Body) + len(r.ID) + len(r.TraceID) + len(r.SpanID) + 128
	for _, l := range r.Attrs {
		n += len(l.Name) + len(l.Value) + 32
	}
	return int64(n)
}

// find is the record with that ID, or nil.
func (h *head) find(project, id string) *kemi.LogRecord {
	if h == nil {
		return nil
	}
	if i, ok := h.byID[recordHash(project, id)]; ok {
		if r := &h.records[i]; r.ID == id && r.Project == project {
			return r
		}
	}
	return nil
}

// add takes r; one with the same ID in this head is dead then.
func (h *head) add(r kemi.LogRecord) {
	key := recordHash(r.Project, r.ID)
	if i, ok := h.byID[key]; ok && h.records[i].ID == r.ID && h.records[i].Project == r.Project {
		dead := maps.Clone(h.dead)
		if dead == nil {
			dead = map[int32]struct{}{}
		}
		dead[i] = struct{}{}
		h.dead = dead
	}
	h.byID[key] = int32(len(h.records))
	h.records = append(h.records, r)
	h.bytes += recordBytes(&r)
}

func (h *head) supersede(keys []string) {
	if len(keys) == 0 {
		return
	}
	s := maps.Clone(h.superseded)
	if s == nil {
		s = map[string]struct{}{}
	}
	for _, k := range keys {
		s[k] = struct{}{}
	}
	h.superseded = s
}

// live are the records that were not replaced.
func (h *head) live() []kemi.LogRecord {
	if len(h.dead) == 0 {
		return h.records
	}
	out := make([]kemi.LogRecord, 0, len(h.records))
	for i := range h.records {
		if _, dead := h.dead[int32(i)]; !dead {
			out = append(out, h.records[i])
		}
	}
	return out
}

// The size of a block.
const (
	blockBytes   = 128 << 10
	blockRecords = 4096
)

// documents cuts the head into blocks, numbered from seq: records of one project and, within it, of one stream stand together.
func (h *head) documents(seq uint64) []*document {
	live := h.live()
	order := make([]*kemi.LogRecord, len(live))
	for i := range live {
		order[i] = &live[i]
	}
	slices.SortStableFunc(order, func(a, b *kemi.LogRecord) int {
		if a.Project != b.Project {
			return strings.Compare(a.Project, b.Project)
		}
		if len(a.Stream) == 0 || len(b.Stream) == 0 || &a.Stream[0] != &b.Stream[0] { // often shared
			if c := a.Stream.Compare(b.Stream); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.At, b.At)
	})
	records := make([]kemi.LogRecord, len(order))
	for i, r := range order {
		records[i] = *r
	}
	var docs []*document
	for from := 0; from < len(records); {
		to, size := from, int64(0)
		for to < len(records) && to-from < blockRecords && records[to].Project == records[from].Project {
			n := recordBytes(&records[to]) - 128
			if to > from && size+n > blockBytes {
				break
			}
			size += n
			to++
		}
		docs = append(docs, newDocument(docID(seq, len(docs)), records[from:to]))
		from = to
	}
	return docs
}

// headView is a head as a reader sees it.
type headView struct {
	records []kemi.LogRecord
	dead    map[int32]struct{}
	hidden  map[string]struct{} // superseded by a later head
}

func sameRecord(a, b *kemi.LogRecord) bool {
	return a.At == b.At && a.Severity == b.Severity && a.Body == b.Body && a.TraceID == b.TraceID && a.SpanID == b.SpanID &&
		a.Stream.Compare(b.Stream) == 0 && a.Attrs.Compare(b.Attrs) == 0
}
