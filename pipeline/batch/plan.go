package batch

import (
	"cmp"
	"slices"
	"time"

	"kemi"
)

// Block is what the manifest says of a settled block.
type Block struct {
	ID      string      `json:"id"`    // its name below the folder
	Level   int         `json:"level"` // of the slot that it lies in
	From    kemi.Millis `json:"from"`  // of its first sample
	To      kemi.Millis `json:"to"`    // after its last
	Series  int64       `json:"series"`
	Samples int64       `json:"samples"`
	Bytes   int64       `json:"bytes"`
	// Sequence is the manifest in which it first stands. Applied is the last deletion that it needs no more: it was made after that one, or has
	// nothing of it.
	Sequence uint64 `json:"sequence"`
	Applied  uint64 `json:"applied"`
	// At is when it was written, or last found to hold nothing that a rule of retention takes away.
	At kemi.Millis `json:"at"`
}

// Range is the block's as a range.
func (b *Block) Range() kemi.Range { return kemi.Range{From: b.From, To: b.To} }

// Source is a block of the live store that waits to be settled.
type Source struct {
	ID    string
	Range kemi.Range
	Late  bool
	Bytes int64
}

// Levels are the widths of the slots that time is cut into. A block lies in one slot. What is written of now is small and soon
// merged; what is old lies in few large blocks. The widths are multiples of the widest rollup.
var Levels = []kemi.Millis{hours(2), hours(24), hours(30 * 24)}

func hours(n int) kemi.Millis { return kemi.Millis(n) * kemi.Millis(time.Hour/time.Millisecond) }

// Slot is a span of time on a level.
type Slot struct {
	Level int
	From  kemi.Millis
}

// To is where the slot ends.
func (s Slot) To() kemi.Millis { return s.From + Levels[s.Level] }

func slotAt(level int, t kemi.Millis) Slot {
	return Slot{level, floor(t, Levels[level])}
}

// floor is t rounded down to a multiple of span.
func floor(t, span kemi.Millis) kemi.Millis {
	r := t % span
	if r < 0 {
		r += span
	}
	return t - r
}

// slotOf is the slot that a sample goes to: the widest one that is over.
func slotOf(t, closed kemi.Millis) Slot {
	for level := len(Levels) - 1; level > 0; level-- {
		if s := slotAt(level, t); s.To() <= closed {
			return s
		}
	}
	return slotAt(0, t)
}

// slot is where the block lies.
func (b *Block) slot() Slot { return slotAt(b.Level, b.From) }

// Job is one step of the batch layer: blocks that are read, merged, and written anew, cut into slots. Its result goes into the manifest at once.
type Job struct {
	Settled []string // blocks that it replaces
	Sources []string // blocks of the live store that it replaces
	Closed  kemi.Millis
	Level   int // of the slot that the result lies in, or ofAge
	Why     string
}

// ofAge is the Level of a job whose samples go to the widest slot each that is over.
const ofAge = -1

// State is what a plan is made from.
type State struct {
	Blocks   []Block
	Sources  []Source
	Closed   kemi.Millis // up to where the live data is written: a slot that ends before is over
	Rewrite  []string    // settled blocks that have something deleted, or that is out of retention
	All      bool        // merge whatever can be merged, however little it gives
	MaxBytes int64       // of a block that is the result of a merge
}

// Plan is the next job, or nil. First what waits is settled: samples in order with what lies in their slots only if that is small, so that each
// sample is written few times. Then blocks are merged.
func Plan(s State) *Job {
	if len(s.Sources) > 0 {
		j := &Job{Closed: s.Closed, Level: ofAge, Why: "settle"}
		for _, x := range s.Sources {
			j.Sources = append(j.Sources, x.ID)
		}
		return j
	}
	if len(s.Rewrite) > 0 {
		j := &Job{Settled: s.Rewrite[:1], Closed: s.Closed, Level: ofAge, Why: "rewrite"}
		for _, b := range s.Blocks {
			if b.ID == s.Rewrite[0] {
				j.Level = b.Level
			}
		}
		return j
	}
	return merge(s)
}

// overlayShare is how much smaller the others in a slot may be, all together, before they are merged with a large one: so a sample
// is written again only when the block that it is in grows by a fifth or more.
const overlayShare = 4

// maxOverlays is how many blocks may lie in a slot that is over.
const maxOverlays = 8

// merge looks for the slot with the most to gain: lower slots first, as their blocks are the smallest. Blocks stay in their hours until the day is over, and in their day
// until the month is, unless all that is possible is asked for: else they would be written again and again.
func merge(s State) *Job {
	bySlot := map[Slot][]Block{}
	for _, b := range s.Blocks {
		for level := b.Level; level < len(Levels); level++ {
			slot := slotAt(level, b.From)
			if level > b.Level && slot.To() > s.Closed && !s.All {
				break
			}
			bySlot[slot] = append(bySlot[slot], b)
		}
	}
	slots := make([]Slot, 0, len(bySlot))
	for slot := range bySlot {
		slots = append(slots, slot)
	}
	slices.SortFunc(slots, func(a, b Slot) int { return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.From, b.From)) })
	for _, slot := range slots {
		if slot.Level+1 < len(Levels) && slotAt(slot.Level+1, slot.From).To() <= s.Closed {
			continue // the wider slot takes them all at once
		}
		if ids := choose(slot, bySlot[slot], s); len(ids) > 0 {
			return &Job{Settled: ids, Closed: s.Closed, Level: slot.Level, Why: "merge"}
		}
	}
	return nil
}

// choose are the blocks of a slot that are to become one.
func choose(slot Slot, in []Block, s State) []string {
	slices.SortFunc(in, func(a, b Block) int { return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.ID, b.ID)) })
	below := 0
	for _, b := range in {
		if b.Level < slot.Level {
			below++
		}
	}
	take := 0
	sum := int64(0)
	for i, b := range in {
		if sum+b.Bytes > s.MaxBytes {
			break
		}
		if i > 0 && (s.All || len(in) > maxOverlays && i < len(in)-1 || b.Bytes <= overlayShare*sum) {
			take = i + 1
		}
		sum += b.Bytes
	}
	switch {
	case take >= 2:
	case below > 0 && len(in) == 1:
		take = 1 // it rises to the slot by itself: what is merged with it later is fewer blocks
		if slot.Level == len(Levels)-1 || !s.All {
			take = 0
		}
	}
	ids := make([]string, 0, take)
	for _, b := range in[:take] {
		ids = append(ids, b.ID)
	}
	return ids
}
