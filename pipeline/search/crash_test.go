package search

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

const childEnv = "KEMI_TEST_SEARCH_DIR"

func crashConfig(dir string) Config {
	c := testConfig(dir)
	c.BufferBytes, c.FlushInterval, c.SliceBytes = 32<<10, 20*time.Millisecond, 512<<10
	return c
}

// offset is the record of the log at that offset: a batch of records, whose IDs say where they are from. Each tenth batch is one that was
// sent before, under the same name.
func offset(n int64) []kemi.LogRecord {
	name := n
	if n%10 == 9 {
		name = n - 4
	}
	rs := make([]kemi.LogRecord, 20)
	for i := range rs {
		at := name*20 + int64(i)
		rs[i] = kemi.LogRecord{ID: fmt.Sprintf("b%d-%d", name, i), Project: "default", At: kemi.Nanos(at), Stream: kemi.LabelsOf("host", fmt.Sprint("h", at%7)),
			Body: fmt.Sprintf("record %d of batch %d %s", i, name, strings.Repeat("filler ", 10))}
	}
	return rs
}

// crashChild is the process that is killed: it indexes one offset after another from Positions and tells what is done.
func crashChild() {
	dir := os.Getenv(childEnv)
	if dir == "" {
		return
	}
	x, err := Open(crashConfig(dir), Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for n := x.Positions()[0]; ; n++ {
		if err := x.Index(context.Background(), offset(n), store.Position{Next: n + 1}); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(n, x.Positions()[0])
	}
}

// TestKill kills a process at random moments while it indexes. Afterwards Positions has not gone back, and once what follows
// it is given again, everything is there exactly once.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var durable, done int64
	for round := range 12 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, stop := bufio.NewScanner(out), 20+rand.IntN(150)
		for i := 0; lines.Scan() && i < stop; i++ {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			if _, err := fmt.Sscan(lines.Text(), &done, &durable); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Process.Kill()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()

		x := mustOpen(t, crashConfig(dir), Options{})
		if f := x.Freshness(); !f.Complete {
			t.Fatalf("round %d: %s", round, f.Reason)
		}
		next := x.Positions()[0]
		if next < durable {
			t.Fatalf("round %d: position %d, and it had been %d", round, next, durable)
		}
		checkOffsets(t, x, next)
		for n := next; n <= done; n++ { // replay
			if err := x.Index(context.Background(), offset(n), store.Position{Next: n + 1}); err != nil {
				t.Fatal(err)
			}
		}
		checkOffsets(t, x, max(next, done+1))
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if durable == 0 || done < 200 {
		t.Fatalf("%d offsets, %d durable: the test says little", done, durable)
	}
}

// checkOffsets checks that x holds what the offsets before next hold, each once.
func checkOffsets(t *testing.T, x *Index, next int64) {
	t.Helper()
	want := map[string]string{}
	for n := range next {
		for _, r := range offset(n) {
			want[r.ID] = r.Body
		}
	}
	for r, err := range x.Search(context.Background(), kemi.Identity{Project: "default"}, store.LogQuery{Range: store.NanoRange{To: 1 << 60}}) {
		if err != nil {
			t.Fatal(err)
		}
		if body, ok := want[r.ID]; !ok || body != r.Body {
			t.Fatalf("record %s is there twice, or should not be there (before %d): %q", r.ID, next, r.Body)
		}
		delete(want, r.ID)
	}
	if len(want) > 0 {
		t.Fatalf("%d records before %d are missing", len(want), next)
	}
}
