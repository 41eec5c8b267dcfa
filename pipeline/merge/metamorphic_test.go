package merge

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

// TestMetamorphic does random things to a Store and to a model of one, a map, and compares what both answer, on every path: raw, in intervals from
// rollups, as PromQL reads, in columns, in chunks, and the labels. Things are: new samples, late ones, ones that come again, ones in conflict, deletions, settling at any
// moment, restarts, kill -9 with replay, and what an answer was before, as settling must not change it. KEMI_TEST_SEED repeats a
// run, KEMI_TEST_STEPS makes it longer.
func TestMetamorphic(t *testing.T) {
	b := newBench(t)
	rnd := rand.New(rand.NewPCG(b.seed, 3))
	m := &model{series: map[string]*modelSeries{}}
	now := b.now - 3*3600_000
	did := map[string]int{}
	var history []string
	for step := range storetest.Steps(60) {
		what := "append"
		switch n := rnd.IntN(100); {
		case n < 50:
			now = min(now+kemi.Millis(rnd.IntN(120_000)), b.now)
			ps := m.batch(rnd, now)
			m.append(ps)
			b.log = append(b.log, entry{"p", ps})
			if err := b.Append(t.Context(), b.table.BatchOf("p", ps), store.Position{Next: int64(len(b.log))}); err != nil {
				t.Fatal(err)
			}
		case n < 55 && len(b.log) > 0:
			what = "again"
			e := b.log[rnd.IntN(len(b.log))]
			m.append(e.points)
			b.log = append(b.log, e)
			if err := b.Append(t.Context(), b.table.BatchOf("p", e.points), store.Position{Next: int64(len(b.log))}); err != nil {
				t.Fatal(err)
			}
		case n < 60:
			what = "settle"
			b.settle(false)
		case n < 66:
			what = "settle all"
			b.settle(true)
		case n < 69:
			what = "flush"
			if _, err := b.live.Flush(t.Context(), now-kemi.Millis(rnd.IntN(3600_000))); err != nil {
				t.Fatal(err)
			}
		case n < 72:
			what = "crash"
			b.crash()
		case n < 75:
			what = "restart"
			if err := b.Store.Close(); err != nil {
				t.Fatal(err)
			}
			b.Store = b.openDir(b.dir)
			if rnd.IntN(2) == 0 {
				b.table = codec.NewTable(nil, b.clock)
			}
		case n < 80:
			what = "delete"
			sel, r := m.selector(rnd), m.span(rnd, now)
			if len(sel) == 0 {
				sel = store.Selector{{Name: kemi.MetricName, Value: "m1"}}
			}
			if err := b.Delete(t.Context(), b.id(), sel, r); err != nil {
				t.Fatal(err)
			}
			m.remove(sel, r)
		default:
			what = "ask"
		}
		did[what]++
		history = append(history, what)
		sel, r := m.selector(rnd), m.span(rnd, now)
		if what != "ask" {
			sel, r = nil, all
		}
		if err := m.compare(b, rnd, sel, r); err != nil {
			t.Fatalf("step %d, after %s: %v", step, history, err)
		}
	}
	t.Log(did)
}

type modelSeries struct {
	labels kemi.Labels
	data   map[kemi.Millis]float64
}

// model is what a Store should be.
type model struct{ series map[string]*modelSeries }

// batch makes samples: mostly new, some late by up to three months, some where there are some already.
func (m *model) batch(rnd *rand.Rand, now kemi.Millis) (out []kemi.Points) {
	for range 1 + rnd.IntN(6) {
		p := kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, fmt.Sprint("m", rnd.IntN(3)), "l0", fmt.Sprint(rnd.IntN(2)), "l1", fmt.Sprint(rnd.IntN(3)))}
		for range 1 + rnd.IntN(20) {
			at := now - kemi.Millis(rnd.IntN(60_000))
			switch rnd.IntN(15) {
			case 0:
				at = now - kemi.Millis(rnd.Int64N(90*24*3600e3))
			case 1:
				at = now - kemi.Millis(rnd.Int64N(3*3600e3))
			case 2:
				at = now / 60000 * 60000
			}
			v := float64(rnd.IntN(1000)) / 10
			switch rnd.IntN(40) {
			case 0:
				v = math.NaN()
			case 1:
				v = math.Copysign(0, -1)
			case 2:
				v = rnd.NormFloat64() * math.Pow(10, float64(rnd.IntN(30)-15))
			case 3:
				v = math.Float64frombits(0x7ff0000000000002) // stale
			}
			p.At, p.Values = append(p.At, at), append(p.Values, v)
		}
		out = append(out, p)
	}
	return out
}

func (m *model) append(ps []kemi.Points) {
	for _, p := range ps {
		k := p.Labels.String()
		s := m.series[k]
		if s == nil {
			s = &modelSeries{p.Labels, map[kemi.Millis]float64{}}
			m.series[k] = s
		}
		// The store puts what is newer than all that it has in first, in the order of the batch; of equal times the first counts either way.
		for i, at := range p.At {
			if _, ok := s.data[at]; !ok {
				s.data[at] = p.Values[i]
			}
		}
	}
}

func (m *model) selector(rnd *rand.Rand) (sel store.Selector) {
	for range rnd.IntN(3) {
		switch rnd.IntN(3) {
		case 0:
			sel = append(sel, store.Matcher{Op: store.MatchOp(rnd.IntN(2)), Name: "l" + strconv.Itoa(rnd.IntN(3)), Value: []string{"", "0", "1"}[rnd.IntN(3)]})
		case 1:
			sel = append(sel, store.Matcher{Op: store.Equal, Name: kemi.MetricName, Value: "m" + strconv.Itoa(rnd.IntN(3))})
		default:
			sel = append(sel, store.Matcher{Op: store.Regexp, Name: "l1", Value: []string{"0|1", ".*", "2"}[rnd.IntN(3)]})
		}
	}
	return sel
}

func (m *model) span(rnd *rand.Rand, now kemi.Millis) kemi.Range {
	width := int64(4 * 3600e3)
	if rnd.IntN(2) == 0 {
		width = 100 * 24 * 3600e3
	}
	from := now - kemi.Millis(rnd.Int64N(width))
	return kemi.Range{From: from, To: from + kemi.Millis(rnd.Int64N(width))}
}

func (s *modelSeries) matches(sel store.Selector) bool {
	for _, x := range sel {
		v := s.labels.Get(x.Name)
		ok := v == x.Value
		if x.Op == store.Regexp {
			ok = x.Value == ".*" || v == x.Value || x.Value == "0|1" && (v == "0" || v == "1")
		}
		if ok == (x.Op == store.NotEqual) {
			return false
		}
	}
	return true
}

func (m *model) remove(sel store.Selector, r kemi.Range) {
	for k, s := range m.series {
		if s.matches(sel) {
			maps.DeleteFunc(s.data, func(at kemi.Millis, _ float64) bool { return r.Contains(at) })
			if len(s.data) == 0 {
				delete(m.series, k)
			}
		}
	}
}

// get are the samples of the model; stale markers only if they are wanted.
func (m *model) get(sel store.Selector, r kemi.Range, stale bool) (out []kemi.Points) {
	for _, s := range m.series {
		if !s.matches(sel) {
			continue
		}
		p := kemi.Points{Labels: s.labels}
		for at, v := range s.data {
			if r.Contains(at) && (stale || math.Float64bits(v) != 0x7ff0000000000002) {
				p.At = append(p.At, at)
			}
		}
		if len(p.At) == 0 {
			continue
		}
		slices.Sort(p.At)
		for _, at := range p.At {
			p.Values = append(p.Values, s.data[at])
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b kemi.Points) int { return a.Labels.Compare(b.Labels) })
	return out
}

// compare asks the store on every path.
func (m *model) compare(b *bench, rnd *rand.Rand, sel store.Selector, r kemi.Range) error {
	want := m.get(sel, r, false)
	var got []kemi.Points
	for p, err := range b.Select(b.Context(), b.id(), sel, r) {
		if err != nil {
			return err
		}
		got = append(got, kemi.Points{Labels: p.Labels, At: slices.Clone(p.At), Values: slices.Clone(p.Values)})
	}
	if err := same("Select", got, want); err != nil {
		return fmt.Errorf("%v in %v: %w", sel, r, err)
	}
	if err := m.compareDown(b, rnd, sel, r); err != nil {
		return fmt.Errorf("%v in %v: %w", sel, r, err)
	}
	want = m.get(sel, r, true)
	ms := matchersOf(sel)
	got = nil
	err := b.Columns(b.Context(), b.id(), int64(r.From), int64(r.To)-1, ms, func(ls labels.Labels, at []kemi.Millis, values []float64) error {
		got = append(got, kemi.Points{Labels: kemiLabels(ls), At: slices.Clone(at), Values: slices.Clone(values)})
		return nil
	})
	if r.From >= r.To {
		return nil
	}
	if err == nil {
		err = same("Columns", got, want)
	}
	if err != nil {
		return fmt.Errorf("%v in %v: %w", sel, r, err)
	}
	q, err := b.Queryable(b.id()).Querier(int64(r.From), int64(r.To)-1)
	if err != nil {
		return err
	}
	defer q.Close()
	if got, err = iterate(q.Select(b.Context(), true, &storage.SelectHints{Start: int64(r.From), End: int64(r.To) - 1}, ms...), rnd); err == nil {
		err = same("Querier", got, want)
	}
	if err != nil {
		return fmt.Errorf("%v in %v: %w", sel, r, err)
	}
	cq, err := b.ChunkQueryable(b.id()).ChunkQuerier(int64(r.From), int64(r.To)-1)
	if err != nil {
		return err
	}
	defer cq.Close()
	if got, err = decode(cq.Select(b.Context(), true, nil, ms...)); err == nil {
		err = same("ChunkQuerier", got, want)
	}
	if err != nil {
		return fmt.Errorf("%v in %v: %w", sel, r, err)
	}
	values := map[string]bool{}
	for _, p := range m.get(sel, all, true) {
		values[p.Labels.Get("l1")] = true
	}
	names, err := b.LabelValues(b.Context(), b.id(), "l1", sel, all, 0)
	if err != nil {
		return err
	}
	for _, v := range names {
		delete(values, v)
	}
	if len(values) > 0 {
		return fmt.Errorf("label values of l1 in %v: %v, without %v", sel, names, values)
	}
	return nil
}

func (m *model) compareDown(b *bench, rnd *rand.Rand, sel store.Selector, r kemi.Range) error {
	interval := []kemi.Millis{1000, 60_000, 300_000, 900_000, 3_600_000, 86_400_000}[rnd.IntN(6)]
	fn := store.Reduce(rnd.IntN(int(store.ReduceLast) + 1))
	if r == all {
		r.To = b.now + 86_400_000
	}
	if r.From >= r.To {
		return nil
	}
	r.From, r.To = store.IntervalStart(r.From, interval), store.IntervalStart(r.To+interval-1, interval)
	var got, want []kemi.Points
	for d, err := range b.SelectDown(b.Context(), b.id(), sel, r, r, interval, fn) {
		if err != nil {
			return err
		}
		got = append(got, kemi.Points{Labels: slices.Clone(d.Labels), At: slices.Clone(d.At), Values: slices.Clone(d.Values)})
	}
	for _, p := range m.get(sel, r, false) {
		var red store.Reducer
		red.Reset(interval, fn)
		red.Samples(p.At, p.Values)
		d := red.Down()
		want = append(want, kemi.Points{Labels: p.Labels, At: d.At, Values: d.Values})
	}
	return same(fmt.Sprintf("SelectDown %d by %d", interval, fn), got, want)
}

func matchersOf(sel store.Selector) (ms []*labels.Matcher) {
	for _, x := range sel {
		ms = append(ms, labels.MustNewMatcher([]labels.MatchType{labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp}[x.Op], x.Name, x.Value))
	}
	return ms
}

func kemiLabels(ls labels.Labels) (out kemi.Labels) {
	ls.Range(func(l labels.Label) { out = append(out, kemi.Label{Name: l.Name, Value: l.Value}) })
	return out
}

// iterate reads a set as the engine does, now and then by Seek.
func iterate(set storage.SeriesSet, rnd *rand.Rand) (out []kemi.Points, err error) {
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		p := kemi.Points{Labels: kemiLabels(s.Labels())}
		it = s.Iterator(it)
		for k := it.Next(); k != chunkenc.ValNone; {
			at, v := it.At()
			p.At, p.Values = append(p.At, kemi.Millis(at)), append(p.Values, v)
			if rnd != nil && rnd.IntN(8) == 0 {
				k = it.Seek(at + 1)
			} else {
				k = it.Next()
			}
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
		if len(p.At) > 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b kemi.Points) int { return cmp.Compare(a.Labels.Compare(b.Labels), 0) })
	return out, set.Err()
}

// decode reads a set of chunks.
func decode(set storage.ChunkSeriesSet) (out []kemi.Points, err error) {
	for set.Next() {
		s := set.At()
		p := kemi.Points{Labels: kemiLabels(s.Labels())}
		it := s.Iterator(nil)
		for it.Next() {
			c := it.At().Chunk.Iterator(nil)
			for c.Next() != chunkenc.ValNone {
				at, v := c.At()
				p.At, p.Values = append(p.At, kemi.Millis(at)), append(p.Values, v)
			}
			if err := c.Err(); err != nil {
				return nil, err
			}
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
		if len(p.At) > 0 {
			out = append(out, p)
		}
	}
	return out, set.Err()
}

func same(what string, got, want []kemi.Points) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s: %d series, want %d:\n got %.600v\nwant %.600v", what, len(got), len(want), got, want)
	}
	for i := range got {
		g, w := got[i], want[i]
		ok := g.Labels.Compare(w.Labels) == 0 && slices.Equal(g.At, w.At) && slices.EqualFunc(g.Values, w.Values, func(x, y float64) bool {
			return math.Float64bits(x) == math.Float64bits(y) || what[:4] == "Sele" && math.IsNaN(x) && math.IsNaN(y)
		})
		if ok {
			continue
		}
		return fmt.Errorf("%s: %v: %d samples, want %d: %s", what, w.Labels, len(g.At), len(w.At), difference(pairs(g), pairs(w)))
	}
	return nil
}

func pairs(p kemi.Points) string {
	var b strings.Builder
	for i := range p.At {
		fmt.Fprintf(&b, "%d=%g ", p.At[i], p.Values[i])
	}
	return b.String()
}
