package autoscale

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"kemi"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// scenario is a simulated group: a driver that does what it is told at once, readings and alerts that are set by hand.
type scenario struct {
	t         *testing.T
	spec      Spec
	state     State
	start     time.Time
	now       time.Time
	instances []Instance
	readings  map[string]Reading
	firing    map[string]bool
	stuck     bool // the driver does nothing
}

func (s *scenario) input() Input {
	current, ready, warming := count(s.instances, s.spec.Warmup, kemi.MillisOf(s.now))
	return Input{Spec: s.spec, State: s.state, Current: current, Ready: ready, Warming: warming, Readings: s.readings, Firing: s.firing}
}

func (s *scenario) apply(d Decision, st State) string {
	// What is kept between evaluations must survive being written down.
	b, err := json.Marshal(st)
	if err != nil {
		s.t.Fatal(err)
	}
	s.state = State{}
	if err := json.Unmarshal(b, &s.state); err != nil {
		s.t.Fatal(err)
	}
	if !s.stuck {
		for len(s.instances) < s.state.Desired {
			s.instances = append(s.instances, Instance{State: Running, Started: kemi.MillisOf(s.now)})
		}
		s.instances = s.instances[:s.state.Desired]
	}
	mark := " "
	if d.Record {
		mark = "*"
	}
	return fmt.Sprintf("%5s %s %-8s %d→%d %s: %s\n", s.now.Sub(s.start), mark, d.Action, d.From, d.To, d.Code, d.Reason)
}

// run performs the commands of a block:
//
//	spec {…}            (lines up to a lone "end")
//	set cpu=80 mem=none err=error high=firing low=over
//	wait 15s            evaluate after that time; "wait 15s x3" does it three times
//	size 5              somebody asks for a size
//	pool 3              make the pool have 3 instances, as old as can be
//	stuck on|off        the driver does nothing
func (s *scenario) run(lines []string) string {
	var out strings.Builder
	for i := 0; i < len(lines); i++ {
		f := strings.Fields(lines[i])
		switch f[0] {
		case "#":
		case "spec":
			var text strings.Builder
			text.WriteString(strings.TrimPrefix(lines[i], "spec"))
			for i++; strings.TrimSpace(lines[i]) != "end"; i++ {
				text.WriteString(lines[i] + "\n")
			}
			spec, err := ParseSpec([]byte(text.String()))
			if err != nil {
				fmt.Fprintf(&out, "refused: %v\n", err)
				continue
			}
			s.spec = spec
		case "set":
			for _, kv := range f[1:] {
				k, v, _ := strings.Cut(kv, "=")
				switch v {
				case "firing", "over":
					s.firing[k] = v == "firing"
				case "none":
					s.readings[k] = Reading{Problem: "the query has no answer"}
				case "error":
					s.readings[k] = Reading{Problem: "the query failed: series store is away"}
				default:
					n, err := strconv.ParseFloat(v, 64)
					if err != nil {
						s.t.Fatalf("line %q", lines[i])
					}
					s.readings[k] = Reading{Value: n, Known: true}
				}
			}
		case "wait":
			d, err := time.ParseDuration(f[1])
			if err != nil {
				s.t.Fatal(err)
			}
			times := 1
			if len(f) > 2 {
				times, _ = strconv.Atoi(f[2][1:])
			}
			for range times {
				s.now = s.now.Add(d)
				out.WriteString(s.apply(Decide(s.input(), s.now)))
			}
		case "size":
			n, _ := strconv.Atoi(f[1])
			out.WriteString(s.apply(SetSize(s.input(), n, codeManual, "kim asks for "+f[1], s.now)))
		case "pool":
			n, _ := strconv.Atoi(f[1])
			s.instances = nil
			for range n {
				s.instances = append(s.instances, Instance{State: Running})
			}
		case "stuck":
			s.stuck = f[1] == "on"
		default:
			s.t.Fatalf("no such command: %q", lines[i])
		}
	}
	return out.String()
}

// TestScenarios runs testdata/*.txt: blocks of commands, a line ----, and what Decide says to them up to an empty line.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			start := time.UnixMilli(1_700_000_000_000)
			s := &scenario{t: t, start: start, now: start, readings: map[string]Reading{}, firing: map[string]bool{}}
			var got strings.Builder
			for _, block := range strings.Split(strings.TrimSpace(string(b)), "\n\n") {
				commands, _, ok := strings.Cut(block, "\n----")
				got.WriteString(commands + "\n")
				out := s.run(strings.Split(commands, "\n"))
				if ok || out != "" {
					got.WriteString("----\n" + out)
				}
				got.WriteString("\n")
			}
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimSpace(got.String())+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := strings.Split(strings.TrimSpace(string(b)), "\n")
			for i, line := range strings.Split(strings.TrimSpace(got.String()), "\n") {
				if i >= len(want) || line != want[i] {
					t.Fatalf("line %d:\n got  %s\n want %s", i+1, line, append(want, "end of file")[min(i, len(want))])
				}
			}
		})
	}
}

// TestInvariants throws random groups, readings and times at Decide.
func TestInvariants(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	secs := func(n int) Duration { return Duration(time.Duration(rnd.IntN(n)) * time.Second) }
	values := []float64{0, -5, 1e-300, 1e300, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64}
	for range 300 {
		spec := Spec{Min: rnd.IntN(4), Interval: Duration(time.Second), Cooldown: Durations{secs(30), secs(30)}, Stabilization: Durations{secs(20), secs(60)}, Warmup: secs(20), MaxStep: MaxStep{rnd.IntN(4), rnd.IntN(4)}}
		spec.Max = max(1, spec.Min) + rnd.IntN(20)
		for i := range 1 + rnd.IntN(3) {
			p := Policy{Name: fmt.Sprint(i), Type: TargetTracking, Query: "q", Target: 1 + rnd.Float64()*100, Mode: []string{ModeAverage, ModeTotal}[rnd.IntN(2)]}
			if rnd.IntN(2) == 0 {
				p = Policy{Name: fmt.Sprint(i), Type: StepOnAlert, Alert: "a", Adjustment: &Adjustment{Up: 1 + rnd.IntN(5), Unit: UnitInstances}, Repeat: secs(30)}
			}
			spec.Policies = append(spec.Policies, p)
		}
		if err := (Spec{Driver: DriverSpec{Type: "x"}}).validate(); err == nil {
			t.Fatal("a spec without a maximum is valid")
		}
		s := &scenario{t: t, spec: spec, start: time.UnixMilli(1e12), now: time.UnixMilli(1e12), readings: map[string]Reading{}, firing: map[string]bool{}}
		lastOut, lastIn := time.Time{}, time.Time{}
		for step := range 200 {
			s.now = s.now.Add(time.Duration(rnd.IntN(10_000)) * time.Millisecond)
			unknown := false
			for _, p := range spec.Policies {
				r := Reading{Value: rnd.Float64() * 200, Known: rnd.IntN(5) > 0}
				if rnd.IntN(10) == 0 {
					r.Value = values[rnd.IntN(len(values))]
				}
				s.readings[p.Name] = r
				s.firing[p.Name] = rnd.IntN(3) == 0
				unknown = unknown || p.Type == TargetTracking && (!r.Known || math.IsNaN(r.Value) || math.IsInf(r.Value, 0))
			}
			in := s.input()
			d, st := Decide(in, s.now)
			d2, st2 := Decide(in, s.now)
			if !reflect.DeepEqual(d, d2) || !reflect.DeepEqual(st, st2) {
				t.Fatal("the same input gives two decisions")
			}
			fail := func(what string) {
				t.Fatalf("step %d: %s: %+v\nspec %+v\nstate %+v → %+v", step, what, d, spec, in.State, st)
			}
			if d.To < spec.Min || d.To > spec.Max || st.Desired != d.To {
				fail("out of bounds")
			}
			if d.Reason == "" || d.Action != Hold && !d.Record {
				fail("no reason or no record")
			}
			if len(st.Out) > 110 || len(st.In) > 110 {
				fail("the state grows")
			}
			if in.State.Begun && d.Code == codePolicy {
				if d.Action == ScaleIn && (unknown || in.Warming > 0) {
					fail("shrinks without data or while warming")
				}
				if d.Action == ScaleOut && !lastOut.IsZero() && s.now.Sub(lastOut) < time.Duration(spec.Cooldown.Out) {
					fail("grows in the cooldown")
				}
				if d.Action == ScaleIn && (s.now.Sub(lastOut) < time.Duration(spec.Cooldown.In) || s.now.Sub(lastIn) < time.Duration(spec.Cooldown.In)) {
					fail("shrinks in the cooldown")
				}
				if spec.MaxStep.Out > 0 && d.To-d.From > spec.MaxStep.Out || spec.MaxStep.In > 0 && d.From-d.To > spec.MaxStep.In {
					fail("too large a step")
				}
			}
			if in.State.Begun {
				switch d.Action {
				case ScaleOut:
					lastOut = s.now
				case ScaleIn:
					lastIn = s.now
				}
			}
			s.apply(d, st)
		}
	}
}
