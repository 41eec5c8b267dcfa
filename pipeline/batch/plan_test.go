package batch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"kemi"
)

const day = 24 * kemi.Millis(3600_000)

func TestSlotOf(t *testing.T) {
	closed := 70*day + hours(5)
	for _, c := range []struct {
		at   kemi.Millis
		want Slot
	}{
		{0, Slot{2, 0}},
		{60*day - 1, Slot{2, 30 * day}},
		{60 * day, Slot{1, 60 * day}}, // the month is not over
		{70*day - 1, Slot{1, 69 * day}},
		{70 * day, Slot{0, 70 * day}}, // the day is not over
		{closed + 1, Slot{0, 70*day + hours(4)}},
		{-1, Slot{2, -30 * day}},
	} {
		if got := slotOf(c.at, closed); got != c.want {
			t.Errorf("%d: %+v, want %+v", c.at, got, c.want)
		}
	}
}

func TestPlan(t *testing.T) {
	block := func(id string, level int, from kemi.Millis, bytes int64) Block {
		return Block{ID: id, Level: level, From: from, To: from + 1000, Bytes: bytes}
	}
	for _, c := range []struct {
		name  string
		state State
		want  string
	}{
		{"nothing", State{Closed: day}, ""},
		{"sources first", State{Closed: day, Sources: []Source{{ID: "x"}, {ID: "y"}}, Rewrite: []string{"a"}}, "settle x y"},
		{"then what lost something", State{Closed: day, Rewrite: []string{"a", "b"}}, "rewrite a"},
		{"a day that is not over", State{Closed: hours(20), Blocks: []Block{block("a", 0, 0, 10), block("b", 0, hours(2), 10)}}, ""},
		{"a day that is not over, all that is possible", State{Closed: hours(20), All: true, Blocks: []Block{block("a", 0, 0, 10), block("b", 0, hours(2), 10), block("c", 0, day, 10)}}, "merge a b"},
		{"and what came since", State{Closed: hours(20), All: true, Blocks: []Block{block("a", 1, 0, 1000), block("b", 0, hours(4), 10)}}, "merge b a"},
		{"which waits otherwise", State{Closed: hours(20), Blocks: []Block{block("a", 1, 0, 1000), block("b", 0, hours(4), 900)}}, ""},
		{"nothing more", State{Closed: hours(20), All: true, Blocks: []Block{block("a", 1, 0, 1000)}}, ""},
		{"a month that is not over", State{Closed: 2 * day, Blocks: []Block{block("a", 1, 0, 1000), block("b", 1, day, 1000)}}, ""},
		{"a month that is not over, all that is possible", State{Closed: 2 * day, All: true, Blocks: []Block{block("a", 1, 0, 1000), block("b", 1, day, 1000)}}, "merge a b"},
		{"and what came since then", State{Closed: 2*day + hours(4), All: true, Blocks: []Block{block("a", 2, 0, 1000), block("b", 1, 2*day, 10)}}, "merge b a"},
		{"a day that is over", State{Closed: day, Blocks: []Block{block("a", 0, 0, 10), block("b", 0, hours(2), 10), block("c", 0, day, 10)}}, "merge a b"},
		{"a month that is over takes its days at once", State{Closed: 31 * day, Blocks: []Block{block("a", 0, 0, 10), block("b", 0, hours(2), 10), block("c", 1, 3*day, 20)}}, "merge a b c"},
		{"a small overlay stays", State{Closed: 31 * day, Blocks: []Block{block("a", 2, 0, 1000), block("b", 2, day, 10)}}, ""},
		{"overlays become one", State{Closed: 31 * day, Blocks: []Block{block("a", 2, 0, 1000), block("b", 2, day, 10), block("c", 2, day, 20)}}, "merge b c"},
		{"a fifth is worth it", State{Closed: 31 * day, Blocks: []Block{block("a", 2, 0, 1000), block("b", 2, day, 250)}}, "merge b a"},
		{"all that is possible", State{Closed: 31 * day, All: true, Blocks: []Block{block("a", 2, 0, 1000), block("b", 2, day, 10)}}, "merge b a"},
		{"but not too large", State{Closed: 31 * day, All: true, MaxBytes: 1000, Blocks: []Block{block("a", 2, 0, 1000), block("b", 2, day, 10)}}, ""},
	} {
		if c.state.MaxBytes == 0 {
			c.state.MaxBytes = 1 << 40
		}
		got := ""
		if j := Plan(c.state); j != nil {
			got = strings.TrimSpace(fmt.Sprint(j.Why, " ", strings.Join(append(slices.Clone(j.Sources), j.Settled...), " ")))
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestPlanEnds simulates a year of samples, some of them late, and looks how often each is written and how many blocks there are.
func TestPlanEnds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var blocks []Block
	var in, written int64
	n, most := 0, 0
	add := func(level int, from kemi.Millis, bytes int64) {
		n++
		written += bytes
		blocks = append(blocks, Block{ID: fmt.Sprint("b", n), Level: level, From: from, To: from + 1, Bytes: bytes})
	}
	for now := kemi.Millis(0); now < 365*day; now += hours(2) {
		in += 1000
		add(0, now, 1000)
		if rnd.IntN(4) == 0 && now > 0 { // late, by anything
			late := kemi.Millis(rnd.Int64N(int64(now)))
			in += 5
			add(slotOf(late, now).Level, slotOf(late, now).From, 5)
		}
		for jobs := 0; ; jobs++ {
			j := Plan(State{Blocks: blocks, Closed: now, MaxBytes: 1 << 40})
			if j == nil {
				break
			}
			if jobs > 1000 {
				t.Fatal("it does not end")
			}
			var bytes int64
			from := kemi.Millis(0)
			blocks = slices.DeleteFunc(blocks, func(b Block) bool {
				if !slices.Contains(j.Settled, b.ID) {
					return false
				}
				bytes += b.Bytes
				from = b.From
				return true
			})
			s := slotAt(j.Level, from)
			add(s.Level, s.From, bytes)
		}
		most = max(most, len(blocks))
	}
	amplification := float64(written) / float64(in)
	t.Logf("written %.2f times, at most %d blocks", amplification, most)
	if amplification > 4.2 {
		t.Errorf("each byte is written %.2f times", amplification)
	}
	if most > 12+30+12+12*maxOverlays {
		t.Errorf("%d blocks", most)
	}
}

func TestRules(t *testing.T) {
	for _, c := range []struct{ selector, want string }{
		{`{env="dev"}`, ""},
		{`up`, ""},
		{`{env="dev"`, "retention[0].selector"},
		{``, "retention[0].selector"},
	} {
		cfg := DefaultConfig()
		cfg.Dir, cfg.Retention = "x", []Rule{{Selector: c.selector, Keep: 7 * 24 * 3600e9}}
		err := cfg.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.selector, err)
		}
	}
	cfg := DefaultConfig()
	cfg.Dir, cfg.Retention = "x", []Rule{{Selector: "up", Keep: 1e9}}
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "at least 6h") {
		t.Error(err)
	}
}
