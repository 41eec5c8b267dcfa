package settled

import (
	"encoding/json"
	"fmt"
	"slices"

	"kemi"
)

// Ref is a series in one block. Refs ascend in the order of (project, labels), without gaps.
type Ref uint32

// Series is a series with its samples.
type Series struct {
	Project string
	Labels  kemi.Labels

	// At is strictly ascending, Values is as long. Values may be any bits; a stale marker (Prometheus) is a sample like others here.
	At     []kemi.Millis
	Values []float64

	// Histograms ascend and do not overlap.
	Histograms []Histograms
}

// Histograms is a stretch of native histograms: a chunk of the TSDB, whose bytes are kept as they are.
type Histograms struct {
	From, To kemi.Millis // the first and the last sample; both are in it
	Samples  int
	Encoding uint8 // chunkenc.Encoding
	Chunk    []byte
}

// Options are how a block is written.
type Options struct {
	// Levels are the widths of the rollups' buckets, ascending. Of a series those are written that pay for their room: see MinPerBucket.
	Levels []kemi.Millis
	// MinPerBucket is how many samples a bucket of the widest level must have on average for a series to get it: a bucket takes the room of some six
	// samples, and reading raw ones is quick. MinNarrow is the same for the other levels, of which a series has those that are minWiden times narrower than
	// the next that it has.
	MinPerBucket, MinNarrow int
	// ChunkSamples is how many samples of a series are coded together at most, PageSamples how many samples a page gathers. A page is the unit
	// that is read.
	ChunkSamples, PageSamples int
}

// DefaultOptions are good for blocks of a day and more. A series with a sample in 15 s or in a minute has rollups of an hour, one with a sample in 5 s
// of a quarter of an hour as well.
func DefaultOptions() Options {
	return Options{Levels: []kemi.Millis{15 * 60e3, 60 * 60e3}, MinPerBucket: 48, MinNarrow: 96, ChunkSamples: defaultChunkSamples, PageSamples: 3 << 13}
}

// minWiden is how many times as wide as the next level below it a level must be for both to be written.
const minWiden = 4

const (
	defaultChunkSamples = 1 << 12
	maxChunkSamples     = 1 << 14
	maxPageSamples      = 1 << 18
	maxLevels           = 8
)

// Validate names the field that cannot be.
func (o Options) Validate() error {
	switch {
	case len(o.Levels) > maxLevels:
		return kemi.Errorf(kemi.ErrInvalid, "settled: levels: %d of them: at most %d", len(o.Levels), maxLevels)
	case o.MinPerBucket < 1:
		return kemi.Errorf(kemi.ErrInvalid, "settled: min_per_bucket: %d: at least 1", o.MinPerBucket)
	case o.MinNarrow < 1:
		return kemi.Errorf(kemi.ErrInvalid, "settled: min_narrow: %d: at least 1", o.MinNarrow)
	case o.ChunkSamples < 16 || o.ChunkSamples > maxChunkSamples:
		return kemi.Errorf(kemi.ErrInvalid, "settled: chunk_samples: %d: from 16 to %d", o.ChunkSamples, maxChunkSamples)
	case o.PageSamples < o.ChunkSamples || o.PageSamples > maxPageSamples:
		return kemi.Errorf(kemi.ErrInvalid, "settled: page_samples: %d: from chunk_samples (%d) to %d", o.PageSamples, o.ChunkSamples, maxPageSamples)
	}
	for i, l := range o.Levels {
		if l <= 0 || i > 0 && (l <= o.Levels[i-1] || l%o.Levels[i-1] != 0) {
			return kemi.Errorf(kemi.ErrInvalid, "settled: levels: %d ms: each must be a multiple of the one before", l)
		}
	}
	return nil
}

// Version is of the format that is written; those from 1 on are read.
const Version = 2

// Meta is what a block says of itself: meta.json.
type Meta struct {
	Version          int             `json:"version"`
	From             kemi.Millis     `json:"from"` // of the samples; half open
	To               kemi.Millis     `json:"to"`
	Series           int64           `json:"series"`
	Samples          int64           `json:"samples"` // without those in histograms
	HistogramSamples int64           `json:"histogram_samples,omitempty"`
	Bytes            int64           `json:"bytes"` // of the files, but for meta.json
	RollupBytes      int64           `json:"rollup_bytes"`
	IndexBytes       int64           `json:"index_bytes"`
	Levels           []kemi.Millis   `json:"levels"`
	Info             json.RawMessage `json:"info,omitempty"` // of who made the block
}

// Range is From and To.
func (m Meta) Range() kemi.Range { return kemi.Range{From: m.From, To: m.To} }

// CorruptError is what a reader finds that a writer cannot have written.
type CorruptError struct {
	File   string
	Offset int64
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("settled block is damaged: %s at byte %d: %s", e.File, e.Offset, e.Reason)
}

// Columns are samples.
type Columns struct {
	At     []kemi.Millis
	Values []float64
}

// Reset empties them and keeps their room.
func (c *Columns) Reset() { c.At, c.Values = c.At[:0], c.Values[:0] }

// compare orders series.
func compare(project string, labels kemi.Labels, project2 string, labels2 kemi.Labels) int {
	if project != project2 {
		if project < project2 {
			return -1
		}
		return 1
	}
	return labels.Compare(labels2)
}

func grow[T any](s []T, n int) []T { return slices.Grow(s, n)[:len(s)+n] }
