package head

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

var update = flag.Bool("update", false, "write the newest of testdata/v… anew, if it is not there")

const goldenStart = 1_790_000_000_000

var goldenNow = time.UnixMilli(goldenStart).Add(time.Hour)

func openGolden(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(testConfig(dir), Options{Now: func() time.Time { return goldenNow }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// fillGolden appends what testdata/v… hold: it must never change. Series with full and with open buffers, settled and not, late samples, histograms, exemplars, metadata, and
// two projects.
func fillGolden(t *testing.T, db *DB) {
	w := &writer{t: t, db: db, table: codec.NewTable(nil, func() time.Time { return goldenNow })}
	put := func(project string, ps ...kemi.Points) {
		t.Helper()
		w.next++
		if err := db.Append(t.Context(), w.table.BatchOf(project, ps), store.Position{Partition: 2, Next: w.next}); err != nil {
			t.Fatal(err)
		}
	}
	at := int64(goldenStart)
	for i := range int64(40) {
		put("default", one("settled", at+i*1000, float64(i)/4), one("both", at+i*1000, float64(i*i)))
	}
	settleAll(t, db, at+35_000)
	for i := range int64(70) {
		put("default", one("both", at+60_000+i*1000, math.Sqrt(float64(i))), one("full", at+60_000+i*1000, float64(i)))
		put("other", one("full", at+60_000+i*1000, -float64(i)))
	}
	put("default", one("both", at+61_500, 7), one("both", at+60_500, 8)) // late
	w.putComplex(&codec.Complex{
		Histograms: []codec.Histogram{whole(at+70_000, 1), whole(at+80_000, 2), whole(at+75_000, 3)},
		Exemplars:  []codec.Exemplar{{At: kemi.Millis(at + 70_001), Value: 0.5, Labels: kemi.LabelsOf("trace_id", "abc")}},
		Metadata:   []codec.Metadata{{Metric: "h", Type: "histogram", Unit: "seconds", Help: "How long."}},
	})
}

// toldBy is all that db has, as text.
func toldBy(t *testing.T, db *DB) string {
	t.Helper()
	var b strings.Builder
	for _, id := range []kemi.Identity{reader, {Subject: "test", Project: "other", Permissions: kemi.MetricsRead}} {
		for p, err := range db.Select(t.Context(), id, store.Selector{{Name: kemi.MetricName, Op: store.Regexp, Value: ".+"}}, kemi.Range{From: 0, To: math.MaxInt64 / 2}) {
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&b, id.Project, p.Labels, p.At, p.Values)
		}
		q, err := db.ExemplarQueryable(id).ExemplarQuerier(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found, err := q.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*")})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, id.Project, found, db.Metadata(id, "h"))
	}
	fmt.Fprintln(&b, iterated(t, db), db.Positions())
	return b.String()
}

// TestGolden opens folders that older versions, and this one, have left.
func TestGolden(t *testing.T) {
	fresh := openGolden(t, t.TempDir())
	fillGolden(t, fresh)
	if err := fresh.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := toldBy(t, fresh)
	if n := strings.Count(want, "\n"); n != 7 || !strings.Contains(want, "abc") || !strings.Contains(want, "How long.") {
		t.Fatalf("what is to be there: %s", want)
	}
	for v := 1; v <= checkpointVersion; v++ {
		kept := filepath.Join("testdata", fmt.Sprint("v", v))
		if _, err := os.Stat(kept); *update && v == checkpointVersion && os.IsNotExist(err) {
			db := openGolden(t, kept)
			fillGolden(t, db)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		dir := t.TempDir()
		copyDir(t, kept, dir)
		if got := noted(t, dir).Version; got != v {
			t.Errorf("%s has version %d", kept, got)
		}
		for _, again := range []string{"", ", written again"} {
			db := openGolden(t, dir)
			if got := toldBy(t, db); got != want {
				t.Errorf("version %d%s:\n%swant\n%s", v, again, got, want)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
