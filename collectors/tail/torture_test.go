package tail

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

func syscallMkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }

// TestTorture writes numbered lines while the file is renamed, copied and truncated, at random, and the follower is stopped, crashed
// and started: every line comes once and in order.
func TestTorture(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	for i := range seeds {
		seed := uint64(time.Now().UnixNano()) + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			torture(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func torture(t *testing.T, r *rand.Rand) {
	dir := t.TempDir()
	path := dir + "/app.log"
	k := newKeeper(t, Config{Paths: []string{path + "*"}})
	k.o.CopyGrace = 3 * time.Second
	var want []string
	lines := func() {
		for range 1 + r.IntN(30) {
			l := fmt.Sprintf("%08d %s", len(want), strings.Repeat("z", r.IntN(60)))
			if r.IntN(200) == 0 {
				l += strings.Repeat("w", 100_000)
			}
			want = append(want, l)
			if n := r.IntN(len(l)); r.IntN(3) == 0 {
				put(t, path, l[:n])
				time.Sleep(time.Duration(r.IntN(2)) * time.Millisecond)
				l = l[n:]
			}
			put(t, path, l+"\n")
		}
	}
	shift := func() {
		old, _ := filepath.Glob(path + ".*")
		sort.Slice(old, func(i, j int) bool { return generation(old[i]) > generation(old[j]) })
		for _, o := range old {
			rename(t, o, fmt.Sprintf("%s.%d", path, generation(o)+1))
		}
	}
	running := false
	toggle := func(stop func()) {
		if running {
			stop()
		} else {
			k.start()
		}
		running = !running
	}
	lines()
	var history []string
	for range 60 {
		switch op := r.IntN(10); op {
		case 0:
			history = append(history, "rename")
			shift()
			rename(t, path, path+".1")
			lines()
		case 1:
			history = append(history, "copytruncate")
			shift()
			copyFile(t, path, path+".1")
			time.Sleep(time.Duration(r.IntN(15)) * time.Millisecond)
			truncate(t, path)
			lines()
		case 2:
			history = append(history, "stop or start")
			toggle(k.stop)
		case 3:
			history = append(history, "crash or start")
			toggle(k.crash)
		case 4, 5:
			time.Sleep(time.Duration(r.IntN(25)) * time.Millisecond)
		default:
			history = append(history, "lines")
			lines()
		}
	}
	if !running {
		k.start()
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(k.bodies()) < len(want) && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	got := k.bodies()
	if slices.Equal(got, want) {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	t.Errorf("%d lines, want %d; from line %d on: %.20q …\nthen %s", len(got), len(want), at, tailOf(got[:min(len(got), at+3)], 5), strings.Join(history, ", "))
}

func generation(path string) (n int) {
	_, _ = fmt.Sscanf(path[strings.LastIndexByte(path, '.')+1:], "%d", &n)
	return n
}

// TestTortureDelete: many files come and go; what was in a file when it was deleted was read if it had been seen.
func TestTortureDelete(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	k := newKeeper(t, Config{Paths: []string{dir + "/*.log"}})
	k.start()
	want := map[string]bool{}
	live := map[string]bool{}
	for i := range 300 {
		path := fmt.Sprintf("%s/%d.log", dir, r.IntN(20))
		line := fmt.Sprintf("%s line %d", path, i)
		put(t, path, line+"\n")
		want[line], live[path] = true, true
		if r.IntN(4) == 0 {
			k.waitFor(line, func() bool { return slices.Contains(k.bodies(), line) })
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			delete(live, path)
		}
	}
	k.waitFor("all", func() bool { return len(k.bodies()) >= len(want) })
	k.waitFor("closed", func() bool { return k.tail.Stats.Files.Load() == int64(len(live)) })
	seen := map[string]bool{}
	for _, b := range k.bodies() {
		if seen[b] || !want[b] {
			t.Errorf("%q came twice or was never written", b)
		}
		seen[b] = true
	}
}

// FuzzFrame: whatever the bytes, the records together are the file, none is too long, and reading on later finds the same ones.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n2026 x\n y\n2026 z\n"), true)
	f.Add([]byte("no end"), false)
	f.Add([]byte(strings.Repeat("x", 100)+"\n\n\n"), true)
	plain, err := newInput(Config{Paths: []string{"/x"}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	multi, err := newInput(Config{Paths: []string{"/x"}, Multiline: Multiline{Start: `^\d`, MaxLines: 5}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, several bool) {
		in := plain
		if several {
			in = multi
		}
		frames := func(step int) (out []string) {
			at := 0
			for end := min(step, len(data)); ; end = min(end+step, len(data)) {
				for {
					fr := in.next(data[at:end], notWide, end == len(data))
					if !fr.ok {
						break
					}
					if fr.n <= 0 || fr.n > MaxLine+1 || at+fr.n > end {
						t.Fatalf("record of %d bytes at %d of %d", fr.n, at, end)
					}
					out = append(out, string(data[at:at+fr.n]))
					at += fr.n
				}
				if end == len(data) {
					return out
				}
			}
		}
		whole := frames(max(1, len(data)))
		if strings.Join(whole, "") != string(data) {
			t.Fatalf("records %q of %q", whole, data)
		}
		if bit := frames(3); !slices.Equal(bit, whole) {
			t.Fatalf("read in bits %q, at once %q", bit, whole)
		}
	})
}
