package tsduid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// Kind is what a name is of. Numbers of different kinds have nothing to do with each other.
type Kind uint8

// The kinds.
const (
	Metric Kind = iota
	TagKey
	TagValue
	kinds
)

// String is the kind as OpenTSDB calls it in its messages.
func (k Kind) String() string { return [...]string{"metrics", "tagk", "tagv"}[k] }

// KindOf is the kind that a request names: metric, tagk or tagv.
func KindOf(s string) (Kind, bool) {
	switch s {
	case "metric":
		return Metric, true
	case "tagk":
		return TagKey, true
	case "tagv":
		return TagValue, true
	}
	return 0, false
}

// Width is how many bytes a UID has, and maxID the largest one.
const (
	Width = 3
	maxID = 1<<(8*Width) - 1
)

// UID is the number of a name; 0 is none.
type UID uint32

// String is the number in hexadecimal digits.
func (u UID) String() string { return fmt.Sprintf("%06X", uint32(u)) }

// Config bounds what is kept.
type Config struct {
	MaxNames int `yaml:"maxNames"` // numbered names of each kind in a project; they are kept in memory once somebody asks for one
}

// DefaultConfig is meant for a machine with a few gigabytes: 2 M names are about 250 MB.
func DefaultConfig() Config { return Config{MaxNames: 2_000_000} }

// Validate tells which value cannot be.
func (c Config) Validate() error {
	if c.MaxNames < 1 || c.MaxNames > maxID {
		return kemi.Errorf(kemi.ErrInvalid, "maxNames: %d: must be from 1 to %d", c.MaxNames, maxID)
	}
	return nil
}

// pageSize is the number of names in a page, the unit in which they are stored.
const pageSize = 1000

// Table is the names and numbers of all projects. It may be used concurrently, and by several servers over one control state.
type Table struct {
	control store.Control
	cfg     Config
	now     func() time.Time

	mu       sync.Mutex
	projects map[string]*[kinds]*names
}

// names are the numbered names of a kind in a project.
type names struct {
	mu       sync.Mutex
	loaded   bool
	checked  time.Time      // when the store was last looked at for what other servers added
	byName   map[string]UID // the reverse of
	byID     []string       // names by number - 1
	revision []int64        // of each page
}

// New makes a table over the control state.
func New(control store.Control, cfg Config, now func() time.Time) *Table {
	return &Table{control: control, cfg: cfg, now: now, projects: map[string]*[kinds]*names{}}
}

func (t *Table) of(project string, k Kind) *names {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.projects[project]
	if p == nil {
		p = new([kinds]*names)
		for i := range p {
			p[i] = &names{byName: map[string]UID{}}
		}
		t.projects[project] = p
	}
	return p[k]
}

func resourceKind(k Kind) string { return "opentsdb.uid." + k.String() }

func pageName(i int) string { return fmt.Sprintf("%06d", i) }

// load reads what the store has from the last page on that is known. The caller holds n.mu.
func (t *Table) load(ctx context.Context, project string, k Kind, n *names) error {
	from := max(0, len(n.revision)-1)
	after := ""
	if from > 0 {
		after = pageName(from - 1)
	}
	for {
		pages, err := t.control.List(ctx, project, resourceKind(k), store.ListOptions{After: after, Limit: 100})
		if err != nil {
			return fmt.Errorf("read the UIDs of %s: %w", k, err)
		}
		for _, r := range pages {
			var list []string
			if err := json.Unmarshal(r.Spec, &list); err != nil {
				return fmt.Errorf("UIDs of %s, page %s: %w", k, r.Name, err)
			}
			var i int
			if _, err := fmt.Sscanf(r.Name, "%d", &i); err != nil || i > len(n.revision) || len(list) > pageSize {
				return fmt.Errorf("UIDs of %s: page %q does not follow page %d", k, r.Name, len(n.revision)-1)
			}
			n.setPage(i, list, r.Revision)
			after = r.Name
		}
		if len(pages) < 100 {
			break
		}
	}
	n.loaded, n.checked = true, t.now()
	return nil
}

// setPage puts a page's names in place of those that it had.
func (n *names) setPage(i int, list []string, revision int64) {
	for _, old := range n.byID[min(i*pageSize, len(n.byID)):] {
		delete(n.byName, old)
	}
	n.byID = append(n.byID[:min(i*pageSize, len(n.byID))], list...)
	for j, name := range list {
		n.byName[name] = UID(i*pageSize + j + 1)
	}
	if i == len(n.revision) {
		n.revision = append(n.revision, 0)
	}
	n.revision[i] = revision
}

// Known are the numbers of those names that have one.
func (t *Table) Known(ctx context.Context, project string, k Kind, list ...string) (map[string]UID, error) {
	n := t.of(project, k)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded {
		if err := t.load(ctx, project, k, n); err != nil {
			return nil, err
		}
	}
	out := map[string]UID{}
	for try := 0; ; try++ {
		for _, name := range list {
			if id := n.byName[name]; id != 0 {
				out[name] = id
			}
		}
		if try > 0 || len(out) == len(list) || !t.stale(n) {
			return out, nil
		}
		if err := t.load(ctx, project, k, n); err != nil {
			return nil, err
		}
	}
}

// stale tells whether another server may have given numbers meanwhile.
func (t *Table) stale(n *names) bool { return t.now().Sub(n.checked) > time.Second }

// Number is the numbers of the names, in their order; those without one get one.
func (t *Table) Number(ctx context.Context, project string, k Kind, list []string) ([]UID, error) {
	n := t.of(project, k)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded {
		if err := t.load(ctx, project, k, n); err != nil {
			return nil, err
		}
	}
	out := make([]UID, len(list))
	for try := 0; ; try++ {
		var lacking []string
		for i, name := range list {
			if out[i] = n.byName[name]; out[i] == 0 {
				lacking = append(lacking, strings.Clone(name))
			}
		}
		if len(lacking) == 0 {
			return out, nil
		}
		slices.Sort(lacking)
		err := t.add(ctx, project, k, n, slices.Compact(lacking))
		if errors.Is(err, kemi.ErrConflict) && try < 50 { // another server was faster; one of them wins each time
			err = t.load(ctx, project, k, n)
		}
		if err != nil {
			return nil, fmt.Errorf("give UIDs to %d %s: %w", len(lacking), k, err)
		}
	}
}

// add numbers new names. The caller holds n.mu.
func (t *Table) add(ctx context.Context, project string, k Kind, n *names, list []string) error {
	if len(n.byID)+len(list) > t.cfg.MaxNames {
		return kemi.Errorf(kemi.ErrLimited, "TSUIDs: %d %s have UIDs and %d more are asked for, maxNames = %d: ask for fewer series, or raise the limit", len(n.byID), k, len(list), t.cfg.MaxNames)
	}
	first := len(n.byID) / pageSize
	all := append(slices.Clone(n.byID[first*pageSize:]), list...)
	var write []store.Resource
	for i := first; len(all) > 0; i++ {
		page := all[:min(pageSize, len(all))]
		all = all[len(page):]
		spec, err := json.Marshal(page)
		if err != nil {
			return err
		}
		r := store.Resource{Project: project, Kind: resourceKind(k), Name: pageName(i), Spec: spec}
		if i < len(n.revision) {
			r.Revision = n.revision[i]
		}
		write = append(write, r)
	}
	written, err := t.control.PutAll(ctx, write)
	if err != nil {
		return err
	}
	for j, r := range written {
		var page []string
		if err := json.Unmarshal(r.Spec, &page); err != nil {
			return err
		}
		n.setPage(first+j, page, r.Revision)
	}
	return nil
}

// Name is the name that has the number.
func (t *Table) Name(ctx context.Context, project string, k Kind, id UID) (string, bool, error) {
	n := t.of(project, k)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded || int(id) > len(n.byID) && t.stale(n) {
		if err := t.load(ctx, project, k, n); err != nil {
			return "", false, err
		}
	}
	if id == 0 || int(id) > len(n.byID) {
		return "", false, nil
	}
	return n.byID[id-1], true, nil
}

// WithPrefix are numbered names that begin with prefix, sorted, at most limit.
func (t *Table) WithPrefix(ctx context.Context, project string, k Kind, prefix string, limit int) ([]string, error) {
	n := t.of(project, k)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded || t.stale(n) {
		if err := t.load(ctx, project, k, n); err != nil {
			return nil, err
		}
	}
	var out []string
	for _, name := range n.byID {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out[:min(limit, len(out))], nil
}

// Rename gives the number of one name to another, which must have none: ErrNotFound and ErrConflict tell of it.
func (t *Table) Rename(ctx context.Context, project string, k Kind, from, to string) error {
	n := t.of(project, k)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded || t.stale(n) {
		if err := t.load(ctx, project, k, n); err != nil {
			return err
		}
	}
	id := n.byName[from]
	switch {
	case id == 0:
		return kemi.Errorf(kemi.ErrNotFound, "No such name for '%s': '%s'", k, from)
	case n.byName[to] != 0:
		return kemi.Errorf(kemi.ErrConflict, "When trying rename(\"%s\", \"%s\") on %s: new name already assigned ID=%s", from, to, k, n.byName[to])
	}
	i := int(id-1) / pageSize
	page := slices.Clone(n.byID[i*pageSize : min((i+1)*pageSize, len(n.byID))])
	page[int(id-1)%pageSize] = to
	spec, err := json.Marshal(page)
	if err != nil {
		return err
	}
	r, err := t.control.Put(ctx, store.Resource{Project: project, Kind: resourceKind(k), Name: pageName(i), Spec: spec, Revision: n.revision[i]})
	if err != nil {
		return fmt.Errorf("rename %s: %w", k, err)
	}
	delete(n.byName, from)
	n.byName[to], n.byID[id-1], n.revision[i] = id, to, r.Revision
	return nil
}

// Forget drops what is kept in memory: it is read again when somebody asks.
func (t *Table) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.projects)
}
