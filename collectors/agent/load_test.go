package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkAgent measures what an agent costs in a process of its own: a machine with 1 000 series, 100 lines a second, the server over HTTP.
//
//	go test -run '^$' -bench Agent -benchtime 2000x ./collectors/agent
//
// A round is one line, thus 10 ms; the budget is 1 % of a core and 50 MB.
func BenchmarkAgent(b *testing.B) {
	s := newServer(b)
	s.Start()
	dir := b.TempDir()
	log, machine := dir+"/app.log", dir+"/machine"
	largeMachine(b, machine)
	put(b, log, "")
	configFile := dir + "/agent.yaml"
	put(b, configFile, fmt.Sprintf("server: %s\nhostname: h\njournal: false\nhost: {proc: %s/proc, sys: %s/sys}\nlogs: [{paths: [%s]}]\nspool: {dir: %s/spool}\n", s.URL, machine, machine, log, dir))
	cmd := child(b, configFile)
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	series := 0
	waitFor(b, "two measurements", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		series = len(s.last)
		return s.samples["data.load.avg_1m"] >= 2
	})
	if series < 1000 {
		b.Fatalf("%d series are too few for the measurement", series)
	}
	began, used := time.Now(), cpuOf(b, cmd.Process.Pid)
	b.ResetTimer()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; n < b.N; {
		<-tick.C
		for due := min(b.N, int(time.Since(began)/(10*time.Millisecond))); n < due; n++ {
			put(b, log, fmt.Sprintf("2026-05-01T12:00:00.%09d INFO [worker-%d] request %d of user %d took %d ms path=/api/v2/orders status=200\n", n, n%8, n, n*7919%10000, n%300))
		}
	}
	waitFor(b, "all lines", func() bool { return len(s.lines()) >= b.N })
	wall := time.Since(began)
	used = cpuOf(b, cmd.Process.Pid) - used
	b.ReportMetric(float64(series), "series")
	b.ReportMetric(100*used.Seconds()/wall.Seconds(), "%core")
	b.ReportMetric(status(b, cmd.Process.Pid, "VmRSS:")/1e6, "MB-resident")
	b.ReportMetric(status(b, cmd.Process.Pid, "VmHWM:")/1e6, "MB-peak")
	b.ReportMetric(status(b, cmd.Process.Pid, "RssFile:")/1e6, "MB-program")
}

func cpuOf(t testing.TB, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func status(t testing.TB, pid int, name string) (size float64) {
	each(fmt.Sprintf("/proc/%d/status", pid), func(n, v string) {
		if n == name {
			kb, _ := strconv.Atoi(v)
			size = float64(kb) * 1024
		}
	})
	if size == 0 {
		t.Errorf("the process has no %s", name)
	}
	return size
}

// largeMachine writes the files of a machine with 64 processors, 16 disks, 8 interfaces and 300 processes; what is missing is copied from this
// one.
func largeMachine(t testing.TB, dir string) {
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"loadavg", "uptime", "meminfo", "vmstat", "net/snmp", "net/netstat", "net/sockstat", "net/tcp", "self/mounts", "sys/fs/file-nr",
		"pressure/cpu", "pressure/io", "pressure/memory", "sys/kernel/osrelease"} {
		if b, err := os.ReadFile("/proc/" + name); err == nil {
			write("proc/"+name, string(b))
		}
	}
	stat := "cpu  64000 1280 19200 512000 6400 0 3200 640 0 0\n"
	for i := range 64 {
		stat += fmt.Sprintf("cpu%d 1000 20 300 8000 100 0 50 10 0 0\n", i)
	}
	write("proc/stat", stat+"intr "+strings.Repeat("12345 ", 2000)+"\nctxt 15205441\nbtime 1795441357\nprocesses 41144\nprocs_running 2\nprocs_blocked 1\n")
	disks, interfaces := "", "a\nb\n"
	for i := range 16 {
		disks += fmt.Sprintf(" 254 %d vd%c 294058 122726 14386858 76300 1047717 474178 110154808 169229 3 116652 276668 58888 51 95359824 14315 333539 16823\n", i, 'a'+i)
	}
	for i := range 8 {
		interfaces += fmt.Sprintf("  eth%d: 1039206048 57568 1 2 0 0 0 7 5102969 43658 3 4 0 5 6 0\n", i)
		write(fmt.Sprintf("sys/class/net/eth%d/operstate", i), "up\n")
	}
	write("proc/diskstats", disks)
	write("proc/net/dev", interfaces)
	for i := range 300 {
		write(fmt.Sprintf("proc/%d/stat", 1000+i), fmt.Sprintf("%d (program %d) S 1 1 1 0 -1 4194304 99 0 0 0 500 20 0 0 20 0 4 0 77 3133440 %d 18446744073709551615 1\n", 1000+i, i%40, i*10))
	}
}
