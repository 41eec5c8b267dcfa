package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"kemi"
	"kemi/pipeline/store"
)

// manifest is what is in force. It is replaced as a whole.
type manifest struct {
	Version  int     `json:"version"`
	Sequence uint64  `json:"sequence"` // counts the manifests
	Blocks   []Block `json:"blocks"`
	// Replaced are blocks of the live store whose samples are in Blocks; they may be there still.
	Replaced []string `json:"replaced,omitempty"`
	// Deletions are those that some block is still to undergo.
	Deletions []Deletion `json:"deletions,omitempty"`
}

// Deletion is what somebody wants gone: samples of a time, of series, that were there when it was asked for.
type Deletion struct {
	Sequence uint64         `json:"sequence"` // of the manifest in which it first stands; it is for blocks whose Applied is less
	At       kemi.Millis    `json:"at"`       // when it was asked for
	Subject  string         `json:"subject"`  // who did
	Project  string         `json:"project"`
	Selector store.Selector `json:"selector"`
	From     kemi.Millis    `json:"from"`
	To       kemi.Millis    `json:"to"` // half open
}

const (
	manifestFile    = "manifest.json"
	manifestVersion = 1
)

func readManifest(dir string) (manifest, error) {
	m := manifest{Version: manifestVersion}
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s: %w", manifestFile, err)
	}
	if m.Version != manifestVersion {
		return m, fmt.Errorf("%s: version %d: this program knows version %d", manifestFile, m.Version, manifestVersion)
	}
	return m, nil
}

// write replaces the manifest in dir: the old one or the new one is there after a crash.
func (m *manifest) write(dir string, step func(string)) error {
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, manifestFile)
	f, err := os.Create(name + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	step("manifest written")
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	step("manifest renamed")
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// clone is a copy that can be changed.
func (m *manifest) clone() manifest {
	c := *m
	c.Blocks = append([]Block(nil), m.Blocks...)
	c.Replaced = append([]string(nil), m.Replaced...)
	c.Deletions = append([]Deletion(nil), m.Deletions...)
	return c
}

// dropDone takes the deletions away that no block has to undergo any more.
func (m *manifest) dropDone() {
	kept := m.Deletions[:0:0]
	for _, d := range m.Deletions {
		needed := false
		for i := range m.Blocks {
			needed = needed || m.Blocks[i].Applied < d.Sequence
		}
		if needed {
			kept = append(kept, d)
		}
	}
	m.Deletions = kept
}
