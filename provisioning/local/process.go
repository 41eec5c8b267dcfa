package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The names in the environment by which instances are known.
const (
	markPool     = "KEMI_POOL"
	markGroup    = "KEMI_GROUP"
	markInstance = "KEMI_INSTANCE"
	markConfig   = "KEMI_CONFIG" // the digest of what it was started with
)

// stat is what /proc tells of a process.
type stat struct {
	state   byte
	pgid    int
	session int
	start   uint64 // in ticks since the boot: with the process id it names a process for good
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads a line of /proc/PID/stat. The name of the program, in brackets, may itself hold blanks and brackets.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, fmt.Errorf("stat %.80q has no name", b)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("stat %.80q is too short", b)
	}
	s := stat{state: f[0][0]}
	var errs [3]error
	s.pgid, errs[0] = strconv.Atoi(f[2])
	s.session, errs[1] = strconv.Atoi(f[3])
	s.start, errs[2] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

// alive tells whether the process of that id is still the one that started then.
func alive(pid int, start uint64) bool {
	s, err := readStat(pid)
	return err == nil && s.start == start && s.state != 'Z' && s.state != 'X'
}

// marks reads the marks of a process from its environment; none if it has none or hides it.
func marks(pid int) map[string]string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return nil
	}
	var m map[string]string
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		if k, v, ok := bytes.Cut(kv, []byte{'='}); ok && bytes.HasPrefix(k, []byte(reserved)) {
			if m == nil {
				m = map[string]string{}
			}
			m[string(k)] = string(v)
		}
	}
	return m
}

// marked calls f with each process that carries the mark of the pool.
func marked(pool string, f func(pid int, marks map[string]string)) error {
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			if m := marks(pid); m[markPool] == pool {
				f(pid, m)
			}
		}
	}
	return nil
}

// killMarked kills every process of an instance that still runs, wherever it went.
func killMarked(pool, instance string) error {
	return marked(pool, func(pid int, m map[string]string) {
		if m[markInstance] != instance {
			return
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		// The descriptor stands for one process; only now is it sure which.
		if again := marks(pid); again[markPool] == pool && again[markInstance] == instance {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
	})
}

// process is a running instance: our child, or one that an earlier server started.
type process struct {
	pid   int
	start uint64
	cmd   *exec.Cmd // nil: adopted
	pidfd *os.File

	done chan struct{} // closed when it has ended and is reaped
	note string        // how it ended; read after done

	mu   sync.Mutex
	gone bool // reaped: the process id may be another's
}

// watch follows a process until it ends. Polling a pidfd costs no thread, and it works for processes that are not our children.
func watch(pid int, cmd *exec.Cmd) (*process, error) {
	s, err := readStat(pid)
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return &process{pid: pid, start: s.start, cmd: cmd, pidfd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}, nil
}

// wait returns when the process has ended, or with an error after release.
func (p *process) wait() error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	}); err != nil {
		return err
	}
	p.reap()
	return nil
}

// How often, and with what pause, it is asked whether a killed group is gone.
const (
	groupTries = 100
	groupPause = 2 * time.Millisecond
)

// reap takes the exit status of a child. Until then its process group cannot be another's, so this is the moment to kill what
// it left in it.
func (p *process) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note = "ended"
	if p.cmd != nil {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
		err := p.cmd.Wait()
		p.note = "ended with status 0"
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			p.note = "ended with " + exit.String()
		} else if err != nil {
			p.note = err.Error()
		}
		// What was killed takes a moment to be gone. Whoever waits for the end of an instance waits for that too, within bounds:
		// signal 0 only asks.
		for range groupTries {
			if unix.Kill(-p.pid, 0) != nil {
				break
			}
			time.Sleep(groupPause)
		}
	}
	p.gone = true
	_ = p.pidfd.Close()
}

// signal sends sig to the process group.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A child is not reaped while we hold the lock; one that is not ours is asked for its start time.
	if !p.gone && (p.cmd != nil || alive(p.pid, p.start)) {
		_ = unix.Kill(-p.pid, sig)
	}
}

// end stops the process and returns when it is over.
func (p *process) end(sig syscall.Signal, timeout time.Duration) {
	p.signal(sig)
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-p.done:
		return
	case <-t.C:
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}
