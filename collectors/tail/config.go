package tail

import (
	"path/filepath"
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
	// Multiline puts several lines into one record, if one of Start, Continue and Preset is set.
	Multiline Multiline `yaml:"multiline"`
	// Format is "container" for what container runtimes write (Docker's json-file, CRI): the text is taken out, with its time and stream, lines in parts are joined,
	// and the path says namespace, pod and container. "" = each line is text.
	Format string `yaml:"format"`
	// Encoding is utf-8, utf-16le or utf-16be; "" = what a byte order mark says, or else UTF-8.
	Encoding string `yaml:"encoding"`
	// From is where a file begins that is there when the agent starts for the first time: "beginning" (the default) or "end".
	From string `yaml:"from"`
}

const (
	maxMultiline     = 10_000
	defaultMultiline = 500

	formatContainer = "container"
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
	if _, err := c.Multiline.joiner(); err != nil {
		return err
	}
	if _, ok := encodings[c.Encoding]; !ok {
		return kemi.Errorf(kemi.ErrInvalid, "encoding: %q: must be utf-8, utf-16le, utf-16be, or empty", c.Encoding)
	}
	if c.Format != "" && c.Format != formatContainer {
		return kemi.Errorf(kemi.ErrInvalid, "format: %q: must be container, or empty", c.Format)
	}
	if c.Format != "" && encodings[c.Encoding] != notWide {
		return kemi.Errorf(kemi.ErrInvalid, "encoding: %q: files of container runtimes are UTF-8", c.Encoding)
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
	join     *joiner // nil: each line is a record
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
	in.join, _ = c.Multiline.joiner() // Validate has looked at it
	if in.maxLines == 0 {
		in.maxLines = defaultMultiline
	}
	if in.timeout == 0 {
		in.timeout = 3 * time.Second
	}
	return in, nil
}

// stream is the labels of a file that was found as path.
func (in *input) stream(path string) kemi.Labels {
	stream := in.base
	if in.Format == formatContainer {
		for _, l := range containerLabels(path) {
			stream = stream.With(l.Name, l.Value)
		}
		stream = stream.With("service", orElse(in.Service, orElse(stream.Get("container"), stream.Get("service"))))
	}
	return stream.With("file", path)
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
