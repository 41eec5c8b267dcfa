package tsd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kemi/app"
)

// startOurs is a whole server with an empty folder.
func startOurs(t *testing.T, change ...func(*app.Config)) *app.App {
	t.Helper()
	c := app.DefaultConfig()
	c.Listen, c.Data, c.Agent.Enabled = "127.0.0.1:0", filepath.Join(t.TempDir(), "data"), false
	for _, f := range change {
		f(&c)
	}
	a, err := app.New(t.Context(), c, app.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// TestRecorded asks a whole server of ours what a real OpenTSDB 2.4.1 was asked, and wants the same answers; where one differs on purpose it is listed in
// testdata/differences.txt with the reason, and has to differ.
func TestRecorded(t *testing.T) {
	a := startOurs(t)
	p := newPeer(t, "http://"+a.Addr(), a.AdminToken)
	p.load()
	files, err := filepath.Glob("testdata/requests/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests: %v", err)
	}
	listed := readDifferences(t)
	asked, equal, softer, differ := 0, 0, 0, 0
	only := os.Getenv("KEMI_TEST_ONLY") // the begin of a file's name
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		want := readRecorded(t, "testdata/recorded/"+name+".jsonl")
		qs := readRequests(t, f)
		if len(qs) != len(want) {
			t.Fatalf("%s: %d requests, %d recorded answers: record them anew with make peer-opentsdb", name, len(qs), len(want))
		}
		bad := 0
		for i, q := range qs {
			if want[i].Request != q.key() {
				t.Fatalf("%s: the answer recorded for request %d is to %s, not to %s: record anew", name, i, want[i].Request, q.key())
			}
			if only != "" && !strings.HasPrefix(name, only) {
				continue
			}
			asked++
			got := p.ask(q)
			ok := same(q, got, want[i])
			reason, isListed := listed[name+" "+q.key()]
			delete(listed, name+" "+q.key())
			switch {
			case ok && isListed:
				t.Errorf("%s: %s\nis listed as different (%s), but is the same", name, q.key(), reason)
			case ok:
				equal++
			case isListed:
				differ++
			case refused(got, want[i]):
				softer++
			default:
				bad++
				t.Errorf("%s: %s\ngot  %d %s %.1500s\nwant %d %s %.1500s", name, q.key(), got.Status, got.Type, got.Body, want[i].Status, want[i].Type, want[i].Body)
			}
		}
		if bad > 0 {
			t.Logf("%s: %d of %d differ", name, bad, len(qs))
		}
	}
	if only == "" {
		for k := range listed {
			t.Errorf("listed as different, but not asked: %s", k)
		}
	}
	t.Logf("%d asked: %d equal, %d refused alike but for the words or the status, %d listed as different", asked, equal, softer, differ)
}

// javaSays are messages of Java's that OpenTSDB hands on: they tell of its insides, not of the mistake.
var javaSays = regexp.MustCompile(`^begin \d|^String index out of range|Cannot invoke|com\.fasterxml|An internal null pointer|^java\.lang\.|^com\.stumbleupon|^At least one of the Deferreds|near index \d|parsing error|^No intersections found`)

// refused tells whether both refuse a client's mistake, ours with 400: OpenTSDB tells some as its own (500), or in words of Java's.
func refused(got, want answer) bool {
	if got.Status != 400 || want.Status != 400 && want.Status != 500 {
		return false
	}
	if want.Status == 500 && message(got) == message(want) {
		return true
	}
	return message(got) != "" && javaSays.MatchString(message(want))
}

func message(a answer) string {
	var e struct{ Error struct{ Message string } }
	_ = json.Unmarshal(a.Body, &e)
	return e.Error.Message
}

func readRecorded(t *testing.T, file string) []answer {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []answer
	for _, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, a)
	}
	return out
}

// readDifferences reads testdata/differences.txt: a line "## reason", and below it a line "file request" for each request that it is the reason of.
func readDifferences(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("testdata/differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	reason := ""
	for i, line := range strings.Split(string(raw), "\n") {
		switch {
		case strings.HasPrefix(line, "## "):
			reason = line[3:]
		case line == "" || strings.HasPrefix(line, "# "):
		case reason == "":
			t.Fatal(fmt.Sprintf("differences.txt:%d: a request before any reason", i+1))
		default:
			out[line] = reason
		}
	}
	return out
}
