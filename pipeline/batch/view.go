package batch

import (
	"iter"
	"os"

	"kemi"
	"kemi/pipeline/settled"
)

// View is one manifest. Its blocks live until Release. It may be used concurrently.
type View struct {
	sequence uint64
	now      kemi.Millis
	blocks   []*ViewBlock // by From
	deletes  []compiled   // by Sequence
	rules    []rule
	global   kemi.Millis // 0 = for ever
}

// ViewBlock is a block of a View.
type ViewBlock struct {
	Block
	block *settled.Block
}

// Settled is the block itself.
func (b *ViewBlock) Settled() *settled.Block { return b.block }

// Acquire takes the manifest that is in force.
func (l *Layer) Acquire() *View {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &View{sequence: l.manifest.Sequence, now: kemi.MillisOf(l.o.Now()), deletes: l.deletes, rules: l.rules, global: kemi.Millis(l.o.Retention.Milliseconds())}
	for _, b := range l.manifest.Blocks {
		if block := l.blocks[b.ID]; block != nil && block.Acquire() {
			v.blocks = append(v.blocks, &ViewBlock{b, block})
		}
	}
	return v
}

// Release gives the view back.
func (v *View) Release() {
	for _, b := range v.blocks {
		_ = b.block.Close()
	}
	v.blocks = nil
}

// AsOf is up to when there is something settled; 0 if nothing is.
func (v *View) AsOf() (at kemi.Millis) {
	for _, b := range v.blocks {
		at = max(at, b.To)
	}
	return at
}

// Blocks are those that touch r, in the order of their beginning.
func (v *View) Blocks(r kemi.Range) []*ViewBlock {
	var out []*ViewBlock
	for _, b := range v.blocks {
		if b.From < r.To && b.To > r.From {
			out = append(out, b)
		}
	}
	return out
}

// Drops are the spans of time of which a series has nothing in b: they were deleted since b was written, or are out of retention. They are
// in no order.
func (v *View) Drops(b *ViewBlock, project string, ls kemi.Labels, drops []kemi.Range) []kemi.Range {
	for i := len(v.deletes) - 1; i >= 0 && v.deletes[i].Sequence > b.Applied; i-- {
		if d := &v.deletes[i]; d.Project == project && d.From < b.To && d.To > b.From && d.match(ls) {
			drops = append(drops, kemi.Range{From: d.From, To: d.To})
		}
	}
	if keep := v.keep(project, ls); keep > 0 && v.now-keep > b.From {
		drops = append(drops, kemi.Range{From: -1 << 62, To: v.now - keep})
	}
	return drops
}

// Untouched tells whether b has all that it holds for every series: then Drops need not be asked.
func (v *View) Untouched(b *ViewBlock) bool {
	if len(v.deletes) > 0 && v.deletes[len(v.deletes)-1].Sequence > b.Applied {
		return false
	}
	return v.shortest() == 0 || v.now-v.shortest() <= b.From
}

// shortest is the least that some series may be kept; 0 = all are kept for ever.
func (v *View) shortest() kemi.Millis {
	keep := v.global
	for i := range v.rules {
		if keep == 0 || v.rules[i].keep < keep {
			keep = v.rules[i].keep
		}
	}
	return keep
}

// Keep is how long series are kept, 0 = for ever, and the least of that; nil if there are no rules.
func (l *Layer) Keep() (keep func(project string, ls kemi.Labels) kemi.Millis, least kemi.Millis) {
	if len(l.rules) == 0 {
		return nil, 0
	}
	v := &View{rules: l.rules, global: kemi.Millis(l.o.Retention.Milliseconds())}
	return v.keep, v.shortest()
}

// keep is how long a series is kept; 0 = for ever.
func (v *View) keep(project string, ls kemi.Labels) kemi.Millis {
	for i := range v.rules {
		if r := &v.rules[i]; (r.project == "" || r.project == project) && r.match(ls) {
			return r.keep
		}
	}
	return v.global
}

// filter leaves out what was deleted from b or is out of retention.
func (v *View) filter(b *ViewBlock) settled.Filter {
	if v.Untouched(b) {
		return nil
	}
	return func(project string, ls kemi.Labels) (kemi.Range, []kemi.Range) {
		return forever, v.Drops(b, project, ls, nil)
	}
}

var forever = kemi.Range{From: -1 << 62, To: 1 << 62}

// retention leaves out what is out of retention.
func (v *View) retention() settled.Filter {
	if v.shortest() == 0 {
		return nil
	}
	return func(project string, ls kemi.Labels) (kemi.Range, []kemi.Range) {
		if keep := v.keep(project, ls); keep > 0 {
			return kemi.Range{From: v.now - keep, To: forever.To}, nil
		}
		return forever, nil
	}
}

// pulled is an iter.Seq2 as a settled.Source.
type pulled struct {
	next func() (*settled.Series, error, bool)
	stop func()
	at   *settled.Series
	err  error
}

func newPulled(seq iter.Seq2[*settled.Series, error]) *pulled {
	p := &pulled{}
	p.next, p.stop = iter.Pull2(seq)
	return p
}

func (p *pulled) Next() bool {
	if p.err != nil {
		return false
	}
	s, err, ok := p.next()
	p.at, p.err = s, err
	return ok && err == nil
}

func (p *pulled) At() *settled.Series { return p.at }
func (p *pulled) Err() error          { return p.err }

func removeBlock(dir string) error { return os.RemoveAll(dir) }
