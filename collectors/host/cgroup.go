package host

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kemi"
)

const (
	// maxCgroups bounds the series of cgroups, and what reading them costs.
	maxCgroups = 200
	// maxDepth is how deep containers lie: kubepods.slice/kubepods-burstable.slice/kubepods-…-pod….slice/cri-containerd-….scope.
	maxDepth = 8
	// cgroupsEvery is in how many rounds the tree is walked for new ones.
	cgroupsEvery = 3
)

// cgroups measures services and containers from the unified hierarchy (cgroup v2).
type cgroups struct {
	c     *Collector
	root  string
	paths []string
	known keyed[cgroup]
}

type cgroup struct {
	dir                              string
	usage, seconds, periods, delayed kemi.Labels
	delayedSeconds                   kemi.Labels
	memory, working, limit, swap     kemi.Labels
	oom                              kemi.Labels
	read, written, reads, writes     kemi.Labels
	pids                             kemi.Labels
	pressure                         [3]kemi.Labels
	last                             float64 // seconds of processor time
}

func newCgroups(c *Collector) *cgroups {
	return &cgroups{c: c, root: filepath.Join(c.o.Sys, "fs/cgroup")}
}

// containerID finds the identifier that Docker, containerd, CRI-O and Podman put into the name.
var containerID = regexp.MustCompile(`(?:^|[-:/.])([0-9a-f]{64})(?:\.scope)?$`)

func (a *cgroups) newCgroup(path string) cgroup {
	pairs := []string{"cgroup", path}
	if m := containerID.FindStringSubmatch(path); m != nil {
		pairs = append(pairs, "container", m[1][:12])
	}
	s := func(metric string) kemi.Labels { return a.c.series("data.cgroup."+metric, pairs...) }
	g := cgroup{
		dir: a.root + path, usage: s("cpu_usage"), seconds: s("cpu_seconds_total"), periods: s("cpu_periods_total"), delayed: s("cpu_throttled_periods_total"),
		delayedSeconds: s("cpu_throttled_seconds_total"), memory: s("memory_bytes"), working: s("memory_working_set_bytes"), limit: s("memory_limit_bytes"),
		swap: s("swap_bytes"), oom: s("oom_kills_total"), read: s("read_bytes_total"), written: s("written_bytes_total"), reads: s("reads_total"),
		writes: s("writes_total"), pids: s("pids"),
	}
	for i, resource := range pressureFiles {
		g.pressure[i] = a.c.series("data.cgroup.stall_seconds_total", append(pairs, "resource", resource)...)
	}
	return g
}

var pressureFiles = [3]string{"cpu", "memory", "io"}

func (a *cgroups) collect(r *round) error {
	if _, err := os.Stat(a.root + "/cgroup.controllers"); err != nil {
		return err // cgroup v1
	}
	if (r.n-1)%cgroupsEvery == 0 {
		a.paths = a.paths[:0]
		if err := a.walk("", 0); err != nil {
			return err
		}
	}
	for _, path := range a.paths {
		g, first := a.known.get(r, []byte(path), a.newCgroup)
		g.collect(r, first)
	}
	a.known.forget(r)
	return nil
}

// walk finds the cgroups that stand for a service or a container. What lies within one is part of it.
func (a *cgroups) walk(path string, depth int) error {
	entries, err := os.ReadDir(a.root + path)
	if err != nil {
		if depth > 0 && errors.Is(err, fs.ErrNotExist) {
			return nil // it ended meanwhile
		}
		return err
	}
	if depth == 0 && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == "memory.current" }) {
		a.paths = append(a.paths, "/") // the root of a container's own view
	}
	for _, e := range entries {
		if !e.IsDir() || len(a.paths) >= maxCgroups {
			continue
		}
		sub := path + "/" + e.Name()
		if isUnit(path, e.Name()) {
			a.paths = append(a.paths, sub)
			continue
		}
		if depth < maxDepth {
			if err := a.walk(sub, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func isUnit(parent, name string) bool {
	switch parent {
	case "/docker", "/lxc", "/machine", "/machine.slice", "/libpod_parent":
		return true
	}
	return strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope") || containerID.MatchString(name)
}

// collect reads the files of one cgroup; a controller that is not enabled has none.
func (g *cgroup) collect(r *round, first bool) {
	if b, err := r.files.readPath(g.dir + "/cpu.stat"); err == nil {
		each(b, func(name []byte, v float64) {
			switch string(name) {
			case "usage_usec":
				r.emit(g.seconds, v/1e6)
				if !first && r.elapsed > 0 && v/1e6 >= g.last {
					r.emit(g.usage, 100*(v/1e6-g.last)/r.elapsed)
				}
				g.last = v / 1e6
			case "nr_periods":
				r.emit(g.periods, v)
			case "nr_throttled":
				r.emit(g.delayed, v)
			case "throttled_usec":
				r.emit(g.delayedSeconds, v/1e6)
			}
		})
	}
	g.collectMemory(r)
	if b, err := r.files.readPath(g.dir + "/io.stat"); err == nil {
		var sums [4]float64
		for len(b) > 0 {
			var l []byte
			l, b = line(b)
			for _, l = field(l); len(l) > 0; {
				var f []byte
				f, l = field(l)
				name, value, _ := bytes.Cut(f, []byte{'='})
				v, ok := natural(value)
				if i := slices.Index(ioNames, string(name)); ok && i >= 0 {
					sums[i] += float64(v)
				}
			}
		}
		for i, s := range []kemi.Labels{g.read, g.written, g.reads, g.writes} {
			r.emit(s, sums[i])
		}
	}
	single(r, g.dir+"/pids.current", g.pids)
	for i, resource := range pressureFiles {
		b, err := r.files.readPath(g.dir + "/" + resource + ".pressure")
		if err != nil {
			continue
		}
		b, _ = line(b)
		if p, ok := parsePressure(b); ok && string(p.kind) == "some" {
			r.emit(g.pressure[i], p.total/1e6)
		}
	}
}

var ioNames = []string{"rbytes", "wbytes", "rios", "wios"}

func (g *cgroup) collectMemory(r *round) {
	current, ok := single(r, g.dir+"/memory.current", g.memory)
	if !ok {
		return
	}
	single(r, g.dir+"/memory.max", g.limit) // "max" is not a number: no limit, no sample
	single(r, g.dir+"/memory.swap.current", g.swap)
	if b, err := r.files.readPath(g.dir + "/memory.stat"); err == nil {
		each(b, func(name []byte, v float64) {
			if string(name) == "inactive_file" {
				r.emit(g.working, max(0, current-v))
			}
		})
	}
	if b, err := r.files.readPath(g.dir + "/memory.events"); err == nil {
		each(b, func(name []byte, v float64) {
			if string(name) == "oom_kill" {
				r.emit(g.oom, v)
			}
		})
	}
}

// single emits the number that a file holds.
func single(r *round, path string, s kemi.Labels) (float64, bool) {
	b, err := r.files.readPath(path)
	if err != nil {
		return 0, false
	}
	b, _ = line(b)
	n, ok := natural(b)
	if ok {
		r.emit(s, float64(n))
	}
	return float64(n), ok
}

// each passes the lines "name number" of b to f.
func each(b []byte, f func(name []byte, v float64)) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := field(l)
		value, _ := field(rest)
		if v, ok := natural(value); ok {
			f(name, float64(v))
		}
	}
}
