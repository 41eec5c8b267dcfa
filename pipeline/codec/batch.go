// Package codec is the formats of records on the log: remote-write bodies for metrics, OpenTelemetry logs, CloudEvents.
// Receivers use it to check and to encode what comes in, the pipeline to decode what it reads; so both have one meaning.
// docs/formats/bus.md says what each topic holds.
//
// The idea behind the metrics: a sender writes the same label bytes with every scrape, so a series is found by their hash
// and nothing of them is parsed, or allocated, a second time.
package codec

import (
	"sync/atomic"

	"kemi"
)

// Series is one series as its senders write it: the entry of a Table, found by the hash of its raw label bytes. It is
// shared by all batches that mention it.
type Series struct {
	// Ref is for the store: what it has put there it finds again with the next batch. 0 = nothing yet.
	Ref atomic.Uint64
	// Newest is for the store as well: the time in milliseconds of the newest sample that it has put there for this series, or 0
	// if it does not know.
	Newest atomic.Int64
	// LastUsed is when a batch last mentioned it (Unix seconds, to about a minute); the table forgets entries that rest.
	LastUsed atomic.Int64

	raw   []byte                 // the label fields of a remote-write 1.0 series
	next  atomic.Pointer[Series] // what followed it in a request the last time
	low2  atomic.Uint64          // the key by which version 2 finds it, if it was found so; raw says what it is
	high2 atomic.Uint64
	added *addition              // what enrichment adds to raw, or nil
	host  *host                  // of the label host, or nil
	other atomic.Pointer[Series] // the same raw labels with something else added
	refs  atomic.Int32           // slots that hold it
	valid atomic.Bool            // a receiver has checked the labels
	meta  atomic.Uint64          // hash of the metadata that the log has of it
}

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

// Labels are the labels of Series[i], with what enrichment adds, without the project. It parses: call it for unknown
// series only.
func (b *SeriesBatch) Labels(i int) kemi.Labels { return b.Series[i].Labels() }

// Span is where the samples of Series[i] lie in At and Values. It may be empty: a series may have nothing but histograms.
func (b *SeriesBatch) Span(i int) (from, to int) {
	if i > 0 {
		from = int(b.Ends[i-1])
	}
	return from, int(b.Ends[i])
}

// Labels are the labels of the series with what enrichment adds. It parses.
func (s *Series) Labels() kemi.Labels {
	ls := make(kemi.Labels, 0, 16)
	ls, _ = appendLabels(ls, s.raw)
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
