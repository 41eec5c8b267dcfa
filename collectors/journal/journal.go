package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"kemi"
)

const (
	maxEntries = 256
	// maxMessage is how long a record can be; a longer message is handed out in parts.
	maxMessage = 1 << 20
	// maxPrinted is how long a printed entry can be; a longer one is left out. Bytes that are not text are printed as numbers.
	maxPrinted = 16 << 20
	maxStreams = 1000
)

// Position is how far the journal was read.
type Position struct {
	Cursor string `json:"cursor"`
	At     int64  `json:"at"` // microseconds since the epoch: where to go on if the journal does not know the cursor any more
}

// Entry is a record and the position after it. The caller keeps both or neither.
type Entry struct {
	Record   kemi.LogRecord
	Position Position
}

// Options are what a Journal takes from its surroundings.
type Options struct {
	Command  []string      // "journalctl" if empty; more arguments choose what is read
	Labels   kemi.Labels   // of every record
	Position Position      // after what the caller has kept; zero: none
	Since    time.Duration // how far back to begin without a position
	Out      chan<- []Entry
	Log      *slog.Logger
	Now      func() time.Time
	Backoff  time.Duration // between one journalctl that ended and the next: 1 s if 0, growing thirtyfold
}

// Stats are counters that may be read at any time.
type Stats struct{ Lines, Bytes, Bad, Restarts atomic.Int64 }

// Journal follows the journal.
type Journal struct {
	Stats Stats

	o       Options
	pos     Position
	skip    int64 // entries up to this time were handed out before
	streams map[[2]string]kemi.Labels
	lastAt  kemi.Nanos
}

// New checks the options; it runs nothing yet.
func New(o Options) *Journal {
	if len(o.Command) == 0 {
		o.Command = []string{"journalctl"}
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	return &Journal{o: o, pos: o.Position, streams: map[[2]string]kemi.Labels{}}
}

// Run follows the journal until ctx ends. Where there is no journalctl it says so and returns.
func (j *Journal) Run(ctx context.Context) error {
	path, err := exec.LookPath(j.o.Command[0])
	if err != nil {
		j.o.Log.Info("the journal is not followed: there is no journalctl on this machine", "err", err)
		return nil
	}
	wait := j.o.Backoff
	for {
		began := j.o.Now()
		handed := j.Stats.Lines.Load()
		err := j.follow(ctx, path)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // journalctl was ended on purpose
		}
		if j.Stats.Lines.Load() > handed || j.o.Now().Sub(began) > time.Minute {
			wait = j.o.Backoff
		}
		j.Stats.Restarts.Add(1)
		j.o.Log.Warn("journalctl ended and is run again", "err", err, "in", wait)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		wait = min(2*wait, 30*j.o.Backoff)
	}
}

// arguments are those of a journalctl that goes on after the position.
func (j *Journal) arguments() []string {
	args := append([]string(nil), j.o.Command[1:]...)
	// Without --no-tail, --follow would begin ten entries before the end, whatever else is said.
	args = append(args, "--output=json", "--all", "--follow", "--no-tail", "--no-pager", "--quiet", "--output-fields="+fields)
	switch {
	case j.pos.Cursor != "":
		return append(args, "--after-cursor="+j.pos.Cursor)
	case j.pos.At > 0:
		// Whole seconds; what was handed out before is skipped by its time.
		j.skip = j.pos.At
		return append(args, "--since=@"+strconv.FormatInt(j.pos.At/1e6, 10))
	}
	return append(args, "--since=@"+strconv.FormatInt(max(0, j.o.Now().Add(-j.o.Since).Unix()), 10))
}

// follow runs journalctl until it ends, and tells why it did.
func (j *Journal) follow(ctx context.Context, path string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, j.arguments()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	stderr := &last{}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := j.read(ctx, stdout)
	cancel()
	waitErr := cmd.Wait()
	said := strings.TrimSpace(stderr.String())
	if strings.Contains(said, "cursor") && j.pos.Cursor != "" {
		// "Failed to seek to cursor": the journal was replaced.
		j.pos.Cursor = ""
	}
	if said != "" {
		return errors.New(said)
	}
	return errors.Join(readErr, waitErr)
}

// read hands out what journalctl prints.
func (j *Journal) read(ctx context.Context, r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var out []Entry
	for {
		line, err := readLine(in)
		if len(line) > 0 {
			out = j.take(out, line)
		} else if err == nil {
			j.Stats.Bad.Add(1)
		}
		if len(out) > 0 && (err != nil || in.Buffered() == 0 || len(out) >= maxEntries) {
			select {
			case j.o.Out <- out:
				out = nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
	}
}

// readLine reads a line of any length; of one that is too long nothing is left.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return bytes.TrimSpace(line), err
	}
	long := bytes.Clone(line)
	for {
		line, err = in.ReadSlice('\n')
		if len(long) <= maxPrinted {
			long = append(long, line...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if len(long) > maxPrinted {
				long = nil
			}
			return bytes.TrimSpace(long), err
		}
	}
}

// take appends what a printed entry says to out.
func (j *Journal) take(out []Entry, line []byte) []Entry {
	p, err := parse(line)
	if err != nil {
		j.Stats.Bad.Add(1)
		j.o.Log.Debug("entry of the journal is left out", "err", err)
		return out
	}
	if p.position.At <= j.skip || p.position.Cursor == j.pos.Cursor {
		return out
	}
	before := j.pos
	j.pos = p.position
	if p.record.Body == "" {
		return out // nothing to read; the position goes on with the next one
	}
	r := p.record
	// Entries of one microsecond keep their order. A clock that was set back is left as it is.
	if r.At <= j.lastAt && j.lastAt-r.At < 1e6 {
		r.At = j.lastAt + 1
	}
	r.Stream = j.stream(p.service, p.unit)
	body := r.Body
	for part := 1; ; part++ {
		j.lastAt = r.At
		n := cut(body)
		e := Entry{Record: r, Position: j.pos}
		e.Record.Body, body = body[:n], body[n:]
		if body != "" || part > 1 {
			e.Record.Attrs = r.Attrs.With("line.part", strconv.Itoa(part)).With("line.last", strconv.FormatBool(body == ""))
		}
		if body != "" {
			e.Position = before // the entry is not over
		}
		out = append(out, e)
		j.Stats.Lines.Add(1)
		j.Stats.Bytes.Add(int64(n))
		if body == "" {
			return out
		}
		r.At++
	}
}

// cut is how much of s makes a record, without cutting a rune.
func cut(s string) int {
	if len(s) <= maxMessage {
		return len(s)
	}
	for n := maxMessage; n > maxMessage-utf8.UTFMax; n-- {
		if utf8.RuneStart(s[n]) {
			return n
		}
	}
	return maxMessage
}

func (j *Journal) stream(service, unit string) kemi.Labels {
	k := [2]string{service, unit}
	s, ok := j.streams[k]
	if !ok {
		s = j.o.Labels.With("service", service).With("unit", unit)
		if len(j.streams) >= maxStreams { // units that come and go
			clear(j.streams)
		}
		j.streams[k] = s
	}
	return s
}

// last keeps the end of what is written to it.
type last struct{ b []byte }

func (l *last) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if n := len(l.b) - 1024; n > 0 {
		l.b = append(l.b[:0], l.b[n:]...)
	}
	return len(p), nil
}

func (l *last) String() string { return string(l.b) }
