package tsdnote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// Config bounds what is kept and read.
type Config struct {
	MaxNotes int `yaml:"maxNotes"` // annotations of a project
	MaxRead  int `yaml:"maxRead"`  // annotations that one question reads
	MaxBytes int `yaml:"maxBytes"` // of one annotation
}

// DefaultConfig is meant for people and deployments, not for events of every request.
func DefaultConfig() Config { return Config{MaxNotes: 1_000_000, MaxRead: 10_000, MaxBytes: 64 << 10} }

// Validate tells which value cannot be.
func (c Config) Validate() error {
	for key, v := range map[string]int{"maxNotes": c.MaxNotes, "maxRead": c.MaxRead, "maxBytes": c.MaxBytes} {
		if v < 1 {
			return kemi.Errorf(kemi.ErrInvalid, "%s: %d: must be at least 1", key, v)
		}
	}
	return nil
}

const (
	noteKind = "opentsdb.note"
	listPage = 1000
	// noneFor is how long it is believed that a project has no notes: questions of data need not ask each time.
	noneFor = time.Second
)

// Notes are the annotations of all projects. It may be used concurrently.
type Notes struct {
	control store.Control
	cfg     Config
	now     func() time.Time

	mu    sync.Mutex
	count map[string]int       // of projects whose notes were counted
	none  map[string]time.Time // when it was seen that there are none
}

// New keeps notes in the control state.
func New(control store.Control, cfg Config, now func() time.Time) *Notes {
	return &Notes{control: control, cfg: cfg, now: now, count: map[string]int{}, none: map[string]time.Time{}}
}

// key sorts by time, and then by series; a note of all series comes first.
func key(at kemi.Millis, tsuid string) string { return fmt.Sprintf("%013d/%s", int64(at), tsuid) }

// maxTime is the last time that a key can hold.
const maxTime = 9_999_999_999_999

// Get is the note that begins at a time, of a series or (with no TSUID) of all; ErrNotFound if there is none.
func (n *Notes) Get(ctx context.Context, project, tsuid string, at kemi.Millis) (Note, error) {
	r, err := n.control.Get(ctx, project, noteKind, key(at, tsuid))
	if err != nil {
		return Note{}, err
	}
	return decode(r)
}

func decode(r store.Resource) (Note, error) {
	var note Note
	if err := json.Unmarshal(r.Spec, &note); err != nil {
		return note, fmt.Errorf("annotation %s: %w", r.Name, err)
	}
	return note, nil
}

// Put stores what becomes of the notes by the changes, all or none; with whole, a note that is there already is replaced.
func (n *Notes) Put(ctx context.Context, project string, changes []Change, whole bool) ([]Note, error) {
	for try := 0; ; try++ {
		notes, err := n.put(ctx, project, changes, whole)
		if errors.Is(err, kemi.ErrConflict) && try < 5 { // somebody else changed one meanwhile
			continue
		}
		return notes, err
	}
}

func (n *Notes) put(ctx context.Context, project string, changes []Change, whole bool) ([]Note, error) {
	byName := map[string]int{}
	var write []store.Resource
	var notes []Note
	added := 0
	for i := range changes {
		c := &changes[i]
		name := key(c.At(), c.TSUID)
		var old *Note
		r := store.Resource{Project: project, Kind: noteKind, Name: name}
		at, again := byName[name]
		if again {
			old, r = &notes[at], write[at]
		} else if had, err := n.control.Get(ctx, project, noteKind, name); err == nil {
			was, err := decode(had)
			if err != nil {
				return nil, err
			}
			old, r.Revision = &was, had.Revision
		} else if !errors.Is(err, kemi.ErrNotFound) {
			return nil, err
		} else {
			added++
		}
		note := c.onto(old, whole)
		spec, err := json.Marshal(note)
		if err != nil {
			return nil, err
		}
		if len(spec) > n.cfg.MaxBytes {
			return nil, kemi.Errorf(kemi.ErrTooLarge, "an annotation of %d bytes is larger than maxBytes = %d: shorten its notes", len(spec), n.cfg.MaxBytes)
		}
		r.Spec = spec
		if again {
			notes[at], write[at] = note, r
			continue
		}
		byName[name] = len(write)
		notes, write = append(notes, note), append(write, r)
	}
	if len(write) == 0 {
		return notes, nil
	}
	if err := n.room(ctx, project, added); err != nil {
		return nil, err
	}
	if _, err := n.control.PutAll(ctx, write); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.count[project] += added
	delete(n.none, project)
	n.mu.Unlock()
	return notes, nil
}

// room is an error if the project may not have so many more.
func (n *Notes) room(ctx context.Context, project string, added int) error {
	n.mu.Lock()
	have, counted := n.count[project]
	n.mu.Unlock()
	if !counted {
		have = 0
		for after := ""; ; {
			page, err := n.control.List(ctx, project, noteKind, store.ListOptions{After: after, Limit: listPage})
			if err != nil {
				return err
			}
			have += len(page)
			if len(page) < listPage {
				break
			}
			after = page[len(page)-1].Name
		}
		n.mu.Lock()
		n.count[project] = have
		n.mu.Unlock()
	}
	if have+added > n.cfg.MaxNotes {
		return kemi.Errorf(kemi.ErrLimited, "the project has %d annotations, maxNotes = %d: delete old ones", have, n.cfg.MaxNotes)
	}
	return nil
}

// Delete takes a note away; that there is none is no error.
func (n *Notes) Delete(ctx context.Context, project, tsuid string, at kemi.Millis) (bool, error) {
	err := n.control.Delete(ctx, project, noteKind, key(at, tsuid), store.AnyRevision)
	if errors.Is(err, kemi.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n.mu.Lock()
	if n.count[project] > 0 {
		n.count[project]--
	}
	n.mu.Unlock()
	return true, nil
}

// Range is the notes that begin in a range of time, both ends included, ordered by it: of all series and of one each.
func (n *Notes) Range(ctx context.Context, project string, from, to kemi.Millis) ([]Note, error) {
	n.mu.Lock()
	seen, none := n.none[project]
	n.mu.Unlock()
	now := n.now()
	if none && now.Sub(seen) < noneFor {
		return nil, nil
	}
	from, to = max(from, 0), min(to, maxTime)
	var notes []Note
	after, last := key(from, ""), key(to, "~")
	if from == 0 {
		after = ""
	} else {
		after = key(from-1, "~")
	}
	for {
		page, err := n.control.List(ctx, project, noteKind, store.ListOptions{After: after, Limit: listPage})
		if err != nil {
			return nil, fmt.Errorf("read annotations: %w", err)
		}
		for _, r := range page {
			if strings.Compare(r.Name, last) > 0 {
				return notes, nil
			}
			if len(notes) >= n.cfg.MaxRead {
				return nil, kemi.Errorf(kemi.ErrTooLarge, "more than maxRead = %d annotations begin in the range: shorten it, or ask without annotations (noAnnotations)", n.cfg.MaxRead)
			}
			note, err := decode(r)
			if err != nil {
				return nil, err
			}
			notes = append(notes, note)
			after = r.Name
		}
		if len(page) < listPage {
			break
		}
	}
	if len(notes) == 0 {
		any, err := n.control.List(ctx, project, noteKind, store.ListOptions{Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("read annotations: %w", err)
		}
		if len(any) == 0 {
			n.mu.Lock()
			n.none[project] = now
			n.mu.Unlock()
		}
	}
	return notes, nil
}

// Forget drops what is kept in memory.
func (n *Notes) Forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.count)
	clear(n.none)
}
