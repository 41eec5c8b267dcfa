package search

import (
	"fmt"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/blevesearch/bleve/v2/index/scorch"
	segment "github.com/blevesearch/scorch_segment_api/v2"

	"kemi"
)

// view is a slice as it was at one moment.
type view struct {
	slice    *slice
	reader   *scorch.IndexSnapshot
	segments []*segmentView
	from, to kemi.Nanos // of all records
	empty    bool
}

// segmentView is a bleve segment, which never changes, and what is deleted from it.
type segmentView struct {
	segment segment.Segment
	deleted *roaring.Bitmap
	count   uint64
	meta    *segmentMeta
}

// segmentMeta is what is known of a segment's blocks, read when it is first needed and handed on from view to view.
type segmentMeta struct {
	once  sync.Once
	metas []blockMeta
	err   error
}

func newView(s *slice, snap *scorch.IndexSnapshot, old *view) *view {
	v := &view{slice: s, reader: snap, from: s.state.From, to: s.state.To, empty: s.state.Records == 0}
	known := map[segment.Segment]*segmentMeta{}
	if old != nil {
		for _, sg := range old.segments {
			known[sg.segment] = sg.meta
		}
	}
	for _, ss := range snap.Segments() {
		m := known[ss.Segment()]
		if m == nil {
			m = &segmentMeta{}
		}
		v.segments = append(v.segments, &segmentView{segment: ss.Segment(), deleted: ss.Deleted(), count: ss.Segment().Count(), meta: m})
	}
	return v
}

// metas are by document number.
func (sg *segmentView) metas() ([]blockMeta, error) {
	sg.meta.once.Do(func() { sg.meta.metas, sg.meta.err = readMetas(sg.segment, sg.count) })
	return sg.meta.metas, sg.meta.err
}

func readMetas(s segment.Segment, count uint64) (metas []blockMeta, err error) {
	defer recoverDamage(&err)
	dv, ok := s.(segment.DocValueVisitable)
	if !ok {
		return nil, fmt.Errorf("segment %T has no doc values", s)
	}
	metas = make([]blockMeta, count)
	var state segment.DocVisitState
	fields := []string{metaField}
	for i := range metas {
		found := false
		state, err = dv.VisitDocValues(uint64(i), fields, func(_ string, term []byte) {
			if metas[i], err = parseMeta(string(term)); err == nil {
				found = true
			}
		}, state)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, errBlock
		}
	}
	return metas, nil
}

// recoverDamage turns a panic of bleve's, which trusts its files, into an error.
func recoverDamage(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errBlock, p)
	}
}

// block reads a document's block. It copies it out of the index.
func (sg *segmentView) block(num uint64) (b *block, err error) {
	defer recoverDamage(&err)
	var data []byte
	err = sg.segment.VisitStoredFields(num, func(field string, _ byte, value []byte, _ []uint64) bool {
		if field == dataField {
			data = append([]byte(nil), value...)
			return false
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	return openBlock(data)
}

func (sg *segmentView) docID(num uint64) (id string, err error) {
	defer recoverDamage(&err)
	b, err := sg.segment.DocID(num)
	return string(b), err
}

// withTerm adds the documents that have the term to set.
func withTerm(dict segment.TermDictionary, deleted *roaring.Bitmap, term []byte, set *roaring.Bitmap) error {
	list, err := dict.PostingsList(term, deleted, nil)
	if err != nil {
		return err
	}
	it := list.Iterator(false, false, false, nil)
	for {
		p, err := it.Next()
		if err != nil {
			return err
		}
		if p == nil {
			return nil
		}
		set.Add(uint32(p.Number()))
	}
}

// withPrefix adds the documents that have a term beginning with prefix. It gives up (false) if there are too many such terms.
func withPrefix(dict segment.TermDictionary, deleted *roaring.Bitmap, prefix []byte, set *roaring.Bitmap) (complete bool, err error) {
	it := dict.AutomatonIterator(nil, prefix, prefixEnd(prefix))
	for range maxPrefixTerms {
		e, err := it.Next()
		if err != nil {
			return false, err
		}
		if e == nil {
			return true, nil
		}
		if err := withTerm(dict, deleted, []byte(e.Term), set); err != nil {
			return false, err
		}
	}
	return false, nil
}

// prefixEnd is the first key after all that begin with prefix; nil if there is none.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// bloom calls f with the bloom filter of a document's block.
func (sg *segmentView) bloom(num uint64, f func([]byte)) (err error) {
	defer recoverDamage(&err)
	found := false
	visit := func(field string, _ byte, value []byte, _ []uint64) bool {
		if field != dataField {
			return true
		}
		var b *block
		if b, err = openBlock(value); err == nil {
			found = true
			f(b.bloom)
		}
		return false
	}
	if e := sg.segment.VisitStoredFields(num, visit); e != nil {
		return fmt.Errorf("%w: %w", errBlock, e)
	}
	if err == nil && !found {
		err = errBlock
	}
	return err
}
