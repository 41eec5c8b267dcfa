package host

import (
	"bytes"

	"kemi"
)

func indexNewline(b []byte) int { return bytes.IndexByte(b, '\n') }

// ticksPerSecond is USER_HZ, which is 100 on every platform that Linux still supports.
const ticksPerSecond = 100

// cpu measures /proc/stat.
type cpu struct {
	c            *Collector
	path         string
	usage, count kemi.Labels
	guest        kemi.Labels
	modes        [len(cpuModes)]kemi.Labels
	cores        keyed[core]
	last         cpuTimes
	counters     map[string]kemi.Labels
}

type core struct {
	usage   kemi.Labels
	seconds [len(cpuModes)]kemi.Labels
	last    cpuTimes
}

func newCPU(c *Collector) *cpu {
	a := &cpu{
		c: c, path: c.o.Proc + "/stat", usage: c.series("data.cpu.usage"), count: c.series("data.cpu.count"), guest: c.series("data.cpu.guest_seconds_total"),
		counters: map[string]kemi.Labels{
			"ctxt":          c.series("data.system.context_switches_total"),
			"intr":          c.series("data.system.interrupts_total"),
			"processes":     c.series("data.system.forks_total"),
			"btime":         c.series("data.system.boot_time_seconds"),
			"procs_running": c.series("data.processes.running"),
			"procs_blocked": c.series("data.processes.blocked"),
		},
	}
	for i, m := range cpuModes {
		a.modes[i] = c.series("data.cpu.mode_usage", "mode", m)
	}
	return a
}

func (a *cpu) newCore(name string) core {
	k := core{usage: a.c.series("data.cpu.core_usage", "cpu", name)}
	for i, m := range cpuModes {
		k.seconds[i] = a.c.series("data.cpu.seconds_total", "cpu", name, "mode", m)
	}
	return k
}

func (a *cpu) collect(r *round) error {
	b, err := r.files.readPath(a.path)
	if err != nil {
		return err
	}
	cores := 0
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := field(l)
		number, isCPU := bytes.CutPrefix(name, []byte("cpu"))
		switch {
		case isCPU && len(number) == 0:
			a.total(r, parseCPU(rest))
		case isCPU:
			cores++
			t := parseCPU(rest)
			k, first := a.cores.get(r, number, a.newCore)
			for i := range t.modes {
				r.emit(k.seconds[i], float64(t.modes[i])/ticksPerSecond)
			}
			if shares, ok := t.since(k.last); ok && !first {
				r.emit(k.usage, busy(shares))
			}
			k.last = t
		default:
			if s, ok := a.counters[string(name)]; ok {
				if v, _ := field(rest); len(v) > 0 {
					n, _ := natural(v)
					r.emit(s, float64(n))
				}
			}
		}
	}
	a.cores.forget(r)
	r.emit(a.count, float64(cores))
	return nil
}

func (a *cpu) total(r *round, t cpuTimes) {
	r.emit(a.guest, float64(t.guest)/ticksPerSecond)
	if shares, ok := t.since(a.last); ok && a.last != (cpuTimes{}) {
		r.emit(a.usage, busy(shares))
		for i, s := range shares {
			r.emit(a.modes[i], s)
		}
	}
	a.last = t
}

// since is the share of each mode in the time since last, in percent. The kernel's idle and iowait may step back a little: that
// counts as nothing.
func (t cpuTimes) since(last cpuTimes) (shares [len(cpuModes)]float64, ok bool) {
	var sum float64
	for i := range t.modes {
		if t.modes[i] > last.modes[i] {
			shares[i] = float64(t.modes[i] - last.modes[i])
			sum += shares[i]
		}
	}
	if sum == 0 {
		return shares, false
	}
	for i := range shares {
		shares[i] *= 100 / sum
	}
	return shares, true
}

func busy(shares [len(cpuModes)]float64) float64 {
	return max(0, 100-shares[modeIdle]-shares[modeIowait])
}

// load measures /proc/loadavg.
type load struct {
	path            string
	averages        []kemi.Labels
	threads, active kemi.Labels
}

func newLoad(c *Collector) *load {
	return &load{
		path: c.o.Proc + "/loadavg", averages: c.several("data.load.", []string{"avg_1m", "avg_5m", "avg_15m"}),
		active: c.series("data.load.running_threads"), threads: c.series("data.load.threads"),
	}
}

func (a *load) collect(r *round) error {
	b, err := r.files.readPath(a.path)
	if err != nil {
		return err
	}
	b, _ = line(b)
	var f []byte
	for _, s := range a.averages {
		f, b = field(b)
		if v, ok := number(f); ok {
			r.emit(s, v)
		}
	}
	f, _ = field(b)
	active, threads, _ := bytes.Cut(f, []byte{'/'})
	if n, ok := natural(active); ok {
		r.emit(a.active, float64(n))
	}
	if n, ok := natural(threads); ok {
		r.emit(a.threads, float64(n))
	}
	return nil
}

// system measures the uptime and the open files.
type system struct {
	uptime, files, entropy string
	up, open, most, bits   kemi.Labels
}

func newSystem(c *Collector) *system {
	return &system{
		uptime: c.o.Proc + "/uptime", files: c.o.Proc + "/sys/fs/file-nr", entropy: c.o.Proc + "/sys/kernel/random/entropy_avail",
		up: c.series("data.system.uptime_seconds"), open: c.series("data.fds.open"), most: c.series("data.fds.max"), bits: c.series("data.system.entropy_bits"),
	}
}

func (a *system) collect(r *round) error {
	b, err := r.files.readPath(a.uptime)
	if err != nil {
		return err
	}
	f, _ := field(b)
	if v, ok := number(f); ok {
		r.emit(a.up, v)
	}
	if b, err = r.files.readPath(a.entropy); err == nil {
		b, _ = line(b)
		if n, ok := natural(b); ok {
			r.emit(a.bits, float64(n))
		}
	}
	if b, err = r.files.readPath(a.files); err != nil {
		return err
	}
	b, _ = line(b)
	open, b := nextNatural(b)
	most, _ := nextNatural(skip(b, 1))
	r.emit(a.open, float64(open))
	if most < 1<<62 { // the kernel's "no limit" says nothing
		r.emit(a.most, float64(most))
	}
	return nil
}
