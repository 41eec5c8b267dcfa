package storetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

func seriesAppendAndSelect(t *testing.T, s *seriesStore) {
	b := s.base()
	load, up := named("data.load.avg_5m", "host", "dkos-marathon"), named("up", "instance", "a:1", "서비스", "결제")
	s.put(points(load, b, 1, b+1000, 2), points(up, b+500, 1))
	s.expect([]kemi.Points{points(load, b, 1, b+1000, 2), points(up, b+500, 1)}, always)
	s.put(points(up, b+1500, 0), points(load, b+2000, 3))
	s.expect([]kemi.Points{points(load, b, 1, b+1000, 2, b+2000, 3), points(up, b+500, 1, b+1500, 0)}, always)
	// A few hundred samples: more than one chunk.
	var many kemi.Points
	many.Labels = named("many")
	for i := range 1000 {
		many.At = append(many.At, kemi.Millis(b)+kemi.Millis(i*1000+i%7))
		many.Values = append(many.Values, math.Sin(float64(i))*float64(i%13))
	}
	for i := range many.At {
		s.put(kemi.Points{Labels: many.Labels, At: many.At[i : i+1], Values: many.Values[i : i+1]})
	}
	s.expect([]kemi.Points{many}, always, store.Matcher{Name: kemi.MetricName, Value: "many"})
	// The caller may stop at any point.
	for range s.Select(context.Background(), s.id(), nil, always) {
		break
	}
	s.put() // an empty batch only moves the position
}

func seriesRanges(t *testing.T, s *seriesStore) {
	b := s.base()
	m := named("m")
	s.put(points(m, b, 1, b+10, 2, b+20, 3))
	for _, c := range []struct {
		from, to float64
		want     []kemi.Points
	}{
		{b, b + 21, []kemi.Points{points(m, b, 1, b+10, 2, b+20, 3)}},
		{b, b + 20, []kemi.Points{points(m, b, 1, b+10, 2)}}, // To is not in it
		{b + 1, b + 20, []kemi.Points{points(m, b+10, 2)}},
		{b + 20, b + 21, []kemi.Points{points(m, b+20, 3)}},
		{b + 11, b + 20, nil},
		{b + 21, b + 30, nil},
		{b - 10, b, nil},
		{b + 10, b + 10, nil}, // nothing lies in an empty range
		{b + 10, b, nil},
	} {
		s.expect(c.want, kemi.Range{From: kemi.Millis(c.from), To: kemi.Millis(c.to)})
	}
}

func seriesLate(t *testing.T, s *seriesStore) {
	b := s.base()
	m, o := named("m"), named("o")
	s.put(points(m, b+10, 10), points(o, b+100, 1))
	s.put(points(m, b+5, 5))
	s.put(points(m, b+30, 30, b+20, 20, b+15, 15)) // out of order within the batch
	s.put(points(m, b+1, 1, b+40, 40), points(m, b+35, 35, b+3, 3))
	want := []kemi.Points{points(m, b+1, 1, b+3, 3, b+5, 5, b+10, 10, b+15, 15, b+20, 20, b+30, 30, b+35, 35, b+40, 40), points(o, b+100, 1)}
	s.expect(want, always)
	// A series whose first samples are late for the store as a whole.
	n := named("n")
	day := 24 * 3600e3
	s.put(points(n, b-day, 1))
	s.put(points(n, b-2*day, 0, b, 2))
	s.expect([]kemi.Points{points(n, b-2*day, 0, b-day, 1, b, 2)}, always, store.Matcher{Name: kemi.MetricName, Value: "n"})
	s.reopen()
	s.expect([]kemi.Points{points(n, b-2*day, 0, b-day, 1, b, 2)}, always, store.Matcher{Name: kemi.MetricName, Value: "n"})
	s.expect(want, always, store.Matcher{Op: store.NotEqual, Name: kemi.MetricName, Value: "n"})
}

func seriesDuplicates(t *testing.T, s *seriesStore) {
	b := s.base()
	m, o := named("m"), named("o")
	batch := []kemi.Points{points(m, b, 1, b+1, 2, b+2, 3), points(o, b, 7)}
	for range 3 {
		s.put(batch...)
		s.expect(batch, always)
	}
	s.put(points(m, b, 1, b, 1, b+1, 2), points(m, b+2, 3, b+2, 3)) // within a batch
	s.expect(batch, always)
	late := points(m, b-100, 9, b-50, 8)
	s.put(late)
	s.put(late)
	s.put(points(m, b-100, 9, b-100, 9))
	s.expect([]kemi.Points{points(m, b-100, 9, b-50, 8, b, 1, b+1, 2, b+2, 3)}, always, store.Matcher{Name: kemi.MetricName, Value: "m"})
	s.reopen()
	s.put(late)
	s.put(batch...)
	s.expect([]kemi.Points{points(m, b-100, 9, b-50, 8, b, 1, b+1, 2, b+2, 3)}, always, store.Matcher{Name: kemi.MetricName, Value: "m"})
}

func seriesConflicts(t *testing.T, s *seriesStore) {
	b := s.base()
	m := named("m")
	s.put(points(m, b, 1, b+10, 2))
	s.put(points(m, b+10, 99)) // the newest
	s.put(points(m, b, 99))    // an older one
	s.expect([]kemi.Points{points(m, b, 1, b+10, 2)}, always)
	s.put(points(m, b+5, 3))
	s.put(points(m, b+5, 99)) // a late one
	s.expect([]kemi.Points{points(m, b, 1, b+5, 3, b+10, 2)}, always)
	// Within one batch, once in order and once late: the first stays.
	s.put(points(m, b+20, 4, b+20, 99), points(m, b+20, 98))
	s.put(points(m, b+7, 5, b+7, 99), points(m, b+7, 98))
	want := []kemi.Points{points(m, b, 1, b+5, 3, b+7, 5, b+10, 2, b+20, 4)}
	s.expect(want, always)
	s.crash()
	s.put(points(m, b, 97, b+5, 97, b+7, 97, b+10, 97, b+20, 97))
	s.expect(want, always)
}

func seriesValues(t *testing.T, s *seriesStore) {
	b := s.base()
	stale := math.Float64frombits(0x7ff0000000000002)
	m := named("m")
	s.put(points(m, b, math.NaN(), b+1, math.Inf(1), b+2, math.Inf(-1), b+3, math.Copysign(0, -1), b+4, math.MaxFloat64, b+5, math.SmallestNonzeroFloat64,
		b+6, stale, b+7, 1e-300, b+8, 0.1+0.2))
	want := []kemi.Points{points(m, b, math.NaN(), b+1, math.Inf(1), b+2, math.Inf(-1), b+3, math.Copysign(0, -1), b+4, math.MaxFloat64,
		b+5, math.SmallestNonzeroFloat64, b+7, 1e-300, b+8, 0.1+0.2)}
	s.expect(want, always)
	// A series with nothing but stale markers in the range does not come.
	s.expect(nil, kemi.Range{From: kemi.Millis(b + 6), To: kemi.Millis(b + 7)})
	s.reopen()
	s.expect(want, always)
}

func seriesYearsApart(t *testing.T, s *seriesStore) {
	const old = 1515917973043
	now := float64(s.now().Unix()) * 1000
	m, o := named("m"), named("o")
	s.put(points(m, old, 1))
	s.put(points(m, now, 2), points(o, now, 3))
	s.put(points(o, old, 4), points(m, old+900e3, 5))
	want := []kemi.Points{points(m, old, 1, old+900e3, 5, now, 2), points(o, old, 4, now, 3)}
	s.expect(want, always)
	s.expect([]kemi.Points{points(m, old, 1, old+900e3, 5), points(o, old, 4)}, kemi.Range{From: 1515917973043, To: 1615917973043})
	s.crash()
	s.expect(want, always)
	s.reopen()
	s.expect(want, always)
}

func seriesProjects(t *testing.T, s *seriesStore) {
	b := s.base()
	m := named("m", "host", "h1")
	s.put(points(m, b, 1))
	s.project = "other"
	s.put(points(m, b, 2), points(named("secret", "key", "value"), b, 3))
	s.expect([]kemi.Points{points(m, b, 2), points(named("secret", "key", "value"), b, 3)}, always)
	s.project = "default"
	check := func() {
		t.Helper()
		for _, sel := range []store.Selector{
			nil,
			{{Op: store.NotEqual, Name: "host", Value: "x"}},
			{{Op: store.Regexp, Name: kemi.MetricName, Value: ".*"}},
			{{Op: store.NotRegexp, Name: "host", Value: "x.*"}},
			{{Op: store.Equal, Name: "host", Value: "h1"}},
		} {
			s.expect([]kemi.Points{points(m, b, 1)}, always, sel...)
			for ls, err := range s.SeriesStore.Series(t.Context(), s.id(), sel, always) {
				if err != nil || ls.Compare(m) != 0 {
					t.Fatalf("series %v: got %v, %v", sel, ls, err)
				}
			}
		}
		names, err := s.LabelNames(t.Context(), s.id(), nil, always, 0)
		if err != nil || !slices.Equal(names, []string{kemi.MetricName, "host"}) {
			t.Fatalf("label names: %q, %v", names, err)
		}
		values, err := s.LabelValues(t.Context(), s.id(), kemi.MetricName, nil, always, 0)
		if err != nil || !slices.Equal(values, []string{"m"}) {
			t.Fatalf("metric names: %q, %v", values, err)
		}
	}
	check()
	// Nothing that a sender or a reader says leads into another project.
	s.put(points(named("m", "host", "h1", "__project__", "other", "project", "other"), b, 5))
	for _, p := range s.get(always) {
		if p.Labels.Get("key") != "" || p.Values[0] == 2 {
			t.Fatalf("project default sees %v", p)
		}
	}
	s.expect(nil, always, store.Matcher{Name: "key", Value: "value"})
	s.project = "third"
	s.expect(nil, always)
	s.project = ""
	for _, err := range s.Select(t.Context(), s.id(), nil, always) {
		if !errors.Is(err, kemi.ErrDenied) {
			t.Fatalf("without a project: %v", err)
		}
	}
	for _, err := range s.SeriesStore.Series(t.Context(), s.id(), nil, always) {
		if !errors.Is(err, kemi.ErrDenied) {
			t.Fatalf("without a project: %v", err)
		}
	}
	if _, err := s.LabelNames(t.Context(), s.id(), nil, always, 0); !errors.Is(err, kemi.ErrDenied) {
		t.Fatalf("without a project: %v", err)
	}
	if _, err := s.LabelValues(t.Context(), s.id(), "host", nil, always, 0); !errors.Is(err, kemi.ErrDenied) {
		t.Fatalf("without a project: %v", err)
	}
}

func seriesMatchers(t *testing.T, s *seriesStore) {
	b := s.base()
	all := []kemi.Points{
		points(named("cpu", "host", "a", "mode", "idle"), b, 1),
		points(named("cpu", "host", "b", "mode", "user"), b, 2),
		points(named("disk.used", "host", "a"), b, 3),
		points(named("메모리", "호스트", "서버-1"), b, 4),
	}
	s.put(all...)
	is := func(op store.MatchOp) func(name, value string) store.Matcher {
		return func(name, value string) store.Matcher { return store.Matcher{Op: op, Name: name, Value: value} }
	}
	eq, ne, re, nre := is(store.Equal), is(store.NotEqual), is(store.Regexp), is(store.NotRegexp)
	for _, c := range []struct {
		sel  store.Selector
		want []int
	}{
		{nil, []int{0, 1, 2, 3}},
		{store.Selector{eq("host", "a")}, []int{0, 2}},
		{store.Selector{eq("host", "")}, []int{3}}, // a missing label has the value ""
		{store.Selector{ne("host", "")}, []int{0, 1, 2}},
		{store.Selector{ne("host", "a")}, []int{1, 3}},
		{store.Selector{re("host", "a|b")}, []int{0, 1, 2}},
		{store.Selector{re("host", "a|")}, []int{0, 2, 3}},
		{store.Selector{re("host", ".*")}, []int{0, 1, 2, 3}},
		{store.Selector{re("host", ".+")}, []int{0, 1, 2}},
		{store.Selector{nre("host", ".+")}, []int{3}},
		{store.Selector{nre("host", "a")}, []int{1, 3}},
		{store.Selector{re(kemi.MetricName, "cp")}, nil}, // the whole value
		{store.Selector{re(kemi.MetricName, "c.u|disk\\..*")}, []int{0, 1, 2}},
		{store.Selector{eq(kemi.MetricName, "disk.used")}, []int{2}},
		{store.Selector{eq("호스트", "서버-1")}, []int{3}},
		{store.Selector{re("호스트", "서버.*")}, []int{3}},
		{store.Selector{eq(kemi.MetricName, "cpu"), ne("mode", "idle")}, []int{1}},
		{store.Selector{eq("host", "a"), eq("host", "b")}, nil},
		{store.Selector{eq("nolabel", ""), eq("mode", "idle")}, []int{0}},
		{store.Selector{eq("nolabel", "x")}, nil},
	} {
		var want []kemi.Points
		for _, i := range c.want {
			want = append(want, all[i])
		}
		sel := slices.Clone(c.sel)
		s.expect(want, always, sel...)
		if !slices.Equal(sel, c.sel) {
			t.Fatalf("the selector was changed: %v", sel)
		}
	}
	for _, bad := range []store.Matcher{re("host", "("), nre("host", "[z-a]"), eq("", "x"), is(99)("host", "x")} {
		for _, err := range s.Select(t.Context(), s.id(), store.Selector{bad}, always) {
			if !errors.Is(err, kemi.ErrInvalid) {
				t.Fatalf("%v: %v", bad, err)
			}
		}
		if _, err := s.LabelNames(t.Context(), s.id(), store.Selector{bad}, always, 0); !errors.Is(err, kemi.ErrInvalid) {
			t.Fatalf("%v: %v", bad, err)
		}
	}
}

func seriesLabelQueries(t *testing.T, s *seriesStore) {
	b := s.base()
	s.put(points(named("cpu", "host", "b", "mode", "idle"), b, 1), points(named("cpu", "host", "a"), b, 1), points(named("mem", "host", "c"), b+60e3, 1),
		points(named("up", "서비스", "결제"), b, 1))
	cpu := store.Selector{{Name: kemi.MetricName, Value: "cpu"}}
	names := func(sel store.Selector, limit int, want ...string) {
		t.Helper()
		if got, err := s.LabelNames(t.Context(), s.id(), sel, always, limit); err != nil || !slices.Equal(got, want) {
			t.Fatalf("label names of %v, at most %d: %q, %v; want %q", sel, limit, got, err, want)
		}
	}
	values := func(name string, sel store.Selector, limit int, want ...string) {
		t.Helper()
		if got, err := s.LabelValues(t.Context(), s.id(), name, sel, always, limit); err != nil || !slices.Equal(got, want) {
			t.Fatalf("values of %s in %v, at most %d: %q, %v; want %q", name, sel, limit, got, err, want)
		}
	}
	names(nil, 0, kemi.MetricName, "host", "mode", "서비스")
	names(nil, 2, kemi.MetricName, "host")
	names(cpu, 0, kemi.MetricName, "host", "mode")
	names(store.Selector{{Name: "host", Value: "zzz"}}, 0)
	values("host", nil, 0, "a", "b", "c")
	values("host", nil, 2, "a", "b")
	values("host", cpu, 0, "a", "b")
	values("서비스", nil, 0, "결제")
	values("nolabel", nil, 0)
	var got []string
	for ls, err := range s.SeriesStore.Series(t.Context(), s.id(), cpu, always) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ls.String())
	}
	if want := []string{named("cpu", "host", "a").String(), named("cpu", "host", "b", "mode", "idle").String()}; !slices.Equal(got, want) {
		t.Fatalf("series: %q, want %q", got, want)
	}
}

func seriesOrder(t *testing.T, s *seriesStore) {
	b := s.base()
	// Names around those that a store may use itself, and one label set that is the beginning of another.
	sets := []kemi.Labels{
		named("m"), named("m", "A", "1"), named("m", "A", "1", "__z__", "2"), named("m", "__org__", "1"), named("m", "__project__", "p"),
		named("m", "__zed__", "1"), named("m", "_a", "1"), named("m", "a", "1"), named("m", "a", "1", "b", "2"), named("m", "a", "10"), named("m", "a", "2"),
		named("m", "가", "나"), named("M"), named("n"), named("m", " ", "space"), named("m", "!", "bang"), named("m", "a.b", "dot"), named("m", "a-b", "dash"),
		kemi.LabelsOf("host", "no name"),
	}
	var ps []kemi.Points
	for i, ls := range sets {
		ps = append(ps, points(ls, b, float64(i)))
	}
	s.put(ps...)
	slices.SortFunc(ps, func(a, b kemi.Points) int { return a.Labels.Compare(b.Labels) })
	s.expect(ps, always)
	s.reopen()
	s.expect(ps, always)
}
