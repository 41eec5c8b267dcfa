package store

import (
	"unicode"
	"unicode/utf8"
)

// Terms calls f with what an index keeps of s so that PhraseNeeds can be looked up: the tokens (see Tokens), and of each run of Hangul or
// of Han and Kana also the last character by itself. A term may come several times; it is valid until f returns.
func Terms(s string, f func(term []byte)) {
	s = normalize(s)
	sc := scanner{s: s}
	buf := make([]byte, 0, 64)
	emit := func(from, to int) {
		buf = appendFolded(buf[:0], s[from:to])
		f(buf)
	}
	var last unit // the character before, if it may go on
	for {
		u, ok := sc.next()
		if last.kind != none {
			if ok && u.kind == last.kind && u.gap == touching {
				emit(last.start, u.end)
			} else {
				emit(last.start, last.end)
			}
		}
		if !ok {
			return
		}
		if last = u; u.kind == word {
			last.kind = none
			emit(u.start, u.end)
		}
	}
}

// PhraseNeeds tells what Terms must give for any text in which LogPhrase{Text: text} is found (LogPrefix, if prefix): each of all,
// and for each of begins a term that begins with it. The reverse does not hold: what an index finds so has to be confirmed by
// Match. With both empty the index cannot help.
func PhraseNeeds(text string, prefix bool) (all, begins []string) {
	p := prepare(text, prefix, nil)
	for i := 0; i < len(p.units); {
		u := p.units[i]
		if u.kind == word {
			if w := p.folded[u.start:u.end]; p.prefix && i == len(p.units)-1 {
				begins = append(begins, w)
			} else {
				all = append(all, w)
			}
			i++
			continue
		}
		n := p.rest(i)
		pair := func(k int) { all = append(all, p.folded[p.units[k].start:p.units[k+1].end]) }
		switch {
		case n == 1:
			begins = append(begins, p.folded[u.start:u.end])
		case u.kind == hangul && n >= 4: // the text may have a space in it, not within the first or the last pair
			pair(i)
			pair(i + n - 2)
		default:
			for k := i; k < i+n-1; k++ {
				pair(k)
			}
		}
		i += n
	}
	return all, begins
}

// appendFolded appends s, which is normalised, in lower case.
func appendFolded(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			b = append(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, c)
		} else {
			b = utf8.AppendRune(b, unicode.ToLower(r))
		}
		i += n
	}
	return b
}
