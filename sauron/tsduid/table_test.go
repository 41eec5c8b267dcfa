package tsduid_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/sqlite"
	"kemi/sauron/tsduid"
)

func open(t *testing.T, file string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func number(t *testing.T, tab *tsduid.Table, project string, k tsduid.Kind, names ...string) string {
	t.Helper()
	ids, err := tab.Number(t.Context(), project, k, names)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(ids)
}

func TestNumbersStay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "control.db")
	db := open(t, file)
	tab := tsduid.New(db, tsduid.DefaultConfig(), time.Now)
	if got := number(t, tab, "p", tsduid.Metric, "b", "a", "b"); got != "[000002 000001 000002]" {
		t.Fatal(got)
	}
	if got := number(t, tab, "p", tsduid.TagKey, "b"); got != "[000001]" {
		t.Fatalf("kinds count by themselves: %s", got)
	}
	if got := number(t, tab, "q", tsduid.Metric, "z"); got != "[000001]" {
		t.Fatalf("projects count by themselves: %s", got)
	}
	many := make([]string, 2500)
	for i := range many {
		many[i] = fmt.Sprintf("v%04d", i)
	}
	number(t, tab, "p", tsduid.TagValue, many...)
	again := tsduid.New(open(t, file), tsduid.DefaultConfig(), time.Now) // as after a restart
	for _, tab := range []*tsduid.Table{tab, again} {
		if got := number(t, tab, "p", tsduid.Metric, "c", "a", "b"); got != "[000003 000001 000002]" {
			t.Fatal(got)
		}
		if got := number(t, tab, "p", tsduid.TagValue, "v0000", "v0999", "v1000", "v2499"); got != "[000001 0003E8 0003E9 0009C4]" {
			t.Fatal(got)
		}
	}
	name, ok, err := again.Name(t.Context(), "p", tsduid.TagValue, 2500)
	if err != nil || !ok || name != "v2499" {
		t.Fatalf("%q %v %v", name, ok, err)
	}
	for _, id := range []tsduid.UID{0, 2501, 1 << 24} {
		if name, ok, err := again.Name(t.Context(), "p", tsduid.TagValue, id); ok || err != nil {
			t.Fatalf("%d: %q %v", id, name, err)
		}
	}
	if _, ok, _ := again.Name(t.Context(), "q", tsduid.TagValue, 1); ok {
		t.Fatal("one project sees the other's names")
	}
}

func TestTSUIDs(t *testing.T) {
	tab := tsduid.New(open(t, filepath.Join(t.TempDir(), "c.db")), tsduid.DefaultConfig(), time.Now)
	number(t, tab, "p", tsduid.TagKey, "host") // so that host comes before dc, whatever the letters say
	series := []kemi.Labels{
		kemi.LabelsOf(kemi.MetricName, "cpu", "host", "web01", "dc", "lga"), kemi.LabelsOf(kemi.MetricName, "cpu", "host", "web02", "dc", "lga"),
		kemi.LabelsOf(kemi.MetricName, "mem"), kemi.LabelsOf(kemi.MetricName, "cpu", "host", "web01", "서비스", "결제", "Host", "x"),
	}
	ids, err := tab.TSUIDs(t.Context(), "p", series)
	if err != nil {
		t.Fatal(err)
	}
	if ids[0] != "000001000001000003000003000001" && !strings.HasPrefix(ids[0], "000001000001") || len(ids[0]) != 30 || len(ids[2]) != 6 {
		t.Fatalf("%q", ids)
	}
	back, err := tab.Series(t.Context(), "p", ids)
	if err != nil {
		t.Fatal(err)
	}
	for i := range series {
		if series[i].Compare(back[i]) != 0 {
			t.Errorf("%s is %v, not %v", ids[i], back[i], series[i])
		}
	}
	unknown, err := tab.Series(t.Context(), "p", []string{"", "00", "000001000001", "0000FF000001000001", "000001000001FFFFFF", "xyz", ids[0] + "000001"})
	if err != nil || slices.ContainsFunc(unknown, func(ls kemi.Labels) bool { return ls != nil }) {
		t.Fatalf("%v %v", unknown, err)
	}
}

// TestSeveralServers number names over one control state at once: nobody's number changes, and no two names have the same.
func TestSeveralServers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "control.db")
	db := open(t, file)
	var mu sync.Mutex
	given := map[string]tsduid.UID{}
	var wg sync.WaitGroup
	for s := range 3 {
		tab := tsduid.New(db, tsduid.DefaultConfig(), time.Now)
		for g := range 2 {
			wg.Go(func() {
				for i := range 60 {
					names := []string{fmt.Sprintf("n%d", (i*7+s*13+g*29)%80), fmt.Sprintf("n%d", (i*11+g)%80)}
					ids, err := tab.Number(context.Background(), "p", tsduid.Metric, names)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for k, n := range names {
						if was, ok := given[n]; ok && was != ids[k] {
							t.Errorf("%s is %s and %s", n, was, ids[k])
						}
						given[n] = ids[k]
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	seen := map[tsduid.UID]string{}
	for n, id := range given {
		if seen[id] != "" {
			t.Errorf("%s and %s are both %s", n, seen[id], id)
		}
		seen[id] = n
	}
	if len(given) < 70 {
		t.Fatalf("%d names", len(given))
	}
}

func TestLimitAndRename(t *testing.T) {
	tab := tsduid.New(open(t, filepath.Join(t.TempDir(), "c.db")), tsduid.Config{MaxNames: 3}, time.Now)
	number(t, tab, "p", tsduid.Metric, "a", "b")
	if _, err := tab.Number(t.Context(), "p", tsduid.Metric, []string{"c", "d"}); !errors.Is(err, kemi.ErrLimited) || !strings.Contains(err.Error(), "maxNames = 3") {
		t.Fatal(err)
	}
	number(t, tab, "p", tsduid.Metric, "c", "a") // what has a number is not in the way
	if err := tab.Rename(t.Context(), "p", tsduid.Metric, "no", "x"); !errors.Is(err, kemi.ErrNotFound) {
		t.Fatal(err)
	}
	if err := tab.Rename(t.Context(), "p", tsduid.Metric, "a", "b"); !errors.Is(err, kemi.ErrConflict) {
		t.Fatal(err)
	}
	if err := tab.Rename(t.Context(), "p", tsduid.Metric, "a", "x"); err != nil {
		t.Fatal(err)
	}
	tab.Forget()
	known, err := tab.Known(t.Context(), "p", tsduid.Metric, "a", "b", "x")
	if err != nil || len(known) != 2 || known["x"] != 1 {
		t.Fatalf("%v %v", known, err)
	}
	names, err := tab.WithPrefix(t.Context(), "p", tsduid.Metric, "", 2)
	if err != nil || !slices.Equal(names, []string{"b", "c"}) {
		t.Fatalf("%q %v", names, err)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"": "UID was empty", "zz": "contains illegal character for hexBinary: zz", "1": "Wrong id.length = 1 which is != 3 required for 'metrics'", "00000A": "00000A", "a": "Wrong id.length", "A0000": "0A0000",
	} {
		id, err := tsduid.Parse(tsduid.Metric, in)
		got := id.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// BenchmarkTSUIDs is how long it takes to name series whose names have numbers.
func BenchmarkTSUIDs(b *testing.B) {
	db, err := sqlite.Open(filepath.Join(b.TempDir(), "c.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tab := tsduid.New(db, tsduid.DefaultConfig(), time.Now)
	series := make([]kemi.Labels, 10_000)
	for i := range series {
		series[i] = kemi.LabelsOf(kemi.MetricName, "cpu", "host", fmt.Sprintf("web%05d", i), "dc", fmt.Sprint(i%5))
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := tab.TSUIDs(b.Context(), "p", series); err != nil {
			b.Fatal(err)
		}
	}
}
