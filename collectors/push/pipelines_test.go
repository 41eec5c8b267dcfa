package push_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/push"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/transform"
)

// TestPipelines sends records through pipelines: what they drop is acknowledged and not there, what they route is of another project, and what they redact is in
// no byte of the log.
func TestPipelines(t *testing.T) {
	var pipelines []transform.Pipeline
	if err := yaml.Unmarshal([]byte(`
- name: pay
  match: {app: pay}
  steps:
    - {drop: {reason: health}, when: {body: /health/}}
    - redact: {detectors: [card]}
    - {route: {project: audit, labels: {tier: gold}}, when: {body: /paid/}}
`), &pipelines); err != nil {
		t.Fatal(err)
	}
	tr, err := transform.New(pipelines, transform.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h := collectortest.Open(t, func(o *push.Options) { o.Pipelines = tr })
	const card = "4111111111111111"
	at := kemi.NanosOf(time.Now())
	pay, other := kemi.LabelsOf("app", "pay", "host", "web-1"), kemi.LabelsOf("app", "web")
	records := []kemi.LogRecord{
		{At: at, Stream: pay, Body: "GET /health"}, {At: at, Stream: pay, Body: "paid with " + card}, {At: at, Stream: other, Body: "paid"}, {At: at, Stream: pay, Body: "also paid", Attrs: kemi.LabelsOf("card", card)},
		{At: at, Stream: pay, Body: "text"},
	}
	before := fmt.Sprint(records)
	if err := h.Push.WriteLogs(t.Context(), h.ID, "test", records, "b1"); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(records) != before {
		t.Error("the caller's records were changed: to write them again would do the steps again")
	}
	if err := h.Push.WriteLogs(t.Context(), h.ID, "test", records[:1], ""); err != nil {
		t.Errorf("all is dropped: %v", err)
	}
	var got []string
	for _, rec := range h.Records(bus.Logs) {
		logs, err := codec.DecodeLogs(&rec)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range logs {
			got = append(got, fmt.Sprintf("%s %s %s %q", r.Project, r.Stream, r.Attrs, r.Body))
		}
	}
	slices.Sort(got)
	want := []string{
		`audit {app="pay", host="web-1", tier="gold"} {card="****************"} "also paid"`, `audit {app="pay", host="web-1", tier="gold"} {} "paid with ****************"`,
		`shop {app="pay", host="web-1"} {} "text"`, `shop {app="web"} {} "paid"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRedactedBytes looks into every byte under the data folder.
func TestRedactedBytes(t *testing.T) {
	tr, err := transform.New([]transform.Pipeline{{Name: "p", Steps: []transform.Step{{Redact: &transform.Redact{Detectors: []string{"rrn"}}}}}}, transform.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h := collectortest.Open(t, func(o *push.Options) { o.Pipelines = tr })
	h.Serve(h.Push.Routes())
	const secret = "900101-1234568"
	status, text, _ := h.Post("/api/v2/logs", []byte(`{"msg":"of `+secret+`","host":"`+secret+`","id":"`+secret+`","kept":"marker"}`))
	if status != 204 {
		t.Fatal(status, text)
	}
	seen := false
	err = filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		seen = seen || bytes.Contains(b, []byte("marker"))
		if bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte(secret[7:])) {
			t.Errorf("%s holds the number", path)
		}
		return err
	})
	if err != nil || !seen {
		t.Error("the record is not there either", err)
	}
}
