package search

import (
	"github.com/RoaringBitmap/roaring/v2"
	segment "github.com/blevesearch/scorch_segment_api/v2"

	"kemi"
	"kemi/pipeline/store"
)

// maxPrefixTerms is how many terms a prefix may stand for before all blocks are opened instead.
const maxPrefixTerms = 5000

// condition is what must hold of a block of one segment so that a record in it can match.
type condition struct {
	any    bool            // of kids: one must hold; otherwise all
	docs   *roaring.Bitmap // nil: all documents
	hashes []uint64        // must be in the block's bloom filter
	kids   []condition
}

// in is the documents for which c can hold as far as the dictionaries tell, nil if all.
func (c *condition) in() *roaring.Bitmap {
	var out *roaring.Bitmap
	if c.any {
		out = roaring.New()
		for i := range c.kids {
			k := c.kids[i].in()
			if k == nil {
				return nil
			}
			out.Or(k)
		}
		return out
	}
	if c.docs != nil {
		out = c.docs.Clone()
	}
	for i := range c.kids {
		if k := c.kids[i].in(); k != nil && out == nil {
			out = k
		} else if k != nil {
			out.And(k)
		}
	}
	return out
}

// filtered tells whether bloom filters have a say.
func (c *condition) filtered() bool {
	for i := range c.kids {
		if c.kids[i].filtered() {
			return true
		}
	}
	return len(c.hashes) > 0
}

// may tells whether it can hold for a document with that bloom filter.
func (c *condition) may(doc uint32, bloom []byte) bool {
	if c.any {
		for i := range c.kids {
			if c.kids[i].may(doc, bloom) {
				return true
			}
		}
		return false
	}
	if c.docs != nil && !c.docs.Contains(doc) {
		return false
	}
	for _, h := range c.hashes {
		if !inBloom(bloom, h) {
			return false
		}
	}
	for i := range c.kids {
		if !c.kids[i].may(doc, bloom) {
			return false
		}
	}
	return true
}

// finder looks terms up in one segment.
type finder struct {
	sg            *segmentView
	words, labels segment.TermDictionary
}

func newFinder(sg *segmentView) (f *finder, err error) {
	f = &finder{sg: sg}
	if f.words, err = sg.segment.Dictionary(wordField); err != nil {
		return nil, err
	}
	f.labels, err = sg.segment.Dictionary(labelField)
	return f, err
}

// candidates are the documents of the segment that can hold a record of the project that matches e.
func candidates(sg *segmentView, project string, e store.LogExpr) (docs *roaring.Bitmap, c condition, err error) {
	defer recoverDamage(&err)
	dict, err := sg.segment.Dictionary(projectField)
	if err != nil {
		return nil, c, err
	}
	docs = roaring.New()
	if err := withTerm(dict, sg.deleted, []byte(project), docs); err != nil || docs.IsEmpty() {
		return docs, c, err
	}
	f, err := newFinder(sg)
	if err != nil {
		return nil, c, err
	}
	if c, err = f.condition(e); err != nil {
		return nil, c, err
	}
	if in := c.in(); in != nil {
		docs.And(in)
	}
	return docs, c, nil
}

func (f *finder) condition(e store.LogExpr) (condition, error) {
	switch e := e.(type) {
	case store.LogAnd:
		return f.several(e, false)
	case store.LogOr:
		return f.several(e, true)
	case store.LogPhrase:
		all, begins := store.PhraseNeeds(e.Text, false)
		c, err := f.field(e.Field, all, begins)
		if e.Field != "level" || err != nil {
			return c, err
		}
		return f.orLevels(c, e)
	case store.LogPrefix:
		all, begins := store.PhraseNeeds(e.Prefix, true)
		return f.field(e.Field, all, begins)
	case store.LogRegexp:
		return f.field(e.Field, nil, nil)
	case store.LogRange:
		return f.field(e.Field, nil, nil)
	case store.LogExists:
		return f.field(e.Field, nil, nil)
	}
	return condition{}, nil // LogNot, and whatever else: anything may match
}

func (f *finder) several(es []store.LogExpr, any bool) (condition, error) {
	c := condition{any: any}
	for _, e := range es {
		k, err := f.condition(e)
		if err != nil {
			return c, err
		}
		c.kids = append(c.kids, k)
	}
	return c, nil
}

// orLevels adds to c, which is for a label called level, the severities that e means.
func (f *finder) orLevels(c condition, e store.LogPhrase) (condition, error) {
	docs := roaring.New()
	for s := kemi.Severity(1); s <= 24; s++ {
		if e.Match(&kemi.LogRecord{Severity: s}) {
			if err := withTerm(f.labels, f.sg.deleted, []byte("level\x00"+s.String()), docs); err != nil {
				return c, err
			}
		}
	}
	return condition{any: true, kids: []condition{c, {docs: docs}}}, nil
}

// field is the condition that a field holds all terms, and for each of begins one that begins with it; and at least is there.
func (f *finder) field(field string, all, begins []string) (c condition, err error) {
	if field == "id" {
		return c, nil // not indexed
	}
	dict, key := f.words, ""
	if field != "" {
		dict, key = f.labels, field+"\x00"
		if err := f.term(&c, dict, key); err != nil {
			return c, err
		}
	}
	for _, w := range all {
		ok, stub := inDictionary([]byte(w))
		if !ok {
			c.hashes = append(c.hashes, filterHash(field, []byte(w)))
			w = string(stub)
		}
		if w != "" {
			if err := f.term(&c, dict, key+w); err != nil {
				return c, err
			}
		}
	}
	for _, w := range begins {
		if ok, stub := inDictionary([]byte(w)); !ok {
			if len(stub) > 0 {
				err = f.term(&c, dict, key+string(stub))
			}
		} else {
			err = f.prefix(&c, dict, key, w)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// term narrows c to documents with the term.
func (f *finder) term(c *condition, dict segment.TermDictionary, term string) error {
	if c.docs != nil && c.docs.IsEmpty() {
		return nil
	}
	docs := roaring.New()
	if err := withTerm(dict, f.sg.deleted, []byte(term), docs); err != nil {
		return err
	}
	c.narrow(docs)
	return nil
}

func (c *condition) narrow(docs *roaring.Bitmap) {
	if c.docs == nil {
		c.docs = docs
	} else {
		c.docs.And(docs)
	}
}

// prefix narrows c to documents with a term that begins with w, which has no digit.
func (f *finder) prefix(c *condition, dict segment.TermDictionary, key, w string) error {
	if c.docs != nil && c.docs.IsEmpty() {
		return nil
	}
	docs := roaring.New()
	complete, err := withPrefix(dict, f.sg.deleted, []byte(key+w), docs)
	if err != nil || !complete {
		return err
	}
	if len(w) > maxStub {
		if err := withTerm(dict, f.sg.deleted, []byte(key+w[:maxStub]), docs); err != nil {
			return err
		}
	}
	c.narrow(docs)
	return nil
}

// needs are the parts of records that a condition looks at.
type needs struct {
	body, id, attrs, trace bool
	names                  map[string]bool
}

// of adds what e looks at.
func (n *needs) of(e store.LogExpr) {
	switch e := e.(type) {
	case nil:
	case store.LogAnd:
		for _, x := range e {
			n.of(x)
		}
	case store.LogOr:
		for _, x := range e {
			n.of(x)
		}
	case store.LogNot:
		n.of(e.X)
	case store.LogPhrase:
		n.field(e.Field)
	case store.LogPrefix:
		n.field(e.Field)
	case store.LogRegexp:
		n.field(e.Field)
	case store.LogRange:
		n.field(e.Field)
	case store.LogExists:
		n.field(e.Field)
	default: // a condition that is not ours: it may look at anything
		n.body, n.id, n.attrs = true, true, true
	}
}

func (n *needs) field(name string) {
	switch name {
	case "":
		n.body = true
		return
	case "id":
		n.id = true
	case "trace_id", "span_id":
		n.trace = true
	}
	if n.names == nil {
		n.names = map[string]bool{}
	}
	n.names[name] = true
}

// attrsOf tells whether the attributes of the block have to be read.
func (n *needs) attrsOf(b *block) bool {
	if n.attrs || n.trace && b.marked {
		return true
	}
	for _, name := range b.names {
		if n.names[name] {
			return true
		}
	}
	return false
}
