package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

func seriesReopen(t *testing.T, s *seriesStore) {
	b := s.base()
	m := named("m")
	if p := s.Positions(); len(p) != 0 {
		t.Fatalf("positions of a new store: %v", p)
	}
	s.put(points(m, b, 1))
	s.put(points(m, b+1, 2))
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := s.Positions(); p[0] != 2 {
		t.Fatalf("positions after Sync: %v, want 0: 2", p)
	}
	s.put(points(m, b+2, 3), points(named("n"), b, 4))
	if err := s.Append(t.Context(), s.table.BatchOf(s.project, nil), store.Position{Partition: 5, Next: 77}); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	if p := s.Positions(); p[0] != 3 || p[5] != 77 {
		t.Fatalf("positions after Close: %v, want 0: 3 and 5: 77", p)
	}
	s.expect([]kemi.Points{points(m, b, 1, b+1, 2, b+2, 3), points(named("n"), b, 4)}, always)
	// The same table goes on to work with the store that was opened anew.
	s.put(points(named("n"), b+3, 5), points(m, b+3, 6), points(named("o"), b+3, 7))
	s.expect([]kemi.Points{points(m, b, 1, b+1, 2, b+2, 3, b+3, 6), points(named("n"), b, 4, b+3, 5), points(named("o"), b+3, 7)}, always)
	store := s.SeriesStore
	s.close()
	if err := store.Append(t.Context(), s.table.BatchOf(s.project, nil), seriesPosition(9)); !errors.Is(err, kemi.ErrUnavailable) {
		t.Fatalf("append after Close: %v", err)
	}
}

func seriesPosition(next int64) store.Position { return store.Position{Next: next} }

func seriesCrash(t *testing.T, s *seriesStore) {
	b := s.base()
	m, late := named("m"), named("late")
	var want, wantLate kemi.Points
	want.Labels, wantLate.Labels = m, late
	for i := range 300 {
		ps := []kemi.Points{points(m, b+float64(i)*1000, float64(i)), points(late, b-float64(i)*1000, float64(i))}
		s.put(ps...)
		want.At, want.Values = append(want.At, ps[0].At[0]), append(want.Values, float64(i))
		wantLate.At, wantLate.Values = slices.Insert(wantLate.At, 0, ps[1].At[0]), slices.Insert(wantLate.Values, 0, float64(i))
		if i == 100 || i == 299 {
			s.crash()
			s.expect([]kemi.Points{wantLate, want}, always)
		}
		if i == 150 {
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func seriesConcurrent(t *testing.T, s *seriesStore) {
	b := s.base()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				for p, err := range s.Select(context.Background(), s.id(), nil, always) {
					if err != nil {
						t.Errorf("select: %v", err)
						return
					}
					for i := range p.At {
						if i > 0 && p.At[i] <= p.At[i-1] {
							t.Errorf("%v: %d after %d", p.Labels, p.At[i], p.At[i-1])
							return
						}
					}
				}
				if _, err := s.LabelValues(context.Background(), s.id(), "i", nil, always, 0); err != nil {
					t.Errorf("label values: %v", err)
				}
			}
		}()
	}
	for i := range 200 {
		var ps []kemi.Points
		for j := range 10 {
			ps = append(ps, points(named("m", "i", fmt.Sprint(j)), b+float64(i*10), float64(i), b-float64(i*10)-1, float64(i)))
		}
		s.put(ps...)
		if i%50 == 0 {
			if err := s.Sync(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if got := s.get(always); len(got) != 10 || len(got[9].At) != 400 {
		t.Fatalf("%d series", len(got))
	}
}

func seriesCancel(t *testing.T, s *seriesStore) {
	s.put(points(named("m"), s.base(), 1), points(named("n"), s.base(), 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range s.Select(ctx, s.id(), nil, always) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("select with a context that has ended: %v", last)
	}
}
