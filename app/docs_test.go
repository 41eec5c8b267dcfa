package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// block is a fenced block of a document: what stands behind the language says what it is.
type block struct{ language, what, text string }

func blocks(t *testing.T, name string) []block {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	var in *block
	for line := range strings.Lines(string(b)) {
		switch head, fence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```"); {
		case fence && in == nil:
			language, what, _ := strings.Cut(head, " ")
			in = &block{language: language, what: what}
		case fence:
			out, in = append(out, *in), nil
		case in != nil:
			in.text += line
		}
	}
	return out
}

// TestCollectorsDocument checks the configurations and makes the requests of docs/collectors.md.
func TestCollectorsDocument(t *testing.T) {
	all := blocks(t, "collectors.md")
	a := start(t, config(t))
	t.Chdir(t.TempDir())
	configurations, requests := 0, 0
	for _, b := range all {
		switch {
		case b.language == "yaml" && b.what != "":
			if err := os.WriteFile(b.what, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var err error
			switch b.what {
			case "kemi.yaml":
				var c Config
				if c, err = LoadConfig(b.what); err == nil {
					err = c.Validate()
				}
			case "agent.yaml":
				var c HostAgentConfig
				if c, err = LoadHostAgentConfig(b.what); err == nil {
					err = c.Validate()
				}
			default:
				continue
			}
			if err != nil {
				t.Errorf("%v in\n%s", err, b.text)
			}
			configurations++
		case b.language == "json" && strings.HasPrefix(b.what, "PUT "):
			put(t, a, strings.TrimPrefix(b.what, "PUT "), b.text)
			requests++
		}
	}
	if configurations < 3 || requests < 3 {
		t.Errorf("saw %d configurations and %d requests: the document is not read", configurations, requests)
	}
}

// TestRetentionDocument checks the configuration of docs/retention.md.
func TestRetentionDocument(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kemi.yaml")
	for _, b := range blocks(t, "retention.md") {
		if b.what != filepath.Base(name) {
			continue
		}
		if err := os.WriteFile(name, []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadConfig(name)
		if err == nil {
			err = c.Validate()
		}
		if err != nil || len(c.Batch.Retention) != 3 {
			t.Errorf("%d rules, %v", len(c.Batch.Retention), err)
		}
		return
	}
	t.Error("no configuration is in the document")
}
