package pattern

import (
	"strings"
	"sync"

	"kemi/pipeline/store"
)

// part is a piece of a template: fixed text, then a slot, but for the last, which may have none.
type part struct {
	text   string
	slot   bool
	kind   slotKind
	layout layout
}

// parts cuts a template.
func parts(text string) (ps []part, ok bool) {
	from := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == 0 || c > maxMark {
			continue
		}
		p := part{text: text[from:i], slot: true, kind: slotKind(c - markWord)}
		if p.kind == slotStamp {
			if p.layout, ok = parseLayout(text[i:]); !ok {
				return nil, false
			}
			i += stampMark - 1
		}
		ps = append(ps, p)
		from = i + 1
	}
	if from < len(text) || len(ps) == 0 {
		ps = append(ps, part{text: text[from:]})
	}
	return ps, true
}

// Template is a template as questions see it. It does not change.
type Template struct {
	text  string
	parts []part
	slots int
	line  bool // the line is kept whole
	whole bool // it is, or there are letters beside which a word has no clear end

	// stand is the text with stand-ins, of which each word is a wild one.
	stand string
	wilds []store.Wild
	of    []wildWord
}

// wildWord says what a wild word is: the word sub of the slot.
type wildWord struct {
	slot, sub int
	kind      slotKind
	like      string // of a stamp: an example of the word
}

// samples stand for what is in a slot.
var samples = [...]string{slotWord: "0", slotUUID: "0-0-0-0-0", slotIPv4: "0.0.0.0"}

func newTemplate(text string) (*Template, error) {
	ps, ok := parts(text)
	if !ok {
		return nil, damaged("a template that is none")
	}
	t := &Template{text: text, parts: ps}
	var b []byte
	for _, p := range ps {
		b = append(b, p.text...)
		if !p.slot {
			continue
		}
		slot := t.slots
		t.slots++
		from := len(b)
		switch p.kind {
		case slotLine:
			t.line, t.whole = true, true
			continue
		case slotStamp:
			b = p.layout.append(b, sampleTime, 0)
		default:
			b = append(b, samples[p.kind]...)
		}
		for i, sub := from, 0; i < len(b); sub++ {
			end := i
			for end < len(b) && charKind[b[end]] != 0 {
				end++
			}
			w := wildWord{slot: slot, sub: sub, kind: p.kind}
			if p.kind == slotStamp {
				w.like = string(b[i:end])
			}
			t.wilds, t.of = append(t.wilds, store.Wild{Start: i, End: end}), append(t.of, w)
			for i = end; i < len(b) && charKind[b[i]] == 0; i++ {
			}
		}
	}
	t.stand = string(b)
	t.whole = t.whole || !store.WildSafe(t.stand)
	return t, nil
}

// sampleTime is a time of which all parts have two digits.
const sampleTime = 1795132800123456789

// couldBe tells whether a stamp's word like w.like can be the word, or begin with it.
func (w *wildWord) couldBe(word string, prefix bool) bool {
	if w.kind != slotStamp {
		return true
	}
	switch n := len(w.like); {
	case len(word) > n:
		return false
	case len(word) < n && !prefix:
		return n == 2 && len(word) == 1 && word[0] >= '1' && word[0] <= '9' // the day of the month, maybe
	}
	for i := range len(word) {
		a, b := w.like[i], word[i]
		if (a-'0' <= 9) != (b-'0' <= 9) {
			return false
		}
		if (a == 'T' || a == 'Z') && len(w.like) != 3 && b != a|0x20 {
			return false
		}
	}
	return true
}

// Templates interns the templates of all blocks of a process, so that a query judges each once.
type Templates struct {
	mu  sync.RWMutex
	all map[string]*Template
}

// NewTemplates makes an empty one.
func NewTemplates() *Templates { return &Templates{all: map[string]*Template{}} }

// maxTemplates is how many templates are interned before all are forgotten: those of open blocks live on with them.
const maxTemplates = 1 << 18

func (ts *Templates) get(text string) (*Template, error) {
	ts.mu.RLock()
	t := ts.all[text]
	ts.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	t, err := newTemplate(strings.Clone(text))
	if err != nil {
		return nil, err
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if was := ts.all[text]; was != nil {
		return was, nil
	}
	if len(ts.all) >= maxTemplates {
		clear(ts.all)
	}
	ts.all[t.text] = t
	return t, nil
}
