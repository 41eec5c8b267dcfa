package host

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/codec"
)

// Options are what a Collector takes from its surroundings.
type Options struct {
	Host   string      // the value of the label host
	Labels kemi.Labels // more labels for every series

	// Where the kernel's files and the file systems of the machine are; "/proc", "/sys" and "/" if empty. An agent in a container gets
	// the host's by mounts.
	Proc, Sys, Root string

	Log *slog.Logger
}

// Sample is one value of one series. Labels are the collector's own and the same from one collection to the next: for reading only.
type Sample struct {
	Labels kemi.Labels
	Value  float64
}

// Collector measures. It is for one goroutine.
type Collector struct {
	round
	o     Options
	base  kemi.Labels
	areas []area
	told  map[string]string // what has been logged of an area
}

// area is one thing that is measured. What it reads and finds missing is an fs.ErrNotExist; then it is left out.
type area struct {
	name    string
	collect func(r *round) error
}

// round is what a collection works with.
type round struct {
	ctx     context.Context //nolint:containedctx // of the one Collect that runs
	elapsed float64         // seconds since the round before; 0 in the first one
	n       uint64
	last    time.Time
	out     []Sample
	files   reader
}

func (r *round) emit(s kemi.Labels, v float64) { r.out = append(r.out, Sample{s, v}) }

// New makes a collector; it reads nothing yet.
func New(o Options) (*Collector, error) {
	if o.Host == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "hostname: empty; give the name of this machine")
	}
	for dst, v := range map[*string]string{&o.Proc: "/proc", &o.Sys: "/sys", &o.Root: "/"} {
		if *dst == "" {
			*dst = v
		}
	}
	c := &Collector{o: o, base: o.Labels.With(codec.HostLabel, o.Host), told: map[string]string{}}
	c.areas = []area{
		{"cpu", newCPU(c).collect},
		{"load", newLoad(c).collect},
		{"system", newSystem(c).collect},
		{"memory", newMemory(c).collect},
		{"paging", newPaging(c).collect},
		{"disk", newDisk(c).collect},
		{"filesystem", newFilesystem(c).collect},
		{"network", newNetwork(c).collect},
		{"protocols", newProtocols(c).collect},
		{"sockets", newSockets(c).collect},
		{"processes", newProcesses(c).collect},
		{"pressure", newPressure(c).collect},
		{"cgroup", newCgroups(c).collect},
	}
	return c, nil
}

// Collect reads everything once and appends the samples to dst. Shares of time and rates need a collection before; so
// the first one has fewer. A part that cannot be read is logged, once, and left out.
func (c *Collector) Collect(ctx context.Context, now time.Time, dst []Sample) []Sample {
	c.ctx, c.out, c.elapsed = ctx, dst, 0
	if !c.last.IsZero() {
		c.elapsed = max(0, now.Sub(c.last).Seconds())
	}
	c.last = now
	c.n++
	for _, a := range c.areas {
		c.tell(a.name, a.collect(&c.round))
	}
	dst, c.out = c.out, nil
	return dst
}

// tell logs err unless it is the same as before.
func (c *Collector) tell(name string, err error) {
	if err == nil {
		delete(c.told, name)
		return
	}
	if c.told[name] == err.Error() {
		return
	}
	c.told[name] = err.Error()
	level := slog.LevelWarn
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported) {
		level = slog.LevelDebug
	}
	c.o.Log.Log(c.ctx, level, "part of the host is not measured", "area", name, "err", err)
}

// series is the label set of a metric, pairs being names and values.
func (c *Collector) series(metric string, pairs ...string) kemi.Labels {
	all := make([]string, 0, 2*len(c.base)+len(pairs)+2)
	for _, l := range c.base {
		all = append(all, l.Name, l.Value)
	}
	return kemi.LabelsOf(append(append(all, pairs...), kemi.MetricName, metric)...)
}

// several makes the series of some metrics with the same labels.
func (c *Collector) several(prefix string, metrics []string, pairs ...string) []kemi.Labels {
	out := make([]kemi.Labels, len(metrics))
	for i, m := range metrics {
		out[i] = c.series(prefix+m, pairs...)
	}
	return out
}

// keyed keeps what belongs to things that come and go: devices, interfaces, cgroups.
type keyed[T any] struct {
	of map[string]*kept[T]
}

type kept[T any] struct {
	value T
	round uint64
}

// get is the value of key, made by create if there is none. first tells that it was made now.
func (k *keyed[T]) get(r *round, key []byte, create func(key string) T) (v *T, first bool) {
	e, ok := k.of[string(key)]
	if !ok {
		if k.of == nil {
			k.of = map[string]*kept[T]{}
		}
		name := string(key)
		e = &kept[T]{value: create(name)}
		k.of[name] = e
	}
	e.round = r.n
	return &e.value, !ok
}

// forget drops what this round has not asked for.
func (k *keyed[T]) forget(r *round) {
	for name, e := range k.of {
		if e.round != r.n {
			delete(k.of, name)
		}
	}
}

// maxFile bounds what is read of one file at once; the largest that is read whole is /proc/stat of a machine with
// thousands of interrupts.
const maxFile = 4 << 20

// reader reads small files into one buffer.
type reader struct{ buf []byte }

// readPath is the content of a file, valid until the next one is read.
func (f *reader) readPath(path string) ([]byte, error) {
	fd, err := open(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if f.buf == nil {
		f.buf = make([]byte, 16<<10)
	}
	n := 0
	for {
		if n == len(f.buf) {
			if n >= maxFile {
				return nil, &fs.PathError{Op: "read", Path: path, Err: io.ErrShortBuffer}
			}
			f.buf = append(f.buf, make([]byte, len(f.buf))...)
		}
		m, err := unix.Read(fd, f.buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case m <= 0:
			return f.buf[:n], nil
		default:
			n += m
		}
	}
}

// lines passes the lines of a file of any size to f, a stretch at a time.
func (f *reader) lines(path string, each func(line []byte)) error {
	fd, err := open(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if f.buf == nil {
		f.buf = make([]byte, 16<<10)
	}
	n := 0
	for {
		m, err := unix.Read(fd, f.buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if m <= 0 {
			if n > 0 {
				each(f.buf[:n])
			}
			return nil
		}
		n += m
		rest := f.buf[:n]
		for {
			i := indexNewline(rest)
			if i < 0 {
				break
			}
			each(rest[:i])
			rest = rest[i+1:]
		}
		if len(rest) == len(f.buf) { // no line of the kernel is that long
			rest = rest[:0]
		}
		n = copy(f.buf, rest)
	}
}

func open(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}
