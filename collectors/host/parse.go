package host

import (
	"bytes"
	"math"
)

// line cuts the first line off b.
func line(b []byte) (first, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// field cuts the first word off b, with the blanks before it. It is empty at the end of b.
func field(b []byte) (first, rest []byte) {
	i := 0
	for i < len(b) && blank(b[i]) {
		i++
	}
	j := i
	for j < len(b) && !blank(b[j]) {
		j++
	}
	return b[i:j], b[j:]
}

// skip cuts n words off b.
func skip(b []byte, n int) []byte {
	for ; n > 0; n-- {
		_, b = field(b)
	}
	return b
}

// natural reads a decimal number without sign. What does not fit into 64 bits is not a number.
func natural(b []byte) (uint64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' || n > math.MaxUint64/10 {
			return 0, false
		}
		d := uint64(c - '0')
		if n*10 > math.MaxUint64-d {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// number reads a decimal number with or without sign and fraction, as the kernel writes them.
func number(b []byte) (float64, bool) {
	minus := len(b) > 0 && b[0] == '-'
	if minus {
		b = b[1:]
	}
	whole, part, _ := bytes.Cut(b, []byte{'.'})
	n, ok := natural(whole)
	if !ok {
		return 0, false
	}
	v := float64(n)
	if len(part) > 0 {
		f, ok := natural(part)
		if !ok {
			return 0, false
		}
		v += float64(f) / math.Pow10(len(part))
	}
	if minus {
		v = -v
	}
	return v, true
}

// nextNatural cuts a word off b and reads it; what is not a number is 0.
func nextNatural(b []byte) (uint64, []byte) {
	f, rest := field(b)
	n, _ := natural(f)
	return n, rest
}

// cpuTimes are the modes of a "cpu" line of /proc/stat in ticks. Guest time is part of user and nice there, and so it is here.
type cpuTimes struct {
	modes [8]uint64
	guest uint64
}

var cpuModes = [8]string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}

const modeIdle, modeIowait = 3, 4

// parseCPU reads what stands after the name in a "cpu" line.
func parseCPU(b []byte) cpuTimes {
	var t cpuTimes
	for i := range t.modes {
		t.modes[i], b = nextNatural(b)
	}
	g, b := nextNatural(b)
	n, _ := nextNatural(b)
	t.guest = g + n
	return t
}

// process is what one /proc/<pid>/stat tells.
type process struct {
	name    []byte
	state   byte
	kernel  bool // a thread of the kernel
	ticks   uint64
	threads uint64
	start   uint64
	pages   uint64 // resident
}

// parseProcess reads /proc/<pid>/stat. The name stands in parentheses and may hold anything, parentheses too.
func parseProcess(b []byte) (p process, ok bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return p, false
	}
	p.name = b[open+1 : end]
	f, b := field(bytes.TrimRight(b[end+1:], "\n"))
	if len(f) != 1 {
		return p, false
	}
	p.state = f[0]
	parent, b := nextNatural(b)
	p.kernel = parent == 2
	utime, b := nextNatural(skip(b, 9))
	stime, b := nextNatural(b)
	p.ticks = utime + stime
	p.threads, b = nextNatural(skip(b, 4))
	p.start, b = nextNatural(skip(b, 1))
	f, _ = field(skip(b, 1))
	p.pages, ok = natural(f)
	return p, ok
}

// mount is a line of /proc/<pid>/mounts.
type mount struct {
	device, point, fstype string
	readOnly              bool
}

// parseMount reads a line of mounts; blanks within names are written there as octal escapes.
func parseMount(b []byte) (m mount, ok bool) {
	device, b := field(b)
	point, b := field(b)
	fstype, b := field(b)
	options, _ := field(b)
	if len(options) == 0 {
		return m, false
	}
	m = mount{device: unescape(device), point: unescape(point), fstype: unescape(fstype)}
	for len(options) > 0 {
		var o []byte
		o, options, _ = bytes.Cut(options, []byte{','})
		m.readOnly = m.readOnly || string(o) == "ro"
	}
	return m, true
}

func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if v, ok := octal(b[i+1 : i+4]); ok {
				out = append(out, v)
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

func octal(b []byte) (byte, bool) {
	n := 0
	for _, c := range b {
		if c < '0' || c > '7' {
			return 0, false
		}
		n = n<<3 | int(c-'0')
	}
	return byte(n), n < 256
}

// pressureLine is a line of a pressure file: "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
type pressureLine struct {
	kind                 []byte
	avg10, avg60, avg300 float64
	total                float64 // microseconds
}

func parsePressure(b []byte) (p pressureLine, ok bool) {
	p.kind, b = field(b)
	for {
		var f []byte
		if f, b = field(b); len(f) == 0 {
			return p, ok
		}
		name, value, _ := bytes.Cut(f, []byte{'='})
		v, good := number(value)
		if !good {
			return p, false
		}
		switch string(name) {
		case "avg10":
			p.avg10 = v
		case "avg60":
			p.avg60 = v
		case "avg300":
			p.avg300 = v
		case "total":
			p.total, ok = v, true
		}
	}
}
