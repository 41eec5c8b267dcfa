package codec

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"kemi"
)

// TestAppendLabels reads labels of every length around those at which a length takes another byte, in the plain form and in others, the short way
// and the general one.
func TestAppendLabels(t *testing.T) {
	for _, name := range []int{0, 1, 2, 60, 61, 118, 127, 128, 300} {
		for _, value := range []int{0, 1, 2, 60, 61, 62, 63, 64, 65, 127, 128, 300} {
			ls := kemi.Labels{{Name: "a", Value: "b"}, {Name: strings.Repeat("n", name), Value: strings.Repeat("v", value)}, {Name: "z", Value: "y"}}
			raw := appendRawLabels(nil, ls)
			got, ok := appendLabels(nil, raw)
			if !ok || !slices.Equal(got, ls) {
				t.Errorf("%d, %d: %v %v", name, value, got, ok)
			}
			for cut := range raw {
				got, ok := appendLabels(nil, raw[:cut:cut])
				want, wanted := appendAnyLabels(nil, raw[:cut:cut])
				if ok != wanted || ok && !slices.Equal(got, want) {
					t.Errorf("%d, %d, the first %d bytes: %v %v, want %v %v", name, value, cut, got, ok, want, wanted)
				}
			}
		}
	}
	for _, raw := range []string{
		"\x0a\x06\x12\x01v\x0a\x01n",                                 // the value first
		"\x0a\x08\x0a\x01n\x12\x01v\x18\x05",                         // a field that nobody knows
		"\x0a\x09\x0a\x01n\x12\x01v\x12\x01w",                        // the value twice: the last counts
		"\x0a\x03\x0a\x01n", "\x0a\x00", "\x12\x00\x0a\x03\x12\x01v", // parts are left out
		"\x0a\x06\x0a\x81\x00n\x12\x00", // a length in more bytes than it needs
	} {
		got, ok := appendLabels(nil, []byte(raw))
		want, wanted := appendAnyLabels(nil, []byte(raw))
		if ok != wanted || !slices.Equal(got, want) {
			t.Errorf("%q: %v %v, want %v %v", raw, got, ok, want, wanted)
		}
	}
}

func TestSeriesIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Series{}); n > 96 {
		t.Errorf("%d bytes: the next larger size that the runtime has is 128, at a million series 16 MB", n)
	}
}
