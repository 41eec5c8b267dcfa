package settled

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
	"kemi/pipeline/store"
)

// fleetOf is what hosts tell in half a day: mostly percentages and counters, some page counts, constants and noise, every 15 s.
func fleetOf(hosts int) []Series {
	var out []Series
	for name, metrics := range map[string]int{"percent": 9, "counter": 5, "pages": 2, "constant": 2, "seconds": 1, "noise": 1} {
		for m := range metrics {
			for h := range hosts {
				r := rand.New(rand.NewPCG(uint64(h), uint64(m)))
				s := Series{Project: "p", Labels: kemi.LabelsOf(kemi.MetricName, fmt.Sprint(name, m), "host", fmt.Sprintf("host_%04d", h), "dc", fmt.Sprint(h%4))}
				s.Values = shapes[name](r, 2880)
				for i := range s.Values {
					s.At = append(s.At, kemi.Millis(1_700_000_000_000+i*15_000+h*7919%15_000))
				}
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b Series) int { return compare(a.Project, a.Labels, b.Project, b.Labels) })
	return out
}

func BenchmarkBlock(b *testing.B) {
	series := fleetOf(30)
	samples := 0
	for i := range series {
		samples += len(series[i].At)
	}
	// CPU time: the machine may do other work at the same time.
	run := func(name string, once func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			once(b)
			begin, n := cpuTime(), 0
			for b.Loop() {
				once(b)
				n++
			}
			b.ReportMetric(float64((cpuTime()-begin).Nanoseconds())/float64(n)/float64(samples), "cpu-ns/sample")
		})
	}
	dir := b.TempDir()
	n := 0
	run("write", func(b *testing.B) {
		w, err := Create(filepath.Join(dir, fmt.Sprint(n)), DefaultOptions())
		if err != nil {
			b.Fatal(err)
		}
		n++
		for i := range series {
			if err := w.Add(&series[i]); err != nil {
				b.Fatal(err)
			}
		}
		m, err := w.Close(nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(m.Bytes)/float64(samples), "B/sample")
		b.ReportMetric(float64(m.RollupBytes)/float64(samples), "rollup-B/sample")
	})
	bl, err := Open(filepath.Join(dir, "0"))
	if err != nil {
		b.Fatal(err)
	}
	defer bl.Close()
	c := bl.Cursor()
	defer c.Close()
	var cols Columns
	run("read", func(b *testing.B) {
		for ref := range Ref(len(series)) {
			cols.Reset()
			if err := c.Read(ref, Always, &cols); err != nil {
				b.Fatal(err)
			}
		}
	})
	var red store.Reducer
	for _, interval := range []kemi.Millis{60_000, 900_000, 3_600_000} {
		for name, fn := range map[string]store.Reduce{"max": store.ReduceMax, "avg": store.ReduceAvg} {
			run(fmt.Sprintf("reduce/%ds-%s", interval/1000, name), func(b *testing.B) {
				for ref := range Ref(len(series)) {
					red.Reset(interval, fn)
					if _, err := c.Reduce(ref, Always, &red); err != nil {
						b.Fatal(err)
					}
					red.Down()
				}
			})
		}
	}
	b.Run("select", func(b *testing.B) {
		for b.Loop() {
			refs, err := bl.Select("p", store.Selector{{Name: kemi.MetricName, Value: "percent3"}, {Op: store.Regexp, Name: "dc", Value: "[12]"}})
			if err != nil || len(refs) == 0 {
				b.Fatal(len(refs), err)
			}
		}
	})
	// For comparison: the live store's chunks of the same samples, 120 in each, read by the library.
	var chunks []chunkenc.Chunk
	bytes := 0
	for _, s := range series {
		for i := 0; i < len(s.At); i += 120 {
			x := chunkenc.NewXORChunk()
			app, err := x.Appender()
			if err != nil {
				b.Fatal(err)
			}
			for j := i; j < min(len(s.At), i+120); j++ {
				app.Append(0, int64(s.At[j]), s.Values[j])
			}
			bytes += len(x.Bytes())
			chunks = append(chunks, x)
		}
	}
	var it chunkenc.Iterator
	run("xor chunks", func(b *testing.B) {
		for _, x := range chunks {
			for it = x.Iterator(it); it.Next() != chunkenc.ValNone; {
				it.At()
			}
		}
		b.ReportMetric(float64(bytes)/float64(samples), "B/sample")
	})
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
