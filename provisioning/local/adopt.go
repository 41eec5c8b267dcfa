package local

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kemi"
	"kemi/provisioning/autoscale"
)

// found is an instance that runs, as its note or its environment tells.
type found struct {
	note
	adopted bool
}

// adopt takes over the instances that run: those that are noted with their process id and start time, and those that were started but not yet
// noted when the server before crashed, which carry the marks and lead their session. What else carries the marks of an instance that has
// ended is killed.
func (d *Driver) adopt() error {
	instances := map[string]*found{}
	if err := d.readNotes(instances); err != nil {
		return err
	}
	type stray struct {
		pid   int
		marks map[string]string
	}
	var strays []stray
	if err := marked(d.id, func(pid int, m map[string]string) { strays = append(strays, stray{pid, m}) }); err != nil {
		return err
	}
	slices.SortFunc(strays, func(a, b stray) int { return a.pid - b.pid })
	for _, x := range strays {
		id := x.marks[markInstance]
		s, err := readStat(x.pid)
		project, group, ok := strings.Cut(x.marks[markGroup], "/")
		if err != nil || s.state == 'Z' || instances[id] != nil || s.session != x.pid || !ok || id == "" || filepath.Base(id) != id {
			continue
		}
		instances[id] = &found{note: note{Project: project, Group: group, Instance: id, PID: x.pid, Start: s.start, Boot: d.boot, Digest: x.marks[markConfig], Started: kemi.MillisOf(d.o.Now())}}
	}
	for _, f := range instances {
		d.takeOver(f)
	}
	for _, x := range strays {
		if f := instances[x.marks[markInstance]]; f == nil || !f.adopted {
			d.o.Log.Warn("killing what an ended instance left behind", "pid", x.pid, "group", x.marks[markGroup], "instance", x.marks[markInstance])
			if err := killMarked(d.id, x.marks[markInstance]); err != nil {
				return err
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pools {
		slices.SortFunc(p.slots, func(a, b *slot) int { return strings.Compare(a.ID, b.ID) }) // in order of age, as ids are
		for _, s := range p.slots {
			d.o.Log.Info("instance adopted", "project", p.key.project, "group", p.key.group, "instance", s.ID, "pid", s.PID)
		}
	}
	return nil
}

// readNotes finds the instances that are noted and run, and removes the notes of others.
func (d *Driver) readNotes(instances map[string]*found) error {
	files, err := filepath.Glob(filepath.Join(d.o.Dir, "run", "*.json*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		f := &found{}
		ours := json.Unmarshal(b, &f.note) == nil && f.Boot == d.boot && f.Instance+".json" == filepath.Base(file) && alive(f.PID, f.Start)
		if ours {
			// A program may overwrite its environment, for its title; it may not carry another's mark.
			m := marks(f.PID)
			ours = m[markInstance] == "" || m[markInstance] == f.Instance && m[markPool] == d.id
		}
		if !ours {
			if err := os.Remove(file); err != nil {
				return err
			}
			continue
		}
		instances[f.Instance] = f
	}
	return nil
}

// takeOver makes a slot of a running process, if it still is the one that was found.
func (d *Driver) takeOver(f *found) {
	proc, err := watch(f.PID, nil)
	if err != nil {
		return
	}
	if proc.start != f.Start || !alive(f.PID, f.Start) {
		_ = proc.pidfd.Close()
		return
	}
	f.adopted = true
	d.mu.Lock()
	p := d.pool(poolKey{f.Project, f.Group})
	s := newSlot(p, f.Instance)
	s.State, s.PID, s.Started, s.Restarts, s.digest = autoscale.Running, f.PID, f.Started, f.Restarts, f.Digest
	p.slots = append(p.slots, s)
	d.mu.Unlock()
	if b, err := json.Marshal(f.note); err == nil {
		if err := writeFile(s.noteFile(), b); err != nil {
			d.o.Log.Warn("instance not noted", "instance", s.ID, "err", err)
		}
	}
	d.wg.Go(func() { s.run(proc, false) })
}
