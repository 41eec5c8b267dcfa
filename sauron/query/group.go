package query

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"kemi"
)

// group is the series that become one result.
type group struct {
	values []string // of the tags that are grouped by
	metric string   // "-" once there are several
	tags   []groupTag
	series int
	ids    []string // of the series, if wanted
	cols   []column // all of them, or the only one
	cells  *cells   // or the sum of all
}

type groupTag struct {
	name, value string
	many        bool
}

// join adds a series' labels: a tag with one value throughout is the result's, one with several is an aggregate tag.
func (g *group) join(ls kemi.Labels, showIDs bool) {
	g.series++
	if showIDs {
		g.ids = append(g.ids, seriesID(ls))
	}
	i := 0
	for _, l := range ls {
		if l.Name == kemi.MetricName {
			switch g.metric {
			case "":
				g.metric = strings.Clone(l.Value)
			case l.Value:
			default:
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
	add := func(slot int64, v float64, own bool) error {
		if slot < c.lo || slot > c.hi {
			return nil
		}
		x, mark, err := c.at(slot, b)
		if err != nil {
			return err
		}
		x.add(p.agg.fn, v)
		*mark = *mark || own
		return nil
	}
	before := c.lo - 1 // the slot of the point before
	for k, t := range col.at {
		slot := (t - c.grid.base) / c.grid.step
		if k > 0 || p.Rate {
			for s := max(before+1, c.lo); s < min(slot, c.hi+1); s++ {
				v := col.seed
				switch {
				case k > 0 && p.Rate:
					v = col.v[k-1]
				case k > 0:
					v = p.agg.interp.between(c.grid.time(s), col.at[k-1], t, col.v[k-1], col.v[k])
				}
				if err := add(s, v, false); err != nil {
					return err
				}
			}
		}
		if err := add(slot, col.v[k], true); err != nil {
			return err
		}
		before = slot
	}
	return nil
}

// take adds a column to the group.
func (g *group) take(p *plan, col column, b *budget, owned bool) error {
	switch {
	case !p.folds(), len(g.cols) == 0 && g.cells == nil:
		if !owned {
			col.at, col.v = slices.Clone(col.at), slices.Clone(col.v)
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
	at, v = make([]kemi.Millis, 0, j-i), c.v[i:j]
	for _, t := range c.at[i:j] {
		at = append(at, kemi.Millis(t))
	}
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
