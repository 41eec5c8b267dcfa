//go:build peer

package query

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kemi"
)

// TestPeer asks an OpenTSDB 2.4.1 and the engine the same random questions over the same random data. KEMI_TEST_OPENTSDB is its host:port:
//
//	KEMI_TEST_OPENTSDB=127.0.0.1:4242 go test -tags peer -run TestPeer ./sauron/query
func TestPeer(t *testing.T) {
	addr := os.Getenv("KEMI_TEST_OPENTSDB")
	if addr == "" {
		t.Fatal("KEMI_TEST_OPENTSDB is not set")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	prefix := fmt.Sprintf("kemi.t%d.", seed)
	m := newMemory()
	e := newEngine(t, m)
	var points []map[string]any
	w := newWorld(rnd, prefix)
	w.each(func(ls kemi.Labels, at kemi.Millis, v float64, whole bool) {
		m.add(testID.Project, ls, at, v)
		var value any = v
		if whole {
			value = int64(v)
		}
		tags := ls.Map()
		delete(tags, kemi.MetricName)
		points = append(points, map[string]any{"metric": ls.Get(kemi.MetricName), "timestamp": int64(at), "value": value, "tags": tags})
	})
	// OpenTSDB orders series by when their names were first seen: first, last and diff show it.
	for _, names := range []string{"tagk=area,node", "tagv=Asan,Jeju,srv00,srv01,srv02,srv03,srv04,srv05"} {
		kind, list, _ := strings.Cut(names, "=")
		for _, n := range strings.Split(list, ",") {
			peer(t, addr, "/api/uid/assign", map[string]any{kind: []string{n}}) // 400 if it is there already
		}
	}
	for c := range slices.Chunk(points, 40) {
		if code, body := peer(t, addr, "/api/put?sync&details", c); code != 200 {
			t.Fatalf("put: %d %s", code, body)
		}
	}
	failed, silent := 0, 0
	for i := range 3000 {
		q := w.query(rnd)
		code, want := peer(t, addr, "/api/query", q)
		body, _ := json.Marshal(q)
		if code == 0 {
			silent++
			t.Logf("no answer to %s", body)
			continue
		}
		req, err := ParseJSON(body, testNow)
		var got bytes.Buffer
		gotCode := 200
		if err == nil {
			var results []Result
			var stats Stats
			if results, stats, err = e.Query(t.Context(), testID, req); err == nil {
				err = WriteJSON(&got, &req, results, nil, stats)
			}
		}
		if err != nil {
			gotCode = 400
			got.WriteString(err.Error())
		}
		if errors.Is(err, kemi.ErrTooLarge) {
			continue
		}
		if bytes.Contains(body, []byte("explicitTags")) {
			// OpenTSDB reads one row more then, and shows what has points only there as empty and nameless results.
			mine := slices.Clone(got.Bytes())
			got.Reset()
			got.WriteString(withoutEmpty(t, string(mine)))
			want = withoutEmpty(t, want)
		}
		if code != gotCode || code == 200 && !sameResults(t, got.String(), want) {
			if strings.Contains(want, "Got Infinity") {
				continue // an answer that OpenTSDB cannot write
			}
			failed++
			t.Errorf("query %d %s\ngot  %d %s\nwant %d %.3000s", i, body, gotCode, got.String(), code, want)
			if failed > 5 {
				t.FailNow()
			}
		}
	}
	if silent > 300 {
		t.Fatalf("OpenTSDB did not answer %d questions", silent)
	}
}

// withoutEmpty leaves out results without points.
func withoutEmpty(t *testing.T, answer string) string {
	var rs []map[string]any
	if json.Unmarshal([]byte(answer), &rs) != nil {
		return answer
	}
	rs = slices.DeleteFunc(rs, func(r map[string]any) bool { return fmt.Sprint(r["dps"]) == "map[]" })
	b, err := json.Marshal(rs)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// peerClient gives up on questions that OpenTSDB never answers.
var peerClient = &http.Client{Timeout: 3 * time.Second}

func peer(t *testing.T, addr, path string, body any) (int, string) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := peerClient.Post("http://"+addr+path, "application/json", bytes.NewReader(b))
	if os.IsTimeout(err) || errors.Is(err, io.EOF) { // it hangs, or hangs up
		return 0, ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(answer)
}

// sameResults compares answers as sets of results. Points may differ by rounding.
func sameResults(t *testing.T, got, want string) bool {
	type result struct {
		Metric        string
		Tags          map[string]string
		AggregateTags []string
		Dps           map[string]any
	}
	read := func(s string) []result {
		var rs []result
		if err := json.Unmarshal([]byte(s), &rs); err != nil {
			t.Fatalf("answer is not JSON: %v: %s", err, s)
		}
		for _, r := range rs {
			slices.Sort(r.AggregateTags)
		}
		slices.SortFunc(rs, func(a, b result) int {
			return strings.Compare(fmt.Sprint(a.Tags, a.AggregateTags), fmt.Sprint(b.Tags, b.AggregateTags))
		})
		return rs
	}
	g, w := read(got), read(want)
	if len(g) != len(w) {
		return false
	}
	for i := range g {
		if g[i].Metric != w[i].Metric || fmt.Sprint(g[i].Tags) != fmt.Sprint(w[i].Tags) || !slices.Equal(g[i].AggregateTags, w[i].AggregateTags) || len(g[i].Dps) != len(w[i].Dps) {
			return false
		}
		for k, x := range w[i].Dps {
			y, ok := g[i].Dps[k]
			a, aNum := x.(float64)
			b, bNum := y.(float64)
			if !ok || aNum != bNum || !aNum && x != y || aNum && math.Abs(a-b) > 1e-12*max(math.Abs(a), math.Abs(b)) {
				return false
			}
		}
	}
	return true
}

func (w *world) query(rnd *rand.Rand) map[string]any {
	sub := map[string]any{"aggregator": oneOf(rnd, Aggregators()...), "metric": w.prefix + oneOf(rnd, "a", "b")}
	if rnd.IntN(2) == 0 {
		sub["aggregator"] = oneOf(rnd, "sum", "avg", "max", "min", "none", "dev", "zimsum", "count", "p95")
	}
	if rnd.IntN(5) < 3 {
		names := slices.DeleteFunc(Aggregators(), func(n string) bool { return n == "none" })
		sub["downsample"] = oneOf(rnd, "10s", "1m", "5m", "7m", "15m", "1h", "0all", "1mc", "15mc", "1hc", "6hc", "1dc", "1wc", "1nc", "90s", "700ms") +
			"-" + oneOf(rnd, names...) + oneOf(rnd, "", "", "", "-none", "-nan", "-null", "-zero")
	}
	if rnd.IntN(3) == 0 {
		sub["rate"] = true
		if rnd.IntN(2) == 0 {
			o := map[string]any{"counter": true}
			if rnd.IntN(2) == 0 {
				o["counterMax"] = oneOf(rnd, 1000, 65535, 300)
			}
			if rnd.IntN(2) == 0 {
				o["resetValue"] = oneOf(rnd, 1, 5, 100)
			}
			if rnd.IntN(3) == 0 {
				o["dropResets"] = true
			}
			sub["rateOptions"] = o
		}
	}
	var filters []map[string]any
	for _, tagk := range []string{"node", "area"} {
		if rnd.IntN(2) == 0 {
			continue
		}
		f := oneOf(rnd, [][2]string{
			{"wildcard", "*"}, {"literal_or", "srv00"}, {"literal_or", "srv00|srv01"}, {"iliteral_or", "SRV00|Srv01"}, {"not_literal_or", "srv00|Asan"},
			{"not_iliteral_or", "SRV00|jeju"}, {"wildcard", "srv*"}, {"wildcard", "*1"}, {"wildcard", "s*0*"}, {"wildcard", "s*1"}, {"wildcard", "b*s"}, {"iwildcard", "*SRV*"},
			{"regexp", "srv0[12]"}, {"regexp", "^J"}, {"regexp", "n$"}, {"regexp", "1|A"}, {"literal_or", "Jeju"}, {"literal_or", "nosuch"},
		}...)
		filters = append(filters, map[string]any{"type": f[0], "filter": f[1], "tagk": tagk, "groupBy": rnd.IntN(2) == 0})
	}
	switch {
	case filters != nil && rnd.IntN(4) > 0:
		sub["filters"] = filters
		if rnd.IntN(4) == 0 {
			sub["explicitTags"] = true
		}
	case rnd.IntN(3) == 0:
		sub["tags"] = map[string]string{oneOf(rnd, "node", "area"): oneOf(rnd, "*", "srv00|srv01", "srv*", "regexp(.*1)", "Jeju")}
	}
	span := oneOf(rnd, int64(600), 3600, 7200, 90_000, 40*86_400)
	if d, _ := sub["downsample"].(string); strings.HasPrefix(d, "700ms") || strings.HasPrefix(d, "10s") {
		span = min(span, 7200)
	}
	start := int64(worldStart) - rnd.Int64N(2*span)*1000 + rnd.Int64N(5400)*1000
	if rnd.IntN(3) == 0 {
		start += rnd.Int64N(1000)
	}
	q := map[string]any{"start": start, "end": start + span*1000 + oneOf(rnd, int64(0), 0, 1, 500, 999), "queries": []any{sub}}
	if rnd.IntN(2) == 0 {
		q["msResolution"] = true
	}
	if rnd.IntN(3) == 0 {
		q["timezone"] = oneOf(rnd, "Asia/Seoul", "America/New_York", "UTC", "Asia/Kolkata")
	}
	if rnd.IntN(6) == 0 {
		q["useCalendar"] = true
	}
	return q
}
