package wal

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kemi/pipeline/bus"
)

const (
	childEnv       = "KEMI_WAL_TEST_CHILD"
	childRoundEnv  = "KEMI_WAL_TEST_ROUND"
	childProducers = 4
)

func childConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Topics, cfg.SegmentBytes = dir, map[string]int{"a": 2}, 256<<10
	return cfg
}

// childValue is what a producer publishes as its n-th record: recognisable, and of a length and content that follow from its name.
func childValue(producer string, n int) []byte {
	head := fmt.Sprintf("%s %d ", producer, n)
	rng := rand.New(rand.NewPCG(uint64(crc32.ChecksumIEEE([]byte(producer))), uint64(n)))
	b := make([]byte, len(head)+rng.IntN(4000))
	copy(b, head)
	for i := len(head); i < len(b); i++ {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// child is the process that is killed: it publishes, follows and commits as fast as it can and tells each time it has been
// promised something.
func child(dir string) {
	w, err := Open(childConfig(dir), Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	ctx := context.Background()
	tell := func(format string, args ...any) { _, _ = os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n") }
	var wg sync.WaitGroup
	for i := range childProducers {
		wg.Go(func() {
			producer := fmt.Sprintf("r%s-p%d", os.Getenv(childRoundEnv), i)
			for n := 0; ; n += 2 {
				records := []bus.Record{
					{Key: []byte(producer), Value: childValue(producer, n)},
					{Key: []byte(producer), Value: childValue(producer, n+1)},
				}
				if err := w.Publish(ctx, "a", records); err != nil {
					tell("error %v", err)
					return
				}
				tell("acked %s %d", producer, n)
				tell("acked %s %d", producer, n+1)
			}
		})
	}
	wg.Go(func() {
		r, err := w.Subscribe(ctx, "a", "g", nil)
		for err == nil {
			var b bus.Batch
			if b, err = r.Next(ctx); err == nil {
				if err = r.Commit(ctx, bus.Positions{b.Partition: b.Next()}); err == nil {
					tell("committed %d %d", b.Partition, b.Next())
				}
			}
		}
		tell("error %v", err)
	})
	wg.Wait()
}

// kill -9 at any moment loses nothing that was acknowledged, and doubles nothing. The child is killed while it starts,
// while it publishes, rolls, and commits; the next one goes on with the same log.
func TestKill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acked := map[string]int{} // producer → highest acknowledged
	committed := bus.Positions{}
	total := 0
	for round := range 50 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir, childRoundEnv+"="+strconv.Itoa(round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		started, finished := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(finished)
			var once sync.Once
			in := bufio.NewReader(out)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return // the rest of a line was never told
				}
				f := strings.Fields(line)
				switch f[0] {
				case "acked":
					n, _ := strconv.Atoi(f[2])
					acked[f[1]] = n
					total++
					once.Do(func() { close(started) })
				case "committed":
					p, _ := strconv.Atoi(f[1])
					n, _ := strconv.ParseInt(f[2], 10, 64)
					committed[int32(p)] = n
				default:
					t.Errorf("child: %s", line)
					return
				}
			}
		}()
		if round%5 != 0 {
			select {
			case <-started:
			case <-finished:
			case <-time.After(30 * time.Second):
				t.Error("the child does not publish")
			}
		}
		time.Sleep(time.Duration(rng.IntN(25000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-finished
		_ = cmd.Wait()
		if t.Failed() {
			return
		}
		if round%3 == 0 || round == 49 {
			checkKilled(t, dir, acked, committed)
		}
	}
	if total < 500 {
		t.Fatalf("only %d records were acknowledged", total)
	}
	t.Logf("%d records acknowledged", total)
}

func checkKilled(t *testing.T, dir string, acked map[string]int, committed bus.Positions) {
	t.Helper()
	w := mustOpen(t, childConfig(dir))
	defer w.Close()
	next := map[string]int{}
	for _, r := range readAll(t, w) {
		producer := string(r.Key)
		if string(r.Value) != string(childValue(producer, next[producer])) {
			t.Fatalf("partition %d offset %d: %.30q, want record %d of %s", r.Partition, r.Offset, r.Value, next[producer], producer)
		}
		next[producer]++
	}
	for producer, n := range acked {
		if next[producer] <= n {
			t.Fatalf("%s: record %d was acknowledged, %d are there", producer, n, next[producer])
		}
	}
	for producer, n := range next {
		if n%2 != 0 {
			t.Fatalf("%s: half of a publish is there: %d records", producer, n)
		}
		if last, ok := acked[producer]; ok && n > last+3 {
			t.Fatalf("%s: %d records are there, acknowledged was %d", producer, n, last)
		}
	}
	for p, n := range committed {
		if got := w.topics["a"].groups.get("g")[p]; got < n {
			t.Fatalf("partition %d: %d was committed, %d is kept", p, n, got)
		}
	}
}
