package tail

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keeper takes what a Tail hands out and keeps records and positions together, as the agent's spool does. It is over restarts
// of the Tail what disk is to the agent.
type keeper struct {
	t    testing.TB
	o    Options
	mu   sync.Mutex
	got  []kemi.LogRecord
	pos  map[string]Position
	drop bool // what is taken from now on is lost

	tail   *Tail
	cancel context.CancelFunc
	done   chan struct{}
}

func newKeeper(t testing.TB, inputs ...Config) *keeper {
	k := &keeper{t: t, pos: map[string]Position{}, o: Options{
		Inputs: inputs, Labels: kemi.LabelsOf("host", "h1"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now,
		Settle: time.Millisecond, Rescan: 10 * time.Millisecond, PartialAfter: time.Hour, CopyGrace: 500 * time.Millisecond,
		DeletedGrace: 20 * time.Millisecond, RenamedGrace: 100 * time.Millisecond,
	}}
	t.Cleanup(k.stop)
	return k
}

func (k *keeper) start() {
	k.t.Helper()
	out := make(chan []Entry)
	k.o.Out, k.o.Positions = out, maps.Clone(k.pos)
	tail, err := New(k.o)
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.tail, k.cancel, k.done, k.drop = tail, cancel, make(chan struct{}), false
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := tail.Run(ctx); err != nil {
			k.t.Error(err)
		}
		cancel()
	})
	wg.Go(func() {
		for {
			select {
			case es := <-out:
				k.keep(es)
			case <-ctx.Done():
				return
			}
		}
	})
	go func() { wg.Wait(); close(k.done) }()
}

func (k *keeper) keep(es []Entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.drop {
		return
	}
	for _, e := range es {
		if e.Gone {
			delete(k.pos, e.Key)
			continue
		}
		if e.Position.Key() != e.Key {
			k.t.Errorf("position %+v has key %s", e.Position, e.Key)
		}
		k.pos[e.Key] = e.Position
		if !e.Only {
			k.got = append(k.got, e.Record)
		}
	}
}

func (k *keeper) stop() {
	if k.cancel != nil {
		k.cancel()
		<-k.done
		k.cancel = nil
	}
}

// crash loses what is taken from now on, and what is on the way.
func (k *keeper) crash() {
	k.mu.Lock()
	k.drop = true
	k.mu.Unlock()
	k.stop()
}

func (k *keeper) bodies() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]string, len(k.got))
	for i, r := range k.got {
		out[i] = r.Body
	}
	return out
}

func (k *keeper) waitFor(what string, ok func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("%s: not within 10 s; got %d records, last %.200q", what, len(k.bodies()), tailOf(k.bodies(), 5))
		}
	}
}

func tailOf(s []string, n int) []string { return s[max(0, len(s)-n):] }

// want waits for exactly these records in this order, and for no more in a while.
func (k *keeper) want(bodies ...string) {
	k.t.Helper()
	k.waitFor(fmt.Sprintf("%.300q", bodies), func() bool { return len(k.bodies()) >= len(bodies) })
	time.Sleep(3 * k.o.Rescan) // something that is wrongly read again would come now
	if got := k.bodies(); !slices.Equal(got, bodies) {
		k.t.Fatalf("got %.500q\nwant %.500q", got, bodies)
	}
}

func put(t testing.TB, path string, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func truncate(t testing.TB, path string) {
	t.Helper()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

func TestLines(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/app.log"
	put(t, path, "\xef\xbb\xbfone\ntwo\r\n\n\xff\x00bytes\r\rlevel=warn\nlast without end")
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}, Service: "pay", Labels: map[string]string{"app": "a"}})
	k.start()
	k.want("one", "two", "\xff\x00bytes\r\rlevel=warn")
	put(t, path, " is whole now\n")
	k.want("one", "two", "\xff\x00bytes\r\rlevel=warn", "last without end is whole now")
	r := k.got[2]
	if want := kemi.LabelsOf("host", "h1", "service", "pay", "app", "a", "file", path); r.Stream.Compare(want) != 0 || len(r.Attrs) != 0 {
		t.Errorf("record %+v", r)
	}
	for i, r := range k.got[1:] {
		if r.At <= k.got[i].At {
			t.Errorf("times do not ascend: %d after %d", r.At, k.got[i].At)
		}
	}
	k.stop()
	put(t, path, "while away\n")
	k.start()
	k.want("one", "two", "\xff\x00bytes\r\rlevel=warn", "last without end is whole now", "while away")
}

func TestPartialLine(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.log", "begun")
	k := newKeeper(t, Config{Paths: []string{dir + "/a.log"}})
	k.o.PartialAfter = 50 * time.Millisecond
	k.start()
	k.want("begun")
	if v := k.got[0].Attrs.Get("line.partial"); v != "true" {
		t.Errorf("attributes %v", k.got[0].Attrs)
	}
	put(t, dir+"/a.log", " and ended\nnext\n")
	k.want("begun", " and ended", "next")
}

func TestLongLine(t *testing.T) {
	dir := t.TempDir()
	exact := strings.Repeat("x", MaxLine)
	long := strings.Repeat("가", MaxLine) // three bytes each: it is cut between runes
	put(t, dir+"/a.log", "first\n"+exact+"\n"+long+"\nlast\n")
	k := newKeeper(t, Config{Paths: []string{dir + "/a.log"}})
	k.start()
	k.waitFor("last", func() bool { b := k.bodies(); return len(b) > 0 && b[len(b)-1] == "last" })
	got := k.bodies()
	if got[0] != "first" || got[1] != exact || len(k.got[1].Attrs) != 0 {
		t.Fatalf("%d records, the second has %d bytes and %v", len(got), len(got[1]), k.got[1].Attrs)
	}
	parts := k.got[2 : len(got)-1]
	whole := ""
	for i, p := range parts {
		if len(p.Body) > MaxLine || !strings.HasPrefix(p.Body, "가") {
			t.Errorf("part %d has %d bytes and begins with %q", i, len(p.Body), p.Body[:3])
		}
		whole += p.Body
		want := kemi.LabelsOf("line.offset", fmt.Sprint(len("first\n")+MaxLine+1), "line.part", fmt.Sprint(i+1), "line.last", fmt.Sprint(i == len(parts)-1))
		if p.Attrs.Compare(want) != 0 {
			t.Errorf("part %d: %v, want %v", i, p.Attrs, want)
		}
	}
	if len(parts) != 4 || whole != long {
		t.Errorf("%d parts, together right: %t", len(parts), whole == long)
	}
}

func TestMultiline(t *testing.T) {
	dir := t.TempDir()
	k := newKeeper(t, Config{Paths: []string{dir + "/a.log"}, Multiline: Multiline{Start: `^\d{4}-`, Timeout: time.Hour, MaxLines: 4}})
	put(t, dir+"/a.log", "stray\n2026-01 panic\r\n\tat a\n\n\tat b\n\tfifth\n2026-02 ok\n2026-03 open\n\tat c\n")
	k.start()
	k.want("stray", "2026-01 panic\r\n\tat a\n\n\tat b", "\tfifth", "2026-02 ok")
	k.stop()
	k.o.Inputs[0].Multiline.Timeout = 30 * time.Millisecond
	k.start()
	k.want("stray", "2026-01 panic\r\n\tat a\n\n\tat b", "\tfifth", "2026-02 ok", "2026-03 open\n\tat c")
}

func TestRenamed(t *testing.T) {
	for _, pattern := range []string{"/app.log", "/app.log*"} {
		t.Run(pattern, func(t *testing.T) {
			dir := t.TempDir()
			path := dir + "/app.log"
			put(t, path, "1\n")
			k := newKeeper(t, Config{Paths: []string{dir + pattern}})
			k.start()
			k.want("1")
			old, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			rename(t, path, path+".1")
			_, _ = old.WriteString("2\n") // the writer has not noticed yet
			k.want("1", "2")
			_, _ = old.WriteString("3\n")
			old.Close()
			put(t, path, "4\n")
			k.want("1", "2", "3", "4")
			if got := k.got[2].Stream.Get("file"); got != path {
				t.Errorf("line of the renamed file is told to be of %s", got)
			}
			k.waitFor("closed", func() bool { return (k.tail.Stats.Files.Load() == 1) == (pattern == "/app.log") })
		})
	}
}

func TestDeleted(t *testing.T) {
	dir := t.TempDir()
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}})
	for i := range 20 {
		put(t, fmt.Sprintf("%s/%02d.log", dir, i), "x\n")
	}
	k.start()
	k.waitFor("read", func() bool { return len(k.bodies()) == 20 })
	f, err := os.OpenFile(dir+"/05.log", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := os.Remove(fmt.Sprintf("%s/%02d.log", dir, i)); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = f.WriteString("after the end\n")
	f.Close()
	k.waitFor("closed and forgotten", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.tail.Stats.Files.Load() == 0 && len(k.pos) == 0
	})
	if got := k.bodies(); len(got) != 21 || got[20] != "after the end" {
		t.Errorf("got %q", got)
	}
}

func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/app.log"
	put(t, path, "the first line of the file\nsecond\n")
	k := newKeeper(t, Config{Paths: []string{path}})
	k.start()
	k.want("the first line of the file", "second")
	truncate(t, path)
	put(t, path, "new\n")
	k.want("the first line of the file", "second", "new")
	// Written anew and larger than before, while nobody looks.
	k.stop()
	truncate(t, path)
	put(t, path, "again a first line\nand another\nand one more\n")
	k.start()
	k.want("the first line of the file", "second", "new", "again a first line", "and another", "and one more")
}

// TestTruncatedUnderWriter: a writer that does not append goes on at its old place, which leaves a hole.
func TestTruncatedUnderWriter(t *testing.T) {
	path := t.TempDir() + "/app.log"
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	first := strings.Repeat("some line of the log\n", 1000)
	_, _ = w.WriteString(first)
	k := newKeeper(t, Config{Paths: []string{path}})
	k.start()
	k.waitFor("first", func() bool { return len(k.bodies()) == 1000 })
	truncate(t, path)
	k.waitFor("truncation", func() bool { return k.tail.Stats.Truncations.Load() == 1 })
	_, _ = w.WriteString("after the hole\nand on\n")
	k.waitFor("rest", func() bool { return len(k.bodies()) == 1002 })
	if got := k.bodies()[1000:]; got[0] != "after the hole" || got[1] != "and on" {
		t.Errorf("got %.100q", got)
	}
}

func TestCopyTruncate(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			dir := t.TempDir()
			path := dir + "/app.log"
			put(t, path, "line one of this file\n")
			k := newKeeper(t, Config{Paths: []string{path + "*"}})
			k.start()
			k.want("line one of this file")
			if away {
				k.stop()
			}
			put(t, path, "line two\n")
			copyFile(t, path, path+".1")
			truncate(t, path)
			put(t, path, "line three of the new file\n")
			if away {
				k.start()
			}
			k.want("line one of this file", "line two", "line three of the new file")
			k.stop() // what was learned of the copy is kept
			k.start()
			k.want("line one of this file", "line two", "line three of the new file")
		})
	}
}

// TestSameBeginning: a new file that begins like the rotated one is another all the same.
func TestSameBeginning(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/app.log"
	banner := "=== the service has started ===\n"
	put(t, path, banner)
	k := newKeeper(t, Config{Paths: []string{path + "*"}})
	k.o.CopyGrace = 50 * time.Millisecond
	k.start()
	b := strings.TrimSuffix(banner, "\n")
	k.want(b)
	rename(t, path, path+".1")
	put(t, path, banner)
	k.want(b, b)
	put(t, path, "x\n")
	k.want(b, b, "x")
}

func TestInodeUsedAgain(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/app.log"
	put(t, path, "of the old file, which was here\n")
	k := newKeeper(t, Config{Paths: []string{path}})
	k.start()
	k.want("of the old file, which was here")
	k.stop()
	// The same device and inode with other content: the position of the old file must not count.
	var p Position
	for _, p = range k.pos {
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	put(t, path, "of the new file, which is longer than the old one\nmore\n")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	p.Dev, p.Ino, _ = identity(info)
	k.pos = map[string]Position{p.Key(): p}
	k.start()
	k.want("of the old file, which was here", "of the new file, which is longer than the old one", "more")
	// The same file, but its device has another number, as after a boot.
	k.stop()
	for key, p := range k.pos {
		delete(k.pos, key)
		p.Dev += 7
		k.pos[p.Key()] = p
	}
	put(t, path, "and on\n")
	k.start()
	k.want("of the old file, which was here", "of the new file, which is longer than the old one", "more", "and on")
	if len(k.pos) != 1 {
		t.Errorf("positions %v", k.pos)
	}
}

func TestNewAndExcluded(t *testing.T) {
	dir := t.TempDir()
	k := newKeeper(t, Config{Paths: []string{dir + "/*/*.log*"}, Exclude: []string{"*.tmp", dir + "/b/no.log"}})
	k.start()
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir+"/b/no.log", "excluded\n")
	put(t, dir+"/a/x.log.gz", "compressed\n")
	put(t, dir+"/a/x.log.tmp", "excluded\n")
	if err := os.Mkdir(dir+"/a/dir.log", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscallMkfifo(dir + "/a/pipe.log"); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/a/x.log", "yes\n")
	k.want("yes")
	if err := os.Symlink(dir+"/a/x.log", dir+"/b/link.log"); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/a/x.log", "once\n")
	k.want("yes", "once")
}

func TestSymlink(t *testing.T) {
	dir, real := t.TempDir(), t.TempDir()
	put(t, real+"/0.log", "a\n")
	if err := os.Symlink(real+"/0.log", dir+"/c.log"); err != nil {
		t.Fatal(err)
	}
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}})
	k.start()
	k.want("a")
	put(t, real+"/0.log", "b\n")
	k.want("a", "b")
	put(t, real+"/1.log", "c\n")
	if err := os.Symlink(real+"/1.log", dir+"/new"); err != nil {
		t.Fatal(err)
	}
	rename(t, dir+"/new", dir+"/c.log")
	k.want("a", "b", "c")
}

func TestFromEnd(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.log", "old\nolder\nhalf")
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}, From: "end"})
	k.start()
	k.waitFor("position", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.pos) == 1 })
	put(t, dir+"/a.log", " a line\n")
	put(t, dir+"/b.log", "of a new file\n")
	k.waitFor("two", func() bool { return len(k.bodies()) == 2 })
	got := k.bodies()
	slices.Sort(got)
	if got[0] != "half a line" || got[1] != "of a new file" {
		t.Errorf("got %q", got)
	}
	k.stop()
	put(t, dir+"/a.log", "while away\n")
	k.start()
	k.waitFor("third", func() bool { return len(k.bodies()) == 3 })
}

// TestBackpressure: nobody takes lines; nothing is read ahead, yet what is rotated away and deleted meanwhile is not lost.
func TestBackpressure(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/app.log"
	k := newKeeper(t, Config{Paths: []string{path}})
	out := make(chan []Entry)
	k.o.Out = out
	tail, err := New(k.o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- tail.Run(ctx) }()
	var want []string
	for i := range 10 {
		for j := range 1000 {
			want = append(want, fmt.Sprintf("line %d of file %d", j, i))
		}
		put(t, path, strings.Join(want[i*1000:], "\n")+"\n")
		deadline := time.Now().Add(10 * time.Second)
		for tail.Stats.Files.Load() != int64(i+1) && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if n := tail.Stats.Lines.Load(); n > maxEntries {
		t.Errorf("%d lines were read although nobody took any", n)
	}
	var got []string
	for len(got) < len(want) {
		select {
		case es := <-out:
			for _, e := range es {
				if !e.Only {
					got = append(got, e.Record.Body)
				}
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%d lines of %d", len(got), len(want))
		}
	}
	if !slices.Equal(got, want) {
		t.Error("the lines are not in order")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"paths: empty":          {},
		`paths: "var/log"`:      {Paths: []string{"var/log"}},
		`paths: "/var/[":`:      {Paths: []string{"/var/["}},
		`paths: "[": syntax`:    {Paths: []string{"/x"}, Exclude: []string{"["}},
		`from: "middle"`:        {Paths: []string{"/x"}, From: "middle"},
		"multiline.continue: ":  {Paths: []string{"/x"}, Multiline: Multiline{Continue: "("}},
		"multiline.preset: ":    {Paths: []string{"/x"}, Multiline: Multiline{Preset: "cobol"}},
		"multiline: preset ":    {Paths: []string{"/x"}, Multiline: Multiline{Preset: "go", Continue: "x"}},
		`format: "docker"`:      {Paths: []string{"/x"}, Format: "docker"},
		`encoding: "latin1"`:    {Paths: []string{"/x"}, Encoding: "latin1"},
		`encoding: "utf-16le"`:  {Paths: []string{"/x"}, Encoding: "utf-16le", Format: "container"},
		"multiline.start: ":     {Paths: []string{"/x"}, Multiline: Multiline{Start: "("}},
		"multiline.maxLines: -": {Paths: []string{"/x"}, Multiline: Multiline{MaxLines: -1}},
		"multiline.timeout: -":  {Paths: []string{"/x"}, Multiline: Multiline{Timeout: -1}},
		`labels: "a": ""`:       {Paths: []string{"/x"}, Labels: map[string]string{"a": ""}},
	} {
		_, err := New(Options{Inputs: []Config{c}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %s", c, err, want)
		}
	}
}
