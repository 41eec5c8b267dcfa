package query

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kemi"
)

func TestJournal(t *testing.T) {
	m := newMemory()
	if err := m.load("cpu{host=a} 1515900000 60s: 1 2 3"); err != nil {
		t.Fatal(err)
	}
	h := serve(newEngine(t, m))
	before := testID
	defer func() { testID = before }()
	ask := func(target string) (int, string) {
		code, body, _ := do(t, h, "GET", target, "")
		return code, body
	}
	if code, body := ask("/api/stats/query"); code != 403 {
		t.Errorf("without the permission: %d %s", code, body)
	}
	const url = "/api/query?start=1515900000&end=1515900600&m="
	ask(url + "sum:cpu{host=*}")
	ask(url + "sum:nosuch:cpu")                                       // not understood: it never ran
	ask(url + "sum:no.such.cpu")                                      // it ran, and found no such name
	ask(url + "sum:cpu{host=" + strings.Repeat("x|", maxKept) + "a}") // too long to be asked, or kept
	testID.Permissions |= kemi.Admin
	var got struct {
		Running   []any
		Completed []struct {
			Query struct {
				Start   string
				Queries []struct{ Metric string }
			}
			HTTPResponse struct{ Code int }
			Exception    string
			Stats        struct{ EmittedDPs int }
		}
	}
	code, body := ask("/api/v2/stats/query")
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	var lines []string
	for _, c := range got.Completed {
		lines = append(lines, fmt.Sprint(c.Query.Start, c.Query.Queries, c.HTTPResponse.Code, c.Stats.EmittedDPs, c.Exception != "null"))
	}
	want := []string{"1515900000000[] 400 0 true", "1515900000000[{no.such.cpu}] 400 0 true", "1515900000000[{cpu}] 200 3 false"}
	if !slices.Equal(lines, want) || len(got.Running) != 0 {
		t.Errorf("got %q, running %v", lines, got.Running)
	}
	testID.Project = "other"
	if _, body := ask("/api/stats/query"); strings.Contains(body, "cpu") {
		t.Errorf("another project's queries: %s", body)
	}
	testID.Project = before.Project
	for range len(journal{}.ended) * 2 {
		ask(url + "sum:cpu{host=*}")
	}
	if _, body = ask("/api/stats/query"); strings.Count(body, `"executed"`) != len(journal{}.ended) {
		t.Errorf("%d have ended", strings.Count(body, `"executed"`))
	}
}
