package logs

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"kemi"
)

// text is a query being read: where it is at, and what was odd on the way.
type text struct {
	s        string
	i        int
	warnings []string
}

// errorf is an error at byte at: it says what was expected there.
func (t *text) errorf(at int, want string) error {
	got := "the end"
	if at < len(t.s) {
		got = quote(t.s[at:])
	}
	return kemi.Errorf(kemi.ErrInvalid, "query: position %d: expected %s, got %s", t.column(at), want, got)
}

// column is the place of byte at as a person counts: in characters, from 1.
func (t *text) column(at int) int { return utf8.RuneCountInString(t.s[:at]) + 1 }

// quote is s in quotes, cut to a length that fits a message.
func quote(s string) string {
	const most = 24
	if utf8.RuneCountInString(s) > most {
		r := []rune(s)
		s = string(r[:most]) + "…"
	}
	return `"` + strings.ToValidUTF8(s, "\ufffd") + `"`
}

func (t *text) space() {
	for t.i < len(t.s) {
		r, n := utf8.DecodeRuneInString(t.s[t.i:])
		if !unicode.IsSpace(r) {
			return
		}
		t.i += n
	}
}

func (t *text) end() bool { return t.i >= len(t.s) }

// at tells whether prefix comes next.
func (t *text) at(prefix string) bool { return strings.HasPrefix(t.s[t.i:], prefix) }

// take reads prefix if it comes next.
func (t *text) take(prefix string) bool {
	if !t.at(prefix) {
		return false
	}
	t.i += len(prefix)
	return true
}

// delimiter tells whether a word ends before byte i.
func (t *text) delimiter(i int) bool {
	if i >= len(t.s) {
		return true
	}
	switch t.s[i] {
	case '(', ')', '"':
		return true
	}
	r, _ := utf8.DecodeRuneInString(t.s[i:])
	return unicode.IsSpace(r)
}

// keyword reads one of the words if it comes next and stands by itself.
func (t *text) keyword(words ...string) (string, bool) {
	for _, w := range words {
		if t.at(w) && t.delimiter(t.i+len(w)) {
			t.i += len(w)
			return w, true
		}
	}
	return "", false
}

// quoted reads "…", in which \ takes the next character as it is.
func (t *text) quoted() (string, error) {
	begin := t.i
	t.i++
	var b strings.Builder
	for ; t.i < len(t.s); t.i++ {
		switch c := t.s[t.i]; {
		case c == '"':
			t.i++
			return b.String(), nil
		case c == '\\' && t.i+1 < len(t.s):
			t.i++
			b.WriteByte(t.s[t.i])
		default:
			b.WriteByte(c)
		}
	}
	return "", t.errorf(len(t.s), `'"' to end the phrase that begins at position `+itoa(t.column(begin)))
}

// regexp reads /…/, in which \/ is a slash, if that is what comes next: a slash that ends it and after that the end of a word. A path such as
// /health is none.
func (t *text) regexp() (string, bool) {
	if !t.at("/") {
		return "", false
	}
	var b strings.Builder
	for i := t.i + 1; i < len(t.s); i++ {
		switch c := t.s[i]; {
		case c == '\\' && i+1 < len(t.s):
			i++
			if t.s[i] != '/' {
				b.WriteByte('\\')
			}
			b.WriteByte(t.s[i])
		case c == '/':
			if !t.delimiter(i+1) && t.s[i+1] != '^' || b.Len() == 0 {
				return "", false
			}
			t.i = i + 1
			return b.String(), true
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// word is a run of characters without a space, as it is written and as it is meant.
type word struct {
	at      int
	raw     string // with its escapes
	plain   string // without
	stars   int    // * that are not escaped
	marks   int    // ? that are not escaped
	lastRaw byte   // the last character if it is not escaped, or 0
}

// word reads up to the next delimiter, or to one of stop that is not escaped.
func (t *text) word(stop string) word {
	w := word{at: t.i}
	var b strings.Builder
	for !t.delimiter(t.i) {
		c := t.s[t.i]
		if strings.IndexByte(stop, c) >= 0 {
			break
		}
		if c == '\\' && t.i+1 < len(t.s) {
			_, n := utf8.DecodeRuneInString(t.s[t.i+1:])
			b.WriteString(t.s[t.i+1 : t.i+1+n])
			t.i += 1 + n
			w.lastRaw = 0
			continue
		}
		switch c {
		case '*':
			w.stars++
		case '?':
			w.marks++
		}
		b.WriteByte(c)
		w.lastRaw = c
		t.i++
	}
	w.raw, w.plain = t.s[w.at:t.i], b.String()
	return w
}

// field reads name: if that is what comes next. What is only digits and points is a number or an address (12:30, 10.0.0.1:80), what is followed by
// two slashes a URL: they are no fields.
func (t *text) field() (string, bool) {
	begin := t.i
	w := t.word(":")
	if t.i < len(t.s) && t.s[t.i] == ':' && w.plain != "" && w.stars == 0 && w.marks == 0 && strings.Trim(w.plain, "0123456789.") != "" && !strings.HasPrefix(t.s[t.i:], "://") {
		t.i++
		return w.plain, true
	}
	t.i = begin
	return "", false
}

// suffix reads what Lucene allows behind a term: a boost (^2), which has no meaning here as nothing is ranked; and refuses ~.
func (t *text) suffix() error {
	if t.at("^") {
		begin := t.i
		n := len(t.s[t.i+1:]) - len(strings.TrimLeft(t.s[t.i+1:], "0123456789."))
		if n > 0 && t.delimiter(t.i+1+n) {
			t.i += 1 + n
			t.warnings = append(t.warnings, "position "+itoa(t.column(begin))+": the boost "+t.s[begin:t.i]+" was ignored: log records are not ranked")
		}
	}
	if t.at("~") {
		return t.errorf(t.i, "the end of the term (nearness and fuzzy search, ~, are not known)")
	}
	if !t.delimiter(t.i) {
		return t.errorf(t.i, "a space")
	}
	return nil
}
