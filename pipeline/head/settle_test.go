package head

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// settleTest is a DB with which somebody settles, on a clock of its own.
type settleTest struct {
	*testing.T
	db    *DB
	cfg   Config
	clock *clock
	table *codec.Table
	next  int64
	base  int64 // a multiple of the block's duration; times are told in seconds from there
}

func newSettleTest(t *testing.T) *settleTest {
	cfg := testConfig(t.TempDir())
	base := align(time.Now().UnixMilli(), cfg.BlockDuration.Milliseconds())
	s := &settleTest{T: t, cfg: cfg, clock: &clock{now: time.UnixMilli(base)}, base: base}
	s.open()
	t.Cleanup(func() { _ = s.db.Close() })
	return s
}

func (s *settleTest) open(retired ...string) {
	s.Helper()
	db, err := Open(s.cfg, Options{Now: s.clock.Now, Retired: retired})
	if err != nil {
		s.Fatal(err)
	}
	s.db, s.table = db, codec.NewTable(nil, time.Now)
}

// crash goes on with what is in the folder now.
func (s *settleTest) crash(retired ...string) {
	s.Helper()
	old, to := s.db, s.TempDir()
	old.checkpointMu.Lock() // no file goes while it is copied
	copyDir(s.T, s.cfg.Dir, to)
	old.checkpointMu.Unlock()
	s.cfg.Dir = to
	s.open(retired...)
	if err := old.Close(); err != nil {
		s.Fatal(err)
	}
}

// write appends a value at some seconds; the clock goes on to the newest.
func (s *settleTest) write(name string, value float64, at ...int64) {
	s.Helper()
	p := kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, name)}
	for _, x := range at {
		p.At, p.Values = append(p.At, kemi.Millis(s.base+x*1000)), append(p.Values, value)
		if now := time.UnixMilli(s.base + x*1000); now.After(s.clock.now) {
			s.clock.now = now
		}
	}
	s.append(p)
}

func (s *settleTest) append(ps ...kemi.Points) {
	s.Helper()
	s.next++
	if err := s.db.Append(s.Context(), s.table.BatchOf("default", ps), store.Position{Next: s.next}); err != nil {
		s.Fatal(err)
	}
}

func (s *settleTest) tell(name string, at int64, v float64) string {
	return fmt.Sprintf("%s:%g=%g", name, float64(at-s.base)/1000, v)
}

// live is all that the DB shows, as series:seconds=value.
func (s *settleTest) live() (out []string) {
	s.Helper()
	for p, err := range s.db.Select(s.Context(), reader, nil, kemi.Range{From: math.MinInt64, To: math.MaxInt64}) {
		if err != nil {
			s.Fatal(err)
		}
		for i := range p.At {
			out = append(out, s.tell(p.Labels.Get(kemi.MetricName), int64(p.At[i]), p.Values[i]))
		}
	}
	return out
}

func (s *settleTest) want(what string, got []string, want ...string) {
	s.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		s.Fatalf("%s: got  %q\nwant %q", what, got, want)
	}
}

// due is the one source, or none.
func (s *settleTest) due() (Source, bool) {
	s.Helper()
	due, _ := s.db.Sources()
	if len(due) == 0 {
		return Source{}, false
	}
	if len(due) > 1 {
		s.Fatalf("sources %v", due)
	}
	return due[0], true
}

// flush makes what is older due, or only what is late.
func (s *settleTest) flush(before int64) Source {
	s.Helper()
	if ok, err := s.db.Flush(s.Context(), kemi.Millis(s.base+before*1000)); err != nil || !ok {
		s.Fatal(ok, err)
	}
	src, ok := s.due()
	if !ok {
		s.Fatal("nothing is due")
	}
	return src
}

// read is all that a source has.
func (s *settleTest) read(id string) (out []string) {
	s.Helper()
	for x, err := range s.db.ReadSource(s.Context(), id) {
		if err != nil {
			s.Fatal(err)
		}
		for i := range x.At {
			out = append(out, s.tell(x.Labels.Get(kemi.MetricName), int64(x.At[i]), x.Values[i]))
		}
	}
	return out
}

func (s *settleTest) retire(ids ...string) {
	s.Helper()
	if err := s.db.Retire(ids); err != nil {
		s.Fatal(err)
	}
}

// TestDue: a source is due when there is more than one and a half block's time, and has whole blocks only; late samples alone when there are many.
func TestDue(t *testing.T) {
	s := newSettleTest(t)
	if src, ok := s.due(); ok {
		t.Fatalf("nothing is there, due is %v", src)
	}
	const hour = 3600
	s.write("a", 1, -1, 0, 2*hour, 3*hour-1)
	if src, ok := s.due(); ok {
		t.Fatalf("three hours, due is %v", src)
	}
	s.write("a", 1, 3*hour)
	src, ok := s.due()
	want := kemi.Range{From: kemi.Millis(s.base - 1000), To: kemi.Millis(s.base + 2*hour*1000)}
	if !ok || src.Range != want || src.Late {
		t.Fatalf("due: %+v, want %+v", src, want)
	}
	if _, until := s.db.Sources(); until != want.To {
		t.Errorf("settled until %d, want %d", until, want.To)
	}
	if again, _ := s.due(); again.ID != src.ID {
		t.Errorf("asked again: %s, before it was %s", again.ID, src.ID)
	}
	if ok, err := s.db.Flush(t.Context(), kemi.Millis(s.base)); ok || err != nil {
		t.Errorf("flush while something else is due: %v, %v", ok, err)
	}
	s.want("source", s.read(src.ID), "a:-1=1", "a:0=1")
	s.retire(src.ID)
	s.want("live", s.live(), "a:7200=1", "a:10799=1", "a:10800=1")
	if src, ok := s.due(); ok {
		t.Errorf("retired, and due is %v", src)
	}
	for range s.db.ReadSource(t.Context(), "head-1-x") {
		break
	}
	for _, err := range s.db.ReadSource(t.Context(), src.ID) {
		if err == nil || !strings.Contains(err.Error(), src.ID) {
			t.Errorf("read what is retired: %v", err)
		}
	}
	// A clock that a sender has ahead does not settle what is not over yet.
	s.clock.now = time.UnixMilli(s.base + 3*hour*1000)
	s.append(one("b", s.base+3*hour*1000+590_000, 1))
	if src, ok := s.due(); ok {
		t.Errorf("ahead of the clock: due is %v", src)
	}
}

// TestLateAreDue: late samples are a source of their own, which has nothing that came in order.
func TestLateAreDue(t *testing.T) {
	for _, settled := range []bool{false, true} {
		s := newSettleTest(t)
		before := int64(-10_000)
		if settled {
			s.write("a", 9, -9000)
			src := s.flush(-8000)
			s.want("first", s.read(src.ID), "a:-9000=9")
			s.retire(src.ID)
		}
		s.write("a", 1, 0, 10, 20)
		s.write("a", 2, 5, -9500)
		s.write("b", 2, 30)
		src := s.flush(before)
		if want := (kemi.Range{From: kemi.Millis(s.base - 9500_000), To: kemi.Millis(s.base + 5001)}); !src.Late || src.Range != want {
			t.Errorf("settled %v: due is %+v, want %+v", settled, src, want)
		}
		s.want("source", s.read(src.ID), "a:-9500=2", "a:5=2")
		s.retire(src.ID)
		s.want("live", s.live(), "a:0=1", "a:10=1", "a:20=1", "b:30=2")
		s.write("a", 3, 25) // it is still in order
		if n := s.db.Stats().LateSamples; n != 0 {
			t.Errorf("%d late samples", n)
		}
		s.crash()
		s.want("after a crash", s.live(), "a:0=1", "a:10=1", "a:20=1", "b:30=2")
	}
}

// TestFrozen: what was read stays as it is. What comes for its time afterwards is in the next source; read again, the same comes.
func TestFrozen(t *testing.T) {
	s := newSettleTest(t)
	s.write("a", 1, 0, 10, 20, 200)
	s.write("a", 2, 5)
	src := s.flush(100)
	want := []string{"a:0=1", "a:5=2", "a:10=1", "a:20=1"}
	s.want("first", s.read(src.ID), want...)
	s.write("a", 3, 7, 99, 300) // late, late, in order
	s.write("b", 3, 50)         // a series of its own, in what is frozen
	s.write("b", 3, 150)
	s.write("a", 4, 10) // a conflict
	s.write("a", 1, 10) // a duplicate
	for range 2 {       // it failed to be settled
		s.want("again", s.read(src.ID), want...)
	}
	for range s.db.ReadSource(t.Context(), src.ID) {
		break // half way
	}
	all := []string{"a:0=1", "a:5=2", "a:7=3", "a:10=1", "a:20=1", "a:99=3", "a:200=1", "a:300=3", "b:50=3", "b:150=3"}
	s.want("live", s.live(), all...)
	for _, ids := range [][]string{nil, {"head-1-01ARZ3NDEKTSV4RRFFQ69G5FAV"}, {legacySource}, {src.ID + "x"}} {
		s.retire(ids...)
		s.want("another was retired", s.live(), all...)
	}
	s.retire("other", src.ID)
	rest := []string{"a:7=3", "a:99=3", "a:200=1", "a:300=3", "b:50=3", "b:150=3"}
	s.want("retired", s.live(), rest...)
	s.retire(src.ID) // is gone already
	s.crash()
	s.want("after a crash", s.live(), rest...)
	src = s.flush(100) // nothing in order, so late ones alone
	s.want("second", s.read(src.ID), "a:7=3", "a:99=3", "b:50=3")
	s.retire(src.ID)
	s.want("in the end", s.live(), "a:200=1", "a:300=3", "b:150=3")
}

// TestNotRead: a source that nobody has read is not retired, as it is not frozen.
func TestNotRead(t *testing.T) {
	s := newSettleTest(t)
	s.write("a", 1, 0, 10)
	src := s.flush(5)
	s.retire(src.ID)
	s.want("live", s.live(), "a:0=1", "a:10=1")
}

// TestRetiredBeforeCrash: the manifest has the source, the crash comes before Retire. What is opened does not show what is settled.
func TestRetiredBeforeCrash(t *testing.T) {
	for _, synced := range []bool{false, true} {
		s := newSettleTest(t)
		s.write("a", 1, 0, 10, 20, 200)
		s.write("gone", 1, 0)
		if err := s.db.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		src := s.flush(100)
		s.want("source", s.read(src.ID), "a:0=1", "a:10=1", "a:20=1", "gone:0=1")
		s.write("a", 3, 15)
		want := []string{"a:200=1"}
		if synced {
			if err := s.db.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			want = []string{"a:15=3", "a:200=1"}
		}
		s.crash(src.ID)
		s.want("after the crash", s.live(), want...)
		s.write("a", 4, 30) // the time is settled: it is late
		s.write("new", 4, 40)
		if n := s.db.Stats().LateSamples; n != int64(len(want)+1) {
			t.Errorf("%d late samples", n)
		}
		if err := s.db.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.db.Stats().Series; got != 2 {
			t.Errorf("%d series, want 2", got)
		}
		s.crash()
		s.want("after another", s.live(), append(want[:len(want)-1:len(want)-1], "a:30=4", "a:200=1", "new:40=4")...)
	}
}

// TestReaders: who began before Retire sees everything until the end, however he reads; who begins after it sees nothing of what is settled. Files and
// series go when the last of those who began before is gone.
func TestReaders(t *testing.T) {
	s := newSettleTest(t)
	s.db.chunks.max = maxRecord + 4096 // many files
	var want []string
	const series, perSeries = 40, 200
	for i := range series {
		p := kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, fmt.Sprintf("m%02d", i))}
		for k := range perSeries {
			p.At, p.Values = append(p.At, kemi.Millis(s.base+int64(k)*1000)), append(p.Values, float64(k)*1.25+math.Sqrt(float64(i)))
		}
		p.At[7], p.At[150] = p.At[150], p.At[7] // late ones, too
		p.Values[7], p.Values[150] = p.Values[150], p.Values[7]
		s.append(p)
	}
	s.clock.now = time.UnixMilli(s.base + 1000_000)
	s.write("stays", 1, 1000)
	want = s.live()
	files := func() int {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*-????????"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if files() < 4 {
		t.Fatalf("%d files: the test sees nothing", files())
	}
	src := s.flush(500)
	settled := s.read(src.ID)
	if s.want("source and live", append(settled, "stays:1000=1"), want...); len(settled) != series*perSeries {
		t.Fatalf("%d samples in the source", len(settled))
	}
	// Readers that are half way.
	type half struct {
		name string
		do   func(pause func())
		got  []string
	}
	q := mustQuery(t, s.db, math.MinInt64/2, math.MaxInt64/2)
	set := q.Select(t.Context(), true, nil, everything(t))
	if !set.Next() {
		t.Fatal(set.Err())
	}
	first := set.At()
	paused := make(chan chan struct{})
	halves := []*half{{name: "Select"}, {name: "Columns"}, {name: "chunks"}}
	halves[0].do = func(pause func()) {
		for p, err := range s.db.Select(t.Context(), reader, nil, kemi.Range{From: 0, To: math.MaxInt64}) {
			if err != nil {
				t.Error(err)
			}
			for i := range p.At {
				halves[0].got = append(halves[0].got, s.tell(p.Labels.Get(kemi.MetricName), int64(p.At[i]), p.Values[i]))
			}
			pause()
		}
	}
	halves[1].do = func(pause func()) {
		err := s.db.Columns(t.Context(), reader, 0, math.MaxInt64-1, []*labels.Matcher{everything(t)}, func(ls kemi.Labels, at []kemi.Millis, values []float64) error {
			for i := range at {
				halves[1].got = append(halves[1].got, s.tell(ls.Get(kemi.MetricName), int64(at[i]), values[i]))
			}
			pause()
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	halves[2].do = func(pause func()) {
		q, err := s.db.ChunkQueryable(reader).ChunkQuerier(0, math.MaxInt64-1)
		if err != nil {
			t.Error(err)
			return
		}
		defer q.Close()
		for set := q.Select(t.Context(), true, nil, everything(t)); set.Next(); pause() {
			for it := set.At().Iterator(nil); it.Next(); {
				c := it.At().Chunk.Iterator(nil)
				for c.Next() != 0 {
					at, v := c.At()
					halves[2].got = append(halves[2].got, s.tell(set.At().Labels().Get(kemi.MetricName), at, v))
				}
			}
		}
	}
	done := make(chan *half)
	var goOn []chan struct{}
	for _, h := range halves {
		go func() {
			once := false
			h.do(func() {
				if !once {
					once = true
					c := make(chan struct{})
					paused <- c
					<-c
				}
			})
			done <- h
		}()
		goOn = append(goOn, <-paused)
	}

	before := files()
	s.retire(src.ID)
	s.want("who begins now", s.live(), "stays:1000=1")
	check := func(when string, wantFiles bool, wantSeries uint64) {
		t.Helper()
		if n := files(); (n >= before) != wantFiles {
			t.Errorf("%s: %d files, before there were %d", when, n, before)
		}
		if n := s.db.Stats().Series; n != wantSeries {
			t.Errorf("%s: %d series, want %d", when, n, wantSeries)
		}
	}
	if err := s.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("while they read", true, series+1)
	for i, c := range goOn {
		close(c)
		h := <-done
		s.want(fmt.Sprint(i, " ", h.name, " half way"), h.got, want...)
	}
	if err := s.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("one is left", true, series+1)
	var got []string
	for ok := true; ok; ok = set.Next() {
		x := set.At()
		if len(got) == 0 {
			x = first
		}
		name := x.Labels().Get(kemi.MetricName)
		it := x.Iterator(nil)
		for it.Next() != 0 {
			at, v := it.At()
			got = append(got, s.tell(name, at, v))
		}
	}
	s.want("querier half way", got, want...)
	names := func() []string {
		t.Helper()
		out, err := s.db.LabelValues(t.Context(), reader, kemi.MetricName, nil, kemi.Range{From: 0, To: math.MaxInt64}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if n := len(names()); n != series+1 {
		t.Errorf("%d names while they are there", n)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // in the background
		if s.db.Stats().Series == 1 && files() < before {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	check("nobody is left", false, 1)
	if got := names(); !slices.Equal(got, []string{"stays"}) {
		t.Errorf("names %q", got)
	}
	if late, _ := filepath.Glob(filepath.Join(s.cfg.Dir, latePrefix+"*")); len(late) != 1 {
		t.Errorf("files of late samples: %q", late)
	}
	for _, name := range held(t, s.cfg.Dir) {
		if _, path, _ := strings.Cut(name, ": "); strings.Contains(path, "deleted") {
			t.Errorf("deleted, but not let go of: %s", name)
		}
	}
	s.want("live", s.live(), "stays:1000=1")
	s.crash()
	s.want("after a crash", s.live(), "stays:1000=1")
}
