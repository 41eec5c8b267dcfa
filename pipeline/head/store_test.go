package head

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

func TestCounters(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	now := time.Now().UnixMilli()
	w.put(one("m", now, 1))
	w.put(one("m", now, 2), one("m", now-10, 1))                                // a conflict, a late one
	w.put(one("m", now, 1), one("m", now-10, 1), one("m", now-10, 3))           // two duplicates, a conflict
	w.put(one("m", now+20*60e3, 1), one("m", now+30*365*24*3600e3, 1))          // too far ahead
	w.put(one("m", 1000, 1), one("m", now-11*365*24*3600e3, 1))                 // too old
	w.put(one("m", now+5*60e3, 5))                                              // ahead, but within bounds
	w.put(kemi.Points{Labels: nil, At: []kemi.Millis{1}, Values: []float64{1}}) // no labels: still a series of the project
	broken := whole(now, 1)
	broken.Count = 99 // does not agree with the buckets
	w.putComplex(&codec.Complex{Histograms: []codec.Histogram{broken}})
	for name, c := range map[string]struct {
		got  prometheus.Collector
		want float64
	}{
		"appended": {db.m.appended, 3}, "conflicts": {db.m.conflicts, 2}, "duplicates": {db.m.duplicates, 2}, "late": {db.m.late, 1},
		"too far ahead": {db.m.future, 2}, "too old": {db.m.tooOld, 3}, "invalid": {db.m.invalid, 1},
	} {
		if got := testutil.ToFloat64(c.got); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got, want := samples(t, db, "m"), fmt.Sprintf("%d=1 %d=1 %d=5", now-10, now, now+5*60000); got != want {
		t.Errorf("m is %s, want %s", got, want)
	}
}

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(filepath.Join(file, "head")), Options{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("folder below a file: %v", err)
	}
	for key, change := range map[string]func(*Config){
		"dir": func(c *Config) { c.Dir = "" }, "retention": func(c *Config) { c.Retention = time.Hour }, "maxFuture": func(c *Config) { c.MaxFuture = 2 * time.Hour },
		"maxSeries": func(c *Config) { c.MaxSeries = 0 }, "maxExemplars": func(c *Config) { c.MaxExemplars = -1 }, "checkpoint": func(c *Config) { c.Checkpoint = 1 }, "checkpointQuiet": func(c *Config) { c.CheckpointQuiet = 1 },
		"answerWithin": func(c *Config) { c.AnswerWithin = -1 }, "blockDuration": func(c *Config) { c.BlockDuration = 48 * time.Hour; c.MaxFuture = time.Minute },
	} {
		cfg := testConfig(t.TempDir())
		change(&cfg)
		if _, err := Open(cfg, Options{}); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestMetadata(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, testConfig(dir))
	db.meta.set("default", "up", md("gauge", "", "old"))
	db.meta.set("default", "up", md("gauge", "", "new"))
	db.meta.set("default", "lat", md("histogram", "seconds", strings.Repeat("x", maxHelp+1)))
	db.meta.set("other", "secret", md("counter", "", ""))
	check := func(db *DB) {
		t.Helper()
		all := db.Metadata(reader, "")
		if len(all) != 2 || all["up"].Help != "new" || all["up"].Type != "gauge" || len(all["lat"].Help) != maxHelp {
			t.Errorf("metadata %v", all)
		}
		if one := db.Metadata(reader, "up"); len(one) != 1 {
			t.Errorf("metadata of up: %v", one)
		}
		if one := db.Metadata(reader, "secret"); len(one) != 0 {
			t.Errorf("metadata of another project: %v", one)
		}
	}
	killed := t.TempDir()
	copyDir(t, dir, killed)
	check(mustOpen(t, testConfig(killed)))
	torn := t.TempDir()
	copyDir(t, dir, torn)
	f, err := os.OpenFile(filepath.Join(torn, metadataLog), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"project":"default","met`)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	after := mustOpen(t, testConfig(torn))
	check(after)
	if err := after.Close(); err != nil { // the torn line goes with the log
		t.Fatal(err)
	}
	after = mustOpen(t, testConfig(torn))
	after.meta.set("default", "up", md("gauge", "", "newer"))
	killed = t.TempDir()
	copyDir(t, torn, killed)
	if got := mustOpen(t, testConfig(killed)).Metadata(reader, "up")["up"].Help; got != "newer" {
		t.Errorf("said after a torn line: %q", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check(mustOpen(t, testConfig(dir)))
}

func TestFreshness(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	db.SetReplaying("replay under way")
	if f := db.Freshness(); f.Complete || f.Reason != "replay under way" || f.AsOf != 0 {
		t.Errorf("%+v", f)
	}
	newWriter(t, db).put(one("m", time.Now().UnixMilli(), 1))
	db.SetReplaying("")
	if f := db.Freshness(); !f.Complete || f.Reason != "" || time.Since(f.AsOf.Time()) > time.Minute {
		t.Errorf("%+v", f)
	}
}

// TestNothingLeft: after Close there is no goroutine, no file open, nothing mapped.
func TestNothingLeft(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	now := time.Now().UnixMilli()
	for range 2 { // from nothing, and from a checkpoint
		db, err := Open(testConfig(dir), Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := newWriter(t, db)
		for i := range int64(100) {
			w.put(one("m", now+i*10, 1), one("l", now-i*10, 1))
		}
		db.meta.set("default", "up", md("gauge", "", fmt.Sprint(now)))
		settleAll(t, db, now+500)
		now += 1000
		if len(held(t, dir)) == 0 {
			t.Fatal("an open DB holds no files: the test sees nothing")
		}
		for range 2 {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if left := held(t, dir); len(left) > 0 {
			t.Errorf("after Close: %q", left)
		}
		if err := db.Append(t.Context(), w.table.BatchOf("default", []kemi.Points{one("m", now, 1)}), store.Position{Next: 1 << 40}); !errors.Is(err, kemi.ErrUnavailable) {
			t.Errorf("append after Close: %v", err)
		}
	}
	// One that could not be opened leaves nothing, either.
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s%016d", checkpointPrefix, 99)), make([]byte, 1000), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(dir), Options{}); err == nil {
		t.Fatal("opened with a damaged checkpoint")
	}
	if left := held(t, dir); len(left) > 0 {
		t.Errorf("after Open failed: %q", left)
	}
}

// held are the files below dir that this process has open or mapped.
func held(t *testing.T, dir string) (out []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) {
			out = append(out, "open: "+to)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if i := strings.Index(line, dir); i >= 0 {
			out = append(out, "mapped: "+strings.TrimSpace(line[i:]))
		}
	}
	return out
}

// TestNoAllocations: a batch of known series costs a few allocations, not some per sample.
func TestNoAllocations(t *testing.T) {
	db := mustOpen(t, testConfig(t.TempDir()))
	w := newWriter(t, db)
	var ps []kemi.Points
	for i := range 1000 {
		ps = append(ps, one(fmt.Sprintf("m%d", i), 0, 0))
	}
	batch := w.table.BatchOf("default", ps)
	at := time.Now().Add(-time.Hour).UnixMilli()
	round := func() {
		at += 1000
		for i := range batch.At {
			batch.At[i] = kemi.Millis(at)
		}
		if err := db.Append(t.Context(), batch, store.Position{Next: at}); err != nil {
			t.Fatal(err)
		}
	}
	for range 40 { // all buffers are as large as they will be, and have been packed
		round()
	}
	if n := testing.AllocsPerRun(100, round); n > 20 {
		t.Errorf("%v allocations for 1000 samples", n)
	}
	if got := len(strings.Fields(samples(t, db, "m999"))); got != 141 {
		t.Errorf("%d samples", got)
	}
}

// TestExemplarsAreNumbersOrNot: a value that JSON has no form for keeps no checkpoint from being made.
func TestExemplarsAreNumbersOrNot(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, testConfig(dir))
	w := newWriter(t, db)
	at := time.Now().UnixMilli()
	for i, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0.1, math.Copysign(0, -1)} {
		w.putComplex(&codec.Complex{
			Histograms: []codec.Histogram{whole(at+int64(i), 1)},
			Exemplars:  []codec.Exemplar{{At: kemi.Millis(at + int64(i)), Value: v, Labels: kemi.LabelsOf("trace_id", fmt.Sprint("t", i))}},
		})
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	killed := t.TempDir()
	copyDir(t, dir, killed)
	if got := strings.Join(traces(t, mustOpen(t, testConfig(killed))), " "); got != "t0 t1 t2 t3 t4" {
		t.Errorf("exemplars after a crash: %s", got)
	}
}
