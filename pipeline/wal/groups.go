package wal

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"kemi/pipeline/bus"
)

const groupSuffix = ".json"

// groups are the committed positions of a topic, one small file for each group, replaced as a whole.
type groups struct {
	dir  string
	disk *disk

	mu        sync.Mutex
	positions map[string]bus.Positions // the maps in it do not change
	closed    bool
}

type groupFile struct {
	Version   int           `json:"version"`
	Positions bus.Positions `json:"positions"`
}

func openGroups(dir string, d *disk) (*groups, error) {
	g := &groups{dir: dir, disk: d, positions: map[string]bus.Positions{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		name, ok := strings.CutSuffix(e.Name(), groupSuffix)
		if !ok || !validName.MatchString(name) {
			return nil, fmt.Errorf("%s: is not a file with the positions of a group; move it away", path)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var f groupFile
		if err := json.Unmarshal(b, &f); err == nil && f.Version != 1 {
			return nil, fmt.Errorf("%s: has format version %d, this program knows 1", path, f.Version)
		} else if err != nil {
			return nil, fmt.Errorf("%s: the positions of the group cannot be read: %w; without the file the group begins at the oldest record", path, err)
		}
		if f.Positions == nil {
			f.Positions = bus.Positions{}
		}
		g.positions[name] = f.Positions
	}
	return g, nil
}

func (g *groups) get(group string) bus.Positions {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.positions[group]
}

func (g *groups) all() map[string]bus.Positions {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.positions)
}

// highest is the highest position that any group has in a partition.
func (g *groups) highest(partition int32) int64 {
	var highest int64
	for _, p := range g.all() {
		highest = max(highest, p[partition])
	}
	return highest
}

// commit changes the positions of the group that p names; the others stay.
func (g *groups) commit(group string, p bus.Positions) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	merged := maps.Clone(g.positions[group])
	if merged == nil {
		merged = bus.Positions{}
	}
	maps.Copy(merged, p)
	b, err := json.Marshal(groupFile{1, merged})
	if err != nil {
		return err
	}
	if err := g.replace(filepath.Join(g.dir, group+groupSuffix), append(b, '\n')); err != nil {
		return err
	}
	g.positions[group] = merged
	return nil
}

func (g *groups) replace(path string, b []byte) error {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = g.disk.sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return g.disk.syncDir(g.dir)
}

// forget removes a group.
func (g *groups) forget(group string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	if _, ok := g.positions[group]; !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(g.dir, group+groupSuffix)); err != nil {
		return err
	}
	delete(g.positions, group)
	return g.disk.syncDir(g.dir)
}

func (g *groups) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
