package eval

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kemi"
)

// TestScenarios runs testdata/*.txt. A line is a command; lines that begin with "> " are what it is expected to answer.
//
//	rule 60s 3 service,host        window, threshold, by
//	log 10s service=pay host=a     a record at that time
//	tick 70s                       the stream is known up to there
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var s *State
			var got []string
			line := 0
			for text := range strings.SplitSeq(string(b), "\n") {
				line++
				switch want, answer := strings.CutPrefix(text, "> "); {
				case answer:
					if len(got) == 0 {
						t.Fatalf("line %d: expected %q, nothing came", line, want)
					}
					if got[0] != want {
						t.Fatalf("line %d: expected %q, got %q", line, want, got[0])
					}
					got = got[1:]
					continue
				case len(got) > 0:
					t.Fatalf("line %d: unexpected %q before it", line, got)
				}
				w := strings.Fields(text)
				if len(w) == 0 || strings.HasPrefix(text, "#") {
					continue
				}
				d, err := time.ParseDuration(w[1])
				if err != nil {
					t.Fatalf("line %d: %v", line, err)
				}
				at := kemi.Millis(d.Milliseconds())
				var changes []Change
				switch w[0] {
				case "rule":
					n, _ := strconv.Atoi(w[2])
					k := Keyword{Window: d, Threshold: int64(n)}
					if len(w) > 3 {
						k.By = strings.Split(w[3], ",")
					}
					s = New(k)
				case "log":
					ls := map[string]string{}
					for _, p := range w[2:] {
						k, v, _ := strings.Cut(p, "=")
						ls[k] = v
					}
					changes = s.Observe(at, func(n string) string { return ls[n] })
				case "tick":
					changes = s.Tick(at)
				default:
					t.Fatalf("line %d: unknown command %q", line, w[0])
				}
				for _, c := range changes {
					state := "end"
					if c.Firing {
						state = "fire"
					}
					got = append(got, fmt.Sprintf("%s %s count=%d at=%s", state, c.Labels, c.Count, time.Duration(c.At)*time.Millisecond))
				}
			}
			if len(got) > 0 {
				t.Fatalf("unexpected at the end: %q", got)
			}
		})
	}
}

// TestAgainstCount compares with the plain definition on random streams: it fires no later than the exact window would, and it ends no
// earlier, within one slot.
func TestAgainstCount(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		k := Keyword{Window: time.Minute, Threshold: int64(1 + r.IntN(8))}
		s := New(k)
		var times []kemi.Millis
		now := kemi.Millis(1_000_000)
		for range 400 {
			now += kemi.Millis(r.IntN(15_000))
			if r.IntN(3) > 0 {
				at := now - kemi.Millis(r.IntN(5_000))
				times = append(times, at)
				s.Observe(at, nil)
			}
			s.Tick(now)
			exact, loose := int64(0), int64(0)
			for _, at := range times {
				if at > now-60_000 {
					exact++
				}
				if at > now-60_000-2_000 {
					loose++
				}
			}
			firing := len(s.Firing()) > 0
			if exact >= k.Threshold && !firing {
				t.Fatalf("seed %d at %d: %d in the window, threshold %d, not firing", seed, now, exact, k.Threshold)
			}
			if loose < k.Threshold && firing {
				t.Fatalf("seed %d at %d: at most %d in the window, threshold %d, firing", seed, now, loose, k.Threshold)
			}
		}
	}
}

func TestGroupsAreBounded(t *testing.T) {
	s := New(Keyword{Window: time.Minute, Threshold: 5, By: []string{"user"}})
	for i := range MaxGroups + 100 {
		s.Observe(1000, func(string) string { return strconv.Itoa(i) })
	}
	if len(s.groups) > MaxGroups+1 {
		t.Fatalf("%d groups", len(s.groups))
	}
	if s.Folded() != 100 {
		t.Fatalf("folded %d, want 100", s.Folded())
	}
	if f := s.Firing(); len(f) != 1 || len(f[0].Labels) != 0 {
		t.Fatalf("the folded ones fire together: %v", f)
	}
	s.Tick(1000 + 10*60_000)
	if len(s.groups) != 0 {
		t.Fatalf("%d groups left after the window", len(s.groups))
	}
}
