package app

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"

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
