package batch

import (
	"math"
	"slices"

	"kemi"
	"kemi/pipeline/settled"
)

// fresh is a source of the live store without the samples for whose time there is a settled one: that came first, and stays. So of two settled blocks that
// overlap none says something else than the other, and all that reads several may take either.
type fresh struct {
	settled.Source
	l *Layer

	// They are taken when the first series is there: a deletion from before that was frozen is in force in the view.
	view   *View
	reader *Reader
	set    *Set
	more   bool // set is at a series

	span    kemi.Range // of the source
	project string
	there   settled.Columns
	err     error
}

func (f *fresh) close() {
	if f.view != nil {
		f.reader.Close()
		f.view.Release()
	}
}

func (f *fresh) Err() error {
	if f.err != nil {
		return f.err
	}
	return f.Source.Err()
}

func (f *fresh) Next() bool {
	if f.err != nil || !f.Source.Next() {
		return false
	}
	if f.view == nil {
		f.view = f.l.Acquire()
		f.reader = f.view.NewReader()
		f.span = kemi.Range{From: math.MaxInt64, To: math.MinInt64}
		due, _ := f.l.live.Sources()
		for _, s := range due {
			f.span = kemi.Range{From: min(f.span.From, s.Range.From), To: max(f.span.To, s.Range.To)}
		}
	}
	if len(f.view.Blocks(f.span)) == 0 {
		return true
	}
	f.err = f.sift(f.Source.At())
	return f.err == nil
}

// sift takes out of s what is settled.
func (f *fresh) sift(s *settled.Series) (err error) {
	if f.set == nil || f.project != s.Project {
		f.project = s.Project
		if f.set, err = f.view.Select(s.Project, nil, f.span); err != nil {
			return err
		}
		f.more = f.set.Next()
	}
	for f.more && f.set.At().Labels.Compare(s.Labels) < 0 {
		f.more = f.set.Next()
	}
	if err := f.set.Err(); err != nil {
		return err
	}
	if !f.more || len(s.At) == 0 || f.set.At().Labels.Compare(s.Labels) != 0 {
		return nil
	}
	parts, err := f.reader.spans(f.set.At(), kemi.Range{From: s.At[0], To: s.At[len(s.At)-1] + 1})
	if err != nil {
		return err
	}
	for i := range parts {
		p := &parts[i]
		from, _ := slices.BinarySearch(s.At, p.span.From)
		to, _ := slices.BinarySearch(s.At, p.span.To)
		if from == to {
			continue
		}
		f.there.Reset()
		if err := f.reader.read(p, kemi.Range{From: s.At[from], To: s.At[to-1] + 1}, &f.there); err != nil {
			return err
		}
		f.drop(s, from, to)
	}
	return nil
}

// drop takes samples of s from..to out for whose time there is one already.
func (f *fresh) drop(s *settled.Series, from, to int) {
	kept, k := from, 0
	for i := from; i < to; i++ {
		for k < len(f.there.At) && f.there.At[k] < s.At[i] {
			k++
		}
		if k < len(f.there.At) && f.there.At[k] == s.At[i] {
			if math.Float64bits(f.there.Values[k]) == math.Float64bits(s.Values[i]) {
				f.l.m.repeated.Inc()
			} else {
				f.l.m.conflicts.Inc()
			}
			continue
		}
		s.At[kept], s.Values[kept] = s.At[i], s.Values[i]
		kept++
	}
	s.At, s.Values = slices.Delete(s.At, kept, to), slices.Delete(s.Values, kept, to)
}
