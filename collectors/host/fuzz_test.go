package host

import (
	"context"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

// FuzzFiles puts anything into a file of the kernel: the collector neither fails nor tells a value that is not finite.
func FuzzFiles(f *testing.F) {
	seeds := machine(2, 2, 2, 1)
	names := []string{"proc/stat", "proc/loadavg", "proc/uptime", "proc/meminfo", "proc/vmstat", "proc/diskstats", "proc/net/dev", "proc/net/snmp", "proc/net/netstat",
		"proc/net/sockstat", "proc/net/tcp", "proc/self/mounts", "proc/pressure/cpu", "proc/100/stat", "proc/sys/fs/file-nr", "sys/fs/cgroup/a.service/cpu.stat",
		"sys/fs/cgroup/a.service/io.stat", "sys/fs/cgroup/a.service/memory.stat", "sys/fs/cgroup/a.service/memory.current", "sys/fs/cgroup/a.service/io.pressure"}
	for i, name := range names {
		f.Add(uint8(i), seeds[name])
	}
	f.Add(uint8(16), "254:0 rbytes=10 wbytes=20 rios=1 wios=2\n")
	f.Add(uint8(18), "max\n")
	f.Add(uint8(0), "cpu 18446744073709551615 18446744073709551615 1 1 1 1 1 1\ncpu0\n")
	f.Fuzz(func(t *testing.T, which uint8, content string) {
		dir := tree(t, map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu\n"})
		write(t, dir+"/"+names[int(which)%len(names)], content)
		c := newCollector(t, dir, io.Discard)
		for i := range 2 {
			for _, s := range c.Collect(context.Background(), t0.Add(time.Duration(i)*time.Second), nil) {
				if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) {
					t.Fatalf("%s = %v", s.Labels, s.Value)
				}
			}
		}
	})
}

// FuzzParse holds the parsers against each other and against simple truths.
func FuzzParse(f *testing.F) {
	f.Add("8686 (cat) R 8673 8673 11780 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 1 0 381818 3133440 360 184")
	f.Add("/dev/vda / ext4 rw,relatime,discard 0 0")
	f.Add("/dev/a\\040b /x\\011y ext4 ro 0 0")
	f.Add("some avg10=15.80 avg60=29.60 avg300=28.83 total=380448132")
	f.Add("-12.50")
	f.Fuzz(func(t *testing.T, s string) {
		b := []byte(s)
		parseProcess(b)
		parseMount(b)
		parsePressure(b)
		parseCPU(b)
		selectMounts(b)
		if v, ok := number(b); ok && (math.IsNaN(v) || math.IsInf(v, 0)) {
			t.Fatalf("number %q = %v", s, v)
		}
		var words []string
		for rest := b; ; {
			var w []byte
			if w, rest = field(rest); len(w) == 0 {
				break
			}
			words = append(words, string(w))
		}
		want := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })
		if strings.Join(words, "|") != strings.Join(want, "|") {
			t.Fatalf("fields of %q are %q, want %q", s, words, want)
		}
	})
}
