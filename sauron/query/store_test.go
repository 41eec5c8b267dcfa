package query

import (
	"context"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// memory is a series store that keeps everything in sorted slices. With stretch > 0 it yields series in stretches of so many samples, and
// overwrites what it yielded before: a reader that keeps it sees garbage.
type memory struct {
	mu       sync.Mutex
	projects map[string][]*memSeries // sorted by labels
	stretch  int
	fail     error
}

type memSeries struct {
	labels kemi.Labels
	at     []kemi.Millis
	v      []float64
}

func newMemory() *memory { return &memory{projects: map[string][]*memSeries{}} }

var _ store.SeriesStore = (*memory)(nil)

func (m *memory) add(project string, ls kemi.Labels, at kemi.Millis, v float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.projects[project]
	i, ok := slices.BinarySearchFunc(all, ls, func(s *memSeries, ls kemi.Labels) int { return s.labels.Compare(ls) })
	if !ok {
		all = slices.Insert(all, i, &memSeries{labels: slices.Clone(ls)})
		m.projects[project] = all
	}
	s := all[i]
	j, ok := slices.BinarySearch(s.at, at)
	if !ok {
		s.at, s.v = slices.Insert(s.at, j, at), slices.Insert(s.v, j, v)
	}
}

func (m *memory) Append(_ context.Context, b *codec.SeriesBatch, _ store.Position) error {
	from := int32(0)
	for i, end := range b.Ends {
		for ; from < end; from++ {
			m.add(b.Project, b.Labels(i), b.At[from], b.Values[from])
		}
	}
	return nil
}

func (m *memory) Positions() bus.Positions   { return bus.Positions{} }
func (m *memory) Sync(context.Context) error { return nil }
func (m *memory) Close() error               { return nil }

func (m *memory) find(id kemi.Identity, sel store.Selector, r kemi.Range) ([]memSeries, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id.Project == "" {
		return nil, kemi.Errorf(kemi.ErrDenied, "no project")
	}
	if m.fail != nil {
		return nil, m.fail
	}
	tests := make([]func(kemi.Labels) bool, len(sel))
	for i, c := range sel {
		want, not := c.Value, c.Op == store.NotEqual || c.Op == store.NotRegexp
		equal := func(v string) bool { return v == want }
		if c.Op == store.Regexp || c.Op == store.NotRegexp {
			re, err := regexp.Compile("^(?s:" + c.Value + ")$")
			if err != nil {
				return nil, kemi.Errorf(kemi.ErrInvalid, "matcher %s: %w", c.Name, err)
			}
			equal = re.MatchString
		}
		tests[i] = func(ls kemi.Labels) bool { return equal(ls.Get(c.Name)) != not }
	}
	var out []memSeries
next:
	for _, s := range m.projects[id.Project] {
		for _, t := range tests {
			if !t(s.labels) {
				continue next
			}
		}
		i, _ := slices.BinarySearch(s.at, r.From)
		j, _ := slices.BinarySearch(s.at, r.To)
		if i < j {
			out = append(out, memSeries{s.labels, s.at[i:j], s.v[i:j]})
		}
	}
	return out, nil
}

func (m *memory) Select(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Points, error] {
	return func(yield func(kemi.Points, error) bool) {
		found, err := m.find(id, sel, r)
		if err != nil {
			yield(kemi.Points{}, err)
			return
		}
		var at []kemi.Millis
		var v []float64
		for _, s := range found {
			if ctx.Err() != nil {
				yield(kemi.Points{}, ctx.Err())
				return
			}
			if m.stretch == 0 {
				if !yield(kemi.Points{Labels: s.labels, At: s.at, Values: s.v}, nil) {
					return
				}
				continue
			}
			for i := 0; i < len(s.at); i += m.stretch {
				j := min(i+m.stretch, len(s.at))
				at, v = append(at[:0], s.at[i:j]...), append(v[:0], s.v[i:j]...)
				if !yield(kemi.Points{Labels: slices.Clone(s.labels), At: at, Values: v}, nil) {
					return
				}
				for k := range at {
					at[k], v[k] = -1, -12345
				}
			}
		}
	}
}

func (m *memory) Series(_ context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Labels, error] {
	return func(yield func(kemi.Labels, error) bool) {
		found, err := m.find(id, sel, r)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, s := range found {
			if !yield(s.labels, nil) {
				return
			}
		}
	}
}

func (m *memory) collect(id kemi.Identity, sel store.Selector, r kemi.Range, limit int, of func(kemi.Labels) []string) ([]string, error) {
	found, err := m.find(id, sel, r)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range found {
		out = append(out, of(s.labels)...)
	}
	sort.Strings(out)
	out = slices.Compact(out)
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}

func (m *memory) LabelNames(_ context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	return m.collect(id, sel, r, limit, func(ls kemi.Labels) []string {
		var names []string
		for _, l := range ls {
			names = append(names, l.Name)
		}
		return names
	})
}

func (m *memory) LabelValues(_ context.Context, id kemi.Identity, name string, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	return m.collect(id, sel, r, limit, func(ls kemi.Labels) []string {
		if v := ls.Get(name); v != "" {
			return []string{v}
		}
		return nil
	})
}

// load reads a line "metric{tag=value,…} start step: v v _ v", times in milliseconds or with a unit, _ for no value.
func (m *memory) load(line string) error {
	head, values, ok := strings.Cut(line, ": ")
	f := strings.Fields(head)
	if !ok || len(f) != 3 {
		return fmt.Errorf("load %q: want series start step: values", line)
	}
	metric, filters, err := parseMetric(f[0])
	if err != nil {
		return err
	}
	pairs := []string{kemi.MetricName, metric}
	for _, t := range filters {
		pairs = append(pairs, t.Tagk, t.Filter)
	}
	at, err := ParseTime(f[1], nil, testNow)
	if err != nil {
		return err
	}
	step, err := ParseDuration(f[2])
	if err != nil {
		return err
	}
	for _, s := range strings.Fields(values) {
		if s != "_" {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return err
			}
			m.add(testID.Project, kemi.LabelsOf(pairs...), at, v)
		}
		at += kemi.Millis(step)
	}
	return nil
}

var (
	testNow = time.Date(2018, 1, 14, 12, 0, 0, 0, time.UTC)
	testID  = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.MetricsRead}
)

func newEngine(tb testing.TB, s store.SeriesStore, change ...func(*Options)) *Engine {
	tb.Helper()
	o := Options{Store: s, Now: func() time.Time { return testNow }}
	for _, c := range change {
		c(&o)
	}
	e, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// reducing is a memory that reduces, and keeps back whatever nobody has to read. It overwrites what it yielded before.
type reducing struct{ *memory }

var _ store.Downsampler = reducing{}

func (m reducing) SelectDown(_ context.Context, id kemi.Identity, sel store.Selector, r, core kemi.Range, interval kemi.Millis, fn store.Reduce) iter.Seq2[store.Down, error] {
	return func(yield func(store.Down, error) bool) {
		found, err := m.find(id, sel, r)
		if err != nil {
			yield(store.Down{}, err)
			return
		}
		var red store.Reducer
		for _, s := range found {
			red.Reset(interval, fn)
			red.Samples(s.at, s.v)
			d := red.Down()
			from, _ := slices.BinarySearch(d.At, core.From)
			to, _ := slices.BinarySearch(d.At, core.To)
			if to-from == int((core.To-core.From)/interval) {
				d.At, d.Values = d.At[from:to], d.Values[from:to]
			}
			d.Labels = s.labels
			if len(d.At) > 0 && !yield(d, nil) {
				return
			}
		}
	}
}
