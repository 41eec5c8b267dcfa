package query

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"kemi"
	"kemi/sauron/tsdnote"
)

// group is the series that become one result.
type group struct {
	values  []string // of the tags that are grouped by
	metric  string   // "-" once there are several
	tags    []groupTag
	series  int
	members []kemi.Labels // the series, if wanted
	noted   bool
	notes   []tsdnote.Note
	cols    []column // all of them, or the only one
	cells   *cells   // or the sum of all
}

type groupTag struct {
	name, value string
	many        bool
}

// rooms are where groups and their tags lie, many to an allocation.
type rooms struct {
	groups []group
	free   []groupTag
	made   int
}

func (r *rooms) group() *group {
	if len(r.groups) == 0 {
		r.made++
		r.groups = make([]group, min(r.made*r.made, 64))
	}
	g := &r.groups[0]
	r.groups = r.groups[1:]
	return g
}

// tags is room for n tags.
func (r *rooms) tags(n int) []groupTag {
	if len(r.free) < n {
		r.free = make([]groupTag, n*min(max(1, r.made*r.made), 64))
	}
	t := r.free[:0:n]
	r.free = r.free[n:]
	return t
}

// join adds a series' labels: a tag with one value throughout is the result's, one with several is an aggregate tag. Names and values that the
// group before has, too, are taken from there, as labels are valid only while their series is read.
func (g *group) join(ls kemi.Labels, before *group, room *rooms, showIDs bool) {
	g.series++
	if showIDs {
		g.members = append(g.members, cloneLabels(ls))
	}
	if g.series == 1 {
		g.begin(ls, before, room)
		return
	}
	i := 0
	for j := range ls {
		l := &ls[j]
		if i < len(g.tags) && g.tags[i].name == l.Name {
			if t := &g.tags[i]; !t.many && t.value != l.Value {
				t.many, t.value = true, ""
			}
			i++
			continue
		}
		if l.Name == kemi.MetricName {
			if g.metric != l.Value {
				g.metric = anyMetric
			}
			continue
		}
		for i < len(g.tags) && g.tags[i].name < l.Name {
			i++
		}
		if i == len(g.tags) || g.tags[i].name != l.Name {
			g.tags = slices.Insert(g.tags, i, groupTag{name: strings.Clone(l.Name), value: strings.Clone(l.Value)})
		} else if t := &g.tags[i]; !t.many && t.value != l.Value {
			t.many, t.value = true, ""
		}
	}
}

// begin sets the tags of the first series.
func (g *group) begin(ls kemi.Labels, before *group, room *rooms) {
	var like []groupTag
	if before != nil {
		like = before.tags
	}
	g.tags = room.tags(len(ls))
	for _, l := range ls {
		if l.Name == kemi.MetricName {
			if before != nil && before.metric == l.Value {
				g.metric = before.metric
			} else {
				g.metric = strings.Clone(l.Value)
			}
			continue
		}
		var t groupTag
		if i := len(g.tags); i < len(like) && like[i].name == l.Name {
			t = groupTag{name: like[i].name, value: like[i].value}
		} else {
			t.name = strings.Clone(l.Name)
		}
		if t.value != l.Value {
			t.value = strings.Clone(l.Value)
		}
		g.tags = append(g.tags, t)
	}
}

// pageSize is the number of cells that come into being together.
const pageSize = 256

// cells are a sparse row of cells, one for each interval of the answer.
type cells struct {
	grid   grid
	lo, hi int64
	pages  map[int64]*page
	last   *page // the page in use, and its number
	lastNo int64
}

type page struct {
	cell []cell
	own  []bool // a series has a point there; other cells hold only what lies between points
	full bool   // all of them are own
}

// at is the cell of a slot between lo and hi.
func (c *cells) at(slot int64, b *budget) (*cell, *bool, error) {
	no, i := (slot-c.lo)/pageSize, (slot-c.lo)%pageSize
	if c.last == nil || c.lastNo != no {
		pg := c.pages[no]
		if pg == nil {
			size := min(pageSize, c.hi-c.lo+1)
			if err := b.hold(int(size) * 25); err != nil {
				return nil, nil, err
			}
			pg = &page{cell: make([]cell, size), own: make([]bool, size)}
			c.pages[no] = pg
		}
		c.last, c.lastNo = pg, no
	}
	return &c.last.cell[i], &c.last.own[i], nil
}

// fold adds a column: its points, and between them what the aggregator takes for it.
func (c *cells) fold(p *plan, col column, b *budget) error {
	before := c.lo - 1 // the slot of the point before
	for k := 0; k < len(col.at); {
		slot := (col.at[k] - c.grid.base) / c.grid.step
		if k > 0 || p.Rate {
			for s := max(before+1, c.lo); s < min(slot, c.hi+1); s++ {
				v := col.seed
				switch {
				case k > 0 && p.Rate:
					v = col.v[k-1]
				case k > 0:
					v = p.agg.interp.between(c.grid.time(s), col.at[k-1], col.at[k], col.v[k-1], col.v[k])
				}
				x, _, err := c.at(s, b)
				if err != nil {
					return err
				}
				x.add(p.agg.fn, v)
			}
		}
		// As a rule the points of the intervals that follow are all there.
		end := len(col.at)
		if col.at[end-1]-col.at[k] != int64(end-1-k)*c.grid.step {
			for end = k + 1; end < len(col.at) && col.at[end] == col.at[end-1]+c.grid.step; end++ {
			}
		}
		if err := c.foldRun(p.agg.fn, slot, col.v[k:end], b); err != nil {
			return err
		}
		before, k = slot+int64(end-k)-1, end
	}
	return nil
}

// foldRun adds the points of intervals that follow one another from a slot on.
func (c *cells) foldRun(fn function, slot int64, v []float64, b *budget) error {
	if skip := c.lo - slot; skip > 0 {
		v = v[min(skip, int64(len(v))):]
		slot = c.lo
	}
	if slot > c.hi {
		return nil
	}
	v = v[:min(int64(len(v)), c.hi-slot+1)]
	for len(v) > 0 {
		if _, _, err := c.at(slot, b); err != nil {
			return err
		}
		i := (slot - c.lo) % pageSize
		n := min(int64(len(v)), int64(len(c.last.cell))-i)
		addAll(fn, c.last.cell[i:i+n], v[:n])
		if own := c.last.own[i : i+n]; !c.last.full {
			for j := range own {
				own[j] = true
			}
			c.last.full = len(own) == len(c.last.own)
		}
		v, slot = v[n:], slot+n
	}
	return nil
}

// addAll adds each value to the cell of the same number.
func addAll(fn function, cells []cell, v []float64) {
	cells = cells[:len(v)]
	switch fn {
	case fnMax:
		for i, x := range v {
			if c := &cells[i]; x == x {
				if c.n == 0 || x > c.a {
					c.a = x
				}
				c.n++
			}
		}
	case fnMin:
		for i, x := range v {
			if c := &cells[i]; x == x {
				if c.n == 0 || x < c.a {
					c.a = x
				}
				c.n++
			}
		}
	case fnSum, fnAvg:
		for i, x := range v {
			if c := &cells[i]; x == x {
				c.a += x
				c.n++
			}
		}
	default:
		for i, x := range v {
			cells[i].add(fn, x)
		}
	}
}

// take adds a column to the group.
func (g *group) take(p *plan, col column, b *budget, a *arena, owned bool) error {
	switch {
	case !p.folds(), len(g.cols) == 0 && g.cells == nil:
		if !owned {
			col.at, col.v = a.times(col.at), a.values(col.v)
		}
		g.cols = append(g.cols, col)
		return b.hold(16 * len(col.at))
	case g.cells == nil:
		lo, hi := p.window()
		g.cells = &cells{grid: p.grid(), lo: lo, hi: hi, pages: map[int64]*page{}}
		if err := g.cells.fold(p, g.cols[0], b); err != nil {
			return err
		}
		b.release(16 * len(g.cols[0].at))
		g.cols = nil
	}
	return g.cells.fold(p, col, b)
}

// answer is the points of the group within the range of the query.
func (g *group) answer(ctx context.Context, p *plan, b *budget) (at []kemi.Millis, v []float64, err error) {
	switch {
	case g.cells != nil:
		return g.cells.answer(p, b)
	case len(g.cols) == 1:
		return only(p, g.cols[0], b)
	}
	return merge(ctx, p, g.cols, b)
}

func (c *cells) answer(p *plan, b *budget) (at []kemi.Millis, v []float64, err error) {
	numbers := make([]int64, 0, len(c.pages))
	n := 0
	for no, pg := range c.pages {
		numbers = append(numbers, no)
		for _, own := range pg.own {
			if own {
				n++
			}
		}
	}
	if err := b.answer(n); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(numbers, cmp.Compare[int64])
	at, v = make([]kemi.Millis, 0, n), make([]float64, 0, n)
	for _, no := range numbers {
		pg := c.pages[no]
		for i, own := range pg.own {
			if own {
				at = append(at, kemi.Millis(c.grid.time(c.lo+no*pageSize+int64(i))))
				v = append(v, pg.cell[i].value(p.agg.fn))
			}
		}
	}
	return at, v, nil
}

// only is the answer of a group with one series.
func only(p *plan, c column, b *budget) (at []kemi.Millis, v []float64, err error) {
	i, _ := slices.BinarySearch(c.at, p.start)
	j, found := slices.BinarySearch(c.at, p.end)
	if found {
		j++
	}
	if err := b.answer(j - i); err != nil {
		return nil, nil, err
	}
	at, v = ofMillis(c.at[i:j]), c.v[i:j]
	if !p.agg.keeps() {
		for k := range v {
			v[k] = p.agg.single(v[k])
		}
	}
	return at, v, nil
}

// merge is the answer of several columns: at each time at which one of them has a point, the aggregate of what all that have begun and not
// ended count as.
func merge(ctx context.Context, p *plan, cols []column, b *budget) (at []kemi.Millis, v []float64, err error) {
	next := make([]int, len(cols)) // the first point not yet passed
	ints := 0                      // columns of integers
	for i, c := range cols {
		next[i], _ = slices.BinarySearch(c.at, p.start)
		if c.ints {
			ints++
		}
	}
	var floats, scratch []float64
	var whole []int64
	for step := 0; ; step++ {
		if step%1024 == 0 && ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		x := p.end + 1
		for i, c := range cols {
			if k := next[i]; k < len(c.at) && c.at[k] < x {
				x = c.at[k]
			}
		}
		if x > p.end {
			return at, v, nil
		}
		if err := b.answer(1); err != nil {
			return nil, nil, err
		}
		inInts := ints > 0
		for i, c := range cols {
			if inInts && !c.ints && c.at[len(c.at)-1] >= x {
				inInts = false
			}
			if k := next[i]; k < len(c.at) && c.at[k] == x {
				next[i]++
			}
		}
		floats, whole = floats[:0], whole[:0]
		for i, c := range cols {
			k := next[i]
			switch {
			case k == 0 && p.Rate:
				floats = append(floats, c.seed)
			case k == 0: // not begun
			case c.at[k-1] == x && inInts:
				whole = append(whole, int64(c.v[k-1]))
			case c.at[k-1] == x:
				floats = append(floats, c.v[k-1])
			case k == len(c.at): // ended
			case p.Rate:
				floats = append(floats, c.v[k-1])
			case inInts:
				whole = append(whole, p.agg.interp.betweenInts(x, c.at[k-1], c.at[k], int64(c.v[k-1]), int64(c.v[k])))
			default:
				floats = append(floats, p.agg.interp.between(x, c.at[k-1], c.at[k], c.v[k-1], c.v[k]))
			}
		}
		var y float64
		if inInts {
			var n int64
			n, scratch = p.agg.reduceInts(whole, scratch)
			y = float64(n)
		} else {
			y, scratch = p.agg.reduce(floats, scratch)
		}
		at, v = append(at, kemi.Millis(x)), append(v, y)
	}
}
