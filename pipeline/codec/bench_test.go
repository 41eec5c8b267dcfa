package codec

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/golang/snappy"

	"kemi"
)

// requests are rounds over series of eleven labels, 2 000 samples a request, packed.
func requests(series, rounds int, v1 bool) [][]byte {
	labels := make([]kemi.Labels, series)
	for i := range labels {
		host := fmt.Sprintf("host-%05d.dc%d.example.com", i/100, i/100%4)
		labels[i] = kemi.LabelsOf(kemi.MetricName, fmt.Sprintf("node_metric_%d_total", i%100), "host", host, "instance", host+":9100", "job", "node", "dc", fmt.Sprintf("dc%d", i/100%4),
			"service", fmt.Sprintf("service-%d", i/100%20), "rack", fmt.Sprintf("rack-%d", i/100%40), "os", "linux", "arch", "amd64", "env", "production", "team", fmt.Sprintf("team-%d", i%7))
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	e := &Encoder{V1: v1}
	var out [][]byte
	for r := range rounds {
		for i, ls := range labels {
			e.Add(ls, []kemi.Millis{kemi.MillisOf(testNow) + kemi.Millis(15000*r)}, []float64{float64(rnd.IntN(1e6))})
			if e.Samples() == 2000 || i == series-1 {
				out = append(out, e.Encode())
			}
		}
	}
	return out
}

// BenchmarkReceive is what a receiver does with a request of 2 000 known series of eleven labels: unpack, find, check, decode.
func BenchmarkReceive(b *testing.B) {
	for _, series := range []int{100_000} {
		for _, v1 := range []bool{true, false} {
			name := "v2"
			if v1 {
				name = "v1"
			}
			bodies := requests(series, 3, v1)
			unpacked := 0
			for _, body := range bodies {
				n, _ := snappy.DecodedLen(body)
				unpacked += n
			}
			run := func(b *testing.B, enrich Enricher, f func(t *Table, body []byte) int) {
				t := NewTable(enrich, fixedNow)
				for _, body := range bodies {
					f(t, body)
				}
				b.ReportAllocs()
				samples := 0
				began := cpuTime()
				for i := 0; b.Loop(); i++ {
					samples += f(t, bodies[i%len(bodies)])
				}
				b.ReportMetric((cpuTime()-began)/float64(samples), "cpu-ns/sample")
				b.ReportMetric(float64(unpacked)/float64(3*series), "B/sample-unpacked")
			}
			receive := func(t *Table, body []byte) int {
				in, err := t.Receive("default", !v1, body, testLimits())
				if err != nil || in.Refused.Any() {
					b.Fatal(err, in.Refused)
				}
				return in.Samples
			}
			b.Run(fmt.Sprintf("%s/%dk", name, series/1000), func(b *testing.B) { run(b, nil, receive) })
			b.Run(fmt.Sprintf("%s/%dk/enriched", name, series/1000), func(b *testing.B) { run(b, fakeIMS{epoch: 1}, receive) })
			var buf []byte
			b.Run(fmt.Sprintf("%s/%dk/unpack-only", name, series/1000), func(b *testing.B) {
				run(b, nil, func(_ *Table, body []byte) int {
					var err error
					if buf, err = snappy.Decode(buf[:cap(buf)], body); err != nil {
						b.Fatal(err)
					}
					return 2000
				})
			})
		}
	}
}

// BenchmarkNewSeries is a request of 2 000 series that were never seen.
func BenchmarkNewSeries(b *testing.B) {
	for _, v1 := range []bool{true, false} {
		name := "v2"
		if v1 {
			name = "v1"
		}
		bodies := requests(100_000, 1, v1)
		b.Run(name, func(b *testing.B) {
			samples := 0
			began := cpuTime()
			for b.Loop() {
				t := NewTable(nil, fixedNow)
				for _, body := range bodies {
					in, err := t.Receive("default", !v1, body, testLimits())
					if err != nil {
						b.Fatal(err)
					}
					samples += in.Samples
				}
			}
			b.ReportMetric((cpuTime()-began)/float64(samples), "cpu-ns/series")
		})
	}
}

// cpuTime is what the process has used, in nanoseconds: the clock on the wall says little on a machine that others use too.
func cpuTime() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

// fakeIMS knows every host.
type fakeIMS struct {
	epoch  uint64
	labels func(project, host string) kemi.Labels
}

func (f fakeIMS) Epoch() uint64 { return f.epoch }

func (f fakeIMS) Enrich(project, host string) kemi.Labels {
	if f.labels != nil {
		return f.labels(project, host)
	}
	return kemi.LabelsOf("owner", "kim", "zone", "z1")
}
