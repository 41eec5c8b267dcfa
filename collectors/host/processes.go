package host

import (
	"bytes"
	"cmp"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"kemi"
)

const (
	// maxProcesses is how many processes are looked at; each costs some ten microseconds.
	maxProcesses = 8192
	// topProcesses is how many names are told by processor time, and as many by memory.
	topProcesses = 10
)

// processes measures how many there are, in which states, and which programs use most. Processes of one name count together, so
// that the number of series stays small whatever comes and goes.
type processes struct {
	c       *Collector
	dir     string
	states  map[byte]*stateCount
	order   []byte
	count   kemi.Labels
	threads kemi.Labels
	skipped kemi.Labels
	last    map[int]spent
	groups  keyed[group]
	ranked  []*group
	path    []byte
	buf     []byte
}

type stateCount struct {
	series kemi.Labels
	n      int
}

type spent struct{ start, ticks, round uint64 }

type group struct {
	usage, memory, count kemi.Labels
	round                uint64
	ticks, pages         uint64
	n                    int
	told                 bool
}

func newProcesses(c *Collector) *processes {
	a := &processes{
		c: c, dir: c.o.Proc, states: map[byte]*stateCount{}, last: map[int]spent{}, buf: make([]byte, 2048), count: c.series("data.processes.count"),
		threads: c.series("data.processes.threads"), skipped: c.series("data.processes.not_looked_at"), order: []byte("RSDTZIOX"),
	}
	for i, name := range []string{"running", "sleeping", "waiting", "stopped", "zombie", "idle", "other", "dead"} {
		a.states[a.order[i]] = &stateCount{series: c.series("data.processes.state", "state", name)}
	}
	return a
}

func (a *processes) newGroup(name string) group {
	return group{
		usage: a.c.series("data.process.cpu_usage", "process", name), memory: a.c.series("data.process.memory_bytes", "process", name),
		count: a.c.series("data.process.count", "process", name),
	}
}

func (a *processes) collect(r *round) error {
	d, err := os.Open(a.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	pids, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, s := range a.states {
		s.n = 0
	}
	a.ranked = a.ranked[:0]
	count, looked, threads := 0, 0, uint64(0)
	for _, name := range pids {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if count++; count > maxProcesses {
			continue
		}
		p, ok := a.look(int(d.Fd()), name)
		if !ok {
			continue // it ended meanwhile
		}
		looked++
		threads += p.threads
		a.state(p.state).n++
		g, _ := a.groups.get(r, groupName(p), a.newGroup)
		if g.round != r.n {
			*g = group{usage: g.usage, memory: g.memory, count: g.count, round: r.n}
			a.ranked = append(a.ranked, g)
		}
		g.n++
		g.pages += p.pages
		// A process that began since the last round has spent all its time in this one.
		before, known := a.last[pid]
		if !known || before.start != p.start {
			before.ticks = 0
		}
		g.ticks += p.ticks - min(p.ticks, before.ticks)
		a.last[pid] = spent{p.start, p.ticks, r.n}
	}
	for pid, s := range a.last {
		if s.round != r.n {
			delete(a.last, pid)
		}
	}
	a.groups.forget(r)

	r.emit(a.count, float64(count))
	r.emit(a.threads, float64(threads))
	r.emit(a.skipped, float64(max(0, count-maxProcesses)))
	for _, s := range a.order {
		r.emit(a.states[s].series, float64(a.states[s].n))
	}
	if r.elapsed > 0 {
		a.top(r, func(x, y *group) int { return cmp.Compare(y.ticks, x.ticks) }, func(g *group) bool { return g.ticks > 0 })
	}
	a.top(r, func(x, y *group) int { return cmp.Compare(y.pages, x.pages) }, func(g *group) bool { return g.pages > 0 })
	return nil
}

// top tells the first groups in the order of compare that it has not told yet in this round.
func (a *processes) top(r *round, compare func(x, y *group) int, worth func(*group) bool) {
	slices.SortFunc(a.ranked, compare)
	for _, g := range a.ranked[:min(topProcesses, len(a.ranked))] {
		if g.told || !worth(g) {
			continue
		}
		g.told = true
		if r.elapsed > 0 {
			r.emit(g.usage, float64(g.ticks)*100/ticksPerSecond/r.elapsed)
		}
		r.emit(g.memory, float64(g.pages)*float64(pageSize))
		r.emit(g.count, float64(g.n))
	}
}

func (a *processes) state(c byte) *stateCount {
	switch c {
	case 't': // stopped by a debugger
		c = 'T'
	case 'x':
		c = 'X'
	}
	if s, ok := a.states[c]; ok {
		return s
	}
	return a.states['O']
}

// look reads the stat file of one process, relative to the open folder.
func (a *processes) look(dir int, pid string) (process, bool) {
	a.path = append(append(a.path[:0], pid...), "/stat"...)
	fd, err := unix.Openat(dir, string(a.path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return process{}, false
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, a.buf)
	if err != nil || n <= 0 {
		return process{}, false
	}
	return parseProcess(a.buf[:n])
}

// groupName is the name under which a process counts. The kernel gives its threads names with the processor and the work of
// the moment: "kworker/3:1-events", "ksoftirqd/0".
func groupName(p process) []byte {
	if p.kernel {
		if i := bytes.IndexAny(p.name, "/:"); i > 0 {
			return p.name[:i]
		}
	}
	if len(p.name) == 0 {
		return []byte("?")
	}
	return p.name
}
