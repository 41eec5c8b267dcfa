package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMachine(t *testing.T) {
	dir := tree(t, machine(2, 1, 1, 0))
	write(t, dir+"/proc/10/stat", procStat(10, "kworker/0:1-events", 'I', 2, 0, 1, 5, 0))
	write(t, dir+"/proc/11/stat", procStat(11, "kworker/1:2", 'R', 2, 0, 1, 5, 0))
	write(t, dir+"/proc/12/stat", procStat(12, "a ) b", 'S', 1, 100, 4, 5, 10))
	write(t, dir+"/proc/13/stat", procStat(13, "a ) b", 'Z', 1, 100, 1, 5, 0))
	c := newCollector(t, dir, io.Discard)
	got := collect(t, c, t0)
	expect(t, got, map[string]float64{
		`data.cpu.count`: 2, `data.cpu.seconds_total{cpu="1", mode="user"}`: 10, `data.cpu.seconds_total{cpu="0", mode="steal"}`: 0.1,
		`data.system.context_switches_total`: 15205441, `data.system.boot_time_seconds`: 1795441357, `data.processes.running`: 2, `data.processes.blocked`: 1,
		`data.load.avg_1m`: 2.92, `data.load.avg_5m`: 2.5, `data.load.avg_15m`: 1.56, `data.load.threads`: 377, `data.load.running_threads`: 2,
		`data.system.uptime_seconds`: 3818.2, `data.fds.open`: 1553, `data.fds.max`: 2466170,
		`data.memory.total_bytes`: 1000 << 10, `data.memory.used_bytes`: 600 << 10, `data.memory.usage`: 60,
		`data.swap.used_bytes`: 25 << 10, `data.swap.usage`: 25, `data.swap.in_bytes_total`: 3 * float64(os.Getpagesize()),
		`data.memory.oom_kills_total`: 2, `data.memory.paged_in_bytes_total`: 10240,
		`data.disk.reads_total{device="vda"}`: 294058, `data.disk.read_bytes_total{device="vda"}`: 14386858 * 512, `data.disk.io_now{device="vda"}`: 3,
		`data.disk.write_seconds_total{device="vda"}`: 169.229, `data.disk.flush_seconds_total{device="vda"}`: 16.823,
		`data.network.received_bytes_total{interface="eth0"}`: 1039206048, `data.network.sent_bytes_total{interface="eth0"}`: 5102969,
		`data.network.send_carrier_errors_total{interface="eth0"}`: 6, `data.network.up{interface="eth0"}`: 1,
		`data.tcp.active_opens_total`: 90, `data.tcp.listen_drops_total`: 9, `data.udp.sent_datagrams_total`: 66, `data.ip.received_packets_total`: 11,
		`data.sockets.used`: 38, `data.tcp.inuse`: 17, `data.tcp.time_wait`: 2, `data.tcp.connections{state="listen"}`: 2, `data.tcp.connections{state="established"}`: 1,
		`data.pressure.avg_10s{kind="some", resource="cpu"}`: 15.8, `data.pressure.stall_seconds_total{kind="some", resource="io"}`: 2,
		`data.processes.count`: 4, `data.processes.threads`: 7, `data.processes.state{state="zombie"}`: 1, `data.processes.state{state="idle"}`: 1,
		`data.process.memory_bytes{process="a ) b"}`: 10 * float64(os.Getpagesize()), `data.process.count{process="a ) b"}`: 2,
		`data.filesystem.stuck{device="/dev/vda", fstype="ext4", mountpoint="/"}`: 0,
	})
	// Shares of time need two looks; a machine without cgroup v2 or IPv6 has nothing to say of them.
	expectNone(t, got, "data.cpu.usage", "data.cpu.mode_usage", "data.disk.usage", "data.process.cpu_usage", "data.cgroup", "data.tcp6", "data.pressure.avg_10s{kind=\"some\", resource=\"memory\"")

	// Ten seconds later: of 200 ticks each processor was 50 busy, one of them all in system.
	write(t, dir+"/proc/stat", "cpu  1050 20 350 8240 160 0 50 10 5 1\ncpu0 1050 20 300 8120 130 0 50 10\ncpu1 1000 20 350 8120 130 0 50 10\n")
	write(t, dir+"/proc/diskstats", " 254 0 vda 294058 122726 14386858 76300 1047717 474178 110154808 169229 3 119152 276668 58888 51 95359824 14315 333539 16823\n")
	write(t, dir+"/proc/12/stat", procStat(12, "a ) b", 'S', 1, 350, 4, 5, 10))
	write(t, dir+"/proc/14/stat", procStat(14, "new", 'R', 1, 400, 1, 90, 1))
	got = collect(t, c, t0.Add(10*time.Second))
	expect(t, got, map[string]float64{
		`data.cpu.usage`: 25, `data.cpu.mode_usage{mode="user"}`: 12.5, `data.cpu.mode_usage{mode="system"}`: 12.5, `data.cpu.mode_usage{mode="idle"}`: 60,
		`data.cpu.mode_usage{mode="iowait"}`: 15, `data.cpu.core_usage{cpu="0"}`: 25, `data.cpu.core_usage{cpu="1"}`: 25,
		`data.disk.usage{device="vda"}`:           25,
		`data.process.cpu_usage{process="a ) b"}`: 25, `data.process.cpu_usage{process="new"}`: 40,
	})
}

// TestThisMachine reads the real kernel's files.
func TestThisMachine(t *testing.T) {
	var log bytes.Buffer
	c := newCollector(t, "", &log)
	c.o.Root = "/"
	c.Collect(context.Background(), t0, nil)
	for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); { // so that ticks pass
	}
	got := collect(t, c, t0.Add(10*time.Second))
	for _, name := range []string{`data.load.avg_5m`, `data.cpu.count`, `data.memory.total_bytes`, `data.system.uptime_seconds`, `data.processes.count`, `data.tcp.inuse`} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	root := 0.0
	for name, v := range got {
		if strings.HasPrefix(name, "data.filesystem.total_bytes") && strings.Contains(name, `mountpoint="/"`) {
			root = v
		}
		if strings.HasSuffix(name, "usage") && (v < 0 || v > 100) {
			t.Errorf("%s = %v", name, v)
		}
	}
	var s unix.Statfs_t
	if err := unix.Statfs("/", &s); err != nil || root != float64(s.Blocks)*float64(s.Frsize) {
		t.Errorf("root file system has %v bytes, statfs says %v (%v)", root, float64(s.Blocks)*float64(s.Frsize), err)
	}
	t.Logf("%d samples; log: %s", len(got), log.String())
}

// TestMissing: whatever file is missing, the rest is measured, and it is said once.
func TestMissing(t *testing.T) {
	files := machine(1, 1, 1, 1)
	for gone := range files {
		dir := tree(t, files)
		if err := os.Remove(filepath.Join(dir, gone)); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		c := newCollector(t, dir, &log)
		n := len(collect(t, c, t0))
		if n < 50 {
			t.Errorf("without %s only %d samples", gone, n)
		}
		said := log.Len()
		collect(t, c, t0.Add(time.Second))
		if log.Len() != said {
			t.Errorf("without %s it is said again: %s", gone, log.String()[said:])
		}
		if strings.Contains(log.String(), "level=WARN") {
			t.Errorf("without %s: %s", gone, log.String())
		}
	}
}

// TestBroken: nonsense in a file neither ends the process nor the collection of the rest.
func TestBroken(t *testing.T) {
	files := machine(1, 1, 1, 1)
	for broken := range files {
		for _, content := range []string{"", "\n", "\x00\xff(((", strings.Repeat("9", 400), "cpu", "a b c d e f g h i j k l m n\n:::::\n"} {
			dir := tree(t, files)
			write(t, filepath.Join(dir, broken), content)
			if n := len(collect(t, newCollector(t, dir, io.Discard), t0)); n < 50 {
				t.Errorf("with %q in %s only %d samples", content, broken, n)
			}
		}
	}
}

func TestDeadFilesystem(t *testing.T) {
	dir := tree(t, machine(1, 1, 1, 1))
	c := newCollector(t, dir, io.Discard)
	fs := newFilesystem(c)
	fs.wait = 50 * time.Millisecond
	dead := make(chan struct{})
	var asked atomic.Int64
	fs.stat = func(path string) (unix.Statfs_t, error) {
		if strings.Contains(path, "nfs") {
			asked.Add(1)
			<-dead
		}
		return unix.Statfs_t{Frsize: 4096, Blocks: 100, Bfree: 40, Bavail: 30, Files: 10, Ffree: 5}, nil
	}
	c.areas = []area{{"filesystem", fs.collect}}
	nfs, root := `{device="nfs:/x", fstype="nfs4", mountpoint="/mnt/nfs"}`, `{device="/dev/vda", fstype="ext4", mountpoint="/"}`
	for i := range 3 {
		got := collect(t, c, t0.Add(time.Duration(i)*time.Second))
		expect(t, got, map[string]float64{"data.filesystem.stuck" + nfs: 1, "data.filesystem.stuck" + root: 0, "data.filesystem.used_bytes" + root: 60 * 4096,
			"data.filesystem.usage" + root: 100 * 60. / 90, "data.filesystem.inodes_usage" + root: 50,
			`data.filesystem.read_only{device="/dev/vdb", fstype="xfs", mountpoint="/srv/my data"}`: 1})
		expectNone(t, got, "data.filesystem.total_bytes"+nfs, `data.filesystem.total_bytes{device="/dev/vdb", fstype="xfs", mountpoint="/srv/my data/bind"}`, `data.filesystem.total_bytes{device="proc"`)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the dead server was asked %d times while it did not answer", n)
	}
	close(dead) // it is back
	deadline := time.Now().Add(5 * time.Second)
	fs.stat = func(string) (unix.Statfs_t, error) {
		return unix.Statfs_t{Frsize: 1, Blocks: 7, Bfree: 3, Bavail: 3}, nil
	}
	for i := 3; ; i++ {
		if got := collect(t, c, t0.Add(time.Duration(i)*time.Second)); got["data.filesystem.stuck"+nfs] == 0 {
			expect(t, got, map[string]float64{"data.filesystem.available_bytes" + root: 3})
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the file system is back and still counts as stuck")
		}
	}
}

func TestCgroups(t *testing.T) {
	id := strings.Repeat("ab12", 16)
	files := machine(1, 0, 0, 0)
	files["sys/fs/cgroup/cgroup.controllers"] = "cpu io memory pids\n"
	unit := func(path string) {
		files["sys/fs/cgroup"+path+"/cpu.stat"] = "usage_usec 5000000\nuser_usec 1\nnr_periods 10\nnr_throttled 3\nthrottled_usec 250000\n"
		files["sys/fs/cgroup"+path+"/memory.current"] = "1000\n"
		files["sys/fs/cgroup"+path+"/memory.max"] = "max\n"
		files["sys/fs/cgroup"+path+"/memory.stat"] = "anon 5\ninactive_file 300\n"
		files["sys/fs/cgroup"+path+"/memory.events"] = "low 0\noom 1\noom_kill 4\n"
		files["sys/fs/cgroup"+path+"/io.stat"] = "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:0 rbytes=5 wbytes=6 rios=1 wios=1\n"
		files["sys/fs/cgroup"+path+"/pids.current"] = "12\n"
		files["sys/fs/cgroup"+path+"/io.pressure"] = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"
	}
	unit("/system.slice/nginx.service")
	unit("/system.slice/nginx.service/worker") // part of the service
	pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-" + id + ".scope"
	unit(pod)
	unit("/docker/" + id)
	files["sys/fs/cgroup"+pod+"/memory.max"] = "2000\n"
	dir := tree(t, files)
	c := newCollector(t, dir, io.Discard)
	got := collect(t, c, t0)
	nginx, container := `{cgroup="/system.slice/nginx.service"}`, fmt.Sprintf(`{cgroup="%s", container="%s"}`, pod, id[:12])
	expect(t, got, map[string]float64{
		"data.cgroup.cpu_seconds_total" + nginx: 5, "data.cgroup.cpu_throttled_seconds_total" + nginx: 0.25, "data.cgroup.memory_bytes" + nginx: 1000,
		"data.cgroup.memory_working_set_bytes" + nginx: 700, "data.cgroup.oom_kills_total" + nginx: 4, "data.cgroup.read_bytes_total" + nginx: 15,
		"data.cgroup.writes_total" + nginx: 3, "data.cgroup.pids" + container: 12, "data.cgroup.memory_limit_bytes" + container: 2000,
		fmt.Sprintf(`data.cgroup.pids{cgroup="/docker/%s", container="%s"}`, id, id[:12]):      12,
		`data.cgroup.stall_seconds_total{cgroup="/system.slice/nginx.service", resource="io"}`: 1.5,
	})
	expectNone(t, got, "data.cgroup.memory_limit_bytes"+nginx, "data.cgroup.cpu_usage", `data.cgroup.pids{cgroup="/system.slice/nginx.service/`)

	write(t, dir+"/sys/fs/cgroup/system.slice/nginx.service/cpu.stat", "usage_usec 7000000\n")
	if err := os.RemoveAll(dir + "/sys/fs/cgroup/docker"); err != nil {
		t.Fatal(err)
	}
	got = collect(t, c, t0.Add(10*time.Second))
	expect(t, got, map[string]float64{"data.cgroup.cpu_usage" + nginx: 20})
	expectNone(t, got, `data.cgroup.pids{cgroup="/docker`)
}

func TestManyProcessesStayFewSeries(t *testing.T) {
	files := machine(1, 0, 0, 0)
	for i := range 300 {
		files[fmt.Sprintf("proc/%d/stat", 1000+i)] = procStat(1000+i, fmt.Sprintf("p%d", i), 'S', 1, i, 1, 1, i)
	}
	dir := tree(t, files)
	c := newCollector(t, dir, io.Discard)
	collect(t, c, t0)
	for i := range 300 {
		write(t, fmt.Sprintf("%s/proc/%d/stat", dir, 1000+i), procStat(1000+i, fmt.Sprintf("p%d", i), 'S', 1, i+(300-i)*10, 1, 1, i))
	}
	got := collect(t, c, t0.Add(10*time.Second))
	expect(t, got, map[string]float64{`data.process.cpu_usage{process="p0"}`: 300, `data.process.memory_bytes{process="p299"}`: 299 * float64(os.Getpagesize())})
	n := 0
	for name := range got {
		if strings.HasPrefix(name, "data.process.memory_bytes") {
			n++
		}
	}
	if n != 2*topProcesses {
		t.Errorf("%d processes told by name, want %d", n, 2*topProcesses)
	}
}

func TestNoHost(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "hostname") {
		t.Errorf("error %v", err)
	}
}

// TestSteady: a second collection of the same machine makes hardly any garbage.
func TestSteady(t *testing.T) {
	dir := tree(t, machine(64, 8, 8, 100))
	c := newCollector(t, dir, io.Discard)
	var out []Sample
	at := t0
	next := func() {
		at = at.Add(10 * time.Second)
		out = c.Collect(context.Background(), at, out[:0])
	}
	next()
	next()
	if n := testing.AllocsPerRun(5, next); n > 1000 {
		t.Errorf("%v allocations a collection of %d samples", n, len(out))
	}
}

func BenchmarkCollect(b *testing.B) {
	c := newCollector(b, "", io.Discard)
	var out []Sample
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out = c.Collect(context.Background(), t0.Add(time.Duration(i)*10*time.Second), out[:0])
	}
	b.ReportMetric(float64(len(out)), "samples")
}

func BenchmarkCollectLarge(b *testing.B) {
	dir := tree(b, machine(96, 12, 8, 500))
	c := newCollector(b, dir, io.Discard)
	var out []Sample
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out = c.Collect(context.Background(), t0.Add(time.Duration(i)*10*time.Second), out[:0])
	}
	b.ReportMetric(float64(len(out)), "samples")
}
