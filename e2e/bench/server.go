package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// server is a server that this program started.
type server struct {
	target *target
	cmd    *exec.Cmd
	url    string
	dir    string // with what belongs to it; dir/data is its data
	exited chan struct{}
	log    bytes.Buffer
}

func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start runs the target on an empty folder, or again on the one that it had.
func start(ctx context.Context, t *target, dir string) (*server, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return nil, err
	}
	s := &server{target: t, url: "http://" + addr, dir: dir, exited: make(chan struct{})}
	if s.cmd, err = t.command(dir, addr); err != nil {
		return nil, err
	}
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && !s.gone(); time.Sleep(5 * time.Millisecond) {
		if r, err := http.Get(s.url + t.ready); err == nil {
			r.Body.Close()
			if r.StatusCode/100 == 2 {
				return s, nil
			}
		}
	}
	s.stop()
	return nil, fmt.Errorf("the server did not become ready: %.2000s", s.log.String())
}

func (s *server) gone() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.exited
}

// usage is what the process has used so far.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes, the highest so far
}

func (s *server) usage() (usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return usage{}, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	u := usage{cpu: time.Duration(user+system) * (time.Second / 100)}
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return usage{}, err
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if w := strings.Fields(l); len(w) > 1 && w[0] == "VmHWM:" {
			kb, _ := strconv.ParseInt(w[1], 10, 64)
			u.resident = kb << 10
		}
	}
	return u, nil
}

// settle waits until the server has been idle for a second: what it does after the last acknowledgement counts.
func (s *server) settle() (usage, error) {
	last, err := s.usage()
	for quiet := 0; err == nil && quiet < 4; {
		time.Sleep(250 * time.Millisecond)
		var now usage
		if now, err = s.usage(); now.cpu-last.cpu <= 10*time.Millisecond {
			quiet++
		} else {
			quiet = 0
		}
		last = now
	}
	return last, err
}

func diskBytes(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if i, err := d.Info(); err == nil {
				if st, ok := i.Sys().(*syscall.Stat_t); ok {
					n += st.Blocks * 512
				}
			}
		}
		return nil
	})
	return n
}

// body is a request that is ready to send.
type body struct {
	data    []byte
	headers map[string]string
}

// post sends bodies over n connections and returns how long each was in coming back.
func (s *server) post(path string, n int, next func(connection int) (body, bool)) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		first error
		wg    sync.WaitGroup
	)
	for c := range n {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			var took []time.Duration
			err := func() error {
				for b, ok := next(c); ok; b, ok = next(c) {
					req, err := http.NewRequest(http.MethodPost, s.url+path, bytes.NewReader(b.data))
					if err != nil {
						return err
					}
					for k, v := range b.headers {
						req.Header.Set(k, v)
					}
					began := time.Now()
					resp, err := client.Do(req)
					if err != nil {
						return err
					}
					text, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					took = append(took, time.Since(began))
					if resp.StatusCode/100 != 2 {
						return fmt.Errorf("%s: %s: %.300s", path, resp.Status, text)
					}
				}
				return nil
			}()
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil && first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all, first
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
