package store

import (
	"regexp"

	"kemi"
)

// LogExpr is a condition on a log record. Its meaning is Match; a back-end translates it into whatever it is quick at and, where
// its index can only come near, confirms with Match.
//
// Text matches token by token: Tokens cuts a text into lower-case words, Hangul into overlapping pairs of syllables.
type LogExpr interface {
	Match(r *kemi.LogRecord) bool
	String() string // in the syntax of the query string
}

// The kinds of LogExpr. Field "" is the body. Other fields are, in this order: id, trace_id, span_id, level (the severity's
// name), then the stream labels, then the attributes. An unknown field matches nothing.
type (
	// LogAnd matches if all do; none: always.
	LogAnd []LogExpr
	// LogOr matches if any does.
	LogOr []LogExpr
	// LogNot matches if X does not.
	LogNot struct{ X LogExpr }
	// LogPhrase matches if the tokens of Text stand in the field one after another. On a field (not the body) it matches
	// also if the whole value is equal, without regard to case.
	LogPhrase struct{ Field, Text string }
	// LogPrefix matches if a token of the field (or, not on the body, the whole value) begins with Prefix, in any case.
	LogPrefix struct{ Field, Prefix string }
	// LogRegexp matches if the expression (RE2, unanchored, as written: case counts) is found in the field's raw text.
	// Wildcards (pay*ment?) are compiled to it, anchored at tokens and without regard to case.
	LogRegexp struct {
		Field, Source string
		Re            *regexp.Regexp
	}
	// LogRange compares the field's value as a number if both it and the bound are numbers, else as text. Nil bounds are open.
	// The field level compares by severity: level:>=warn.
	LogRange struct {
		Field            string
		Min, Max         *string
		MinOpen, MaxOpen bool // the bound itself is not in
	}
	// LogExists matches if the record has the field.
	LogExists struct{ Field string }
)
