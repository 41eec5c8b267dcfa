package settled

import "sync"

// recent keeps what was used lately up to a number of bytes, in two generations, of which the older is forgotten. What is in it does not change any more.
type recent[K comparable, V any] struct {
	max  int // bytes of a generation
	size func(V) int

	mu         sync.Mutex
	young, old map[K]V
	bytes      int // of the younger
}

func newRecent[K comparable, V any](bytes int, size func(V) int) *recent[K, V] {
	return &recent[K, V]{max: bytes / 2, size: size}
}

func (c *recent[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok = c.young[k]; ok {
		return v, true
	}
	if v, ok = c.old[k]; ok {
		delete(c.old, k)
		c.set(k, v)
	}
	return v, ok
}

// put keeps v, unless it is larger than a generation.
func (c *recent[K, V]) put(k K, v V) {
	if c.size(v) > c.max {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[k]; !ok {
		delete(c.old, k)
		c.set(k, v)
	}
}

func (c *recent[K, V]) set(k K, v V) {
	n := c.size(v)
	if c.young == nil || c.bytes+n > c.max {
		c.old, c.young, c.bytes = c.young, map[K]V{}, 0
	}
	c.young[k] = v
	c.bytes += n
}

// forget gives up all that gone is true of.
func (c *recent[K, V]) forget(gone func(K) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range c.young {
		if gone(k) {
			delete(c.young, k)
			c.bytes -= c.size(v)
		}
	}
	for k := range c.old {
		if gone(k) {
			delete(c.old, k)
		}
	}
}

// seriesPages are pages of series that were decoded lately, of all blocks: what is asked of a host has series on many pages, and is asked again soon.
var seriesPages = newPageCache(24<<20, (*seriesPage).bytes)

// fronts are what pages of data have before their segments, of those of which only some segments were needed.
var fronts = newPageCache(24<<20, (*front).bytes)

// pageCache is in parts, so that those who ask at the same time seldom wait for one another.
type pageCache[V any] [16]*recent[pageKey, V]

type pageKey struct {
	index  *index
	stream uint32 // of data; 0 of series
	number uint32
}

func newPageCache[V any](bytes int, size func(V) int) *pageCache[V] {
	var c pageCache[V]
	for i := range c {
		c[i] = newRecent[pageKey](bytes/len(c), size)
	}
	return &c
}

func (c *pageCache[V]) part(k pageKey) *recent[pageKey, V] {
	return c[(uint64(k.stream)<<32|uint64(k.number))*0x9e3779b97f4a7c15>>60] // numbers that follow one another go to different parts
}

// forget gives up all pages of a block.
func (c *pageCache[V]) forget(x *index) {
	for _, p := range c {
		p.forget(func(k pageKey) bool { return k.index == x })
	}
}
