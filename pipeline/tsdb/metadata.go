package tsdb

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/prometheus/prometheus/model/metadata"

	"kemi"
)

// metadataStore keeps the metadata of metrics, the newest word of each. It is small, so it lies in one JSON file that is written
// with the checkpoints.
type metadataStore struct {
	name string

	mu       sync.RWMutex
	projects map[string]map[string]metadata.Metadata
	count    int
	dirty    bool
}

const (
	metadataFile = "metadata.json"
	maxMetadata  = 200_000  // metrics of all projects; more are left out
	maxHelp      = 16 << 10 // bytes of text; longer ones are cut
)

func openMetadata(dir string) (*metadataStore, error) {
	m := &metadataStore{name: filepath.Join(dir, metadataFile), projects: map[string]map[string]metadata.Metadata{}}
	b, err := os.ReadFile(m.name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &m.projects); err != nil {
		return nil, err
	}
	for _, p := range m.projects {
		m.count += len(p)
	}
	return m, nil
}

// set notes what is said of a metric.
func (m *metadataStore) set(project, metric string, md metadata.Metadata) {
	if len(md.Help) > maxHelp {
		md.Help = md.Help[:maxHelp]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.projects[project]
	old, ok := p[metric]
	if metric == "" || ok && old == md || !ok && m.count >= maxMetadata {
		return
	}
	if p == nil {
		p = map[string]metadata.Metadata{}
		m.projects[project] = p
	}
	if !ok {
		m.count++
	}
	p[metric] = md
	m.dirty = true
}

// save writes the file if there is something new.
func (m *metadataStore) save() error {
	m.mu.Lock()
	dirty := m.dirty
	var b []byte
	var err error
	if dirty {
		b, err = json.Marshal(m.projects)
		m.dirty = false
	}
	m.mu.Unlock()
	if !dirty || err != nil {
		return err
	}
	if err := writeDurably(m.name, b); err != nil {
		m.mu.Lock()
		m.dirty = true
		m.mu.Unlock()
		return err
	}
	return nil
}

// Metadata is what senders said of the metrics of the identity's project: of one, or with "" of all, by name.
func (db *DB) Metadata(id kemi.Identity, metric string) map[string]metadata.Metadata {
	db.meta.mu.RLock()
	defer db.meta.mu.RUnlock()
	p := db.meta.projects[id.Project]
	if metric == "" {
		return maps.Clone(p)
	}
	if md, ok := p[metric]; ok {
		return map[string]metadata.Metadata{metric: md}
	}
	return nil
}
