package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"

	"kemi"
	"kemi/pipeline/codec"
)

// TestCollect has more collected beside the host, by many at once that use their bytes again: while the disk takes batches, and while it takes none.
func TestCollect(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	const writers, each = 8, 20
	full := make(chan struct{})
	var a *Agent
	spoolAll := func(ctx context.Context, spool func([]byte)) error {
		var g sync.WaitGroup
		for w := range writers {
			g.Go(func() {
				body := make([]byte, 0, 1<<10)
				for i := range each {
					b, err := codec.EncodeRemoteWrite([]kemi.Points{{Labels: kemi.LabelsOf(kemi.MetricName, fmt.Sprintf("m%d_%d", w, i)), At: []kemi.Millis{1}, Values: []float64{1}}})
					if err != nil {
						t.Error(err)
					}
					if i == each/2 {
						<-full
					}
					body = append(body[:0], b...)
					spool(body)
					clear(body)
				}
			})
		}
		a.metrics.mu.Lock()
		a.metrics.o.sync = func(*os.File) error { return syscall.ENOSPC }
		a.metrics.mu.Unlock()
		close(full)
		g.Wait()
		<-ctx.Done()
		return nil
	}
	started := make(chan struct{})
	a, stop := runWith(t, Options{Config: config(t, s.URL, ""), Collect: func(ctx context.Context, spool func([]byte)) error {
		<-started
		return spoolAll(ctx, spool)
	}})
	close(started)
	waitFor(t, "everything", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for w := range writers {
			for i := range each {
				if s.samples[fmt.Sprintf("m%d_%d", w, i)] != 1 {
					return false
				}
			}
		}
		return true
	})
	stop()
	if a.dropped() != 0 {
		t.Errorf("%d batches dropped", a.dropped())
	}
}

// TestNoRoomForSeries has a server that has no room for new series of the batch before: what comes after does not wait for that.
func TestNoRoomForSeries(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Start()
	s.header.Set("Retry-After", "60")
	s.header.Set("X-Kemi-Series-Over-Limit", "7")
	sent := 0
	s.set(nil, func(r *http.Request) int {
		if r.URL.Path != "/api/v1/write" {
			return 0
		}
		if sent++; sent == 1 {
			return http.StatusTooManyRequests
		}
		return 0
	})
	a, stop := runWith(t, Options{Config: config(t, s.URL, ""), Collect: func(ctx context.Context, spool func([]byte)) error {
		for _, name := range []string{"first", "second"} {
			b, err := codec.EncodeRemoteWrite([]kemi.Points{{Labels: kemi.LabelsOf(kemi.MetricName, name), At: []kemi.Millis{1}, Values: []float64{1}}})
			if err != nil {
				t.Error(err)
			}
			spool(b)
		}
		<-ctx.Done()
		return nil
	}})
	waitFor(t, "the second batch", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.samples["second"] == 1 })
	stop()
	if sent != 2 || a.stats.refusedSeries.Load() != 7 || a.dropped() != 0 {
		t.Errorf("%d requests, %d series refused, %d batches dropped", sent, a.stats.refusedSeries.Load(), a.dropped())
	}
}
