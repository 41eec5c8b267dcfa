package storetest

import (
	"cmp"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// Queried is a store that the PromQL engine reads.
type Queried interface {
	store.SeriesStore
	Queryable(id kemi.Identity) storage.Queryable
	ChunkQueryable(id kemi.Identity) storage.ChunkQueryable
}

// Corpus is how Prometheus' own acceptance tests of PromQL are run on a store.
type Corpus struct {
	Open func(tb testing.TB, dir string, now func() time.Time) Queried
	// Move, if set, puts what was loaded elsewhere (another layer, a folder that is opened anew) and returns the store to go on with. It is called after the first
	// half of what a test loads, and again, with whole set, after all of it, before the first question.
	Move func(s Queried, whole bool) (Queried, error)
	// Files are those to run, all if empty: the corpus wants hundreds of stores, which not every test can afford.
	Files []string
}

// corpusFiles is how many files of tests Prometheus 3.16 has.
const corpusFiles = 22

// PromQL runs the corpus with the series of another project beside those of each test. What a test loads is
// appended in batches, in order of time.
func PromQL(t *testing.T, c Corpus) {
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	files := &corpusRun{T: t, only: c.Files}
	promqltest.RunBuiltinTestsWithStorage(files, engine, func(tb testing.TB) storage.Storage {
		dir, err := os.MkdirTemp("/dev/shm", "kemi-corpus") // none of the stores is about disks
		if err != nil {
			dir = tb.TempDir()
		}
		tb.Cleanup(func() { _ = os.RemoveAll(dir) })
		now := func() time.Time { return time.UnixMilli(0).AddDate(1, 0, 0) }
		s := &corpusStore{Queried: c.Open(tb, dir, now), move: c.Move, table: codec.NewTable(nil, now), asked: &files.asked}
		tb.Cleanup(func() { _ = s.Close() })
		return s
	})
	want := len(c.Files)
	if want == 0 {
		want = corpusFiles - 1
	}
	if files.seen < corpusFiles || files.run != want || files.asked < want {
		t.Errorf("%d files, %d of them run with %d selections: there are %d, and %d should be run", files.seen, files.run, files.asked, corpusFiles, want)
	}
}

type corpusRun struct {
	*testing.T
	only             []string
	seen, run, asked int
}

func (c *corpusRun) Run(name string, f func(*testing.T)) bool {
	c.seen++
	switch base := filepath.Base(name); {
	case base == "start_timestamps.test": // with samples; we keep them as samples of their own, as Prometheus does by default
		return true
	case len(c.only) > 0 && !slices.Contains(c.only, base):
		return true
	}
	c.run++
	return c.T.Run(name, f)
}

// corpusStore is a store as the corpus wants it.
type corpusStore struct {
	Queried
	move   func(Queried, bool) (Queried, error)
	table  *codec.Table
	loaded []loaded
	next   int64
	asked  *int
}

var corpusReader = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.AllPermissions}

// loaded is a sample or a native histogram.
type loaded struct {
	labels kemi.Labels
	at     int64
	value  float64
	native *prompb.Histogram
}

// bring appends what was loaded.
func (s *corpusStore) bring() error {
	if len(s.loaded) == 0 {
		return nil
	}
	slices.SortStableFunc(s.loaded, func(a, b loaded) int { return cmp.Compare(a.at, b.at) })
	half := len(s.loaded) / 2
	for i, part := range [][]loaded{s.loaded[:half], s.loaded[half:]} {
		for n := 0; len(part) > 0; part = part[n:] { // batches of one kind
			for n = 1; n < min(len(part), 1000) && (part[n].native == nil) == (part[0].native == nil); n++ {
			}
			if err := s.append(part[:n]); err != nil {
				return err
			}
		}
		if whole := i == 1; s.move != nil && (whole || half > 0) {
			moved, err := s.move(s.Queried, whole)
			if err != nil {
				return err
			}
			s.Queried = moved
		}
	}
	s.loaded = nil
	return nil
}

func (s *corpusStore) append(part []loaded) error {
	for _, project := range []string{"default", "other"} {
		s.next++
		for tries := 0; ; tries++ {
			batch, err := s.batch(project, part)
			if err == nil {
				err = s.Append(context.Background(), batch, store.Position{Next: s.next})
			}
			if err != nil && (tries == 3 || !errors.Is(err, codec.ErrLabelsWanted)) {
				return err
			}
			if err == nil {
				break
			}
		}
	}
	return nil
}

// batch is the part as a store gets it. In the project "other" its samples are one more.
func (s *corpusStore) batch(project string, part []loaded) (*codec.SeriesBatch, error) {
	if part[0].native == nil {
		points := make([]kemi.Points, 0, len(part))
		for _, l := range part {
			if project == "other" {
				l.value++
			}
			points = append(points, kemi.Points{Labels: l.labels, At: []kemi.Millis{kemi.Millis(l.at)}, Values: []float64{l.value}})
		}
		return s.table.BatchOf(project, points), nil
	}
	var r prompb.WriteRequest
	for _, l := range part {
		ts := prompb.TimeSeries{Histograms: []prompb.Histogram{*l.native}}
		for _, p := range l.labels {
			ts.Labels = append(ts.Labels, prompb.Label{Name: p.Name, Value: p.Value})
		}
		r.Timeseries = append(r.Timeseries, ts)
	}
	b, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	in, err := s.table.Receive(project, false, snappy.Encode(nil, b), codec.Limits{
		MaxDecodedBytes: math.MaxInt32, MaxLabels: 100, MaxLabelNameBytes: 1000, MaxLabelValueBytes: 1000, Oldest: math.MinInt64 / 2, Newest: math.MaxInt64 / 2,
	})
	if err != nil {
		return nil, err
	}
	if in.Refused.Any() {
		return nil, in.Refused.Errors[0]
	}
	return in.Batch, nil
}

func (s *corpusStore) Querier(mint, maxt int64) (storage.Querier, error) {
	*s.asked++
	if err := s.bring(); err != nil {
		return nil, err
	}
	return s.Queryable(corpusReader).Querier(mint, maxt)
}

func (s *corpusStore) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	if err := s.bring(); err != nil {
		return nil, err
	}
	return s.ChunkQueryable(corpusReader).ChunkQuerier(mint, maxt)
}

func (s *corpusStore) StartTime() (int64, error) { return 0, nil }

// Appender is of the interface before AppenderV2, which the corpus does not use any more.
func (s *corpusStore) Appender(context.Context) storage.Appender     { return nil }
func (s *corpusStore) AppenderV2(context.Context) storage.AppenderV2 { return corpusAppender{s: s} }

type corpusAppender struct {
	storage.AppenderV2
	s *corpusStore
}

func (a corpusAppender) Append(_ storage.SeriesRef, ls labels.Labels, _, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AOptions) (storage.SeriesRef, error) {
	l := loaded{at: t, value: v}
	ls.Range(func(p labels.Label) { l.labels = append(l.labels, kemi.Label{Name: p.Name, Value: p.Value}) })
	switch {
	case h != nil:
		native := prompb.FromIntHistogram(t, h)
		l.native = &native
	case fh != nil:
		native := prompb.FromFloatHistogram(t, fh)
		l.native = &native
	}
	a.s.loaded = append(a.s.loaded, l)
	return 1, nil
}
func (corpusAppender) Commit() error   { return nil }
func (corpusAppender) Rollback() error { return nil }
