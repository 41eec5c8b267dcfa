package tail

import (
	"regexp"
	"time"

	"kemi"
)

// presets are the lines that belong to the one before, of traces as programs print them.
var presets = map[string]string{
	// Frames, causes, and what else is indented.
	"java": `^(\s|Caused by: |Suppressed: |\.\.\. \d+ )`,
	// A traceback, its frames, what joins two of them, and the exception that ends it.
	"python": `^(\s|Traceback \(most recent call last\):|During handling of the above exception|The above exception was the direct cause|([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Warning|Interrupt|Exit|StopIteration|Timeout)\b(: |$)|$)`,
	// The goroutines of a panic: their heads, calls, and places.
	"go": `^(\s|goroutine \d+ |\[signal |created by |exit status \d+$|([\w\-./%~]+/)?[\w\-.%~]+\.(\(\*?[\w\[\].,]+\)\.)?[\w.\[\]]+\(.*\)$|$)`,
}

// Multiline says how lines belong together.
type Multiline struct {
	// Start is a regular expression that the first line of a record matches.
	Start string `yaml:"start"`
	// Continue is one that matches lines which belong to the one before. Together with Start, a line begins a record if either says so.
	Continue string `yaml:"continue"`
	// Preset is Continue for stack traces: java, python or go.
	Preset string `yaml:"preset"`
	// MaxLines ends a record after so many lines; 500 if 0.
	MaxLines int `yaml:"maxLines"`
	// Timeout ends a record when nothing was added for so long; 3 s if 0.
	Timeout time.Duration `yaml:"timeout"`
}

// joiner decides which lines begin a record. nil: each.
type joiner struct{ start, more *regexp.Regexp }

func (m Multiline) joiner() (*joiner, error) {
	var j joiner
	var err error
	if m.Start != "" {
		if j.start, err = regexp.Compile(m.Start); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "multiline.start: %w", err)
		}
	}
	more := m.Continue
	if m.Preset != "" {
		if more != "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "multiline: preset %q and continue %q: name one of them", m.Preset, more)
		}
		if more = presets[m.Preset]; more == "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "multiline.preset: %q: must be java, python or go", m.Preset)
		}
	}
	if more != "" {
		if j.more, err = regexp.Compile(more); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "multiline.continue: %w", err)
		}
	}
	if j.start == nil && j.more == nil {
		return nil, nil //nolint:nilnil // nil is "each line"
	}
	return &j, nil
}

// begins tells whether a line, without its end, begins a record.
func (j *joiner) begins(line []byte) bool {
	return j.start != nil && j.start.Match(line) || j.more != nil && !j.more.Match(line)
}
