package batch

import (
	"fmt"

	"kemi"
)

// Delete notes a deletion in the manifest: when it returns nil, no View taken from then on has the samples. It is of what is settled; what the live
// store has of it has to be settled before.
func (l *Layer) Delete(d Deletion) error {
	if _, err := Matching(d.Selector); err != nil {
		return err
	}
	if len(d.Selector) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "delete: no selector: it would take all series away; name some")
	}
	if d.Project == "" {
		return kemi.Errorf(kemi.ErrDenied, "delete: %q writes no project", d.Subject)
	}
	if d.From >= d.To {
		return nil
	}
	d.At = kemi.MillisOf(l.o.Now())
	err := l.commit(func(m *manifest) {
		d.Sequence = m.Sequence
		m.Deletions = append(m.Deletions, d)
	}, nil)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	l.m.deletions.Inc()
	l.o.Step("deletion noted")
	return nil
}

// touched tells whether some deletion takes something from b.
func (v *View) touched(b *ViewBlock) (bool, error) {
	c := b.block.Cursor()
	defer c.Close()
	for i := len(v.deletes) - 1; i >= 0 && v.deletes[i].Sequence > b.Applied; i-- {
		d := &v.deletes[i]
		if d.From >= b.To || d.To <= b.From {
			continue
		}
		refs, err := b.block.SelectMatchers(d.Project, d.matchers)
		if err != nil {
			return false, fmt.Errorf("select in settled block %s: %w", b.ID, err)
		}
		for _, ref := range refs {
			span, err := c.Span(ref)
			if err != nil {
				return false, fmt.Errorf("read settled block %s: %w", b.ID, err)
			}
			if d.From < span.To && d.To > span.From {
				return true, nil
			}
		}
	}
	return false, nil
}
