package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// testConfig is a log with one topic "a" with one partition and small segments.
func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Topics, cfg.SegmentBytes = dir, map[string]int{"a": 1}, minSegmentBytes
	return cfg
}

func mustOpen(t testing.TB, cfg Config) *WAL { return mustOpenOn(t, cfg, realDisk()) }

func mustOpenOn(t testing.TB, cfg Config, d *disk) *WAL {
	t.Helper()
	w, err := open(cfg, Options{}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func publish(t testing.TB, w *WAL, values ...string) {
	t.Helper()
	records := make([]bus.Record, len(values))
	for i, v := range values {
		records[i].Value = []byte(v)
	}
	if err := w.Publish(t.Context(), "a", records); err != nil {
		t.Fatal(err)
	}
}

// readAll reads what topic "a" has now.
func readAll(t testing.TB, w *WAL) []bus.Record {
	t.Helper()
	records, err := readTopic(t.Context(), w, "a")
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func readTopic(ctx context.Context, w *WAL, topic string) ([]bus.Record, error) {
	spans, err := w.Spans(ctx, topic)
	if err != nil {
		return nil, err
	}
	var left int64
	from := bus.Positions{}
	for p, s := range spans {
		left += s.Next - s.First
		from[p] = s.First
	}
	r, err := w.Subscribe(ctx, topic, "", from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var records []bus.Record
	for int64(len(records)) < left {
		b, err := r.Next(ctx)
		if err != nil {
			return records, err
		}
		records = append(records, b.Records...)
	}
	return records, nil
}

func values(records []bus.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = string(r.Value)
	}
	return out
}

func wantValues(t testing.TB, w *WAL, want ...string) {
	t.Helper()
	if got := values(readAll(t, w)); !slices.Equal(got, want) {
		t.Fatalf("the log holds %.300q, want %.300q", got, want)
	}
}

func segmentFiles(t testing.TB, w *WAL) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.cfg.Dir, "a", "0", "*"+logSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"topics":             func(c *Config) { c.Topics = nil },
		`"../x"`:             func(c *Config) { c.Topics = map[string]int{"../x": 1} },
		"topics.logs":        func(c *Config) { c.Topics = map[string]int{"logs": 0} },
		"segmentBytes":       func(c *Config) { c.SegmentBytes = 1 },
		"maxRecordBytes":     func(c *Config) { c.MaxRecordBytes = 0 },
		"maxBatchBytes":      func(c *Config) { c.MaxBatchBytes = c.MaxRecordBytes - 1 },
		"pendingBytes":       func(c *Config) { c.PendingBytes = c.MaxBatchBytes - 1 },
		"tailBytes":          func(c *Config) { c.TailBytes = -1 },
		"flushWindow":        func(c *Config) { c.FlushWindow = 2 * time.Second },
		"retentionBytes":     func(c *Config) { c.RetentionBytes = 0 },
		"retentionAge":       func(c *Config) { c.RetentionAge = 0 },
		"retentionHardBytes": func(c *Config) { c.RetentionHardBytes = c.RetentionBytes - 1 },
		"topicRetention":     func(c *Config) { c.TopicRetention = map[string]TopicRetention{"nowhere": {}} },
		"topicRetention.logs.retentio": func(c *Config) {
			c.TopicRetention = map[string]TopicRetention{"logs": {Retention: Retention{RetentionBytes: -1}}}
		},
	} {
		c := DefaultConfig()
		change(&c)
		c.Dir = t.TempDir()
		if err := c.Validate(); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Open(c, Options{}); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%s: open: %v", name, err)
		}
	}
	if _, err := Open(DefaultConfig(), Options{}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("no folder: %v", err)
	}
	c := DefaultConfig()
	c.TopicRetention = map[string]TopicRetention{bus.Logs: {Retention: Retention{RetentionBytes: 100 << 30}}}
	if err := c.Validate(); err != nil || c.retention(bus.Logs).RetentionHardBytes != 100<<30 || c.retention(bus.Logs).RetentionAge != c.RetentionAge {
		t.Errorf("retention of logs is %+v, error %v", c.retention(bus.Logs), err)
	}
}

func TestFolderInUse(t *testing.T) {
	cfg := testConfig(t.TempDir())
	w := mustOpen(t, cfg)
	_, err := Open(cfg, Options{})
	if !errors.Is(err, kemi.ErrConflict) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) || !strings.Contains(err.Error(), cfg.Dir) {
		t.Fatalf("second open: %v", err)
	}
	publish(t, w, "x")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wantValues(t, mustOpen(t, cfg), "x")
}

func TestFolderIsAFile(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "file"))
	if err := os.WriteFile(cfg.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg, Options{}); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "not a folder") {
		t.Fatal(err)
	}
}

func TestPartitionsGrowButDoNotShrink(t *testing.T) {
	cfg := testConfig(t.TempDir())
	w := mustOpen(t, cfg)
	publish(t, w, "x")
	_ = w.Close()
	cfg.Topics = map[string]int{"a": 3}
	w = mustOpen(t, cfg)
	publish(t, w, "y")
	if got := values(readAll(t, w)); len(got) != 2 {
		t.Fatalf("after growing: %q", got)
	}
	_ = w.Close()
	cfg.Topics = map[string]int{"a": 2}
	if _, err := Open(cfg, Options{}); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "topics.a") {
		t.Fatalf("after shrinking: %v", err)
	}
}

// A partition whose segments were taken away goes on behind what its readers have, so that they do not miss what comes.
func TestNewSegmentsBeginBehindCommittedPositions(t *testing.T) {
	cfg := testConfig(t.TempDir())
	w := mustOpen(t, cfg)
	publish(t, w, "0", "1", "2")
	r, _ := w.Subscribe(t.Context(), "a", "g", nil)
	if err := r.Commit(t.Context(), bus.Positions{0: 3}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := os.RemoveAll(filepath.Join(cfg.Dir, "a", "0")); err != nil {
		t.Fatal(err)
	}
	w = mustOpen(t, cfg)
	publish(t, w, "3")
	if got := readAll(t, w); len(got) != 1 || got[0].Offset != 3 {
		t.Fatalf("got %v", got)
	}
}

func TestSegmentsAndIndexes(t *testing.T) {
	cfg := testConfig(t.TempDir())
	w := mustOpen(t, cfg)
	var want []string
	for i := range 100 {
		v := fmt.Sprintf("%d-%s", i, strings.Repeat("v", 300))
		publish(t, w, v)
		want = append(want, v)
	}
	files := segmentFiles(t, w)
	if len(files) < 5 {
		t.Fatalf("%d segments", len(files))
	}
	for _, f := range files {
		if info, _ := os.Stat(f); info.Size() > cfg.SegmentBytes {
			t.Errorf("%s has %d bytes", f, info.Size())
		}
	}
	wantValues(t, w, want...)
	_ = w.Close()
	// With all indexes, without them, with damaged ones, and with one that covers less than is there: the same log.
	for _, damage := range []func(string) error{
		func(string) error { return nil },
		os.Remove,
		func(p string) error { return os.Truncate(p, 30) },
		func(p string) error {
			return os.WriteFile(p, []byte("something else that is long enough to be one, with a checksum and so on"), 0o600)
		},
	} {
		indexes, _ := filepath.Glob(filepath.Join(cfg.Dir, "a", "0", "*"+indexSuffix))
		if len(indexes) != len(files) {
			t.Fatalf("%d indexes for %d segments", len(indexes), len(files))
		}
		for _, f := range indexes {
			if err := damage(f); err != nil {
				t.Fatal(err)
			}
		}
		w = mustOpen(t, cfg)
		wantValues(t, w, want...)
		publish(t, w, "more")
		want = append(want, "more")
		_ = w.Close()
	}
	// An index that belongs to no segment, and unfinished files, go.
	stray := filepath.Join(cfg.Dir, "a", "0", "00000000000000099999")
	for _, s := range []string{indexSuffix, indexSuffix + tmpSuffix} {
		if err := os.WriteFile(stray+s, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w = mustOpen(t, cfg)
	wantValues(t, w, want...)
	for _, s := range []string{indexSuffix, indexSuffix + tmpSuffix} {
		if _, err := os.Stat(stray + s); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", s, err)
		}
	}
	_ = w.Close()
	if err := os.WriteFile(filepath.Join(cfg.Dir, "a", "0", "notes.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg, Options{}); err == nil || !strings.Contains(err.Error(), "notes.log") {
		t.Fatalf("strange file: %v", err)
	}
}

func TestOffsetAt(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 600 << 10
	w := mustOpen(t, cfg)
	var all []bus.Record
	// Times go up and down a bit; the segments are large enough for several entries of the index.
	for i := range 300 {
		var records []bus.Record
		for j := range 4 {
			records = append(records, bus.Record{At: kemi.Millis(1_000_000 + i*100 + (j*37+i*61)%150), Value: make([]byte, 2000)})
		}
		if err := w.Publish(t.Context(), "a", records); err != nil {
			t.Fatal(err)
		}
		all = append(all, records...)
	}
	check := func(w *WAL) {
		t.Helper()
		for at := kemi.Millis(999_900); at < 1_031_000; at += 77 {
			want := int64(len(all))
			if i := slices.IndexFunc(all, func(r bus.Record) bool { return r.At >= at }); i >= 0 {
				want = int64(i)
			}
			if got, err := w.OffsetAt(t.Context(), "a", 0, at); err != nil || got != want {
				t.Fatalf("at %d: offset %d, error %v, want %d", at, got, err, want)
			}
		}
	}
	check(w)
	_ = w.Close()
	w = mustOpen(t, cfg)
	check(w)
	if _, err := w.OffsetAt(t.Context(), "a", 1, 0); !errors.Is(err, kemi.ErrInvalid) {
		t.Error(err)
	}
	if _, err := w.OffsetAt(t.Context(), "b", 0, 0); !errors.Is(err, kemi.ErrInvalid) {
		t.Error(err)
	}
	// Every offset can be subscribed to, wherever in a segment it lies.
	for offset := int64(0); offset < int64(len(all)); offset += 13 {
		r, err := w.Subscribe(t.Context(), "a", "", bus.Positions{0: offset})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := r.Next(t.Context()); err != nil || b.Records[0].Offset != offset || b.Records[0].At != all[offset].At {
			t.Fatalf("from %d: %v, %v", offset, b.Records[0].Offset, err)
		}
		_ = r.Close()
	}
}

func TestGroups(t *testing.T) {
	cfg := testConfig(t.TempDir())
	w := mustOpen(t, cfg)
	publish(t, w, "0", "1")
	for _, name := range []string{"../x", ".hidden", "a/b", strings.Repeat("x", 200), "-x"} {
		if _, err := w.Subscribe(t.Context(), "a", name, nil); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("group %q: %v", name, err)
		}
	}
	anonymous, _ := w.Subscribe(t.Context(), "a", "", nil)
	if err := anonymous.Commit(t.Context(), bus.Positions{0: 1}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("commit without a group: %v", err)
	}
	r, _ := w.Subscribe(t.Context(), "a", "g", nil)
	if err := r.Commit(t.Context(), bus.Positions{0: 3}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("commit beyond the end: %v", err)
	}
	if err := r.Commit(t.Context(), bus.Positions{0: 2}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := r.Commit(t.Context(), bus.Positions{0: 1}); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("commit after close: %v", err)
	}
	w = mustOpen(t, cfg)
	if p := w.topics["a"].groups.get("g"); p[0] != 2 {
		t.Fatalf("after reopening: %v", p)
	}
	if err := w.Forget(t.Context(), "a", "g"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	w = mustOpen(t, cfg)
	if p := w.topics["a"].groups.all(); len(p) != 0 {
		t.Fatalf("after forgetting: %v", p)
	}
	_ = w.Close()
	file := filepath.Join(cfg.Dir, "a", "groups", "g"+groupSuffix)
	for _, content := range []string{"", "{", `{"version":2}`, `{"version":1,"positions":{"x":1}}`} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(cfg, Options{}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("positions %q: %v", content, err)
		}
	}
}
