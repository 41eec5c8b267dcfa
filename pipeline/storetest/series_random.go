package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// seriesRandom does random things to a store and to a model of one, a map, and compares. KEMI_TEST_SEED repeats a run.
func seriesRandom(t *testing.T, s *seriesStore) {
	rnd := rand.New(rand.NewPCG(s.seed, 1))
	m := &seriesModel{data: map[string]map[string]*modelSeries{}}
	steps := Steps(150)
	now := kemi.Millis(s.now().Add(-max(time.Hour, time.Duration(steps)*20*time.Second)).UnixMilli()) // it never gets beyond the clock
	projects := []string{"default", "other"}
	for step := range steps {
		switch n := rnd.IntN(100); {
		case n < 70:
			now += kemi.Millis(rnd.IntN(20000))
			s.project = projects[rnd.IntN(len(projects))]
			ps := m.batch(rnd, now)
			m.append(s.project, ps)
			s.put(ps...)
		case n < 74 && len(s.log) > 0: // an older batch comes again under a new position
			l := s.log[rnd.IntN(len(s.log))]
			m.append(l.project, l.points)
			s.project = l.project
			s.put(l.points...)
		case n < 76:
			s.reopen()
		case n < 79:
			s.crash()
		case n < 81:
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		default:
			s.project = projects[rnd.IntN(len(projects))]
			r := always
			if rnd.IntN(2) == 0 {
				r.From = now - kemi.Millis(rnd.Int64N(4e6))
				r.To = r.From + kemi.Millis(rnd.Int64N(4e6))
			}
			var sel []store.Matcher
			for range rnd.IntN(3) {
				sel = append(sel, store.Matcher{Op: store.MatchOp(rnd.IntN(2)), Name: fmt.Sprintf("l%d", rnd.IntN(3)), Value: []string{"", "0", "1"}[rnd.IntN(3)]})
			}
			if got, want := s.get(r, sel...), m.get(s.project, r, sel); !equalPoints(got, want) {
				t.Fatalf("step %d: select %v in %v of %s:\n got %v\nwant %v", step, sel, r, s.project, shorten(got), shorten(want))
			}
			s.checkDown(rnd, r, sel, func(r kemi.Range) []kemi.Points { return m.get(s.project, r, sel) })
		}
	}
}

type modelSeries struct {
	labels kemi.Labels
	data   map[kemi.Millis]float64
}

type seriesModel struct {
	data map[string]map[string]*modelSeries
}

// batch makes samples: mostly new, some late by anything up to a year, some that were there, some with another value.
func (m *seriesModel) batch(rnd *rand.Rand, now kemi.Millis) []kemi.Points {
	var out []kemi.Points
	for range 1 + rnd.IntN(6) {
		p := kemi.Points{Labels: named("m"+strconv.Itoa(rnd.IntN(4)), "l0", strconv.Itoa(rnd.IntN(2)), "l1", strconv.Itoa(rnd.IntN(3)))}
		for range 1 + rnd.IntN(5) {
			at := now - kemi.Millis(rnd.IntN(5000))
			switch rnd.IntN(12) {
			case 0:
				at = now - kemi.Millis(rnd.Int64N(365*24*3600e3))
			case 1:
				at = now - kemi.Millis(rnd.Int64N(3*3600e3))
			case 2:
				at = now / 60000 * 60000 // likely to be there
			}
			p.At = append(p.At, at)
			p.Values = append(p.Values, float64(rnd.IntN(3))+float64(at%1000)/1000)
		}
		out = append(out, p)
	}
	return out
}

func (m *seriesModel) append(project string, ps []kemi.Points) {
	if m.data[project] == nil {
		m.data[project] = map[string]*modelSeries{}
	}
	for _, p := range ps {
		k := p.Labels.String()
		s := m.data[project][k]
		if s == nil {
			s = &modelSeries{p.Labels, map[kemi.Millis]float64{}}
			m.data[project][k] = s
		}
		for i, at := range p.At {
			if _, ok := s.data[at]; !ok {
				s.data[at] = p.Values[i]
			}
		}
	}
}

func (m *seriesModel) get(project string, r kemi.Range, sel []store.Matcher) []kemi.Points {
	var out []kemi.Points
	for _, s := range m.data[project] {
		ok := true
		for _, x := range sel {
			ok = ok && (s.labels.Get(x.Name) == x.Value) == (x.Op == store.Equal)
		}
		if !ok {
			continue
		}
		p := kemi.Points{Labels: s.labels}
		for at := range s.data {
			if r.Contains(at) {
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
