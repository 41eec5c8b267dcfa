package tail

import (
	"path/filepath"
	"regexp"
	"time"

	"kemi"
)

// Config says which files to follow and what is known of their lines.
type Config struct {
	// Paths are patterns as of path/filepath.Match, for example /var/log/*.log. Compressed files are never followed.
	Paths []string `yaml:"paths"`
	// Exclude are patterns of whole paths or of file names that are left out.
	Exclude []string `yaml:"exclude"`
	// Service is the label service of the lines.
	Service string `yaml:"service"`
	// Labels are more labels of the lines.
	Labels map[string]string `yaml:"labels"`
	// Multiline puts several lines into one record, if Start is set.
	Multiline Multiline `yaml:"multiline"`
	// From is where a file begins that is there when the agent starts for the first time: "beginning" (the default) or "end".
	From string `yaml:"from"`
}

// Multiline says how lines belong together.
type Multiline struct {
	// Start is a regular expression that the first line of a record matches.
	Start string `yaml:"start"`
	// MaxLines ends a record after so many lines; 500 if 0.
	MaxLines int `yaml:"maxLines"`
	// Timeout ends a record when nothing was added for so long; 3 s if 0.
	Timeout time.Duration `yaml:"timeout"`
}

const (
	maxMultiline     = 10_000
	defaultMultiline = 500
)

// Validate tells what is wrong with c.
func (c Config) Validate() error {
	if len(c.Paths) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "paths: empty; name at least one file or pattern")
	}
	for _, p := range c.Paths {
		if !filepath.IsAbs(p) {
			return kemi.Errorf(kemi.ErrInvalid, "paths: %q: must begin with /", p)
		}
	}
	for _, p := range append(append([]string(nil), c.Paths...), c.Exclude...) {
		if _, err := filepath.Match(p, "x"); err != nil {
			return kemi.Errorf(kemi.ErrInvalid, "paths: %q: %w", p, err)
		}
	}
	switch c.From {
	case "", "beginning", "end":
	default:
		return kemi.Errorf(kemi.ErrInvalid, "from: %q: must be beginning or end", c.From)
	}
	if _, err := regexp.Compile(c.Multiline.Start); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "multiline.start: %w", err)
	}
	if n := c.Multiline.MaxLines; n < 0 || n > maxMultiline {
		return kemi.Errorf(kemi.ErrInvalid, "multiline.maxLines: %d: must be 0 to %d", n, maxMultiline)
	}
	if c.Multiline.Timeout < 0 {
		return kemi.Errorf(kemi.ErrInvalid, "multiline.timeout: %s: must not be negative", c.Multiline.Timeout)
	}
	for name, value := range c.Labels {
		if name == "" || value == "" {
			return kemi.Errorf(kemi.ErrInvalid, "labels: %q: %q: neither name nor value may be empty", name, value)
		}
	}
	return nil
}

// input is a Config made ready.
type input struct {
	Config
	base     kemi.Labels
	start    *regexp.Regexp
	maxLines int
	timeout  time.Duration
	endFirst bool
}

func newInput(c Config, base kemi.Labels) (*input, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	in := &input{Config: c, base: base, maxLines: c.Multiline.MaxLines, timeout: c.Multiline.Timeout, endFirst: c.From == "end"}
	for name, value := range c.Labels {
		in.base = in.base.With(name, value)
	}
	in.base = in.base.With("service", orElse(c.Service, in.base.Get("service")))
	if c.Multiline.Start != "" {
		in.start = regexp.MustCompile(c.Multiline.Start) // Validate has compiled it
	}
	if in.maxLines == 0 {
		in.maxLines = defaultMultiline
	}
	if in.timeout == 0 {
		in.timeout = 3 * time.Second
	}
	return in, nil
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

func (in *input) excluded(path string) bool {
	switch filepath.Ext(path) {
	case ".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip":
		return true
	}
	for _, p := range in.Exclude {
		if ok, _ := filepath.Match(p, path); ok {
			return true
		}
		if ok, _ := filepath.Match(p, filepath.Base(path)); ok {
			return true
		}
	}
	return false
}
