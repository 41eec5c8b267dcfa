//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSlidesQuery fills in old data by kemi put, asks the seed's own query of it, and compares the answer with the truth, bit for bit: from samples, and
// again from rollups. KEMI_TEST_SLIDES=full takes the seed's 3.2 years of 100 series (167 million samples, some minutes), and says how long the
// answer took.
func TestSlidesQuery(t *testing.T) {
	const end, interval = 1615917973, 900
	hosts, minutes := 8, 35*24*60
	full := os.Getenv("KEMI_TEST_SLIDES") == "full"
	if full {
		hosts, minutes = 100, 100_000_000/60
	}
	dir := t.TempDir()
	s := startServer(t, filepath.Join(dir, "data"), "agent: {enabled: false}\n")
	const first = end / 60 * 60
	begin := int64(first - minutes*60)

	// Each bucket's largest value of all series.
	truth := map[int64]float64{}
	in, out := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(out, 1<<20)
		r := rand.New(rand.NewPCG(1, 2))
		at := make([]int, hosts)
		for i := range at {
			at[i] = r.IntN(1000)
		}
		for m := range minutes {
			now := begin + int64(m)*60
			for i := range at {
				at[i] += r.IntN(21) - 10
				fmt.Fprintf(w, "data.load.avg_5m{host=\"dkos-marathon\",container=\"c-%02d\"} %d.%02d %d\n", i, max(0, at[i])/100, max(0, at[i])%100, now)
				bucket := now - now%interval
				truth[bucket] = max(truth[bucket], float64(max(0, at[i]))/100)
			}
		}
		_ = w.Flush()
		out.Close()
	}()
	began := time.Now()
	put := exec.Command(binary(t), "put", "--server", s.url, "--token-file", filepath.Join(s.data, "admin.token"))
	put.Stdin = in
	if text, err := put.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	t.Logf("%d samples in %s", hosts*minutes, time.Since(began).Round(time.Millisecond))

	start := int64(end - 100_000_000)
	covered := int64(0) // at the least: a store may read what lies just before what is asked for, too
	for m := range minutes {
		now := begin + int64(m)*60
		if at := now - now%interval; at < start { // such a bucket began before what is asked for
			delete(truth, at)
		} else {
			covered += int64(hosts)
		}
	}
	type result struct {
		series
		Stats struct {
			Covered  int64
			Views    []string
			Complete bool
		}
	}
	query := fmt.Sprintf(`{"start": %d043, "end": %d043, "showStats": true, "queries": [{"metric": "-", "aggregator": "max", "downsample": "15m-max", "filters": [
		{"filter": "data.load.avg_5m", "groupby": true, "tagk": "metric", "type": "literal_or"},
		{"filter": "dkos-marathon", "groupby": true, "tagk": "host", "type": "literal_or"}]}]}`, start, end)
	ask := func(view string) {
		t.Helper()
		var out []result
		if err := decode(s.must("POST", "/api/v2/query", query, "Content-Type", "application/json"), &out); err != nil || len(out) != 1 {
			t.Fatalf("%d series, %v", len(out), err)
		}
		a := out[0]
		if len(a.Dps) != len(truth) {
			t.Fatalf("%s: %d points, want %d", view, len(a.Dps), len(truth))
		}
		for at, want := range truth {
			if got, ok := a.Dps[fmt.Sprint(at)]; !ok || math.Float64bits(got) != math.Float64bits(want) {
				t.Fatalf("%s: at %d: %v, want %v", view, at, got, want)
			}
		}
		if !slices.Contains(a.Stats.Views, view) || !a.Stats.Complete || a.Stats.Covered < covered || a.Stats.Covered > int64(hosts*minutes) {
			t.Errorf("stats %+v, want view %s and %d to %d samples", a.Stats, view, covered, hosts*minutes)
		}
	}
	ask("speed")
	s.must("POST", "/api/v2/admin/settle?extent=all", nil)
	ask("batch:15m")
	if full {
		took := make([]time.Duration, 20)
		for i := range took {
			began := time.Now()
			s.must("POST", "/api/v2/query", strings.Replace(query, `"showStats": true, `, "", 1), "Content-Type", "application/json")
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		t.Logf("the answer took %s (median; quickest %s)", took[len(took)/2], took[0])
	}
}
