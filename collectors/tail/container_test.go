package tail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

func (k *keeper) texts() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]string, len(k.got))
	for i, r := range k.got {
		out[i] = fmt.Sprintf("%s %s %q", r.At.Time().Format(time.RFC3339Nano), r.Attrs, r.Body)
	}
	return out
}

func compare(t *testing.T, got []string, want ...string) {
	t.Helper()
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("\n%s\nwant\n%s", a, b)
	}
}

const cri = "2026-01-02T03:04:05.00000000%dZ %s %s %s\n"

// TestCRI joins lines in parts, also of two streams that come in turns, over restarts at any byte and a rotation.
func TestCRI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods", "shop_pay-7d9f_0a1b-2c3d", "app")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := dir + "/0.log"
	all := fmt.Sprintf(cri, 1, "stdout", "F", "결제 지연") + fmt.Sprintf(cri, 2, "stdout", "P", "be") + fmt.Sprintf(cri, 3, "stderr", "P", "er") + fmt.Sprintf(cri, 4, "stdout", "P", "gi") +
		fmt.Sprintf(cri, 5, "stderr", "F", "ror") + fmt.Sprintf(cri, 6, "stdout", "F", "n ") + fmt.Sprintf(cri, 7, "stdout", "F", "") + fmt.Sprintf(cri, 8, "stderr", "F:extra", "tagged") + "no such line\n" +
		fmt.Sprintf(cri, 9, "stdout", "P", "open") + fmt.Sprintf(cri, 1, "stdout", "F", " end")
	want := []string{
		`2026-01-02T03:04:05.000000001Z {stream="stdout"} "결제 지연"`, `2026-01-02T03:04:05.000000003Z {stream="stderr"} "error"`, `2026-01-02T03:04:05.000000002Z {stream="stdout"} "begin "`,
		`2026-01-02T03:04:05.000000008Z {stream="stderr"} "tagged"`, ` "no such line"`, `2026-01-02T03:04:05.000000009Z {stream="stdout"} "open end"`,
	}
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}, Format: "container"})
	k.start()
	for i := 0; i < len(all); i += 37 {
		put(t, path, all[i:min(i+37, len(all))])
		if i%3 == 0 {
			k.stop()
			k.start()
		}
		if i > len(all)/2 && i <= len(all)/2+37 {
			rename(t, path, dir+"/0.log.20260102-030405")
			copied, err := os.ReadFile(dir + "/0.log.20260102-030405")
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.LastIndexByte(string(copied), '\n') + 1; n < len(copied) { // runtimes rotate between lines
				rename(t, dir+"/0.log.20260102-030405", path)
			}
		}
	}
	k.waitFor("all lines", func() bool { return len(k.bodies()) >= len(want) })
	got := k.texts()
	for i, s := range got {
		if strings.Contains(s, "container.error") {
			_, got[i], _ = strings.Cut(s, "}")
		}
	}
	compare(t, got, want...)
	if r := k.got[0]; r.Stream.Get("namespace") != "shop" || r.Stream.Get("pod") != "pay-7d9f" || r.Stream.Get("container") != "app" || r.Stream.Get("service") != "app" || r.Stream.Get("file") == "" {
		t.Errorf("stream %s", r.Stream)
	}
}

func TestDocker(t *testing.T) {
	id := strings.Repeat("0a1b2c3d", 8)
	dir := filepath.Join(t.TempDir(), id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/config.v2.json", `{"Name": "/pay", "ID": "x"}`)
	line := func(stream, log string) string {
		return fmt.Sprintf(`{"log":%q,"stream":%q,"attrs":{"tag":"x"},"time":"2026-01-02T03:04:05.5Z"}`+"\n", log, stream)
	}
	put(t, dir+"/"+id+"-json.log", line("stdout", "one\n")+line("stderr", "tw")+line("stdout", "three\r\n")+line("stderr", "o\n")+`{"log":1}`+"\n"+line("stdout", "unfinished"))
	k := newKeeper(t, Config{Paths: []string{dir + "/*-json.log"}, Format: "container", Service: "shop"})
	k.o.PartialAfter = 50 * time.Millisecond
	k.start()
	k.waitFor("all", func() bool { return len(k.bodies()) >= 5 })
	got := k.texts()
	_, got[3], _ = strings.Cut(got[3], " ")
	compare(t, got, `2026-01-02T03:04:05.5Z {stream="stdout"} "one"`, `2026-01-02T03:04:05.5Z {stream="stdout"} "three"`, `2026-01-02T03:04:05.5Z {stream="stderr"} "two"`,
		`{container.error="not a line of Docker or of CRI"} "{\"log\":1}"`, `2026-01-02T03:04:05.5Z {line.partial="true", stream="stdout"} "unfinished"`)
	if r := k.got[0]; r.Stream.Get("container") != "pay" || r.Stream.Get("service") != "shop" {
		t.Errorf("stream %s", r.Stream)
	}
}

// TestContainerTraces joins the lines of traces within one stream.
func TestContainerTraces(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/pay_shop_app-0123456789ab.log", fmt.Sprintf(cri, 1, "stdout", "F", "java.lang.IllegalStateException: x")+fmt.Sprintf(cri, 2, "stdout", "F", "\tat a.B.c(B.java:1)")+
		fmt.Sprintf(cri, 3, "stdout", "P", "Caused ")+fmt.Sprintf(cri, 4, "stdout", "F", "by: y")+fmt.Sprintf(cri, 5, "stderr", "F", "\tother stream")+fmt.Sprintf(cri, 6, "stdout", "F", "next"))
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}, Format: "container", Multiline: Multiline{Preset: "java", Timeout: 50 * time.Millisecond}})
	k.start()
	k.want("java.lang.IllegalStateException: x\n\tat a.B.c(B.java:1)\nCaused by: y", "\tother stream", "next")
	if r := k.got[0]; r.Stream.Get("namespace") != "shop" || r.Stream.Get("pod") != "pay" || r.Stream.Get("container") != "app" {
		t.Errorf("stream %s", r.Stream)
	}
}

func TestPresets(t *testing.T) {
	for preset, records := range map[string][]string{
		"java": {
			"2026-01-01 ERROR failed", "java.lang.RuntimeException: outer\n\tat com.shop.Pay.run(Pay.java:7)\n\t... 12 more\nCaused by: java.io.IOException: inner\n\tat com.shop.Net.read(Net.java:3)\n\tSuppressed: x",
			"2026-01-01 INFO next",
		},
		"python": {
			"ERROR:root:failed\nTraceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\nKeyError: 'x'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 3, in <module>\nshop.errors.PayError: y",
			"INFO:root:next",
		},
		"go": {
			"2026/01/01 start",
			"panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nmain.f(...)\n\t/src/main.go:7\nmain.(*server).run(0xc000012345, {0x1, 0x2})\n\t/src/main.go:12 +0x1d\nkemi/pipeline/wal.Open(0x1)\n\t/src/wal.go:3\ncreated by main.main in goroutine 1\n\t/src/main.go:3 +0x45\nexit status 2",
			"2026/01/01 next",
		},
	} {
		t.Run(preset, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/a.log", strings.Join(records, "\n")+"\n")
			k := newKeeper(t, Config{Paths: []string{dir + "/a.log"}, Multiline: Multiline{Preset: preset, Timeout: 50 * time.Millisecond}})
			k.start()
			k.want(records...)
		})
	}
}

// TestStartAndContinue has both: either begins a record.
func TestStartAndContinue(t *testing.T) {
	j, err := Multiline{Start: `^  \d`, Continue: `^\s`}.joiner()
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]bool{"a": true, " a": false, "  1": true, "": true} {
		if got := j.begins([]byte(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func encode16(s string, big bool) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		if big {
			b.Write([]byte{byte(u >> 8), byte(u)})
		} else {
			b.Write([]byte{byte(u), byte(u >> 8)})
		}
	}
	return b.String()
}

// TestUTF16 follows files as Windows writes them, byte by byte and over restarts.
func TestUTF16(t *testing.T) {
	for name, c := range map[string]struct {
		big      bool
		mark     string
		encoding string
	}{"little": {false, "\ufeff", ""}, "big": {true, "\ufeff", ""}, "little without a mark": {false, "", "utf-16le"}, "big without a mark": {true, "", "utf-16be"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := dir + "/app.log"
			// Ċ and 上 have a byte that is a line break.
			all := encode16(c.mark+"첫 줄\r\nĊ上 😀\r\n\r\nthird\n", c.big)
			k := newKeeper(t, Config{Paths: []string{path}, Encoding: c.encoding})
			k.start()
			for i := range len(all) {
				put(t, path, all[i:i+1])
				if i%9 == 0 {
					k.stop()
					k.start()
				}
			}
			k.want("첫 줄", "Ċ上 😀", "third")
			// Written anew, now in UTF-8 if nothing else is said.
			if c.encoding == "" {
				if err := os.WriteFile(path, []byte("plain\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				k.want("첫 줄", "Ċ上 😀", "third", "plain")
			}
		})
	}
	t.Run("from the end", func(t *testing.T) {
		path := t.TempDir() + "/app.log"
		put(t, path, encode16("\ufeffold\nĊ par", false))
		k := newKeeper(t, Config{Paths: []string{path}, From: "end"})
		k.start()
		k.waitFor("the position", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.pos) == 1 })
		put(t, path, encode16("t\nnew\n", false))
		k.want("Ċ part", "new")
	})
	t.Run("halves of pairs", func(t *testing.T) {
		if got := string(littleEndian.plain([]byte("a\x00\x3d\xd8b\x00\x00\xde"))); got != "a\xed\xa0\xbdb\xed\xb8\x80" {
			t.Errorf("%q", got)
		}
	})
}

// FuzzPrinted looks that frames of container files hold every line once, whatever they are cut into.
func FuzzPrinted(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(cri, 1, "stdout", "P", "a")+fmt.Sprintf(cri, 2, "stderr", "F", "b")+fmt.Sprintf(cri, 3, "stdout", "F", "c")), false)
	f.Add([]byte(`{"log":"a\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`+"\n{\n\n"), true)
	plain, err := newInput(Config{Paths: []string{"/x"}, Format: "container"}, nil)
	if err != nil {
		f.Fatal(err)
	}
	multi, err := newInput(Config{Paths: []string{"/x"}, Format: "container", Multiline: Multiline{Preset: "java"}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, several bool) {
		in := plain
		if several {
			in = multi
		}
		bytesIn, bytesOut := 0, 0
		for line := range strings.Lines(string(data)) {
			bytesIn += len(parsePrinted(text([]byte(line))).text)
		}
		rest := data
		for len(rest) > 0 {
			fr := in.next(rest, notWide, true)
			if !fr.ok || fr.n <= 0 || fr.n > len(rest) {
				t.Fatalf("frame %+v of %q", fr, rest)
			}
			records := in.printedRecords(rest[:fr.n])
			if len(records) == 0 {
				t.Fatalf("no record in %q", rest[:fr.n])
			}
			for _, r := range records {
				n := len(r.Body)
				if several {
					n -= strings.Count(r.Body, "\n") // of those that join lines: counted below
				}
				bytesOut += n
			}
			rest = rest[fr.n:]
		}
		if several {
			for line := range strings.Lines(string(data)) {
				bytesIn -= strings.Count(string(parsePrinted(text([]byte(line))).text), "\n")
			}
		}
		if bytesIn != bytesOut {
			t.Fatalf("%d bytes of text, %d in records: %q", bytesIn, bytesOut, data)
		}
	})
}
