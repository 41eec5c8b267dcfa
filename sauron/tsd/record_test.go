//go:build peer

package tsd_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRecord asks a real OpenTSDB 2.4.1 with empty tables all of testdata/requests and writes what it answers to testdata/recorded. KEMI_TEST_OPENTSDB is its
// host:port, KEMI_TEST_RECORD=1 says that what is recorded may be overwritten; make peer-opentsdb does all of it.
func TestRecord(t *testing.T) {
	if os.Getenv("KEMI_TEST_RECORD") == "" {
		t.Skip("KEMI_TEST_RECORD is not set")
	}
	p := newPeer(t, "http://"+os.Getenv("KEMI_TEST_OPENTSDB"), "")
	p.client.Timeout = 8 * time.Second
	p.load()
	files, err := filepath.Glob("testdata/requests/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests: %v", err)
	}
	silent := 0
	for _, f := range files {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		for _, q := range readRequests(t, f) {
			a := p.ask(q)
			if a.Status == 0 {
				silent++
			}
			if err := enc.Encode(a); err != nil {
				t.Fatal(err)
			}
		}
		name := "testdata/recorded/" + strings.TrimSuffix(filepath.Base(f), ".txt") + ".jsonl"
		if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", name, out.Len())
	}
	t.Logf("%d questions without an answer", silent)
}
