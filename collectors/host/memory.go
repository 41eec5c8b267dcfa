package host

import (
	"bytes"
	"errors"
	"io/fs"

	"kemi"
)

// memory measures /proc/meminfo.
type memory struct {
	path                    string
	direct                  map[string]kemi.Labels // by the kernel's name
	used, usage             kemi.Labels
	swapUsed, swapUsage     kemi.Labels
	total, free, available  *uint64
	swapTotal, swapFree     *uint64
	buffers, cached, reclam *uint64
	seen                    map[string]*uint64
}

func newMemory(c *Collector) *memory {
	a := &memory{
		path: c.o.Proc + "/meminfo", used: c.series("data.memory.used_bytes"), usage: c.series("data.memory.usage"),
		swapUsed: c.series("data.swap.used_bytes"), swapUsage: c.series("data.swap.usage"),
		direct: map[string]kemi.Labels{}, seen: map[string]*uint64{},
	}
	for kernel, metric := range map[string]string{
		"MemTotal": "memory.total_bytes", "MemFree": "memory.free_bytes", "MemAvailable": "memory.available_bytes", "Buffers": "memory.buffers_bytes",
		"Cached": "memory.cached_bytes", "Active": "memory.active_bytes", "Inactive": "memory.inactive_bytes", "AnonPages": "memory.anonymous_bytes",
		"Mapped": "memory.mapped_bytes", "Shmem": "memory.shared_bytes", "Slab": "memory.slab_bytes", "SReclaimable": "memory.slab_reclaimable_bytes",
		"PageTables": "memory.page_tables_bytes", "KernelStack": "memory.kernel_stack_bytes", "Dirty": "memory.dirty_bytes", "Writeback": "memory.writeback_bytes",
		"Committed_AS": "memory.committed_bytes", "CommitLimit": "memory.commit_limit_bytes", "Unevictable": "memory.unevictable_bytes",
		"SwapTotal": "swap.total_bytes", "SwapFree": "swap.free_bytes", "SwapCached": "swap.cached_bytes",
	} {
		a.direct[kernel] = c.series("data." + metric)
		a.seen[kernel] = new(uint64)
	}
	a.total, a.free, a.available = a.seen["MemTotal"], a.seen["MemFree"], a.seen["MemAvailable"]
	a.swapTotal, a.swapFree = a.seen["SwapTotal"], a.seen["SwapFree"]
	a.buffers, a.cached, a.reclam = a.seen["Buffers"], a.seen["Cached"], a.seen["SReclaimable"]
	return a
}

func (a *memory) collect(r *round) error {
	b, err := r.files.readPath(a.path)
	if err != nil {
		return err
	}
	for _, v := range a.seen {
		*v = 0
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest, ok := bytes.Cut(l, []byte{':'})
		s, wanted := a.direct[string(name)]
		if !ok || !wanted {
			continue
		}
		n, rest := nextNatural(rest)
		if unit, _ := field(rest); string(unit) == "kB" {
			n <<= 10
		}
		*a.seen[string(name)] = n
		r.emit(s, float64(n))
	}
	available := *a.available
	if available == 0 { // kernels before 3.14
		available = *a.free + *a.buffers + *a.cached + *a.reclam
	}
	if t := *a.total; t > 0 {
		used := t - min(t, available)
		r.emit(a.used, float64(used))
		r.emit(a.usage, 100*float64(used)/float64(t))
	}
	used := *a.swapTotal - min(*a.swapTotal, *a.swapFree)
	r.emit(a.swapUsed, float64(used))
	if t := *a.swapTotal; t > 0 {
		r.emit(a.swapUsage, 100*float64(used)/float64(t))
	} else {
		r.emit(a.swapUsage, 0)
	}
	return nil
}

// paging measures /proc/vmstat.
type paging struct {
	path   string
	wanted map[string]scaled
}

type scaled struct {
	series kemi.Labels
	factor float64
}

func newPaging(c *Collector) *paging {
	page := float64(pageSize)
	return &paging{path: c.o.Proc + "/vmstat", wanted: map[string]scaled{
		"pgpgin":     {c.series("data.memory.paged_in_bytes_total"), 1024},
		"pgpgout":    {c.series("data.memory.paged_out_bytes_total"), 1024},
		"pgfault":    {c.series("data.memory.faults_total"), 1},
		"pgmajfault": {c.series("data.memory.major_faults_total"), 1},
		"oom_kill":   {c.series("data.memory.oom_kills_total"), 1},
		"pswpin":     {c.series("data.swap.in_bytes_total"), page},
		"pswpout":    {c.series("data.swap.out_bytes_total"), page},
	}}
}

func (a *paging) collect(r *round) error {
	b, err := r.files.readPath(a.path)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := field(l)
		if s, ok := a.wanted[string(name)]; ok {
			n, _ := nextNatural(rest)
			r.emit(s.series, float64(n)*s.factor)
		}
	}
	return nil
}

// pressure measures how long work waits for a resource (PSI).
type pressure struct {
	dir   string
	kinds []pressureKind
}

type pressureKind struct {
	resource, kind string
	series         []kemi.Labels
}

func newPressure(c *Collector) *pressure {
	a := &pressure{dir: c.o.Proc + "/pressure/"}
	for _, resource := range []string{"cpu", "memory", "io", "irq"} {
		for _, kind := range []string{"some", "full"} {
			a.kinds = append(a.kinds, pressureKind{resource, kind,
				c.several("data.pressure.", []string{"avg_10s", "avg_60s", "avg_300s", "stall_seconds_total"}, "resource", resource, "kind", kind)})
		}
	}
	return a
}

func (a *pressure) collect(r *round) error {
	var b []byte
	last, missing := "", 0
	for _, k := range a.kinds {
		if k.resource != last {
			last = k.resource
			var err error
			if b, err = r.files.readPath(a.dir + k.resource); err != nil {
				// irq exists in some kernels only; a kernel booted with psi=0 has the files and refuses to read them.
				if missing++; missing == 4 {
					return errors.Join(errors.ErrUnsupported, err)
				}
				if !errors.Is(err, fs.ErrNotExist) && !unsupported(err) {
					return err
				}
				b = nil
			}
		}
		for rest := b; len(rest) > 0; {
			var l []byte
			l, rest = line(rest)
			if p, ok := parsePressure(l); ok && string(p.kind) == k.kind {
				for i, v := range []float64{p.avg10, p.avg60, p.avg300, p.total / 1e6} {
					r.emit(k.series[i], v)
				}
			}
		}
	}
	return nil
}
