package pattern

import "unsafe"

// view is b as a string, without a copy: b must stay as it is.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
