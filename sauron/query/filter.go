package query

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"sort"
	"strings"

	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
)

// Filter selects series by the value of a tag, and may group by it.
type Filter struct {
	Type    string // literal_or, iliteral_or, not_literal_or, not_iliteral_or, wildcard, iwildcard, regexp, not_key
	Tagk    string
	Filter  string
	GroupBy bool

	shown string // the type by which OpenTSDB shows it, if it is another
}

// FilterTypes are the types of Filter with what they do and an example, for the API that lists them.
var FilterTypes = map[string]struct {
	Description string `json:"description"`
	Examples    string `json:"examples"`
}{
	"literal_or":      {"The value is one of those that | separates.", `host=literal_or(web01|web02)  {"type":"literal_or","tagk":"host","filter":"web01|web02","groupBy":false}`},
	"iliteral_or":     {"As literal_or, upper and lower case being the same.", `host=iliteral_or(web01|web02)  {"type":"iliteral_or","tagk":"host","filter":"web01|web02","groupBy":false}`},
	"not_literal_or":  {"The tag is there and its value is none of those that | separates.", `host=not_literal_or(web01|web02)  {"type":"not_literal_or","tagk":"host","filter":"web01|web02","groupBy":false}`},
	"not_iliteral_or": {"As not_literal_or, upper and lower case being the same.", `host=not_iliteral_or(web01|web02)  {"type":"not_iliteral_or","tagk":"host","filter":"web01|web02","groupBy":false}`},
	"wildcard":        {"The value has the parts between asterisks; * alone takes every value.", `host=wildcard(web*.tokyo)  {"type":"wildcard","tagk":"host","filter":"web*.tokyo","groupBy":false}`},
	"iwildcard":       {"As wildcard, upper and lower case being the same.", `host=iwildcard(web*)  {"type":"iwildcard","tagk":"host","filter":"web*","groupBy":false}`},
	"regexp":          {"The value holds a match of the regular expression (RE2); ^ and $ bind it to the ends.", `host=regexp(^web[0-9]+$)  {"type":"regexp","tagk":"host","filter":"^web[0-9]+$","groupBy":false}`},
	"not_key":         {"The series does not have the tag. The filter itself is empty.", `host=not_key()  {"type":"not_key","tagk":"host","filter":"","groupBy":false}`},
}

// tagFilter is the filter that the short form of a tag's value means: *, a|b, web*, regexp(…).
func tagFilter(tagk, value string, groupBy bool) (Filter, error) {
	f := Filter{Type: "literal_or", Tagk: tagk, Filter: value, GroupBy: groupBy}
	switch typ, rest, paren := strings.Cut(value, "("); {
	case value == "":
		return f, tsdhttp.Badf("Filter cannot be null or empty")
	case value == "*":
		f.Type = "wildcard"
	case paren:
		inner, ok := strings.CutSuffix(rest, ")")
		if !ok {
			return f, tsdhttp.Badf("Filter must end with a ')': %s", clip(value))
		}
		f.Type, f.Filter = strings.ToLower(typ), inner
	case strings.Contains(value, "*"):
		f.Type, f.shown = "iwildcard", "wildcard"
	}
	return f, nil
}

// compiled is a filter as the store and the executor use it.
type compiled struct {
	Filter
	name     string // of the label
	matchers []store.Matcher
	match    func(value string) bool // what the matchers cannot say; may be nil
	literals []string                // values that have to exist
}

func (f Filter) compile(label string) (compiled, error) {
	c := compiled{Filter: f, name: label}
	fail := func(format string, args ...any) (compiled, error) {
		return c, tsdhttp.Bad(fmt.Sprintf(format, args...), fmt.Sprintf("filter on tagk %q of type %q: %q", clip(f.Tagk), clip(f.Type), clip(f.Filter)))
	}
	switch {
	case f.Type == "":
		return fail("The filter type cannot be null or empty")
	case f.Tagk == "":
		return fail("The tagk cannot be null or empty")
	}
	if _, ok := FilterTypes[f.Type]; !ok {
		return fail("Could not find a tag value filter of the type: %s", clip(f.Type))
	}
	if f.Type == "not_key" {
		if f.Filter != "" {
			return fail("The filter must be empty for the not_key filter, not %q", clip(f.Filter))
		}
		c.GroupBy = false
		c.matchers = []store.Matcher{{Op: store.Equal, Name: label}}
		return c, nil
	}
	if f.Filter == "" {
		return fail("Filter cannot be null or empty")
	}
	present := store.Matcher{Op: store.NotEqual, Name: label}
	add := func(op store.MatchOp, value string) {
		c.matchers = append(c.matchers, store.Matcher{Op: op, Name: label, Value: value})
	}
	switch f.Type {
	case "literal_or", "iliteral_or", "not_literal_or", "not_iliteral_or":
		values := slices.DeleteFunc(strings.Split(f.Filter, "|"), func(v string) bool { return v == "" })
		if len(values) == 0 {
			return fail("Filter must contain more than just a pipe")
		}
		sort.Strings(values)
		values = slices.Compact(values)
		not := strings.HasPrefix(f.Type, "not_")
		if not {
			c.matchers = append(c.matchers, present)
		}
		if len(values) == 1 && !strings.Contains(f.Type, "iliteral") {
			add(map[bool]store.MatchOp{false: store.Equal, true: store.NotEqual}[not], values[0])
		} else {
			quoted := make([]string, len(values))
			for i, v := range values {
				quoted[i] = regexp.QuoteMeta(v)
			}
			pattern := strings.Join(quoted, "|")
			if strings.Contains(f.Type, "iliteral") {
				pattern = "(?i:" + pattern + ")"
			}
			add(map[bool]store.MatchOp{false: store.Regexp, true: store.NotRegexp}[not], pattern)
		}
		if f.Type == "literal_or" {
			c.literals = values
		}
	case "wildcard", "iwildcard":
		if !strings.Contains(f.Filter, "*") {
			return fail("Filter must contain an asterisk")
		}
		w := newWildcard(f.Filter, f.Type == "iwildcard")
		pattern, exact := w.pattern()
		if pattern == "" {
			c.matchers = append(c.matchers, present)
			break
		}
		add(store.Regexp, pattern)
		if !exact {
			c.match = w.matches
		}
	case "regexp":
		pattern, err := searching(f.Filter)
		if err != nil {
			return fail("%v (the syntax is RE2)", err)
		}
		c.matchers = append(c.matchers, present)
		add(store.Regexp, pattern)
	}
	return c, nil
}

// searching makes of an expression that is searched for one that matches the whole value.
func searching(expr string) (string, error) {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return "", err
	}
	if _, err := regexp.Compile(".*(?:" + expr + ").*"); err != nil { // too large a repetition shows only here
		return "", err
	}
	before, after := ".*", ".*"
	ends := []*syntax.Regexp{tree}
	if tree.Op == syntax.OpConcat {
		ends = tree.Sub
	}
	if ends[0].Op == syntax.OpBeginText {
		before = ""
	}
	if ends[len(ends)-1].Op == syntax.OpEndText {
		after = ""
	}
	return before + "(?:" + expr + ")" + after, nil
}

// wildcard is a pattern with asterisks. What it asks for is what OpenTSDB asks for: an asterisk at one end only binds the other end; otherwise
// each part has to be somewhere behind as many bytes as the parts before it have.
type wildcard struct {
	parts      []string
	begin, end bool // the value begins with the first part, ends with the last
	all, fold  bool
}

func newWildcard(pattern string, fold bool) wildcard {
	if fold {
		pattern = strings.ToLower(pattern)
	}
	open, closed := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
	pattern = strings.Trim(pattern, "*")
	return wildcard{
		parts: strings.Split(pattern, "*"), fold: fold, all: pattern == "",
		begin: closed && !open, end: open && !closed,
	}
}

// pattern is a regular expression for the whole value, and whether it says all. An empty one means any value.
func (w wildcard) pattern() (string, bool) {
	if w.all {
		return "", true
	}
	first := w.parts[0]
	if w.end {
		first = w.parts[len(w.parts)-1]
	}
	p := regexp.QuoteMeta(first)
	if !w.begin {
		p = ".*" + p
	}
	if !w.end {
		p += ".*"
	}
	if w.fold {
		p = "(?i:" + p + ")"
	}
	return p, len(w.parts) == 1
}

func (w wildcard) matches(value string) bool {
	if w.all {
		return value != ""
	}
	if w.fold {
		value = strings.ToLower(value)
	}
	if w.begin && !strings.HasPrefix(value, w.parts[0]) || w.end && !strings.HasSuffix(value, w.parts[len(w.parts)-1]) {
		return false
	}
	at := 0
	for _, p := range w.parts {
		if at > len(value) || !strings.Contains(value[at:], p) {
			return false
		}
		at += len(p)
	}
	return true
}
