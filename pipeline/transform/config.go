package transform

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"kemi"
)

// Pipeline is steps for the records that it matches.
type Pipeline struct {
	Name  string    `yaml:"name"`
	Match Condition `yaml:"match,omitempty"` // of labels of the stream; none: all records
	Steps []Step    `yaml:"steps"`
}

// Condition is what fields must be like, all of them: a text, /a regular expression/, or either with ! before it for what they must not be like. A field
// that is not there is "".
type Condition map[string]string

// Step is one of the things to do. When says for which records; none: all.
type Step struct {
	When   Condition         `yaml:"when,omitempty"`
	Parse  *Parse            `yaml:"parse,omitempty"`
	Redact *Redact           `yaml:"redact,omitempty"`
	Route  *Route            `yaml:"route,omitempty"`
	Sample *Sample           `yaml:"sample,omitempty"`
	Drop   *Drop             `yaml:"drop,omitempty"`
	Rename map[string]string `yaml:"rename,omitempty"` // fields, from their old names to new ones; body is one, too
	Add    map[string]string `yaml:"add,omitempty"`    // attributes, unless there are such
}

// Parse makes fields of a text.
type Parse struct {
	// As is json, logfmt, regexp, timestamp or severity.
	As string `yaml:"as"`
	// Field is what is read: body if it is empty.
	Field string `yaml:"field,omitempty"`
	// Prefix is put before the names of json's, logfmt's and regexp's fields.
	Prefix string `yaml:"prefix,omitempty"`
	// Pattern is regexp's, with named groups.
	Pattern string `yaml:"pattern,omitempty"`
	// Layout is timestamp's: auto, unix, unix_ms, unix_us, unix_ns, or as Go writes 2006-01-02 15:04:05.
	Layout string `yaml:"layout,omitempty"`
	// TimeZone is where times are that name none: UTC if it is empty.
	TimeZone string `yaml:"timeZone,omitempty"`
	// Levels are severity's: more names than are known by themselves.
	Levels map[string]string `yaml:"levels,omitempty"`
}

// Redact makes unreadable what detectors find.
type Redact struct {
	// Detectors are rrn (resident registration numbers, by date and checksum), rrn-any (by date only, as those given out since October 2020 have no checksum), card (by Luhn's),
	// phone, email, token (bearer, JWT, keys of well-known services, password=…).
	Detectors []string `yaml:"detectors,omitempty"`
	// Patterns are more of them, regular expressions by name. What their first group matches is redacted, or all if they have none.
	Patterns map[string]string `yaml:"patterns,omitempty"`
	// Fields are where to look: all if there are none.
	Fields []string `yaml:"fields,omitempty"`
	// With is mask (each letter and digit becomes *; the default) or hash (<name:…>, the same for the same text, by a key).
	With string `yaml:"with,omitempty"`
	// Keep is how many letters and digits at the end a mask leaves.
	Keep int `yaml:"keep,omitempty"`
	// KeyFile holds the key of hash.
	KeyFile string `yaml:"keyFile,omitempty"`
}

// Route says whose a record is, and of which stream.
type Route struct {
	Project string            `yaml:"project,omitempty"`
	Labels  map[string]string `yaml:"labels,omitempty"` // an empty value takes a label away
}

// Sample keeps a part of the records.
type Sample struct {
	Rate float64 `yaml:"rate"`         // of 1
	By   string  `yaml:"by,omitempty"` // records in which this field is the same are kept or dropped together; body if it is empty
}

// Drop drops records.
type Drop struct {
	Reason string `yaml:"reason"` // is counted
}

const (
	maxPipelines = 100
	maxSteps     = 100
	maxPattern   = 1000
)

// name is how the step is called in messages.
func (s Step) name() (name string, several bool) {
	for _, one := range []struct {
		name string
		is   bool
	}{
		{"parse", s.Parse != nil}, {"redact", s.Redact != nil}, {"route", s.Route != nil}, {"sample", s.Sample != nil},
		{"drop", s.Drop != nil}, {"rename", s.Rename != nil}, {"add", s.Add != nil},
	} {
		if one.is {
			several = several || name != ""
			name = one.name
		}
	}
	return name, several
}

// ReadFile reads pipelines from a file with the one key pipelines.
func ReadFile(name string) ([]Pipeline, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "pipelines: %w", err)
	}
	defer f.Close()
	var c struct {
		Pipelines []Pipeline `yaml:"pipelines"`
	}
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "pipelines %s: %w", name, err)
	}
	if len(c.Pipelines) == 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "pipelines %s: there are none; name at least one under the key pipelines", name)
	}
	return c.Pipelines, nil
}

// Validate tells what is wrong, all of it. Files of keys are not looked at.
func Validate(pipelines []Pipeline) error {
	_, err := compileAll(pipelines, false)
	return err
}

// matcher is a condition made ready.
type matcher struct {
	field string
	text  string
	re    *regexp.Regexp
	not   bool
}

func (c Condition) compile() (out []matcher, err error) {
	var errs []error
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		m := matcher{field: name}
		m.text, m.not = strings.CutPrefix(c[name], "!")
		if len(m.text) > 1 && m.text[0] == '/' && m.text[len(m.text)-1] == '/' {
			if m.re, err = pattern(m.text[1 : len(m.text)-1]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
		if name == "" {
			errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "a field without a name"))
		}
		out = append(out, m)
	}
	return out, errors.Join(errs...)
}

func pattern(s string) (*regexp.Regexp, error) {
	if len(s) > maxPattern {
		return nil, kemi.Errorf(kemi.ErrInvalid, "a regular expression of %d bytes: at most %d", len(s), maxPattern)
	}
	re, err := regexp.Compile(s)
	if err != nil {
		if e, ok := errors.AsType[*syntax.Error](err); ok {
			return nil, kemi.Errorf(kemi.ErrInvalid, "regular expression %q: %s: %q", s, e.Code, e.Expr)
		}
		return nil, kemi.Errorf(kemi.ErrInvalid, "regular expression: %w", err)
	}
	return re, nil
}

// compiled is a pipeline made ready.
type compiled struct {
	name  string
	match []matcher
	steps []step
}

// step is one made ready.
type step struct {
	name string // parse json
	when []matcher
	do   action
}

// action does a step with a record. problem says why it cannot, and then the record is as it was; drop is the reason why the record is to be dropped.
type action interface {
	apply(t *Transform, r *kemi.LogRecord) (problem, drop string)
}

func compileAll(pipelines []Pipeline, keys bool) ([]compiled, error) {
	var errs []error
	if len(pipelines) > maxPipelines {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "%d pipelines: at most %d", len(pipelines), maxPipelines))
	}
	seen := map[string]bool{}
	out := make([]compiled, len(pipelines))
	for i, p := range pipelines {
		bad := func(err error) { errs = append(errs, fmt.Errorf("pipeline %q: %w", p.Name, err)) }
		if p.Name == "" || seen[p.Name] {
			bad(kemi.Errorf(kemi.ErrInvalid, "name: must be given, and another for each pipeline"))
		}
		seen[p.Name] = true
		out[i].name = p.Name
		var err error
		if out[i].match, err = p.Match.compile(); err != nil {
			bad(fmt.Errorf("match: %w", err))
		}
		if len(p.Steps) == 0 || len(p.Steps) > maxSteps {
			bad(kemi.Errorf(kemi.ErrInvalid, "steps: %d of them: must be 1 to %d", len(p.Steps), maxSteps))
		}
		for k, s := range p.Steps {
			ready, err := s.compile(keys)
			if err != nil {
				bad(fmt.Errorf("step %d: %w", k+1, err))
			}
			out[i].steps = append(out[i].steps, ready)
		}
	}
	return out, errors.Join(errs...)
}

func (s Step) compile(keys bool) (out step, err error) {
	name, several := s.name()
	if name == "" || several {
		return out, kemi.Errorf(kemi.ErrInvalid, "must be one of parse, redact, route, sample, drop, rename, add")
	}
	out.name = name
	if out.when, err = s.When.compile(); err != nil {
		return out, fmt.Errorf("when: %w", err)
	}
	switch {
	case s.Parse != nil:
		out.name += " " + s.Parse.As
		out.do, err = s.Parse.compile()
	case s.Redact != nil:
		out.do, err = s.Redact.compile(keys)
	case s.Route != nil:
		out.do, err = s.Route.compile()
	case s.Sample != nil:
		if s.Sample.Rate < 0 || s.Sample.Rate > 1 {
			err = kemi.Errorf(kemi.ErrInvalid, "rate: %v: must be 0 to 1", s.Sample.Rate)
		}
		out.do = *s.Sample
	case s.Drop != nil:
		if s.Drop.Reason == "" {
			err = kemi.Errorf(kemi.ErrInvalid, "reason: is missing; it is what is counted")
		}
		out.do = *s.Drop
	case s.Rename != nil:
		out.do, err = compileRename(s.Rename)
	default:
		out.do, err = compileAdd(s.Add)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return out, err
}

func zone(name string) (*time.Location, error) {
	z, err := time.LoadLocation(name) // "" is UTC
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "timeZone: %q: must be a name of the time zone database, such as Asia/Seoul: %w", name, err)
	}
	return z, nil
}
