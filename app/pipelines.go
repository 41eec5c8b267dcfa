package app

import (
	"bufio"
	"errors"
	"io"
	"time"

	"kemi"
	"kemi/pipeline/transform"
)

// TriedLine is a line before and after pipelines.
type TriedLine struct {
	Before string           `json:"before"`
	After  *TriedRecord     `json:"after"` // nil: it was dropped
	Steps  []transform.Done `json:"steps"`
}

// TriedRecord is a log record as people look at it.
type TriedRecord struct {
	Time       time.Time   `json:"time"`
	Level      string      `json:"level,omitempty"`
	Project    string      `json:"project,omitempty"` // if it is routed
	Stream     kemi.Labels `json:"stream"`
	Attributes kemi.Labels `json:"attributes"`
	Body       string      `json:"body"`
}

// Dropped is the reason why the line was dropped, or "".
func (l TriedLine) Dropped() string {
	if n := len(l.Steps); l.After == nil && n > 0 {
		return l.Steps[n-1].Dropped
	}
	return ""
}

// maxTried is how long a line may be that is tried.
const maxTried = 1 << 20

// TryPipelines reads pipelines from a file and applies them to lines, each as the body of a record with these labels; each gets every line.
//
// Errors: ErrInvalid, those of in and of each.
func TryPipelines(file string, labels kemi.Labels, in io.Reader, each func(TriedLine) error) error {
	pipelines, err := transform.ReadFile(file)
	if err != nil {
		return err
	}
	t, err := transform.New(pipelines, transform.Options{Now: time.Now})
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxTried)
	for lines.Scan() {
		line := TriedLine{Before: lines.Text(), Steps: []transform.Done{}}
		r := kemi.LogRecord{At: kemi.NanosOf(time.Now()), Stream: labels, Body: line.Before}
		steps, kept := t.Try(&r)
		line.Steps = append(line.Steps, steps...)
		if kept {
			line.After = &TriedRecord{Time: r.At.Time(), Level: r.Severity.String(), Project: r.Project, Stream: r.Stream, Attributes: r.Attrs, Body: r.Body}
		}
		if err := each(line); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return kemi.Errorf(kemi.ErrTooLarge, "a line is longer than %d bytes", maxTried)
	}
	return lines.Err()
}
