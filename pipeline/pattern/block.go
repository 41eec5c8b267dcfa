package pattern

import (
	"kemi"
)

// Meta is what is known of a block without opening it.
type Meta struct {
	Project  string
	Records  int
	Raw      int64      // bytes of the bodies
	From, To kemi.Nanos // of the oldest record and of the newest
}

// MaxRecords is how many records a block can hold.
const MaxRecords = 1 << 17
