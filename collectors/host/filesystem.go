package host

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
)

// statTimeout is how long all file systems together may take to tell their sizes. One that does not answer (an NFS
// server that is away) is not asked again before it has.
const statTimeout = 2 * time.Second

// virtual are types of file systems that hold nothing of which there is a limited amount, or that must not be touched (autofs mounts when
// it is looked at).
var virtual = map[string]bool{
	"autofs": true, "binfmt_misc": true, "bpf": true, "cgroup": true, "cgroup2": true, "configfs": true, "debugfs": true, "devpts": true,
	"devtmpfs": true, "efivarfs": true, "fusectl": true, "fuse.gvfsd-fuse": true, "fuse.lxcfs": true, "fuse.portal": true, "hugetlbfs": true,
	"iso9660": true, "mqueue": true, "nsfs": true, "proc": true, "pstore": true, "ramfs": true, "rpc_pipefs": true, "securityfs": true,
	"selinuxfs": true, "squashfs": true, "sysfs": true, "tracefs": true,
}

// hidden are folders whose mounts belong to containers, sessions or the kernel.
var hidden = []string{"/proc/", "/sys/", "/dev/", "/run/user/", "/run/credentials/", "/run/netns/", "/run/docker/", "/run/containerd/", "/var/lib/docker/",
	"/var/lib/containers/", "/var/lib/containerd/", "/var/lib/kubelet/", "/snap/"}

// maxMounts bounds the series of file systems.
const maxMounts = 128

// filesystem measures what is mounted.
type filesystem struct {
	c     *Collector
	paths []string
	stat  func(path string) (unix.Statfs_t, error)
	wait  time.Duration
	known keyed[mounted]
	order []*mounted
}

type mounted struct {
	mount
	series  []kemi.Labels // as filesystemMetrics
	stuck   kemi.Labels
	answer  chan statAnswer
	pending bool
}

type statAnswer struct {
	unix.Statfs_t
	err error
}

var filesystemMetrics = []string{"total_bytes", "free_bytes", "available_bytes", "used_bytes", "usage", "inodes_total", "inodes_free", "inodes_usage", "read_only"}

func newFilesystem(c *Collector) *filesystem {
	a := &filesystem{c: c, wait: statTimeout, stat: func(path string) (s unix.Statfs_t, err error) {
		for {
			if err = unix.Statfs(path, &s); err != unix.EINTR { //nolint:errorlint // a bare errno
				return s, err
			}
		}
	}}
	// What this process sees is what it can ask; in a container that looks at its host, the host's first process sees more.
	a.paths = []string{c.o.Proc + "/self/mounts", c.o.Proc + "/1/mounts"}
	if c.o.Root != "/" {
		slices.Reverse(a.paths)
	}
	return a
}

func (a *filesystem) collect(r *round) error {
	b, err := r.files.readPath(a.paths[0])
	if err != nil {
		if b, err = r.files.readPath(a.paths[1]); err != nil {
			return err
		}
	}
	a.order = a.order[:0]
	for _, m := range selectMounts(b) {
		k, _ := a.known.get(r, []byte(m.point+"\x00"+m.device+"\x00"+m.fstype), func(string) mounted { return a.newMounted(m) })
		k.readOnly = m.readOnly
		a.order = append(a.order, k)
	}
	a.known.forget(r)

	for _, k := range a.order {
		if k.pending {
			continue
		}
		k.pending = true
		path := filepath.Join(a.c.o.Root, k.point)
		go func(stat func(string) (unix.Statfs_t, error), answer chan<- statAnswer) {
			s, err := stat(path)
			answer <- statAnswer{s, err} // buffered: it never waits
		}(a.stat, k.answer)
	}
	timeout := time.NewTimer(a.wait)
	defer timeout.Stop()
	late := false
	for _, k := range a.order {
		var s statAnswer
		if late {
			select {
			case s = <-k.answer:
			default:
				r.emit(k.stuck, 1)
				continue
			}
		} else {
			select {
			case s = <-k.answer:
			case <-timeout.C:
				late = true
				r.emit(k.stuck, 1)
				continue
			case <-r.ctx.Done():
				return nil
			}
		}
		k.pending = false
		r.emit(k.stuck, 0)
		k.emit(r, s)
	}
	return nil
}

func (a *filesystem) newMounted(m mount) mounted {
	pairs := []string{"device", m.device, "mountpoint", m.point, "fstype", m.fstype}
	return mounted{mount: m, series: a.c.several("data.filesystem.", filesystemMetrics, pairs...), stuck: a.c.series("data.filesystem.stuck", pairs...), answer: make(chan statAnswer, 1)}
}

func (k *mounted) emit(r *round, s statAnswer) {
	if s.err != nil || s.Blocks == 0 {
		return
	}
	size := float64(s.Frsize)
	if size == 0 {
		size = float64(s.Bsize)
	}
	used := float64(s.Blocks - min(s.Blocks, s.Bfree))
	values := [9]float64{float64(s.Blocks) * size, float64(s.Bfree) * size, float64(s.Bavail) * size, used * size}
	// As df has it: what is reserved for root counts as neither used nor there.
	if all := used + float64(s.Bavail); all > 0 {
		values[4] = 100 * used / all
	}
	values[5], values[6] = float64(s.Files), float64(s.Ffree)
	if s.Files > 0 {
		values[7] = 100 * float64(s.Files-min(s.Files, s.Ffree)) / float64(s.Files)
	}
	if k.readOnly {
		values[8] = 1
	}
	for i, v := range values {
		if i >= 5 && i <= 7 && s.Files == 0 {
			continue // btrfs and others have no fixed number of inodes
		}
		r.emit(k.series[i], v)
	}
}

// selectMounts picks the file systems worth measuring: each device once, at its shortest mount point, the later mount where two are
// over each other.
func selectMounts(b []byte) []mount {
	var all []mount
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		m, ok := parseMount(l)
		if !ok || virtual[m.fstype] || m.fstype == "overlay" && m.point != "/" {
			continue
		}
		if slices.ContainsFunc(hidden, func(dir string) bool { return strings.HasPrefix(m.point, dir) }) && m.point != "/dev/shm" {
			continue
		}
		if i := slices.IndexFunc(all, func(o mount) bool { return o.point == m.point }); i >= 0 {
			all[i] = m
			continue
		}
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(x, y mount) int { return cmp.Compare(len(x.point), len(y.point)) })
	var out []mount
	for _, m := range all {
		bind := strings.HasPrefix(m.device, "/") && slices.ContainsFunc(out, func(o mount) bool { return o.device == m.device })
		if !bind && len(out) < maxMounts {
			out = append(out, m)
		}
	}
	return out
}
