package settled

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

// BenchmarkFew asks about few series of many: 10 metrics of 1 000 hosts for half a day at 15 s, and 90 more of each host that are brief. Which host it is changes
// each time.
func BenchmarkFew(b *testing.B) {
	const hosts = 1000
	var series []Series
	metric := func(name, shape string, samples int) {
		for h := range hosts {
			s := Series{Project: "p", Labels: kemi.LabelsOf(kemi.MetricName, name, "host", fmt.Sprintf("host_%04d", h), "dc", fmt.Sprint(h%4))}
			s.Values = shapes[shape](rand.New(rand.NewPCG(uint64(h), 1)), samples)
			for i := range s.Values {
				s.At = append(s.At, kemi.Millis(1_700_000_000_000+i*15_000))
			}
			series = append(series, s)
		}
	}
	for m := range 10 {
		metric(fmt.Sprint("hot", m), []string{"percent", "counter"}[m%2], 2880)
	}
	for m := range 90 {
		metric(fmt.Sprint("cold", m), "percent", 40)
	}
	slices.SortFunc(series, func(a, b Series) int { return compare(a.Project, a.Labels, b.Project, b.Labels) })
	bl := writeBlock(b, filepath.Join(b.TempDir(), "block"), DefaultOptions(), series)
	m := bl.Meta()
	series = nil
	hour := kemi.Range{From: m.To - 2*3_600_000, To: m.To - 3_600_000}
	host := func(n int) store.Matcher {
		return store.Matcher{Name: "host", Value: fmt.Sprintf("host_%04d", n*7%hosts)}
	}
	read := func(b *testing.B, r kemi.Range, sel ...store.Matcher) (found int) {
		refs, err := bl.Select("p", sel)
		if err != nil {
			b.Fatal(err)
		}
		c := bl.Cursor()
		defer c.Close()
		var cols Columns
		for _, ref := range refs {
			if _, err := c.LabelsOf(ref); err != nil {
				b.Fatal(err)
			}
			span, err := c.Span(ref)
			if err != nil {
				b.Fatal(err)
			}
			if span.From >= r.To || span.To <= r.From {
				continue
			}
			if found++; r == Always {
				continue
			}
			cols.Reset()
			if err := c.Read(ref, r, &cols); err != nil {
				b.Fatal(err)
			}
		}
		return found
	}
	for _, q := range []struct {
		name string
		want int
		once func(b *testing.B, n int) int
	}{
		{"labels of a host", 100, func(b *testing.B, n int) int { return read(b, Always, host(n)) }},
		{"last value", 1, func(b *testing.B, n int) int {
			return read(b, kemi.Range{From: m.To - 300_000, To: m.To}, store.Matcher{Name: kemi.MetricName, Value: "hot0"}, host(n))
		}},
		{"8 metrics of a host, 1 h", 8, func(b *testing.B, n int) int {
			return read(b, hour, store.Matcher{Name: kemi.MetricName, Op: store.Regexp, Value: "hot[0-7]"}, host(n))
		}},
		{"10 hosts, 1 h", 10, func(b *testing.B, n int) int {
			return read(b, hour, store.Matcher{Name: kemi.MetricName, Value: "hot1"}, store.Matcher{Name: "host", Op: store.Regexp, Value: fmt.Sprintf("host_%03d[0-9]", n*7%(hosts/10))})
		}},
		{"count by regular expression", 300, func(b *testing.B, n int) int {
			refs, err := bl.Select("p", store.Selector{{Name: kemi.MetricName, Value: "hot1"}, {Name: "host", Op: store.Regexp, Value: "host_0?[1-3].*"}, {Name: "dc", Op: store.Regexp, Value: ".+"}})
			if err != nil {
				b.Fatal(err)
			}
			return len(refs)
		}},
	} {
		b.Run(q.name, func(b *testing.B) {
			begin, n := cpuTime(), 0
			for b.Loop() {
				if got := q.once(b, n); got != q.want {
					b.Fatal(got, q.want)
				}
				n++
			}
			b.ReportMetric(float64((cpuTime()-begin).Microseconds())/float64(n), "cpu-µs/op")
		})
	}
}
