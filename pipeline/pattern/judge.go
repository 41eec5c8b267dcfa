package pattern

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"kemi/pipeline/store"
)

type judged uint8

const (
	judgedNo   judged = iota // no record of the template meets the condition
	judgedYes                // all do
	judgedWays               // those do whose words are as one of the ways says
	judgedRows               // each has to be looked at
)

// judgement is what can be said of all lines of a template.
type judgement struct {
	state judged
	ways  [][]wildIs
	// inWord is, if it is not empty, a run of word characters that the line must have, and that the fixed text has not.
	inWord string
	fold   bool
}

// wildIs says what a wild word has to be.
type wildIs struct {
	wildWord
	word   string
	prefix bool
	hash   uint64 // of the word, as the filter knows it; 0 if that leaves it out
}

// maxWays is how many ways are told apart; of a template with more each record is looked at.
const maxWays = maxSpans + 1

func (l *leaf) of(t *Template) *judgement {
	l.mu.RLock()
	j := l.known[t]
	l.mu.RUnlock()
	if j != nil {
		return j
	}
	j = l.decide(t)
	l.mu.Lock()
	l.known[t] = j
	l.mu.Unlock()
	return j
}

func (l *leaf) decide(t *Template) *judgement {
	if t.slots == 0 {
		if l.match(t.text) {
			return &judgement{state: judgedYes}
		}
		return &judgement{}
	}
	if _, ok := l.e.(store.LogExists); ok {
		return &judgement{state: judgedYes}
	}
	if l.lit.exact && slices.ContainsFunc(t.parts, func(p part) bool { return strings.Contains(p.text, l.lit.text) }) {
		return &judgement{state: judgedYes}
	}
	if t.whole {
		return &judgement{state: judgedRows}
	}
	switch {
	case l.phrase != nil:
		return l.align(t)
	case l.isRaw:
		return decideRaw(t, l.raw)
	case l.lit.text != "":
		return l.lit.decide(t)
	}
	return &judgement{state: judgedRows}
}

// align is the judgement on a phrase.
func (l *leaf) align(t *Template) *judgement {
	all, complete := l.phrase.Ways(t.stand, t.wilds, maxWays)
	j := &judgement{}
	for _, way := range all {
		if len(way) == 0 {
			return &judgement{state: judgedYes}
		}
		var is []wildIs
		for _, b := range way {
			w := t.of[b.Wild]
			if !w.couldBe(b.Word, b.Prefix) || w.kind == slotIPv4 && !number(b.Word) {
				is = nil
				break
			}
			h := uint64(0)
			if !exempt(b.Word) {
				h = hashTerm(b.Word)
			}
			is = append(is, wildIs{w, b.Word, b.Prefix, h})
		}
		if is != nil {
			j.state = judgedWays
			j.ways = append(j.ways, is)
		}
	}
	if !complete {
		return &judgement{state: judgedRows}
	}
	return j
}

func number(s string) bool {
	for i := range len(s) {
		if s[i]-'0' > 9 {
			return false
		}
	}
	return true
}

// decideRaw is the judgement on text that has no word in it: it is in the fixed text, or within a slot that is several words.
func decideRaw(t *Template, raw string) *judgement {
	j := &judgement{}
	for _, p := range t.parts {
		if strings.Contains(p.text, raw) {
			return &judgement{state: judgedYes}
		}
		if p.slot && p.kind != slotWord {
			j.state = judgedRows
		}
	}
	if raw == "" {
		j.state = judgedYes
	}
	return j
}

// literal is a text that all lines have that a regular expression matches.
type literal struct {
	text  string
	fold  bool // without regard to case; text is in lower case then
	exact bool // the expression is nothing else
}

// literalOf is the longest literal that can be found, in ASCII.
func literalOf(expr string) literal {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return literal{}
	}
	tree = tree.Simplify()
	l := literalIn(tree)
	l.exact = tree.Op == syntax.OpLiteral && !l.fold && l.text == string(tree.Rune)
	return l
}

func literalIn(re *syntax.Regexp) (best literal) {
	switch re.Op {
	case syntax.OpLiteral:
		l := literal{fold: re.Flags&syntax.FoldCase != 0}
		s := string(re.Rune)
		for i := range len(s) {
			if s[i] >= utf8.RuneSelf && l.fold || s[i] < 9 {
				return literal{}
			}
		}
		if strings.ContainsRune(s, utf8.RuneError) { // any byte that is no UTF-8 is one for the expression
			return literal{}
		}
		if l.text = s; l.fold {
			l.text = strings.ToLower(s)
			if strings.ContainsAny(l.text, "ks") { // which are also the lower case of letters that are not ASCII
				return longest(cutFolding(l.text))
			}
		}
		return l
	case syntax.OpCapture, syntax.OpPlus:
		return literalIn(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return literalIn(re.Sub[0])
		}
	case syntax.OpConcat:
		for _, s := range re.Sub {
			if l := literalIn(s); len(l.text) > len(best.text) {
				best = l
			}
		}
	}
	return best
}

// cutFolding cuts a text at the letters that others than ASCII fold to.
func cutFolding(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == 'k' || r == 's' })
}

func longest(all []string) (l literal) {
	l.fold = true
	for _, s := range all {
		if len(s) > len(l.text) {
			l.text = s
		}
	}
	return l
}

// words are the words of the literal that are whole words of the line: there is something else on both sides of each.
func (l literal) words() (out []string) {
	for i := 0; i < len(l.text); {
		if charKind[l.text[i]] == 0 {
			i++
			continue
		}
		from := i
		for i < len(l.text) && charKind[l.text[i]] != 0 {
			i++
		}
		if from > 0 && i < len(l.text) && l.text[from-1] < utf8.RuneSelf && l.text[i] < utf8.RuneSelf {
			out = append(out, strings.ToLower(l.text[from:i]))
		}
	}
	return out
}

// decide tells whether lines of the template can have the literal.
func (l literal) decide(t *Template) *judgement {
	inWord := true
	for i := range len(l.text) {
		inWord = inWord && charKind[l.text[i]] != 0
	}
	if !l.fits(t) {
		return &judgement{}
	}
	j := &judgement{state: judgedRows}
	if inWord {
		for _, p := range t.parts {
			if l.in(p.text) {
				return j
			}
		}
		j.inWord, j.fold = l.text, l.fold
	}
	return j
}

func (l literal) in(text string) bool {
	if !l.fold {
		return strings.Contains(text, l.text)
	}
	return containsFold(unsafe.Slice(unsafe.StringData(text), len(text)), l.text)
}

// at tells whether text has the literal's bytes [from, to) at i.
func (l literal) at(text string, i, from, to int) bool {
	for k := from; k < to; k++ {
		c := text[i+k-from]
		if l.fold && c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != l.text[k] {
			return false
		}
	}
	return true
}

// fits tells whether a line of the template can have the literal somewhere.
func (l literal) fits(t *Template) bool {
	for n := range t.parts {
		p := &t.parts[n]
		for i := range len(p.text) {
			if l.goesOn(t, n, i, 0) {
				return true
			}
		}
		if p.slot && l.inSlot(t, n, 0) {
			return true
		}
	}
	return false
}

// inSlot tells whether the literal from byte k on can stand in the slot of part n, from anywhere in it, and go on behind it.
func (l literal) inSlot(t *Template, n, k int) bool {
	p := &t.parts[n]
	for was := k; k < len(l.text) && p.mayHave(l.text[k], l.fold); {
		k++
		// A word has to be taken to its end.
		if k == len(l.text) || k > was && (p.kind != slotWord || charKind[l.text[k]] == 0) && l.goesOn(t, n+1, 0, k) {
			return true
		}
	}
	return false
}

// mayHave tells whether the slot can have the byte.
func (p *part) mayHave(c byte, fold bool) bool {
	switch p.kind {
	case slotWord:
		return charKind[c] != 0
	case slotUUID:
		return c == '-' || isHex(c) || fold && isHex(c|0x20)
	case slotIPv4:
		return c == '.' || c-'0' <= 9
	case slotStamp:
		return c-'0' <= 9 || strings.IndexByte(" :-/.,TZ"+months, c) >= 0 || fold && strings.IndexByte("tz"+strings.ToLower(months), c) >= 0
	}
	return true
}

// goesOn tells whether the literal from byte k on can stand where the text of part n has byte i.
func (l literal) goesOn(t *Template, n, i, k int) bool {
	if n == len(t.parts) {
		return false
	}
	p := &t.parts[n]
	take := min(len(p.text)-i, len(l.text)-k)
	if !l.at(p.text, i, k, k+take) {
		return false
	}
	if k += take; k == len(l.text) {
		return true
	}
	return p.slot && l.inSlot(t, n, k)
}
