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

// server is a kemi server that this program started.
type server struct {
	cmd  *exec.Cmd
	url  string
	data string
	log  bytes.Buffer
}

// start runs the binary on an empty folder (or again on data), with its own collecting switched off.
func start(ctx context.Context, bin, data string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	conf := filepath.Join(data, "..", "kemi.yaml")
	if err := os.WriteFile(conf, []byte("agent:\n  enabled: false\n"), 0o600); err != nil {
		return nil, err
	}
	s := &server{url: "http://" + addr, data: data}
	s.cmd = exec.CommandContext(ctx, bin, "server", "--dev", "--config", conf, "--data", data, "--listen", addr)
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if r, err := http.Get(s.url + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		if s.cmd.ProcessState != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("the server did not become ready: %s", s.log.String())
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
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
