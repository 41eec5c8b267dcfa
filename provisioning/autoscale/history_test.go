package autoscale

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi/pipeline/sqlite"
	"kemi/pipeline/store"
)

// TestHistoryIsBounded: the oldest decisions of a group go, those of others stay.
func TestHistoryIsBounded(t *testing.T) {
	control, err := sqlite.Open(filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	a, err := New(t.Context(), Options{Control: control, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	put := func(group string, at time.Time) string {
		rec := a.decisions.record(groupKey{"default", group}, Decision{Action: Hold, Reason: "test"}, at, "test")
		state := store.Resource{Project: "default", Kind: kindState, Name: group, Revision: store.AnyRevision}
		if err := a.decisions.put(context.Background(), rec, state); err != nil {
			t.Fatal(err)
		}
		return rec.ID
	}
	now := time.UnixMilli(1_700_000_000_000)
	quiet := put("quiet", now)
	var ids []string
	for i := range keepOfGroup + 5 {
		ids = append(ids, put("noisy", now.Add(time.Duration(i/3)*time.Millisecond))) // several in a millisecond
	}
	all, next, err := a.decisions.list(t.Context(), "default", "", "", keepOfGroup+100)
	if err != nil || next != "" || len(all) != keepOfGroup+1 {
		t.Fatalf("%d decisions, next %q, %v", len(all), next, err)
	}
	if all[len(all)-1].ID != quiet {
		t.Errorf("the quiet group's decision is gone; the oldest is %+v", all[len(all)-1])
	}
	for i := range keepOfGroup {
		if want := ids[len(ids)-1-i]; all[i].ID != want {
			t.Fatalf("decision %d is %s, want %s", i, all[i].ID, want)
		}
	}
	// Read again after a restart.
	b, err := New(t.Context(), Options{Control: control, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now})
	if err != nil || len(b.decisions.names["default"]) != keepOfGroup+1 {
		t.Fatal(len(b.decisions.names["default"]), err)
	}
	ofQuiet, next, err := b.decisions.list(t.Context(), "default", "quiet", "", 1)
	if err != nil || len(ofQuiet) != 1 || next != "" || ofQuiet[0].ID != quiet {
		t.Fatalf("%v %q %v", ofQuiet, next, err)
	}
	pages, after := 0, ""
	for seen := 0; ; pages++ {
		page, next, err := b.decisions.list(t.Context(), "default", "noisy", after, 300)
		if err != nil {
			t.Fatal(err)
		}
		if seen += len(page); next == "" {
			if seen != keepOfGroup {
				t.Fatal(fmt.Errorf("%d decisions on %d pages", seen, pages+1))
			}
			break
		}
		after = next
	}
}

func FuzzParseSpec(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil {
			f.Add(b)
		}
	}
	f.Add([]byte(`{"driver":{"type":"local","local":{"command":["x"]}},"min":1,"max":3,"policies":[{"type":"step","alert":"A","query":"q","steps":[{"to":1,"adjustment":1},{"from":2,"adjustment":3}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSpec(b)
		if err != nil {
			return
		}
		// A spec that is taken can be decided on whatever is measured.
		st := State{}
		now := time.UnixMilli(1e12)
		for i := range 5 {
			var d Decision
			firing := map[string]bool{}
			for _, p := range s.Policies {
				firing[p.Name] = i%2 == 1
			}
			d, st = Decide(Input{Spec: s, State: st, Current: i, Ready: i, Firing: firing}, now.Add(time.Duration(i)*time.Minute))
			if d.To < s.Min || d.To > s.Max {
				t.Fatalf("%+v", d)
			}
		}
	})
}
