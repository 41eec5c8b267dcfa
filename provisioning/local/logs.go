package local

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The output of an instance goes to a file that it writes itself, so that it goes on when the server is gone.
const (
	maxLog     = 10 << 20 // bytes, beyond which a log is moved to its .1 and begun anew; twice that is kept of an instance
	checkEvery = 5 * time.Second
	keepEnded  = 50 // logs of instances that are gone
)

// keepLogsSmall looks after the log files until Close.
func (d *Driver) keepLogsSmall() {
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for {
		if err := d.trimLogs(maxLog, keepEnded); err != nil {
			d.o.Log.Warn("logs of instances not kept small", "err", err)
		}
		select {
		case <-d.ctx.Done():
			return
		case <-t.C:
		}
	}
}

// trimLogs cuts logs of running instances that are larger than most, and removes all but the newest ended logs of instances that are gone.
func (d *Driver) trimLogs(most int64, ended int) error {
	files, err := filepath.Glob(filepath.Join(d.o.Dir, "logs", "*.log"))
	if err != nil {
		return err
	}
	live := map[string]bool{}
	d.mu.Lock()
	for _, p := range d.pools {
		for _, s := range p.slots {
			live[s.logFile()] = true
		}
	}
	d.mu.Unlock()
	var gone []string
	var errs []error
	for _, f := range files {
		if !live[f] {
			gone = append(gone, f)
			continue
		}
		if fi, err := os.Stat(f); err == nil && fi.Size() > most {
			errs = append(errs, cut(f, most))
		}
	}
	// The id of an instance, which ends the name, begins with its time.
	byAge := func(f string) string { return f[max(0, strings.LastIndexByte(strings.TrimSuffix(f, ".log"), '.')):] }
	slices.SortFunc(gone, func(a, b string) int { return strings.Compare(byAge(a), byAge(b)) })
	for _, f := range gone[:max(0, len(gone)-ended)] {
		errs = append(errs, remove(f), remove(f+".1"))
	}
	return errors.Join(errs...)
}

func remove(f string) error {
	if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// cut moves the newest bytes of a log to its .1 and empties it. The writer appends, so it goes on at the new end; what it writes between
// the two steps is lost.
func cut(file string, most int64) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Seek(max(0, fi.Size()-most), io.SeekStart); err != nil {
		return err
	}
	old, err := os.OpenFile(file+".1", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(old, io.LimitReader(f, most))
	return errors.Join(err, old.Close(), f.Truncate(0))
}
