package batch

import (
	"slices"

	"kemi"
)

// dropOld takes blocks out of the manifest that are wholly out of retention.
func (l *Layer) dropOld() (int, error) {
	keep := kemi.Millis(l.o.Retention.Milliseconds())
	if keep == 0 {
		return 0, nil
	}
	limit := kemi.MillisOf(l.o.Now()) - keep
	l.mu.Lock()
	var old []string
	for _, b := range l.manifest.Blocks {
		if b.To <= limit {
			old = append(old, b.ID)
		}
	}
	l.mu.Unlock()
	if len(old) == 0 {
		return 0, nil
	}
	l.o.Log.Info("settled blocks out of retention dropped", "blocks", len(old))
	return len(old), l.commit(func(m *manifest) {
		m.Blocks = slices.DeleteFunc(m.Blocks, func(b Block) bool { return slices.Contains(old, b.ID) })
	}, nil)
}

// expired tells whether a rule's time for all of b has run out since b was written. What rules hide is hidden at once; its room is given back
// when blocks are merged, or else then, once for each rule: not with every hour that goes by.
func expired(b *Block, rules []rule, now kemi.Millis) bool {
	for i := range rules {
		if end := b.To + rules[i].keep; end <= now && end > b.At {
			return true
		}
	}
	return false
}

// affected tells whether a rule takes something from b.
func (v *View) affected(b *ViewBlock) (bool, error) {
	for _, project := range b.block.Projects() {
		from, to := b.block.All(project)
		for ref := from; ref < to; ref++ {
			_, ls, err := b.block.Labels(ref)
			if err != nil {
				return false, err
			}
			if keep := v.keep(project, ls); keep > 0 && keep != v.global && b.From < v.now-keep {
				return true, nil
			}
		}
	}
	return false, nil
}
