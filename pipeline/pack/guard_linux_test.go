package pack

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// Words are loaded without a check of their own: what lies at the very end of memory that may be read must unpack, and so may damage do no harm there.
func TestNothingIsReadBeyondTheEnd(t *testing.T) {
	page := os.Getpagesize()
	memory, err := syscall.Mmap(-1, 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(memory)
	if err := syscall.Mprotect(memory[page:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(18, 19))
	for _, s := range shapes {
		for n := 1; n <= MaxSamples; n++ {
			packed := Append(nil, s.times(r, n), s.values(r, n))
			src := memory[page-len(packed) : page : page]
			copy(src, packed)
			if _, _, ok := unpack(t, src); !ok {
				t.Fatalf("%s: %d samples do not unpack", s.name, n)
			}
			for range 20 {
				i := r.IntN(len(src))
				was := src[i]
				src[i] ^= 1 << r.IntN(8)
				unpack(t, src)
				src[i] = was
			}
		}
	}
}
