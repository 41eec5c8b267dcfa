package settled

import (
	"sync"
	"testing"
)

// held is what the cache holds of a block.
func (c *pageCache[V]) held(x *index) (pages, bytes int) {
	for _, p := range c {
		p.mu.Lock()
		for _, generation := range []map[pageKey]V{p.young, p.old} {
			for k, page := range generation {
				if k.index == x {
					pages++
					bytes += p.size(page)
				}
			}
		}
		p.mu.Unlock()
	}
	return pages, bytes
}

// TestPageCache: pages that are asked for stay, the bytes are bounded, and a block that goes takes its pages along.
func TestPageCache(t *testing.T) {
	const limit = 1 << 20
	c := newPageCache(limit, (*seriesPage).bytes)
	a, b := &index{}, &index{}
	page := func(n int) *seriesPage { return &seriesPage{number: n, refs: make([]uint32, 1000)} }
	often := pageKey{a, 0, 7}
	c.part(often).put(often, page(7))
	for n := range 2000 {
		k := pageKey{b, 0, uint32(n)}
		c.part(k).put(k, page(n))
		if p, ok := c.part(k).get(k); !ok || p.number != n {
			t.Fatalf("page %d is not there after it was put", n)
		}
		if p, ok := c.part(often).get(often); !ok || p.number != 7 {
			t.Fatalf("the page that is asked for often is gone after %d others", n)
		}
	}
	var wg sync.WaitGroup // whether a page is still there then is chance, but not which one it is
	for g := range 4 {
		wg.Go(func() {
			for n := range 2000 {
				k := pageKey{b, 0, uint32((n*7 + g) % 300)}
				if p, ok := c.part(k).get(k); !ok {
					c.part(k).put(k, page(int(k.number)))
				} else if p.number != int(k.number) {
					t.Errorf("page %d is %d", k.number, p.number)
				}
			}
		})
	}
	wg.Wait()
	c.part(often).put(often, page(7))
	_, inA := c.held(a)
	pages, inB := c.held(b)
	if inA+inB > limit || pages < 100 {
		t.Errorf("%d pages, %d bytes of %d", pages, inA+inB, limit)
	}
	shares := map[*recent[pageKey, *seriesPage]]int{}
	for n := range uint32(80) {
		shares[c.part(pageKey{a, 0, n})]++
	}
	for _, n := range shares {
		if n > 80/len(c)*3/2 {
			t.Errorf("a part of %d has %d of 80 pages that follow one another", len(c), n)
		}
	}
	large := pageKey{a, 0, 8}
	c.part(large).put(large, &seriesPage{refs: make([]uint32, limit)})
	if _, ok := c.part(large).get(large); ok {
		t.Error("a page larger than its part is kept")
	}
	c.forget(b)
	if n, _ := c.held(b); n != 0 {
		t.Errorf("%d pages of a block that is gone", n)
	}
	if _, ok := c.part(often).get(often); !ok {
		t.Error("pages of another block went with it")
	}
	c.forget(a)
	for i, p := range c {
		if n := p.bytes; n != 0 {
			t.Errorf("part %d counts %d bytes and has none", i, n)
		}
	}
}
