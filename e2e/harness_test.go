//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the built kemi.
func binary(t testing.TB) string {
	t.Helper()
	b, err := filepath.Abs("../bin/kemi")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	return b
}

// lockedBuffer is a process's output, which may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process is a program that the test started and will stop.
type process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
	err  error
}

func spawn(t testing.TB, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Env = append(os.Environ(), env...)
	// The child ends with the test, whatever happens to it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(name), tail(p.out.String(), 6000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// server is a kemi server and how to talk to it.
type server struct {
	*process
	t     testing.TB
	url   string
	addr  string
	data  string
	token string
	args  []string
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var tokenLine = regexp.MustCompile(`token\s+(kemi_\S+)`)

// startServer runs the server on data with a configuration, and waits until it is ready.
func startServer(t testing.TB, data, config string, flags ...string) *server {
	t.Helper()
	s := &server{t: t, addr: freeAddr(t), data: data}
	s.url = "http://" + s.addr
	s.args = append([]string{"server", "--data", data, "--listen", s.addr}, flags...)
	if config != "" {
		name := filepath.Join(t.TempDir(), "kemi.yaml")
		write(t, name, config)
		s.args = append(s.args, "--config", name)
	}
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.process = spawn(s.t, nil, binary(s.t), s.args...)
	s.waitReady()
	b, err := os.ReadFile(filepath.Join(s.data, "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(b))
}

func (s *server) waitReady() {
	s.t.Helper()
	eventually(s.t, time.Minute, "the server is ready", func() error {
		select {
		case <-s.done:
			s.t.Fatalf("the server ended: %v\n%s", s.err, s.out.String())
		default:
		}
		r, err := http.Get(s.url + "/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(r.Body)
			return fmt.Errorf("%s: %s", r.Status, b)
		}
		return nil
	})
}

// call sends a request with the admin's token; body may be nil, a string, bytes or anything that becomes JSON.
func (s *server) call(method, path string, body any, headers ...string) (int, string) {
	s.t.Helper()
	status, text, err := s.try(method, path, body, headers...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, text
}

func (s *server) try(method, path string, body any, headers ...string) (int, string, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return 0, "", err
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequest(method, s.url+path, r)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// must is call for what has to succeed.
func (s *server) must(method, path string, body any, headers ...string) string {
	s.t.Helper()
	status, text := s.call(method, path, body, headers...)
	if status/100 != 2 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return text
}

// decode reads JSON into v.
func decode(text string, v any) error {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("%w in %.300s", err, text)
	}
	return nil
}

// eventually tries until f returns nil; after the time it fails with f's last error.
func eventually(t testing.TB, within time.Duration, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
	}
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// appendLine adds a line to a log file as a program would.
func appendLine(t testing.TB, name, line string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
}
