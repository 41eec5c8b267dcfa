package store

import (
	"regexp"
	"slices"
	"unicode/utf8"
)

// Wild is a place in a text where a word stands that is not known: any run of ASCII letters, digits and underscores. The text has a stand-in there, itself
// such a run, from Start to End.
type Wild struct{ Start, End int }

// Binding says what the word at a Wild would have to be: Word, which is in lower case, without regard to case, or, if Prefix, a word that begins with it.
type Binding struct {
	Wild   int // which one
	Word   string
	Prefix bool
}

// PhraseIn finds out whether the phrase of a LogPhrase (LogPrefix, if prefix) is found in a text of which some words are not known. Each of ways is what has to hold of them for the
// phrase to be found, all of it at once; one without bindings means that it is found whatever they are, and then it is the only one. No way means that it is not
// found whatever they are. The phrase must have words, the text be normalised (NFC), and no wild word touch a letter that is not ASCII, but for Hangul, Han and
// Kana.
type PhraseIn struct {
	p phrase
}

// NewPhraseIn prepares a phrase; false if it has no words, so that it is looked for as it stands.
func NewPhraseIn(text string, prefix bool) (*PhraseIn, bool) {
	p := &PhraseIn{p: prepare(text, prefix, nil)}
	return p, len(p.p.units) > 0
}

// Ways are the ways, at most limit; complete is false if there are more.
func (x *PhraseIn) Ways(text string, wilds []Wild, limit int) (ways [][]Binding, complete bool) {
	a := aligner{p: &x.p, wilds: wilds}
	for sc := (scanner{s: text}); ; {
		u, ok := sc.next()
		if !ok {
			return ways, true
		}
		a.bound = a.bound[:0]
		if !a.unitIs(0, text, u) || !a.follows(sc) {
			continue
		}
		if len(a.bound) == 0 {
			return [][]Binding{nil}, true
		}
		if len(ways) == limit {
			return ways, false
		}
		ways = append(ways, slices.Clone(a.bound))
	}
}

// aligner is phrase.unitIs and phrase.follows for texts with unknown words.
type aligner struct {
	p     *phrase
	wilds []Wild
	bound []Binding
}

func (a *aligner) unitIs(i int, text string, u unit) bool {
	if u.kind == word {
		n, ok := slices.BinarySearchFunc(a.wilds, u.start, func(w Wild, at int) int { return w.Start - at })
		if ok && a.wilds[n].End == u.end {
			q := a.p.units[i]
			w := a.p.folded[q.start:q.end]
			if q.kind != word || firstNot(w, isASCII) != len(w) {
				return false
			}
			a.bound = append(a.bound, Binding{Wild: n, Word: w, Prefix: a.p.prefix && i == len(a.p.units)-1})
			return true
		}
	}
	return a.p.unitIs(i, text, u)
}

func (a *aligner) follows(sc scanner) bool { return a.p.followedBy(sc, a.unitIs) }

// CompileText is what e, a condition on one field, says of a text that is the field's value. It may be called concurrently. A condition on level, which is about more than
// its text, and And, Or and Not have none: nil.
func CompileText(e LogExpr) func(text string) bool {
	switch e := e.(type) {
	case LogPhrase:
		p := prepare(e.Text, false, nil)
		return p.in
	case LogPrefix:
		p := prepare(e.Prefix, true, nil)
		return p.in
	case LogRegexp:
		re := e.Re
		if re == nil {
			var err error
			if re, err = regexp.Compile(e.Source); err != nil {
				return func(string) bool { return false } // as Match says
			}
		}
		return re.MatchString
	case LogRange:
		return func(text string) bool {
			return e.holds(func(bound string) (int, bool) { return compareValues(text, bound), true })
		}
	case LogExists:
		return func(string) bool { return true }
	}
	return nil
}

// LogFieldOf is the field that a condition on one field is about.
func LogFieldOf(e LogExpr) (string, bool) {
	switch e := e.(type) {
	case LogPhrase:
		return e.Field, true
	case LogPrefix:
		return e.Field, true
	case LogRegexp:
		return e.Field, true
	case LogRange:
		return e.Field, true
	case LogExists:
		return e.Field, true
	}
	return "", false
}

// WildSafe tells whether PhraseIn can look at the text: it is UTF-8 in normal form (NFC), and its letters are ASCII, Hangul, Han or Kana.
func WildSafe(text string) bool {
	for i := firstNot(text, isASCII); i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 || r >= utf8.RuneSelf && kindOf(r) == word {
			return false
		}
		i += n
	}
	return normalize(text) == text
}
