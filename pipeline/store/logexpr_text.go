package store

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Tokens cuts s into what an index looks up: lower-case words of letters, digits and underscores; of a run of Hangul, or of
// Han and Kana, the overlapping pairs of characters, and a run of one character as it is. The text is normalised (NFC)
// first, so that composed and decomposed writing give the same. Bytes that are not UTF-8 separate words.
func Tokens(s string) []string {
	var out []string
	sc := scanner{s: normalize(s)}
	var prev unit
	for {
		u, ok := sc.next()
		joined := ok && u.kind != word && u.kind == prev.kind && u.gap == touching
		switch {
		case joined:
			out = append(out, Fold(sc.s[prev.start:u.end]))
		case prev.kind == hangul || prev.kind == ideograph:
			if prev.gap != inRun {
				out = append(out, Fold(sc.s[prev.start:prev.end]))
			}
		}
		if !ok {
			return out
		}
		if u.kind == word {
			out = append(out, Fold(sc.s[u.start:u.end]))
		}
		if prev = u; joined {
			prev.gap = inRun
		}
	}
}

// Fold is s as texts are compared: normalised (NFC) and in lower case. Bytes that are not UTF-8 stay as they are.
func Fold(s string) string {
	if i := firstNot(s, isLowerASCII); i == len(s) {
		return s
	} else if j := i + firstNot(s[i:], isASCII); j == len(s) {
		return strings.ToLower(s)
	}
	s = normalize(s)
	for _, r := range s {
		if r != unicode.ToLower(r) {
			return string(appendFolded(make([]byte, 0, len(s)+8), s))
		}
	}
	return s
}

func isASCII(c byte) bool      { return c < utf8.RuneSelf }
func isLowerASCII(c byte) bool { return c < utf8.RuneSelf && (c < 'A' || c > 'Z') }

// firstNot is the index of the first byte of s for which ok does not hold, or len(s).
func firstNot(s string, ok func(byte) bool) int {
	for i := range len(s) {
		if !ok(s[i]) {
			return i
		}
	}
	return len(s)
}

// normalize is s in NFC. Most text is already: ASCII, Latin-1, Hangul syllables, Han and Kana need no look at the tables.
func normalize(s string) string {
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r < 0x300, r >= 0xAC00 && r <= 0xD7A3, r >= 0x3400 && r <= 0x9FFF, r >= 0x3040 && r <= 0x30FF && r != 0x3099 && r != 0x309A,
			r >= 0x2000 && r <= 0x20FF && r != 0x2000 && r != 0x2001 && r < 0x20D0, r == utf8.RuneError:
		default:
			if norm.NFC.IsNormalString(s) {
				return s
			}
			return norm.NFC.String(s)
		}
		i += n
	}
	return s
}

// kind is what a unit is.
type kind uint8

const (
	none      kind = iota
	word           // of letters, digits, underscores
	hangul         // one syllable or letter
	ideograph      // one character of Han or Kana
)

// gap is what lies between a unit and the one before it.
type gap uint8

const (
	apart    gap = iota // something else than space, or it is the first
	spaced              // white space only
	touching            // nothing
	inRun               // nothing, and the pair has been told already (Tokens)
)

// unit is what phrases are compared by: a word, or one character of a script that is not written in words.
type unit struct {
	start, end int
	kind       kind
	gap        gap
}

// scanner cuts a normalised text into units.
type scanner struct {
	s   string
	pos int
}

var wordByte = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
	}
	return t
}()

// next is the next unit; false at the end of the text.
func (sc *scanner) next() (unit, bool) {
	s, i := sc.s, sc.pos
	g := touching
	if i == 0 {
		g = apart
	}
	for i < len(s) {
		c := s[i]
		if c < utf8.RuneSelf {
			if wordByte[c] {
				return sc.word(i, i+1, g), true
			}
			if g == touching && (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
				g = spaced
			} else if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
				g = apart
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch k := kindOf(r); {
		case k == word && !unicode.IsMark(r):
			return sc.word(i, i+n, g), true
		case k == hangul || k == ideograph:
			sc.pos = i + n
			return unit{i, i + n, k, g}, true
		case !unicode.IsSpace(r):
			g = apart
		case g == touching:
			g = spaced
		}
		i += n
	}
	sc.pos = i
	return unit{}, false
}

// word is the word that begins at start and is known to reach to i at least.
func (sc *scanner) word(start, i int, g gap) unit {
	s := sc.s
	for i < len(s) {
		if s[i] < utf8.RuneSelf {
			if !wordByte[s[i]] {
				break
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if kindOf(r) != word {
			break
		}
		i += n
	}
	sc.pos = i
	return unit{start, i, word, g}
}

func kindOf(r rune) kind {
	switch {
	case r >= 0xAC00 && r <= 0xD7A3:
		return hangul
	case r < 0x1100, r == utf8.RuneError:
		if unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) || r == '_' {
			return word
		}
		return none
	case r >= 0x4E00 && r <= 0x9FFF:
		return ideograph
	case unicode.Is(unicode.Hangul, r):
		if unicode.IsLetter(r) {
			return hangul
		}
		return none
	case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana), r == 0x30FC, r == 0xFF70:
		if unicode.IsLetter(r) {
			return ideograph
		}
		return none
	case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r):
		return word
	}
	return none
}

// foldedLen tells whether text begins with the folded (lower-case) query, and how many bytes of text that takes.
func foldedLen(text, query string) (int, bool) {
	i, j := 0, 0
	for j < len(query) {
		if i == len(text) {
			return 0, false
		}
		c, q := text[i], query[j]
		if c < utf8.RuneSelf {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			if c != q {
				return 0, false
			}
			i++
			j++
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			if c != q {
				return 0, false
			}
			i++
			j++
			continue
		}
		l := unicode.ToLower(r)
		rq, nq := utf8.DecodeRuneInString(query[j:])
		if l != rq {
			return 0, false
		}
		i += n
		j += nq
	}
	return i, true
}
