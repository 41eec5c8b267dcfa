package settled

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"kemi"
)

// noisy are series whose high bytes are coded in segments: more of them on a page than a segment has.
func noisy(series, samples int) (out []Series) {
	for i := range series {
		r := rand.New(rand.NewPCG(uint64(i), 51))
		s := Series{Project: "p", Labels: kemi.LabelsOf(kemi.MetricName, "m", "host", fmt.Sprintf("h%04d", i))}
		v := 0.0
		for j := range samples {
			v += math.Round(r.NormFloat64()*1000) / 100
			s.At, s.Values = append(s.At, kemi.Millis(1_700_000_000_000+int64(j)*15_000)), append(s.Values, math.Round(v*100)/100)
		}
		out = append(out, s)
	}
	return out
}

// segmentsOf is how many segments the pages of a stream have.
func segmentsOf(t *testing.T, b *Block, stream int) (counts []int) {
	t.Helper()
	s := b.Cursor().stream(stream)
	for n := range s.dir.len() {
		if err := s.load(b.Cursor(), n); err != nil {
			t.Fatal(err)
		}
		counts = append(counts, len(s.page.segments))
	}
	return counts
}

// Whichever chunks of a page are read, in whatever order, they are what was written.
func TestSegments(t *testing.T) {
	for _, samples := range []int{10, 300, 2500, 9000} {
		series := noisy(max(9, 60_000/samples), samples)
		b := writeBlock(t, filepath.Join(t.TempDir(), "block"), DefaultOptions(), series)
		if counts := segmentsOf(t, b, streamValues); slices.Max(counts) < 4 {
			t.Fatalf("%d samples a series: pages of %v segments", samples, counts)
		}
		r := rand.New(rand.NewPCG(52, uint64(samples)))
		c := b.Cursor()
		var cols Columns
		read := func(i int, rg kemi.Range) {
			cols.Reset()
			s := series[i]
			if err := c.Read(Ref(i), rg, &cols); err != nil {
				t.Fatal(err)
			}
			from, _ := slices.BinarySearch(s.At, rg.From)
			to, _ := slices.BinarySearch(s.At, rg.To)
			if !sameSamples(cols.At, cols.Values, s.At[from:to], s.Values[from:to]) {
				t.Fatalf("series %d of %d samples in %v: other samples", i, samples, rg)
			}
		}
		for range 2000 {
			i := r.IntN(len(series))
			at := series[i].At
			from := at[r.IntN(len(at))]
			read(i, kemi.Range{From: from, To: from + kemi.Millis(r.IntN(samples*15_000))})
		}
		for i := range series {
			read(i, Always)
		}
		c.Close()
	}
}

// What comes before the segments is shared by those who read some of them at the same time, and goes with the block.
func TestFronts(t *testing.T) {
	series := noisy(60, 2500)
	dir := filepath.Join(t.TempDir(), "block")
	writeBlock(t, dir, DefaultOptions(), series)
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(53, uint64(g)))
			c := b.Cursor()
			defer c.Close()
			var cols Columns
			for range 300 {
				i := r.IntN(len(series))
				s, from := series[i], r.IntN(2400)
				cols.Reset()
				if err := c.Read(Ref(i), kemi.Range{From: s.At[from], To: s.At[from+90]}, &cols); err != nil || !sameSamples(cols.At, cols.Values, s.At[from:from+90], s.Values[from:from+90]) {
					t.Errorf("series %d from %d: other samples (%v)", i, from, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n, _ := fronts.held(b.index); n < 3 {
		t.Errorf("%d fronts are kept", n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if n, _ := fronts.held(b.index); n != 0 {
		t.Errorf("%d fronts of a block that is closed", n)
	}
	if err := readAll(dir, series); err != nil { // all of a page: nothing is kept
		t.Error(err)
	}
}

// A segment that is damaged does not hide the others, and is never taken for what it is not.
func TestSegmentDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "block")
	series := noisy(9, 2500)
	b := writeBlock(t, dir, DefaultOptions(), series)
	s := b.Cursor().stream(streamValues)
	if err := s.load(b.Cursor(), 0); err != nil {
		t.Fatal(err)
	}
	third, chunks := s.page.segments[2], s.page.segments[1].chunks
	name := filepath.Join(dir, dataFile)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	whole[int(s.page.entry.offset)+third.at+100] ^= 1
	if err := os.WriteFile(name, whole, 0o640); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	c := again.Cursor()
	for i := range series {
		var cols Columns
		err := c.Read(Ref(i), Always, &cols)
		var corrupt *CorruptError
		if hit := i >= chunks && i < third.chunks; hit != errors.As(err, &corrupt) || !hit && !sameSamples(cols.At, cols.Values, series[i].At, series[i].Values) {
			t.Errorf("series %d: %v", i, err)
		}
	}
}

// What is in a page must fit together: the checksum does not tell a writer that was wrong.
func TestSegmentDirectory(t *testing.T) {
	b := writeBlock(t, filepath.Join(t.TempDir(), "block"), DefaultOptions(), noisy(9, 2500))
	s := b.Cursor().stream(streamValues)
	if err := s.load(b.Cursor(), 0); err != nil {
		t.Fatal(err)
	}
	p := &s.page
	if err := p.readTo(p.source, int(p.entry.bytes)); err != nil {
		t.Fatal(err)
	}
	at := pageHeader + int(binary.LittleEndian.Uint32(p.packed[28:])) // where the directory begins
	for i, by := range []byte{0: 1, 1: 1, 2: 1} {
		bad := page{packed: slices.Grow(slices.Clone(p.packed), lowPadding), have: len(p.packed), entry: p.entry}
		bad.packed[at+i] ^= by
		err := bad.unpack()
		if err == nil {
			_, err = bad.readChunks(nil)
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Errorf("byte %d of the directory: %v", i, err)
		}
	}
}
