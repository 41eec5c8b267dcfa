package store

import (
	"regexp"

	"kemi"
)

// LogExpr is a condition on a log record. Its meaning is Match; a back-end translates it into whatever it is quick at and, where
// its index can only come near, confirms with Match. Whoever matches many records prepares the condition once with
// CompileLog, which means the same.
//
// Text matches word by word, without regard to case; a word is a run of letters, digits and underscores. Hangul, Han and
// Kana, where words are not reliably apart, match character by character, wherever in a run they stand: 시간 is found in
// 응답시간이. Tokens gives the words, and the pairs of characters, that an index can look up.
type LogExpr interface {
	Match(r *kemi.LogRecord) bool
	String() string // in the syntax of the query string
}

// The kinds of LogExpr. Field "" is the body, which each record has. Other fields are, in this order: id, trace_id, span_id,
// level (the severity's name), then the stream labels, then the attributes; the first that is not empty counts (FieldOf).
// An unknown field matches nothing.
type (
	// LogAnd matches if all do; none: always.
	LogAnd []LogExpr
	// LogOr matches if any does; none: never.
	LogOr []LogExpr
	// LogNot matches if X does not.
	LogNot struct{ X LogExpr }
	// LogPhrase matches if the words of Text stand in the field one after another, with whatever between them that is no
	// word. Korean compounds are written with and without a space: a space between Hangul words of Text needs none in
	// the field ("응답 시간" finds 응답시간), and a Hangul word of four syllables or more also matches when the field has
	// spaces in it, if the pieces have two syllables at least (응답시간 finds "응답 시간").
	//
	// A Text without any word ("==>") matches if it is found in the field as it is. On the field level, Text may be any
	// name that kemi.ParseSeverity knows.
	LogPhrase struct{ Field, Text string }
	// LogPrefix matches as LogPhrase does, but the last word of Prefix need only be the beginning of a word, unless
	// something that is no word follows it ("pay-").
	LogPrefix struct{ Field, Prefix string }
	// LogRegexp matches if the expression (RE2, unanchored, as written: case counts) is found in the field's raw text.
	// Wildcards (pay*ment?) are compiled to it by Wildcard, anchored at words and without regard to case; Source then is
	// the wildcard and differs from Re.String().
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
