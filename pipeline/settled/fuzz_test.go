package settled

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"kemi"
	"kemi/pipeline/store"
)

// somePages are pages of values, times and rollups as a writer makes them, with segments and without.
func somePages(t testing.TB) (pages [][]byte) {
	z, err := newZstd(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range [][]Series{someSeries(rand.New(rand.NewPCG(31, 32)), 2, 60), noisy(9, 300)} {
		o := smallOptions()
		o.PageSamples = 1 << 13
		w, err := Create(filepath.Join(t.TempDir(), "block"), o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range series {
			if err := w.Add(&series[i]); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range w.pages {
			if p != nil && p.chunks > 0 {
				pages = append(pages, p.appendPage(nil, z))
			}
		}
		w.Abort()
	}
	return pages
}

// Whatever a page says that passes the checksum, to read it is an error or some samples, never a panic.
func FuzzPage(f *testing.F) {
	for _, p := range somePages(f) {
		f.Add(p)
	}
	scratch := make([]int64, maxChunkSamples)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < pageHeader {
			return
		}
		p := page{packed: slices.Grow(slices.Clone(b), lowPadding), have: len(b), entry: pageEntry{bytes: uint32(len(b))}}
		if p.unpack() != nil {
			return
		}
		chunks, err := p.readChunks(nil)
		if err != nil {
			return
		}
		for i := range chunks {
			ch := &chunks[i]
			if p.need(i) != nil {
				continue
			}
			high, low := p.columnStreams(&ch.column, ch.high, ch.low)
			if got := ch.column.floats(nil, 0, ch.n, scratch, high, low); len(got) != ch.n {
				t.Fatalf("%d values of %d", len(got), ch.n)
			}
		}
	})
}

// Whatever the pages of the index say, to use them is an error or an answer.
func FuzzIndexPages(f *testing.F) {
	b := writeBlock(f, filepath.Join(f.TempDir(), "block"), smallOptions(), someSeries(rand.New(rand.NewPCG(33, 34)), 6, 5))
	for section, n := range map[int]uint32{secSeriesPages: 0, secPostingsPages: 0} {
		raw, err := b.index.blob(section, n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(section == secPostingsPages, raw)
	}
	f.Fuzz(func(t *testing.T, postings bool, raw []byte) {
		section := secSeriesPages
		if postings {
			section = secPostingsPages
		}
		b.index.blobs = newBlobs()
		b.index.blobs.put(uint64(section)<<32, raw)
		c := &Cursor{block: b, streams: make([]*streamReader, len(b.Cursor().streams)), scratch: make([]int64, maxChunkSamples)}
		c.times.number = -1
		seriesPages.forget(b.index)
		for ref := range Ref(6) {
			_, _ = c.Labels(ref, nil)
			var cols Columns
			if c.Read(ref, Always, &cols) == nil {
				var red store.Reducer
				red.Reset(300_000, store.ReduceAvg)
				_, _ = c.Reduce(ref, Always, &red)
			}
			_, _ = c.ReadHistograms(ref, Always, nil)
		}
		_, _ = b.Select("a", store.Selector{{Op: store.NotEqual, Name: "host", Value: "host_001"}, {Name: kemi.MetricName, Value: "m00"}})
	})
}
