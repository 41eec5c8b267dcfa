package store

import "strings"

// phrase is a LogPhrase or LogPrefix, made ready to be looked for.
type phrase struct {
	raw    string // as written
	folded string // what units refer to
	units  []unit
	prefix bool // the last unit need only begin a word
	ascii  bool // all units are ASCII words
	run    bool // one run of Hangul and nothing else: in a normalised text, to be contained is to match
}

// prepare cuts text into units, which it appends to buf.
func prepare(text string, prefix bool, buf []unit) phrase {
	p := phrase{raw: text, folded: Fold(text), units: buf, ascii: true, run: !prefix}
	sc := scanner{s: p.folded}
	for {
		u, ok := sc.next()
		if !ok {
			break
		}
		if u.kind != word || firstNot(p.folded[u.start:u.end], isASCII) != u.end-u.start {
			p.ascii = false
		}
		if u.kind != hangul || len(p.units) > 0 && u.gap != touching {
			p.run = false
		}
		p.units = append(p.units, u)
	}
	if n := len(p.units); n > 0 {
		p.prefix = prefix && p.units[n-1].kind == word && p.units[n-1].end == len(p.folded)
		p.run = p.run && p.units[0].start == 0 && p.units[n-1].end == len(p.folded)
	}
	return p
}

// in tells whether the phrase is found in text.
func (p *phrase) in(text string) bool {
	if len(p.units) == 0 {
		return strings.Contains(text, p.raw)
	}
	if firstNot(text, isASCII) == len(text) {
		return p.ascii && p.inASCII(text)
	}
	text = normalize(text)
	if p.run {
		if strings.Contains(text, p.folded) {
			return true
		}
		if len(p.units) < 4 {
			return false
		}
	}
	sc := scanner{s: text}
	for {
		u, ok := sc.next()
		if !ok {
			return false
		}
		if p.unitIs(0, text, u) && p.follows(sc) {
			return true
		}
	}
}

// unitIs tells whether unit i of the phrase is unit u of text.
func (p *phrase) unitIs(i int, text string, u unit) bool {
	q := p.units[i]
	if q.kind != u.kind {
		return false
	}
	n, ok := foldedLen(text[u.start:u.end], p.folded[q.start:q.end])
	return ok && (n == u.end-u.start || p.prefix && i == len(p.units)-1)
}

// follows tells whether the units after the first are what sc gives next.
func (p *phrase) follows(sc scanner) bool { return p.followedBy(sc, p.unitIs) }

func (p *phrase) followedBy(sc scanner, unitIs func(i int, text string, u unit) bool) bool {
	piece := 1 // characters of the Hangul word so far without a space in the text
	for i := 1; i < len(p.units); i++ {
		u, ok := sc.next()
		if !ok || !unitIs(i, sc.s, u) {
			return false
		}
		q := p.units[i]
		inWord := q.gap == touching && q.kind != word && p.units[i-1].kind == q.kind
		switch {
		case !inWord:
			piece = 1
		case u.gap == touching:
			piece++
		case u.gap == spaced && q.kind == hangul && piece >= 2 && p.rest(i) >= 2:
			piece = 1
		default:
			return false
		}
	}
	return true
}

// rest is how many characters of the run that unit i is in come from i on.
func (p *phrase) rest(i int) int {
	n := 1
	for i++; i < len(p.units) && p.units[i].gap == touching && p.units[i].kind == p.units[i-1].kind; i++ {
		n++
	}
	return n
}

// inASCII is in for a text of ASCII only and a phrase of ASCII words: it jumps from one place where the first letter of the
// phrase stands to the next.
func (p *phrase) inASCII(text string) bool {
	first := p.folded[p.units[0].start:p.units[0].end]
	lower := first[0]
	upper := lower
	if lower >= 'a' && lower <= 'z' {
		upper -= 'a' - 'A'
	}
	nextLower, nextUpper := indexFrom(text, lower, 0), len(text)
	if upper != lower {
		nextUpper = indexFrom(text, upper, 0)
	}
	for {
		at := min(nextLower, nextUpper)
		if len(text)-at < len(first) {
			return false
		}
		if at == nextLower {
			nextLower = indexFrom(text, lower, at+1)
		} else {
			nextUpper = indexFrom(text, upper, at+1)
		}
		if (at == 0 || !wordByte[text[at-1]]) && p.standsAt(text, at) {
			return true
		}
	}
}

func indexFrom(s string, c byte, from int) int {
	if i := strings.IndexByte(s[from:], c); i >= 0 {
		return from + i
	}
	return len(s)
}

// standsAt tells whether the words of the phrase stand in the ASCII text from a word's beginning at i on.
func (p *phrase) standsAt(text string, i int) bool {
	for k, u := range p.units {
		if k > 0 {
			for i < len(text) && !wordByte[text[i]] {
				i++
			}
		}
		w := p.folded[u.start:u.end]
		if len(text)-i < len(w) {
			return false
		}
		for j := range len(w) {
			c := text[i+j]
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			if c != w[j] {
				return false
			}
		}
		i += len(w)
		if i < len(text) && wordByte[text[i]] && !(p.prefix && k == len(p.units)-1) {
			return false
		}
	}
	return true
}
