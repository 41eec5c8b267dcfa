package promql

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"

	"kemi"
)

// testSource gives the same series for every identity.
type testSource struct{ *teststorage.TestStorage }

func (s testSource) Queryable(kemi.Identity) storage.Queryable           { return s.TestStorage }
func (s testSource) ChunkQueryable(kemi.Identity) storage.ChunkQueryable { return s.TestStorage }
func (s testSource) ExemplarQueryable(kemi.Identity) storage.ExemplarQueryable {
	return s.TestStorage
}

var reader = kemi.Identity{Subject: "test", Project: "default", Permissions: kemi.MetricsRead}

const corpus = `load 1m
  up{job="api",instance="a:1"} 1 1 0 1 1 _ _ 1 1 1
  up{job="api",instance="b:1"} 1+0x9
  up{job="db",instance="c:1"} 0 NaN Inf -Inf 1e-7 1e21 1e22 0.1 -0.3 stale
  http_requests_total{job="api",code="200",path="/a\"b\\c"} 0+10x9
  http_requests_total{job="api",code="500",path="/결제"} 0+1x9
  {"data.load.avg_5m", "호스트"="dkos-marathon"} 1.5x9
  lat_bucket{le="0.1"} 0+1x9
  lat_bucket{le="1"} 0+3x9
  lat_bucket{le="+Inf"} 0+4x9
  native {{schema:1 sum:5 count:9 z_bucket:1 buckets:[2 3 0 3] offset:-2 n_buckets:[1]}}x9
`

func testStorage(t *testing.T) *teststorage.TestStorage {
	s := promqltest.LoadedStorage(t, corpus)
	app := s.AppenderV2(context.Background())
	ls := labels.FromStrings("__name__", "http_requests_total", "job", "api", "code", "200", "path", "/a\"b\\c")
	if _, err := app.Append(0, ls, 0, 600_000, 100, nil, nil, storage.AOptions{Exemplars: []exemplar.Exemplar{
		{Labels: labels.FromStrings("trace_id", "abc"), Value: 0.25, Ts: 599_500, HasTs: true},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	return s
}

func testAPI(t *testing.T, s *teststorage.TestStorage, change func(*Config, *Options)) http.Handler {
	cfg := DefaultConfig()
	src := testSource{s}
	o := Options{Source: src, Chunks: src, Exemplars: src, Now: func() time.Time { return time.Unix(600, 0) }}
	if change != nil {
		change(&cfg, &o)
	}
	a, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, r := range a.Routes() {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) { r.Handle(w, req, reader) })
	}
	return mux
}

func ask(h http.Handler, method, target string, form url.Values) *httptest.ResponseRecorder {
	var r *http.Request
	if method == "POST" {
		r = httptest.NewRequest(method, target, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		r = httptest.NewRequest(method, target+"?"+form.Encode(), nil)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// recorded is a question and what Prometheus' own handlers (web/api/v1 of the module version in go.mod) answer over testStorage.
type recorded struct {
	Path string          `json:"path"`
	Form string          `json:"form"`
	Code int             `json:"code"`
	Body json.RawMessage `json:"body"`
}

// TestSameAsPrometheus asks what is recorded in testdata/prometheus.json.
func TestSameAsPrometheus(t *testing.T) {
	h := testAPI(t, testStorage(t), nil)
	b, err := os.ReadFile("testdata/prometheus.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	if err := json.Unmarshal(b, &all); err != nil || len(all) < 500 {
		t.Fatalf("%d questions, %v", len(all), err)
	}
	for _, q := range all {
		form, err := url.ParseQuery(q.Form)
		if err != nil {
			t.Fatal(err)
		}
		methods := []string{"GET", "POST"}
		if strings.HasPrefix(q.Path, "/api/v1/label/") {
			methods = methods[:1]
		}
		for _, m := range methods {
			w := ask(h, m, q.Path, form)
			if why := differ(q, w); why != "" {
				t.Errorf("%s %s %v: %s\nPrometheus %d %s\n      KEMI %d %s", m, q.Path, form, why, q.Code, q.Body, w.Code, w.Body)
			}
		}
	}
}

func differ(want recorded, got *httptest.ResponseRecorder) string {
	if want.Code != got.Code {
		return "status"
	}
	if want.Code == http.StatusNoContent {
		return ""
	}
	if ct := got.Header().Get("Content-Type"); ct != "application/json" {
		return "content type " + ct
	}
	x, err := canonical(want.Body, want.Form)
	if err != nil {
		return "theirs: " + err.Error()
	}
	y, err := canonical(got.Body.Bytes(), want.Form)
	if err != nil {
		return "ours: " + err.Error()
	}
	if !reflect.DeepEqual(x, y) {
		return "body"
	}
	return ""
}

// canonical is an answer with the lists sorted that come in any order: notes, and series unless the query sorts them.
func canonical(b []byte, form string) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // so that 1.0 and 1 are not the same
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	byText := func(l any) {
		if list, ok := l.([]any); ok {
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	byText(m["warnings"])
	byText(m["infos"])
	if strings.Contains(form, "match[]") {
		byText(m["data"])
	}
	if data, ok := m["data"].(map[string]any); ok && data["resultType"] == "vector" && !strings.Contains(form, "sort") && !strings.Contains(form, "topk") {
		byText(data["result"])
	}
	return m, nil
}
