package query

import (
	"fmt"
	"math/rand/v2"

	"kemi"
)

// world is random data of a few metrics and the questions to ask of it.
type world struct {
	series []worldSeries
	prefix string
}

type worldSeries struct {
	labels kemi.Labels
	whole  bool
	at     []kemi.Millis
	v      []float64
}

const worldStart = kemi.Millis(1515900000_000)

func newWorld(rnd *rand.Rand, prefix string) *world {
	w := &world{prefix: prefix}
	for _, metric := range []string{"a", "b"} {
		for host := range 2 + rnd.IntN(4) {
			pairs := []string{kemi.MetricName, prefix + metric, "node", fmt.Sprintf("srv%02d", host)}
			if rnd.IntN(3) > 0 {
				pairs = append(pairs, "area", []string{"Jeju", "Asan"}[rnd.IntN(2)])
			}
			s := worldSeries{labels: kemi.LabelsOf(pairs...), whole: metric == "a"}
			step := []int64{1000, 10_000, 60_000, 7_500}[rnd.IntN(4)]
			at := int64(worldStart) + rnd.Int64N(3600)*1000
			if rnd.IntN(2) == 0 {
				at = at / step * step
			}
			n := 1 + rnd.IntN(60)
			counter := 0.0
			for range n {
				v := float64(rnd.IntN(200) - 50)
				if host%2 == 0 {
					counter += float64(rnd.IntN(50))
					if rnd.IntN(12) == 0 {
						counter = 3
					}
					v = counter
				}
				if !s.whole {
					v += 0.25 + float64(rnd.IntN(3))/4
				}
				s.at, s.v = append(s.at, kemi.Millis(at)), append(s.v, v)
				at += step * int64(1+rnd.IntN(3)*rnd.IntN(2)*rnd.IntN(5))
			}
			w.series = append(w.series, s)
		}
	}
	for _, dc := range []string{"Jeju", "Asan"} { // so that these names exist, whatever was drawn
		w.series = append(w.series, worldSeries{labels: kemi.LabelsOf(kemi.MetricName, prefix+"c", "node", "srv01", "area", dc), at: []kemi.Millis{worldStart}, v: []float64{0.5}})
	}
	return w
}

func (w *world) each(f func(ls kemi.Labels, at kemi.Millis, v float64, whole bool)) {
	for _, s := range w.series {
		for i := range s.at {
			f(s.labels, s.at[i], s.v[i], s.whole)
		}
	}
}

func oneOf[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }
