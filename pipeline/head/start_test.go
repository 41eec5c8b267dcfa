package head

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// TestStarts gives samples with the time since which their counter counts: a zero stands there if it is newer than all that the series has.
func TestStarts(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	table := codec.NewTable(nil, time.Now)
	now := time.Now().Truncate(time.Minute).UnixMilli()
	limits := codec.Limits{MaxDecodedBytes: 1 << 20, MaxLabels: 10, MaxLabelNameBytes: 100, MaxLabelValueBytes: 100, Newest: kemi.Millis(now + 1e9)}
	next := int64(0)
	type point struct {
		at, start int64 // seconds from now
		v         float64
	}
	write := func(name string, points ...point) {
		t.Helper()
		b := table.Build("default", limits)
		defer b.Release()
		s, err := b.Define(codec.KeyOf([]byte(name), 1), kemi.LabelsOf(kemi.MetricName, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range points {
			start := kemi.Millis(0)
			if p.start != 0 {
				start = kemi.Millis(now + 1000*p.start)
			}
			if name == "h" {
				h := whole(now+1000*p.at, uint64(p.v))
				h.Start = start
				err = b.AddHistogram(s, h)
			} else {
				err = b.Add(s, kemi.Millis(now+1000*p.at), p.v, start)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		in := b.Incoming()
		for range 2 { // a replay changes nothing
			next++
			if err := db.Append(t.Context(), in.Batch, store.Position{Next: next}); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored := func(name string) string {
		t.Helper()
		var out []string
		got := samples(t, db, name)
		if name == "h" {
			got = iterated(t, db)
		}
		for _, f := range strings.Fields(strings.ReplaceAll(strings.ReplaceAll(got, " ", ","), "]", "] ")) {
			for _, f := range strings.FieldsFunc(f, func(r rune) bool { return r == ',' && name != "h" }) {
				var at int64
				var v float64
				if _, err := fmt.Sscanf(strings.TrimPrefix(f, ","), "%d=%g", &at, &v); err != nil {
					t.Fatalf("%q: %v", f, err)
				}
				if name == "h" {
					v = max(0, v-1) / 3 // see whole
				}
				out = append(out, fmt.Sprintf("%d:%v", (at-now)/1000, v))
			}
		}
		return strings.Join(out, " ")
	}
	for _, name := range []string{"counter", "h"} {
		write(name, point{0, -30, 5})
		write(name, point{60, -30, 7}, point{120, -30, 9}) // goes on
		write(name, point{240, 180, 20})                   // began anew, hidden by a larger value
		write(name, point{300, 180, 21}, point{360, 0, 22})
		write(name, point{420, 360, 23}) // begins where the last one was: nothing to add
		if got, want := stored(name), "-30:0 0:5 60:7 120:9 180:0 240:20 300:21 360:22 420:23"; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	write("twice", point{0, -30, 5}, point{60, 30, 1})
	if got, want := stored("twice"), "-30:0 0:5 30:0 60:1"; got != want {
		t.Errorf("twice: %s, want %s", got, want)
	}
	write("after", point{0, 10, 5}) // begins after itself
	if got, want := stored("after"), "0:5"; got != want {
		t.Errorf("after: %s, want %s", got, want)
	}
	// A beginning that is settled already would be seen by nobody who has settled it.
	write("other", point{500, 0, 1})
	settleAll(t, db, now+490_000)
	write("counter", point{510, 450, 1})
	if got, want := stored("counter"), "510:1"; got != want {
		t.Errorf("begun in what is settled: %s, want %s", got, want)
	}
}
