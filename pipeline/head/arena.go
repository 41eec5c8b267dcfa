package head

// slot is a sample in a buffer: its time after the first of the buffer, and the bits of its value.
type slot struct{ after, low, high uint32 }

// Buffers have 4, 8, 16 or 32 samples: a series that had few does not take the room of many.
const (
	bufferClasses = 4
	smallBuffer   = 4
	maxBuffered   = smallBuffer << (bufferClasses - 1)
	pageBuffers   = 1 << 10
)

// arena is the buffers of all series. They have no pointers, and are used again.
type arena struct {
	classes [bufferClasses]struct {
		pages [][]slot
		free  []uint32
		next  uint32
	}
}

// roomOf is how many samples a buffer of the class has room for.
func roomOf(class uint8) int { return smallBuffer << class }

func (a *arena) alloc(class uint8) uint32 {
	c := &a.classes[class]
	if n := len(c.free); n > 0 {
		ref := c.free[n-1]
		c.free = c.free[:n-1]
		return ref
	}
	ref := c.next
	c.next++
	if int(ref/pageBuffers) == len(c.pages) {
		c.pages = append(c.pages, make([]slot, pageBuffers*roomOf(class)))
	}
	return ref
}

func (a *arena) release(class uint8, ref uint32) {
	c := &a.classes[class]
	c.free = append(c.free, ref)
}

// buffer is the whole of a buffer.
func (a *arena) buffer(class uint8, ref uint32) []slot {
	n := roomOf(class)
	at := int(ref%pageBuffers) * n
	return a.classes[class].pages[ref/pageBuffers][at : at+n : at+n]
}
