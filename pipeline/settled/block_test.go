package settled

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/store"
)

const stale = staleBits

func staleNaN() float64 { return math.Float64frombits(stale) }

// someSeries are series of two projects in order, of all shapes, some with jitter, gaps or histograms.
func someSeries(r *rand.Rand, hosts, samples int) []Series {
	var out []Series
	names := make([]string, 0, len(shapes))
	for name := range shapes {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, project := range []string{"a", "b"} {
		for i, shape := range names {
			for h := range hosts {
				pairs := []string{kemi.MetricName, fmt.Sprintf("m%02d", i), "host", fmt.Sprintf("host_%03d", h), "dc", fmt.Sprintf("dc%d", h%3)}
				if h%2 == 0 {
					pairs = append(pairs, "rack", fmt.Sprintf("r%d", h%5))
				}
				s := Series{Project: project, Labels: kemi.LabelsOf(pairs...)}
				n := 1 + r.IntN(samples)
				s.Values = shapes[shape](r, n)
				at := kemi.Millis(1_700_000_000_000 + int64(h)*977)
				for range n {
					switch h % 4 {
					case 1:
						s.At = append(s.At, at+kemi.Millis(r.IntN(20)))
					default:
						s.At = append(s.At, at)
					}
					if at += 15000; h%4 == 2 && r.IntN(20) == 0 {
						at += 15000 * kemi.Millis(r.IntN(50))
					}
				}
				if h%8 == 3 {
					s.Histograms = someHistograms(r, s.At[0], 40)
				}
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b Series) int { return compare(a.Project, a.Labels, b.Project, b.Labels) })
	return out
}

func someHistograms(r *rand.Rand, at kemi.Millis, n int) []Histograms {
	var samples []histogramSample
	h := &histogram.Histogram{Schema: 1, PositiveSpans: []histogram.Span{{Offset: 0, Length: 3}}, PositiveBuckets: []int64{1, 0, 0}, Count: 3, Sum: 4}
	for range n {
		h = h.Copy()
		h.PositiveBuckets[0] += int64(r.IntN(5))
		h.Count = uint64(3 * h.PositiveBuckets[0])
		h.Sum += r.Float64()
		samples = append(samples, histogramSample{at: int64(at), encoding: chunkenc.EncHistogram, whole: h})
		at += 15000
	}
	out, err := appendHistograms(nil, samples)
	if err != nil {
		panic(err)
	}
	return out
}

func smallOptions() Options {
	o := DefaultOptions()
	o.ChunkSamples, o.PageSamples = 128, 512
	return o
}

func writeBlock(t testing.TB, dir string, o Options, series []Series) *Block {
	t.Helper()
	w, err := Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range series {
		if err := w.Add(&series[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(json.RawMessage(`{"by":"test"}`)); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func sameSamples(at []kemi.Millis, values []float64, at2 []kemi.Millis, values2 []float64) bool {
	return slices.Equal(at, at2) && slices.EqualFunc(values, values2, func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) })
}

func sameHistograms(a, b []Histograms) bool {
	return slices.EqualFunc(a, b, func(x, y Histograms) bool {
		return x.From == y.From && x.To == y.To && x.Samples == y.Samples && x.Encoding == y.Encoding && slices.Equal(x.Chunk, y.Chunk)
	})
}

func TestBlockGivesBackWhatItWasGiven(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for name, o := range map[string]Options{"small": smallOptions(), "default": DefaultOptions()} {
		t.Run(name, func(t *testing.T) {
			series := someSeries(r, 9, 700)
			b := writeBlock(t, filepath.Join(t.TempDir(), "block"), o, series)
			m := b.Meta()
			samples, histograms := int64(0), int64(0)
			from, to := kemi.Millis(math.MaxInt64), kemi.Millis(0)
			for _, s := range series {
				samples += int64(len(s.At))
				from, to = min(from, s.At[0]), max(to, s.At[len(s.At)-1]+1)
				for _, h := range s.Histograms {
					histograms += int64(h.Samples)
					to = max(to, h.To+1)
				}
			}
			if m.Series != int64(len(series)) || m.Samples != samples || m.HistogramSamples != histograms || m.From != from || m.To != to || string(m.Info) != `{"by":"test"}` {
				t.Errorf("meta %+v, want %d series, %d samples, %d in histograms, %d to %d", m, len(series), samples, histograms, from, to)
			}
			if got := b.Projects(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("projects %q", got)
			}
			c := b.Cursor()
			defer c.Close()
			var cols Columns
			for i, s := range series {
				project, ls, err := b.Labels(Ref(i))
				if err != nil || project != s.Project || ls.Compare(s.Labels) != 0 {
					t.Fatalf("series %d: %q %s, want %q %s (%v)", i, project, ls, s.Project, s.Labels, err)
				}
				cols.Reset()
				if err := c.Read(Ref(i), m.Range(), &cols); err != nil {
					t.Fatal(err)
				}
				if !sameSamples(cols.At, cols.Values, s.At, s.Values) {
					t.Fatalf("%s: other samples", s.Labels)
				}
				got, err := c.ReadHistograms(Ref(i), m.Range(), nil)
				if err != nil || !sameHistograms(got, s.Histograms) {
					t.Fatalf("%s: other histograms (%v)", s.Labels, err)
				}
			}
			for range 3000 { // parts, in any order
				i := r.IntN(len(series))
				s := series[i]
				p := kemi.Range{From: s.At[0] - 1000 + kemi.Millis(r.Int64N(int64(s.At[len(s.At)-1]-s.At[0])+2000))}
				p.To = p.From + kemi.Millis(r.IntN(3e6))
				cols.Reset()
				if err := c.Read(Ref(i), p, &cols); err != nil {
					t.Fatal(err)
				}
				j, _ := slices.BinarySearch(s.At, p.From)
				k, _ := slices.BinarySearch(s.At, p.To)
				if !sameSamples(cols.At, cols.Values, s.At[j:k], s.Values[j:k]) {
					t.Fatalf("%s in %v: %d samples, want %d", s.Labels, p, len(cols.At), k-j)
				}
			}
		})
	}
}

// holds does what store.Matcher says.
func holds(m store.Matcher, ls kemi.Labels) bool {
	v := ls.Get(m.Name)
	switch m.Op {
	case store.Equal:
		return v == m.Value
	case store.NotEqual:
		return v != m.Value
	case store.Regexp:
		return wholly(m.Value).MatchString(v)
	}
	return !wholly(m.Value).MatchString(v)
}

var compiled = map[string]*regexp.Regexp{}

func wholly(re string) *regexp.Regexp {
	if compiled[re] == nil {
		compiled[re] = regexp.MustCompile("^(?s:" + re + ")$")
	}
	return compiled[re]
}

func TestSelect(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	series := someSeries(r, 40, 3)
	b := writeBlock(t, filepath.Join(t.TempDir(), "block"), smallOptions(), series)
	values := map[string][]string{
		kemi.MetricName: {"m00", "m03", "m0.", "m0[2-4]", "m01|m05", "", ".+", ".*", "nothing"},
		"host":          {"host_001", "host_0.1", "host_001|host_007", "", ".*", ".+", "host_00[0-9]", "x", "^host_00.", "(?i)HOST_00.", "host_00.|nothing", "(host_0){1}.*", ".*1", "host_\uFFFD?01."},
		"dc":            {"dc0", "dc1|dc2", "", "dc.", ".*"},
		"rack":          {"r0", "", "r.", "|r1", ".+", ".*", "r1|r2|"},
		"no such":       {"", "x", ".*", ".+"},
	}
	names := []string{kemi.MetricName, "host", "dc", "rack", "no such"}
	for range 1500 {
		var sel store.Selector
		for range r.IntN(4) {
			n := names[r.IntN(len(names))]
			sel = append(sel, store.Matcher{Op: store.MatchOp(r.IntN(4)), Name: n, Value: values[n][r.IntN(len(values[n]))]})
		}
		project := []string{"a", "b", "c"}[r.IntN(3)]
		var want []Ref
		wantNames, wantHosts := map[string]bool{}, map[string]bool{}
		for i, s := range series {
			ok := s.Project == project
			for _, m := range sel {
				ok = ok && holds(m, s.Labels)
			}
			if !ok {
				continue
			}
			want = append(want, Ref(i))
			for _, l := range s.Labels {
				wantNames[l.Name] = true
			}
			wantHosts[s.Labels.Get("host")] = true
		}
		got, err := b.Select(project, sel)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%s %+v: %d series, want %d (%v)", project, sel, len(got), len(want), err)
		}
		gotNames, err := b.LabelNames(project, sel)
		if err != nil || !slices.Equal(gotNames, keys(wantNames)) {
			t.Fatalf("%s %+v: names %q, want %q (%v)", project, sel, gotNames, keys(wantNames), err)
		}
		gotHosts, err := b.LabelValues(project, "host", sel)
		if err != nil || !slices.Equal(gotHosts, keys(wantHosts)) {
			t.Fatalf("%s %+v: hosts %q, want %q (%v)", project, sel, gotHosts, keys(wantHosts), err)
		}
	}
	for _, m := range []store.Matcher{{Name: ""}, {Name: "\x00"}, {Op: store.Regexp, Name: "host", Value: "("}, {Op: 9, Name: "host"}} {
		if _, err := b.Select("a", store.Selector{m}); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("matcher %+v: %v, want it to be invalid", m, err)
		}
	}
}

func keys(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// What a block reduces, from its rollups or not, is bit for bit what the samples reduce to.
func TestReduceIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	o := smallOptions()
	o.MinPerBucket, o.MinNarrow = 3, 3
	o.Levels = []kemi.Millis{60_000, 300_000, 3_600_000}
	series := someSeries(r, 9, 1500)
	for i := range series {
		for j := range series[i].Values {
			switch r.IntN(400) {
			case 0:
				series[i].Values[j] = staleNaN()
			case 1:
				series[i].Values[j] = math.NaN()
			}
		}
	}
	b := writeBlock(t, filepath.Join(t.TempDir(), "block"), o, series)
	c := b.Cursor()
	defer c.Close()
	var got, want store.Reducer
	rolled := 0
	for range 4000 {
		i := r.IntN(len(series))
		s := series[i]
		interval := kemi.Millis([]int64{60e3, 90e3, 300e3, 900e3, 3600e3, 86400e3}[r.IntN(6)])
		fn := store.Reduce(r.IntN(int(store.ReduceLast) + 1))
		p := Always
		if r.IntN(2) == 0 {
			p.From = s.At[0] - 1e6 + kemi.Millis(r.IntN(2e7))
			p.To = p.From + kemi.Millis(r.IntN(3e7))
			if r.IntN(2) == 0 {
				p.From, p.To = store.IntervalStart(p.From, interval), store.IntervalStart(p.To, interval)
			}
		}
		got.Reset(interval, fn)
		used, err := c.Reduce(Ref(i), p, &got)
		if err != nil {
			t.Fatal(err)
		}
		if used.Level > 0 {
			rolled++
		}
		j, _ := slices.BinarySearch(s.At, p.From)
		k, _ := slices.BinarySearch(s.At, p.To)
		cols := Columns{At: slices.Clone(s.At[j:max(j, k)]), Values: slices.Clone(s.Values[j:max(j, k)])}
		cols.DropStale()
		want.Reset(interval, fn)
		want.Samples(cols.At, cols.Values)
		g, w := got.Down(), want.Down()
		if !slices.Equal(g.At, w.At) {
			t.Fatalf("%s, interval %d, fn %d: %d intervals, want %d", s.Labels, interval, fn, len(g.At), len(w.At))
		}
		for n := range w.Values {
			if math.Float64bits(g.Values[n]) != math.Float64bits(w.Values[n]) {
				t.Fatalf("%s, interval %d, fn %d at %d: %v, want %v", s.Labels, interval, fn, w.At[n], g.Values[n], w.Values[n])
			}
		}
	}
	if rolled < 1000 {
		t.Errorf("rollups were used %d times only", rolled)
	}
}

// The increase of a counter over any buckets, as Rollup says it, is what the samples give.
func TestRollupIncrease(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	s := Series{Project: "p", Labels: kemi.LabelsOf(kemi.MetricName, "c")}
	v := 0.0
	for i := range 4000 {
		if v += float64(r.IntN(100)); r.IntN(60) == 0 {
			v = float64(r.IntN(5))
		}
		s.At, s.Values = append(s.At, kemi.Millis(i)*15000), append(s.Values, v)
	}
	o := smallOptions()
	o.Levels, o.MinNarrow = []kemi.Millis{300_000, 3_600_000}, 20
	b := writeBlock(t, filepath.Join(t.TempDir(), "block"), o, []Series{s})
	c := b.Cursor()
	defer c.Close()
	for range 200 {
		from := kemi.Millis(r.IntN(190)) * 300_000
		p := kemi.Range{From: from, To: from + 300_000*kemi.Millis(1+r.IntN(10))}
		var roll Rollup
		if ok, err := c.ReadRollup(0, 300_000, RollupCount|RollupFirst|RollupLast|RollupResets, p, &roll); !ok || err != nil {
			t.Fatal(ok, err)
		}
		got := roll.Last[len(roll.Last)-1] - roll.First[0]
		for i := range roll.At {
			if got += roll.Resets[i]; i > 0 && roll.First[i] < roll.Last[i-1] {
				got += roll.Last[i-1]
			}
		}
		want := 0.0
		for i := 1; i < len(s.At); i++ {
			if p.Contains(s.At[i-1]) && p.Contains(s.At[i]) {
				if want += s.Values[i] - s.Values[i-1]; s.Values[i] < s.Values[i-1] {
					want += s.Values[i-1]
				}
			}
		}
		if got != want {
			t.Fatalf("increase in %v: %v, want %v", p, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 20))
	all := someSeries(r, 9, 900)
	dir := t.TempDir()
	// Three blocks have parts of the samples each; where two have the same time the first one's value counts.
	var parts [3][]Series
	for _, s := range all {
		var cut [3]Series
		for i := range cut {
			cut[i] = Series{Project: s.Project, Labels: s.Labels}
		}
		for j := range s.At {
			n := r.IntN(4)
			for i := range cut {
				if n == i || n == 3 {
					v := s.Values[j]
					if n == 3 && i > 0 {
						v = 12345
					}
					cut[i].At, cut[i].Values = append(cut[i].At, s.At[j]), append(cut[i].Values, v)
				}
			}
		}
		for i, h := range s.Histograms {
			cut[i%2].Histograms = append(cut[i%2].Histograms, h)
		}
		for i := range cut {
			parts[i] = append(parts[i], cut[i])
		}
	}
	var blocks []*Block
	for i := range parts {
		parts[i] = slices.DeleteFunc(parts[i], func(s Series) bool { return len(s.At) == 0 && len(s.Histograms) == 0 })
		blocks = append(blocks, writeBlock(t, filepath.Join(dir, fmt.Sprint(i)), smallOptions(), parts[i]))
	}
	drop := kemi.Range{From: 1_700_000_900_000, To: 1_700_002_000_000}
	filter := func(project string, ls kemi.Labels) (kemi.Range, []kemi.Range) {
		switch {
		case ls.Get(kemi.MetricName) == "m02":
			return kemi.Range{}, nil
		case project == "b":
			return kemi.Range{From: 1_700_000_500_000, To: 1_700_005_000_000}, []kemi.Range{drop}
		}
		return Always, nil
	}
	w, err := Create(filepath.Join(dir, "merged"), smallOptions())
	if err != nil {
		t.Fatal(err)
	}
	var sources []Source
	for _, b := range blocks {
		sources = append(sources, b.Source(Always))
	}
	if err := Merge(w, filter, sources...); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(nil); err != nil {
		t.Fatal(err)
	}
	merged, err := Open(filepath.Join(dir, "merged"))
	if err != nil {
		t.Fatal(err)
	}
	defer merged.Close()
	got := merged.Source(Always)
	for _, s := range all {
		keep, drop := filter(s.Project, s.Labels)
		var at []kemi.Millis
		var values []float64
		kept := func(t kemi.Millis) bool {
			return keep.Contains(t) && !slices.ContainsFunc(drop, func(d kemi.Range) bool { return d.Contains(t) })
		}
		for i := range s.At {
			if kept(s.At[i]) {
				at, values = append(at, s.At[i]), append(values, s.Values[i])
			}
		}
		var hists []int64
		for _, h := range s.Histograms {
			samples, err := histogramSamples(h, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range samples {
				if kept(kemi.Millis(x.at)) {
					hists = append(hists, x.at)
				}
			}
		}
		if len(at) == 0 && len(hists) == 0 {
			continue
		}
		if !got.Next() {
			t.Fatalf("ends before %s: %v", s.Labels, got.Err())
		}
		g := got.At()
		if compare(g.Project, g.Labels, s.Project, s.Labels) != 0 || !sameSamples(g.At, g.Values, at, values) {
			t.Fatalf("%s %s: %d samples, want %s %s: %d", g.Project, g.Labels, len(g.At), s.Project, s.Labels, len(at))
		}
		var gotHists []int64
		for _, h := range g.Histograms {
			samples, err := histogramSamples(h, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range samples {
				gotHists = append(gotHists, x.at)
			}
		}
		if !slices.Equal(gotHists, hists) {
			t.Fatalf("%s: histograms at %v, want %v", s.Labels, gotHists, hists)
		}
	}
	if got.Next() || got.Err() != nil {
		t.Errorf("more series than expected: %v", got.Err())
	}
}

func TestMergeOfOverlappingHistograms(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	a, b := someHistograms(r, 0, 40), someHistograms(r, 7500, 40)
	out, err := mergeHistograms(append(slices.Clone(a), b...))
	if err != nil {
		t.Fatal(err)
	}
	var at []int64
	for _, h := range out {
		samples, err := histogramSamples(h, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			at = append(at, s.at)
		}
	}
	for i := range 80 {
		if i >= len(at) || at[i] != int64(i)*7500 {
			t.Fatalf("samples at %v", at)
		}
	}
	if out, err = mergeHistograms(append(slices.Clone(a), a...)); err != nil || !sameHistograms(out, a) {
		t.Errorf("twice the same: %d chunks, want %d (%v)", len(out), len(a), err)
	}
}

func TestWriterRefuses(t *testing.T) {
	ok := Series{Project: "p", Labels: kemi.LabelsOf("b", "1"), At: []kemi.Millis{1, 2}, Values: []float64{1, 2}}
	for name, s := range map[string]Series{
		"times that do not ascend":    {Project: "p", Labels: kemi.LabelsOf("c", "1"), At: []kemi.Millis{2, 2}, Values: []float64{1, 2}},
		"columns of different length": {Project: "p", Labels: kemi.LabelsOf("c", "1"), At: []kemi.Millis{1, 2}, Values: []float64{1}},
		"the same series again":       ok,
		"a series out of order":       {Project: "p", Labels: kemi.LabelsOf("a", "1"), At: ok.At, Values: ok.Values},
		"a project out of order":      {Project: "o", Labels: kemi.LabelsOf("z", "1"), At: ok.At, Values: ok.Values},
		"labels not sorted":           {Project: "p", Labels: kemi.Labels{{Name: "d", Value: "1"}, {Name: "c", Value: "1"}}, At: ok.At, Values: ok.Values},
		"an empty value":              {Project: "p", Labels: kemi.Labels{{Name: "d", Value: ""}}, At: ok.At, Values: ok.Values},
		"a time out of this world":    {Project: "p", Labels: kemi.LabelsOf("c", "1"), At: []kemi.Millis{math.MaxInt64}, Values: []float64{1}},
		"histograms that overlap":     {Project: "p", Labels: kemi.LabelsOf("c", "1"), Histograms: []Histograms{{From: 1, To: 5}, {From: 5, To: 6}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "block")
			w, err := Create(dir, DefaultOptions())
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Add(&ok); err != nil {
				t.Fatal(err)
			}
			if err := w.Add(&s); err == nil {
				t.Error("it was taken")
			}
			if _, err := w.Close(nil); err == nil {
				t.Error("the block could be closed")
			}
			if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) > 0 {
				t.Errorf("%s is left", left[0].Name())
			}
		})
	}
}

func TestEmptyBlock(t *testing.T) {
	b := writeBlock(t, filepath.Join(t.TempDir(), "block"), DefaultOptions(), []Series{{Project: "p", Labels: kemi.LabelsOf("a", "b")}})
	if got, err := b.Select("p", nil); len(got) != 0 || err != nil || b.Meta().Series != 0 {
		t.Error(got, err, b.Meta())
	}
	if b.Source(Always).Next() {
		t.Error("it has a series")
	}
}

// A query under way keeps the files.
func TestReferences(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	series := someSeries(r, 9, 300)
	dir := filepath.Join(t.TempDir(), "block")
	w, err := Create(dir, smallOptions())
	if err != nil {
		t.Fatal(err)
	}
	for i := range series {
		if err := w.Add(&series[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(nil); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		if !b.Acquire() {
			t.Fatal("no reference")
		}
		wg.Go(func() {
			defer b.Close()
			c := b.Cursor()
			defer c.Close()
			var cols Columns
			for i, s := range series {
				cols.Reset()
				if err := c.Read(Ref(i), Always, &cols); err != nil || !sameSamples(cols.At, cols.Values, s.At, s.Values) {
					t.Errorf("%s: %v", s.Labels, err)
					return
				}
				if _, ls, err := b.Labels(Ref(i)); err != nil || ls.Compare(s.Labels) != 0 {
					t.Errorf("%s: %v", s.Labels, err)
				}
			}
		})
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if b.Acquire() {
		t.Error("a reference to a closed block")
	}
	if err := b.Close(); err == nil {
		t.Error("closed once too often")
	}
}

// Any byte of any file may be wrong: what comes is an error that names the file, or the right samples.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 26))
	series := someSeries(r, 2, 120)
	dir := filepath.Join(t.TempDir(), "block")
	writeBlock(t, dir, smallOptions(), series)
	found := 0
	for range 300 {
		name := filepath.Join(dir, []string{dataFile, indexFile, metaFile}[r.IntN(3)])
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := slices.Clone(whole)
		if r.IntN(10) == 0 {
			bad = bad[:r.IntN(len(bad))]
		} else {
			for range 1 + r.IntN(3) {
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			}
		}
		if err := os.WriteFile(name, bad, 0o640); err != nil {
			t.Fatal(err)
		}
		err = readAll(dir, series)
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			found++
			if !strings.HasPrefix(corrupt.File, dir) {
				t.Errorf("error names %q", corrupt.File)
			}
		} else if err != nil && !errors.Is(err, kemi.ErrInvalid) && !strings.HasSuffix(name, metaFile) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.WriteFile(name, whole, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if found < 150 {
		t.Errorf("damage was found %d times of 300", found)
	}
	if err := readAll(dir, series); err != nil {
		t.Error(err)
	}
}

var errOther = errors.New("other samples")

func readAll(dir string, series []Series) error {
	b, err := Open(dir)
	if err != nil {
		return err
	}
	defer b.Close()
	src := b.Source(Always)
	for i := 0; src.Next(); i++ {
		if s := src.At(); i >= len(series) || s.Labels.Compare(series[i].Labels) != 0 || !sameSamples(s.At, s.Values, series[i].At, series[i].Values) {
			return errOther
		}
	}
	if src.Err() != nil {
		return src.Err()
	}
	for ref := range Ref(len(series)) {
		c := b.Cursor()
		for fn := store.ReduceMin; fn <= store.ReduceLast; fn++ {
			var red store.Reducer
			red.Reset(300_000, fn)
			if _, err := c.Reduce(ref, Always, &red); err != nil {
				return err
			}
		}
	}
	_, err = b.Select("a", store.Selector{{Op: store.Regexp, Name: "host", Value: "host_0.*"}})
	return err
}

// TestRollupsThatPay: which levels and columns a month of samples, one a minute, gets.
func TestRollupsThatPay(t *testing.T) {
	const n = 43_200
	r := rand.New(rand.NewPCG(3, 4))
	at := make([]kemi.Millis, n)
	for i := range at {
		at[i] = kemi.Millis(1_764_000_000_000 + 60_000*int64(i))
	}
	o := DefaultOptions()
	o.MinNarrow = 12
	sometimes := func(change func(v float64) float64) []float64 {
		return walk(n, func(v float64) float64 {
			if r.IntN(200) == 0 {
				return change(v)
			}
			return v
		})
	}
	for name, c := range map[string]struct {
		values           []float64
		quarters, counts bool // are there quarters of an hour; is it a counter
	}{
		"gauge":                      {walk(n, func(v float64) float64 { return math.Round(v + r.NormFloat64()*20) }), true, false},
		"counter":                    {walk(n, func(v float64) float64 { return v + float64(r.IntN(9)) }), true, true},
		"counter that hardly counts": {sometimes(func(v float64) float64 { return v + 1 }), false, true},
		"the same, of a process that is started anew": {sometimes(func(v float64) float64 {
			if r.IntN(10) == 0 {
				return 0
			}
			return v + 1
		}), false, true},
		"gauge that hardly changes": {sometimes(func(float64) float64 { return float64(r.IntN(100)) }), false, false},
		"constant":                  {sometimes(func(v float64) float64 { return v }), true, true},
	} {
		var roll roller
		roll.reset(o.Levels)
		roll.roll(at, c.values)
		if got, want := roll.worthy(&o), [maxLevels]bool{c.quarters, true}; got != want {
			t.Errorf("%s: levels %v, want %v", name, got, want)
		}
		if has := roll.rollups[1].columnsAt(true, true); has[rollFirst] != c.counts || has[rollLast] != c.counts || has[rollResets] != c.counts {
			t.Errorf("%s: columns %v, want those of a counter: %v", name, has, c.counts)
		}
	}
}
