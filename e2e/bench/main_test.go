package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

func TestReportReplacesItsPart(t *testing.T) {
	name := filepath.Join(t.TempDir(), "b.md")
	if err := os.WriteFile(name, []byte("# Before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newReport([]target{{name: "KEMI"}, {name: "peer"}})
	r.set(0, "rate", "300", 300, true)
	r.set(1, "rate", "100", 100, true)
	r.set(0, "cost", "2 ms", 2, false)
	r.set(1, "cost", "5 ms", 5, false)
	r.set(0, "alone", "1", 0, false)
	for range 2 {
		if err := writeReport(name, r.markdown()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Before\n", "| rate | 300 | 100 (3.0 ×) |", "| cost | 2 ms | 5 ms (2.5 ×) |", "| alone | 1 | – |", endMark} {
		if strings.Count(string(b), want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, b)
		}
	}
}

func TestFleet(t *testing.T) {
	var sent atomic.Int64
	f := newFleet(0, 10, 1000, 9000, &sent)
	for host := range 30 {
		for m := range 100 {
			from := 0
			if m >= 10 {
				from = 8
			}
			f.add("m", host, m, kind(m%2), from)
		}
	}
	got := map[int64]int{}
	for b, ok := f.next(); ok; b, ok = f.next() {
		raw, err := snappy.Decode(nil, b.data)
		if err != nil {
			t.Fatal(err)
		}
		var w prompb.WriteRequest
		if err := w.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		if len(w.Timeseries) > perRequest {
			t.Fatalf("%d series in a request", len(w.Timeseries))
		}
		for _, s := range w.Timeseries {
			got[s.Samples[0].Timestamp]++
		}
	}
	for round := range int64(10) {
		want := 300
		if round >= 8 {
			want = 3000
		}
		if got[round*1000] != want {
			t.Errorf("%d samples in round %d, want %d", got[round*1000], round, want)
		}
	}
	if sent.Load() != 8*300+2*3000 {
		t.Errorf("%d sent", sent.Load())
	}
}

// TestLines is that both forms say the same, that each request is as large as the others', and that all series come in each round.
func TestLines(t *testing.T) {
	for _, graphite := range []bool{false, true} {
		var sent atomic.Int64
		seen := map[string]int{}
		for c := range 4 {
			l := newLines(graphite, c, 4, 1_700_000_000, &sent)
			for b, ok := l.next(2); ok; b, ok = l.next(2) {
				for line := range strings.Lines(string(b)) {
					f := strings.Fields(line)
					if len(f) != 3 || !strings.HasPrefix(f[2], "170000000") {
						t.Fatalf("%q", line)
					}
					if graphite {
						seen[f[0]]++
						continue
					}
					for _, x := range strings.Split(f[1], ",") {
						name, _, _ := strings.Cut(x, "=")
						seen[strings.Replace(strings.ReplaceAll(f[0], ",", ";"), "node", "node."+name, 1)]++
					}
				}
			}
		}
		if len(seen) != lineSeries || sent.Load() != 2*lineSeries {
			t.Errorf("Graphite %v: %d series, %d samples", graphite, len(seen), sent.Load())
		}
		for name, n := range seen {
			if n != 2 || strings.Count(name, ";") != 10 {
				t.Fatalf("%s came %d times", name, n)
			}
		}
	}
}

func TestPartsAreChecked(t *testing.T) {
	o := options{only: "ingest,qery", hosts: 1, hours: 1, stepSeconds: 1, connections: 1}
	if err := o.check(); err == nil || !strings.Contains(err.Error(), `"qery"`) {
		t.Errorf("unknown part: %v", err)
	}
}
