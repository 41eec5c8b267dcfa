package query

import (
	"slices"
	"sync"
	"unsafe"

	"kemi"
)

// arena is where the columns of an answer lie that are kept until it is written. Answers can be large and come often: their memory is used
// again and not left to the collector, which has all series in memory to look through each time. It is for one goroutine.
type arena struct {
	rest  []float64
	slabs []*[slabValues]float64
	last  []int64 // the times that came last: as a rule all series of a query have the same ones
}

const slabValues = 32 << 10 // 256 KiB

var slabs = sync.Pool{New: func() any { return new([slabValues]float64) }}

// values is a copy of v.
func (a *arena) values(v []float64) []float64 {
	n := len(v)
	if n > slabValues/4 {
		return slices.Clone(v)
	}
	if n > len(a.rest) {
		s := slabs.Get().(*[slabValues]float64)
		a.slabs = append(a.slabs, s)
		a.rest = s[:]
	}
	out := a.rest[:n:n]
	a.rest = a.rest[n:]
	copy(out, v)
	return out
}

// times is a copy of at, which nobody may change: others may have it, too.
func (a *arena) times(at []int64) []int64 {
	if !slices.Equal(at, a.last) {
		a.last = slices.Clone(at)
	}
	return a.last
}

// release gives the memory back. What lay in it may not be used any more.
func (a *arena) release() {
	for _, s := range a.slabs {
		slabs.Put(s)
	}
	*a = arena{}
}

// millis is at as plain numbers, ofMillis the reverse. Nothing is copied.
func millis(at []kemi.Millis) []int64 { return unsafe.Slice((*int64)(unsafe.SliceData(at)), len(at)) }

func ofMillis(at []int64) []kemi.Millis {
	return unsafe.Slice((*kemi.Millis)(unsafe.SliceData(at)), len(at))
}
