package settled

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

var update = flag.Bool("update", false, "write the newest of testdata/v… anew, if it is not there")

// goldenSeries have every domain, order and kind of time, rollups, histograms and two projects. They must never change: testdata/v… hold them.
func goldenSeries(version int) []Series {
	series := func(project, name string, n int, at func(i int) int64, value func(i int) float64) Series {
		s := Series{Project: project, Labels: kemi.LabelsOf(kemi.MetricName, name, "host", "h1")}
		for i := range n {
			s.At, s.Values = append(s.At, kemi.Millis(at(i))), append(s.Values, value(i))
		}
		return s
	}
	regular := func(i int) int64 { return 1_700_000_000_000 + int64(i)*15_000 }
	jitter := func(i int) int64 { return regular(i) + int64(i*i%7) }
	triangle := func(i int) float64 { return math.Abs(float64(i%200 - 100)) }
	histograms := Series{Project: "b", Labels: kemi.LabelsOf(kemi.MetricName, "histogram")}
	histograms.Histograms = []Histograms{{From: 5, To: 10, Samples: 2, Encoding: 2, Chunk: []byte("these bytes are opaque")}, {From: 11, To: 11, Samples: 1, Encoding: 3, Chunk: []byte{1, 2, 3}}}
	out := []Series{
		series("a", "a_constant", 500, regular, func(int) float64 { return 7.25 }),
		series("a", "b_decimal", 500, regular, func(i int) float64 { return float64(i*i%1009) / 100 }),
		series("a", "c_counter", 500, jitter, func(i int) float64 { return float64(i*1000 + i%13*77) }),
		series("a", "d_reset", 500, jitter, func(i int) float64 { return float64(i % 170 * 3) }),
		series("a", "e_slope", 500, regular, func(i int) float64 { return float64(i) * float64(i) }),
		series("a", "f_noise", 500, regular, func(i int) float64 {
			return math.Float64frombits(uint64(i+1)*0x9e3779b97f4a7c15&^(0x7ff<<52) | 1021<<52)
		}),
		series("a", "g_factor", 500, jitter, func(i int) float64 { return triangle(i*37) * 4096 }),
		series("a", "h_special", 60, jitter, func(i int) float64 {
			return []float64{math.NaN(), math.Float64frombits(staleBits), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 0, 1.5, math.MaxFloat64, 5e-324, 0.1}[i%10]
		}),
		series("a", "i_outliers", 500, regular, func(i int) float64 {
			if i%97 == 5 {
				return 1e12
			}
			return triangle(i * 7)
		}),
		series("a", "j_one", 1, regular, func(int) float64 { return -1 }),
		series("b", "a_constant", 3, jitter, func(int) float64 { return math.Pi }),
		histograms,
	}
	if version > 1 { // high bytes that are coded in segments
		for i := range 3 {
			sum := 0
			out = slices.Insert(out, 10+i, series("a", fmt.Sprint("k_noise", i), 2000, regular, func(j int) float64 {
				x := uint64(i*2000+j+1) * 0x9e3779b97f4a7c15
				x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
				x ^= x >> 32
				sum += int(x&255) + int(x>>8&255) + int(x>>16&255) + int(x>>24&255) - 510
				return float64(sum) / 100
			}))
		}
	}
	return out
}

func TestGolden(t *testing.T) {
	for v := 1; v <= Version; v++ {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) { testGolden(t, v) })
	}
}

func testGolden(t *testing.T, version int) {
	dir := filepath.Join("testdata", fmt.Sprint("v", version))
	series := goldenSeries(version)
	if _, err := os.Stat(dir); *update && version == Version && os.IsNotExist(err) {
		o := smallOptions()
		o.PageSamples, o.MinPerBucket, o.MinNarrow = 1<<12, 3, 3
		o.Levels = []kemi.Millis{300_000, 3_600_000}
		writeBlock(t, dir, o, series)
	}
	if err := readAll(dir, series); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got := b.Meta().Version; got != version {
		t.Fatalf("version %d", got)
	}
	if version > 1 && slices.Max(segmentsOf(t, b, streamValues)) < 2 {
		t.Error("no page has segments")
	}
	c := b.Cursor()
	defer c.Close()
	last := Ref(len(series) - 1)
	if got, err := c.ReadHistograms(last, Always, nil); err != nil || !sameHistograms(got, series[last].Histograms) {
		t.Errorf("histograms %v (%v)", got, err)
	}
	if got, err := b.Select("a", store.Selector{{Name: kemi.MetricName, Op: store.Regexp, Value: "[ab]_.*"}, {Name: "host", Value: "h1"}}); err != nil || len(got) != 2 || got[0] != 0 {
		t.Errorf("selected %v (%v)", got, err)
	}
	var roll Rollup
	if ok, err := c.ReadRollup(1, 300_000, RollupCount|RollupSum|RollupMin|RollupMax, Always, &roll); !ok || err != nil || len(roll.At) == 0 {
		t.Errorf("rollup: %v, %d buckets (%v)", ok, len(roll.At), err)
	}
	var counter Rollup
	if ok, err := c.ReadRollup(3, 300_000, RollupFirst|RollupLast|RollupResets, Always, &counter); !ok || err != nil || len(counter.Last) != len(counter.At) {
		t.Errorf("rollup of a counter: %v, %d buckets (%v)", ok, len(counter.At), err)
	}
	total := store.Sum{}
	total.AddAll(roll.Sum)
	total.AddAll(roll.Error)
	want := store.Sum{}
	want.AddAll(series[1].Values)
	if total.Value() != want.Value() {
		t.Errorf("sum of the rollup's sums: %v, of the samples %v", total.Value(), want.Value())
	}
}
