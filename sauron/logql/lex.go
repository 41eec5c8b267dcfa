package logql

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"kemi"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokIdent
	tokString
	tokNumber // also durations and sizes: 5, 1.5, 5m, 1h30m, 10KB
	tokOp
)

type token struct {
	kind tokenKind
	text string // of a string what it says
	at   int
}

// operators, the longest first.
var operators = []string{"|=", "|~", "|>", "!=", "!~", "!>", "=~", "==", ">=", "<=", "{", "}", "(", ")", "[", "]", ",", "|", "=", ">", "<", "+", "-", "*", "/", "%", "^", "@"}

func isIdent(c byte, first bool) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || !first && (c >= '0' && c <= '9' || c == '.' || c == ':')
}

// lex cuts a query into tokens.
func lex(s string) ([]token, error) {
	var out []token
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case isIdent(c, true):
			from := i
			for i < len(s) && isIdent(s[i], false) {
				i++
			}
			out = append(out, token{tokIdent, s[from:i], from})
		case c >= '0' && c <= '9' || c == '.' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			from := i
			for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.' || s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] == '\xc2' || s[i] == '\xb5' || (s[i] == '+' || s[i] == '-') && (s[i-1] == 'e' || s[i-1] == 'E') && s[from] != '0') {
				i++
			}
			out = append(out, token{tokNumber, s[from:i], from})
		case c == '"':
			from := i
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if i >= len(s) {
				return nil, syntaxError(s, from, "the end of the string that begins here")
			}
			i++
			text, err := strconv.Unquote(s[from:i])
			if err != nil {
				return nil, syntaxError(s, from, "a string; a backslash must be written twice, or the string in backticks")
			}
			out = append(out, token{tokString, text, from})
		case c == '`':
			end := strings.IndexByte(s[i+1:], '`')
			if end < 0 {
				return nil, syntaxError(s, i, "the end of the string that begins here")
			}
			out = append(out, token{tokString, s[i+1 : i+1+end], i})
			i += end + 2
		default:
			op := ""
			for _, o := range operators {
				if strings.HasPrefix(s[i:], o) {
					op = o
					break
				}
			}
			if op == "" {
				_, n := utf8.DecodeRuneInString(s[i:])
				return nil, syntaxError(s, i, "something else than "+strconv.Quote(s[i:i+n]))
			}
			out = append(out, token{tokOp, op, i})
			i += len(op)
		}
	}
	return append(out, token{tokEnd, "", len(s)}), nil
}

// syntaxError says where in a query what was expected.
func syntaxError(s string, at int, want string) error {
	line, col := 1, 1
	for _, c := range s[:min(at, len(s))] {
		if col++; c == '\n' {
			line, col = line+1, 1
		}
	}
	near := s[min(at, len(s)):]
	if len(near) > 30 {
		near = strings.ToValidUTF8(near[:30], "") + "…"
	}
	if near == "" {
		near = "the end"
	} else {
		near = strconv.Quote(near)
	}
	return kemi.Errorf(kemi.ErrInvalid, "parse error at line %d, col %d: at %s: expected %s", line, col, near, want)
}
