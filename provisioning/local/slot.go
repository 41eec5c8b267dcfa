package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"

	"kemi"
	"kemi/provisioning/autoscale"
)

const (
	firstPause = time.Second
	maxPause   = time.Minute
	// steadyAfter is how long an instance has to run for its next end to count as the first.
	steadyAfter = 30 * time.Second
	// settle is how long a replaced instance has to run before the next one is replaced.
	settle = time.Second
	// stopTimeout and SIGTERM are for instances whose configuration nobody has said yet.
	stopTimeout = 10 * time.Second
)

// slot is a place in a pool and the process that fills it.
type slot struct {
	pool *pool
	autoscale.Instance
	digest string

	stop  chan struct{} // closed: the slot is to end
	renew chan struct{} // holds a token: the configuration has changed
}

// note is what a file says of a running instance, so that the next server knows it.
type note struct {
	Project  string      `json:"project"`
	Group    string      `json:"group"`
	Instance string      `json:"instance"`
	PID      int         `json:"pid"`
	Start    uint64      `json:"start"` // in ticks since the boot
	Boot     string      `json:"boot"`
	Digest   string      `json:"digest"`
	Started  kemi.Millis `json:"started"`
	Restarts int         `json:"restarts"`
}

func newSlot(p *pool, id string) *slot {
	return &slot{
		pool: p, Instance: autoscale.Instance{ID: id, State: autoscale.Starting},
		stop: make(chan struct{}), renew: make(chan struct{}, 1),
	}
}

// stopLocked tells the slot to end. The caller holds d.mu.
func (s *slot) stopLocked() {
	if s.State != autoscale.Stopping {
		s.State = autoscale.Stopping
		close(s.stop)
	}
}

func (s *slot) renewLocked() {
	select {
	case s.renew <- struct{}{}:
	default:
	}
}

// update changes what is told of the slot, unless it is stopping: that is the last word on its state.
func (s *slot) update(f func(i *autoscale.Instance)) {
	s.pool.d.mu.Lock()
	defer s.pool.d.mu.Unlock()
	state := s.State
	f(&s.Instance)
	if state == autoscale.Stopping {
		s.State = state
	}
}

// add starts an instance in a new slot. If it does not start, the slot tries again by itself.
func (d *Driver) add(p *pool) error {
	s := newSlot(p, ulid.Make().String())
	proc, err := s.launch()
	d.mu.Lock()
	defer d.mu.Unlock()
	p.slots = append(p.slots, s)
	d.wg.Go(func() { s.run(proc, err != nil) })
	return err
}

func (s *slot) noteFile() string { return filepath.Join(s.pool.d.o.Dir, "run", s.ID+".json") }

func (s *slot) logFile() string {
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, s.pool.key.group)
	return filepath.Join(s.pool.d.o.Dir, "logs", readable[:min(len(readable), 60)]+"."+s.ID+".log")
}

// launch starts the process.
func (s *slot) launch() (*process, error) {
	d := s.pool.d
	d.mu.Lock()
	config, digest := s.pool.config, s.pool.digest
	d.mu.Unlock()
	proc, err := s.start(config, digest)
	if err != nil {
		s.update(func(i *autoscale.Instance) {
			i.State, i.PID, i.Note = autoscale.Waiting, 0, err.Error()
		})
		d.o.Log.Warn("instance did not start", "project", s.pool.key.project, "group", s.pool.key.group, "instance", s.ID, "err", err)
		return nil, fmt.Errorf("start instance %s: %w", s.ID, err)
	}
	now := kemi.MillisOf(d.o.Now())
	s.update(func(i *autoscale.Instance) { i.State, i.PID, i.Started = autoscale.Running, proc.pid, now })
	d.mu.Lock()
	s.digest = digest
	n := note{
		Project: s.pool.key.project, Group: s.pool.key.group, Instance: s.ID, PID: proc.pid, Start: proc.start, Boot: d.boot,
		Digest: digest, Started: now, Restarts: s.Restarts,
	}
	d.mu.Unlock()
	b, err := json.Marshal(n)
	if err == nil {
		err = writeFile(s.noteFile(), b)
	}
	if err != nil {
		d.o.Log.Warn("instance not noted; after a crash it is known by its environment only", "instance", s.ID, "err", err)
	}
	d.o.Log.Info("instance started", "project", s.pool.key.project, "group", s.pool.key.group, "instance", s.ID, "pid", proc.pid)
	return proc, nil
}

func (s *slot) start(c *Config, digest string) (*process, error) {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	k := s.pool.key
	cmd := exec.Command(c.Command[0], c.Command[1:]...) //nolint:noctx // an instance outlives any request; the slot ends it
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, log, log
	cmd.Env = c.environment(markPool+"="+s.pool.d.id, markGroup+"="+k.project+"/"+k.group, markInstance+"="+s.ID, markConfig+"="+digest)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	proc, err := watch(cmd.Process.Pid, cmd)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return proc, nil
}

// follow closes proc.done when the process has ended and nothing of it is left.
func (s *slot) follow(proc *process) {
	s.pool.d.wg.Go(func() {
		if err := proc.wait(); err != nil {
			return // let go of: the process goes on without us
		}
		if err := killMarked(s.pool.d.id, s.ID); err != nil {
			s.pool.d.o.Log.Warn("what an instance left behind may go on running", "instance", s.ID, "err", err)
		}
		close(proc.done)
	})
}

// run keeps the slot filled until it is told to stop.
func (s *slot) run(proc *process, failed bool) {
	d := s.pool.d
	pause := firstPause
	if proc != nil {
		s.follow(proc)
	}
	for {
		if proc == nil {
			if failed {
				if !s.sleep(pause) {
					s.leave()
					return
				}
				pause = min(2*pause, maxPause)
				s.update(func(i *autoscale.Instance) { i.Restarts++ })
			}
			if proc, _ = s.launch(); proc == nil {
				failed = true
				continue
			}
			s.follow(proc)
		}
		began := time.Now()
		select {
		case <-proc.done:
			if d.ctx.Err() != nil || !s.known() {
				s.leave()
				return
			}
			s.update(func(i *autoscale.Instance) { i.State, i.PID, i.Note = autoscale.Waiting, 0, proc.note })
			d.o.Log.Warn("instance ended by itself", "project", s.pool.key.project, "group", s.pool.key.group, "instance", s.ID, "how", proc.note)
			if time.Since(began) >= steadyAfter {
				pause = firstPause
			}
			proc, failed = nil, true
		case <-s.renew:
			if s.replaceable(proc) {
				s.end(proc)
				proc, failed = nil, false
				if next, _ := s.launch(); next != nil {
					s.follow(next)
					proc = next
					s.settled(next)
				} else {
					failed = true
				}
				<-s.pool.turn
			}
		case <-s.stop:
			s.end(proc)
			s.leave()
			return
		case <-d.ctx.Done():
			if d.o.LeaveRunning {
				_ = proc.pidfd.Close()
				return
			}
			s.update(func(i *autoscale.Instance) { i.State = autoscale.Stopping })
			s.end(proc)
			s.leave()
			return
		}
	}
}

// known tells whether the slot's pool has a configuration; an adopted instance of a group that is gone has none.
func (s *slot) known() bool {
	s.pool.d.mu.Lock()
	defer s.pool.d.mu.Unlock()
	return s.pool.config != nil
}

// replaceable waits for the slot's turn to replace its process. False: something else comes first, or it is not needed any more.
func (s *slot) replaceable(proc *process) bool {
	select {
	case s.pool.turn <- struct{}{}:
	case <-proc.done:
		return false // it is started again with the new configuration anyway
	case <-s.stop:
		return false
	case <-s.pool.d.ctx.Done():
		return false
	}
	s.pool.d.mu.Lock()
	outdated := s.digest != s.pool.digest
	s.pool.d.mu.Unlock()
	if !outdated {
		<-s.pool.turn
	}
	return outdated
}

func (s *slot) settled(proc *process) {
	t := time.NewTimer(settle)
	defer t.Stop()
	select {
	case <-t.C:
	case <-proc.done:
	case <-s.stop:
	case <-s.pool.d.ctx.Done():
	}
}

// end stops the process as the configuration says.
func (s *slot) end(proc *process) {
	s.pool.d.mu.Lock()
	sig, timeout := syscall.SIGTERM, stopTimeout
	if c := s.pool.config; c != nil {
		sig, timeout = c.signal(), time.Duration(c.StopTimeout)
	}
	s.pool.d.mu.Unlock()
	proc.end(sig, timeout)
	s.pool.d.o.Log.Info("instance stopped", "project", s.pool.key.project, "group", s.pool.key.group, "instance", s.ID, "pid", proc.pid, "how", proc.note)
}

// sleep waits before the next start; false: the slot is to end.
func (s *slot) sleep(pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stop:
	case <-s.pool.d.ctx.Done():
	}
	return false
}

// leave takes the slot out of its pool.
func (s *slot) leave() {
	d := s.pool.d
	if err := os.Remove(s.noteFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.o.Log.Warn("note of an instance not removed", "instance", s.ID, "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.pool.slots = slices.DeleteFunc(s.pool.slots, func(x *slot) bool { return x == s })
}
