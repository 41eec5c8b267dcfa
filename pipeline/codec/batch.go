// Package codec is the formats of records on the log: remote-write bodies for metrics, OpenTelemetry logs, CloudEvents.
// Receivers use it to check and to encode what comes in, the pipeline to decode what it reads; so both have one meaning.
// docs/formats/bus.md says what each topic holds.
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
	// LastUsed is when a batch last mentioned it (Unix seconds); the table forgets entries that rest.
	LastUsed atomic.Int64

	hashHigh uint64
	enrich   atomic.Pointer[enrichment]
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

	// labels gives the labels of Series[i], project and enrichment included, when the store does not know it yet.
	labels func(i int) kemi.Labels
}

// Labels are the labels of Series[i], with what enrichment adds, without the project. It parses: call it for unknown
// series only.
func (b *SeriesBatch) Labels(i int) kemi.Labels { return b.labels(i) }
