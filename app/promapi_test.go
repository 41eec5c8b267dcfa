package app

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// promQuestion is a request to Prometheus' HTTP API, and what a real Prometheus answered.
type promQuestion struct {
	Method string          `json:"method"`
	Path   string          `json:"path"` // below /api/v1
	Form   string          `json:"form,omitempty"`
	Code   int             `json:"code,omitempty"`
	Type   string          `json:"type,omitempty"` // media type
	Body   json.RawMessage `json:"body,omitempty"`
}

func (q promQuestion) String() string { return q.Method + " " + q.Path + "?" + q.Form }

// promRecord is what testdata/prometheus.json.gz holds: bodies of remote write 1.0, questions, and the answers of the Prometheus that is named. It is written by
// TestBesidePrometheus (tag peer) with KEMI_TEST_RECORD=1.
type promRecord struct {
	Version string         `json:"version"`
	Writes  [][]byte       `json:"writes"`
	Asked   []promQuestion `json:"asked"`
}

const promRecordFile = "testdata/prometheus.json.gz"

// TestLikePrometheus asks the whole server what a real Prometheus was asked, over the same samples.
func TestLikePrometheus(t *testing.T) {
	b, err := os.ReadFile(promRecordFile)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var rec promRecord
	if err := json.NewDecoder(z).Decode(&rec); err != nil {
		t.Fatal(err)
	}
	if len(rec.Asked) < 300 || len(rec.Writes) == 0 {
		t.Fatalf("%d questions, %d writes: the record is not whole", len(rec.Asked), len(rec.Writes))
	}
	a := start(t, config(t))
	c := promClient{base: "http://" + a.Addr(), token: a.AdminToken}
	for _, w := range rec.Writes {
		c.write(t, w)
	}
	c.settled(t)
	for _, q := range rec.Asked {
		if why := differs(q, c.ask(t, q)); why != "" {
			t.Errorf("%s (%s): %s", q, rec.Version, why)
		}
	}
}

// promClient speaks to one server.
type promClient struct{ base, token string }

func (c promClient) do(t *testing.T, r *http.Request) *http.Response {
	t.Helper()
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (c promClient) write(t *testing.T, body []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+"/api/v1/write", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("Content-Encoding", "snappy")
	r.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	resp := c.do(t, r)
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Fatalf("write: %s: %s", resp.Status, text)
	}
}

// settled waits until what was acknowledged can be queried.
func (c promClient) settled(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/readyz?complete", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp := c.do(t, r)
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not complete after a minute: %s", text)
		}
	}
}

// ask fills in the answer.
func (c promClient) ask(t *testing.T, q promQuestion) promQuestion {
	t.Helper()
	target, body := c.base+"/api/v1"+q.Path, io.Reader(nil)
	if q.Method == http.MethodGet {
		target += "?" + q.Form
	} else {
		body = strings.NewReader(q.Form)
	}
	r, err := http.NewRequestWithContext(t.Context(), q.Method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp := c.do(t, r)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	q.Code, q.Body = resp.StatusCode, b
	q.Type, _, _ = strings.Cut(resp.Header.Get("Content-Type"), ";")
	if len(b) > 0 && !json.Valid(b) {
		q.Body, _ = json.Marshal(string(b))
	}
	if len(b) == 0 {
		q.Body = nil
	}
	return q
}

// differs says how an answer differs from the one that is wanted, as JSON; of what comes in any order, the order does not count.
func differs(want, got promQuestion) string {
	show := func(b []byte) string {
		if len(b) > 1500 {
			return string(b[:1500]) + "…"
		}
		return string(b)
	}
	tell := func(what string) string {
		return fmt.Sprintf("%s\n  Prometheus %d %s %s\n  KEMI       %d %s %s", what, want.Code, want.Type, show(want.Body), got.Code, got.Type, show(got.Body))
	}
	if want.Code != got.Code {
		return tell("status")
	}
	if want.Type != got.Type {
		return tell("content type")
	}
	x, errX := normal(want)
	y, errY := normal(got)
	if errX != nil || errY != nil {
		return tell(fmt.Sprintf("not JSON: %v, %v", errX, errY))
	}
	if !reflect.DeepEqual(x, y) {
		return tell("body")
	}
	return ""
}

func normal(q promQuestion) (any, error) {
	if len(q.Body) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(q.Body))
	d.UseNumber() // so that 1.0 and 1 are not the same
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return v, nil
	}
	byText := func(l any) {
		if list, ok := l.([]any); ok {
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	byText(m["warnings"])
	byText(m["infos"])
	form, _ := url.ParseQuery(q.Form)
	if q.Path == "/series" {
		byText(m["data"])
	}
	if data, ok := m["data"].(map[string]any); ok {
		if q.Path == "/status/tsdb" { // with equal counts, they come in any order
			for _, l := range data {
				byText(l)
			}
			if h, ok := data["headStats"].(map[string]any); ok {
				delete(h, "chunkCount") // a chunk is something else here
			}
		}
		if data["resultType"] == "vector" && !strings.Contains(form.Get("query"), "sort") && !strings.Contains(form.Get("query"), "topk") && !strings.Contains(form.Get("query"), "bottomk") {
			byText(data["result"])
		}
		if stats, ok := data["stats"].(map[string]any); ok {
			delete(stats, "timings")
		}
	}
	if e, ok := m["error"].(string); ok { // which of several is named depends on their order
		if head, _, found := strings.Cut(e, "duplicate series for the match group"); found {
			m["error"] = head + "duplicate series"
		}
	}
	return m, nil
}
