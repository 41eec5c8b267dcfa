package tsdnote_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/sqlite"
	"kemi/sauron/tsdnote"
)

func open(t *testing.T, file string, cfg tsdnote.Config, now func() time.Time) *tsdnote.Notes {
	t.Helper()
	db, err := sqlite.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return tsdnote.New(db, cfg, now)
}

func change(t *testing.T, s string) tsdnote.Change {
	t.Helper()
	var c tsdnote.Change
	if err := json.Unmarshal([]byte(s), &c); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return c
}

func show(t *testing.T, notes []tsdnote.Note) string {
	t.Helper()
	b, err := json.Marshal(notes)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestChanges follows one note through POST (what is not said stays) and PUT (it does not), and a restart.
func TestChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "control.db")
	n := open(t, file, tsdnote.DefaultConfig(), time.Now)
	for _, c := range []struct {
		say   string
		whole bool
		want  string
	}{
		{`{"startTime":100,"description":"a","notes":"b"}`, false, `[{"tsuid":"","startTime":100,"endTime":0,"description":"a","notes":"b"}]`},
		{`{"startTime":"100","endTime":200,"custom":{"k":5}}`, false, `[{"tsuid":"","startTime":100,"endTime":200,"description":"a","notes":"b","custom":{"k":"5"}}]`},
		{`{"startTime":100,"description":"c"}`, false, `[{"tsuid":"","startTime":100,"endTime":200,"description":"c","notes":"b","custom":{"k":"5"}}]`},
		{`{"startTime":100,"notes":"d"}`, true, `[{"tsuid":"","startTime":100,"endTime":0,"description":"","notes":"d"}]`},
		{`{"startTime":100,"tsuid":"000001","description":"of one"}`, false, `[{"tsuid":"000001","startTime":100,"endTime":0,"description":"of one","notes":""}]`},
	} {
		notes, err := n.Put(t.Context(), "p", []tsdnote.Change{change(t, c.say)}, c.whole)
		if got := show(t, notes); err != nil || got != c.want {
			t.Errorf("%s\ngot  %s %v\nwant %s", c.say, got, err, c.want)
		}
	}
	n = open(t, file, tsdnote.DefaultConfig(), time.Now) // as after a restart
	note, err := n.Get(t.Context(), "p", "", 100_000)
	if err != nil || *note.Notes != "d" {
		t.Fatalf("%+v %v", note, err)
	}
	if _, err := n.Get(t.Context(), "q", "", 100_000); !errors.Is(err, kemi.ErrNotFound) {
		t.Fatalf("another project: %v", err)
	}
}

func TestRange(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	n := open(t, filepath.Join(t.TempDir(), "c.db"), tsdnote.Config{MaxNotes: 3000, MaxRead: 1500, MaxBytes: 200}, func() time.Time { return now })
	if notes, err := n.Range(t.Context(), "p", 0, 1<<50); err != nil || len(notes) != 0 {
		t.Fatalf("%v %v", notes, err)
	}
	var all []tsdnote.Change
	for i := range 2500 {
		all = append(all, change(t, fmt.Sprintf(`{"startTime":%d,"description":"n"}`, 1_600_000_000+i)))
	}
	all = append(all, change(t, `{"startTime":1600000000500,"description":"ms"}`), change(t, `{"startTime":5,"description":"old"}`))
	if _, err := n.Put(t.Context(), "p", all, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to kemi.Millis
		want     int
	}{{0, 5000, 1}, {0, 4999, 0}, {1_600_000_000_000, 1_600_000_001_000, 3}, {1_600_000_000_001, 1_600_000_000_999, 1}, {1_600_000_001_000, 1_600_001_400_000, 1400}, {1_600_002_499_000, 1 << 50, 1}} {
		if notes, err := n.Range(t.Context(), "p", c.from, c.to); err != nil || len(notes) != c.want {
			t.Errorf("%d..%d: %d notes, want %d: %v", c.from, c.to, len(notes), c.want, err)
		}
	}
	if _, err := n.Range(t.Context(), "p", 0, 1<<50); !errors.Is(err, kemi.ErrTooLarge) || !strings.Contains(err.Error(), "maxRead = 1500") {
		t.Errorf("%v", err)
	}
	if _, err := n.Put(t.Context(), "p", []tsdnote.Change{change(t, `{"startTime":7,"notes":"`+strings.Repeat("x", 300)+`"}`)}, false); !errors.Is(err, kemi.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	var more []tsdnote.Change
	for i := range 499 {
		more = append(more, change(t, fmt.Sprintf(`{"startTime":%d,"description":"n"}`, 1_700_000_000+i)))
	}
	if _, err := n.Put(t.Context(), "p", more, false); !errors.Is(err, kemi.ErrLimited) || !strings.Contains(err.Error(), "maxNotes = 3000") {
		t.Errorf("%v", err)
	}
	if was, err := n.Delete(t.Context(), "p", "", 5000); !was || err != nil {
		t.Error(was, err)
	}
	if was, err := n.Delete(t.Context(), "p", "", 5000); was || err != nil {
		t.Error(was, err)
	}
	if _, err := n.Put(t.Context(), "p", more, false); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	for _, s := range []string{`{"startTime":"x"}`, `{"startTime":[1]}`, `{"startTime":1e300}`, `{"custom":"x"}`, `{"custom":{"a":[1]}}`, `{"description":{}}`, `[]`, `5`} {
		var c tsdnote.Change
		if err := json.Unmarshal([]byte(s), &c); err == nil {
			t.Errorf("%s: taken as %+v", s, c)
		}
	}
}

func FuzzChange(f *testing.F) {
	f.Add(`{"startTime":100,"endTime":"5","description":null,"notes":5,"custom":{"a":true}}`)
	f.Fuzz(func(t *testing.T, s string) {
		var c tsdnote.Change
		if json.Unmarshal([]byte(s), &c) != nil {
			return
		}
		if _, err := json.Marshal(c.Note); err != nil {
			t.Fatal(err)
		}
	})
}
