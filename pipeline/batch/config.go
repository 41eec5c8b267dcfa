package batch

import (
	"fmt"
	"regexp"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"kemi"
	"kemi/pipeline/store"
)

// Config is what an operator may set.
type Config struct {
	// Dir is where the settled blocks and the manifest lie.
	Dir string `yaml:"dir"`
	// Every is how often what is due is settled and merged.
	Every time.Duration `yaml:"every"`
	// Retention are rules for some series; the first that fits counts. What no rule fits is kept as long as metrics.retention says.
	Retention []Rule `yaml:"retention"`
	// MaxBlockBytes is how large a block may become by merging.
	MaxBlockBytes int64 `yaml:"maxBlockBytes"`
}

// Rule is how long series are kept.
type Rule struct {
	// Selector names the series, as in PromQL: {__name__=~"debug_.*", env!="prod"}, or debug_bytes{env="dev"}.
	Selector string `yaml:"selector"`
	// Project is the only one it holds for; empty means all.
	Project string `yaml:"project,omitempty"`
	// Keep is how long samples are kept.
	Keep time.Duration `yaml:"keep"`
}

// DefaultConfig is what holds where an operator says nothing. Dir has no default.
func DefaultConfig() Config {
	return Config{Every: 5 * time.Minute, MaxBlockBytes: 32 << 30}
}

// shortestKeep is the least that a rule may say: what is younger may not be settled yet.
const shortestKeep = 6 * time.Hour

// Validate says what is wrong with c.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return kemi.Errorf(kemi.ErrInvalid, "dir: is empty; name a folder")
	case c.Every < time.Second || c.Every > time.Hour:
		return kemi.Errorf(kemi.ErrInvalid, "every: value %s: must be between 1s and 1h, such as 5m", c.Every)
	case c.MaxBlockBytes < 1<<20:
		return kemi.Errorf(kemi.ErrInvalid, "maxBlockBytes: value %d: must be at least 1048576 (1 MiB)", c.MaxBlockBytes)
	}
	_, err := compileRules(c.Retention, 0)
	return err
}

// rule is a Rule that can be asked.
type rule struct {
	project string
	match   func(kemi.Labels) bool
	keep    kemi.Millis
}

// compileRules makes the rules ready. global is how long is kept what no rule fits; 0 = not known.
func compileRules(rules []Rule, global time.Duration) ([]rule, error) {
	out := make([]rule, 0, len(rules))
	for i, r := range rules {
		sel, err := ParseSelector(r.Selector)
		if err != nil {
			return nil, fmt.Errorf("retention[%d].selector: %w", i, err)
		}
		if len(sel) == 0 {
			return nil, kemi.Errorf(kemi.ErrInvalid, "retention[%d].selector: %q selects all series: set metrics.retention for that", i, r.Selector)
		}
		if r.Keep < shortestKeep {
			return nil, kemi.Errorf(kemi.ErrInvalid, "retention[%d].keep: value %s: must be at least %s", i, r.Keep, shortestKeep)
		}
		if global > 0 && r.Keep > global {
			return nil, kemi.Errorf(kemi.ErrInvalid, "retention[%d].keep: value %s: is longer than metrics.retention (%s), which holds for all: raise that, and add rules for what is kept shorter", i, r.Keep, global)
		}
		m, err := Matching(sel)
		if err != nil {
			return nil, fmt.Errorf("retention[%d].selector: %w", i, err)
		}
		out = append(out, rule{r.Project, m, kemi.Millis(r.Keep.Milliseconds())})
	}
	return out, nil
}

// Matching is sel as a condition on labels.
func Matching(sel store.Selector) (func(kemi.Labels) bool, error) {
	type cond struct {
		name, value string
		re          *regexp.Regexp
		not         bool
	}
	conds := make([]cond, len(sel))
	for i, m := range sel {
		c := cond{name: m.Name, value: m.Value, not: m.Op == store.NotEqual || m.Op == store.NotRegexp}
		if m.Name == "" || m.Op > store.NotRegexp {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: no label or operation of that kind", m.Name)
		}
		if m.Op == store.Regexp || m.Op == store.NotRegexp {
			var err error
			if c.re, err = regexp.Compile("^(?s:" + m.Value + ")$"); err != nil {
				return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: regular expression %q: %w", m.Name, m.Value, err)
			}
		}
		conds[i] = c
	}
	return func(ls kemi.Labels) bool {
		for i := range conds {
			c := &conds[i]
			v := ls.Get(c.name)
			ok := v == c.value
			if c.re != nil {
				ok = c.re.MatchString(v)
			}
			if ok == c.not {
				return false
			}
		}
		return true
	}, nil
}

// ParseSelector reads a vector selector of PromQL, without a range.
func ParseSelector(text string) (store.Selector, error) {
	ms, err := parser.NewParser(parser.Options{}).ParseMetricSelector(text)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "%q: %w; write it as in PromQL, such as debug_bytes{env=\"dev\"} or {__name__=~\"debug_.*\"}", text, err)
	}
	sel := make(store.Selector, len(ms))
	for i, m := range ms {
		sel[i] = store.Matcher{Name: m.Name, Value: m.Value}
		switch m.Type {
		case labels.MatchEqual:
			sel[i].Op = store.Equal
		case labels.MatchNotEqual:
			sel[i].Op = store.NotEqual
		case labels.MatchRegexp:
			sel[i].Op = store.Regexp
		case labels.MatchNotRegexp:
			sel[i].Op = store.NotRegexp
		}
	}
	return sel, nil
}
