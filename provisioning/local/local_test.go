package local

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi"
	"kemi/provisioning/autoscale"
)

// The child of the adoption tests is a server that starts a pool and waits to be killed.
const (
	childDir    = "TEST_LOCAL_DIR"
	childConfig = "TEST_LOCAL_CONFIG"
	childSize   = "TEST_LOCAL_SIZE"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		d, err := New(Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err == nil {
			n, _ := strconv.Atoi(os.Getenv(childSize))
			err = d.Scale(nil, group(json.RawMessage(os.Getenv(childConfig))), n) //nolint:staticcheck // the context is not used
		}
		fmt.Println("ready", err)
		select {}
	}
	goleak.VerifyTestMain(m)
}

func group(config json.RawMessage) autoscale.Group {
	return autoscale.Group{Project: "default", Name: "workers", Config: config}
}

// config is a pool's; changes are its other fields.
func config(t testing.TB, command []string, changes ...func(*Config)) json.RawMessage {
	t.Helper()
	c := Config{Command: command, StopSignal: "SIGTERM", StopTimeout: autoscale.Duration(5 * time.Second)}
	for _, f := range changes {
		f(&c)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

func open(t testing.TB, dir string, leave bool) *Driver {
	t.Helper()
	d, err := New(Options{Dir: dir, LeaveRunning: leave, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func scale(t testing.TB, d *Driver, config json.RawMessage, n int) {
	t.Helper()
	if err := d.Scale(t.Context(), group(config), n); err != nil {
		t.Fatal(err)
	}
}

func instances(t testing.TB, d *Driver) []autoscale.Instance {
	t.Helper()
	is, err := d.Instances(t.Context(), group(nil))
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// eventually polls until f has nothing to complain of.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func wantSize(t testing.TB, d *Driver, n int) []autoscale.Instance {
	t.Helper()
	var is []autoscale.Instance
	eventually(t, func() error {
		is = instances(t, d)
		for _, i := range is {
			if i.State != autoscale.Running {
				return fmt.Errorf("instance %+v", i)
			}
		}
		if len(is) != n {
			return fmt.Errorf("%d instances, want %d", len(is), n)
		}
		return nil
	})
	return is
}

func dead(pid int) error {
	if s, err := readStat(pid); err == nil && s.state != 'Z' {
		return fmt.Errorf("process %d runs: state %c", pid, s.state)
	}
	return nil
}

func childrenAreReaped(t testing.TB) {
	t.Helper()
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid > 0 {
		t.Errorf("process %d was a zombie (%v)", pid, err)
	}
}

func logOf(t testing.TB, d *Driver, id string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.o.Dir, "logs", "*."+id+".log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("logs of %s: %v, %v", id, files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestScale(t *testing.T) {
	t.Setenv("SECRET_OF_SERVER", "s3cret")
	d := open(t, t.TempDir(), false)
	c := config(t, shell(`echo "$KEMI_GROUP $GREETING ${SECRET_OF_SERVER:-none} in $(pwd)"; echo oops >&2; exec sleep 600`), func(c *Config) {
		c.Env, c.Dir = map[string]string{"GREETING": "안녕"}, "/"
	})
	scale(t, d, c, 3)
	is := wantSize(t, d, 3)
	scale(t, d, c, 3) // idempotent
	if again := instances(t, d); len(again) != 3 || again[0].PID != is[0].PID || again[2].PID != is[2].PID {
		t.Fatalf("the same size again: %v, before %v", again, is)
	}
	for _, i := range is {
		s, err := readStat(i.PID)
		if err != nil || s.session != i.PID || s.pgid != i.PID {
			t.Errorf("instance %s: session %d, group %d of process %d (%v)", i.ID, s.session, s.pgid, i.PID, err)
		}
		eventually(t, func() error { // before a process has begun its program it has no marks
			if m := marks(i.PID); m[markInstance] != i.ID || m[markPool] != d.id || m[markGroup] != "default/workers" {
				return fmt.Errorf("marks %v", m)
			}
			if got := logOf(t, d, i.ID); got != "default/workers 안녕 none in /\noops\n" {
				return fmt.Errorf("log %q", got)
			}
			return nil
		})
	}
	scale(t, d, c, 1)
	left := wantSize(t, d, 1)
	if left[0].ID != is[0].ID {
		t.Fatalf("the oldest, %s, was stopped and %s was kept", is[0].ID, left[0].ID)
	}
	for _, i := range is[1:] {
		eventually(t, func() error { return dead(i.PID) })
	}
	scale(t, d, c, 0)
	wantSize(t, d, 0)
	if err := dead(is[0].PID); err != nil {
		t.Error(err)
	}
	childrenAreReaped(t)
	if notes, _ := filepath.Glob(filepath.Join(d.o.Dir, "run", "*")); len(notes) != 0 {
		t.Errorf("notes are left: %v", notes)
	}
	other, err := d.Instances(t.Context(), autoscale.Group{Project: "other", Name: "workers"})
	if err != nil || len(other) != 0 {
		t.Errorf("another project's pool of that name: %v, %v", other, err)
	}
}

func TestRestart(t *testing.T) {
	d := open(t, t.TempDir(), false)
	// The leader starts a process in the background, which must not outlive it.
	c := config(t, shell(`sleep 601 & echo $!; wait`))
	scale(t, d, c, 1)
	i := wantSize(t, d, 1)[0]
	var background int
	eventually(t, func() (err error) {
		background, err = strconv.Atoi(strings.TrimSpace(logOf(t, d, i.ID)))
		return err
	})
	if err := syscall.Kill(i.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var again autoscale.Instance
	eventually(t, func() error {
		again = instances(t, d)[0]
		if again.PID == i.PID || again.State != autoscale.Running {
			return fmt.Errorf("instance %+v", again)
		}
		return nil
	})
	if again.ID != i.ID || again.Restarts != 1 || !strings.Contains(again.Note, "killed") {
		t.Errorf("after a crash: %+v, before %+v", again, i)
	}
	if err := dead(background); err != nil {
		t.Errorf("left behind: %v", err)
	}
	childrenAreReaped(t)
}

func TestPauseGrows(t *testing.T) {
	d := open(t, t.TempDir(), false)
	c := config(t, shell("exit 3"))
	began := time.Now()
	scale(t, d, c, 1)
	var i autoscale.Instance
	eventually(t, func() error {
		if is := instances(t, d); len(is) == 1 && is[0].Restarts >= 2 && is[0].State == autoscale.Waiting {
			i = is[0]
			return nil
		}
		return errors.New("not restarted twice")
	})
	if took := time.Since(began); took < 2900*time.Millisecond { // 1 s and 2 s
		t.Errorf("restarted twice within %s", took)
	}
	if i.Note != "ended with exit status 3" || i.PID != 0 {
		t.Errorf("%+v", i)
	}
	scale(t, d, c, 0) // ends a slot that waits, at once
	wantSize(t, d, 0)
}

func TestStop(t *testing.T) {
	for name, c := range map[string]struct {
		script  string
		signal  string
		timeout time.Duration
		log     string
	}{
		"asked":                         {`trap 'echo bye; exit 0' TERM; echo up; sleep 600 & wait`, "SIGTERM", 10 * time.Second, "up\nbye\n"},
		"by another signal":             {`trap 'echo term' TERM; trap 'echo bye; exit 0' USR1; echo up; sleep 600 & wait`, "SIGUSR1", 10 * time.Second, "up\nbye\n"},
		"deaf, and so are its children": {`trap '' TERM; (trap '' TERM; exec sleep 600) & echo up; while :; do sleep 600; done`, "SIGTERM", 200 * time.Millisecond, "up\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir(), false)
			cfg := config(t, shell(c.script), func(x *Config) { x.StopSignal, x.StopTimeout = c.signal, autoscale.Duration(c.timeout) })
			scale(t, d, cfg, 1)
			i := wantSize(t, d, 1)[0]
			eventually(t, func() error {
				if got := logOf(t, d, i.ID); got != "up\n" {
					return fmt.Errorf("log %q", got)
				}
				return nil
			})
			began := time.Now()
			scale(t, d, cfg, 0)
			if is := instances(t, d); len(is) == 1 && is[0].State != autoscale.Stopping {
				t.Errorf("told to stop: %+v", is[0])
			}
			wantSize(t, d, 0)
			if c.signal != "SIGTERM" || c.timeout > time.Second {
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("took %s", took)
				}
			}
			if got := logOf(t, d, i.ID); got != c.log {
				t.Errorf("log %q, want %q", got, c.log)
			}
			if err := marked(d.id, func(pid int, m map[string]string) { t.Errorf("process %d is left: %v", pid, m) }); err != nil {
				t.Error(err)
			}
			childrenAreReaped(t)
		})
	}
}

func TestConfigurationChanges(t *testing.T) {
	d := open(t, t.TempDir(), false)
	scale(t, d, config(t, []string{"sleep", "601"}), 2)
	before := wantSize(t, d, 2)
	next := config(t, []string{"sleep", "602"})
	scale(t, d, next, 2)
	eventually(t, func() error {
		is := instances(t, d)
		running := 0
		for n, i := range is {
			if i.State == autoscale.Running {
				running++
			}
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", i.PID))
			if err != nil || string(b) != "sleep\x00602\x00" || i.ID != before[n].ID {
				if running == 0 && n == len(is)-1 {
					t.Error("both were replaced at once")
				}
				return fmt.Errorf("instance %+v runs %q", i, b)
			}
		}
		return nil
	})
	now := wantSize(t, d, 2)
	scale(t, d, config(t, []string{"sleep", "602"}, func(c *Config) { c.StopTimeout = autoscale.Duration(time.Second) }), 2)
	scale(t, d, next, 2)
	if after := wantSize(t, d, 2); after[0].PID != now[0].PID || after[1].PID != now[1].PID {
		t.Error("replaced for a change that says only how to stop")
	}
}

func TestStartFails(t *testing.T) {
	dir := t.TempDir()
	d := open(t, t.TempDir(), false)
	program := filepath.Join(dir, "late")
	c := config(t, []string{program})
	if err := d.Scale(t.Context(), group(c), 2); err == nil || !strings.Contains(err.Error(), "2 of 2") || !strings.Contains(err.Error(), program) {
		t.Fatalf("a program that is not there: %v", err)
	}
	if is := instances(t, d); len(is) != 2 || is[0].State != autoscale.Waiting || is[0].Note == "" {
		t.Fatalf("instances %+v", is)
	}
	// It comes up by itself when the program is there.
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantSize(t, d, 2)
}

// crash runs a server with n instances in a child process and kills it.
func crash(t *testing.T, dir string, config json.RawMessage, n int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childConfig+"="+string(config), childSize+"="+strconv.Itoa(n))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready <nil>\n" {
		t.Errorf("server says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
}

func notes(t *testing.T, dir string) map[string]note {
	t.Helper()
	out := map[string]note{}
	files, _ := filepath.Glob(filepath.Join(dir, "run", "*.json"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		var n note
		if err != nil || json.Unmarshal(b, &n) != nil {
			t.Fatal(f, err)
		}
		out[n.Instance] = n
	}
	return out
}

func TestAdoption(t *testing.T) {
	dir := t.TempDir()
	c := config(t, shell(`i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done`))
	crash(t, dir, c, 4)
	before := notes(t, dir)
	if len(before) != 4 {
		t.Fatalf("%d notes", len(before))
	}
	// A process of somebody else, as like ours as can be.
	foreign := exec.Command("sleep", "600")
	foreign.Env = []string{markPool + "=another", markGroup + "=default/workers", markInstance + "=01ARZ3NDEKTSV4RRFFQ69G5FAV"}
	foreign.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = foreign.Process.Kill()
		_ = foreign.Wait()
	}()
	s, err := readStat(foreign.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// A note whose process id now is that process's, another with the right start time but another boot.
	for i, n := range []note{{Start: s.start - 1, Boot: anyNote(before).Boot}, {Start: s.start, Boot: "another boot"}} {
		n.Project, n.Group, n.PID, n.Instance = "default", "workers", foreign.Process.Pid, fmt.Sprintf("01ARZ3NDEKTSV4RRFFQ69G5FA%d", i)
		b, _ := json.Marshal(n)
		if err := os.WriteFile(filepath.Join(dir, "run", n.Instance+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "run", "torn.json"), []byte(`{"pid":`), 0o600); err != nil {
		t.Fatal(err)
	}
	// While no server was there, one of ours died, and the note of another was never written.
	var died, unnoted note
	for _, n := range before {
		died, unnoted = unnoted, n
	}
	if err := syscall.Kill(died.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return dead(died.PID) })
	if err := os.Remove(filepath.Join(dir, "run", unnoted.Instance+".json")); err != nil {
		t.Fatal(err)
	}

	d := open(t, dir, false)
	is := wantSize(t, d, 3)
	for n, i := range is {
		if b := before[i.ID]; b.PID != i.PID || i.ID == died.Instance {
			t.Errorf("adopted %+v, before %+v", i, b)
		}
		if n > 0 && is[n-1].ID > i.ID {
			t.Error("not in order of age")
		}
	}
	scale(t, d, c, 4)
	is = wantSize(t, d, 4)
	for _, i := range is[:3] {
		if before[i.ID].PID != i.PID {
			t.Errorf("replaced: %+v, before %+v", i, before[i.ID])
		}
	}
	mark := logOf(t, d, is[0].ID)
	eventually(t, func() error {
		if logOf(t, d, is[0].ID) == mark {
			return errors.New("an adopted instance writes no more")
		}
		return nil
	})
	// An adopted one is started again when it dies, and stopped when it is not needed.
	if err := syscall.Kill(is[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if i := instances(t, d)[0]; i.PID == is[0].PID || i.State != autoscale.Running {
			return fmt.Errorf("%+v", i)
		}
		return nil
	})
	scale(t, d, c, 1)
	wantSize(t, d, 1)
	for _, i := range is[1:] {
		eventually(t, func() error { return dead(i.PID) })
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := marked(d.id, func(pid int, _ map[string]string) { t.Errorf("process %d runs after Close", pid) }); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(foreign.Process.Pid, 0); err != nil || dead(foreign.Process.Pid) == nil {
		t.Errorf("a foreign process was touched: %v", err)
	}
}

func anyNote(m map[string]note) note {
	for _, n := range m {
		return n
	}
	return note{}
}

// TestLeftovers: the leader died while no server was there; what it left behind is ours to end.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	crash(t, dir, config(t, shell(`sleep 600 & setsid sleep 600 & wait`)), 1)
	n := anyNote(notes(t, dir))
	id, err := identify(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	eventually(t, func() error {
		pids = nil
		if err := marked(id, func(pid int, _ map[string]string) { pids = append(pids, pid) }); err != nil || len(pids) != 3 {
			return fmt.Errorf("processes %v, %v", pids, err)
		}
		return nil
	})
	if err := syscall.Kill(n.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return dead(n.PID) })
	d := open(t, dir, false)
	// The one that leads its own session cannot be told from an instance without a note. It is adopted, and ended since no group wants it.
	if err := d.Keep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		eventually(t, func() error { return dead(pid) })
	}
	wantSize(t, d, 0)
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	crash(t, dir, config(t, []string{"sleep", "600"}), 2)
	d := open(t, dir, false)
	if err := d.Keep(t.Context(), []autoscale.Group{group(nil)}); err != nil {
		t.Fatal(err)
	}
	wantSize(t, d, 2)
	if err := d.Keep(t.Context(), []autoscale.Group{{Project: "other", Name: "workers"}}); err != nil {
		t.Fatal(err)
	}
	wantSize(t, d, 0)
}

func TestLeaveRunning(t *testing.T) {
	dir := t.TempDir()
	crash(t, dir, config(t, []string{"sleep", "600"}), 2) // not our children: we would have to reap them
	d := open(t, dir, true)
	is := wantSize(t, d, 2)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, i := range is {
		if dead(i.PID) == nil {
			t.Errorf("instance %+v was stopped", i)
		}
	}
	d = open(t, dir, false)
	if again := wantSize(t, d, 2); again[0].PID != is[0].PID || again[1].PID != is[1].PID {
		t.Errorf("adopted %v, before %v", again, is)
	}
}

func TestClosed(t *testing.T) {
	d := open(t, t.TempDir(), false)
	c := config(t, []string{"sleep", "600"})
	scale(t, d, c, 3)
	is := wantSize(t, d, 3)
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	for _, i := range is {
		if err := dead(i.PID); err != nil {
			t.Error(err)
		}
	}
	childrenAreReaped(t)
	if err := d.Scale(t.Context(), group(c), 1); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("scale after Close: %v", err)
	}
}

func TestLogsAreCut(t *testing.T) {
	d := open(t, t.TempDir(), false)
	c := config(t, shell(`i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo "line $i"; done; echo written; read x < `+fifo(t, d)+`; echo after; exec sleep 600`))
	scale(t, d, c, 1)
	i := wantSize(t, d, 1)[0]
	eventually(t, func() error {
		if !strings.HasSuffix(logOf(t, d, i.ID), "written\n") {
			return errors.New("not written")
		}
		return nil
	})
	if err := d.trimLogs(1000, 0); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(filepath.Join(d.o.Dir, "fifo"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got := logOf(t, d, i.ID); got != "after\n" {
			return fmt.Errorf("log %q", got)
		}
		return nil
	})
	files, _ := filepath.Glob(filepath.Join(d.o.Dir, "logs", "*.log.1"))
	if len(files) != 1 {
		t.Fatal(files)
	}
	old, err := os.ReadFile(files[0])
	if err != nil || len(old) != 1000 || !strings.HasSuffix(string(old), "line 2000\nwritten\n") {
		t.Fatalf("%d bytes, %v", len(old), err)
	}
	scale(t, d, c, 0)
	wantSize(t, d, 0)
	if err := d.trimLogs(1000, 0); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(d.o.Dir, "logs", "*")); len(files) != 0 {
		t.Fatalf("logs of an instance that is gone: %v", files)
	}
}

func fifo(t *testing.T, d *Driver) string {
	path := filepath.Join(d.o.Dir, "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheck(t *testing.T) {
	d := open(t, t.TempDir(), false)
	good, err := d.Check(json.RawMessage(`{"command":["sleep","1"],"env":{"TOKEN":"x"}}`))
	if err != nil || string(good) != `{"command":["sleep","1"],"env":{"TOKEN":"x"},"stopSignal":"SIGTERM","stopTimeout":"10s"}` {
		t.Fatalf("%s, %v", good, err)
	}
	var shown Config
	if err := json.Unmarshal(d.Redact(good), &shown); err != nil || shown.Env["TOKEN"] != "<hidden>" || shown.Command[0] != "sleep" {
		t.Errorf("redacted: %+v, %v", shown, err)
	}
	if d.Needs() != kemi.Admin {
		t.Error("anybody may run commands")
	}
	for body, says := range map[string]string{
		``:                                  "local: missing",
		`null`:                              "local: missing",
		`{}`:                                "local.command: missing",
		`{"command":"sleep 1"}`:             "local.command: is a JSON string, must be a list",
		`{"command":[""]}`:                  "local.command: missing",
		`{"command":["no-such-program-x"]}`: "local.command[0]",
		`{"command":["/etc/passwd"]}`:       "local.command[0]",
		`{"command":["sleep","a\u0000b"]}`:  "local.command[1]",
		`{"command":["sleep"],"dir":"tmp"}`: "local.dir",
		`{"command":["sleep"],"dir":"/etc/passwd"}`:                  "local.dir",
		`{"command":["sleep"],"env":{"A=B":"x"}}`:                    "local.env",
		`{"command":["sleep"],"env":{"KEMI_POOL":"x"}}`:              "local.env",
		`{"command":["sleep"],"env":{"A":"\u0000"}}`:                 "local.env.A",
		`{"command":["sleep"],"stopSignal":"SIGSTOP"}`:               "local.stopSignal",
		`{"command":["sleep"],"stopTimeout":"1h"}`:                   "local.stopTimeout",
		`{"command":["sleep"],"stopTimeout":5}`:                      "duration 5",
		`{"command":["sleep"],"shell":true}`:                         "local.shell: there is no such field",
		`{"command":["sleep","` + strings.Repeat("x", 70000) + `"]}`: "65536",
	} {
		if _, err := d.Check(json.RawMessage(body)); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v, want %q", body, err, says)
		}
	}
}

func TestParseStat(t *testing.T) {
	s, err := parseStat([]byte("7 (a) b (c)) S 1 7 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2"))
	if err != nil || s != (stat{state: 'S', pgid: 7, session: 9, start: 12345}) {
		t.Fatal(s, err)
	}
	for _, bad := range []string{"", "7 (a", "7 (a) S 1", "7 (a) S x 7 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 y"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (a) b (c)) S 1 7 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}
