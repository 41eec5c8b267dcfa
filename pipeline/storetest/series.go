package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// OpenSeries opens a store in a folder, where another may have been before. now is its clock.
type OpenSeries func(tb testing.TB, dir string, now func() time.Time) store.SeriesStore

// Series is what every store.SeriesStore has to do.
func Series(t *testing.T, open OpenSeries) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *seriesStore)
	}{
		{"AppendAndSelect", seriesAppendAndSelect},
		{"Ranges", seriesRanges},
		{"Late", seriesLate},
		{"Duplicates", seriesDuplicates},
		{"Conflicts", seriesConflicts},
		{"Values", seriesValues},
		{"YearsApart", seriesYearsApart},
		{"Projects", seriesProjects},
		{"Matchers", seriesMatchers},
		{"Labels", seriesLabelQueries},
		{"Order", seriesOrder},
		{"Reopen", seriesReopen},
		{"Crash", seriesCrash},
		{"Concurrent", seriesConcurrent},
		{"Cancel", seriesCancel},
		{"Random", seriesRandom},
		{"Reduce", seriesReduce},
	} {
		t.Run(c.name, func(t *testing.T) { seriesCase(t, open, c.run) })
	}
}

// SeriesRandom is the random one of these cases alone, which replays what a crash has taken.
func SeriesRandom(t *testing.T, open OpenSeries) { seriesCase(t, open, seriesRandom) }

func seriesCase(t *testing.T, open OpenSeries, run func(*testing.T, *seriesStore)) {
	t.Helper()
	seed := Seed(t)
	s := &seriesStore{T: t, open: open, dir: t.TempDir(), seed: seed, now: Clock(seed), project: "default"}
	s.table = codec.NewTable(nil, s.now)
	s.SeriesStore = open(t, s.dir, s.now)
	t.Cleanup(func() { s.close() })
	run(t, s)
}

// seriesStore is a store under test with what the cases need.
type seriesStore struct {
	store.SeriesStore
	*testing.T
	open    OpenSeries
	dir     string
	seed    uint64
	now     func() time.Time
	table   *codec.Table
	project string
	next    int64
	log     []logged // what was put at each position: the log of record
}

// logged is what was put at a position.
type logged struct {
	project string
	points  []kemi.Points
}

func (s *seriesStore) id() kemi.Identity {
	return kemi.Identity{Subject: "test", Project: s.project, Permissions: kemi.AllPermissions}
}

func (s *seriesStore) close() {
	if s.SeriesStore != nil {
		if err := s.SeriesStore.Close(); err != nil {
			s.Errorf("close: %v", err)
		}
		s.SeriesStore = nil
	}
}

// put appends at the next position.
func (s *seriesStore) put(ps ...kemi.Points) {
	s.Helper()
	s.next++
	s.log = append(s.log, logged{s.project, ps})
	s.putAt(s.next, ps...)
}

func (s *seriesStore) putAt(next int64, ps ...kemi.Points) {
	s.Helper()
	if err := s.Append(context.Background(), s.table.BatchOf(s.project, ps), store.Position{Next: next}); err != nil {
		s.Fatalf("append: %v", err)
	}
}

// reopen closes and opens again.
func (s *seriesStore) reopen() {
	s.Helper()
	s.close()
	s.SeriesStore = s.open(s.T, s.dir, s.now)
}

// crash opens what kill -9 at this moment would leave, flushed or not by Close, and replays what the store does not have yet.
func (s *seriesStore) crash() {
	s.Helper()
	to := s.TempDir()
	copyTree(s.T, s.dir, to)
	s.close()
	s.dir = to
	s.SeriesStore = s.open(s.T, to, s.now)
	project := s.project
	from := s.Positions()[0]
	if from > s.next {
		s.Fatalf("positions say %d, only %d were appended", from, s.next)
	}
	for ; from < s.next; from++ {
		s.project = s.log[from].project
		s.putAt(from+1, s.log[from].points...)
	}
	s.project = project
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // went away meanwhile
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

var always = kemi.Range{From: 0, To: math.MaxInt64 / 2}

func (s *seriesStore) get(r kemi.Range, sel ...store.Matcher) []kemi.Points {
	s.Helper()
	var out []kemi.Points
	for p, err := range s.Select(context.Background(), s.id(), sel, r) {
		if err != nil {
			s.Fatalf("select: %v", err)
		}
		out = append(out, kemi.Points{Labels: p.Labels, At: slices.Clone(p.At), Values: slices.Clone(p.Values)})
	}
	return out
}

// expect compares what the range and the matchers select with want.
func (s *seriesStore) expect(want []kemi.Points, r kemi.Range, sel ...store.Matcher) {
	s.Helper()
	if got := s.get(r, sel...); !equalPoints(got, want) {
		s.Fatalf("select %v in %v:\n got %v\nwant %v", sel, r, shorten(got), shorten(want))
	}
}

func shorten(ps []kemi.Points) string {
	s := fmt.Sprintf("%d series: %v", len(ps), ps)
	if len(s) > 2000 {
		return s[:2000] + "…"
	}
	return s
}

func equalPoints(a, b []kemi.Points) bool {
	return slices.EqualFunc(a, b, func(x, y kemi.Points) bool {
		return x.Labels.Compare(y.Labels) == 0 && slices.Equal(x.At, y.At) && slices.EqualFunc(x.Values, y.Values, func(v, w float64) bool {
			return math.Float64bits(v) == math.Float64bits(w)
		})
	})
}

// points makes a series of the samples at, value, at, value, …
func points(ls kemi.Labels, pairs ...float64) kemi.Points {
	p := kemi.Points{Labels: ls}
	for i := 0; i+1 < len(pairs); i += 2 {
		p.At = append(p.At, kemi.Millis(pairs[i]))
		p.Values = append(p.Values, pairs[i+1])
	}
	return p
}

func named(name string, pairs ...string) kemi.Labels {
	return kemi.LabelsOf(append([]string{kemi.MetricName, name}, pairs...)...)
}

// base is a time not long ago, on a round second.
func (s *seriesStore) base() float64 { return float64(s.now().Add(-20*time.Minute).Unix()) * 1000 }
