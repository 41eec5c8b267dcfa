package head

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"kemi"
)

// TestLegacy opens a folder of the version before, which was Prometheus' tsdb: killed, with late samples. It is a source; until that is settled no answer says that
// it is complete; then the folder is gone.
func TestLegacy(t *testing.T) {
	dir := t.TempDir()
	o := tsdb.DefaultOptions()
	o.OutOfOrderTimeWindow = time.Hour.Milliseconds() * 24
	old, err := tsdb.Open(dir, nil, nil, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	old.DisableCompactions()
	now := time.Now().Add(-time.Hour).UnixMilli()
	put := func(project string, at int64, v float64) {
		t.Helper()
		app := old.AppenderV2(context.Background())
		ls := labels.FromStrings(ProjectLabel, project, kemi.MetricName, "m", "host", "a")
		if _, err := app.Append(0, ls, 0, at, v, nil, nil, storage.AOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(300) {
		put("one", now+i*1000, float64(i))
		put("two", now+i*1000, -float64(i))
	}
	put("one", now-5000, 99) // late
	to := t.TempDir()
	copyDir(t, dir, to) // as kill -9 leaves it
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "positions.json"), []byte(`{"version":1,"positions":{"0":17}}`), 0o644); err != nil {
		t.Fatal(err)
	}

	db := mustOpen(t, testConfig(to))
	if p := db.Positions(); p[0] != 17 {
		t.Errorf("positions %v: the log is to be replayed from where the version before had noted", p)
	}
	if f := db.Freshness(); f.Complete || !strings.Contains(f.Reason, "earlier version") {
		t.Errorf("before it is settled: %+v", f)
	}
	due, _ := db.Sources()
	if len(due) != 1 {
		t.Fatalf("due: %v", due)
	}
	var got []string
	for s, err := range db.ReadSource(t.Context(), due[0].ID) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(s.Project, " ", s.Labels, " ", len(s.At), " ", int64(s.At[0])-now, " ", s.Values[0], " ", s.Values[len(s.Values)-1]))
	}
	if want := `one {__name__="m", host="a"} 301 -5000 99 299|two {__name__="m", host="a"} 300 0 -0 -299`; strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	if err := db.Retire([]string{due[0].ID}); err != nil {
		t.Fatal(err)
	}
	if f := db.Freshness(); !f.Complete {
		t.Errorf("after it is settled: %+v", f)
	}
	if _, err := os.Stat(filepath.Join(to, legacyDir)); !os.IsNotExist(err) {
		t.Errorf("the folder is there still: %v", err)
	}
	if due, _ := db.Sources(); len(due) != 0 {
		t.Errorf("due: %v", due)
	}
}
