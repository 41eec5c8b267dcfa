package search

import (
	"encoding/binary"
	"errors"

	"github.com/RoaringBitmap/roaring/v2"

	"kemi"
)

// snapshot is all that the index holds at one moment. It has to be released.
type snapshot struct {
	x              *Index
	views          []*view
	active, frozen *head // for the writer only: readers use heads
	heads          []headView
	hidden         []map[string]struct{} // keys of records in views that have been replaced
}

func (x *Index) snapshot() *snapshot {
	x.mu.RLock()
	defer x.mu.RUnlock()
	s := &snapshot{x: x, active: x.active, frozen: x.frozen}
	for _, sl := range x.slices {
		sl.view.reader.AddRef()
		s.views = append(s.views, sl.view)
	}
	if h := x.frozen; h != nil {
		s.heads = append(s.heads, headView{records: h.records, dead: h.dead, hidden: x.active.superseded})
		if h.superseded != nil {
			s.hidden = append(s.hidden, h.superseded)
		}
	}
	s.heads = append(s.heads, headView{records: x.active.records, dead: x.active.dead})
	if x.active.superseded != nil {
		s.hidden = append(s.hidden, x.active.superseded)
	}
	return s
}

func (s *snapshot) release() {
	for _, v := range s.views {
		_ = v.reader.DecRef()
	}
}

// superseded tells whether the record with that key in a view has been replaced.
func (s *snapshot) superseded(key string) bool {
	for _, h := range s.hidden {
		if _, ok := h[key]; ok {
			return true
		}
	}
	return false
}

// place is where a block lies.
type place struct {
	v   *view
	sg  *segmentView
	num uint64
}

// blocksOf calls f for each block that holds records of the group.
func (s *snapshot) blocksOf(group uint64, f func(place, *block) error) error {
	var errs []error
	for _, v := range s.views {
		for _, sg := range v.segments {
			nums, err := sg.withGroup(group)
			if err != nil {
				errs = append(errs, err)
				s.x.damage(v.slice, err)
				continue
			}
			if nums == nil {
				continue
			}
			for it := nums.Iterator(); it.HasNext(); {
				p := place{v, sg, uint64(it.Next())}
				b, err := sg.block(p.num)
				if err == nil {
					err = f(p, b)
					b.release()
				}
				if err != nil {
					errs = append(errs, err)
					s.x.damage(v.slice, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (sg *segmentView) withGroup(group uint64) (nums *roaring.Bitmap, err error) {
	defer recoverDamage(&err)
	dict, err := sg.segment.Dictionary(groupField)
	if err != nil {
		return nil, err
	}
	term := groupTerm(group)
	if ok, err := dict.Contains(term); err != nil || !ok {
		return nil, err
	}
	nums = roaring.New()
	return nums, withTerm(dict, sg.deleted, term, nums)
}

// group is the records of the group that lie in slices, by key.
func (s *snapshot) group(g uint64) (map[string]kemi.LogRecord, error) {
	var out map[string]kemi.LogRecord
	err := s.blocksOf(g, func(_ place, b *block) error {
		records, err := b.all()
		if err != nil {
			return err
		}
		for _, r := range records {
			if groupHash(r.Project, r.ID) == g {
				if out == nil {
					out = map[string]kemi.LogRecord{}
				}
				out[keyOf(r.Project, r.ID)] = r
			}
		}
		return nil
	})
	return out, err
}

// groupTerm is the group as a term of the index.
func groupTerm(h uint64) []byte { return binary.BigEndian.AppendUint64(nil, h) }
