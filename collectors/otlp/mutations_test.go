package otlp

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"kemi/pipeline/codec"
)

// TestMutations sends good requests with a few bytes changed: nothing panics, nothing is counted below zero, and what is taken can be read from the
// log. It goes deeper than the fuzzer does in a short time.
func TestMutations(t *testing.T) {
	h, r := open(t, nil)
	seeds := [][]byte{body(t, request(allKinds)), body(t, request(func(ms pmetric.MetricSlice) { deltas(ms, at, 1) }))}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rand := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		b := append([]byte(nil), seeds[rand.IntN(2)]...)
		for range 1 + rand.IntN(4) {
			switch rand.IntN(3) {
			case 0:
				b[rand.IntN(len(b))] = byte(rand.IntN(256))
			case 1:
				b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
			case 2:
				i, j := rand.IntN(len(b)), rand.IntN(len(b))
				copy(b[i:], b[j:min(len(b), j+rand.IntN(20))])
			}
		}
		out, _ := r.in.Begin(h.ID, protocol, "", "fuzz")
		w := &walker{r: r, ctx: t.Context(), project: "shop", out: out}
		if w.request(b) == nil && w.rest() == nil {
			if w.points < 0 || w.rejected < 0 {
				t.Errorf("%d %d %q", w.points, w.rejected, w.reasons)
			}
			if in := out.Take(); in != nil {
				rec := in.Record
				rec.Local = nil
				if _, err := codec.NewTable(nil, time.Now).Decode(&rec); err != nil {
					t.Errorf("%v", err)
				}
			}
		}
		out.End()
	}
}
