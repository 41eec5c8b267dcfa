package gelf

import (
	"time"
)

// A chunk begins with two magic bytes, the message's ID, its number and how many there are.
const (
	chunkHead  = 12
	maxChunks  = 128
	chunkAge   = 5 * time.Second // after which a message that is not whole is given up
	maxWaiting = 1000            // messages that are not whole
	maxHeld    = 16 << 20        // bytes of them
)

type chunkKey struct {
	peer string
	id   [8]byte
}

// partial is a message of which not all chunks have come.
type partial struct {
	key   chunkKey
	since time.Time
	parts [][]byte
	have  int
	bytes int
}

// chunks puts messages together. Those that do not become whole in time, or for which there is no room, are given up, the oldest first.
type chunks struct {
	waiting map[chunkKey]*partial
	order   []*partial // by the time at which they began; those that are done are still in it
	held    int
	lost    func(n int) // counts messages that were given up
}

func isChunk(b []byte) bool { return len(b) >= 2 && b[0] == 0x1e && b[1] == 0x0f }

// add takes a chunk, and gives the message if it is whole. ok is false for what is no chunk.
func (c *chunks) add(peer string, b []byte, now time.Time) (whole []byte, ok bool) {
	if len(b) <= chunkHead {
		return nil, false
	}
	number, count := int(b[10]), int(b[11])
	if count == 0 || count > maxChunks || number >= count {
		return nil, false
	}
	c.expire(now, len(b))
	key := chunkKey{peer: peer, id: [8]byte(b[2:10])}
	p := c.waiting[key]
	if p == nil {
		p = &partial{key: key, since: now, parts: make([][]byte, count)}
		c.waiting[key] = p
		c.order = append(c.order, p)
	}
	if len(p.parts) != count {
		return nil, false
	}
	if p.parts[number] == nil {
		part := append([]byte(nil), b[chunkHead:]...)
		p.parts[number] = part
		p.have++
		p.bytes += len(part)
		c.held += len(part)
	}
	if p.have < count {
		return nil, true
	}
	whole = make([]byte, 0, p.bytes)
	for _, part := range p.parts {
		whole = append(whole, part...)
	}
	c.drop(p)
	return whole, true
}

func (c *chunks) drop(p *partial) {
	delete(c.waiting, p.key)
	c.held -= p.bytes
	p.parts = nil
}

// expire gives up what is too old, and makes room for n bytes.
func (c *chunks) expire(now time.Time, n int) {
	for len(c.order) > 0 {
		p := c.order[0]
		if p.parts != nil {
			if now.Sub(p.since) < chunkAge && len(c.waiting) < maxWaiting && c.held+n <= maxHeld {
				return
			}
			c.drop(p)
			c.lost(1)
		}
		c.order[0] = nil
		c.order = c.order[1:]
	}
}
