package storetest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kemi/pipeline/bus"
)

// BenchBus measures a back-end with records of 1 KB: durable publishing by one and by sixteen publishers, and reading it all again.
func BenchBus(b *testing.B, open OpenBus) {
	for _, c := range []struct{ publishers, batch int }{{1, 1}, {1, 100}, {16, 1}, {16, 100}, {16, 1000}} {
		b.Run(fmt.Sprintf("Publish/publishers=%d/batch=%d", c.publishers, c.batch), func(b *testing.B) {
			benchPublish(b, open, c.publishers, c.batch, false)
		})
	}
	b.Run("PublishAndFollow/publishers=16/batch=100", func(b *testing.B) { benchPublish(b, open, 16, 100, true) })
	b.Run("Replay", func(b *testing.B) { benchReplay(b, open, false) })
	b.Run("ReplayAndRecycle", func(b *testing.B) { benchReplay(b, open, true) })
}

const benchRecord = 1000

func benchPublish(b *testing.B, open OpenBus, publishers, batch int, follow bool) {
	log := open(b, map[string]int{"a": 1})()
	defer log.Close()
	ctx := busContext(b)
	b.SetBytes(int64(batch * benchRecord))
	var wg, followers sync.WaitGroup
	if follow {
		r, err := log.Subscribe(ctx, "a", "follow", nil)
		if err != nil {
			b.Fatal(err)
		}
		followers.Go(func() {
			defer r.Close()
			for n := 0; n < b.N*batch; {
				got, err := r.Next(ctx)
				if err != nil {
					b.Error(err)
					return
				}
				n += len(got.Records)
			}
		})
	}
	tickets := make(chan struct{}, b.N)
	for range b.N {
		tickets <- struct{}{}
	}
	close(tickets)
	waits := make([][]time.Duration, publishers)
	b.ResetTimer()
	cpu := cpuTime(b)
	for i := range publishers {
		wg.Go(func() {
			value := make([]byte, benchRecord)
			for j := range value {
				value[j] = byte(i*31 + j*7)
			}
			records := make([]bus.Record, batch)
			for range tickets {
				for j := range records {
					records[j] = bus.Record{Value: value}
				}
				start := time.Now()
				if err := log.Publish(ctx, "a", records); err != nil {
					b.Error(err)
					return
				}
				waits[i] = append(waits[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	followers.Wait()
	b.StopTimer()
	cpu = cpuTime(b) - cpu
	all := slices.Concat(waits...)
	slices.Sort(all)
	b.ReportMetric(all[len(all)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(cpu.Seconds()/(float64(b.N*batch*benchRecord)/100e6), "cpu-s/100MB")
	b.ReportMetric(residentMB(b), "resident-MB")
}

// recycler is a reader that takes the memory of a batch back.
type recycler interface{ Recycle(bus.Batch) }

func benchReplay(b *testing.B, open OpenBus, recycle bool) {
	log := open(b, map[string]int{"a": 1})()
	defer log.Close()
	const batch, publishes = 100, 3000
	ctx := busContext(b)
	records := make([]bus.Record, batch)
	for range publishes {
		for j := range records {
			records[j] = bus.Record{Value: make([]byte, benchRecord)}
		}
		if err := log.Publish(ctx, "a", records); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(batch * publishes * benchRecord)
	b.ResetTimer()
	cpu := cpuTime(b)
	for range b.N {
		r, err := log.Subscribe(ctx, "a", "", nil)
		if err != nil {
			b.Fatal(err)
		}
		back, ok := r.(recycler)
		if recycle && !ok {
			b.Skip("readers of this back-end do not take memory back")
		}
		bytes := 0
		for bytes < batch*publishes*benchRecord {
			got, err := r.Next(ctx)
			if err != nil {
				b.Fatal(err)
			}
			for i := range got.Records {
				bytes += len(got.Records[i].Value)
			}
			if recycle {
				back.Recycle(got)
			}
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric((cpuTime(b)-cpu).Seconds()/(float64(b.N)*batch*publishes*benchRecord/100e6), "cpu-s/100MB")
	b.ReportMetric(residentMB(b), "resident-MB")
}

// cpuTime is what this process has used of the processors, user and system.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMB is the memory that this process has now.
func residentMB(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(line)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1000
}
