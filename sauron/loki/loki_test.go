package loki

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/lines"
	"kemi/pipeline/store"
)

// server serves the API over a store with sixty lines, one a minute, of two hosts.
func server(t *testing.T) (ask func(method, path string, v url.Values) (int, string), start int64) {
	c := lines.DefaultConfig()
	c.Dir, c.MinFreeBytes = t.TempDir(), 0
	s, err := lines.Open(c, lines.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	start = int64(1_790_000_040)
	var rs []kemi.LogRecord
	for i := range 60 {
		rs = append(rs, kemi.LogRecord{
			ID: fmt.Sprintf("0-%011x-%05x", 0, i), Project: "p", At: kemi.Nanos(start+int64(i)*60)*1e9 + 5, Severity: kemi.SeverityInfo,
			Stream: kemi.LabelsOf("app", "pay", "host", fmt.Sprint("h", i%2)), Body: fmt.Sprintf(`{"n":%d,"msg":"took %dms"}`, i, i*10),
		})
	}
	if err := s.Index(context.Background(), rs, store.Position{Next: 1}); err != nil {
		t.Fatal(err)
	}
	a := New(Options{
		Store: s, Enter: func(context.Context, kemi.Identity) (func(), error) { return func() {}, nil }, Timeout: time.Minute, Now: time.Now, Registerer: prometheus.NewRegistry(),
	})
	mux := http.NewServeMux()
	for _, r := range a.Routes() {
		if r.Needs != kemi.LogsRead || r.Public {
			t.Errorf("%s needs %v", r.Pattern, r.Needs)
		}
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) {
			r.Handle(w, req, kemi.Identity{Subject: "t", Project: "p", Permissions: kemi.LogsRead})
		})
	}
	return func(method, path string, v url.Values) (int, string) {
		var req *http.Request
		if method == "POST" {
			req = httptest.NewRequest(method, "/loki/api/v1/"+path, strings.NewReader(v.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		} else {
			req = httptest.NewRequest(method, "/loki/api/v1/"+path+"?"+v.Encode(), nil)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, req)
		return w.Code, strings.TrimSpace(w.Body.String())
	}, start
}

// TestAnswers asks each route; answers have Loki's form.
func TestAnswers(t *testing.T) {
	ask, start := server(t)
	ns := func(s int64) string { return fmt.Sprint(s * 1e9) }
	span := url.Values{"start": {ns(start)}, "end": {ns(start + 3600)}}
	with := func(pairs ...string) url.Values {
		v := url.Values{}
		for k, s := range span {
			v[k] = s
		}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	for _, c := range []struct {
		path string
		v    url.Values
		want string // of data, or of all where there is none
	}{
		{"query_range", with("query", `{app="pay"} |= "took 10ms"`), `{"resultType":"streams","result":[{"stream":{"app":"pay","host":"h1","level":"info"},"values":[["` + fmt.Sprint((start+60)*1e9+5) + `","{\"n\":1,\"msg\":\"took 10ms\"}"]]}]}`},
		{"query_range", with("query", `{app="pay"}`, "limit", "1"), `{"resultType":"streams","result":[{"stream":{"app":"pay","host":"h1","level":"info"},"values":[["` + fmt.Sprint((start+59*60)*1e9+5) + `","{\"n\":59,\"msg\":\"took 590ms\"}"]]}]}`},
		{"query_range", with("query", `{app="pay"}`, "limit", "1", "direction", "forward"), `{"resultType":"streams","result":[{"stream":{"app":"pay","host":"h0","level":"info"},"values":[["` + fmt.Sprint(start*1e9+5) + `","{\"n\":0,\"msg\":\"took 0ms\"}"]]}]}`},
		{"query_range", url.Values{"query": {`sum by (host) (count_over_time({app="pay"}[10m]))`}, "start": {fmt.Sprint(start + 600)}, "end": {fmt.Sprint(start + 1200)}, "step": {"10m"}},
			fmt.Sprintf(`{"resultType":"matrix","result":[{"metric":{"host":"h0"},"values":[[%d,"5"],[%d,"5"]]},{"metric":{"host":"h1"},"values":[[%d,"5"],[%d,"5"]]}]}`, start+600, start+1200, start+600, start+1200)},
		{"query", url.Values{"query": {`sum(count_over_time({app="pay"}[1h]))`}, "time": {ns(start + 3600)}}, fmt.Sprintf(`{"resultType":"vector","result":[{"metric":{},"value":[%d,"60"]}]}`, start+3600)},
		{"query", url.Values{"query": {`1 + 1`}, "time": {ns(start)}}, fmt.Sprintf(`{"resultType":"scalar","result":[%d,"2"]}`, start)},
		{"labels", span, `["app","host","level"]`},
		{"label/host/values", with("query", `{app="pay"}`), `["h0","h1"]`},
		{"label/host/values", with("query", `{app="nope"}`), `[]`},
		{"series", with("match[]", `{host="h1"}`), `[{"app":"pay","host":"h1","level":"info"}]`},
		{"index/stats", with("query", `{app="pay"}`), `{"bytes":0,"chunks":0,"entries":60,"streams":2}`},
		{"index/volume", with("query", `{host=~".+"}`), fmt.Sprintf(`{"resultType":"vector","result":[{"metric":{"host":"h0"},"value":[%d,"30"]},{"metric":{"host":"h1"},"value":[%d,"30"]}]}`, start+3600, start+3600)},
		{"detected_labels", span, `{"detectedLabels":[{"label":"level","cardinality":1},{"label":"app","cardinality":1},{"label":"host","cardinality":2}]}`},
	} {
		for _, method := range []string{"GET", "POST"} {
			if method == "POST" && !slices.Contains(posted, c.path) {
				continue
			}
			code, body := ask(method, c.path, c.v)
			var got any
			if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
				t.Errorf("%s %s: %d %s", method, c.path, code, body)
				continue
			}
			if m, ok := got.(map[string]any); ok && m["data"] != nil {
				got = m["data"]
				if d, ok := got.(map[string]any); ok {
					if d["stats"] == nil {
						t.Errorf("%s has no stats", c.path)
					}
					delete(d, "stats")
				}
			}
			var want any
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err, c.want)
			}
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			if string(g) != string(w) {
				t.Errorf("%s %s %s:\n got %s\nwant %s", method, c.path, c.v.Get("query"), g, w)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	ask, start := server(t)
	for _, c := range []struct {
		path string
		v    url.Values
		want string
	}{
		{"query", url.Values{"query": {`{app="pay"}`}}, "not supported as an instant query"},
		{"query", url.Values{"query": {`{app=`}}, "parse error at line 1, col 6"},
		{"query_range", url.Values{"query": {`{app="pay"}`}, "limit": {"100000"}}, "max entries limit"},
		{"query_range", url.Values{"query": {`{app="pay"}`}, "limit": {"x"}}, "limit"},
		{"query_range", url.Values{"query": {`{app="pay"}`}, "start": {"yesterday"}}, "start"},
		{"query_range", url.Values{"query": {`{app="pay"}`}, "direction": {"up"}}, "direction"},
		{"query_range", url.Values{"query": {`{app="pay"}`}, "start": {fmt.Sprint(start)}, "end": {fmt.Sprint(start - 1)}}, "end timestamp"},
		{"query_range", url.Values{"query": {`rate({app="pay"}[1m])`}, "start": {fmt.Sprint(start)}, "end": {fmt.Sprint(start + 1e6)}, "step": {"1"}}, "11,000 points"},
		{"series", url.Values{"match[]": {`rate({a="b"}[1m])`}}, "must be a selector"},
	} {
		code, body := ask("GET", c.path, c.v)
		if code != 400 || !strings.Contains(body, c.want) {
			t.Errorf("%s %v: %d %s, want %q", c.path, c.v, code, body, c.want)
		}
	}
}
