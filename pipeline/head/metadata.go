package head

import (
	"bytes"
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
// with the checkpoints. What is said between two of them is added to a log beside it at once, without fsync: that outlives the process, as what the head's
// own log has does, and after a power cut replay begins at the checkpoint.
type metadataStore struct {
	name string

	mu       sync.RWMutex
	projects map[string]map[string]metadata.Metadata
	count    int
	dirty    bool
	log      *os.File // nil until there is something to say
	failed   bool     // the log could not be written: the next checkpoint has it all
}

// said is a line of the log.
type said struct {
	Project string `json:"project"`
	Metric  string `json:"metric"`
	metadata.Metadata
}

const (
	metadataFile = "metadata.json"
	metadataLog  = "metadata.log"
	maxMetadata  = 200_000  // metrics of all projects; more are left out
	maxHelp      = 16 << 10 // bytes of text; longer ones are cut
)

func openMetadata(dir string) (*metadataStore, error) {
	m := &metadataStore{name: filepath.Join(dir, metadataFile), projects: map[string]map[string]metadata.Metadata{}}
	b, err := os.ReadFile(m.name)
	if err == nil {
		err = json.Unmarshal(b, &m.projects)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	for _, p := range m.projects {
		m.count += len(p)
	}
	return m, m.readLog()
}

func (m *metadataStore) logName() string { return filepath.Join(filepath.Dir(m.name), metadataLog) }

// readLog takes what was said since the file was written. A line that is torn is the last, and comes again.
func (m *metadataStore) readLog() error {
	b, err := os.ReadFile(m.logName())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		var s said
		if json.Unmarshal(line, &s) != nil {
			m.dirty = true // so that the log begins anew
			break
		}
		m.put(s.Project, s.Metric, s.Metadata)
	}
	return nil
}

// set notes what is said of a metric.
func (m *metadataStore) set(project, metric string, md metadata.Metadata) {
	if len(md.Help) > maxHelp {
		md.Help = md.Help[:maxHelp]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.put(project, metric, md) {
		m.write(said{project, metric, md})
	}
}

// put tells whether that is new.
func (m *metadataStore) put(project, metric string, md metadata.Metadata) bool {
	p := m.projects[project]
	old, ok := p[metric]
	if metric == "" || ok && old == md || !ok && m.count >= maxMetadata {
		return false
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
	return true
}

// write adds a line to the log.
func (m *metadataStore) write(s said) {
	line, err := json.Marshal(s)
	if err == nil && m.log == nil {
		m.log, err = os.OpenFile(m.logName(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	}
	if err == nil && !m.failed { // after a line that may be torn, none could be read
		_, err = m.log.Write(append(line, '\n'))
	}
	m.failed = m.failed || err != nil
}

// save writes the file if there is something new, and empties the log.
func (m *metadataStore) save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirty {
		return nil
	}
	b, err := json.Marshal(m.projects)
	if err != nil {
		return err
	}
	if err := writeDurably(m.name, b); err != nil {
		return err
	}
	m.dirty = false
	if err := os.Truncate(m.logName(), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.failed = false
	return nil
}

// close lets go of the log.
func (m *metadataStore) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.log == nil {
		return nil
	}
	err := m.log.Close()
	m.log = nil
	return err
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
