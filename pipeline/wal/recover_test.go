package wal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// crashed is the one segment of a log that was not closed, as bytes, and where its frames end.
func crashed(t *testing.T, publishes ...[]string) (segment []byte, ends []int64) {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 1 << 20
	w := mustOpen(t, cfg)
	for _, values := range publishes {
		publish(t, w, values...)
		p := w.topics["a"].partitions[0]
		p.mu.Lock()
		ends = append(ends, p.active().size)
		p.mu.Unlock()
	}
	b, err := os.ReadFile(segmentFiles(t, w)[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	return b, ends
}

// withSegment is a log whose only segment has these bytes.
func withSegment(t *testing.T, b []byte) Config {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 1 << 20
	dir := filepath.Join(cfg.Dir, "a", "0")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segmentPath(dir, 0), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestTornTail(t *testing.T) {
	whole, ends := crashed(t, []string{"first"}, []string{"second"}, []string{"third, torn", "with two records"})
	kept := ends[1]
	check := func(what string, b []byte, want ...string) {
		t.Helper()
		cfg := withSegment(t, b)
		w := mustOpen(t, cfg)
		defer w.Close()
		defer func() {
			if t.Failed() {
				t.Log(what)
			}
		}()
		wantValues(t, w, want...)
		if info, err := os.Stat(segmentFiles(t, w)[0]); err != nil || info.Size() != w.topics["a"].partitions[0].active().size {
			t.Fatalf("the file has %d bytes, %v", info.Size(), err)
		}
		publish(t, w, "next")
		wantValues(t, w, append(want, "next")...)
		_ = w.Close()
		w = mustOpen(t, cfg)
		wantValues(t, w, append(want, "next")...)
		_ = w.Close()
	}
	check("whole", whole, "first", "second", "third, torn", "with two records")
	for cut := kept; cut < int64(len(whole)); cut++ {
		check(fmt.Sprintf("cut at %d", cut), whole[:cut], "first", "second")
		if cut > kept && cut%5 == 0 {
			zeros := bytes.Clone(whole)
			clear(zeros[cut:])
			check(fmt.Sprintf("zeros from %d", cut), zeros, "first", "second")
			noise := bytes.Clone(whole)
			noise[cut] ^= 0x10
			check(fmt.Sprintf("noise at %d", cut), noise, "first", "second")
		}
	}
	zeros := append(bytes.Clone(whole), make([]byte, 5000)...)
	check("zeros behind the end", zeros, "first", "second", "third, torn", "with two records")
	// The creation of the segment did not finish.
	for _, n := range []int{0, 1, segmentHeaderLen - 1} {
		check(fmt.Sprintf("header cut at %d", n), whole[:n])
	}
	check("header is zeros", make([]byte, segmentHeaderLen))
}

// Damage to what had been acknowledged is never taken for an unfinished write.
func TestDamageIsToldFromTornTail(t *testing.T) {
	whole, ends := crashed(t, []string{"first"}, []string{"second"}, []string{"third"}, []string{"fourth"})
	for pos := range ends[2] {
		b := bytes.Clone(whole)
		b[pos] ^= 0x04
		cfg := withSegment(t, b)
		_, err := Open(cfg, Options{})
		var damage *CorruptError
		if !errors.As(err, &damage) || damage.Pos > pos || !strings.Contains(err.Error(), damage.Path) {
			t.Fatalf("byte %d was changed: %v", pos, err)
		}
		if after, _ := os.ReadFile(damage.Path); !bytes.Equal(after, b) {
			t.Fatalf("byte %d was changed: the refused file was changed too", pos)
		}
	}
	// The header alone can be as long as the file; then it is not an unfinished creation either.
	b := bytes.Clone(whole[:segmentHeaderLen])
	b[7]++
	if _, err := Open(withSegment(t, b), Options{}); err == nil || !strings.Contains(err.Error(), "format version 2, this program knows 1") {
		t.Fatalf("newer version: %v", err)
	}
}

// The frames of one write reach the disk in any order. If the first is not there and the second is, none was acknowledged.
func TestTornGroup(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := realDisk()
	w := mustOpenOn(t, cfg, d)
	publish(t, w, "before")
	release, syncing := make(chan struct{}), make(chan struct{}, 10)
	d.sync = func(f *os.File) error {
		syncing <- struct{}{}
		<-release
		return syncFile(f)
	}
	p := w.topics["a"].partitions[0]
	done := make(chan error, 3)
	send := func(v string) {
		go func() { done <- w.Publish(t.Context(), "a", []bus.Record{{Value: []byte(v)}}) }()
	}
	send("alone")
	<-syncing
	for i := range 2 { // these two wait for the sync, and then share one
		send("together")
		for {
			p.mu.Lock()
			n := len(p.queue)
			p.mu.Unlock()
			if n == i+1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	close(release)
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(segmentFiles(t, w)[0])
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte("together"))
	for name, damaged := range map[string]struct {
		text string
		ok   bool
	}{"group": {"together", true}, "before": {"alone", false}} {
		c := bytes.Clone(b)
		c[bytes.Index(c, []byte(damaged.text))]++
		w, err := Open(withSegment(t, c), Options{})
		if (err == nil) != damaged.ok {
			t.Fatalf("%s: %v", name, err)
		}
		if err == nil {
			wantValues(t, w, "before", "alone")
			_ = w.Close()
		}
	}
	if i < 0 {
		t.Fatal("the group is not there")
	}
}

// Somebody may log the bytes of a frame. After a crash they must not be taken for one.
func TestFrameInsideRecord(t *testing.T) {
	inner, ends := crashed(t, []string{"a"}, []string{"b"}, []string{"c"})
	frame := string(inner[ends[1]:])
	whole, outer := crashed(t, []string{"first"}, []string{"x" + strings.Repeat(frame, 5) + "y"})
	b := bytes.Clone(whole)
	b[outer[0]+frameHeaderLen+4]++ // the frame around it is torn
	w := mustOpen(t, withSegment(t, b))
	wantValues(t, w, "first")
}

func TestDamagedChain(t *testing.T) {
	build := func() (Config, []string) {
		cfg := testConfig(t.TempDir())
		w := mustOpen(t, cfg)
		for i := range 40 {
			publish(t, w, fmt.Sprintf("%d %s", i, strings.Repeat("x", 300)))
		}
		_ = w.Close()
		return cfg, segmentFiles(t, w)
	}
	index := func(path string) string { return strings.TrimSuffix(path, logSuffix) + indexSuffix }
	for name, damage := range map[string]func(files []string) error{
		"segment missing":        func(f []string) error { return os.Remove(f[1]) },
		"segment shorter":        func(f []string) error { return os.Truncate(f[1], 1000) },
		"last segment shorter":   func(f []string) error { return os.Truncate(f[len(f)-1], segmentHeaderLen) },
		"segment empty":          func(f []string) error { return os.Truncate(f[1], 0) },
		"no index, torn":         func(f []string) error { return errors.Join(os.Remove(index(f[1])), os.Truncate(f[1], 1000)) },
		"other segment in place": func(f []string) error { return os.Rename(f[2], f[1]) },
		"not a segment":          func(f []string) error { return os.WriteFile(f[0], bytes.Repeat([]byte("text"), 100), 0o600) },
	} {
		cfg, files := build()
		if err := damage(files); err != nil {
			t.Fatal(err)
		}
		_, err := Open(cfg, Options{})
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What retention does is not damage.
	cfg, files := build()
	if err := errors.Join(os.Remove(files[0]), os.Remove(index(files[0]))); err != nil {
		t.Fatal(err)
	}
	w := mustOpen(t, cfg)
	if got := readAll(t, w); got[0].Offset == 0 || got[len(got)-1].Offset != 39 {
		t.Fatalf("offsets %d to %d", got[0].Offset, got[len(got)-1].Offset)
	}
}

// goldenRecords are what testdata/v1 holds.
func goldenRecords() [][]bus.Record {
	return [][]bus.Record{
		{{Value: []byte("first"), At: 1_700_000_000_000}},
		{
			{Key: []byte("host-1"), Value: []byte("second"), At: 1_700_000_001_000, Headers: []bus.Header{{Name: "project", Value: "default"}, {Name: "batch", Value: "b1"}}},
			{Key: []byte("host-1"), Value: []byte{0, 1, 0xff}, At: 1_699_999_999_999, Headers: []bus.Header{{Name: "project", Value: "default"}}},
			{At: 5},
		},
		{{Value: bytes.Repeat([]byte("long "), 100), At: 1_700_000_002_000}},
	}
}

// What version 1 wrote is read for ever.
func TestGolden(t *testing.T) {
	const golden = "testdata/v1"
	if *update {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		w := mustOpen(t, testConfig(golden))
		for _, records := range goldenRecords() {
			if err := w.Publish(t.Context(), "a", records); err != nil {
				t.Fatal(err)
			}
		}
		r, _ := w.Subscribe(t.Context(), "a", "reader", nil)
		if err := errors.Join(r.Commit(t.Context(), bus.Positions{0: 4}), w.Close(), os.Remove(filepath.Join(golden, "LOCK"))); err != nil {
			t.Fatal(err)
		}
	}
	for _, withIndex := range []bool{true, false} {
		cfg := testConfig(filepath.Join(t.TempDir(), "v1"))
		if err := os.CopyFS(cfg.Dir, os.DirFS(golden)); err != nil {
			t.Fatal(err)
		}
		if !withIndex {
			if err := os.Remove(filepath.Join(cfg.Dir, "a", "0", "00000000000000000000.idx")); err != nil {
				t.Fatal(err)
			}
		}
		w := mustOpen(t, cfg)
		var want []bus.Record
		for _, records := range goldenRecords() {
			want = append(want, records...)
		}
		for i, r := range readAll(t, w) {
			if r.Offset != int64(i) || r.At != want[i].At || !bytes.Equal(r.Key, want[i].Key) || !bytes.Equal(r.Value, want[i].Value) ||
				fmt.Sprint(r.Headers) != fmt.Sprint(want[i].Headers) {
				t.Errorf("record %d is %v, want %v", i, r, want[i])
			}
		}
		r, _ := w.Subscribe(t.Context(), "a", "reader", nil)
		if b, err := r.Next(t.Context()); err != nil || b.Records[0].Offset != 4 || b.Records[0].At != kemi.Millis(1_700_000_002_000) {
			t.Errorf("the group goes on at %v, %v", b, err)
		}
		_ = w.Close()
	}
}
