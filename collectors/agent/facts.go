package agent

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Host is what an agent tells the inventory about its host.
type Host struct {
	Name    string            `json:"-"`
	Service string            `json:"service,omitempty"`
	Owner   string            `json:"owner,omitempty"`
	Zone    string            `json:"zone,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Facts   Facts             `json:"facts"`
}

// Facts are what the agent finds out by itself. They change seldom: what changes all the time is a metric.
type Facts struct {
	OS           string   `json:"os,omitempty"`
	Kernel       string   `json:"kernel,omitempty"`
	Arch         string   `json:"arch"`
	CPUs         int      `json:"cpus"`
	MemoryBytes  int64    `json:"memoryBytes,omitempty"`
	BootTime     int64    `json:"bootTime,omitempty"` // seconds since the epoch
	Addresses    []string `json:"addresses,omitempty"`
	AgentVersion string   `json:"agentVersion"`
}

// maxAddresses bounds what is told of a host with an interface for every container.
const maxAddresses = 32

func (a *Agent) describeHost() Host {
	h := Host{Name: a.name, Service: a.cfg.Service, Owner: a.cfg.Owner, Zone: a.cfg.Zone, Labels: a.cfg.Labels,
		Facts: Facts{Arch: runtime.GOARCH, AgentVersion: a.version}}
	proc, root := orDefault(a.cfg.Host.Proc, "/proc"), orDefault(a.cfg.Host.Root, "/")
	f := &h.Facts
	f.OS = osName(root)
	if b, err := os.ReadFile(filepath.Join(proc, "sys/kernel/osrelease")); err == nil {
		f.Kernel = string(bytes.TrimSpace(b))
	}
	each(filepath.Join(proc, "stat"), func(name, value string) {
		switch {
		case name == "btime":
			f.BootTime, _ = strconv.ParseInt(value, 10, 64)
		case strings.HasPrefix(name, "cpu") && name != "cpu":
			f.CPUs++
		}
	})
	each(filepath.Join(proc, "meminfo"), func(name, value string) {
		if name == "MemTotal:" {
			n, _ := strconv.ParseInt(value, 10, 64)
			f.MemoryBytes = n << 10
		}
	})
	f.Addresses = addresses()
	return h
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

// osName is what the distribution calls itself.
func osName(root string) string {
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			continue
		}
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
				if s, err := strconv.Unquote(v); err == nil {
					return s
				}
				return strings.Trim(v, `'"`)
			}
		}
	}
	return runtime.GOOS
}

// each passes the first two words of every line to f.
func each(path string, f func(name, value string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if w := strings.Fields(s.Text()); len(w) >= 2 {
			f(w[0], w[1])
		}
	}
}

// addresses are those by which others can reach the host.
func addresses() (out []string) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	slices.Sort(out)
	return out[:min(len(out), maxAddresses)]
}
