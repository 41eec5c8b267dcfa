package app

import (
	"bufio"
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// memoryLimit is the bytes that s asks for: "4GiB", "512MB", or a share such as "60%" of what the cgroup or the machine has.
func memoryLimit(s string) (int64, error) {
	bad := func() (int64, error) {
		return 0, kemi.Errorf(kemi.ErrInvalid, "memory: %q is neither a size such as 4GiB nor a share such as 60%%", s)
	}
	if share, ok := strings.CutSuffix(s, "%"); ok {
		p, err := strconv.ParseFloat(share, 64)
		if err != nil || p <= 0 || p > 100 {
			return bad()
		}
		return int64(float64(availableMemory()) * p / 100), nil
	}
	for _, u := range []struct {
		suffix string
		size   float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}} {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
			if err != nil || v*u.size < 64<<20 {
				return bad()
			}
			return int64(v * u.size), nil
		}
	}
	return bad()
}

// The collector runs when the heap has grown by a share of what was alive after the last time: 100 % by default. For a small heap that is too often, and for
// a large one too much memory: a gigabyte of series would be two. So the share follows the size: there is always room for minGarbage, and for a
// large heap a share of settledShare, or growingShare as long as most of what is new stays: collecting finds little then. Near the limit of the
// memory the runtime collects more often by itself.
//
// What questions leave dies with them, and to collect it costs a look at every series: while there are questions, there is room for askedGarbage. Else a
// third of what a question costs would be its share of a collection.
const (
	minGarbage   = 96 << 20
	askedGarbage = 320 << 20
	settledShare = 20 // per cent
	growingShare = 33
	maxShare     = 400
	// growth is by how much per cent more must be alive than the time before, for a heap that grows.
	growth = 12
	// growsFor is how long a heap that is not collected counts as growing after that.
	growsFor = 3 * time.Second
	// asksFor is how long after a question there are questions.
	asksFor = 2 * time.Second
)

// collector decides how large the heap may become.
type collector struct {
	cycles, live uint64
	growing      bool
	since        time.Time // of the last collection
	entered      uint64    // questions so far
	asked        time.Time // when the last one had come
	limit        int64     // of the memory
}

// percent is the share of garbage, given how many collections there have been, what was alive after the last, and how many questions have come.
func (c *collector) percent(cycles, live, entered uint64, now time.Time) int {
	switch {
	case cycles != c.cycles:
		c.growing = live*100 > c.live*(100+growth)
		c.cycles, c.live, c.since = cycles, live, now
	case now.Sub(c.since) > growsFor:
		c.growing = false
	}
	share := uint64(settledShare)
	if c.growing {
		share = growingShare
	}
	if entered != c.entered {
		c.entered, c.asked = entered, now
	}
	room := uint64(minGarbage)
	if !c.asked.IsZero() && now.Sub(c.asked) <= asksFor {
		room = max(room, min(askedGarbage, uint64(c.limit)/8))
	}
	return int(max(share, min(maxShare, room*100/max(live, 1))))
}

// tuneGC keeps the share as it should be until ctx ends. entered counts questions.
func tuneGC(ctx context.Context, entered func() uint64) {
	samples := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	c := collector{limit: debug.SetMemoryLimit(-1)}
	now := 0
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	for {
		metrics.Read(samples)
		if cycles, live := samples[0].Value, samples[1].Value; cycles.Kind() == metrics.KindUint64 && live.Kind() == metrics.KindUint64 {
			if p := c.percent(cycles.Uint64(), live.Uint64(), entered(), time.Now()); p != now {
				now = p
				debug.SetGCPercent(p)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// availableMemory is the memory that this process may have: the least of the machine's and its cgroup's limits.
func availableMemory() int64 {
	limit := int64(math.MaxInt64)
	if f, err := os.Open("/proc/meminfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if w := strings.Fields(s.Text()); len(w) >= 2 && w[0] == "MemTotal:" {
				if kb, err := strconv.ParseInt(w[1], 10, 64); err == nil {
					limit = kb << 10
				}
			}
		}
	}
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	if limit == math.MaxInt64 {
		return 4 << 30
	}
	return limit
}
