package settled

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
	"kemi/pipeline/store"
)

// Matchers is a selector made ready: for many blocks it is compiled once.
type Matchers []matcher

type matcher struct {
	name     string
	negative bool     // != and !~
	set      []string // all values that can match, if they are few; else
	pattern  *pattern
	empty    bool // whether a series without the label matches
}

// pattern is a regular expression that fits whole values.
type pattern struct {
	source string
	regexp *labels.FastRegexMatcher
	prefix string // what every value that fits begins with
}

// patterns are those that were asked for lately: dashboards and rules ask for the same ones again and again. An expression takes some fifty times its length.
var patterns = newRecent[string](4<<20, func(p *pattern) int { return 1<<10 + 64*len(p.source) })

func patternOf(source string) (*pattern, error) {
	if p, ok := patterns.get(source); ok {
		return p, nil
	}
	re, err := labels.NewFastRegexMatcher(source)
	if err != nil {
		return nil, err
	}
	p := &pattern{source: strings.Clone(source), regexp: re}
	if re, err := regexp.Compile("(?s:" + source + ")"); err == nil {
		if p.prefix, _ = re.LiteralPrefix(); strings.ContainsRune(p.prefix, utf8.RuneError) { // it stands for bytes that are no UTF-8, too
			p.prefix = ""
		}
	}
	patterns.put(p.source, p)
	return p, nil
}

// Compile makes a selector ready. Matchers have the meaning that store.Matcher says; project labels are none.
func Compile(sel store.Selector) (Matchers, error) {
	out := make(Matchers, 0, len(sel))
	for _, s := range sel {
		m := matcher{name: s.Name}
		if s.Name == "" || s.Name[0] == 0 {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher: label name %q: no label has that name", s.Name)
		}
		switch s.Op {
		case store.Equal, store.NotEqual:
			m.set, m.negative = []string{s.Value}, s.Op == store.NotEqual
			m.empty = s.Value == ""
		case store.Regexp, store.NotRegexp:
			p, err := patternOf(s.Value)
			if err != nil {
				return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: regular expression %q: %w", s.Name, s.Value, err)
			}
			m.negative = s.Op == store.NotRegexp
			m.empty = p.regexp.MatchString("")
			if m.set = p.regexp.SetMatches(); len(m.set) == 0 {
				m.pattern = p
			}
		default:
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: operation %d: there are =, !=, =~ and !~", s.Name, s.Op)
		}
		m.empty = m.empty != m.negative
		out = append(out, m)
	}
	// That a label is there need not be asked where another matcher has it so.
	needless := func(m matcher) bool {
		return m.present() && slices.ContainsFunc(out, func(o matcher) bool { return o.name == m.name && !o.empty && !o.present() })
	}
	if slices.ContainsFunc(out, needless) {
		out = slices.DeleteFunc(slices.Clone(out), needless)
	}
	// What selects few comes first: what follows is then asked of few.
	slices.SortStableFunc(out, func(a, b matcher) int { return a.cost() - b.cost() })
	return out, nil
}

// present tells whether all that is asked is that the label is there.
func (m *matcher) present() bool { return m.negative && len(m.set) == 1 && m.set[0] == "" }

func (m *matcher) cost() int {
	switch {
	case m.empty:
		return 3
	case m.negative:
		return 2
	case m.pattern != nil:
		return 1
	}
	return 0
}

// positive tells whether a value matches, before the negation.
func (m *matcher) positive(value string) bool {
	if m.pattern != nil {
		return m.pattern.regexp.MatchString(value)
	}
	return slices.Contains(m.set, value)
}
