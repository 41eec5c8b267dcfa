package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/codec"
	"kemi/pipeline/head"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

var all = kemi.Range{From: 0, To: 1 << 61}

// bench is a Store with a log of what was put into it, for crashes.
type bench struct {
	*testing.T
	*Store
	dir   string
	seed  uint64
	clock func() time.Time
	table *codec.Table
	log   []entry
	now   kemi.Millis
	keep  []batch.Rule
	step  func(string)
}

type entry struct {
	project string
	points  []kemi.Points
}

func newBench(t *testing.T, rules ...batch.Rule) *bench {
	seed := storetest.Seed(t)
	b := &bench{T: t, dir: t.TempDir(), seed: seed, clock: storetest.Clock(seed), keep: rules}
	b.now, b.table = kemi.MillisOf(b.clock()), codec.NewTable(nil, b.clock)
	b.Store = b.openDir(b.dir)
	t.Cleanup(func() { _ = b.Store.Close() })
	return b
}

func (b *bench) openDir(dir string) *Store {
	b.Helper()
	live := head.DefaultConfig()
	live.Dir, live.Checkpoint, live.CheckpointQuiet = filepath.Join(dir, "metrics"), time.Hour, 0
	settles := batch.DefaultConfig()
	settles.Dir, settles.Retention = filepath.Join(dir, "settled"), b.keep
	s, err := begin(live, settles, Options{Now: b.clock}, func(o *batch.Options) {
		o.Step = func(at string) {
			if b.step != nil {
				b.step(at)
			}
		}
		o.Rollups = func(o *settled.Options) { // a few samples are to have some already
			o.Levels, o.MinPerBucket, o.MinNarrow = []kemi.Millis{60e3, 5 * 60e3, 60 * 60e3}, 2, 2
		}
	})
	if err == nil {
		err = s.Ready(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *bench) id() kemi.Identity {
	return kemi.Identity{Subject: "test", Project: "p", Permissions: kemi.AllPermissions}
}

// put writes samples of one series; times are seconds before now.
func (b *bench) put(name string, value float64, ago ...int) {
	b.Helper()
	p := kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, name, "host", "h")}
	for _, s := range ago {
		p.At, p.Values = append(p.At, b.now-kemi.Millis(s)*1000), append(p.Values, value)
	}
	b.log = append(b.log, entry{"p", []kemi.Points{p}})
	if err := b.Append(b.Context(), b.table.BatchOf("p", []kemi.Points{p}), store.Position{Next: int64(len(b.log))}); err != nil {
		b.Fatal(err)
	}
}

// all is what a store has, as name:seconds-ago=value.
func (b *bench) all(s *Store, r kemi.Range) string {
	b.Helper()
	var out []string
	for p, err := range s.Select(b.Context(), b.id(), nil, r) {
		if err != nil {
			b.Fatal(err)
		}
		for i := range p.At {
			out = append(out, fmt.Sprintf("%s:%d=%g", p.Labels.Get(kemi.MetricName), (b.now-p.At[i])/1000, p.Values[i]))
		}
	}
	return strings.Join(out, " ")
}

func (b *bench) want(samples string) {
	b.Helper()
	if got := b.all(b.Store, all); got != samples {
		b.Fatalf("got  %s\nwant %s", got, samples)
	}
}

func (b *bench) settle(everything bool) batch.Report {
	b.Helper()
	r, err := b.Settle(b.Context(), everything)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *bench) remove(name string, from, to int) {
	b.Helper()
	r := kemi.Range{From: b.now - kemi.Millis(from)*1000, To: b.now - kemi.Millis(to)*1000}
	if err := b.Delete(b.Context(), b.id(), store.Selector{{Name: kemi.MetricName, Value: name}}, r); err != nil {
		b.Fatal(err)
	}
}

// copyTree copies what is there. Files that go away meanwhile are left out, and only those.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return skipGone(err)
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o777)
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return skipGone(err)
		}
		return os.WriteFile(target, content, 0o666)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func skipGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// crash goes on with what kill -9 would leave now, and replays the log from where the store says.
func (b *bench) crash() {
	b.Helper()
	to := b.TempDir()
	copyTree(b.T, b.dir, to)
	if err := b.Store.Close(); err != nil {
		b.Fatal(err)
	}
	b.dir, b.Store = to, b.openDir(to)
	b.replay(b.Store)
}

func (b *bench) replay(s *Store) {
	b.Helper()
	table := codec.NewTable(nil, b.clock)
	for i := s.Positions()[0]; i < int64(len(b.log)); i++ {
		if err := s.Append(b.Context(), table.BatchOf(b.log[i].project, b.log[i].points), store.Position{Next: i + 1}); err != nil {
			b.Fatal(err)
		}
	}
}

// difference is what one has and the other has not.
func difference(got, want string) string {
	has := map[string]int{}
	for _, x := range strings.Fields(got) {
		has[x]++
	}
	var missing []string
	for _, x := range strings.Fields(want) {
		if has[x]--; has[x] < 0 {
			missing = append(missing, x)
		}
	}
	var more []string
	for x, n := range has {
		if n > 0 {
			more = append(more, x)
		}
	}
	return fmt.Sprintf("%d too many: %.500v; %d missing: %.500v", len(more), more, len(missing), missing)
}

// TestCrashBetweenSteps looks, between every two steps of settling, merging, late data and a deletion, at what a crash would leave there: opened
// again, that has the same samples. Between the steps of a deletion it may be before or after it.
func TestCrashBetweenSteps(t *testing.T) {
	b := newBench(t)
	h := 3600
	for i := 90; i > 0; i-- {
		b.put("a", float64(i), i*h, i*h-10)
	}
	b.put("b", 1, 60*24*h, 40*24*h, 5*h, 60)
	steps := map[string]int{}
	before, after := b.all(b.Store, all), ""
	look := func(at string) {
		if steps[at]++; steps[at] > 2 {
			return // of each kind the first ones
		}
		dir := t.TempDir()
		copyTree(t, b.dir, dir)
		step := b.step
		b.step = nil
		defer func() { b.step = step }()
		s := b.openDir(dir)
		defer s.Close()
		check := func(when string) {
			t.Helper()
			if got := b.all(s, all); got != before && (after == "" || got != after) {
				t.Fatalf("crash at %q, %s: %s", at, when, difference(got, before))
			}
		}
		b.replay(s)
		check("replayed")
		if _, err := s.Settle(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		check("settled")
	}
	b.step = look
	b.settle(false)
	b.settle(true)
	if got := b.all(b.Store, all); got != before {
		t.Fatalf("settled:\ngot  %s\nwant %s", got, before)
	}
	b.step = nil
	b.put("a", 7, 50*h+5, 3*h+5)
	b.put("c", 8, 50*24*h)
	before = b.all(b.Store, all)
	b.step = look
	clear(steps)
	b.settle(true)
	if got := b.all(b.Store, all); got != before {
		t.Fatalf("settled late samples:\ngot  %s\nwant %s", got, before)
	}
	b.step = nil
	b.put("b", 9, 10)
	before = b.all(b.Store, all)
	model := strings.Fields(before)
	var left []string
	for _, x := range model {
		var ago, v float64
		if n, _ := fmt.Sscanf(x, "b:%f=%f", &ago, &v); n == 2 && ago <= float64(41*24*h) {
			continue
		}
		left = append(left, x)
	}
	after = strings.Join(left, " ")
	b.step = look
	clear(steps)
	b.remove("b", 41*24*h, -1)
	before = after
	if got := b.all(b.Store, all); got != after {
		t.Fatalf("deleted:\ngot  %s\nwant %s", got, after)
	}
	b.settle(true)
	if len(steps) < 5 {
		t.Fatalf("steps: %v", steps)
	}
	t.Log(steps)
}

// TestDelete deletes what lies in memory, in blocks and in settled blocks: it is gone on every path, also after a crash; what comes later for that time is
// there; other projects and series keep theirs; the room comes back.
func TestDelete(t *testing.T) {
	b := newBench(t)
	h := 3600
	b.put("a", 1, 100*h, 50*h, 49*h)
	b.put("b", 1, 100*h, 50*h)
	b.settle(true)
	b.put("a", 2, 5*h, 4*h, 600, 30)
	b.put("b", 2, 5*h, 30)
	b.put("a", 3, 70*h) // late
	b.remove("a", 99*h, 30)
	want := "a:360000=1 a:30=2 b:360000=1 b:180000=1 b:18000=2 b:30=2"
	b.want(want)
	b.crash()
	b.want(want)
	b.put("a", 9, 50*h, 600) // the same times again, and another value: new samples
	want = "a:360000=1 a:180000=9 a:600=9 a:30=2 b:360000=1 b:180000=1 b:18000=2 b:30=2"
	b.want(want)
	b.crash()
	b.want(want)
	before := b.SettledStats().Samples
	b.settle(true)
	b.want(want)
	if s := b.SettledStats(); s.Deletions != 0 || s.Samples > before+3 {
		t.Fatalf("after the next run: %+v, before %d samples", s, before)
	}
	b.crash()
	b.want(want)
	b.remove("a", 101*h, -1)
	b.want("b:360000=1 b:180000=1 b:18000=2 b:30=2")
	if s := b.SettledStats(); s.Deletions == 0 {
		t.Fatalf("nothing is to be cleaned: %+v", s)
	}
	if err := b.CleanTombstones(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := b.SettledStats(); s.Deletions != 0 || s.Samples != 4 {
		t.Fatalf("cleaned: %+v, want the 4 samples of b", s)
	}
	b.want("b:360000=1 b:180000=1 b:18000=2 b:30=2")
	if vs, err := b.LabelValues(t.Context(), b.id(), kemi.MetricName, nil, all, 0); err != nil || fmt.Sprint(vs) != "[b]" {
		t.Fatal(vs, err)
	}
	for _, c := range []struct {
		id  kemi.Identity
		sel store.Selector
		err error
	}{
		{kemi.Identity{Subject: "x"}, store.Selector{{Name: "a", Value: "b"}}, kemi.ErrDenied},
		{b.id(), nil, kemi.ErrInvalid},
		{b.id(), store.Selector{{Op: store.Regexp, Name: "a", Value: "("}}, kemi.ErrInvalid},
	} {
		if err := b.Delete(t.Context(), c.id, c.sel, all); !errors.Is(err, c.err) {
			t.Errorf("%v: %v, want %v", c.sel, err, c.err)
		}
	}
	if err := b.Delete(t.Context(), kemi.Identity{Project: "other"}, store.Selector{{Name: kemi.MetricName, Value: "b"}}, all); err != nil {
		t.Fatal(err)
	}
	b.want("b:360000=1 b:180000=1 b:18000=2 b:30=2")
}

// TestRetentionRules keeps one metric shorter than the rest: what is too old is hidden at once, settled or not, and its room comes back.
func TestRetentionRules(t *testing.T) {
	b := newBench(t, batch.Rule{Selector: `debug`, Keep: 48 * time.Hour}, batch.Rule{Selector: `{__name__=~"d.*"}`, Project: "other", Keep: 7 * time.Hour})
	h := 3600
	for i := 240; i > 0; i-- {
		b.put("debug", float64(i), i*h)
		b.put("disk", float64(i), i*h)
	}
	count := func() (debug, disk int) {
		for _, x := range strings.Fields(b.all(b.Store, all)) {
			if strings.HasPrefix(x, "debug") {
				debug++
			} else {
				disk++
			}
		}
		return debug, disk
	}
	if debug, disk := count(); disk != 240 || debug < 46 || debug > 48 {
		t.Fatalf("before it is settled: %d debug, %d disk", debug, disk)
	}
	b.settle(true)
	if debug, disk := count(); disk != 240 || debug < 46 || debug > 48 {
		t.Fatalf("%d debug, %d disk", debug, disk)
	}
	if s := b.SettledStats(); s.Samples > 290 {
		t.Fatalf("%d samples on disk", s.Samples)
	}
	b.put("debug", 1, 30, 100*h) // too late, and in time
	b.put("debug", 2, 30*h+60)
	if got := b.all(b.Store, all); strings.Contains(got, "debug:360000=") || !strings.Contains(got, "debug:108060=2") {
		t.Fatalf("after late ones: %s", got)
	}
	b.remove("debug", 30*h+90, 30*h)
	b.remove("debug", 60, -1)
	b.crash()
	if debug, disk := count(); disk != 240 || debug < 46 || debug > 48 {
		t.Fatalf("%d debug, %d disk", debug, disk)
	}
}

// TestDeleteWhatWasLate deletes samples that came late and have left memory since: no restart brings them back from the head's chunk files, where they
// lay before they went to blocks.
func TestDeleteWhatWasLate(t *testing.T) {
	b := newBench(t)
	h := 3600
	for i := range 40 { // more than a chunk of late ones
		b.put("a", 1, 30-i%2)
		b.put("a", 2, 5*h-i)
	}
	b.settle(true)
	b.remove("a", 6*h, 4*h)
	const want = "a:30=1 a:29=1"
	b.want(want)
	for range 2 {
		if err := b.Store.Close(); err != nil {
			t.Fatal(err)
		}
		b.Store = b.openDir(b.dir)
		b.want(want)
	}
	b.crash()
	b.want(want)
}
