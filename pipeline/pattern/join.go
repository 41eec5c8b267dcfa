package pattern

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Lines whose words without digits vary (names, methods, verbs) make many templates of few lines each. join makes one of those that have the same shape and most
// words in common: where they differ, the word is a slot, too. What is left of templates with one line only is kept whole: a template would not pay.

const (
	manyRows  = 64 // a template of so many lines stays by itself
	maxGroups = 16 // of one shape
	// alike is how many of ten words have to be the same.
	alike = 6
	// fewTemplates may stand alone, even with one line each: small blocks are coded again.
	fewTemplates = 4
)

// piece is a piece of a template: a fixed word, a slot, or what is between them.
type piece struct {
	text string
	slot int // -1: none
	word bool
}

// shape is a template in pieces.
type shape struct {
	tmpl   int32
	pieces []piece
}

// pieces cuts a template.
func pieces(text string) (ps []piece, ok bool) {
	slot := 0
	ps = make([]piece, 0, 32)
	for i := 0; i < len(text); {
		c := text[i]
		from := i
		switch {
		case c > 0 && c <= maxMark:
			i++
			if c == markStamp {
				i += stampMark - 1
			}
			if c == markLine || i > len(text) {
				return nil, false
			}
			ps = append(ps, piece{text: text[from:i], slot: slot, word: c == markWord})
			slot++
		case charKind[c] != 0:
			for i < len(text) && charKind[text[i]] != 0 {
				i++
			}
			ps = append(ps, piece{text: text[from:i], slot: -1, word: true})
		default:
			for i < len(text) && charKind[text[i]] == 0 && (text[i] == 0 || text[i] > maxMark) {
				i++
			}
			ps = append(ps, piece{text: text[from:i], slot: -1})
		}
	}
	return ps, true
}

// join decides on the final templates.
func (e *encoder) join() {
	var few []int32 // templates of few lines
	for n := range e.templates {
		f := &e.templates[n]
		f.final = -1
		if f.rows < manyRows && len(e.templates) > fewTemplates {
			few = append(few, int32(n))
		}
	}
	// Text that defeats templates is not alike: a part of it tells.
	if len(few) > 2*trial {
		e.joinShapes(few[:trial])
		joined := 0
		for _, n := range few[:trial] {
			if e.templates[n].final >= 0 {
				joined++
			}
		}
		for _, n := range few[:trial] {
			e.templates[n].final, e.templates[n].from = -1, nil
		}
		e.joined = e.joined[:0]
		if joined < trial/worthJoining {
			few = nil
		}
	}
	e.joinShapes(few)
	e.place()
}

const (
	// trial is of how many templates it is tried whether joining does anything; worthJoining: if less than this part of them is joined, it does not.
	trial        = 1 << 11
	worthJoining = 4
)

// joinShapes joins what is alike of templates, shape by shape.
func (e *encoder) joinShapes(templates []int32) {
	shapes := map[uint64][]shape{}
	var hashes []uint64
	var key []byte
	for _, n := range templates {
		ps, ok := pieces(e.templates[n].text)
		if !ok || len(ps) > maxSpans {
			continue
		}
		key = key[:0]
		for _, p := range ps {
			if p.word {
				key = append(key, markWord)
			} else {
				key = append(key, p.text...)
			}
		}
		h := xxhash.Sum64(key)
		if _, ok := shapes[h]; !ok {
			hashes = append(hashes, h)
		}
		shapes[h] = append(shapes[h], shape{n, ps})
	}
	for _, h := range hashes {
		e.joinAlike(shapes[h])
	}
}

// joinAlike joins what is alike of one shape.
func (e *encoder) joinAlike(all []shape) {
	if len(all) < 2 {
		return
	}
	slices.SortStableFunc(all, func(a, b shape) int { return cmp.Compare(e.templates[b.tmpl].rows, e.templates[a.tmpl].rows) })
	var groups [][]shape
next:
	for _, s := range all {
		for g := range groups {
			if similar(groups[g][0].pieces, s.pieces) {
				groups[g] = append(groups[g], s)
				continue next
			}
		}
		if len(groups) < maxGroups {
			groups = append(groups, []shape{s})
		}
	}
	for _, g := range groups {
		for _, part := range e.apart(g) {
			if len(part) > 1 {
				e.joinGroup(part)
			}
		}
	}
}

const (
	// fewWords at a place keep templates apart, if each of them has fewRows at least: what is said there is more than a name.
	fewWords = 3
	fewRows  = 32
)

// apart divides what is alike by the words at places that have few.
func (e *encoder) apart(g []shape) [][]shape {
	if len(g) < 2 {
		return nil
	}
	rows := 0
	for _, s := range g {
		rows += e.templates[s.tmpl].rows
	}
	var places []int
	parts := 1
	for i, p := range g[0].pieces {
		if !p.word || p.slot >= 0 {
			continue
		}
		words := 1
		var seen [fewWords]string
		seen[0] = p.text
		for _, s := range g[1:] {
			if w := s.pieces[i]; w.slot >= 0 {
				words = fewWords + 1
			} else if words <= fewWords && !slices.Contains(seen[:words], w.text) {
				if words < fewWords {
					seen[words] = w.text
				}
				words++
			}
		}
		if words > 1 && words <= fewWords && rows/(parts*words) >= fewRows {
			places = append(places, i)
			parts *= words
		}
	}
	if len(places) == 0 {
		return [][]shape{g}
	}
	var out [][]shape
	index := map[string]int{}
	var key []byte
	for _, s := range g {
		key = key[:0]
		for _, i := range places {
			key = append(append(key, s.pieces[i].text...), 0)
		}
		n, ok := index[string(key)]
		if !ok {
			n = len(out)
			index[string(key)] = n
			out = append(out, nil)
		}
		out[n] = append(out[n], s)
	}
	return out
}

// similar tells whether two templates of one shape have enough in common.
func similar(a, b []piece) bool {
	if len(a) != len(b) {
		return false
	}
	words, same := 0, 0
	left := len(a) // pieces that are still to come: at most so many are the same
	for i := range a {
		left--
		switch {
		case !a[i].word:
			if a[i].text != b[i].text {
				return false
			}
		case a[i].slot >= 0 && b[i].slot >= 0:
		default:
			words++
			if a[i].text == b[i].text {
				same++
			} else if 10*(same+left) < alike*(words+left) {
				return false
			}
		}
	}
	return 10*same >= alike*words
}

func (e *encoder) joinGroup(g []shape) {
	first := g[0].pieces
	varies := make([]bool, len(first))
	for _, s := range g[1:] {
		for i := range first {
			varies[i] = varies[i] || s.pieces[i].text != first[i].text
		}
	}
	var text []byte
	for i, p := range first {
		if varies[i] {
			text = append(text, markWord)
		} else {
			text = append(text, p.text...)
		}
	}
	num := int32(len(e.joined))
	e.joined = append(e.joined, string(text))
	for _, s := range g {
		f := &e.templates[s.tmpl]
		f.final, f.from = num, []source{}
		for i, p := range s.pieces {
			switch {
			case p.slot >= 0:
				f.from = append(f.from, source{slot: p.slot})
			case varies[i]:
				f.from = append(f.from, source{slot: -1, text: p.text})
			}
		}
	}
}

const lineTemplate = string(rune(markLine))

// place numbers the final templates and gives each its rows.
func (e *encoder) place() {
	final := e.final[:0]
	add := func(text string) int32 {
		if len(final) < cap(final) {
			final = final[:len(final)+1]
			final[len(final)-1] = finalOf(text, final[len(final)-1].rows[:0])
		} else {
			final = append(final, finalOf(text, nil))
		}
		return int32(len(final) - 1)
	}
	// Two groups, or a group and a template by itself, may have come to the same text.
	byText := map[string]int32{}
	at := func(text string) int32 {
		n, ok := byText[text]
		if !ok {
			n = add(text)
			byText[text] = n
		}
		return n
	}
	whole := int32(-1)
	for n := range e.templates {
		f := &e.templates[n]
		switch {
		case f.final >= 0:
			f.final = at(e.joined[f.final])
		case f.rows == 1 && len(e.templates) > fewTemplates || f.text == lineTemplate:
			if whole < 0 {
				whole = at(lineTemplate)
			}
			f.final = whole
		default:
			f.final = at(f.text)
		}
	}
	for r := range e.rows {
		t := &final[e.templates[e.rows[r].tmpl].final]
		t.rows = append(t.rows, int32(r))
	}
	e.final, e.joined = final, e.joined[:0]
}

func finalOf(text string, rows []int32) final { return final{text: text, rows: rows} }
