// Package codec is the formats of records on the log: remote-write bodies for metrics, OpenTelemetry logs, CloudEvents.
// Receivers use it to check and to encode what comes in, the pipeline to decode what it reads; so both have one meaning.
// docs/formats/bus.md says what each topic holds.
//
// The idea behind the metrics: a sender writes the same label bytes with every scrape, so a series is found by their hash
// and nothing of them is parsed, or allocated, a second time.
package codec

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/zeebo/xxh3"

	"kemi"
)

// Series is one series as its senders write it: the entry of a Table, found by the hash of its raw label bytes. It is
// shared by all batches that mention it.
type Series struct {
	// Ref is for the store: what it has put there it finds again with the next batch. 0 = nothing yet.
	Ref atomic.Uint64
	// LastUsed is when a batch last mentioned it (Unix seconds, to about a minute); the table forgets entries that rest.
	LastUsed atomic.Uint32
	flags    atomic.Uint32

	key   xxh3.Uint128           // the hash of its raw labels
	raw   atomic.Pointer[byte]   // its raw labels, size bytes: the label fields of a remote-write 1.0 series. Nil once the store has them
	next  atomic.Pointer[Series] // what followed it in a request the last time
	high2 atomic.Uint64          // 64 bits of the key by which version 2 or a Builder found it last, if one did
	added *addition              // what enrichment adds to the raw labels, or nil
	host  *host                  // of the label host, or nil
	other atomic.Pointer[Series] // the same raw labels with something else added
	meta  atomic.Uint64          // hash of the metadata that the log has of it
	refs  atomic.Int32           // slots that hold it
	size  int32
} // 96 bytes, which is a size that the runtime has: with one more word each would take 112

// The flags of a Series.
const (
	valid    = 1 << iota // a receiver has checked the labels
	keep                 // the raw labels are needed for bodies that a Builder makes
	admitted             // a place was taken for it, and the store has not made it yet
)

func (s *Series) is(flag uint32) bool { return s.flags.Load()&flag != 0 }

// ErrLabelsWanted says that the store needs the labels of a series again which it had let the Table forget. What is decoded from then on
// has them: decode the record anew, not its Local, and append it again.
var ErrLabelsWanted = kemi.Errorf(kemi.ErrUnavailable, "labels of a series are wanted again")

// bytes are the raw labels, or nil if the store has them now.
func (s *Series) bytes() []byte {
	p := s.raw.Load()
	if p == nil {
		return nil
	}
	return unsafe.Slice(p, s.size)
}

// give brings the raw labels back.
func (s *Series) give(raw []byte) {
	if len(raw) > 0 && s.raw.Load() == nil {
		s.raw.CompareAndSwap(nil, unsafe.SliceData(slices.Clone(raw)))
	}
}

// HasLabels tells whether Labels can be asked for.
func (s *Series) HasLabels() bool { return s.size == 0 || s.raw.Load() != nil }

// LetGo is for the store: it has the labels itself, so they need not be kept here too. They are about as much as all else of an entry.
func (s *Series) LetGo() {
	p := s.raw.Load()
	if p == nil || s.added != nil || s.is(keep) {
		return
	}
	s.raw.Store(nil)
	if s.is(keep) { // a Builder came in between
		s.raw.CompareAndSwap(nil, p)
	}
}

// Admitted tells the store, once, that a place was taken for the series: see SeriesLimit.
func (s *Series) Admitted() bool {
	return s.is(admitted) && s.flags.And(^uint32(admitted))&admitted != 0
}

// Want is for the store: it needs the labels again. See ErrLabelsWanted.
func (s *Series) Want() { s.flags.And(^uint32(valid)) }

// SeriesBatch is samples in columns, as they came in one request. Series[i] has the samples [Ends[i-1], Ends[i]) of At and
// Values. It does not change after it was made.
type SeriesBatch struct {
	Project string
	Series  []*Series
	Ends    []int32
	At      []kemi.Millis
	Values  []float64

	// Complex holds what is not a plain float sample (native histograms, exemplars, metadata), or nil.
	Complex *Complex

	// Skipped is how many series of a record could not be read: a receiver refuses such ones, but others may write to the log.
	Skipped int
}

// MemoryBytes is about how much memory the batch holds, the series aside.
func (b *SeriesBatch) MemoryBytes() int64 {
	n := int64(12*len(b.Series) + 16*len(b.At) + 256)
	if c := b.Complex; c != nil {
		n += int64(8*len(c.Starts) + 96*len(c.Metadata) + 256*len(c.Exemplars))
		for i := range c.Metadata {
			n += int64(len(c.Metadata[i].Help))
		}
		for i := range c.Histograms {
			h := &c.Histograms[i]
			n += int64(256 + 8*(len(h.PositiveDeltas)+len(h.NegativeDeltas)+len(h.PositiveCounts)+len(h.NegativeCounts)+len(h.PositiveSpans)+len(h.NegativeSpans)+len(h.CustomValues)))
		}
	}
	return n
}

// batches are those that nobody uses any more.
var batches sync.Pool

// Recycle says that nobody uses the batch any more: its memory becomes that of another. Nobody has to call it.
func (b *SeriesBatch) Recycle() {
	if cap(b.At) > maxKeptBuffer/16 || cap(b.Series) > maxKeptBuffer/16 {
		return
	}
	clear(b.Series) // they may be forgotten meanwhile
	b.Complex = nil
	batches.Put(b)
}

// Labels are the labels of Series[i], with what enrichment adds, without the project. It parses: call it for unknown
// series only. There are none if the store has let them go.
func (b *SeriesBatch) Labels(i int) kemi.Labels { return b.Series[i].Labels() }

// Span is where the samples of Series[i] lie in At and Values. It may be empty: a series may have nothing but histograms.
func (b *SeriesBatch) Span(i int) (from, to int) {
	if i > 0 {
		from = int(b.Ends[i-1])
	}
	return from, int(b.Ends[i])
}

// Labels are the labels of the series with what enrichment adds. It parses. There are none if the store has let them go: HasLabels.
func (s *Series) Labels() kemi.Labels { return s.AppendLabels(make(kemi.Labels, 0, 16)) }

// AppendLabels is Labels in dst, which must be empty, if that has room.
func (s *Series) AppendLabels(dst kemi.Labels) kemi.Labels {
	ls, _ := appendLabels(dst, s.bytes())
	ls = ls.Normalize()
	if s.added != nil {
		for _, l := range s.added.labels {
			if !ls.Has(l.Name) {
				ls = ls.With(l.Name, l.Value)
			}
		}
	}
	return ls
}
