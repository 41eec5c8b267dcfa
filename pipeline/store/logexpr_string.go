package store

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"kemi"
)

// Wildcard compiles a pattern in which * stands for any number of characters and ? for one, and \ takes the next
// character as it is. Without regard to case it matches a word of the body (or words one beside the other, if the
// pattern has more than words in it; then * and ? still stay within a word), or of another field a word or the whole value.
func Wildcard(field, pattern string) (LogRegexp, error) {
	const inWord = `[\p{L}\p{M}\p{Nd}_]`
	build := func(any string) string {
		var b strings.Builder
		for i := 0; i < len(pattern); {
			_, n := utf8.DecodeRuneInString(pattern[i:])
			switch c := pattern[i]; {
			case c == '*':
				b.WriteString(any + "*")
			case c == '?':
				b.WriteString(any)
			case c == '\\' && i+1 < len(pattern):
				i++
				_, n = utf8.DecodeRuneInString(pattern[i:])
				fallthrough
			default:
				b.WriteString(regexp.QuoteMeta(pattern[i : i+n]))
			}
			i += n
		}
		return b.String()
	}
	src := `(?:^|[^\p{L}\p{M}\p{Nd}_])` + build(inWord) + `(?:$|[^\p{L}\p{M}\p{Nd}_])`
	if field != "" {
		src = `^` + build(`(?s:.)`) + `$|` + src
	}
	re, err := regexp.Compile(`(?i)` + src)
	if err != nil {
		return LogRegexp{}, kemi.Errorf(kemi.ErrInvalid, "wildcard %q: %w", pattern, err)
	}
	return LogRegexp{Field: field, Source: pattern, Re: re}, nil
}

// String is the condition as a query string.
func (e LogAnd) String() string {
	switch len(e) {
	case 0:
		return "*"
	case 1:
		return e[0].String()
	}
	parts := make([]string, len(e))
	for i, x := range e {
		parts[i] = operand(x)
	}
	return strings.Join(parts, " ")
}

// String is the condition as a query string.
func (e LogOr) String() string {
	switch len(e) {
	case 0:
		return "-*"
	case 1:
		return e[0].String()
	}
	parts := make([]string, len(e))
	for i, x := range e {
		parts[i] = operand(x)
	}
	return strings.Join(parts, " OR ")
}

// String is the condition as a query string.
func (e LogNot) String() string {
	s := operand(e.X)
	if strings.HasPrefix(s, "-") {
		s = "(" + s + ")"
	}
	return "-" + s
}

// operand is x in parentheses if it has several parts.
func operand(x LogExpr) string {
	switch x := x.(type) {
	case LogAnd:
		if len(x) > 1 {
			return "(" + x.String() + ")"
		} else if len(x) == 1 {
			return operand(x[0])
		}
	case LogOr:
		if len(x) > 1 {
			return "(" + x.String() + ")"
		} else if len(x) == 1 {
			return operand(x[0])
		}
	}
	return x.String()
}

// String is the condition as a query string.
func (e LogPhrase) String() string { return fieldPrefix(e.Field) + quoteText(e.Text) }

// String is the condition as a query string.
func (e LogPrefix) String() string { return fieldPrefix(e.Field) + escape(e.Prefix) + "*" }

// String is the condition as a query string.
func (e LogRegexp) String() string {
	if e.Re != nil && e.Re.String() != e.Source {
		return fieldPrefix(e.Field) + e.Source
	}
	var b strings.Builder
	for i := 0; i < len(e.Source); i++ {
		switch c := e.Source[i]; {
		case c == '\\' && i+1 < len(e.Source):
			b.WriteString(e.Source[i : i+2])
			i++
		case c == '/':
			b.WriteString(`\/`)
		default:
			b.WriteByte(c)
		}
	}
	return fieldPrefix(e.Field) + "/" + b.String() + "/"
}

// String is the condition as a query string.
func (e LogRange) String() string {
	f := fieldPrefix(e.Field)
	if e.Min != nil && e.Max == nil {
		if e.MinOpen {
			return f + ">" + quoteText(*e.Min)
		}
		return f + ">=" + quoteText(*e.Min)
	}
	if e.Max != nil && e.Min == nil {
		if e.MaxOpen {
			return f + "<" + quoteText(*e.Max)
		}
		return f + "<=" + quoteText(*e.Max)
	}
	open, end, lo, hi := "[", "]", "*", "*"
	if e.Min != nil {
		lo, hi = quoteText(*e.Min), quoteText(*e.Max)
	}
	if e.MinOpen {
		open = "{"
	}
	if e.MaxOpen {
		end = "}"
	}
	return f + open + lo + " TO " + hi + end
}

// String is the condition as a query string.
func (e LogExists) String() string { return fieldPrefix(e.Field) + "*" }

func fieldPrefix(name string) string {
	if name == "" {
		return ""
	}
	return escape(name) + ":"
}

// quoteText is text as one word if it can stand so, else in quotes.
func quoteText(text string) string {
	plain := text != "" && utf8.ValidString(text)
	for _, r := range text {
		if r != '_' && r != '.' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			plain = false
		}
	}
	switch text {
	case "AND", "OR", "NOT", "TO":
		plain = false
	}
	if plain {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// escape puts a backslash before each character that means something in a query string.
func escape(s string) string {
	if i := strings.IndexFunc(s, special); i < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < utf8.RuneSelf && special(rune(c)) {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func special(r rune) bool {
	return r < utf8.RuneSelf && r != '_' && r != '.' && !unicode.IsLetter(r) && !unicode.IsDigit(r) || unicode.IsSpace(r) && r < utf8.RuneSelf
}
