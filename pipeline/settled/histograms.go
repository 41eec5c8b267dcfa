package settled

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

// Chunks of histograms stay as they are unless they must be cut or overlap: then their samples are coded anew by the library.

// histogramSample is one sample of a chunk.
type histogramSample struct {
	at, start int64
	encoding  chunkenc.Encoding
	whole     *histogram.Histogram
	float     *histogram.FloatHistogram
}

func histogramSamples(c Histograms, out []histogramSample) ([]histogramSample, error) {
	chunk, err := chunkenc.FromData(chunkenc.Encoding(c.Encoding), c.Chunk)
	if err != nil {
		return out, fmt.Errorf("chunk of histograms: %w", err)
	}
	it := chunk.Iterator(nil)
	for {
		s := histogramSample{encoding: chunk.Encoding()}
		switch it.Next() {
		case chunkenc.ValHistogram:
			s.at, s.whole = it.AtHistogram(nil)
		case chunkenc.ValFloatHistogram:
			s.at, s.float = it.AtFloatHistogram(nil)
		case chunkenc.ValNone:
			return out, it.Err()
		default:
			return out, fmt.Errorf("chunk of histograms: encoding %s", chunk.Encoding())
		}
		s.start = it.AtST()
		out = append(out, s)
	}
}

// mergeHistograms makes one ascending list of several, given one after another. Of chunks with the same bytes one stays; samples of those that
// overlap otherwise are merged, and of the same time that of the earlier chunk in the list stays.
func mergeHistograms(all []Histograms) ([]Histograms, error) {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(all[a].From, all[b].From) })
	var out []Histograms
	for i := 0; i < len(order); {
		first := &all[order[i]]
		j, to := i+1, first.To
		same := true
		for j < len(order) && all[order[j]].From <= to {
			c := &all[order[j]]
			to = max(to, c.To)
			same = same && c.From == first.From && c.To == first.To && slices.Equal(c.Chunk, first.Chunk)
			j++
		}
		if j == i+1 || same {
			out = append(out, *first)
			i = j
			continue
		}
		overlap := order[i:j]
		slices.Sort(overlap) // back in the order of the sources
		var samples []histogramSample
		for _, n := range overlap {
			var err error
			if samples, err = histogramSamples(all[n], samples); err != nil {
				return nil, err
			}
		}
		slices.SortStableFunc(samples, func(a, b histogramSample) int { return cmp.Compare(a.at, b.at) })
		samples = slices.CompactFunc(samples, func(a, b histogramSample) bool { return a.at == b.at })
		var err error
		if out, err = appendHistograms(out, samples); err != nil {
			return nil, err
		}
		i = j
	}
	return out, nil
}

// cutHistograms keeps the samples within keep that are not in any of drop.
func cutHistograms(all []Histograms, keep kemi.Range, drop []kemi.Range) ([]Histograms, error) {
	var out []Histograms
	for _, c := range all {
		whole := c.From >= keep.From && c.To < keep.To
		for _, d := range drop {
			whole = whole && (c.To < d.From || c.From >= d.To)
		}
		if whole {
			out = append(out, c)
			continue
		}
		samples, err := histogramSamples(c, nil)
		if err != nil {
			return nil, err
		}
		samples = slices.DeleteFunc(samples, func(s histogramSample) bool {
			at := kemi.Millis(s.at)
			return !keep.Contains(at) || slices.ContainsFunc(drop, func(d kemi.Range) bool { return d.Contains(at) })
		})
		if out, err = appendHistograms(out, samples); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendHistograms codes samples in chunks, as large as the library's own.
func appendHistograms(out []Histograms, samples []histogramSample) ([]Histograms, error) {
	var chunk chunkenc.Chunk
	var app chunkenc.Appender
	first := 0
	finish := func(end int) {
		if chunk != nil && end > first {
			out = append(out, Histograms{
				From: kemi.Millis(samples[first].at), To: kemi.Millis(samples[end-1].at), Samples: end - first,
				Encoding: uint8(chunk.Encoding()), Chunk: slices.Clone(chunk.Bytes()),
			})
		}
		first = end
	}
	for i, s := range samples {
		full := chunk != nil && len(chunk.Bytes()) > chunkenc.TargetBytesPerHistogramChunk && i-first >= chunkenc.MinSamplesPerHistogramChunk
		if chunk == nil || chunk.Encoding() != s.encoding || full {
			finish(i)
			var err error
			if chunk, err = chunkenc.NewEmptyChunk(s.encoding); err != nil {
				return nil, fmt.Errorf("chunk of histograms: %w", err)
			}
			if app, err = chunk.Appender(); err != nil {
				return nil, fmt.Errorf("chunk of histograms: %w", err)
			}
		}
		var next chunkenc.Chunk
		var recoded bool
		var err error
		if s.whole != nil {
			next, recoded, app, err = app.AppendHistogram(nil, s.start, s.at, s.whole, false)
		} else {
			next, recoded, app, err = app.AppendFloatHistogram(nil, s.start, s.at, s.float, false)
		}
		if err != nil {
			return nil, fmt.Errorf("chunk of histograms: %w", err)
		}
		if next != nil {
			if !recoded {
				finish(i)
			}
			chunk = next
		}
	}
	finish(len(samples))
	return out, nil
}
