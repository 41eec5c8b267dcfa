package codec

import "kemi"

// Complex is what a batch holds beside plain float samples. A Series field is an index into SeriesBatch.Series.
type Complex struct {
	Histograms []Histogram
	Exemplars  []Exemplar
	Metadata   []Metadata
	// Starts says since when the counter behind a sample counts: as long as SeriesBatch.At, 0 where it is not known. Nil if
	// no sample says so.
	Starts []kemi.Millis
}

// Metadata is what a sender says of a metric.
type Metadata struct {
	Metric string
	Type   string // counter, gauge, histogram, gaugehistogram, summary, info, stateset or unknown
	Unit   string
	Help   string
}

// Exemplar is an example of what a series has counted: usually the trace of one request.
type Exemplar struct {
	Series int32
	Labels kemi.Labels
	Value  float64
	At     kemi.Millis // 0 if the sender does not say
}

// Histogram is a native histogram of Prometheus: of whole counts, where buckets are kept as differences, or, if Float, of
// float counts. What the fields mean stands in the remote-write specification.
type Histogram struct {
	Series int32
	At     kemi.Millis
	Start  kemi.Millis // since when it counts; 0 = not known
	Float  bool
	Hint   ResetHint

	Schema        int32
	ZeroThreshold float64
	Sum           float64

	// Of whole counts.
	Count, ZeroCount uint64
	PositiveDeltas   []int64
	NegativeDeltas   []int64

	// If Float.
	FloatCount, FloatZeroCount float64
	PositiveCounts             []float64
	NegativeCounts             []float64

	PositiveSpans []Span
	NegativeSpans []Span
	CustomValues  []float64
}

// Span is a stretch of buckets that follow one another.
type Span struct {
	Offset int32  // gap to the one before, or the first bucket's index
	Length uint32 // how many
}

// ResetHint says whether the counts of a histogram began anew.
type ResetHint uint8

// The hints, with the numbers of the wire and of Prometheus.
const (
	ResetUnknown ResetHint = iota
	ResetYes
	ResetNo
	ResetGauge
)

// metadataTypes by their number on the wire, which both versions of remote write share.
var metadataTypes = [...]string{"unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"}
