package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kemi"
)

func TestTryPipelines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`
pipelines:
  - name: pay
    match: {app: pay}
    steps:
      - {drop: {reason: health}, when: {body: /health/}}
      - parse: {as: json}
      - redact: {detectors: [email]}
`)
	var got []string
	err := TryPipelines(file, kemi.LabelsOf("app", "pay"), strings.NewReader("GET /health\n{\"user\":\"kim@shop.kr\"}\nplain\n"), func(l TriedLine) error {
		s := l.Before + " → "
		if l.After == nil {
			s += "dropped: " + l.Dropped()
		} else {
			s += l.After.Body + l.After.Attributes.String() + l.After.Stream.String()
		}
		for _, d := range l.Steps {
			s += " " + d.Step
			if d.Problem != "" {
				s += " (" + d.Problem + ")"
			}
		}
		got = append(got, s)
		return nil
	})
	want := []string{
		`GET /health → dropped: health drop`, `{"user":"kim@shop.kr"} → {"user":"***@****.**"}{user="***@****.**"}{app="pay"} parse json redact`, `plain → plain{}{app="pay"} parse json (not a JSON object) redact`,
	}
	if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := TryPipelines(file, nil, strings.NewReader(strings.Repeat("x", maxTried+1)), func(TriedLine) error { return nil }); !errors.Is(err, kemi.ErrTooLarge) {
		t.Error(err)
	}
	for text, want := range map[string]string{"": "EOF", "pipelines: []": "there are none", "pipeline: []": "field pipeline not found", "pipelines: [{name: a, steps: [{drop: {}}]}]": "reason: is missing"} {
		write(text)
		if err := TryPipelines(file, nil, strings.NewReader("x"), nil); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
