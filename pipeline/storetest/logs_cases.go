package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

func logsHistogram(t *testing.T, s *logStore) {
	for i := range 2000 {
		r := line(fmt.Sprintf("h-%04d", i), kemi.Nanos(i)*1e6, fmt.Sprint("n", i%10, " word", string(rune('a'+i%3))))
		r.Severity = kemi.Severity(i % 25)
		s.index(r)
	}
	ask := func() {
		t.Helper()
		for _, c := range []struct {
			e    store.LogExpr
			r    store.NanoRange
			step kemi.Millis
		}{
			{nil, store.NanoRange{From: 0, To: 2000e6}, 1000}, {nil, store.NanoRange{From: 0, To: 2000e6}, 7}, {nil, store.NanoRange{From: 150e6 + 1, To: 1777e6}, 100},
			{store.LogPhrase{Text: "n3"}, store.NanoRange{From: -500e6, To: 3000e6}, 250}, {store.LogPhrase{Text: "wordb"}, store.NanoRange{From: 3, To: 1999e6}, 60_000},
			{store.LogPhrase{Field: "level", Text: "error"}, store.NanoRange{From: 0, To: 2000e6}, 500}, {nil, store.NanoRange{From: 5, To: 5}, 1},
		} {
			q := store.LogQuery{Expr: c.e, Range: c.r, Limit: 3}
			got, err := s.Histogram(context.Background(), reader("default"), q, c.step)
			if err != nil {
				t.Fatal(err)
			}
			q.Limit = 0
			var want []store.LogBucket
			if c.r.To > c.r.From {
				floor := func(n kemi.Nanos) kemi.Millis {
					m := n.Millis()
					return m - ((m%c.step)+c.step)%c.step
				}
				for at := floor(c.r.From); at <= floor(c.r.To-1); at += c.step {
					b := store.LogBucket{At: at}
					for _, r := range s.expected("default", q) {
						if floor(r.At) == at {
							if b.BySeverity == nil {
								b.BySeverity = map[string]int64{}
							}
							b.Count++
							b.BySeverity[r.Severity.String()]++
						}
					}
					want = append(want, b)
				}
			}
			if !slices.EqualFunc(got, want, func(a, b store.LogBucket) bool {
				return a.At == b.At && a.Count == b.Count && maps.Equal(a.BySeverity, b.BySeverity)
			}) {
				t.Fatalf("histogram of %v in %v by %d:\ngot  %v\nwant %v", c.e, c.r, c.step, got, want)
			}
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsFieldsAndCount(t *testing.T, s *logStore) {
	for i := range 600 {
		r := line(fmt.Sprintf("f-%03d", i), kemi.Nanos(i), "body")
		r.Severity = []kemi.Severity{0, kemi.SeverityInfo, kemi.SeverityError}[i%3]
		r.Stream = kemi.LabelsOf("service", fmt.Sprint("s", i%4))
		r.Attrs = kemi.LabelsOf("user", fmt.Sprint("u", i%50), "service", "hidden by the stream")
		if i%2 == 0 {
			r.Attrs = kemi.LabelsOf("even", "yes", "n", fmt.Sprint(i))
		}
		s.index(r)
	}
	ask := func() {
		t.Helper()
		e := store.LogNot{X: store.LogPhrase{Field: "service", Text: "s3"}}
		q := store.LogQuery{Expr: e, Range: store.NanoRange{From: 100, To: 500}, Limit: 2}
		counts := map[string]map[string]int64{}
		groups := map[string]int64{}
		all := store.LogQuery{Expr: e, Range: q.Range}
		for _, r := range s.expected("default", all) {
			for _, name := range []string{"level", "service", "user", "even", "n"} {
				if v, ok := store.FieldOf(&r, name); ok {
					if counts[name] == nil {
						counts[name] = map[string]int64{}
					}
					counts[name][v]++
				}
			}
			service, _ := store.FieldOf(&r, "service")
			even, _ := store.FieldOf(&r, "even")
			groups[kemi.LabelsOf("service", service, "even", even).String()]++
		}
		fields, err := s.Fields(context.Background(), reader("default"), q, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(fields) != len(counts) {
			t.Errorf("fields %v, want %d of them", fields, len(counts))
		}
		for _, f := range fields {
			var total, listed int64
			for _, n := range counts[f.Name] {
				total += n
			}
			for i, v := range f.Values {
				listed += v.Count
				if counts[f.Name][v.Value] != v.Count || i > 0 && f.Values[i-1].Count < v.Count {
					t.Errorf("field %s: value %v, want %d of it", f.Name, v, counts[f.Name][v.Value])
				}
			}
			if len(f.Values) != min(3, len(counts[f.Name])) || listed+f.More != total {
				t.Errorf("field %s: %d values, %d listed and %d more, want %d", f.Name, len(f.Values), listed, f.More, total)
			}
		}
		got, err := s.Count(context.Background(), reader("default"), q, []string{"service", "even"})
		if err != nil || len(got) != len(groups) {
			t.Fatalf("count: %v %v, want %v", got, err, groups)
		}
		for _, g := range got {
			if groups[g.Labels.String()] != g.Count {
				t.Errorf("group %v: %d, want %d", g.Labels, g.Count, groups[g.Labels.String()])
			}
		}
		one, err := s.Count(context.Background(), reader("default"), q, nil)
		if want := int64(len(s.expected("default", all))); err != nil || len(one) != 1 || one[0].Count != want {
			t.Errorf("count by nothing: %v %v, want %d", one, err, want)
		}
		if none, err := s.Count(context.Background(), reader("default"), store.LogQuery{Expr: store.LogOr{}, Range: allTime}, nil); err != nil || len(none) != 1 || none[0].Count != 0 {
			t.Errorf("count of nothing: %v %v", none, err)
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsLarge(t *testing.T, s *logStore) {
	var words strings.Builder
	for i := 0; words.Len() < 1<<20; i++ {
		fmt.Fprintf(&words, "w%x ", i*2654435761)
	}
	many := make(map[string]string, 10_000)
	for i := range 10_000 {
		many[fmt.Sprint("attr", i)] = fmt.Sprint("value-", i)
	}
	wide := line("wide", 3, "many attributes")
	wide.Attrs = kemi.LabelsFromMap(many)
	s.index(line("long", 1, words.String()+"end"), line("oneword", 2, strings.Repeat("abcdefgh", 1<<17)+"tail"), wide)
	s.index(line("한글", 4, strings.Repeat("가나다라마바사", 50_000)), line("binary", 5, strings.Repeat("\xff\x00\x80", 300_000)))
	ask := func() {
		t.Helper()
		s.checkAll("default")
		for _, c := range []struct {
			e    store.LogExpr
			want int
		}{
			{store.LogPhrase{Text: "end"}, 1}, {store.LogPhrase{Text: fmt.Sprintf("w%x", 1000*2654435761)}, 1}, {store.LogPhrase{Text: strings.Repeat("abcdefgh", 1<<17) + "tail"}, 1},
			{store.LogPhrase{Text: strings.Repeat("abcdefgh", 1<<17)}, 0}, {store.LogPrefix{Prefix: strings.Repeat("abcdefgh", 100)}, 1}, {store.LogPrefix{Prefix: "abcdefghabc"}, 1},
			{store.LogPhrase{Field: "attr9999", Text: "value-9999"}, 1}, {store.LogPhrase{Field: "attr9999", Text: "value-1"}, 0}, {store.LogExists{Field: "attr5"}, 1},
			{store.LogPhrase{Text: "사가나다"}, 1}, {store.LogPhrase{Text: "나가"}, 0}, {store.LogRegexp{Source: "ghtail$"}, 1},
		} {
			if n := s.check("default", store.LogQuery{Expr: c.e, Range: allTime}); n != c.want {
				t.Errorf("%.80s: %d, want %d", c.e, n, c.want)
			}
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsBadQueries(t *testing.T, s *logStore) {
	s.index(line("b", 1, "x"))
	ctx, id := context.Background(), reader("default")
	if _, err := s.Histogram(ctx, id, store.LogQuery{Range: store.NanoRange{From: 0, To: 1e9}}, 0); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("step 0: %v", err)
	}
	if _, err := s.Histogram(ctx, id, store.LogQuery{Range: store.NanoRange{From: 0, To: 1e15}}, 1); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("a million buckets: %v", err)
	}
	if _, err := s.Histogram(ctx, kemi.Identity{}, store.LogQuery{Range: store.NanoRange{From: 0, To: 1e9}}, 1000); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("no project: %v", err)
	}
	if _, err := s.Fields(ctx, kemi.Identity{}, store.LogQuery{}, 1); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("no project: %v", err)
	}
	if _, err := s.Count(ctx, kemi.Identity{}, store.LogQuery{}, nil); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("no project: %v", err)
	}
	var many []kemi.LogRecord
	for i := range 10_001 {
		many = append(many, line(fmt.Sprintf("g-%05d", i), 1, "x"))
	}
	s.index(many...)
	if _, err := s.Count(ctx, id, store.LogQuery{Range: allTime}, []string{"id"}); !errors.Is(err, kemi.ErrLimited) {
		t.Errorf("10 002 groups: %v", err)
	}
	s.close()
	s.LogStore = s.open(t, s.dir)
}

func logsCancel(t *testing.T, s *logStore) {
	for i := range 3000 {
		s.index(line(fmt.Sprintf("c-%04d", i), kemi.Nanos(i), strings.Repeat("text ", 50)))
	}
	s.reopen()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := 0
	var last error
	for _, err := range s.Search(ctx, reader("default"), store.LogQuery{Range: allTime}) {
		if last = err; err != nil {
			break
		}
		if seen++; seen == 5 {
			cancel()
		}
	}
	if seen == 3000 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d records after cancel, then %v", seen, last)
	}
	if _, err := s.Count(ctx, reader("default"), store.LogQuery{Range: allTime, Expr: store.LogPhrase{Text: "text"}}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("count after cancel: %v", err)
	}
}

func logsConcurrent(t *testing.T, s *logStore) {
	const partitions, batches, size = 3, 40, 50
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				seen := map[string]bool{}
				for r, err := range s.Search(context.Background(), reader("default"), store.LogQuery{Expr: store.LogPhrase{Text: "word"}, Range: allTime, Ascending: true}) {
					if err != nil {
						t.Error(err)
						return
					}
					if seen[r.ID] {
						t.Errorf("%s twice in one answer", r.ID)
						return
					}
					seen[r.ID] = true
				}
				if len(seen) < last {
					t.Errorf("%d records, and there were %d before", len(seen), last)
					return
				}
				last = len(seen)
				n, err := s.Count(context.Background(), reader("default"), store.LogQuery{Range: allTime}, nil)
				if err != nil || n[0].Count < int64(last) {
					t.Errorf("count %v %v, and there were %d before", n, err, last)
					return
				}
			}
		})
	}
	for p := range int32(partitions) {
		writers.Go(func() {
			for b := range batches {
				rs := make([]kemi.LogRecord, size)
				for i := range rs {
					rs[i] = line(fmt.Sprintf("p%d-b%d-%d", p, b, i), kemi.Nanos(b*size+i), "word "+strings.Repeat("filler ", 20))
				}
				if err := s.Index(context.Background(), rs, store.Position{Partition: p, Next: int64(b + 1)}); err != nil {
					t.Error(err)
					return
				}
				// What Index has taken is found at once.
				got, err := collectLogs(s.Search(context.Background(), reader("default"), store.LogQuery{Expr: store.LogPhrase{Field: "id", Text: rs[0].ID}, Range: allTime}))
				if err != nil || len(got) != 1 {
					t.Errorf("%s: %d records, %v", rs[0].ID, len(got), err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	n, err := s.Count(context.Background(), reader("default"), store.LogQuery{Range: allTime}, nil)
	if err != nil || n[0].Count != partitions*batches*size {
		t.Errorf("%v %v, want %d", n, err, partitions*batches*size)
	}
}

// logsSeries counts by time and field, buckets beginning on whole minutes and a nanosecond after them, with records on the very edges.
func logsSeries(t *testing.T, s *logStore) {
	r := rand.New(rand.NewPCG(7, 7))
	const begin = kemi.Nanos(1_700_000_040e9) // a whole minute
	for b := range 5 {
		var rs []kemi.LogRecord
		for i := range 300 {
			at := begin + kemi.Nanos(r.Int64N(3600e9))
			if b > 2 && r.IntN(4) == 0 {
				at = at / 60e9 * 60e9
			}
			l := line(fmt.Sprintf("s%d-%d", b, i), at, fmt.Sprint("message ", r.IntN(3)))
			l.Severity = kemi.Severity(1 + r.IntN(24))
			l.Stream = kemi.LabelsOf("host", fmt.Sprint("h", r.IntN(3)))
			if r.IntN(3) == 0 {
				l.Attrs = kemi.LabelsOf("user", fmt.Sprint("u", r.IntN(4)))
			}
			rs = append(rs, l)
		}
		s.index(rs...)
		if b == 3 {
			s.reopen()
		}
	}
	for n := range 120 {
		from := begin + kemi.Nanos(r.IntN(20))*60e9 + kemi.Nanos([]int{0, 1, 1, 17}[r.IntN(4)])
		q := store.LogQuery{Range: store.NanoRange{From: from, To: from + kemi.Nanos(r.Int64N(3000e9)) + 1}}
		if n%2 == 0 {
			q.Range.To = from + kemi.Nanos(1+r.IntN(40))*60e9
		}
		if r.IntN(2) == 0 {
			q.Expr = []store.LogExpr{store.LogPhrase{Text: "message 1"}, store.LogPhrase{Field: "level", Text: "error"}, store.LogPhrase{Field: "host", Text: "h1"}, store.LogExists{Field: "user"}}[r.IntN(4)]
		}
		step := []kemi.Nanos{60e9, 60e9, 300e9, 7e9, 90e9}[r.IntN(5)]
		by := [][]string{nil, {"host"}, {"level"}, {"user", "host"}}[r.IntN(4)]
		want := map[string]int64{}
		for _, rec := range s.expected("default", q) {
			var ls kemi.Labels
			for _, f := range by {
				v, _ := store.FieldOf(&rec, f)
				ls = append(ls, kemi.Label{Name: f, Value: v})
			}
			want[fmt.Sprint(ls.Normalize(), (rec.At-from)/step)]++
		}
		got, err := s.Series(context.Background(), reader("default"), q, by, step)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range got {
			if buckets := int((q.Range.To - q.Range.From + step - 1) / step); len(g.Counts) != buckets {
				t.Fatalf("%d buckets, want %d", len(g.Counts), buckets)
			}
			for i, c := range g.Counts {
				want[fmt.Sprint(g.Labels, i)] -= c
			}
		}
		for k, c := range want {
			if c != 0 {
				t.Fatalf("%v by %v, step %d: %s is %d off", q, by, step, k, c)
			}
		}
	}
	if _, err := s.Series(context.Background(), reader("default"), store.LogQuery{Range: allTime}, nil, 1); err == nil {
		t.Error("buckets without end are counted")
	}
	if _, err := s.Series(context.Background(), reader("default"), store.LogQuery{Range: store.NanoRange{To: 5}}, nil, 0); err == nil {
		t.Error("a step of nothing is taken")
	}
}
