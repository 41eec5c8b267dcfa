package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReceiversDocument loads each configuration that docs/receivers.md shows.
func TestReceiversDocument(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "docs", "receivers.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for part := range strings.SplitSeq(string(b), "```yaml\n") {
		text, _, ok := strings.Cut(part, "```")
		if !ok || !strings.HasPrefix(text, "ingest:") {
			continue
		}
		seen++
		name := filepath.Join(t.TempDir(), "kemi.yml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadConfig(name)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
	if seen != 8 {
		t.Errorf("saw %d configurations", seen)
	}
}
