package logql

import (
	"regexp"
	"time"
)

// Expr is a parsed query: *LogQuery, or what gives numbers.
type Expr interface{ expr() }

// MatchType is how a matcher compares.
type MatchType uint8

// The ways to compare.
const (
	MatchEqual MatchType = iota
	MatchNotEqual
	MatchRegexp
	MatchNotRegexp
)

// Matcher is a condition on a label in a selector. Regular expressions match the whole value.
type Matcher struct {
	Name  string
	Type  MatchType
	Value string
	re    *regexp.Regexp
}

// Matches tells whether the value, "" if there is none, meets the condition.
func (m *Matcher) Matches(v string) bool {
	switch m.Type {
	case MatchEqual:
		return v == m.Value
	case MatchNotEqual:
		return v != m.Value
	case MatchRegexp:
		return m.re.MatchString(v)
	}
	return !m.re.MatchString(v)
}

// LogQuery is a selector and what lines go through.
type LogQuery struct {
	Matchers []*Matcher
	Stages   []Stage
}

// RangeAgg is an aggregation over a range of time: rate({…} [5m]).
type RangeAgg struct {
	Op       string
	Param    float64 // of quantile_over_time
	Query    *LogQuery
	Range    time.Duration
	Offset   time.Duration
	Unwrap   *Unwrap
	Grouping *Grouping
}

// Unwrap says which label is the value of a line.
type Unwrap struct {
	Label   string
	Convert string // "", duration, duration_seconds, bytes
	Filters []Stage
}

// Grouping is by (…) or without (…).
type Grouping struct {
	Labels  []string
	Without bool
}

// VectorAgg is an aggregation over series: sum by (host) (…).
type VectorAgg struct {
	Op       string
	Param    int // of topk and bottomk
	Of       Expr
	Grouping *Grouping
}

// Binary is an operation between two expressions.
type Binary struct {
	Op          string
	Left, Right Expr
	Bool        bool
	On          *Grouping // on (…): Without false; ignoring (…): Without true; nil: all labels
	Group       string    // "", left or right
	Include     []string
}

// Number is a constant, Vector is vector(n).
type (
	Number struct{ Value float64 }
	Vector struct{ Value float64 }
)

// LabelReplace is label_replace(…).
type LabelReplace struct {
	Of                    Expr
	Dst, Replacement, Src string
	re                    *regexp.Regexp
}

func (*LogQuery) expr()     {}
func (*RangeAgg) expr()     {}
func (*VectorAgg) expr()    {}
func (*Binary) expr()       {}
func (*Number) expr()       {}
func (*Vector) expr()       {}
func (*LabelReplace) expr() {}
