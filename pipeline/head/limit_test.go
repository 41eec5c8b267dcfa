package head

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang/snappy"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// receive is a request on its way from a receiver to the store.
func receive(t *testing.T, db *DB, table *codec.Table, project string, next int64, points ...kemi.Points) *codec.Incoming {
	t.Helper()
	e := codec.Encoder{V1: true}
	for _, p := range points {
		e.AddPoints(p)
	}
	in, err := table.Receive(project, false, e.Encode(), codec.Limits{
		MaxDecodedBytes: 1 << 30, MaxLabels: 64, MaxLabelNameBytes: 1024, MaxLabelValueBytes: 1024, Newest: math.MaxInt64, Series: db,
	})
	if err != nil {
		t.Fatal(err)
	}
	// What the log has of it must be what was let in.
	body, err := snappy.Decode(nil, in.Record.Value)
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Batch.Series) == 0 != (len(body) == 0) && !in.Empty() {
		t.Fatalf("%d series, but %d bytes", len(in.Batch.Series), len(body))
	}
	again, err := codec.NewTable(nil, time.Now).Decode(&bus.Record{Value: in.Record.Value, Headers: in.Record.Headers})
	if !in.Empty() && (err != nil || len(again.Series) != len(in.Batch.Series)) {
		t.Fatalf("the record has %v series (%v), the batch %d", again, err, len(in.Batch.Series))
	}
	if err := db.Append(t.Context(), in.Batch, store.Position{Next: next}); err != nil {
		t.Fatal(err)
	}
	return in
}

func request(i int, at int64) kemi.Points {
	return kemi.Points{
		Labels: kemi.LabelsOf(kemi.MetricName, "http_requests_total", "path", fmt.Sprintf("/%d", i%3), "request_id", fmt.Sprintf("id-%d", i)),
		At:     []kemi.Millis{kemi.Millis(at)}, Values: []float64{float64(i)},
	}
}

// TestSeriesLimit: over the limit new series are refused before they are acknowledged, with the label that has exploded; known ones of the same
// request go in, also those that only the store knows.
func TestSeriesLimit(t *testing.T) {
	for _, perProject := range []bool{false, true} {
		t.Run(fmt.Sprintf("per project %v", perProject), func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			want := "the limit of 10 active series of all projects together (metrics.maxSeries) is reached"
			if cfg.MaxSeries = 10; perProject {
				cfg.MaxSeries, cfg.MaxSeriesPerProject = 1000, 10
				want = "the limit of 10 active series of project p (metrics.maxSeriesPerProject) is reached"
			}
			c := &clock{now: time.Now()}
			db, err := Open(cfg, Options{Now: c.Now})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			table := codec.NewTable(nil, c.Now)
			at := c.now.UnixMilli()
			var many []kemi.Points
			for i := range 15 {
				many = append(many, request(i, at))
			}
			in := receive(t, db, table, "p", 1, many...)
			if r := in.Refused; in.Samples != 10 || r.Samples != 5 || r.LimitedSeries != 5 || r.Series != 0 || len(r.Errors) != 0 || !errors.Is(r.Limited, kemi.ErrLimited) {
				t.Fatalf("taken %d, refused %+v", in.Samples, r)
			}
			exploded := []string{want, `10 of 10 series of project p have the metric "http_requests_total"`, `label "request_id" has 10 values, most often "id-0" (1 series)`}
			for _, part := range exploded { // although none of the ten was made when that was said
				if text := in.Refused.Limited.Error(); !strings.Contains(text, part) {
					t.Errorf("the first request: %q lacks %q", text, part)
				}
			}
			if w := db.limits.of("p").waiting; w.n != 0 || w.labels != nil {
				t.Errorf("all were made, but %d wait", w.n)
			}
			c.now = c.now.Add(time.Minute)
			// Another table: the ten are known to the store only.
			table = codec.NewTable(nil, c.Now)
			for i := range many {
				many[i].At[0] += 15_000
			}
			in = receive(t, db, table, "p", 2, many...)
			if r := in.Refused; in.Samples != 10 || r.Samples != 5 || r.LimitedSeries != 5 {
				t.Fatalf("taken %d, refused %+v", in.Samples, r)
			}
			text := in.Refused.Limited.Error()
			for _, part := range exploded {
				if !strings.Contains(text, part) {
					t.Errorf("%q lacks %q", text, part)
				}
			}
			got := 0
			for p, err := range db.Select(t.Context(), kemi.Identity{Project: "p", Permissions: kemi.AllPermissions}, nil, kemi.Range{From: 0, To: math.MaxInt64 / 2}) {
				if err != nil {
					t.Fatal(err)
				}
				got += len(p.At)
			}
			if got != 20 {
				t.Errorf("%d samples stored, want 20", got)
			}
			// Another project has room only if the limit is the project's.
			in = receive(t, db, table, "q", 3, request(100, at))
			if ok := in.Refused.Limited == nil; ok != perProject {
				t.Errorf("another project: %+v", in.Refused)
			}
			if !ok(in.Refused.Limited, "project p") {
				t.Errorf("a project is told of another: %v", in.Refused.Limited)
			}
			// What was acknowledged is taken whatever the limits say: the log may hold more than there is room for.
			if err := db.Append(t.Context(), codec.NewTable(nil, c.Now).BatchOf("p", []kemi.Points{request(999, at)}), store.Position{Next: 4}); err != nil {
				t.Fatal(err)
			}
			if !db.Has("p", request(999, at).Labels) || db.Has("q", request(999, at).Labels) {
				t.Error("Has does not know what is there")
			}
		})
	}
}

func ok(err error, not string) bool { return err == nil || !strings.Contains(err.Error(), not) }

// TestWaitingIsBounded: of many series that wait some are remembered, and those that were made first are forgotten first.
func TestWaitingIsBounded(t *testing.T) {
	w, now := waiting{}, time.Now()
	note := func(from, to int) {
		for i := from; i < to; i++ {
			w.note(request(i, 0).Labels, 100*remembered, now, true)
		}
	}
	note(0, 1_000_000)
	if w.n != 1_000_000 || w.every != 100 || len(w.labels) > 2*remembered {
		t.Fatalf("%d, every %d, %d remembered", w.n, w.every, len(w.labels))
	}
	w.made(999_000)
	if len(w.labels) != 10 || w.labels[9].Get("request_id") != "id-999999" {
		t.Fatalf("%d remembered, the last %v", len(w.labels), w.labels[len(w.labels)-1])
	}
	now = now.Add(2 * pendingFor) // their requests failed
	note(7, 8)
	if w.n != 1 || len(w.labels) != 0 {
		t.Fatalf("%d wait, %d remembered", w.n, len(w.labels))
	}
}

// TestLimitWhileLoading: as long as not all is loaded, receivers let in as many as the limit says.
func TestLimitWhileLoading(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxSeries = 3
	db, done := loading(t, cfg)
	for i := range 5 {
		if err := db.Room("p", nil); (err == nil) != (i < 3) {
			t.Errorf("series %d: %v", i, err)
		}
	}
	done()
	if err := db.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	db.limits.all.used = time.Time{} // the requests that took the places came to nothing, long ago
	if err := db.Room("p", nil); err != nil {
		t.Errorf("all is loaded and empty: %v", err)
	}
}

func BenchmarkRoom(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Dir = b.TempDir()
	cfg.MaxSeries, cfg.MaxSeriesPerProject = 1<<40, 1<<40
	db, err := Open(cfg, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for b.Loop() {
		if err := db.Room("p", nil); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLimitIsExact: many requests at once get no more series than there is room for, and all of those.
func TestLimitIsExact(t *testing.T) {
	for _, perProject := range []bool{false, true} {
		cfg := testConfig(t.TempDir())
		if cfg.MaxSeries = 300; perProject {
			cfg.MaxSeries, cfg.MaxSeriesPerProject = 1000, 300
		}
		db := mustOpen(t, cfg)
		table := codec.NewTable(nil, time.Now)
		at := time.Now().UnixMilli()
		batches := make(chan *codec.SeriesBatch, 100)
		var taken, refused atomic.Int64
		var senders sync.WaitGroup
		for sender := range 4 {
			senders.Go(func() {
				for r := range 25 {
					e := codec.Encoder{V1: true}
					for i := range 10 {
						e.AddPoints(request(sender*250+r*10+i, at))
					}
					in, err := table.Receive("p", false, e.Encode(), codec.Limits{MaxDecodedBytes: 1 << 30, MaxLabels: 64, MaxLabelNameBytes: 1024, MaxLabelValueBytes: 1024, Newest: math.MaxInt64, Series: db})
					if err != nil {
						t.Error(err)
						return
					}
					taken.Add(int64(in.Samples))
					refused.Add(int64(in.Refused.Samples))
					batches <- in.Batch
				}
			})
		}
		go func() { senders.Wait(); close(batches) }()
		next := int64(0)
		for b := range batches {
			next++
			if err := db.Append(t.Context(), b, store.Position{Next: next}); err != nil {
				t.Fatal(err)
			}
		}
		if taken.Load() != 300 || refused.Load() != 700 || db.Stats().Series != 300 {
			t.Errorf("per project %v: %d taken, %d refused, %d stored; want 300, 700, 300", perProject, taken.Load(), refused.Load(), db.Stats().Series)
		}
		if p := db.limits.all.pending; p != 0 {
			t.Errorf("%d places are pending", p)
		}
	}
}
