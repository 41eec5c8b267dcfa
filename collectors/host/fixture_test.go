package host

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi"
)

// tree writes files below a new folder.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	return dir
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newCollector(t testing.TB, dir string, log io.Writer) *Collector {
	t.Helper()
	c, err := New(Options{
		Host: "web-1", Labels: kemi.LabelsOf("rack", "r7"), Proc: dir + "/proc", Sys: dir + "/sys", Root: dir,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// collect gives the samples by their labels without host and rack: `data.disk.usage{device="vda"}`.
func collect(t testing.TB, c *Collector, at time.Time) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for _, s := range c.Collect(context.Background(), at, nil) {
		if s.Labels.Get("host") != "web-1" || s.Labels.Get("rack") != "r7" {
			t.Errorf("%s lacks the host's labels", s.Labels)
		}
		name := s.Labels.Get(kemi.MetricName)
		rest := s.Labels.With(kemi.MetricName, "").With("host", "").With("rack", "")
		if len(rest) > 0 {
			name += rest.String()
		}
		if _, twice := out[name]; twice {
			t.Errorf("%s twice in one collection", name)
		}
		out[name] = s.Value
	}
	return out
}

func expect(t *testing.T, got map[string]float64, want map[string]float64) {
	t.Helper()
	for name, v := range want {
		g, ok := got[name]
		if !ok {
			t.Errorf("%s is missing", name)
		} else if diff := g - v; diff > 1e-6 || diff < -1e-6 {
			t.Errorf("%s = %v, want %v", name, g, v)
		}
	}
}

func expectNone(t *testing.T, got map[string]float64, prefixes ...string) {
	t.Helper()
	for name := range got {
		for _, p := range prefixes {
			if strings.HasPrefix(name, p) {
				t.Errorf("%s should not be there", name)
			}
		}
	}
}

// machine is the files of a machine with that many processors, disks, interfaces and processes.
func machine(cpus, disks, interfaces, processes int) map[string]string {
	var stat, diskstats, dev strings.Builder
	stat.WriteString("cpu  1000 20 300 8000 100 0 50 10 5 1\n")
	for i := range cpus {
		fmt.Fprintf(&stat, "cpu%d 1000 20 300 8000 100 0 50 10 5 1\n", i)
	}
	stat.WriteString("intr 7638110 0 0 1\nctxt 15205441\nbtime 1795441357\nprocesses 41144\nprocs_running 2\nprocs_blocked 1\nsoftirq 1 2\n")
	for i := range disks {
		fmt.Fprintf(&diskstats, " 254 %d vd%c 294058 122726 14386858 76300 1047717 474178 110154808 169229 3 116652 276668 58888 51 95359824 14315 333539 16823\n", i, 'a'+i)
	}
	dev.WriteString("Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n")
	for i := range interfaces {
		fmt.Fprintf(&dev, "  eth%d: 1039206048   57568    1    2    0     0          0         7  5102969   43658    3    4    0     5       6          0\n", i)
	}
	files := map[string]string{
		"proc/stat": stat.String(), "proc/diskstats": diskstats.String(), "proc/net/dev": dev.String(),
		"proc/loadavg": "2.92 2.50 1.56 2/377 8688\n", "proc/uptime": "3818.20 5894.28\n", "proc/sys/fs/file-nr": "1553\t0\t2466170\n",
		"proc/meminfo":      "MemTotal:       1000 kB\nMemFree:         200 kB\nMemAvailable:    400 kB\nBuffers:          10 kB\nCached:  150 kB\nSwapTotal:  100 kB\nSwapFree:  75 kB\nHugePages_Total: 4\n",
		"proc/vmstat":       "pgpgin 10\npgpgout 20\npswpin 3\npswpout 4\npgfault 1000\npgmajfault 7\noom_kill 2\n",
		"proc/self/mounts":  "/dev/vda / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n/dev/vdb /srv/my\\040data xfs ro,noatime 0 0\n/dev/vdb /srv/my\\040data/bind xfs ro 0 0\ntmpfs /tmp tmpfs rw 0 0\nnfs:/x /mnt/nfs nfs4 rw 0 0\n",
		"proc/net/snmp":     "Ip: Forwarding InReceives OutRequests\nIp: 2 11 12\nTcp: RtoAlgorithm MaxConn ActiveOpens CurrEstab RetransSegs\nTcp: 1 -1 90 10 6\nUdp: InDatagrams OutDatagrams\nUdp: 65 66\n",
		"proc/net/netstat":  "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 8 9\n",
		"proc/net/sockstat": "sockets: used 38\nTCP: inuse 17 orphan 1 tw 2 alloc 19 mem 223\nUDP: inuse 3 mem 1\nRAW: inuse 0\n",
		"proc/net/tcp":      "  sl  local_address rem_address   st tx\n   0: 0100007F:0885 00000000:0000 0A 0:0\n   1: 0100007F:0885 0100007F:1 01 0:0\n",
		"proc/net/tcp6":     "  sl  local_address rem_address   st tx\n   0: 00:0885 00:0000 0A 0:0\n",
		"proc/pressure/cpu": "some avg10=15.80 avg60=29.60 avg300=28.83 total=380448132\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"proc/pressure/io":  "some avg10=1.50 avg60=0.00 avg300=0.00 total=2000000\n",
	}
	for i := range disks {
		files[fmt.Sprintf("sys/class/block/vd%c/size", 'a'+i)] = "1"
	}
	for i := range interfaces {
		files[fmt.Sprintf("sys/class/net/eth%d/operstate", i)] = "up\n"
	}
	for i := range processes {
		files[fmt.Sprintf("proc/%d/stat", 100+i)] = procStat(100+i, fmt.Sprintf("app %d) (x", i%20), 'S', 1, 500, 4, 77, 1000)
	}
	return files
}

func procStat(pid int, name string, state byte, parent, ticks, threads, start, pages int) string {
	return fmt.Sprintf("%d (%s) %c %d 1 1 0 -1 4194304 99 0 0 0 %d 0 0 0 20 0 %d 0 %d 3133440 %d 18446744073709551615 1 2 3\n", pid, name, state, parent, ticks, threads, start, pages)
}
