package host

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kemi"
)

var pageSize = os.Getpagesize()

func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EOPNOTSUPP)
}

// sector is what /proc/diskstats counts in, whatever the device's own sectors are.
const sector = 512

// disk measures /proc/diskstats: whole devices that have done anything since the machine started.
type disk struct {
	c       *Collector
	path    string
	devices keyed[device]
}

type device struct {
	partition bool
	usage     kemi.Labels
	series    []kemi.Labels // as diskColumns
	busy      uint64        // milliseconds, as read last
}

// diskColumns are the columns after the name, in the kernel's order; those without a name are left out.
var diskColumns = []struct {
	metric string
	factor float64
}{
	{"reads_total", 1}, {"reads_merged_total", 1}, {"read_bytes_total", sector}, {"read_seconds_total", 1e-3},
	{"writes_total", 1}, {"writes_merged_total", 1}, {"written_bytes_total", sector}, {"write_seconds_total", 1e-3},
	{"io_now", 1}, {"io_seconds_total", 1e-3}, {"io_weighted_seconds_total", 1e-3},
	{"discards_total", 1}, {"", 0}, {"discarded_bytes_total", sector}, {"discard_seconds_total", 1e-3},
	{"flushes_total", 1}, {"flush_seconds_total", 1e-3},
}

const columnBusy = 9

func newDisk(c *Collector) *disk { return &disk{c: c, path: c.o.Proc + "/diskstats"} }

func (a *disk) newDevice(name string) device {
	d := device{usage: a.c.series("data.disk.usage", "device", name), series: make([]kemi.Labels, len(diskColumns))}
	// A partition's numbers are part of its disk's. A name with a slash has an exclamation mark in /sys.
	_, err := os.Stat(filepath.Join(a.c.o.Sys, "class/block", sysName(name), "partition"))
	d.partition = err == nil
	for i, col := range diskColumns {
		if col.metric != "" {
			d.series[i] = a.c.series("data.disk."+col.metric, "device", name)
		}
	}
	return d
}

func sysName(name string) string {
	b := []byte(name)
	for i := range b {
		if b[i] == '/' {
			b[i] = '!'
		}
	}
	return string(b)
}

func (a *disk) collect(r *round) error {
	b, err := r.files.readPath(a.path)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := field(skip(l, 2))
		if len(name) == 0 {
			continue
		}
		var columns [17]uint64
		n, any := 0, uint64(0)
		for ; n < len(columns); n++ {
			f, next := field(rest)
			v, ok := natural(f)
			if !ok {
				break
			}
			columns[n], rest = v, next
			any |= v
		}
		if any == 0 || n <= columnBusy {
			continue // a device that was never used: loop0 to loop7, ram disks
		}
		d, first := a.devices.get(r, name, a.newDevice)
		if d.partition {
			continue
		}
		for i := range columns[:n] {
			if d.series[i] != nil {
				r.emit(d.series[i], float64(columns[i])*diskColumns[i].factor)
			}
		}
		if busy := columns[columnBusy]; !first && r.elapsed > 0 && busy >= d.busy {
			r.emit(d.usage, min(100, float64(busy-d.busy)/10/r.elapsed))
		}
		d.busy = columns[columnBusy]
	}
	a.devices.forget(r)
	return nil
}
