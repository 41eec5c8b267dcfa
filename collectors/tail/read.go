package tail

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kemi"
)

// resolve decides where a fresh file begins. It is false while that cannot be known.
func (t *Tail) resolve(f *file, now time.Time) bool {
	info, err := f.fd.Stat()
	if err != nil {
		f.dirty = false
		return false
	}
	f.see(info, now)
	if f.size == 0 {
		f.dirty = false
		return false
	}
	// First whether it looks like a copy, then whether an original was truncated: in this order a truncation in between
	// is not missed.
	copies := false
	for _, o := range t.order {
		if o == f || o.fresh || o.fd == nil && !(o.dirty && t.wake(o)) {
			continue
		}
		if info, err := o.fd.Stat(); err == nil {
			o.see(info, now)
		}
		copies = copies || f.isPrefixOf(o)
	}
	for _, o := range t.order {
		if o == f || o.fresh || o.fd == nil {
			continue
		}
		if info, err := o.fd.Stat(); err == nil && !o.pos.fits(o.fd, info.Size()) {
			o.see(info, now)
			if t.truncated(o, now); !f.fresh {
				return true
			}
		}
	}
	for i, p := range t.former {
		if p.fits(f.fd, f.size) {
			// What copytruncate has copied: its original was read up to there.
			path := p.Path
			p.Dev, p.Ino = f.pos.Dev, f.pos.Ino
			f.pos, f.fresh, f.atStart = p.Position, false, false
			f.stream = f.in.stream(path)
			t.former = append(t.former[:i:i], t.former[i+1:]...)
			t.pending = append(t.pending, t.only(f))
			t.Stats.Copies.Add(1)
			return true
		}
	}
	if copies {
		if f.suspect.IsZero() {
			f.suspect = now
		}
		if now.Sub(f.suspect) < t.o.CopyGrace {
			return false // it stays dirty: the next look decides
		}
	}
	f.fresh = false
	return true
}

// truncated makes f begin anew, after the copies of what it held.
func (t *Tail) truncated(f *file, now time.Time) {
	t.Stats.Truncations.Add(1)
	t.o.Log.Debug("file was truncated or written anew", "path", f.path, "offset", f.pos.Offset, "size", f.size)
	t.remember(f.pos, now)
	f.restart()
	f.zeros = true
	t.scan(now)
	for _, g := range t.order {
		if g.fresh && g.fd != nil {
			t.resolve(g, now)
		}
	}
	t.link()
}

// read hands out what is new in f, up to a turn's worth, and tells whether there is more.
func (t *Tail) read(ctx context.Context, f *file) (more bool, err error) {
	for done := 0; done < turn; {
		info, err := f.fd.Stat()
		if err != nil {
			t.complain(f.path, err)
			f.dirty = false
			return false, nil
		}
		now := t.o.Now()
		f.see(info, now)
		if f.size < f.pos.Offset {
			t.truncated(f, now)
			return true, nil
		}
		f.skipHole()
		// What stands before is read again with what is new: if it is another, so is the file.
		back := f.pos.LastLen
		head := f.readHead()
		n, err := f.fd.ReadAt(t.buf, f.pos.Offset-int64(back))
		if err != nil && !errors.Is(err, io.EOF) {
			t.complain(f.path, err)
			f.dirty = false
			return false, nil
		}
		if n < back || back > 0 && hash(t.buf[:back]) != f.pos.Last {
			t.truncated(f, now)
			return true, nil
		}
		if f.pos.Offset == int64(back) {
			head = t.buf[:min(n, maxHead)]
		}
		f.learnHead(head)
		f.learnEncoding()
		whole := err != nil // to the end of the file
		used, err := t.split(ctx, f, t.buf[back:n], whole && now.Sub(f.changed) >= t.holdFor(f), now)
		if err != nil {
			return false, err
		}
		done += used
		if used > 0 && !whole {
			continue
		}
		if whole {
			// What was written since the look at it has its own event or is found by the next look.
			f.held = n-back > used
			f.dirty = f.size > f.pos.Offset+int64(n-back-used)
			return f.dirty, nil //nolint:nilerr // the error was the end of the file
		}
		// The record is larger than the buffer.
		t.buf = append(t.buf, make([]byte, min(len(t.buf), maxLast+MaxLine+1-len(t.buf)))...)
	}
	return true, nil
}

// split hands out the records in data, which stand at the position of f, and tells how much of data they took.
func (t *Tail) split(ctx context.Context, f *file, data []byte, flush bool, now time.Time) (used int, err error) {
	for {
		if f.zeros && f.wide == notWide {
			n := 0
			for used+n < len(data) && data[used+n] == 0 {
				n++
			}
			if used += n; n > 0 {
				f.moved(data[:used], f.pos.Offset+int64(n))
			}
			f.zeros = used == len(data) // more may come
		}
		fr := f.in.next(data[used:], f.wide, flush)
		if !fr.ok {
			return used, nil
		}
		raw := data[used : used+fr.n]
		used += fr.n
		t.emit(f, raw, data[:used], fr, now)
		if len(t.pending) >= maxEntries || t.pendingBytes >= maxEntryBytes {
			if err := t.flush(ctx); err != nil {
				return used, err
			}
		}
	}
}

// emit puts one record among those to hand out.
func (t *Tail) emit(f *file, raw, upTo []byte, fr frame, now time.Time) {
	if f.in.Format == formatContainer && !fr.cut && f.pos.Part == 0 {
		t.emitPrinted(f, raw, upTo, now)
		return
	}
	body := text(f.wide.plain(raw))
	if f.atStart {
		if len(body) >= 3 && string(body[:3]) == string(byteOrderMark) {
			body = body[3:]
		}
		f.atStart = false
	}
	begin := f.pos.Offset
	f.moved(upTo, begin+int64(len(raw)))
	f.pos.At = kemi.MillisOf(now)
	var attrs kemi.Labels
	switch {
	case fr.cut || f.pos.Part > 0:
		if f.pos.Part == 0 {
			f.pos.Start = begin
		}
		f.pos.Part++
		attrs = kemi.LabelsOf("line.offset", strconv.FormatInt(f.pos.Start, 10), "line.part", strconv.Itoa(f.pos.Part), "line.last", strconv.FormatBool(!fr.cut))
		t.Stats.Parts.Add(1)
		if !fr.cut {
			f.pos.Start, f.pos.Part = 0, 0
		}
	case fr.held && f.in.join == nil:
		attrs = kemi.LabelsOf("line.partial", "true")
		t.Stats.Partial.Add(1)
	case len(body) == 0:
		return // an empty line says nothing
	}
	// Times ascend, so that sorting by time keeps the order of the file.
	at := max(kemi.NanosOf(now), t.lastAt+1)
	t.lastAt = at
	r := kemi.LogRecord{At: at, Stream: f.stream, Attrs: attrs, Body: string(body)}
	t.Stats.Lines.Add(1)
	t.Stats.Bytes.Add(int64(len(raw)))
	t.pending = append(t.pending, Entry{Record: r, Key: f.key, Position: f.pos})
	t.pendingBytes += len(body)
}

// emitPrinted is emit for files of container runtimes. A frame may hold several records; the position moves with the last.
func (t *Tail) emitPrinted(f *file, raw, upTo []byte, now time.Time) {
	f.atStart = false
	before := f.pos
	f.moved(upTo, f.pos.Offset+int64(len(raw)))
	f.pos.At = kemi.MillisOf(now)
	t.Stats.Bytes.Add(int64(len(raw)))
	for _, r := range f.in.printedRecords(raw) {
		if r.At == 0 {
			r.At = kemi.NanosOf(now)
		}
		r.Stream = f.stream
		t.Stats.Lines.Add(1)
		if r.Body == "" {
			continue // an empty line says nothing
		}
		t.pending = append(t.pending, Entry{Record: r, Key: f.key, Position: before})
		t.pendingBytes += len(r.Body)
	}
	if n := len(t.pending); n > 0 && t.pending[n-1].Key == f.key {
		t.pending[n-1].Position = f.pos
	} else {
		t.pending = append(t.pending, t.only(f))
	}
}

func (t *Tail) only(f *file) Entry { return Entry{Only: true, Key: f.key, Position: f.pos} }

// flush hands out what is pending. While nobody takes it, it still looks for new files: one that is opened can be deleted
// and is read all the same.
func (t *Tail) flush(ctx context.Context) error {
	if len(t.pending) == 0 {
		return ctx.Err()
	}
	entries := t.pending
	t.pending, t.pendingBytes = nil, 0
	for {
		select {
		case t.o.Out <- entries:
			return nil
		case <-t.tick.C:
			t.scan(t.o.Now())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// skipHole moves over what was never written after a truncation: a writer that does not append goes on where it was, and leaves
// a hole that reads as zeros.
func (f *file) skipHole() {
	if !f.zeros || f.pos.Offset != 0 {
		return
	}
	at, err := unix.Seek(int(f.fd.Fd()), 0, unix.SEEK_DATA)
	if err == nil && at > 0 && at <= f.size {
		f.moved(make([]byte, min(at, maxLast)), at)
	}
}
